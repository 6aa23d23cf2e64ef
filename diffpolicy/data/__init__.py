"""Offline datasets: one schema, readers, a writer and a validator."""

from .columns import from_transitions
from .readers import load
from .schema import REQUIRED, DataError, Expectations, OfflineDataset, Problem
from .writer import save

__all__ = [
    "REQUIRED",
    "DataError",
    "Expectations",
    "OfflineDataset",
    "Problem",
    "from_transitions",
    "load",
    "save",
]
