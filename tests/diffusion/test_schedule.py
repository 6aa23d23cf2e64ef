"""Schedules and spacings against published values, closed forms and the diffusers library."""

import math

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
)

from diffpolicy.diffusion import (
    cosine_betas,
    edm,
    from_diffusers,
    leading,
    linear_betas,
    rectified_flow,
    trailing,
    variance_preserving,
    vp_betas,
)


def test_fisor_schedule_has_the_published_values() -> None:
    betas = vp_betas(5)
    expected = torch.tensor([0.1959, 0.4588, 0.6358, 0.7549, 0.8350]).double()
    torch.testing.assert_close(betas, expected, atol=1e-4, rtol=0)
    alpha_bar = variance_preserving(betas).signal.square()
    expected = torch.tensor([0.8041, 0.4352, 0.1585, 0.0389, 0.0064])
    torch.testing.assert_close(alpha_bar, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("steps", [1, 2, 5, 100])
def test_vp_schedule_integrates_the_same_noise_whatever_the_steps(steps: int) -> None:
    # The product of the alphas is exp(-int beta) over the unit interval: exp(-(b_min + b_max) / 2).
    log_alpha_bar = torch.log1p(-vp_betas(steps)).sum().item()
    assert log_alpha_bar == pytest.approx(-(0.1 + 10.0) / 2, rel=1e-9)


def test_squared_cosine_schedule_has_the_published_noise() -> None:
    process = variance_preserving(cosine_betas(100))
    printed = {0: 0.025, 1: 0.042, 2: 0.058, 3: 0.074, 5: 0.105, 10: 0.182, 20: 0.333, 30: 0.475, 40: 0.606}
    assert {level: round(process.noise_at(level), 3) for level in printed} == printed
    assert process.signal_at(50) ** 2 == pytest.approx(0.4783, abs=5e-5)


def test_edm_levels_are_the_published_grid() -> None:
    process = edm(3, sigma_min=0.002, sigma_max=5.0)
    torch.testing.assert_close(process.noise, torch.tensor([0.002, 0.28308, 5.0]), atol=1e-5, rtol=0)
    assert process.signal.tolist() == [1.0, 1.0, 1.0]


def test_rectified_flow_ends_in_pure_noise() -> None:
    process = rectified_flow(4)
    assert process.noise.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert process.signal.tolist() == [0.75, 0.5, 0.25, 0.0]
    assert process.prediction == "flow"


@pytest.mark.parametrize(
    ("scheduler", "betas"),
    [
        (DDPMScheduler(100, beta_schedule="squaredcos_cap_v2"), cosine_betas(100)),
        (DDIMScheduler(1000), linear_betas(1000)),
        (DPMSolverMultistepScheduler(50, beta_start=0.001, beta_end=0.1), linear_betas(50, 0.001, 0.1)),
    ],
)
def test_variance_preserving_schedulers_are_taken_over(scheduler: DDPMScheduler, betas: torch.Tensor) -> None:
    ours, theirs = variance_preserving(betas), from_diffusers(scheduler)
    torch.testing.assert_close(theirs.signal, scheduler.alphas_cumprod.sqrt(), rtol=1e-4, atol=0)
    for level in range(ours.levels):
        assert theirs.noise_at(level) == pytest.approx(ours.noise_at(level), rel=1e-5)


def test_predictions_of_schedulers_are_taken_over() -> None:
    names = {"epsilon": "epsilon", "sample": "sample", "v_prediction": "v"}
    for theirs, ours in names.items():
        assert from_diffusers(DDPMScheduler(10, prediction_type=theirs)).prediction == ours


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_matching_schedulers_are_taken_over(shift: float) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(1000, shift=shift)
    process = from_diffusers(scheduler)
    torch.testing.assert_close(process.noise, scheduler.sigmas.flip(0), rtol=1e-5, atol=0)
    torch.testing.assert_close(process.signal, 1 - process.noise, rtol=0, atol=1e-6)
    scheduler.set_timesteps(10)  # changes its tables, but not what it was made for
    assert from_diffusers(scheduler).levels == 1000
    assert process.prediction == "flow"


def test_other_schedulers_are_refused() -> None:
    with pytest.raises(ValueError, match="EDMEulerScheduler has neither"):
        from_diffusers(EDMEulerScheduler())
    with pytest.raises(ValueError, match="neither"):
        from_diffusers(FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True))
    with pytest.raises(ValueError, match="'flow_prediction'"):
        from_diffusers(DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True))


def test_spacings_are_those_of_diffusers() -> None:
    assert trailing(100, 10) == (99, 89, 79, 69, 59, 49, 39, 29, 19, 9)
    assert leading(100, 3) == (66, 33, 0)
    for spacing, ours in (("trailing", trailing), ("leading", leading)):
        scheduler = DDIMScheduler(100, timestep_spacing=spacing)
        for steps in (1, 2, 3, 5, 7, 10, 16, 33, 50, 100):
            scheduler.set_timesteps(steps)
            assert np.array_equal(ours(100, steps), scheduler.timesteps.numpy()), (spacing, steps)


@pytest.mark.parametrize("steps", [0, 101])
def test_impossible_spacings_are_refused(steps: int) -> None:
    for spacing in (trailing, leading):
        with pytest.raises(ValueError, match=f"1 to 100 steps, got steps={steps}"):
            spacing(100, steps)


@pytest.mark.parametrize(
    ("steps", "low", "high"), [(0, 0.1, 10.0), (5, 0.0, 1.0), (5, 2.0, 1.0), (5, 0.1, math.inf)]
)
def test_impossible_schedules_are_refused(steps: int, low: float, high: float) -> None:
    with pytest.raises(ValueError, match=r"step|beta"):
        vp_betas(steps, low, high)
    with pytest.raises(ValueError, match=r"step|beta"):
        linear_betas(steps, low, high)
    with pytest.raises(ValueError, match="sigma"):
        edm(steps, low, high / 100)


def test_a_cap_that_caps_everything_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1, got 1"):
        cosine_betas(10, largest=1.0)
