"""What an export says of itself: parity and latency as JSON for machines and as Markdown for people."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from diffpolicy.deploy.manifest import Manifest
from diffpolicy.deploy.parity import TOLERANCE, Difference, Latency


def written_report(
    folder: Path,
    manifest: Manifest,
    format: str,
    differences: Sequence[Difference],
    latencies: Sequence[Latency],
    machine: str,
) -> None:
    """Write parity.json and parity.md to `folder`."""
    document = {
        "format": format,
        "tolerance": TOLERANCE,
        "passed": all(row.passed for row in differences),
        "parity": [asdict(row) | {"passed": row.passed} for row in differences],
        "latency_ms": [asdict(row) for row in latencies],
        "machine": machine,
    }
    (folder / "parity.json").write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
    (folder / "parity.md").write_text(markdown(manifest, format, differences, latencies, machine))


def markdown(
    manifest: Manifest,
    format: str,
    differences: Sequence[Difference],
    latencies: Sequence[Latency],
    machine: str,
) -> str:
    """Return the report for people."""
    verdict = "within" if all(row.passed for row in differences) else "**NOT within**"
    lines = [
        f"# {manifest.task}, {manifest.arm}: {format} against PyTorch",
        "",
        f"Every output is {verdict} {TOLERANCE:g} of PyTorch's, in units of half an action's range, of normalised "
        "plans (1), and of the critics' largest value.",
        "",
        "| graph | inputs | output | samples | error | largest absolute | relative | NaN or infinite |",
        "|---|---|---|---|---|---|---|---|",
        *(
            f"| {row.graph} | {row.inputs} | {row.output} | {row.samples} | {row.error:.1e} | {row.absolute:.1e} | "
            f"{row.relative:.1e} | {row.not_finite} |"
            for row in differences
        ),
    ]
    if latencies:
        lines += [
            "",
            f"A whole decision, from the reading to actions{f', on {machine}' if machine else ''}, one thread [ms]; "
            "cpu is the thread's processor time, without what other work on the machine adds:",
            "",
            "| runtime | decisions | p50 | p95 | p99 | max | cpu p50 | cpu p99 |",
            "|---|---|---|---|---|---|---|---|",
            *(
                f"| {row.runtime} | {row.decisions} | {row.p50:.3f} | {row.p95:.3f} | {row.p99:.3f} | {row.max:.3f} | "
                f"{row.cpu_p50:.3f} | {row.cpu_p99:.3f} |"
                for row in latencies
            ),
        ]
    return "\n".join(lines) + "\n"
