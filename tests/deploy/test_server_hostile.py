"""What a policy server has to put up with: nobody gets in, nobody holds it up, and the next robot is served."""

import contextlib
import json
import socket as sockets
import ssl
import struct
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from toy_runtime import CHUNK, SIZE, ToyRuntime, answer, ask, basic, certified, reading, serving, until
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from diffpolicy.deploy import server as server_module
from diffpolicy.deploy import wire

TOKEN = "correct-horse-battery"


@pytest.fixture(scope="module")
def served():
    with serving(max_message=2**20) as running:
        yield running


@pytest.fixture(scope="module")
def locked():
    with serving(token=TOKEN) as running:
        yield running


def still_serves(served):
    with served.client() as socket:
        return ask(socket, reading(__seq=1))["actions"].shape == (CHUNK, SIZE)


def opened(served):
    """A websocket by hand, so that frames can be broken."""
    raw = sockets.create_connection(("127.0.0.1", served.port), timeout=5)
    lines = ["GET / HTTP/1.1", "Host: localhost", "Upgrade: websocket", "Connection: Upgrade"]
    lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "", ""]
    raw.sendall("\r\n".join(lines).encode())
    assert raw.recv(12) == b"HTTP/1.1 101"
    return raw


def closed_by_peer(raw, seconds=5.0):
    """Whether the other side hangs up within some time."""
    raw.settimeout(seconds)
    try:
        while raw.recv(2**16):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


@given(frame=st.binary(max_size=300))
@settings(max_examples=60)
def test_any_bytes_get_an_error_and_the_connection_goes_on(served, frame):
    with served.client() as socket:
        assert isinstance(ask(socket, frame), str)
        assert ask(socket, reading())["actions"][0, 0] == 1


@given(st.data())
@settings(max_examples=60)
def test_a_damaged_request_gets_one_answer(served, data):
    frame = bytearray(wire.encode(reading(0.25, __seq=3, __stamp=1.0)))
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, min(len(frame), 200) - 1))] = data.draw(st.integers(0, 255))
    with served.client() as socket:
        reply = ask(socket, bytes(frame))
        assert isinstance(reply, str) or "error" in reply or np.isfinite(reply["actions"]).all()
        assert ask(socket, reading(__reset=True))["actions"][0, 0] == 1


def test_a_message_of_100_mb_ends_the_connection_before_it_is_read(served):
    with served.client() as socket, pytest.raises((ConnectionClosed, OSError)):
        ask(socket, bytes(100 * 2**20))
    raw = opened(served)
    raw.sendall(struct.pack("!BBQ4x", 0x82, 0xFF, 100 * 2**20))  # announced, never sent
    assert closed_by_peer(raw)
    raw = opened(served)
    raw.sendall(struct.pack("!BBQ4x", 0x82, 0xFF, 2**63))
    assert closed_by_peer(raw)
    assert still_serves(served)


def test_fragments_do_not_add_up_to_more_than_a_message(served):
    until(lambda: served.metrics.clients == 0)
    before = served.metrics.rejected["too_big"]
    raw = opened(served)
    part = struct.pack("!BBQ4x", 0x00, 0xFF, 2**19) + bytes(2**19)
    with contextlib.suppress(ConnectionError):  # the third is too much
        raw.sendall(b"\x02" + part[1:] + 7 * part)
    assert closed_by_peer(raw)
    until(lambda: served.metrics.rejected["too_big"] == before + 1)
    assert still_serves(served)


def test_compression_is_not_spoken(served):
    with connect(f"ws://127.0.0.1:{served.port}", proxy=None) as socket:  # offers it
        assert socket.response.headers.get("Sec-WebSocket-Extensions") is None


@pytest.mark.parametrize(
    "text",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n",
        b"GET /\r\n\r\n",
        b"\0" * 9000,
    ],
)
def test_what_is_not_http_is_hung_up_on(served, text):
    raw = sockets.create_connection(("127.0.0.1", served.port), timeout=5)
    raw.sendall(text)
    raw.shutdown(sockets.SHUT_WR)
    assert closed_by_peer(raw)
    assert still_serves(served)


