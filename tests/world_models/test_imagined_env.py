import math
from collections.abc import Callable

import pytest
import torch
from gymnasium.vector import AutoresetMode, VectorEnv

from world_models import ImaginedEnv, ImaginedEnvConfig, WorldModelError, WorldModelLearner

Train = Callable[..., WorldModelLearner]


def made(trained: Train, config: ImaginedEnvConfig | None = None, count: int = 16, **options: torch.Tensor):
    learner = trained("deterministic")
    return ImaginedEnv(learner.average, learner.windows, count, config, **options)


def test_it_is_a_vector_environment_of_the_line(trained: Train):
    env = made(trained)
    assert isinstance(env, VectorEnv)
    assert env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    before, _ = env.reset(seed=0)
    actions = torch.linspace(-1.0, 1.0, 16)[:, None]
    after, rewards, terminated, truncated, infos = env.step(actions)
    assert after.shape == (16, 2)
    assert (infos["final_observation"][:, 0] - before[:, 0] - 0.2 * actions[:, 0]).abs().max() < 0.05
    assert rewards.shape == infos["cost"].shape == infos["uncertainty"].shape == (16,)
    assert terminated.dtype == truncated.dtype == torch.bool
    assert env.single_observation_space.shape == (2,)
    assert env.action_space.shape == (16, 1)


def test_the_same_seed_imagines_the_same_and_another_something_else(trained: Train):
    env = made(trained)

    def played(seed: int) -> torch.Tensor:
        observations = [env.reset(seed=seed)[0]]
        observations += [env.step(torch.ones(16, 1))[0] for _ in range(30)]
        return torch.stack(observations)

    assert torch.equal(played(1), played(1))
    assert not torch.equal(played(1), played(2))


def test_episodes_begin_at_real_moments_and_again_where_they_end(trained: Train):
    learner = trained("deterministic")
    starts = torch.tensor([3, 8])
    env = made(trained, ImaginedEnvConfig(horizon=2), allowed=starts)
    real = learner.windows.window(starts).observations[:, -1]

    def are_real(observations: torch.Tensor) -> bool:
        return bool((torch.cdist(observations, real) == 0.0).any(dim=1).all())

    first, _ = env.reset(seed=0)
    assert are_real(first)
    second, _, _, truncated, _ = env.step(torch.ones(16, 1))
    assert not truncated.any()
    assert not are_real(second)
    third, _, terminated, truncated, infos = env.step(torch.ones(16, 1))
    assert (truncated | terminated).all()
    assert are_real(third)
    assert not are_real(infos["final_observation"])


def test_what_the_model_cannot_know_ends_in_a_violation(trained: Train):
    env = made(trained, ImaginedEnvConfig(horizon=50, max_uncertainty=1e-9, unknown_cost=7.0))
    env.reset(seed=0)
    _, _, terminated, truncated, infos = env.step(torch.zeros(16, 1))
    assert infos["unknown"].all()
    assert (truncated | terminated).all()
    assert (infos["cost"] == 7.0).all()


@pytest.mark.parametrize(
    "wrong",
    [{"horizon": 0}, {"unknown_cost": -1.0}, {"unknown_cost": math.nan}, {"max_uncertainty": math.nan}],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]):
    with pytest.raises(WorldModelError):
        ImaginedEnvConfig(**wrong)


def test_it_terminates_where_the_world_does(trained: Train):
    env = made(trained, ImaginedEnvConfig(horizon=1000), count=64)
    env.reset(seed=0)
    over = torch.zeros(64, dtype=torch.bool)
    last = torch.zeros(64)
    for _ in range(40):
        _, _, terminated, truncated, infos = env.step(torch.ones(64, 1))
        assert not truncated.any()
        last = torch.where(terminated & ~over, infos["final_observation"][:, 0], last)
        over |= terminated
    assert over.all()
    assert 0.9 < last.mean() < 1.4


def test_a_model_that_is_not_frozen_is_found_out(trained: Train):
    env = made(trained)
    assert env.check_frozen() == env.check_frozen()
    with torch.no_grad():
        env.model.mean[0] += 1e-3
    with pytest.raises(WorldModelError, match="frozen"):
        env.check_frozen()
    with torch.no_grad():
        env.model.mean[0] -= 1e-3


def test_bad_actions_and_steps_before_a_reset_are_refused(trained: Train):
    env = made(trained)
    with pytest.raises(WorldModelError, match="reset"):
        env.step(torch.zeros(16, 1))
    env.reset(seed=0)
    for actions in (torch.full((16, 1), torch.nan), torch.zeros(16, 2), torch.zeros(4, 1)):
        with pytest.raises(WorldModelError, match="finite numbers"):
            env.step(actions)
    with pytest.raises(WorldModelError, match="one seed"):
        env.reset(seed=[1, 2])
