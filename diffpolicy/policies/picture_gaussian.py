"""Gaussian policies that see a camera's picture and nothing else: `gaussian` with a small encoder before it.

They see one frame, as a pixel world model imagines it, so that they can be refined there by everything that refines
Gaussian policies: to `diffpolicy.alignment` the "state" of a decision is then the frame.
"""

from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffpolicy.alignment import Rollout
from diffpolicy.data import OfflineDataset, Standardizer
from diffpolicy.networks.layers import conv2d, linear
from diffpolicy.policies.errors import PolicyError
from diffpolicy.policies.gaussian import ARMS, GaussianConfig, GaussianNetwork, GaussianPolicy
from diffpolicy.policies.policy import ActionChunk, Memory, Observation
from diffpolicy.training import Checkpoint

METHOD = "picture_gaussian"  # what a checkpoint's manifest says
WIDTHS = (16, 32)  # channels after each halving of the picture


@dataclass(frozen=True)
class PictureGaussianConfig(GaussianConfig):
    """A Gaussian policy on `features` numbers read from the picture of `camera`, `size` pixels on a side."""

    features: int = 64
    size: int = 32
    camera: str = "camera"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.features < 1 or self.size < 4 or self.size % 4:
            raise PolicyError(
                f"a policy sees pictures whose sides are multiples of 4 as one or more features, got {self}"
            )


class PictureEncoder(nn.Module):
    """Features (B, F) of pictures (B, S, S, 3) uint8: two strided convolutions, and all their places side by side.

    At 32 pixels a goal is two of them wide, which pooling, and the early strides of larger encoders, would lose.
    """

    def __init__(self, size: int, features: int, generator: torch.Generator) -> None:
        super().__init__()
        self.size = size
        first, second = WIDTHS
        self.first = conv2d(3, first, 3, generator, stride=2)
        self.second = conv2d(first, second, 3, generator, stride=2)
        self.output = linear(second * (size // 4) ** 2, features, generator)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the features (B, F); PolicyError for pictures of another size."""
        if pictures.shape[1:] != (self.size, self.size, 3):
            raise PolicyError(
                f"the policy sees pictures of {self.size} x {self.size} pixels (gaussian.size), not of shape "
                f"{tuple(pictures.shape[1:])}: data, world model and policy need one size"
            )
        hidden = pictures.movedim(-1, 1).float() / 127.5 - 1.0
        hidden = F.relu(self.second(F.relu(self.first(hidden))))
        features: Tensor = self.output(hidden.flatten(1))
        return features


class PictureNetwork(GaussianNetwork):
    """The mean action (B, A) in [-1, 1] of pictures (B, S, S, 3) uint8."""

    def __init__(self, config: PictureGaussianConfig, action_size: int, generator: torch.Generator) -> None:
        plain = Standardizer(torch.zeros(config.features), torch.ones(config.features))
        super().__init__(plain, action_size, config.hidden, generator, config.bound)
        self.encoder = PictureEncoder(config.size, config.features, generator)

    def mean(self, states: Tensor) -> Tensor:
        """Return the mean actions (B, A) for pictures (B, S, S, 3) uint8."""
        return super().mean(self.encoder(states))


class PicturePolicy(GaussianPolicy):
    """Acts by the newest picture of its camera; what an observation says beside is not looked at."""

    def __init__(self, network: PictureNetwork, camera: str, std: float = 0.0) -> None:
        super().__init__(network, std)
        self.camera = camera
        self.picture_shape = (network.encoder.size, network.encoder.size, 3)

    def act(self, observation: Observation, memory: Memory) -> tuple[ActionChunk, Memory]:
        """Return one action (B, 1, A) for each roll-out; PolicyError where there is no picture of the camera."""
        images = observation.images or {}
        if self.camera not in images:
            raise PolicyError(
                f"the policy acts by pictures of {self.camera!r}; shown are {', '.join(sorted(images)) or 'none'}"
            )
        return super().act(Observation(images[self.camera]), memory)


def shifted_pictures(pictures: Tensor, reach: int) -> Tensor:
    """Return pictures (N, S, S, 3) moved by up to `reach` pixels along both sides, ((2 reach + 1)^2 N, S, S, 3).

    What comes into sight repeats the edge (Kostrikov et al. 2020, "DrQ"). Row n of move m is number m N + n.
    """
    side = pictures.shape[1]
    framed = F.pad(pictures.movedim(-1, 1).float(), (reach,) * 4, mode="replicate").to(pictures.dtype)
    moves = product(range(2 * reach + 1), repeat=2)
    moved = [framed[..., top : top + side, left : left + side] for top, left in moves]
    return torch.cat(moved).movedim(1, -1)


def pictured_actions(dataset: OfflineDataset, camera: str, reach: int, device: torch.device | str) -> Rollout:
    """Return all transitions of a dataset, their pictures moved by up to `reach` pixels, as samples to be cloned."""
    column = dataset.images[camera]
    pictures = torch.from_numpy(np.array(column[np.arange(column.shape[0])])).to(device)
    shown = shifted_pictures(pictures, reach)
    times = len(shown) // len(pictures)
    actions = dataset.actions.to(device).clamp(-1.0, 1.0).repeat(times, 1)
    return Rollout(actions, {"state": shown}, torch.arange(len(shown), device=device))


def load_picture_gaussian(checkpoint: Checkpoint, device: torch.device | str = "cpu") -> PictureNetwork:
    """Return the network of a checkpoint; PolicyError if it holds something else."""
    manifest = checkpoint.manifest
    if manifest.get("method") != METHOD:
        raise PolicyError(
            f"{checkpoint.path} holds a policy of the method {manifest.get('method')!r}, not one of pictures"
        )
    config = PictureGaussianConfig(**manifest["gaussian"])
    network = PictureNetwork(config, int(manifest["action_size"]), torch.Generator())
    network.load_state_dict(checkpoint.model)
    return network.to(device).eval()


def picture_policy(checkpoint: Checkpoint, arm: str, device: torch.device | str = "cpu") -> PicturePolicy:
    """Return a checkpoint's policy acting with its "mean" or "sampled" actions; PolicyError for another arm."""
    if arm not in ARMS:
        raise PolicyError(f"a Gaussian policy acts by one of {', '.join(ARMS)}, not {arm!r}")
    settings = checkpoint.manifest["gaussian"]
    std = float(settings["std"]) if arm == "sampled" else 0.0
    return PicturePolicy(load_picture_gaussian(checkpoint, device), str(settings["camera"]), std)


def picture_manifest(
    network: PictureNetwork, config: PictureGaussianConfig, seed: int, **more: Any
) -> dict[str, Any]:
    """Return what a reader must know to rebuild the policy, with what else is to be said of it."""
    return {
        "method": METHOD,
        "seeds": [seed],
        "gaussian": asdict(config),
        "action_size": network.action_size,
        "action_low": -1.0,
        "action_high": 1.0,
        **more,
    }
