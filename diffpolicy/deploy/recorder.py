"""The black box: the last seconds of everything the shield saw and did, written out when it trips.

A dump is `NAME.npz` (arrays) and `NAME.json` (the rest, and the hash of the arrays). Both appear whole or not at all,
the JSON last. Writing happens in a thread: a slow or full disk never holds up the robot.
"""

import hashlib
import io
import json
import logging
import os
import re
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffpolicy.deploy.checks import Reading
from diffpolicy.deploy.manifest import Manifest
from diffpolicy.deploy.shield import Event, Proposal, ShieldState, Verdict

FORMAT = 1
log = logging.getLogger(__name__)


class Tick(NamedTuple):
    """One control period: what the shield knew before, what it was given, what it made of it, and how late it was."""

    before: ShieldState
    now: float
    stamp: float
    observation: Reading
    proposal: Proposal | None
    stop: str | None
    verdict: Verdict
    lateness: float  # [s] of this period's beginning


class Recorder:
    """Keeps the last `ticks` periods in memory and dumps them into `folder`."""

    def __init__(
        self,
        manifest: Manifest,
        period: float,
        folder: Path,
        *,
        ticks: int = 500,
        rest: NDArray[Any] | None = None,
    ) -> None:
        self._manifest, self._period, self._rest, self._folder = manifest, period, rest, Path(folder)
        self._ticks: deque[Tick] = deque(maxlen=ticks)
        self._writer: threading.Thread | None = None
        self.dumped: list[Path] = []
        self.failures: list[str] = []

    def add(self, tick: Tick) -> None:
        """Note one period; the arrays are copied, since a robot may write into the same ones again."""
        copied = {key: np.array(value) for key, value in tick.observation.items()}
        self._ticks.append(tick._replace(observation=copied))

    def clear(self) -> None:
        """Forget what there is: the shield has been reset, and what comes does not follow from it."""
        self._ticks.clear()

    def dump(self, reason: str, events: Sequence[Event] = ()) -> None:
        """Write what there is as trip-NNN.npz and .json, in the background; `failures` keeps what went wrong.

        The number is one above those in the folder: no record is ever written over.
        """
        ticks, told = list(self._ticks), list(events)
        previous = self._writer

        def write() -> None:
            if previous is not None:
                previous.join()
            self._write(reason, ticks, told)

        self._writer = threading.Thread(target=write, name="recorder", daemon=True)
        self._writer.start()

    def wait(self) -> None:
        """Wait for the dump under way, if there is one."""
        if self._writer is not None:
            self._writer.join()

    def _write(self, reason: str, ticks: list[Tick], events: list[Event]) -> None:
        name = "trip"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            name = _free_name(self._folder)
            arrays, rest = _table(ticks, self._manifest)
            buffer = io.BytesIO()
            np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
            packed = buffer.getvalue()
            document = {
                "format": FORMAT,
                "reason": reason,
                "period": self._period,
                "rest": None if self._rest is None else [float(value) for value in self._rest],
                "arrays_sha256": hashlib.sha256(packed).hexdigest(),
                "events": [event._asdict() for event in events],
                **rest,
                "manifest": self._manifest.as_dict(),
            }
            text = json.dumps(document, indent=1, allow_nan=False)
            _replace(self._folder / f"{name}.npz", packed)
            _replace(self._folder / f"{name}.json", text.encode())
        except Exception as error:  # the robot goes on; what was lost is said
            self.failures.append(f"{type(error).__name__}: {error}")
            log.error("the record of %s could not be written: %s", name, self.failures[-1])
        else:
            self.dumped.append(self._folder / f"{name}.json")
            log.warning("recorded the last %d periods: %s", len(ticks), self.dumped[-1])


def _free_name(folder: Path) -> str:
    """Return "trip-NNN" with a number above all that are there, whole or in part."""
    found = [re.match(r"trip-(\d+)\.", path.name) for path in folder.iterdir()]
    return f"trip-{max((int(match[1]) for match in found if match), default=0) + 1:03d}"


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".part")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _table(ticks: list[Tick], manifest: Manifest) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return the periods as arrays (n, ...) and, what is text, as lists of n."""
    shape, nothing = manifest.action.shape, np.full(manifest.action.shape, np.nan)
    proposals = [tick.proposal for tick in ticks]
    readable = [_fits(tick.observation, manifest) for tick in ticks]

    def action(proposal: Proposal | None) -> NDArray[np.float64]:
        given = None if proposal is None else np.asarray(proposal.action)
        if given is None or given.shape != shape or given.dtype.kind not in "fiu":
            return nothing
        return given.astype(np.float64)

    def number(value: float | None) -> float:
        return np.nan if value is None else value

    arrays = {
        "now": np.array([tick.now for tick in ticks]),
        "stamp": np.array([tick.stamp for tick in ticks]),
        "lateness": np.array([tick.lateness for tick in ticks]),
        "readable": np.array(readable),
        "proposed": np.array([proposal is not None for proposal in proposals]),
        "action": np.array([action(proposal) for proposal in proposals]),
        "valid_until": np.array([number(p.valid_until if p else None) for p in proposals]),
        "judged": np.array([p is not None and p.feasible is not None for p in proposals]),
        "feasible": np.array([number(p.feasible if p else None) for p in proposals]),
        "command": np.array([tick.verdict.command for tick in ticks]),
        "holding": np.array([tick.verdict.holding for tick in ticks]),
    }
    for signal in manifest.observation:
        empty = np.zeros(signal.shape, signal.dtype)
        arrays[f"observation/{signal.name}"] = np.array(
            [
                tick.observation[signal.name] if fits else empty
                for tick, fits in zip(ticks, readable, strict=True)
            ]
        )
    first = ticks[0].before
    arrays |= {f"motion/{key}": value for key, value in first.motion._asdict().items()}
    arrays["seen_command"] = first.seen_command
    seen = first.seen is not None and _fits(first.seen, manifest)
    if first.seen is not None and seen:
        arrays |= {f"seen/{signal.name}": first.seen[signal.name] for signal in manifest.observation}
    rest = {
        "before": {
            "latched": first.latched,
            "accepted_at": first.accepted_at,
            "now": first.now if np.isfinite(first.now) else None,
            "seen": seen,
            "seen_at": first.seen_at if np.isfinite(first.seen_at) else None,
        },
        "steps": [list(tick.verdict.steps) for tick in ticks],
        "reasons": [tick.verdict.reason for tick in ticks],
        "latched": [tick.verdict.latched for tick in ticks],
        "stops": [tick.stop for tick in ticks],
        "flags": [list(p.flags) if p else [] for p in proposals],
    }
    return arrays, rest


def _fits(observation: Reading, manifest: Manifest) -> bool:
    """Whether a reading can be put into arrays; its values may be anything."""
    return all(
        isinstance(value := observation.get(signal.name), np.ndarray)
        and value.shape == signal.shape
        and value.dtype == np.dtype(signal.dtype)
        for signal in manifest.observation
    )
