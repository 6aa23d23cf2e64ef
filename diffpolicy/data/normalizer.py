"""Brings observations to zero mean and unit standard deviation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .schema import DataError, OfflineDataset

FIT_ROWS = 262_144
CONSTANT = 1e-6
"""A dimension whose standard deviation is below this part of its size (plus one) only holds rounding."""


@dataclass(frozen=True, eq=False)
class Standardizer:
    """Mean and standard deviation of every observation dimension, (O,) float32 each."""

    mean: Tensor
    std: Tensor

    @classmethod
    def fit(cls, dataset: OfflineDataset) -> Standardizer:
        """Fits the observations that actions were taken in; constant dimensions get a deviation of 1.

        Raises DataError for a dataset without transitions.
        """
        n = dataset.num_transitions
        if n == 0:
            raise DataError("a Standardizer needs at least one transition")
        total = torch.zeros(dataset.observation_size, dtype=torch.float64)
        squares = torch.zeros_like(total)
        for rows in torch.split(dataset.rows, FIT_ROWS):
            total += dataset.observations[rows].double().sum(0)
        mean = total / n
        for rows in torch.split(dataset.rows, FIT_ROWS):
            squares += (dataset.observations[rows].double() - mean).square_().sum(0)
        std = (squares / n).sqrt()
        std[std < CONSTANT * (1 + mean.abs())] = 1.0
        return cls(mean.float(), std.float())

    def normalize(self, observations: Tensor) -> Tensor:
        """(observations - mean) / std for observations (..., O) on the standardizer's device."""
        return (observations - self.mean).div_(self.std)  # in place: one copy of a large dataset, not two

    def denormalize(self, observations: Tensor) -> Tensor:
        """The inverse of `normalize`."""
        return observations * self.std + self.mean

    def to(self, device: torch.device | str) -> Standardizer:
        """The same standardizer on another device."""
        return Standardizer(self.mean.to(device), self.std.to(device))

    def state(self) -> dict[str, Tensor]:
        """The tensors that `from_state` needs."""
        return {"mean": self.mean, "std": self.std}

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> Standardizer:
        """Rebuilds a standardizer from its `state`."""
        return cls(state["mean"], state["std"])
