"""The manifest of a checkpoint's policy: what its task declares, what an engineer adds, and limits by default."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import diffpolicy
import envs
from diffpolicy.deploy.errors import DeployError, ManifestError
from diffpolicy.deploy.graphs import Deployable, Graphs
from diffpolicy.deploy.manifest import Manifest, Safety, Signal, read_limits
from diffpolicy.policies.arms import ColdStart
from diffpolicy.policies.chunk_policy import ChunkPolicy
from diffpolicy.policies.gaussian import GaussianPolicy
from diffpolicy.policies.picture_gaussian import PicturePolicy
from diffpolicy.policies.rti import WarmStart
from diffpolicy.policies.selection import CandidatePolicy
from diffpolicy.policies.streaming import StreamingPolicy
from diffpolicy.training import Checkpoint

RATE = 10.0  # [Hz], where neither the task nor the engineer says: slow on purpose
# Beside the keys of `Safety`, what a limits file may say.
SAID = ("control_rate", "licence", "observation_names", "observation_unit", "action_names", "action_unit")

# Names and units where this package knows the simulator; a limits file says those of a robot.
_KNOWN: Mapping[str, Mapping[str, Any]] = {
    "PushT": {
        "observation_names": ("agent_x", "agent_y", "block_x", "block_y", "block_angle"),
        "observation_unit": "pixel (block_angle: rad)",
        "action_names": ("target_x", "target_y"),
        "action_unit": "pixel",
    },
    "PushTImage": {
        "observation_names": ("agent_x", "agent_y"),
        "observation_unit": "pixel",
        "action_names": ("target_x", "target_y"),
        "action_unit": "pixel",
    },
    "PointRobot": {
        "observation_names": (
            *("x", "y", "speed", "heading_cos", "heading_sin"),
            *(f"hazard_{i}_{what}" for i in (0, 1) for what in ("distance", "cos", "sin")),
        ),
        "observation_unit": "m (speed: m/s; cos, sin: 1)",
        "action_names": ("acceleration", "turn_rate"),
        "action_unit": "m/s^2, rad/s",
        "control_rate": 20.0,  # its Euler step is 0.05 s
    },
}


def action_limits(checkpoint: Checkpoint) -> tuple[list[float], list[float]]:
    """Return what actions -1 and 1 mean in physical units, (A,) each."""
    task, size = envs.task(checkpoint.manifest["task"]), int(checkpoint.manifest["action_size"])
    return [task.action_low] * size, [task.action_high] * size


def describe(
    checkpoint: Checkpoint,
    policy: Deployable,
    arm: str,
    graphs: Graphs,
    limits: Mapping[str, Any] | None = None,
    git: str = "",
) -> Manifest:
    """Return the manifest of `arm` of a checkpoint; `limits` replaces what is derived from the task.

    Raises ManifestError for limits that are none.
    """
    stored = checkpoint.manifest
    task = envs.task(stored["task"])
    said = {**_KNOWN.get(task.name, {}), **_said(limits or {})}
    low, high = action_limits(checkpoint)
    rate = float(said.get("control_rate") or task.control_rate or RATE)
    action = Signal(
        "action",
        (len(low),),
        "float32",
        str(said.get("action_unit", "")),
        tuple(map(str, said.get("action_names", ()))),
        tuple(low),
        tuple(high),
    )
    safety = default_safety(low, high, graphs.execute / rate)
    if isinstance(policy, CandidatePolicy):
        safety = replace(safety, feasible_below=0.0)
    safety = read_limits({key: value for key, value in (limits or {}).items() if key not in SAID}, safety)
    sampler, evaluations, horizon = _sampling(policy)
    return Manifest(
        policy=stored["method"],
        arm=arm,
        task=task.id,
        version=diffpolicy.__version__,
        git=git,
        observation=_observation(stored, policy, said),
        action=action,
        control_rate=rate,
        chunk=graphs.ahead,
        execute=graphs.execute,
        horizon=horizon,
        observation_horizon=policy.observation_horizon,
        sampler=sampler,
        evaluations=evaluations,
        safety=safety,
        licence=str(said.get("licence", "")),
        data_sha256=_data_hash(stored),
        weights_sha256=stored["sha256"]["model.safetensors"],
    )


def default_safety(low: list[float], high: list[float], decision: float) -> Safety:
    """Return limits for actions between `low` and `high` (A,) where nothing else is known of the robot.

    The whole range takes at least 0.2 s, full speed 0.1 s, full acceleration 0.05 s. A decision is made every
    `decision` seconds; two missed ones are what the watchdog waits for.
    """
    span = [above - below for below, above in zip(low, high, strict=True)]
    return Safety(
        position_low=tuple(low),
        position_high=tuple(high),
        velocity=tuple(value / 0.2 for value in span),
        acceleration=tuple(value / 0.2 / 0.1 for value in span),
        jerk=tuple(value / 0.2 / 0.1 / 0.05 for value in span),
        max_observation_age=max(0.2, decision),
        watchdog=max(0.5, 2 * decision),
    )


def _observation(
    stored: Mapping[str, Any], policy: Deployable, said: Mapping[str, Any]
) -> tuple[Signal, ...]:
    """Return what the policy looks at: the state unless pictures are all it sees, and its cameras."""
    if isinstance(policy, PicturePolicy):
        return (Signal(policy.camera, policy.picture_shape, "uint8", "RGB"),)
    state = Signal(
        "state",
        (int(stored["observation_size"]),),
        "float32",
        str(said.get("observation_unit", "")),
        tuple(map(str, said.get("observation_names", ()))),
    )
    cameras = stored.get("cameras", {}).items()
    return state, *(Signal(name, (*size, 3), "uint8", "RGB") for name, size in cameras)


def _said(limits: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of `SAID`; ManifestError where one is of another kind than it has to be."""
    found = {key: value for key, value in limits.items() if key in SAID}
    for key, value in found.items():
        if key == "control_rate":
            number = isinstance(value, int | float) and not isinstance(value, bool)
            good, wanted = number and 0.0 < value < math.inf, "a number above 0 [Hz]"
        elif key.endswith("_names"):
            listed = isinstance(value, list | tuple)
            good, wanted = listed and all(isinstance(each, str) for each in value), "a list of names"
        else:
            good, wanted = isinstance(value, str), "text"
        if not good:
            raise ManifestError(f"{key} is {wanted}, got {value!r:.40}")
    return found


