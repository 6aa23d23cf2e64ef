"""The exception for policies that cannot be made, trained, loaded or asked as they were."""


class PolicyError(ValueError):
    """A configuration, dataset, checkpoint or observation that does not fit; the message says what and what would."""
