"""Trees in alignment: advantages of every step, the path as the tree without a split, whole trees in minibatches."""

import pytest
import torch
from path_toy import (
    FLOW,
    LEVELS,
    SDE,
    Small,
    ToTheRight,
    gain,
    gathered,
    generator,
    gradient,
    log_probs_of,
    path_of,
    rated,
    rated_trees,
    tree_of,
)

from diffpolicy.alignment import CopiedRoles, Model, Online, OnlineConfig
from diffpolicy.alignment.objectives import AWM, DDPO, DanceGRPO, DanceGRPOConfig, DDPOConfig
from diffpolicy.alignment.packing import pack, unpack
from diffpolicy.alignment.samples import select, split
from diffpolicy.alignment.tree import node_values, tree_advantages
from diffpolicy.diffusion import Tree


def test_advantages_sum_to_nothing_at_every_depth_of_every_tree() -> None:
    tree = tree_of(rated_trees(Small(), (1, 3), trees=3))
    rewards = torch.randn(12, generator=generator(5))
    for temperature in (None, 0.5):
        advantages = tree_advantages(tree, rewards, temperature)
        assert advantages.shape == (12, len(LEVELS))
        lineage = tree.lineage()
        for depth in range(len(LEVELS)):
            nodes = torch.zeros(len(tree.states[depth + 1]))
            nodes[lineage[depth + 1]] = advantages[:, depth]
            # Leaves below a node agree on what the step to it is worth.
            assert torch.equal(nodes[lineage[depth + 1]], advantages[:, depth])
            assert nodes.reshape(3, -1).sum(dim=1).abs().max() < 1e-5
    assert not advantages[:, 0].any()  # before the first split there is nothing to compare
    assert advantages[:, 1].any()
    assert not tree_advantages(tree, torch.ones(12)).any()


def test_a_node_is_worth_the_mean_of_its_leaves_or_their_weighted_mean() -> None:
    tree = Tree(
        (torch.zeros(1, 1), torch.zeros(2, 1), torch.zeros(4, 1)),
        (torch.tensor([0, 0]), torch.tensor([0, 0, 1, 1])),
        (2, 1),
        (torch.tensor([0.0, 3.0]).log1p(), torch.tensor([0.0, 0.0, 0.0, 1.0]).log1p()),
    )
    rewards = torch.tensor([1.0, 3.0, 5.0, 8.0])
    plain = node_values(tree, rewards)
    assert [each.tolist() for each in plain] == [[4.25], [2.0, 6.5], [1.0, 3.0, 5.0, 8.0]]
    weighted = node_values(tree, rewards, 1.0)
    assert weighted[1].tolist() == pytest.approx([2.0, (5.0 + 2.0 * 8.0) / 3.0])
    assert weighted[0].item() == pytest.approx((2.0 + 4.0 * 7.0) / 5.0)
    advantages = tree_advantages(tree, rewards)
    assert advantages[:, 0].tolist() == pytest.approx([-1.0, -1.0, 1.0, 1.0])


def test_a_path_is_a_tree_without_splits() -> None:
    denoiser = Small()
    batch = rated(denoiser)
    path = path_of(batch.rollout.path)
    each = torch.arange(8)
    steps = len(LEVELS)
    tree = Tree(tuple(path.states), (each,) * steps, path.levels, tuple(log_probs_of(path)))
    as_tree = batch._replace(rollout=batch.rollout._replace(path=tree))
    first, second = (
        list(DDPO(FLOW, SDE).parts(one, {"train": denoiser}, generator())) for one in (batch, as_tree)
    )
    assert torch.equal(gradient(denoiser, first), gradient(denoiser, second))


def test_every_edge_counts_once_and_every_node_is_evaluated_once() -> None:
    denoiser = Small()
    batch = rated_trees(denoiser, (0, 2))
    tree = tree_of(batch)
    denoiser.calls.clear()
    parts = list(DDPO(FLOW, SDE).parts(batch, {"train": denoiser}, generator()))
    assert sum(denoiser.calls) == tree.evaluations == 2 * (1 + 2 + 2 + 4 + 4 + 4)
    lineage, loss = tree.lineage(), 0.0
    for depth in range(len(LEVELS)):
        nodes = torch.zeros(len(tree.states[depth + 1]))
        for leaf in reversed(range(8)):
            nodes[lineage[depth + 1][leaf]] = batch.advantages[leaf, depth]
        loss -= nodes.sum().item() / tree.edges
    assert sum(part.loss.item() for part in parts) == pytest.approx(loss, rel=1e-4)


def test_minibatches_and_checkpoints_hold_whole_trees() -> None:
    batch = rated_trees(Small(), (0, 2), trees=3)
    pieces = list(split(batch, 3, generator()))
    assert [len(piece.rollout.clean) for piece in pieces] == [4, 4, 4]
    for piece in pieces:
        assert len(torch.unique(piece.rollout.group)) == 1
        assert len(tree_of(piece).states[0]) == 1
        assert torch.equal(tree_of(piece).clean, piece.rollout.clean)
    with pytest.raises(ValueError, match="3 trees"):
        list(split(batch, 4, generator()))
    back = unpack(pack(batch), torch.device("cpu"))
    assert all(map(torch.equal, tree_of(back).parents, tree_of(batch).parents))


def test_roll_outs_in_trees_are_those_of_the_denoiser_and_may_be_made_in_parts() -> None:
    objective = DDPO(FLOW, SDE)
    config = OnlineConfig(groups=3, group_size=4, rule=SDE, splits=(0, 2), at_once=4)
    batch, model = gathered(objective, config)
    tree, start = tree_of(batch), batch.rollout.start
    assert start is not None
    assert torch.equal(tree.clean, batch.rollout.clean)
    assert torch.equal(tree.lineage()[0], batch.rollout.group)
    assert torch.equal(tree.states[0], start[::4])
    assert batch.advantages.shape == (12, len(LEVELS))
    objective.check(batch, model.roles)
    objective.check(select(batch, torch.tensor([5, 2, 7])), model.roles)


def test_trees_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="group of 4 samples, got group_size=5"):
        OnlineConfig(group_size=5, splits=(0, 1))
    with pytest.raises(ValueError, match="advantages of its own"):
        OnlineConfig(group_size=4, splits=(0, 1), advantages="softmax")
    model = Model(FLOW, LEVELS, (2,), CopiedRoles(Small()))
    with pytest.raises(ValueError, match="leave splits empty"):
        Online(model, ToTheRight(), AWM(model.matcher()), OnlineConfig(group_size=4, splits=(0, 1)))
    tree = tree_of(rated_trees(Small()))
    for rewards in (torch.zeros(3), torch.full((8,), torch.nan)):
        with pytest.raises(ValueError, match="finite reward"):
            tree_advantages(tree, rewards)
    with pytest.raises(ValueError, match="temperature"):
        tree_advantages(tree, torch.zeros(8), 0.0)


def test_the_reward_rises_on_trees() -> None:
    assert gain(DanceGRPO(FLOW, SDE, DanceGRPOConfig(clip=1e-3)), splits=(0, 1, 2)) > 0.15
    assert gain(DDPO(FLOW, SDE, DDPOConfig(clip=1e-3)), splits=(0, 1, 2), noise_scale=0.7) > 0.1
