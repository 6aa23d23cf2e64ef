"""The client and a real server: killed, slow, lossy, lying. The control loop never notices but by missing actions."""

import asyncio
import contextlib
import itertools
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from controlling import Circle, ToyRobot, assert_held, manifest, run_until
from controlling import controller as make_controller
from toy_runtime import serving
from websockets.sync.server import serve

from diffpolicy.deploy import wire
from diffpolicy.deploy.client import PolicyClient, Reply, Slots, read_reply
from diffpolicy.deploy.errors import DeployError

TOY = Path(__file__).with_name("serving_toy.py")
STATE = {"state": np.array([5.0, 0.0, 1.0], np.float32)}


@contextlib.contextmanager
def client(port: int, **options: Any) -> Iterator[PolicyClient]:
    made = PolicyClient(f"ws://127.0.0.1:{port}", **options)
    try:
        made.wait(10.0)
        yield made
    finally:
        made.close()


def answered(source: PolicyClient, seconds: float = 5.0) -> Reply:
    ends = time.monotonic() + seconds
    while (reply := source.poll()) is None:
        assert time.monotonic() < ends, source.status()
        time.sleep(0.002)
    return reply


@contextlib.contextmanager
def process(port: int = 0) -> Iterator[tuple[subprocess.Popen[str], int]]:
    server = subprocess.Popen([sys.executable, str(TOY), str(port)], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield server, int(server.stdout.readline().rpartition(":")[2])
    finally:
        server.kill()
        server.wait(10)
        server.stdout.close()


class Proxy:
    """Passes bytes between a client and a server, late or not at all: `delay` [s] and its `jitter`; `cut` loses all."""

    def __init__(self, port: int) -> None:
        self.delay = self.jitter = 0.0
        self.cut = False
        self._target = port
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(5)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._pair, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()

    async def _pair(self, reader: Any, writer: Any) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        await asyncio.gather(self._pass(reader, back), self._pass(there, writer), return_exceptions=True)

    async def _pass(self, reader: Any, writer: Any) -> None:
        while data := await reader.read(65536):
            await asyncio.sleep(self.delay + random.random() * self.jitter)
            if not self.cut:
                writer.write(data)
                await writer.drain()
        writer.close()

    def close(self) -> None:
        async def end() -> None:
            for task in asyncio.all_tasks(self._loop) - {asyncio.current_task()}:
                task.cancel()
            await asyncio.sleep(0.05)
            self._loop.stop()

        asyncio.run_coroutine_threadsafe(end(), self._loop)
        self._thread.join(5)


def test_it_learns_the_manifest_asks_and_gets_actions() -> None:
    with serving(Circle()) as served, client(served.port) as source:
        assert source.manifest == manifest()
        source.request(STATE, 7, 123.5)
        reply = answered(source)
        assert reply.actions.shape == (8, 2)
        assert (reply.sequence, reply.stamp) == (7, 123.5)
        assert reply.valid_until == pytest.approx(123.5 + 8 * 0.1)
        assert reply.timing["infer_ms"] > 0.0
        assert source.poll() is None
        assert source.status() == "connected"


def test_a_refused_request_is_counted_and_the_next_one_answered() -> None:
    with serving(Circle()) as served, client(served.port) as source:
        source.request({"state": np.full(3, np.nan, np.float32)}, 0, 1.0)
        while source.counts["refusals"] == 0:
            time.sleep(0.005)
        source.request(STATE, 1, 1.1)
        assert answered(source).sequence == 1


def test_the_newest_request_takes_the_place_of_one_that_waits() -> None:
    slots = Slots()
    slots.put(STATE, 1, 1.0)
    slots.put(STATE, 2, 2.0)
    taken = slots.take(0.0)
    assert taken is not None
    assert taken[1] == 2
    assert slots.take(0.0) is None


def test_requests_never_block_or_raise_without_a_server() -> None:
    source = PolicyClient("ws://127.0.0.1:9", timeout=0.1)
    for number in range(100):
        source.request(STATE, number, float(number))
        assert source.poll() is None
    with pytest.raises(DeployError, match=r"no policy server at ws://127\.0\.0\.1:9 within 0\.3 s"):
        source.wait(0.3)
    assert source.status().startswith("disconnected")
    source.close()


def test_a_wrong_token_is_told() -> None:
    with serving(Circle(), token="right" * 8) as served:
        source = PolicyClient(f"ws://127.0.0.1:{served.port}", token="wrong")
        with pytest.raises(DeployError, match="401"):
            source.wait(1.0)
        source.close()
        with client(served.port, token="right" * 8) as source:
            source.request(STATE, 0, 0.0)
            answered(source)


@pytest.mark.parametrize(
    "frame",
    [
        b"\xc1 no msgpack",
        "text",
        wire.encode({"actions": np.zeros((8, 3), np.float32)}),
        wire.encode({"seq": 1}),
    ],
)
def test_a_server_that_talks_nonsense_is_left_and_asked_again(frame: bytes | str) -> None:
    def lie(socket: Any) -> None:
        socket.send(wire.encode(manifest().as_dict()))
        for _ in socket:
            socket.send(frame)

    with serve(lie, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with client(server.socket.getsockname()[1]) as source:
            source.request(STATE, 0, 0.0)
            while source.counts["connections"] < 2:
                time.sleep(0.01)
            assert source.counts["failures"] >= 1
            assert source.poll() is None
        server.shutdown()


GOOD = {"actions": np.zeros((8, 2), np.float32), "seq": 1, "stamp": 1.0, "valid_for": 0.8}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("actions", [[0.0, 0.0]]),
        ("actions", np.zeros((8, 2), np.int32)),
        ("actions", np.zeros((0, 2), np.float32)),
        ("actions", np.zeros(2, np.float32)),
        ("seq", None),
        ("stamp", "now"),
        ("valid_for", None),
        ("actions", np.zeros((9, 2), np.float32)),
    ],
)
def test_a_reply_that_is_none_is_refused(key: str, value: Any) -> None:
    assert read_reply(GOOD, manifest()).valid_until == 1.8
    with pytest.raises(DeployError):
        read_reply({**GOOD, key: value}, manifest())


