"""Measures a chunk model on its demonstrations: spread, error of shifted guesses, thresholds of guards."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from diffpolicy.data import OfflineDataset
from diffpolicy.diffusion import GaussianProcess, Sampler, contraction
from diffpolicy.policies.arms import parse_arm
from diffpolicy.policies.calibration import STILL, Calibration, Residual
from diffpolicy.policies.chunk_policy import ChunkPolicy
from diffpolicy.policies.following import DRAWN, CalibratedDenoiser, Following
from diffpolicy.policies.rti import Discrete, residual, shift

ACCURATE_STEPS = (
    30  # of DPM-Solver++(2M) along log noise/signal: few steps of DDIM would understate the spread
)
MARGIN = 1.5  # between what demonstrations show and what a guard calls unusual
JUMP_QUANTILE, RESIDUAL_QUANTILE = 0.999, 0.99
CHAIN = 12  # decisions followed along a demonstration


def calibrate(
    model: CalibratedDenoiser,
    dataset: OfflineDataset,
    arms: Sequence[str] = (),
    *,
    elapsed: int = 1,
    observations: int = 256,
    samples: int = 16,
    angles: tuple[int, ...] = (),
    clip: float | None = 1.0,
    discrete: Discrete | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Calibration:
    """Return the calibration of `model` on demonstrations with actions in [-1, 1], see `Calibration`.

    Spread and guess error are estimated from `samples` at each of so many `observations`, `elapsed` control steps
    apart; the guards of the guarded `arms` from following demonstrations with them. Observation columns `angles` [rad]
    wrap, action columns `discrete` have two values.
    Raises PolicyError when no demonstration is long enough.
    """
    generator = torch.Generator().manual_seed(seed)
    demonstrations = Following(dataset, model, torch.device(device))
    steps = demonstrations.draw(observations, elapsed, generator)
    spread, error = _sampled(model, demonstrations, steps, elapsed, samples, clip, seed)
    usual = demonstrations.usual_changes(max(model.prediction_horizon, elapsed), angles)
    process = model.process
    levels = range(process.levels)
    scales = [(process.signal_at(level), process.noise_at(level)) for level in levels]
    typical = float(spread.square().mean().sqrt())
    left = contraction(process, levels, typical).cumprod(0).tolist()
    changes = demonstrations.changes(usual, 1, angles)
    jump = MARGIN * max(float(torch.quantile(changes[:: -(-len(changes) // DRAWN)], JUMP_QUANTILE)), 1.0)
    residuals = {}
    for name in arms:
        arm = parse_arm(name)
        if arm.guard:
            acting = ChunkPolicy(
                model, replace(arm, guard=False), clip=clip, discrete=discrete, device=demonstrations.device
            )
            residuals[name] = _residual(acting, demonstrations, observations, usual, angles, seed)
    return Calibration(
        elapsed=elapsed,
        spread=tuple(spread.tolist()),
        data_spread=tuple(demonstrations.neighbour_spread(steps, angles).tolist()),
        guess_error=tuple(error.tolist()),
        noise=tuple(noise / math.hypot(signal, noise) for signal, noise in scales),
        # The guess is scaled to the level where it begins (`WarmStart.begin`).
        kept=tuple(math.hypot(*scale) * share for scale, share in zip(scales, left, strict=True)),
        usual=tuple(tuple(row) for row in usual.tolist()),
        jump=jump,
        angles=angles,
        residuals=residuals,
    )


def _sampled(
    model: CalibratedDenoiser,
    demonstrations: Following,
    steps: Tensor,
    elapsed: int,
    samples: int,
    clip: float | None,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """Return spread (A,) and guess error (A,) of the model's samples at `steps` and `elapsed` later.

    A sample and its successor come from the same noise, moved along with the chunk, so that the spread between
    independent samples is not taken for an error of the guess.
    """
    sampler = Sampler(model.process, "dpm_solver", evenly_spaced(model.process, ACCURATE_STEPS), clip=clip)
    generator = torch.Generator(demonstrations.device).manual_seed(seed)
    rows = len(steps) * samples
    shape = (rows, model.prediction_horizon, model.action_size)
    noise = sampler.draw(shape, generator)
    fresh = sampler.draw((rows, elapsed, model.action_size), generator)
    kept = noise[:, :, min(elapsed, model.prediction_horizon) :]
    moved = torch.cat([kept, fresh], dim=2)[:, :, -model.prediction_horizon :]
    first = model.observation_horizon - 1
    with torch.no_grad():
        now, later = (model.encode(demonstrations.seen(at)) for at in (steps, steps + elapsed))
        # Sample by sample, so that every observation is encoded once: pictures of all rows would not fit in memory.
        before = [sampler.sample(model, now, noise[:, each::samples]) for each in range(samples)]
        after = [sampler.sample(model, later, moved[:, each::samples]) for each in range(samples)]
    executed = torch.stack(before)[:, :, first : first + model.execution_horizon]
    spread = executed.var(dim=0).mean(dim=(0, 1)).sqrt()
    gap = torch.cat(after) - shift(torch.cat(before), elapsed)
    gap = gap[:, first : max(first + 1, model.prediction_horizon - elapsed)]
    return spread.cpu(), gap.square().mean(dim=(0, 1)).sqrt().cpu()


def evenly_spaced(process: GaussianProcess, steps: int) -> tuple[int, ...]:
    """Return at most `steps` levels, from the last to 0, as evenly spaced in log noise/signal as there are levels."""
    position = [
        math.log(process.noise_at(level)) - math.log(max(process.signal_at(level), 1e-3))
        for level in range(process.levels)
    ]
    wanted = torch.linspace(position[-1], position[0], steps, dtype=torch.float64).tolist()
    nearest = {min(range(process.levels), key=lambda level: abs(position[level] - at)) for at in wanted}
    return tuple(sorted(nearest, reverse=True))


@torch.no_grad()
def _residual(
    acting: ChunkPolicy,
    demonstrations: Following,
    rows: int,
    usual: Tensor,
    angles: tuple[int, ...],
    seed: int,
) -> Residual:
    """Return the residuals of an unguarded arm while it follows demonstrations for `CHAIN` decisions."""
    stride = acting.execute
    still = demonstrations.changes(usual, stride, angles) <= STILL
    longest = demonstrations.longest_run(still, stride) // stride + 1
    patience = max(math.ceil(MARGIN * longest), 5)
    if acting.warm is None:
        return Residual(0.0, 0.0, 0)  # a plan that is only reused is never far from itself
    decisions = demonstrations.decisions(CHAIN, stride)
    steps = demonstrations.draw(rows, (decisions - 1) * stride, torch.Generator().manual_seed(seed))
    memory, distances = acting.start(rows, seed), []
    for decision in range(decisions):
        before = memory.plan
        _, memory = acting.act(demonstrations.seen(steps + decision * stride), memory)
        if before is not None and memory.plan is not None:
            distances.append(residual(memory.plan.chunk, shift(before.chunk, stride), stride))
    found = torch.cat(distances).cpu()
    return Residual(float(found.median()), MARGIN * float(torch.quantile(found, RESIDUAL_QUANTILE)), patience)
