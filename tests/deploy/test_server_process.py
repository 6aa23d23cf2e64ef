"""The server as a process of its own: signals, ports, TLS."""

import http.client
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest
from toy_runtime import ask, certified, reading
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from diffpolicy.deploy import wire

PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from toy_runtime import ToyRuntime
from diffpolicy.deploy.server import ServerConfig, serve_forever
options = dict(pair.split("=") for pair in sys.argv[3:])
runtime = ToyRuntime()
if options.pop("never_warm", None):
    runtime.start = lambda seed: runtime.gate.wait()
options["deadline"] = float(options.get("deadline", 5))
config = ServerConfig(port=int(sys.argv[2]), **options)
serve_forever(runtime, config, lambda url: print(url, flush=True))
print("stopped")
"""


@pytest.fixture
def launch():
    running = []

    def start(*options, port=0, wait=True):
        command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), str(port), *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        running.append(process)
        return process, process.stdout.readline().strip() if wait else ""

    yield start
    for process in running:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_good_order(launch, number):
    process, url = launch()
    with connect(url, proxy=None) as busy, connect(url, proxy=None) as waiting:
        for client in (busy, waiting):
            client.recv()
            client.send(wire.encode(reading(6.0, __seq=1)))
            time.sleep(0.1)
        process.send_signal(number)
        # What is being decided is answered, what waits is told, and then everybody is sent home.
        assert wire.decode(busy.recv(timeout=5))["actions"].shape == (4, 2)
        assert wire.decode(waiting.recv(timeout=5))["error"]["code"] == "stopping"
        with pytest.raises(ConnectionClosed) as left:
            busy.recv(timeout=5)
        assert left.value.rcvd.code == 1001
    out, errors = process.communicate(timeout=20)
    assert (process.returncode, out, errors) == (0, "stopped\n", "")


def test_a_policy_that_never_returns_does_not_keep_it_from_stopping(launch):
    process, url = launch("deadline=0.2")
    with connect(url, proxy=None) as client:
        client.recv()
        assert "deadline" in ask(client, reading(5.0))  # waits for ten seconds
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
        assert time.monotonic() - begun < 8


def test_a_signal_during_warm_up_ends_it_too(launch):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process, _ = launch("never_warm=1", port=port, wait=False)
    ends = time.monotonic() + 20
    while time.monotonic() < ends:
        try:
            page = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            page.request("GET", "/healthz")
            break
        except ConnectionError:
            time.sleep(0.05)
    assert page.getresponse().read() == b"warming up\n"
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, "stopped\n")


def test_a_port_that_is_taken_is_an_error_that_names_it(launch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process, url = launch(port=port)
        _, errors = process.communicate(timeout=20)
        assert url == ""
        assert process.returncode != 0
        assert f"('127.0.0.1', {port})" in errors


def test_it_imports_no_torch():
    code = "import sys, diffpolicy.deploy.server; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_tls(launch, tmp_path):
    certificate, key = certified(tmp_path)
    _, url = launch(f"tls_cert={certificate}", f"tls_key={key}")
    assert url.startswith("wss://127.0.0.1:")
    trusting = ssl.create_default_context(cafile=str(certificate))
    with connect(url, ssl=trusting, proxy=None) as client:
        client.recv()
        assert ask(client, reading())["actions"][0, 0] == 1
    port = int(url.rpartition(":")[2])
    page = http.client.HTTPSConnection("127.0.0.1", port, context=trusting, timeout=5)
    page.request("GET", "/healthz")
    assert page.getresponse().status == 200
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(url, ssl=ssl.create_default_context(), proxy=None).close()
