"""Plays an exported policy: numpy and onnxruntime, nothing else. This file is copied into every export.

    player = Player.open("FOLDER")                      # a package of the format pt2 needs torch as well
    memory = player.start(seed=0)
    actions, memory, feasible, flags = player.act({"state": reading}, memory)

`python run_policy.py` in the folder checks every file's SHA-256, replays the golden vectors and times a decision.

The graphs compute a decision from the readings, noise and, of a warm start, the last plan; what is left to do here is
to remember, to draw the noise, and to tell when the last plan no longer fits (the guard).
"""

import hashlib
import importlib
import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]
SPEC, MANIFEST, GOLDEN = "policy.json", "manifest.json", "golden.npz"
COLD, WARM = "cold", "warm"  # the graphs: from pure noise, and from the last plan


class PlayError(ValueError):
    """A folder that is no whole export, or a reading that nothing can be decided from."""


class Memory(NamedTuple):
    """What one robot's next decision begins with; never changed, only replaced.

    `readings` (To, ...) by signal; the last `plan` (1, Tp, A) in normalised units, where the next one begins with it,
    and the `actions` (1, H, A) it meant; and for how many decisions in a row (control steps, where plans are reused) it
    has `stalled`.
    """

    seed: int
    decisions: int = 0
    readings: Mapping[str, Array] | None = None
    plan: Array | None = None
    actions: Array | None = None
    stalled: int = 0


class Player:
    """Decides with the graphs of a policy, whatever runs them; `spec` is what policy.json says."""

    def __init__(self, spec: Mapping[str, Any], graphs: Mapping[str, Run]) -> None:
        self.spec, self.graphs = spec, graphs
        self.kind: str = spec["kind"]  # cold, warm, reuse or streaming
        self.execute: int = spec["execute"]
        self.guard = None if spec["guard"] is None else Guard(**spec["guard"])

    @classmethod
    def open(cls, folder: str | Path, threads: int = 1) -> "Player":
        """Load an export; PlayError where a file is missing or is not the one that was written."""
        folder = Path(folder)
        spec = read_spec(folder)
        load = load_onnx if spec["format"] == "onnx" else load_package
        graphs = {
            name: load(folder / graph["file"], graph, threads) for name, graph in spec["graphs"].items()
        }
        return cls(spec, graphs)

    def start(self, seed: int) -> Memory:
        """Return the memory of a fresh roll-out."""
        return Memory(int(seed))

    def noise(self, memory: Memory, graph: str) -> Array:
        """Return the standard normal noise that a graph takes at this decision: the same for the same seed."""
        source = np.random.default_rng([memory.seed & (2**63 - 1), memory.decisions, graph == WARM])
        noise: Array = source.standard_normal(self.spec["graphs"][graph]["noise"], dtype=np.float32)
        return noise

    def act(
        self, observation: Mapping[str, Array], memory: Memory, elapsed: int | None = None
    ) -> tuple[Array, Memory, float | None, tuple[str, ...]]:
        """Return actions (H, A) float32, the new memory, the critics' value of them, and flags.

        `observation` has the newest reading of every signal, or the last To of each, oldest first. `elapsed` counts
        the control steps since the last decision (None: `execute`). Raises PlayError for anything else, for NaN and
        infinity, and where the policy itself answers with them.
        """
        readings = self._readings(observation, memory)
        steps = self.execute if elapsed is None else int(elapsed)
        if steps < 1:
            raise PlayError(f"elapsed={elapsed}: decisions are at least 1 control step apart")
        shown, flags = readings, list[str]()
        outcome, stalled = None, 0
        # The noise of a streaming buffer rises by whole decisions, so that any other `elapsed` begins it anew.
        if memory.actions is not None and (self.kind != "streaming" or steps == self.execute):
            shown, flags = self._signs(memory, readings, steps)
            if not flags and self.kind != "cold":
                outcome, stalled, flags = self._carried_on(memory, shown, steps)
        if outcome is None:
            outcome, stalled = self._run(COLD, shown, memory, None), 0
            flags += ["cold"] if self.kind != "cold" else []
        actions, value = outcome["actions"], outcome.get("feasible")
        after = Memory(memory.seed, memory.decisions + 1, readings, outcome.get("plan"), actions, stalled)
        return actions[0], after, None if value is None else float(value[0]), tuple(flags)

    def _signs(
        self, memory: Memory, readings: dict[str, Array], steps: int
    ) -> tuple[dict[str, Array], list[str]]:
        """Return what the graphs are shown, and why the last plan does not serve, before anything is computed."""
        signs, guard = [], self.guard
        if self.kind == "reuse" and memory.stalled + steps + self.execute > self.spec["ahead"]:
            signs.append("used up")
        if guard is not None and memory.readings is not None:
            if guard.change(memory.readings["state"][-1], readings["state"][-1], steps) > guard.jump:
                signs.append("jump")
            if self.kind == "warm" and 0 < guard.patience <= memory.stalled:
                signs.append("stall")
            readings = guard.without_jumps(readings, "jump" in signs)
        return readings, signs

    def _carried_on(
        self, memory: Memory, readings: dict[str, Array], steps: int
    ) -> tuple[dict[str, Array] | None, int, list[str]]:
        """Return the decision that begins with the last plan, for how long it has stalled, and signs against it."""
        assert memory.actions is not None
        assert memory.readings is not None
        if self.kind == "reuse":
            return {"actions": shifted(memory.actions, steps)}, memory.stalled + steps, []
        assert memory.plan is not None
        guess = shifted(memory.plan, steps)
        outcome = self._run(WARM, readings, memory, guess)
        if self.guard is None:
            return outcome, 0, []
        distance = residual(outcome["plan"], guess, steps)
        if distance > self.guard.residual:
            return None, 0, ["residual"]
        change = self.guard.change(memory.readings["state"][-1], readings["state"][-1], steps)
        still = distance <= self.guard.still_residual and change <= self.guard.still_change
        return outcome, memory.stalled + 1 if still else 0, []

    def _run(
        self, name: str, readings: Mapping[str, Array], memory: Memory, guess: Array | None
    ) -> dict[str, Array]:
        graph = self.spec["graphs"][name]
        feed = {key: reading[None] for key, reading in readings.items()}
        if graph["noise"]:
            feed["noise"] = self.noise(memory, name)
        if guess is not None:
            feed["guess"] = guess
        outcome = dict(self.graphs[name](feed))
        for key, found in outcome.items():
            if not np.isfinite(found).all():
                raise PlayError(f"the policy answers with NaN or infinity ({key}): the robot does not get it")
        return outcome

    def _readings(self, observation: Mapping[str, Array], memory: Memory) -> dict[str, Array]:
        """Return the last To readings (To, ...) of every signal, checked."""
        horizon, signals = self.spec["observation_horizon"], self.spec["observation"]
        found = {}
        for signal in signals:
            name, shape = signal["name"], tuple(signal["shape"])
            if name not in observation:
                raise PlayError(f"the observation has no {name!r}; it has {sorted(map(str, observation))}")
            reading = checked(np.asarray(observation[name]), signal, horizon)
            if reading.shape == shape:
                before = None if memory.readings is None else memory.readings[name]
                earlier = np.repeat(reading[None], horizon, axis=0) if before is None else before
                reading = np.concatenate([earlier[1:], reading[None]])
            found[name] = reading
        return found


