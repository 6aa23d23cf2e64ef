"""The exception for networks that cannot be built or asked as they were."""


class NetworkError(ValueError):
    """A size, picture or noise level that a network has no use for; the message says which and what would do."""
