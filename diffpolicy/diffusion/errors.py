"""The exception for processes, samplers and paths that cannot be."""


class DiffusionError(ValueError):
    """A schedule, level, step or noise that contradicts the process; the message says what is allowed."""
