"""How far a collection has come, with the time left."""

import sys
import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

LINE_SECONDS = 10.0
BAR_SECONDS = 0.2


class Progress:
    """A bar on a terminal, a line every ten seconds elsewhere, nothing when `show` is False."""

    def __init__(self, total: int, label: str, *, unit: str = "steps", show: bool = True) -> None:
        self._total = total
        self._unit = unit
        self._label = label
        self._started = self._shown = time.monotonic()
        self._bar: RichProgress | None = None
        self._show = show
        console = Console(stderr=True)
        if show and console.is_terminal:
            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=console,
            )
            self._task = self._bar.add_task(label, total=total, note="")

    def __enter__(self) -> "Progress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int, note: Callable[[], str]) -> None:
        """Shows that `done` of the total are over; `note` is asked only when something is printed."""
        now = time.monotonic()
        if not self._show or now - self._shown < (LINE_SECONDS if self._bar is None else BAR_SECONDS):
            return
        self._shown = now
        if self._bar is not None:
            self._bar.update(self._task, completed=min(done, self._total), note=note())
            return
        elapsed = now - self._started
        left = elapsed / max(done, 1) * max(self._total - done, 0)
        speed = done / elapsed
        print(
            f"{self._label}: {done}/{self._total} {self._unit}, {speed:.3g}/s, {elapsed:.0f} s, {left:.0f} s left  "
            f"[{note()}]",
            file=sys.stderr,
            flush=True,
        )
