"""Roll-outs of a robot as experience: every decision is a sample, rated by what came of its episode."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from diffpolicy.alignment import Experience, Gathered, Model, Objective, Rated, Roles, Rollout, role, select
from diffpolicy.alignment.advantages import softmax_weights
from diffpolicy.diffusion import Path, StepRule
from diffpolicy.policies.alignment import chunk_model
from diffpolicy.policies.alignment_credit import Credit, GroupCredit
from diffpolicy.policies.alignment_play import Decisions, Player, Score, VectorEnv
from diffpolicy.policies.errors import PolicyError

SEEDS = (2**20, 2**31)  # of training's episodes: evaluation counts its own from 0, 50,000 or 100,000


@dataclass(frozen=True)
class EpisodesConfig:
    """A roll-out has `groups` reset states with `group_size` episodes each, of at most `decisions` decisions.

    `executed` actions of a chunk are executed, None for the policy's own horizon. An episode's reward is the best
    reward of a step, or whether any step was a success. With `until_best` decisions after the one that reached the best
    score are left out, see `counted`, for `GroupCredit`, which pays all decisions alike; a value sees what they were
    worth.
    `temperature` makes weights of advantages, for RWR. `rule` is that of recorded paths; its `minimum_std` is in
    normalised action units, and what remains of it is executed.
    """

    groups: int = 8
    group_size: int = 8
    decisions: int = 40
    executed: int | None = None
    score: Score = "best_reward"
    until_best: bool = False
    temperature: float | None = None
    rule: StepRule = field(default_factory=lambda: StepRule("ddim", minimum_std=0.1))

    def __post_init__(self) -> None:
        if self.groups < 1 or self.group_size < 1 or self.decisions < 1:
            raise ValueError(
                "a roll-out has one or more groups, episodes in each and decisions in those, got "
                f"{self.groups}, {self.group_size} and {self.decisions}"
            )
        if self.executed is not None and self.executed < 1:
            raise ValueError(
                f"a decision executes one action or more, or None for the policy's own, got executed={self.executed}"
            )


class Episodes(Experience):
    """Rated decisions of the policy's own episodes in a vector environment of groups x group_size environments.

    Chunks are made by "old" where the objective compares with it, otherwise by what is being trained. `credit` gives
    decisions their advantages, by default those of `GroupCredit`. Seeds of resets are the generator's.
    """

    def __init__(
        self,
        model: Model,
        vector: VectorEnv,
        objective: Objective[Any],
        config: EpisodesConfig | None = None,
        credit: Credit | None = None,
    ) -> None:
        """Raise PolicyError for objectives that decisions cannot serve, or another number of environments.

        Objectives that take weights want a `temperature`.
        """
        needs, config = objective.needs, config or EpisodesConfig()
        if not needs.rewards or needs.prompts or needs.pairs or objective.start is not None:
            raise PolicyError(
                f"{type(objective).__name__} cannot learn from episodes, which are rated decisions: take an objective "
                "of rated samples"
            )
        if needs.weights and config.temperature is None:
            raise PolicyError(
                f"{type(objective).__name__} takes weights of 0 or more as advantages: give the temperature of their "
                "softmax (online.advantages=softmax)"
            )
        if vector.num_envs != config.groups * config.group_size:
            raise PolicyError(
                f"{config.groups} x {config.group_size} episodes are played at once; there are {vector.num_envs} "
                "environments"
            )
        self.model, self.vector, self.needs, self.config = model, vector, needs, config
        self.credit = credit or GroupCredit()
        own = chunk_model(model.roles).execution_horizon
        executed = own if config.executed is None else config.executed
        rule = config.rule if needs.path else None
        self.player = Player(model, executed, config.decisions, config.score, rule)
        self._steps = 0

    def gather(self, roles: Roles, generator: torch.Generator) -> Gathered:
        """Return the decisions of one episode in every environment.

        Raises:
            FeedbackError: if the simulator fails.
        """
        config, device = self.config, self.model.device
        seeds = torch.randint(*SEEDS, (config.groups,), generator=generator, device=device).tolist()
        denoiser = role(roles, "old" if self.needs.old else "train")
        every = [seed for seed in seeds for _ in range(config.group_size)]
        played = self.player.play(denoiser, self.vector, every, generator)
        self._steps += played.steps
        group = torch.arange(config.groups, device=device).repeat_interleave(config.group_size)
        advantages, logs = self.credit.advantages(played, group, generator)
        kept = counted(played, config.score) if config.until_best else played.running
        batch = rated(played, advantages, group, kept, self.player.mask)
        if config.temperature is not None:
            batch = batch._replace(advantages=softmax_weights(batch.advantages, config.temperature))
        reward = played.score[-1]
        logs = logs | {
            "reward": reward.mean().item(),
            "reward_std": reward.std(correction=0).item(),
            "decisions": float(len(batch.rewards)),
            "environment_steps": float(self._steps),
        }
        return Gathered(batch, logs, len(reward))

    def state(self) -> dict[str, Any]:
        """Return the control steps so far, and what the credit remembers."""
        return {"steps": self._steps, "credit": self.credit.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self._steps = int(state["steps"])
        self.credit.load_state(state["credit"])


def counted(played: Decisions, score: Score) -> Tensor:
    """Return the decisions (T, n) bool up to the one that reached the episode's best score, that one included.

    Of an episode without success, where that is the score, all count: it reached nothing, and each had its chance.
    """
    before = torch.cat([torch.full_like(played.score[:1], -torch.inf), played.score[:-1]])
    nothing = 0.0 if score == "success" else -torch.inf
    return played.running & ((before < played.score[-1]) | (played.score[-1] <= nothing))


def rated(played: Decisions, advantages: Tensor, group: Tensor, kept: Tensor, mask: Tensor) -> Rated:
    """Return the decisions `kept` (T, n) bool as samples, rated with their episodes' scores; `group` (n,)."""
    decisions = len(played.clean)
    path = None
    if played.paths is not None:
        log_probs = [each.log_probs for each in played.paths if each.log_probs is not None]
        path = Path(
            torch.cat([each.states for each in played.paths], dim=1),
            played.paths[0].levels,
            torch.cat(log_probs, dim=1) if log_probs else None,
        )
    rollout = Rollout(
        played.clean.flatten(0, 1),
        {name: told.flatten(0, 1) for name, told in played.condition.items()},
        group.repeat(decisions),
        start=None if path is None else path.states[0],
        path=path,
        mask=mask,
    )
    whole = Rated(rollout, played.score[-1].repeat(decisions), advantages.flatten())
    chosen: Rated = select(whole, kept.flatten().nonzero().flatten())
    return chosen
