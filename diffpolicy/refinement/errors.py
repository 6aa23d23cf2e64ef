"""What can be wrong with a refinement."""


class RefinementError(ValueError):
    """A policy cannot be refined in this world model, from this data, or in this way."""
