"""The robot's side of the wire: asks a policy server without ever making the control loop wait or fail.

A thread of its own connects, asks, reads and connects again. The control loop leaves its newest request in a slot and
looks into another for the newest reply. Numpy, msgpack and websockets only.
"""

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from diffpolicy.deploy.errors import DeployError
from diffpolicy.deploy.manifest import Manifest

SILENT_REQUESTS = 3  # in a row without any answer: the connection is given up
FIRST_WAIT, LONGEST_WAIT = 0.05, 1.0  # [s] before connecting again, doubled each time

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reply:
    """Actions (H, A) float32 [physical units], the first for `stamp` [s, the client's monotonic clock].

    They may be used until `valid_until` [s, the same clock].
    """

    actions: NDArray[np.float32]
    sequence: int
    stamp: float
    valid_until: float
    feasible: float | None = None
    flags: tuple[str, ...] = ()
    timing: Mapping[str, float] = field(default_factory=dict)
    version: str = ""


class Source(Protocol):
    """Where chunks come from. No method blocks or raises, whatever happens on the other side."""

    def begin(self) -> None:
        """Begin an episode: the policy forgets what it has seen, and requests and replies that wait are dropped."""
        ...

    def request(self, observation: Mapping[str, NDArray[Any]], sequence: int, stamp: float) -> None:
        """Ask for the actions after `observation`, taken at `stamp` [s]; a request not yet sent is replaced."""
        ...

    def poll(self) -> Reply | None:
        """Return the newest reply that has come since the last call."""
        ...

    def status(self) -> str:
        """Say in a few words how things are."""
        ...

    def close(self) -> None:
        """End it; nothing comes afterwards."""
        ...


class Asked(NamedTuple):
    """A request; `begins` is set on the first one of an episode."""

    observation: dict[str, NDArray[Any]]
    sequence: int
    stamp: float
    begins: bool


class Slots:
    """One waiting request and one waiting reply; the newest takes the place of what was there."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._request: Asked | None = None
        self._reply: Reply | None = None
        self._begins = True
        self._closed = False

    def begin(self) -> None:
        """Drop what waits; the next request taken is the first of an episode."""
        with self._changed:
            self._request, self._reply, self._begins = None, None, True

    def put(self, observation: Mapping[str, NDArray[Any]], sequence: int, stamp: float) -> None:
        """Leave a request; its arrays are copied."""
        copied = {key: np.array(value) for key, value in observation.items()}
        with self._changed:
            self._request = Asked(copied, sequence, stamp, self._begins)
            self._changed.notify()

    def take(self, timeout: float) -> Asked | None:
        """Wait up to `timeout` [s] for a request."""
        with self._changed:
            if self._request is None and not self._closed:
                self._changed.wait(timeout)
            request, self._request = self._request, None
            if request is not None:
                self._begins = False
            return request

    def answer(self, reply: Reply) -> None:
        """Leave a reply."""
        with self._changed:
            self._reply = reply

    def poll(self) -> Reply | None:
        """Take the reply."""
        with self._changed:
            reply, self._reply = self._reply, None
            return reply

    def close(self) -> None:
        """Wake who waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        """Whether it is over."""
        return self._closed


