"""Figures of what a score costs: against evaluations, against latency, after a jump; with intervals."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from diffpolicy.evaluation.statistics import Interval
from diffpolicy.evaluation.svg import COLOURS, INK, MARKERS, STYLE, WIDE, figure

SPREAD = 1.05  # between families, as a factor of cost


class Point(NamedTuple):
    """One arm: its family (one line of the figure), a short label, cost (> 0) and score with interval."""

    family: str
    label: str
    cost: float
    score: float
    interval: Interval


class Bar(NamedTuple):
    """One arm's score with interval under each condition of a test."""

    name: str
    values: Mapping[str, tuple[float, Interval]]


def trade_off_figure(panels: Mapping[str, Sequence[Point]], cost: str, score: str) -> Figure:
    """Score against cost (logarithmic), a panel for each condition.

    Arms of a family are joined, unless some of them cost the same.
    """
    families = list(dict.fromkeys(point.family for points in panels.values() for point in points))
    with mpl.rc_context(STYLE):
        drawn = figure(5.2, width=WIDE, columns=len(panels), share_y=True)
        for axes, (title, points) in zip(drawn.axes, panels.items(), strict=True):
            for index, family in enumerate(families):
                own = sorted((p for p in points if p.family == family), key=lambda point: point.cost)
                # A little apart, so that arms of equal cost do not hide each other; labels alternate in place.
                apart = SPREAD ** (index - (len(families) - 1) / 2)
                costs = [p.cost * apart for p in own]
                rising = all(later > SPREAD * earlier for earlier, later in pairwise(costs))
                _curve(axes, costs, own, index, family, joined=rising)
                place, side = ((4, 4), "left") if index % 2 == 0 else ((-4, -9), "right")
                for point in own:
                    axes.annotate(
                        point.label,
                        (point.cost * apart, point.score),
                        place,
                        textcoords="offset points",
                        fontsize=6.5,
                        ha=side,
                        color=COLOURS[index % len(COLOURS)],
                    )
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_title(title, loc="left", fontsize=9)
            axes.set_xlabel(cost)
        drawn.axes[0].set_ylabel(score)
        _legend(drawn, families)
    return drawn


def delay_figure(curves: Mapping[str, Sequence[Point]], score: str) -> Figure:
    """Score against injected latency [ms], a curve for each way of execution."""
    with mpl.rc_context(STYLE):
        drawn = figure(3.4)
        axes = drawn.axes[0]
        spread = 4.0  # [ms] between the curves, so that intervals do not hide each other
        for index, points in enumerate(curves.values()):
            shift = spread * (index - (len(curves) - 1) / 2)
            _curve(axes, [p.cost + shift for p in points], points, index, points[0].family)
        axes.set(xlabel="latency of a decision [ms]", ylabel=score)
        _legend(drawn, list(curves))
    return drawn


def bar_figure(bars: Sequence[Bar], score: str) -> Figure:
    """Scores with intervals, one row for each arm, one mark for each condition."""
    conditions = list(dict.fromkeys(name for bar in bars for name in bar.values))
    with mpl.rc_context(STYLE):
        drawn = figure(0.34 * len(bars) + 1.1, width=WIDE)
        axes = drawn.axes[0]
        for row, bar in enumerate(bars):
            for condition, (value, interval) in bar.values.items():
                index = conditions.index(condition)
                height = row + 0.26 * (index - (len(conditions) - 1) / 2)
                axes.plot(interval, (height, height), color=COLOURS[index], lw=2.0, solid_capstyle="round")
                axes.plot([value], [height], MARKERS[index], color=COLOURS[index], ms=5)
        axes.set_yticks(range(len(bars)), [bar.name for bar in bars])
        axes.set(xlabel=score, ylim=(len(bars) - 0.5, -0.5))
        axes.grid(axis="x", lw=0.4, alpha=0.4)
        _legend(drawn, conditions)
    return drawn


def _curve(
    axes: Axes, xs: Sequence[float], points: Sequence[Point], index: int, label: str, *, joined: bool = True
) -> None:
    if not points:
        return
    colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
    below = [max(0.0, p.score - p.interval.low) for p in points]
    above = [max(0.0, p.interval.high - p.score) for p in points]
    axes.errorbar(
        xs,
        [p.score for p in points],
        yerr=[below, above],
        color=colour,
        marker=marker,
        ms=4.5,
        lw=1.0,
        ls=_stroke(index) if joined else "none",
        elinewidth=0.8,
        alpha=0.9,
        label=label,
    )


def _stroke(index: int) -> str:
    """Solid while there are colours, dashed when they come again."""
    return "-" if index < len(COLOURS) else "--"


def _legend(drawn: Figure, names: Sequence[str]) -> None:
    handles = [
        Line2D(
            [],
            [],
            color=COLOURS[index % len(COLOURS)],
            marker=MARKERS[index % len(MARKERS)],
            ls=_stroke(index),
            ms=4.5,
            lw=1.0,
        )
        for index in range(len(names))
    ]
    drawn.legend(
        handles,
        list(names),
        loc="outside upper left",
        ncols=min(len(names), 5),
        fontsize=8,
        labelcolor=INK,
        frameon=False,
        handletextpad=0.4,
        columnspacing=1.0,
    )
