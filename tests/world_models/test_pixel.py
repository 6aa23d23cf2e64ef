import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from diffpolicy.diffusion import edm
from world_models import WorldModelError
from world_models.frames import FrameWindows
from world_models.outcomes import OutcomeHeads
from world_models.pixel import PixelWorldModel, preconditioning, to_frames, to_pixels
from world_models.pixel_config import PixelConfig, PixelNoise
from world_models.two_hot import encode
from world_models.windows import FrameWindow

from .square_world import square_world

SMALL = PixelConfig(size=8, history=2, tasks=2)


def made(config: PixelConfig = SMALL) -> PixelWorldModel:
    """Return a model whose every weight says something."""
    draw = torch.Generator().manual_seed(0)
    model = PixelWorldModel(config, 2, draw)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1, generator=draw)
    return model


def moments(count: int = 3) -> FrameWindow:
    draw = torch.Generator().manual_seed(1)
    frames = torch.randint(0, 256, (count, 2, 8, 8, 3), generator=draw, dtype=torch.uint8)
    actions = 2.0 * torch.rand(count, 2, 2, generator=draw) - 1.0
    return FrameWindow(frames, actions, torch.zeros(count, dtype=torch.int64))


def test_noise_goes_down_diamonds_grid():
    options = PixelNoise()
    process = edm(options.steps, options.sigma_min, options.sigma_max, options.rho, "sample")
    levels = [process.noise_at(level) for level in (2, 1, 0, -1)]
    middle = ((5.0 ** (1 / 7) + 0.002 ** (1 / 7)) / 2.0) ** 7
    assert levels == pytest.approx([5.0, middle, 0.002, 0.0], abs=1e-12)
    assert middle == pytest.approx(0.28308, abs=1e-5)


@pytest.mark.parametrize("offset", [0.0, 0.3])
def test_what_the_network_sees_and_is_to_say_has_unit_variance(offset: float):
    data, sigma = 0.5, torch.tensor([0.002, 0.1, 0.7, 5.0, 20.0], dtype=torch.float64)
    c_in, c_skip, c_out, c_noise = preconditioning(sigma, data, offset)
    noise = sigma.square() + offset**2
    one = torch.ones_like(sigma)
    torch.testing.assert_close(c_in.square() * (data**2 + noise), one, rtol=0, atol=1e-12)
    target = ((1.0 - c_skip).square() * data**2 + c_skip.square() * noise) / c_out.square()
    torch.testing.assert_close(target, one, rtol=0, atol=1e-10)
    torch.testing.assert_close(c_noise, noise.sqrt().log() / 4.0, rtol=0, atol=1e-12)


def test_pixels_are_frames_to_the_byte():
    frames = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(1, 16, 16, 3)
    assert torch.equal(to_frames(to_pixels(frames)), frames)
    assert to_pixels(frames).shape == (1, 3, 16, 16)
    beyond = torch.tensor([-7.0, -1.0, 1.0, 7.0]).view(1, 1, 2, 2).expand(1, 3, 2, 2)
    assert to_frames(beyond)[0, :, :, 0].tolist() == [[0, 0], [255, 255]]


def test_the_offset_is_one_number_for_a_channel(monkeypatch: pytest.MonkeyPatch):
    # With next to no other noise, and a network that says 0, the loss is that of the offset alone.
    options = PixelNoise(mean=-20.0, lowest=1e-6)
    model = PixelWorldModel(
        PixelConfig(size=8, history=2, noise=options), 2, torch.Generator().manual_seed(0)
    )
    shown: list[torch.Tensor] = []
    raw = PixelWorldModel.raw

    def watched(self, noisy, factors, window):
        shown.append(noisy)
        return raw(self, noisy, factors, window)

    monkeypatch.setattr(PixelWorldModel, "raw", watched)
    window = moments(400)
    truth = window.observations[:, -1]
    model.dynamics_loss(window, truth, torch.Generator().manual_seed(0))
    added = shown[0] - to_pixels(truth)
    assert added.flatten(2).std(dim=2).max() < 1e-4
    channels = added.mean(dim=(2, 3))
    assert channels.std() == pytest.approx(0.3, rel=0.1)
    assert torch.corrcoef(channels.T)[0, 1].abs() < 0.2


def test_the_loss_is_that_of_the_clean_frame_over_c_out():
    model, window = made(), moments()
    clean = to_pixels(window.observations[:, -1])
    loss, predicted = model.dynamics_loss(
        window, window.observations[:, -1], torch.Generator().manual_seed(3)
    )
    draw = torch.Generator().manual_seed(3)
    sigma = (-0.4 + 1.2 * torch.empty(3).normal_(generator=draw)).exp().clamp(2e-3, 20.0)
    offset = 0.3 * torch.empty(3, 3, 1, 1).normal_(generator=draw)
    noisy = clean + sigma.view(3, 1, 1, 1) * torch.empty(3, 3, 8, 8).normal_(generator=draw) + offset
    found = model.denoise(noisy, sigma, window)
    c_out = preconditioning(sigma, 0.5, 0.3).c_out
    expected = ((found - clean).square().mean(dim=(1, 2, 3)) / c_out.square()).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=0.0)
    assert torch.equal(predicted, to_frames(found.detach()))


def test_changes_vary_like_pixels_and_lead_back_to_the_frame():
    windows = FrameWindows(square_world(8, 6, 8), 2, 8)
    model = PixelWorldModel(replace(SMALL, predicts="change"), 2, torch.Generator().manual_seed(0))
    model.fit(windows)
    index = windows.followed(1)
    window, following = windows.window(index), windows.outcome(index).next_frames
    change = model.drawn(following, window)
    assert change.square().mean().sqrt() == pytest.approx(0.5, rel=1e-4)
    assert torch.equal(model.framed(change, window), following)
    assert torch.equal(model.framed(torch.zeros_like(change), window), window.observations[:, -1])
    assert model.framed(change + 1e6, window).min() == 255


