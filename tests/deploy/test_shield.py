"""The shield: its steps in their order, what holds, what latches, and that nothing gets past its limits."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from controlling import PERIOD, SAFETY, manifest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffpolicy.deploy.audit import audit
from diffpolicy.deploy.errors import ManifestError
from diffpolicy.deploy.shield import STEPS, Proposal, Shield, Verdict


class Driver:
    """Calls a shield once a period; every reading differs from the one before."""

    def __init__(self, **changes: Any) -> None:
        self.shield = Shield(manifest(**changes), PERIOD)
        self.shield.reset(np.array([5.0, 0.0]))
        self.now = 100.0
        self.commands = [np.array([5.0, 0.0])]

    def __call__(
        self,
        action: Any = (5.0, 0.0),
        *,
        state: Any = None,
        age: float = 0.0,
        lasts: float = 1.0,
        feasible: float | None = None,
        flags: tuple[str, ...] = (),
        stop: str | None = None,
    ) -> Verdict:
        self.now += PERIOD
        state = np.array([self.now - 100.0, 0.0, 0.0], np.float32) if state is None else state
        proposal = None if action is None else Proposal(np.array(action), self.now + lasts, feasible, flags)
        verdict = self.shield.filter(proposal, {"state": state}, self.now - age, self.now, stop)
        self.commands.append(verdict.command)
        return verdict

    def check(self) -> None:
        assert not any(audit(np.array(self.commands), SAFETY, PERIOD).values())


def test_an_action_within_the_limits_is_sent_as_it_is() -> None:
    drive = Driver()
    verdict = drive((5.001, 0.0))
    assert verdict.command.tolist() == [5.001, 0.0]
    assert (verdict.steps, verdict.holding, verdict.latched) == ((), False, None)


@pytest.mark.parametrize(
    "state",
    [
        np.array([0.0, np.nan, 0.0], np.float32),
        np.array([0.0, np.inf, 0.0], np.float32),
        np.zeros(4, np.float32),
        np.zeros(3, np.float64),
        np.array([None, 1, 2]),
        [0.0, 0.0, 0.0],
        None.__class__,
    ],
)
def test_an_unusable_observation_latches(state: Any) -> None:
    drive = Driver()
    drive()
    verdict = drive(state=state)
    assert verdict.steps == ("invalid",)
    assert verdict.latched is not None
    assert "state" in verdict.latched or "y" in verdict.latched
    assert drive().steps == ("latched",)
    drive.check()


def test_a_missing_signal_latches() -> None:
    drive = Driver()
    verdict = drive.shield.filter(None, {}, 100.0, 100.0)
    assert verdict.latched == "invalid: observation 'state' is missing or no array"


@pytest.mark.parametrize("action", [(np.nan, 0.0), (5.0, -np.inf), (5.0,), ((5.0, 0.0),), ("a", "b")])
def test_an_unusable_action_latches_and_the_robot_comes_to_rest(action: Any) -> None:
    drive = Driver()
    for _ in range(10):
        drive((9.0, 0.5))
    moving = drive.commands[-1]
    assert drive(action).latched is not None
    for _ in range(40):
        drive((9.0, 0.5))
    drive.check()
    assert np.array_equal(drive.commands[-1], drive.commands[-10])
    assert np.abs(drive.commands[-1] - moving).max() < 2.0


def test_a_stale_observation_holds_and_latches_after_the_watchdog() -> None:
    drive = Driver()
    drive()
    verdict = drive(age=0.3)
    assert verdict.steps == ("stale",)
    assert verdict.latched is None
    assert drive().steps == ()  # it goes on
    steps = [drive(age=0.3).steps for _ in range(20)]
    first = steps.index(("stale", "watchdog"))
    assert first * PERIOD == pytest.approx(SAFETY.watchdog, abs=PERIOD)
    assert drive().steps == ("latched",)


def test_an_observation_from_the_future_is_not_believed() -> None:
    assert Driver()(age=-1.0).steps == ("stale",)


def test_a_frozen_sensor_is_noticed_while_the_robot_moves() -> None:
    drive = Driver()
    same = np.zeros(3, np.float32)
    steps = [drive((9.0, 0.0), state=same).steps for _ in range(40)]
    assert "stale" in steps[-1] or "latched" in steps[-1]
    assert any("no reading has changed" in event.text for event in drive.shield.events)
    drive.check()


def test_a_robot_that_stands_still_may_see_the_same_for_ever() -> None:
    drive = Driver()
    same = np.zeros(3, np.float32)
    assert all(drive((5.0, 0.0), state=same).steps == () for _ in range(100))


def test_no_action_and_an_expired_one_are_late() -> None:
    drive = Driver()
    assert drive(None).steps == ("late",)
    assert drive(lasts=-0.01).steps == ("late",)


def test_nothing_latches_before_the_first_action() -> None:
    drive = Driver()
    assert all(drive(None).latched is None for _ in range(100))


def test_an_infeasible_action_is_refused_unless_it_is_the_backup() -> None:
    drive = Driver(safety=replace(SAFETY, feasible_below=0.0))
    assert drive((5.001, 0.0), feasible=-0.1).steps == ()
    assert drive((5.02, 0.0), feasible=0.1).steps == ("infeasible",)
    assert drive((5.02, 0.0), feasible=float("nan")).steps == ("infeasible",)
    assert "infeasible" not in drive((5.02, 0.0), feasible=0.1, flags=("backup",)).steps
    assert "infeasible" not in Driver()((5.0, 0.0), feasible=0.1).steps  # no threshold in the manifest


def test_what_is_limited_is_named() -> None:
    drive = Driver()
    assert drive((11.0, 0.0)).steps == ("position", "velocity", "acceleration", "jerk")
    drive = Driver()
    assert drive((5.05, 0.0)).steps == ("acceleration", "jerk")


def test_outside_the_workspace_latches() -> None:
    safety = replace(SAFETY, workspace=("y",), workspace_low=(-1.0,), workspace_high=(1.0,))
    drive = Driver(safety=safety)
    assert drive(state=np.array([0.0, 1.0, 0.0], np.float32)).steps == ()
    verdict = drive(state=np.array([0.0, 1.1, 0.0], np.float32))
    assert verdict.latched == "workspace: y is 1.1, outside [-1, 1]"


def test_time_that_goes_backwards_latches() -> None:
    drive = Driver()
    drive()
    drive.now -= 1.0
    assert (drive().latched or "").startswith("clock")
    drive = Driver()
    drive.now = np.nan
    assert (drive().latched or "").startswith("clock")


def test_only_a_reset_ends_a_stop() -> None:
    drive = Driver()
    assert drive(stop="pressed by a person").latched == "stop: pressed by a person"
    assert all(drive().latched is not None for _ in range(50))
    drive.shield.reset(np.array([4.0, 0.0]))
    verdict = drive((4.0, 0.0))
    assert (verdict.latched, verdict.command.tolist()) == (None, [4.0, 0.0])
    with pytest.raises(ValueError, match="finite numbers"):
        drive.shield.reset(np.array([np.nan, 0.0]))


def test_a_robot_with_a_rest_command_is_brought_to_it() -> None:
    shield = Shield(manifest(), PERIOD, rest=np.array([0.0, 0.0]))
    shield.reset(np.array([5.0, 0.5]))
    commands = [np.array([5.0, 0.5])]
    for index in range(200):
        state = np.array([index, 0.0, 0.0], np.float32)
        now = 100.0 + index * PERIOD
        commands.append(shield.filter(None, {"state": state}, now, now, "stop").command)
    assert np.allclose(commands[-1], [0.0, 0.0], atol=1e-9)
    assert not any(audit(np.array(commands), SAFETY, PERIOD).values())


@pytest.mark.parametrize("rest", [np.array([-1.0, 0.0]), np.array([np.nan, 0.0]), np.array([5.0])])
def test_a_rest_that_is_no_command_is_refused(rest: Any) -> None:
    with pytest.raises(ManifestError, match="standing still"):
        Shield(manifest(), PERIOD, rest=rest)


def test_a_robot_far_outside_its_limits_is_not_taken(caplog: pytest.LogCaptureFixture) -> None:
    """From there the first command would be a leap to the limit."""
    shield = Shield(manifest(), PERIOD)
    with pytest.raises(ValueError, match=r"left stands at 10\.2, outside \[0, 10\]: move it inside"):
        shield.reset(np.array([10.2, 0.0]))
    shield.reset(np.array([10.05, 0.0]))
    assert shield.state.motion.position.tolist() == [10.0, 0.0]


@pytest.mark.parametrize("observation", [None, 5, {"state": [[1.0], [1.0, 2.0]]}, {"state": None}, {3: 4}])
def test_what_is_no_observation_latches_and_does_not_raise(observation: Any) -> None:
    drive = Driver()
    drive()
    for _ in range(3):
        drive.now += PERIOD
        verdict = drive.shield.filter(None, observation, drive.now, drive.now)
    assert (verdict.latched or "").startswith("invalid: observation 'state' is missing")


def test_a_value_that_is_no_number_is_not_let_pass_by_a_flag() -> None:
    drive = Driver(safety=replace(SAFETY, feasible_below=0.0))
    assert drive(feasible=float("nan"), flags=("backup",)).steps == ("infeasible",)
    assert drive(feasible=0.5, flags=("backup",)).steps == ()


def test_limits_of_the_wrong_size_are_refused() -> None:
    with pytest.raises(ManifestError):
        manifest(safety=replace(SAFETY, velocity=(1.0,)))


numbers = st.floats(width=32, allow_nan=True, allow_infinity=True) | st.floats(-2.0, 12.0)
proposals = st.none() | st.tuples(
    st.one_of(st.lists(numbers, min_size=2, max_size=2), st.lists(numbers, max_size=3)),
    st.floats(allow_nan=True),
    st.none() | st.floats(allow_nan=True),
    st.sampled_from([(), ("backup",), ("cold",)]),
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(proposals, st.lists(numbers, max_size=4), st.floats(-1.0, 1.0), st.integers(0, 9)),
        min_size=10,
        max_size=40,
    )
)
def test_whatever_comes_in_every_command_is_finite_and_within_all_limits(ticks: list[Any]) -> None:
    shield = Shield(manifest(safety=replace(SAFETY, feasible_below=0.0)), PERIOD)
    shield.reset(np.array([5.0, 0.0]))
    commands, now = [np.array([5.0, 0.0])], 0.0
    for proposal, state, age, kind in ticks:
        now += PERIOD
        given = None
        if proposal is not None:
            action, until, feasible, flags = proposal
            given = Proposal(np.array(action), now + until, feasible, flags)
        fitting = kind > 2  # otherwise the shield would be latched most of the time
        reading = np.array([now, 0.0, 0.0] if fitting else state, np.float32)
        verdict = shield.filter(given, {"state": reading}, now if fitting else now - age, now)
        assert set(verdict.steps) <= set(STEPS)
        commands.append(verdict.command)
        if verdict.latched and kind > 7:
            shield.reset(verdict.command)
            commands = [verdict.command]
    assert not any(audit(np.array(commands), SAFETY, PERIOD).values())
