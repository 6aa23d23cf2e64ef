"""DPOK: exact distances of steps, the value as a baseline that only it itself learns."""

import pytest
import torch
from path_toy import FLOW, LEVELS, SDE, Small, gain, generator, gradient, path_of, rated, rated_trees, tree_of

from diffpolicy.alignment import Owned
from diffpolicy.alignment.objectives import DDPO, DPOK, DPOKConfig, value_network
from diffpolicy.diffusion import step_log_probs


def test_the_distance_is_the_exact_kl_of_each_step() -> None:
    denoiser, reference = Small(), Small(1)
    batch = rated(denoiser)
    config = DPOKConfig(reward_weight=2.0, kl_weight=0.3)
    roles = {"train": denoiser, "reference": reference}
    path = path_of(batch.rollout.path)
    for step, part in enumerate(DPOK(FLOW, SDE, config).parts(batch, roles, generator())):
        mine, base = (step_log_probs(FLOW, SDE, each, None, path, step)[1] for each in roles.values())
        normals = [torch.distributions.Normal(each.mean, each.std) for each in (mine, base)]
        expected = torch.distributions.kl_divergence(*normals).mean().item()
        assert part.logs["kl"] == pytest.approx(expected, rel=1e-4)
        whole = 2.0 * part.logs["policy"] + 0.3 * expected
        assert part.loss.item() * len(LEVELS) == pytest.approx(whole, rel=1e-4)


def test_at_the_reference_without_a_value_it_is_ddpo() -> None:
    denoiser = Small()
    batch = rated(denoiser)
    roles = {"train": denoiser, "reference": Small()}
    dpok = list(DPOK(FLOW, SDE, DPOKConfig(reward_weight=1.0)).parts(batch, roles, generator()))
    ddpo = list(DDPO(FLOW, SDE).parts(batch, roles, generator()))
    torch.testing.assert_close(gradient(denoiser, dpok), gradient(denoiser, ddpo))


class Constant(torch.nn.Module):
    """A value that is one number."""

    def __init__(self) -> None:
        super().__init__()
        self.level = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, noisy: torch.Tensor, level: torch.Tensor, condition: object) -> torch.Tensor:
        return self.level.expand(len(noisy))


def test_the_value_is_subtracted_and_regressed_on_the_reward() -> None:
    denoiser, value = Small(), Constant()
    batch = rated(denoiser)
    roles = {"train": denoiser, "reference": Small()}
    objective = DPOK(FLOW, SDE, DPOKConfig(reward_weight=1.0), Owned(value, 1e-3))
    loss, logs = objective.loss(batch, roles, generator())
    grads = torch.autograd.grad(loss, [value.level, *denoiser.parameters()])
    # Of (V - r)^2 alone: the policy's loss does not move the value.
    assert grads[0].item() == pytest.approx(2.0 * (0.5 - batch.rewards.mean().item()), rel=1e-4)
    assert logs["value_error"] == pytest.approx((0.5 - batch.rewards).square().mean().item(), rel=1e-5)
    shifted = batch._replace(advantages=batch.rewards - 0.5)
    wanted = gradient(denoiser, list(DDPO(FLOW, SDE).parts(shifted, roles, generator())))
    torch.testing.assert_close(torch.cat([each.flatten() for each in grads[1:]]), wanted)
    assert set(objective.owned) == {"value"}
    assert not DPOK(FLOW, SDE).owned


def test_a_step_of_a_tree_is_worth_the_mean_of_all_leaves_beyond_it() -> None:
    """Whichever they are: the value begins at 0 here, so that the policy's loss is minus their mean."""
    denoiser, value = Small(), value_network(2, generator())
    with torch.no_grad():
        for parameter in value.module.parameters():
            parameter.zero_()
    batch = rated_trees(denoiser, (0, 2), trees=1)
    lineage = tree_of(batch).lineage()
    roles = {"train": denoiser, "reference": denoiser}
    for winner in range(4):
        rewards = torch.eye(4)[winner]
        parts = DPOK(FLOW, SDE, DPOKConfig(), value).parts(
            batch._replace(rewards=rewards), roles, generator()
        )
        for depth, part in enumerate(parts):
            sharing = rewards[lineage[depth + 1] == lineage[depth + 1][winner]]
            nodes = len(tree_of(batch).states[depth + 1])
            assert part.logs["policy"] == pytest.approx(-1.0 / len(sharing) / nodes, rel=1e-5)
            assert part.logs["value_error"] == pytest.approx(1.0 / len(sharing) ** 2 / nodes, rel=1e-5)


def test_the_value_sees_iterate_level_and_condition_and_is_the_generators() -> None:
    first, second = (value_network(2, generator(), condition_elements=3).module for _ in range(2))
    noisy, level, condition = torch.randn(5, 2), torch.arange(5), torch.randn(5, 3)
    values = first(noisy, level, condition)
    assert values.shape == (5,)
    assert torch.equal(values, second(noisy, level, condition))
    for other in (
        (noisy + 1.0, level, condition),
        (noisy, level + 9, condition),
        (noisy, level, condition + 1.0),
    ):
        assert not torch.allclose(first(*other), values)


def test_weights_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="kl_weight"):
        DPOKConfig(kl_weight=-1.0)


def test_the_reward_rises_with_a_value() -> None:
    value = value_network(2, generator(), width=32, learning_rate=1e-2)
    assert gain(DPOK(FLOW, SDE, DPOKConfig(), value)) > 0.15
