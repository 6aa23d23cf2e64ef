import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from diffpolicy.data import OfflineDataset
from world_models import (
    DiffusionSteps,
    Outcome,
    StateWorldModel,
    Window,
    WorldModelConfig,
    WorldModelError,
    WorldModelLearner,
)
from world_models.fidelity import longest

from .conftest import without_final_observations

Train = Callable[..., WorldModelLearner]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("kind", ["deterministic", "diffusion"])
def test_it_learns_the_line_and_what_it_is_worth(trained: Train, kind: str):
    model = trained(kind).average
    place, action = torch.linspace(-0.8, 0.8, 33), torch.linspace(-1.0, 1.0, 33).flip(0)
    now = torch.stack([place, torch.full_like(place, 3.0)], dim=1)[:, None]
    imagined = model.imagine(
        Window(now, action[:, None, None]), torch.zeros(33, dtype=torch.int64), generator()
    )
    truth = place + 0.2 * action
    step = (truth - place).square().mean().sqrt()
    assert (imagined.observations[:, 0] - truth).square().mean().sqrt() < 0.2 * step
    assert (imagined.observations[:, 1] == 3.0).all()
    assert (imagined.rewards - truth).abs().mean() < 0.05
    clear = (truth - 0.5).abs() > 0.1
    assert ((imagined.costs > 0.5) == (truth > 0.5))[clear].all()


def test_diffusion_imagines_the_noise_of_the_world_and_the_other_kind_its_mean(trained: Train):
    noise = 0.05
    now = torch.tensor([[0.0, 3.0]]).expand(2000, 1, 2)
    window, member = Window(now, torch.zeros(2000, 1, 1)), torch.zeros(2000, dtype=torch.int64)
    spread = trained("diffusion", noise).average.imagine(window, member, generator()).observations[:, 0].std()
    assert 0.6 * noise < spread < 1.5 * noise
    assert (
        trained("deterministic", noise).average.imagine(window, member, generator()).observations[:, 0].std()
        < 1e-6
    )


def test_uncertainty_grows_where_there_were_no_data(trained: Train):
    model = trained("deterministic").average
    near = torch.tensor([[0.0, 3.0]]).expand(50, 1, 2)
    actions = torch.linspace(-1.0, 1.0, 50)[:, None, None]
    member = torch.zeros(50, dtype=torch.int64)
    inside = model.imagine(Window(near, actions), member, generator()).uncertainty
    outside = model.imagine(Window(near + torch.tensor([9.0, 0.0]), actions), member, generator()).uncertainty
    assert outside.mean() > 3.0 * inside.mean()


def test_preconditioning_gives_inputs_and_targets_of_variance_one():
    config = WorldModelConfig(kind="diffusion", members=1, hidden=[8], head_hidden=[8])
    model = StateWorldModel(config, 4, 2, generator())
    seen: list[torch.Tensor] = []
    model.dynamics.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    clean, noise = (torch.randn(1, 20_000, 4, generator=generator()) for _ in range(2))
    noise = noise.flip(1)
    for sigma in (0.05, 0.7, 5.0):
        level = torch.full((1, 20_000, 1), sigma)
        noisy = clean + sigma * noise
        model.denoise(noisy, level, torch.zeros(1, 20_000, 6))
        shown = seen.pop()[..., 6:10]
        # EDM's c_skip and c_out for sigma_data 1 (Karras et al. 2022, table 1).
        target = (clean - noisy / (1 + sigma**2)) * (1 + sigma**2) ** 0.5 / sigma
        assert abs(shown.var().item() - 1.0) < 0.03
        assert abs(target.var().item() - 1.0) < 0.03


