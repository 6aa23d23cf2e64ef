"""Chunks laid out in time: the right action at every moment, late ones dropped, overlaps blended."""

import numpy as np
import pytest

from diffpolicy.deploy.client import Reply
from diffpolicy.deploy.timeline import Timeline


def reply(stamp: float, values: list[float], **changes: object) -> Reply:
    actions = np.array(values, np.float32)[:, None]
    return Reply(actions, 0, stamp, stamp + 10.0, **changes)  # type: ignore[arg-type]


def at(timeline: Timeline, now: float) -> float | None:
    proposal = timeline.sample(now)
    return None if proposal is None else float(proposal.action[0])


def test_actions_are_for_their_times_and_interpolated_between() -> None:
    timeline = Timeline(0.1, blend=0.0)
    assert at(timeline, 0.0) is None
    assert timeline.add(reply(1.0, [0.0, 1.0, 3.0]), 1.0)
    assert at(timeline, 1.0) == 0.0
    assert at(timeline, 1.05) == pytest.approx(0.5)
    assert at(timeline, 1.15) == pytest.approx(2.0)
    assert at(timeline, 1.25) == 3.0  # the last one lasts its period
    assert at(timeline, 1.31) is None


def test_without_interpolation_an_action_lasts_its_period() -> None:
    timeline = Timeline(0.1, blend=0.0, interpolate=False)
    timeline.add(reply(1.0, [0.0, 1.0]), 1.0)
    assert (at(timeline, 1.09), at(timeline, 1.11)) == (0.0, 1.0)


def test_actions_for_times_gone_by_are_dropped_and_counted() -> None:
    timeline = Timeline(0.1, blend=0.0)
    assert timeline.add(reply(1.0, [0.0, 1.0, 2.0, 3.0]), 1.25)
    assert timeline.dropped == 2
    assert at(timeline, 1.25) == pytest.approx(2.5)
    assert not timeline.add(reply(1.1, [0.0, 1.0]), 1.4)  # wholly late
    assert timeline.dropped == 4
    assert at(timeline, 1.25) == pytest.approx(2.5)


def test_a_chunk_older_than_the_newest_is_dropped() -> None:
    timeline = Timeline(0.1, blend=0.0)
    timeline.add(reply(1.0, [0.0] * 8), 1.0)
    assert not timeline.add(reply(0.9, [5.0] * 8), 1.0)
    assert at(timeline, 1.0) == 0.0


def test_a_new_chunk_takes_over_gradually() -> None:
    timeline = Timeline(0.1, blend=0.1)
    timeline.add(reply(1.0, [0.0] * 8), 1.0)
    timeline.add(reply(1.2, [4.0] * 8), 1.2)
    assert [at(timeline, now) for now in (1.2, 1.25, 1.3, 1.4)] == pytest.approx([0.0, 2.0, 4.0, 4.0])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_chunk_with_a_value_that_is_not_finite_is_shown_to_the_shield_at_once(value: float) -> None:
    timeline = Timeline(0.1)
    timeline.add(reply(1.0, [0.0, 0.0, value]), 1.0)
    assert np.array_equal(at(timeline, 1.0), value, equal_nan=True)


def test_validity_and_judgement_travel_with_the_action() -> None:
    timeline = Timeline(0.1)
    timeline.add(reply(1.0, [0.0, 0.0], feasible=0.5, flags=("backup",)), 1.0)
    proposal = timeline.sample(1.0)
    assert proposal is not None
    assert (proposal.valid_until, proposal.feasible, proposal.flags) == (11.0, 0.5, ("backup",))
    timeline.clear()
    assert timeline.sample(1.0) is None
