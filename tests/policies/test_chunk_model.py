"""The chunk model: units, frames, masks and features against what they should be exactly."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from diffpolicy.data import Chunks, ChunkSampler, OfflineDataset
from diffpolicy.policies import Observation, PolicyError
from diffpolicy.policies.chunk_config import (
    DiffusionConfig,
    EncoderConfig,
    NetworkConfig,
    OptimizerConfig,
    ProcessConfig,
)
from diffpolicy.policies.chunk_levels import draw_levels
from diffpolicy.policies.chunk_model import ChunkModel, Condition
from diffpolicy.policies.features import ObservationFeatures
from diffpolicy.policies.symmetry import Symmetries
from envs.layout import Layout

CPU = torch.device("cpu")


def _asking(config: DiffusionConfig, **options: Any) -> DiffusionConfig:
    return replace(config, conditioning=replace(config.conditioning, **options))


def _windows(dataset: OfflineDataset, config: DiffusionConfig) -> Chunks:
    horizons = (config.observation_horizon, config.prediction_horizon, config.execution_horizon)
    sampler = ChunkSampler(dataset, *horizons)
    return sampler.batch(torch.arange(len(sampler)))


def _model(config: DiffusionConfig, dataset: OfflineDataset, layout: Layout) -> ChunkModel:
    sizes = (dataset.observation_size, dataset.action_size)
    model = ChunkModel(config, *sizes, layout, torch.Generator().manual_seed(0))
    chunks = _windows(dataset, config)
    model.fit(chunks.states, chunks.actions)
    return model


@pytest.mark.parametrize("normalizer", ["minmax", "limits"])
def test_actions_survive_normalisation(
    tiny: DiffusionConfig, plane: OfflineDataset, layout: Layout, normalizer: str
) -> None:
    model = _model(_asking(tiny, normalizer=normalizer), plane, layout)
    normalised = model.from_actions(plane.actions)
    torch.testing.assert_close(model.to_actions(normalised), plane.actions)
    if normalizer == "minmax":
        torch.testing.assert_close(normalised.amax(dim=0), torch.ones(2))
        torch.testing.assert_close(normalised.amin(dim=0), -torch.ones(2))
    else:
        torch.testing.assert_close(normalised, plane.actions)
    assert float(model.to_actions(torch.full((1, 2), 9.0)).max()) == 1.0


def test_discrete_actions_are_scaled(tiny: DiffusionConfig, plane: OfflineDataset, layout: Layout) -> None:
    gripper = plane.actions.clone()
    gripper[:, 1] = (gripper[:, 1] > 0).float()  # two values, 0 and 1
    dataset = replace(plane, actions=gripper)
    for normalizer in ("minmax", "limits"):
        asked = _asking(tiny, normalizer=normalizer, discrete_scale=0.1)
        scaled = _model(asked, dataset, replace(layout, discrete=(1,)))
        normalised = scaled.from_actions(gripper)
        torch.testing.assert_close(normalised[:, 1], 0.2 * gripper[:, 1] - 0.1)
        torch.testing.assert_close(scaled.to_actions(normalised), gripper)


@pytest.mark.parametrize("prediction", ["epsilon", "v", "edm"])
@pytest.mark.parametrize("normalizer", ["minmax", "limits"])
def test_relative_actions_are_exactly_a_change_of_coordinates(
    tiny: DiffusionConfig, plane: OfflineDataset, layout: Layout, prediction: str, normalizer: str
) -> None:
    # Moving clean chunk, and agent, by the same distance moves the prediction by it: D(x + a o, o) = D(x, 0) + o.
    config = _asking(tiny, prediction=prediction, normalizer=normalizer, weight_power=0.0)
    model = _model(config, plane, layout)
    generator = torch.Generator().manual_seed(1)
    noisy = torch.randn(4, 8, 2, generator=generator)
    condition = model.encode(Observation(_windows(plane, config).states[:4]))
    still = condition._replace(origin=torch.zeros_like(condition.origin))
    level = torch.tensor([0, 5, 12, 17])
    signal = model.preconditioner.signal[level].view(-1, 1, 1)
    moved = model(noisy + signal * condition.origin, level, condition)
    torch.testing.assert_close(moved, model(noisy, level, still) + condition.origin, rtol=1e-4, atol=1e-4)
    agent = _windows(plane, config).states[:4, -1:, :2]
    torch.testing.assert_close(model.to_actions(condition.origin), 0.5 * agent + 0.25)


def test_tasks_without_positions_have_no_origin(tiny: DiffusionConfig, plane: OfflineDataset) -> None:
    model = _model(_asking(tiny, features="plain"), plane, Layout())
    assert not model.origin(_windows(plane, tiny).states).any()


@pytest.mark.parametrize("dct", [False, True])
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v", "flow", "edm"])
def test_the_loss_is_zero_exactly_for_the_network_that_knows(
    tiny: DiffusionConfig, plane: OfflineDataset, layout: Layout, prediction: str, dct: bool
) -> None:
    config = _asking(tiny, prediction=prediction, dct=dct, weight_power=0.0)
    model = _model(config, plane, layout)
    chunks = _windows(plane, config)

    class Oracle(torch.nn.Module):
        """Answers with the clean coordinates of the batch, asked through the model's own factors."""

        def forward(self, inputs: Tensor, level: Tensor, tokens: Tensor, generator: object = None) -> Tensor:
            tables = model.preconditioner
            gain, skip, out = tables.acting(level)
            origin = model.origin(chunks.states)
            clean = tables.to_coordinates(model.from_actions(chunks.actions) - origin)
            return (clean - skip * inputs / gain) / out

    model.network = Oracle()
    # At little noise the oracle divides what float32 rounds by little noise.
    assert float(model.loss(chunks, torch.Generator().manual_seed(3))) < 1e-8
    level = torch.full((len(chunks.states),), 10)
    noisy = torch.randn(chunks.actions.shape, generator=torch.Generator().manual_seed(4))
    answer = model(noisy, level, model.encode(Observation(chunks.states)))
    torch.testing.assert_close(model.to_actions(answer), chunks.actions, rtol=0.0, atol=1e-4)


