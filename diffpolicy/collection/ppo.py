"""Learned behaviour: one PPO run that holds a ladder of trade-offs between return and cost."""

from typing import cast

import numpy as np
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecNormalize

import envs
from diffpolicy.collection.config import CollectConfig
from diffpolicy.collection.ladder import Ladder, LimitLadder, PenaltyLadder
from diffpolicy.collection.progress import Progress
from diffpolicy.collection.recorder import EpisodeRecorder
from diffpolicy.collection.vector import LadderVecEnv, rung_summary
from envs import Task


def collect_ppo(task: Task, config: CollectConfig, recorder: EpisodeRecorder, progress: Progress) -> None:
    """Trains PPO (Schulman et al. 2017) online until `recorder` has seen `config.steps` steps.

    Every training episode is recorded, from the first random ones to the last. stable-baselines3 seeds the
    global random generators; the caller keeps them apart.
    """
    ladder: Ladder
    ladder = PenaltyLadder(config.ladder) if config.constraint == "penalty" else LimitLadder(config.ladder)
    env = LadderVecEnv(lambda: envs.make(task.id), task, config.num_envs, ladder, recorder, config.seed)
    settings = config.ppo
    try:
        agent = PPO(
            "MlpPolicy",
            VecNormalize(env, norm_reward=False),
            n_steps=settings.rollout_steps,
            batch_size=settings.batch_size,
            n_epochs=settings.epochs,
            learning_rate=lambda left: (
                settings.final_learning_rate + left * (settings.learning_rate - settings.final_learning_rate)
            ),
            gamma=settings.discount,
            gae_lambda=settings.gae,
            clip_range=settings.clip,
            ent_coef=settings.entropy,
            normalize_advantage=False,
            use_sde=settings.state_dependent_noise,
            sde_sample_freq=settings.noise_steps if settings.state_dependent_noise else -1,
            policy_kwargs={
                "net_arch": {"pi": [settings.width] * 2, "vf": [settings.width] * 2},
                "log_std_init": settings.initial_log_std,
            },
            seed=config.seed,
            device="cpu",
        )
        agent.learn(config.steps, callback=_Watch(env.rung, config, recorder, progress))
    finally:
        env.close()


class _Watch(BaseCallback):
    """Reports progress, stops on the step and normalises advantages within each rung."""

    def __init__(
        self, rung: NDArray[np.int64], config: CollectConfig, recorder: EpisodeRecorder, progress: Progress
    ) -> None:
        super().__init__()
        self._rung = rung
        self._config = config
        self._recorder = recorder
        self._progress = progress

    def _on_step(self) -> bool:
        self._progress.update(self._recorder.steps, lambda: rung_summary(self._recorder, self._config.ladder))
        return self._recorder.steps < self._config.steps

    def _on_rollout_end(self) -> None:
        # Rungs with a large penalty have advantages many times those of the others; normalised together, the
        # others would hardly learn.
        advantages = cast(PPO, self.model).rollout_buffer.advantages
        for rung in np.unique(self._rung):
            group = advantages[:, self._rung == rung]
            advantages[:, self._rung == rung] = (group - group.mean()) / (group.std() + 1e-8)
