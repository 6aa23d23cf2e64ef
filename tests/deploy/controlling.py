"""A robot, policies and a manifest to test the controller with."""

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpolicy.deploy.audit import audit
from diffpolicy.deploy.chunks import Chunk
from diffpolicy.deploy.controller import Controller
from diffpolicy.deploy.local import LocalSource
from diffpolicy.deploy.manifest import Manifest, Safety, Signal

PERIOD = 0.02
SAFETY = Safety(
    (0.0, -1.0), (10.0, 1.0), (5.0, 1.0), (50.0, 10.0), (1000.0, 200.0), max_observation_age=0.1, watchdog=0.2
)


def manifest(**changes: Any) -> Manifest:
    given: dict[str, Any] = {
        "policy": "toy",
        "arm": "toy",
        "task": "toy",
        "version": "0",
        "git": "",
        "observation": (Signal("state", (3,), "float32", names=("x", "y", "z")),),
        "action": Signal("action", (2,), "float32", unit="m", names=("left", "right")),
        "control_rate": 10.0,
        "chunk": 8,
        "execute": 4,
        "horizon": 8,
        "observation_horizon": 2,
        "sampler": "none",
        "evaluations": 0,
        "safety": SAFETY,
        "licence": "",
        "data_sha256": "",
        "weights_sha256": "",
    }
    return Manifest(**{**given, **changes})


class ToyRobot:
    """Is where it was last told to be; its third reading is the time."""

    rest = None

    def __init__(self) -> None:
        self.position = np.array([5.0, 0.0])
        self.sent: list[NDArray[np.float64]] = []
        self.held = 0

    def start(self) -> NDArray[np.float64]:
        return self.position

    def read(self) -> tuple[Mapping[str, NDArray[Any]], float]:
        now = time.monotonic()
        return {"state": np.array([*self.position, now % 1000.0], np.float32)}, now

    def send(self, command: NDArray[np.float64]) -> None:
        self.sent.append(np.array(command))
        self.position = np.array(command)

    def hold(self) -> None:
        self.held += 1


class Circle:
    """A policy that goes round; `spoil` changes its chunks, `wait` [s] delays them."""

    def __init__(self, spoil: Any = None, wait: float = 0.0, **changes: Any) -> None:
        self.manifest, self.spoil, self.wait, self.seen = manifest(**changes), spoil, wait, []

    def start(self, seed: int) -> int:
        return 0

    def act(
        self, observation: Mapping[str, NDArray[Any]], memory: int, *, elapsed: int | None = None
    ) -> tuple[Chunk, int]:
        self.seen.append(observation)
        time.sleep(self.wait)
        now = float(np.nan_to_num(np.atleast_2d(observation["state"])[-1, 2], posinf=0.0, neginf=0.0))
        angle = 1.5 * (now + self.manifest.control_period * np.arange(self.manifest.chunk))
        actions = np.stack([5.0 + 2.0 * np.sin(angle), 0.4 * np.cos(angle)], axis=1).astype(np.float32)
        chunk = Chunk(actions)
        return (self.spoil(chunk, memory) if self.spoil else chunk), memory + 1


def controller(robot: Any, source: Any, folder: Path, **changes: Any) -> Controller:
    known = source.runtime.manifest if hasattr(source, "runtime") else source.manifest
    made = Controller(robot, source, known, folder, rate=1.0 / PERIOD, **changes)
    made.start()
    return made


def run_until(control: Controller, until: Callable[[], Any], seconds: float = 60.0) -> None:
    """Run until something has happened, however long a busy machine takes for it; `seconds` are for it not to hang."""
    over = threading.Event()

    def watch() -> None:
        while not over.is_set() and not until():
            time.sleep(0.005)
        over.set()

    threading.Thread(target=watch, daemon=True).start()
    try:
        control.run(seconds, over)
    finally:
        over.set()


def run(
    tmp_path: Path,
    policy: Circle,
    robot: Any = None,
    until: Callable[[Controller], Any] = lambda control: control.shield.latched,
    **changes: Any,
) -> tuple[Controller, Any]:
    """Control `robot` until it is stopped, or `until` something else."""
    robot = ToyRobot() if robot is None else robot
    source = LocalSource(policy)
    control = controller(robot, source, tmp_path, **changes)
    try:
        run_until(control, lambda: until(control))
    finally:
        source.close()
    return control, robot


def assert_held(robot: ToyRobot, times: int = 1) -> None:
    """The robot stands where it is, for the `times`-th time, and nothing it was ever sent leaves the limits."""
    commands = np.array([np.array([5.0, 0.0]), *robot.sent])
    assert not any(audit(commands, SAFETY, PERIOD).values())
    assert np.allclose(commands[-1], commands[-2], rtol=0.0, atol=1e-9)
    assert robot.held == times
