"""The last thing between a policy and a robot: every command goes through it, and leaves it within the limits.

What it checks, in this order, is STEPS; each is counted, and logged when it begins. Most merely hold: the robot is
braked within its limits and goes on when the cause is gone. What cannot be trusted again by itself latches: the robot
is brought to rest and stays there until somebody calls `reset`. docs/controller.md has the table.

This is software on a computer that may fail. It is no safety function in the sense of ISO 13849 or ISO 10218, and its
stop is no emergency stop (ISO 13850): those belong to hardware.
"""

import logging
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffpolicy.deploy.checks import (
    Reading,
    invalid_action,
    invalid_observation,
    outside_workspace,
)
from diffpolicy.deploy.errors import ManifestError
from diffpolicy.deploy.limiter import Motion, MotionLimiter
from diffpolicy.deploy.manifest import Manifest

Array = NDArray[np.float64]
STEPS = (
    "invalid",  # an observation or action of the wrong shape or dtype, NaN or infinity: latches
    "stale",  # the observation is too old, from the future, or a frozen sensor's: holds
    "late",  # no action for this moment, or one whose validity is over: holds
    "infeasible",  # the critics say that it leads to a violation, and there is no backup: holds
    "position",  # the action lies outside: moved to the limit
    "velocity",  # these three: the way there is too fast and is slowed down
    "acceleration",
    "jerk",
    "braking",  # within all limits, but the robot could not stop before the limit of position
    "workspace",  # the robot has been seen outside its workspace: latches
    "watchdog",  # it has been held for too long: latches
    "clock",  # time went backwards: latches
    "stop",  # the caller asks for it: an operator, a robot that cannot be read, the end of a run: latches
    "latched",  # the commands for as long as it has stayed latched
)
FROZEN_MOVE = (
    0.02  # of the range of an action: a command that has moved so much must have changed some reading
)
BACKUP = "backup"  # the flag of an action that the server chose because no better one was feasible
EVENTS = 256  # kept
OUTSIDE = 0.01  # of the range of an action: how far outside a robot may stand in the beginning

log = logging.getLogger(__name__)


class Proposal(NamedTuple):
    """What the policy would have the robot do now: action (A,) [physical units], good until a monotonic time [s]."""

    action: NDArray[Any]
    valid_until: float
    feasible: float | None = None
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """The command (A,) to send, the STEPS that acted on it, whether it is on the way to rest, and why it is latched."""

    command: Array
    steps: tuple[str, ...]
    holding: bool
    latched: str | None
    reason: str = ""


class ShieldState(NamedTuple):
    """Everything that the next verdict depends on; what `replay` begins from."""

    motion: Motion
    latched: str | None
    accepted_at: float | None  # [s] when an action last passed the first four steps
    now: float
    seen: Reading | None  # the reading that has not changed since ...
    seen_at: float
    seen_command: Array


class Event(NamedTuple):
    """Something worth telling: when [s, monotonic], which step, what exactly."""

    at: float
    step: str
    text: str


