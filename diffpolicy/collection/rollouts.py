"""Roll-outs of given behaviours, recorded episode by episode."""

from collections.abc import Sequence
from typing import Any, Protocol

import gymnasium
import numpy as np
from numpy.typing import NDArray

from diffpolicy.collection.progress import Progress
from diffpolicy.collection.recorder import EpisodeRecorder


class Behaviour(Protocol):
    """A controller that may draw new habits at the start of every episode."""

    def start(self, rng: np.random.Generator) -> dict[str, Any] | None:
        """Begins an episode; the answer is passed to the environment's reset as `options`."""

    def act(self, observation: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        """The action (A,) for an observation (O,)."""


def record_rollouts(
    env: gymnasium.Env[Any, Any],
    behaviours: Sequence[Behaviour],
    steps: int,
    recorder: EpisodeRecorder,
    progress: Progress,
    seed: int,
) -> None:
    """Lets the behaviours act in turn, one episode each, until `steps` steps are recorded."""
    rng = np.random.default_rng(seed)
    low, high = env.action_space.low, env.action_space.high  # type: ignore[attr-defined]
    number = 0
    while recorder.steps < steps:
        behaviour = number % len(behaviours)
        actor = behaviours[behaviour]
        observation, _ = env.reset(seed=int(rng.integers(2**31)), options=actor.start(rng))
        recorder.start(0, observation)
        terminated = truncated = False
        while not (terminated or truncated):
            action = np.clip(actor.act(observation, rng), low, high).astype(np.float32)
            observation, reward, terminated, truncated, info = env.step(action)
            recorder.step(0, action, float(reward), float(info["cost"]), observation)
        recorder.finish(0, terminated=bool(terminated), behaviour=behaviour)
        number += 1
        progress.update(recorder.steps, lambda: f"{number} episodes")  # noqa: B023
