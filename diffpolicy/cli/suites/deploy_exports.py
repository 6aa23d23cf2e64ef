"""Exports of every kind of policy: how far they are from PyTorch, and how long a decision takes with either."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from diffpolicy import training
from diffpolicy.cli.export import real_readings
from diffpolicy.cli.suites.deploy_policies import policy_of
from diffpolicy.cli.suites.jobs import Job, run_all
from diffpolicy.cli.suites.results import target
from diffpolicy.deploy.exporting import FORMATS, Format, export
from diffpolicy.deploy.parity import TOLERANCE
from diffpolicy.deploy.torch_runtime import TorchRuntime, best_of
from diffpolicy.evaluation import provenance


def run_exports(
    cfg: DictConfig, console: Console
) -> tuple[dict[tuple[str, str, str], Job], list[dict[str, Any]]]:
    """Make the exports that are not kept; return all of them and a row for each."""
    jobs = export_jobs(cfg, console)
    run_all(list(jobs.values()), console)
    return jobs, export_rows({key: job.result() for key, job in jobs.items()})


def export_jobs(cfg: DictConfig, console: Console) -> dict[tuple[str, str, str], Job]:
    """Return the exports by kind of policy, arm and format; policies are trained where they are missing."""
    jobs: dict[tuple[str, str, str], Job] = {}
    for kind, arms in cfg.exports.arms.items():
        run, dataset = policy_of(cfg, str(kind), console)
        for arm in arms:
            for format in FORMATS:
                jobs[str(kind), arm, format] = export_job(cfg, str(kind), run, arm, format, dataset)
    return jobs


def export_job(cfg: DictConfig, kind: str, run: Path, arm: str, format: Format, dataset: str | None) -> Job:
    """Return the job that exports one arm of the policy in `run`; the folder stays beside its result."""
    asked = cfg.exports
    folder = Path(cfg.run).resolve() / "exports" / kind.replace(" ", "_") / f"{arm}-{format}"
    weights = training.read_checkpoint(best_of(run, None)).manifest["sha256"]["model.safetensors"]
    of = {
        "weights": weights,
        "arm": arm,
        "samples": asked.samples,
        "decisions": asked.decisions,
        "machine": provenance.machine(),
    }
    make = partial(exported, run, folder, arm, format, dataset, asked.samples, asked.decisions)
    return Job(f"{kind} {arm}, {format}", folder.with_name(folder.name + ".json"), of, make)


def exported(
    run: Path, folder: Path, arm: str, format: Format, dataset: str | None, samples: int, decisions: int
) -> dict[str, Any]:
    """Export one arm to `folder`; plain figures of parity and latency, and the machine's load after them.

    A mismatch is a figure here and no error.
    """
    runtime = TorchRuntime(run, arm)
    real = real_readings(runtime, dataset, samples)
    found = export(runtime, folder, format, real=real, samples=samples, decisions=decisions)
    return {
        "task": runtime.manifest.task,
        "parity": [asdict(one) | {"passed": one.passed} for one in found.differences],
        "latency_ms": {one.runtime: asdict(one) for one in found.latencies},
        "load": round(os.getloadavg()[0], 1),
    }


def export_rows(results: Mapping[tuple[str, str, str], Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one row for each kind, arm and format: the largest error and difference, and times with PyTorch's beside.

    `inputs` counts those that were compared, by whether they are random or real.
    """
    rows = []
    for (kind, arm, format), result in results.items():
        parity, times = result["parity"], result["latency_ms"]
        rows.append(
            {
                "kind": kind,
                "arm": arm,
                "format": format,
                "task": result["task"],
                "inputs": {one["inputs"]: one["samples"] for one in parity},
                "error": max(one["error"] for one in parity),
                "relative": max(one["relative"] for one in parity),
                "not_finite": sum(one["not_finite"] for one in parity),
                "passed": all(one["passed"] for one in parity),
                "latency_ms": times.get(format),
                "eager_ms": times.get("torch"),
                "load": result["load"],
            }
        )
    return rows


def export_targets(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the targets of every kind, its worst arm counting: parity of each format, and ONNX as fast as PyTorch.

    An export that computes NaN was not timed and has missed its parity.
    """
    found = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        for format in FORMATS:
            some = [row for row in rows if (row["kind"], row["format"]) == (kind, format)]
            error = max(row["error"] for row in some) / TOLERANCE
            name = f"{kind}: largest difference of {format} from PyTorch, in units of {TOLERANCE:g}"
            found.append(target(name, "<= 1", error, None, all(row["passed"] for row in some)))
        ratios = [
            row["latency_ms"]["p50"] / row["eager_ms"]["p50"]
            for row in rows
            if (row["kind"], row["format"]) == (kind, "onnx") and row["latency_ms"] is not None
        ]
        if ratios:
            name = f"{kind}: p50 of a decision with onnx, as a share of eager PyTorch's"
            found.append(target(name, "<= 1", max(ratios), None, max(ratios) <= 1.0))
    return found


def export_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the rows as the lines of a Markdown table."""
    lines = [
        "| policy | arm | format | compared on | largest error | p50 | p99 | eager p50 | eager p99 | load |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        inputs = ", ".join(f"{count} {kind}" for kind, count in row["inputs"].items())
        error = f"{row['error']:.1e}" + (f", {row['not_finite']} not finite" if row["not_finite"] else "")
        times = [
            "" if one is None else f"{one[quantile]:.2f}"
            for one in (row["latency_ms"], row["eager_ms"])
            for quantile in ("p50", "p99")
        ]
        cells = [row["kind"], row["arm"], row["format"], inputs, error, *times, f"{row['load']:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines
