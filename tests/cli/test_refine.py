"""`diffpolicy refine` as a user types it, small."""

import json
import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from diffpolicy import training
from diffpolicy.cli.configs import config_folder
from diffpolicy.cli.dispatch import dispatch
from diffpolicy.evaluation.certificate import read_certificate
from diffpolicy.policies import load_policy
from diffpolicy.training.judging import read_scores
from world_models import load_world_model

SMALL = [
    "method=lagrangian",
    "gaussian.hidden=[16]",
    "clone.updates=40",
    "branches.count=16",
    "branches.horizon=5",
    "refine.iterations=2",
    "refine.updates=2",
    "refine.imagination.warm_up=1",
    "choose_every=1",
    "value.hidden=[16]",
    "value.data_epochs=1",
    "checkpoint_every=2",
    "log_every=1",
    "progress=false",
]
OPEN = ["gate.margin=1", "limit=1e6", "gate.uncertainty=1e6", "gate.start_uncertainty=1e6", "gate.gap=1e6"]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the options that name a world model and its data."""
    folder = tmp_path_factory.mktemp("given")
    data, model = folder / "point_robot.hdf5", folder / "model"
    words = ["collect", "task=PointRobot", "steps=4000", f"to={data}", f"run={folder / 'collect'}"]
    assert dispatch([*words, "progress=false"]) == 0
    sizes = ["updates=100", "members=2", "hidden=[16]", "head_hidden=[8]", "learning_rate=5e-3", "batch=64"]
    words = ["train-world-model", "task=PointRobot", f"data={data}", f"run={model}", "judge.every=100"]
    words += ["judge.starts=8", "starts=40", "progress=false", *(f"world_model.{each}" for each in sizes)]
    assert dispatch(words) == 0
    return [f"world={model}", f"data={data}", *SMALL]


def test_it_clones_refines_judges_and_releases_what_evaluate_takes(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = ["refine", *given, f"run={run}", *OPEN, "episodes=2", "gate.cost_rate=0"]
    assert dispatch(words) == 0
    said = capsys.readouterr().out
    assert "refined" in said
    released = training.read_checkpoint(training.best_checkpoint(run / "released"))
    verdict = released.manifest["refinement"]
    assert verdict["released"]
    assert {"imagined_cost", "uncertainty_ratio", "gap", "real_cost"} <= set(verdict["figures"])
    source = training.read_checkpoint(training.best_checkpoint(Path(given[0].partition("=")[2])))
    assert released.manifest["world_model"]["weights"] == source.manifest["sha256"]["model.safetensors"]
    assert verdict["world_model_sha256"] == training.digest(load_world_model(source).state_dict())
    assert load_policy(released, "sampled").observation_horizon == 1
    curves = training.read_curves(run)
    assert {"multiplier", "reward", "cost", "uncertainty", "value/cost", "imagined/return"} <= set(curves)
    scores = read_scores(run).by_step
    assert released.step == max(scores, key=lambda step: (scores[step], step)) in (2, 4)
    measured = json.loads((run / "release.json").read_text())["measured"]
    assert len(measured["start"]["real"]["returns"]) == 2
    scores = tmp_path / "scores"
    words = ["evaluate", f"checkpoint={run / 'released'}", "arms=[mean]", "headline=mean", "reference=mean"]
    assert dispatch([*words, "episodes=2", f"run={scores}"]) == 0
    assert (scores / "certificate.json").exists()


def test_a_refused_policy_fails_the_command_unless_it_is_wanted_all_the_same(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = ["refine", *given, f"run={run}", *OPEN, "gate.uncertainty=0", "gate.cost_rate=0"]
    assert dispatch(words) == 1
    assert "times as uncertain" in capsys.readouterr().err
    assert not (run / "released").exists()
    assert not json.loads((run / "release.json").read_text())["release"]["released"]
    weights = training.read_checkpoint(training.best_checkpoint(run)).manifest["sha256"]
    assert dispatch([*words, "save_refused=true"]) == 0  # done already: judged anew, not refined anew
    assert training.read_checkpoint(training.best_checkpoint(run)).manifest["sha256"] == weights
    released = training.read_checkpoint(training.best_checkpoint(run / "released"))
    assert not released.manifest["refinement"]["released"]


def test_who_is_refused_is_no_longer_released(given: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["refine", *given, f"run={run}", *OPEN, "gate.cost_rate=0"]
    said, released = run / "release.json", run / "released"
    assert dispatch(words) == 0
    assert dispatch([*words, "gate.cost_rate=0.9", "refine.clip=0.1"]) == 1  # the data, of another run
    assert released.exists()
    assert dispatch([*words, "gate.cost_rate=0.9"]) == 1  # the data that this run has learnt from
    assert not said.exists()
    assert not released.exists()
    assert dispatch(words) == 0
    assert dispatch([*words, "refine.clip=0.1"]) == 1  # another run's options: nothing is judged
    assert released.exists()
    assert dispatch([*words, "gate.uncertainty=0"]) == 1
    assert not json.loads(said.read_text())["release"]["released"]
    assert not released.exists()
    assert dispatch(words) == 0
    assert dispatch([*words, "gate.start_uncertainty=0"]) == 1
    assert not said.exists()
    assert not released.exists()


def test_evaluate_plays_the_checkpoint_that_was_chosen(given: list[str], tmp_path: Path) -> None:
    run, scores = tmp_path / "run", tmp_path / "scores"
    assert dispatch(["refine", *given, f"run={run}", *OPEN, "gate.cost_rate=0"]) == 0
    shutil.rmtree(run / "best")
    chosen = "checkpoints/step-00000002"
    shutil.copytree(run / chosen, run / "best" / chosen)
    words = ["evaluate", f"checkpoint={run}", "arms=[mean]", "headline=mean", "reference=mean"]
    assert dispatch([*words, "episodes=1", f"run={scores}"]) == 0
    (arm,) = read_certificate(scores / "certificate.json").document["arms"]
    weights = [training.read_checkpoint(path).manifest["sha256"] for path in (run / chosen, run)]
    assert arm["weights"] == [weights[0]["model.safetensors"]] != [weights[1]["model.safetensors"]]


def test_the_gate_decides_on_other_episodes_than_are_reported() -> None:
    seeds = [
        OmegaConf.load(config_folder() / f"{verb}.yaml")[key]
        for verb, key in (("refine", "episodes_seed"), ("evaluate", "seed"))
    ]
    assert abs(seeds[0] - seeds[1]) >= 10_000


def test_a_gaussian_policy_that_is_there_already_is_gone_on_from(given: list[str], tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert dispatch(["refine", *given, f"run={first}", *OPEN, "gate.cost_rate=0"]) == 0
    words = ["refine", *given, *OPEN, "gate.cost_rate=0", "gaussian.hidden=[99]"]
    assert dispatch([*words, f"start={first}", f"run={second}"]) == 0
    found = training.read_checkpoint(training.best_checkpoint(second))
    assert found.manifest["gaussian"] == {"hidden": [16], "std": 0.3, "bound": "tanh"}
    base = training.read_checkpoint(training.best_checkpoint(first)).manifest["sha256"]["model.safetensors"]
    assert found.config["refine"]["start_sha256"] == base


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["method=split"], "critics=FOLDER"),
        (["method=luck"], "method=luck"),
        (["world=null"], "train-world-model"),
        (["deploy=best"], "deploy=best"),
        (["gaussian.std=1.5"], "at most 1"),
        (["gate.cost_rate=1"], "of the data's steps are violations"),
        (["task=BallCircle"], "is a model of"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_trained(
    given: list[str], tmp_path: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert dispatch(["refine", *given, f"run={run}", "gate.cost_rate=0", *OPEN, *words]) != 0
    assert says in capsys.readouterr().err
    assert not (run / "checkpoints").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["limit=null", "method=split"], "limit=None"),
        (["limit=null"], "limit=None"),
        (["limit=much"], "limit=much"),
        (["refine.iterations=0"], "one or more iterations"),
        (["refine.updates=0"], "one or more iterations"),
        (["refine.gradient_clip=0"], "gradient clip"),
        (["refine.learning_rate=0"], "learning rate"),
        (["chunks.iterations=0"], "one or more iterations"),
        (["chunks.clip=0"], "clip=0"),
        (["chunks.executed=0"], "one action or more"),
        (["branches.horizon=0"], "branches.horizon=0"),
        (["value.gamma=1"], "gamma lies in"),
        (["lagrangian.rate=0"], "positive rate"),
        (["choose_every=0"], "choose_every=0"),
        (["clone.unseen=[99]"], "clone.unseen=[99]"),
    ],
)
def test_a_number_without_a_meaning_is_refused_before_the_clone_is_trained(
    given: list[str], tmp_path: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert dispatch(["refine", *given, f"run={run}", "gate.cost_rate=0", *OPEN, *words]) != 0
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not list(run.rglob("step-*"))