@pytest.mark.parametrize("dct", [False, True])
def test_masked_padding_does_not_count(
    tiny: DiffusionConfig, plane: OfflineDataset, layout: Layout, dct: bool
) -> None:
    config = _asking(tiny, dct=dct, mask_padding=True, prediction="sample", weight_power=0.0)
    model = _model(config, plane, layout)

    class Silent(torch.nn.Module):
        def forward(self, inputs: Tensor, level: Tensor, tokens: Tensor, generator: object = None) -> Tensor:
            return torch.zeros_like(inputs)

    model.network = Silent()
    chunks = _windows(plane, config)
    assert not bool(chunks.valid.all())
    relative = model.from_actions(chunks.actions) - model.origin(chunks.states)
    expected = relative[chunks.valid].square().mean()
    torch.testing.assert_close(model.loss(chunks, torch.Generator()), expected)
    counted = _model(_asking(config, mask_padding=False), plane, layout)
    counted.network = Silent()
    torch.testing.assert_close(counted.loss(chunks, torch.Generator()), relative.square().mean())


def test_geometric_features_are_the_geometry(layout: Layout) -> None:
    features = ObservationFeatures(layout, "geometric", 5, newest_only=True)
    before = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0])
    now = torch.tensor([1.0, 2.0, 1.0, 0.0, math.pi / 2])
    token = features(torch.stack([before, now]).unsqueeze(0))[0, 0]
    columns, turned = [1.0, 2.0, 1.0, 0.0], [0.0, 1.0]
    offset, in_body = [0.0, 2.0], [2.0, 0.0]
    changes = [1.0, 2.0, 0.0, 0.0, -1.0, 1.0]
    torch.testing.assert_close(token, torch.tensor([*columns, *turned, *offset, *in_body, *changes]))
    states = torch.randn(50, 2, 5, generator=torch.Generator().manual_seed(0))
    features.fit(states)
    tokens = ObservationFeatures.forward(features, states)
    assert tokens.shape == (50, 1, features.size)


