"""How long a robot waits for its policy server: requests to a `diffpolicy serve` process on loopback, one at a time."""

import os
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig
from rich.console import Console
from websockets.sync.client import connect

import envs
from diffpolicy.cli.common import dataset_path, load_dataset
from diffpolicy.cli.errors import ConfigError
from diffpolicy.cli.robot_processes import policy_server
from diffpolicy.cli.suites.jobs import Job, run_all
from diffpolicy.cli.suites.results import target
from diffpolicy.deploy import wire
from diffpolicy.deploy.parity import QUANTILES, WARM_UP

SLOWEST = 5.0  # [ms], 99 of 100 requests


def run_server(
    cfg: DictConfig, exports: Mapping[tuple[str, str, str], Job], console: Console
) -> dict[str, Any]:
    """Return the row of the export that `cfg.server` names, measured if that is not kept.

    Raises ConfigError for one that is not among the jobs of `deploy_exports`.
    """
    asked = cfg.server
    exported = exports.get((asked.policy, asked.arm, "onnx"))
    if exported is None:
        raise ConfigError(
            f"server: exports.arms has no {asked.arm} of {asked.policy}; add it, or name another"
        )
    folder = exported.path.with_suffix("")
    log = exported.path.with_name("server.log")
    job = Job(
        f"{asked.policy} {asked.arm}, {asked.requests} requests to its server",
        exported.path.with_name(f"{folder.name}-server.json"),
        {"export": dict(exported.of), "requests": asked.requests, "rate": asked.rate},
        partial(served, folder, envs.task(str(asked.task)), asked.requests, asked.rate, log),
    )
    run_all([job], console)
    told = {"kind": asked.policy, "arm": asked.arm, "requests": asked.requests, "rate": asked.rate}
    return {**told, **job.result()}


def served(folder: Path, task: envs.Task, requests: int, rate: float, log: Path) -> dict[str, Any]:
    """Serve the export in `folder` in a process of its own and ask it about the task's shipped demonstrations.

    Returns quantiles of the times [ms] from before encoding to after decoding, of the policy's part in them, and the
    machine's load before and after. Raises ConfigError for more requests than the demonstrations have moments.
    """
    dataset = load_dataset(task, dataset_path(task, None))
    states = dataset.observations[dataset.rows[: requests + WARM_UP]].numpy()
    if len(states) < requests + WARM_UP:
        raise ConfigError(f"server.requests={requests} must be at most {len(states) - WARM_UP}")
    before = os.getloadavg()[0]
    options = [f"export={folder}", f"run={log.with_suffix('')}"]
    with policy_server(options, log) as (uri, _):
        times, inference = round_trips(uri, states, rate)
    found = {"round_trip_ms": _quantiles(times[WARM_UP:]), "policy_ms": _quantiles(inference[WARM_UP:])}
    return {**found, "load": [round(load, 1) for load in (before, os.getloadavg()[0])]}


def round_trips(uri: str, states: NDArray[Any], rate: float) -> tuple[list[float], list[float]]:
    """Ask about `states` (N, O) in turn, at most `rate` [Hz]; the times [ms] of each, and of the policy in it.

    Raises ConfigError where the server refuses a request.
    """
    times, inference = [], []
    with connect(uri, compression=None, max_size=wire.LARGEST, proxy=None) as socket:
        socket.recv()  # the manifest
        due = time.perf_counter()
        for number, state in enumerate(states):
            time.sleep(max(due - time.perf_counter(), 0.0))
            begun = time.perf_counter()
            socket.send(wire.encode({"state": state, "__seq": number}))
            answer = socket.recv()
            assert isinstance(answer, bytes)
            message = wire.decode(answer)
            times.append(1e3 * (time.perf_counter() - begun))
            if "error" in message:
                raise ConfigError(f"the policy server refused a request: {message['error']}")
            inference.append(float(message["server_timing"]["infer_ms"]))
            due = max(due + 1.0 / rate, begun)  # what is late is not caught up with
    return times, inference


def server_targets(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the target of the server."""
    slowest = row["round_trip_ms"]["p99"]
    name = f"{row['kind']}, {row['arm']}: p99 of a request through the server on loopback [ms]"
    return [target(name, f"<= {SLOWEST:g}", slowest, None, slowest <= SLOWEST)]


def server_table(row: dict[str, Any]) -> list[str]:
    """Return the row as the lines of a Markdown table."""
    before, after = row["load"]
    lines = [
        f"**Through the server**: {row['requests']} requests to `diffpolicy serve` on loopback, at most "
        f"{row['rate']:g} a second, {row['kind']}, {row['arm']}, ONNX; load of the machine {before:.1f} before and "
        f"{after:.1f} after. At a load above the number of cores requests queue for the processor.",
        "",
        "| time [ms] | p50 | p95 | p99 | max |",
        "|---|---|---|---|---|",
    ]
    for name, key in (("from request to answer", "round_trip_ms"), ("of that, the policy", "policy_ms")):
        one = row[key]
        lines.append(
            f"| {name} | {one['p50']:.2f} | {one['p95']:.2f} | {one['p99']:.2f} | {one['max']:.2f} |"
        )
    return lines


def _quantiles(times: list[float]) -> dict[str, float]:
    found = {f"p{each}": round(float(np.percentile(times, each)), 4) for each in QUANTILES}
    return found | {"max": round(max(times), 4)}
