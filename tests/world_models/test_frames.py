from dataclasses import replace

import numpy as np
import pytest
import torch

from world_models import WorldModelError, advance
from world_models.frames import FrameWindows, moved, resize
from world_models.windows import blend

from .square_world import square_world


def test_a_pixel_is_the_mean_of_the_area_it_covers():
    pictures = torch.randint(0, 256, (2, 12, 8, 3), dtype=torch.uint8)
    exact = pictures.float().reshape(2, 4, 3, 4, 2, 3).mean(dim=(2, 4))
    assert (resize(pictures, 4) - exact).abs().max() < 0.5 + 1e-3  # the mean, rounded; halves go either way
    assert torch.equal(resize(pictures[:, :8], 8), pictures[:, :8])
    # Three pixels on two: the middle one is shared.
    line = torch.tensor([0, 90, 240], dtype=torch.uint8).view(1, 1, 3, 1).expand(1, 3, 3, 3)
    assert torch.equal(resize(line, 2)[0, 0, :, 0], torch.tensor([30, 190], dtype=torch.uint8))


def test_windows_stay_in_their_episode():
    data = square_world(episodes=3, length=6)
    windows = FrameWindows(data, history=3, size=16)
    frames = torch.from_numpy(np.asarray(data.images["top"]))
    window = windows.window(torch.tensor([6, 7, 11]))
    assert window.observations.dtype == torch.uint8
    assert torch.equal(window.observations[0], frames[6].expand(3, -1, -1, -1))
    assert torch.equal(window.actions[0, :2], torch.zeros(2, 2))
    assert torch.equal(window.observations[1], frames[[6, 6, 7]])
    assert torch.equal(window.observations[2], frames[[9, 10, 11]])
    assert torch.equal(window.actions[2], data.actions[[9, 10, 11]])


def test_what_followed_is_the_next_picture_while_there_is_one():
    data = square_world(episodes=40, length=6)
    windows = FrameWindows(data, history=1, size=16)
    frames = torch.from_numpy(np.asarray(data.images["top"]))
    outcome = windows.outcome(torch.tensor([3, 5]))
    assert torch.equal(outcome.next_frames, frames[[4, 5]])
    everything = windows.outcome(torch.arange(len(windows))).labels
    assert torch.equal(everything[:, 0], data.rewards)
    assert torch.equal(everything[:, 1], data.costs)
    assert torch.equal(everything[:, 2] > 0.0, data.terminals)
    assert torch.equal(windows.followed(2), torch.arange(240).view(40, 6)[:, :4].flatten())
    with pytest.raises(WorldModelError, match="shows 7 pictures"):
        windows.followed(6)


def test_where_nothing_is_earned_ends_are_successes():
    data = square_world(episodes=40, length=6)
    silent = replace(data, rewards=torch.zeros_like(data.rewards))
    labels = FrameWindows(silent, history=1, size=8).labels
    assert data.terminals.any()
    assert torch.equal(labels[:, 0] > 0.0, data.terminals)


def test_windows_advance_and_blend():
    windows = FrameWindows(square_world(episodes=2, length=6), history=2, size=8, tasks=torch.tensor([0, 1]))
    index = torch.tensor([2, 8])
    window = windows.window(index)
    after = advance(window, windows.outcome(index).next_frames, windows.actions[index + 1])
    expected = windows.window(index + 1)
    for one, other in zip(after, expected, strict=True):
        assert torch.equal(one, other)
    mixed = blend(torch.tensor([True, False]), window, expected)
    assert torch.equal(mixed.observations[0], window.observations[0])
    assert torch.equal(mixed.observations[1], expected.observations[1])
    assert mixed.tasks.tolist() == [0, 1]


def test_data_that_cannot_be_shown_are_refused():
    data = square_world(episodes=2, length=4)
    both = replace(data, images=dict.fromkeys(("top", "side"), data.images["top"]))
    with pytest.raises(WorldModelError, match="top, side: name one"):
        FrameWindows(both, 1, 8)
    with pytest.raises(WorldModelError, match="not 'wrist'"):
        FrameWindows(both, 1, 8, camera="wrist")
    with pytest.raises(WorldModelError, match="no camera"):
        FrameWindows(replace(data, images={}), 1, 8)
    for actions in (data.actions * 100.0, data.actions * torch.nan):
        with pytest.raises(WorldModelError, match=r"\[-1, 1\]"):
            FrameWindows(replace(data, actions=actions), 1, 8)
    with pytest.raises(WorldModelError, match="2 episodes"):
        FrameWindows(data, 1, 8, tasks=torch.tensor([0]))


def test_frames_of_a_moment_are_moved_together_and_repeat_their_edges() -> None:
    frames = torch.randint(
        256, (40, 3, 8, 8, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )
    after = moved(frames, 2, torch.Generator().manual_seed(0))
    steps = [(down, right) for down in range(-2, 3) for right in range(-2, 3)]
    span, met = torch.arange(8), set()
    for one, other in zip(frames, after, strict=True):
        rows = [(span + each).clamp(0, 7) for each in range(-2, 3)]
        found = [
            step for step in steps if torch.equal(one[:, rows[step[0] + 2]][:, :, rows[step[1] + 2]], other)
        ]
        assert len(found) == 1
        met.add(found[0])
    assert len(met) > 12  # each moment in its own direction
    assert torch.equal(moved(frames, 0, torch.Generator()), frames)
