"""Follows a target without ever leaving limits of position, velocity, acceleration and jerk.

Commands are a sequence of positions p_k, one each `period`. Their differences are what is limited: v_k = (p_k -
p_{k-1}) / period, a_k and j_k likewise. Every element of the action is an axis of its own.

The limits hold for ever because the limiter always owns a *stop*: a list of accelerations that brings the axis to rest
within all limits. A new command is taken only if a stop from there has been found and checked; otherwise the stop it
owns goes on. (The idea is the backup plan of model-predictive shielding: Bastani, ACC 2021.)
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffpolicy.deploy.errors import ManifestError
from diffpolicy.deploy.manifest import Safety

Array = NDArray[np.float64]
LONGEST_STOP = 10.0  # [s]; limits that need longer are a mistake, such as a rate in place of a time
TOLERANCE = 1e-9  # of each limit: rounding
COARSE, FINE = 17, 9  # accelerations tried between the lowest and the highest possible, then around the best


class Motion(NamedTuple):
    """Where the axes are and how they stop: (A,), (A,), (A,), the accelerations of the stop (n, A), the last target."""

    position: Array
    velocity: Array
    acceleration: Array
    stop: Array
    target: Array


class MotionLimiter:
    """Limits the commands to one robot; `step` and `halt` return the next command (A,) and note it."""

    def __init__(self, safety: Safety, period: float) -> None:
        """Take the limits from `safety`, for one command each `period` [s].

        Raises ManifestError for limits with which the robot could not stop within 10 s.
        """
        self.low, self.high = np.array(safety.position_low), np.array(safety.position_high)
        self.velocity, self.acceleration = np.array(safety.velocity), np.array(safety.acceleration)
        self.jerk, self.period = np.array(safety.jerk), period
        longest = self.velocity / self.acceleration + 2.0 * self.acceleration / self.jerk
        if float(longest.max()) > LONGEST_STOP:
            raise ManifestError(
                f"safety: action element {int(longest.argmax())} needs {longest.max():.3g} s to stop; raise its "
                f"acceleration or jerk limit, or lower its velocity limit (at most {LONGEST_STOP:g} s)"
            )
        ramp = float((self.acceleration / self.jerk).max()) / period
        first, last = np.meshgrid(_lengths(2.0 * ramp), _lengths(ramp), indexing="ij")
        self._ramps = first.ravel()[:, None, None], last.ravel()[:, None, None]
        self.motion = self.at_rest((self.low + self.high) / 2.0)

    def at_rest(self, position: Array) -> Motion:
        """Return the motion of a robot that stands at `position` (A,), moved into the limits where it is outside."""
        inside = np.clip(np.asarray(position, np.float64), self.low, self.high)
        still = np.zeros_like(inside)
        return Motion(inside, still, still, np.zeros((0, len(inside))), inside)

    def halt(self) -> Array:
        """Go on with the stop: the next command (A,) on the way to rest, or the same again."""
        before = self.motion
        if len(before.stop) == 0:
            self.motion = self.at_rest(before.position)
            return self.motion.position
        self._move(before.stop[0], before.stop[1:], before.position)
        return self.motion.position

    def step(self, target: Array) -> Array:
        """Return the command (A,) that comes nearest to following `target` (A,) within all limits.

        A target that keeps the limits by itself is followed exactly. Otherwise the acceleration is chosen after which
        matching the target's velocity, as fast as the limits allow, ends nearest to the target: an axis that lags
        behind catches up and hardly overshoots.
        """
        before, dt = self.motion, self.period
        goal = np.clip(target, self.low, self.high)
        drift = np.clip((goal - before.target) / dt, -self.velocity, self.velocity)
        reach = self.jerk * dt
        lowest = np.maximum(before.acceleration - reach, -self.acceleration)
        highest = np.minimum(before.acceleration + reach, self.acceleration)
        exact = ((goal - before.position) / dt - before.velocity) / dt
        exact_taken = np.clip(exact, lowest, highest)
        going_on = before.stop[0] if len(before.stop) else np.zeros_like(exact)
        spread = lowest + (highest - lowest) * np.linspace(0.0, 1.0, COARSE)[:, None]
        tried = np.concatenate([exact_taken[None], going_on[None], spread])
        admissible, error, stops = self._try(tried, goal, drift)
        best = self._choose(admissible, error)
        width = (highest - lowest) / (COARSE - 1)
        centre = np.take_along_axis(tried, best[None], axis=0)[0]
        near = np.clip(
            centre + width * np.linspace(-0.8, 0.8, FINE)[:, None], lowest, highest
        )  # a second, finer look
        admissible_near, error_near, stops_near = self._try(near, goal, drift)
        tried = np.concatenate([tried, near])
        admissible, error = np.concatenate([admissible, admissible_near]), np.concatenate([error, error_near])
        stops = np.concatenate(_padded(stops, stops_near), axis=1)
        best = self._choose(admissible, error)
        # A target within reach is hit exactly, unless the robot would only rush past it.
        rushing = np.abs(before.velocity + dt * exact - drift) > self.acceleration * dt * (1.0 + TOLERANCE)
        hit = admissible[0] & (np.abs(exact - exact_taken) <= TOLERANCE * self.acceleration) & ~rushing
        best = np.where(hit, 0, best)
        axes = np.arange(len(best))
        owned = np.zeros((stops.shape[0], len(best)))
        owned[:] = stops[:, best, axes]
        safe = admissible[best, axes]
        rest = before.stop[1:]
        owned, rest = (part[:, 0] for part in _padded(owned[:, None], rest[:, None]))
        self._move(np.where(safe, tried[best, axes], going_on), np.where(safe, owned, rest), goal)
        return self.motion.position

    @staticmethod
    def _choose(admissible: NDArray[np.bool_], error: Array) -> NDArray[np.int64]:
        best: NDArray[np.int64] = np.argmin(np.where(admissible, error, np.inf), axis=0)
        return best

    def _move(self, acceleration: Array, stop: Array, target: Array) -> None:
        """Note that the axes have accelerated so, and how they stop from there."""
        dt, before = self.period, self.motion
        velocity = before.velocity + dt * acceleration
        position = np.clip(before.position + dt * velocity, self.low, self.high)
        moving = np.flatnonzero(np.abs(stop).max(axis=1, initial=0.0) > 0.0)
        stop = stop[: moving[-1] + 2] if len(moving) else stop[:1]
        if not np.any(acceleration) and len(moving) == 0:
            velocity, stop = np.zeros_like(velocity), stop[:0]  # at rest but for rounding
        self.motion = Motion(position, velocity, acceleration, stop, target)

    def _try(self, accelerations: Array, goal: Array, drift: Array) -> tuple[NDArray[np.bool_], Array, Array]:
        """Return whether each of `accelerations` (K, A) can be taken, its error (K, A) and its stop (n, K, A)."""
        dt = self.period
        velocity = self.motion.velocity + dt * accelerations
        position = self.motion.position + dt * velocity
        stop = self._settle(velocity, accelerations)
        speeds = velocity + dt * np.cumsum(stop, axis=0)
        path = position + dt * np.cumsum(speeds, axis=0)
        slack = TOLERANCE * (self.high - self.low)
        admissible = np.abs(velocity) <= self.velocity * (1.0 + TOLERANCE)
        admissible &= np.abs(speeds).max(axis=0, initial=0.0) <= self.velocity * (1.0 + TOLERANCE)
        admissible &= (np.minimum(path.min(axis=0), position) >= self.low - slack) & (
            np.maximum(path.max(axis=0), position) <= self.high + slack
        )
        matching = self._settle(velocity - drift, accelerations)
        relative = velocity - drift + dt * np.cumsum(matching, axis=0)
        error = np.abs(position - goal + dt * relative.sum(axis=0))
        return admissible, error, stop

    def _settle(self, velocity: Array, acceleration: Array) -> Array:
        """Return accelerations (n, K, A) after which `velocity` (K, A) and `acceleration` (K, A) are zero.

        A ramp to a peak, the peak held, a ramp to zero: of all lengths of the ramps (the smaller ones, then every few)
        the shortest whole that keeps the limits of acceleration and jerk. With the longest ramps there always is one.
        """
        dt, (first, last) = self.period, self._ramps
        wanted = -velocity / dt - acceleration * (first - 1.0) / 2.0  # what peak and last ramp have to sum to
        bound = np.minimum(self.acceleration, last * self.jerk * dt)
        held = np.maximum(np.ceil(np.abs(wanted) / bound - (first + last) / 2.0 - TOLERANCE), 0.0)
        peak = wanted / ((first + last) / 2.0 + held)
        steep = np.abs(peak - acceleration) > first * self.jerk * dt * (1.0 + TOLERANCE)
        length = np.where(steep, np.inf, first + held + last)
        best = np.argmin(length, axis=0)[None]

        def chosen(values: Array) -> Array:
            picked: Array = np.take_along_axis(np.broadcast_to(values, length.shape), best, axis=0)[0]
            return picked

        up, down, hold, top = chosen(first), chosen(last), chosen(held), chosen(peak)
        number = np.arange(1.0, float((up + hold + down).max()) + 1.0)[:, None, None]
        rising = acceleration + (top - acceleration) * np.minimum(number / up, 1.0)
        falling = top * np.clip((up + hold + down - number) / down, 0.0, 1.0)
        return np.where(number <= up, rising, falling)


def _lengths(longest: float) -> Array:
    """Return the lengths of a ramp that are tried, up to `longest` [periods] rounded up: at most a dozen."""
    last = max(int(np.ceil(longest - TOLERANCE)), 1)
    return np.unique(np.rint(np.concatenate([np.arange(1, min(last, 5) + 1), np.geomspace(1, last, 8)])))


def _padded(first: Array, second: Array) -> tuple[Array, Array]:
    """Return both with zeros after the shorter one, along axis 0."""
    length = max(len(first), len(second))
    return (
        np.concatenate([first, np.zeros((length - len(first), *first.shape[1:]))]),
        np.concatenate([second, np.zeros((length - len(second), *second.shape[1:]))]),
    )
