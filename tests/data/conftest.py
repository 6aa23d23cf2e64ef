from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

Arrays = dict[str, Any]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of decoded pictures of the test's own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("DIFFPOLICY_CACHE", str(folder))
    return folder


@pytest.fixture
def arrays() -> Arrays:
    """DSRL columns of three episodes of 4, 3 and 5 steps: a terminal, then two time-outs."""
    rng = np.random.default_rng(0)
    terminals, timeouts = np.zeros(12, bool), np.zeros(12, bool)
    terminals[3] = timeouts[6] = timeouts[11] = True
    observations = rng.standard_normal((12, 3)).astype(np.float32)
    following = np.concatenate([observations[1:], np.zeros((1, 3), np.float32)])
    following[[3, 6, 11]] = [[10, 10, 10], [20, 20, 20], [30, 30, 30]]
    return {
        "observations": observations,
        "next_observations": following,
        "actions": rng.uniform(-1, 1, (12, 2)).astype(np.float32),
        "rewards": np.arange(12, dtype=np.float32),
        "costs": np.array([0, 1, 0, 0, 0, 0, 0, 1, 1, 0, 0, 1], np.float32),
        "terminals": terminals,
        "timeouts": timeouts,
    }


@pytest.fixture
def write_hdf5(tmp_path: Path) -> Callable[[Arrays], Path]:
    def write(columns: Arrays) -> Path:
        path = tmp_path / "data.hdf5"
        with h5py.File(path, "w") as file:
            for name, values in columns.items():
                if isinstance(values, dict):
                    file.create_group(name)
                else:
                    file[name] = values
        return path

    return write


LENGTHS = (4, 3, 5)
ENDS = np.cumsum(LENGTHS)


@pytest.fixture
def demonstrations() -> Arrays:
    """Three demonstrations of 4, 3 and 5 steps with pictures of 6 x 8 pixels, as arrays over all steps."""
    rng = np.random.default_rng(0)
    return {
        "state": rng.standard_normal((12, 3)).astype(np.float32),
        "keypoint": rng.standard_normal((12, 2, 2)).astype(np.float32),
        "action": rng.uniform(0, 512, (12, 2)).astype(np.float32),
        "img": rng.integers(0, 256, (12, 6, 8, 3)).astype(np.uint8),
    }
