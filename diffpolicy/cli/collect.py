"""`diffpolicy collect`: makes a dataset from a real simulator where none can be downloaded."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

import envs
from diffpolicy.cli.common import COLLECTED, dataset_file
from diffpolicy.cli.config import build
from diffpolicy.cli.data import described
from diffpolicy.cli.errors import ConfigError
from diffpolicy.collection import CollectConfig, collect
from diffpolicy.collection.recipes import RECIPES
from diffpolicy.data import OfflineDataset

OURS = ("task", "to", "run", "progress", "device")  # keys of collect.yaml that are not the collector's


def main(cfg: DictConfig) -> None:
    """Collect a dataset of `cfg.task` into `cfg.to`."""
    task = envs.task(cfg.task)
    if task.simulator not in COLLECTED and cfg.source is None:
        raise ConfigError(
            f"{task.name} has no way of its own to make data: source=ppo has agents learn it from its rewards; "
            "demonstrations go to train as data=FILE"
        )
    if task.image_size is not None:
        raise ConfigError(
            f"this verb keeps no pictures, which {task.name} is for: diffpolicy.collection.pictures.collect_pictures "
            "records mixtures with theirs, as `diffpolicy benchmark suite=world4rl` does"
        )
    options = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(options, dict)
    path = Path(cfg.to) if cfg.to is not None else dataset_file(Path("runs/data"), task)
    if path.exists() and not cfg.extend:
        raise ConfigError(f"{path} exists: extend=true adds to it, to=FILE names another")
    given = {str(key): value for key, value in options.items() if key not in OURS}
    dataset = collect_task(task, path, given, progress=cfg.progress)
    console = Console(soft_wrap=True, highlight=False)
    for line in described(dataset, path):
        console.print(line)
    policy = "" if task.score == "return" else " policy=diffusion_mlp"
    console.print(f"dataset: {path}\nnext:    diffpolicy train{policy} task={task.name} data={path}")


def collect_task(
    task: envs.Task, path: Path, given: Mapping[str, Any], progress: bool = True
) -> OfflineDataset:
    """Collect by the task's recipe, whose runs are changed by the options in `given` that are not None.

    From another source than the recipe's there is one run: the runs of a recipe are stages of one way to make data.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    recipe, source = RECIPES.get(task.name, [{}]), given.get("source")
    if source is not None and all(source != run.get("source", CollectConfig.source) for run in recipe):
        recipe = [{key: value for key, value in recipe[-1].items() if key not in ("extend", "seed")}]
    configs = [build(CollectConfig, _merged(settings, given), "collect") for settings in recipe]
    for config in configs:
        dataset = collect(task.id, config, path, progress)
    return dataset


def _merged(recipe: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(recipe)
    for key, value in given.items():
        if isinstance(value, Mapping):
            merged[key] = _merged(recipe.get(key, {}), value)
        elif value is not None:
            merged[key] = value
    return merged
