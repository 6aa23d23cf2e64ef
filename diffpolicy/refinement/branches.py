"""Imagined branches: short pieces of experience that begin at real moments and go on in a frozen world model."""

from typing import NamedTuple

import torch
from torch import Tensor

from diffpolicy.alignment import Model, Rated, Rollout, select
from diffpolicy.diffusion import Denoiser, Path, StepRule, sample_path
from world_models import ImaginedEnv


class Branches(NamedTuple):
    """T steps in n environments: states (T, n, O), `following` (T, n, O), and the rest (T, n).

    `path` has the denoising steps of all T n actions, step by step. `terminated` and `truncated` end a branch, after
    which another begins in the same place; `unknown` are those cut off because the model is unsure, whose last step is
    a violation. `counted` is false after a success, until the next branch begins.
    """

    states: Tensor
    following: Tensor
    path: Path
    rewards: Tensor
    costs: Tensor
    terminated: Tensor
    truncated: Tensor
    unknown: Tensor
    uncertainty: Tensor
    counted: Tensor

    @property
    def actions(self) -> Tensor:
        """The actions (T, n, A) that were executed, cut to [-1, 1]."""
        steps, count = self.rewards.shape
        return self.path.clean.clamp(-1.0, 1.0).view(steps, count, -1)

    @property
    def ended(self) -> Tensor:
        """Where a branch ends (T, n) bool."""
        return self.terminated | self.truncated


@torch.no_grad()
def play_branches(
    model: Model,
    denoiser: Denoiser,
    rule: StepRule,
    env: ImaginedEnv,
    generator: torch.Generator,
    success: float | None = None,
) -> Branches:
    """Return branches of `env.config.horizon` steps in all its environments, with actions of `denoiser`.

    With `success` a predicted reward is a probability: above `success` it pays 1 and ends the branch, otherwise it pays
    nothing (World4RL, Jiang et al. 2025, with one half). All randomness is the generator's.
    """
    seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
    states, _ = env.reset(seed=seed)
    over = torch.zeros(env.num_envs, dtype=torch.bool, device=states.device)
    found: list[tuple[Tensor, ...]] = []
    paths: list[Path] = []
    for step in range(env.config.horizon):
        shape = (1 + len(model.levels), env.num_envs, *model.shape)
        noise = torch.empty(shape, device=states.device).normal_(generator=generator)
        path = sample_path(model.process, rule, model.levels, denoiser, {"state": states}, noise)
        following, rewards, terminated, truncated, infos = env.step(path.clean)
        ended = terminated | truncated
        # A success that the model itself does not vouch for is none.
        reached = torch.zeros_like(over)
        if success is not None:
            reached = (rewards > success) & ~infos["unknown"]
            rewards = reached.float()
        last = step + 1 == env.config.horizon
        cut = (truncated | last) & ~(terminated | reached)
        found.append(
            (
                states,
                infos["final_observation"],
                rewards,
                infos["cost"],
                terminated | reached,
                cut,
                infos["unknown"],
                infos["uncertainty"],
                ~over,
            )
        )
        paths.append(path)
        over = (over | reached) & ~ended
        states = following
    states, following, *rest = (torch.stack(each) for each in zip(*found, strict=True))
    log_probs = [path.log_probs for path in paths if path.log_probs is not None]
    whole = Path(torch.cat([path.states for path in paths], dim=1), model.levels, torch.cat(log_probs, dim=1))
    return Branches(states, following, whole, *rest)


def rated(branches: Branches, advantages: Tensor, passes: int) -> Rated:
    """Return all decisions that count as samples rated by advantages (T, n), `passes` times over."""
    steps, count = branches.rewards.shape
    rollout = Rollout(
        branches.path.clean,
        {"state": branches.states.flatten(0, 1)},
        torch.arange(steps * count, device=advantages.device),
        start=branches.path.states[0],
        path=branches.path,
    )
    whole = Rated(rollout, branches.rewards.flatten(), advantages.flatten())
    kept: Rated = select(whole, branches.counted.flatten().nonzero().flatten().repeat(passes))
    return kept
