"""The suite align-digits: which learning rate is chosen, what its targets say of known curves, a whole small run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffpolicy.cli.dispatch import dispatch
from diffpolicy.cli.suites.align_digits_document import (
    Found,
    at_reward,
    chosen_rate,
    long_targets,
    network_targets,
    outcome,
    outcomes,
    paired,
)
from diffpolicy.cli.suites.align_digits_page import strip
from diffpolicy.cli.suites.jobs import Job

WANTED = {"gold": 0.95, "manifold": 1.1, "win": 0.6}


def point(calls: float, gold: float, manifold: float = 2.0, **more: float) -> dict[str, float]:
    usual = {"proxy": gold - 1.0, "diversity": 4.0, "win": gold, "distance": calls / 100}
    return {"calls": calls, "gold": gold, "manifold": manifold, **usual, **more}


def job(
    folder: Path,
    name: str,
    curve: list[dict[str, float]],
    data: str = "online",
    same: bool = False,
    seed: int = 0,
) -> Job:
    result = {"curve": curve, "end": "budget", "network_unchanged": same, "pictures": [], "seconds": 1.0}
    of = {"data": data, "iterations": 10, "online": {"groups": 1, "group_size": 32}, "seed": seed}
    made = Job(name, folder / f"{name}.json", of, lambda: result)
    made.run()
    return made


def test_only_points_near_the_manifold_count(tmp_path: Path) -> None:
    start = point(0, 0.1)
    far = outcome(job(tmp_path, "far", [start, point(64, 0.9, 2.1), point(128, 1.0, 2.3)]), WANTED)
    assert (far.reached, far.calls, far.best["gold"]) == (False, 320.0, 0.9)
    assert far.manifold_ratio == pytest.approx(1.05)
    near = outcome(job(tmp_path, "near", [start, point(64, 0.96, 2.1)]), WANTED)
    assert (near.reached, near.calls) == (True, 64.0)
    offline = outcome(job(tmp_path, "offline", [start, point(0, 0.9), point(0, 0.5)], "pairs"), WANTED)
    assert (offline.reached, offline.best["win"]) == (False, 0.5)


def test_the_rate_that_reaches_the_target_most_often_and_soonest_is_chosen(tmp_path: Path) -> None:
    start = point(0, 0.1)
    rates = {
        1e-4: [job(tmp_path, "slow", [start, point(256, 0.96)])],
        3e-4: [job(tmp_path, "fast", [start, point(64, 0.96)])],
        1e-3: [job(tmp_path, "wild", [start, point(32, 1.0, 5.0)])],
        3e-3: [Job("missing", tmp_path / "missing.json", {}, dict)],
    }
    assert chosen_rate(rates, WANTED) == 3e-4
    assert chosen_rate({3e-3: rates[3e-3]}, WANTED) is None


def test_targets_of_known_runs(tmp_path: Path) -> None:
    start = point(0, 0.1)
    reported = {
        "awm": [job(tmp_path, f"awm{seed}", [start, point(64, 0.96)], seed=seed) for seed in range(2)],
        "flow_grpo_40": [
            job(tmp_path, f"grpo{seed}", [start, point(192, 0.97)], seed=seed) for seed in range(2)
        ],
        "find": [job(tmp_path, "find", [start, point(64, 0.5)], same=True)],
        "diffusion_dpo_offline": [job(tmp_path, "dpo", [start, point(0, 0.7)], "pairs")],
        "not_there": [Job("missing", tmp_path / "missing.json", {}, dict)],
    }
    made = {one["name"]: one for one in network_targets(Found("mlp", {}, {}, reported), WANTED)}
    met = {name: one["met"] for name, one in made.items()}
    assert met == {
        "mlp: awm, gold within 1.1 x the base's manifold distance": True,
        "mlp: flow_grpo_40, gold within 1.1 x the base's manifold distance": True,
        "mlp: find, gold within 1.1 x the base's manifold distance": False,
        "mlp: diffusion_dpo_offline, win rate over the base": True,
        "mlp: calls to the target (the budget where it is not reached), flow_grpo_40 minus awm": True,
        "mlp: find, share of runs that left the network as it was": True,
        "mlp: find, gain in reward": True,
    }
    assert (
        made["mlp: calls to the target (the budget where it is not reached), flow_grpo_40 minus awm"]["value"]
        == 128
    )


def test_long_runs_are_compared_seed_by_seed(tmp_path: Path) -> None:
    ends = {
        "awm": outcomes([job(tmp_path, "a", [point(0, 0.1), point(64, 1.0, 3.0, diversity=2.0)])], WANTED),
        "awm_no_ema": outcomes(
            [job(tmp_path, "b", [point(0, 0.1), point(64, 1.0, 5.0, diversity=0.5)])], WANTED
        ),
    }
    found = {one["name"]: (one["value"], one["met"]) for one in long_targets(ends, WANTED)}
    assert found["long: awm without its EMA penalty collapses: diversity, awm minus awm_no_ema"] == (
        1.5,
        True,
    )
    assert found["long: awm over-optimises: manifold distance at the end over the base's"] == (1.5, True)
    assert not [name for name in found if "nft" in name]


def test_a_seed_that_failed_in_one_method_is_compared_in_none(tmp_path: Path) -> None:
    ended = {
        name: outcomes(
            [job(tmp_path, f"{name}{seed}", [point(calls * seed, 0.5)], seed=seed) for seed in seeds], WANTED
        )
        for name, calls, seeds in (("one", 10.0, (1, 2, 3)), ("other", 1.0, (1, 3)))
    }
    found = paired(ended, "one", "other", lambda a, b: a.curve[0]["calls"] - b.curve[0]["calls"])
    assert found == [9.0, 27.0]


def test_values_at_a_reward_are_interpolated() -> None:
    curve = [point(0, 0.1), point(100, 0.3), point(200, 0.7)]  # proxies -0.9, -0.7, -0.3
    assert at_reward(curve, "calls") == pytest.approx(150.0)
    assert at_reward(curve[:2], "calls") == 100.0


def test_pictures_stand_side_by_side() -> None:
    row = strip([[1] * 64, [2] * 64])
    assert row.shape == (8, 17)
    assert np.array_equal(np.unique(row[:, 8]), [0])


def small(tmp_path: Path, **more: Any) -> list[str]:
    options = {
        "suite": "align-digits",
        "run": tmp_path / "run",
        "results": tmp_path / "out.json",
        "workers": 1,
        "seeds": "[0]",
        "samples": 16,
        "pairs": 16,
        "~networks.unet": None,
        "networks.mlp.base.updates": 20,
        "networks.mlp.tuning_seeds": "[100]",
        "networks.mlp.learning_rates": "[1e-4]",
        "networks.mlp.calls": 64,
        "only": "[nft, find, sft]",
        "usual.updates": 4,
        "long.calls": 128,
        **more,
    }
    return ["benchmark", *(name if value is None else f"{name}={value}" for name, value in options.items())]


def test_a_small_run_makes_the_document_and_is_resumed(tmp_path: Path) -> None:
    assert dispatch(small(tmp_path)) == 0
    document = json.loads((tmp_path / "out.json").read_text())
    assert [row["method"] for row in document["rows"]] == ["nft", "find", "sft"]
    assert document["missing"] == 0
    assert (tmp_path / "out_curves_mlp.png").exists()
    kept = sorted((tmp_path / "run").rglob("*.json"))
    times = [path.stat().st_mtime_ns for path in kept]
    kept[0].unlink()
    assert dispatch(small(tmp_path)) == 0
    assert [path.stat().st_mtime_ns for path in kept][1:] == times[1:]
    assert "| mlp | find |" in (tmp_path / "out.md").read_text()
