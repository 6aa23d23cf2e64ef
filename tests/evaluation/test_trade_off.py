"""Figures of scores and costs: every arm and interval is drawn where it belongs, in a file that repeats exactly."""

import re

import pytest

from diffpolicy.evaluation.statistics import Interval
from diffpolicy.evaluation.svg import export
from diffpolicy.evaluation.trade_off import SPREAD, Bar, Point, bar_figure, delay_figure, trade_off_figure


def point(family: str, label: str, cost: float, score: float) -> Point:
    return Point(family, label, cost, score, Interval(score - 0.1, score + 0.05))


PANELS = {
    "re-planning": [
        point("DDIM", "3", 3.0, 0.5),
        point("DDIM", "1", 1.0, 0.4),
        point("RTI", "2,1,0", 3.0, 0.9),
    ],
    "executing 8": [point("RTI", "2,1,0", 0.4, 0.3)],
}


def test_every_arm_is_drawn_in_its_panel() -> None:
    drawn = trade_off_figure(PANELS, "evaluations", "score")
    left, right = drawn.axes
    ddim, rti = left.containers
    assert ddim.lines[0].get_xdata().tolist() == pytest.approx([1.0 / SPREAD**0.5, 3.0 / SPREAD**0.5])
    assert ddim.lines[0].get_ydata().tolist() == [0.4, 0.5]  # in the order of cost
    assert rti.lines[0].get_ydata().tolist() == [0.9]
    assert [text.get_text() for text in left.texts] == ["1", "3", "2,1,0"]
    assert [text.get_text() for text in right.texts] == ["2,1,0"]
    low, high = ddim.lines[2][0].get_segments()[0][:, 1]
    assert (low, high) == pytest.approx((0.3, 0.45))
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == ["DDIM", "RTI"]


def test_arms_of_equal_cost_are_not_joined() -> None:
    equal = [point("RTI", "2,1,0", 3.0, 0.9), point("RTI", "3,1,0", 3.0, 0.8)]
    (axes,) = trade_off_figure({"": equal}, "evaluations", "score").axes
    assert axes.containers[0].lines[0].get_linestyle() == "None"
    (axes,) = trade_off_figure({"": PANELS["re-planning"][:2]}, "evaluations", "score").axes
    assert axes.containers[0].lines[0].get_linestyle() == "-"


def test_a_family_looks_the_same_in_every_panel() -> None:
    left, right = trade_off_figure(PANELS, "evaluations", "score").axes
    assert left.containers[1].lines[0].get_color() == right.containers[0].lines[0].get_color()


def test_delays_and_bars() -> None:
    curves = {name: [point(name, "", ms, 0.8) for ms in (0.0, 200.0)] for name in ("naive", "inpaint")}
    assert len(delay_figure(curves, "score").axes[0].containers) == 2
    bars = [Bar(name, {"jump": (0.5, Interval(0.4, 0.6))}) for name in ("a", "b")]
    drawn = bar_figure(bars, "score")
    assert [tick.get_text() for tick in drawn.axes[0].get_yticklabels()] == ["a", "b"]
    assert drawn.axes[0].get_ylim()[0] > drawn.axes[0].get_ylim()[1]  # the first arm on top


def test_pictures_repeat_exactly() -> None:
    first, second = (export(trade_off_figure(PANELS, "evaluations", "score"), "a") for _ in range(2))
    assert first == second
    assert "2,1,0" in re.sub("<[^>]+>", "", first)
