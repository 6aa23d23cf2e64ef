"""From a checked request to a reply: whose turn it is, the deadline, the policy, what may leave the server."""

import asyncio
import itertools
import logging
import math
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffpolicy.deploy import wire
from diffpolicy.deploy.chunks import Chunk, Runtime
from diffpolicy.deploy.errors import DeployError
from diffpolicy.deploy.manifest import Manifest
from diffpolicy.deploy.metrics import Metrics
from diffpolicy.deploy.requests import RefusedError, Request
from diffpolicy.deploy.sessions import FairQueue, Job, Session
from diffpolicy.deploy.worker import Worker

WARM_UP = 10  # decisions before the server is ready: compilers and allocators work at the first few
STALL = 5.0  # [s] that no healthy decision takes

log = logging.getLogger(__name__)


class WarmUpError(DeployError):
    """A policy that cannot act on a plain observation, and is therefore not served."""


class Decision(NamedTuple):
    """What came of a decision: actions and memory, or why there are none; `seconds` is what the policy took."""

    chunk: Chunk | None
    memory: Any
    seconds: float
    refusal: RefusedError | None = None


@dataclass(frozen=True)
class Latest:
    """The newest decision, for the status page; `when` is monotonic [s]."""

    observation: dict[str, NDArray[Any]]
    actions: NDArray[np.float32]
    client: int
    when: float


class Decisions:
    """Answers requests one at a time in a worker thread, clients in turn, each within `deadline` [s] of its arrival.

    A request is answered exactly once: by actions, or by an error when its deadline passes, a newer one replaces it,
    the policy fails or the server stops. A decision that comes after its deadline is dropped and leaves no trace in the
    client's memory, since the client never saw those actions.
    """

    def __init__(self, runtime: Runtime, metrics: Metrics, deadline: float | None, seed: int) -> None:
        self.runtime = runtime
        self.manifest: Manifest = runtime.manifest
        self.metrics = metrics
        # After its last action's time a reply is of no use to anybody.
        self.deadline = deadline or self.manifest.chunk * self.manifest.control_period
        self.latest: Latest | None = None
        self.stopping = False
        self._current: Job | None = None
        self._queue = FairQueue()
        self._worker = Worker("policy")
        self._seeds = itertools.count(seed)
        self._told: Counter[str] = Counter()

    @property
    def stalled(self) -> bool:
        """Whether a decision has been taking so long that the policy is to be thought dead."""
        since = self._worker.busy_since
        return since is not None and time.monotonic() - since > max(STALL, 10 * self.deadline)

    async def warm_up(self) -> None:
        """Act `WARM_UP` times on a plain observation; WarmUpError if that does not give actions."""
        observation = plain_observation(self.manifest)
        memory = None
        for _ in range(WARM_UP):
            decision = await self._worker.run(self._decide, observation, memory, None)
            if decision.refusal is not None:
                raise WarmUpError(f"the policy is not served: on a plain observation, {decision.refusal}")
            memory = decision.memory

    def submit(self, session: Session, request: Request, arrived: float) -> None:
        """Queue a request that came at `arrived` [s, event loop's clock]."""
        if self.stopping:
            raise RefusedError("stopping", "the server is stopping")
        if request.reset:
            session.begin_episode()
        job = Job(session, request, session.episode, arrived)
        loop = asyncio.get_running_loop()
        job.timer = loop.call_at(arrived + self.deadline, self._expire, job)
        if (replaced := self._queue.put(job)) is not None:
            self._refuse(replaced, RefusedError("superseded", "a newer request of this client came first"))

    def forget(self, session: Session) -> None:
        """Drop what waits for a client that is gone."""
        if (job := self._queue.remove(session)) is not None:
            job.finish()

    async def run(self) -> None:
        """Answer requests until cancelled."""
        while True:
            job = await self._queue.get()
            if not job.answered:
                self._current = job
                await self._answer(job)
                self._current = None

    async def stop(self) -> None:
        """Refuse what waits and what comes, and wait until the decision under way is answered, too late or stalled."""
        self.stopping = True
        stopping = RefusedError("stopping", "the server is stopping")
        self._queue.drain(lambda job: self._refuse(job, stopping))
        ends = time.monotonic() + STALL
        while (job := self._current) is not None and not job.answered:
            if time.monotonic() > ends:
                self._refuse(job, stopping)
            await asyncio.sleep(0.005)
        self._worker.close()

    async def _answer(self, job: Job) -> None:
        session, request = job.session, job.request
        elapsed = self._elapsed(session, request)
        decision = await self._worker.run(self._decide, request.observation, session.memory, elapsed)
        self.metrics.inference.add(decision.seconds)
        if decision.chunk is None:
            if job.episode == session.episode:
                session.memory = session.stamp = None  # what it remembered may be what it failed on
            self._refuse(job, decision.refusal or RefusedError("policy", "the policy failed"))
        elif not job.finish():
            self.metrics.late += 1
        else:
            if job.episode == session.episode:
                session.memory, session.stamp = decision.memory, request.stamp
            self._reply(job, decision.chunk, decision.seconds)

    def _elapsed(self, session: Session, request: Request) -> int | None:
        """Return the control steps since this client's last decision, by its own clock; None where it has not said."""
        if session.stamp is None or request.stamp is None or session.memory is None:
            return None
        steps = (request.stamp - session.stamp) * self.manifest.control_rate
        # Clamped before it is rounded: between stamps that a client made up it may be infinite.
        return round(min(max(steps, 1.0), self.manifest.horizon)) if steps >= 0.0 else None

    def _decide(self, observation: dict[str, NDArray[Any]], memory: Any, elapsed: int | None) -> Decision:
        """Ask the policy (in the worker thread); whatever happens inside it becomes a refusal."""
        begun = time.perf_counter()
        try:
            if memory is None:
                memory = self.runtime.start(next(self._seeds))
            chunk, memory = self.runtime.act(observation, memory, elapsed=elapsed)
            chunk = checked(chunk, self.manifest)
        except DeployError as error:
            refusal = error if isinstance(error, RefusedError) else RefusedError("policy", str(error))
            return Decision(None, None, time.perf_counter() - begun, refusal)
        except Exception as error:  # of the policy's inside; what it says is for the log, not for the client
            self._complain(error)
            refusal = RefusedError("policy", "the policy failed; the server's log says why")
            return Decision(None, None, time.perf_counter() - begun, refusal)
        return Decision(chunk, memory, time.perf_counter() - begun)

    def _complain(self, error: Exception) -> None:
        """Log a failure: the first of its kind with its traceback, later ones at 2, 4, 8, ... so that no disk fills."""
        kind = type(error).__name__ if len(self._told) < 100 else "another"
        self._told[kind] += 1
        count = self._told[kind]
        if count & (count - 1) == 0:
            log.error("the policy failed (%s, time %d)", kind, count, exc_info=error if count == 1 else None)

    def _reply(self, job: Job, chunk: Chunk, seconds: float) -> None:
        session, request, metrics = job.session, job.request, self.metrics
        timing = {"infer_ms": 1e3 * seconds}
        if session.last_total is not None:
            timing["prev_total_ms"] = 1e3 * session.last_total
        metrics.flagged(chunk.flags)
        if chunk.feasible is not None:
            metrics.feasible_value = chunk.feasible
            metrics.infeasible += chunk.feasible > (self.manifest.safety.feasible_below or 0.0)
        self.latest = Latest(request.observation, chunk.actions, session.number, time.monotonic())
        session.post(
            wire.encode(
                {
                    "actions": chunk.actions,
                    "seq": request.sequence,
                    "stamp": request.stamp,
                    "valid_for": len(chunk.actions) * self.manifest.control_period,
                    "policy_version": self.manifest.version,
                    "feasible": chunk.feasible,
                    "flags": list(chunk.flags),
                    "server_timing": timing,
                }
            )
        )
        session.last_total = asyncio.get_running_loop().time() - job.arrived
        metrics.answered(session.last_total)

    def _expire(self, job: Job) -> None:
        message = f"no answer within {self.deadline:g} s"
        self._refuse(job, RefusedError("deadline", message))

    def _refuse(self, job: Job, refusal: RefusedError) -> None:
        if job.finish():
            refuse(job.session, refusal, self.metrics, job.request.sequence)


