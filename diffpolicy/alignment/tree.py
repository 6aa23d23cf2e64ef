"""Advantages in denoising trees: every step has its own, by comparison with the other branches."""

import torch
from torch import Tensor

from diffpolicy.diffusion import Tree

FLAT = 1e-6  # a deviation of rewards below which nothing is to be learnt from a depth


def tree_advantages(
    tree: Tree, rewards: Tensor, temperature: float | None = None, clip: float = 5.0
) -> Tensor:
    """Return the advantages (B, K) of the K steps that lead to each of B leaves with `rewards` (B,).

    A node is worth the mean reward of its leaves, a step the worth of the node it leads to, less the mean over the
    nodes of the same root and depth, over their deviation; 0 if that is below 1e-6, as it is before the first split,
    and clipped to +-clip (BranchGRPO, Li et al. 2025, section 3.2). With a `temperature` a node is worth the mean of
    its children weighted by `softmax(log-probability/temperature)` instead. Leaves that share a step agree on it.

    Raises:
        ValueError: if there is not one finite reward for each leaf, or the temperature is not positive.
    """
    if rewards.shape != (len(tree.clean),) or not torch.isfinite(rewards).all():
        raise ValueError(
            f"a tree of {len(tree.clean)} leaves takes a finite reward for each, got {tuple(rewards.shape)}"
        )
    if temperature is not None and not temperature > 0.0:
        raise ValueError(f"the temperature of a tree's weights is positive, got {temperature}")
    worth = node_values(tree, rewards, temperature)
    root = torch.arange(len(tree.states[0]), device=rewards.device)
    columns = []
    lineage = tree.lineage()
    for depth, parents in enumerate(tree.parents):
        root = root[parents]
        advantage = _normalised(worth[depth + 1], root, len(tree.states[0])).clamp(-clip, clip)
        columns.append(advantage[lineage[depth + 1]])
    return torch.stack(columns, dim=1).to(rewards)


def node_values(tree: Tree, rewards: Tensor, temperature: float | None = None) -> tuple[Tensor, ...]:
    """Return what the nodes of every depth are worth, (N_d,) float64, see `tree_advantages`."""
    if temperature is None:
        exact, lineage = rewards.double(), tree.lineage()
        return tuple(
            _sums(exact, nodes, len(state)) / _sums(torch.ones_like(exact), nodes, len(state))
            for nodes, state in zip(lineage, tree.states, strict=True)
        )
    values = [rewards.double()]
    for depth in reversed(range(len(tree.levels))):
        parents, count = tree.parents[depth], len(tree.states[depth])
        score = tree.log_probs[depth].double() / temperature
        largest = score.new_full((count,), -torch.inf).scatter_reduce(0, parents, score, "amax")
        weight = (score - largest[parents]).exp()
        values.append(_sums(weight * values[-1], parents, count) / _sums(weight, parents, count))
    return tuple(reversed(values))


def _normalised(worth: Tensor, root: Tensor, count: int) -> Tensor:
    """Return the worth (N,) of nodes less its mean over their root, over its deviation; 0 where that is nil."""
    size = _sums(torch.ones_like(worth), root, count)
    centred = worth - (_sums(worth, root, count) / size)[root]
    deviation = (_sums(centred.square(), root, count) / size).sqrt()[root]
    return torch.where(deviation < FLAT, 0.0, centred / (deviation + 1e-8))


def _sums(values: Tensor, index: Tensor, count: int) -> Tensor:
    return torch.zeros(count, dtype=values.dtype, device=values.device).index_add(0, index, values)