class Guard:
    """When the last plan no longer fits; as `diffpolicy.policies.guard.Guard`, for one robot."""

    def __init__(
        self,
        usual: list[list[float]],
        jump: float,
        residual: float,
        angles: list[int],
        still_residual: float,
        still_change: float,
        patience: int,
    ) -> None:
        self.usual = np.asarray(usual, dtype=np.float32)
        self.jump, self.residual, self.angles = jump, residual, list(angles)
        self.still_residual, self.still_change, self.patience = still_residual, still_change, patience

    def change(self, before: Array, now: Array, elapsed: int) -> float:
        """Return the largest change of a column from (O,) to (O,) in units of its usual one; angles [rad] wrap."""
        change = now - before
        turned = change[self.angles]
        change[self.angles] = np.remainder(
            turned + np.float32(math.pi), np.float32(2 * math.pi)
        ) - np.float32(math.pi)
        return float((np.abs(change) / self.usual[min(elapsed, len(self.usual)) - 1]).max())

    def without_jumps(self, readings: Mapping[str, Array], jumped: bool) -> dict[str, Array]:
        """Return readings in which, before a jump, the world has always been as it was after it."""
        states = readings["state"]
        newest = len(states) - 1
        begun = newest if jumped else 0
        if not jumped:
            for step in range(1, newest):
                if self.change(states[step - 1], states[step], 1) > self.jump:
                    begun = step
        if begun == 0:
            return dict(readings)
        return {
            name: np.concatenate([np.repeat(reading[begun : begun + 1], begun, axis=0), reading[begun:]])
            for name, reading in readings.items()
        }


def shifted(plan: Array, elapsed: int) -> Array:
    """Return a plan (1, H, A) `elapsed` control steps later: its last action is repeated."""
    return plan[:, np.minimum(np.arange(plan.shape[1]) + elapsed, plan.shape[1] - 1)]


def residual(chunk: Array, guess: Array, elapsed: int) -> float:
    """Return the root mean square by which a chunk (1, H, A) differs from what its guess knew."""
    known = max(1, chunk.shape[1] - elapsed)
    return math.sqrt(float(np.square(chunk[:, :known] - guess[:, :known]).mean()))


def checked(reading: Array, signal: Mapping[str, Any], horizon: int) -> Array:
    """Return a reading in the signal's dtype; PlayError for another shape or kind, NaN and infinity."""
    name, shape = signal["name"], tuple(signal["shape"])
    if reading.shape not in (shape, (horizon, *shape)):
        raise PlayError(
            f"{name!r} has shape {reading.shape}, not {shape}, or {(horizon, *shape)} with its past"
        )
    if signal["dtype"] == "uint8":
        if reading.dtype != np.uint8:
            raise PlayError(f"{name!r} holds {reading.dtype}, not uint8")
        return reading.copy()
    if not (np.issubdtype(reading.dtype, np.floating) or np.issubdtype(reading.dtype, np.integer)):
        raise PlayError(f"{name!r} holds {reading.dtype}, not float32")
    with np.errstate(over="ignore"):
        numbers: Array = reading.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(numbers).reshape(-1, shape[0]).all(axis=0))
    if len(bad):
        called = [signal["names"][i] if signal["names"] else f"{name}[{i}]" for i in bad[:8]]
        raise PlayError(
            f"NaN or infinity in {', '.join(called)}: nothing is decided from it, look at the sensor"
        )
    return numbers


