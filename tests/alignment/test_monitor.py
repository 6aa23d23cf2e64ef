"""The monitor measures against the base, prefers what stayed near the data, and ends a run that exploits its reward."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffpolicy import training
from diffpolicy.alignment import (
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
from diffpolicy.alignment.monitor import FACTS, OUTSIDE, PICTURE, Monitor
from diffpolicy.alignment.objectives import NFT
from diffpolicy.alignment.stopping import Look, StopRule, read_looks
from diffpolicy.diffusion import rectified_flow, trailing


class Point(nn.Module):
    """The exact velocity of data that is all at `mean` (1, 2, 2): samples are the mean, whatever the noise.

    With `spread` s they are N(mean, s^2).
    """

    def __init__(self, spread: float = 1.0) -> None:
        super().__init__()
        self.mean, self.spread = nn.Parameter(torch.full((1, 2, 2), 0.5)), nn.Parameter(torch.tensor(spread))

    def forward(self, noisy: Tensor, level: Tensor, condition: Any) -> Tensor:
        t = (level / 100)[:, None, None, None]
        signal, variance = 1.0 - t, (1.0 - t).square() * self.spread.square() + t.square()
        noise = t / variance * (noisy - signal * self.mean)
        clean = self.mean + signal * self.spread.square() / variance * (noisy - signal * self.mean)
        return noise - clean


class Brightness(Reward):
    def __init__(self, sign: float = 1.0) -> None:
        self.sign = sign

    def __call__(self, samples: Tensor, labels: Sequence[Any]) -> Rewards:
        return Rewards(self.sign * samples.mean((1, 2, 3)))


REAL = torch.full((3, 1, 2, 2), 0.5)
OFF = StopRule(manifold=None, diversity=None, gold_fall=None, divergence=None)


def model() -> Model:
    return Model(rectified_flow(100), trailing(100, 10), (1, 2, 2), CopiedRoles(Point(0.1)))


def network(made: Model) -> Point:
    point = made.roles.network("train")  # type: ignore[attr-defined]
    assert isinstance(point, Point)
    return point


def monitor(made: Model, **options: Any) -> Monitor:
    options = {"every": 2, "gold": Brightness(-1.0), "real": REAL, "samples": 16} | options
    return Monitor(made, Brightness(), **options)


def shift(made: Model, mean: float, spread: float = 1.0) -> None:
    with torch.no_grad():
        network(made).mean += mean
        network(made).spread *= spread


def test_the_base_is_like_itself(tmp_path: Path) -> None:
    verdict = monitor(model())(tmp_path / "checkpoints" / "step-00000002")
    assert verdict.values["monitor/manifold"] == verdict.values["monitor/diversity"] == 1.0
    assert verdict.values["monitor/reference_distance"] == 0.0
    assert verdict.values["monitor/proxy"] == pytest.approx(0.5, abs=0.1)
    assert verdict.score == verdict.values["monitor/gold"] == -verdict.values["monitor/proxy"]
    assert verdict.stop is None
    assert verdict.film is not None
    assert verdict.film[:3] == b"GIF"
    assert (tmp_path / PICTURE).exists()
    assert (tmp_path / FACTS).exists()


def test_moved_samples_move_the_reward_and_leave_the_manifold(tmp_path: Path) -> None:
    made = model()
    watch = monitor(made)
    before = watch(tmp_path / "checkpoints" / "step-00000002")
    shift(made, 1.0)
    after = watch(tmp_path / "checkpoints" / "step-00000004")
    rose = after.values["monitor/proxy"] - before.values["monitor/proxy"]
    assert rose == pytest.approx(1.0, abs=0.02)  # from the same noise, the shift
    assert after.values["monitor/diversity"] == pytest.approx(1.0, abs=1e-4)
    assert after.values["monitor/manifold"] > 5.0
    assert after.values["monitor/reference_distance"] > 0.1
    assert after.stop is not None
    assert "nearest real sample" in after.stop
    assert after.score < -OUTSIDE


def test_a_collapse_is_seen_without_real_samples(tmp_path: Path) -> None:
    made = model()
    watch = monitor(made, real=None, gold=None)
    shift(made, 0.0, spread=0.2)
    verdict = watch(tmp_path / "checkpoints" / "step-00000002")
    assert verdict.values["monitor/diversity"] < 0.3
    assert "monitor/gold" not in verdict.values
    assert verdict.stop is not None
    assert "diversity" in verdict.stop


def looks(*rows: tuple[float, float]) -> list[Look]:
    return [Look(10 * index, proxy, gold, 0.0, 1.0, 1.0) for index, (proxy, gold) in enumerate(rows)]


def test_a_reward_that_rises_while_gold_falls_is_exploited() -> None:
    rule = StopRule(patience=2)
    seen = looks((0.0, 0.5), (1.0, 0.9), (2.0, 0.7), (3.0, 0.7))
    assert rule.reason(seen[:3], 1.0) is None  # one look below the best may be chance
    reason = rule.reason(seen, 1.0)
    assert reason is not None
    assert "exploited" in reason
    assert "step 10" in reason
    assert rule.reason(seen, 10.0) is None  # within the noise of gold
    assert rule.reason(looks((0.0, 0.5), (1.0, 0.9), (2.0, 0.7), (3.0, 0.95)), 1.0) is None


def test_gold_that_falls_for_long_stops_whatever_the_reward_does() -> None:
    seen = looks((0.0, 0.5), (1.0, 0.9), (0.5, 0.6), (0.4, 0.6))
    reason = StopRule(patience=2).reason(seen, 1.0)
    assert reason is not None
    assert "exploited" not in reason
    assert StopRule(patience=2, gold_fall=None).reason(seen, 1.0) is None


def test_gold_that_the_base_never_earned_stops_nothing() -> None:
    """A binary judge that no sample of the base satisfied has no deviation to measure falls in."""
    seen = looks((0.0, 0.0), (1.0, 0.90), (2.0, 0.89), (3.0, 0.89), (4.0, 0.89))
    assert StopRule().reason(seen, 0.0) is None


def test_samples_that_are_not_finite_are_told_before_they_are_rated(tmp_path: Path) -> None:
    class Picky(Reward):
        def __call__(self, samples: Tensor, labels: Sequence[Any]) -> Rewards:
            if not torch.isfinite(samples).all():
                raise ValueError("Input X contains NaN")
            return Rewards(samples.mean((1, 2, 3)))

    made = model()
    watch = monitor(made, gold=Picky())
    shift(made, float("nan"))
    with pytest.raises(training.FeedbackError, match="no longer finite"):
        watch(tmp_path / "checkpoints" / "step-00000002")


def test_limits_that_are_off_stop_nothing() -> None:
    assert OFF.reason([Look(1, 9.0, -9.0, 9.0, 9.0, 0.0)] * 9, 1.0) is None
    reason = StopRule(reference_distance=1.0).reason([Look(1, 0.0, None, 2.0, None, None)], 0.0)
    assert reason is not None
    assert "distance to the reference" in reason
    with pytest.raises(ValueError, match="manifold"):
        StopRule(manifold=0.0)


class Remembering(Brightness):
    """Each call is rated otherwise than the one before."""

    calls = 0

    def __call__(self, samples: Tensor, labels: Sequence[Any]) -> Rewards:
        self.calls += 1
        return Rewards(samples[:, 0, self.calls % 2, 0])

    def state(self) -> dict[str, Any]:
        return {"calls": self.calls}

    def load_state(self, state: dict[str, Any]) -> None:
        self.calls = state["calls"]


def aligner(made: Model, iterations: int = 4, reward: Reward | None = None) -> Aligner:
    objective = NFT(made.matcher())
    online = Online(made, reward or Brightness(), objective, OnlineConfig(groups=2, group_size=8))
    config = AlignConfig(iterations=iterations, updates=2, learning_rate=0.02)
    return Aligner(made, [Term(objective, online)], config)


OPTIONS: dict[str, Any] = {"checkpoint_every": 2, "log_every": 1, "progress": False}


def test_a_run_learns_the_same_with_and_without_it(tmp_path: Path) -> None:
    watched, alone, reward = model(), model(), Remembering()
    judge = Monitor(watched, reward, every=2, samples=16, rule=OFF)
    training.run(aligner(watched, reward=reward), tmp_path / "a", {}, judge=judge, **OPTIONS)
    training.run(aligner(alone, reward=Remembering()), tmp_path / "b", {}, **OPTIONS)
    assert torch.equal(network(watched).mean, network(alone).mean)
    assert [look.step for look in read_looks(tmp_path / "a")] == [2, 4, 6, 8]


def test_another_process_goes_on_with_what_was_seen(tmp_path: Path) -> None:
    made, rule = model(), OFF
    watch = monitor(made, rule=rule)
    training.run(aligner(made), tmp_path, {}, judge=watch, **OPTIONS)
    again = model()
    other = monitor(again, rule=rule)
    learner = aligner(again)
    learner.load_state(training.read_training_state(tmp_path / "checkpoints" / "step-00000008"))
    other(tmp_path / "checkpoints" / "step-00000008")
    assert other.looks == watch.looks


def test_a_stop_ends_the_run_and_a_second_call_returns_at_once(tmp_path: Path) -> None:
    made = model()
    rule = StopRule(manifold=1.0001)
    last = training.run(aligner(made, 50), tmp_path, {}, judge=monitor(made, rule=rule), **OPTIONS)
    assert last.name != "step-00000100"
    learner = aligner(model(), 50)

    def never(step: int) -> dict[str, Tensor]:
        raise AssertionError("the run had been stopped")

    learner.update = never  # type: ignore[method-assign]
    assert training.run(learner, tmp_path, {}, **OPTIONS) == last


def test_a_look_that_could_not_be_rated_is_made_up_for_on_resuming(tmp_path: Path) -> None:
    class Broken(Brightness):
        calls = 0

        def __call__(self, samples: Tensor, labels: Sequence[Any]) -> Rewards:
            self.calls += 1
            if self.calls > 2:  # after the base and the first look
                raise training.FeedbackError("no gold today")
            return super().__call__(samples, labels)

    made, again = model(), model()
    with pytest.raises(training.FeedbackError, match="no gold today"):
        training.run(aligner(made), tmp_path, {}, judge=monitor(made, gold=Broken(), rule=OFF), **OPTIONS)
    other = monitor(again, gold=Brightness(), rule=OFF)
    training.run(aligner(again), tmp_path, {}, judge=other, **OPTIONS)
    assert [look.step for look in other.looks] == [2, 4, 6, 8]