def test_convolutions_of_lower_precision_say_nearly_the_same():
    model, window = made(), moments()
    low = PixelWorldModel(replace(SMALL, bfloat16=True), 2, torch.Generator().manual_seed(0))
    low.load_state_dict(model.state_dict())
    noisy, sigma = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(2)), torch.ones(3)
    one, other = (each.denoise(noisy, sigma, window) for each in (model, low))
    assert other.dtype == torch.float32
    assert not torch.equal(one, other)
    torch.testing.assert_close(one, other, rtol=0.1, atol=0.1)


def test_actions_of_every_step_tasks_and_noise_levels_are_listened_to():
    model, window = made(), moments()
    c_noise = torch.zeros(3)
    told = model.condition(window, c_noise)
    for step in range(2):
        other = window.actions.clone()
        other[0, step, 1] += 0.01
        changed = model.condition(window._replace(actions=other), c_noise)
        assert (changed[0] != told[0]).any()
        assert torch.equal(changed[1:], told[1:])
    assert (model.condition(window._replace(tasks=torch.ones_like(window.tasks)), c_noise) != told).any()
    assert (model.condition(window, c_noise + 0.1) != told).any()


def test_maps_show_where_pixels_are_and_what_the_actions_are():
    model, window = made(replace(SMALL, maps=True)), moments()
    places, actions = model._maps(window)
    assert places[1, :, 0, 0].tolist() == [-1.0, -1.0]
    assert places[1, :, 0, -1].tolist() == [1.0, -1.0]  # column, row
    assert torch.equal(actions[:, 3, 5, 2], window.actions[:, 1, 1])
    nn.init.zeros_(model.actions.weight)
    noisy, sigma = torch.zeros(3, 3, 8, 8), torch.ones(3)
    other = window._replace(actions=-window.actions)
    assert (model.denoise(noisy, sigma, window) != model.denoise(noisy, sigma, other)).any()


def test_all_actions_together_are_heard_as_well_as_the_noise_level():
    model = PixelWorldModel(PixelConfig(size=8, history=2), 3, torch.Generator().manual_seed(0))
    one = encode(2.0 * torch.rand(64, 2, 3, generator=torch.Generator().manual_seed(1)) - 1.0, 21)
    heard = one.flatten(1) @ model.actions.weight.T
    assert 0.5 < heard.std() < 1.2


def test_what_is_imagined_is_a_function_of_the_generator():
    model, window = made(), moments()
    member = torch.zeros(3, dtype=torch.int64)
    one, same, other = (
        model.imagine(window, member, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert one.observations.dtype == torch.uint8
    assert one.observations.shape == (3, 8, 8, 3)
    assert torch.equal(one.observations, same.observations)
    assert not torch.equal(one.observations, other.observations)
    told = model.outcomes(window, one.observations)
    assert torch.equal(one.rewards, (told[:, 0] > 0.5).float())
    assert torch.equal(one.terminations, told[:, 2])


def test_heads_put_back_how_rare_an_outcome_is():
    heads = OutcomeHeads(2, 8, torch.Generator().manual_seed(0))
    heads.frequency.copy_(torch.tensor([0.5, 0.01, 0.0]))
    for parameter in heads.output.parameters():
        nn.init.zeros_(parameter)
    frames, following = torch.zeros(4, 6, 8, 8), torch.zeros(4, 3, 8, 8)
    probabilities = heads.probabilities(frames, following)
    torch.testing.assert_close(probabilities, torch.tensor([0.5, 0.01, 0.0]).expand(4, 3))
    # A hundred samples of which one is a cost: both outcomes weigh one half, so the mean is ln 2.
    labels = torch.zeros(100, 3)
    labels[:50, 0] = labels[0, 1] = 1.0
    losses = heads.loss(torch.zeros(100, 6, 8, 8), torch.zeros(100, 3, 8, 8), labels)
    torch.testing.assert_close(losses, math.log(2.0) * torch.tensor([1.0, 1.0, 0.5]))


def test_settings_that_make_no_sense_are_refused():
    for wrong in ({"size": 30}, {"size": 4}, {"history": 0}, {"bins": 1}):
        with pytest.raises(WorldModelError, match="pixels"):
            PixelConfig(**wrong)
    with pytest.raises(WorldModelError, match="frame, change"):
        PixelConfig(predicts="magic")
    with pytest.raises(WorldModelError, match="tiny, diamond"):
        PixelConfig(network="huge")
    for noise in (
        {"steps": 1},
        {"sigma_min": 6.0},
        {"offset": -1.0},
        {"rho": 0.0},
        {"std": math.inf},
        {"sigma_max": math.inf},
        {"highest": math.inf},
    ):
        with pytest.raises(WorldModelError, match="noise needs"):
            PixelNoise(**noise)
    with pytest.raises(WorldModelError, match="finite mean"):
        PixelNoise(mean=math.nan)
    for name, value in (
        ("learning_rate", -1.0),
        ("weight_decay", math.nan),
        ("average_decay", -0.5),
        ("clip", 0.0),
        ("success_reward", math.nan),
    ):
        with pytest.raises(WorldModelError, match=name):
            PixelConfig(**{name: value})
    windows = FrameWindows(square_world(2, 4, 8), 2, 8, tasks=torch.tensor([0, 5]))
    with pytest.raises(WorldModelError, match="task 5"):
        PixelWorldModel(SMALL, 2, torch.Generator()).fit(windows)
