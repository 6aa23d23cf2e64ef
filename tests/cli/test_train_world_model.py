"""`diffpolicy train-world-model` as a user types it, small."""

import json
from pathlib import Path

import pytest
import torch

import envs
from diffpolicy import data, training
from diffpolicy.cli.common import dataset_path
from diffpolicy.cli.dispatch import dispatch
from diffpolicy.training.judging import read_scores
from world_models import load_world_model

TINY = [
    "task=PointRobot",
    "world_model.updates=150",
    "world_model.members=2",
    "world_model.hidden=[32]",
    "world_model.head_hidden=[16]",
    "world_model.learning_rate=5e-3",
    "world_model.batch=64",
    "judge.every=50",
    "judge.starts=16",
    "starts=40",
    "checkpoint_every=50",
    "log_every=50",
    "progress=false",
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "point_robot.hdf5"
    arguments = ["collect", "task=PointRobot", "steps=4000", f"to={path}", f"run={path.parent / 'collect'}"]
    assert dispatch([*arguments, "progress=false"]) == 0
    return path


@pytest.mark.parametrize("kind", ["state_deterministic", "state_diffusion"])
def test_it_learns_and_says_how_true_it_is(
    dataset: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    arguments = ["train-world-model", f"data={dataset}", f"run={run}", f"world_model={kind}", *TINY]
    assert dispatch(arguments) == 0
    best = training.read_checkpoint(training.best_checkpoint(run))
    episodes = data.load(dataset).num_episodes
    held = best.manifest["held_out"]
    assert held["share"] == 0.1
    assert len(held["episodes"]) == round(0.1 * episodes)
    assert best.manifest["data"]["sha256"] == data.sha256(dataset)
    judged = read_scores(run).by_step
    assert sorted(judged) == [50, 100, 150]
    assert max(judged, key=lambda step: judged[step]) == best.step
    found = json.loads((run / "fidelity.json").read_text())
    assert [row["steps"] for row in found["horizons"]] == [1, 5, 15, 50]
    assert found["horizons"][0]["gain"] > 1.0
    assert load_world_model(best).config.kind == kind.removeprefix("state_")
    weights = best.path / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert dispatch(arguments) == 0  # done already
    assert weights.stat().st_mtime_ns == before
    assert dispatch([*arguments, "seed=1"]) == 1
    assert "another configuration" in capsys.readouterr().err


def test_an_interrupted_run_goes_on_to_the_same_weights(dataset: Path, tmp_path: Path) -> None:
    folders = tmp_path / "whole", tmp_path / "halves"
    arguments = ["train-world-model", f"data={dataset}", *TINY]
    assert dispatch([*arguments, f"run={folders[0]}"]) == 0
    assert dispatch([*arguments, f"run={folders[1]}"]) == 0
    steps = sorted((folders[1] / "checkpoints").iterdir())
    for later in steps[-1:]:  # as if it had been killed before its last checkpoint
        for file in later.iterdir():
            file.unlink()
        later.rmdir()
    assert dispatch([*arguments, f"run={folders[1]}"]) == 0
    whole, halves = (training.read_checkpoint(training.latest_checkpoint(folder)).model for folder in folders)
    assert all(torch.equal(whole[name], halves[name]) for name in whole)


def test_what_cannot_be_is_refused(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train-world-model", f"data={dataset}", f"run={tmp_path}", *TINY]
    for wrong, hint in (
        ("hold_out.share=1.0", "cannot be held out"),
        ("world_model.kind=magic", "one of"),
        ("+world_model.membres=3", "members"),
        ("judge.every=0", "every >= 1"),
        ("checkpoint_every=0", "checkpoint_every=0 must be at least 1"),
        ("log_every=null", "log_every must be int"),
        ("starts=few", "starts must be int"),
        ("seed=1.5", "seed must be int"),
        ("seed=99999999999999999999", "2^62"),
        ("horizons=[]", "each 1 or more, got []"),
        ("horizons=[0]", "each 1 or more, got [0]"),
        ("film.starts=-1", "starts >= 0"),
        ("hold_out.share=nan", "cannot be held out"),
        ("world_model.learning_rate=-1", "0 or more"),
        ("world_model.relative=[[0,99]]", "names column 99"),
        ("task=BallCircle", "is it another task's"),
    ):
        assert dispatch([*arguments, wrong]) != 0
        assert hint in capsys.readouterr().err
    assert training.latest_checkpoint(tmp_path) is None


def test_demonstrations_without_final_observations_are_learnt_and_judged(tmp_path: Path) -> None:
    """The shipped Push-T data keep none: a copy of the last observation is no outcome."""
    short = ["world_model.updates=2", "judge.every=2", "film.starts=0", "horizons=[1,5]"]
    assert dispatch(["train-world-model", *TINY, *short, "task=PushT", f"run={tmp_path}"]) == 0
    manifest = training.read_checkpoint(training.best_checkpoint(tmp_path)).manifest
    dataset = data.load(dataset_path(envs.task("PushT"), None))
    held = torch.tensor(manifest["held_out"]["episodes"])
    kept = dataset.num_transitions - int(dataset.episode_lengths[held].sum())
    assert manifest["transitions"] == kept - (dataset.num_episodes - len(held))
    found = json.loads((tmp_path / "fidelity.json").read_text())
    assert found["heads"]["cost_recall"] is None  # nothing costs


def test_bench_measures_imagination_against_the_simulator(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["models.deterministic.hidden=[8]", "models.diffusion.hidden=[8]", "steps=2", "batches=[64]"]
    arguments = ["bench", "world-model", "task=PointRobot", f"data={dataset}", f"run={tmp_path}"]
    assert dispatch([*arguments, *sizes, "seconds=0.1", "warmup=1"]) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line["value"] > 0
    assert line["ratio"] == pytest.approx(line["value"] / line["reference"], rel=1e-3)
    assert set(line["training_samples_per_s"]) == {"deterministic", "diffusion"}
    assert len(line["rows"]) == 6
