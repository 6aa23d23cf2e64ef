"""A small model trained on a world that is known, and what can be said of it and done in it."""

import numpy as np
import pytest
import torch

from world_models import ImaginedEnv, ImaginedEnvConfig, WorldModelError
from world_models.frames import FrameWindows
from world_models.pixel_config import PixelConfig, PixelNoise
from world_models.pixel_fidelity import mean_square, pixel_action_following, pixel_open_loop, psnr, telling
from world_models.pixel_learner import PixelLearner

from .square_world import square_world


@pytest.fixture(scope="module")
def learner() -> PixelLearner:
    config = PixelConfig(
        predicts="change",
        maps=True,
        size=16,
        history=1,
        noise=PixelNoise(mean=1.2, std=1.5, highest=300.0, sigma_max=80.0),
        updates=200,
        batch=16,
        learning_rate=4e-3,
        warm_up=20,
        average_decay=0.98,
    )
    learner = PixelLearner(square_world(episodes=150, axes=1), config, seed=0)
    for step in range(config.updates):
        learner.update(step)
    return learner


@pytest.fixture(scope="module")
def held_out() -> FrameWindows:
    return FrameWindows(square_world(episodes=20, seed=9, axes=1), history=1, size=16)


def test_it_beats_a_world_in_which_nothing_moves(learner: PixelLearner, held_out: FrameWindows):
    found = pixel_open_loop(learner.average, held_out, held_out.followed(4)[:80], (1, 4))
    assert found.errors.shape == found.persistence.shape == (2, 80)
    errors, still = found.errors.mean(1), found.persistence.mean(1)
    assert (errors < 0.6 * still).all()
    assert (psnr(errors) > psnr(still) + 2.0).all()
    assert (found.successes == found.true_successes).float().mean() > 0.85


def test_it_follows_actions(learner: PixelLearner, held_out: FrameWindows):
    index = held_out.followed(1)
    assert pixel_action_following(learner.average, held_out, index) > 1.5
    untrained = PixelLearner(square_world(episodes=4, axes=1), learner.config, seed=0).average
    assert pixel_action_following(untrained, held_out, index[:20]) == pytest.approx(1.0, abs=0.01)


def test_heads_tell_success_and_cost_of_real_frames(learner: PixelLearner, held_out: FrameWindows):
    found = telling(learner.average, held_out, torch.arange(len(held_out)))
    assert min(*found["success"], *found["cost"]) > 0.9


def test_errors_of_frames_known_exactly():
    black, grey = torch.zeros(2, 4, 4, 3, dtype=torch.uint8), torch.full((2, 4, 4, 3), 51, dtype=torch.uint8)
    torch.testing.assert_close(mean_square(black, grey), torch.full((2,), 0.04))
    assert psnr(torch.tensor(0.01)) == pytest.approx(20.0)


def test_one_can_act_in_it(learner: PixelLearner, held_out: FrameWindows):
    starts = held_out.followed(1)[:5]
    env = ImaginedEnv(learner.average, held_out, 6, ImaginedEnvConfig(horizon=3), allowed=starts)
    assert env.single_observation_space.shape == (16, 16, 3)
    assert env.observation_space.dtype == np.uint8
    real = held_out.frames[starts].flatten(1).float()

    def are_real(frames: torch.Tensor) -> bool:
        return bool((torch.cdist(frames.flatten(1).float(), real) < 0.5).any(dim=1).all())

    def played(seed: int) -> list[torch.Tensor]:
        first, _ = env.reset(seed=seed)
        assert are_real(first)
        frames = [first]
        for _ in range(3):
            after, rewards, terminated, truncated, infos = env.step(torch.ones(6, 1))
            frames.append(infos["final_observation"])
            assert after.dtype == torch.uint8
            assert ((rewards == 0.0) | (rewards == 1.0)).all()
            assert not (terminated & truncated).any()
        assert (truncated | terminated).all()
        assert are_real(after)
        return frames

    one = played(0)
    assert all(torch.equal(each, same) for each, same in zip(one, played(0), strict=True))
    # Pushed to the right throughout, the square's mean column grows.
    bright = [(frames.float().mean(dim=(0, 1, 3)) - 60.0).clamp(min=0.0) for frames in (one[0], one[-1])]
    before, after = ((columns * torch.arange(16)).sum() / columns.sum() for columns in bright)
    assert after > before + 1.0
    env.check_frozen()


def test_one_network_does_not_know_how_unsure_it_is(learner: PixelLearner, held_out: FrameWindows):
    with pytest.raises(WorldModelError, match="one member"):
        ImaginedEnv(learner.average, held_out, 2, ImaginedEnvConfig(max_uncertainty=0.5))
    with pytest.raises(WorldModelError, match="windows to start from hold 2"):
        ImaginedEnv(learner.average, FrameWindows(square_world(2, axes=1), history=2, size=16), 2)
