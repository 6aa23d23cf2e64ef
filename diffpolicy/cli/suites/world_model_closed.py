"""What a policy meets that acts on imagined states, beside what it meets in the simulator from the same starts.

The policy clones the better episodes of the data: it is none that has learnt to exploit the model.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

import envs
from diffpolicy import data, training
from diffpolicy.cli.common import compute_device
from diffpolicy.cli.config import build
from diffpolicy.evaluation.rollout import require_unit_actions
from diffpolicy.policies import History, Policy
from diffpolicy.policies.gaussian import GaussianConfig, gaussian_policy
from diffpolicy.refinement import CloneConfig, cloner
from world_models import StateWorldModel, Window, advance


def clone(cfg: DictConfig, task: envs.Task, dataset: data.OfflineDataset, hashed: str) -> Path:
    """Train the policy that clones a dataset's episodes of the highest returns, unless that is done; its checkpoint."""
    options = cfg.closed_loop
    best = dataset.episode_returns.argsort(descending=True)[
        : max(1, round(options.share * dataset.num_episodes))
    ]
    policy, config = GaussianConfig(), build(CloneConfig, options.clone, "closed_loop.clone")
    description = {"task": task.id, "data": {"sha256": hashed}, "share": options.share}
    learner = cloner(dataset.select(best), policy, config, 0, compute_device(cfg), description)
    stored = {**description, "gaussian": policy.stored(), "clone": asdict(config)}
    run = Path(cfg.run).resolve() / task.name / "clone"
    training.run(
        learner, run, stored, checkpoint_every=config.updates, log_every=cfg.log_every, progress=cfg.progress
    )
    return training.best_checkpoint(run)


def really(
    task: envs.Task, checkpoint: Path, seeds: Sequence[int], horizons: Sequence[int]
) -> dict[str, Any]:
    """Return the simulator's side: the first states, and sums of rewards and costs (H, n) up to each horizon.

    Where success is what counts it is the reward, as in data from which world models learn.
    """
    policy, vector = (
        gaussian_policy(training.read_checkpoint(checkpoint), "mean"),
        envs.make_vector(task.id, len(seeds), workers=0, autoreset=False),
    )
    try:
        require_unit_actions(vector.single_action_space)
        observations, _ = vector.reset(seed=list(seeds))
        first = np.array(observations, dtype=np.float32)
        player = Player(policy, len(seeds))
        running, sums, found = np.ones(len(seeds), dtype=bool), np.zeros((2, len(seeds))), []
        for step in range(1, max(horizons) + 1):
            seen = torch.from_numpy(np.array(observations, dtype=np.float32))
            observations, rewards, terminated, truncated, infos = vector.step(player.act(seen).numpy())
            earned = infos["success"] if task.score == "success" else rewards
            sums += running * np.stack([earned, infos["cost"]])
            running &= ~(terminated | truncated)
            if step in horizons:
                found.append(sums.copy())
    finally:
        vector.close()
    returns, costs = np.stack(found, axis=1)
    return {"first": first.tolist(), "returns": returns.tolist(), "costs": costs.tolist()}


@torch.no_grad()
def imagined(
    model: StateWorldModel, checkpoint: Path, first: Tensor, horizons: Sequence[int]
) -> dict[str, Any]:
    """Return the model's side from the states `first` (n, O), by member k mod M for start k.

    An episode goes on in the share that has not terminated: sums are expectations over the model's terminations.
    """
    policy, device = gaussian_policy(training.read_checkpoint(checkpoint), "mean", first.device), first.device
    player, generator = Player(policy, len(first)), torch.Generator(device).manual_seed(0)
    member = torch.arange(len(first), device=device) % model.members
    shape = (len(first), model.config.history)
    # As at the beginning of episodes of the data: the first state stands for those before it, without actions.
    window = Window(
        first[:, None].expand(*shape, -1).clone(), torch.zeros(*shape, model.action_size, device=device)
    )
    running, sums, found = (
        torch.ones(len(first), device=device),
        torch.zeros(2, len(first), device=device),
        [],
    )
    for step in range(1, max(horizons) + 1):
        window.actions[:, -1] = player.act(window.observations[:, -1])
        expected = model.expect(window, member, generator)
        sums += running * torch.stack([expected.rewards, expected.costs])
        running *= 1.0 - expected.terminations
        if step in horizons:
            found.append(sums.clone())
        window = advance(window, expected.observations, torch.zeros_like(window.actions[:, -1]))
    returns, costs = torch.stack(found, dim=1)
    return {"returns": returns.tolist(), "costs": costs.tolist()}


class Player:
    """The actions of a policy, chunk by chunk, in [-1, 1]."""

    def __init__(self, policy: Policy, count: int) -> None:
        self._policy, self._memory = policy, policy.start(count, 0)
        self._history = History(policy.observation_horizon)
        self._waiting: list[Tensor] = []

    @torch.no_grad()
    def act(self, seen: Tensor) -> Tensor:
        """Return the actions (n, A) at observations (n, O)."""
        asked = self._history.add(seen)
        if not self._waiting:
            chunk, self._memory = self._policy.act(asked, self._memory)
            self._waiting = list(chunk.actions.float().clamp(-1.0, 1.0).unbind(1))
        return self._waiting.pop(0)
