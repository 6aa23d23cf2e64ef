"""Where a run shows itself: TensorBoard curves, and progress on the terminal."""

import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from diffpolicy.training.errors import TrainingError

LINE_SECONDS = 10.0
BAR_SECONDS = 0.2


class CurveWriter:
    """TensorBoard scalars of one run folder, in which a resumed run leaves neither gaps nor doubles.

    `resumed_step` is the number of updates behind the checkpoint gone on from; later points of an earlier,
    killed process are declared void. Raises `TrainingError` when the folder cannot be written.
    """

    def __init__(self, folder: Path | str, resumed_step: int) -> None:
        from torch.utils.tensorboard import (
            SummaryWriter,
        )  # here, so that reading a checkpoint needs no TensorBoard

        self._folder = Path(folder)
        try:
            self._writer: Any = SummaryWriter(str(folder), purge_step=resumed_step + 1)
        except OSError as error:
            raise self._cannot_write(error) from error

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Log each value after `step` updates."""
        try:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
        except OSError as error:
            raise self._cannot_write(error) from error

    def add_film(self, name: str, gif: bytes, step: int) -> None:
        """Log an animated GIF, which TensorBoard plays among the images."""
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

        width, height = int.from_bytes(gif[6:8], "little"), int.from_bytes(gif[8:10], "little")
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif)
        try:
            self._writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)
        except OSError as error:
            raise self._cannot_write(error) from error

    def flush(self) -> None:
        """Hand every point to the operating system, so that killing this process loses none of them."""
        try:
            self._writer.flush()
        except OSError as error:
            raise self._cannot_write(error) from error

    def close(self) -> None:
        """Flush and close."""
        try:
            self._writer.close()
        except OSError as error:
            raise self._cannot_write(error) from error

    def _cannot_write(self, error: OSError) -> TrainingError:
        return TrainingError(
            f"cannot write the TensorBoard log in {self._folder}: {error.strerror or error}. Checkpoints "
            f"are untouched; "
            "make the folder writable or free some space, then run the same command again to resume."
        )


def read_curves(folder: Path | str) -> dict[str, tuple[list[int], list[float]]]:
    """The curves logged in a run folder: name -> (steps, values), each step once, rising; {} without logs.

    Event files are read in the order they were begun; a resumed process voids what its killed predecessor
    logged beyond the checkpoint, and a half-written last record is left out.
    """
    curves: dict[str, dict[int, float]] = {}
    files = [list(_events(path)) for path in Path(folder).glob("events.out.tfevents.*")]
    for events in sorted((events for events in files if events), key=lambda events: events[0].wall_time):
        for event in events:
            if event.HasField("session_log") and event.session_log.status == event.session_log.START:
                curves = {
                    name: {step: value for step, value in points.items() if step < event.step}
                    for name, points in curves.items()
                }
            for value in event.summary.value:
                if not value.HasField("simple_value"):
                    continue  # a film
                curves.setdefault(value.tag, {})[event.step] = value.simple_value
    ordered = {name: sorted(points.items()) for name, points in curves.items() if points}
    return {
        name: ([step for step, _ in points], [value for _, value in points])
        for name, points in ordered.items()
    }


def _events(path: Path) -> Iterator[Any]:
    from tensorboard.backend.event_processing.event_file_loader import (  # type: ignore[import-untyped]
        LegacyEventFileLoader,
    )

    yield from LegacyEventFileLoader(str(path)).Load()


class ProgressDisplay:
    """Steps, steps per second, time left and the newest losses: a bar on a terminal, else a line every ~10 s.

    A context manager; with `enabled` false it shows nothing.
    """

    def __init__(self, total: int, start: int, *, enabled: bool = True) -> None:
        self._total, self._start = total, start
        self._console = Console(file=sys.stderr)
        self._enabled = enabled
        self._bar: Progress | None = None
        if enabled and self._console.is_terminal:
            self._bar = Progress(
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[text]}"),
                TimeElapsedColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task("training", total=total, completed=start, text="")
        self._losses = ""
        self._began = self._shown = time.monotonic()

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        self._began = self._shown = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def losses(self, values: Mapping[str, float]) -> None:
        """Remember the newest losses for the next line."""
        self._losses = "  ".join(f"{name} {value:.4g}" for name, value in values.items())

    def advance(self, step: int) -> None:
        """Show that `step` updates are done, if it is time to or they are the last."""
        if not self._enabled:
            return
        now = time.monotonic()
        if now - self._shown < (LINE_SECONDS if self._bar is None else BAR_SECONDS) and step != self._total:
            return
        self._shown = now
        rate = (step - self._start) / max(now - self._began, 1e-9)
        text = (
            f"{rate:.4g} steps/s  {format_seconds((self._total - step) / rate)} left  {self._losses}".rstrip()
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=step, text=text)
        else:
            print(f"step {step}/{self._total}  {text}", file=sys.stderr, flush=True)

    def note(self, sentence: str) -> None:
        """Print one sentence beside the progress."""
        if self._enabled:
            self._console.print(sentence, markup=False, highlight=False, soft_wrap=True)


def format_seconds(seconds: float) -> str:
    """A duration in [s] as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
