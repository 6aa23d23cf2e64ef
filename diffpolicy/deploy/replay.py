"""What happened before a trip? Reads a recorder's dump, tells it, and lets the shield judge everything again."""

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpolicy.deploy.errors import DeployError
from diffpolicy.deploy.limiter import Motion
from diffpolicy.deploy.manifest import Manifest
from diffpolicy.deploy.recorder import FORMAT
from diffpolicy.deploy.shield import Proposal, Shield, ShieldState


@dataclass(frozen=True)
class Recording:
    """A dump: `arrays` with a row for each of n periods, and the document beside them."""

    path: Path
    arrays: dict[str, NDArray[Any]]
    document: dict[str, Any]
    manifest: Manifest

    @property
    def times(self) -> NDArray[np.float64]:
        """Seconds (n,) before the last period."""
        now = self.arrays["now"]
        return np.asarray(now - now[-1], np.float64)


def load_recording(path: Path | str) -> Recording:
    """Read NAME.json and NAME.npz; DeployError for a file that is missing, damaged or of another version."""
    path = Path(path).with_suffix(".json")
    try:
        document = json.loads(path.read_text())
        packed = path.with_suffix(".npz").read_bytes()
    except (OSError, ValueError) as error:
        raise DeployError(f"{path} is no complete record: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise DeployError(f"{path} is no record of format {FORMAT}")
    if hashlib.sha256(packed).hexdigest() != document.get("arrays_sha256"):
        raise DeployError(f"{path.with_suffix('.npz')} is not the file that {path.name} was written for")
    try:
        with np.load(io.BytesIO(packed), allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in stored.files}
        recording = Recording(path, arrays, document, Manifest.from_dict(document["manifest"]))
        _check(recording)
    except (KeyError, TypeError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise DeployError(f"{path} is no complete record: {type(error).__name__}: {error}") from error
    return recording


def _check(recording: Recording) -> None:
    """Raise KeyError, TypeError or ValueError where the shapes and kinds are not those that a recorder writes."""
    arrays, document, manifest = recording.arrays, recording.document, recording.manifest
    count, size = len(arrays["now"]), manifest.action.shape
    rest, before = document["rest"], document["before"]
    if count == 0 or not float(document["period"]) > 0.0:
        raise ValueError("no periods")
    if rest is not None and np.array(rest, np.float64).shape != size:
        raise ValueError(f"rest is {rest!r:.40}, expected numbers {size}")
    if not isinstance(before, dict) or {"latched", "accepted_at", "now", "seen", "seen_at"} - set(before):
        raise ValueError("before does not say what the shield knew")
    shapes: dict[str, tuple[int, ...]] = {
        "action": (count, *size),
        "command": (count, *size),
        "seen_command": size,
    }
    for key in (
        "now",
        "stamp",
        "lateness",
        "readable",
        "proposed",
        "valid_until",
        "judged",
        "feasible",
        "holding",
    ):
        shapes[key] = (count,)
    for signal in manifest.observation:
        shapes[f"observation/{signal.name}"] = (count, *signal.shape)
        if before["seen"]:
            shapes[f"seen/{signal.name}"] = signal.shape
    for key in Motion._fields:
        shapes[f"motion/{key}"] = (len(arrays["motion/stop"]), *size) if key == "stop" else size
    for key, shape in shapes.items():
        if arrays[key].shape != shape or arrays[key].dtype.kind not in "fiub":
            raise ValueError(f"{key} is {arrays[key].dtype} {arrays[key].shape}, expected numbers {shape}")
    for key in ("steps", "reasons", "latched", "stops", "flags"):
        if not isinstance(document[key], list) or len(document[key]) != count:
            raise ValueError(f"{key} is a list with an entry for each of {count} periods")


def rerun(recording: Recording) -> NDArray[np.float64]:
    """Return the commands (n, A) that the shield makes of the recorded inputs: those recorded, if nothing is amiss."""
    document, arrays, manifest = recording.document, recording.arrays, recording.manifest
    rest = None if document["rest"] is None else np.array(document["rest"])
    shield = Shield(manifest, document["period"], rest=rest)
    shield.state = _before(recording)
    commands = []
    for row in range(len(arrays["now"])):
        proposal = None
        if arrays["proposed"][row]:
            feasible = float(arrays["feasible"][row]) if arrays["judged"][row] else None
            flags = tuple(document["flags"][row])
            proposal = Proposal(arrays["action"][row], float(arrays["valid_until"][row]), feasible, flags)
        observation = {}
        if arrays["readable"][row]:
            names = [signal.name for signal in manifest.observation]
            observation = {name: arrays[f"observation/{name}"][row] for name in names}
        stamp, now = float(arrays["stamp"][row]), float(arrays["now"][row])
        commands.append(shield.filter(proposal, observation, stamp, now, document["stops"][row]).command)
    return np.array(commands)


def _before(recording: Recording) -> ShieldState:
    arrays, before = recording.arrays, recording.document["before"]
    names = [signal.name for signal in recording.manifest.observation]
    return ShieldState(
        motion=Motion(**{key: arrays[f"motion/{key}"] for key in Motion._fields}),
        latched=before["latched"],
        accepted_at=before["accepted_at"],
        now=-np.inf if before["now"] is None else before["now"],
        seen={name: arrays[f"seen/{name}"] for name in names} if before["seen"] else None,
        seen_at=-np.inf if before["seen_at"] is None else before["seen_at"],
        seen_command=arrays["seen_command"],
    )


def summary(recording: Recording) -> str:
    """Return what happened as text: the reason, a table of moments at which the steps changed, and the cadence."""
    document, arrays = recording.document, recording.arrays
    times, lateness = recording.times, 1e3 * arrays["lateness"]
    late = np.percentile(lateness, [50, 99])
    lines = [
        f"{recording.path.name}: {document['reason']}",
        f"{len(times)} periods of {1e3 * document['period']:.3g} ms, {-times[0]:.2f} s; "
        f"lateness p50 {late[0]:.2f} ms, p99 {late[1]:.2f} ms",
        "",
        f"{'time [s]':>9}  {'steps':<40}  why",
    ]
    before: list[str] | None = None
    for row, steps in enumerate(document["steps"]):
        if steps != before:
            why = document["reasons"][row] or ("" if steps else "as the policy wants")
            lines.append(f"{times[row]:9.3f}  {', '.join(steps) or '-':<40}  {why}")
        before = steps
    return "\n".join(lines)


def plot(recording: Recording, path: Path) -> None:
    """Draw actions, commands and held periods into a PNG, an axis for each of at most eight action elements."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    arrays, signal = recording.arrays, recording.manifest.action
    shown = min(signal.shape[0], 8)
    figure = Figure(figsize=(9.0, 1.2 + 1.8 * shown), layout="constrained")
    FigureCanvasAgg(figure)
    axes = np.atleast_1d(figure.subplots(shown, 1, sharex=True))
    for index, axis in enumerate(axes):
        for low, high in _spans(arrays["holding"], recording.times):
            axis.axvspan(low, high, color="0.9")
        axis.plot(recording.times, arrays["action"][:, index], ".", ms=3, label="policy")
        axis.step(recording.times, arrays["command"][:, index], where="post", lw=1.2, label="command")
        axis.set_ylabel(f"{signal.element(index)} [{signal.unit}]" if signal.unit else signal.element(index))
    axes[0].legend(loc="upper left", fontsize="small")
    axes[0].set_title(recording.document["reason"], fontsize="small", wrap=True)
    axes[-1].set_xlabel("time before the end of the record [s]; grey: held")
    figure.savefig(path, dpi=110)


def _spans(active: NDArray[np.bool_], times: NDArray[np.float64]) -> list[tuple[float, float]]:
    """Return the intervals in which `active` (n,) holds."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], active.astype(np.int8), [0]])))
    return [
        (float(times[first]), float(times[min(end, len(times) - 1)]))
        for first, end in zip(edges[::2], edges[1::2], strict=True)
    ]
