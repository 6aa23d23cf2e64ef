"""Gaussian policies that see pictures: what they look at, how pictures are moved, and their checkpoints."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from diffpolicy import training
from diffpolicy.data import from_transitions
from diffpolicy.policies import Observation, PolicyError, available_arms, load_policy
from diffpolicy.policies.gaussian import load_gaussian
from diffpolicy.policies.picture_gaussian import (
    PictureGaussianConfig,
    PictureNetwork,
    PicturePolicy,
    load_picture_gaussian,
    picture_manifest,
    picture_policy,
    pictured_actions,
    shifted_pictures,
)

CONFIG = PictureGaussianConfig([16], 0.3, features=8, size=8, camera="top")


@pytest.fixture
def network() -> PictureNetwork:
    return PictureNetwork(CONFIG, 2, torch.Generator().manual_seed(0))


def pictures(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 8, 8, 3), generator=generator, dtype=torch.uint8)


def test_it_acts_by_the_newest_picture_of_its_camera_and_nothing_else(network: PictureNetwork) -> None:
    policy = PicturePolicy(network, "top")
    old, new = pictures(4), pictures(4, seed=1)
    shown = {"top": torch.stack([old, new], dim=1), "other": old[:, None]}
    states = [torch.zeros(4, 2, 3), torch.full((4, 2, 3), 1e6)]
    acted = [policy.act(Observation(state, shown), policy.start(4, 0))[0].actions for state in states]
    assert torch.equal(*acted)
    torch.testing.assert_close(acted[0][:, 0], network.mean(new))
    assert not torch.allclose(network.mean(old), network.mean(new))


@pytest.mark.parametrize("images", [None, {"side": torch.zeros(4, 1, 8, 8, 3)}])
def test_without_its_camera_it_does_not_act(network: PictureNetwork, images: dict[str, torch.Tensor]) -> None:
    policy = PicturePolicy(network, "top")
    with pytest.raises(PolicyError, match="pictures of 'top'"):
        policy.act(Observation(torch.zeros(4, 1, 3), images), policy.start(4, 0))


def test_moved_pictures_repeat_their_edges() -> None:
    picture = torch.arange(16, dtype=torch.uint8).view(1, 4, 4, 1).expand(1, 4, 4, 3)
    moved = shifted_pictures(picture, 1)
    assert moved.shape == (9, 4, 4, 3)
    assert moved.dtype == torch.uint8
    assert torch.equal(moved[4], picture[0])
    # The first is moved down and to the right by one: its first row and column are there twice.
    assert moved[0, :, :, 0].tolist() == [[0, 0, 1, 2], [0, 0, 1, 2], [4, 4, 5, 6], [8, 8, 9, 10]]
    assert moved[8, :, :, 0].tolist() == [[5, 6, 7, 7], [9, 10, 11, 11], [13, 14, 15, 15], [13, 14, 15, 15]]
    assert torch.equal(shifted_pictures(picture, 0), picture)


def test_every_moved_picture_has_the_action_of_its_own() -> None:
    dataset = from_transitions(
        observations=torch.zeros(3, 1).numpy(),
        actions=torch.tensor([[0.1], [0.2], [0.3]]).numpy(),
        rewards=torch.zeros(3).numpy(),
        costs=torch.zeros(3).numpy(),
        terminals=torch.zeros(3, dtype=torch.bool).numpy(),
        timeouts=torch.tensor([False, False, True]).numpy(),
    )
    shown = replace(dataset, images={"top": pictures(3).numpy()})
    samples = pictured_actions(shown, "top", 1, "cpu")
    assert torch.equal(samples.clean, dataset.actions.repeat(9, 1))
    assert torch.equal(samples.condition["state"][12:15], pictures(3))


def test_a_checkpoint_is_the_policy_it_was_made_of(network: PictureNetwork, tmp_path: Path) -> None:
    manifest = picture_manifest(network, CONFIG, 7, task="reach-v3-pixels")
    folder = training.write_checkpoint(
        tmp_path, 1, model=dict(network.state_dict()), state={}, config={}, manifest=manifest
    )
    checkpoint = training.read_checkpoint(folder)
    assert available_arms(checkpoint.manifest) == ["mean", "sampled"]
    shown = Observation(torch.zeros(3, 1, 0), {"top": pictures(3)[:, None]})
    policy = load_policy(checkpoint, "mean")
    assert torch.equal(policy.act(shown, policy.start(3, 0))[0].actions[:, 0], network.mean(pictures(3)))
    assert picture_policy(checkpoint, "sampled").std == 0.3
    with pytest.raises(PolicyError, match="mean, sampled"):
        picture_policy(checkpoint, "ddim_3")
    with pytest.raises(PolicyError, match="not a Gaussian one"):
        load_gaussian(checkpoint)
    other = training.write_checkpoint(
        tmp_path, 2, model={}, state={}, config={}, manifest={**manifest, "method": "gaussian"}
    )
    with pytest.raises(PolicyError, match="not one of pictures"):
        load_picture_gaussian(training.read_checkpoint(other))


@pytest.mark.parametrize("given", [{"size": 30}, {"size": 0}, {"features": 0}])
def test_sizes_without_a_meaning_are_refused(given: dict[str, int]) -> None:
    with pytest.raises(PolicyError, match="multiples of 4"):
        PictureGaussianConfig([16], 0.3, **given)


def test_pictures_of_another_size_are_refused(network: PictureNetwork) -> None:
    with pytest.raises(PolicyError, match=r"8 x 8 pixels .* not of shape \(16, 16, 3\)"):
        network.mean(torch.zeros(2, 16, 16, 3, dtype=torch.uint8))
