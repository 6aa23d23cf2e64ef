"""What a chunk policy accepts as an observation: of the trained sizes, finite, and on the device where it acts."""

import torch
from torch import Tensor

from diffpolicy.policies.errors import PolicyError
from diffpolicy.policies.inference import ChunkDenoiser
from diffpolicy.policies.policy import Observation


def acting_device(model: ChunkDenoiser, device: torch.device | str) -> torch.device:
    """Return `device`; PolicyError unless the model is there."""
    wanted = torch.device(device)
    if model.process.device.type != wanted.type:
        raise PolicyError(
            f"the model is on {model.process.device}, but is to act on {wanted}: move it there with "
            "model.to_device, or give the policy the model's device"
        )
    return wanted


def observed(observation: Observation, model: ChunkDenoiser, device: torch.device) -> Observation:
    """Return the observation on `device`, its state in float32, as tensors that may take part in differentiation.

    Raises PolicyError for states that are not (B, To, O) as the model was trained on, and for NaN and infinity: what
    a network makes of those may look like an action.
    """

    def ordinary(tensor: Tensor) -> Tensor:
        moved = tensor.to(device)
        return moved.clone() if moved.is_inference() else moved

    state = ordinary(observation.state).float()
    expected = (model.observation_horizon, model.observation_size)
    if state.ndim != 3 or tuple(state.shape[1:]) != expected:
        raise PolicyError(
            f"the policy sees the last {expected[0]} control steps of {expected[1]} numbers, states of shape "
            f"(B, {expected[0]}, {expected[1]}); it got {tuple(state.shape)}"
        )
    _require_finite("state", state, "columns")
    if observation.images is None:
        return Observation(state)
    images = {camera: ordinary(seen) for camera, seen in observation.images.items()}
    for camera, seen in images.items():
        if seen.is_floating_point():
            _require_finite(f"picture of {camera!r}", seen, "channels")
    return Observation(state, images)


def _require_finite(what: str, values: Tensor, parts: str) -> None:
    """Raise PolicyError if some of `values` (B, ..., D) are NaN or infinite."""
    finite = values.isfinite()
    if bool(finite.all()):
        return
    row = int((~finite).flatten(1).any(dim=1).nonzero()[0])
    bad = (~finite[row]).flatten(0, -2).any(dim=0).nonzero().flatten().tolist()
    raise PolicyError(
        f"the {what} holds NaN or infinity ({parts} {bad} of roll-out {row}): nothing is decided from it, "
        "look at the sensors or the simulator"
    )
