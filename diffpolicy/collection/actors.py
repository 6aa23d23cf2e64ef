"""Behaviour policies given as files: Gaussian MLP actors in `.npz`."""

import zipfile
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from diffpolicy.collection.config import CollectConfig, CollectionError
from diffpolicy.collection.rollouts import Behaviour
from envs import Task

Array = NDArray[np.float32]


class MLPActor:
    """tanh layers and a Gaussian of fixed spread, as PPO leaves them."""

    def __init__(self, layers: list[tuple[Array, Array]], log_std: Array, order: NDArray[np.int64]) -> None:
        self._layers = layers
        self._spread = np.exp(log_std)
        self._order = order

    def start(self, rng: np.random.Generator) -> dict[str, Any] | None:
        """The actor has no memory, and starts where the task does."""
        return None

    def act(self, observation: Array, rng: np.random.Generator) -> Array:
        """A sampled action (A,) for an observation (O,) in the task's order."""
        hidden = observation[self._order]
        for kernel, bias in self._layers[:-1]:
            hidden = np.tanh(hidden @ kernel + bias)
        kernel, bias = self._layers[-1]
        noise = rng.standard_normal(len(bias), dtype=np.float32)
        return np.asarray(hidden @ kernel + bias + self._spread * noise, dtype=np.float32)


def load_actors(env: gymnasium.Env[Any, Any], task: Task, config: CollectConfig) -> list[Behaviour]:
    """The actors of `config.policies` for `task`; CollectionError names the file that does not fit.

    A file holds `dense_kernel` (O, H), `dense_bias` (H,), `dense_1_kernel`, ..., and `log_std` (A,). With
    `config.sorted_observations` the actors expect the parts of the observation in alphabetical order, as the
    original Safety Gym gave them.
    """
    order = sorted_order(env) if config.sorted_observations else np.arange(task.observation_size)
    return [load_actor(name, task, order) for name in config.policies]


def load_actor(path: str | Path, task: Task, order: NDArray[np.int64]) -> MLPActor:
    """One actor of `task`, fed with `observation[order]`; CollectionError if the file does not fit."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name], dtype=np.float32) for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise CollectionError(f"{path} is not a readable .npz actor: {error}") from error
    layers: list[tuple[Array, Array]] = []
    while (name := f"dense_{len(layers)}" if layers else "dense") + "_kernel" in arrays:
        if f"{name}_bias" not in arrays:
            raise CollectionError(f"{path}: {name}_bias is missing beside {name}_kernel")
        layers.append((arrays[f"{name}_kernel"], arrays[f"{name}_bias"]))
    if not layers or "log_std" not in arrays:
        raise CollectionError(
            f"{path}: an actor needs dense_kernel, dense_bias, ... and log_std; it has {sorted(arrays)}"
        )
    sizes = [task.observation_size, *(kernel.shape[-1] for kernel, _ in layers)]
    for index, (kernel, bias) in enumerate(layers):
        if kernel.shape != (sizes[index], sizes[index + 1]) or bias.shape != (sizes[index + 1],):
            raise CollectionError(
                f"{path}: layer {index} is {kernel.shape} with bias {bias.shape}, "
                f"but is given {sizes[index]} numbers"
            )
    if sizes[-1] != task.action_size or arrays["log_std"].shape != (task.action_size,):
        raise CollectionError(
            f"{path}: gives {sizes[-1]} action numbers, {task.name} takes {task.action_size}"
        )
    return MLPActor(layers, arrays["log_std"], order)


def sorted_order(env: gymnasium.Env[Any, Any]) -> NDArray[np.int64]:
    """Index (O,) that puts the parts of a Safety-Gymnasium navigation observation into alphabetical order."""
    try:
        parts = env.unwrapped.raw.task.obs_info.obs_space_dict  # type: ignore[attr-defined]
    except AttributeError as error:
        raise CollectionError("sorted_observations is for Safety-Gymnasium navigation tasks only") from error
    sizes = {name: int(np.prod(space.shape)) for name, space in parts.items()}
    starts = dict(zip(sizes, np.cumsum([0, *sizes.values()]), strict=False))
    return np.concatenate([np.arange(starts[name], starts[name] + sizes[name]) for name in sorted(sizes)])
