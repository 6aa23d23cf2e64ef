"""Roll-outs: one episode per seed, all in lockstep, with non-finite actions stopped before the simulator."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

import envs
from diffpolicy.policies import History, Policy

MAX_PARALLEL = 32
Images = Mapping[str, NDArray[np.uint8]]  # camera -> (n, H, W, 3)


class RolloutError(Exception):
    """A policy or a simulator gave something that an episode cannot go on with."""


class VectorEnv(Protocol):
    """What a roll-out asks of `envs.make_vector(..., autoreset=False)`."""

    num_envs: int

    @property
    def single_action_space(self) -> Any:
        """Action space of one environment."""

    def reset(self, *, seed: Any = None) -> tuple[Any, dict[str, Any]]:
        """Begin one episode in each environment."""

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step all environments; finished ones stay as they are."""


@dataclass(frozen=True, slots=True)
class Episode:
    """One finished episode: undiscounted sums, length in steps, `violation` if any step had cost > 0.

    `best_reward` is the highest reward of a step, `success` whether any step reported it; `evaluations` and
    `cold_starts` add up what the policy's chunks say of themselves, 0 for policies that say nothing.
    """

    seed: int
    episode_return: float
    episode_cost: float
    length: int
    terminated: bool
    violation: bool
    best_reward: float = 0.0
    success: bool = False
    evaluations: int = 0
    cold_starts: int = 0


class Step(NamedTuple):
    """One lockstep of a batch, as given to `record`; rows not `running` belong to finished episodes."""

    number: int  # from 0
    seeds: tuple[int, ...]
    observations: NDArray[np.float32]  # (n, O), before the action
    actions: NDArray[np.float32]  # (n, A)
    rewards: NDArray[np.float64]  # (n,)
    costs: NDArray[np.float64]  # (n,)
    running: NDArray[np.bool_]  # (n,), before the action


Record = Callable[[Step], None]
# Called before every lockstep with the environments, the step's number and the observations (n, O); what it
# returns is what the policy sees: a chance to change the world in the middle of an episode.
Intervene = Callable[[Any, int, NDArray[np.float32]], NDArray[np.float32]]


def rollout(
    policy: Policy,
    task: str,
    seeds: Sequence[int],
    *,
    workers: int | None = None,
    parallel: int = MAX_PARALLEL,
    record: Record | None = None,
    name: str | None = None,
) -> list[Episode]:
    """Play one episode of `task` per seed and return them in the order of `seeds`.

    `record` is called after every lockstep; `name` is the policy's name in errors. The same seeds in the same
    order give the same episodes; so many are played in `parallel`, which is part of what fixes them, since a
    batch shares the policy's randomness. Raises RolloutError on non-finite actions, observations, rewards or costs.
    """
    if not seeds:
        raise RolloutError("no seeds: a roll-out needs at least one episode")
    vector: Any = envs.make_vector(task, batch_size(len(seeds), parallel), workers=workers, autoreset=False)
    try:
        return play(policy, vector, seeds, record=record, name=name)
    finally:
        vector.close()


