"""The policy server: websocket for robots, HTTP on the same port for people, Prometheus and health checks."""

import asyncio
import contextlib
import logging
import math
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from diffpolicy.deploy import access, wire
from diffpolicy.deploy.chunks import Runtime
from diffpolicy.deploy.decisions import Decisions, refuse
from diffpolicy.deploy.errors import DeployError
from diffpolicy.deploy.metrics import Metrics
from diffpolicy.deploy.pages import Pages
from diffpolicy.deploy.requests import RefusedError, read_request
from diffpolicy.deploy.sessions import Session

PROTOCOL = 1  # of the fields in requests and replies
STRANGERS = 32  # connections beyond `max_clients`: handshakes and pages under way
CLOSING = 2.0  # [s] that clients get to close their connections
UNREAD = 2**20  # bytes that may wait for a peer to read them, answers to its pings among them

log = logging.getLogger(__name__)
quiet = logging.getLogger(
    f"{__name__}.websockets"
)  # a line per bad handshake would let anybody fill the disk
quiet.setLevel(logging.CRITICAL)


class ServerError(DeployError):
    """A server that cannot be started as it was asked for."""


@dataclass(frozen=True)
class ServerConfig:
    """Where to listen and what to put up with; times in [s], sizes in [bytes].

    `deadline` None is the time that a chunk lasts. A client that is silent for `idle_timeout`, or does not answer a
    ping within `ping_timeout`, is disconnected; so is who does not finish the handshake within `handshake_timeout`.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = field(default=None, repr=False)
    allow_remote: bool = False
    tls_cert: str | None = None
    tls_key: str | None = None
    deadline: float | None = None
    max_message: int = wire.LARGEST
    max_clients: int = 8
    handshake_timeout: float = 10.0
    ping_timeout: float = 20.0
    idle_timeout: float = 300.0
    noise_seed: int = 0

    def __post_init__(self) -> None:
        times = ("handshake_timeout", "ping_timeout", "idle_timeout", "deadline")
        for key in (*times, "max_message", "max_clients"):
            value = getattr(self, key)
            if value is not None and not 0 < value < math.inf:
                raise ServerError(f"{key} is above 0 and finite, got {value}")
        if not 0 <= self.port < 2**16:
            raise ServerError(f"port is from 0 (any free one) to 65535, got {self.port}")
        access.check_exposure(self.host, self.allow_remote, self.token)
        access.tls_context(self.tls_cert, self.tls_key)


class PolicyServer:
    """Serves one `Runtime`. `await run(stop, started)` does everything; `url` is known from `started` on."""

    def __init__(self, runtime: Runtime, config: ServerConfig) -> None:
        self.config = config
        self.metrics = Metrics()
        self.decisions = Decisions(runtime, self.metrics, config.deadline, config.noise_seed)
        self.url = ""
        self._ready = asyncio.Event()
        self._sessions: set[Session] = set()
        self._tls = access.tls_context(config.tls_cert, config.tls_key)

    @property
    def state(self) -> str:
        """One of "warming up", "ready", "stalled" and "stopping"."""
        if self.decisions.stopping:
            return "stopping"
        if self.decisions.stalled:
            return "stalled"
        return "ready" if self._ready.is_set() else "warming up"

    async def run(self, stop: asyncio.Event, started: Callable[[str], None]) -> None:
        """Listen, warm up, call `started` with the address, serve until `stop` is set, then end in good order.

        Raises OSError for a port that is taken and WarmUpError for a policy that cannot act.
        """
        config = self.config
        pages = Pages(self.decisions, lambda: self.state, config.token, config.max_clients)
        server = await serve(
            self._client,
            config.host,
            config.port,
            ssl=self._tls,
            origins=[None],  # a web page that a browser shows must not drive the robot
            process_request=pages.answer,
            compression=None,  # a small message must not become a large one
            max_size=config.max_message,
            max_queue=2,
            open_timeout=config.handshake_timeout,
            ping_interval=config.ping_timeout,
            ping_timeout=config.ping_timeout,
            close_timeout=CLOSING,
            server_header=None,
            logger=quiet,
            create_connection=_limited(config.max_clients + STRANGERS),
        )
        port = next(iter(server.sockets)).getsockname()[1]
        host = f"[{config.host}]" if ":" in config.host else config.host
        self.url = f"{'wss' if self._tls else 'ws'}://{host}:{port}"
        tasks = [asyncio.create_task(self.decisions.run()), asyncio.create_task(self._tick())]
        try:
            if await self._warm_up(stop):
                started(self.url)
                await _until(stop, tasks)
            await self.decisions.stop()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(
                    asyncio.gather(*(each.outbox.join() for each in self._sessions)), CLOSING
                )
        finally:
            server.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(server.wait_closed(), 2 * CLOSING)
            for task in tasks:
                task.cancel()

    async def _warm_up(self, stop: asyncio.Event) -> bool:
        """Make the policy ready; False if the server is told to stop before it is."""
        warming, stopped = asyncio.create_task(self.decisions.warm_up()), asyncio.create_task(stop.wait())
        await asyncio.wait((warming, stopped), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not warming.done():
            warming.cancel()
            return False
        warming.result()
        self._ready.set()
        return True

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self.metrics.tick()

    async def _client(self, connection: ServerConnection) -> None:
        """Serve one robot until it goes."""
        metrics = self.metrics
        if metrics.clients >= self.config.max_clients:
            metrics.rejected["full"] += 1
            await connection.close(CloseCode.TRY_AGAIN_LATER, "as many clients as may be are connected")
            return
        session = Session(metrics.connections + 1, connection.transport.abort)
        self._sessions.add(session)
        metrics.clients += 1
        metrics.connections += 1
        sender = asyncio.create_task(_send(connection, session))
        log.info("client %d connected", session.number)
        try:
            await self._ready.wait()
            session.post(wire.encode(self._metadata()))
            await self._converse(connection, session)
        except ConnectionClosed as closed:
            if closed.sent is not None and closed.sent.code == CloseCode.MESSAGE_TOO_BIG:
                metrics.rejected["too_big"] += 1
        except TimeoutError:
            metrics.rejected["idle"] += 1
            await connection.close(CloseCode.GOING_AWAY, f"nothing asked for {self.config.idle_timeout:g} s")
        finally:
            self._sessions.remove(session)
            metrics.clients -= 1
            self.decisions.forget(session)
            sender.cancel()
            log.info("client %d disconnected", session.number)

    async def _converse(self, connection: ServerConnection, session: Session) -> None:
        """Hand on requests, whose answers go through the session's outbox."""
        loop, metrics = asyncio.get_running_loop(), self.metrics
        while True:
            async with asyncio.timeout(self.config.idle_timeout):
                frame = await connection.recv()
            arrived = loop.time()
            metrics.requests += 1
            sequence = None
            try:
                if isinstance(frame, str):
                    raise RefusedError("malformed", "a request is a binary frame of msgpack, not text")
                try:
                    message = wire.decode(frame, largest=self.config.max_message)
                except wire.WireError as error:
                    raise RefusedError("malformed", str(error)) from error
                if "__seq" in message:
                    session.own_protocol = True
                    sequence = message["__seq"] if type(message["__seq"]) is int else None
                request = read_request(message, self.decisions.manifest)
                self.decisions.submit(session, request, arrived)
            except RefusedError as refusal:
                refuse(session, refusal, metrics, sequence)
                continue
            metrics.shielded(session.shield, request.shield)
            session.shield = request.shield or session.shield
            if request.cost is not None:
                metrics.spent(request.cost)

    def _metadata(self) -> dict[str, Any]:
        """Return what a client learns before it asks: the manifest, and how this server takes it."""
        server = {
            "protocol": PROTOCOL,
            "deadline": self.decisions.deadline,
            "max_message": self.config.max_message,
            "idle_timeout": self.config.idle_timeout,
        }
        return {**self.decisions.manifest.as_dict(), "server": server}


