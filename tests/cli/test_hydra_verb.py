"""What users of Hydra expect of a verb."""

import os
import sys
from pathlib import Path

import pytest
import yaml

from diffpolicy.cli.verbs import VERBS


def results(folder: Path) -> dict[str, str]:
    return {str(file.parent.relative_to(folder)): file.read_text() for file in folder.rglob("result.txt")}


def test_overrides_reach_the_verb_and_the_folder_is_named_after_task_and_time(command, tmp_path):
    assert command("trivial", "task=CarRun", "number=3")[0] == 0
    ((folder, text),) = results(tmp_path).items()
    assert text == "CarRun 3"
    assert folder.startswith("runs/trivial/CarRun/20")
    overrides = yaml.safe_load((tmp_path / folder / ".hydra" / "overrides.yaml").read_text())
    assert overrides == ["task=CarRun", "number=3"]


def test_a_named_run_is_the_folder_and_is_used_again(command, tmp_path):
    for _ in range(2):
        assert command("trivial", "run=here")[0] == 0
    assert results(tmp_path) == {"here": "BallCircle 1"}
    assert {path.name for path in (tmp_path / "here").iterdir()} == {".hydra", "result.txt", "trivial.log"}


def test_multirun_gives_every_job_a_folder(command, tmp_path):
    assert command("trivial", "-m", "run=sweep", "number=1,2", "task=CarRun,AntRun")[0] == 0
    expected = {"sweep/0": "CarRun 1", "sweep/1": "AntRun 1", "sweep/2": "CarRun 2", "sweep/3": "AntRun 2"}
    assert results(tmp_path) == expected


def test_multirun_over_a_group(command, tmp_path):
    assert command("trivial", "--multirun", "run=sweep", "preset=fast,paper")[0] == 0
    assert set(results(tmp_path)) == {"sweep/0", "sweep/1"}


def test_one_failed_job_of_a_sweep_fails_the_command_after_the_others_ran(command, tmp_path):
    status, _, err = command("trivial", "-m", "run=sweep", "fails=user,null")
    assert status == 1
    assert "fails=user" in err
    assert "error: rewards: has 3 rows" in err
    assert results(tmp_path) == {"sweep/1": "BallCircle 1"}


def test_cfg_job_prints_the_composed_configuration_and_runs_nothing(command, tmp_path):
    status, out, _ = command("trivial", "--cfg", "job", "number=7")
    config = yaml.safe_load(out)
    assert status == 0
    assert (config["number"], config["task"], config["seeds"]) == (7, "BallCircle", [0])
    assert "hydra" not in config
    assert list(tmp_path.iterdir()) == []


def test_resolve_prints_the_folder_that_would_be_used(command):
    _, out, _ = command("trivial", "--cfg", "job", "--resolve", "task=CarRun")
    assert yaml.safe_load(out)["run"].startswith("runs/trivial/CarRun/20")


@pytest.mark.parametrize("choice", ["policy=fisor preset=paper", "policy=fisor preset=fast"])
def test_groups_of_train_can_be_chosen(command, choice):
    status, out, _ = command("train", *choice.split(), "--cfg", "job")
    assert status == 0
    assert yaml.safe_load(out)["policy"]["name"] == "fisor"


@pytest.mark.parametrize("name", [name for name, verb in VERBS.items() if verb.arguments == "hydra"])
def test_every_verb_composes_and_shares_the_common_options(command, name):
    status, out, err = command(name, "--cfg", "job", "--resolve")
    assert status == 0, err
    assert {"device", "threads", "run"} <= set(yaml.safe_load(out))


def test_a_config_dir_adds_choices(command, tmp_path):
    (tmp_path / "more" / "preset").mkdir(parents=True)
    (tmp_path / "more" / "preset" / "mine.yaml").write_text("# @package _global_\nnumber: 42\n")
    status, out, _ = command("train", "--config-dir", "more", "preset=mine", "--cfg", "job", "+number=1")
    assert status == 2  # `number` is there already, so the group was found
    status, out, _ = command("train", "--config-dir", "more", "preset=mine", "--cfg", "job")
    assert status == 0
    assert yaml.safe_load(out)["number"] == 42


def test_help_shows_groups_options_and_how_to_see_more(command):
    status, out, _ = command("train", "--help")
    assert status == 0
    assert "policy: diffusion_mlp" in out
    assert "task: BallCircle" in out
    assert "diffpolicy train --cfg job --resolve" in out


def test_info_is_hydras(command):
    status, out, _ = command("train", "--info", "searchpath")
    assert status == 0
    assert "Config search path" in out


def test_process_state_is_left_as_it_was(command):
    before = (list(sys.argv), dict(os.environ), Path.cwd())
    command("trivial", "run=here")
    assert (sys.argv, dict(os.environ), Path.cwd()) == before


def test_flags_that_exclude_each_other(command):
    status, _, err = command("train", "--cfg", "job", "--multirun")
    assert status == 2
    assert "Only one of" in err