def test_plain_features_are_min_max_columns(layout: Layout) -> None:
    features = ObservationFeatures(layout, "plain", 5, newest_only=False)
    states = torch.rand(40, 2, 5, generator=torch.Generator().manual_seed(0)) * 7.0
    features.fit(states)
    tokens = features(states)
    assert tokens.shape == states.shape
    torch.testing.assert_close(tokens.flatten(0, 1).amax(dim=0), torch.ones(5))


def test_layouts_beyond_the_observation_are_refused(layout: Layout) -> None:
    with pytest.raises(PolicyError, match="column 4"):
        ObservationFeatures(layout, "plain", 4, newest_only=False)


def test_mirror_images_of_solutions_are_solutions(plane: OfflineDataset, layout: Layout) -> None:
    # In every window the next position is on the straight line to the block, mirrored or not.
    chunks = ChunkSampler(plane, 2, 8, 4).batch(torch.arange(40))
    symmetries = Symmetries(layout, 5, 2, CPU)
    image = symmetries.apply(chunks, torch.ones(40, dtype=torch.int64))
    for batch in (chunks, image):
        agent, block = batch.states[:, -1, :2], batch.states[:, -1, 2:4]
        step, way = (batch.actions[:, 1] - 0.25) / 0.5 - agent, block - agent
        across = step[:, 0] * way[:, 1] - step[:, 1] * way[:, 0]
        torch.testing.assert_close(across, torch.zeros(40), rtol=0.0, atol=1e-5)
    torch.testing.assert_close(image.states[..., 0], -chunks.states[..., 1])
    assert float(image.states[..., 4].min()) >= 0.0
    assert float(image.states[..., 4].max()) < 2 * math.pi
    back = symmetries.apply(image, torch.ones(40, dtype=torch.int64))
    torch.testing.assert_close(back.states, chunks.states, rtol=0.0, atol=1e-5)
    torch.testing.assert_close(back.actions, chunks.actions)
    same = symmetries.apply(chunks, torch.zeros(40, dtype=torch.int64))
    torch.testing.assert_close(same.actions, chunks.actions)


def test_per_step_levels_mix_the_four_kinds() -> None:
    generator = torch.Generator().manual_seed(0)
    levels = draw_levels(4000, 16, 100, True, generator)
    assert levels.shape == (4000, 16)
    assert int(levels.min()) == 0
    assert int(levels.max()) == 99
    steps = levels[:, 1:] - levels[:, :-1]
    constant = (steps == 0).all(dim=1).double().mean()
    rising = (steps >= 0).all(dim=1).double().mean()
    assert 0.24 < constant < 0.32  # a quarter, and the blocks of a whole chunk
    assert 0.70 < rising < 0.80  # all but the independent ones
    single = draw_levels(4000, 16, 100, False, generator)
    assert single.shape == (4000,)
    assert abs(float(single.double().mean()) - 49.5) < 2.0


@pytest.mark.parametrize("kind", ["mlp", "unet", "transformer"])
@pytest.mark.parametrize("per_step", [False, True])
def test_every_network_serves_as_a_denoiser(
    tiny: DiffusionConfig, plane: OfflineDataset, layout: Layout, kind: Any, per_step: bool
) -> None:
    network = NetworkConfig(kind=kind, hidden=[16], channels=[16, 32], step_embedding=16, layers=1, width=16)
    config = _asking(replace(tiny, network=network), dct=False, newest_only=False, per_step_levels=per_step)
    model = _model(config, plane, layout)
    chunks = _windows(plane, config)
    model.loss(chunks, torch.Generator().manual_seed(0)).backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in model.parameters())
    shape = (3, 8) if per_step else (3,)
    condition = model.encode(Observation(chunks.states[:3]))
    clean = model(torch.zeros(3, 8, 2), torch.full(shape, 4), condition)
    assert clean.shape == (3, 8, 2)
    if per_step:  # equal levels everywhere are one level
        table = model.preconditioner
        torch.testing.assert_close(table.acting(torch.full((3, 8), 4)), table.acting(torch.full((3,), 4)))