def serve_forever(runtime: Runtime, config: ServerConfig, started: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, calling `started` with the address once requests are answered."""

    async def main() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await PolicyServer(runtime, config).run(stop, started)

    asyncio.run(main())


async def _until(stop: asyncio.Event, tasks: list[asyncio.Task[None]]) -> None:
    """Wait for `stop`, or for a task that ends before, whose exception comes through: nothing may fail in silence."""
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait((stopped, *tasks), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    for task in tasks:
        if task.done():
            task.result()


async def _send(connection: ServerConnection, session: Session) -> None:
    """Send a session's answers as they come."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            await connection.send(await session.outbox.get())
            session.outbox.task_done()


def _limited(most: int) -> type[ServerConnection]:
    """Return a connection class that hangs up at once when `most` are open, on who pings and never reads, and after
    `CLOSING` on who is told to go and stays.
    """

    class Limited(ServerConnection):
        leaving = False

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            if isinstance(transport, asyncio.Transport) and len(self.server.handler_tasks) > most:
                transport.abort()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.transport.get_write_buffer_size() > UNREAD:  # pongs are written without waiting
                self.transport.abort()
            if not self.leaving and self.protocol.close_expected():
                self.leaving = True
                self.loop.call_later(CLOSING, self.transport.abort)

    return Limited
