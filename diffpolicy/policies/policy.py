"""What acts: a pure function from observation and memory to an action chunk and memory."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class ActionChunk(NamedTuple):
    """Actions (B, horizon, A) in [-1, 1] action units, to be executed one after the other.

    `feasible_value` (B,) is the critics' judgement of the first action (<= 0 is feasible), where there is one.
    """

    actions: Tensor
    feasible_value: Tensor | None = None


class Memory(NamedTuple):
    """What a policy carries from step to step of a batch of roll-outs; its generator is the only randomness."""

    generator: torch.Generator


class Policy(Protocol):
    """A policy that acts for a batch of parallel roll-outs."""

    def start(self, batch: int, seed: int) -> Memory:
        """Return the memory of `batch` fresh roll-outs; the same seed gives the same actions."""
        ...

    def act(self, observation: Tensor, memory: Memory) -> tuple[ActionChunk, Memory]:
        """Act on observations (B, O) float32."""
        ...
