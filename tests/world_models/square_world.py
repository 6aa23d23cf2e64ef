"""A world in pictures that is known exactly: a square that moves as the action says, and stops at the walls."""

import numpy as np
import torch

from diffpolicy.data import OfflineDataset


def picture(places: torch.Tensor, size: int) -> torch.Tensor:
    """A grey picture (N, size, size, 3) with a bright square whose top left pixel is at (x, y), `places` (N, 2)."""
    span, side = torch.arange(size), size // 4
    inside = [(span >= places[:, each, None]) & (span < places[:, each, None] + side) for each in range(2)]
    shape = inside[1][:, :, None] & inside[0][:, None, :]
    colour = torch.tensor([230, 180, 40], dtype=torch.uint8)
    return torch.where(shape[..., None], colour, torch.tensor(40, dtype=torch.uint8))


def square_world(
    episodes: int = 40, length: int = 12, size: int = 16, seed: int = 0, axes: int = 2
) -> OfflineDataset:
    """x' = x + 2 a (of 16 pixels), a in -1, -.5 ... 1; success on the right, cost below, over in that corner."""
    generator = torch.Generator().manual_seed(seed)
    step, last, limit = size // 8, size - size // 4, size // 2
    drawn = torch.randint(-2, 3, (episodes, length, 2), generator=generator)
    drawn[..., axes:] = 0
    place = torch.randint(0, last + 1, (episodes, 2), generator=generator)
    pictures, after = [], []
    for time in range(length):
        pictures.append(picture(place, size))
        place = (place + drawn[:, time] * step // 2).clamp(0, last)
        after.append(place)
    right, below = torch.stack(after, dim=1).unbind(-1)
    count = episodes * length
    over = torch.zeros(episodes, length, dtype=torch.bool)
    over[:, -1] = (right[:, -1] >= limit) & (below[:, -1] >= limit)
    ends = torch.zeros(episodes, length, dtype=torch.bool)
    ends[:, -1] = True
    number = torch.arange(count)
    return OfflineDataset(
        observations=torch.zeros(count + episodes, 1),
        rows=number + number // length,
        actions=(drawn / 2.0)[..., :axes].reshape(count, axes),
        rewards=(right >= limit).float().flatten(),
        costs=(below >= limit).float().flatten(),
        terminals=over.flatten(),
        timeouts=(ends & ~over).flatten(),
        episode_ends=torch.arange(1, episodes + 1) * length,
        images={"top": torch.stack(pictures, dim=1).flatten(0, 1).numpy().astype(np.uint8)},
    )
