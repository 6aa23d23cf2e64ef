"""Recorded paths: likelihood ratios of exactly 1, the sampler's own iterates, masks, refusals."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffpolicy.diffusion import (
    GaussianProcess,
    Path,
    Sampler,
    StepRule,
    cosine_betas,
    edm,
    rectified_flow,
    sample_path,
    step_log_probs,
    stochastic_steps,
    trailing,
    variance_preserving,
)

COSINE = variance_preserving(cosine_betas(100), "sample")
LEVELS = trailing(100, 5)
PROCESSES = {"vp": COSINE, "ve": edm(100, prediction="sample"), "flow": rectified_flow(100)}
EXECUTED = torch.tensor([True, True, False, False]).reshape(1, 4, 1)


class Small(nn.Module):
    """A denoiser of chunks (B, 4, 2) with weights to differentiate, which remembers what it was asked."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.inner = nn.Parameter(0.3 * torch.randn(8, 32, generator=generator))
        self.outer = nn.Parameter(0.3 * torch.randn(32, 8, generator=generator))
        self.asked: list[Tensor] = []

    def forward(self, noisy: Tensor, level: Tensor, condition: Any) -> Tensor:
        self.asked.append(noisy)
        hidden = torch.tanh(noisy.flatten(1) @ self.inner + 0.01 * level.unsqueeze(1) + condition)
        return (hidden @ self.outer).reshape(noisy.shape)