def read_spec(folder: Path) -> dict[str, Any]:
    """Return policy.json after comparing the SHA-256 of every file, its own included; PlayError where one differs."""
    try:
        stored: dict[str, Any] = json.loads((folder / SPEC).read_text())
        hashes, whole = dict(stored["sha256"]), spec_hash(stored)
        needed = {MANIFEST, *(graph["file"] for graph in stored["graphs"].values())}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise PlayError(f"{folder} is no exported policy ({SPEC}: {error!r})") from error
    if hashes.pop(SPEC, None) != whole:
        raise PlayError(f"{folder / SPEC} has been changed since the export: export the policy again")
    for name, expected in hashes.items():
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise PlayError(f"{path} is missing: copy the whole folder again")
        if file_hash(path) != expected:
            raise PlayError(f"{path} is not the file that was exported (SHA-256 differs): it is not loaded")
    if unhashed := needed - set(hashes):
        raise PlayError(f"{folder / SPEC} gives no SHA-256 of {sorted(unhashed)}")
    return stored


def spec_hash(spec: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a spec but for its own entry."""
    plain = {**spec, "sha256": {name: value for name, value in spec["sha256"].items() if name != SPEC}}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_onnx(path: Path, graph: Mapping[str, Any], threads: int) -> Run:
    """Return an ONNX graph in ONNX Runtime on `threads` threads."""
    runtime = _imported("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the package's own exceptions have no common base
        raise PlayError(f"{path} cannot be run: {error}") from error
    outputs = list(graph["outputs"])

    def run(feed: Mapping[str, Array]) -> Mapping[str, Array]:
        return dict(zip(outputs, session.run(outputs, dict(feed)), strict=True))

    return run


def load_package(path: Path, graph: Mapping[str, Any], threads: int) -> Run:
    """Return a package of AOTInductor: machine code for the kind of machine it was exported on. Needs torch."""
    torch, inductor = _imported("torch"), _imported("torch._inductor")
    try:
        package = inductor.aoti_load_package(str(path))
    except Exception as error:  # another processor, another torch
        raise PlayError(f"{path} cannot be run on this machine: {error}") from error
    inputs, outputs = list(graph["inputs"]), list(graph["outputs"])

    def run(feed: Mapping[str, Array]) -> Mapping[str, Array]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            with torch.no_grad():
                found = package(*(torch.from_numpy(np.ascontiguousarray(feed[name])) for name in inputs))
        finally:
            torch.set_num_threads(before)
        found = (found,) if isinstance(found, torch.Tensor) else found
        return {name: tensor.numpy() for name, tensor in zip(outputs, found, strict=True)}

    return run


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise PlayError(f"this policy needs {name.partition('.')[0]}, install it: {error}") from error


def golden_error(player: Player, folder: Path) -> float:
    """Return the largest error over the golden vectors, in the units of `scales` of each output."""
    worst = 0.0
    with np.load(folder / GOLDEN, allow_pickle=False) as golden:
        for name, graph in player.spec["graphs"].items():
            for row in range(len(golden[f"{name}.in.{graph['inputs'][0]}"])):
                feed = {key: golden[f"{name}.in.{key}"][row] for key in graph["inputs"]}
                for key, found in player.graphs[name](feed).items():
                    scale = np.asarray(player.spec["scales"][key], dtype=np.float32)
                    difference = np.abs(found - golden[f"{name}.out.{key}"][row]) / scale
                    worst = max(worst, float(np.nan_to_num(difference, nan=np.inf).max()))
    return worst


def main() -> int:
    """Check the folder that this file lies in, and time it; 1 when the golden vectors are not met."""
    folder = Path(__file__).parent
    player = Player.open(folder)
    error, tolerance = golden_error(player, folder), player.spec["tolerance"]
    print(f"files whole; golden vectors met within {error:.2g} (tolerance {tolerance:g})")
    memory, seconds = player.start(0), []
    with np.load(folder / GOLDEN, allow_pickle=False) as golden:
        reading = {s["name"]: golden[f"{COLD}.in.{s['name']}"][0, 0, -1] for s in player.spec["observation"]}
    for _ in range(200):
        begun = time.perf_counter()
        actions, memory, _, _ = player.act(reading, memory)
        seconds.append(1e3 * (time.perf_counter() - begun))
    print(
        f"actions {actions.shape}; a decision takes {np.percentile(seconds, [50, 99]).round(3)} ms (p50, p99)"
    )
    return int(not error <= tolerance)


if __name__ == "__main__":
    sys.exit(main())
