"""Pictures of the suite `align-digits`: curves of every method, and the digits that it made."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from diffpolicy.alignment.digits import SIDE
from diffpolicy.cli.suites.align_digits_document import OFFLINE, Found
from diffpolicy.cli.suites.jobs import Job

FAMILIES = {
    "matching": ("nft", "awm", "rwr", "diffusion_dpo"),
    "likelihoods of steps": ("flow_grpo", "flow_grpo_40", "dance_grpo", "ddpo", "dpok", "d3po"),
    "gradient of the reward": ("draft_k", "draft_lv", "align_prop", "refl"),
    "start noise": ("find",),
}
SHOWN, DPI = 16, 130


def write_figures(
    found: Sequence[Found], lasting: Mapping[str, Sequence[Job]], wanted: Mapping[str, float], results: Path
) -> list[Path]:
    """Write the figures as .png beside `results`; return their paths."""
    drawn = {}
    for one in found:
        runs = {name: each for name, jobs in one.reported.items() if (each := _results(jobs))}
        if not runs:
            continue
        families = {
            family: {name: runs[name] for name in names if name in runs} for family, names in FAMILIES.items()
        }
        drawn[f"curves_{one.network}"] = curves(families, wanted)
        drawn[f"samples_{one.network}"] = samples({name: each[0] for name, each in runs.items()})
    ends = {name: each for name, jobs in lasting.items() if (each := _results(jobs))}
    if ends:
        drawn["curves_long"] = curves({"past the target": ends}, wanted)
        drawn["samples_long"] = samples({name: each[0] for name, each in ends.items()})
    paths = []
    for name, picture in drawn.items():
        paths.append(results.with_name(f"{results.stem}_{name}.png"))
        picture.savefig(paths[-1], dpi=DPI)
    return paths


def curves(families: Mapping[str, Mapping[str, Sequence[Any]]], wanted: Mapping[str, float]) -> Figure:
    """Return gold and manifold distance over reward calls: a column for each family, a line for each run."""
    shown = {family: runs for family, runs in families.items() if runs}
    width = 3.4 * max(1, len(shown)) if len(shown) > 1 else 7.0
    figure = Figure(figsize=(width, 5.4), layout="constrained")
    axes = figure.subplots(2, max(1, len(shown)), squeeze=False, sharex="col", sharey="row")
    for column, (family, runs) in enumerate(shown.items()):
        above, below = axes[:, column]
        for index, (name, results) in enumerate(runs.items()):
            if name in OFFLINE:
                continue
            for number, result in enumerate(results):
                calls = [point["calls"] for point in result["curve"]]
                base = result["curve"][0]["manifold"]
                style: dict[str, Any] = {"color": f"C{index}", "linewidth": 1.0, "alpha": 0.8}
                label = name if number == 0 else None
                above.plot(calls, [point["gold"] for point in result["curve"]], label=label, **style)
                below.plot(calls, [point["manifold"] / base for point in result["curve"]], **style)
        above.axhline(wanted["gold"], color="0.6", linestyle=":", linewidth=1.0)
        below.axhline(wanted["manifold"], color="0.6", linestyle=":", linewidth=1.0)
        above.set_title(family, fontsize="medium")
        above.legend(fontsize="x-small", frameon=False, loc="lower right")
        below.set_xlabel("reward calls")
        for each in (above, below):
            each.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("gold: share of the wanted class")
    axes[1, 0].set_ylabel("distance to real pictures / base's")
    return figure


def samples(results: Mapping[str, Any]) -> Figure:
    """Return a row of digits for each method, of the same start noise, as its run ended."""
    figure = Figure(figsize=(0.42 * SHOWN + 2.2, 0.46 * len(results) + 0.2), layout="constrained")
    axes = figure.subplots(max(1, len(results)), 1, squeeze=False)[:, 0]
    for each, (name, result) in zip(axes, results.items(), strict=False):
        each.imshow(strip(result["pictures"][:SHOWN]), cmap="gray_r", vmin=0, vmax=16)
        each.set_xticks([])
        each.set_yticks([])
        each.set_ylabel(name, rotation=0, ha="right", va="center", fontsize="small")
        each.spines[:].set_visible(False)
    return figure


def strip(pictures: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """Return pictures, 64 grey values each, side by side with a white column between: (8, 9 n - 1)."""
    tiles = [np.asarray(picture, dtype=np.int64).reshape(SIDE, SIDE) for picture in pictures]
    return np.concatenate([np.pad(tile, ((0, 0), (0, 1))) for tile in tiles], axis=1)[:, :-1]


def _results(jobs: Sequence[Job]) -> list[Any]:
    return [job.result() for job in jobs if job.kept()]