def noise_for(steps: int, batch: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(steps + 1, batch, 4, 2, generator=torch.Generator().manual_seed(seed))


def record(rule: StepRule, denoiser: Small, process: GaussianProcess = COSINE, **options: Any) -> Path:
    return sample_path(process, rule, LEVELS, denoiser, 0.1, noise_for(5), **options)


@pytest.mark.parametrize("storage", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("kind", ["ddim", "ancestral", "dance_sde", "cps"])
def test_the_ratio_is_exactly_1_for_the_denoiser_that_recorded(
    kind: Any, process: str, storage: torch.dtype
) -> None:
    rule, denoiser = StepRule(kind), Small()
    path = record(rule, denoiser, PROCESSES[process], mask=EXECUTED, storage=storage)
    assert path.log_probs is not None
    assert path.states.dtype == storage
    assert path.clean.isfinite().all()
    kept = path._replace(states=path.states.bfloat16()) if storage == torch.bfloat16 else path
    for index in stochastic_steps(PROCESSES[process], rule, LEVELS):
        arguments = (PROCESSES[process], rule, denoiser, 0.1, kept, index, EXECUTED)
        log_prob, _ = step_log_probs(*arguments)
        assert log_prob.requires_grad
        assert torch.equal((log_prob - path.log_probs[index]).exp(), torch.ones(6))


def test_rounding_only_after_recording_would_break_the_ratio() -> None:
    """Why a path is rounded while it is recorded."""
    rule, denoiser = StepRule("ddim"), Small()
    path = record(rule, denoiser)
    assert path.log_probs is not None
    late = path._replace(states=path.states.bfloat16())
    log_prob, _ = step_log_probs(COSINE, rule, denoiser, 0.1, late, 0)
    assert ((log_prob - path.log_probs[0]).exp() - 1).abs().max() > 1e-4


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("process", PROCESSES)
def test_ddim_takes_the_steps_of_the_sampler(process: str, eta: float) -> None:
    ours, theirs = Small(), Small()
    noise = noise_for(5)
    sampler = Sampler(PROCESSES[process], "ddim", LEVELS, eta=eta)
    with torch.no_grad():
        end = sampler.sample(theirs, 0.1, noise[: sampler.draws])
    path = sample_path(PROCESSES[process], StepRule("ddim", eta), LEVELS, ours, 0.1, noise)
    torch.testing.assert_close(path.states, torch.stack([*theirs.asked, end]), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(path.states[:-1], torch.stack(ours.asked), atol=0, rtol=0)


def test_steps_without_noise_have_no_density() -> None:
    assert record(StepRule("ddim", 0.0), Small()).log_probs is None
    path = record(StepRule("ddim", 1.0), Small())
    assert path.log_probs is not None
    assert (path.log_probs != 0).all(dim=1).tolist() == [True, True, True, True, False]
    with pytest.raises(ValueError, match="deterministic step"):
        step_log_probs(COSINE, StepRule("ddim", 1.0), Small(), 0.1, path, 4)


def test_another_denoiser_has_another_ratio_and_a_divergence() -> None:
    rule, old, new = StepRule("ddim"), Small(0), Small(1)
    path = record(rule, old)
    assert path.log_probs is not None
    log_prob, step = step_log_probs(COSINE, rule, new, 0.1, path, 2)
    _, reference = step_log_probs(COSINE, rule, old, 0.1, path, 2)
    assert ((log_prob - path.log_probs[2]).abs() > 1e-3).all()
    expected = ((step.mean - reference.mean) ** 2).mean(dim=(1, 2)) / (2 * step.std**2)
    torch.testing.assert_close(step.kl(reference), expected)


def test_gradients_reach_the_denoiser_and_not_the_record() -> None:
    rule, denoiser = StepRule("dance_sde"), Small()
    path = record(rule, denoiser)
    assert not path.states.requires_grad
    log_prob, _ = step_log_probs(COSINE, rule, denoiser, 0.1, path, 1)
    log_prob.sum().backward()
    assert denoiser.inner.grad is not None
    probe = torch.zeros_like(denoiser.inner)
    probe[3, 5] = 1e-2
    sides = []
    for sign in (1, -1):
        with torch.no_grad():
            denoiser.inner += sign * probe
            sides.append(step_log_probs(COSINE, rule, denoiser, 0.1, path, 1)[0].double().sum())
            denoiser.inner -= sign * probe
    assert ((sides[0] - sides[1]) / 2e-2).item() == pytest.approx(denoiser.inner.grad[3, 5].item(), rel=1e-2)


def test_actions_that_are_not_executed_change_nothing() -> None:
    rule, denoiser = StepRule("ddim"), Small()
    path = record(rule, denoiser, mask=EXECUTED)
    changed = path._replace(states=path.states.clone())
    changed.states[2, :, 2:] += 5.0
    before, _ = step_log_probs(COSINE, rule, denoiser, 0.1, path, 1, EXECUTED)
    after, _ = step_log_probs(COSINE, rule, denoiser, 0.1, changed, 1, EXECUTED)
    everything, _ = step_log_probs(COSINE, rule, denoiser, 0.1, changed, 1)
    assert torch.equal(before, after)
    assert not torch.equal(before, everything)


def test_a_generator_repeats_itself_and_a_start_is_the_callers() -> None:
    start = torch.randn(1, 4, 2, generator=torch.Generator().manual_seed(1)).expand(6, 4, 2)
    rule, denoiser = StepRule("cps"), Small()
    first, again = (
        sample_path(COSINE, rule, LEVELS, denoiser, 0.1, torch.Generator().manual_seed(7), start)
        for _ in range(2)
    )
    assert torch.equal(first.states, again.states)
    assert torch.equal(first.states[0], start)
    assert not torch.equal(first.clean[0], first.clean[1])
    noise = torch.stack([start, *_draws(7, 5)])
    assert torch.equal(sample_path(COSINE, rule, LEVELS, denoiser, 0.1, noise, start).states, first.states)


def _draws(seed: int, steps: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(6, 4, 2, generator=generator) for _ in range(steps)]


def test_refuses_what_does_not_fit() -> None:
    rule, denoiser = StepRule("ddim"), Small()
    with pytest.raises(ValueError, match="pass a start"):
        sample_path(COSINE, rule, LEVELS, denoiser, 0.1, torch.Generator())
    with pytest.raises(ValueError, match=r"takes noise of shape \(6, 6, 4, 2\)"):
        sample_path(COSINE, rule, LEVELS, denoiser, 0.1, noise_for(4))
    with pytest.raises(ValueError, match="at least one level"):
        sample_path(COSINE, rule, (), denoiser, 0.1, noise_for(4))
    with pytest.raises(ValueError, match="to a cleaner one"):
        sample_path(COSINE, rule, (9, 19), denoiser, 0.1, noise_for(2))
    path = record(rule, denoiser)
    for index in (-1, 5):
        with pytest.raises(ValueError, match="there is no step"):
            step_log_probs(COSINE, rule, denoiser, 0.1, path, index)
