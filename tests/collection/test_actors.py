import hashlib
import importlib.util
import json
from pathlib import Path

import h5py  # type: ignore[import-untyped]
import numpy as np
import pytest
import torch

import envs
from diffpolicy import data
from diffpolicy.collection import CollectConfig, CollectionError, collect
from diffpolicy.collection.actors import load_actor, sorted_order

TASK = envs.task("PointRobot")
IN_ORDER = np.arange(11)


def weights(**changes: np.ndarray) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {
        "dense_kernel": rng.normal(size=(11, 4)),
        "dense_bias": rng.normal(size=4),
        "dense_1_kernel": rng.normal(size=(4, 2)),
        "dense_1_bias": rng.normal(size=2),
        "log_std": np.full(2, -20.0),
    }
    return {name: value.astype(np.float32) for name, value in (arrays | changes).items()}


def write(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def test_an_actor_computes_its_network_in_its_own_order(tmp_path: Path) -> None:
    arrays = weights()
    order = np.arange(11)[::-1].copy()
    actor = load_actor(write(tmp_path / "a.npz", arrays), TASK, order)
    observation = np.linspace(-1, 1, 11, dtype=np.float32)
    hidden = np.tanh(observation[::-1] @ arrays["dense_kernel"] + arrays["dense_bias"])
    expected = hidden @ arrays["dense_1_kernel"] + arrays["dense_1_bias"]
    assert actor.act(observation, np.random.default_rng(0)) == pytest.approx(expected, abs=1e-6)


def test_noise_has_the_stated_spread(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz", weights(log_std=np.log(np.array([0.5, 2.0]))))
    actor, rng = load_actor(path, TASK, IN_ORDER), np.random.default_rng(0)
    actions = np.array([actor.act(np.zeros(11, np.float32), rng) for _ in range(4_000)])
    assert actions.std(axis=0) == pytest.approx([0.5, 2.0], rel=0.05)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dense_kernel": np.zeros((10, 4))}, "layer 0"),
        ({"dense_1_kernel": np.zeros((4, 3)), "dense_1_bias": np.zeros(3)}, "3 action numbers"),
        ({"log_std": np.zeros(5)}, "action numbers"),
    ],
)
def test_files_that_do_not_fit_are_named(
    tmp_path: Path, changes: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(CollectionError, match=message):
        load_actor(write(tmp_path / "a.npz", weights(**changes)), TASK, IN_ORDER)


def test_files_that_are_no_actors_are_named(tmp_path: Path) -> None:
    (tmp_path / "junk.npz").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(CollectionError, match=r"junk\.npz is not a readable"):
        load_actor(tmp_path / "junk.npz", TASK, IN_ORDER)
    with pytest.raises(CollectionError, match="log_std"):
        load_actor(write(tmp_path / "empty.npz", {"dense_bias": np.zeros(2)}), TASK, IN_ORDER)
    with pytest.raises(CollectionError, match=r"absent\.npz"):
        load_actor(tmp_path / "absent.npz", TASK, IN_ORDER)


def test_a_dataset_from_actor_files(tmp_path: Path) -> None:
    actor = write(tmp_path / "a.npz", weights(log_std=np.zeros(2)))
    config = CollectConfig(source="policies", policies=(str(actor),), steps=400, per_cell=100)
    collect("PointRobot", config, tmp_path / "set.hdf5", progress=False)
    loaded = data.load(tmp_path / "set.hdf5")
    assert loaded.num_transitions >= 100
    assert (loaded.actions.abs() <= 1).all()
    assert torch.isfinite(loaded.observations).all()
    with h5py.File(tmp_path / "set.hdf5", "r") as file:
        run = json.loads(file.attrs["runs"])[0]
    assert run["config"]["policies"] == ["a.npz"]
    assert run["policy_sha256"] == {"a.npz": hashlib.sha256(actor.read_bytes()).hexdigest()}


def test_parts_are_sorted_by_name() -> None:
    if importlib.util.find_spec("safety_gymnasium") is None:
        pytest.skip("safety-gymnasium is not installed")
    env = envs.make("PointGoal1")
    order = sorted_order(env)
    env.close()
    assert sorted(order.tolist()) == list(range(60))
    with pytest.raises(CollectionError, match="navigation"):
        sorted_order(envs.make("PointRobot"))
