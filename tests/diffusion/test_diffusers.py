"""The diffusers library as an oracle for the samplers, where its conventions are ours."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.schedulers import scheduling_ddpm
from torch import Tensor

from diffpolicy.diffusion import Sampler, from_diffusers, leading, trailing

COSINE: dict[str, Any] = {"num_train_timesteps": 100, "beta_schedule": "squaredcos_cap_v2"}
# DDPM's posterior takes 1 - abar from float32 tables, good to four digits near level 0.
TOLERANCE = {"atol": 2e-4, "rtol": 0.0}


def predict(noisy: Tensor, level: Tensor, condition: object, /) -> Tensor:
    return 0.9 * torch.tanh(noisy) + 0.001 * level.reshape(-1, 1)


def run(scheduler: Any, noisy: Tensor, **options: Any) -> Tensor:
    for taken, timestep in enumerate(scheduler.timesteps):
        given = {name: value[taken] for name, value in options.items() if isinstance(value, Tensor)}
        prediction = predict(noisy, torch.full((len(noisy),), int(timestep)), None)
        noisy = scheduler.step(prediction, timestep, noisy, **(options | given)).prev_sample
    return noisy


def noise_of(sampler: Sampler) -> Tensor:
    return sampler.draw((50, 3), torch.Generator().manual_seed(0))


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("steps", [100, 20])
def test_ddpm(prediction: str, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = DDPMScheduler(**COSINE, prediction_type=prediction, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    assert (scheduler.config.variance_type, scheduler.config.clip_sample) == ("fixed_small", True)
    sampler = Sampler(from_diffusers(scheduler), "ddpm", trailing(100, steps), clip=1.0)
    noise = noise_of(sampler)
    # Where the last step is not from level 0 it adds noise there too, of a deviation of 1e-10.
    added: Iterator[Tensor] = iter((*noise[1:], torch.zeros_like(noise[0])))
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *_, **__: next(added))
    start = noise[0]
    torch.testing.assert_close(
        sampler.sample(predict, None, noise, start), run(scheduler, start), **TOLERANCE
    )
    assert len(list(added)) == (1 if steps == 100 else 0)


@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize(("spacing", "ours"), [("trailing", trailing), ("leading", leading)])
@pytest.mark.parametrize("steps", [2, 10, 50])
def test_ddim(spacing: str, ours: Any, steps: int, eta: float) -> None:
    """Ours recomputes the noise when the clean sample was clipped, an option there."""
    scheduler = DDIMScheduler(**COSINE, timestep_spacing=spacing)
    scheduler.set_timesteps(steps)
    sampler = Sampler(from_diffusers(scheduler), "ddim", ours(100, steps), eta, clip=1.0)
    noise = noise_of(sampler)
    options: dict[str, Any] = {"eta": eta, "use_clipped_model_output": True}
    if eta:
        options["variance_noise"] = torch.cat([noise[1:], torch.zeros_like(noise[:1])])
    wanted = run(scheduler, noise[0], **options)
    torch.testing.assert_close(sampler.sample(predict, None, noise, noise[0]), wanted, **TOLERANCE)


@pytest.mark.parametrize("steps", [2, 5, 20])
def test_dpm_solver(steps: int) -> None:
    scheduler = DPMSolverMultistepScheduler(1000, timestep_spacing="trailing", prediction_type="sample")
    scheduler.set_timesteps(steps)
    sampler = Sampler(from_diffusers(scheduler), "dpm_solver", trailing(1000, steps))
    noise = noise_of(sampler)
    wanted = run(scheduler, noise[0])
    torch.testing.assert_close(sampler.sample(predict, None, noise, noise[0]), wanted, **TOLERANCE)


def test_flow_euler() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(100, shift=2.0)
    sampler = Sampler(from_diffusers(scheduler), "ddim", trailing(100, 10))
    scheduler.set_timesteps(sigmas=[(level + 1) / 100 for level in sampler.levels])
    noise = noise_of(sampler)
    noisy = noise[0]
    for level, timestep in zip(sampler.levels, scheduler.timesteps, strict=True):
        prediction = predict(noisy, torch.full((len(noisy),), level), None)
        noisy = scheduler.step(prediction, timestep, noisy).prev_sample
    torch.testing.assert_close(sampler.sample(predict, None, noise), noisy, atol=1e-5, rtol=0)
