"""Streaming diffusion policy: a buffer of actions whose noise rises with time, denoised a little per decision."""

import itertools
from typing import Protocol

import torch
from torch import Tensor

from diffpolicy.diffusion import GaussianProcess
from diffpolicy.policies.arms import ChunkArm
from diffpolicy.policies.chunk_policy import executed
from diffpolicy.policies.errors import PolicyError
from diffpolicy.policies.inference import ChunkDenoiser
from diffpolicy.policies.observing import acting_device, observed
from diffpolicy.policies.policy import ActionChunk, Memory, Observation, Plan
from diffpolicy.policies.rti import Discrete, shift


class StreamingDenoiser(ChunkDenoiser, Protocol):
    """A chunk model that may have been trained with a noise level of its own for every time step."""

    per_step_levels: bool


class StreamingPolicy:
    """Høeg et al. 2024 (arXiv 2406.04806): chunk i of the buffer waits at level `N (i + 1) / n - 1`.

    A decision takes every chunk down to where the one before it waited, in `arm.steps` evaluations (None: one for
    each level, as published); the first chunk is then clean and executed, the buffer moves up, and pure noise
    follows at its end. At the first decision the whole buffer begins as noise. Raises PolicyError for a model
    without levels per time step.
    """

    def __init__(
        self,
        model: StreamingDenoiser,
        arm: ChunkArm,
        *,
        clip: float | None = 1.0,
        discrete: Discrete | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if not model.per_step_levels:
            raise PolicyError(
                f"arm {arm.name!r} needs a model with a noise level for every time step: train one with "
                f"per_step_levels=true"
            )
        self.model, self.clip, self.discrete = model, clip, discrete
        self.device = acting_device(model, device)
        self.observation_horizon = model.observation_horizon
        self.execute = executed(model, arm)
        self.path = buffer_path(
            model.process.levels,
            model.prediction_horizon,
            self.observation_horizon - 1,
            self.execute,
            arm.steps,
        )
        self._steps = [_Step(model.process, *pair, self.device) for pair in _pairs(self.path)]
        first = first_path(self.path)
        self._first_steps = [_Step(model.process, *pair, self.device) for pair in _pairs(first)]

    @property
    def evaluations_per_step(self) -> float:
        """Denoiser evaluations per control step once under way."""
        return len(self._steps) / self.execute

    def start(self, batch: int, seed: int) -> Memory:
        """Return the memory of `batch` fresh roll-outs; the same seed gives the same actions."""
        return Memory(torch.Generator(self.device).manual_seed(seed))

    @torch.no_grad()
    def act(self, observation: Observation, memory: Memory) -> tuple[ActionChunk, Memory]:
        """Return the next actions (B, execute, A) and the buffer they came out of.

        Raises PolicyError for observations that `observed` refuses.
        """
        seen = observed(observation, memory, self.model, self.device)
        model, first = self.model, memory.plan is None
        draws, batch = self.draws(first), len(seen.state)
        noise = torch.empty(
            draws, batch, model.prediction_horizon, model.action_size, device=self.device
        ).normal_(generator=memory.generator)
        guess = None if memory.plan is None else shift(memory.plan.chunk, self.execute)
        buffer = self.denoise(seen, noise, guess)
        answer = ActionChunk(
            self.actions(buffer),
            evaluations=torch.full((batch,), draws - 1, dtype=torch.int64, device=self.device),
            cold=torch.full((batch,), first, device=self.device),
        )
        stalled = torch.zeros(batch, dtype=torch.int64, device=self.device)
        return answer, Memory(memory.generator, Plan(buffer, seen.newest, stalled))

    def draws(self, first: bool) -> int:
        """Return the noise tensors of a decision: of the `first` one, or of any other."""
        return len(self._first_steps if first else self._steps) + 1

    def denoise(self, seen: Observation, noise: Tensor, guess: Tensor | None) -> Tensor:
        """Return the buffer (B, Tp, A) after a decision, a pure function of `noise` (draws, B, Tp, A).

        `guess` (B, Tp, A) is the buffer of the decision before, shifted; None at the first one.
        """
        model, steps = self.model, self._first_steps if guess is None else self._steps
        buffer = noise[0] * model.process.noise_at(model.process.levels - 1)
        if guess is not None:
            kept = model.prediction_horizon - self.execute
            buffer = torch.cat([guess[:, :kept], buffer[:, kept:]], dim=1)
        condition = model.encode(seen)
        for step, added in zip(steps, noise[1:].unbind(), strict=True):
            clean = model(buffer, step.level.expand(len(noise[0]), -1), condition)
            clean = clean if self.clip is None else clean.clamp(-self.clip, self.clip)
            buffer = step.keep * buffer + step.signal * clean + step.noise * added
        return buffer

    @torch.no_grad()
    def actions(self, buffer: Tensor) -> Tensor:
        """Return the actions (B, execute, A) in [-1, 1] of a buffer (B, Tp, A), from the decision on."""
        past = self.observation_horizon - 1
        ahead = buffer[:, past : past + self.execute]
        return self.model.to_actions(ahead if self.discrete is None else self.discrete.execute(ahead))


def buffer_path(levels: int, horizon: int, past: int, execute: int, steps: int | None) -> list[list[int]]:
    """Return the level of every position (horizon,) before each step of a decision and, last, after it.

    Level -1 is clean. The first `past` positions were executed and stay clean; what is left at the end beyond
    whole chunks of `execute` is pure noise. PolicyError when there are more chunks than levels.
    """
    count = (horizon - past) // execute
    if count > levels:
        raise PolicyError(f"{count} chunks of {execute} actions cannot share {levels} noise levels")
    resting = [levels * index // count - 1 for index in range(count + 1)]
    taken = max(above - below for below, above in itertools.pairwise(resting)) if steps is None else steps
    rows = []
    for step in range(taken + 1):
        row = [-1] * past
        for below, above in itertools.pairwise(resting):
            row += [above - (above - below) * step // taken] * execute
        rows.append(row + [levels - 1] * (horizon - len(row)))
    return rows


def first_path(path: list[list[int]]) -> list[list[int]]:
    """Return the levels of the first decision: everything from pure noise to where `path` leaves it."""
    top, leaves = path[0][-1], path[-1]
    falling = sorted({level for row in path for level in row if level >= 0} | {-1, top}, reverse=True)
    return [[max(level, final) for final in leaves] for level in falling]


def _pairs(path: list[list[int]]) -> list[tuple[list[int], list[int]]]:
    return list(itertools.pairwise(path))


class _Step:
    """One ancestral step with levels of its own for every position: x' = keep x + signal x_clean + noise z."""

    def __init__(
        self, process: GaussianProcess, levels: list[int], following: list[int], device: torch.device
    ) -> None:
        rows = [self._coefficients(process, *pair) for pair in zip(levels, following, strict=True)]
        table = torch.tensor(rows, dtype=torch.float64).to(device, torch.float32)
        self.keep, self.signal, self.noise = table.unsqueeze(-1).unbind(1)
        # A clean position is shown to the network at the least level it knows.
        self.level = torch.tensor([max(level, 0) for level in levels], device=device)

    @staticmethod
    def _coefficients(process: GaussianProcess, level: int, following: int) -> tuple[float, float, float]:
        if level == following:
            return 1.0, 0.0, 0.0
        signal, noise = process.signal_at(level), process.noise_at(level)
        next_signal, next_noise = process.signal_at(following), process.noise_at(following)
        variance = next_noise**2 * (1 - (signal * next_noise / (next_signal * noise)) ** 2)
        keep = max(next_noise**2 - variance, 0.0) ** 0.5 / noise
        return keep, next_signal - keep * signal, variance**0.5
