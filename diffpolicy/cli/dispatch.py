"""`diffpolicy VERB ...`: finds the verb, runs it, and turns what the user did wrong into one line."""

import difflib
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

from diffpolicy import __version__
from diffpolicy.cli.verbs import VERBS, Verb

DEBUG_SWITCHES = ("DIFFPOLICY_DEBUG", "HYDRA_FULL_ERROR")
OUR_PACKAGES = {"diffpolicy", "envs", "world_models"}


def dispatch(arguments: Sequence[str], verbs: Mapping[str, Verb] = VERBS) -> int:
    """Run the verb that `arguments` names and return the exit status: 0 done, 1 failed, 2 a wrong command.

    Exceptions that the packages define and errors of the operating system are printed as one line; any other
    is a defect and keeps its traceback, as does everything with DIFFPOLICY_DEBUG=1 or HYDRA_FULL_ERROR=1 set.
    """
    try:
        status = _run(arguments, verbs)
        sys.stdout.flush()  # a reader that is gone shows here, not when the interpreter ends
        return status
    except BrokenPipeError:
        # The reader of our output is gone (`| head`); the interpreter must not fail again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt as interrupt:
        print(interrupt.args[0] if interrupt.args else "interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        message = None if debugging() else one_line(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        return int(getattr(error, "exit_status", 1))


def overview(verbs: Mapping[str, Verb]) -> str:
    """Return the text of `diffpolicy --help`."""
    lines = "\n".join(f"  {name:<10} {verb.help}" for name, verb in verbs.items())
    return (
        "usage: diffpolicy VERB [key=value ...]\n\n"
        f"{lines}\n\n"
        "diffpolicy VERB --help       the options of a verb and their defaults\n"
        "diffpolicy --version         the installed version\n"
        'eval "$(diffpolicy -sc install=bash)"   completion of verbs, groups and keys (also fish, zsh)\n'
        "DIFFPOLICY_DEBUG=1           tracebacks instead of one-line errors"
    )


def debugging() -> bool:
    """Return whether the user asked for tracebacks."""
    return any(os.environ.get(name, "0") not in ("", "0") for name in DEBUG_SWITCHES)


def one_line(error: Exception) -> str | None:
    """Return the sentence for an error that its reader can mend, None for one that is a defect of ours."""
    if isinstance(error, ModuleNotFoundError):
        if error.name is None:  # raised by those who say themselves what is missing
            return str(error)
        package = error.name.partition(".")[0]
        if package in OUR_PACKAGES:
            return None
        return (
            f"package '{package}' is missing: run `make setup`, or pip install "
            "'diffpolicy[safety,collect,robotics,formats,images,export,deploy]'"
        )
    ours = type(error).__module__.partition(".")[0] in OUR_PACKAGES
    if not ours and not isinstance(error, OSError):
        return None
    return " ".join(str(error).split()) or type(error).__name__


def _run(arguments: Sequence[str], verbs: Mapping[str, Verb]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview(verbs))
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"diffpolicy {__version__}")
        return 0
    name, rest = arguments[0], list(arguments[1:])
    if name in ("-sc", "--shell-completion"):
        from diffpolicy.cli.completion import complete

        return complete(rest, verbs)
    if name not in verbs:
        near = difflib.get_close_matches(name, verbs, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"the verbs are {', '.join(verbs)}"
        print(f"error: no verb '{name}'; {hint}", file=sys.stderr)
        return 2
    verb = verbs[name]
    if verb.arguments == "argparse":
        return int(import_module(verb.module).main(rest))
    from diffpolicy.cli.hydra_verb import run_hydra

    if verb.positional and rest and rest[0][0] not in "-+~" and "=" not in rest[0]:
        rest[0] = f"{verb.positional}={rest[0]}"
    if verb.stages:
        from diffpolicy.cli.stages import gather

        rest = gather(rest, verb.stages)
    return run_hydra(name, verb, rest)
