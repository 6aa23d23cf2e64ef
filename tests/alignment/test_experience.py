"""Roll-outs hold what objectives ask for, whole groups of it, and rewards are checked where they come in."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffpolicy.alignment import (
    CopiedRoles,
    Fixed,
    Model,
    Needs,
    Objective,
    Online,
    OnlineConfig,
    Pairs,
    Prompted,
    Rated,
    Reward,
    Rewards,
    Rollout,
    draw_prompts,
    rate,
)
from diffpolicy.alignment.experience import paired
from diffpolicy.diffusion import StepRule, rectified_flow, trailing
from diffpolicy.training import FeedbackError


class Net(nn.Module):
    """Adds its condition, so that answers tell their prompts apart."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, noisy: Tensor, level: Tensor, condition: Any) -> Tensor:
        out: Tensor = self.scale * noisy - condition
        return out


class Numbers:
    """Prompts that ask for a number; guided ones ask for it louder."""

    def __len__(self) -> int:
        return 3

    def condition(self, index: Tensor, guided: bool) -> Tensor:
        return index[:, None].float() * (10.0 if guided else 1.0)

    def labels(self, index: Tensor) -> list[str]:
        return [f"number {each}" for each in index.tolist()]


class First(Reward):
    def __call__(self, samples: Tensor, labels: Sequence[Any]) -> Rewards:
        assert len(labels) == len(samples)
        assert all(label.startswith("number") for label in labels)
        return Rewards(samples[:, 0], {"second": samples[:, 1]}, cost=samples[:, 1].abs())


class Asking(Objective[Any]):
    def __init__(self, **needs: bool) -> None:
        self._needs = Needs(**needs)

    @property
    def needs(self) -> Needs:
        return self._needs


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gather(objective: Asking, **options: Any) -> Any:
    model = Model(rectified_flow(100), trailing(100, 4), (2,), CopiedRoles(Net()), Numbers())
    online = Online(model, First(), objective, OnlineConfig(**({"groups": 3, "group_size": 4} | options)))
    found = online.gather(model.roles, generator())
    assert found.calls == 12
    return found


def test_groups_answer_one_prompt_each_and_are_whole() -> None:
    found = gather(Asking(rewards=True))
    rollout = found.batch.rollout
    assert isinstance(found.batch, Rated)
    assert rollout.group.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert rollout.path is None
    assert sorted(rollout.condition[::4, 0].tolist()) == [0.0, 1.0, 2.0]  # not the guided conditions
    assert all(len(set(group.tolist())) == 1 for group in rollout.condition[:, 0].split(4))
    torch.testing.assert_close(found.batch.rewards, rollout.clean[:, 0])
    sums = found.batch.advantages.reshape(3, 4).sum(1)
    torch.testing.assert_close(sums, torch.zeros(3), rtol=0, atol=1e-5)
    assert found.logs["reward/second"] == pytest.approx(rollout.clean[:, 1].mean().item())
    assert found.logs["cost"] == pytest.approx(rollout.clean[:, 1].abs().mean().item())


def test_likelihoods_take_the_conditions_that_samples_were_made_with() -> None:
    found = gather(Asking(rewards=True, path=True, guided=True), rule=StepRule("ddim", 1.0))
    rollout = found.batch.rollout
    assert rollout.condition.max() == 20.0
    assert rollout.path.states.shape == (5, 12, 2)
    assert torch.equal(rollout.path.states[0], rollout.start)
    assert torch.equal(rollout.path.clean, rollout.clean)


@pytest.mark.parametrize("path", [False, True])
def test_how_many_are_made_at_once_changes_nothing(path: bool) -> None:
    objective = Asking(rewards=True, path=path)
    whole, cut = gather(objective).batch, gather(objective, at_once=5).batch
    torch.testing.assert_close(whole.rollout.clean, cut.rollout.clean, rtol=0, atol=1e-5)
    torch.testing.assert_close(whole.advantages, cut.advantages, rtol=0, atol=1e-4)
    if path:
        torch.testing.assert_close(whole.rollout.path.states, cut.rollout.path.states, rtol=0, atol=1e-5)


def test_a_group_can_share_its_start() -> None:
    found = gather(Asking(rewards=True), shared_start=True, solver="ddpm")
    start = found.batch.rollout.start.reshape(3, 4, 2)
    assert torch.equal(start, start[:, :1].expand_as(start))
    assert not torch.equal(start[0], start[1])
    assert found.logs["flat_groups"] == 0.0


def test_a_reward_with_weights_of_its_own_is_not_trained() -> None:
    """Its graph would hang on the advantages, which every part of a loss goes back through."""

    class Learnt(First):
        def __init__(self) -> None:
            self.weight = nn.Parameter(torch.ones(()))

        def __call__(self, samples: Tensor, labels: Sequence[Any]) -> Rewards:
            return Rewards(self.weight * samples[:, 0])

    model = Model(rectified_flow(100), trailing(100, 4), (2,), CopiedRoles(Net()), Numbers())
    online = Online(model, Learnt(), Asking(rewards=True), OnlineConfig(groups=3, group_size=4))
    batch = online.gather(model.roles, generator()).batch
    assert isinstance(batch, Rated)
    assert not batch.rewards.requires_grad
    assert not batch.advantages.requires_grad


