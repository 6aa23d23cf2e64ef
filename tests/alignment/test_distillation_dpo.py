"""Distillation-DPO: its surrogate's gradient, and a student of one step that samples like its teacher, only better."""

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from pathwise_toy import Broken, Value, generator, gradient_of, model, prompted
from torch import Tensor, nn

from diffpolicy.alignment import (
    AdapterRoles,
    AlignConfig,
    Aligner,
    CopiedRoles,
    Model,
    Online,
    OnlineConfig,
    Reward,
    Rewards,
    Term,
)
from diffpolicy.alignment.objectives import DistillationDPO, DistillationDPOConfig
from diffpolicy.alignment.objectives.distillation_dpo import surrogate
from diffpolicy.diffusion import Sampler, rectified_flow, trailing
from diffpolicy.training.errors import FeedbackError


def test_the_surrogates_gradient_is_the_difference_of_scores() -> None:
    """And not zero, as that of the published `x_t - x`, in which the sample cancels."""
    difference = torch.randn(4, 3, generator=generator(), dtype=torch.float64)
    clean = torch.randn(4, 3, generator=generator(1), dtype=torch.float64, requires_grad=True)
    (made,) = torch.autograd.grad(surrogate(difference, clean), clean)
    torch.testing.assert_close(made, difference / 12.0, rtol=0.0, atol=1e-15)
    noisy = clean + torch.randn(4, 3, generator=generator(2), dtype=torch.float64)
    (published,) = torch.autograd.grad(surrogate(difference, noisy - clean), clean)
    assert not published.any()


def test_nothing_pulls_before_the_auxiliaries_have_learnt() -> None:
    """They begin as the teacher does; once they differ from it, the student has a gradient."""
    of = model(1)
    objective = DistillationDPO(of, Value())
    assert not gradient_of(objective, of).any()
    with torch.no_grad():
        objective.auxiliaries[0].out.add_(0.1)
    assert gradient_of(objective, of).abs().max() > 1e-4


def test_the_better_answer_wins() -> None:
    of = model(1)
    ranked = DistillationDPO(of, Value())._ranked(of.roles["train"], prompted(), generator(3))
    away = [(each - 2.0).square().mean(1) for each in (ranked.winner, ranked.loser)]
    assert (away[0] < away[1]).all()


def test_a_reward_that_is_no_number_is_refused() -> None:
    of = model(1)
    with pytest.raises(FeedbackError):
        gradient_of(DistillationDPO(of, Broken()), of)


def test_adapters_are_refused() -> None:
    of = model(1)
    adapters = object.__new__(AdapterRoles)
    with pytest.raises(ValueError, match="copies, not adapters"):
        DistillationDPO(Model(of.process, of.levels, of.shape, adapters), Value())


def test_a_rate_is_positive() -> None:
    with pytest.raises(ValueError, match="positive rate"):
        DistillationDPOConfig(auxiliary_rate=0.0)


PROCESS = rectified_flow(50)


class Velocity(nn.Module):
    """A small denoiser of points (B, 2)."""

    def __init__(self) -> None:
        super().__init__()
        draw = generator(7)
        self.layers = nn.Sequential(
            nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2)
        )
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3, generator=draw)

    def forward(self, noisy: Tensor, level: Tensor, condition: Any) -> Tensor:
        out: Tensor = self.layers(torch.cat([noisy, level[:, None] / 50], dim=-1))
        return out


class Right(Reward):
    """How far to the right a point is."""

    def __call__(self, samples: Tensor, labels: Sequence[Any]) -> Rewards:
        return Rewards(samples[:, 0])


def two_heaps(count: int, draw: torch.Generator) -> Tensor:
    """Points (count, 2) near (-1, 0) and (1, 0)."""
    side = torch.randint(2, (count, 1), generator=draw) * 2.0 - 1.0
    return 0.15 * torch.randn(count, 2, generator=draw) + torch.cat([side, torch.zeros_like(side)], dim=1)


@pytest.fixture(scope="module")
def teacher() -> Velocity:
    """A flow that has learnt the two heaps."""
    network, draw = Velocity(), generator()
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(1500):
        clean, noise = two_heaps(256, draw), torch.randn(256, 2, generator=draw)
        level = torch.randint(50, (256,), generator=draw)
        noisy, target = PROCESS.corrupt(clean, level, noise), PROCESS.target(clean, noise, level)
        optimiser.zero_grad()
        (network(noisy, level, None) - target).square().mean().backward()
        optimiser.step()
    return network


def off(points: Tensor) -> float:
    """The mean distance of points to the nearer heap."""
    heaps = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    return torch.cdist(points, heaps).amin(dim=1).mean().item()


def one_step(network: nn.Module) -> Tensor:
    """A thousand points (1000, 2), each sampled in one step."""
    start = torch.randn(1, 1000, 2, generator=generator(9))
    with torch.no_grad():
        return Sampler(PROCESS, "ddim", trailing(50, 1)).sample(network, None, start)


def student(teacher: Velocity, push: float, iterations: int) -> Tensor:
    """What a student answers in one step."""
    of = Model(PROCESS, trailing(50, 1), (2,), CopiedRoles(copy.deepcopy(teacher)))
    objective = DistillationDPO(of, Right(), DistillationDPOConfig(push, auxiliary_rate=1e-3))
    online = Online(of, Right(), objective, OnlineConfig(groups=1, group_size=128))
    config = AlignConfig(iterations=iterations, updates=1, learning_rate=1e-4)
    aligner = Aligner(of, [Term(objective, online)], config)
    for step in range(aligner.total_steps):
        aligner.update(step)
    return one_step(of.roles.network("train"))


def test_a_student_of_one_step_samples_nearer_to_the_data_than_its_teacher(teacher: Velocity) -> None:
    """In one step the teacher answers between the heaps."""
    assert off(student(teacher, 0.0, 400)) < 0.7 * off(one_step(teacher))


def test_losers_pushed_off_bring_the_student_to_the_better_heap(teacher: Velocity) -> None:
    """At first: see `DistillationDPOConfig`."""
    made, answered = student(teacher, 0.2, 100), one_step(teacher)
    assert made[:, 0].mean() > answered[:, 0].mean() + 0.15
    assert off(made) < 0.9 * off(answered)
