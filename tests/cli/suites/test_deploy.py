"""The suite deploy: a bad policy under the shield, and what its figures become."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

import envs
from diffpolicy.cli.suites import deploy, deploy_shield
from diffpolicy.deploy.chunks import Chunk
from diffpolicy.deploy.describing import default_safety
from diffpolicy.deploy.manifest import Manifest, Signal, read_limits


class Reckless:
    """Full speed ahead, which the critics call infeasible; the backup brakes. Stands for TorchRuntime."""

    def __init__(self, checkpoint: Path, arm: str, *, seed: int) -> None:
        self.arm = arm
        safety = read_limits({"feasible_below": 0.0}, default_safety([-1.0, -1.0], [1.0, 1.0], 0.05))
        self.manifest = Manifest(
            policy="toy",
            arm=arm,
            task="PointRobot-v0",
            version="0",
            git="",
            observation=(Signal("state", (11,), "float32"),),
            action=Signal("action", (2,), "float32"),
            control_rate=20.0,
            chunk=1,
            execute=1,
            horizon=1,
            observation_horizon=1,
            sampler="",
            evaluations=0,
            safety=safety,
            licence="",
            data_sha256="",
            weights_sha256="",
        )

    def start(self, seed: int) -> int:
        return 0

    def act(
        self, observation: Mapping[str, Any], memory: int, *, elapsed: int | None = None
    ) -> tuple[Chunk, int]:
        reckless = self.arm == deploy_shield.BAD
        speed = float(observation["state"][2])
        action = [1.0 if reckless else -np.clip(20.0 * speed, -1.0, 1.0), (-1.0) ** memory * 0.5]
        return Chunk(np.array([action], np.float32), 1.0 if reckless else -1.0), memory + 1


@pytest.fixture(scope="module")
def played() -> dict[str, list[dict[str, Any]]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deploy_shield, "TorchRuntime", Reckless)
        task = envs.task("PointRobot")
        return {
            arm: [deploy_shield.play(Path("none"), task, arm, seed, 2, 50, 2) for seed in (0, 1)]
            for arm in deploy_shield.ARMS
        }


def test_the_limits_are_broken_without_the_shield_and_kept_with_it(played: dict[str, Any]) -> None:
    broken = {arm: sum(one["broken"] for one in some) for arm, some in played.items()}
    assert broken["as it is"] > 0
    assert broken["limits"] == broken["feasibility step and limits"] == 0


def test_what_acted_is_counted(played: dict[str, Any]) -> None:
    assert played["as it is"][0]["steps"] == {}
    assert played["feasibility step"][0]["steps"]["backup"] == sum(played["feasibility step"][0]["lengths"])
    assert played["limits"][0]["steps"]["jerk"] > 0


def test_rows_compare_with_the_bare_policy(played: dict[str, Any]) -> None:
    rows = {row["arm"]: row for row in deploy.rows("PointRobot", played)}
    bare, shielded = rows["as it is"], rows["feasibility step and limits"]
    assert "return_difference" not in bare
    difference = shielded["normalized_return"] - bare["normalized_return"]
    assert shielded["return_difference"] == pytest.approx(difference)
    one = played["as it is"]
    rates = [1e3 * v / n for some in one for v, n in zip(some["violations"], some["lengths"], strict=True)]
    assert bare["violations_per_1000"] == pytest.approx(np.mean(rates))
    names = [one["name"] for one in deploy.shield_targets({"PointRobot": played})]
    assert names[1] == "PointRobot: broken limits with the shield"


def soak(missed: int) -> dict[str, Any]:
    times = {"p50": 1.0, "p95": 2.0, "p99": 3.0, "max": 4.0}
    report = {"seconds": 1800.0, "periods": 90_000, "missed": missed, "bypasses": 0, "lateness": times}
    memory = {
        "seconds": list(range(60)),
        "server": [100.0] * 60,
        "controller": [50.0 + 0.1 * i for i in range(60)],
    }
    return {"report": {**report, "delay": times}, "memory": memory, "rate": 50, "load": [7.0], "priority": 50}


@pytest.mark.parametrize(("missed", "met"), [(90, True), (91, False)])
def test_the_soak_is_held_to_its_targets(played: dict[str, Any], missed: int, met: bool) -> None:
    targets = {one["name"]: one["met"] for one in deploy.soak_targets(soak(missed))}
    assert targets["missed deadlines in 30 min at 50 Hz"] is met
    assert targets["growth of the server's memory [MB]"]
    assert not targets["growth of the controller's memory [MB]"]
    assert targets["shield bypasses in real time"]
    text = deploy.markdown(soak(missed), deploy.rows("PointRobot", played))
    assert "| PointRobot | feasibility step and limits |" in text


def test_the_document_holds_every_part_and_its_targets(
    played: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = {"p50": 1.0, "p95": 2.0, "p99": 3.0, "max": 4.0}
    export = {"kind": "gaussian", "arm": "mean", "task": "PushT-v0", "inputs": {"random": 4}, "error": 1e-7}
    export |= {"relative": 1e-7, "not_finite": 0, "passed": True, "load": 1.0}
    export |= {"latency_ms": times, "eager_ms": times}
    server = {"kind": "gaussian", "arm": "mean", "requests": 9, "rate": 100, "load": [0.5, 0.6]}
    server |= {"round_trip_ms": times, "policy_ms": times}
    monkeypatch.setattr(deploy, "run_task", lambda *_: played)
    monkeypatch.setattr(deploy, "run_soak", lambda *_: soak(0))
    monkeypatch.setattr(
        deploy, "run_exports", lambda *_: ({}, [export | {"format": format} for format in ("onnx", "pt2")])
    )
    monkeypatch.setattr(deploy, "run_server", lambda *_: server)
    options = {"tasks": {"PointRobot": {}}, "seeds": [0, 1], "episodes": 2}
    options |= {"exports": {"updates": 5, "decisions": 6}, "results": str(tmp_path / "deploy.json")}
    deploy.main(OmegaConf.create(options))
    document = json.loads((tmp_path / "deploy.json").read_text())
    assert [len(document["rows"]), len(document["exports"])] == [4, 2]
    assert document["server"] == server
    names = {one["name"] for one in document["targets"]}
    assert "gaussian, mean: p99 of a request through the server on loopback [ms]" in names
    assert "gaussian: largest difference of pt2 from PyTorch, in units of 0.0001" in names
    assert "shield bypasses in real time" in names
    text = (tmp_path / "deploy.md").read_text()
    assert "| gaussian | mean | pt2 | 4 random | 1.0e-07 | 1.00 | 3.00 | 1.00 | 3.00 | 1.0 |" in text
    assert "| from request to answer | 1.00 | 2.00 | 3.00 | 4.00 |" in text
