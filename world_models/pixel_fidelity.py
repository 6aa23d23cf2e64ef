"""How true a world model of pixels is to held-out episodes: open-loop errors, outcomes, and whether it listens."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from world_models.frames import OUTCOMES, FrameWindows
from world_models.pixel import PixelWorldModel
from world_models.windows import advance


class PixelOpenLoop(NamedTuple):
    """What is known after each of `horizons` steps under the real actions, (H, S) for S starts.

    `errors` and `persistence` are mean squares over all pixels, which go from 0 to 1: those of the model, and of one in
    which nothing moves. `successes` is whether the model told success of its own frame, `true_successes` whether it
    was one, both 0 or 1.
    """

    horizons: tuple[int, ...]
    errors: Tensor
    persistence: Tensor
    successes: Tensor
    true_successes: Tensor


class Telling(NamedTuple):
    """Recall and precision of telling an outcome at a threshold of one half; NaN where there are none."""

    recall: float
    precision: float


def psnr(errors: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio in dB of mean square errors over pixels from 0 to 1."""
    return -10.0 * errors.log10()


@torch.no_grad()
def pixel_open_loop(
    model: PixelWorldModel, windows: FrameWindows, starts: Tensor, horizons: Sequence[int], seed: int = 0
) -> PixelOpenLoop:
    """Return the errors of imagining on from transitions `starts` (S,) with the actions that were taken.

    `horizons` ascend; every start is one of `windows.followed(max(horizons))`.
    """
    generator = torch.Generator(starts.device).manual_seed(seed)
    member = torch.zeros_like(starts)
    window = windows.window(starts)
    first = window.observations[:, -1]
    found: list[Tensor] = []
    for step in range(max(horizons)):
        imagined = model.imagine(window, member, generator)
        if step + 1 in horizons:
            true = windows.outcome(starts + step)
            errors = [mean_square(each, true.next_frames) for each in (imagined.observations, first)]
            found.append(torch.stack([*errors, imagined.rewards, true.labels[:, 0]]))
        following = (starts + step + 1).clamp(max=len(windows) - 1)
        window = advance(window, imagined.observations, windows.actions[following])
    return PixelOpenLoop(tuple(horizons), *torch.stack(found, dim=1))


@torch.no_grad()
def telling(model: PixelWorldModel, windows: FrameWindows, index: Tensor) -> dict[str, Telling]:
    """Return how well outcomes of real transitions `index` (S,) are told, by their names: as imagination tells them."""
    outcome = windows.outcome(index)
    probabilities = model.outcomes(windows.window(index), outcome.next_frames)
    believed = torch.full_like(probabilities[0], 0.5)
    believed[OUTCOMES.index("success")] = model.config.certainty
    told = probabilities > believed
    there = outcome.labels > 0.0
    both = (told & there).sum(0)
    values = zip((both / there.sum(0)).tolist(), (both / told.sum(0)).tolist(), strict=True)
    return {name: Telling(*each) for name, each in zip(OUTCOMES, values, strict=True)}


@torch.no_grad()
def pixel_action_following(
    model: PixelWorldModel, windows: FrameWindows, index: Tensor, seed: int = 0
) -> float:
    """Return how many times larger the one-step error is with actions of other transitions than with the real ones.

    All of a window's actions are swapped, and the error is the root of the mean square over pixels. A model that does
    not listen to actions has 1. Meaningful on data with varied actions only, and in them on `windows.followed(1)`.
    """
    window, truth = windows.window(index), windows.outcome(index).next_frames
    errors = []
    for each in (window, window._replace(actions=window.actions.roll(1, dims=0))):
        # The same noise for both, so that they differ by the actions alone.
        frames = model.next_frames(each, torch.Generator(index.device).manual_seed(seed))
        errors.append(mean_square(frames, truth).mean())
    return (errors[1] / errors[0]).sqrt().item()


def mean_square(frames: Tensor, true: Tensor) -> Tensor:
    """Return the mean square difference (S,) of frames (S, ...) uint8, pixels from 0 to 1."""
    return ((frames.float() - true.float()) / 255.0).square().flatten(1).mean(1)