@pytest.mark.parametrize(
    ("needs", "options", "says"),
    [
        ({"pairs": True}, {"group_size": 3}, "even size, got group_size=3"),
        ({}, {}, "Asking learns from demonstrations"),
        ({"rewards": True}, {"shared_start": True}, "samples from a shared start are all the same"),
        ({"rewards": True}, {"group_size": 4, "splits": (0, 1)}, "leave splits empty"),
    ],
)
def test_roll_outs_that_teach_an_objective_nothing_are_refused_before_they_are_made(
    needs: dict[str, bool], options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        gather(Asking(**needs), **options)


def test_pairs_are_ordered_by_reward_and_ties_are_left_out() -> None:
    found = gather(Asking(pairs=True))
    assert isinstance(found.batch, Pairs)
    assert (found.batch.winner[:, 0] > found.batch.loser[:, 0]).all()
    assert found.logs["ties"] == 0.0
    clean = torch.arange(6.0)[:, None]
    rollout = Rollout(clean, clean, torch.tensor([0, 0, 0, 0, 1, 1]))
    pairs = paired(rollout, torch.tensor([1.0, 2.0, 3.0, 3.0, 5.0, 4.0]))
    assert pairs.winner[:, 0].tolist() == [1.0, 4.0]
    assert pairs.loser[:, 0].tolist() == [0.0, 5.0]
    with pytest.raises(FeedbackError, match="even number"):
        paired(rollout._replace(group=torch.tensor([0, 1, 1, 2, 2, 2])), torch.zeros(6))


def test_prompts_come_with_noise_and_are_not_rated() -> None:
    found = gather(Asking(prompts=True))
    assert isinstance(found.batch, Prompted)
    assert found.batch.noise.shape[1:] == (12, 2)
    assert found.batch.labels[0] == found.batch.labels[3]
    assert "reward" not in found.logs


def test_what_follows_gradients_needs_a_reward_that_has_one() -> None:
    with pytest.raises(ValueError, match="First has none"):
        gather(Asking(prompts=True, differentiable_reward=True))


def test_no_prompt_is_asked_again_before_all_have_been() -> None:
    drawn = draw_prompts(5, 13, generator())
    assert sorted(drawn[:5].tolist()) == sorted(drawn[5:10].tolist()) == [0, 1, 2, 3, 4]
    assert len(set(drawn[10:].tolist())) == 3


def test_fixed_data_is_drawn_from_with_what_belongs_to_it() -> None:
    clean = torch.arange(5.0)[:, None]
    found = Fixed(Rollout(clean, clean * 2, torch.arange(5)), 40).gather({}, generator()).batch
    assert isinstance(found, Rollout)
    assert set(found.group.tolist()) == set(range(5))
    assert torch.equal(found.condition, found.clean * 2)
    with pytest.raises(ValueError, match="cannot be drawn"):
        Fixed(Rollout(clean[:0], None, torch.arange(0)), 4)


class Returns(Reward):
    def __init__(self, rewards: Any) -> None:
        self.rewards = rewards

    def __call__(self, samples: Tensor, labels: Sequence[Any]) -> Rewards:
        return self.rewards


GOOD = torch.zeros(3, dtype=torch.float64)


@pytest.mark.parametrize(
    ("rewards", "says"),
    [
        (Rewards(torch.zeros(3, 1)), r"'total' as \(3, 1\) for 3 samples"),
        (Rewards(torch.zeros(2)), r"'total' as \(2,\)"),
        (Rewards([0.0] * 3), "'total' as list"),  # type: ignore[arg-type]
        (Rewards(torch.tensor([0.0, torch.inf, 0.0])), "inf for sample 1"),
        (Rewards(GOOD, {"clip": torch.tensor([0.0, 0.0, torch.nan])}), "'clip' that is nan for sample 2"),
        (Rewards(GOOD, cost=torch.zeros(4)), "'cost'"),
        (Rewards(GOOD, uncertainty=torch.full((3,), torch.nan)), "'uncertainty'"),
    ],
)
def test_rewards_that_are_none_are_refused_by_name(rewards: Rewards, says: str) -> None:
    with pytest.raises(FeedbackError, match=f"Returns returned .*{says}"):
        rate(Returns(rewards), torch.zeros(3, 2), [None] * 3)


def test_rewards_are_single_precision() -> None:
    assert rate(Returns(Rewards(GOOD)), torch.zeros(3, 2), [None] * 3).total.dtype == torch.float32


def test_roll_outs_that_compare_nothing_are_refused() -> None:
    for wrong in ({"groups": 0}, {"group_size": 1}, {"at_once": 0}, {"advantages": "best"}):
        with pytest.raises(ValueError, match=r"roll-out|advantages"):
            OnlineConfig(**wrong)  # type: ignore[arg-type]
