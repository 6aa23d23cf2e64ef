"""Gaussian policies: their likelihoods as denoising steps, cloning, acting, and what is refused."""

from pathlib import Path

import pytest
import torch

from diffpolicy import training
from diffpolicy.alignment import Fixed, Rollout
from diffpolicy.alignment.objectives import SFT
from diffpolicy.data import Standardizer
from diffpolicy.diffusion import sample_path
from diffpolicy.policies import Observation, PolicyError, available_arms, load_policy
from diffpolicy.policies.gaussian import (
    GaussianConfig,
    GaussianNetwork,
    GaussianPolicy,
    gaussian_manifest,
    gaussian_matcher,
    gaussian_model,
    gaussian_policy,
)

CONFIG = GaussianConfig([16], 0.3)
SHIFT, SCALE = torch.tensor([1.0, -2.0, 0.0]), torch.tensor([2.0, 0.5, 1.0])


@pytest.fixture
def network() -> GaussianNetwork:
    return GaussianNetwork(Standardizer(SHIFT, SCALE), 2, CONFIG.hidden, torch.Generator().manual_seed(0))


def test_its_only_denoising_step_is_the_gaussian(network: GaussianNetwork) -> None:
    model, states = gaussian_model(network), torch.randn(6, 3)
    noise = torch.randn(2, 6, 2)
    path = sample_path(model.process, CONFIG.rule, model.levels, network, {"state": states}, noise)
    mean = network.mean(states).detach()
    torch.testing.assert_close(path.clean, mean + 0.3 * noise[1])
    assert path.log_probs is not None
    wanted = torch.distributions.Normal(mean, 0.3).log_prob(path.clean).mean(1)
    torch.testing.assert_close(path.log_probs[0], wanted)


def test_its_matching_error_is_the_squared_distance_of_actions(network: GaussianNetwork) -> None:
    model, states, actions = gaussian_model(network), torch.randn(5, 3), torch.randn(5, 2)
    batch = Rollout(actions, {"state": states}, torch.arange(5))
    loss, _ = SFT(gaussian_matcher(model)).loss(batch, model.roles, torch.Generator())
    torch.testing.assert_close(loss, (network.mean(states) - actions).square().mean())
    assert len(Fixed(batch, 3).gather(model.roles, torch.Generator()).batch.clean) == 3


def test_it_acts_with_its_mean_or_with_samples_that_come_again(network: GaussianNetwork) -> None:
    seen = Observation(torch.randn(4000, 1, 3))
    mean = GaussianPolicy(network)
    chunk, _ = mean.act(seen, mean.start(4000, 0))
    torch.testing.assert_close(chunk.actions[:, 0], network.mean(seen.newest))
    sampled = GaussianPolicy(network, 0.1)
    one, same, other = (sampled.act(seen, sampled.start(4000, seed))[0].actions for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert float(one.abs().max()) <= 1.0
    inside = chunk.actions.abs() < 0.6
    assert abs((one - chunk.actions)[inside].std().item() - 0.1) < 0.01


def test_a_checkpoint_is_the_policy_it_was_made_of(network: GaussianNetwork, tmp_path: Path) -> None:
    manifest = gaussian_manifest(network, CONFIG, 7, task="OfflineBallCircle-v0")
    folder = training.write_checkpoint(
        tmp_path, 1, model=dict(network.state_dict()), state={}, config={}, manifest=manifest
    )
    checkpoint = training.read_checkpoint(folder)
    assert available_arms(checkpoint.manifest) == ["mean", "sampled"]
    seen = Observation(torch.randn(3, 1, 3))
    policy = load_policy(checkpoint, "mean")
    chunk, _ = policy.act(seen, policy.start(3, 0))
    assert torch.equal(chunk.actions[:, 0], network.mean(seen.newest))
    assert gaussian_policy(checkpoint, "sampled").std == 0.3
    with pytest.raises(PolicyError, match="mean, sampled"):
        gaussian_policy(checkpoint, "ddim_3")


@pytest.mark.parametrize("std", [0.0, 1.01])
def test_a_deviation_beyond_the_cap_is_refused(std: float) -> None:
    with pytest.raises(PolicyError, match="at most 1"):
        GaussianConfig([16], std)


def test_cut_means_may_lie_beyond_the_limits_and_are_restored(tmp_path: Path) -> None:
    clipped = GaussianNetwork(
        Standardizer(SHIFT, SCALE), 2, [16], torch.Generator().manual_seed(0), bound="clip"
    )
    with torch.no_grad():
        clipped.layers[-1].bias.copy_(torch.tensor([5.0, 0.0]))  # type: ignore[union-attr]
    states = torch.randn(30, 3)
    assert clipped.mean(states).max().item() > 2.0
    manifest = gaussian_manifest(clipped, CONFIG, 0)
    folder = training.write_checkpoint(
        tmp_path, 1, model=dict(clipped.state_dict()), state={}, config={}, manifest=manifest
    )
    policy = gaussian_policy(training.read_checkpoint(folder), "mean")
    torch.testing.assert_close(policy.network.mean(states), clipped.mean(states))
    chunk, _ = policy.act(Observation(states.unsqueeze(1)), policy.start(30, 0))
    assert float(chunk.actions.max()) == 1.0


def test_runs_from_before_bounds_go_on() -> None:
    assert GaussianConfig([8], 0.2).stored() == {"hidden": [8], "std": 0.2}
    assert GaussianConfig([8], 0.2, "clip").stored() == {"hidden": [8], "std": 0.2, "bound": "clip"}
