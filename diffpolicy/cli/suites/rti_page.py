"""The figures of the suite `rti`, as files and in one HTML page, from its results document."""

import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from diffpolicy.cli.suites.rti_document import episodes_text, grouped
from diffpolicy.evaluation.page import STYLE, page, section, table
from diffpolicy.evaluation.page import figure as framed
from diffpolicy.evaluation.statistics import Interval
from diffpolicy.evaluation.svg import export
from diffpolicy.evaluation.trade_off import Bar, Point, bar_figure, delay_figure, trade_off_figure
from diffpolicy.policies import parse_arm

FAMILIES = {"ddpm": "DDPM", "ddim": "DDIM", "dpm": "DPM-Solver++", "heun": "Heun"}
WARM = {"rti": "RTI", "warm": "warm, jumps", "warm_sde": "warm, ancestral jumps", "soft": "warm, committed"}
DPI = 150


def write_page(document: Mapping[str, Any], results: Path) -> Path:
    """Write the figures as .svg and .png beside `results` and NAME.html with all of them; return the page."""
    drawn = figures(document)
    for name, (picture, _) in drawn.items():
        stem = results.with_name(f"{results.stem}_{name}")
        picture.savefig(stem.with_suffix(".png"), dpi=DPI)
        picture.savefig(stem.with_suffix(".svg"), metadata={"Date": None})
    path = results.with_suffix(".html")
    parts = [framed(export(picture, name), caption, wide=True) for name, (picture, caption) in drawn.items()]
    lead = f'<p class="lead">{escape(_lead(document))}</p>'
    title = "Few-step samplers and Real-Time Iteration"
    text = page(
        title,
        f"<header><h1>{escape(title)}</h1>{lead}</header>",
        section("Targets", _targets(document)),
        section("What a score costs", *parts),
        section("Where this comes from", _provenance(document)),
        style=STYLE,
    )
    path.write_text(text, encoding="utf-8")
    return path


def figures(document: Mapping[str, Any]) -> dict[str, tuple[Figure, str]]:
    """Return the figures with their captions, by name."""
    drawn: dict[str, tuple[Figure, str]] = {}
    for name, rows in grouped(document["rows"]).items():
        panels: dict[str, list[Point]] = {}
        for row in sorted(rows, key=lambda row: int(row["execute"])):
            count = row["execute"]
            title = "re-planning at every step" if count == 1 else f"executing {count} actions"
            panels.setdefault(title, []).append(_point(row))
        caption = (
            f"{name}: score against denoiser evaluations per control step, cold starts included; bars: 95 % "
            "intervals. Wanted: high and left."
        )
        picture = trade_off_figure(panels, "evaluations per control step", _score_name(rows[0]))
        drawn[f"score_{_slug(name)}"] = (picture, caption)
    for name, rows in grouped(document["delays"]).items():
        curves: dict[str, list[Point]] = {}
        for row in rows:
            value = (row["score"]["mean"], Interval(*row["score"]["mean_interval"]))
            curves.setdefault(row["execution"], []).append(
                Point(row["execution"], "", row["latency_ms"], *value)
            )
        caption = f"{name}: score when every decision takes so long, at the task's control rate."
        drawn[f"delay_{_slug(name)}"] = (delay_figure(curves, "score"), caption)
    for name, rows in grouped(document["jumps"]).items():
        bars = [
            Bar(
                row["arm"],
                {
                    "after the jump": _value(row["after_jump"]),
                    "no jump, as many steps": _value(row["without_jump"]),
                },
            )
            for row in rows
        ]
        caption = f"{name}: best reward after the block was moved, and in as many steps without a jump."
        drawn[f"jump_{_slug(name)}"] = (bar_figure(bars, "score"), caption)
    return drawn


def _point(row: Mapping[str, Any]) -> Point:
    family, label = family_of(row["arm"])
    # An arm that evaluates nothing once under way still has its first, cold decision.
    cost = max(float(row["evaluations_per_step"]), 1e-2)
    return Point(family, label, cost, *_value(row["score"]))


def family_of(arm: str) -> tuple[str, str]:
    """Return the line of the figure that an arm belongs to, and its label there."""
    body = arm.partition("@")[0]
    parsed = parse_arm(arm)
    guarded = " + guard" if parsed.guard else ""
    levels = re.findall(r"\d+", body)
    if parsed.warm is not None:
        kind = re.match(r"(warm_sde|warm|rti|soft)", body)
        assert kind is not None
        return WARM[kind[1]] + guarded, ",".join(levels)
    if parsed.kind == "cold":
        leading = "leading " if parsed.cold.spacing == "leading" else ""
        return leading + FAMILIES[body.removeprefix("leading_").partition("_")[0]], levels[-1]
    return parsed.kind + guarded, ",".join(levels)


def _value(estimate: Mapping[str, Any]) -> tuple[float, Interval]:
    return float(estimate["mean"]), Interval(*estimate["mean_interval"])


def _score_name(row: Mapping[str, Any]) -> str:
    return {
        "best_reward": "mean of the best reward",
        "success": "share of successes",
        "return": "mean return",
    }[row["kind"]]


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower())


def _lead(document: Mapping[str, Any]) -> str:
    met = sum(bool(target["met"]) for target in document["targets"])
    return (
        f"{met} of {len(document['targets'])} targets met, from {len(document['seeds'])} training seeds; episodes "
        f"of each: {episodes_text(document)}."
    )


def _targets(document: Mapping[str, Any]) -> str:
    rows = []
    for one in document["targets"]:
        mark = ("safe", "✓ met") if one["met"] else ("unsafe", "✕ missed")
        bounds = "" if one["interval"] is None else f" [{one['interval'][0]}, {one['interval'][1]}]"
        badge = f'<span class="badge {mark[0]}">{mark[1]}</span>'
        rows.append([escape(one["name"]), escape(one["target"]), f"{one['value']}{bounds}", badge])
    return table(["target", "wanted", "reached", ""], rows)


def _provenance(document: Mapping[str, Any]) -> str:
    code, machine = document["commit"], document["machine"]
    words = [machine["cpu"], f"{machine['cores']} cores", machine["accelerator"], machine["system"]]
    rows = [
        ["command", f"<code>{escape(document['command'])}</code>"],
        [
            "code",
            f"<code>{code['commit'] or code['sha256']}</code>{' with local changes' if code['dirty'] else ''}",
        ],
        ["machine", escape(", ".join(word for word in words if word))],
    ]
    return table(["", ""], rows, kind="facts")
