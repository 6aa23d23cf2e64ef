"""Mirror images of demonstrations, where a task declares that they are demonstrations too."""

import math

import torch
from torch import Tensor

from diffpolicy.data import Chunks
from envs.layout import Affine, Layout


class Symmetries:
    """The identity and the symmetries of a layout, as maps of raw states and of actions in [-1, 1]."""

    def __init__(self, layout: Layout, observation_size: int, action_size: int, device: torch.device) -> None:
        maps = layout.symmetries
        self._angles = list(layout.angles)
        self._states = _stack([each.observation for each in maps], observation_size, device)
        self._actions = _stack([each.action for each in maps], action_size, device)

    def __len__(self) -> int:
        """How many maps there are, the identity included."""
        return len(self._states[0])

    def apply(self, chunks: Chunks, which: Tensor) -> Chunks:
        """Return the images of `chunks` under the maps `which` (B,) int64, 0 being the identity; angles wrap."""
        states = _transform(self._states, chunks.states, which)
        if self._angles:
            angles = states[..., self._angles].remainder(2.0 * math.pi)
            states = states.index_copy(-1, torch.tensor(self._angles, device=states.device), angles)
        return chunks._replace(states=states, actions=_transform(self._actions, chunks.actions, which))


def _stack(maps: list[Affine], size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    identity = torch.eye(size)
    matrices = [identity, *(torch.tensor(each.matrix, dtype=torch.float32) for each in maps)]
    offsets = [torch.zeros(size), *(torch.tensor(each.offset, dtype=torch.float32) for each in maps)]
    return torch.stack(matrices).to(device), torch.stack(offsets).to(device)


def _transform(maps: tuple[Tensor, Tensor], values: Tensor, which: Tensor) -> Tensor:
    matrices, offsets = maps
    return values @ matrices[which].mT + offsets[which].unsqueeze(1)
