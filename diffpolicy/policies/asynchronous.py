"""The next chunk is computed while the last one is executed: in simulated time, and on a robot."""

import math
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from diffpolicy.policies.chunk_policy import ChunkPolicy
from diffpolicy.policies.errors import PolicyError
from diffpolicy.policies.policy import ActionChunk, Memory, Observation
from diffpolicy.policies.rti import shift

Waiting = Literal["blocking", "naive", "frozen"]


class Planner(Protocol):
    """What asynchronous execution asks of a policy: `ChunkPolicy` has it."""

    observation_horizon: int
    execute: int

    def start(self, batch: int, seed: int) -> Memory:
        """Return the memory of fresh roll-outs."""
        ...

    def act(
        self, observation: Observation, memory: Memory, *, elapsed: int | None = None, frozen: int = 0
    ) -> tuple[ActionChunk, Memory]:
        """Decide, `elapsed` control steps after the last decision."""
        ...

    def actions(self, chunk: Tensor) -> Tensor:
        """Return the actions (B, Tp - (To-1), A) of a whole chunk (B, Tp, A), from the decision on."""
        ...


class DelayedPolicy:
    """A policy whose every decision takes `delay` control steps, as a policy for any roll-out.

    A decision asked for at step t is ready at t + delay; the roll-out starts with the first one ready.

    blocking  the robot repeats its last action until the chunk is ready, then executes all of it
    naive     the last chunk is executed meanwhile; the new one takes over where it has got to by then
    frozen    as naive, but the new chunk is made to agree with what is executed meanwhile (the planner's `freezing`:
              inpainting, or the guidance of real-time chunking)
    """

    def __init__(self, planner: ChunkPolicy, delay: int, waiting: Waiting) -> None:
        if delay < 0:
            raise PolicyError(f"a decision cannot take {delay} control steps; give 0 or more")
        if waiting == "blocking" and planner.guard is not None:
            raise PolicyError(
                "a guard takes what changes while a robot waits for a jump: choose another waiting"
            )
        if waiting != "blocking" and delay >= planner.ahead:
            raise PolicyError(
                f"a decision of {delay} control steps outlasts a chunk, which has {planner.ahead} actions ahead: the "
                "robot would never execute a new one"
            )
        self.planner, self.delay, self.waiting = planner, delay, waiting
        self.observation_horizon = planner.observation_horizon
        # One decision at a time: a planner that is slower than its chunks are short decides less often.
        self.execute = planner.execute if waiting == "blocking" else max(planner.execute, delay)

    def start(self, batch: int, seed: int) -> Memory:
        """Return the memory of `batch` fresh roll-outs; the same seed gives the same actions."""
        return self.planner.start(batch, seed)

    def act(self, observation: Observation, memory: Memory) -> tuple[ActionChunk, Memory]:
        """Return the actions of the control steps until the next decision."""
        frozen = self.delay if self.waiting == "frozen" else 0
        chunk, after = self.planner.act(observation, memory, elapsed=self.execute, frozen=frozen)
        assert after.plan is not None
        new = _held(self.planner.actions(after.plan.chunk), self.execute)
        if memory.plan is None or self.delay == 0:
            return chunk._replace(actions=new), after
        if self.waiting == "blocking":
            last = self.planner.actions(memory.plan.chunk)[:, self.execute - 1 : self.execute]
            # What is remembered is dated from when it is executed, so `execute` steps have passed next time, too.
            actions = torch.cat([last.expand(-1, self.delay, -1), new], dim=1)
        else:
            old = self.planner.actions(shift(memory.plan.chunk, self.execute))
            actions = torch.cat([_held(old, self.delay), new[:, self.delay :]], dim=1)
        return chunk._replace(actions=actions), after


def _held(actions: Tensor, count: int) -> Tensor:
    """Return the first `count` actions (B, count, A), the last one repeated where there are fewer."""
    missing = count - actions.shape[1]
    if missing <= 0:
        return actions[:, :count]
    return torch.cat([actions, actions[:, -1:].expand(-1, missing, -1)], dim=1)


class _Decided(NamedTuple):
    """A finished decision: the control step whose observation it saw, its actions, and how long it took [s]."""

    step: int
    actions: Tensor
    memory: Memory
    seconds: float


