"""The exceptions of deployment: what is wrong, where, and what to do about it."""


class DeployError(ValueError):
    """Something that cannot be exported, served, run or sent to a robot as it is."""


class ManifestError(DeployError):
    """A manifest that is not one of this version; the message names the key."""
