"""The training loop: resume, update, log, checkpoint, stop cleanly."""

import fcntl
import math
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
import yaml
from torch import Tensor

from diffpolicy.training.checkpoint import (
    decode_config,
    encode_config,
    encode_manifest,
    latest_checkpoint,
    read_checkpoint,
    read_training_state,
    remove_leftovers,
    step_folders,
    write_checkpoint,
)
from diffpolicy.training.errors import (
    ConfigMismatchError,
    FeedbackError,
    Interrupted,
    NonFiniteError,
    TrainingError,
)
from diffpolicy.training.judging import Judge, Podium
from diffpolicy.training.logging import CurveWriter, ProgressDisplay
from diffpolicy.training.state import tensors_of

# Keys, wherever they stand in the configuration, that change what a run shows and never what it learns.
HARMLESS_KEYS = frozenset({"progress", "checkpoint_every", "log_every"})


class Learner(Protocol):
    """A training method as the loop sees it."""

    total_steps: int

    def update(self, step: int) -> dict[str, Tensor]:
        """Do update number `step` (from 0); return scalars to log, detached, which may stay on the device."""

    def state(self) -> dict[str, Any]:
        """All that is needed to go on bit for bit, generators too: nested dicts, lists, tensors, scalars."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over a state returned by `state()`; its tensors are on the CPU and belong to the learner."""

    def model(self) -> dict[str, Tensor]:
        """The weights that acting needs."""

    def manifest(self) -> dict[str, Any]:
        """What acting needs beside weights, as JSON: names, shapes, limits, normaliser, data hash."""


def run(
    learner: Learner,
    folder: Path | str,
    config: Mapping[str, Any],
    *,
    checkpoint_every: int,
    log_every: int,
    progress: bool = True,
    judge: Judge | None = None,
) -> Path:
    """Train `learner` to its `total_steps`, from the newest checkpoint in `folder` if there is one.

    Returns the last checkpoint. Logs to TensorBoard in `folder` every `log_every` updates. A `judge` scores a
    checkpoint every `judge.every` updates and at the end, and may stop the run; `best_checkpoint` finds the best.
    A `FeedbackError` of the learner is passed on after what was done has been stored. On SIGINT or
    SIGTERM the update is finished, a checkpoint written and `Interrupted` raised; a second signal stops at
    once. Raises `ConfigMismatchError` when the folder holds a run of another configuration, `NonFiniteError`
    when a logged value or a weight is not finite, `CheckpointError` when a checkpoint cannot be written or
    read, and `TrainingError` when the folder is in use.
    """
    for name, value in {"checkpoint_every": checkpoint_every, "log_every": log_every}.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    folder = Path(folder)
    # What cannot be stored is found out now rather than after the first hour.
    encode_config(config), encode_manifest(learner.manifest())
    with ExitStack() as stack:
        stack.enter_context(_sole_user(folder))
        start, last = _resume(learner, folder, config)
        podium = Podium(folder, judge)
        unjudged = judge is not None and _due(judge, start, learner.total_steps) and not podium.knows(start)
        if last is not None and (podium.stopped or (start == learner.total_steps and not unjudged)):
            return last
        done = start
        curves = stack.enter_context(closing(CurveWriter(folder, start)))
        display = stack.enter_context(ProgressDisplay(learner.total_steps, start, enabled=progress))
        stop = stack.enter_context(_StopRequest())
        if last is not None:
            display.note(f"resuming from {last}")
            if judge is not None and unjudged:  # the run was stopped between a checkpoint and its judgement
                _judge(judge, podium, curves, display, last, start)
        for step in range(start, learner.total_steps):
            try:
                losses = learner.update(step)
            except FeedbackError:
                if (
                    done > start
                ):  # what was learnt since the last checkpoint is not lost with the reward's server
                    _store(learner, folder, config, done, last)
                raise
            done = step + 1
            at_end = done == learner.total_steps
            stopping = stop.requested  # asked once: a signal from here on waits for the next step
            to_judge = judge is not None and not stopping and _due(judge, done, learner.total_steps)
            to_store = at_end or stopping or to_judge or done % checkpoint_every == 0
            if at_end or done % log_every == 0:
                values = _finite(losses, done, last)
                curves.add(values, done)
                display.losses(values)
            elif to_store:
                _finite(losses, done, last)
            display.advance(done)
            if to_store:
                # Points before a checkpoint are never logged again, so they must be safe before it is.
                curves.flush()
                last = _store(learner, folder, config, done, last)
            if judge is not None and to_judge and last is not None:
                _judge(judge, podium, curves, display, last, done)
            if stopping or podium.stopped:
                break
        if stop.requested:
            raise Interrupted(
                f"training stopped after step {done} of {learner.total_steps} with checkpoint {last}. "
                "Run the same command again to resume."
            )
    if last is None:
        raise ValueError(f"total_steps is {learner.total_steps}; there is nothing to train")
    return last


