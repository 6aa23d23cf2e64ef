"""A policy small enough to be seen through, and a server of it in a thread."""

import asyncio
import base64
import contextlib
import http.client
import subprocess
import threading
import time

import numpy as np
import pytest
from websockets.sync.client import connect

from diffpolicy.deploy import wire
from diffpolicy.deploy.chunks import Chunk
from diffpolicy.deploy.manifest import Manifest, Safety, Signal
from diffpolicy.deploy.server import PolicyServer, ServerConfig

CHUNK, SIZE = 4, 2


def toy_manifest(**changes):
    action = Signal("action", (SIZE,), "float32", "m/s", ("vx", "vy"), (-1.0, -1.0), (1.0, 1.0))
    fields = {
        "policy": "toy",
        "arm": "mean",
        "task": "PointRobot",
        "version": "1.2.3",
        "git": "",
        "observation": (
            Signal("state", (3,), "float32", "m", ("x", "y", "speed"), (-2.0, -2.0, 0.0), (2.0, 2.0, 2.0)),
            Signal("front", (24, 32, 3), "uint8"),
        ),
        "action": action,
        "control_rate": 10.0,
        "chunk": CHUNK,
        "execute": 1,
        "horizon": 8,
        "observation_horizon": 2,
        "sampler": "ddim_2",
        "evaluations": 2,
        "safety": Safety((-1.0, -1.0), (1.0, 1.0), (5.0, 5.0), (50.0, 50.0), (1000.0, 1000.0)),
        "licence": "",
        "data_sha256": "",
        "weights_sha256": "ab" * 32,
    }
    return Manifest(**{**fields, **changes})


class ToyRuntime:
    """Answers (number of decisions in this memory, newest x) in every step; misbehaves when x says so."""

    def __init__(self, manifest=None):
        self.manifest = manifest or toy_manifest()
        self.seeds, self.elapsed, self.calls = [], [], 0
        self.gate = threading.Event()  # x = 5: waits for it
        self.entered = threading.Event()

    def start(self, seed):
        self.seeds.append(seed)
        return 0

    def act(self, observation, memory, *, elapsed=None):
        self.calls += 1
        self.elapsed.append(elapsed)
        x = float(np.atleast_2d(observation["state"])[-1, 0])
        actions = np.empty((CHUNK, SIZE), np.float32)
        actions[:] = memory + 1, x
        if x == 1.0:
            actions[2, 1] = np.nan
        if x == 2.0:
            raise KeyError("secret inside")
        if x == 3.0:
            actions = actions[:, :1]
        if x == 4.0:
            raise StopIteration
        if x == 6.0:
            time.sleep(0.6)
        if x == 5.0:
            self.entered.set()
            assert self.gate.wait(10)
        return Chunk(actions, x - 0.5, ("cold",) if memory == 0 else ()), memory + 1


def reading(x=0.0, **extra):
    return {
        "state": np.array([x, 0.0, 1.0], np.float32),
        "front": np.full((24, 32, 3), 200, np.uint8),
        **extra,
    }


class Served:
    """A running server: `port`, `server`, `runtime`, and ways to talk to it."""

    def __init__(self, server, runtime, stop):
        self.server, self.runtime, self.stop = server, runtime, stop

    @property
    def port(self):
        return int(self.server.url.rpartition(":")[2] or 0)

    @property
    def metrics(self):
        return self.server.metrics

    @contextlib.contextmanager
    def client(self, headers=None, **options):
        """A raw connection that has read its greeting."""
        with connect(
            f"ws://127.0.0.1:{self.port}",
            additional_headers=headers,
            compression=None,
            max_size=None,
            proxy=None,
            **options,
        ) as socket:
            greeting = wire.decode(socket.recv(timeout=5))
            assert greeting["schema"] == 1
            yield socket

    def get(self, path, **headers):
        """(status, headers, body) of a page."""
        page = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        page.request("GET", path, headers=headers)
        answer = page.getresponse()
        return answer.status, answer.headers, answer.read()


def ask(socket, message, timeout=5):
    """The decoded answer to a message, or the text."""
    socket.send(message if isinstance(message, bytes | str) else wire.encode(message))
    return answer(socket, timeout)


def answer(socket, timeout=5):
    frame = socket.recv(timeout=timeout)
    return frame if isinstance(frame, str) else wire.decode(frame)


def basic(token):
    return {"Authorization": "Basic " + base64.b64encode(f"me:{token}".encode()).decode()}


def certified(folder):
    """The paths of a certificate of this machine and its key, made in `folder`."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no openssl to make a certificate with")
    return certificate, key


def until(condition, seconds=5.0):
    """Wait for what another thread does."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it never came to be"
        time.sleep(0.005)


@contextlib.contextmanager
def serving(runtime=None, *, wait=True, **config):
    """A server in a thread of its own, warm (`wait`), on any free port; it has to end in good order."""
    runtime = runtime or ToyRuntime()
    started, failures, loops = threading.Event(), [], []

    async def main():
        stop = asyncio.Event()
        loops.append((asyncio.get_running_loop(), stop))
        server = PolicyServer(runtime, ServerConfig(**{"port": 0, "deadline": 5.0, **config}))
        running.append(server)
        await server.run(stop, lambda url: started.set())

    def work():
        try:
            asyncio.run(main())
        except BaseException as error:
            failures.append(error)
            started.set()

    running = []
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    if wait:
        assert started.wait(20)
    if failures:
        raise failures[0]
    until(lambda: running)

    def end():
        loop, stop = loops[0]
        with contextlib.suppress(RuntimeError):  # it has ended
            loop.call_soon_threadsafe(stop.set)

    try:
        yield Served(running[0], runtime, end)
    finally:
        end()
        thread.join(20)
        assert not thread.is_alive()
        assert not failures, repr(failures)