@pytest.mark.parametrize(
    ("key", "value"), [("stamp", 1e12), ("stamp", float("nan")), ("seq", 99), ("seq", -1)]
)
def test_a_reply_to_what_was_not_asked_is_refused(key: str, value: Any) -> None:
    """A stamp of the server's own would put its actions into any time, and make every later reply an older one."""

    def lie(socket: Any) -> None:
        socket.send(wire.encode(manifest().as_dict()))
        for frame in socket:
            asked = wire.decode(frame)
            socket.send(wire.encode({**GOOD, "seq": asked["__seq"], "stamp": asked["__stamp"], key: value}))

    with serve(lie, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with client(server.socket.getsockname()[1]) as source:
            source.request(STATE, 1, 5.0)
            while source.counts["failures"] == 0:
                time.sleep(0.01)
            assert source.poll() is None
        server.shutdown()


def test_an_episode_begins_where_it_is_said_and_with_every_connection() -> None:
    resets: list[bool] = []

    def note(socket: Any) -> None:
        socket.send(wire.encode(manifest().as_dict()))
        for frame in socket:
            asked = wire.decode(frame)
            resets.append(asked["__reset"])
            socket.send(wire.encode({**GOOD, "seq": asked["__seq"], "stamp": asked["__stamp"]}))

    with serve(note, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with client(server.socket.getsockname()[1]) as source:
            for number in range(4):
                if number == 2:
                    source.begin()
                source.request(STATE, number, float(number))
                assert answered(source).sequence == number
            assert resets == [True, False, True, False]
            source.request(STATE, 4, 4.0)
            source.begin()
            assert source.poll() is None
        server.shutdown()


def test_a_server_that_comes_back_with_other_limits_is_not_listened_to() -> None:
    """Rate, shapes and limits are those that the controller was made with."""
    known = itertools.chain([manifest()], itertools.repeat(manifest(control_rate=20.0)))

    def change(socket: Any) -> None:
        socket.send(wire.encode(next(known).as_dict()))
        socket.close()

    with serve(change, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with client(server.socket.getsockname()[1]) as source:
            source.request(STATE, 0, 0.0)
            while "serves another policy" not in source.status():
                time.sleep(0.01)
            assert source.counts["connections"] == 1
            assert source.manifest == manifest()
        server.shutdown()


def test_a_server_killed_in_mid_chunk_stops_the_robot_and_is_found_again(tmp_path: Path) -> None:
    with process() as (server, port), client(port) as source:
        robot = ToyRobot()
        control = make_controller(robot, source, tmp_path)

        def kill() -> None:
            while control.report.chunks < 2:
                time.sleep(0.002)
            server.send_signal(signal.SIGKILL)

        threading.Thread(target=kill, daemon=True).start()
        run_until(control, lambda: control.shield.latched)
        trip = json.loads((tmp_path / "trip-001.json").read_text())
        assert trip["reason"].startswith("watchdog: no usable action")
        assert_held(robot)
        server.wait(10)
        with process(port):
            while source.counts["connections"] < 2:
                time.sleep(0.02)
            assert control.shield.latched
            control.start()
            known = control.report.chunks
            run_until(control, lambda: control.report.chunks > known)
            assert control.report.chunks > known
            assert_held(robot, times=2)


def test_a_killed_client_leaves_the_server_as_it_was() -> None:
    with serving(Circle()) as served:
        code = (
            "import sys, time, numpy as np; from diffpolicy.deploy.client import PolicyClient; "
            "c = PolicyClient(sys.argv[1]); c.wait(10); "
            "c.request({'state': np.zeros(3, np.float32)}, 0, 0.0); print('asked', flush=True); time.sleep(30)"
        )
        url = f"ws://127.0.0.1:{served.port}"
        child = subprocess.Popen([sys.executable, "-c", code, url], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "asked\n"
        child.kill()
        child.wait(10)
        child.stdout.close()
        with client(served.port) as source:
            source.request(STATE, 0, 0.0)
            answered(source)


def test_delay_is_lived_with_and_loss_ends_in_a_hold(tmp_path: Path) -> None:
    with serving(Circle()) as served:
        proxy = Proxy(served.port)
        with client(proxy.port) as source:
            proxy.delay, proxy.jitter = 0.03, 0.04  # each way
            robot = ToyRobot()
            control = make_controller(robot, source, tmp_path)

            def lost() -> Any:
                proxy.cut = proxy.cut or control.report.chunks >= 4
                return control.shield.latched

            run_until(control, lost)
            assert control.report.delay["p50"] >= 60.0
            assert control.report.chunks >= 4  # of which each but the first came while another was played
            assert json.loads((tmp_path / "trip-001.json").read_text())["reason"].startswith("watchdog")
            assert_held(robot)
        proxy.close()


def test_the_client_needs_no_torch() -> None:
    modules = ["client", "controller", "local", "replay", "recorder", "shield", "limiter", "timeline"]
    modules += ["feasibility", "audit", "robots"]
    code = f"import sys; import {', '.join(f'diffpolicy.deploy.{name}' for name in modules)}; "
    code += "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
