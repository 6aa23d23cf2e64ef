"""Training chunk policies: what is learnt, averages, schedules, resuming, loading, refusals."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from diffpolicy import training
from diffpolicy.data import OfflineDataset
from diffpolicy.diffusion import Sampler, trailing
from diffpolicy.policies import Observation, PolicyError
from diffpolicy.policies.chunk_config import (
    ConditioningConfig,
    DiffusionConfig,
    EncoderConfig,
    OptimizerConfig,
    config_from,
)
from diffpolicy.policies.chunk_loading import layout_from, load_chunk_model
from diffpolicy.policies.chunk_model import ChunkModel
from diffpolicy.policies.diffusion_policy import DiffusionLearner, average_decay, learning_rate
from envs.layout import Layout

CPU = torch.device("cpu")
Make = Callable[[Tensor, Tensor, list[int]], OfflineDataset]


def _learner(
    dataset: OfflineDataset, config: DiffusionConfig, layout: Layout, seed: int = 0
) -> DiffusionLearner:
    return DiffusionLearner(dataset, config, seed, layout, CPU, {"task": "plane"})


def _chunks(model: ChunkModel, states: Tensor, seed: int = 0, steps: int = 5) -> Tensor:
    sampler = Sampler(model.process, "ddim", trailing(model.process.levels, steps), clip=1.0)
    generator = torch.Generator().manual_seed(seed)
    noise = sampler.draw((len(states), model.prediction_horizon, model.action_size), generator)
    with torch.no_grad():
        return model.to_actions(sampler.sample(model, model.encode(Observation(states)), noise))


@pytest.mark.parametrize("prediction", ["edm", "epsilon"])
def test_both_ways_are_learnt_where_regression_goes_between(
    tiny: DiffusionConfig, make_demonstrations: Make, prediction: Any
) -> None:
    # From the same place half of the demonstrations go left and half right; the mean, staying, is never right.
    lengths = [16] * 40
    sides = torch.tensor([-0.8, 0.8]).repeat_interleave(16).repeat(20)
    data = make_demonstrations(torch.zeros(len(sides), 1), sides.unsqueeze(1), lengths)
    asked = ConditioningConfig(prediction=prediction)
    optimizer = OptimizerConfig(
        updates=500, batch=128, learning_rate=3e-3, warmup=20, gradient_clip=1.0, ema_limit=0.98
    )
    network = replace(tiny.network, hidden=[64, 64])
    config = replace(tiny, conditioning=asked, network=network, optimizer=optimizer)
    learner = _learner(data, config, Layout())
    losses = [float(learner.update(step)["loss"]) for step in range(optimizer.updates)]
    assert sum(losses[-50:]) < 0.5 * sum(losses[:50])
    actions = _chunks(learner.average, torch.zeros(200, 2, 1), steps=20)
    assert float((actions.abs() - 0.8).abs().mean()) < 0.15
    assert float((actions.std(dim=1) < 0.2).double().mean()) > 0.9  # a chunk goes one way
    right = float((actions.mean(dim=(1, 2)) > 0).double().mean())
    assert 0.25 < right < 0.75


def test_averages_follow_their_closed_form(
    tiny: DiffusionConfig, plane: OfflineDataset, layout: Layout
) -> None:
    config = OptimizerConfig()
    assert average_decay(0, config) == 0.0
    assert average_decay(10, config) == pytest.approx(1 - 11**-0.75)
    assert average_decay(10**9, config) == config.ema_limit
    learner = _learner(plane, tiny, layout)
    expected = [torch.zeros_like(parameter) for parameter in learner.trained.parameters()]
    for step in range(4):
        learner.update(step)
        decay = average_decay(step, tiny.optimizer)
        expected = [
            decay * old + (1 - decay) * new.detach()
            for old, new in zip(expected, learner.trained.parameters(), strict=True)
        ]
    torch.testing.assert_close(list(learner.average.parameters()), expected, rtol=1e-5, atol=1e-6)


def test_the_rate_warms_up_and_follows_a_cosine() -> None:
    config = OptimizerConfig(updates=110, learning_rate=2.0, warmup=10, final_fraction=0.1)
    assert [learning_rate(step, config) for step in (0, 4, 9)] == pytest.approx([0.2, 1.0, 2.0])
    assert learning_rate(60, config) == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))
    assert learning_rate(110, config) == pytest.approx(0.2)


def test_resuming_goes_on_bit_for_bit(
    tiny: DiffusionConfig, plane: OfflineDataset, layout: Layout, tmp_path: Path
) -> None:
    whole = _learner(plane, tiny, layout)
    for step in range(8):
        whole.update(step)
    first = _learner(plane, tiny, layout)
    for step in range(4):
        first.update(step)
    stored = training.write_checkpoint(
        tmp_path, 4, model=first.model(), state=first.state(), config={}, manifest=first.manifest()
    )
    second = _learner(plane, tiny, layout, seed=1)
    second.load_state(training.read_training_state(stored))
    for step in range(4, 8):
        second.update(step)
    for name, tensor in whole.model().items():
        assert torch.equal(tensor, second.model()[name]), name


def test_a_loaded_model_acts_like_the_trained_one(
    tiny: DiffusionConfig, plane: OfflineDataset, layout: Layout, tmp_path: Path
) -> None:
    learner = _learner(plane, tiny, layout)
    path = training.run(
        learner, tmp_path, {"policy": asdict(tiny)}, checkpoint_every=40, log_every=20, progress=False
    )
    checkpoint = training.read_checkpoint(path)
    model = load_chunk_model(checkpoint)
    states = plane.observations[:6].view(3, 2, 5)
    assert torch.equal(_chunks(model, states), _chunks(learner.average, states))
    assert model.layout == layout
    assert checkpoint.manifest["method"] == "diffusion"
    assert checkpoint.manifest["task"] == "plane"
    assert (model.observation_horizon, model.prediction_horizon, model.execution_horizon) == (2, 8, 4)


def test_checkpoints_of_something_else_are_refused(
    tiny: DiffusionConfig, plane: OfflineDataset, layout: Layout, tmp_path: Path
) -> None:
    learner = _learner(plane, tiny, layout)

    def stored(folder: str, manifest: dict[str, Any], policy: dict[str, Any]) -> training.Checkpoint:
        path = training.write_checkpoint(
            tmp_path / folder,
            1,
            model=learner.model(),
            state={},
            config={"policy": policy},
            manifest=manifest,
        )
        return training.read_checkpoint(path)

    with pytest.raises(PolicyError, match="method 'fisor'"):
        load_chunk_model(stored("a", {"method": "fisor"}, {}))
    with pytest.raises(PolicyError, match="option that this version"):
        load_chunk_model(stored("b", learner.manifest(), {"horizon": 3}))
    other = asdict(replace(tiny, prediction_horizon=16))
    with pytest.raises(PolicyError, match="do not fit"):
        load_chunk_model(stored("c", learner.manifest(), other))


def test_layouts_and_configurations_survive_json(tiny: DiffusionConfig, layout: Layout) -> None:
    assert layout_from(json.loads(json.dumps(asdict(layout)))) == layout
    assert layout_from(json.loads(json.dumps(asdict(Layout())))) == Layout()
    assert config_from(json.loads(json.dumps(asdict(tiny)))) == tiny


def test_the_same_seed_trains_the_same_policy(
    tiny: DiffusionConfig, plane: OfflineDataset, layout: Layout
) -> None:
    one, same, other = (_learner(plane, tiny, layout, seed) for seed in (3, 3, 4))
    losses = [[float(learner.update(step)["loss"]) for step in range(3)] for learner in (one, same, other)]
    assert losses[0] == losses[1] != losses[2]


def test_bfloat16_leaves_weights_in_float32(
    tiny: DiffusionConfig, plane: OfflineDataset, layout: Layout
) -> None:
    low = replace(tiny, optimizer=replace(tiny.optimizer, bfloat16=True))
    exact, rounded = _learner(plane, tiny, layout), _learner(plane, low, layout)
    first, second = float(exact.update(0)["loss"]), float(rounded.update(0)["loss"])
    assert first != second
    assert second == pytest.approx(first, rel=0.02)
    assert all(tensor.dtype != torch.bfloat16 for tensor in rounded.model().values())


def test_a_policy_learns_from_pictures(tiny: DiffusionConfig, make_demonstrations: Make) -> None:
    # Only the picture says where to go: a bright half is the side that the action is on.
    sides = torch.tensor([-0.8, 0.8]).repeat_interleave(16).repeat(8)
    pictures = torch.zeros(len(sides), 24, 24, 3, dtype=torch.uint8)
    pictures[sides < 0, :, :12] = 255
    pictures[sides > 0, :, 12:] = 255
    data = make_demonstrations(torch.zeros(len(sides), 1), sides.unsqueeze(1), [16] * 16)
    config = replace(
        tiny,
        cameras=["camera"],
        conditioning=ConditioningConfig(prediction="edm"),
        encoder=EncoderConfig(kind="resnet_small", size=4, crop=20),
        optimizer=OptimizerConfig(updates=60, batch=32, learning_rate=3e-3, warmup=5, ema_limit=0.9),
    )
    learner = _learner(replace(data, images={"camera": pictures.numpy()}), config, Layout())
    for step in range(60):
        learner.update(step)
    assert learner.manifest()["cameras"] == {"camera": [24, 24]}
    seen = pictures[[0, 1, 16, 17]].view(2, 2, 24, 24, 3)
    sampler = Sampler(learner.average.process, "ddim", trailing(20, 5), clip=1.0)
    noise = sampler.draw((2, 8, 1), torch.Generator().manual_seed(0))
    condition = learner.average.encode(Observation(torch.zeros(2, 2, 1), {"camera": seen}))
    with torch.no_grad():
        actions = sampler.sample(learner.average, condition, noise)
    torch.testing.assert_close(actions.mean(dim=(1, 2)), torch.tensor([-1.0, 1.0]), rtol=0.0, atol=0.3)


def test_demonstrations_that_teach_nothing_are_refused(
    tiny: DiffusionConfig, plane: OfflineDataset, layout: Layout
) -> None:
    broken = plane.observations.clone()
    broken[7, 2] = float("nan")
    with pytest.raises(PolicyError, match="observations hold NaN or infinity in 1 rows, the first is 7"):
        _learner(replace(plane, observations=broken), tiny, layout)
    with pytest.raises(PolicyError, match=r"policies act in \[-1, 1\]"):
        _learner(replace(plane, actions=plane.actions * 512.0), tiny, layout)
    with pytest.raises(PolicyError, match="no camera top; it has none"):
        _learner(plane, replace(tiny, cameras=["top"]), layout)
    pictures = {"top": torch.zeros(plane.num_transitions, 24, 24, 3, dtype=torch.uint8).numpy()}
    with pytest.raises(PolicyError, match="mirror image of a picture"):
        _learner(replace(plane, images=pictures), replace(tiny, cameras=["top"]), layout)


def test_a_loaded_policy_refuses_pictures_of_another_size(
    tiny: DiffusionConfig, plane: OfflineDataset, tmp_path: Path
) -> None:
    """Their central crop would silently be of something else."""
    pictures = {"top": torch.zeros(plane.num_transitions, 24, 32, 3, dtype=torch.uint8).numpy()}
    config = replace(
        tiny,
        cameras=["top"],
        conditioning=ConditioningConfig(),
        encoder=EncoderConfig(kind="resnet_small", size=4, crop=20),
    )
    learner = _learner(replace(plane, images=pictures), config, Layout())
    stored = training.write_checkpoint(
        tmp_path,
        1,
        model=learner.model(),
        state={},
        config={"policy": asdict(config)},
        manifest=learner.manifest(),
    )
    model = load_chunk_model(training.read_checkpoint(stored))
    state = torch.zeros(1, 2, 5)
    model.encode(Observation(state, {"top": torch.zeros(1, 2, 24, 32, 3, dtype=torch.uint8)}))
    with pytest.raises(
        PolicyError, match=r"'top' gives pictures of \(48, 64\) pixels.*trained on \(24, 32\)"
    ):
        model.encode(Observation(state, {"top": torch.zeros(1, 2, 48, 64, 3, dtype=torch.uint8)}))
