"""Two-hot encoding: a number as weights on the two bins around it, from which it can be read off exactly."""

import torch
from torch import Tensor

from world_models.errors import WorldModelError


def encode(values: Tensor, bins: int, low: float = -1.0, high: float = 1.0) -> Tensor:
    """Return the weights (..., bins) of numbers (...) on bins spaced evenly from `low` to `high`.

    A number between two bins is shared by them in proportion to its nearness, and a number at the last bin is all that
    bin's (World4RL, Jiang et al. 2025; 21 bins for actions in [-1, 1]). Numbers beyond the range count as its ends.

    Raises:
        WorldModelError: if there are fewer than two bins, or the range is empty.
    """
    if bins < 2 or not low < high:
        raise WorldModelError(
            f"two-hot encoding needs two bins or more and low < high, got {bins}, {low}, {high}"
        )
    place = (values.clamp(low, high) - low) * ((bins - 1) / (high - low))
    lower = place.floor().clamp(max=bins - 2)
    share = (place - lower).unsqueeze(-1)
    index = lower.long().unsqueeze(-1)
    weights = values.new_zeros(*values.shape, bins)
    return weights.scatter(-1, index, 1.0 - share).scatter(-1, index + 1, share)


def decode(weights: Tensor, low: float = -1.0, high: float = 1.0) -> Tensor:
    """Return the numbers (...) that weights (..., bins) stand for: the mean of the bins."""
    places = torch.linspace(low, high, weights.shape[-1], dtype=weights.dtype, device=weights.device)
    return weights @ places
