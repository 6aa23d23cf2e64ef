"""Server and controller as processes of their own, watched from outside: output, memory, an end in good order."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffpolicy.cli.errors import ConfigError

START = 120.0  # [s] for a server to load its policy and warm up
SAMPLE = 2.0  # [s] between two looks at memory
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Watched:
    """What a run left: the controller's document, and memory [MB] over time [s] of both processes."""

    controller: dict[str, Any]
    times: list[float] = field(default_factory=list)
    server_memory: list[float] = field(default_factory=list)
    controller_memory: list[float] = field(default_factory=list)


def ours(*words: str) -> list[str]:
    """Return the command that runs `python -m words` with this interpreter."""
    return [sys.executable, "-m", *words]


@contextmanager
def policy_server(options: Sequence[str], log: Path) -> Iterator[tuple[str, int]]:
    """Run `diffpolicy serve` with `options` on a free port; its address and process number.

    It is stopped by SIGTERM in the end. Raises ConfigError with its last line if it does not come up.
    """
    command = [*ours("diffpolicy"), "serve", "port=0", *options]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as written:
        process = subprocess.Popen(command, stdout=written, stderr=subprocess.STDOUT)
    try:
        ends = time.monotonic() + START
        while (found := re.search(r"^serving .* at (wss?://\S+)$", log.read_text(), re.MULTILINE)) is None:
            if process.poll() is not None or time.monotonic() > ends:
                last = (log.read_text().strip() or "no output").splitlines()[-1]
                raise ConfigError(f"the policy server did not start: {last}; see {log}")
            time.sleep(0.1)
        yield found.group(1), process.pid
    finally:
        process.terminate()
        try:
            process.wait(10.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def control(
    uri: str,
    server: int,
    folder: Path,
    seconds: float,
    rate: float,
    seed: int,
    priority: int,
    tell: Callable[[float], None],
) -> Watched:
    """Run the controller's process for `seconds` and watch both; `tell` hears how far it is [s].

    Raises ConfigError if the controller fails.
    """
    numbers = [str(seconds), str(rate), str(seed), str(priority)]
    command = [*ours("diffpolicy.deploy.play_arm"), uri, str(folder), *numbers]
    (folder / "controller.json").unlink(missing_ok=True)
    watched, begun = Watched({}), time.monotonic()
    with (folder / "controller.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        while process.poll() is None:
            at = time.monotonic() - begun
            sizes = resident(server), resident(process.pid)
            if None not in sizes:
                watched.times.append(round(at, 1))
                watched.server_memory.append(sizes[0] or 0.0)
                watched.controller_memory.append(sizes[1] or 0.0)
            tell(at)
            time.sleep(SAMPLE)
    except BaseException:
        process.terminate()  # it brakes the arm to rest
        try:
            process.wait(30.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        raise
    if process.returncode != 0:
        last = ((folder / "controller.log").read_text().strip() or "no output").splitlines()[-1]
        raise ConfigError(f"the controller failed: {last}")
    watched.controller = json.loads((folder / "controller.json").read_text())
    return watched


def resident(process: int) -> float | None:
    """Return the resident memory [MB] of a process, None if it is gone or the system does not tell."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return None
    return round(pages * PAGE / 1e6, 2)


def growth(times: Sequence[float], sizes: Sequence[float]) -> float:
    """Return by how much [MB] memory has grown since the first sixth of a run: the last sixth's mean less the second's.

    What is allocated in the beginning (threads, caches, the black box) has then been allocated.
    """
    if len(sizes) < 12:
        return 0.0
    sixth = len(sizes) // 6
    early, late = sizes[sixth : 2 * sixth], sizes[-sixth:]
    return sum(late) / len(late) - sum(early) / len(early)
