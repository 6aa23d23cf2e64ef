"""Runs a policy on a robot at a fixed rate: reads, asks ahead, plays chunks, sends only what the shield commands.

The loop never waits for the policy. Periods begin at absolute times of the monotonic clock, so that lateness does not
add up; one that has gone by altogether is counted as missed, not caught up with.
"""

import gc
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpolicy.deploy.audit import Auditor
from diffpolicy.deploy.client import Source
from diffpolicy.deploy.manifest import Manifest
from diffpolicy.deploy.recorder import Recorder, Tick
from diffpolicy.deploy.robots import Robot
from diffpolicy.deploy.shield import Shield
from diffpolicy.deploy.timeline import Timeline

KEPT = 2**17  # samples of each time; 40 minutes at 50 Hz
STOPPING = 2.0  # [s] within which a run that ends comes to rest
DELAYS = 64  # replies by which the delay is judged

log = logging.getLogger(__name__)


class Samples:
    """The last 131072 times [s] of something, in memory that does not grow."""

    def __init__(self) -> None:
        self._values = np.full(KEPT, np.nan, np.float32)
        self.count = 0

    def add(self, value: float) -> None:
        """Note one."""
        self._values[self.count % KEPT] = value
        self.count += 1

    def milliseconds(self) -> dict[str, float]:
        """Return p50, p95, p99 and the maximum in [ms], nothing if there is none."""
        if self.count == 0:
            return {}
        values = 1e3 * self._values[: min(self.count, KEPT)].astype(np.float64)
        p50, p95, p99 = np.percentile(values, [50, 95, 99])
        return {"p50": float(p50), "p95": float(p95), "p99": float(p99), "max": float(values.max())}


@dataclass
class Report:
    """What happened in a run: counts, and times in [ms].

    `missed` periods had no command before they were over. `bypasses` are sent commands that are not the shield's or
    break a limit, found by an `Auditor`; it is zero.
    """

    seconds: float = 0.0
    periods: int = 0
    missed: int = 0
    sent: int = 0
    bypasses: int = 0
    broken: dict[str, int] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    chunks: int = 0
    dropped_actions: int = 0
    latched: str | None = None
    lateness: dict[str, float] = field(default_factory=dict)  # of a command, after its period's beginning
    delay: dict[str, float] = field(default_factory=dict)  # of a chunk, after its observation
    inference: dict[str, float] = field(default_factory=dict)  # as the server tells

    @property
    def missed_share(self) -> float:
        """Missed periods of all."""
        return self.missed / max(self.periods, 1)


