"""From a policy to a folder that plays without this package: graphs, manifest, golden vectors, reports, player."""

import importlib
import json
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from diffpolicy.deploy import run_policy
from diffpolicy.deploy.errors import DeployError
from diffpolicy.deploy.graphs import Graph
from diffpolicy.deploy.parity import (
    TOLERANCE,
    Difference,
    Inputs,
    Latency,
    compare,
    graph_inputs,
    latencies,
    outcomes,
    random_readings,
)
from diffpolicy.deploy.report import written_report
from diffpolicy.deploy.run_policy import (
    COLD,
    GOLDEN,
    MANIFEST,
    SPEC,
    Array,
    Player,
    Run,
    file_hash,
    spec_hash,
)
from diffpolicy.deploy.torch_runtime import TorchRuntime, player_spec
from diffpolicy.policies.runtime_backends import compile_aoti, export_onnx

Format = Literal["onnx", "pt2"]
FORMATS: tuple[Format, ...] = get_args(Format)
GOLDEN_SAMPLES = 4  # of each graph
SEED = 0  # of the noise and random readings that graphs are compared on


class ParityError(DeployError):
    """A compiled policy that does not compute what the checkpoint computes."""


@dataclass(frozen=True)
class Exported:
    """A written export, and what was measured."""

    folder: Path
    differences: Sequence[Difference]
    latencies: Sequence[Latency]

    def check(self) -> None:
        """Raise ParityError, naming the worst output, unless all is finite and within the tolerance."""
        worst = max(self.differences, key=lambda row: (row.not_finite, row.error))
        if worst.not_finite:
            raise ParityError(
                f"{worst.output} of the graph {worst.graph!r} holds NaN or infinity ({worst.not_finite} numbers on "
                f"{worst.inputs} inputs, in the export or in PyTorch): see {self.folder.name}/parity.md and do not "
                "deploy it. Look for NaN in the checkpoint's weights first, then choose another arm"
            )
        if not worst.passed:
            raise ParityError(
                f"{worst.output} of the graph {worst.graph!r} differs from PyTorch by {worst.error:.2g} on "
                f"{worst.inputs} inputs, more than {TOLERANCE:g}: see {self.folder.name}/parity.md and do not deploy "
                "it. A policy that predicts noise magnifies rounding by noise/signal: choose an arm that begins at a "
                "level with some signal"
            )


def export(
    runtime: TorchRuntime,
    folder: Path | str,
    format: Format = "onnx",
    *,
    real: Mapping[str, Array] | None = None,
    samples: int = 64,
    decisions: int = 1000,
    threads: int = 1,
    machine: str = "",
) -> Exported:
    """Write a policy to `folder`, compare it with PyTorch on random and `real` readings (N, To, ...), and time it.

    The folder appears whole or not at all, and takes the place of an earlier export. What is written is returned,
    whatever the comparison says: call `check`. Raises DeployError for a folder that holds anything else.
    """
    if format not in FORMATS:
        raise DeployError(f"a format is one of {', '.join(FORMATS)}, not {format!r}")
    folder = Path(folder)
    place = folder.resolve()  # what a link points to is replaced, not the link
    check_free(place)
    partial, replaced = (place.with_name(f".{place.name}.{what}") for what in ("writing", "replaced"))
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        differences, times = _write(runtime, partial, format, real, samples, decisions, threads, machine)
        shutil.rmtree(replaced, ignore_errors=True)
        if place.exists():
            place.rename(replaced)
        partial.rename(place)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Exported(folder, differences, times)


