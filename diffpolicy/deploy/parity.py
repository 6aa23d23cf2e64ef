"""Does a compiled graph compute what PyTorch computes, and how long does a decision take with either."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diffpolicy.data import Standardizer
from diffpolicy.deploy.graphs import Deployable, Graph
from diffpolicy.deploy.run_policy import Array, Player, Run
from diffpolicy.policies.chunk_model import ChunkModel
from diffpolicy.policies.gaussian import GaussianPolicy
from diffpolicy.policies.picture_gaussian import PicturePolicy
from diffpolicy.policies.selection import CandidatePolicy

TOLERANCE = 1e-4  # of half an action's range, of normalised plans, and of critics' values
WARM_UP = 20  # decisions that are not timed
QUANTILES = (50, 95, 99)

Inputs = Mapping[str, Array]
"""The inputs of one call of a graph, by name."""


@dataclass(frozen=True)
class Difference:
    """Of one output of one graph over `samples` inputs: the largest differences from PyTorch.

    `absolute` is in the output's own unit, `relative` to the largest value, and `error` in units of what the tolerance
    is for: half the range of an action, 1 for normalised plans, the scale of critics' values. They are of the numbers
    that are finite on both sides; `not_finite` counts the others.
    """

    graph: str
    inputs: str
    output: str
    samples: int
    absolute: float
    relative: float
    error: float
    not_finite: int

    @property
    def passed(self) -> bool:
        """Whether everything is finite and within the tolerance."""
        return self.not_finite == 0 and self.error <= TOLERANCE


@dataclass(frozen=True)
class Latency:
    """Milliseconds of a whole decision, of `decisions` timed ones.

    `cpu_` is the processor time of the deciding thread: what other work on the machine adds is not in it.
    """

    runtime: str
    decisions: int
    p50: float
    p95: float
    p99: float
    max: float
    cpu_p50: float
    cpu_p99: float


def random_readings(policy: Deployable, count: int, seed: int) -> dict[str, Array]:
    """Return states (count, To, O) spread as the normalisation says the data were, and pictures: what is looked at."""
    source = np.random.default_rng(seed)
    if isinstance(policy, PicturePolicy):
        return {policy.camera: source.integers(0, 256, (count, 1, *policy.picture_shape), dtype=np.uint8)}
    center, spread = _usual_states(policy)
    shape = (count, policy.observation_horizon, len(center))
    # One place per sample and small steps from it: consecutive readings of a robot are alike.
    drawn = source.standard_normal(shape) * 0.05 + source.standard_normal((count, 1, len(center)))
    readings: dict[str, Array] = {"state": (center + spread * drawn).astype(np.float32)}
    if not isinstance(policy, CandidatePolicy | GaussianPolicy):
        assert isinstance(policy.model, ChunkModel)
        for camera, size in policy.model.picture_sizes.items():
            readings[camera] = source.integers(0, 256, (*shape[:2], *size, 3), dtype=np.uint8)
    return readings


def graph_inputs(
    graph: Graph, readings: Mapping[str, Array], plans: Array | None, seed: int
) -> list[dict[str, Array]]:
    """Return the inputs of a graph for readings (N, To, ...): fresh noise and, where wanted, `plans` (N, Tp, A)."""
    source = np.random.default_rng(seed)
    calls = []
    for row in range(_samples(readings)):
        feed = {name: readings[name][row : row + 1] for name in graph.inputs if name in readings}
        if graph.noise:
            feed["noise"] = source.standard_normal(graph.noise, dtype=np.float32)
        if "guess" in graph.inputs:
            assert plans is not None
            feed["guess"] = plans[row : row + 1]
        calls.append(feed)
    return calls


def compare(
    name: str, kind: str, expected: Sequence[Inputs], found: Sequence[Inputs], scales: Mapping[str, Array]
) -> list[Difference]:
    """Return the differences of each output of graph `name` on inputs of some `kind`."""
    rows = []
    for output in expected[0]:
        right = np.stack([each[output] for each in expected]).astype(np.float64)
        left = np.stack([each[output] for each in found]).astype(np.float64)
        finite = np.isfinite(left) & np.isfinite(right)
        left, right = np.where(finite, left, 0.0), np.where(finite, right, 0.0)
        difference = np.abs(left - right)
        largest = float(difference.max())
        rows.append(
            Difference(
                name,
                kind,
                output,
                len(expected),
                largest,
                largest / max(float(np.abs(right).max()), 1e-12),
                float((difference / np.asarray(scales[output])).max()),
                int((~finite).sum()),
            )
        )
    return rows


def outcomes(run: Run, calls: Sequence[Inputs]) -> list[Inputs]:
    """Return what a graph makes of each of its inputs."""
    return [run(feed) for feed in calls]


def latencies(players: Mapping[str, Player], readings: Mapping[str, Array], decisions: int) -> list[Latency]:
    """Time whole decisions of each player, in turns of 50 so that a busy machine is as unfair to one as to another."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in players}
    ahead = {name: _driver(player, readings) for name, player in players.items()}
    for drive in ahead.values():
        drive(WARM_UP)
    while len(next(iter(spent.values()))) < decisions:
        for name, drive in ahead.items():
            spent[name] += drive(min(50, decisions - len(spent[name])))
    return [_latency(name, times) for name, times in spent.items()]


def _latency(name: str, times: list[tuple[float, float]]) -> Latency:
    wall, processor = np.array(times).T
    p50, p95, p99 = (float(np.percentile(wall, q)) for q in QUANTILES)
    cpu_p50, cpu_p99 = (float(np.percentile(processor, q)) for q in (50, 99))
    return Latency(name, len(times), p50, p95, p99, float(wall.max()), cpu_p50, cpu_p99)


def _driver(player: Player, readings: Mapping[str, Array]) -> Callable[[int], list[tuple[float, float]]]:
    """Return a function that makes some more decisions and returns their wall-clock and processor times [ms]."""
    count, memory, made = _samples(readings), player.start(0), 0

    def drive(decisions: int) -> list[tuple[float, float]]:
        nonlocal memory, made
        times = []
        for _ in range(decisions):
            seen = {name: reading[made % count] for name, reading in readings.items()}
            begun, worked = time.perf_counter(), time.thread_time()
            _, memory, _, _ = player.act(seen, memory)
            times.append((1e3 * (time.perf_counter() - begun), 1e3 * (time.thread_time() - worked)))
            made += 1
        return times

    return drive


def _samples(readings: Mapping[str, Array]) -> int:
    return len(next(iter(readings.values())))


def _usual_states(policy: Deployable) -> tuple[Array, Array]:
    """Return where states (O,) were in training and how far they spread, as far as the normalisation knows."""
    if isinstance(policy, CandidatePolicy):
        standardizer: Standardizer = policy.standardizer
        return standardizer.mean.numpy(), standardizer.std.numpy()
    if isinstance(policy, GaussianPolicy):
        return policy.network.shift.numpy(), policy.network.scale.numpy()
    model = policy.model
    assert isinstance(model, ChunkModel)
    size, angles = model.observation_size, model.layout.angles
    center, scale = model.features.center.numpy(), model.features.scale.numpy()
    if model.config.conditioning.features == "plain":
        return center, scale / 2  # to [-1, 1]: half the range
    linear = [column for column in range(size) if column not in angles]  # the first of the geometric features
    mean, spread = np.zeros(size), np.full(size, math.pi)
    mean[linear], spread[linear] = center[: len(linear)], scale[: len(linear)]
    return mean, spread
