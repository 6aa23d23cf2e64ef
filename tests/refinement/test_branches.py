"""Imagined branches: what is recorded, what counts, and advantages that look beyond their ends."""

from typing import Any

import torch
from made_branches import made

from diffpolicy.policies.gaussian import gaussian_model
from diffpolicy.refinement import BranchValueConfig, BranchValues, play_branches
from diffpolicy.refinement.branches import rated


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def constant(line: Any, value: float, gamma: float = 0.5, lam: float = 1.0) -> BranchValues:
    """Return values that are the same everywhere."""
    values = BranchValues(line.data, BranchValueConfig(gamma, lam, hidden=(4,), data_epochs=0))
    for network in values.networks:
        network.unit = type(network.unit)(value, 1.0)
    return values


def test_branches_are_the_policy_s_own_and_come_again_with_the_generator(line: Any) -> None:
    model = gaussian_model(line.network())
    env = line.env(16, horizon=5)
    one, same = (
        play_branches(model, model.roles["train"], line.policy.rule, env, generator(3)) for _ in range(2)
    )
    assert one.states.shape == (5, 16, 2)
    assert one.path.log_probs is not None
    assert torch.equal(one.rewards, same.rewards)
    assert torch.equal(one.states[1:][~one.ended[:-1]], one.following[:-1][~one.ended[:-1]])
    assert bool(one.ended[-1].all())
    mean = line.clone.mean(one.states.flatten(0, 1))
    wanted = torch.distributions.Normal(mean, line.policy.std).log_prob(one.path.clean).mean(1)
    torch.testing.assert_close(one.path.log_probs[0], wanted, rtol=1e-5, atol=1e-5)


def test_a_success_pays_once_and_ends_what_counts(line: Any) -> None:
    model = gaussian_model(line.network())
    env = line.env(64, horizon=8)
    found = play_branches(model, model.roles["train"], line.policy.rule, env, generator(), success=0.5)
    assert set(found.rewards.unique().tolist()) == {0.0, 1.0}
    won = found.rewards > 0.0
    assert bool(found.terminated[won].all())
    over = torch.zeros(64, dtype=torch.bool)
    for step in range(8):
        assert torch.equal(found.counted[step], ~over)
        begun = (found.states[step + 1] != found.following[step]).any(-1) if step < 7 else ~over
        over = (over | won[step]) & ~begun
    assert not found.counted.all()
    kept = rated(found, torch.zeros_like(found.rewards), passes=2)
    assert len(kept.rewards) == 2 * int(found.counted.sum())


def test_the_end_of_a_branch_is_worth_what_comes_after_it_unless_the_episode_is_over(line: Any) -> None:
    values = constant(line, 8.0)
    rewards = torch.ones(2, 2)
    over = torch.tensor([[False, False], [False, True]])
    found = values.estimates(
        made(rewards, terminated=over, truncated=torch.tensor([[False] * 2, [True, False]]))
    )
    # gamma .5: 1 + .5 (1 + .5 8) - 8 where it goes on, 1 + .5 - 8 where it is over.
    torch.testing.assert_close(found.reward.advantages[0], torch.tensor([-4.5, -6.5]))
    torch.testing.assert_close(found.reward.returns[0], torch.tensor([3.5, 1.5]))


def test_nothing_good_is_believed_of_the_unknown_and_nothing_dear_left_out(line: Any) -> None:
    unknown = torch.tensor([[True]])
    branches = made(torch.ones(1, 1), unknown=unknown)
    found = constant(line, 8.0).estimates(branches)
    torch.testing.assert_close(found.reward.returns, torch.tensor([[1.0]]))
    torch.testing.assert_close(found.cost.returns, torch.tensor([[5.0]]))
    found = constant(line, -8.0).estimates(branches)
    torch.testing.assert_close(found.reward.returns, torch.tensor([[-3.0]]))
    torch.testing.assert_close(found.cost.returns, torch.tensor([[1.0]]))


def test_values_begin_as_those_of_the_data_and_follow_the_policy(line: Any) -> None:
    values = line.values()
    places = torch.tensor([[-0.9, 3.0], [0.9, 3.0]])
    low, high = values.networks[0](values.standardizer.normalize(places)).tolist()
    assert high > low + 1.0  # who begins further right earns more
    before = values.networks[0](values.standardizer.normalize(torch.zeros(1, 2))).item()
    branches = made(torch.full((4, 64), 10.0))
    for _ in range(20):
        values.fit(branches, values.estimates(branches), generator())
    after = values.networks[0](values.standardizer.normalize(torch.zeros(1, 2))).item()
    assert after > before + 10.0
