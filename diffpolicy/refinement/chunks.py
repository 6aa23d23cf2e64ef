"""Chunk policies in imagination: a world model in the simulator's place, for the episodes of `policies.alignment`."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from diffpolicy.alignment import AlignConfig, Aligner, Fixed, Model, Rollout, Term
from diffpolicy.alignment.objectives.ddpo import DDPO, DDPOConfig
from diffpolicy.alignment.objectives.sft import SFT
from diffpolicy.diffusion import StepRule
from diffpolicy.policies.alignment import chunk_model, condition
from diffpolicy.policies.alignment_credit import ValueConfig, ValueCredit
from diffpolicy.policies.alignment_episodes import Episodes, EpisodesConfig
from diffpolicy.policies.policy import Observation
from diffpolicy.refinement.errors import RefinementError
from world_models import ImaginedEnv


@dataclass(frozen=True)
class ChunkRefineConfig:
    """DPPO in imagination (Ren et al. 2024): ratios are clipped from `first_clip` at the noisiest step to `clip`.

    `discount` per denoising step, `minimum_std` of recorded steps in normalised action units, `executed` actions of a
    chunk (None: the policy's own). Every iteration plays one episode in each environment.
    """

    iterations: int = 40
    updates: int = 4
    learning_rate: float = 1e-4
    clip: float = 0.01
    first_clip: float = 0.001
    discount: float = 0.99
    minimum_std: float = 0.1
    executed: int | None = None
    anchor: float = 0.0
    anchor_batch: int = 64

    def __post_init__(self) -> None:
        if self.anchor < 0.0 or self.anchor_batch < 1 or not self.minimum_std > 0.0:
            raise RefinementError(
                f"anchor is 0 or more, anchor_batch 1 or more and minimum_std positive, got {self}"
            )
        if self.executed is not None and self.executed < 1:
            raise RefinementError(
                f"a decision executes one action or more, or null for the policy's own, got {self}"
            )
        self.align(0)  # refuses the others, as the next does
        self.steps()

    def align(self, seed: int) -> AlignConfig:
        """Return how updates are made; ValueError for numbers that say nothing of the kind."""
        return AlignConfig(self.iterations, self.updates, None, self.learning_rate, seed=seed)

    def steps(self) -> DDPOConfig:
        """Which denoising steps are learnt from; ValueError for numbers that say nothing of the kind."""
        return DDPOConfig(self.clip, first_clip=self.first_clip, discount=self.discount)

    @property
    def rule(self) -> StepRule:
        """How denoising steps are taken."""
        return StepRule("ddim", minimum_std=self.minimum_std)


class LockstepEnv:
    """An imagined environment as chunk policies play it: numpy, one seed for all, success above a reward of .5.

    Finished episodes begin anew underneath, which nobody looks at. A success that the model is unsure of is none.
    """

    def __init__(self, env: ImaginedEnv) -> None:
        self.env, self.num_envs = env, env.num_envs

    def reset(self, *, seed: Any = None) -> tuple[Any, dict[str, Any]]:
        """Begin all episodes; the first of the seeds is that of all.

        Raises:
            WorldModelError: if the world model was changed.
        """
        self.env.check_frozen()
        seen, _ = self.env.reset(seed=int(seed[0]))
        return seen.cpu().numpy(), {"images": None}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Take actions (n, A)."""
        taken = torch.as_tensor(actions, dtype=torch.float32, device=self.env.device)
        seen, rewards, terminated, truncated, infos = self.env.step(taken)
        success = (rewards > 0.5) & ~infos["unknown"]
        # Over at the first success: what comes after does not change what is counted.
        over = terminated | success
        found = (seen, rewards, over, truncated, success)
        observed, rewarded, ended, cut, reached = (each.cpu().numpy() for each in found)
        return observed, rewarded, ended, cut, {"images": None, "success": reached}


def chunk_refiner(
    model: Model,
    env: ImaginedEnv,
    config: ChunkRefineConfig,
    seed: int,
    manifest: dict[str, Any],
    demonstrations: Rollout | None = None,
) -> Aligner:
    """Return the learner that refines a chunk policy for success in an imagined environment.

    With an `anchor`, `demonstrations` are cloned beside it.

    Raises:
        RefinementError: if there is an anchor and nothing to clone.
    """
    chunks = chunk_model(model.roles)
    executed = config.executed or chunks.execution_horizon
    decisions = math.ceil(env.config.horizon / executed)
    objective = DDPO(model.process, config.rule, config.steps())
    seen = torch.zeros(1, chunks.observation_horizon, chunks.observation_size, device=model.device)
    tokens = condition(chunks, Observation(seen))["tokens"].flatten(1).shape[1]
    credit = ValueCredit(tokens, decisions, ValueConfig(seed=seed), model.device)
    playing = EpisodesConfig(
        groups=env.num_envs,
        group_size=1,
        decisions=decisions,
        executed=executed,
        score="success",
        rule=config.rule,
    )
    terms = [Term(objective, Episodes(model, LockstepEnv(env), objective, playing, credit))]
    if config.anchor > 0.0:
        if demonstrations is None:
            raise RefinementError(f"anchor={config.anchor:g} takes demonstrations to clone")
        fixed = Fixed(demonstrations, config.updates * config.anchor_batch)
        terms.append(Term(SFT(model.matcher()), fixed, config.anchor))
    return Aligner(model, terms, config.align(seed), manifest)
