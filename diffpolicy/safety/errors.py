"""The exception for critics and weights that cannot be made as they were asked for."""


class SafetyError(ValueError):
    """An option of the critics or weights that has no use; the message says which and what would do."""
