"""`diffpolicy data`: checks, fetches and describes dataset files."""

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

import envs
from diffpolicy import data
from diffpolicy.cli.common import ways_to_data
from diffpolicy.cli.errors import ConfigError

FORMATS = "HDF5 (DSRL, D4RL, robomimic), .npz, zarr (folder or .zip), or a Minari or LeRobot folder"


def main(arguments: Sequence[str]) -> int:
    """Run one of check, fetch and info; return 0, or 1 if a checked file has errors.

    Raises DataError for a file that `info` cannot read, DownloadError for one that cannot be fetched,
    ConfigError for a task without a published one, UnknownTaskError for an unknown task.
    """
    options = _parser().parse_args(arguments)
    if options.job == "check":
        return _check(options.file, options.task, _chosen(options))
    if options.job == "fetch":
        return _fetch(options.what, options.to)
    return _info(options.file, _chosen(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="diffpolicy data", description=__doc__, allow_abbrev=False)
    jobs = parser.add_subparsers(dest="job", required=True, metavar="{check,fetch,info}")
    check = jobs.add_parser("check", help="name every problem of a file; exit status 1 if there are errors")
    check.add_argument("file", type=Path, help=FORMATS)
    check.add_argument("--task", help="hold the file to this task's sizes, horizon and costs")
    fetch = jobs.add_parser("fetch", help="download the published dataset of a task")
    fetch.add_argument(
        "what", metavar="TASK|FILE", help="a task, the name of a published file, or a local path"
    )
    fetch.add_argument("--to", type=Path, help="the folder to keep it in (default: dsrl's; pusht: the cache)")
    info = jobs.add_parser("info", help="print a file's size, returns, costs and SHA-256")
    info.add_argument("file", type=Path, help=FORMATS)
    for job in (check, info):
        job.add_argument("--observations", nargs="+", metavar="KEY", help="read these keys of demonstrations")
        job.add_argument(
            "--images", nargs="+", metavar="KEY", default=(), help="decode these pictures (keys or cameras)"
        )
        job.add_argument("--subset", help='read these episodes of a robomimic file ("train")')
    return parser


def _chosen(options: argparse.Namespace) -> dict[str, Any]:
    """What of a file to read, as `data.load` and `data.check` take it."""
    return {name: getattr(options, name) for name in ("observations", "images", "subset")}


def _check(file: Path, task: str | None, chosen: dict[str, Any]) -> int:
    entry = envs.task(task) if task else _task_of(file)
    if entry and chosen["observations"] is None:
        chosen = {**chosen, "observations": entry.demonstrated}  # as training reads it
    problems = data.check(file, expectations_of(entry) if entry else None, **chosen)
    for problem in problems:
        print(problem)
    errors = sum(problem.severity == "error" for problem in problems)
    held_to = f"held to {entry.name}" if entry else "held to no task: name one with --task"
    print(f"{file}: {_count(errors, 'error')}, {_count(len(problems) - errors, 'warning')} ({held_to})")
    return 1 if errors else 0


def expectations_of(task: envs.Task) -> data.Expectations:
    """Return what a file of this task's data must satisfy."""
    return data.Expectations(
        observation_size=task.observation_size,
        action_size=task.action_size,
        action_low=None if task.clips_recorded else task.action_low,
        action_high=None if task.clips_recorded else task.action_high,
        max_episode_steps=task.max_episode_steps,
        binary_cost=task.binary_cost,
    )


def _task_of(file: Path) -> envs.Task | None:
    """The task whose published dataset has this file's name."""
    named = next(
        (name for name, published in data.PUBLISHED.items() if published.file_name == file.name), None
    )
    if named:
        return envs.task(named)
    return next((task for task in envs.tasks() if task.dataset_file == file.name), None)


def _fetch(what: str, to: Path | None) -> int:
    if Path(what).is_file():
        print(what)
        return 0
    name, folder = what, to
    if what.lower() not in data.PUBLISHED:
        name = what if what.endswith(".hdf5") else envs.task(what).dataset_file
        folder = to or dataset_folder()
    if not name:
        raise ConfigError(
            f"{what} has no published dataset to fetch: {ways_to_data(envs.task(what))}pass data=FILE to train"
        )
    console = Console(stderr=True)
    columns = (DownloadColumn(), BarColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        shown = bar.add_task(name, total=None)
        path = data.fetch(
            name,
            folder,
            progress=lambda at: bar.update(shown, completed=at.done, total=at.total),
        )
    print(path)
    return 0


def dataset_folder() -> Path:
    """Return the folder that dsrl itself keeps datasets in: DSRL_DATASET_DIR, or ~/.dsrl/datasets."""
    named = os.environ.get("DSRL_DATASET_DIR")
    return Path(named) if named else Path.home() / ".dsrl" / "datasets"


def _info(file: Path, chosen: dict[str, Any]) -> int:
    for line in described(data.load(file, **chosen), file):
        print(line)
    return 0


def described(dataset: data.OfflineDataset, file: Path) -> Iterator[str]:
    """Yield lines for people about a dataset and the file that it is in."""
    figures = data.describe(dataset)
    for camera, (height, width) in figures.pop("cameras", {}).items():
        figures[f"pictures of {camera}"] = f"{height} x {width}"
    figures["sha256"] = data.sha256(file)
    for name, value in figures.items():
        yield f"{name.replace('_', ' '):<25} {_shown(value)}"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{quantile}%: {figure:.5g}" for quantile, figure in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
