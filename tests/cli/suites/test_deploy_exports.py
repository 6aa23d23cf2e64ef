"""The exports of the suite deploy: figures of real ones and of a real server, kept jobs, targets that can be missed."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

import envs
from diffpolicy import training
from diffpolicy.cli.common import load_dataset
from diffpolicy.cli.errors import ConfigError
from diffpolicy.cli.robot_processes import policy_server
from diffpolicy.cli.suites import deploy, deploy_exports, deploy_policies, deploy_server
from diffpolicy.cli.suites.jobs import Job
from diffpolicy.data import Standardizer
from diffpolicy.policies.gaussian import GaussianConfig, GaussianNetwork, gaussian_manifest, load_gaussian

for needed in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(needed)


ARM, RTI = "ddim_3", "rti_5_3_1_0@1"


def measured(error: float = 2e-7, onnx: float = 1.0, not_finite: int = 0) -> dict[str, Any]:
    """What one export of `deploy_exports.exported` gives."""
    row = {"inputs": "random", "samples": 64, "error": error, "relative": error / 2, "not_finite": not_finite}
    times = {"p50": onnx, "p99": 2 * onnx}
    return {
        "task": "PushT-v0",
        "parity": [
            row | {"passed": error <= 1e-4 and not not_finite},
            row | {"inputs": "real", "not_finite": 0, "passed": True},
        ],
        "latency_ms": {"onnx": times, "pt2": times, "torch": {"p50": 2.0, "p99": 5.0}},
        "load": 1.5,
    }


def results(**worst: Any) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Two arms in both formats; the warm-started one in ONNX is as `worst` says."""
    found = {("mlp", arm, format): measured() for arm in (ARM, RTI) for format in ("onnx", "pt2")}
    found["mlp", RTI, "onnx"] = measured(**worst)
    return found


@pytest.mark.parametrize(
    ("worst", "missed"),
    [
        ({}, set()),
        ({"onnx": 2.0}, set()),
        ({"onnx": 2.01}, {"mlp: p50 of a decision with onnx, as a share of eager PyTorch's"}),
        ({"error": 1.1e-4}, {"mlp: largest difference of onnx from PyTorch, in units of 0.0001"}),
        ({"not_finite": 3}, {"mlp: largest difference of onnx from PyTorch, in units of 0.0001"}),
    ],
)
def test_exports_are_held_to_parity_and_pace_by_their_worst_arm(
    worst: dict[str, Any], missed: set[str]
) -> None:
    targets = deploy_exports.export_targets(deploy_exports.export_rows(results(**worst)))
    assert len(targets) == 3
    assert {one["name"] for one in targets if not one["met"]} == missed


def test_what_is_not_finite_was_not_timed_and_is_told() -> None:
    broken = {("mlp", ARM, "onnx"): measured(not_finite=3) | {"latency_ms": {}}}
    rows = deploy_exports.export_rows({**broken, ("mlp", ARM, "pt2"): measured()})
    assert [one["met"] for one in deploy_exports.export_targets(rows)] == [False, True]
    assert "3 not finite" in deploy_exports.export_table(rows)[2]


def small_run(folder: Path, seed: int = 0) -> Path:
    """Write an untrained Gaussian policy for Push-T, whose readings ship with the project."""
    config = GaussianConfig([8], 0.1)
    standardizer = Standardizer(torch.full((5,), 200.0), torch.full((5,), 90.0))
    network = GaussianNetwork(standardizer, 2, config.hidden, torch.Generator().manual_seed(seed))
    manifest = gaussian_manifest(network, config, seed, task="PushT-v0", data={"sha256": "d"})
    training.write_checkpoint(folder, 1, model=network.state_dict(), state={}, config={}, manifest=manifest)
    return folder


