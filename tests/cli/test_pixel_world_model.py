"""`diffpolicy train-world-model world_model=pixel_tiny` as a user types it, small."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffpolicy import training
from diffpolicy.cli.dispatch import dispatch
from diffpolicy.training.judging import read_scores
from diffpolicy.training.logging import read_curves
from world_models import load_pixel_world_model

zarr = pytest.importorskip("zarr")
pytest.importorskip("gym_pusht")

TINY = [
    "task=PushTImage",
    "world_model=pixel_tiny",
    "world_model.size=16",
    "world_model.history=1",
    "world_model.updates=4",
    "world_model.batch=4",
    "hold_out.share=0.2",
    "play={episodes: 1, judged: 1, horizon: 8, longest_hold: 3, seed: 0}",
    "film={starts: 2, steps: 3, frames_per_second: 5}",
    "horizons=[1,3,50]",
    "judge={every: 2, horizon: 3, starts: 4}",
    "starts=6",
    "checkpoint_every=2",
    "log_every=2",
    "progress=false",
]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFPOLICY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five episodes of twelve pictures in which a bright square moves."""
    path = tmp_path_factory.mktemp("data") / "replay.zarr"
    group, count = zarr.open_group(path, mode="w", zarr_format=2), 60
    pictures = np.full((count, 96, 96, 3), 230.0, dtype=np.float32)
    for number in range(count):
        pictures[number, 40:60, 5 * (number % 12) : 5 * (number % 12) + 20] = 30.0
    columns = {
        "data/img": pictures,
        "data/state": np.full((count, 5), 256.0, dtype=np.float32),
        "data/action": np.full((count, 2), 200.0, dtype=np.float32),
        "meta/episode_ends": np.arange(12, 61, 12),
    }
    for name, values in columns.items():
        group.create_array(name, shape=values.shape, dtype=values.dtype, chunks=values.shape)[:] = values
    return path


def test_it_learns_says_how_true_it_is_and_films_it(replay: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ["train-world-model", f"data={replay}", f"run={run}", *TINY]
    assert dispatch(arguments) == 0
    best = training.read_checkpoint(training.best_checkpoint(run))
    assert len(best.manifest["held_out"]["episodes"]) == 1
    assert best.manifest["transitions"] == 4 * 12 + 8
    assert load_pixel_world_model(best).config.predicts == "change"
    assert sorted(read_scores(run).by_step) == [2, 4]
    assert {"psnr/1", "psnr/3", "dynamics"} <= set(read_curves(run))
    found = json.loads((run / "fidelity.json").read_text())
    assert set(found) == {"held-out", "random actions"}
    assert [row["steps"] for row in found["held-out"]["horizons"]] == [1, 3]  # no episode has 50
    assert found["held-out"]["horizons"][0]["psnr"] > 0.0
    for name in ("imagined_held-out", "imagined_random_actions"):
        film = Image.open(io.BytesIO((run / f"{name}.gif").read_bytes()))
        assert film.n_frames == 4
        assert film.size == (2 * 128 + 4, 2 * 128 + 4)
        assert Image.open(run / f"{name}.png").size == (4 * 132 - 4, 4 * 132 - 4)
    weights = best.path / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert dispatch(arguments) == 0  # done already
    assert weights.stat().st_mtime_ns == before


def test_an_interrupted_run_goes_on_to_the_same_weights(replay: Path, tmp_path: Path) -> None:
    arguments = ["train-world-model", f"data={replay}", *TINY, "play.judged=0", "film.starts=0"]
    folders = tmp_path / "whole", tmp_path / "halves"
    for folder in folders:
        assert dispatch([*arguments, f"run={folder}"]) == 0
    later = sorted((folders[1] / "checkpoints").iterdir())[-1]  # as if it had been killed before this one
    for file in later.iterdir():
        file.unlink()
    later.rmdir()
    assert dispatch([*arguments, f"run={folders[1]}"]) == 0
    whole, halves = (training.read_checkpoint(training.latest_checkpoint(folder)).model for folder in folders)
    assert all(torch.equal(whole[name], halves[name]) for name in whole)


def test_what_cannot_be_is_refused(replay: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train-world-model", f"data={replay}", f"run={tmp_path}", *TINY]
    for wrong, hint in (
        ("world_model.camera=wrist", "wrist"),
        ("world_model.camera=null", "names the camera"),
        ("world_model.predicts=magic", "frame, change"),
        ("+world_model.sizes=3", "did you mean"),
        ("play.horizon=0", "horizon >= 1"),
        ("film.starts=-1", "starts >= 0"),
        ("checkpoint_every=0", "checkpoint_every=0 must be at least 1"),
        ("log_every=0", "log_every=0 must be at least 1"),
        ("starts=0", "starts=0 must be at least 1"),
        ("seed=1.5", "seed must be int"),
        ("horizons=[0]", "each 1 or more"),
        ("play.seed=-1", "seed >= 0"),
        ("world_model.learning_rate=-1", "0 or more"),
        ("world_model.clip=0", "clip=0.0"),
        ("world_model.noise.rho=0", "rho above 0"),
    ):
        assert dispatch([*arguments, wrong]) != 0
        assert hint in capsys.readouterr().err