def refuse(session: Session, refusal: RefusedError, metrics: Metrics, sequence: int | None = None) -> None:
    """Answer a refused request with a map that has "error", or with text, which openpi's client raises as an error."""
    metrics.refusals[refusal.code] += 1
    if session.own_protocol:
        error = {"code": refusal.code, "message": str(refusal)}
        session.post(wire.encode({"error": error, "seq": sequence}))
    else:
        session.post(f"{refusal.code}: {refusal}")


def checked(chunk: Chunk, manifest: Manifest) -> Chunk:
    """Return `chunk` as it may leave the server; RefusedError for actions of another shape, NaN and infinity."""
    actions = np.ascontiguousarray(chunk.actions, np.float32)
    if actions.ndim != 2 or not len(actions) or actions.shape[1:] != manifest.action.shape:
        size = manifest.action.shape[0]
        raise RefusedError("policy", f"the policy gave actions {actions.shape}, not (H, {size})")
    if not np.isfinite(actions).all():
        step, element = (int(i) for i in np.argwhere(~np.isfinite(actions))[0])
        name = manifest.action.element(element)
        raise RefusedError("policy", f"the policy gave {actions[step, element]} for {name} of step {step}")
    feasible = None if chunk.feasible is None else float(chunk.feasible)
    if feasible is not None and not math.isfinite(feasible):
        raise RefusedError("policy", f"the critics gave {feasible}")
    return Chunk(actions, feasible, tuple(map(str, chunk.flags)))


def plain_observation(manifest: Manifest) -> dict[str, NDArray[Any]]:
    """Return zeros, or the middle of the range where a signal has one."""
    observation = {}
    for signal in manifest.observation:
        array = np.zeros(signal.shape, signal.dtype)
        if signal.low is not None and signal.high is not None and len(signal.shape) == 1:
            array[:] = (np.asarray(signal.low) + np.asarray(signal.high)) / 2
        observation[signal.name] = array
    return observation
