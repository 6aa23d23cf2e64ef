"""Makes offline datasets from real simulators: learned behaviour, actors from files, scripted controllers."""

from diffpolicy.collection.collect import choose, collect
from diffpolicy.collection.config import (
    CollectConfig,
    CollectionError,
    CollectionInterrupted,
    ExpertConfig,
    MixtureConfig,
    PPOConfig,
    SACConfig,
)
from diffpolicy.collection.filtering import cover_plane
from diffpolicy.collection.recorder import EpisodeRecorder, RecordedEpisode, to_dataset

__all__ = [
    "CollectConfig",
    "CollectionError",
    "CollectionInterrupted",
    "EpisodeRecorder",
    "ExpertConfig",
    "MixtureConfig",
    "PPOConfig",
    "RecordedEpisode",
    "SACConfig",
    "choose",
    "collect",
    "cover_plane",
    "to_dataset",
]
