"""The suite world-model: what its targets say of known errors, and a whole small run."""

import json
from pathlib import Path
from typing import Any

import pytest

from diffpolicy.cli.dispatch import dispatch
from diffpolicy.cli.suites.world_model_document import Found, average, gaps, targets


def found(model: str, steps: int, error: float, data: str = "held-out") -> Found:
    def result(seed: int) -> dict[str, Any]:
        return {
            "horizons": [{"steps": horizon} for horizon in (1, 15)],
            "errors": [[error / 2] * 4, [error + 0.01 * seed] * 4],
            "persistence": [[0.2] * 4, [1.0] * 4],
        }

    return Found("Ball", model, steps, data, (1, 15), [result(seed) for seed in (-1, 1)])


def test_targets_speak_of_the_default_on_held_out_episodes() -> None:
    models = [
        found("deterministic", 0, 0.1),
        found("deterministic", 0, 0.9, "off-policy"),
        found("diffusion", 1, 9.0),
        found("diffusion", 3, 0.08),
    ]
    gain, ratio = targets(models, "deterministic", 3, 15, 5.0, 1.05)
    assert (gain["value"], gain["met"]) == (pytest.approx(10.0), True)
    assert (ratio["value"], ratio["met"]) == (pytest.approx(1.25), False)
    assert ratio["name"].endswith("deterministic / diffusion, 3 steps")
    assert [one["met"] for one in targets(models, "diffusion", 3, 15, 20.0, 1.05)] == [False, True]
    assert average([{"rank": None}, {"rank": 0.5}], "rank") == 0.5
    assert average([{"rank": None}], "rank") is None


def test_gaps_are_imagined_less_real_from_the_same_starts() -> None:
    real = {"first": [[0.0]] * 2, "returns": [[1.0, 2.0], [3.0, 4.0]], "costs": [[0.0, 0.0], [1.0, 3.0]]}
    imagined = [{"returns": [[2.0, 3.0], [3.0, 4.0]], "costs": [[0.0, 0.0], [0.0, 0.0]]}] * 2
    near, far = gaps("Ball", "deterministic", [5, 50], real, imagined)
    assert (near["real_return"], near["imagined_return"], near["return_gap"]) == (1.5, 2.5, 1.0)
    assert near["return_gap_interval"] == [1.0, 1.0]
    assert (far["steps"], far["episodes"], far["return_gap"], far["cost_gap"]) == (50, 2, 0.0, -2.0)


def test_a_small_suite_runs_and_goes_on(tmp_path: Path) -> None:
    results = tmp_path / "results" / "world-model.json"
    sizes = [
        f"models.{kind}.{option}"
        for kind in ("deterministic", "diffusion")
        for option in ("updates=30", "hidden=[8]", "head_hidden=[8]", "batch=16", "members=2")
    ]
    arguments = [
        "benchmark",
        "world-model",
        f"run={tmp_path / 'run'}",
        f"results={results}",
        "pixels.data=nowhere.zarr",
        f"data_folder={tmp_path}",
        *(
            f"~tasks.{name}"
            for name in ("BallRun", "PointCircle1", "HalfCheetahVelocity", "push-v3", "reach-v3")
        ),
        "~tasks.BallCircle",
        "+tasks.PointRobot={data: mixture, horizons: [1, 5], judge: {every: 30}, seeds: [0, 1]}",
        "mixture={expert: 0, driven: 0, noisy: 0, uniform: 6, held: 6, horizon: 20}",
        "sampler_steps=[1,3]",
        "off_policy={uniform: 2, held: 2, horizon: 12}",
        "target.horizon=5",
        "closed_loop={share: 0.5, clone: {updates: 20}, episodes: 3, first_seed: 0, horizons: [5, 20, 100_000]}",
        "starts=20",
        "progress=false",
        *sizes,
    ]
    assert dispatch(arguments) == 0
    document = json.loads(results.read_text())
    assert len(document["rows"]) == 3 * 2 * 2  # models, kinds of data, horizons
    assert {row["data"] for row in document["rows"]} == {"held-out", "off-policy"}
    assert [model["seeds"] for model in document["models"]] == [2] * 6
    assert len(document["targets"]) == 2
    assert [(row["model"], row["steps"]) for row in document["closed_loop"]] == [
        (model, steps) for model in ("deterministic", "diffusion") for steps in (5, 20)
    ]
    assert {row["episodes"] for row in document["closed_loop"]} == {3}
    assert "## PointRobot" in results.with_suffix(".md").read_text()
    for name in ("open_loop", "calibration"):
        assert results.with_name(f"world-model_{name}.png").stat().st_size > 1000
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert len([path for path in kept if path.parent.name == "assessments"]) == 3 * 2 * 2 + 2 * 2
    assert dispatch(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in kept if path.suffix in (".json", ".safetensors")} == {
        path: at for path, at in kept.items() if path.suffix in (".json", ".safetensors")
    }
