"""Who is waiting for an answer: a memory per client, and a queue in which no client can push the others aside."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from diffpolicy.deploy.requests import Request

OUTBOX = 32  # answers that a client may leave unread


@dataclass(eq=False)
class Session:
    """One client: the policy's memory of it, and the answers that it still has to read.

    `memory` is None until the first decision of an episode. `episode` counts them, so that a decision that was under
    way when the client began a new episode does not write into it. `stamp` is that of the last observation decided on.
    `abort` ends the connection of a client that reads no answers.
    """

    number: int
    abort: Callable[[], None]
    outbox: asyncio.Queue[bytes | str] = field(default_factory=lambda: asyncio.Queue(OUTBOX))
    memory: Any = None
    episode: int = 0
    stamp: float | None = None
    own_protocol: bool = False  # numbers its requests, as openpi's client does not
    last_total: float | None = None  # [s] from the last request's arrival to its reply
    shield: dict[str, int] = field(default_factory=dict)

    def begin_episode(self) -> None:
        """Forget what was: the next decision starts from a fresh memory."""
        self.memory, self.stamp = None, None
        self.episode += 1

    def post(self, frame: bytes | str) -> None:
        """Put an answer into the outbox, or end a connection whose client leaves its answers unread."""
        try:
            self.outbox.put_nowait(frame)
        except asyncio.QueueFull:
            self.abort()


@dataclass(eq=False)
class Job:
    """A request that waits for its decision: `arrived` [s] on the event loop's clock; it is answered exactly once."""

    session: Session
    request: Request
    episode: int
    arrived: float
    timer: asyncio.TimerHandle | None = None
    answered: bool = False

    def finish(self) -> bool:
        """Mark the job answered; False if it was before."""
        if self.answered:
            return False
        self.answered = True
        if self.timer is not None:
            self.timer.cancel()
        return True


class FairQueue:
    """At most one waiting job per client, clients in turn; a newer request takes its predecessor's place.

    So the queue is bounded by the number of clients, and one that asks without pause gets no more than its turn.
    """

    def __init__(self) -> None:
        self._waiting: OrderedDict[Session, Job] = OrderedDict()
        self._filled = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, job: Job) -> Job | None:
        """Queue `job` and return the one that it replaces."""
        replaced = self._waiting.get(job.session)
        self._waiting[job.session] = job  # assigning to a key leaves it where it stands
        self._filled.set()
        return replaced

    async def get(self) -> Job:
        """Return the job whose client has waited longest."""
        while not self._waiting:
            self._filled.clear()
            await self._filled.wait()
        return self._waiting.popitem(last=False)[1]

    def remove(self, session: Session) -> Job | None:
        """Take out what waits for a client that is gone."""
        return self._waiting.pop(session, None)

    def drain(self, tell: Callable[[Job], None]) -> None:
        """Empty the queue, calling `tell` with every job in it."""
        while self._waiting:
            tell(self._waiting.popitem(last=False)[1])
