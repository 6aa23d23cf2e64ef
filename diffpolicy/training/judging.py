"""Judges checkpoints while a run goes on, and keeps the best: a low loss does not mean a good policy."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from diffpolicy.training.checkpoint import TRAINING, step_folders
from diffpolicy.training.errors import CheckpointError, ConfigMismatchError

FOLDER = "best"
SCORES = "judged.json"
STOPPED, SETTINGS = "stopped", "judge"  # keys beside the steps


class Verdict(NamedTuple):
    """What a judge found: the score to choose by (higher is better), values to log, and an animated GIF or None.

    `stop` says why the run should end here; None lets it go on.
    """

    score: float
    values: Mapping[str, float]
    film: bytes | None = None
    stop: str | None = None


class Judge(Protocol):
    """Scores a checkpoint by acting with it, every `every` updates; its randomness must be its own.

    Scores of different `settings`, plain values, cannot be compared: a run is judged by one of them throughout.
    """

    every: int

    @property
    def settings(self) -> Mapping[str, Any]:
        """What scores depend on."""
        ...

    def __call__(self, checkpoint: Path) -> Verdict:
        """Return the verdict on the checkpoint at this path."""
        ...


class Podium:
    """The scores that a judge gave in a run folder, and a copy of the checkpoint with the best of them."""

    def __init__(self, folder: Path, judge: Judge | None) -> None:
        """Take up what is there; ConfigMismatchError for scores of another judge."""
        self._folder = folder
        self._scores, self._stopped, earlier = read_scores(folder)
        self._settings = earlier if judge is None else json.loads(json.dumps(dict(judge.settings)))
        if earlier not in (None, self._settings):
            raise ConfigMismatchError(
                f"checkpoints in {folder} were judged by {earlier}, which cannot be compared with {self._settings}. "
                "Give the same options of the judge, or choose another run folder."
            )

    def knows(self, step: int) -> bool:
        """Whether the checkpoint after `step` updates was judged already."""
        return step in self._scores

    @property
    def stopped(self) -> bool:
        """Whether a judge has ended the run."""
        return self._stopped is not None

    def enter(self, checkpoint: Path, step: int, verdict: Verdict) -> None:
        """Note a verdict; the checkpoint is copied if no earlier one is better. Raises CheckpointError."""
        best = max(self._scores.values(), default=float("-inf"))
        try:
            if verdict.score > best:
                self._copy(checkpoint)
            self._scores[step] = verdict.score
            self._stopped = verdict.stop
            noted: dict[str, Any] = {str(key): value for key, value in self._scores.items()}
            noted |= {SETTINGS: self._settings} if self._settings else {}
            noted |= {STOPPED: verdict.stop} if verdict.stop else {}
            temporary = self._folder / f".{SCORES}"
            temporary.write_text(json.dumps(noted))
            temporary.replace(self._folder / SCORES)
        except OSError as error:
            raise CheckpointError(
                f"cannot keep the best checkpoint in {self._folder / FOLDER}: {error.strerror or error}. Free some "
                "space, then run the same command again to resume."
            ) from error

    def _copy(self, checkpoint: Path) -> None:
        kept = self._folder / FOLDER / checkpoint.parent.name
        temporary = kept / f".writing-{checkpoint.name}"
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(checkpoint, temporary, ignore=shutil.ignore_patterns(TRAINING))  # it only has to act
        final = kept / checkpoint.name
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        for other in step_folders(kept.parent):
            if other != final:
                shutil.rmtree(other)


def best_checkpoint(folder: Path | str) -> Path:
    """Return the best judged checkpoint of a run folder, or `folder` itself where none was judged."""
    found = step_folders(Path(folder) / FOLDER)
    return found[-1] if found else Path(folder)


class Scores(NamedTuple):
    """What a judge said of a run: scores by step, why it ended the run, its settings; None where it said nothing."""

    by_step: dict[int, float]
    stopped: str | None
    settings: dict[str, Any] | None


def read_scores(folder: Path) -> Scores:
    """Return what a judge said in a run folder."""
    try:
        stored = json.loads((folder / SCORES).read_text())
        stopped, settings = stored.pop(STOPPED, None), stored.pop(SETTINGS, None)
        return Scores({int(step): float(score) for step, score in stored.items()}, stopped, settings)
    except (OSError, ValueError, AttributeError, TypeError):
        return Scores({}, None, None)  # not judged yet, or unreadable: what is missing is judged again
