"""The robot's verbs: processes that start, are watched and end; reports, plots, replays."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from diffpolicy.cli import demo_robot, replay, robot_processes
from diffpolicy.cli.errors import ConfigError
from diffpolicy.cli.robot_processes import Watched, growth, ours, policy_server, resident
from diffpolicy.deploy.audit import audit
from diffpolicy.deploy.manifest import Manifest, Safety, Signal

SERVER = """
import asyncio, sys
import numpy as np
from diffpolicy.deploy.chunks import Chunk
from diffpolicy.deploy.manifest import Manifest
from diffpolicy.deploy.server import PolicyServer, ServerConfig

class There:
    manifest = Manifest.from_json(open(sys.argv[1]).read())
    count = 0
    def start(self, seed):
        return 0
    def act(self, observation, memory, *, elapsed=None):
        self.count += 1
        if self.count > 35:
            raise RuntimeError("worn out")
        target = [100.0, 300.0] if memory // 5 % 2 else [400.0, 200.0]
        return Chunk(np.tile(np.float32(target), (8, 1))), memory + 1

async def main():
    await PolicyServer(There(), ServerConfig(port=0)).run(asyncio.Event(), lambda url: print(url, flush=True))

asyncio.run(main())
"""

SAFETY = Safety((0.0, 0.0), (512.0, 512.0), (500.0, 500.0), (5000.0, 5000.0), (1e5, 1e5), watchdog=0.6)
MANIFEST = Manifest(
    policy="toy",
    arm="toy",
    task="PushT-v0",
    version="0",
    git="",
    observation=(Signal("state", (5,), "float32"),),
    action=Signal("action", (2,), "float32", "pixel", ("x", "y")),
    control_rate=10.0,
    chunk=8,
    execute=1,
    horizon=8,
    observation_horizon=1,
    sampler="",
    evaluations=0,
    safety=SAFETY,
    licence="",
    data_sha256="",
    weights_sha256="ab",
)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a controller's process whose server fails in the middle: a trip, its record, its document."""
    folder = tmp_path_factory.mktemp("played")
    (folder / "manifest.json").write_text(MANIFEST.to_json())
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(folder / "manifest.json")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        uri = server.stdout.readline().strip()
        command = [*ours("diffpolicy.deploy.play_arm"), uri, str(folder), "6", "50", "0", "0"]
        subprocess.run(command, check=True, timeout=60)
    finally:
        server.kill()
        server.wait(10)
        server.stdout.close()
    return folder


def test_the_controllers_process_says_what_happened_and_never_left_the_limits(played: Path) -> None:
    document = json.loads((played / "controller.json").read_text())
    report = document["report"]
    assert report["bypasses"] == 0
    assert report["chunks"] >= 5
    assert document["weights_sha256"] == "ab"
    with np.load(played / "track.npz") as track:
        commands = track["commands"]
    assert len(commands) == report["sent"]
    start = np.array([[256.0, 100.0]])
    assert not any(audit(np.concatenate([start, commands]), SAFETY, 0.02).values())
    assert np.ptp(commands[:, 0]) > 100.0


def test_the_report_and_the_plot(played: Path) -> None:
    cfg = OmegaConf.create({"rate": 50, "seconds": 6})
    document = json.loads((played / "controller.json").read_text())
    text = demo_robot.report(cfg, Watched(document))
    assert f"| shield bypasses | 0 of {document['report']['sent']} commands sent |" in text
    assert "| from a period's beginning until its command is sent |" in text
    demo_robot.draw(played, 50.0)
    assert (played / "track.png").read_bytes().startswith(b"\x89PNG")


def test_replay_tells_why_draws_and_finds_the_same_commands(
    played: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay.main([str(played / "trips" / "trip-001.json")]) == 0
    text = capsys.readouterr().out
    assert "watchdog: no usable action" in text
    assert "the same commands" in text
    assert (played / "trips" / "trip-001.png").exists()


def test_replay_says_when_the_shield_would_act_otherwise(
    played: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("trip-001.json", "trip-001.npz"):
        (tmp_path / name).write_bytes((played / "trips" / name).read_bytes())
    document = json.loads((tmp_path / "trip-001.json").read_text())
    document["manifest"]["safety"]["velocity"] = [50.0, 50.0]
    (tmp_path / "trip-001.json").write_text(json.dumps(document))
    assert replay.main([str(tmp_path / "trip-001.json"), "--plot", str(tmp_path / "other.png")]) == 1
    assert "other commands in" in capsys.readouterr().out
    assert (tmp_path / "other.png").exists()


def test_a_server_that_does_not_start_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = [sys.executable, "-c", "raise SystemExit('loading\\nerror: no such run')"]
    monkeypatch.setattr(robot_processes, "ours", lambda *_: failing)
    with (
        pytest.raises(ConfigError, match="the policy server did not start: error: no such run; see"),
        policy_server(["checkpoint=none"], tmp_path / "log"),
    ):
        raise AssertionError("it cannot have started")


def test_growth_ignores_the_beginning() -> None:
    times = list(range(60))
    assert growth(times, [10.0 + min(time, 5) for time in times]) == 0.0
    assert growth(times, [10.0 + 0.1 * time for time in times]) == pytest.approx(4.0)
    assert growth([0.0], [1.0]) == 0.0


def test_memory_is_read_where_there_is_a_process() -> None:
    size = resident(os.getpid())
    assert size is not None
    assert size > 10.0
    assert resident(2**30) is None


@pytest.mark.parametrize(("key", "value"), [("seconds", 0), ("rate", -1)])
def test_options_without_sense_are_refused(tmp_path: Path, key: str, value: int) -> None:
    cfg = OmegaConf.create({"run": str(tmp_path / "run"), "seconds": 1, "rate": 50, key: value})
    with pytest.raises(ConfigError, match="are above 0"):
        demo_robot.main(cfg)
