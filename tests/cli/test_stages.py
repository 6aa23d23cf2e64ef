"""Options of stages among a command's words, and what a finished stage remembers."""

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from diffpolicy.cli.errors import ConfigError
from diffpolicy.cli.stages import RECORD, Stage, check_words, compose_stage, gather

STAGES = ("train", "world")


def test_words_of_stages_become_one_option_and_others_stay_as_they_are() -> None:
    words = ["task=CarRun", "train.preset=paper", "--cfg", "job", "+world.x=1", "trainer=2"]
    assert gather(words, STAGES) == [
        "task=CarRun",
        "--cfg",
        "job",
        "trainer=2",
        "typed=['train.preset=paper','+world.x=1']",
    ]
    assert gather(["run=here"], STAGES) == ["run=here"]


@given(st.lists(st.text("ab='\"\\,[]{}: $", max_size=8), min_size=1, max_size=3))
def test_hydra_reads_the_words_as_they_were_typed(values: list[str]) -> None:
    words = [f"train.key={value}" for value in values]
    (option,) = gather(words, STAGES)
    override = OverridesParser.create().parse_override(option)
    assert [str(each.text if hasattr(each, "text") else each) for each in override.value()] == words


def test_a_verb_s_configuration_is_composed_with_its_own_groups_and_later_words_count() -> None:
    words = ["train.preset=fast", "world.seed=7", "train.preset=paper", "train.log_every=3"]
    found = compose_stage(
        "train", "train", words, {"task": "T", "run": "here"}, {"log_every": 9, "absent": 1}
    )
    assert found.policy.joint  # as in preset=paper
    assert (found.task, found.run, found.log_every) == ("T", "here", 3)
    assert "absent" not in found
    assert compose_stage("world", "train-world-model", words, {"task": "T", "run": "w"}, {}).seed == 7


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("train.sead=1", "train has no option 'sead'"),
        ("train.run=x", "train.run follows"),
        ("train.preset", "train"),
        ("train.seeds=[", "cannot be read"),
    ],
)
def test_wrong_words_are_refused(word: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says.replace("[", r"\[")):
        compose_stage("train", "train", [word], {"task": "T", "run": "here"}, {})


def test_a_word_of_no_stage_is_refused_with_the_nearest() -> None:
    check_words(["train.a=1", "+world.b=2"], STAGES)
    with pytest.raises(ConfigError, match="did you mean 'world'"):
        check_words(["wolrd.a=1"], STAGES)
    with pytest.raises(ConfigError, match="the stages are train, world"):
        check_words(["x=1"], STAGES)


def stage(folder: Path, inputs: dict[str, object], **options: object) -> Stage:
    return Stage("train", folder, OmegaConf.create(options), inputs)


def test_a_stage_remembers_what_it_was_finished_with(tmp_path: Path) -> None:
    first = stage(
        tmp_path / "s", {"data": "hash", "seed": [0, 1]}, a={"b": 1, "c": None}, data="/here", seed=0
    )
    assert first.outcome() is None
    first.finish({"refused": {"0": "why"}})
    moved = stage(
        tmp_path / "s", {"data": "hash", "seed": [0, 1]}, a={"b": 1, "c": None}, data="/there", seed=1
    )
    assert moved.outcome() == {"refused": {"0": "why"}}
    shown = stage(tmp_path / "s", first.inputs, a={"b": 1, "c": None}, progress=True, threads=3, run="x")
    assert shown.outcome() is not None


@pytest.mark.parametrize(
    ("inputs", "options", "says"),
    [
        ({"data": "hash"}, {"a": 2}, "a: 1 -> 2"),
        ({"data": "hash"}, {"a": True}, "a: 1 -> true"),
        ({"data": "hash"}, {"a": 1, "b": {}}, "b: absent -> {}"),
        ({"data": "hash"}, {}, "a: 1 -> absent"),
        ({"data": "other"}, {"a": 1}, 'data: "hash" -> "other"'),
    ],
)
def test_other_settings_or_inputs_are_refused(
    tmp_path: Path, inputs: dict[str, object], options: dict[str, object], says: str
) -> None:
    stage(tmp_path, {"data": "hash"}, a=1).finish({})
    with pytest.raises(ConfigError) as caught:
        stage(tmp_path, inputs, **options).outcome()
    assert says in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"settings": 3, "outcome": {}}', '{"settings": {}}'])
def test_a_record_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(ConfigError, match="is no record of a stage"):
        stage(tmp_path, {}, a=1).outcome()
