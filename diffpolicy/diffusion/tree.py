"""Denoising trees: paths that share their first steps, so that comparisons come with fewer denoiser evaluations."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffpolicy.diffusion.errors import DiffusionError
from diffpolicy.diffusion.path import step_distribution, stochastic_steps, transitions
from diffpolicy.diffusion.process import GaussianProcess
from diffpolicy.diffusion.sampler import Denoiser
from diffpolicy.diffusion.transition import StepRule


class Tree(NamedTuple):
    """K denoising steps of B samples that share what they have in common (BranchGRPO, Li et al. 2025).

    `states` holds the nodes of every depth (N_d, *S), from the starts at depth 0 to the B clean samples at depth K;
    `parents[d]` (N_{d+1},) int64 are the nodes of depth d that those of depth d+1 were denoised from, and
    `log_probs[d]` (N_{d+1},) float32 the log-probabilities of these steps, 0 where a step has no density. Step d goes
    from levels[d] to the next of the K levels, the clean sample after the last. A `Path` is the tree without a split.
    """

    states: tuple[Tensor, ...]
    parents: tuple[Tensor, ...]
    levels: tuple[int, ...]
    log_probs: tuple[Tensor, ...]

    @property
    def clean(self) -> Tensor:
        """The leaves, (B, *S)."""
        return self.states[-1]

    @property
    def evaluations(self) -> int:
        """How many denoiser evaluations the tree has cost: one for every node that is not a leaf."""
        return sum(len(nodes) for nodes in self.states[:-1])

    @property
    def edges(self) -> int:
        """How many steps have been recorded."""
        return sum(len(nodes) for nodes in self.states[1:])

    def lineage(self) -> tuple[Tensor, ...]:
        """Return for every depth the node (B,) int64 that each leaf descends from."""
        nodes = [torch.arange(len(self.clean), device=self.clean.device)]
        for parents in reversed(self.parents):
            nodes.append(parents[nodes[-1]])
        return tuple(reversed(nodes))


@torch.no_grad()
def sample_tree(
    process: GaussianProcess,
    rule: StepRule,
    levels: Sequence[int],
    denoiser: Denoiser,
    condition: Callable[[Tensor], Any],
    start: Tensor,
    splits: Sequence[int],
    generator: torch.Generator,
    branches: int = 2,
    noise_scale: float = 1.0,
    mask: Tensor | None = None,
) -> Tree:
    """Return a tree from every root `start` (P, *S), the iterate at the first of `levels`, without gradients.

    At each step in `splits` every node has `branches` children, at the others one. The children of a node share one
    denoiser evaluation; `P branches^len(splits)` leaves come out, those of a root one after the other. `condition`
    returns the conditions of given roots (N,) int64. Log-probabilities are means over the elements where `mask`
    (1, *S) is true.

    The noises of a node's children are `sqrt(1 - s^2) z_0 + s z_b` with s the `noise_scale`: each is standard normal,
    as the log-probabilities say, and for s = 1 they are independent. (The authors' code multiplies by 4 what it then
    scores as if it were standard normal; that is not done here.)

    Raises:
        DiffusionError: if a split is not a step that adds noise or is listed twice, or the numbers are no tree's.
    """
    stochastic = stochastic_steps(process, rule, levels)
    _check_splits(splits, stochastic, branches, noise_scale)
    root = torch.arange(len(start), device=start.device)
    states, parents, log_probs = [start.float()], [], []
    for index, (level, next_level) in enumerate(transitions(levels)):
        step = step_distribution(process, rule, denoiser, condition(root), states[-1], level, next_level)
        width = branches if index in splits else 1
        parent = torch.arange(len(root), device=root.device).repeat_interleave(width)
        noise = torch.empty_like(states[-1]).normal_(generator=generator)[parent]
        if width > 1:
            fresh = torch.empty_like(noise).normal_(generator=generator)
            noise = math.sqrt(1.0 - noise_scale**2) * noise + noise_scale * fresh
        step = step.at(parent)
        states.append(step.sample(noise))
        parents.append(parent)
        known = index in stochastic
        log_probs.append(
            step.log_prob(states[-1], mask) if known else torch.zeros(len(parent), device=start.device)
        )
        root = root[parent]
    return Tree(tuple(states), tuple(parents), tuple(levels), tuple(log_probs))


def select_leaves(tree: Tree, index: Tensor) -> Tree:
    """Return the tree of the leaves `index` (M,) int64, in this order, and of the nodes they descend from."""
    kept = index.to(tree.clean.device)
    states, parents, log_probs = [tree.clean[kept]], [], []
    for depth in reversed(range(len(tree.levels))):
        log_probs.append(tree.log_probs[depth][kept])
        kept, parent = torch.unique(tree.parents[depth][kept], return_inverse=True)
        parents.append(parent)
        states.append(tree.states[depth][kept])
    return Tree(tuple(states[::-1]), tuple(parents[::-1]), tree.levels, tuple(log_probs[::-1]))


def join_trees(trees: Sequence[Tree]) -> Tree:
    """Return trees through the same levels as one, their leaves one after the other."""
    depths = range(len(trees[0].levels))
    parents = []
    for depth in depths:
        shifts = torch.tensor([0, *(len(tree.states[depth]) for tree in trees)]).cumsum(0).tolist()
        parents.append(
            torch.cat([tree.parents[depth] + shift for tree, shift in zip(trees, shifts, strict=False)])
        )
    states = [torch.cat([tree.states[depth] for tree in trees]) for depth in range(len(depths) + 1)]
    log_probs = [torch.cat([tree.log_probs[depth] for tree in trees]) for depth in depths]
    return Tree(tuple(states), tuple(parents), trees[0].levels, tuple(log_probs))


def _check_splits(
    splits: Sequence[int], stochastic: Sequence[int], branches: int, noise_scale: float
) -> None:
    wrong = [step for step in splits if step not in stochastic]
    if wrong or len(set(splits)) != len(splits):
        raise DiffusionError(
            f"a tree splits at steps that add noise, each once; those are {tuple(stochastic)}, "
            f"got splits={tuple(splits)}"
        )
    if branches < 2 or not 0.0 < noise_scale <= 1.0:
        raise DiffusionError(
            "a split has two branches or more, and a noise scale above 0 and at most 1, got "
            f"branches={branches} and noise_scale={noise_scale}"
        )
