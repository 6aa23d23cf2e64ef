"""What a chunk policy accepts as an observation: of the trained sizes, finite, and on the device where it acts."""

import torch
from torch import Tensor

from diffpolicy.policies.errors import PolicyError
from diffpolicy.policies.inference import ChunkDenoiser
from diffpolicy.policies.policy import Memory, Observation


def acting_device(model: ChunkDenoiser, device: torch.device | str) -> torch.device:
    """Return `device`; PolicyError unless the model is there."""
    wanted = torch.device(device)
    there = model.process.device
    if there.type != wanted.type or (wanted.index is not None and (there.index or 0) != wanted.index):
        raise PolicyError(
            f"the model is on {there}, but is to act on {wanted}: move it there with "
            "model.to_device, or give the policy the model's device"
        )
    return wanted


def observed(
    observation: Observation, memory: Memory, model: ChunkDenoiser, device: torch.device
) -> Observation:
    """Return the observation on `device`, its state in float32, as tensors that may take part in differentiation.

    Raises PolicyError for states that are not (B, To, O) as the model was trained on, for other roll-outs than those
    of `memory`, for NaN and infinity (what a network makes of those may look like an action), and for pictures that are
    neither uint8 nor floating point from 0 to 1, or are of other roll-outs and control steps than the states.
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
    if memory.plan is not None and len(memory.plan.chunk) != len(state):
        raise PolicyError(
            f"the memory is of {len(memory.plan.chunk)} roll-outs, the observation of {len(state)}: start anew"
        )
    _require_finite(state)
    if observation.images is None:
        return Observation(state)
    images = {camera: ordinary(seen) for camera, seen in observation.images.items()}
    return Observation(state, {camera: _picture(seen, camera, state) for camera, seen in images.items()})


def _picture(seen: Tensor, camera: str, state: Tensor) -> Tensor:
    """Return pictures (B, To, H, W, C) in uint8 or float32; PolicyError where they are something else."""
    if seen.ndim != 5 or seen.shape[:2] != state.shape[:2]:
        raise PolicyError(
            f"pictures of {camera!r} have the shape {tuple(seen.shape)}; with states {tuple(state.shape)} they are "
            f"({state.shape[0]}, {state.shape[1]}, height, width, channels)"
        )
    if seen.dtype == torch.uint8:
        return seen
    if not seen.is_floating_point() or not bool(((seen >= 0.0) & (seen <= 1.0)).all()):
        raise PolicyError(f"pictures of {camera!r} are uint8, or numbers from 0 to 1; these hold others")
    return seen.float()


def _require_finite(state: Tensor) -> None:
    """Raise PolicyError if some of a state (B, To, O) is NaN or infinite."""
    finite = state.isfinite()
    if bool(finite.all()):
        return
    row = int((~finite).flatten(1).any(dim=1).nonzero()[0])
    columns = (~finite[row]).any(dim=0).nonzero().flatten().tolist()
    raise PolicyError(
        f"the state holds NaN or infinity (columns {columns} of roll-out {row}): nothing is decided from it, "
        "look at the sensors or the simulator"
    )
