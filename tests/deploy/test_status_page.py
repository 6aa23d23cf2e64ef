"""The status page: its figures, its pictures, and the page itself in a real browser."""

import io
import json
import os
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image
from toy_runtime import ToyRuntime, ask, basic, reading, serving, toy_manifest

from diffpolicy.deploy.manifest import Safety, Signal
from diffpolicy.deploy.status_page import ELEMENTS, PICTURE, html

TOKEN = "correct-horse-battery"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--window-size=1000,1000",
]


def talk(running, headers=None):
    """Leave something to show: four answers, two failures of the policy, a refusal."""
    with running.client(headers) as socket:
        for i in range(5):
            ask(socket, reading(0.25 * i, __seq=i, __cost=0.5, __shield={"velocity <b>": i}))
        ask(socket, reading(2.0, __seq=9))
        ask(socket, reading(__seq=10) | {"state": np.zeros(2, np.float32)})


@pytest.fixture(scope="module")
def served():
    with serving() as running:
        talk(running)
        yield running


def test_the_figures(served):
    status, headers, body = served.get("/status.json")
    figures = json.loads(body)
    assert status == 200
    assert headers["Content-Type"] == "application/json"
    assert figures["state"] == "ready"
    assert figures["policy"]["task"] == "PointRobot"
    assert (figures["requests"], figures["replies"]) == (7, 4)
    assert figures["refusals"] == {"policy": 2, "shape": 1}
    assert figures["flags"] == {"cold": 1}
    assert figures["shield"] == {"velocity <b>": 4}
    assert figures["cost"] == 2.5
    assert 0 < figures["inference"]["p50"] <= figures["latency"]["p99"] <= figures["latency"]["max"]
    latest = figures["latest"]
    assert latest["cameras"] == ["front"]
    assert latest["vectors"][0]["names"] == ["x", "y", "speed"]
    assert latest["vectors"][0]["values"] == [0.75, 0, 1]
    assert np.array(latest["actions"]["values"]).shape == (2, 4)


def test_a_camera_s_picture(served):
    status, headers, body = served.get("/frame/0?1234")
    assert status == 200
    assert headers["Content-Type"] == "image/jpeg"
    image = np.asarray(Image.open(io.BytesIO(body)))
    assert image.shape == (24, 32, 3)
    assert abs(int(image.mean()) - 200) < 3


def test_large_observations_are_shown_in_part():
    size = 500
    limits = (1.0,) * 2
    manifest = toy_manifest(
        observation=(Signal("state", (size,), "float32"), Signal("front", (1000, 700, 3), "uint8")),
        safety=Safety((-1.0,) * 2, limits, limits, limits, limits),
    )
    with serving(ToyRuntime(manifest)) as served, served.client() as socket:
        assert served.get("/frame/0")[0] == 404  # nothing has been seen yet
        message = {"state": np.zeros((2, size), np.float32), "front": np.zeros((2, 1000, 700, 3), np.uint8)}
        message["front"][1] = 255
        assert "actions" in ask(socket, message)
        image = Image.open(io.BytesIO(served.get("/frame/0")[2]))
        assert max(image.size) <= PICTURE
        assert np.asarray(image).min() > 250  # the newest of the history
        vector = json.loads(served.get("/status.json")[2])["latest"]["vectors"][0]
        assert len(vector["values"]) == len(vector["names"]) == ELEMENTS


def test_the_page_loads_nothing_from_elsewhere(served):
    text = html().decode()
    assert re.findall(r"""(?:src|href)\s*=\s*["'][^"']*""", text) == []
    assert set(re.findall(r"https?://[^\s\"']+", text)) == {"http://www.w3.org/2000/svg"}
    assert "innerHTML" not in text  # names from outside are text, never markup
    _, headers, body = served.get("/")
    assert body == html()
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store"


def browse(url, folder, *more):
    command = [
        BROWSER,
        *FLAGS,
        f"--user-data-dir={folder / 'profile'}",
        "--virtual-time-budget=2500",
        *more,
        url,
    ]
    environment = {**os.environ, "HOME": str(folder)}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=environment, check=True
    ).stdout


@pytest.mark.skipif(BROWSER is None, reason="no Chromium")
def test_a_browser_shows_it_to_who_has_the_token(tmp_path):
    with serving(token=TOKEN) as served:
        talk(served, basic(TOKEN))
        document = browse(f"http://me:{TOKEN}@127.0.0.1:{served.port}/", tmp_path, "--dump-dom")
    assert "toy · mean · PointRobot" in document
    assert 'class="pill ready"' in document
    assert int(re.search(r'data-polls="(\d+)"', document)[1]) >= 2
    assert document.count("<svg") >= 6  # four charts and a line for each action
    assert "velocity &lt;b&gt;" in document
    assert 'src="/frame/0?' in document
    for shown in ("Latency p99", "Too late", "Cost", "Shield", "vx", "speed"):
        assert shown in document


@pytest.mark.skipif(BROWSER is None, reason="no Chromium")
def test_a_browser_paints_it(served, tmp_path):
    file = tmp_path / "page.png"
    browse(f"http://127.0.0.1:{served.port}/", tmp_path, f"--screenshot={file}")
    image = np.asarray(Image.open(file).convert("RGB")).astype(int)
    assert image.shape == (1000, 1000, 3)
    grey = np.abs(image - 200).max(-1) < 4  # the camera's picture
    assert grey.sum() > 5000
