"""Guidance: what is known comes out, and the pull has the published factor."""

from typing import Any

import pytest
import torch
from torch import Tensor

from diffpolicy.diffusion import (
    SOLVERS,
    GaussianProcess,
    Sampler,
    Solver,
    cosine_betas,
    edm,
    gaussian_denoiser,
    guide,
    inpaint,
    rectified_flow,
    trailing,
    variance_preserving,
)

COSINE = variance_preserving(cosine_betas(100), "sample")
FLOW = rectified_flow(100, "sample")
EDM = edm(100, prediction="sample")


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("process", [COSINE, FLOW, EDM])
def test_inpainting_leaves_exactly_the_known_part(process: GaussianProcess, solver: Solver) -> None:
    sampler = Sampler(process, solver, trailing(100, 5))
    generator = torch.Generator().manual_seed(0)
    known = torch.rand(3, 8, 2, generator=generator)
    mask = (torch.arange(8) < 3)[:, None]
    plain = gaussian_denoiser(process, 0.3, 0.2)
    noise = sampler.draw((3, 8, 2), generator)
    sample = sampler.sample(inpaint(plain, known, mask), None, noise)
    assert torch.equal(sample[:, :3], known[:, :3])
    torch.testing.assert_close(sample[:, 3:], sampler.sample(plain, None, noise)[:, 3:])


def linear(matrix: Tensor) -> Any:
    """A denoiser of chunks (B, H, 1) whose Jacobian is `matrix` (H, H)."""
    return lambda noisy, level, condition: torch.einsum("ij,bja->bia", matrix, noisy) + 0.1


@pytest.mark.parametrize("level", [1, 30, 70, 98])
@pytest.mark.parametrize("limit", [0.5, 5.0])
def test_guidance_on_a_flow_is_the_published_formula(level: int, limit: float) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(4, 4, generator=generator)
    noisy, known = torch.randn(2, 3, 4, 1, generator=generator)
    weights = torch.tensor([1.0, 0.7, 0.2, 0.0])
    guided = guide(linear(matrix), FLOW, known, weights, limit)
    t = FLOW.signal_at(level)
    clean = linear(matrix)(noisy, None, None)
    velocity = (clean - noisy) / (1 - t)
    factor = min(limit, (1 - t) / t * (t**2 + (1 - t) ** 2) / (1 - t) ** 2)
    pull = torch.einsum("ji,bja->bia", matrix, (known - clean) * weights[:, None])
    expected = noisy + (1 - t) * (velocity + factor * pull)
    torch.testing.assert_close(guided(noisy, torch.full((3,), level), None), expected, atol=2e-5, rtol=1e-5)


def test_guidance_does_not_depend_on_the_coordinates() -> None:
    """A process that is the flow scaled level by level gives the same clean predictions."""
    scale = torch.linspace(1.0, 3.0, 100, dtype=torch.float64)
    signal, noise = (
        torch.tensor([at(k) for k in range(100)]).double() for at in (FLOW.signal_at, FLOW.noise_at)
    )
    scaled = GaussianProcess(scale * signal, scale * noise, "sample")
    generator = torch.Generator().manual_seed(0)
    noisy, known = torch.randn(2, 3, 4, 1, generator=generator)
    for level in (0, 40, 99):
        levels = torch.full((3,), level)
        results = []
        for process, factor in ((FLOW, 1.0), (scaled, scale[level].item())):
            denoiser = gaussian_denoiser(process, 0.2, 0.5)
            results.append(guide(denoiser, process, known, torch.ones(4))(factor * noisy, levels, None))
        torch.testing.assert_close(*results, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("process", [COSINE, FLOW, EDM])
def test_guidance_pulls_towards_the_known_where_weights_say(process: GaussianProcess) -> None:
    sampler = Sampler(process, "ddim", trailing(100, 10))
    plain = gaussian_denoiser(process, 0.0, 0.3)
    known, weights = torch.full((1, 6, 2), 0.5), torch.tensor([1.0, 1.0, 0.5, 0.0, 0.0, 0.0])
    noise = sampler.draw((200, 6, 2), torch.Generator().manual_seed(0))
    with torch.no_grad():  # acting does not record gradients, guidance takes its own
        free = sampler.sample(plain, None, noise)
        guided = sampler.sample(guide(plain, process, known, weights), None, noise)
    error = [(x - known).square().mean(dim=(0, 2)).sqrt() for x in (free, guided)]
    assert (error[1][:2] < 0.5 * error[0][:2]).all()
    assert error[1][1] < error[1][2] < error[0][2]
    torch.testing.assert_close(guided[:, 3:], free[:, 3:])


def test_guidance_needs_clean_predictions_and_a_limit() -> None:
    plain = gaussian_denoiser(COSINE, 0.0, 0.3)
    with pytest.raises(ValueError, match="predicts 'v'"):
        guide(plain, COSINE.predicting("v"), torch.zeros(1, 4, 2), torch.ones(4))
    with pytest.raises(ValueError, match="positive"):
        guide(plain, COSINE, torch.zeros(1, 4, 2), torch.ones(4), limit=0.0)