def batch_size(episodes: int, parallel: int = MAX_PARALLEL) -> int:
    """Number of environments that plays `episodes` in the fewest even batches of at most `parallel`."""
    batches = -(-episodes // parallel)
    return -(-episodes // batches)


def play(
    policy: Policy,
    vector: VectorEnv,
    seeds: Sequence[int],
    *,
    record: Record | None = None,
    intervene: Intervene | None = None,
    until_success: bool = False,
    name: str | None = None,
) -> list[Episode]:
    """As `rollout`, in a vector environment that is already open (without auto-reset).

    With `until_success` an episode is over at its first success: what comes after does not change what is counted.
    """
    require_unit_actions(vector.single_action_space)
    label = name or type(policy).__name__
    episodes: list[Episode] = []
    for first in range(0, len(seeds), vector.num_envs):
        batch = [int(seed) for seed in seeds[first : first + vector.num_envs]]
        # The last batch may be short: its spare environments play its last seed again and are dropped.
        padded = batch + [batch[-1]] * (vector.num_envs - len(batch))
        episodes += _play_batch(policy, vector, padded, record, intervene, until_success, label)[: len(batch)]
    return episodes


def policy_seed(seeds: Sequence[int]) -> int:
    """The seed of a policy's own randomness for a batch of episodes with these seeds."""
    return int(np.random.SeedSequence([seed % 2**32 for seed in seeds]).generate_state(1)[0])


def require_unit_actions(space: Any) -> None:
    """RolloutError unless the action space is [-1, 1] in every dimension, the unit in which policies act."""
    low, high = getattr(space, "low", None), getattr(space, "high", None)
    if low is None or high is None or not (np.all(low == -1.0) and np.all(high == 1.0)):
        raise RolloutError(
            f"the task's action space is {space}; policies act in [-1, 1]: wrap it in RescaleAction"
        )


class Player:
    """A policy's actions one by one: each chunk to its end, then a new one from the observations then.

    `evaluations` and `cold_starts` (n,) are those of the decisions so far.
    """

    def __init__(self, policy: Policy, seeds: Sequence[int], label: str) -> None:
        self._policy = policy
        self._memory = policy.start(len(seeds), policy_seed(seeds))
        self._history = History(policy.observation_horizon)
        self._label = label
        self._waiting: list[NDArray[np.float32]] = []
        self.evaluations = np.zeros(len(seeds), dtype=np.int64)
        self.cold_starts = np.zeros(len(seeds), dtype=np.int64)

    def action(self, observations: NDArray[np.float32], images: Images | None = None) -> NDArray[np.float32]:
        """The next action (n, A) for observations (n, O) and pictures (n, H, W, 3), not yet checked."""
        asked = self._history.add(np.array(observations, dtype=np.float32), images)
        if not self._waiting:
            with torch.inference_mode():
                chunk, self._memory = self._policy.act(asked, self._memory)
            actions = chunk.actions.detach().to("cpu", torch.float32).numpy()
            if actions.ndim != 3 or len(actions) != len(observations) or actions.shape[1] == 0:
                raise RolloutError(
                    f"policy {self._label}: actions have shape {actions.shape};"
                    f" expected ({len(observations)}, horizon, A)"
                )
            self._waiting = list(actions.swapaxes(0, 1))
            if chunk.evaluations is not None:
                self.evaluations = self.evaluations + chunk.evaluations.cpu().numpy()
            if chunk.cold is not None:
                self.cold_starts = self.cold_starts + chunk.cold.cpu().numpy()
        return self._waiting.pop(0)


def checked_action(
    action: NDArray[np.float32], running: NDArray[np.bool_], seeds: Sequence[int], label: str, step: int
) -> NDArray[np.float32]:
    """The actions (n, A) clipped to [-1, 1]; RolloutError if one of a running episode is not finite."""
    bad = running & ~np.isfinite(action).all(axis=-1)
    if bad.any():
        row = int(np.argmax(bad))
        raise RolloutError(
            f"policy {label} gave the non-finite action {action[row].tolist()} at step {step} of the episode"
            f" with seed {seeds[row]}; the simulator was not stepped: check the weights and the normaliser"
        )
    return np.where(running[:, None], np.clip(action, -1.0, 1.0), np.float32(0.0))


def _play_batch(
    policy: Policy,
    vector: VectorEnv,
    seeds: list[int],
    record: Record | None,
    intervene: Intervene | None,
    until_success: bool,
    label: str,
) -> list[Episode]:
    start, infos = vector.reset(seed=seeds)
    observations = np.array(start)
    tally = Tally(len(seeds))
    player = Player(policy, seeds, label)
    step = 0
    while tally.running.any():
        running = tally.running.copy()
        if intervene is not None:
            observations = intervene(vector, step, observations)
        planned = player.action(observations, infos.get("images"))
        action = checked_action(planned, running, seeds, label, step)
        following, reward, terminated, truncated, infos = vector.step(action)
        reward, cost = np.asarray(reward, dtype=np.float64), _costs(infos, len(seeds))
        _require_finite(running, seeds, step, observation=following, reward=reward, cost=cost)
        if record is not None:
            record(Step(step, tuple(seeds), observations, action, reward, cost, running))
        over = np.asarray(terminated, dtype=bool) | np.asarray(truncated, dtype=bool)
        if until_success:
            over = over | np.asarray(infos["success"], dtype=bool)
        tally.add(reward, cost, terminated, over, infos, player)
        observations, step = np.array(following), step + 1  # a copy: the environment may reuse its buffer
    return tally.episodes(seeds)


class Tally:
    """What has happened so far in each episode of a batch; finished ones stay as they ended."""

    def __init__(self, count: int) -> None:
        self.running = np.ones(count, dtype=bool)
        self._returns, self._costs = np.zeros(count), np.zeros(count)
        self._best = np.full(count, -np.inf)
        self._lengths, self._evaluations, self._cold = np.zeros((3, count), dtype=np.int64)
        self._violations, self._terminations, self._successes = np.zeros((3, count), dtype=bool)

    def add(
        self,
        reward: NDArray[np.float64],
        cost: NDArray[np.float64],
        terminated: Any,
        over: NDArray[np.bool_],
        infos: Mapping[str, Any],
        player: Player,
    ) -> None:
        """Count one lockstep, the last one of the episodes that are `over` (n,)."""
        running = self.running
        self._returns += np.where(running, reward, 0.0)
        self._costs += np.where(running, cost, 0.0)
        self._best = np.where(running, np.maximum(self._best, reward), self._best)
        self._violations |= running & (cost > 0.0)
        self._successes |= running & np.asarray(infos.get("success", False), dtype=bool)
        self._lengths += running
        self._evaluations = np.where(running, player.evaluations, self._evaluations)
        self._cold = np.where(running, player.cold_starts, self._cold)
        self._terminations |= running & np.asarray(terminated, dtype=bool)
        self.running = running & ~over

    def episodes(self, seeds: Sequence[int]) -> list[Episode]:
        """The episodes, in the order of `seeds`."""
        return [
            Episode(
                seed=seed,
                episode_return=float(self._returns[row]),
                episode_cost=float(self._costs[row]),
                length=int(self._lengths[row]),
                terminated=bool(self._terminations[row]),
                violation=bool(self._violations[row]),
                best_reward=float(self._best[row]),
                success=bool(self._successes[row]),
                evaluations=int(self._evaluations[row]),
                cold_starts=int(self._cold[row]),
            )
            for row, seed in enumerate(seeds)
        ]


def _costs(infos: dict[str, Any], count: int) -> NDArray[np.float64]:
    if "cost" not in infos:
        raise RolloutError("the environment reported no infos['cost']; costs cannot be judged without it")
    return np.broadcast_to(np.asarray(infos["cost"], dtype=np.float64), (count,))


def _require_finite(running: NDArray[np.bool_], seeds: Sequence[int], step: int, **named: Any) -> None:
    for what, values in named.items():
        bad = running & ~np.isfinite(np.asarray(values)).reshape(len(seeds), -1).all(axis=-1)
        if bad.any():
            seed = seeds[int(np.argmax(bad))]
            raise RolloutError(
                f"the simulator gave a non-finite {what} at step {step} of the episode with seed {seed}"
            )
