"""Denoising trees: what they cost, how their noises are distributed, selection and joining, refusals."""

from typing import Any

import pytest
import torch
from torch import Tensor

from diffpolicy.diffusion import (
    StepRule,
    Tree,
    join_trees,
    rectified_flow,
    sample_tree,
    select_leaves,
    step_distribution,
    trailing,
    transitions,
)

FLOW = rectified_flow(100)
RULE = StepRule("dance_sde")


class Counting:
    """A velocity that depends on the condition (N,) and counts what it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, noisy: Tensor, level: Tensor, condition: Any) -> Tensor:
        self.asked += len(noisy)
        velocity: Tensor = 0.5 * noisy + condition[:, None]
        return velocity


def grow(
    splits: tuple[int, ...], steps: int = 5, roots: int = 2, denoiser: Any = None, **options: Any
) -> Tree:
    start = torch.randn(roots, 3, generator=torch.Generator().manual_seed(1))
    return sample_tree(
        FLOW,
        RULE,
        trailing(100, steps),
        denoiser or Counting(),
        lambda root: root.float(),
        start,
        splits,
        torch.Generator().manual_seed(2),
        **options,
    )


def test_the_published_tree_takes_203_evaluations_for_218_steps() -> None:
    denoiser = Counting()
    tree = grow((0, 3, 6, 9), steps=20, roots=1, denoiser=denoiser)
    assert len(tree.clean) == 16
    assert denoiser.asked == tree.evaluations == 203
    assert tree.edges == 218


def test_children_are_steps_from_their_parents_with_the_log_probabilities_recorded() -> None:
    tree = grow((1, 3))
    lineage = tree.lineage()
    root = lineage[0]
    assert root.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    for depth, (level, next_level) in enumerate(transitions(tree.levels)):
        parents = tree.states[depth][lineage[depth]]
        step = step_distribution(FLOW, RULE, Counting(), root.float(), parents, level, next_level)
        found = step.log_prob(tree.states[depth + 1][lineage[depth + 1]])
        torch.testing.assert_close(found, tree.log_probs[depth][lineage[depth + 1]])
    assert len(torch.unique(tree.clean, dim=0)) == 8


@pytest.mark.parametrize(("scale", "correlation"), [(1.0, 0.0), (0.6, 0.64)])
def test_the_noises_of_a_split_are_standard_normal_and_share_what_the_scale_leaves(
    scale: float, correlation: float
) -> None:
    tree = grow((0,), steps=1, roots=40_000, noise_scale=scale)
    level, next_level = transitions(tree.levels)[0]
    parents = tree.states[0][tree.parents[0]]
    root = tree.parents[0].float()
    step = step_distribution(FLOW, RULE, Counting(), root, parents, level, next_level)
    noise = ((tree.clean - step.mean) / step.std).reshape(-1, 2, 3).double()
    assert noise.mean().abs() < 0.01
    assert noise.square().mean().item() == pytest.approx(1.0, abs=0.01)
    assert (noise[:, 0] * noise[:, 1]).mean().item() == pytest.approx(correlation, abs=0.012)


def test_selected_leaves_keep_their_ancestors_and_joined_trees_their_own() -> None:
    tree = grow((1, 3))
    index = torch.tensor([6, 1, 7])
    part = select_leaves(tree, index)
    assert torch.equal(part.clean, tree.clean[index])
    assert [len(nodes) for nodes in part.states] == [2, 2, 2, 2, 3, 3]
    for mine, whole, nodes, every in zip(
        part.lineage(), tree.lineage(), part.states, tree.states, strict=True
    ):
        assert torch.equal(nodes[mine], every[whole[index]])
    halves = [select_leaves(tree, rows) for rows in (torch.arange(4), torch.arange(4, 8))]
    back = join_trees(halves)
    for name in ("states", "parents", "log_probs"):
        assert all(map(torch.equal, getattr(back, name), getattr(tree, name)))


@pytest.mark.parametrize(
    ("splits", "options", "message"),
    [
        ((5,), {}, "steps that add noise"),
        ((1, 1), {}, "each once"),
        ((1,), {"branches": 1}, "two branches"),
        ((1,), {"noise_scale": 0.0}, "noise scale"),
        ((1,), {"noise_scale": 4.0}, "noise scale"),
    ],
)
def test_what_is_no_tree_is_refused(splits: tuple[int, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grow(splits, **options)
