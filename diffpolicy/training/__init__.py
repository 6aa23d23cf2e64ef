"""Training runs: checkpoints, resuming, curves and progress. It knows steps and folders, never a method."""

from diffpolicy.training.averaged import AveragedLearner
from diffpolicy.training.checkpoint import (
    Checkpoint,
    latest_checkpoint,
    read_checkpoint,
    read_training_state,
    write_checkpoint,
)
from diffpolicy.training.devices import pick_device
from diffpolicy.training.errors import (
    CheckpointError,
    ConfigMismatchError,
    DeviceError,
    FeedbackError,
    Interrupted,
    NonFiniteError,
    StateError,
    TrainingError,
)
from diffpolicy.training.judging import Judge, Verdict, best_checkpoint
from diffpolicy.training.logging import read_curves
from diffpolicy.training.loop import Learner, run
from diffpolicy.training.state import digest

__all__ = [
    "AveragedLearner",
    "Checkpoint",
    "CheckpointError",
    "ConfigMismatchError",
    "DeviceError",
    "FeedbackError",
    "Interrupted",
    "Judge",
    "Learner",
    "NonFiniteError",
    "StateError",
    "TrainingError",
    "Verdict",
    "best_checkpoint",
    "digest",
    "latest_checkpoint",
    "pick_device",
    "read_checkpoint",
    "read_curves",
    "read_training_state",
    "run",
    "write_checkpoint",
]