def test_slow_loris_is_hung_up_on():
    with serving(handshake_timeout=0.3, ping_timeout=0.3, idle_timeout=1.5) as served:
        silent = sockets.create_connection(("127.0.0.1", served.port))
        headers = sockets.create_connection(("127.0.0.1", served.port))
        headers.sendall(b"GET / HTTP/1.1\r\nHost: local")
        frames = opened(served)
        frames.sendall(struct.pack("!BBQ4x", 0x82, 0xFF, 1000) + b"a")  # the rest never comes, nor a pong
        assert closed_by_peer(silent)
        assert closed_by_peer(headers)
        assert closed_by_peer(frames)
        with served.client() as idle, pytest.raises(ConnectionClosed) as left:
            answer(idle, timeout=10)
        assert left.value.rcvd.code == 1001
        assert served.metrics.rejected["idle"] >= 1
        until(lambda: served.metrics.clients == 0)
        assert still_serves(served)


def test_slow_loris_in_tls_is_hung_up_on(tmp_path):
    certificate, key = certified(tmp_path)
    with serving(handshake_timeout=0.5, tls_cert=str(certificate), tls_key=str(key)) as served:
        silent = sockets.create_connection(("127.0.0.1", served.port))
        half = sockets.create_connection(("127.0.0.1", served.port))
        half.sendall(b"\x16\x03\x01\x02\x00\x01\x00")  # the beginning of a greeting
        assert closed_by_peer(silent)
        assert closed_by_peer(half)
        trusting = ssl.create_default_context(cafile=str(certificate))
        with connect(f"wss://127.0.0.1:{served.port}", ssl=trusting, proxy=None) as socket:
            socket.recv(timeout=5)
            assert ask(socket, reading())["actions"].shape == (CHUNK, SIZE)


def test_a_client_that_is_told_to_go_and_stays_is_hung_up_on():
    with serving(idle_timeout=0.2) as served:
        assert closed_by_peer(opened(served))  # which never answers the goodbye
        until(lambda: served.metrics.clients == 0)
        assert served.metrics.rejected["idle"] == 1


def test_connections_are_counted_before_they_say_anything(monkeypatch):
    monkeypatch.setattr(server_module, "STRANGERS", 2)
    with serving(max_clients=1) as served:
        kept = [sockets.create_connection(("127.0.0.1", served.port)) for _ in range(3)]
        time.sleep(0.2)
        assert closed_by_peer(sockets.create_connection(("127.0.0.1", served.port)))
        for raw in kept:
            raw.close()
        time.sleep(0.2)
        assert still_serves(served)


def test_no_more_clients_than_may_be():
    with serving(max_clients=1) as served:
        with served.client() as socket:
            with pytest.raises(InvalidStatus, match="503"), served.client():
                pass
            assert ask(socket, reading())["actions"][0, 0] == 1
        until(lambda: served.metrics.clients == 0)
        assert still_serves(served)
        assert served.metrics.rejected["full"] == 1


def test_a_client_that_dies_in_the_middle_of_a_request_leaves_nothing():
    runtime = ToyRuntime()
    with serving(runtime) as served, served.client() as other:
        with served.client() as socket:
            socket.send(wire.encode(reading(5.0)))
            assert runtime.entered.wait(5)
            socket.send(wire.encode(reading(0.25)))
            until(lambda: served.metrics.requests == 2)
            socket.socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, struct.pack("ii", 1, 0))
            socket.socket.close()  # a reset, as of a process that was killed
            until(lambda: served.metrics.clients == 1)
        runtime.gate.set()
        assert ask(other, reading(0.5))["actions"][0].tolist() == [1, 0.5]
        assert len(served.server.decisions._queue) == 0


def test_a_client_that_reads_no_answers_is_hung_up_on():
    with serving(idle_timeout=60.0) as served:
        raw = opened(served)
        raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 2**12)
        nonsense = struct.pack("!BB4x", 0x82, 0x80) * 5000  # empty frames, each refused
        raw.settimeout(5)
        with contextlib.suppress(ConnectionError, TimeoutError):
            raw.sendall(nonsense * 200)
        until(lambda: served.metrics.clients == 0, 10)
        assert still_serves(served)


