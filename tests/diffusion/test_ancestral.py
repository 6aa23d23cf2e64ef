"""FISOR's sampler, which must go on to act as it always did."""

import pytest
import torch
from torch import Tensor

from diffpolicy.diffusion import AncestralSampler, gaussian_denoiser, variance_preserving, vp_betas


@pytest.mark.parametrize("steps", [1, 2, 5, 100])
def test_steps_are_the_textbook_ones_to_the_last_bit(steps: int) -> None:
    betas = vp_betas(steps)
    alpha_bar = torch.cumprod(1.0 - betas, dim=0)
    beta, deviation = betas.float(), (1.0 - alpha_bar).sqrt().float()
    sampler = AncestralSampler(variance_preserving(betas))
    noisy, prediction, noise = torch.randn(3, 64, 2, generator=torch.Generator().manual_seed(0))
    for level in range(steps):
        mean = (noisy - beta[level] / deviation[level] * prediction) / (1.0 - beta[level]).sqrt()
        expected = (mean + beta[level].sqrt() * noise).clamp(-1.0, 1.0)
        assert torch.equal(sampler.step(noisy, prediction, level, noise), expected)


def test_sampler_ends_exactly_on_a_point_mass() -> None:
    process = variance_preserving(vp_betas(5))
    sampler = AncestralSampler(process, clip=10.0)
    noise = sampler.draw((2, 64, 1), torch.Generator().manual_seed(1))
    samples = sampler.sample(gaussian_denoiser(process, -0.4, 0.0), torch.zeros(2, 64, 3), noise)
    torch.testing.assert_close(samples, torch.full((2, 64, 1), -0.4), atol=2e-5, rtol=0)


def test_sampler_reproduces_a_gaussian_with_many_steps() -> None:
    process = variance_preserving(vp_betas(300))
    sampler = AncestralSampler(process, clip=10.0)
    noise = sampler.draw((1, 20_000, 1), torch.Generator().manual_seed(2))
    samples = sampler.sample(gaussian_denoiser(process, 0.2, 0.3), torch.zeros(1, 20_000, 1), noise)
    assert samples.mean().item() == pytest.approx(0.2, abs=0.01)
    assert samples.std().item() == pytest.approx(0.3, abs=0.02)


def test_sampler_clips_and_depends_on_its_generator_alone() -> None:
    process = variance_preserving(vp_betas(5))
    sampler = AncestralSampler(process)

    def run(seed: int) -> Tensor:
        torch.manual_seed(seed + 100)  # the global generator must not matter
        noise = sampler.draw((1, 32, 2), torch.Generator().manual_seed(seed))
        return sampler.sample(gaussian_denoiser(process, 3.0, 1.0), torch.zeros(1, 32, 1), noise)

    assert run(0).abs().max() <= 1.0
    torch.testing.assert_close(run(3), run(3), rtol=0, atol=0)
    assert not torch.equal(run(3), run(4))
