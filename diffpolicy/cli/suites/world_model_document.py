"""What the suite `world-model` found, as rows, targets and Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffpolicy.cli.suites.results import target
from diffpolicy.evaluation.statistics import estimate, paired_difference, paired_ratio

HEADS = ("reward_r2", "cost_recall", "cost_precision", "termination_recall", "termination_precision")


@dataclass(frozen=True)
class Found:
    """The assessments of one model of one task on one kind of data, one for each training seed.

    `steps` are those of the sampler, 0 where there is none. Errors of all seeds are from the same starts.
    """

    task: str
    model: str
    steps: int
    data: str
    horizons: Sequence[int]
    results: Sequence[Mapping[str, Any]]

    @property
    def label(self) -> str:
        """The model with the steps of its sampler."""
        return f"{self.model}, {self.steps} steps" if self.steps else self.model

    def table(self, name: str, horizon: int) -> Any:
        """Return the "errors" or the "persistence" (K, S) of all seeds and starts after `horizon` steps."""
        row = [one["steps"] for one in self.results[0]["horizons"]].index(horizon)
        return np.array([result[name][row] for result in self.results])

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A plain row for each horizon."""
        found = []
        for row, horizon in enumerate(one["steps"] for one in self.results[0]["horizons"]):
            errors, still = self.table("errors", horizon), self.table("persistence", horizon)
            error = estimate(errors)
            gain, interval = paired_ratio(still, np.maximum(errors, 1e-12))
            columns = [result["horizons"][row] for result in self.results]
            found.append(
                {
                    **self._name(),
                    "steps": horizon,
                    "error": error.mean,
                    "error_interval": list(error.mean_interval),
                    "median": float(np.median(errors)),
                    "persistence": float(still.mean()),
                    "gain": gain,
                    "gain_interval": list(interval),
                    **{name: average(columns, name) for name in ("return_r2", "true_cost", "cost", "rank")},
                }
            )
        return found

    @property
    def summary(self) -> dict[str, Any]:
        """What does not depend on a horizon: heads, listening to actions, calibration, size."""
        return {
            **self._name(),
            "seeds": len(self.results),
            "starts": self.results[0]["starts"],
            "parameters": self.results[0]["parameters"],
            "updates_of_best": [result["updates"] for result in self.results],
            "heads": {name: average([result["heads"] for result in self.results], name) for name in HEADS},
            "action_following": average(self.results, "action_following"),
            "calibration": {
                name: np.mean([result["calibration"][name] for result in self.results], axis=0).tolist()
                for name in ("uncertainty", "error")
            },
        }

    def _name(self) -> dict[str, Any]:
        return {"task": self.task, "model": self.model, "sampler_steps": self.steps, "data": self.data}