class PolicyClient:
    """A `Source` that asks the policy server at `uri` ("ws://127.0.0.1:8000").

    `counts` tells how often it connected, asked, was answered, refused, and waited in vain for `timeout` [s].
    """

    def __init__(self, uri: str, *, token: str | None = None, timeout: float = 0.5) -> None:
        self.uri, self._token, self._timeout = uri, token, timeout
        self.manifest: Manifest | None = None
        self.counts = dict.fromkeys(
            ("connections", "requests", "replies", "refusals", "timeouts", "failures"), 0
        )
        self.shield_counts: Mapping[str, int] = {}  # told to the server, for its status page
        self._slots, self._status = Slots(), "connecting"
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._work, name="policy-client", daemon=True)
        self._thread.start()

    def wait(self, timeout: float) -> Manifest:
        """Return the server's manifest, waiting for it; DeployError if it does not come. Not for the control loop."""
        self._ready.wait(timeout)
        if self.manifest is None:
            raise DeployError(f"no policy server at {self.uri} within {timeout:g} s: {self._status}")
        return self.manifest

    def begin(self) -> None:
        """Begin an episode."""
        self._slots.begin()

    def request(self, observation: Mapping[str, NDArray[Any]], sequence: int, stamp: float) -> None:
        """Ask, without waiting."""
        self._slots.put(observation, sequence, stamp)

    def poll(self) -> Reply | None:
        """Return the newest reply."""
        return self._slots.poll()

    def status(self) -> str:
        """Say in a few words how things are."""
        return self._status

    def close(self) -> None:
        """End the thread; it has a second to say goodbye."""
        self._slots.close()
        self._thread.join(1.0)

    def _work(self) -> None:
        wait = FIRST_WAIT
        while not self._slots.closed:
            try:
                self._converse()
                wait = FIRST_WAIT
            except Exception as error:  # whatever it is, the robot's loop must not see it
                self.counts["failures"] += 1
                if self._status == "connected":
                    wait = FIRST_WAIT
                self._status = f"disconnected: {type(error).__name__}: {error}"[:200]
                log.warning("%s: %s", self.uri, self._status)
                time.sleep(wait)
                wait = min(2.0 * wait, LONGEST_WAIT)
        self._status = "closed"

    def _converse(self) -> None:
        """Connect, learn the manifest, then ask and read until something goes wrong or `close` is called."""
        from websockets.sync.client import connect

        from diffpolicy.deploy.wire import LARGEST, decode, encode

        headers = {"Authorization": f"Api-Key {self._token}"} if self._token else None
        with connect(
            self.uri,
            additional_headers=headers,
            compression=None,
            max_size=LARGEST,
            open_timeout=2.0,
            close_timeout=0.2,
            proxy=None,
        ) as socket:
            greeting = decode(_binary(socket.recv(timeout=2.0)))
            manifest = Manifest.from_dict({key: value for key, value in greeting.items() if key != "server"})
            if self.manifest is not None and manifest != self.manifest:
                # Rates, shapes and limits are those that the controller was made with.
                raise DeployError("the server that came back serves another policy; begin anew with it")
            self.manifest, self._status = manifest, "connected"
            self.counts["connections"] += 1
            self._ready.set()
            silent, fresh = 0, True  # this connection's memory at the server is fresh
            sent: dict[int, float] = {}  # the stamps of requests without an answer yet
            while not self._slots.closed and silent < SILENT_REQUESTS:
                request = self._slots.take(0.2)
                if request is None:
                    continue
                extra = {
                    "__seq": request.sequence,
                    "__stamp": request.stamp,
                    "__reset": request.begins or fresh,
                    "__shield": dict(self.shield_counts),
                }
                socket.send(encode({**request.observation, **extra}))
                sent[request.sequence], fresh = request.stamp, False
                self.counts["requests"] += 1
                try:
                    deadline = time.monotonic() + self._timeout
                    answered = False
                    while not answered:
                        frame = socket.recv(timeout=max(deadline - time.monotonic(), 0.0))
                        answered = self._read(decode(_binary(frame)), request.sequence, sent, manifest)
                    silent = 0
                except TimeoutError:
                    self.counts["timeouts"] += 1
                    silent += 1
            if not self._slots.closed:
                raise DeployError(f"no answer to {silent} requests")

    def _read(
        self, message: dict[str, Any], sequence: int, sent: dict[int, float], manifest: Manifest
    ) -> bool:
        """Take in a reply to one of the requests `sent`; whether it was to `sequence`, or a refusal."""
        if "error" in message:
            self.counts["refusals"] += 1
            log.warning("refused: %.200s", message["error"])
            refused = sequence if message.get("seq") is None else message["seq"]
            sent.pop(refused, None)
            return bool(refused == sequence)
        reply = read_reply(message, manifest)
        # A stamp decides when actions are played: it has to be the one that was sent, to the last bit.
        if sent.get(reply.sequence) != reply.stamp:
            raise DeployError(
                f"a reply to request {reply.sequence} of {reply.stamp:g} s, which was never sent"
            )
        for answered in [number for number in sent if number <= reply.sequence]:
            del sent[answered]
        self.counts["replies"] += 1
        self._slots.answer(reply)
        return reply.sequence == sequence


def read_reply(message: Mapping[str, Any], manifest: Manifest) -> Reply:
    """Return the reply in a decoded message; DeployError if it is none. Actions that are not finite are let through:
    the shield refuses, counts and tells of them.
    """
    actions, sequence, stamp = message.get("actions"), message.get("seq"), message.get("stamp")
    lasts, feasible = message.get("valid_for"), message.get("feasible")
    if not isinstance(actions, np.ndarray) or actions.ndim != 2 or actions.dtype.kind != "f":
        raise DeployError("a reply has actions, an array (H, A) of floats")
    if actions.shape[1:] != manifest.action.shape or not 1 <= len(actions) <= manifest.chunk:
        most = f"1 to {manifest.chunk}"
        raise DeployError(f"actions are (H, {manifest.action.shape[0]}), H from {most}, got {actions.shape}")
    if not isinstance(sequence, int) or not isinstance(stamp, float) or not isinstance(lasts, int | float):
        raise DeployError("a reply has seq, stamp and valid_for, as the request gave them")
    flags, timing = message.get("flags") or (), message.get("server_timing") or {}
    return Reply(
        actions=np.array(actions, np.float32),
        sequence=sequence,
        stamp=stamp,
        valid_until=stamp + float(lasts),
        feasible=None if feasible is None else float(feasible),
        flags=tuple(str(flag) for flag in flags),
        timing={str(key): float(value) for key, value in timing.items() if value is not None},
        version=str(message.get("policy_version", "")),
    )


def _binary(frame: str | bytes) -> bytes:
    if isinstance(frame, str):
        raise DeployError(f"the server said: {frame:.200}")
    return frame
