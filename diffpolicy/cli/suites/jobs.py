"""Many results, each kept in a file of its own: an interrupted suite goes on where it was."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console


@dataclass(frozen=True)
class Job:
    """One result: `make` computes it, `path` keeps it together with what it is `of` (plain values).

    A kept result of something else (other weights, other episodes) is made again. `weight` is how long the job is
    expected to take, in a unit of its suite's own.
    """

    name: str
    path: Path
    of: Mapping[str, Any]
    make: Callable[[], Any]
    weight: float = 1.0

    def kept(self) -> bool:
        """Return whether the result is there."""
        try:
            return bool(json.loads(self.path.read_text())["of"] == dict(self.of))
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def result(self) -> Any:
        """Return the kept result."""
        return json.loads(self.path.read_text())["result"]

    def run(self) -> None:
        """Make the result and keep it; the file appears whole or not at all."""
        text = json.dumps({"of": dict(self.of), "result": self.make()}, allow_nan=False)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(self.path.name + ".part")
        temporary.write_text(text + "\n")
        temporary.replace(self.path)


def run_all(jobs: Sequence[Job], console: Console) -> None:
    """Run the jobs whose results are not kept, and print how far it is and how long the rest will take."""
    open_jobs = [job for job in jobs if not job.kept()]
    left, done, spent = sum(job.weight for job in open_jobs), 0.0, 0.0
    for index, job in enumerate(open_jobs, start=len(jobs) - len(open_jobs) + 1):
        started = time.monotonic()
        job.run()
        seconds = time.monotonic() - started
        spent, done, left = spent + seconds, done + job.weight, left - job.weight
        rest = spent / done * left
        console.print(f"  {index}/{len(jobs)} {job.name}: {seconds:.0f} s; {_clock(rest)} to go", style="dim")


def _clock(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
