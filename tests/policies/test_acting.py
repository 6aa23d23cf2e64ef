"""Every kind of arm on a real chunk model, whatever it has or has not learnt."""

from dataclasses import replace

import pytest
import torch

from diffpolicy.data import ChunkSampler, OfflineDataset
from diffpolicy.policies import ChunkModel, ChunkPolicy, Observation, PolicyError
from diffpolicy.policies.acting import chunk_policy, discrete_of
from diffpolicy.policies.calibrate import calibrate
from diffpolicy.policies.chunk_config import DiffusionConfig
from diffpolicy.policies.streaming import StreamingPolicy
from envs.layout import Layout

GUARDED = "rti_2_1_0_guard"


def untrained(config: DiffusionConfig, layout: Layout, dataset: OfflineDataset) -> ChunkModel:
    sizes = (dataset.observation_size, dataset.action_size)
    model = ChunkModel(config, *sizes, layout, torch.Generator().manual_seed(0))
    horizons = (config.observation_horizon, config.prediction_horizon, config.execution_horizon)
    sampler = ChunkSampler(dataset, *horizons)
    chunks = sampler.batch(torch.arange(len(sampler)))
    model.fit(chunks.states, chunks.actions)
    return model.requires_grad_(False).eval()


@pytest.mark.parametrize("process", ["cosine", "edm", "flow"])
@pytest.mark.parametrize(
    "name", ["ddpm_20", "ddim_3@4", "dpm_2@2", "heun_2", GUARDED, "warm_12_6_2@4", "soft_8_2", "reuse@2"]
)
def test_every_arm_plays_every_process(
    tiny: DiffusionConfig, layout: Layout, plane: OfflineDataset, process: str, name: str
) -> None:
    config = replace(tiny, process=replace(tiny.process, kind=process))  # type: ignore[arg-type]
    model = untrained(config, layout, plane)
    calibration = calibrate(model, plane, [GUARDED], observations=8, samples=4, angles=layout.angles)
    acting = chunk_policy(model, name, calibration=calibration)
    assert isinstance(acting, ChunkPolicy)
    memory = acting.start(3, 0)
    for step in range(3):
        seen = Observation(plane.observations[step : step + 2].expand(3, -1, -1))
        chunk, memory = acting.act(seen, memory)
        assert chunk.actions.shape == (3, acting.execute, 2)
        assert (chunk.actions.abs() <= 1).all()


def test_streaming_wants_a_model_trained_for_it(
    tiny: DiffusionConfig, layout: Layout, plane: OfflineDataset
) -> None:
    with pytest.raises(PolicyError, match="per_step_levels=true"):
        chunk_policy(untrained(tiny, layout, plane), "streaming")
    asked = replace(tiny.conditioning, dct=False, weight_power=0.0, per_step_levels=True)
    model = untrained(replace(tiny, conditioning=asked), layout, plane)
    acting = chunk_policy(model, "streaming_2@3")
    assert isinstance(acting, StreamingPolicy)
    chunk, _ = acting.act(Observation(plane.observations[:2].unsqueeze(0)), acting.start(1, 0))
    assert chunk.actions.shape == (1, 3, 2)


@pytest.mark.parametrize("name", ["ddpm_20", "dpm_2@2", "heun_2", "rti_2_1_0", "warm_12_6_2@4", "soft_8_2"])
def test_a_model_trained_for_streaming_plays_all_other_arms(
    tiny: DiffusionConfig, layout: Layout, plane: OfflineDataset, name: str
) -> None:
    asked = replace(tiny.conditioning, dct=False, weight_power=0.0, per_step_levels=True)
    acting = chunk_policy(untrained(replace(tiny, conditioning=asked), layout, plane), name)
    memory = acting.start(1, 0)
    for step in range(2):
        seen = Observation(plane.observations[step : step + 2].unsqueeze(0))
        chunk, memory = acting.act(seen, memory)
        assert chunk.actions.shape == (1, acting.execute, 2)


def test_a_guard_wants_a_calibration(tiny: DiffusionConfig, layout: Layout, plane: OfflineDataset) -> None:
    with pytest.raises(PolicyError, match="needs the thresholds of a calibration"):
        chunk_policy(untrained(tiny, layout, plane), GUARDED)


@pytest.mark.parametrize("scale", [1.0, 0.1])
@pytest.mark.parametrize("value", [-1.0, 0.0, 0.3, 1.0])
def test_a_gripper_that_no_demonstration_moves_stays_where_it_is(
    tiny: DiffusionConfig, layout: Layout, plane: OfflineDataset, value: float, scale: float
) -> None:
    """Otherwise the sign of noise would open and close it."""
    asked = replace(tiny.conditioning, discrete_scale=scale, relative=False, symmetry=False)
    still = replace(plane, actions=torch.stack([plane.actions[:, 0], torch.full((240,), value)], dim=1))
    model = untrained(replace(tiny, conditioning=asked), replace(layout, discrete=(1,), symmetries=()), still)
    acting = chunk_policy(model, "rti_2_1_0@4")
    memory, seen = acting.start(5, 0), Observation(plane.observations[:2].expand(5, -1, -1))
    for _ in range(3):
        chunk, memory = acting.act(seen, memory)
        assert chunk.actions[..., 1].flatten().tolist() == pytest.approx([value] * 20, abs=1e-4)


@pytest.mark.parametrize(("scale", "treatment"), [(1.0, "clip"), (0.1, "scale")])
def test_two_valued_actions_are_treated_as_they_were_trained(
    tiny: DiffusionConfig, layout: Layout, plane: OfflineDataset, scale: float, treatment: str
) -> None:
    asked = replace(tiny.conditioning, discrete_scale=scale, relative=False, symmetry=False)
    gripper = replace(layout, discrete=(1,), symmetries=())
    model = untrained(replace(tiny, conditioning=asked), gripper, plane)
    discrete = discrete_of(model)
    assert discrete is not None
    assert (discrete.columns, discrete.treatment) == ((1,), treatment)
    labels = plane.actions[:, 1].min(), plane.actions[:, 1].max()
    for label, sign in zip(labels, (-1.0, 1.0), strict=True):
        normalised = model.from_actions(label.expand(1, 1, 2))[0, 0, 1]
        assert normalised.item() == pytest.approx(sign * discrete.magnitude)
    acting = chunk_policy(model, "rti_2_1_0@4")
    seen = Observation(plane.observations[:2].unsqueeze(0))
    chunk, memory = acting.act(seen, acting.start(1, 0))
    chunk, _ = acting.act(seen, memory)
    gripped = chunk.actions[..., 1].flatten()
    assert all(min(abs(action - label) for label in labels) < 1e-6 for action in gripped)
    assert not all(
        min(abs(action - label) for label in labels) < 1e-6 for action in chunk.actions[..., 0].flatten()
    )
