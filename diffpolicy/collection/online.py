"""Learned behaviour: one online agent that holds a ladder of trade-offs between return and cost."""

import numpy as np
from numpy.typing import NDArray
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecNormalize

import envs
from diffpolicy.collection.config import CollectConfig
from diffpolicy.collection.ladder import Ladder, LimitLadder, PenaltyLadder
from diffpolicy.collection.progress import Progress
from diffpolicy.collection.recorder import EpisodeRecorder
from diffpolicy.collection.vector import LadderVecEnv, rung_summary
from envs import Task


def collect_online(task: Task, config: CollectConfig, recorder: EpisodeRecorder, progress: Progress) -> None:
    """Trains PPO or SAC until `recorder` has seen `config.steps` steps.

    Every training episode is recorded, from the first random ones to the last. stable-baselines3 seeds the
    global random generators; the caller keeps them apart.
    Source: Schulman et al. 2017 (PPO), Haarnoja et al. 2018 (SAC), Ray et al. 2019 (their Lagrangian forms).
    """
    ladder: Ladder
    ladder = PenaltyLadder(config.ladder) if config.constraint == "penalty" else LimitLadder(config.ladder)
    env = LadderVecEnv(lambda: envs.make(task.id), task, config.num_envs, ladder, recorder, config.seed)
    try:
        shown = VecNormalize(env, norm_reward=False)
        agent = _sac(shown, config) if config.source == "sac" else _ppo(shown, config)
        agent.learn(config.steps, callback=_Watch(env.rung, config, recorder, progress))
    finally:
        env.close()


def _ppo(env: VecNormalize, config: CollectConfig) -> PPO:
    settings = config.ppo
    span = settings.learning_rate - settings.final_learning_rate
    return PPO(
        "MlpPolicy",
        env,
        n_steps=settings.rollout_steps,
        batch_size=settings.batch_size,
        n_epochs=settings.epochs,
        learning_rate=lambda left: settings.final_learning_rate + left * span,
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


def _sac(env: VecNormalize, config: CollectConfig) -> SAC:
    settings = config.sac
    return SAC(
        "MlpPolicy",
        env,
        learning_rate=settings.learning_rate,
        buffer_size=settings.buffer_size,
        learning_starts=settings.warm_up,
        batch_size=settings.batch_size,
        gamma=settings.discount,
        train_freq=1,
        gradient_steps=max(1, round(settings.updates_per_step * config.num_envs)),
        policy_kwargs={"net_arch": [settings.width] * 2},
        seed=config.seed,
        device="cpu",
    )


class _Watch(BaseCallback):
    """Reports progress, stops on the step and normalises PPO's advantages within each rung."""

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
        if not isinstance(self.model, PPO):
            return
        # Rungs with a large penalty have advantages many times those of the others; normalised together, the
        # others would hardly learn.
        advantages = self.model.rollout_buffer.advantages
        for rung in np.unique(self._rung):
            group = advantages[:, self._rung == rung]
            advantages[:, self._rung == rung] = (group - group.mean()) / (group.std() + 1e-8)
