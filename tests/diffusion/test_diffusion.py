"""Schedules, processes and samplers against closed forms."""

import math

import pytest
import torch

from diffpolicy.diffusion import AncestralSampler, GaussianProcess, vp_betas


def test_fisor_schedule_has_the_published_values() -> None:
    betas = vp_betas(5)
    torch.testing.assert_close(
        betas, torch.tensor([0.1959, 0.4588, 0.6358, 0.7549, 0.8350]).double(), atol=1e-4, rtol=0
    )
    alpha_bar = GaussianProcess(betas).alpha_bar
    torch.testing.assert_close(
        alpha_bar, torch.tensor([0.8041, 0.4352, 0.1585, 0.0389, 0.0064]), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("steps", [1, 2, 5, 100])
def test_vp_schedule_integrates_the_same_noise_whatever_the_steps(steps: int) -> None:
    # The product of the alphas is exp(-int beta) over the unit interval: exp(-(b_min + b_max) / 2).
    log_alpha_bar = torch.log1p(-vp_betas(steps)).sum().item()
    assert log_alpha_bar == pytest.approx(-(0.1 + 10.0) / 2, rel=1e-9)


@pytest.mark.parametrize(
    ("steps", "low", "high"), [(0, 0.1, 10.0), (5, 0.0, 1.0), (5, 2.0, 1.0), (5, 0.1, math.inf)]
)
def test_impossible_schedules_are_refused(steps: int, low: float, high: float) -> None:
    with pytest.raises(ValueError, match=r"step|beta"):
        vp_betas(steps, low, high)


def test_corruption_has_the_gaussian_marginal_and_inverts() -> None:
    process = GaussianProcess(vp_betas(5))
    generator = torch.Generator().manual_seed(0)
    clean = torch.full((1, 200_000, 1), 0.7)
    noise = torch.empty_like(clean).normal_(generator=generator)
    for index in range(5):
        step = torch.full((1, 200_000), index)
        noisy = process.corrupt(clean, step, noise)
        assert noisy.mean().item() == pytest.approx(0.7 * process.alpha_bar[index].sqrt().item(), abs=0.01)
        assert noisy.std().item() == pytest.approx((1 - process.alpha_bar[index]).sqrt().item(), abs=0.01)
        restored = process.to_clean(process.target(clean, noise, step), noisy, step)
        torch.testing.assert_close(restored, clean, atol=1e-4, rtol=0)


def _gaussian_denoiser(process: GaussianProcess, mean: float, std: float):  # type: ignore[no-untyped-def]
    """The optimal noise prediction when clean samples are N(mean, std^2)."""

    def denoise(noisy: torch.Tensor, step: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        alpha_bar = process.alpha_bar[step].unsqueeze(-1)
        variance = alpha_bar * std**2 + 1 - alpha_bar
        return (1 - alpha_bar).sqrt() * (noisy - alpha_bar.sqrt() * mean) / variance

    return denoise


def test_sampler_ends_exactly_on_a_point_mass() -> None:
    process = GaussianProcess(vp_betas(5))
    sampler = AncestralSampler(process, clip=10.0)
    noise = sampler.draw((2, 64, 1), torch.Generator().manual_seed(1))
    samples = sampler.sample(_gaussian_denoiser(process, -0.4, 0.0), torch.zeros(2, 64, 3), noise)
    torch.testing.assert_close(samples, torch.full((2, 64, 1), -0.4), atol=2e-5, rtol=0)


def test_sampler_reproduces_a_gaussian_with_many_steps() -> None:
    process = GaussianProcess(vp_betas(300))
    denoiser = _gaussian_denoiser(process, 0.2, 0.3)
    sampler = AncestralSampler(process, clip=10.0)
    noise = sampler.draw((1, 20_000, 1), torch.Generator().manual_seed(2))
    samples = sampler.sample(denoiser, torch.zeros(1, 20_000, 1), noise)
    assert samples.mean().item() == pytest.approx(0.2, abs=0.01)
    assert samples.std().item() == pytest.approx(0.3, abs=0.02)


def test_sampler_clips_and_depends_on_its_generator_alone() -> None:
    process = GaussianProcess(vp_betas(5))
    sampler = AncestralSampler(process)

    def run(seed: int) -> torch.Tensor:
        torch.manual_seed(seed + 100)  # the global generator must not matter
        noise = sampler.draw((1, 32, 2), torch.Generator().manual_seed(seed))
        return sampler.sample(_gaussian_denoiser(process, 3.0, 1.0), torch.zeros(1, 32, 1), noise)

    assert run(0).abs().max() <= 1.0
    torch.testing.assert_close(run(3), run(3), rtol=0, atol=0)
    assert not torch.equal(run(3), run(4))