def test_pings_without_end_are_not_answered_without_end():
    with serving(idle_timeout=60.0) as served:
        raw = opened(served)
        raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 2**12)
        raw.settimeout(60)  # of a machine that is busy elsewhere
        pings = 1000 * (struct.pack("!BB4x", 0x89, 0x80 | 125) + bytes(125))
        sent = 0
        with contextlib.suppress(ConnectionError):  # answers pile up, which nobody reads
            while sent < 50e6:
                raw.sendall(pings)
                sent += len(pings)
        assert sent < 50e6
        until(lambda: served.metrics.clients == 0)
        assert still_serves(served)


def test_empty_fragments_without_end_are_no_message():
    with serving(idle_timeout=60.0) as served:
        raw = opened(served)
        raw.settimeout(60)
        with contextlib.suppress(ConnectionError):
            raw.sendall(struct.pack("!BB4x", 0x02, 0x80))
            raw.sendall(10_000 * struct.pack("!BB4x", 0x00, 0x80))
        assert closed_by_peer(raw)
        assert still_serves(served)


@pytest.mark.parametrize("header", ["Authorization", "Host", "Origin"])
def test_a_header_that_is_given_twice_is_refused(locked, header):
    raw = sockets.create_connection(("127.0.0.1", locked.port), timeout=5)
    both = f"{header}: Bearer {TOKEN}\r\n{header}: other\r\n"
    raw.sendall(f"GET /status.json HTTP/1.1\r\nConnection: close\r\n{both}\r\n".encode())
    assert raw.recv(12) == b"HTTP/1.1 400"


def test_costs_without_end_leave_the_status_readable(served):
    before = served.metrics.cost or 0.0
    with served.client() as socket:
        for cost in (1e9, 1e9, 1.7e308, 1.7e308, -5.0):
            ask(socket, reading(__cost=cost))
    assert json.loads(served.get("/status.json")[2])["cost"] == before + 2e9


@pytest.mark.parametrize(
    "headers", [None, {"Authorization": "Api-Key wrong"}, {"Authorization": f"Api-Key {TOKEN}x"}]
)
def test_a_bad_token_opens_nothing(locked, headers):
    before = locked.metrics.rejected["token"]
    with pytest.raises(InvalidStatus, match="401"), locked.client(headers):
        pass
    for path in ("/", "/status.json", "/metrics", "/frame/0", "/nowhere"):
        assert locked.get(path, **(headers or {}))[0] == 401
    assert locked.metrics.rejected["token"] == before + 6
    assert locked.get("/healthz")[0] == 200


@pytest.mark.filterwarnings("ignore:connect\\(\\) must be used as a context manager:DeprecationWarning")
def test_the_token_opens(locked):
    policy = WebsocketClientPolicy("127.0.0.1", locked.port, api_key=TOKEN)
    assert policy.infer(reading())["actions"][0, 0] == 1
    policy._ws.close()
    assert locked.get("/metrics", Authorization=f"Bearer {TOKEN}")[0] == 200
    _, headers, _ = locked.get("/status.json")
    assert headers["WWW-Authenticate"].startswith("Basic")
    assert locked.get("/status.json", **basic(TOKEN))[0] == 200
    assert locked.get("/status.json", **basic("x" + TOKEN))[0] == 401


def test_web_pages_of_others_neither_drive_nor_look(served):
    with pytest.raises(InvalidStatus, match="403"), served.client(origin="https://elsewhere.example"):
        pass
    assert served.get("/status.json", Host="elsewhere.example")[0] == 403
    assert served.get("/status.json", Host=f"localhost:{served.port}")[0] == 200
    assert served.metrics.rejected["origin"] == served.metrics.rejected["host"] == 1


def test_pages_that_do_not_exist(served):
    for path in ("/nowhere", "/frame/9", "/frame/-1", "/frame/²", "/frame/", "/frame/00000", "/../x", "//"):
        assert served.get(path.replace("²", "%C2%B2"))[0] == 404
    with pytest.raises(InvalidStatus, match="404"), connect(f"ws://127.0.0.1:{served.port}/x", proxy=None):
        pass


def test_the_status_is_json_whatever_came(served):
    for x in (0.25, 1.0, 2.0, 3.0):
        with served.client() as socket:
            ask(socket, reading(x, __shield={"</script>": 1}))
    figures = json.loads(served.get("/status.json")[2])
    assert figures["refusals"]["policy"] >= 3
    assert figures["latest"]["actions"]["names"] == ["vx", "vy"]