class AsynchronousExecutor:
    """Gives a robot one action per control step while a thread computes the next chunk.

    The delay d that chunks are frozen for is measured: the running `quantile` of the last `window` decisions' time, in
    control steps, rounded up; the first decision, which begins from noise and warms up, counts only until there is
    another. No more is frozen than the last chunk still holds. A new chunk takes over at the first control step that
    finds it ready, with the action meant for that step, so none is repeated or left out. `starved` counts control steps
    for which no plan had an action (the last one was repeated), `late` the decisions that took longer than their d.
    """

    def __init__(
        self,
        planner: Planner,
        rate: float,
        *,
        freeze: bool = True,
        quantile: float = 0.95,
        window: int = 50,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Execute at `rate` [Hz]; without `freeze`, chunks are not made to agree with the one in execution."""
        if not (rate > 0 and 0 <= quantile <= 1):
            raise PolicyError(
                f"a control rate of {rate} Hz and quantile {quantile}: rate > 0, quantile in 0 to 1"
            )
        self.planner, self.rate, self.freeze, self.quantile = planner, rate, freeze, quantile
        self.latencies: deque[float] = deque(maxlen=window)
        self.starved = self.late = 0
        self._first = 0.0  # seconds of a first decision
        self._clock = clock
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="decision")
        self._step = 0
        self._plan: _Decided | None = None
        self._pending: Future[_Decided] | None = None
        self._expected = 0

    @property
    def delay(self) -> int:
        """Control steps that a decision is expected to take."""
        ordered = sorted(self.latencies) or [self._first]
        slow = ordered[min(len(ordered) - 1, math.ceil(self.quantile * len(ordered)) - 1)]
        return math.ceil(slow * self.rate)

    def reset(self, observation: Observation, seed: int) -> None:
        """Begin new roll-outs: wait for the first chunk, which the first `action` belongs to.

        A decision that is still under way for the last roll-outs is waited for and dropped, with its error.
        """
        if self._pending is not None:
            wait([self._pending])  # it still uses the model
        self._pending = self._plan = None
        self._step = 0
        memory = self.planner.start(len(observation.state), seed)
        self._plan = self._decide(0, observation, memory, 0, 0)
        self._first = self._plan.seconds

    def action(self, observation: Observation) -> Tensor:
        """Return the action (B, A) of this control step; call once per step, with what is seen at its beginning.

        An error of a decision is raised here, at the first step that finds it. That step does not count: asking again
        gives its action by the last plan, and another decision begins.
        """
        if self._plan is None:
            raise PolicyError("no plan yet: call reset with the first observation before the first action")
        if self._pending is not None and self._pending.done():
            decided, self._pending = self._pending, None
            self._take_over(decided.result())
        step, plan = self._step, self._plan
        if self._pending is None and step - plan.step >= self.planner.execute:
            self._expected = self.delay
            elapsed = step - plan.step
            held = max(0, plan.actions.shape[1] - elapsed)
            frozen = min(self._expected, held) if self.freeze else 0
            self._pending = self._worker.submit(
                self._decide, step, observation.copy(), plan.memory, elapsed, frozen
            )
        index, last = step - plan.step, plan.actions.shape[1] - 1
        self.starved += index > last
        self._step += 1
        return plan.actions[:, min(index, last)]

    def close(self) -> None:
        """Wait for the decision under way and end the thread; there is no plan any more."""
        self._worker.shutdown(wait=True)
        self._plan = self._pending = None

    def _take_over(self, decided: _Decided) -> None:
        self.late += self._step - decided.step > max(self._expected, 1)
        self.latencies.append(decided.seconds)
        self._plan = decided

    def _decide(
        self, step: int, observation: Observation, memory: Memory, elapsed: int, frozen: int
    ) -> _Decided:
        begun = self._clock()
        _, after = self.planner.act(observation, memory, elapsed=elapsed, frozen=frozen)
        assert after.plan is not None
        if not bool(after.plan.chunk.isfinite().all()):
            raise PolicyError(
                f"the decision of control step {step} holds NaN or infinity; the robot does not get it: check the "
                "weights and the normaliser"
            )
        actions = self.planner.actions(after.plan.chunk)
        return _Decided(step, actions, after, self._clock() - begun)
