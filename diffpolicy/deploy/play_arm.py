"""The controller's process of `diffpolicy demo-robot`: drives the arm by a policy server's chunks. No torch in it.

`python -m diffpolicy.deploy.play_arm URI FOLDER SECONDS RATE SEED PRIORITY` writes what happened into
FOLDER/controller.json and what was seen and sent into FOLDER/track.npz; the black box dumps into FOLDER/trips.
"""

import json
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpolicy.deploy.client import PolicyClient
from diffpolicy.deploy.controller import Controller
from diffpolicy.deploy.push_arm import PushArm
from diffpolicy.deploy.realtime import realtime
from diffpolicy.deploy.run_report import Report

PATIENCE = 60.0  # [s] for the server to be there
SWITCH = 0.0005  # [s] after which a thread that computes in Python lets another one run; the default is 5 ms


class TracedArm(PushArm):
    """An arm of which every command sent and the state before it is kept, in memory taken at the beginning."""

    def __init__(self, seed: int, commands: int) -> None:
        super().__init__(seed)
        self.commands = np.full((commands, 2), np.nan)
        self.states = np.full((commands, 5), np.nan, np.float32)
        self.sent = 0
        self._seen = np.zeros(5, np.float32)

    def read(self) -> tuple[Mapping[str, NDArray[Any]], float]:
        """Read, and remember it."""
        observation, stamp = super().read()
        self._seen = observation["state"]
        return observation, stamp

    def send(self, command: NDArray[np.float64]) -> None:
        """Send, and keep it."""
        super().send(command)
        if self.sent < len(self.commands):
            self.commands[self.sent], self.states[self.sent] = command, self._seen
        self.sent += 1


def play(uri: str, folder: Path, seconds: float, rate: float, seed: int, priority: int) -> Report:
    """Drive the arm for `seconds` at `rate` [Hz]; SIGTERM and SIGINT brake it to rest.

    Raises DeployError if no server answers at `uri` within a minute.
    """
    with realtime(priority):
        client = PolicyClient(uri)
        try:
            return _play(client, folder, seconds, rate, seed)
        finally:
            client.close()


def _play(client: PolicyClient, folder: Path, seconds: float, rate: float, seed: int) -> Report:
    manifest = client.wait(PATIENCE)
    robot = TracedArm(seed, round((seconds + 5.0) * rate))
    controller = Controller(robot, client, manifest, folder / "trips", rate=rate)
    client.shield_counts = controller.shield.counts
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    controller.start()
    report = controller.run(seconds, stop)
    document = {
        "report": asdict(report),
        "coverages": [round(value, 4) for value in robot.coverages],
        "client": client.counts,
        "events": [event._asdict() for event in controller.shield.events],
        "failed_records": controller.recorder.failures,
        "weights_sha256": manifest.weights_sha256,
    }
    (folder / "controller.json").write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
    np.savez_compressed(
        folder / "track.npz", commands=robot.commands[: robot.sent], states=robot.states[: robot.sent]
    )
    return report


if __name__ == "__main__":
    sys.setswitchinterval(SWITCH)
    _, address, target, *numbers = sys.argv
    duration, frequency = map(float, numbers[:2])
    play(address, Path(target), duration, frequency, int(numbers[2]), int(numbers[3]))
