"""Runs a policy on a robot at a fixed rate: reads, asks ahead, plays chunks, sends only what the shield commands.

The loop never waits for the policy. Periods begin at absolute times of the monotonic clock, so that lateness does not
add up; one that has gone by altogether is counted as missed, not caught up with.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpolicy.deploy.audit import Auditor
from diffpolicy.deploy.checks import invalid_observation
from diffpolicy.deploy.client import Source
from diffpolicy.deploy.errors import DeployError
from diffpolicy.deploy.limiter import LONGEST_STOP
from diffpolicy.deploy.manifest import Manifest
from diffpolicy.deploy.realtime import undisturbed
from diffpolicy.deploy.recorder import Recorder, Tick
from diffpolicy.deploy.robots import Robot
from diffpolicy.deploy.run_report import Report, Samples
from diffpolicy.deploy.shield import Shield
from diffpolicy.deploy.timeline import Timeline

STOPPING = 2.0 * LONGEST_STOP  # [s] within which a run that ends comes to rest
DELAYS = 64  # replies by which the delay is judged

log = logging.getLogger(__name__)


class Controller:
    """Moves one robot by the chunks of a source, through a shield; `tick` is one period, `run` many in real time."""

    def __init__(
        self,
        robot: Robot,
        source: Source,
        manifest: Manifest,
        records: Path,
        *,
        rate: float,
        interpolate: bool = True,
        dry_run: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Control at `rate` [Hz]; trips are recorded in the folder `records`; `dry_run` does everything but send."""
        self.robot, self.source, self.manifest = robot, source, manifest
        self.period, self.dry_run, self._clock = 1.0 / rate, dry_run, clock
        self.shield = Shield(manifest, self.period, rest=robot.rest)
        self.timeline = Timeline(manifest.control_period, interpolate=interpolate)
        self.recorder = Recorder(manifest, self.period, records, rest=robot.rest)
        self.auditor = Auditor(manifest.safety, self.period)
        self.report = Report()
        self._lateness, self._delay, self._inference = Samples(), Samples(), Samples()
        self._delays: deque[float] = deque(maxlen=DELAYS)
        self._history: deque[tuple[float, Mapping[str, NDArray[Any]]]] = deque()
        self._sequence = self._first = 0  # of the next request, and of the first one since the start
        self._next_request = -np.inf
        self._stop: str | None = None
        self._restart, self._ended = False, True
        self._asked = threading.RLock()  # of stop and restart; a signal's handler may come at any moment

    def start(self) -> None:
        """Take the robot as it stands. Also how it is let go on after a stop: an explicit reset, by a person.

        Not while `run` is at work, which has `restart`. Raises what the robot raises, and ValueError for one that
        stands outside its limits.
        """
        with self._asked:
            self._stop, self._restart = None, False
        self._take()
        self._ended = False

    def _take(self) -> None:
        """Begin an episode from where the robot stands; nothing from before is played, asked for or recorded again."""
        self.shield.reset(self.robot.start(), self._clock())
        self.auditor.restart(self.shield.state.motion.position)
        self.source.begin()
        self.timeline.clear()
        self.recorder.clear()
        self._history.clear()
        self._first, self._next_request = self._sequence, -np.inf

    def run(self, seconds: float, stop: threading.Event | None = None) -> Report:
        """Control for `seconds`, or until `stop` is set; then brake to rest. Call `start` before each run.

        Whatever ends it otherwise, such as KeyboardInterrupt, the robot is told to hold, and the record is written.
        """
        if self._ended:
            raise DeployError("call start before every run: where the robot stands is not known")
        try:
            with undisturbed():
                begin = self._clock()
                index = self._periods(
                    begin, 0, lambda now: now - begin >= seconds or bool(stop and stop.is_set())
                )
                self.report.seconds = self._clock() - begin
                self._ended = True
                self.stop("the run is over")
                ends = self._clock() + STOPPING
                self._periods(begin, index, lambda now: self._at_rest() or now > ends, ending=True)
        except BaseException as error:
            self._ended = True
            self._hold()
            self.recorder.dump(f"crash: {type(error).__name__}: {error}", self.shield.events)
            self.recorder.wait()
            raise
        self._hold()
        return self.finish()

    def stop(self, reason: str) -> None:
        """Brake to rest and stay there until `start`; the first reason is kept. Takes back a `restart`."""
        with self._asked:
            self._stop, self._restart = self._stop or reason, False

    def restart(self) -> None:
        """Have the running loop `start` again; a person's decision, from any thread.

        It waits until a stopped robot has come to rest, and does nothing for one that has not been stopped.
        """
        with self._asked:
            self._restart = True

    def _to_restart(self) -> bool:
        """Whether a restart is asked for and can be now; it is then taken off the list, with the stop."""
        with self._asked:
            stopped = self._stop is not None or self.shield.latched is not None
            self._restart = self._restart and stopped and not self._ended
            if not (self._restart and self._at_rest()):
                return False
            self._restart, self._stop = False, None
            return True

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
            # Limits are those of one command each period: two that come close together would be faster.
            after = max(math.ceil(lateness / self.period + 0.5), 1)
            index += after
            if not ending:
                self.report.periods += gone + after
                self.report.missed += gone + after - 1
                self._lateness.add(lateness)

    def _at_rest(self) -> bool:
        """Whether the shield has stopped the robot, and it stands."""
        motion, rest = self.shield.state.motion, self.robot.rest
        if rest is not None and not np.allclose(motion.position, rest, atol=1e-9, rtol=1e-9):
            return False
        return self.shield.latched is not None and not motion.velocity.any() and not motion.acceleration.any()

    def tick(self, lateness: float = 0.0) -> None:
        """One control period: read, ask, choose, shield, send, record. Never raises for robot, source or disk."""
        try:
            if self._to_restart():
                self._take()
            reading, at = self.robot.read()
            # Copied: a robot may write into the same arrays again.
            observation, stamp = {key: np.array(value) for key, value in reading.items()}, float(at)
        except Exception as error:
            observation, stamp = {}, self._clock()
            if self._stop is None:
                log.error("the robot cannot be read", exc_info=error)
            self.stop(f"the robot cannot be read: {type(error).__name__}: {error}")
        now = self._clock()
        self._receive(now)
        self._ask(observation, stamp, now)
        proposal, before, stop = self.timeline.sample(now), self.shield.state, self._stop
        verdict = self.shield.filter(proposal, observation, stamp, now, stop)
        if not self.dry_run:
            self._send(verdict.command)
        self.recorder.add(Tick(before, now, stamp, observation, proposal, stop, verdict, lateness))
        if verdict.latched is not None and before.latched is None and not self._ended:
            self.recorder.dump(verdict.latched, self.shield.events)

    def _receive(self, now: float) -> None:
        reply = self.source.poll()
        if reply is None or reply.sequence < self._first:  # the answer to a question before the start
            return
        self.report.chunks += 1
        self._delay.add(now - reply.stamp)
        self._delays.append(now - reply.stamp)
        if "infer_ms" in reply.timing:
            self._inference.add(1e-3 * reply.timing["infer_ms"])
        self.timeline.add(reply, now)

    def _ask(self, observation: Mapping[str, NDArray[Any]], stamp: float, now: float) -> None:
        """Send a request when the next decision is due: after `execute` actions, earlier if its delay needs that.

        A reading that the shield will not believe is not asked about: it is no place in time to put actions.
        """
        step = self.manifest.control_period
        fresh = -self.period <= now - stamp <= self.manifest.safety.max_observation_age
        known = bool(self._history) and stamp <= self._history[-1][0]
        if not fresh or known or invalid_observation(observation, self.manifest) is not None:
            return
        self._history.append((stamp, observation))
        while self._history[0][0] < stamp - self.manifest.observation_horizon * step - self.period:
            self._history.popleft()
        if stamp < self._next_request - self.period / 2.0:
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
        names = [signal.name for signal in self.manifest.observation]
        if horizon == 1:
            return {name: self._history[-1][1][name] for name in names}
        times = np.array([at for at, _ in self._history])
        wanted = stamp - step * np.arange(horizon - 1, -1, -1.0)
        nearest = [self._history[int(np.abs(times - at).argmin())][1] for at in wanted]
        return {name: np.stack([reading[name] for reading in nearest]) for name in names}

    def _send(self, command: NDArray[np.float64]) -> None:
        self.report.sent += 1
        self.auditor.add(command)
        try:
            self.robot.send(command)
        except Exception as error:
            self.stop(f"the robot takes no command: {type(error).__name__}: {error}")

    def _hold(self) -> None:
        """Have the robot stand still by its own means."""
        if self.dry_run:
            return
        try:
            self.robot.hold()
        except Exception as error:
            log.error("the robot does not hold: %s: %s", type(error).__name__, error)

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
