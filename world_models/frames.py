"""What a pixel world model is shown of a dataset: frames and actions, the frame that followed, and what it meant."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffpolicy.data import OfflineDataset
from diffpolicy.data.images import ImageColumn
from world_models.errors import WorldModelError
from world_models.windows import FrameWindow

OUTCOMES = ("success", "cost", "termination")
BLOCK = 256  # pictures that are resized at once
MEASURED = 2048  # steps, in how much pixels change
TOLERANCE = 1e-3  # by which actions may leave [-1, 1]: rounding, not another unit


class FrameOutcome(NamedTuple):
    """What followed: `next_frames` (B, S, S, 3) uint8 and `labels` (B, 3) float32, 0 or 1 each, named in OUTCOMES."""

    next_frames: Tensor
    labels: Tensor


def resize(pictures: Tensor, size: int) -> Tensor:
    """Return pictures (N, H, W, 3) uint8 as (N, size, size, 3) uint8, each pixel the mean of the area it covers.

    Nothing between pixels is skipped, so thin things get faint and do not vanish. Pictures that are not square are.
    """
    rows, columns = (_coverage(side, size).to(pictures.device) for side in pictures.shape[1:3])
    mean = torch.einsum("sh,nhwc,tw->nstc", rows, pictures.float(), columns)
    return mean.round().clamp(0.0, 255.0).to(torch.uint8)


def moved(frames: Tensor, reach: int, generator: torch.Generator) -> Tensor:
    """Return frames (B, L, S, S, 3) moved by up to `reach` pixels along both sides, the same for all L of a moment.

    What comes into sight repeats the edge (Kostrikov et al. 2020, "DrQ").
    """
    count, side, device = len(frames), frames.shape[2], frames.device
    span = torch.arange(side, device=device)
    drawn = torch.randint(-reach, reach + 1, (2, count, 1), generator=generator, device=device)
    rows, columns = (span + drawn).clamp(0, side - 1)
    each = torch.arange(count, device=device)[:, None, None]
    return frames[each, :, rows[:, :, None], columns[:, None, :]].movedim(3, 1)


def _coverage(side: int, size: int) -> Tensor:
    """Return the share (size, side) of each of `size` wide pixels that each of `side` narrow ones takes up."""
    width = side / size
    low = torch.arange(size, dtype=torch.float64)[:, None] * width
    pixel = torch.arange(side, dtype=torch.float64)
    overlap = torch.minimum(low + width, pixel + 1.0) - torch.maximum(low, pixel)
    return (overlap.clamp(min=0.0) / width).float()


class FrameWindows:
    """The windows of every transition of a dataset with pictures; never across episodes.

    All frames are resized once and kept on a device as bytes: 64 x 64 pixels are 12 kB each. Before the beginning of an
    episode its first frame is repeated and actions are zero. Datasets hold no picture of where the last transition of
    an episode led to, so nothing is learnt about motion from it (see `followed`); what it earned and whether it ended
    the episode is told of the last picture there is.

    A transition is a success if its reward reaches `success_reward`; in data where nothing is earned at all, if it
    terminates the episode. Any cost above 0 is a cost. `tasks` (E,) int64 says to which of several tasks an episode
    belongs.
    """

    def __init__(
        self,
        dataset: OfflineDataset,
        history: int,
        size: int,
        device: torch.device | str = "cpu",
        camera: str | None = None,
        success_reward: float = 1.0,
        tasks: Tensor | None = None,
    ) -> None:
        self.history, self.size = history, size
        self.frames = _resized(_column(dataset.images, camera), size).to(device)
        self.actions = _checked(dataset.actions).to(device)
        self.tasks = _tasks(dataset, tasks).to(device)
        success = dataset.rewards >= success_reward
        if not (dataset.rewards != 0.0).any():
            success = dataset.terminals
        self.labels = torch.stack([success, dataset.costs > 0.0, dataset.terminals], dim=1).float().to(device)
        lengths = dataset.episode_lengths
        number = torch.arange(dataset.num_transitions)
        self._begun = (number - dataset.episode_starts.repeat_interleave(lengths)).to(device)
        self._left = (dataset.episode_ends.repeat_interleave(lengths) - 1 - number).to(device)

    def __len__(self) -> int:
        """How many transitions there are."""
        return len(self.actions)

    def reaches(self, steps: int) -> bool:
        """Whether `steps` more pictures of its episode follow some transition."""
        return bool((self._left >= steps).any())

    def longest(self, steps: int) -> int:
        """Return `steps`, or the most pictures that follow any transition in its episode if those are fewer.

        Raises:
            WorldModelError: if no episode shows two pictures.
        """
        self.followed(1)
        return min(steps, int(self._left.max()))

    def followed(self, steps: int) -> Tensor:
        """Return the transitions (M,) int64 after which `steps` more pictures of their episode are there.

        Raises:
            WorldModelError: if no episode is that long.
        """
        index = (self._left >= steps).nonzero().flatten()
        if not len(index):
            raise WorldModelError(
                f"no episode shows {steps + 1} pictures: choose fewer steps or longer episodes"
            )
        return index

    def change(self) -> Tensor:
        """Return the root mean square () of what pixels in [-1, 1] change by in a step, over up to MEASURED of them."""
        index = self.followed(1)
        index = index[torch.linspace(0, len(index) - 1, min(len(index), MEASURED)).long().to(index.device)]
        return (2.0 / 255.0) * (
            self.frames[index + 1].float() - self.frames[index].float()
        ).square().mean().sqrt()

    def window(self, index: Tensor) -> FrameWindow:
        """Return the windows of transitions `index` (B,)."""
        ago = torch.arange(self.history - 1, -1, -1, device=index.device)
        there = ago <= self._begun[index][:, None]
        moments = index[:, None] - torch.minimum(ago, self._begun[index][:, None])
        actions = torch.where(there[..., None], self.actions[moments], 0.0)
        return FrameWindow(self.frames[moments], actions, self.tasks[index])

    def outcome(self, index: Tensor) -> FrameOutcome:
        """Return what followed transitions `index` (B,); the frame is the same once more where none was kept."""
        return FrameOutcome(self.frames[index + (self._left[index] > 0)], self.labels[index])


def _column(images: Mapping[str, ImageColumn], camera: str | None) -> ImageColumn:
    if camera is None and len(images) == 1:
        return next(iter(images.values()))
    if camera is None or camera not in images:
        raise WorldModelError(
            f"the data have pictures of {', '.join(images) or 'no camera'}: name one of them"
            + (f", not {camera!r}" if camera is not None else "")
        )
    return images[camera]


def _resized(column: ImageColumn, size: int) -> Tensor:
    count = column.shape[0]
    frames = torch.empty(count, size, size, 3, dtype=torch.uint8)
    for low in range(0, count, BLOCK):
        rows = np.arange(low, min(low + BLOCK, count))
        # Copied, for the pictures of a memory map cannot be written to, as PyTorch wants them.
        frames[low : low + BLOCK] = resize(torch.from_numpy(np.array(column[rows])), size)
    return frames


def _checked(actions: Tensor) -> Tensor:
    if not actions.isfinite().all() or (actions.abs() > 1.0 + TOLERANCE).any():
        raise WorldModelError(
            "actions of the data are not all numbers in [-1, 1], which is what a pixel world model is shown: "
            "normalise them first; `diffpolicy data check` finds what is not finite"
        )
    return actions


def _tasks(dataset: OfflineDataset, tasks: Tensor | None) -> Tensor:
    if tasks is None:
        tasks = torch.zeros(dataset.num_episodes, dtype=torch.int64)
    if tasks.shape != (dataset.num_episodes,) or tasks.dtype != torch.int64 or (tasks < 0).any():
        raise WorldModelError(
            f"tasks are numbers from 0, one int64 for each of the {dataset.num_episodes} episodes, got "
            f"{tasks.dtype} {tuple(tasks.shape)}"
        )
    return tasks[dataset.episode_of]
