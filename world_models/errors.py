"""What can go wrong with a world model, as errors a person can act on."""


class WorldModelError(ValueError):
    """A world model cannot be trained, loaded or imagined in as asked; the message says what to do."""
