"""What can be wrong with a refinement."""


class RefinementError(ValueError):
    """A policy cannot be refined in this world model, from this data, or in this way."""


class RefusedError(RefinementError):
    """The gate says no to data, to a start or to what was refined: a result, where a wrong option is a mistake."""
