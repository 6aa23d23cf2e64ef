"""DDPO: its gradient in closed form, clips and discounts, masks, refusals; the variance of noisy targets."""

import math
from typing import Any

import pytest
import torch
from path_toy import FLOW, LEVELS, SDE, Small, gain, generator, gradient, log_probs_of, path_of, rated
from torch import Tensor

from diffpolicy.alignment import Rated
from diffpolicy.alignment.edges import Likelihoods, Steps, clipped_loss
from diffpolicy.alignment.objectives import DDPO, DDPOConfig
from diffpolicy.diffusion import StepRule, step_log_probs
from diffpolicy.training import TrainingError

DPPO_CLIPS = [0.001, 0.00119, 0.00145, 0.00181, 0.00232, 0.00303, 0.00401, 0.00539, 0.00732, 0.01]


def test_at_old_the_gradient_is_that_of_the_weighted_log_likelihood() -> None:
    denoiser = Small()
    batch = rated(denoiser)
    parts = list(DDPO(FLOW, SDE).parts(batch, {"train": denoiser}, generator()))
    path = path_of(batch.rollout.path)
    log_probs = [step_log_probs(FLOW, SDE, denoiser, None, path, step)[0] for step in range(len(LEVELS))]
    expected = -(batch.advantages * torch.stack(log_probs)).mean()
    wanted = torch.cat(
        [each.flatten() for each in torch.autograd.grad(expected, list(denoiser.parameters()))]
    )
    assert len(parts) == len(LEVELS)
    torch.testing.assert_close(gradient(denoiser, parts), wanted, rtol=1e-4, atol=1e-6)
    assert all(part.logs["ratio_deviation"] < 1e-6 and part.logs["clipped"] == 0.0 for part in parts)


def test_what_has_gone_too_far_is_not_pushed_further_and_what_has_gone_wrong_is_called_back() -> None:
    denoiser = Small()
    batch = rated(denoiser)
    path = path_of(batch.rollout.path)
    for shift, sign, learns in ((0.1, 1.0, False), (0.1, -1.0, True), (-0.1, 1.0, True), (-0.1, -1.0, False)):
        moved = batch.rollout._replace(path=path._replace(log_probs=log_probs_of(path) - shift))
        shifted = Rated(moved, batch.rewards, torch.full((8,), sign))
        parts = list(DDPO(FLOW, SDE).parts(shifted, {"train": denoiser}, generator()))
        assert bool(gradient(denoiser, parts).abs().max() > 0.0) == learns
        assert all(part.logs["clipped"] == 1.0 for part in parts)
        ratio = math.exp(shift)
        expected = max(-sign * ratio, -sign * min(max(ratio, 1.0 - 1e-4), 1.0 + 1e-4))
        assert parts[0].logs["policy"] == pytest.approx(expected, rel=1e-5)
        assert parts[0].logs["approx_kl"] == pytest.approx(ratio - 1.0 - shift, rel=1e-3)


def test_the_clips_and_discounts_of_dppo() -> None:
    config = DDPOConfig(0.01, first_clip=0.001, last_steps=4, discount=0.9)
    found = [config.clip_at(position, 10) for position in range(10)]
    assert found == pytest.approx(DPPO_CLIPS, abs=5e-6)
    denoiser = Small()
    batch = rated(denoiser)
    taken = list(Likelihoods(FLOW, SDE, config).taken(batch.rollout, denoiser, generator()))
    assert [each.number for each in taken] == [2, 3, 4, 5]
    assert [each.discount for each in taken] == pytest.approx([0.729, 0.81, 0.9, 1.0])
    assert taken[0].clip == 0.001
    assert taken[-1].clip == pytest.approx(0.01)
    assert sum(each.weight for each in taken) == pytest.approx(1.0)


def test_a_share_of_the_steps_is_drawn_anew_and_the_last_are_left_out() -> None:
    denoiser = Small()
    path = path_of(rated(denoiser).rollout.path)
    likelihoods = Likelihoods(FLOW, SDE, Steps(share=0.6, skip_last=1))
    source = generator()
    drawn = [likelihoods.choose(path, source) for _ in range(40)]
    assert all(len(set(each)) == 3 and each == sorted(each) for each in drawn)
    assert {step for each in drawn for step in each} == {0, 1, 2, 3, 4}
    ddim = Likelihoods(FLOW, StepRule("ddim"))
    assert ddim.choose(path, source) == [0, 1, 2, 3, 4]  # the last step of DDIM adds no noise