def test_history_two_hot_and_relative_columns_are_shown(line_world: Callable[..., OfflineDataset]):
    config = WorldModelConfig(
        members=1,
        history=3,
        two_hot_bins=5,
        relative=[[0, 1]],
        relative_scale=0.5,
        hidden=[8],
        head_hidden=[8],
    )
    learner = WorldModelLearner(line_world(episodes=4), config, seed=0)
    window = learner.windows.window(torch.tensor([7, 8]))
    features = learner.average.features(window)
    assert features.shape == (2, 2 * 3 + 3 * 5 + 1)
    torch.testing.assert_close(
        features[:, -1], (window.observations[:, -1, 0] - window.observations[:, -1, 1]) / 0.5
    )


def test_a_last_step_whose_outcome_was_not_kept_teaches_nothing(line_world: Callable[..., OfflineDataset]):
    """Copies in place of final observations would say that nothing moved, and hide that a column is another's past."""
    dataset = line_world(episodes=6)
    before = dataset.observations[:, :1].roll(1, dims=0)
    before[dataset.rows[dataset.episode_starts]] = 0.0
    dataset = replace(dataset, observations=torch.cat([dataset.observations, before], dim=1))
    config = WorldModelConfig(members=1, hidden=[8], head_hidden=[8], updates=2, batch=512)
    models = []
    for final in (1.0, 2.0):  # what the copies hold does not matter
        short = without_final_observations(dataset)
        short.observations[dataset.rows[dataset.episode_ends - 1] + 1] *= final
        learner = WorldModelLearner(short, config, seed=0)
        models.append((learner.average, learner.update(0)))
    for one, other in zip(*(model.state_dict().values() for model, _ in models), strict=True):
        assert torch.equal(one, other)
    assert models[0][1] == models[1][1]
    assert models[0][0].source.tolist() == [-1, -1, 0]
    ends = dataset.episode_ends
    inner = torch.ones(dataset.num_transitions, dtype=torch.bool)
    inner[ends - 1] = False
    change = (dataset.observations[dataset.rows + 1] - dataset.observations[dataset.rows])[inner, 0]
    torch.testing.assert_close(models[0][0].change[0], change.square().mean().sqrt())


def test_data_of_single_steps_without_their_outcome_are_refused(line_world: Callable[..., OfflineDataset]):
    dataset = line_world(episodes=1)
    single = OfflineDataset(
        observations=dataset.observations[[0, 0, 2, 2]],
        rows=torch.tensor([0, 2]),
        actions=dataset.actions[:2],
        rewards=dataset.rewards[:2],
        costs=dataset.costs[:2],
        terminals=torch.zeros(2, dtype=torch.bool),
        timeouts=torch.ones(2, dtype=torch.bool),
        episode_ends=torch.tensor([1, 2]),
        final_observations_known=False,
    )
    with pytest.raises(WorldModelError, match="show no step"):
        WorldModelLearner(single, WorldModelConfig(updates=1), seed=0)
    with pytest.raises(WorldModelError, match="nothing can be judged"):
        longest(single, 5)


def test_nan_in_the_data_and_options_that_cannot_be_are_refused(line_world: Callable[..., OfflineDataset]):
    dataset = line_world(episodes=2)
    actions = dataset.actions.clone()
    actions[3] = torch.nan
    with pytest.raises(WorldModelError, match="actions of the data"):
        WorldModelLearner(replace(dataset, actions=actions), WorldModelConfig(updates=1), seed=0)
    observations = dataset.observations.clone()
    observations[0] = torch.nan
    with pytest.raises(WorldModelError, match="observations of the data"):
        WorldModelLearner(replace(dataset, observations=observations), WorldModelConfig(updates=1), seed=0)
    with pytest.raises(WorldModelError, match="columns 0 to 1"):
        WorldModelLearner(dataset, WorldModelConfig(updates=1, relative=[[0, 99]]), seed=0)
    for options in (
        {"members": 0},
        {"kind": "magic"},
        {"two_hot_bins": 1},
        {"two_hot_bins": -1},
        {"relative": [[1]]},
        {"relative": [[0, -1]]},
        {"relative_scale": 0.0},
        {"hidden": [8, 0]},
        {"learning_rate": -1.0},
        {"weight_decay": math.inf},
        {"history_noise": math.nan},
    ):
        with pytest.raises(WorldModelError):
            WorldModelConfig(**options)
    for noise in ({"rho": 0.0}, {"sigma_max": math.inf}, {"mean": math.nan}):
        with pytest.raises(WorldModelError):
            DiffusionSteps(**noise)


