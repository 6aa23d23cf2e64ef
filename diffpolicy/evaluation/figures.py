"""The report's figures, each a function from results to an <svg> element."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import ArrayLike

from diffpolicy.evaluation.statistics import Array
from diffpolicy.evaluation.summary import Arm, Scores, cost_table, return_table
from diffpolicy.evaluation.svg import COLOURS, INK, MARKERS, WIDE, export, figure


class Curve(NamedTuple):
    """One logged quantity over training steps."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]


class FeasibleSlice(NamedTuple):
    """A slice of the state space: learned feasibility values (n, n) and the truth (n, n), rows along y.

    `learned` <= 0 and `truth` True mean feasible; `naive` is the set that needs no learning, h <= 0.
    """

    title: str
    xs: ArrayLike
    ys: ArrayLike
    learned: ArrayLike
    truth: ArrayLike
    naive: ArrayLike | None = None


def scatter_figure(
    task: Scores, arms: Sequence[Arm], limit: float, dataset: tuple[ArrayLike, ArrayLike] | None = None
) -> str:
    """Cost against normalised return of every episode, before the dataset's episodes (returns, costs)."""

    def draw(axes: Axes) -> None:
        if dataset is not None:
            returns = np.array([task.normalized_return(float(value)) for value in np.ravel(dataset[0])])
            costs = np.ravel(np.asarray(dataset[1]))
            shown = slice(None, None, 1 + len(costs) // 1500)  # keeps the page small, whatever the dataset
            xs, ys = costs[shown], returns[shown]
            axes.scatter(xs, ys, s=7, color=INK, alpha=0.16, linewidth=0, label="dataset")
        for index, arm in enumerate(arms):
            colour, marker = _look(index)
            xs, ys = cost_table(arm.episodes).ravel(), return_table(task, arm.episodes).ravel()
            axes.scatter(xs, ys, s=20, color=colour, marker=marker, alpha=0.6, linewidth=0, label=arm.name)
        _mark_limit(axes, limit)
        axes.set(xlabel="episode cost", ylabel="normalised return")

    return _with_legend("scatter", draw)


def distribution_figure(arms: Sequence[Arm], limits: Sequence[float]) -> str:
    """Share of each arm's episodes that cost at most so much, with the limits."""

    def draw(axes: Axes) -> None:
        furthest = max(max(float(cost_table(arm.episodes).max()) for arm in arms), 1.1 * max(limits))
        for index, arm in enumerate(arms):
            costs = np.sort(cost_table(arm.episodes).ravel())
            shares = np.arange(1, len(costs) + 1) / len(costs)
            xs, ys = np.concatenate([[0.0], costs, [furthest]]), np.concatenate([[0.0], shares, [1.0]])
            colour, marker = _look(index)
            every = max(1, len(xs) // 6)
            line = axes.step(xs, ys, where="post", color=colour, marker=marker, ms=4, label=arm.name)
            line[0].set_markevery(every)
        for limit in limits:
            _mark_limit(axes, limit)
        axes.set(xlabel="episode cost", ylabel="share of episodes at or below", ylim=(0.0, 1.04))

    return _with_legend("distribution", draw)


def interval_figure(arms: Sequence[Arm], limit: float) -> str:
    """Normalised return (interquartile mean) and cost (mean) of every arm with their 95 % intervals."""
    drawn = figure(0.3 * len(arms) + 0.7, width=WIDE, columns=2, share_y=True)
    left, right = drawn.axes
    for index, arm in enumerate(arms):
        returns, costs = arm.summary.normalized_return, arm.summary.at(limit).normalized_cost
        pairs = ((left, returns.iqm, returns.iqm_interval), (right, costs.mean, costs.mean_interval))
        for axes, value, interval in pairs:
            colour, marker = _look(index)
            axes.plot(interval, (index, index), color=colour, lw=2.2, solid_capstyle="round")
            axes.plot([value], [index], marker, color=colour, ms=6)
    left.set(xlabel="normalised return (IQM)", ylim=(len(arms) - 0.5, -0.5))
    left.set_yticks(range(len(arms)), [arm.name for arm in arms])
    right.set(xlabel=f"normalised cost at limit {limit:g}")
    right.axvline(1.0, color=INK, lw=0.9, ls=(0, (4, 3)))
    right.set_xlim(left=min(0.0, right.get_xlim()[0]), right=max(1.1, right.get_xlim()[1]))
    right.tick_params(left=False)
    return export(drawn, "intervals")


def curves_figure(curves: Sequence[Curve]) -> str:
    """Small multiples of logged quantities over training steps."""
    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    drawn = figure(1.5 * rows, width=WIDE / 3 * columns, columns=columns, rows=rows)
    for axes, curve in zip(drawn.axes, curves, strict=False):
        axes.plot(curve.steps, curve.values, color=COLOURS[0], lw=1.2)
        axes.set_title(curve.name, loc="left", fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    for axes in drawn.axes[len(curves) :]:
        axes.set_visible(False)
    return export(drawn, "curves")


def feasible_figure(slices: Sequence[FeasibleSlice]) -> str:
    """The learned feasible set beside the true one: shading is the truth, the line what was learned."""
    side = WIDE / max(len(slices), 3)
    drawn = figure(side + 0.5, width=side * len(slices), columns=len(slices), share_y=True)
    for axes, one in zip(drawn.axes, slices, strict=True):
        learned, truth = np.asarray(one.learned, dtype=np.float64), np.asarray(one.truth, dtype=bool)
        xs, ys = np.asarray(one.xs), np.asarray(one.ys)
        if not truth.all():
            axes.contourf(xs, ys, ~truth, levels=[0.5, 1.5], colors=[COLOURS[1]], alpha=0.45)
        _edge(axes, one, learned, COLOURS[0], "-", 1.8)
        scores = f"IoU {infeasible_iou(learned <= 0.0, truth):.2f}"
        if one.naive is not None:
            _edge(axes, one, 0.5 - np.asarray(one.naive, dtype=np.float64), INK, "--", 0.8)
            scores += f" (naive {infeasible_iou(one.naive, truth):.2f})"
        axes.set_title(f"{one.title}\n{scores}", fontsize=9)
        axes.set_aspect("equal")
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], prune="both"))
        axes.set_xlabel("x")
    drawn.axes[0].set_ylabel("y")
    return export(drawn, "feasible")


