"""What acts: a pure function from observations and memory to an action chunk and memory."""

from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


class Observation(NamedTuple):
    """The last `horizon` control steps of a batch of roll-outs, oldest first.

    `state` is (B, horizon, O) float32 in the task's own units; `images` maps a camera's name to pictures
    (B, horizon, H, W, 3) uint8, and is None where a policy sees none.
    """

    state: Tensor
    images: Mapping[str, Tensor] | None = None

    @property
    def newest(self) -> Tensor:
        """The present state (B, O)."""
        return self.state[:, -1]

    def copy(self) -> "Observation":
        """The same in memory of its own."""
        images = None if self.images is None else {name: seen.clone() for name, seen in self.images.items()}
        return Observation(self.state.clone(), images)

    def rows(self, chosen: Tensor) -> "Observation":
        """The observations of some roll-outs: a mask (B,) bool, or indices."""
        images = None if self.images is None else {name: seen[chosen] for name, seen in self.images.items()}
        return Observation(self.state[chosen], images)


class History:
    """Collects what is seen at every control step into the `Observation` that a policy asks for."""

    def __init__(self, horizon: int) -> None:
        self._states: deque[Tensor] = deque(maxlen=horizon)
        self._images: deque[Mapping[str, Tensor]] = deque(maxlen=horizon)

    def add(self, state: Any, images: Mapping[str, Any] | None = None) -> Observation:
        """Take in the state (B, O) and pictures (B, H, W, 3) of a control step, return the last `horizon` steps.

        Before the first step the world is taken to have been as it was then. Both are copied: a robot may write what
        it sees into the same memory every time.
        """
        first = not self._states
        self._states.append(torch.as_tensor(state, dtype=torch.float32).clone())
        if images is not None:
            self._images.append({name: torch.as_tensor(seen).clone() for name, seen in images.items()})
        if first:
            missing = (self._states.maxlen or 1) - 1
            self._states.extend([self._states[0]] * missing)
            self._images.extend(list(self._images) * missing)
        states = torch.stack(list(self._states), dim=1)
        if images is None:
            return Observation(states)
        names = self._images[0]
        return Observation(
            states, {name: torch.stack([seen[name] for seen in self._images], dim=1) for name in names}
        )


class ActionChunk(NamedTuple):
    """Actions (B, horizon, A) in [-1, 1] action units, to be executed one after the other.

    `feasible_value` (B,) is the critics' judgement of the first action (<= 0 is feasible), where there is one.
    `evaluations` (B,) counts the denoiser evaluations behind each chunk; `cold` (B,) says which were begun from
    pure noise.
    """

    actions: Tensor
    feasible_value: Tensor | None = None
    evaluations: Tensor | None = None
    cold: Tensor | None = None


class Plan(NamedTuple):
    """What a chunk policy remembers of its last decision.

    `chunk` (B, prediction horizon, A) is the whole chunk in normalised units, `state` (B, O) what was seen then,
    `stalled` (B,) int64 for how many decisions in a row the plan has hardly changed, or, where plans are reused as they
    are, for how many control steps.
    """

    chunk: Tensor
    state: Tensor
    stalled: Tensor


class Memory(NamedTuple):
    """What a policy carries from step to step of a batch of roll-outs; its generator is the only randomness."""

    generator: torch.Generator
    plan: Plan | None = None


class Policy(Protocol):
    """A policy that acts for a batch of parallel roll-outs."""

    @property
    def observation_horizon(self) -> int:
        """Control steps that an observation holds."""
        ...

    def start(self, batch: int, seed: int) -> Memory:
        """Return the memory of `batch` fresh roll-outs; the same seed gives the same actions."""
        ...

    def act(self, observation: Observation, memory: Memory) -> tuple[ActionChunk, Memory]:
        """Decide what to do next for every roll-out."""
        ...
