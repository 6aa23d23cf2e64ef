"""Refinement from pictures: what differs from states, where policies and values see frames."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffpolicy.alignment import AlignConfig, Aligner, Fixed, Term
from diffpolicy.alignment.objectives.sft import SFT
from diffpolicy.data import OfflineDataset
from diffpolicy.policies.gaussian import gaussian_matcher, gaussian_model
from diffpolicy.policies.picture_gaussian import (
    PictureEncoder,
    PictureGaussianConfig,
    PictureNetwork,
    picture_manifest,
    pictured_actions,
)
from diffpolicy.refinement.errors import RefinementError
from diffpolicy.refinement.values import BranchValueConfig, BranchValues

AT_ONCE = 2048  # pictures that are encoded at once


@dataclass(frozen=True)
class PictureCloneConfig:
    """Behaviour cloning: `updates` of `batch` pictures, each moved by up to `reach` pixels along both sides."""

    updates: int = 1500
    batch: int = 128
    learning_rate: float = 1e-3
    reach: int = 1

    def __post_init__(self) -> None:
        if min(self.updates, self.batch) < 1 or not self.learning_rate > 0.0 or self.reach < 0:
            raise RefinementError(f"cloning takes updates of one or more pictures, got {self}")


def picture_cloner(
    dataset: OfflineDataset,
    policy: PictureGaussianConfig,
    config: PictureCloneConfig,
    seed: int,
    device: torch.device,
    description: Mapping[str, Any],
) -> Aligner:
    """Return the learner of a Gaussian policy that clones a dataset by its pictures."""
    generator = torch.Generator().manual_seed(seed)
    network = PictureNetwork(policy, dataset.action_size, generator).to(device)
    model = gaussian_model(network)
    data = pictured_actions(dataset, policy.camera, config.reach, device)
    align = AlignConfig(config.updates, 1, None, config.learning_rate, 0.0, seed=seed)
    terms = [Term(SFT(gaussian_matcher(model)), Fixed(data, config.batch))]
    return Aligner(model, terms, align, picture_manifest(network, policy, seed, **description))


def picture_values(
    dataset: OfflineDataset,
    encoder: PictureEncoder,
    camera: str,
    config: BranchValueConfig,
    seed: int,
    device: torch.device,
) -> BranchValues:
    """Return values of what the encoder of the policy that is refined saw in pictures before it was."""
    features = frozen_features(encoder)
    column = dataset.images[camera]
    pictures = torch.from_numpy(np.array(column[np.arange(column.shape[0])]))
    seen = features(pictures.to(device)).to(dataset.observations.device)
    observations = seen.new_zeros(len(dataset.observations), seen.shape[1])
    observations[dataset.rows] = seen
    return BranchValues(replace(dataset, observations=observations), config, seed, device, features)


def frozen_features(encoder: PictureEncoder) -> Callable[[Tensor], Tensor]:
    """Return the function from pictures (..., S, S, 3) to features (..., F) that `encoder` is now, and stays."""
    frozen = copy.deepcopy(encoder).requires_grad_(False)

    @torch.no_grad()
    def features(pictures: Tensor) -> Tensor:
        flat = pictures.reshape(-1, *pictures.shape[-3:])
        seen = torch.cat([frozen(some) for some in torch.split(flat, AT_ONCE)])
        return seen.view(*pictures.shape[:-3], -1)

    return features
