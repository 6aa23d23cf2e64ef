"""DRaFT-K differentiates the last K steps of the sampler and nothing else."""

from itertools import pairwise

import pytest
import torch
from pathwise_toy import Near, gradient, gradient_of, model, prompted

from diffpolicy.alignment.objectives.draft_k import DRaFTK, DRaFTKConfig
from diffpolicy.diffusion import Sampler


def test_through_all_steps_it_is_the_gradient_of_the_sampler() -> None:
    of, batch = model(), prompted()
    clean = Sampler(of.process, "ddim", of.levels).sample(of.roles["train"], None, batch.noise)
    want = gradient((clean - 2.0).square().mean(), of)
    made = gradient_of(DRaFTK(of, Near(), DRaFTKConfig(steps=4)), of)
    torch.testing.assert_close(made, want, rtol=0.0, atol=1e-10)


def test_through_one_step_it_is_the_gradient_of_the_last_prediction() -> None:
    of, batch = model(), prompted()
    noisy, last = of.process.noise_at(of.levels[0]) * batch.noise[0], of.levels[-1]
    with torch.no_grad():
        for level, to in pairwise(of.levels):
            velocity = of.roles["train"](noisy, torch.full((8,), level), None)
            noisy = noisy + (of.process.noise_at(to) - of.process.noise_at(level)) * velocity
    clean = noisy - of.process.noise_at(last) * of.roles["train"](noisy, torch.full((8,), last), None)
    want = gradient((clean - 2.0).square().mean(), of)
    made = gradient_of(DRaFTK(of, Near()), of)
    torch.testing.assert_close(made, want, rtol=0.0, atol=1e-10)
    assert not torch.allclose(made, gradient_of(DRaFTK(of, Near(), DRaFTKConfig(steps=2)), of), atol=1e-3)


@pytest.mark.parametrize("steps", [0, 5])
def test_there_are_not_more_steps_than_the_sampler_takes(steps: int) -> None:
    with pytest.raises(ValueError, match="1 to 4"):
        DRaFTK(model(), Near(), DRaFTKConfig(steps=steps))
