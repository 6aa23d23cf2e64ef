"""The figure of the suite `safe-refine`: what every policy earns, and what it costs, task by task."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffpolicy.cli.suites.safe_offline import LIMIT
from diffpolicy.cli.suites.safe_refine_document import REFINED, START
from diffpolicy.evaluation.svg import COLOURS, MARKERS

DPI = 150
OFFLINE = "#777777"
LINEAR = 1.0  # episode costs below it are shown as they are, above it by their logarithm


def write_figure(document: Mapping[str, Any], results: Path) -> Path:
    """Write the figure as .png beside `results` and return where it is."""
    path = results.with_suffix(".png")
    trade_offs(document).savefig(path, dpi=DPI)
    return path


def trade_offs(document: Mapping[str, Any]) -> Figure:
    """Return a panel for each task: normalised return over episode cost with 95 % intervals; wanted: high, and left."""
    tasks = list(dict.fromkeys(row["task"] for row in document["rows"]))
    figure = Figure(figsize=(4.4 * len(tasks), 4.0), layout="constrained")
    panels = figure.subplots(1, len(tasks), squeeze=False)[0]
    for axes, task in zip(panels, tasks, strict=True):
        ours = 0
        for row in (row for row in document["rows"] if row["task"] == task):
            refined = row["arm"] == START or row["arm"].startswith(REFINED)
            _draw(axes, row, COLOURS[ours] if refined else OFFLINE, MARKERS[ours] if refined else ".")
            if refined:
                ours += 1
            elif "difference_to" not in row:  # what the others are compared with
                place = (row["cost"]["mean"], row["normalized_return"]["mean"])
                axes.annotate(
                    row["arm"], place, (5, -10), textcoords="offset points", fontsize=7, color=OFFLINE
                )
        axes.axvline(LIMIT, color="black", lw=0.9, ls=(0, (4, 3)))
        axes.set_xscale("symlog", linthresh=LINEAR)
        axes.set_xlim(left=-0.2)
        axes.set(title=task, xlabel="episode cost (dashed: the limit)", ylabel="normalised return")
    panels[0].legend(fontsize=7)
    return figure


def _draw(axes: Axes, row: Mapping[str, Any], colour: str, marker: str) -> None:
    returns, cost = row["normalized_return"], row["cost"]
    x, y = cost["mean"], returns["mean"]
    axes.plot(cost["mean_interval"], (y, y), color=colour, lw=1.0)
    axes.plot((x, x), returns["mean_interval"], color=colour, lw=1.0)
    label = "offline arms" if colour == OFFLINE else row["arm"]
    known = axes.get_legend_handles_labels()[1]
    axes.plot([x], [y], marker, color=colour, ms=6, ls="", label=None if label in known else label)