class Shield:
    """Turns proposals into commands that are safe to send; one call of `filter` for each control period.

    `rest` (A,) is the action with which the robot stands still, where actions are velocities or forces; None where they
    are positions: it then stands still wherever the command does.
    """

    def __init__(self, manifest: Manifest, period: float, *, rest: Array | None = None) -> None:
        """Guard one robot that gets a command each `period` [s]. Raises ManifestError for unusable limits."""
        self.manifest, self.safety, self.rest = manifest, manifest.safety, rest
        self.limiter = MotionLimiter(manifest.safety, period)
        self.counts: Counter[str] = Counter(dict.fromkeys(STEPS, 0))
        self.events: deque[Event] = deque(maxlen=EVENTS)
        self.commands = 0
        self._active: tuple[str, ...] = ()
        low, high = self.limiter.low, self.limiter.high
        if rest is not None and not (rest.shape == low.shape and ((low <= rest) & (rest <= high)).all()):
            raise ManifestError(
                f"the command of standing still, {rest}, is outside the limits {low} to {high}"
            )
        self.reset((low + high) / 2.0)

    @property
    def latched(self) -> str | None:
        """Why the robot is stopped until a reset; None if it is not."""
        return self.state.latched

    def reset(self, command: NDArray[Any], now: float = -np.inf) -> None:
        """Unlatch, for a robot that stands at `command` (A,): what it would be sent to stay as it is.

        Raises ValueError for a command that is no place to start from: not finite, or outside the limits of position by
        more than 1 % of their range, from where the first command would be a leap. Less is sensors' noise.
        """
        start = np.asarray(command, np.float64)
        if start.shape != self.manifest.action.shape or not np.isfinite(start).all():
            raise ValueError(f"a robot stands at finite numbers {self.manifest.action.shape}, got {command}")
        motion = self.limiter.at_rest(start)
        far = np.abs(motion.position - start) > OUTSIDE * (self.limiter.high - self.limiter.low)
        if far.any():
            place = int(far.argmax())
            raise ValueError(
                f"{self.manifest.action.element(place)} stands at {start[place]:.4g}, outside "
                f"[{self.limiter.low[place]:g}, {self.limiter.high[place]:g}]: move it inside by hand"
            )
        self.state = ShieldState(motion, None, None, now, None, now, motion.position)

    def filter(
        self,
        proposal: Proposal | None,
        observation: Reading,
        stamp: float,
        now: float,
        stop: str | None = None,
    ) -> Verdict:
        """Return the command to send at `now` [s] for a reading that was taken at `stamp` [s, the same clock].

        `stop` latches: the reason for which the caller wants the robot to stand still. Nothing from
        outside makes this raise.
        """
        before = self.state
        observation = observation if isinstance(observation, Mapping) else {}
        self._watch(observation, now)
        step, text = self._refusal(proposal, observation, stamp, now, stop)
        held = step is not None
        steps = [] if step is None else [step]
        accepted_at = before.accepted_at if held else now
        reason, latched = text, before.latched
        if before.latched is not None:
            held, steps = True, [*steps, "latched"]
        elif step in ("invalid", "workspace", "clock", "stop"):
            latched = f"{step}: {text}"
        elif accepted_at is not None and now - accepted_at > self.safety.watchdog:
            waited = 1e3 * (now - accepted_at)
            latched = f"watchdog: no usable action for {waited:.0f} ms, last because {step}: {text}"
            steps.append("watchdog")
        self.limiter.motion = before.motion
        if held or proposal is None:
            command = self._hold()
        else:
            action = np.asarray(proposal.action, np.float64)
            limiting = self._limiting(action)
            command = self.limiter.step(action)
            if not limiting and self._moved(command, action):
                limiting = ["braking"]
            steps += limiting
        self.state = self.state._replace(
            motion=self.limiter.motion, latched=latched, accepted_at=accepted_at, now=max(before.now, now)
        )
        self._note(tuple(steps), reason, now, before.latched, latched)
        return Verdict(command, tuple(steps), held, latched, reason)

    def _hold(self) -> Array:
        if self.rest is None:
            return self.limiter.halt()
        return self.limiter.step(self.rest)

    def _refusal(
        self, proposal: Proposal | None, observation: Reading, stamp: float, now: float, stop: str | None
    ) -> tuple[str | None, str]:
        """Return the first step that does not let the action pass, with the reason; (None, "") if it passes."""
        if stop is not None:
            return "stop", stop
        if not now >= self.state.now:  # NaN too
            return "clock", f"the clock went back by {1e3 * (self.state.now - now):.1f} ms"
        if (wrong := invalid_observation(observation, self.manifest)) is not None:
            return "invalid", wrong
        if proposal is not None and (wrong := invalid_action(proposal.action, self.manifest)) is not None:
            return "invalid", wrong
        if (outside := outside_workspace(observation, self.manifest)) is not None:
            return "workspace", outside
        age = now - stamp
        if not -self.limiter.period <= age <= self.safety.max_observation_age:
            return "stale", f"the observation is {1e3 * age:.0f} ms old"
        if self._frozen(now):
            return "stale", f"no reading has changed for {1e3 * (now - self.state.seen_at):.0f} ms of motion"
        if proposal is None:
            return "late", "there is no action for this moment"
        if not now <= proposal.valid_until:
            return "late", f"the action's validity ended {1e3 * (now - proposal.valid_until):.0f} ms ago"
        threshold, value = self.safety.feasible_below, proposal.feasible
        if value is None or threshold is None:
            return None, ""
        if np.isnan(value):  # whatever its flags
            return "infeasible", "the critics' value is nan"
        if value > threshold and BACKUP not in proposal.flags:
            return "infeasible", f"feasible value {value:.3g} is above {threshold:g}"
        return None, ""

    def _watch(self, observation: Reading, now: float) -> None:
        """Note when a reading last changed, and what the command was then."""
        seen = self.state.seen
        same = bool(seen) and all(
            _is_array(observation.get(key)) and np.array_equal(observation[key], value)
            for key, value in (seen or {}).items()
        )
        if not same:
            signals = [signal.name for signal in self.manifest.observation]
            kept = {key: np.array(observation[key]) for key in signals if _is_array(observation.get(key))}
            self.state = self.state._replace(seen=kept, seen_at=now, seen_command=self.state.motion.position)

    def _frozen(self, now: float) -> bool:
        moved = np.abs(self.state.motion.position - self.state.seen_command)
        far = bool((moved > FROZEN_MOVE * (self.limiter.high - self.limiter.low)).any())
        return far and now - self.state.seen_at > self.safety.max_observation_age

    def _limiting(self, action: Array) -> list[str]:
        """Return which limits `action` (A,) would break if it were sent as it is."""
        limiter, motion = self.limiter, self.limiter.motion
        dt, slack = limiter.period, 1.0 + 1e-6
        velocity = (action - motion.position) / dt
        acceleration = (velocity - motion.velocity) / dt
        broken = {
            "position": (action < limiter.low) | (action > limiter.high),
            "velocity": np.abs(velocity) > slack * limiter.velocity,
            "acceleration": np.abs(acceleration) > slack * limiter.acceleration,
            "jerk": np.abs(acceleration - motion.acceleration) > slack * limiter.jerk * dt,
        }
        return [name for name, elements in broken.items() if elements.any()]

    def _moved(self, command: Array, action: Array) -> bool:
        return bool((np.abs(command - action) > 1e-9 * (self.limiter.high - self.limiter.low)).any())

    def _note(
        self, steps: tuple[str, ...], reason: str, now: float, before: str | None, latched: str | None
    ) -> None:
        """Count the steps, and log those that have begun."""
        self.commands += 1
        self.counts.update(steps)
        begun = [step for step in steps if step not in self._active]
        self._active = steps
        if latched is not None and before is None:
            log.error("stopped until reset: %s", latched)
            self.events.append(Event(now, latched.partition(":")[0], latched))
            return
        for step in begun:
            if step in STEPS[:4]:
                log.warning("holding, %s: %s", step, reason)
                self.events.append(Event(now, step, reason))


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray)
