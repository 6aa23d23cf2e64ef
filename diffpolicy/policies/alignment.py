"""A trained chunk policy as a model of `diffpolicy.alignment`, its demonstrations as samples, and back to a checkpoint.

A sample is a chunk (Tp, A) in normalised action units, its condition what the encoders say of the observation. They
stay as they were trained; the network behind them is aligned.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffpolicy import training
from diffpolicy.alignment import CopiedRoles, Model, RoleBook, Rollout
from diffpolicy.data import ChunkSampler, OfflineDataset
from diffpolicy.diffusion import trailing
from diffpolicy.policies.chunk_loading import load_chunk_model
from diffpolicy.policies.chunk_model import ChunkModel, Condition
from diffpolicy.policies.errors import PolicyError
from diffpolicy.policies.policy import Observation

STEPS = 5  # of the sampler in roll-outs
OF_THE_RUN = ("format", "step", "sha256")  # what a manifest says of one checkpoint, rather than of the policy


class Condensed(NamedTuple):
    """A chunk model under another signature: conditions are plain dicts of tensors, as alignment stores them."""

    model: ChunkModel

    def __call__(self, noisy: Tensor, level: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        """Return the clean chunks (B, Tp, A) predicted for `noisy` (B, Tp, A) at `level` (B,)."""
        predicted: Tensor = self.model(noisy, level, Condition(condition["tokens"], condition["origin"]))
        return predicted


def aligned_model(model: ChunkModel, steps: int = STEPS) -> Model:
    """Return a chunk model ready to be aligned, its roll-outs sampled in `steps` trailing levels.

    The given model becomes the role "train"; its network is trained, its encoders are not. The process predicts clean
    chunks, so that matching errors are those of actions, in normalised units. They are taken at all levels of the
    sampler: chunks are made in few steps, and the first of them decides most. Raises PolicyError for models with a
    noise level for every action, whose samplers go through other levels.
    """
    if model.per_step_levels:
        raise PolicyError(
            "a policy with a noise level for every action (conditioning.per_step_levels) cannot be aligned: train "
            "one without"
        )
    model.requires_grad_(False)
    model.network.requires_grad_(True)
    shape = (model.prediction_horizon, model.action_size)
    levels = tuple(trailing(model.process.levels, steps))
    return Model(model.process, levels, shape, CopiedRoles(model, Condensed), matched=levels)


def load_aligned(
    checkpoint: training.Checkpoint, steps: int = STEPS, device: torch.device | str = "cpu"
) -> Model:
    """Return the policy of a checkpoint ready to be aligned; PolicyError if it is not one of action chunks."""
    return aligned_model(load_chunk_model(checkpoint, device), steps)


def chunk_model(roles: RoleBook) -> ChunkModel:
    """Return the chunk model that is trained; PolicyError for roles of anything else."""
    model = roles.network("train") if isinstance(roles, CopiedRoles) else None
    if not isinstance(model, ChunkModel):
        raise PolicyError("these roles are not those of a chunk model: make them with aligned_model")
    return model


@torch.no_grad()
def condition(model: ChunkModel, observation: Observation) -> dict[str, Tensor]:
    """Return what denoisers are told of observations of B decisions: tokens (B, 1 or To, C), origin (B, 1, A)."""
    return model.encode(observation)._asdict()


def executed_mask(model: ChunkModel, executed: int) -> Tensor:
    """Return the mask (1, Tp, A) bool of the actions of a chunk that are executed, `executed` from position To-1 on.

    Those before lie in the past, those after are overruled by the next decision: neither had any influence. Raises
    PolicyError if the chunk has fewer.
    """
    first = model.observation_horizon - 1
    if not 1 <= executed <= model.prediction_horizon - first:
        raise PolicyError(
            f"{executed} executed actions; this model predicts 1 to {model.prediction_horizon - first} ahead"
        )
    mask = torch.zeros(
        1, model.prediction_horizon, model.action_size, dtype=torch.bool, device=model.scale.device
    )
    mask[:, first : first + executed] = True
    return mask


def demonstrated(model: ChunkModel, dataset: OfflineDataset) -> Rollout:
    """Return all N windows of demonstrations as samples, for `SFT` as an anchor; padded actions do not count.

    Actions are in [-1, 1]. Raises PolicyError for models that look at pictures.
    """
    if model.encoders:
        raise PolicyError(
            "demonstrations with pictures do not fit into memory as samples: align without an anchor"
        )
    windows = ChunkSampler(
        dataset, model.observation_horizon, model.prediction_horizon, model.execution_horizon
    )
    chunks = windows.batch(torch.arange(len(windows)))
    device = model.scale.device
    told = condition(model, Observation(chunks.states.to(device)))
    clean = model.from_actions(chunks.actions.to(device))
    group = torch.arange(len(windows), device=device)
    mask = chunks.valid.to(device).unsqueeze(-1).expand_as(clean).clone()
    return Rollout(clean, told, group, mask=mask)


def policy_manifest(checkpoint: training.Checkpoint, **more: Any) -> dict[str, Any]:
    """Return what a checkpoint's manifest says of its policy, with what an alignment adds."""
    kept = {key: value for key, value in checkpoint.manifest.items() if key not in OF_THE_RUN}
    return kept | more


def save_aligned(
    roles: RoleBook,
    checkpoint: training.Checkpoint,
    folder: Path | str,
    step: int,
    alignment: Mapping[str, Any],
) -> Path:
    """Write the trained role as a checkpoint of the policy that it was made of, and return its folder.

    `diffpolicy evaluate` and `load_policy` take it like any other; `alignment` (plain values) is added to the manifest.
    """
    manifest = policy_manifest(
        checkpoint, alignment={**alignment, "base": checkpoint.manifest["sha256"]["model.safetensors"]}
    )
    return training.write_checkpoint(
        folder,
        step,
        model=chunk_model(roles).state_dict(),
        state={},
        config=checkpoint.config,
        manifest=manifest,
    )
