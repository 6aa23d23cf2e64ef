"""ReFL takes one late step with a gradient, and none for a reward above its cap."""

import pytest
import torch
from pathwise_toy import Near, generator, gradient, gradient_of, model, prompted

from diffpolicy.alignment.objectives.draft_k import DRaFTK
from diffpolicy.alignment.objectives.refl import ReFL, ReFLConfig
from diffpolicy.alignment.pathwise import Pathwise


def test_at_the_last_step_it_is_draft_1() -> None:
    of = model()
    made = gradient_of(
        ReFL(of, Near(), ReFLConfig(cap=None, weight=1.0)), of
    )  # a quarter of four steps: the last
    torch.testing.assert_close(made, gradient_of(DRaFTK(of, Near()), of), rtol=0.0, atol=1e-12)


def test_the_prediction_is_rewarded_where_it_is_made() -> None:
    of, batch = model(), prompted()
    objective = ReFL(of, Near(), ReFLConfig(cap=None, weight=1.0, share=1.0))
    seed = next(seed for seed in range(20) if objective.step(generator(seed)) == 1)
    denoiser, level = of.roles["train"], of.levels[1]
    noisy = Pathwise(of, Near()).arrive(denoiser, batch, generator(), 1)
    clean = noisy - of.process.noise_at(level) * denoiser(noisy, torch.full((8,), level), None)
    want = gradient((clean - 2.0).square().mean(), of)
    torch.testing.assert_close(gradient_of(objective, of, seed), want, rtol=0.0, atol=1e-10)


@pytest.mark.parametrize(("cap", "moves"), [(-1000.0, False), (10.0, True)])
def test_above_the_cap_there_is_no_gradient(cap: float, moves: bool) -> None:
    of = model()
    assert bool(gradient_of(ReFL(of, Near(), ReFLConfig(cap=cap)), of).abs().max() > 0.0) == moves


@pytest.mark.parametrize(("steps", "late"), [(40, range(30, 40)), (4, [3]), (2, [1])])
def test_steps_are_the_last_quarter(steps: int, late: range | list[int]) -> None:
    objective, draw = ReFL(model(steps), Near()), generator()
    assert {objective.step(draw) for _ in range(300)} == set(late)


def test_a_share_is_a_share() -> None:
    with pytest.raises(ValueError, match="above 0 and up to 1"):
        ReFLConfig(share=0.0)
