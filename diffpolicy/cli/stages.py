"""Stages of a pipeline: the options of a verb, a folder, and a record of what it was finished with."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from diffpolicy.cli.configs import config_folder
from diffpolicy.cli.errors import ConfigError
from diffpolicy.cli.hydra_verb import HYDRA_VERSION
from diffpolicy.cli.suggestions import explain, nearest

RECORD = "stage.json"
# Options that change what a stage shows and never what comes of it.
HARMLESS = frozenset({"run", "device", "threads", "progress", "checkpoint_every", "log_every"})


def gather(arguments: Sequence[str], stages: Sequence[str]) -> list[str]:
    """Return a command's words with those of stages, `train.preset=paper`, moved into one option, `typed=[...]`.

    Hydra knows a verb's own options only; what belongs to a stage is read by the configuration of its verb.
    """
    ours = re.compile(rf"(?:\+\+|\+|~)?(?:{'|'.join(map(re.escape, stages))})\.")
    typed = [word for word in arguments if ours.match(word)]
    rest = [word for word in arguments if not ours.match(word)]
    return [*rest, f"typed=[{','.join(map(_quoted, typed))}]"] if typed else rest


def compose_stage(
    stage: str, verb: str, words: Sequence[str], fixed: Mapping[str, Any], given: Mapping[str, Any]
) -> DictConfig:
    """Return the configuration of a verb for a stage, with its options among `words`, the last of a key counting.

    `fixed` is what the pipeline decides and nobody else may, `given` what holds unless the words say otherwise.

    Raises:
        ConfigError: for an option that the verb does not have, or that the pipeline decides.
    """
    chosen: dict[str, str] = {}
    for word in words:
        prefix, name, rest = _split(word)
        if name != stage:
            continue
        key = rest.partition("=")[0]
        if key.partition(".")[0] in fixed:
            raise ConfigError(f"{stage}.{key} follows from the pipeline's own options: leave it out")
        chosen[key] = prefix + rest
    with _alone():
        try:
            with initialize_config_dir(str(config_folder()), version_base=HYDRA_VERSION):
                found = compose(verb, overrides=list(chosen.values()))
        except HydraException as error:
            GlobalHydra.instance().clear()
            raise ConfigError(explain(error, verb, list(chosen.values()))) from error
    with open_dict(found):
        for key, value in given.items():
            if key not in chosen and key in found:
                found[key] = value
        for key, value in fixed.items():
            found[key] = value
    return found


def check_words(words: Sequence[str], stages: Sequence[str]) -> None:
    """Raise ConfigError for a word that belongs to no stage."""
    for word in words:
        name = _split(word)[1]
        if name not in stages:
            near = nearest(name, stages)
            hint = f"did you mean '{near}'?" if near else f"the stages are {', '.join(stages)}"
            raise ConfigError(f"there is no stage '{name}' for {word}; {hint}")


@dataclass(frozen=True)
class Stage:
    """A stage in `folder`; `config` is its verb's, `inputs` the SHA-256 of all that it works on."""

    name: str
    folder: Path
    config: DictConfig
    inputs: Mapping[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that decides what comes of the stage: options, and inputs by what is in them."""
        plain: Any = OmegaConf.to_container(self.config, resolve=True)
        left_out = HARMLESS | set(self.inputs)
        # Through JSON, as what is compared with them went.
        kept = {name: value for name, value in plain.items() if name not in left_out}
        return {"options": json.loads(json.dumps(kept)), "inputs": json.loads(json.dumps(dict(self.inputs)))}

    def outcome(self) -> dict[str, Any] | None:
        """Return what the finished stage left to be said, None while it is not finished.

        Raises:
            ConfigError: if it was finished with other settings, or its record cannot be read.
        """
        path = self.folder / RECORD
        if not path.exists():
            return None
        try:
            stored = json.loads(path.read_text())
            settings, said = dict(stored["settings"]), dict(stored["outcome"])
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path} is no record of a stage: delete {self.folder}") from error
        before, now = dict(_leaves(settings)), dict(_leaves(self.settings))
        changed = [
            f"{key.partition('.')[2]}: {before.get(key, 'absent')} -> {now.get(key, 'absent')}"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key)
        ]
        if changed:
            raise ConfigError(
                f"the stage {self.name} is finished with other settings ({'; '.join(changed)}): choose another run "
                f"folder, give the settings that it had, or delete {self.folder} and it is done again"
            )
        return said

    def finish(self, outcome: Mapping[str, Any]) -> None:
        """Write down that the stage is finished, and what is to be said of it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".{RECORD}"
        document = {"settings": self.settings, "outcome": dict(outcome)}
        temporary.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
        temporary.replace(self.folder / RECORD)


def _split(word: str) -> tuple[str, str, str]:
    """Return the signs, the stage and the rest of `+train.preset=paper`."""
    found = re.fullmatch(r"(\+\+|\+|~)?([^.=]*)\.?(.*)", word, re.DOTALL)
    assert found is not None
    return found[1] or "", found[2], found[3]


def _quoted(word: str) -> str:
    """Return a word in Hydra's quotes, where backslashes count only before a quote and at the end."""
    return "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), word) + "'"


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, json.dumps(value)


@contextmanager
def _alone() -> Iterator[None]:
    """Put aside the Hydra that runs this job for a while: there can be one at a time."""
    instance = GlobalHydra.instance()
    outer = instance.hydra
    instance.clear()
    try:
        yield
    finally:
        instance.clear()
        instance.hydra = outer
