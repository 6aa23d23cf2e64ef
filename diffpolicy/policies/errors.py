"""The exception for policies that cannot be made, trained or loaded as asked."""


class PolicyError(ValueError):
    """A configuration, dataset or checkpoint that does not fit; the message says what and what would."""
