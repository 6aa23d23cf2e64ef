"""Samplers: identities between them, clipping, noise, tracing, refusals."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffpolicy.diffusion import (
    Denoiser,
    Sampler,
    Solver,
    cosine_betas,
    edm,
    gaussian_denoiser,
    rectified_flow,
    trailing,
    variance_preserving,
)

COSINE = variance_preserving(cosine_betas(100), "sample")


def bent(noisy: Tensor, level: Tensor, condition: Any, /) -> Tensor:
    """A denoiser with no structure that a solver could happen to be exact on."""
    return torch.tanh(1.3 * noisy + 0.2) - 0.004 * level.reshape(-1, *(1,) * (noisy.ndim - 1))


def noise_for(sampler: Sampler, batch: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(
        sampler.draws, batch, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


@pytest.mark.parametrize("steps", [1, 2])
def test_dpm_solver_of_first_order_is_ddim(steps: int) -> None:
    """Its first and last steps are of first order, so two steps are the same as DDIM's."""
    ddim = Sampler(COSINE, "ddim", trailing(100, steps))
    noise = noise_for(ddim)
    actual = replace(ddim, solver="dpm_solver").sample(bent, None, noise)
    torch.testing.assert_close(actual, ddim.sample(bent, None, noise), atol=1e-12, rtol=0)


def test_dpm_solver_matches_the_formula_in_log_snr() -> None:
    levels = (80, 50, 20)
    x = noise_for(Sampler(COSINE, "ddim", levels))[0]
    actual = Sampler(COSINE, "dpm_solver", levels).sample(bent, None, x[None], start=x)
    signal, noise = (
        torch.tensor([at(k) for k in levels]).double() for at in (COSINE.signal_at, COSINE.noise_at)
    )
    log_snr = (signal / noise).log()
    first = bent(x, torch.full((6,), 80), None)
    h = log_snr[1] - log_snr[0]
    x = noise[1] / noise[0] * x - signal[1] * torch.expm1(-h) * first
    second = bent(x, torch.full((6,), 50), None)
    h_next = log_snr[2] - log_snr[1]
    half = h_next / h / 2
    x = noise[2] / noise[1] * x - signal[2] * torch.expm1(-h_next) * ((1 + half) * second - half * first)
    torch.testing.assert_close(actual, bent(x, torch.full((6,), 20), None), atol=1e-6, rtol=0)


def test_ddim_with_eta_1_is_the_ancestral_sampler() -> None:
    ddpm = Sampler(COSINE, "ddpm", trailing(100, 10), clip=0.8)
    ddim = replace(ddpm, solver="ddim", eta=1.0)
    noise = noise_for(ddpm)
    assert ddim.draws == ddpm.draws == 10
    assert torch.equal(ddim.sample(bent, None, noise), ddpm.sample(bent, None, noise))


def test_ddim_on_a_flow_is_euler_on_the_velocity() -> None:
    process = rectified_flow(50)
    sampler = Sampler(process, "ddim", trailing(50, 5))
    x = noise_for(sampler)[0]
    actual = sampler.sample(bent, None, x[None])
    for level in sampler.levels:
        x = x - 0.2 * bent(x, torch.full((6,), level), None)
    torch.testing.assert_close(actual, x, atol=1e-12, rtol=0)


@pytest.mark.parametrize("solver", ["ddim", "heun"])
def test_steps_on_edm_are_karras_algorithm_1(solver: Solver) -> None:
    process = edm(8, sigma_max=5.0, prediction="sample")
    sampler = Sampler(process, solver, trailing(8, 8))
    noise = noise_for(sampler)
    actual = sampler.sample(bent, None, noise)
    x = process.noise_at(7) * noise[0]
    for level in range(7, -1, -1):
        sigma, to = process.noise_at(level), process.noise_at(level - 1)
        slope = (x - bent(x, torch.full((6,), level), None)) / sigma
        moved = x + (to - sigma) * slope
        if solver == "heun" and level > 0:
            there = (moved - bent(moved, torch.full((6,), level - 1), None)) / to
            moved = x + (to - sigma) * (slope + there) / 2
        x = moved
    torch.testing.assert_close(actual, x, atol=1e-11, rtol=0)


def test_single_index_steps_go_down_by_one_whatever_comes_next() -> None:
    """The list (5, 3, 0) is the sampler's own steps 5 -> 4, 3 -> 2 and 0 -> clean, one after the other."""
    sampler = Sampler(COSINE, "ddpm", (5, 3, 0), single_index=True)
    assert sampler.transitions == ((5, 4), (3, 2), (0, -1))
    assert (sampler.evaluations, sampler.draws) == (3, 3)
    noise = noise_for(sampler)
    start = 0.3 * noise[0]
    x = start
    betas = cosine_betas(100)
    alpha_bar = torch.cumprod(1 - betas, dim=0)
    for taken, k in enumerate((5, 3, 0)):
        clean = bent(x, torch.full((6,), k), None)
        before = alpha_bar[k - 1] if k else torch.tensor(1.0).double()
        mean = before.sqrt() * betas[k] * clean + (1 - betas[k]).sqrt() * (1 - before) * x
        x = mean / (1 - alpha_bar[k])
        if k:
            x = x + ((1 - before) / (1 - alpha_bar[k]) * betas[k]).sqrt() * noise[1 + taken]
    torch.testing.assert_close(sampler.sample(bent, None, noise, start), x, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("solver", "eta", "evaluations", "draws"),
    [
        ("ddpm", 0.0, 5, 5),
        ("ddim", 0.0, 5, 1),
        ("ddim", 0.5, 5, 5),
        ("dpm_solver", 0.0, 5, 1),
        ("heun", 0.0, 8, 1),
    ],
)
def test_evaluations_and_draws_are_what_happens(
    solver: Solver, eta: float, evaluations: int, draws: int
) -> None:
    """Heun's first step begins at a noise/signal of thousands, where it is not corrected, its last one is clean."""
    sampler = Sampler(COSINE, solver, trailing(100, 5), eta)
    assert (sampler.evaluations, sampler.draws) == (evaluations, draws)
    calls: list[int] = []

    def counting(noisy: Tensor, level: Tensor, condition: Any, /) -> Tensor:
        calls.append(int(level[0]))
        assert level.shape == (3,)
        assert condition == "untouched"
        return bent(noisy, level, condition)

    noise = sampler.draw((3, 4, 2), torch.Generator().manual_seed(0))
    assert noise.shape == (draws, 3, 4, 2)
    samples = [sampler.sample(counting, "untouched", scaled) for scaled in (noise, noise.clone())]
    assert torch.equal(*samples)
    assert len(calls) == 2 * evaluations
    for index in range(draws):  # and every draw matters
        other = noise.clone()
        other[index] += 0.5
        assert not torch.equal(sampler.sample(counting, "untouched", other), samples[0])


