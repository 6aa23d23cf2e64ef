"""Refinement from pictures, in a world of a moving square that the model knows exactly."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffpolicy.data import OfflineDataset
from diffpolicy.policies.picture_gaussian import PictureGaussianConfig, PictureNetwork, PicturePolicy
from diffpolicy.refinement import (
    BranchValueConfig,
    ImaginationConfig,
    PictureCloneConfig,
    RefineConfig,
    RefinementError,
    RewardOnly,
    episodes_env,
    first_moments,
    imagine_episodes,
    picture_cloner,
    picture_values,
    refined_network,
    refiner,
    replay_confusion,
)
from diffpolicy.refinement.pictures import frozen_features
from world_models import FrameWindows, Imagined, ImaginedEnv, ImaginedEnvConfig, PixelConfig, PixelWorldModel
from world_models.windows import FrameWindow

sys.path.insert(0, str(Path(__file__).parents[1] / "world_models"))

from square_world import picture, square_world

CPU = torch.device("cpu")
SIZE, LAST, NEAR = 16, 12, 10
POLICY = PictureGaussianConfig([32], 0.3, features=16, size=SIZE, camera="top")


class Exact(nn.Module):
    """The square world, read from the frames, with steps of `reach` pixels: success is to be near the right wall."""

    def __init__(self, reach: float = 2.0) -> None:
        super().__init__()
        self.reach = reach
        self.config, self.action_size, self.members = SimpleNamespace(history=1, camera="top"), 1, 1
        self.weight = nn.Parameter(torch.zeros(1))

    def imagine(self, window: FrameWindow, member: Tensor, generator: torch.Generator) -> Imagined:
        bright = window.observations[:, -1, ..., 0] > 100
        column, row = (bright.any(axis).float().argmax(1) for axis in (1, 2))
        column = (column + self.reach * window.actions[:, -1, 0]).round().clamp(0, LAST).long()
        frames = picture(torch.stack([column, row], dim=1), SIZE)
        nothing = torch.zeros(len(column))
        return Imagined(frames, (column >= NEAR).float(), nothing, nothing, nothing)


def world() -> OfflineDataset:
    return square_world(episodes=20, length=8, size=SIZE, axes=1)


def clone(updates: int) -> PictureNetwork:
    config = PictureCloneConfig(updates, 32, 3e-3, 0)
    learner = picture_cloner(world(), POLICY, config, 0, CPU, {"task": "square"})
    for step in range(learner.total_steps):
        learner.update(step)
    network = refined_network(learner)
    assert isinstance(network, PictureNetwork)
    return network


def test_a_clone_reads_the_action_from_the_picture() -> None:
    data = world()
    shown = torch.from_numpy(data.images["top"])
    wanted = torch.where((shown[:, :, 8:, 0] > 100).flatten(1).any(1), -1.0, 1.0)[
        :, None
    ]  # to the other half
    data = replace(data, actions=0.8 * wanted)
    config = PictureCloneConfig(150, 64, 3e-3, 1)
    learner = picture_cloner(data, POLICY, config, 0, CPU, {"task": "square"})
    for step in range(learner.total_steps):
        learner.update(step)
    mean = refined_network(learner).mean(shown).detach()
    assert (mean - 0.8 * wanted).abs().mean() < 0.15
    assert learner.manifest()["method"] == "picture_gaussian"
    with pytest.raises(RefinementError, match="cloning takes updates"):
        PictureCloneConfig(updates=0)


def test_features_stay_what_they_were_when_the_policy_learns_on() -> None:
    encoder = clone(1).encoder
    features = frozen_features(encoder)
    shown = torch.from_numpy(world().images["top"][:6]).view(2, 3, SIZE, SIZE, 3)
    before = features(shown)
    assert before.shape == (2, 3, 16)
    torch.testing.assert_close(before.flatten(0, 1), encoder(shown.flatten(0, 1)))
    with torch.no_grad():
        encoder.output.weight.zero_()
    assert torch.equal(features(shown), before)


def test_refinement_finds_the_wall_in_imagined_pictures() -> None:
    data, model, network = world(), Exact(4.0), clone(50)
    windows = FrameWindows(data, 1, SIZE, camera="top")
    env = ImaginedEnv(model, windows, 64, ImaginedEnvConfig(horizon=8))
    value = BranchValueConfig(hidden=(32,), data_epochs=1)
    # The data are paid at every step on the right, imagined episodes once, at their end.
    unpaid = replace(data, rewards=torch.zeros_like(data.rewards))
    values = picture_values(unpaid, network.encoder, "top", value, 0, CPU)
    imagination = ImaginationConfig(1, 2, success=True)
    config = RefineConfig(iterations=15, updates=16, learning_rate=3e-3, imagination=imagination)

    def success(policy: PictureNetwork) -> float:
        model_like: Any = model
        episodes = episodes_env(model_like, windows, first_moments(data, windows), 64, 8)
        return imagine_episodes(PicturePolicy(policy, "top"), episodes, 0).success.float().mean().item()

    before = success(network)
    learner = refiner(network, POLICY, data, env, RewardOnly(), config, 0, {"task": "square"}, values)
    for step in range(learner.total_steps):
        learner.update(step)
    refined = refined_network(learner)
    assert isinstance(refined, PictureNetwork)
    assert success(refined) > before + 0.2
    assert learner.manifest()["gaussian"]["camera"] == "top"


def test_failures_of_pictures_are_fed_to_the_model_by_the_frames_they_began_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data, exact = world(), Exact()
    model = PixelWorldModel(PixelConfig(size=SIZE, history=1, camera="top"), 1, torch.Generator())
    monkeypatch.setattr(model, "imagine", exact.imagine)
    # The world pays from the middle on, the model at the wall alone: whom it calls a success is one.
    found = replay_confusion(model, data)
    assert found.false_positive == 0
    assert found.true_positive > 0
    assert found.false_negative > 0
    assert sum(found) == data.num_episodes
    paid = torch.stack([each.max() for each in data.rewards.split(8)]) > 0.5
    assert found.true_positive + found.false_negative == int(paid.sum())
