"""What a refused option should have been: Hydra's errors as one sentence with the nearest valid one."""

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffpolicy.cli.configs import config_folder

_REFUSED_KEY = re.compile(r"Could not (?:override|delete from config\.|append to config\.)[^']*'([^']+)'")


def explain(error: HydraException, name: str, arguments: Sequence[str]) -> str:
    """Return one sentence for a command of the verb `name` that Hydra refused with `error`."""
    if isinstance(error, MissingConfigException):
        return _explain_choice(error, name)
    if isinstance(error, OverrideParseException):
        return (
            f"{name}: '{error.override}' cannot be read; write key=value or group=choice, no blanks around ="
        )
    refused = _REFUSED_KEY.search(str(error))
    if refused is None or "append" in refused[0]:
        return f"{name}: {' '.join(str(error).split())}"
    key = refused[1]
    keys = valid_keys(name, arguments)
    near = nearest(key, keys)
    if near is not None:
        return f"{name} has no option '{key}'; did you mean '{near}'?"
    shown = ", ".join(sorted(option for option in keys if "." not in option))
    return f"{name} has no option '{key}'; its options are {shown} (all of them: diffpolicy {name} --cfg job)"


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """Return the choice that `word` most likely stands for, None if it resembles none of them.

    It is also compared with the last parts of dotted keys, since what is forgotten most often is the name of
    the group: `learning_rate` stands for `policy.learning_rate`.
    """
    choices = sorted(choices, key=lambda choice: (choice.count("."), choice))
    last = word.rpartition(".")[2]
    for choice in choices:
        if choice.rpartition(".")[2] == last:
            return choice
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    if close:
        return close[0]
    ends = {choice.rpartition(".")[2]: choice for choice in reversed(choices)}
    close = difflib.get_close_matches(last, ends, n=1, cutoff=0.6)
    return ends[close[0]] if close else None


def valid_keys(name: str, arguments: Sequence[str]) -> set[str]:
    """Return every key (dotted) and group of the verb `name`, given the group choices in `arguments`."""
    given = get_args(list(arguments))
    path = create_config_search_path(given.config_path or str(config_folder()))
    if given.config_dir:
        # Where Hydra puts it: before the configs, so that the user's file of a name hides ours.
        path.prepend("command-line", f"file://{Path(given.config_dir).resolve()}", SearchPathQuery("schema"))
    loader = Hydra.create_main_hydra2(task_name=name, config_search_path=path).config_loader
    try:
        groups = set(loader.list_groups("")) - {"hydra"}
        chosen = [item for item in given.overrides if item.partition("=")[0] in groups and "," not in item]
        for overrides in (chosen, []):
            try:
                config = compose(given.config_name or name, overrides=overrides)
            except (HydraException, OmegaConfBaseException):
                continue  # without the choices, which may be what is wrong
            return groups | set(_dotted(OmegaConf.to_container(config, resolve=False)))
        return groups
    finally:
        GlobalHydra.instance().clear()


def _dotted(node: Any, prefix: str = "") -> Iterator[str]:
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        yield f"{prefix}{key}"
        yield from _dotted(value, f"{prefix}{key}.")


def _explain_choice(error: MissingConfigException, name: str) -> str:
    group, _, choice = (error.missing_cfg_file or "").rpartition("/")
    if not group or not error.options:
        return f"{name}: {' '.join(str(error).split())}"
    near = nearest(choice, error.options)
    hint = f"did you mean '{near}'?" if near else f"the choices are {', '.join(error.options)}"
    return f"{name} has no {group} '{choice}'; {hint}"
