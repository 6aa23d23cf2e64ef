"""What can go wrong in a training run, as errors a person can act on."""


class TrainingError(RuntimeError):
    """A training run cannot start or go on; the message says what was wrong, where, and what to do."""


class CheckpointError(TrainingError):
    """A checkpoint cannot be written, found or read."""


class ConfigMismatchError(TrainingError):
    """The run folder holds a run of another configuration."""


class NonFiniteError(TrainingError):
    """A loss or a weight became NaN or infinite."""


class FeedbackError(TrainingError):
    """What a learner waits for, a reward say, could not be had; nothing of the update was done."""


class StateError(TrainingError, TypeError):
    """A training state holds something that cannot be stored exactly without pickle."""


class DeviceError(TrainingError, ValueError):
    """The device asked for is unknown or absent."""


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop (SIGINT or SIGTERM) and has written a checkpoint to go on from."""
