"""What a collection run is asked to do."""

import math
from dataclasses import dataclass, field


class CollectionError(Exception):
    """A dataset could not be collected; the message says why and what to change."""


class CollectionInterrupted(KeyboardInterrupt):
    """A collection was stopped by Ctrl-C; what had been recorded until then is written."""


@dataclass(frozen=True)
class PPOConfig:
    """Settings of the online agent; the defaults suit tasks of 100 to 1000 steps on one CPU core.

    `state_dependent_noise` is gSDE (Raffin et al. 2021): exploration noise that stays the same for
    `noise_steps` steps, which moves heavy bodies where independent noise only shakes them: circle tasks need it,
    while running gaits are found sooner without.
    """

    rollout_steps: int = 128
    epochs: int = 10
    batch_size: int = 256
    learning_rate: float = 4e-4
    final_learning_rate: float = 8e-5
    discount: float = 0.98
    gae: float = 0.92
    clip: float = 0.2
    entropy: float = 0.0
    width: int = 64
    initial_log_std: float = -1.0
    state_dependent_noise: bool = False
    noise_steps: int = 8


@dataclass(frozen=True)
class SACConfig:
    """Settings of the off-policy agent: fewer steps, each far dearer than PPO's."""

    learning_rate: float = 3e-4
    batch_size: int = 256
    buffer_size: int = 300_000
    warm_up: int = 5_000
    updates_per_step: float = 0.25
    discount: float = 0.99
    width: int = 64


@dataclass(frozen=True)
class ExpertConfig:
    """Demonstrations by a scripted expert (Meta-World).

    episodes: demonstrations to record; fewer if `steps` environment steps are over before.
    action_noise: standard deviation of independent noise on the expert's actions, in action units.
    after_success: a demonstration ends this many steps after its first success.
    only_successes: whether failed attempts are dropped.
    """

    episodes: int = 100
    action_noise: float = 0.0
    after_success: int = 20
    only_successes: bool = True

    def __post_init__(self) -> None:
        for name, least in (("episodes", 1), ("action_noise", 0), ("after_success", 0)):
            if not getattr(self, name) >= least:
                raise CollectionError(f"expert.{name}={getattr(self, name)} must be at least {least}")


@dataclass(frozen=True)
class MixtureConfig:
    """Episodes of behaviours good and bad, from which a world model learns what any action does.

    driver: run or checkpoint of a policy that acts as `arm`; None lets the task's expert drive.
    expert, driven, noisy, uniform, held: episodes of each: the expert; the driver as it is; the driver with independent
        noise of deviation `noise`; independent uniform actions; uniform actions held for 1 to `longest_hold` steps.
    horizon: control steps of an episode, which ends `after_success` steps after its first success if that is earlier.
    """

    driver: str | None = None
    arm: str = "ddim_3"
    expert: int = 8
    driven: int = 60
    noisy: int = 40
    uniform: int = 15
    held: int = 15
    noise: float = 0.5
    longest_hold: int = 14
    horizon: int = 100
    after_success: int = 8

    def __post_init__(self) -> None:
        counts = (
            self.expert,
            self.driven,
            self.noisy,
            self.uniform,
            self.held,
            self.after_success,
            self.noise,
        )
        if min(counts) < 0 or min(self.horizon, self.longest_hold) < 1 or not self.episodes:
            raise CollectionError(
                f"a mixture has episodes of a step or more and no negative numbers, got {self}"
            )

    @property
    def episodes(self) -> int:
        """How many there are of all kinds."""
        return self.expert + self.driven + self.noisy + self.uniform + self.held


@dataclass(frozen=True)
class CollectConfig:
    """One collection run: where behaviour comes from, how long, and which episodes are kept.

    source: "ppo" or "sac" (learned online), "policies" (actors from files), "scripted" (controllers of the point
        robot, experts of Meta-World) or "mixture" (behaviours good and bad, for world models; all episodes are kept).
    constraint: "penalty": every entry of `ladder` is a fixed weight on the cost; "limit": every entry is a
        cost limit per episode whose weight is found by dual ascent.
    steps: environment steps over all environments together.
    cells, per_cell: the kept episodes are thinned to `per_cell` in each of `cells` x `cells` cells of the
        cost-return plane; episodes at cost 0 have a row of cells of their own.
    max_episodes: upper limit on the kept episodes, the most crowded cells thinned first.
    free_share: share of the kept episodes that cost nothing, as far as there are any.
    min_normalized_return: episodes below are dropped (the benchmark's files start at 0); None keeps all.
    extend: the episodes of an existing file stay in the pool, so that a run can go on with another seed.
    """

    source: str = "ppo"
    steps: int = 1_000_000
    num_envs: int = 16
    constraint: str = "penalty"
    ladder: tuple[float, ...] = (0.0, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0, 8.0)
    seed: int = 0
    cells: int = 20
    per_cell: int = 40
    max_episodes: int = 1000
    free_share: float = 0.3
    min_normalized_return: float | None = None
    extend: bool = False
    ppo: PPOConfig = field(default_factory=PPOConfig)
    sac: SACConfig = field(default_factory=SACConfig)
    expert: ExpertConfig = field(default_factory=ExpertConfig)
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    policies: tuple[str, ...] = ()
    sorted_observations: bool = False
    threads: int = 1

    def __post_init__(self) -> None:
        if self.source not in ("ppo", "sac", "policies", "scripted", "mixture"):
            raise CollectionError(
                f"source={self.source!r} is unknown: use ppo, sac, policies, scripted or mixture"
            )
        if self.constraint not in ("penalty", "limit"):
            raise CollectionError(f"constraint={self.constraint!r} is unknown: use penalty or limit")
        for name in ("steps", "num_envs", "cells", "per_cell", "max_episodes", "threads"):
            if getattr(self, name) < 1:
                raise CollectionError(f"{name}={getattr(self, name)} must be at least 1")
        if not 0.0 <= self.free_share <= 1.0:
            raise CollectionError(f"free_share={self.free_share} must be from 0 to 1")
        if self.online:
            if not self.ladder or not all(math.isfinite(rung) and rung >= 0 for rung in self.ladder):
                raise CollectionError(f"ladder={self.ladder} must hold at least one number, none negative")
            if self.num_envs < len(self.ladder):
                raise CollectionError(
                    f"num_envs={self.num_envs} is less than the {len(self.ladder)} rungs of the ladder: "
                    "every rung needs an environment of its own"
                )
        if self.source == "policies" and not self.policies:
            raise CollectionError("source=policies needs at least one actor file in `policies`")

    @property
    def online(self) -> bool:
        """Whether an agent learns while it collects."""
        return self.source in ("ppo", "sac")
