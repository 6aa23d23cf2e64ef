"""What can go wrong when a task is looked up, made, stepped or drawn."""


class UnknownTaskError(ValueError):
    """No task has this id or short name; the message names the nearest ones."""


class MissingSimulatorError(RuntimeError):
    """The task is known but its simulator cannot run here; the message says why and what is needed."""


class RenderingError(RuntimeError):
    """No picture can be drawn on this machine; the message says what to install or set."""


class WorkerError(RuntimeError):
    """An environment failed inside a worker process; the message carries the worker's own traceback."""
