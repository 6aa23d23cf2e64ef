"""The exception for a command or a configuration that cannot be meant as it stands."""


class ConfigError(ValueError):
    """A wrong option: the message names the option, what is wrong with it, and the nearest valid one."""

    exit_status = 2
