"""What the tests of path objectives share: a small denoiser, recorded roll-outs, a reward to be raised."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diffpolicy.alignment import (
    AlignConfig,
    Aligner,
    CopiedRoles,
    Model,
    Objective,
    Online,
    OnlineConfig,
    Part,
    Rated,
    Reward,
    Rewards,
    Rollout,
    Term,
)
from diffpolicy.diffusion import Path, StepRule, Tree, rectified_flow, sample_path, sample_tree, trailing

FLOW = rectified_flow(100)
LEVELS = trailing(100, 6)
SDE = StepRule("flow_sde")


class Small(nn.Module):
    """A velocity of points (B, 2) with a few weights; an optional condition (B, 2) is added to it."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.inner = nn.Parameter(0.5 * torch.randn(3, 24, generator=generator))
        self.outer = nn.Parameter(0.3 * torch.randn(24, 2, generator=generator))
        self.calls: list[int] = []

    def forward(self, noisy: Tensor, level: Tensor, condition: Any) -> Tensor:
        self.calls.append(len(noisy))
        seen = torch.cat([noisy, level[:, None] / 100.0], dim=1)
        velocity = noisy + torch.tanh(seen @ self.inner) @ self.outer
        return velocity if condition is None else velocity + condition


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rated(denoiser: Small, rule: StepRule = SDE, mask: Tensor | None = None, batch: int = 8) -> Rated:
    """Return samples with their path, and advantages drawn at random."""
    noise = torch.randn(len(LEVELS) + 1, batch, 2, generator=generator(1))
    path = sample_path(FLOW, rule, LEVELS, denoiser, None, noise, mask=mask)
    group = torch.arange(batch) // 4
    advantages = torch.randn(batch, generator=generator(2))
    return Rated(Rollout(path.clean, None, group, None, path, mask), advantages, advantages)


def rated_trees(denoiser: Small, splits: Sequence[int] = (0, 2), trees: int = 2) -> Rated:
    """Return the leaves of trees, and advantages of every step drawn at random for every leaf."""
    start = torch.randn(trees, 2, generator=generator(1))
    tree = sample_tree(FLOW, SDE, LEVELS, denoiser, lambda root: None, start, splits, generator(3))
    count = len(tree.clean)
    group = torch.arange(trees).repeat_interleave(count // trees)
    advantages = torch.randn(count, len(LEVELS), generator=generator(2))
    return Rated(Rollout(tree.clean, None, group, None, tree), advantages[:, 0], advantages)


def gradient(denoiser: Small, parts: Sequence[Part]) -> Tensor:
    """Return the gradient of a loss in parts with respect to all weights, flat."""
    loss = torch.stack([part.loss for part in parts]).sum()
    return torch.cat([each.flatten() for each in torch.autograd.grad(loss, list(denoiser.parameters()))])


def path_of(path: Path | Tree | None) -> Path:
    """Return what has been recorded, which is a path."""
    assert isinstance(path, Path)
    return path


def log_probs_of(path: Path) -> Tensor:
    """Return the log-probabilities (K, B), which have been recorded."""
    assert path.log_probs is not None
    return path.log_probs


def tree_of(batch: Rated) -> Tree:
    """Return the tree of a batch."""
    assert isinstance(batch.rollout.path, Tree)
    return batch.rollout.path


def gathered(objective: Objective[Any], config: OnlineConfig) -> tuple[Rated, Model]:
    """Return a batch of roll-outs, and the model whose they are."""
    model = Model(FLOW, LEVELS, (2,), CopiedRoles(Small()))
    batch = Online(model, ToTheRight(), objective, config).gather(model.roles, generator()).batch
    assert isinstance(batch, Rated)
    return batch, model


class ToTheRight(Reward):
    """Minus the squared distance to (1, 0)."""

    def __call__(self, samples: Tensor, labels: Sequence[Any]) -> Rewards:
        return Rewards(-(samples - torch.tensor([1.0, 0.0])).square().sum(dim=1))


def gain(objective: Objective[Any], rule: StepRule = SDE, iterations: int = 20, **online: Any) -> float:
    """Return by how much the mean reward of roll-outs rises in a short run of the whole trainer."""
    model = Model(FLOW, LEVELS, (2,), CopiedRoles(Small()))
    config = OnlineConfig(**{"groups": 8, "group_size": 8, "rule": rule, **online})
    term = Term(objective, Online(model, ToTheRight(), objective, config))
    aligner = Aligner(model, [term], AlignConfig(iterations=iterations, learning_rate=3e-3))
    rewards = [float(aligner.update(step)["reward"]) for step in range(aligner.total_steps)]
    return sum(rewards[-6:]) / 6 - sum(rewards[:4]) / 4
