"""The exact contraction of warm starts through single-index steps."""

import math

import pytest
import torch
from torch import Tensor

from diffpolicy.diffusion import (
    GaussianProcess,
    Sampler,
    contraction,
    cosine_betas,
    edm,
    gaussian_denoiser,
    rectified_flow,
    variance_preserving,
)

COSINE = variance_preserving(cosine_betas(100))
START = (2, 3, 5, 10, 20, 40)
TABLE = {  # what remains of an error after the levels K'..0, by the spread of the data
    0.05: (0.427, 0.315, 0.184, 0.069, 0.021, 0.005),
    0.1: (0.750, 0.649, 0.475, 0.229, 0.079, 0.021),
    0.2: (0.924, 0.882, 0.786, 0.547, 0.258, 0.081),
    0.5: (0.988, 0.981, 0.963, 0.894, 0.708, 0.378),
    0.0: (0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
}


def sampled_slope(process: GaussianProcess, levels: tuple[int, ...], spread: float) -> float:
    """Ratio of the differences of two roll-outs of the sampler with the same noise, after and before."""
    sampler = Sampler(process, "ddpm", levels, single_index=True)
    noise = torch.randn(sampler.draws, 2, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noise[:, 1] = noise[:, 0]
    start = torch.tensor([[0.4], [-0.6]], dtype=torch.float64)
    end = sampler.sample(gaussian_denoiser(process, 0.1, spread), None, noise, start)
    return float(end[0] - end[1])


@pytest.mark.parametrize("spread", TABLE)
def test_contraction_has_the_printed_table(spread: float) -> None:
    products = [contraction(COSINE, range(last, -1, -1), spread).prod().item() for last in START]
    assert tuple(round(product, 3) for product in products) == TABLE[spread]


@pytest.mark.parametrize("spread", TABLE)
@pytest.mark.parametrize("levels", [(2, 1, 0), (3, 1, 0), (5, 3, 1, 0), tuple(range(40, -1, -1))])
def test_the_sampler_contracts_exactly_so(levels: tuple[int, ...], spread: float) -> None:
    expected = contraction(COSINE, levels, spread).prod().item()
    assert sampled_slope(COSINE, levels, spread) == pytest.approx(expected, abs=1e-9)


def test_slopes_are_the_closed_form() -> None:
    betas = cosine_betas(100)
    alpha_bar = torch.cumprod(1 - betas, dim=0)
    levels = range(99, -1, -1)
    for spread in (0.05, 0.3, 1.0):
        slope = (1 - betas / (alpha_bar * spread**2 + 1 - alpha_bar)) / (1 - betas).sqrt()
        torch.testing.assert_close(contraction(COSINE, levels, spread), slope.flip(0), atol=1e-12, rtol=1e-6)
        assert (contraction(COSINE, levels, spread)[:-1] <= 1.0).all()


@pytest.mark.parametrize("process", [edm(50, prediction="sample"), rectified_flow(50, "sample")])
def test_other_processes_contract_as_predicted(process: GaussianProcess) -> None:
    levels = (20, 15, 3, 1, 0)
    expected = contraction(process, levels, 0.2).prod().item()
    assert 0.0 < expected < 1.0
    assert sampled_slope(process, levels, 0.2) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v", "flow"])
def test_the_analytic_denoiser_is_the_posterior_mean(prediction: str) -> None:
    """Regressing clean samples on noisy ones finds the same line."""
    process = COSINE.predicting(prediction)  # type: ignore[arg-type]
    clean, noise = torch.randn(2, 400_000, 1, generator=torch.Generator().manual_seed(0))
    clean = -0.2 + 0.3 * clean
    level = torch.full((400_000,), 25)
    noisy = process.corrupt(clean, level, noise)
    posterior = process.to_clean(gaussian_denoiser(process, -0.2, 0.3)(noisy, level, None), noisy, level)
    residual: Tensor = clean - posterior
    assert residual.mean().item() == pytest.approx(0.0, abs=1e-3)
    assert (residual * noisy).mean().item() == pytest.approx(0.0, abs=1e-3)
    signal, deviation = process.signal_at(25), process.noise_at(25)
    least = 0.3 * deviation / math.hypot(0.3 * signal, deviation)
    assert residual.std().item() == pytest.approx(least, rel=0.01)