@pytest.mark.parametrize("kind", ["deterministic", "diffusion"])
def test_one_member_alone_expects_what_it_imagines_among_all(trained: Train, kind: str):
    learner = trained(kind)
    member = torch.tensor([1, 0, 1, 1, 0, 1, 1])
    window = learner.windows.window(torch.arange(7))
    imagined = learner.average.imagine(window, member, generator())
    expected = learner.average.expect(window, member, generator())
    for name in expected._fields:
        torch.testing.assert_close(getattr(expected, name), getattr(imagined, name), rtol=1e-5, atol=1e-5)
    nobody = learner.average.expect(window, torch.zeros(7, dtype=torch.int64), generator())
    assert not torch.allclose(nobody.observations, expected.observations, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("change", "loss"), [(0.5, 0.25), (-10.0, 19.0)])
def test_an_outlier_counts_by_its_size_and_not_by_its_square(change: float, loss: float):
    model = StateWorldModel(WorldModelConfig(members=1, hidden=[8], head_hidden=[8]), 1, 1, generator())
    torch.nn.init.zeros_(model.dynamics.layers[-1].weight)  # it expects no change
    nothing = torch.zeros(1, 4)
    window = Window(torch.zeros(1, 4, 1, 1), torch.zeros(1, 4, 1, 1))
    outcome = Outcome(torch.full((1, 4, 1), change), nothing, nothing, nothing)
    assert model.loss(window, outcome, generator())["dynamics"].item() == pytest.approx(loss)


def with_the_state_before(dataset: OfflineDataset) -> OfflineDataset:
    """Add a column that holds the place one step earlier, as Meta-World's states do."""
    earlier = dataset.observations[:, :1].roll(1, dims=0)
    first = dataset.rows[dataset.episode_starts]
    earlier[first] = dataset.observations[first, :1]
    return replace(dataset, observations=torch.cat([dataset.observations, earlier], dim=1))


def test_a_column_that_repeats_another_is_copied_and_not_learnt(line_world: Callable[..., OfflineDataset]):
    dataset = with_the_state_before(line_world(episodes=10))
    options = {"members": 2, "hidden": [8], "head_hidden": [8], "updates": 1}
    learner = WorldModelLearner(dataset, WorldModelConfig(**options), seed=0)
    model = learner.average
    assert model.source.tolist() == [-1, -1, 0]
    assert model.moving.tolist() == [1.0, 0.0, 1.0]
    assert model.learnt.tolist() == [1.0, 0.0, 0.0]
    window = learner.windows.window(torch.arange(20))
    for imagine in (model.imagine, model.expect):
        imagined = imagine(window, torch.zeros(20, dtype=torch.int64), generator())
        assert torch.equal(imagined.observations[:, 2], window.observations[:, -1, 0])
        assert not torch.allclose(imagined.observations[:, 0], window.observations[:, -1, 0])
    model.dynamics.layers[-1].weight.data[..., 2] = torch.inf  # what is said of it is not listened to
    imagined = model.imagine(window, torch.zeros(20, dtype=torch.int64), generator())
    assert torch.equal(imagined.observations[:, 2], window.observations[:, -1, 0])


def test_a_column_that_repeats_another_nearly_always_is_learnt(line_world: Callable[..., OfflineDataset]):
    dataset = with_the_state_before(line_world(episodes=40))
    observations = dataset.observations.clone()
    observations[-1, 2] += 0.01
    options = {"members": 1, "hidden": [8], "head_hidden": [8], "updates": 1}
    learner = WorldModelLearner(
        replace(dataset, observations=observations), WorldModelConfig(**options), seed=0
    )
    assert learner.average.source.tolist() == [-1, -1, -1]
