"""Curves come back as they were logged; progress is readable with and without a terminal."""

import os
from pathlib import Path

import pytest

from diffpolicy.training import logging, read_curves
from diffpolicy.training.logging import CurveWriter, ProgressDisplay, format_seconds


def log(folder: Path, resumed_step: int, steps: range, offset: float = 0.0) -> None:
    writer = CurveWriter(folder, resumed_step)
    for step in steps:
        writer.add({"loss": step + offset, "critic/value": -step}, step)
    writer.close()


def test_a_resumed_run_leaves_no_gaps_and_no_doubles(tmp_path: Path) -> None:
    log(tmp_path, 0, range(1, 9))
    log(tmp_path, 5, range(6, 8), offset=100.0)
    log(tmp_path, 6, range(7, 10), offset=200.0)
    steps, values = read_curves(tmp_path)["loss"]
    assert steps == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert values == [1, 2, 3, 4, 5, 106, 207, 208, 209]
    assert read_curves(tmp_path)["critic/value"][0] == steps


def test_points_never_reached_again_are_gone(tmp_path: Path) -> None:
    log(tmp_path, 0, range(1, 9))
    log(tmp_path, 0, range(1, 1))
    assert read_curves(tmp_path) == {}


def test_a_half_written_record_is_left_out(tmp_path: Path) -> None:
    log(tmp_path, 0, range(1, 9))
    (file,) = tmp_path.glob("events*")
    os.truncate(file, file.stat().st_size - 5)
    assert read_curves(tmp_path)["loss"] == (list(range(1, 9)), list(map(float, range(1, 9))))
    assert read_curves(tmp_path)["critic/value"][0] == list(range(1, 8))


def test_no_logs(tmp_path: Path) -> None:
    assert read_curves(tmp_path) == {}


def test_plain_lines_without_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(logging.time, "monotonic", lambda: now[0])
    with ProgressDisplay(100, 40) as display:
        display.losses({"loss": 0.25})
        for step in range(41, 101):
            now[0] += 1.0
            display.advance(step)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6
    assert lines[0] == "step 50/100  1 steps/s  0:00:50 left  loss 0.25"
    assert lines[-1].startswith("step 100/100")


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    with ProgressDisplay(10, 0) as display:
        display.losses({"loss": 0.5})
        display.note("resuming from [somewhere]")
        display.advance(10)
    shown = capsys.readouterr().err
    for part in ("10/10", "steps/s", "left", "loss 0.5", "resuming from [somewhere]"):
        assert part in shown


def test_silence_when_not_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay(2, 0, enabled=False) as display:
        display.note("hello")
        display.advance(2)
    assert capsys.readouterr() == ("", "")


def test_durations() -> None:
    assert [format_seconds(value) for value in (0.4, 59.6, 3600, 360_001)] == [
        "0:00:00",
        "0:01:00",
        "1:00:00",
        "100:00:01",
    ]