def infeasible_iou(feasible: ArrayLike, truth: ArrayLike) -> float:
    """Intersection over union of two infeasible sets, given as feasible masks; 1 if both are empty."""
    a, b = ~np.asarray(feasible, dtype=bool), ~np.asarray(truth, dtype=bool)
    union = int((a | b).sum())
    return float((a & b).sum() / union) if union else 1.0


def _with_legend(name: str, draw: Callable[[Axes], None]) -> str:
    drawn = figure(3.6)
    draw(drawn.axes[0])
    handles, labels = drawn.axes[0].get_legend_handles_labels()
    drawn.set_figheight(3.2 + 0.18 * -(-len(labels) // 3))
    drawn.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=3,
        fontsize=8,
        labelcolor=INK,
        frameon=False,
        handletextpad=0.4,
        columnspacing=1.0,
    )
    return export(drawn, name)


def _edge(axes: Axes, one: FeasibleSlice, values: Array, colour: str, style: str, width: float) -> None:
    """The line where `values` (n, n) pass zero; nothing where they never do."""
    if values.min() < 0.0 < values.max():
        axes.contour(
            np.asarray(one.xs),
            np.asarray(one.ys),
            values,
            levels=[0.0],
            colors=[colour],
            linewidths=width,
            linestyles=style,
        )


def _look(index: int) -> tuple[str, str]:
    return COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]


def _mark_limit(axes: Axes, limit: float) -> None:
    axes.axvline(limit, color=INK, lw=0.9, ls=(0, (4, 3)), alpha=0.7)
    axes.annotate(
        f"{limit:g}",
        (limit, 1.0),
        (2, -7),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        fontsize=7,
        color=INK,
    )
