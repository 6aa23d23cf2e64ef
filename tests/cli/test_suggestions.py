"""A refused option is named in one sentence with the nearest valid one."""

import pytest

from diffpolicy.cli.suggestions import nearest


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("tsak=CarRun", "train has no option 'tsak'; did you mean 'task'?"),
        ("seed=1", "train has no option 'seed'; did you mean 'seeds'?"),
        ("polcy=fisor", "train has no option 'polcy'; did you mean 'policy'?"),
        ("policy.nam=x", "train has no option 'policy.nam'; did you mean 'policy.name'?"),
        ("~devise", "train has no option 'devise'; did you mean 'device'?"),
        ("policy=fisr", "train has no policy 'fisr'; did you mean 'fisor'?"),
        ("preset=papr", "train has no preset 'papr'; did you mean 'paper'?"),
        ("preset=zzz", "train has no preset 'zzz'; the choices are fast, paper"),
        ("foo", "'foo' cannot be read; write key=value"),
        ("zzzzz=3", "its options are"),
        ("task=A,B", "add --multirun"),
        ("+task=3", "already at 'task'"),
        ("--config-name=trian", "Cannot find primary config 'trian'"),
    ],
)
def test_the_sentence(command, typed, sentence):
    status, out, err = command("train", typed)
    assert status == 2
    assert out == ""
    assert err.startswith("error: ")
    assert sentence in err
    assert err.count("\n") == 1


def test_a_typo_in_a_sweep_runs_no_job(command, tmp_path):
    status, _, err = command("trivial", "-m", "run=sweep", "nubmer=1,2")
    assert status == 2
    assert "did you mean 'number'?" in err
    assert not list(tmp_path.rglob("result.txt"))


def test_a_typo_is_looked_up_in_the_group_that_was_chosen(command, tmp_path):
    (tmp_path / "more" / "preset").mkdir(parents=True)
    (tmp_path / "more" / "preset" / "mine.yaml").write_text("warmup: 3\n")
    _, _, err = command("train", "--config-dir", "more", "preset=mine", "preset.warmpu=4")
    assert "did you mean 'preset.warmup'?" in err


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("learning_rate", "policy.learning_rate"),
        ("lerning_rate", "policy.learning_rate"),
        ("polcy", "policy"),
        ("critic.steps", "policy.steps"),
        ("qqqq", None),
    ],
)
def test_nearest(word, expected):
    assert nearest(word, ["policy", "policy.learning_rate", "policy.steps", "task"]) == expected


def test_nearest_of_nothing():
    assert nearest("task", []) is None
