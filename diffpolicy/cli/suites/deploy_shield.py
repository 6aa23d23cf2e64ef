"""What the shield is worth, and what it costs: a deliberately bad policy with none of it, parts of it, all of it.

The bad policy was trained to earn and told nothing of cost, and takes of sixteen candidates the one that promises most.
Simulated time: one decision and one command per step, without a network.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import envs
from diffpolicy.deploy.audit import Auditor
from diffpolicy.deploy.chunks import Chunk, Runtime
from diffpolicy.deploy.feasibility import FeasibleRuntime
from diffpolicy.deploy.shield import Proposal, Shield
from diffpolicy.deploy.torch_runtime import TorchRuntime
from diffpolicy.evaluation.rollout import policy_seed

BAD, BACKUP_ARM = "reward_max_q", "fisor"
ARMS = {  # name: (feasibility step, shield)
    "as it is": (False, False),
    "feasibility step": (True, False),
    "limits": (False, True),
    "feasibility step and limits": (True, True),
}


class SafestChunk:
    """The backup: what FISOR's own rule does, the safest of its candidates."""

    def __init__(self, runtime: Runtime, seed: int) -> None:
        self._runtime, self._memory = runtime, runtime.start(seed)

    def __call__(self, observation: Mapping[str, NDArray[Any]]) -> Chunk:
        """Return the next actions."""
        chunk, self._memory = self._runtime.act(observation, self._memory)
        return chunk


def play(
    checkpoint: Path,
    task: envs.Task,
    arm: str,
    member: int,
    episodes: int,
    seed: int,
    attempts: int,
) -> dict[str, Any]:
    """Play `episodes` of the bad policy of training seed `member` as `arm` says; plain lists, one entry per episode.

    "returns", "violations" (steps with a cost), "lengths"; "steps" counts what acted, "broken" the broken limits.
    """
    feasibility, shielded = ARMS[arm]
    bad = TorchRuntime(checkpoint, BAD, seed=member)
    safest = TorchRuntime(checkpoint, BACKUP_ARM, seed=member)
    found: dict[str, Any] = {"returns": [], "violations": [], "lengths": []}
    steps: Counter[str] = Counter()
    broken = 0
    env = envs.make(task.id)
    for number in range(seed, seed + episodes):
        policy: Runtime = bad
        if feasibility:
            backup = SafestChunk(safest, policy_seed([number, 1]))
            policy = FeasibleRuntime(bad, attempts=attempts, backup=backup)
        episode = _Episode(policy, shielded)
        observation, _ = env.reset(seed=number)
        total, violations, over = 0.0, 0, False
        while not over:
            action = episode.act(observation)
            observation, reward, terminated, truncated, info = env.step(action)
            total, violations = total + float(reward), violations + (info["cost"] > 0)
            over = terminated or truncated
        found["returns"].append(total)
        found["violations"].append(violations)
        found["lengths"].append(episode.steps)
        steps.update(episode.counts)
        broken += episode.auditor.broken
    env.close()
    return {**found, "steps": {name: count for name, count in steps.items() if count}, "broken": broken}


class _Episode:
    """One episode: the policy's memory, the shield, and simulated time."""

    def __init__(self, policy: Runtime, shielded: bool) -> None:
        manifest = policy.manifest
        self._policy, self._memory, self._period = policy, policy.start(0), manifest.control_period
        rest = np.zeros(manifest.action.shape)  # accelerations and forces: none
        self._shield = Shield(manifest, self._period, rest=rest) if shielded else None
        if self._shield is not None:
            self._shield.reset(rest)
        self.auditor = Auditor(manifest.safety, self._period)
        self.auditor.add(rest)
        self.steps = 0

    def act(self, observation: NDArray[Any]) -> NDArray[np.float32]:
        reading = {"state": np.asarray(observation, np.float32)}
        chunk, self._memory = self._policy.act(reading, self._memory)
        now = self.steps * self._period
        self.steps += 1
        if self._shield is None:
            self.auditor.add(chunk.actions[0].astype(np.float64))
            return np.asarray(chunk.actions[0], np.float32)
        proposal = Proposal(chunk.actions[0], now + self._period, chunk.feasible, chunk.flags)
        # Of the feasibility step's arm the critics are asked; of the other only the limits are wanted.
        if not isinstance(self._policy, FeasibleRuntime):
            proposal = proposal._replace(feasible=None)
        command = self._shield.filter(proposal, reading, now, now).command
        self.auditor.add(command)
        return command.astype(np.float32)

    @property
    def counts(self) -> Counter[str]:
        """How often which step of the shield and of the feasibility step acted."""
        counts: Counter[str] = Counter()
        if isinstance(self._policy, FeasibleRuntime):
            counts.update(self._policy.counts)
        if self._shield is not None:
            counts.update(self._shield.counts)
        return counts
