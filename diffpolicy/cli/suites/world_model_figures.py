"""The figures of the suite `world-model`: errors over the horizon, and whether uncertainty tells.

Diffusion is drawn with the headline's steps of its sampler; the others are in the tables.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from diffpolicy.cli.suites.world_model_document import label

DPI = 150
COLUMNS = 3
KINDS = {"held-out": "-", "off-policy": "--"}


def write_figures(document: Mapping[str, Any], results: Path) -> list[Path]:
    """Write the figures as .png beside `results` and return where they are."""
    paths = []
    for name, figure in {"open_loop": open_loop(document), "calibration": calibrations(document)}.items():
        paths.append(results.with_name(f"{results.stem}_{name}.png"))
        figure.savefig(paths[-1], dpi=DPI)
    return paths


def open_loop(document: Mapping[str, Any]) -> Figure:
    """Return the errors after each horizon with their intervals, and those of a world in which nothing moves."""
    figure = Figure(layout="constrained")
    for axes, task, rows in panels(figure, headline(document, "rows")):
        for name, kind, colour, line in lines(rows):
            steps = [row["steps"] for row in line]
            axes.plot(
                steps, [row["error"] for row in line], KINDS[kind], color=colour, label=f"{name} ({kind})"
            )
            low, high = zip(*(row["error_interval"] for row in line), strict=True)
            axes.fill_between(steps, low, high, alpha=0.15, color=colour)
        for kind, style in KINDS.items():
            line = [row for row in rows if row["data"] == kind and row["model"] == document["default"]]
            axes.plot(
                [row["steps"] for row in line],
                [row["persistence"] for row in line],
                style,
                color="black",
                label=f"nothing moves ({kind})",
            )
        axes.set(title=task, xscale="log", yscale="log", xlabel="steps imagined", ylabel="error [deviations]")
    return described(figure)


def calibrations(document: Mapping[str, Any]) -> Figure:
    """Return the error of starts in tenths by uncertainty: a line that rises says that uncertainty tells."""
    figure = Figure(layout="constrained")
    for axes, task, models in panels(figure, headline(document, "models")):
        for name, kind, colour, (one, *_) in lines(models):
            found, label = one["calibration"], f"{name} ({kind})"
            axes.plot(
                found["uncertainty"], found["error"], KINDS[kind], marker=".", color=colour, label=label
            )
        axes.set(title=task, xscale="log", yscale="log", xlabel="uncertainty", ylabel="error [deviations]")
    return described(figure)


def described(figure: Figure) -> Figure:
    """Return the figure with one legend for all panels, and ticks that name powers of ten alone where they crowd."""
    for axes in figure.axes:
        axes.xaxis.set_minor_formatter(NullFormatter())
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
    return figure


def headline(document: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """Return the rows or models that are drawn."""
    return [row for row in document[name] if row["sampler_steps"] in (0, document["headline_steps"])]


def panels(
    figure: Figure, rows: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[Any, str, list[Mapping[str, Any]]]]:
    """Yield axes for each task with its name and its rows."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    columns = min(COLUMNS, len(tasks))
    lines_of = -(-len(tasks) // columns)
    figure.set_size_inches(4.2 * columns, 3.4 * lines_of)
    for index, task in enumerate(tasks, start=1):
        axes = figure.add_subplot(lines_of, columns, index)
        yield axes, str(task), [row for row in rows if row["task"] == task]


def lines(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, str, list[Mapping[str, Any]]]]:
    """Yield the rows of each model and kind of data, with their names and the colour of the model."""
    models = list(dict.fromkeys(label(row) for row in rows))
    for name, kind in dict.fromkeys((label(row), str(row["data"])) for row in rows):
        chosen = [row for row in rows if (label(row), row["data"]) == (name, kind)]
        yield name, kind, f"C{models.index(name)}", chosen
