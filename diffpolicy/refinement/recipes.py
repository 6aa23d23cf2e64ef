"""A whole refinement put together: cloning a Gaussian policy, then PPO on its imagined decisions, anchored if asked."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from diffpolicy.alignment import AlignConfig, Aligner, Fixed, Model, Objective, Rated, Rollout, Term
from diffpolicy.alignment.objectives.ddpo import DDPO, DDPOConfig
from diffpolicy.alignment.objectives.flow_grpo import FlowGRPO, FlowGRPOConfig
from diffpolicy.alignment.objectives.sft import SFT
from diffpolicy.data import OfflineDataset, Standardizer
from diffpolicy.policies.gaussian import (
    GaussianConfig,
    GaussianNetwork,
    demonstrated_actions,
    gaussian_manifest,
    gaussian_matcher,
    gaussian_model,
    gaussian_network,
)
from diffpolicy.policies.picture_gaussian import (
    PictureGaussianConfig,
    PictureNetwork,
    picture_manifest,
    pictured_actions,
)
from diffpolicy.refinement.arms import Arm
from diffpolicy.refinement.errors import RefinementError, RefusedError
from diffpolicy.refinement.imagination import Imagination, ImaginationConfig
from diffpolicy.refinement.values import BranchValues
from world_models import ImaginedEnv

UNSEEN = 1e6  # the deviation of a column that is not to be seen


@dataclass(frozen=True)
class CloneConfig:
    """Behaviour cloning: `updates` of `batch` transitions of episodes that cost at most `max_cost`, None for all.

    Columns of the observations that deviate by less than `least_deviation` are not seen: where a gripper stayed open in
    the few demonstrations there are, what a network makes of a closing one is left to chance, and decides everything.
    The columns `unseen` are not seen either: of a frame and the one before, a clone learns to repeat its last movement
    (causal confusion, de Haan et al. 2019).
    """

    updates: int = 4000
    batch: int = 512
    learning_rate: float = 1e-3
    max_cost: float | None = None
    least_deviation: float = 0.0
    unseen: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        if min(self.updates, self.batch) < 1 or not self.learning_rate > 0.0 or self.least_deviation < 0.0:
            raise RefinementError(f"cloning takes updates of one or more transitions, got {self}")


@dataclass(frozen=True)
class RefineConfig:
    """PPO: `iterations` roll-outs with `updates` minibatches each.

    Ratios of actions are clipped at 1 +- `clip`. The weight `anchor` of cloning beside it is that of the squared
    distance to `anchor_batch` actions of the data, per update; 0 for none. `start_anchor` is the weight of the squared
    distance to the mean actions of the policy that refinement starts from, on the imagined states themselves.
    """

    iterations: int = 60
    updates: int = 20
    learning_rate: float = 3e-4
    clip: float = 0.2
    gradient_clip: float = 0.5
    anchor: float = 0.0
    anchor_batch: int = 256
    start_anchor: float = 0.0
    imagination: ImaginationConfig = field(default_factory=ImaginationConfig)

    def __post_init__(self) -> None:
        if min(self.anchor, self.start_anchor) < 0.0 or self.anchor_batch < 1 or not 0.0 < self.clip < 1.0:
            raise RefinementError(
                f"anchors are 0 or more, anchor_batch 1 or more and clip between 0 and 1, got {self}"
            )
        self.align(0)  # refuses the others

    def align(self, seed: int) -> AlignConfig:
        """Return how updates are made; ValueError for numbers that say nothing of the kind."""
        return AlignConfig(
            self.iterations, self.updates, None, self.learning_rate, 0.0, self.gradient_clip, seed=seed
        )


def cheap_transitions(dataset: OfflineDataset, max_cost: float | None) -> Tensor:
    """Return the transitions (M,) of episodes that cost at most `max_cost`; RefusedError if there is none."""
    if max_cost is None:
        return torch.arange(dataset.num_transitions)
    chosen = (dataset.episode_costs <= max_cost)[dataset.episode_of].nonzero().flatten()
    if not len(chosen):
        raise RefusedError(f"no episode of the data costs at most {max_cost:g}: raise clone.max_cost")
    return chosen


def cloner(
    dataset: OfflineDataset,
    policy: GaussianConfig,
    config: CloneConfig,
    seed: int,
    device: torch.device,
    description: Mapping[str, Any],
) -> Aligner:
    """Return the learner of a Gaussian policy that clones a dataset: supervised fine-tuning of a fresh network.

    Raises:
        RefinementError: if a column is not to be seen that is not there, or no episode is cheap enough.
    """
    absent = [column for column in config.unseen if not 0 <= column < dataset.observation_size]
    if absent:
        raise RefinementError(
            f"clone.unseen={config.unseen} names columns of observations that have {dataset.observation_size}, the "
            "first of them 0"
        )
    generator = torch.Generator().manual_seed(seed)
    fitted = Standardizer.fit(dataset)
    still = dataset.observations[dataset.rows].std(0, correction=0) < config.least_deviation
    still[config.unseen] = True
    standardizer = Standardizer(fitted.mean, torch.where(still, UNSEEN, fitted.std))
    sizes = dataset.action_size, policy.hidden
    network = GaussianNetwork(standardizer, *sizes, generator, policy.bound).to(device)
    model = gaussian_model(network)
    data = demonstrated_actions(dataset, cheap_transitions(dataset, config.max_cost), device)
    align = AlignConfig(config.updates, 1, None, config.learning_rate, 0.0, seed=seed)
    terms = [Term(SFT(gaussian_matcher(model)), Fixed(data, config.batch))]
    return Aligner(model, terms, align, gaussian_manifest(network, policy, seed, **description))


def refiner(
    network: GaussianNetwork,
    policy: GaussianConfig,
    dataset: OfflineDataset,
    env: ImaginedEnv,
    arm: Arm,
    config: RefineConfig,
    seed: int,
    description: Mapping[str, Any],
    values: BranchValues | None = None,
) -> Aligner:
    """Return the learner that refines a Gaussian policy in an imagined environment.

    Likelihoods here are per element, so that clipping the ratio of an action of A elements takes a range of 1/A.
    `values` are by default those of the data. A policy that sees pictures is refined in an environment of frames.
    """
    model, device = gaussian_model(network), network.shift.device
    objective = _ppo(model, policy, config, config.clip / network.action_size)
    values = values or BranchValues(dataset, seed=seed, device=device)
    experience = Imagination(model, env, policy.rule, arm, values, config.imagination)
    terms = [Term(objective, experience)]
    if config.anchor > 0.0:
        data = _demonstrated(policy, dataset, device)
        anchor = Fixed(data, config.updates * config.anchor_batch)
        terms.append(Term(SFT(gaussian_matcher(model)), anchor, config.anchor))
    return Aligner(model, terms, config.align(seed), _manifest(network, policy, seed, description))


def _manifest(
    network: GaussianNetwork, policy: GaussianConfig, seed: int, description: Mapping[str, Any]
) -> dict[str, Any]:
    if isinstance(network, PictureNetwork) and isinstance(policy, PictureGaussianConfig):
        return picture_manifest(network, policy, seed, **description)
    return gaussian_manifest(network, policy, seed, **description)


def _demonstrated(policy: GaussianConfig, dataset: OfflineDataset, device: torch.device) -> Rollout:
    """Return all transitions of a dataset as the policy sees them."""
    if isinstance(policy, PictureGaussianConfig):
        return pictured_actions(dataset, policy.camera, 0, device)
    return demonstrated_actions(dataset, torch.arange(dataset.num_transitions), device)


def _ppo(model: Model, policy: GaussianConfig, config: RefineConfig, clip: float) -> Objective[Rated]:
    """Return PPO, with the distance to where it starts as a KL of the only step: d^2/(2 std^2)."""
    if config.start_anchor == 0.0:
        return DDPO(model.process, policy.rule, DDPOConfig(clip=clip))
    beta = 2.0 * policy.std**2 * config.start_anchor
    return FlowGRPO(model.process, policy.rule, FlowGRPOConfig(clip=clip, skip_last=0, beta=beta))


def refined_network(learner: Aligner) -> GaussianNetwork:
    """Return the network that a learner of this module trains."""
    return gaussian_network(learner.model_to_align)
