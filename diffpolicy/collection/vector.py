"""Several environments as one, with a rung of the cost ladder shown to the agent."""

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from diffpolicy.collection.ladder import Ladder
from diffpolicy.collection.recorder import EpisodeRecorder
from envs import Task

# Keeps the discounted return of a good episode near 10, where a value network starts to learn at once.
REWARD_SCALE = 0.1

# observations (n, O + L), rewards (n,), dones (n,), infos
VecStep = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]


class LadderVecEnv(VecEnv):
    """Environments in this process; environment i stands on rung `i % len(ladder)`.

    Observations are (O + L,): the task's own and the one-hot rung. The reward is
    `0.1 * (r * T / R_max - weight * c)`, while `recorder` gets the task's own rewards and costs.
    """

    def __init__(
        self,
        make: Callable[[], gymnasium.Env[Any, Any]],
        task: Task,
        num_envs: int,
        ladder: Ladder,
        recorder: EpisodeRecorder,
        seed: int,
    ) -> None:
        self._envs = [make() for _ in range(num_envs)]
        rungs = len(ladder.weights)
        shown = spaces.Box(-np.inf, np.inf, (task.observation_size + rungs,), np.float32)
        super().__init__(num_envs, shown, self._envs[0].action_space)
        self.ladder = ladder
        self.recorder = recorder
        self.rung = np.arange(num_envs) % rungs
        self._one_hot = np.eye(rungs, dtype=np.float32)[self.rung]
        self._reward_scale = task.max_episode_steps / task.max_episode_reward
        self._seeds: list[int | None] = np.random.SeedSequence(seed).generate_state(num_envs).tolist()
        self._actions: NDArray[np.float32] = np.zeros((num_envs, task.action_size), dtype=np.float32)

    def reset(self) -> NDArray[np.float32]:
        """Starts every environment; (num_envs, O + L)."""
        return np.stack([self._reset(index) for index in range(self.num_envs)])

    def step_async(self, actions: NDArray[np.float32]) -> None:
        """Remembers the actions (num_envs, A)."""
        self._actions = actions

    def step_wait(self) -> VecStep:
        """Steps every environment; finished ones start again and report `terminal_observation`."""
        observations, rewards, dones, infos = [], [], [], []
        for index in range(self.num_envs):
            observation, reward, done, info = self._step(index)
            observations.append(observation)
            rewards.append(reward)
            dones.append(done)
            infos.append(info)
        return np.stack(observations), np.array(rewards, dtype=np.float32), np.array(dones), infos

    def _reset(self, index: int) -> NDArray[np.float32]:
        observation, _ = self._envs[index].reset(seed=self._seeds[index])
        self._seeds[index] = None
        self.recorder.start(index, observation)
        return np.concatenate([observation, self._one_hot[index]])

    def _step(self, index: int) -> tuple[NDArray[np.float32], float, bool, dict[str, Any]]:
        action = np.clip(self._actions[index], self.action_space.low, self.action_space.high)  # type: ignore[attr-defined]
        observation, reward, terminated, truncated, info = self._envs[index].step(action)
        cost, rung = float(info["cost"]), int(self.rung[index])
        self.recorder.step(index, action, float(reward), cost, observation)
        shaped = REWARD_SCALE * (float(reward) * self._reward_scale - self.ladder.weights[rung] * cost)
        shown = np.concatenate([observation, self._one_hot[index]])
        if not (terminated or truncated):
            return shown, shaped, False, {}
        episode = self.recorder.finish(index, terminated=bool(terminated), behaviour=rung)
        self.ladder.episode_ended(rung, episode.episode_cost)
        answer = {"terminal_observation": shown, "TimeLimit.truncated": not terminated}
        return self._reset(index), shaped, True, answer

    def close(self) -> None:
        """Closes every simulator."""
        for env in self._envs:
            env.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The attribute of each chosen environment."""
        return [getattr(self._envs[index], attr_name) for index in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Sets an attribute of each chosen environment."""
        for index in self._get_indices(indices):
            setattr(self._envs[index], attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Calls a method of each chosen environment."""
        return [
            getattr(self._envs[index], method_name)(*args, **kwargs) for index in self._get_indices(indices)
        ]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """None is wrapped in a way that matters to the agent."""
        return [False for _ in self._get_indices(indices)]


def rung_summary(recorder: EpisodeRecorder, ladder: Sequence[float], window: int = 20) -> str:
    """Mean return/cost of the newest episodes per rung, for the progress line."""
    recent = recorder.episodes[-window * len(ladder) :]
    parts = []
    for rung, value in enumerate(ladder):
        mine = [episode for episode in recent if episode.behaviour == rung]
        if mine:
            mean_return = np.mean([episode.episode_return for episode in mine])
            mean_cost = np.mean([episode.episode_cost for episode in mine])
            parts.append(f"{value:g}: {mean_return:.0f}/{mean_cost:.0f}")
    return "  ".join(parts)
