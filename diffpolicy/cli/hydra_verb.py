"""Runs a verb under Hydra, so that Hydra's overrides, --multirun, --cfg job, --info ... all work."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from diffpolicy.cli.configs import config_folder
from diffpolicy.cli.errors import ConfigError
from diffpolicy.cli.suggestions import explain
from diffpolicy.cli.verbs import Verb

HYDRA_VERSION = "1.3"


@dataclass
class _Outcome:
    """What became of the job, told past Hydra, which would print a paragraph of its own about a failure."""

    folder: str | None = None
    failure: Exception | None = None


def run_hydra(name: str, verb: Verb, arguments: Sequence[str]) -> int:
    """Compose `<name>.yaml` with the overrides in `arguments`, call the verb's `main` with it, and return 0.

    `main` gets in `cfg.run` the absolute folder of its own job, in a sweep too. Raises ConfigError for an
    option that does not exist or cannot be composed; the errors of the job come through as they are.
    """
    outcome = _Outcome()
    job = _job(verb, outcome)
    command = hydra.main(config_path=str(config_folder()), config_name=name, version_base=HYDRA_VERSION)(job)
    completing = any(
        argument in ("-sc", "--shell-completion", "--shell_completion") for argument in arguments
    )
    # The completion script that Hydra prints registers the program by this name, which has to be one word.
    program = "diffpolicy" if completing else f"diffpolicy {name}"
    try:
        # Hydra prints exceptions and exits by itself unless this variable says to let them through.
        with command_line(program, arguments), environment(HYDRA_FULL_ERROR="1"):
            command()
        if outcome.failure is not None:
            raise outcome.failure
    except KeyboardInterrupt as interrupt:
        if outcome.folder is None:
            raise
        what = interrupt.args[0] if interrupt.args else "interrupted"
        again = f"to use the same folder again: run={outcome.folder}"
        raise KeyboardInterrupt(f"{what.rstrip('.')}; {again}") from interrupt
    except HydraException as error:
        raise ConfigError(explain(error, name, arguments)) from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{name}: {str(error).splitlines()[0]}") from error
    except ValueError as error:
        if outcome.folder is not None:
            raise
        raise ConfigError(f"{name}: {error}") from error  # flags of Hydra's that exclude each other
    return 0


def _job(verb: Verb, outcome: _Outcome) -> Callable[[DictConfig], None]:
    def job(cfg: DictConfig) -> None:
        settings = HydraConfig.get()
        cfg.run = outcome.folder = settings.runtime.output_dir
        try:
            import_module(verb.module).main(cfg)
        except Exception as error:
            # In a sweep the failure is Hydra's to report: it names the job, and the other jobs still run.
            if settings.mode == RunMode.MULTIRUN:
                raise
            outcome.failure = error

    job.__module__ = verb.module  # Hydra names the job, and with it the log file, after this
    return job


@contextmanager
def command_line(program: str, arguments: Sequence[str]) -> Iterator[None]:
    """Let `sys.argv`, which is what Hydra reads, be `[program, *arguments]` for a while."""
    before = sys.argv
    sys.argv = [program, *arguments]
    try:
        yield
    finally:
        sys.argv = before


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Set environment variables for a while."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
