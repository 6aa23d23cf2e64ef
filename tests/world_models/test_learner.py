from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from diffpolicy import training
from diffpolicy.data import OfflineDataset
from diffpolicy.training import digest, read_checkpoint, run
from world_models import WorldModelConfig, WorldModelError, WorldModelLearner, load_world_model

SMALL = WorldModelConfig(kind="diffusion", members=2, hidden=[8], head_hidden=[8], updates=12, batch=16)


def test_a_run_stopped_halfway_goes_on_bit_for_bit(tmp_path: Path, line_world: Callable[..., OfflineDataset]):
    whole = WorldModelLearner(line_world(), SMALL, seed=1)
    for step in range(12):
        whole.update(step)
    half = WorldModelLearner(line_world(), SMALL, seed=1)
    for step in range(6):
        half.update(step)
    resumed = WorldModelLearner(line_world(), SMALL, seed=2)
    resumed.load_state(half.state())
    for step in range(6, 12):
        resumed.update(step)
    assert digest(resumed.model()) == digest(whole.model())


def test_the_loss_falls(trained, line_world: Callable[..., OfflineDataset]):
    learner = trained("diffusion")
    untrained = WorldModelLearner(line_world(), learner.config, seed=0)
    assert learner.update(0)["dynamics"] < 0.3 * untrained.update(0)["dynamics"]


def test_a_checkpoint_loads_as_the_same_frozen_model(
    tmp_path: Path, line_world: Callable[..., OfflineDataset]
):
    learner = WorldModelLearner(line_world(), SMALL, seed=0, description={"task": "line"})
    path = run(learner, tmp_path, {}, checkpoint_every=12, log_every=6, progress=False)
    model = load_world_model(read_checkpoint(path))
    assert model.config == SMALL
    assert digest(model.state_dict()) == digest(learner.model())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_other_checkpoints_are_refused(tmp_path: Path):
    path = training.write_checkpoint(
        tmp_path, 1, model={"w": torch.zeros(1)}, state={}, config={}, manifest={"method": "diffusion"}
    )
    with pytest.raises(WorldModelError, match="not a world model"):
        load_world_model(read_checkpoint(path))


def test_a_checkpoint_of_another_version_is_refused(
    tmp_path: Path, line_world: Callable[..., OfflineDataset]
):
    learner = WorldModelLearner(line_world(), SMALL, seed=0)
    for number, stored in enumerate(({**asdict(SMALL), "colour": 1}, {"kind": "deterministic"})):
        path = training.write_checkpoint(
            tmp_path,
            number,
            model=learner.model(),
            state={},
            config={},
            manifest={**learner.manifest(), "world_model": stored},
        )
        with pytest.raises(WorldModelError, match="this version does not know"):
            load_world_model(read_checkpoint(path))


def test_a_checkpoint_without_sources_copies_nothing(
    tmp_path: Path, line_world: Callable[..., OfflineDataset]
):
    learner = WorldModelLearner(line_world(), SMALL, seed=0, description={"task": "line"})
    weights = {name: value for name, value in learner.model().items() if name != "source"}
    path = training.write_checkpoint(
        tmp_path, 1, model=weights, state={}, config={}, manifest=learner.manifest()
    )
    assert load_world_model(read_checkpoint(path)).source.tolist() == [-1, -1]
