"""What all suites write: rows and targets, met or missed, as JSON and Markdown."""

import json
import math
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from diffpolicy.evaluation import provenance
from diffpolicy.evaluation.statistics import Interval


def header() -> dict[str, Any]:
    """Return where figures come from: the command, the code and the machine."""
    return {
        "command": provenance.portable_command([*sys.argv[0].split(), *sys.argv[1:]]),
        "commit": provenance.code(),
        "machine": provenance.machine(),
    }


def target(name: str, wanted: str, value: float, interval: Interval | None, met: bool) -> dict[str, Any]:
    """Return one target with what was reached; an interval that is unbounded is left out."""
    known = interval is not None and all(map(math.isfinite, interval))
    bounds = [round(bound, 4) for bound in interval] if known and interval is not None else None
    return {"name": name, "target": wanted, "value": round(value, 4), "interval": bounds, "met": met}


def write(document: dict[str, Any], markdown: str, path: Path) -> None:
    """Write `document` to `path` and `markdown` with the table of its targets beside it; print the targets."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
    path.with_suffix(".md").write_text(markdown + "\n" + targets_table(document["targets"]))
    console = Console(soft_wrap=True, highlight=False)
    for one in document["targets"]:
        verdict = "met   " if one["met"] else "MISSED"
        console.print(f"{verdict} {one['name']}: {one['value']} ({one['target']})")
    console.print(f"results: {path}")


def targets_table(targets: list[dict[str, Any]]) -> str:
    """Return the targets as a Markdown table."""
    lines = ["| target | wanted | reached | interval | |", "|---|---|---|---|---|"]
    for one in targets:
        bounds = "" if one["interval"] is None else f"[{one['interval'][0]}, {one['interval'][1]}]"
        verdict = "met" if one["met"] else "**missed**"
        lines.append(f"| {one['name']} | {one['target']} | {one['value']} | {bounds} | {verdict} |")
    return "\n".join(lines) + "\n"
