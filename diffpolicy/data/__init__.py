"""Offline datasets: one schema, readers, a writer, a validator, filters, and downloads."""

from .chunks import Chunks, ChunkSampler
from .columns import from_transitions
from .density import Grid, grid, published_densities
from .download import PUBLISHED, SOURCES, DownloadError, Progress, Published, fetch, sha256
from .filters import Range, add_noise, add_outliers, drop_best, inpaint, thin
from .image_cache import cache_folder
from .images import ImageColumn
from .normalizer import MinMaxNormalizer, Standardizer
from .readers import load
from .schema import REQUIRED, DataError, Expectations, OfflineDataset, Problem
from .summary import describe
from .validate import check, check_dataset
from .writer import save

__all__ = [
    "PUBLISHED",
    "REQUIRED",
    "SOURCES",
    "ChunkSampler",
    "Chunks",
    "DataError",
    "DownloadError",
    "Expectations",
    "Grid",
    "ImageColumn",
    "MinMaxNormalizer",
    "OfflineDataset",
    "Problem",
    "Progress",
    "Published",
    "Range",
    "Standardizer",
    "add_noise",
    "add_outliers",
    "cache_folder",
    "check",
    "check_dataset",
    "describe",
    "drop_best",
    "fetch",
    "from_transitions",
    "grid",
    "inpaint",
    "load",
    "published_densities",
    "save",
    "sha256",
    "thin",
]
