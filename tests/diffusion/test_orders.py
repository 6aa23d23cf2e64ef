"""Samplers on Gaussian data, where the probability-flow ODE has a closed form: accuracy, and its order."""

import math

import pytest
import torch
from torch import Tensor

from diffpolicy.diffusion import (
    GaussianProcess,
    Sampler,
    Solver,
    cosine_betas,
    edm,
    gaussian_denoiser,
    rectified_flow,
    trailing,
    variance_preserving,
)

MEAN, SPREAD = 0.3, 0.5
LEVELS = 7681


def even_log_snr(kind: str) -> GaussianProcess:
    """Levels evenly spaced in the log-SNR, from a noise of 3e-5 to a noise/signal of 30."""
    ratio = torch.linspace(math.log(3e-5), math.log(30.0), LEVELS, dtype=torch.float64).exp()
    signal = {"vp": (1 + ratio**2).rsqrt(), "ve": torch.ones_like(ratio), "flow": 1 / (1 + ratio)}[kind]
    return GaussianProcess(signal, signal * ratio, "epsilon")


def error(process: GaussianProcess, solver: Solver, levels: tuple[int, ...]) -> float:
    """Largest distance between a sampler's end and that of the ODE that starts at the same points."""
    signal, noise = process.signal_at(levels[0]), process.noise_at(levels[0])
    start = noise * torch.linspace(-2, 2, 9, dtype=torch.float64).unsqueeze(-1)
    # Deviations from the mean grow and shrink with the standard deviation of the marginal.
    exact = MEAN + SPREAD * (start - signal * MEAN) / math.hypot(signal * SPREAD, noise)
    sampler = Sampler(process, solver, levels)
    actual = sampler.sample(gaussian_denoiser(process, MEAN, SPREAD), None, start.unsqueeze(0), start)
    return (actual - exact).abs().max().item()


def slope(sizes: list[int], errors: list[float]) -> float:
    x, y = torch.tensor(sizes).double().log(), torch.tensor(errors).double().log()
    x = x - x.mean()
    return -float((x * y).sum() / (x * x).sum())


@pytest.mark.parametrize("kind", ["vp", "ve", "flow"])
@pytest.mark.parametrize(("solver", "order"), [("ddim", 1.0), ("dpm_solver", 2.0), ("heun", 2.0)])
def test_solvers_have_their_order_of_accuracy(kind: str, solver: Solver, order: float) -> None:
    process, sizes = even_log_snr(kind), [40, 80, 160, 320]
    errors = [error(process, solver, tuple(range(LEVELS - 1, -1, -(LEVELS // size)))) for size in sizes]
    assert slope(sizes, errors) == pytest.approx(order, abs=0.12), errors


def test_euler_on_a_flow_is_of_first_order_and_second_order_solvers_beat_it() -> None:
    process, sizes = rectified_flow(LEVELS - 1), [20, 40, 80, 160]
    errors = {
        solver: [error(process, solver, trailing(LEVELS - 1, size)) for size in sizes]
        for solver in ("ddim", "dpm_solver", "heun")
    }
    assert slope(sizes, errors["ddim"]) == pytest.approx(1.0, abs=0.05)
    assert slope(sizes, errors["dpm_solver"]) > 1.4
    assert slope(sizes, errors["heun"]) > 1.7
    assert max(errors["heun"][-1], errors["dpm_solver"][-1]) < 0.1 * errors["ddim"][-1]


@pytest.mark.parametrize("solver", ["ddim", "dpm_solver", "heun"])
def test_edm_levels_give_edm_its_order(solver: Solver) -> None:
    process, sizes = edm(LEVELS - 1, sigma_max=20.0), [20, 40, 80, 160]
    errors = [error(process, solver, trailing(LEVELS - 1, size)) for size in sizes]
    assert slope(sizes, errors) == pytest.approx(1.0 if solver == "ddim" else 2.0, abs=0.12), errors


@pytest.mark.parametrize("solver", ["ddpm", "ddim", "dpm_solver", "heun"])
@pytest.mark.parametrize("name", ["cosine", "edm", "flow"])
def test_every_solver_recovers_mean_and_deviation(solver: Solver, name: str) -> None:
    process = {
        "cosine": variance_preserving(cosine_betas(1000), "v"),
        "edm": edm(1000, prediction="sample"),
        "flow": rectified_flow(1000),
    }[name]
    steps = 500 if solver == "ddpm" else 200
    sampler = Sampler(process, solver, trailing(1000, steps))
    noise = sampler.draw((20_000, 1), torch.Generator().manual_seed(0))
    samples = sampler.sample(gaussian_denoiser(process, MEAN, SPREAD), None, noise)
    assert samples.mean().item() == pytest.approx(MEAN, abs=0.012)
    assert samples.std().item() == pytest.approx(SPREAD, abs=0.012)


def test_a_truncated_start_is_noise_of_its_level() -> None:
    """Without a start the iterate is the prior of the first level: what it lacks is the signal."""
    process = variance_preserving(cosine_betas(100), "sample")
    seen: list[Tensor] = []

    def spy(noisy: Tensor, level: Tensor, condition: object, /) -> Tensor:
        seen.append(noisy)
        assert level.tolist() == [40] * 3
        return torch.zeros_like(noisy)

    sampler = Sampler(process, "ddim", (40,))
    noise = sampler.draw((3, 2), torch.Generator().manual_seed(0))
    sampler.sample(spy, None, noise)
    torch.testing.assert_close(seen[0], 0.606 * noise[0], atol=2e-3, rtol=1e-3)
