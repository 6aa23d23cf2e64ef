"""What a person sees of the server: the live page, its figures once a second, the cameras' last pictures."""

import io
import time
from importlib import resources
from typing import Any

import numpy as np
from PIL import Image

from diffpolicy.deploy.decisions import Decisions, Latest
from diffpolicy.deploy.manifest import Manifest, Signal

ELEMENTS = 64  # of a vector that the page shows
STEPS = 64  # of an action chunk that the page shows
PICTURE = 320  # pixels of a picture's longer side


def html() -> bytes:
    """Return the page: one file with its styles and its script."""
    return resources.files("diffpolicy.deploy").joinpath("status_page.html").read_bytes()


def status(decisions: Decisions, state: str, uptime: float) -> dict[str, Any]:
    """Return the figures of /status.json: finite numbers, text, lists and None only. `uptime` in [s]."""
    manifest, metrics, latest = decisions.manifest, decisions.metrics, decisions.latest
    return {
        "state": state,
        "uptime": uptime,
        "policy": {
            "policy": manifest.policy,
            "arm": manifest.arm,
            "task": manifest.task,
            "version": manifest.version,
            "sampler": manifest.sampler,
            "evaluations": manifest.evaluations,
            "control_rate": manifest.control_rate,
            "chunk": manifest.chunk,
            "horizon": manifest.horizon,
            "weights_sha256": manifest.weights_sha256,
        },
        "deadline": decisions.deadline,
        "clients": metrics.clients,
        "connections": metrics.connections,
        "requests": metrics.requests,
        "replies": metrics.replies,
        "deadline_misses": metrics.refusals["deadline"],
        "late": metrics.late,
        "latency": metrics.latency.quantiles(),
        "inference": metrics.inference.quantiles(),
        "refusals": dict(metrics.refusals),
        "rejected": dict(metrics.rejected),
        "flags": dict(metrics.flags),
        "shield": dict(metrics.shield),
        "cost": metrics.cost,
        "infeasible": metrics.infeasible,
        "feasible_value": metrics.feasible_value,
        "history": [list(second) for second in metrics.history],
        "latest": None if latest is None else _latest(latest, manifest),
    }


def cameras(manifest: Manifest) -> list[Signal]:
    """Return the signals that are pictures (H, W, 3), in the manifest's order."""
    return [signal for signal in manifest.observation if signal.dtype == "uint8" and signal.shape[2:] == (3,)]


def picture(decisions: Decisions, index: int) -> bytes | None:
    """Return the newest picture of camera `index` as a JPEG of at most `PICTURE` pixels, None where there is none."""
    seen = cameras(decisions.manifest)
    if decisions.latest is None or not 0 <= index < len(seen):
        return None
    array = _newest(decisions.latest, seen[index])
    step = max(1, -(-max(array.shape[:2]) // PICTURE))
    stored = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array[::step, ::step])).save(stored, "JPEG", quality=85)
    return stored.getvalue()


def _latest(latest: Latest, manifest: Manifest) -> dict[str, Any]:
    vectors = [signal for signal in manifest.observation if len(signal.shape) == 1]
    return {
        "age": time.monotonic() - latest.when,
        "client": latest.client,
        "cameras": [signal.name for signal in cameras(manifest)],
        "vectors": [
            {**_axes(signal), "values": _newest(latest, signal)[:ELEMENTS].tolist()} for signal in vectors
        ],
        "actions": {
            **_axes(manifest.action),
            "values": latest.actions[:STEPS, :ELEMENTS].T.tolist(),
            "period": manifest.control_period,
        },
    }


def _newest(latest: Latest, signal: Signal) -> np.ndarray[Any, Any]:
    """Return the last reading of a signal that may have come with its history."""
    array = latest.observation[signal.name]
    return array[-1] if array.ndim > len(signal.shape) else array


def _axes(signal: Signal) -> dict[str, Any]:
    shown = min(signal.shape[0], ELEMENTS)
    return {
        "name": signal.name,
        "unit": signal.unit,
        "names": [signal.element(i) for i in range(shown)],
        "low": signal.low and list(signal.low[:shown]),
        "high": signal.high and list(signal.high[:shown]),
    }
