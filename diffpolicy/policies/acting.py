"""From a chunk model and the name of an arm to a policy."""

from collections.abc import Callable

import torch

from diffpolicy.policies.arms import ChunkArm, parse_arm
from diffpolicy.policies.calibration import Calibration
from diffpolicy.policies.chunk_model import ChunkModel
from diffpolicy.policies.chunk_policy import ChunkPolicy
from diffpolicy.policies.errors import PolicyError
from diffpolicy.policies.freezing import Freezing
from diffpolicy.policies.inference import CompiledInference, Inference
from diffpolicy.policies.rti import Discrete
from diffpolicy.policies.streaming import StreamingPolicy


def chunk_policy(
    model: ChunkModel,
    arm: str | ChunkArm,
    *,
    calibration: Calibration | None = None,
    freezing: Freezing = "inpaint",
    sampling: Callable[[Inference], CompiledInference] | None = None,
    device: torch.device | str = "cpu",
) -> ChunkPolicy | StreamingPolicy:
    """Return `arm` of `model` ready to act on `device`; guarded arms take their thresholds from `calibration`.

    Raises PolicyError when there is no such arm, the model cannot play it, or a guard has not been calibrated.
    """
    arm = parse_arm(arm) if isinstance(arm, str) else arm
    if arm.kind == "streaming":
        return StreamingPolicy(model, arm, discrete=discrete_of(model), device=device)
    guard = None
    if arm.guard:
        if calibration is None:
            raise PolicyError(
                f"arm {arm.name!r} needs the thresholds of a calibration: "
                f"diffpolicy calibrate checkpoint=... arms=[{arm.name}]"
            )
        guard = calibration.guard(arm)
    return ChunkPolicy(
        model,
        arm,
        guard=guard,
        discrete=discrete_of(model),
        freezing=freezing,
        sampling=sampling,
        device=device,
    )


def discrete_of(model: ChunkModel) -> Discrete | None:
    """Return how the two-valued actions of a model are treated: as it was trained (`discrete_scale`)."""
    columns, scale = model.layout.discrete, model.config.conditioning.discrete_scale
    if not columns:
        return None
    return Discrete(columns, "scale" if scale < 1.0 else "clip", scale)