def average(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Return the mean of what is defined, None where nothing is."""
    values = [row[name] for row in rows if row[name] is not None]
    return float(np.mean(values)) if values else None


def gaps(
    task: str,
    model: str,
    horizons: Sequence[int],
    real: Mapping[str, Any],
    imagined: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Return a row for each horizon: what one policy earns and costs in truth, and imagined by a model of each seed.

    `gap` is imagined less real return from the same states.
    """
    rows = []
    for row, horizon in enumerate(horizons):
        found: dict[str, Any] = {
            "task": task,
            "model": model,
            "steps": horizon,
            "episodes": len(real["first"]),
        }
        for name, what in (("return", "returns"), ("cost", "costs")):
            ours = np.array([one[what][row] for one in imagined])
            truth = np.broadcast_to(np.array(real[what][row]), ours.shape)
            difference = paired_difference(ours, truth)
            found |= {
                f"real_{name}": float(truth.mean()),
                f"imagined_{name}": float(ours.mean()),
                f"{name}_gap": difference.mean,
                f"{name}_gap_interval": list(difference.mean_interval),
            }
        rows.append(found)
    return rows


def targets(
    found: Sequence[Found], default: str, steps: int, horizon: int, gain: float, no_worse: float
) -> list[dict[str, Any]]:
    """Return the targets, on held-out episodes after `horizon` steps, met or missed.

    The default model is `gain` times better than if nothing moved, and its error at most `no_worse` times that of the
    other kind; diffusion counts with `steps` of the sampler.
    """
    held = {(one.task, one.model): one for one in found if one.data == "held-out" and one.steps in (0, steps)}
    reached = []
    for task in dict.fromkeys(one.task for one in found):
        ours = held[task, default]
        errors = ours.table("errors", horizon)
        value, interval = paired_ratio(ours.table("persistence", horizon), errors)
        name = f"{task}: times better than nothing moving after {horizon} steps, {ours.label}"
        reached.append(target(name, f">= {gain:g}", value, interval, value >= gain))
        for (other, model), rival in held.items():
            if other == task and model != default:
                value, interval = paired_ratio(errors, rival.table("errors", horizon))
                name = f"{task}: error after {horizon} steps, {ours.label} / {rival.label}"
                reached.append(target(name, f"<= {no_worse:g}", value, interval, value <= no_worse))
    return reached


def markdown(document: Mapping[str, Any]) -> str:
    """Return the document's rows as Markdown tables."""
    lines = [
        f"Made by `{document['command']}`. Errors: root mean square over the columns that change, in deviations of the "
        f"data, mean over up to {document['starts']} moments and all training seeds, imagined from there with the real "
        "actions. Gain: over a model in which nothing moves. Brackets: 95 % intervals over seeds and starts (starts of "
        "one episode are not independent: true intervals are wider). Held-out: episodes like those learnt from; "
        "off-policy: random actions in the simulator. Rank: Spearman's correlation of uncertainty and error.",
    ]
    for task in dict.fromkeys(row["task"] for row in document["rows"]):
        rows = [row for row in document["rows"] if row["task"] == task]
        lines += ["", f"## {task}", ""]
        lines += [
            "| model | data | steps | error | median | nothing moves | gain | return R2 | cost / true | rank |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        lines += [_row(row) for row in rows]
        lines += [
            "",
            "| model | data | seeds | reward R2 | cost recall / precision | termination recall / precision "
            "| other actions' error |",
            "|---|---|---|---|---|---|---|",
        ]
        lines += [_summary(one) for one in document["models"] if one["task"] == task]
        lines += [
            "",
            "A policy that clones the better episodes, in the model and in the simulator from the same states:",
            "",
            "| model | steps | return imagined / real | gap | cost imagined / real | gap |",
            "|---|---|---|---|---|---|",
        ]
        lines += [_gap(one) for one in document["closed_loop"] if one["task"] == task]
    return "\n".join(lines) + "\n"


def label(row: Mapping[str, Any]) -> str:
    """Return the model of a row with the steps of its sampler."""
    return f"{row['model']}, {row['sampler_steps']} steps" if row["sampler_steps"] else str(row["model"])


def _row(row: Mapping[str, Any]) -> str:
    (low, high), (least, most) = row["error_interval"], row["gain_interval"]
    return (
        f"| {label(row)} | {row['data']} | {row['steps']} | {row['error']:.3g} [{low:.3g}, {high:.3g}] "
        f"| {row['median']:.3g} | {row['persistence']:.3g} | {row['gain']:.1f} [{least:.1f}, {most:.1f}] "
        f"| {_figure(row['return_r2'])} | {_figure(row['cost'])} / {_figure(row['true_cost'])} "
        f"| {_figure(row['rank'])} |"
    )


def _summary(one: Mapping[str, Any]) -> str:
    heads = one["heads"]
    cost, termination = (
        f"{_figure(heads[f'{name}_recall'])} / {_figure(heads[f'{name}_precision'])}"
        for name in ("cost", "termination")
    )
    return (
        f"| {label(one)} | {one['data']} | {one['seeds']} | {_figure(heads['reward_r2'])} | {cost} | {termination} "
        f"| {_figure(one['action_following'])} times |"
    )


def _gap(one: Mapping[str, Any]) -> str:
    cells = []
    for name in ("return", "cost"):
        low, high = one[f"{name}_gap_interval"]
        cells.append(f"{one[f'imagined_{name}']:.3g} / {one[f'real_{name}']:.3g}")
        cells.append(f"{one[f'{name}_gap']:.3g} [{low:.3g}, {high:.3g}]")
    return f"| {one['model']} | {one['steps']} | {' | '.join(cells)} |"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
