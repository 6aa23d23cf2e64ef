"""Which checkpoint of a refinement is chosen, with imagined episodes made up."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

import envs
from diffpolicy.cli import refine_choice
from diffpolicy.refinement import GateConfig, ImaginedEpisodes

BALL = envs.task("BallCircle")


def asked(every: int | None = 2, score: str = "return", limit: float | None = 10.0) -> Any:
    task = SimpleNamespace(score=score, normalized_return=BALL.normalized_return)
    world: Any = SimpleNamespace(task=task, frozen=None, known_uncertainty=1.0, device=torch.device("cpu"))
    cfg = OmegaConf.create({"choose_every": every, "deploy": None, "refine": {"updates": 5}})
    return refine_choice.imagined_judge(cfg, world, GateConfig(), limit)


@pytest.fixture
def score(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the function from an imagined return, cost and uncertainty to the score."""
    monkeypatch.setattr(refine_choice.training, "read_checkpoint", lambda path: path)
    monkeypatch.setattr(refine_choice, "load_policy", lambda checkpoint, arm, device: (checkpoint, arm))

    def found(earned: float, cost: float, unsure: float = 1.0, limit: float | None = 10.0) -> float:
        columns = [torch.full((2,), value) for value in (earned, cost, unsure, 1.0)]
        episodes = ImaginedEpisodes(*columns, torch.zeros(2, dtype=torch.bool))
        monkeypatch.setattr(refine_choice, "imagine_episodes", lambda *given: episodes)
        return float(asked(limit=limit)(Path("here")).score)

    return found


def test_the_highest_return_is_chosen_among_those_that_cost_next_to_nothing(score: Any) -> None:
    good, better = score(300.0, 0.0), score(500.0, 0.2)
    assert good == pytest.approx(BALL.normalized_return(300.0))
    assert better > good
    assert score(700.0, 0.7) < good  # the gate would let it out, at 3
    assert score(700.0, 0.0, unsure=2.0) < good


def test_where_none_is_within_bounds_the_cheapest_is_chosen(score: Any) -> None:
    assert score(-900.0, 1.0) > score(900.0, 40.0)
    assert score(-900.0, 0.0) > score(-900.0, 1.0)


def test_without_a_limit_costs_do_not_matter(score: Any) -> None:
    assert score(500.0, 99.0, limit=None) == score(500.0, 0.0, limit=None)


def test_nobody_chooses_by_imagined_success_or_unasked() -> None:
    assert asked(every=3).every == 15
    assert asked(every=None) is None
    assert asked(score="success") is None
