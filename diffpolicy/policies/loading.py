"""From a checkpoint folder to policies that act; needs neither the data set nor a simulator nor Hydra."""

from collections.abc import Mapping
from typing import Any, overload

import torch
from torch import Tensor

from diffpolicy.data import Standardizer
from diffpolicy.networks import select_members
from diffpolicy.policies.acting import chunk_policy
from diffpolicy.policies.actors import ActorConfig, DiffusionActors
from diffpolicy.policies.calibration import Calibration
from diffpolicy.policies.chunk_loading import load_chunk_model
from diffpolicy.policies.chunk_policy import ChunkPolicy
from diffpolicy.policies.errors import PolicyError
from diffpolicy.policies.gaussian import ARMS as GAUSSIAN_ARMS
from diffpolicy.policies.gaussian import METHOD as GAUSSIAN
from diffpolicy.policies.gaussian import GaussianPolicy, gaussian_policy
from diffpolicy.policies.picture_gaussian import METHOD as PICTURE_GAUSSIAN
from diffpolicy.policies.picture_gaussian import picture_policy
from diffpolicy.policies.selection import ARMS, CandidatePolicy
from diffpolicy.policies.streaming import StreamingPolicy
from diffpolicy.safety import CriticConfig, Critics
from diffpolicy.training import Checkpoint

GAUSSIANS = (GAUSSIAN, PICTURE_GAUSSIAN)  # methods of policies of one action, each of one training seed
CALIBRATION = "calibration.json"  # beside a checkpoint's weights


def available_arms(manifest: Mapping[str, Any]) -> list[str]:
    """Return the arms that the trained actors and critics of a checkpoint can play, or those of its Gaussian."""
    if manifest["method"] in GAUSSIANS:
        return list(GAUSSIAN_ARMS)
    actors, kinds = manifest["actors"], manifest["critic_kinds"]
    return [
        name
        for name, arm in ARMS.items()
        if arm.actor in actors and (arm.rule != "recover" or "cost" in kinds)
    ]


@overload
def load_policy(
    checkpoint: Checkpoint, arm: str, seed: int, device: torch.device | str = "cpu"
) -> CandidatePolicy: ...
@overload
def load_policy(
    checkpoint: Checkpoint, arm: str, *, device: torch.device | str = "cpu"
) -> ChunkPolicy | StreamingPolicy | GaussianPolicy: ...
def load_policy(
    checkpoint: Checkpoint, arm: str, seed: int | None = None, device: torch.device | str = "cpu"
) -> CandidatePolicy | ChunkPolicy | StreamingPolicy | GaussianPolicy:
    """Return `arm` of a checkpoint ready to act on `device`.

    FISOR's checkpoints hold several training seeds: `seed` is one of the manifest's "seeds". Those of others hold one;
    guarded arms take their thresholds from the `calibration.json` beside the weights. Raises PolicyError
    when the checkpoint holds no such arm or seed, or no thresholds.
    """
    if checkpoint.manifest["method"] == "diffusion":
        model = load_chunk_model(checkpoint, device)
        return chunk_policy(model, arm, calibration=read_calibration(checkpoint), device=device)
    if checkpoint.manifest["method"] == GAUSSIAN:
        return gaussian_policy(checkpoint, arm, device)
    if checkpoint.manifest["method"] == PICTURE_GAUSSIAN:
        return picture_policy(checkpoint, arm, device)
    if seed is None:
        raise PolicyError(
            f"{checkpoint.path} holds the training seeds {checkpoint.manifest['seeds']}: name one"
        )
    return _fisor(checkpoint, arm, seed, device)


def read_calibration(checkpoint: Checkpoint) -> Calibration | None:
    """Return what `diffpolicy calibrate` left beside the weights of a checkpoint, None if it did not."""
    path = checkpoint.path / CALIBRATION
    return Calibration.load(path) if path.exists() else None


def _fisor(checkpoint: Checkpoint, arm: str, seed: int, device: torch.device | str) -> CandidatePolicy:
    manifest = checkpoint.manifest
    if arm not in available_arms(manifest):
        raise PolicyError(
            f"no arm {arm!r} in {checkpoint.path}; it has {', '.join(available_arms(manifest))}"
        )
    if seed not in manifest["seeds"]:
        raise PolicyError(f"no training seed {seed} in {checkpoint.path}; it has {manifest['seeds']}")
    column, seeds = manifest["seeds"].index(seed), len(manifest["seeds"])
    kinds = manifest["critic_kinds"]
    member = manifest["actors"].index(ARMS[arm].actor) * seeds + column
    generator = torch.Generator()  # the drawn initial weights are replaced below
    sizes = (manifest["observation_size"], manifest["action_size"])
    config = checkpoint.config["policy"]
    actors = DiffusionActors(1, *sizes, ActorConfig(**config["actor"]), generator)
    state = select_members(_group(checkpoint.model, "actors"), [member])
    actors.average.load_state_dict(state)
    actors.denoiser.load_state_dict(state)
    critics = Critics(1, *sizes, kinds, CriticConfig(**config["critic"]), generator)
    first, count = column * len(kinds), len(kinds)
    q_members = range(2 * first, 2 * (first + count))
    twins = select_members(_group(checkpoint.model, "q"), q_members)
    critics.q_target.load_state_dict(twins)
    critics.q.load_state_dict(twins)
    critics.v.load_state_dict(select_members(_group(checkpoint.model, "v"), range(first, first + count)))
    standardizer = Standardizer.from_state(_group(checkpoint.model, "standardizer")).to(device)
    target = torch.device(device)
    return CandidatePolicy(actors.to_device(target), critics.to(target), standardizer, ARMS[arm])


def _group(model: Mapping[str, Tensor], group: str) -> dict[str, Tensor]:
    prefix = f"{group}."
    return {name[len(prefix) :]: tensor for name, tensor in model.items() if name.startswith(prefix)}
