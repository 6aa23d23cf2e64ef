"""Recorded denoising paths, and the likelihood of their steps under another denoiser."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffpolicy.diffusion.errors import DiffusionError
from diffpolicy.diffusion.process import GaussianProcess
from diffpolicy.diffusion.sampler import Denoiser
from diffpolicy.diffusion.transition import StepDistribution, StepRule


class Path(NamedTuple):
    """K denoising steps of B samples, as a Markov decision process sees them (DDPO, Black et al. 2024).

    `states` (K+1, B, *S) begins with the start and ends with the clean sample; step i goes from states[i] at
    levels[i] to states[i+1] at the next of the K levels, the clean sample after the last. `log_probs` (K, B) float32
    are those of the denoiser that took the steps, 0 for steps without a density; None if no step has one.
    """

    states: Tensor
    levels: tuple[int, ...]
    log_probs: Tensor | None

    @property
    def clean(self) -> Tensor:
        """Where the path ends, (B, *S)."""
        return self.states[-1]


def transitions(levels: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Return the steps (from level, to level) of a path through `levels`, the last one to the clean sample, -1."""
    return tuple(zip(levels, (*levels[1:], -1), strict=True))


def stochastic_steps(process: GaussianProcess, rule: StepRule, levels: Sequence[int]) -> tuple[int, ...]:
    """Return the indices of the steps through `levels` that add noise: those that have a log-probability.

    Raises:
        DiffusionError: if there is no level, they do not descend, or the rule cannot step between two of them.
    """
    if not levels:
        raise DiffusionError("a path needs at least one level to start from")
    weights = [rule.weights(process, *step) for step in transitions(levels)]
    return tuple(index for index, step in enumerate(weights) if step.std > 0.0)


@torch.no_grad()
def sample_path(
    process: GaussianProcess,
    rule: StepRule,
    levels: Sequence[int],
    denoiser: Denoiser,
    condition: Any,
    noise: Tensor | torch.Generator,
    start: Tensor | None = None,
    mask: Tensor | None = None,
    storage: torch.dtype = torch.float32,
) -> Path:
    """Return the path of samples (B, *S) that `denoiser` takes through `levels`, without gradients.

    `noise` is standard normal, (K+1, B, *S): the start's, then each step's; or a generator to draw that of the steps
    from. `start` (B, *S) is the iterate at the first level, at will shared within a group; without one it is noise
    alone. Log-probabilities are means over the elements where `mask` (B|1, *S) is true.

    Every iterate is rounded to `storage` before it is measured and gone on from, so that a path kept in half
    precision still has ratio 1 for the denoiser that recorded it. Denoisers see float32.

    Raises:
        DiffusionError: if the levels, the noise or the mask do not fit together, or there is nothing to start from.
    """
    stochastic = stochastic_steps(process, rule, levels)
    if start is None:
        if isinstance(noise, torch.Generator):
            raise DiffusionError(
                "a generator does not say how many samples to draw: pass a start (B, *S) as well"
            )
        start = process.noise_at(levels[0]) * noise[0]
    states = [start.to(storage)]
    log_probs = torch.zeros(len(levels), len(start), device=start.device)
    drawn = _step_noise(noise, start, len(levels))
    for index, (level, next_level) in enumerate(transitions(levels)):
        step = step_distribution(process, rule, denoiser, condition, states[-1], level, next_level)
        states.append(step.sample(next(drawn)).to(storage))
        if index in stochastic:
            log_probs[index] = step.log_prob(states[-1], mask)
    return Path(torch.stack(states), tuple(levels), log_probs if stochastic else None)


def step_log_probs(
    process: GaussianProcess,
    rule: StepRule,
    denoiser: Denoiser,
    condition: Any,
    path: Path,
    index: int,
    mask: Tensor | None = None,
) -> tuple[Tensor, StepDistribution]:
    """Return the log-probability (B,) of step `index` of a path under `denoiser`, and the step's distribution.

    Gradients flow to the denoiser. For the denoiser that recorded the path it is `path.log_probs[index]` to the bit,
    given the same rule, condition and mask.

    Raises:
        DiffusionError: if the path has no such step, or the step is deterministic.
    """
    if not 0 <= index < len(path.levels):
        raise DiffusionError(f"this path has the steps 0 to {len(path.levels) - 1}, there is no step {index}")
    level, next_level = transitions(path.levels)[index]
    step = step_distribution(process, rule, denoiser, condition, path.states[index], level, next_level)
    return step.log_prob(path.states[index + 1], mask), step


def step_distribution(
    process: GaussianProcess,
    rule: StepRule,
    denoiser: Denoiser,
    condition: Any,
    state: Tensor,
    level: int,
    next_level: int,
) -> StepDistribution:
    """Return the distribution of the iterate at `next_level` that a denoiser steps to from `state` (B, *S).

    Gradients flow to the denoiser, which sees float32.
    """
    noisy = state.float()
    rows = torch.full(noisy.shape[:1], level, dtype=torch.int64, device=noisy.device)
    clean = process.to_clean(denoiser(noisy, rows, condition).float(), noisy, level)
    return rule.step(process, clean, noisy, level, next_level)


def _step_noise(noise: Tensor | torch.Generator, start: Tensor, steps: int) -> Iterator[Tensor]:
    if isinstance(noise, torch.Generator):
        return (torch.randn(start.shape, generator=noise, device=start.device) for _ in range(steps))
    if noise.shape != (steps + 1, *start.shape):
        raise DiffusionError(
            f"a path of {steps} steps from {tuple(start.shape)} takes noise of shape {(steps + 1, *start.shape)}, "
            f"its start's included, got {tuple(noise.shape)}"
        )
    return iter(noise[1:].unbind())
