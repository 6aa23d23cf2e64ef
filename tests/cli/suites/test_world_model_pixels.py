"""The pixel rows of the suite `world-model`, small."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from diffpolicy.cli.configs import config_folder
from diffpolicy.cli.suites.world_model_pixels import pixel_markdown, pixel_rows, rows_of, targets

zarr = pytest.importorskip("zarr")
pytest.importorskip("gym_pusht")


def result(errors: list[float], still: list[float]) -> dict[str, Any]:
    known = {
        "errors": [errors],
        "persistence": [still],
        "horizons": [{"steps": 1}],
        "action_following": 1.4,
        "starts": len(errors),
    }
    return {"parameters": 10, "known": {"random actions": known}}


def test_rows_are_means_over_starts_and_seeds_and_targets_ask_the_interval() -> None:
    rows = rows_of("PushTImage", "with play", [result([0.01, 0.01], [0.02, 0.04])] * 2)
    (row,) = rows
    assert row["error"] == pytest.approx(0.01)
    assert row["psnr"] == pytest.approx(20.0)
    assert row["gain"] == pytest.approx(3.0)
    assert row["seeds"] == 2
    better, listens = targets(rows, "with play")
    assert better["met"]
    assert listens["met"]
    worse = rows_of("PushTImage", "with play", [result([0.05, 0.01], [0.02, 0.04])])
    assert not targets(worse, "with play")[0]["met"]
    assert targets(rows, "another") == []
    assert "| with play | random actions | 1 | 20.00 |" in pixel_markdown({"rows": rows})


def test_rows_of_a_dataset_are_made_once(tmp_path: Path) -> None:
    path = tmp_path / "replay.zarr"
    group, count = zarr.open_group(path, mode="w", zarr_format=2), 36
    columns = {
        "data/img": np.random.default_rng(0).integers(0, 256, (count, 96, 96, 3)).astype(np.float32),
        "data/state": np.full((count, 5), 256.0, dtype=np.float32),
        "data/action": np.full((count, 2), 200.0, dtype=np.float32),
        "meta/episode_ends": np.array([12, 24, 36]),
    }
    for name, values in columns.items():
        group.create_array(name, shape=values.shape, dtype=values.dtype, chunks=values.shape)[:] = values
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFPOLICY_CACHE", str(tmp_path / "cache"))
        cfg = small(tmp_path, path)
        found = pixel_rows(cfg, Console(quiet=True))
        kept = sorted(tmp_path.rglob("assessment.json"))
        made = [file.stat().st_mtime_ns for file in kept]
        assert pixel_rows(cfg, Console(quiet=True)) == found
    assert [file.stat().st_mtime_ns for file in kept] == made
    assert {(row["model"], row["data"], row["steps"]) for row in found["rows"]} == {
        (arm, kind, steps)
        for arm in ("with play", "demonstrations")
        for kind in ("held-out", "random actions")
        for steps in (1, 3)
    }
    assert "PushTImage" in pixel_markdown(found)


def test_missing_data_are_said_and_nothing_else(tmp_path: Path) -> None:
    found = pixel_rows(small(tmp_path, tmp_path / "nowhere.zarr"), Console(quiet=True))
    assert found["rows"] == found["targets"] == []
    assert "no such file" in pixel_markdown(found)


def small(folder: Path, path: Path) -> DictConfig:
    """Return the part of the suite's configuration that the pixel rows read."""
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        whole = compose("train-world-model", ["world_model=pixel_tiny"])
    pixels = {
        "task": "PushTImage",
        "data": str(path),
        "seeds": [0],
        "horizons": [1, 3],
        "starts": 4,
        "arms": {"with play": None, "demonstrations": {"play": {"episodes": 0}}},
        "hold_out": {"share": 0.3, "seed": 0},
        "judge": {"every": 2, "horizon": 3, "starts": 2},
        "play": {"episodes": 1, "judged": 1, "horizon": 6, "longest_hold": 3, "seed": 0},
        "film": {"starts": 0, "steps": 3, "frames_per_second": 5.0},
        "world_model": OmegaConf.merge(
            whole.world_model, {"size": 16, "history": 1, "updates": 2, "batch": 4}
        ),
    }
    return OmegaConf.create(
        {
            "run": str(folder / "run"),
            "device": "cpu",
            "threads": 1,
            "progress": False,
            "checkpoint_every": 2,
            "log_every": 1,
            "pixels": pixels,
        }
    )
