"""Brings observations to zero mean and unit standard deviation, or any numbers to [-1, 1]."""

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


@dataclass(frozen=True, eq=False)
class MinMaxNormalizer:
    """The centre of every dimension's range and half its width, (D,) float32 each (Diffusion Policy's normaliser)."""

    center: Tensor
    half_range: Tensor

    @classmethod
    def fit(cls, values: Tensor, range_epsilon: float = 1e-4) -> MinMaxNormalizer:
        """Fits values (..., D); a dimension whose range is below `range_epsilon` is only shifted, to zero.

        Raises DataError where there is no value, or one is not finite.
        """
        rows = (
            values.reshape(-1, values.shape[-1])
            if values.ndim and values.shape[-1]
            else values.new_zeros(0, 0)
        )
        if rows.numel() == 0:
            raise DataError("a MinMaxNormalizer needs at least one value in every dimension")
        low, high = rows.amin(0).double(), rows.amax(0).double()
        bad = (~(low + high).isfinite()).nonzero().flatten().tolist()
        if bad:
            raise DataError(f"a MinMaxNormalizer cannot be fitted to NaN or infinity (dimensions {bad})")
        half_range = (high - low) / 2
        half_range[high - low < range_epsilon] = 1.0
        return cls(((high + low) / 2).float(), half_range.float())

    def normalize(self, values: Tensor) -> Tensor:
        """Takes the fitted range to [-1, 1]; values (..., D) beyond it go beyond."""
        return (values - self.center) / self.half_range

    def denormalize(self, values: Tensor) -> Tensor:
        """The inverse of `normalize`."""
        return values * self.half_range + self.center

    def to(self, device: torch.device | str) -> MinMaxNormalizer:
        """The same normaliser on another device."""
        return MinMaxNormalizer(self.center.to(device), self.half_range.to(device))

    def state(self) -> dict[str, Tensor]:
        """The tensors that `from_state` needs."""
        return {"center": self.center, "half_range": self.half_range}

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> MinMaxNormalizer:
        """Rebuilds a normaliser from its `state`."""
        return cls(state["center"], state["half_range"])