def _data_hash(stored: Mapping[str, Any]) -> str:
    found = stored.get("data", "")
    return str(found.get("sha256", "")) if isinstance(found, Mapping) else str(found)


def _sampling(policy: Deployable) -> tuple[str, int, int]:
    """Return the sampler in words, the evaluations of a usual decision, and the actions that are predicted."""
    if isinstance(policy, CandidatePolicy):
        levels, ranked = policy.actors.process.levels, policy.arm
        return f"ancestral, {levels} levels; {ranked.candidates} candidates, {ranked.rule}", levels, 1
    if isinstance(policy, GaussianPolicy):
        return (f"Gaussian of deviation {policy.std:g}" if policy.std else "mean of a Gaussian"), 1, 1
    horizon = policy.model.prediction_horizon
    if isinstance(policy, StreamingPolicy):
        steps = policy.draws(False) - 1
        return f"streaming, {steps} steps", steps, horizon
    if not isinstance(policy, ChunkPolicy):
        raise DeployError(f"a {type(policy).__name__} cannot be deployed")
    arm, cold = policy.arm, _cold(policy.arm.cold)
    if policy.warm is not None and arm.warm is not None:
        return f"{_warm(arm.warm)}; first {cold}", policy.warm.sampler.evaluations, horizon
    words = f"{cold}, then the same chunk" if arm.kind == "reuse" else cold
    return words, policy.cold.sampler.evaluations, horizon


def _cold(start: ColdStart) -> str:
    return f"{start.solver}, {start.steps} {start.spacing} levels"


def _warm(start: WarmStart) -> str:
    how = "single-index steps" if start.single_index else f"jumps, eta {start.eta:g}"
    return f"from the last plan, {how} at {list(start.levels)}{', committed' if start.commit else ''}"