class Controller:
    """Moves one robot by the chunks of a source, through a shield; `tick` is one period, `run` many in real time."""

    def __init__(
        self,
        robot: Robot,
        source: Source,
        manifest: Manifest,
        recorder: Recorder,
        *,
        rate: float,
        interpolate: bool = True,
        dry_run: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Control at `rate` [Hz]; `dry_run` does everything but send."""
        self.robot, self.source, self.manifest, self.recorder = robot, source, manifest, recorder
        self.period, self.dry_run, self._clock = 1.0 / rate, dry_run, clock
        self.shield = Shield(manifest, self.period, rest=robot.rest)
        self.timeline = Timeline(manifest.control_period, interpolate=interpolate)
        self.auditor = Auditor(manifest.safety, self.period)
        self.report = Report()
        self._lateness, self._delay, self._inference = Samples(), Samples(), Samples()
        self._delays: deque[float] = deque(maxlen=DELAYS)
        self._history: deque[tuple[float, Mapping[str, NDArray[Any]]]] = deque()
        self._sequence, self._next_request = 0, -np.inf
        self._stop: str | None = None
        self._ended = False
        self._restart = threading.Event()
        self._trips = 0

    def start(self) -> None:
        """Take the robot as it stands. Also how it is let go on after a stop: an explicit reset, by a person."""
        self.shield.reset(self.robot.start(), self._clock())
        self.timeline.clear()
        self.auditor.restart()
        self._history.clear()
        self._stop, self._ended, self._next_request = None, False, -np.inf

    def run(self, seconds: float, stop: threading.Event | None = None) -> Report:
        """Control for `seconds`, or until `stop` is set; then brake to rest. Call `start` before."""
        with undisturbed():
            begin = self._clock()
            index = self._periods(
                begin, 0, lambda now: now - begin >= seconds or bool(stop and stop.is_set())
            )
            self.report.seconds = self._clock() - begin
            self._ended = True
            self.stop("the run is over")
            self._periods(
                begin, index, lambda now: self._at_rest() or now - begin > seconds + STOPPING, ending=True
            )
        if not self.dry_run:
            self.robot.hold()
        return self.finish()

    def stop(self, reason: str) -> None:
        """Brake to rest and stay there until `start`; the first reason is kept."""
        self._stop = self._stop or reason

    def restart(self) -> None:
        """Have the running loop `start` again at its next period; a person's decision, from any thread."""
        self._restart.set()

    def _periods(
        self, begin: float, index: int, over: Callable[[float], bool], *, ending: bool = False
    ) -> int:
        while True:
            due = begin + index * self.period
            while (wait := due - self._clock()) > 0.0:
                time.sleep(wait)
            now = self._clock()
            if over(now):
                return index
            gone = int((now - due) / self.period)
            index, due = index + gone, due + gone * self.period
            self.tick(now - due)
            lateness = self._clock() - due
            index += 1
            if not ending:
                self.report.periods += gone + 1
                self.report.missed += gone + (lateness > self.period)
                self._lateness.add(lateness)

    def _at_rest(self) -> bool:
        """Whether the shield has stopped the robot, and it stands."""
        motion = self.shield.state.motion
        return self.shield.latched is not None and not motion.velocity.any() and not motion.acceleration.any()

    def tick(self, lateness: float = 0.0) -> None:
        """One control period: read, ask, choose, shield, send, record. Never raises for robot, source or disk."""
        try:
            if self._restart.is_set() and not self._ended:
                self._restart.clear()
                self.start()
            observation, stamp = self.robot.read()
        except Exception as error:
            observation, stamp = {}, self._clock()
            self.stop(f"the robot cannot be read: {type(error).__name__}: {error}")
        now = self._clock()
        self._receive(now)
        self._ask(observation, stamp)
        proposal, before = self.timeline.sample(now), self.shield.state
        verdict = self.shield.filter(proposal, observation, stamp, now, self._stop)
        if not self.dry_run:
            self._send(verdict.command)
        self.recorder.add(Tick(before, now, stamp, observation, proposal, self._stop, verdict, lateness))
        if verdict.latched is not None and before.latched is None and not self._ended:
            self._trips += 1
            self.recorder.dump(f"trip-{self._trips:03d}", verdict.latched, self.shield.events)

    def _receive(self, now: float) -> None:
        reply = self.source.poll()
        if reply is None:
            return
        self.report.chunks += 1
        self._delay.add(now - reply.stamp)
        self._delays.append(now - reply.stamp)
        if "infer_ms" in reply.timing:
            self._inference.add(1e-3 * reply.timing["infer_ms"])
        self.timeline.add(reply, now)

    def _ask(self, observation: Mapping[str, NDArray[Any]], stamp: float) -> None:
        """Send a request when the next decision is due: after `execute` actions, earlier if its delay needs that."""
        step = self.manifest.control_period
        self._history.append((stamp, observation))
        while self._history[0][0] < stamp - self.manifest.observation_horizon * step - self.period:
            self._history.popleft()
        if not observation or stamp < self._next_request - self.period / 2.0:
            return
        self.source.request(self._readings(stamp), self._sequence, stamp)
        self._sequence += 1
        spare = (self.manifest.chunk - self.manifest.execute) * step
        delay = float(np.percentile(list(self._delays), 95)) if self._delays else 0.0
        lasts = self.manifest.execute * step
        lead = min(max(delay + self.period - spare, 0.0), lasts / 2.0)
        # On a grid of decisions rather than from this one, so that rounding to periods does not add up.
        due = self._next_request + lasts - lead
        self._next_request = due if due > stamp else stamp + lasts - lead

    def _readings(self, stamp: float) -> dict[str, NDArray[Any]]:
        """Return the last `observation_horizon` control steps (To, ...) of every signal, oldest first."""
        horizon, step = self.manifest.observation_horizon, self.manifest.control_period
        if horizon == 1:
            return dict(self._history[-1][1])
        times = np.array([at for at, _ in self._history])
        wanted = stamp - step * np.arange(horizon - 1, -1, -1.0)
        nearest = [self._history[int(np.abs(times - at).argmin())][1] for at in wanted]
        try:
            return {key: np.stack([reading[key] for reading in nearest]) for key in nearest[-1]}
        except (KeyError, ValueError):
            return dict(nearest[-1])  # readings that do not fit together; the shield has refused them

    def _send(self, command: NDArray[np.float64]) -> None:
        self.report.sent += 1
        self.auditor.add(command)
        try:
            self.robot.send(command)
        except Exception as error:
            self.stop(f"the robot takes no command: {type(error).__name__}: {error}")

    def finish(self) -> Report:
        """Wait for the recorder; return the report so far."""
        self.recorder.wait()
        report, auditor = self.report, self.auditor
        report.broken, report.bypasses = dict(auditor.counts), auditor.broken
        report.steps = dict(self.shield.counts)
        report.dropped_actions, report.latched = self.timeline.dropped, self.shield.latched
        report.lateness, report.delay = self._lateness.milliseconds(), self._delay.milliseconds()
        report.inference = self._inference.milliseconds()
        return report


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep the garbage collector from looking again and again at what is there already."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def realtime(priority: int) -> Iterator[None]:
    """Run this thread, and those that it starts meanwhile, under SCHED_FIFO with `priority`; 0 changes nothing.

    Enter it before a client is made: its thread holds the interpreter's lock now and then, and must not be kept from
    giving it back. Where the system does not allow it, that is logged, and everything goes on as it is.
    """
    before = None
    if priority > 0:
        try:
            before = os.sched_getscheduler(0), os.sched_getparam(0)
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
        except (OSError, AttributeError) as error:
            before = None
            log.warning("no SCHED_FIFO (%s): the loop shares its core with everything else", error)
    try:
        yield
    finally:
        if before is not None:
            os.sched_setscheduler(0, *before)
