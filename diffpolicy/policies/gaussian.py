"""Gaussian policies: a network's mean action with one deviation; they act, and they are models to be aligned.

To `diffpolicy.alignment` such a policy is a denoiser with a single level, pure noise, which it ignores: its one step
leads from noise to N(mean, std^2), so that the step's log-probability is the policy's, and matching errors are squared
distances of actions. PPO in the usual sense is then `DDPO` on paths of one step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from diffpolicy.alignment import CopiedRoles, Model, Rollout
from diffpolicy.alignment.matching import Matcher
from diffpolicy.data import OfflineDataset, Standardizer
from diffpolicy.diffusion import GaussianProcess, StepRule
from diffpolicy.networks.layers import linear
from diffpolicy.policies.errors import PolicyError
from diffpolicy.policies.policy import ActionChunk, Memory, Observation
from diffpolicy.training import Checkpoint

METHOD = "gaussian"  # what a checkpoint's manifest says
ARMS = ("mean", "sampled")
Bound = Literal["tanh", "clip"]
LARGEST_STD = 1.0  # e^0: a wider policy leaves what a world model knows (World4RL, Jiang et al. 2025)


@dataclass(frozen=True)
class GaussianConfig:
    """Units of the hidden layers, and the deviation in action units, at most e^0.

    The deviation of expert demonstrations is next to nothing; to explore, it is set anew. Mean actions are bounded by a
    "tanh", or are any number, to be cut: clones of data whose actions are mostly at their limits saturate a tanh, and
    then hardly learn.
    """

    hidden: list[int] = field(default_factory=lambda: [64, 64])
    std: float = 0.3
    bound: Bound = "tanh"

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 1 or not 0.0 < self.std <= LARGEST_STD:
            raise PolicyError(
                f"a Gaussian policy has hidden layers and a deviation above 0 and at most {LARGEST_STD:g}, got {self}"
            )

    def stored(self) -> dict[str, Any]:
        """Return the options as runs keep them: a `bound` of "tanh" is left out, as runs from before it do."""
        found = asdict(self)
        return {name: value for name, value in found.items() if (name, value) != ("bound", "tanh")}

    @property
    def rule(self) -> StepRule:
        """How its one step is taken."""
        return StepRule("ddim", eta=0.0, minimum_std=self.std)


class GaussianNetwork(nn.Module):
    """The mean action (B, A) of states (B, O), standardised; tanh throughout, with `bound` "clip" but for the last."""

    def __init__(
        self,
        standardizer: Standardizer,
        action_size: int,
        hidden: Sequence[int],
        generator: torch.Generator,
        bound: Bound = "tanh",
    ) -> None:
        super().__init__()
        self.action_size, self.bound = action_size, bound
        self.register_buffer("shift", standardizer.mean.clone())
        self.register_buffer("scale", standardizer.std.clone())
        sizes = (len(standardizer.mean), *hidden, action_size)
        layers = [(linear(before, after, generator), nn.Tanh()) for before, after in pairwise(sizes)]
        modules = [module for layer in layers for module in layer]
        self.layers = nn.Sequential(*(modules if bound == "tanh" else modules[:-1]))

    shift: Tensor
    scale: Tensor

    def mean(self, states: Tensor) -> Tensor:
        """Return the mean actions (B, A) for states (B, O), not cut."""
        found: Tensor = self.layers((states - self.shift) / self.scale)
        return found

    def forward(self, noisy: Tensor, level: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        """Return the clean actions (B, A) predicted for the states of `condition`, whatever the noise."""
        return self.mean(condition["state"])


class GaussianPolicy:
    """Acts with the mean action, or with samples of a deviation, cut to [-1, 1]."""

    observation_horizon = 1

    def __init__(self, network: GaussianNetwork, std: float = 0.0) -> None:
        self.network, self.std = network, std

    def start(self, batch: int, seed: int) -> Memory:
        """Return the memory of `batch` fresh roll-outs."""
        return Memory(torch.Generator(self.network.shift.device).manual_seed(seed))

    @torch.no_grad()
    def act(self, observation: Observation, memory: Memory) -> tuple[ActionChunk, Memory]:
        """Return one action (B, 1, A) for each roll-out."""
        actions = self.network.mean(observation.newest.to(self.network.shift.device))
        if self.std > 0.0:
            actions = actions + self.std * torch.empty_like(actions).normal_(generator=memory.generator)
        return ActionChunk(actions.clamp(-1.0, 1.0).unsqueeze(1)), memory


def gaussian_model(network: GaussianNetwork) -> Model:
    """Return a Gaussian policy ready to be aligned; the given network becomes the role "train"."""
    device = network.shift.device
    process = GaussianProcess(torch.zeros(1), torch.ones(1), "sample", device)
    return Model(process, (0,), (network.action_size,), CopiedRoles(network.requires_grad_(True)))


def gaussian_matcher(model: Model) -> Matcher:
    """Return where matching errors of a Gaussian policy are taken: at its only level, once."""
    return Matcher(model.process, model.levels)


def gaussian_network(model: Model) -> GaussianNetwork:
    """Return the network that is trained; PolicyError for models of anything else."""
    network = model.roles.network("train") if isinstance(model.roles, CopiedRoles) else None
    if not isinstance(network, GaussianNetwork):
        raise PolicyError("this is not the model of a Gaussian policy: make it with gaussian_model")
    return network


def demonstrated_actions(dataset: OfflineDataset, chosen: Tensor, device: torch.device | str) -> Rollout:
    """Return the transitions `chosen` (M,) of a dataset as samples, to be cloned."""
    states = dataset.observations[dataset.rows[chosen]].to(device)
    actions = dataset.actions[chosen].to(device).clamp(-1.0, 1.0)
    return Rollout(actions, {"state": states}, chosen.to(device))


def load_gaussian(checkpoint: Checkpoint, device: torch.device | str = "cpu") -> GaussianNetwork:
    """Return the network of a checkpoint; PolicyError if it holds something else."""
    manifest = checkpoint.manifest
    if manifest.get("method") != METHOD:
        raise PolicyError(
            f"{checkpoint.path} holds a policy of the method {manifest.get('method')!r}, not a Gaussian one"
        )
    size = int(manifest["observation_size"])
    standardizer = Standardizer(torch.zeros(size), torch.ones(size))
    actions, known = int(manifest["action_size"]), manifest["gaussian"]
    # Earlier checkpoints do not say; they were all of the first kind.
    bound = known.get("bound", "tanh")
    network = GaussianNetwork(standardizer, actions, known["hidden"], torch.Generator(), bound)
    network.load_state_dict(checkpoint.model)
    return network.to(device).eval()


def gaussian_policy(checkpoint: Checkpoint, arm: str, device: torch.device | str = "cpu") -> GaussianPolicy:
    """Return a checkpoint's policy acting with its "mean" or "sampled" actions; PolicyError for another arm."""
    if arm not in ARMS:
        raise PolicyError(f"a Gaussian policy acts by one of {', '.join(ARMS)}, not {arm!r}")
    std = float(checkpoint.manifest["gaussian"]["std"]) if arm == "sampled" else 0.0
    return GaussianPolicy(load_gaussian(checkpoint, device), std)


def gaussian_manifest(
    network: GaussianNetwork, config: GaussianConfig, seed: int, **more: Any
) -> dict[str, Any]:
    """Return what a reader must know to rebuild the policy, with what else is to be said of it."""
    return {
        "method": METHOD,
        "seeds": [seed],
        "gaussian": {"hidden": list(config.hidden), "std": config.std, "bound": network.bound},
        "observation_size": len(network.shift),
        "action_size": network.action_size,
        "action_low": -1.0,
        "action_high": 1.0,
        **more,
    }