def _due(judge: Judge, step: int, total: int) -> bool:
    return step > 0 and (step % judge.every == 0 or step == total)


def _judge(
    judge: Judge, podium: Podium, curves: CurveWriter, display: ProgressDisplay, checkpoint: Path, step: int
) -> None:
    verdict = judge(checkpoint)
    curves.add(verdict.values, step)
    if verdict.film is not None:
        curves.add_film("roll-out", verdict.film, step)
    curves.flush()
    podium.enter(checkpoint, step, verdict)
    shown = "  ".join(f"{name} {value:.4g}" for name, value in verdict.values.items())
    display.note(f"step {step}: {shown}")
    if verdict.stop is not None:
        display.note(f"stopped after step {step}: {verdict.stop}")


def _resume(learner: Learner, folder: Path, config: Mapping[str, Any]) -> tuple[int, Path | None]:
    """Number of updates already done and the checkpoint they were taken from."""
    remove_leftovers(folder)
    last = latest_checkpoint(folder)
    if last is None:
        return 0, None
    checkpoint = read_checkpoint(last)
    _require_same_config(checkpoint.config, config, folder)
    if checkpoint.step > learner.total_steps:
        raise ConfigMismatchError(
            f"{last} is beyond the {learner.total_steps} steps asked for; choose another run folder or "
            f"more steps"
        )
    folders = step_folders(folder)
    for unreadable in folders[folders.index(last) + 1 :]:
        # Kept for whoever wants to look, under a name that no longer counts as a checkpoint.
        aside = unreadable.with_name(f"unreadable-{unreadable.name}")
        shutil.rmtree(aside, ignore_errors=True)
        unreadable.rename(aside)
    learner.load_state(read_training_state(last))
    return checkpoint.step, last


def _store(learner: Learner, folder: Path, config: Mapping[str, Any], step: int, last: Path | None) -> Path:
    model, state = learner.model(), learner.state()
    for name, tensor in model.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise _non_finite(f"the weight {name!r}", step, last)
    for name, tensor in tensors_of(state):
        # Infinity can be meant in a training state (a best value so far); NaN cannot.
        if tensor.is_floating_point() and bool(torch.isnan(tensor).any()):
            raise _non_finite(f"the tensor {name!r}", step, last)
    return write_checkpoint(
        folder, step, model=model, state=state, config=config, manifest=learner.manifest()
    )


def _finite(losses: Mapping[str, Tensor], step: int, last: Path | None) -> dict[str, float]:
    """The losses as numbers: the one place where the loop waits for the device."""
    values = {name: float(value) for name, value in losses.items()}
    for name, value in values.items():
        if not math.isfinite(value):
            raise _non_finite(f"{name!r} ({value})", step, last)
    return values


def _non_finite(what: str, step: int, last: Path | None) -> NonFiniteError:
    kept = f"the last good checkpoint is {last}" if last else "no checkpoint was written yet"
    return NonFiniteError(
        f"{what} is not finite after step {step}; {kept}. Lower the learning rate or clip gradients, and "
        f"check the "
        "data for huge values."
    )


def _require_same_config(stored: Mapping[str, Any], given: Mapping[str, Any], folder: Path) -> None:
    before = _leaves(stored)
    now = _leaves(
        decode_config(encode_config(given))
    )  # through YAML, as the stored one went (tuples become lists)
    differences = [
        f"{key}: {before.get(key, '(absent)')} -> {now.get(key, '(absent)')}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and key.rsplit(".", 1)[-1] not in HARMLESS_KEYS
    ]
    if differences:
        raise ConfigMismatchError(
            f"{folder} holds a run of another configuration ({'; '.join(differences)}). Choose another run "
            f"folder, "
            "or give the stored configuration to resume."
        )


def _leaves(value: Any, path: str = "") -> dict[str, str]:
    """Dotted key -> YAML text of each leaf, so that NaN equals NaN and 1 differs from 1.0 and from true."""
    if isinstance(value, Mapping) and (value or not path):
        leaves: dict[str, str] = {}
        for key, item in value.items():
            leaves.update(_leaves(item, f"{path}.{key}" if path else str(key)))
        return leaves
    return {
        path: yaml.safe_dump(value, default_flow_style=True, width=math.inf).removesuffix("...\n").strip()
    }


@contextmanager
def _sole_user(folder: Path) -> Iterator[None]:
    """Hold the run folder, so that the same command started twice cannot mix two runs."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise TrainingError(
            f"cannot write in the run folder {folder}: {error.strerror or error}. Make it writable or "
            f"choose another."
        ) from error
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise TrainingError(
                f"another process is training in {folder}; wait for it, stop it, or choose another run folder"
            ) from error
        yield


class _StopRequest:
    """Turns the first SIGINT or SIGTERM into a request to stop; the second raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "_StopRequest":
        # Python delivers signals to the main thread only, and only it may install handlers.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt("stopped at once by a second signal; resume from the last checkpoint")
        self.requested = True  # nothing is printed here: the signal may have come in the middle of a print
