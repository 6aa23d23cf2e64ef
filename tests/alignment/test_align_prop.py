"""AlignProp is DRaFT-K with a random K."""

import pytest
import torch
from pathwise_toy import Near, generator, gradient, gradient_of, model, prompted

from diffpolicy.alignment.objectives.align_prop import AlignProp, AlignPropConfig
from diffpolicy.alignment.objectives.draft_k import DRaFTK, DRaFTKConfig
from diffpolicy.diffusion import StepRule, transitions


def beginning(step: int) -> AlignPropConfig:
    return AlignPropConfig(weight=1.0, eta=0.0, mean=step / 4, deviation=0.0)


@pytest.mark.parametrize("first", [0, 1, 3])
def test_predictions_detached_before_a_step_leave_the_gradient_of_the_steps_after_it(first: int) -> None:
    of, batch = model(), prompted()
    noisy = of.process.noise_at(of.levels[0]) * batch.noise[0]
    for index, (level, to) in enumerate(transitions(of.levels)):
        prediction = of.roles["train"](noisy, torch.full((8,), level), None)
        clean = of.process.to_clean(prediction.detach() if index < first else prediction, noisy, level)
        weights = StepRule("ddim", 0.0).weights(of.process, level, to)
        noisy = weights.clean * clean + weights.noisy * noisy  # the chain of iterates is never cut
    want = gradient((noisy - 2.0).square().mean(), of)
    made = gradient_of(AlignProp(of, Near(), beginning(first)), of)
    torch.testing.assert_close(made, want, rtol=0.0, atol=1e-10)
    same = gradient_of(DRaFTK(of, Near(), DRaFTKConfig(steps=4 - first)), of)
    torch.testing.assert_close(made, same, rtol=0.0, atol=1e-12)


def test_gradients_begin_where_the_authors_let_them() -> None:
    drawn, draw = AlignProp(model(50), Near()), generator()
    first = torch.tensor([drawn.first_step(draw) for _ in range(4000)]).double()
    # Normal with mean 42 and deviation 5, cut at 49: one in fifteen lies beyond it.
    assert first.max() == 49
    assert abs(first.mean() - 41.8) < 0.4
    assert abs(first.std() - 4.7) < 0.4
    uniform = AlignProp(model(4), Near(), AlignPropConfig(truncation="uniform"))
    assert {uniform.first_step(draw) for _ in range(100)} == {0, 1, 2, 3}


def test_the_number_of_steps_is_logged() -> None:
    of = model()
    _, logs = AlignProp(of, Near(), beginning(1)).loss(prompted(), of.roles, generator())
    assert logs["gradient_steps"] == 3.0


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="share between 0 and 1"):
        AlignPropConfig(mean=42.0)
    with pytest.raises(ValueError, match="normal, uniform"):
        AlignPropConfig(truncation="fixed")  # type: ignore[arg-type]
