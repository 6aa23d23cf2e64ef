"""What came of a refinement: whole episodes in imagination, and real ones where a simulator is asked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from rich.table import Table

import envs
from diffpolicy.cli.refine_world import World
from diffpolicy.data import OfflineDataset
from diffpolicy.evaluation.rollout import Episode, Step, VectorEnv, play
from diffpolicy.policies import Policy
from diffpolicy.refinement import ImaginedEpisodes, RealEpisodes, imagine_episodes

IMAGINED_SEED = 0


@dataclass(frozen=True)
class Side:
    """One policy, measured: imagined episodes, and real ones with their record; success may take the return's place."""

    imagined: ImaginedEpisodes
    real: RealEpisodes | None
    recorded: OfflineDataset | None

    def to_json(self) -> dict[str, Any]:
        """Return plain lists."""
        imagined = {name: values.tolist() for name, values in self.imagined._asdict().items()}
        real = None if self.real is None else {name: list(each) for name, each in self.real._asdict().items()}
        return {"imagined": imagined, "real": real}


def measure(cfg: DictConfig, world: World, policy: Policy) -> Side:
    """Play whole imagined episodes, and `cfg.episodes` real ones from the seed `cfg.episodes_seed` on.

    Where success counts real ones are over when imagined ones are: who has five times as long succeeds more often.
    """
    imagined = imagine_episodes(policy, world.frozen, IMAGINED_SEED)
    success = world.task.score == "success"
    if success:
        imagined = imagined._replace(returns=imagined.success.float())
    if cfg.episodes < 1:
        return Side(imagined, None, None)
    seeds = range(cfg.episodes_seed, cfg.episodes_seed + cfg.episodes)
    recorder = Recorder()
    vector: Any = envs.make_vector(world.task.id, cfg.episodes, autoreset=False)
    try:
        played = play(policy, Cut(vector, world.steps) if success else vector, seeds, record=recorder)
    finally:
        vector.close()
    returns = [float(each.success) if success else each.episode_return for each in played]
    real = RealEpisodes(returns, [each.episode_cost for each in played])
    return Side(imagined, real, recorder.dataset(played))


class Cut:
    """A vector environment whose episodes are over after `horizon` steps."""

    def __init__(self, vector: VectorEnv, horizon: int) -> None:
        self._vector, self._horizon = vector, horizon
        self.num_envs, self.single_action_space = vector.num_envs, vector.single_action_space

    def reset(self, *, seed: Any = None) -> tuple[Any, dict[str, Any]]:
        """Begin one episode in each environment."""
        self._steps = 0
        return self._vector.reset(seed=seed)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step all environments."""
        seen, rewards, terminated, truncated, infos = self._vector.step(actions)
        self._steps += 1
        return seen, rewards, terminated, truncated | (self._steps >= self._horizon), infos


class Recorder:
    """Collects the steps of one batch of real episodes."""

    def __init__(self) -> None:
        self._steps: list[Step] = []

    def __call__(self, step: Step) -> None:
        """Take in a lockstep; what a simulator may write to again is copied."""
        self._steps.append(step._replace(observations=step.observations.copy(), running=step.running.copy()))

    def dataset(self, episodes: Sequence[Episode]) -> OfflineDataset:
        """Return the episodes as a dataset whose only reward is 1 at the last step of those that succeeded."""
        running = np.stack([step.running for step in self._steps])
        columns: dict[str, list[Any]] = {name: [] for name in ("observations", "actions", "rewards", "costs")}
        for row, episode in enumerate(episodes):
            mine = [step for step, alive in zip(self._steps, running[:, row], strict=True) if alive]
            seen = np.stack([step.observations[row] for step in mine])
            columns["observations"].append(np.concatenate([seen, seen[-1:]]))
            columns["actions"].append(np.stack([step.actions[row] for step in mine]))
            rewards = np.zeros(len(mine), dtype=np.float32)
            rewards[-1] = float(episode.success)
            columns["rewards"].append(rewards)
            columns["costs"].append(np.array([step.costs[row] for step in mine], dtype=np.float32))
        joined = {
            name: torch.from_numpy(np.concatenate(each).astype(np.float32)) for name, each in columns.items()
        }
        lengths = torch.tensor([len(each) for each in columns["rewards"]])
        ends = lengths.cumsum(0)
        last = torch.zeros(int(ends[-1]), dtype=torch.bool)
        last[ends - 1] = True
        episode_of = torch.arange(len(lengths)).repeat_interleave(lengths)
        return OfflineDataset(
            joined["observations"],
            actions=joined["actions"],
            rewards=joined["rewards"],
            costs=joined["costs"],
            rows=torch.arange(len(last)) + episode_of,
            terminals=torch.zeros_like(last),
            timeouts=last,
            episode_ends=ends,
            final_observations_known=False,
        )


def table(task: envs.Task, sides: Mapping[str, Side], known_uncertainty: float) -> Table:
    """Return a table of policies, imagined beside real; returns normalised as the benchmark does."""
    success = task.score == "success"
    what = "success" if success else "return"
    found = Table(title=f"{task.name}: imagined and real")
    for name in ("policy", f"imagined {what}", "cost", "uncertainty", f"real {what}", "cost", "most"):
        found.add_column(name, justify="left" if name == "policy" else "right")

    def shown(value: float) -> str:
        return f"{value if success else task.normalized_return(value):.3f}"

    for name, side in sides.items():
        imagined = side.imagined
        row = [
            name,
            shown(imagined.returns.mean().item()),
            f"{imagined.costs.mean().item():.2f}",
            f"{imagined.uncertainty.mean().item() / known_uncertainty:.2f}",
        ]
        if side.real is not None:
            row += [
                shown(float(np.mean(side.real.returns))),
                f"{np.mean(side.real.costs):.2f}",
                f"{max(side.real.costs):g}",
            ]
        found.add_row(*row)
    return found