def test_steps_may_have_advantages_of_their_own() -> None:
    denoiser = Small()
    batch = rated(denoiser)
    only_third = torch.zeros(8, len(LEVELS))
    only_third[:, 3] = batch.advantages
    parts = list(
        DDPO(FLOW, SDE).parts(batch._replace(advantages=only_third), {"train": denoiser}, generator())
    )
    alone = list(DDPO(FLOW, SDE).parts(batch, {"train": denoiser}, generator()))
    torch.testing.assert_close(gradient(denoiser, parts), gradient(denoiser, alone[3:4]))


def test_what_is_masked_out_changes_nothing() -> None:
    denoiser = Small()
    mask = torch.tensor([[True, False]])
    batch = rated(denoiser, mask=mask)
    path = path_of(batch.rollout.path)
    states = path.states.clone()
    states[-1, :, 1] = 7.0  # where the last step goes in the element that is not executed
    other = batch._replace(rollout=batch.rollout._replace(path=path._replace(states=states), mask=mask))
    first, second = (
        list(DDPO(FLOW, SDE).parts(each, {"train": denoiser}, generator())) for each in (batch, other)
    )
    assert torch.equal(gradient(denoiser, first), gradient(denoiser, second))
    DDPO(FLOW, SDE).check(other, {"train": denoiser})


def test_log_probabilities_are_cut_on_both_sides_alike() -> None:
    denoiser = Small()
    batch = rated(denoiser)
    cut = Likelihoods(FLOW, SDE, Steps(log_prob_range=(-0.01, 0.01)))
    for taken in cut.taken(batch.rollout, denoiser, generator()):
        _, logs = clipped_loss(taken, taken.advantages(batch.advantages))
        assert logs["ratio_deviation"] < 1e-6
        assert taken.log_probs.abs().max() <= 0.01


def test_the_check_refuses_a_roll_out_of_another_denoiser_or_rule() -> None:
    denoiser = Small()
    batch, objective = rated(denoiser), DDPO(FLOW, SDE)
    objective.check(batch, {"train": denoiser})
    with pytest.raises(TrainingError, match="step 0 differs from 1"):
        DDPO(FLOW, StepRule("flow_sde", 0.8)).check(batch, {"train": denoiser})
    with torch.no_grad():
        denoiser.outer.add_(0.01)
    with pytest.raises(TrainingError, match="the likelihood ratio of step 0"):
        objective.check(batch, {"train": denoiser})


@pytest.mark.parametrize(
    "wrong",
    [
        {"clip": 0.0},
        {"first_clip": 1.0},
        {"share": 0.0},
        {"discount": 1.1},
        {"last_steps": 1, "skip_last": 1},
        {"log_prob_range": (1.0, 1.0)},
    ],
)
def test_options_that_are_none_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DDPOConfig(**wrong)


def test_a_path_without_a_likelihood_is_refused() -> None:
    denoiser = Small()
    batch = rated(denoiser)
    pathless = batch._replace(rollout=batch.rollout._replace(path=None))
    ode = rated(denoiser, StepRule("ddim", 0.0))
    for wrong, rule in ((pathless, SDE), (ode, StepRule("ddim", 0.0))):
        with pytest.raises(ValueError, match=r"path is missing|none of the steps"):
            list(DDPO(FLOW, rule).parts(wrong, {"train": denoiser}, generator()))


@pytest.mark.parametrize(("time", "earlier"), [(0.9, 0.5), (0.9, 0.8), (0.9, 0.88)])
def test_noisy_targets_vary_more_the_finer_the_steps(time: float, earlier: float) -> None:
    """Likelihoods of steps regress on x_s, matching errors on x_0: s^2 a^2/(t^2 b^2) more variance, given x_t."""
    source = generator()
    clean, first, second = torch.randn(3, 400_000, generator=source, dtype=torch.float64)
    kept = (1.0 - time) / (1.0 - earlier)
    spread = math.sqrt(time**2 - earlier**2 * kept**2)
    noisy = kept * ((1.0 - earlier) * 0.7 * clean + earlier * first) + spread * second
    clean_target = (noisy - (1.0 - time) * 0.7 * clean) / time**2
    noisy_target = second / spread
    excess = earlier**2 * kept**2 / (time**2 * spread**2)
    found = variance_given(noisy, noisy_target) - variance_given(noisy, clean_target)
    assert found == pytest.approx(excess, rel=0.02)


def variance_given(known: Tensor, target: Tensor) -> float:
    """Return the variance of what is left of a normal variable when another is known."""
    slope = (known * target).mean() / known.square().mean()
    return float((target - slope * known).square().mean())


def test_the_reward_rises() -> None:
    assert gain(DDPO(FLOW, SDE), advantages="buffer") > 0.15