@pytest.mark.parametrize("kind", ["resnet_small", "vit"])
def test_pictures_become_tokens(
    tiny: DiffusionConfig, plane: OfflineDataset, layout: Layout, kind: Any
) -> None:
    config = replace(
        _asking(tiny, newest_only=False),
        cameras=["camera"],
        encoder=EncoderConfig(kind=kind, size=8, crop=24),
    )
    model = ChunkModel(config, 5, 2, layout, torch.Generator().manual_seed(0))
    states = plane.observations[:2].view(1, 2, 5)
    pictures = torch.randint(
        256, (1, 2, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    condition = model.encode(Observation(states, {"camera": pictures}))
    assert condition.tokens.shape == (1, 2, model.features.size + 8)
    again = model.encode(Observation(states, {"camera": pictures.flip(1)}))
    torch.testing.assert_close(condition.tokens[:, 0, -8:], again.tokens[:, 1, -8:])
    with pytest.raises(PolicyError, match="looks at camera 'camera'"):
        model.encode(Observation(states))


def test_contradictions_are_refused(tiny: DiffusionConfig) -> None:
    with pytest.raises(PolicyError, match="dct mixes"):
        _asking(tiny, per_step_levels=True)
    with pytest.raises(PolicyError, match="pure noise"):
        replace(
            _asking(tiny, prediction="epsilon", weight_power=0.0), process=replace(tiny.process, kind="flow")
        )
    with pytest.raises(PolicyError, match="weight_power"):
        _asking(tiny, prediction="v")
    with pytest.raises(PolicyError, match=r"keeps 0.60 of the action .* process.levels=1000"):
        replace(tiny, process=ProcessConfig("linear", 100))
    assert replace(tiny, process=ProcessConfig("linear", 1000)).process.build().levels == 1000
    with pytest.raises(PolicyError, match="one width at least"):
        replace(tiny, network=NetworkConfig("mlp", hidden=[]))
    with pytest.raises(PolicyError, match="multiple of 16, not 8"):
        replace(tiny, network=NetworkConfig("unet", channels=[8] * 5, groups=4))
    for scale in (0.0, 2.0):  # what is beyond 1 a sampler would clip
        with pytest.raises(PolicyError, match="discrete_scale"):
            _asking(tiny, discrete_scale=scale)


def test_conditions_pass_through_a_denoiser_untouched(
    tiny: DiffusionConfig, plane: OfflineDataset, layout: Layout
) -> None:
    model = _model(tiny, plane, layout)
    condition = model.encode(Observation(_windows(plane, tiny).states[:2]))
    assert isinstance(condition, Condition)
    alone = model.encode(Observation(_windows(plane, tiny).states[:1]))
    torch.testing.assert_close(condition.tokens[:1], alone.tokens)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": -0.1}, "dropout"),
        ({"groups": 0}, "groups must be at least 1"),
        ({"heads": 0}, "heads must be at least 1"),
        ({"hidden": [16, 0]}, "widths of 1 or more"),
    ],
)
def test_networks_that_cannot_be_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(PolicyError, match=says):
        NetworkConfig(**options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"learning_rate": -1.0}, "learning_rate is 0 or more"),
        ({"learning_rate": float("nan")}, "learning_rate is 0 or more"),
        ({"betas": [1.0, 0.999]}, "betas are two numbers"),
        ({"betas": [0.9]}, "betas are two numbers"),
        ({"gradient_clip": 0.0}, "gradient_clip is above 0"),
        ({"ema_power": -1.0}, "ema_power is 0 or more"),
        ({"ema_limit": 1.5}, "ema_limit lies between"),
        ({"batch": 0}, "batch must be at least 1"),
    ],
)
def test_optimisers_that_cannot_learn_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(PolicyError, match=says):
        OptimizerConfig(**options)
