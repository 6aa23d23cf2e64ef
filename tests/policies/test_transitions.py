"""What critics learn from: bounds of what the data achieved, where the future is known."""

from dataclasses import replace

import pytest
import torch

from diffpolicy.data import OfflineDataset
from diffpolicy.policies import FisorConfig
from diffpolicy.policies.transitions import Transitions
from diffpolicy.safety import KINDS, CriticConfig

INF = torch.inf


def two_episodes() -> OfflineDataset:
    """Two episodes of two steps, the first of which terminates while the other times out."""
    return OfflineDataset(
        observations=torch.zeros(6, 1),
        rows=torch.tensor([0, 1, 3, 4]),
        actions=torch.zeros(4, 1),
        rewards=torch.ones(4),
        costs=torch.zeros(4),
        terminals=torch.tensor([False, True, False, False]),
        timeouts=torch.tensor([False, False, False, True]),
        episode_ends=torch.tensor([2, 4]),
    )


def prepared(config: FisorConfig) -> Transitions:
    return Transitions.prepare(two_episodes(), config, 1.0, torch.device("cpu"), None)


def test_what_was_achieved_before_a_time_out_bounds_nothing_beyond_it() -> None:
    config = FisorConfig(critic=CriticConfig(behaviour_bound=list(KINDS)))
    published, through = prepared(config), prepared(replace(config, timeouts_terminal=False))
    assert published.bounds is not None
    assert through.bounds is not None
    assert published.bounds.isfinite().all()
    assert torch.equal(through.bounds[:, :2], published.bounds[:, :2])
    assert through.bounds[:, 2:].tolist() == [[-INF, -INF], [INF, INF], [INF, INF]]
    assert through.alive.tolist() == [1.0, 0.0, 1.0, 1.0]


def test_only_the_kinds_that_are_named_are_bounded() -> None:
    found = prepared(FisorConfig(critic=CriticConfig(behaviour_bound=["feasibility"]))).bounds
    assert found is not None
    bounded = dict(zip(KINDS, found.isfinite().all(1).tolist(), strict=True))
    assert bounded == {"reward": False, "feasibility": True, "cost": False}
    assert found[KINDS.index("reward")].tolist() == [-INF] * 4
    with pytest.raises(ValueError, match="behaviour_bound"):
        prepared(FisorConfig(critic=CriticConfig(behaviour_bound=["rewards"])))
