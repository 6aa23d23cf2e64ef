"""D3PO: its gradient in closed form, symmetry, and where the clip ends it."""

import math

import pytest
import torch
from path_toy import FLOW, LEVELS, SDE, Small, gain, generator, gradient, log_probs_of, path_of, rated

from diffpolicy.alignment import Pairs, select
from diffpolicy.alignment.objectives import D3PO, D3POConfig
from diffpolicy.diffusion import Path, step_log_probs
from diffpolicy.training import TrainingError


def pairs(denoiser: Small) -> Pairs:
    """Return 4 comparisons of recorded paths."""
    path = path_of(rated(denoiser).rollout.path)
    winner, loser = (
        Path(path.states[:, rows], path.levels, log_probs_of(path)[:, rows])
        for rows in (slice(0, 4), slice(4, 8))
    )
    return Pairs(winner.clean, loser.clean, None, None, winner, loser)


def swapped(batch: Pairs) -> Pairs:
    return Pairs(batch.loser, batch.winner, None, None, batch.loser_path, batch.winner_path)


def test_at_the_reference_the_gradient_is_beta_over_2_times_that_of_the_likelihoods() -> None:
    denoiser = Small()
    batch = pairs(denoiser)
    parts = list(
        D3PO(FLOW, SDE, D3POConfig(beta=0.4)).parts(
            batch, {"train": denoiser, "reference": Small()}, generator()
        )
    )
    assert [part.loss.item() for part in parts] == pytest.approx([math.log(2.0) / len(LEVELS)] * len(LEVELS))
    gaps = [
        step_log_probs(FLOW, SDE, denoiser, None, path_of(batch.winner_path), step)[0]
        - step_log_probs(FLOW, SDE, denoiser, None, path_of(batch.loser_path), step)[0]
        for step in range(len(LEVELS))
    ]
    expected = torch.autograd.grad(-0.2 * torch.stack(gaps).mean(), list(denoiser.parameters()))
    wanted = torch.cat([each.flatten() for each in expected])
    torch.testing.assert_close(gradient(denoiser, parts), wanted, rtol=1e-4, atol=1e-7)
    back = list(
        D3PO(FLOW, SDE, D3POConfig(beta=0.4)).parts(
            swapped(batch), {"train": denoiser, "reference": Small()}, generator()
        )
    )
    torch.testing.assert_close(gradient(denoiser, back), -wanted, rtol=1e-4, atol=1e-7)


def test_a_pair_and_the_swapped_pair_share_one_probability() -> None:
    denoiser = Small()
    roles = {"train": denoiser, "reference": Small(1)}
    batch = select(pairs(Small()), torch.tensor([2]))
    objective = D3PO(FLOW, SDE, D3POConfig(beta=3.0, clip=0.9))
    there = objective.parts(batch, roles, generator())
    back = objective.parts(swapped(batch), roles, generator())
    for one, other in zip(there, back, strict=True):
        chances = [math.exp(-len(LEVELS) * part.loss.item()) for part in (one, other)]
        assert sum(chances) == pytest.approx(1.0, abs=1e-6)
        assert (
            one.logs["implicit_accuracy"] == float(chances[0] > 0.5) == 1.0 - other.logs["implicit_accuracy"]
        )


def test_beyond_the_clip_there_is_no_gradient() -> None:
    denoiser = Small()
    roles = {"train": denoiser, "reference": Small(1)}
    batch = pairs(Small())
    narrow = list(D3PO(FLOW, SDE, D3POConfig(clip=1e-6)).parts(batch, roles, generator()))
    assert all(part.logs["clipped"] == 1.0 for part in narrow)
    assert not gradient(denoiser, narrow).any()
    wide = list(D3PO(FLOW, SDE, D3POConfig(clip=0.9)).parts(batch, roles, generator()))
    assert gradient(denoiser, wide).any()


def test_the_check_looks_at_winners_and_losers() -> None:
    denoiser = Small()
    batch, objective = pairs(denoiser), D3PO(FLOW, SDE)
    objective.check(batch, {"train": denoiser})
    path = path_of(batch.loser_path)
    spoilt = path._replace(log_probs=log_probs_of(path) + 0.01)
    with pytest.raises(TrainingError, match=r"0\.00995"):
        objective.check(batch._replace(loser_path=spoilt), {"train": denoiser})


def test_options_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="beta"):
        D3POConfig(beta=0.0)
    with pytest.raises(ValueError, match="clip"):
        D3POConfig(clip=1.0)


def test_the_reward_rises() -> None:
    assert gain(D3PO(FLOW, SDE, D3POConfig(beta=10.0)), shared_start=True) > 0.15