def check_free(folder: Path) -> None:
    """Raise DeployError unless `folder` is new, empty, or holds nothing but an earlier export."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise DeployError(f"{folder} is a file: give another folder")
    try:
        written = set(json.loads((folder / SPEC).read_text())["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        written = set()
    held = {path.name for path in folder.iterdir()}
    if foreign := sorted(held - written - {"__pycache__"}):
        raise DeployError(
            f"{folder} holds {foreign[0]}, which is no export's: give another folder, or an empty one"
        )


def _write(
    runtime: TorchRuntime,
    folder: Path,
    format: Format,
    real: Mapping[str, Array] | None,
    samples: int,
    decisions: int,
    threads: int,
    machine: str,
) -> tuple[list[Difference], list[Latency]]:
    manifest = runtime.manifest
    (folder / MANIFEST).write_text(manifest.to_json() + "\n")
    spec = player_spec(runtime.graphs, manifest) | {"format": format, "tolerance": TOLERANCE}
    readings = {"random": random_readings(runtime.policy, samples, SEED)}
    if real is not None:
        readings["real"] = {name: reading[:samples] for name, reading in real.items()}
    calls, expected = _reference(runtime.graphs.graphs, readings)
    spec["scales"] = _scales(expected[COLD, "random"], manifest.action.low, manifest.action.high)
    differences, golden, runs = [], dict[str, Array](), dict[str, Run]()
    for name, graph in runtime.graphs.graphs.items():
        path = folder / f"{name}.{format}"
        spec["graphs"][name]["file"] = path.name
        compile_graph(graph, calls[name, "random"][0], path, format, threads)
        if format == "onnx":
            _annotate(path, manifest.as_dict())
        runs[name] = load(path, spec["graphs"][name], threads)
        for kind in readings:
            given, wanted = calls[name, kind], expected[name, kind]
            differences += compare(name, kind, wanted, outcomes(runs[name], given), spec["scales"])
            golden |= _golden(name, given[:GOLDEN_SAMPLES], wanted[:GOLDEN_SAMPLES])
    np.savez(folder / GOLDEN, **golden)  # type: ignore[arg-type]
    shutil.copyfile(run_policy.__file__, folder / "run_policy.py")
    players = {format: Player(spec, runs), "torch": runtime.player}
    newest = {name: reading[:, -1] for name, reading in readings.get("real", readings["random"]).items()}
    finite = not any(row.not_finite for row in differences)  # a player refuses to go on otherwise
    times = latencies(players, newest, decisions) if decisions and finite else []
    written_report(folder, manifest, format, differences, times, machine)
    spec = json.loads(
        json.dumps(spec | {"sha256": {path.name: file_hash(path) for path in folder.iterdir()}})
    )
    spec["sha256"][SPEC] = spec_hash(spec)
    (folder / SPEC).write_text(json.dumps(spec, indent=1, allow_nan=False) + "\n")
    return differences, times


def _reference(
    graphs: Mapping[str, Graph], readings: Mapping[str, Mapping[str, Array]]
) -> tuple[dict[tuple[str, str], list[dict[str, Array]]], dict[tuple[str, str], list[Inputs]]]:
    """Return inputs and what PyTorch makes of them, by graph and kind of reading; warm graphs are given cold plans."""
    calls, expected = {}, {}
    for kind, seen in readings.items():
        plans = None
        for name in sorted(graphs):  # cold, then warm
            calls[name, kind] = graph_inputs(graphs[name], seen, plans, SEED)
            expected[name, kind] = outcomes(graphs[name].run, calls[name, kind])
            if "plan" in graphs[name].outputs:
                plans = np.concatenate([each["plan"] for each in expected[name, kind]])
    return calls, expected


def load(path: Path, graph: Mapping[str, Any], threads: int) -> Run:
    """Return the graph in a file of either format as a function."""
    loader = run_policy.load_onnx if path.suffix == ".onnx" else run_policy.load_package
    return loader(path, graph, threads)


def compile_graph(graph: Graph, feed: Mapping[str, Array], path: Path, format: Format, threads: int) -> None:
    """Write a graph to `path` in a format, for inputs of the shapes of `feed`."""
    inputs: tuple[Tensor, ...] = tuple(torch.from_numpy(feed[name].copy()) for name in graph.inputs)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporters' own making
        program = torch.export.export(graph.module.eval(), inputs)
        if format == "onnx":
            export_onnx(program, path, graph.inputs, graph.outputs)
        else:
            compile_aoti(program, inputs, path, threads)


def _annotate(path: Path, manifest: Mapping[str, Any]) -> None:
    """Put the manifest's keys into the metadata of an ONNX file: text as it is, anything else as JSON."""
    onnx = importlib.import_module("onnx")
    model = onnx.load(str(path))
    del model.metadata_props[:]
    for key, value in manifest.items():
        model.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))
    onnx.save(model, str(path))


def _scales(
    expected: Sequence[Mapping[str, Array]], low: Sequence[float] | None, high: Sequence[float] | None
) -> dict[str, Any]:
    """Return what one unit of error is in every output."""
    scales: dict[str, Any] = {"actions": [(b - a) / 2 for a, b in zip(low or (), high or (), strict=True)]}
    if "plan" in expected[0]:
        scales["plan"] = 1.0
    if "feasible" in expected[0]:
        values = np.abs(np.stack([each["feasible"] for each in expected]))
        scales["feasible"] = max(1.0, float(values[np.isfinite(values)].max(initial=0.0)))
    return scales


def _golden(
    name: str, given: Sequence[Mapping[str, Array]], expected: Sequence[Mapping[str, Array]]
) -> dict[str, Array]:
    """Return the entries of golden.npz: the inputs and outputs of a graph, stacked over samples."""
    entries = {f"{name}.in.{key}": np.stack([feed[key] for feed in given]) for key in given[0]}
    return entries | {f"{name}.out.{key}": np.stack([each[key] for each in expected]) for key in expected[0]}
