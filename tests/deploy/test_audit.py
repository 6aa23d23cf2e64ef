"""The auditor finds every kind of broken limit, and none where limits are kept."""

import numpy as np
import pytest
from controlling import PERIOD, SAFETY

from diffpolicy.deploy.audit import ORDERS, Auditor, audit


def test_standing_still_breaks_nothing() -> None:
    assert audit(np.tile([5.0, 0.0], (20, 1)), SAFETY, PERIOD) == dict.fromkeys(ORDERS, 0)


def test_a_jump_breaks_what_a_jump_breaks() -> None:
    commands = np.tile([5.0, 0.0], (20, 1))
    commands[10:, 0] += 0.2  # 10 units/s for one period: up and down again
    assert audit(commands, SAFETY, PERIOD) == {
        "position": 0,
        "velocity": 1,
        "acceleration": 2,
        "jerk": 3,
    }


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.001, 10.001])
def test_positions_outside_are_found(value: float) -> None:
    commands = np.tile([5.0, 0.0], (5, 1))
    commands[3, 0] = value
    assert audit(commands, SAFETY, PERIOD)["position"] == 1


def test_a_restart_forgets_where_the_robot_was() -> None:
    auditor = Auditor(SAFETY, PERIOD)
    auditor.add(np.array([1.0, 0.0]))
    auditor.restart(np.array([9.0, 0.0]))
    auditor.add(np.array([9.0, 0.0]))
    assert (auditor.broken, auditor.commands) == (0, 2)


def test_the_first_command_is_judged_by_where_the_robot_stands() -> None:
    auditor = Auditor(SAFETY, PERIOD)
    auditor.restart(np.array([9.0, 0.0]))
    auditor.add(np.array([8.0, 0.0]))
    assert auditor.counts["velocity"] == 1
