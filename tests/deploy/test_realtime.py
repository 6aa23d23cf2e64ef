"""Deadlines: what is asked of the system, and what happens where it refuses."""

from typing import Any

import pytest

from diffpolicy.deploy import realtime as module
from diffpolicy.deploy.realtime import realtime


def test_sched_fifo_is_asked_for_and_not_needed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = []

    def refuse(process: int, policy: int, parameters: Any) -> None:
        asked.append((policy, parameters.sched_priority))
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(module.os, "sched_setscheduler", refuse)
    with realtime(0):
        assert asked == []
    with realtime(50):
        assert asked == [(module.os.SCHED_FIFO, 50)]
    assert "no SCHED_FIFO (" in caplog.text