@pytest.mark.parametrize("solver", ["ddpm", "ddim", "dpm_solver", "heun"])
def test_clipping_bounds_the_sample(solver: Solver) -> None:
    denoiser = gaussian_denoiser(COSINE, 3.0, 1.0)
    clipped = Sampler(COSINE, solver, trailing(100, 10), clip=1.0)
    noise = noise_for(clipped)
    assert clipped.sample(denoiser, None, noise).abs().max() <= 1.0 + 1e-12
    assert replace(clipped, clip=None).sample(denoiser, None, noise).mean() > 2.0


@pytest.mark.parametrize("solver", ["ddpm", "ddim", "dpm_solver", "heun"])
def test_a_half_precision_denoiser_leaves_the_iterate_in_float32(solver: Solver) -> None:
    sampler = Sampler(COSINE.predicting("epsilon"), solver, trailing(100, 20)[1:])
    exact = gaussian_denoiser(sampler.process, 0.3, 0.2)
    noise = sampler.draw((200, 4, 2), torch.Generator().manual_seed(0))

    def half(noisy: Tensor, level: Tensor, condition: Any, /) -> Tensor:
        assert noisy.dtype == torch.float32
        return exact(noisy, level, condition).bfloat16()

    def widened(noisy: Tensor, level: Tensor, condition: Any, /) -> Tensor:
        return half(noisy, level, condition).float()

    rounded, wanted = sampler.sample(half, None, noise), sampler.sample(exact, None, noise)
    assert rounded.dtype == torch.float32
    assert torch.equal(rounded, sampler.sample(widened, None, noise))
    assert (rounded - wanted).square().mean().sqrt().item() < 0.02
    double = sampler.sample(exact, None, noise.double())
    torch.testing.assert_close(wanted.double(), double, atol=2e-5, rtol=0)


@pytest.mark.parametrize("solver", ["ddpm", "ddim", "dpm_solver", "heun"])
def test_sampling_is_differentiable_and_one_graph(solver: Solver) -> None:
    sampler = Sampler(COSINE, solver, trailing(100, 4), clip=1.0)
    network = nn.Linear(2, 2)

    def denoise(noisy: Tensor, level: Tensor, condition: Any, /) -> Tensor:
        return torch.tanh(network(noisy)) * condition

    class Loop(nn.Module):
        def forward(self, condition: Tensor, noise: Tensor) -> Tensor:
            return sampler.sample(denoise, condition, noise)

    condition, noise = torch.rand(6, 1, 1), noise_for(sampler).float()
    wanted = Loop()(condition, noise)
    wanted.square().sum().backward()
    assert network.weight.grad is not None
    assert network.weight.grad.abs().sum() > 0
    compiled = torch.compile(Loop(), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(condition, noise), wanted)


def test_sampling_can_be_exported_with_any_batch() -> None:
    sampler = Sampler(COSINE, "dpm_solver", trailing(100, 3), clip=1.0)

    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = nn.Linear(2, 2)

        def forward(self, noise: Tensor) -> Tensor:
            def denoise(noisy: Tensor, level: Tensor, condition: Any, /) -> Tensor:
                output: Tensor = self.network(noisy) + 0.01 * level[:, None, None]
                return output

            return sampler.sample(denoise, None, noise)

    loop, batch = Loop(), torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(loop, (noise_for(sampler).float(),), dynamic_shapes=({1: batch},))
    other = noise_for(sampler, batch=9, seed=1).float()
    torch.testing.assert_close(program.module()(other), loop(other))


def test_a_denoiser_is_any_callable_of_three() -> None:
    denoiser: Denoiser = bent
    assert denoiser(torch.zeros(1, 2), torch.zeros(1), None).shape == (1, 2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"solver": "euler"}, "ddpm, ddim, dpm_solver, heun, not 'euler'"),
        ({"levels": ()}, "levels between 0 and 99"),
        ({"levels": (100, 3)}, "levels between 0 and 99"),
        ({"levels": (3, -1)}, "levels between 0 and 99"),
        ({"levels": (3, 5)}, "descend"),
        ({"levels": (3, 3)}, "descend"),
        ({"solver": "heun", "eta": 0.5}, "'heun' has none"),
        ({"eta": 1.5}, "between 0 .* and 1"),
        ({"solver": "dpm_solver", "single_index": True}, "not for 'dpm_solver'"),
        ({"levels": (5, 3), "single_index": True}, "only from level 0"),
        ({"clip": 0.0}, "positive"),
    ],
)
def test_impossible_samplers_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Sampler(COSINE, **({"solver": "ddim", "levels": (9, 3)} | options))
