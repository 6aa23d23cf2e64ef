from dataclasses import replace
from pathlib import Path

import pytest
import torch

from diffpolicy import training
from diffpolicy.training import digest, read_checkpoint, run
from world_models import WorldModelError
from world_models.pixel import PixelWorldModel
from world_models.pixel_config import PixelConfig
from world_models.pixel_learner import PixelLearner, load_pixel_world_model, odds

from .square_world import square_world

SMALL = PixelConfig(size=8, history=2, updates=6, batch=8, autoregressive=2, warm_up=4)


def learner(seed: int = 1, config: PixelConfig = SMALL) -> PixelLearner:
    return PixelLearner(square_world(episodes=6, length=6, size=8), config, seed)


def test_a_run_stopped_halfway_goes_on_bit_for_bit():
    whole, half = learner(), learner()
    for step in range(6):
        whole.update(step)
    for step in range(3):
        half.update(step)
    resumed = learner(seed=2)
    resumed.load_state(half.state())
    for step in range(3, 6):
        resumed.update(step)
    assert digest(resumed.model()) == digest(whole.model())
    assert digest(half.model()) != digest(whole.model())


def test_a_checkpoint_loads_as_the_same_frozen_model(tmp_path: Path):
    config = PixelConfig(size=8, history=1, updates=2, batch=4, tasks=2)
    data = square_world(episodes=4, length=4, size=8)
    made = PixelLearner(data, config, 0, description={"task": "square"}, tasks=torch.tensor([0, 1, 0, 1]))
    path = run(made, tmp_path, {}, checkpoint_every=2, log_every=1, progress=False)
    checkpoint = read_checkpoint(path)
    model = load_pixel_world_model(checkpoint)
    assert model.config == config
    assert digest(model.state_dict()) == digest(made.model())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert checkpoint.manifest["outcomes"]["success"] == pytest.approx(data.rewards.mean().item())


def test_other_checkpoints_are_refused(tmp_path: Path):
    path = training.write_checkpoint(
        tmp_path, 1, model={"w": torch.zeros(1)}, state={}, config={}, manifest={"method": "world_model"}
    )
    with pytest.raises(WorldModelError, match="not a world model of pixels"):
        load_pixel_world_model(read_checkpoint(path))
    made = learner()
    manifest = {**made.manifest(), "pixel_world_model": {"colour": 1}}
    path = training.write_checkpoint(tmp_path, 2, model=made.model(), state={}, config={}, manifest=manifest)
    with pytest.raises(WorldModelError, match="this version does not know"):
        load_pixel_world_model(read_checkpoint(path))


def test_what_comes_second_is_predicted_from_the_models_own_frame(monkeypatch: pytest.MonkeyPatch):
    seen, given = [], []
    loss = PixelWorldModel.dynamics_loss

    def watched(self, window, next_frames, generator):
        found = loss(self, window, next_frames, generator)
        seen.append(window)
        given.append(found[1])
        return found

    monkeypatch.setattr(PixelWorldModel, "dynamics_loss", watched)
    learner().update(0)
    assert len(seen) == 2
    assert torch.equal(seen[1].observations[:, 1], given[0])
    assert torch.equal(seen[1].observations[:, 0], seen[0].observations[:, 1])
    assert torch.equal(seen[1].actions[:, 0], seen[0].actions[:, 1])


def test_the_rate_warms_up_and_gradients_are_clipped():
    made = learner()
    for step, share in ((0, 0.25), (1, 0.5), (3, 1.0), (5, 1.0)):
        made.update(step)
        assert made.optimizer.param_groups[0]["lr"] == pytest.approx(share * SMALL.learning_rate)
    heads = {id(parameter) for parameter in made.trained.heads.parameters()}
    parts: dict[bool, list[torch.Tensor]] = {True: [], False: []}
    for parameter in made.trained.parameters():
        assert parameter.grad is not None
        parts[id(parameter) in heads].append(parameter.grad.flatten())
    assert all(torch.cat(part).norm() < 1.0 + 1e-4 for part in parts.values())


def test_episodes_too_short_are_refused():
    with pytest.raises(WorldModelError, match="no episode shows 8 pictures"):
        learner(config=PixelConfig(size=8, history=1, autoregressive=7))


def test_a_rare_outcome_is_drawn_as_often_as_any_and_weighs_no_more():
    labels = torch.zeros(1000, 3)
    labels[:10, 0] = 1.0  # one in a hundred
    labels[:, 2] = 1.0  # always
    share = odds(labels) / odds(labels).sum()
    # Evenly, for what is rare, for what is always so: a third each.
    assert share[:10].sum().item() == pytest.approx(1 / 3 + 2 / 3 * 0.01, rel=1e-4)
    # In the mean over such draws, weights give every transition the one that it has in the data.
    weights = odds(labels).mean() / odds(labels)
    torch.testing.assert_close(share * weights, torch.full((1000,), 1e-3))
    assert torch.equal(odds(torch.zeros(4, 3)), torch.ones(4))


def test_pictures_that_outcomes_are_told_from_are_moved(monkeypatch: pytest.MonkeyPatch):
    seen = []
    loss = PixelWorldModel.outcome_loss

    def spy(self: PixelWorldModel, window, outcome, weights):
        seen.append(torch.cat([window.observations, outcome.next_frames[:, None]], dim=1))
        return loss(self, window, outcome, weights)

    monkeypatch.setattr(PixelWorldModel, "outcome_loss", spy)
    for shift in (0, 2):
        learner(config=replace(SMALL, shift=shift, outcome_batch=12)).update(0)
    still, shifted = seen
    assert still.shape == shifted.shape == (12, 3, 8, 8, 3)
    # The same transitions were drawn, before they were moved.
    assert not torch.equal(still, shifted)
    assert any(
        torch.equal(
            still[:, :, 2:-2, 2:-2][each], shifted[:, :, 2 - down : 6 - down, 2 - right : 6 - right][each]
        )
        for each in range(12)
        for down in range(-2, 3)
        for right in range(-2, 3)
        if (down, right) != (0, 0)
    )