def options(folder: Path) -> DictConfig:
    exports = {"updates": 2, "episodes": 1, "samples": 4, "decisions": 3, "arms": {"gaussian": ["mean"]}}
    return OmegaConf.create({"run": str(folder), "progress": False, "exports": exports})


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A real export, made."""
    folder = tmp_path_factory.mktemp("suite")
    cfg = options(folder / "run")
    made = deploy_exports.export_job(cfg, "gaussian", small_run(folder / "policy"), "mean", "onnx", None)
    assert not made.kept()
    made.run()
    return made


def test_an_export_is_compared_on_random_and_real_inputs_and_kept(job: Job) -> None:
    assert job.kept()
    (row,) = deploy_exports.export_rows({("gaussian", "mean", "onnx"): job.result()})
    assert row["inputs"] == {"random": 4, "real": 4}
    assert 0.0 <= row["error"] <= 1e-4
    assert row["passed"]
    assert row["latency_ms"]["p50"] > 0.0
    assert row["eager_ms"]["p50"] > 0.0
    assert row["task"] == "PushT-v0"
    folder = job.path.with_suffix("")
    assert json.loads((folder / "parity.json").read_text())["passed"] is True


def test_other_weights_and_other_questions_are_other_jobs(job: Job, tmp_path: Path) -> None:
    folder = job.path.parents[3]
    cfg = options(folder / "run")

    def again(run: Path, arm: str = "mean") -> Job:
        return deploy_exports.export_job(cfg, "gaussian", run, arm, "onnx", None)

    assert again(folder / "policy").kept()
    assert not again(folder / "policy", "sampled").kept()
    assert not again(small_run(tmp_path, seed=1)).kept()
    cfg.exports.samples = 5
    assert not again(folder / "policy").kept()


def test_every_arm_of_every_kind_is_exported_in_both_formats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = small_run(tmp_path / "policy")
    monkeypatch.setattr(deploy_exports, "policy_of", lambda cfg, kind, console: (run, None))
    cfg = options(tmp_path)
    cfg.exports.arms = {"diffusion_mlp": [ARM, RTI], "diffusion_mlp with pictures": [ARM]}
    jobs = deploy_exports.export_jobs(cfg, Console(quiet=True))
    assert len(jobs) == len({one.path for one in jobs.values()}) == 6
    assert (
        jobs["diffusion_mlp", RTI, "pt2"].path == tmp_path / "exports" / "diffusion_mlp" / f"{RTI}-pt2.json"
    )


def test_requests_go_through_a_server_process(job: Job, tmp_path: Path) -> None:
    cfg = options(tmp_path)
    cfg.server = {"policy": "gaussian", "arm": "mean", "task": "PushT", "requests": 7, "rate": 1000}
    exports, quiet = {("gaussian", "mean", "onnx"): job}, Console(quiet=True)
    row = deploy_server.run_server(cfg, exports, quiet)
    trip, policy = row["round_trip_ms"], row["policy_ms"]
    assert 0.0 < policy["p50"] < trip["p50"] <= trip["p95"] <= trip["p99"] <= trip["max"]
    assert deploy_server.run_server(cfg, exports, quiet) == row  # kept
    with pytest.raises(ConfigError, match=r"exports\.arms has no mean of gaussian"):
        deploy_server.run_server(cfg, {}, quiet)
    text = deploy.export_markdown(cfg.exports, deploy_exports.export_rows(results()), row)
    assert "7 requests to `diffpolicy serve`" in text
    for p99, met in ((5.0, True), (5.01, False)):
        (one,) = deploy_server.server_targets({**row, "round_trip_ms": {**trip, "p99": p99}})
        assert one["met"] is met


def test_a_refused_request_is_no_figure(job: Job, tmp_path: Path) -> None:
    states = np.full((2, 5), np.nan, np.float32)
    words = [f"export={job.path.with_suffix('')}", f"run={tmp_path / 'serve'}"]
    with (
        policy_server(words, tmp_path / "server.log") as (uri, _),
        pytest.raises(ConfigError, match=r"refused a request: .*not_finite"),
    ):
        deploy_server.round_trips(uri, states, 100.0)


def test_a_clone_is_trained_once(tmp_path: Path) -> None:
    run, dataset = deploy_policies.policy_of(options(tmp_path), "gaussian", Console(quiet=True))
    checkpoint = training.read_checkpoint(training.best_checkpoint(run))
    assert (checkpoint.manifest["task"], dataset) == ("OfflineBallCircle-v0", None)
    before = load_gaussian(checkpoint).state_dict()
    again, _ = deploy_policies.policy_of(options(tmp_path), "gaussian", Console(quiet=True))
    after = load_gaussian(training.read_checkpoint(training.best_checkpoint(again))).state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_random_pictures_are_a_dataset_of_the_task(tmp_path: Path) -> None:
    pytest.importorskip("gym_pusht")
    path = deploy_policies.random_pictures(tmp_path / "some" / "pictures.npz", 2)
    dataset = load_dataset(envs.task("PushTImage"), path, ("camera",))
    assert dataset.num_episodes == 2
    assert dataset.images["camera"].shape[1:] == (96, 96, 3)
    assert dataset.actions.abs().max() <= 1.0
    assert dataset.actions.std() > 0.3
    written = path.read_bytes()
    assert deploy_policies.random_pictures(path, 2).read_bytes() == written


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[list[str]]]:
    """Return `commands(status)`, which lets all commands end like that and returns the list they go to."""

    def ending(status: int) -> list[list[str]]:
        said: list[list[str]] = []

        def run(command: list[str], **_: Any) -> Any:
            said.append(command)
            return subprocess.CompletedProcess(command, status)

        monkeypatch.setattr(deploy_policies.subprocess, "run", run)
        return said

    return ending


def test_chunk_policies_are_trained_by_their_recipe_unless_they_are_there(
    tmp_path: Path, commands: Callable[[int], list[list[str]]]
) -> None:
    said = commands(0)
    cfg, quiet = options(tmp_path), Console(quiet=True)
    run, dataset = deploy_policies.policy_of(cfg, "flow_unet", quiet)
    assert dataset is None
    assert {"policy=flow_unet", "task=PushT", "policy.optimizer.updates=2"} <= set(said[0])
    (run / "checkpoints" / "step-00000002").mkdir(parents=True)
    deploy_policies.policy_of(cfg, "flow_unet", quiet)
    assert len(said) == 1
    commands(3)
    with pytest.raises(ConfigError, match="exit status 3"):
        deploy_policies.policy_of(cfg, "diffusion_unet", quiet)


def test_critics_are_those_of_the_suite_safe_offline_and_made_where_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def collect(task: envs.Task, path: Path, given: dict[str, Any], progress: bool) -> None:
        done.append(f"collect {task.name}")
        path.parent.mkdir()
        path.touch()

    def train(one: DictConfig) -> None:
        assert Path(one.data).exists()
        done.append(f"train {one.task}")
        (Path(one.run) / "checkpoints").mkdir(parents=True)

    monkeypatch.setattr(deploy_policies, "collect_task", collect)
    monkeypatch.setattr(deploy_policies, "train", train)
    cfg = options(tmp_path / "deploy")
    cfg.update({"policies": str(tmp_path / "safe"), "data_folder": str(tmp_path / "data"), "tasks": {}})
    cfg.update({"task": None, "data": None})
    cfg.tasks.BallCircle = {}
    run, dataset = deploy_policies.policy_of(cfg, "fisor", Console(quiet=True))
    assert (run, dataset) == (tmp_path / "safe" / "BallCircle", None)
    assert done == ["collect BallCircle", "train OfflineBallCircle-v0"]
    (made,) = (tmp_path / "data").iterdir()
    assert made.name == "ball_circle.hdf5"
    made.unlink()  # who is trained needs no data
    assert deploy_policies.policy_of(cfg, "fisor", Console(quiet=True)) == (run, None)
    assert len(done) == 2


def test_a_kind_that_there_is_not_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no kind 'dqn'; the kinds are diffusion_mlp, "):
        deploy_policies.policy_of(options(tmp_path), "dqn", Console(quiet=True))


def test_more_requests_than_moments_are_refused(job: Job, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"server\.requests=100000000 must be at most \d+"):
        deploy_server.served(
            job.path.with_suffix(""), envs.task("PushT"), 100_000_000, 100.0, tmp_path / "log"
        )
