"""Where a collected dataset comes from, as attributes of its file."""

import dataclasses
import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]

from diffpolicy.collection.config import CollectConfig
from diffpolicy.data import sha256
from diffpolicy.training import best_checkpoint, read_checkpoint
from envs import Task

LICENCE = "CC BY 4.0"
AGENTS = {
    "ppo": "stable-baselines3 PPO",
    "sac": "stable-baselines3 SAC",
    "policies": "actors from files",
    "scripted": "scripted controllers",
    "mixture": "experts, policies and random actions",
}
PACKAGES = (
    "diffpolicy",
    "gymnasium",
    "mujoco",
    "numpy",
    "pybullet",
    "safety-gymnasium",
    "bullet-safety-gym",
    "metaworld",
)
AGENT_PACKAGES = ("stable-baselines3", "torch")


def describe_run(config: CollectConfig, *, steps: int, episodes: int, interrupted: bool) -> dict[str, Any]:
    """One entry of the `runs` attribute: settings, amounts and the versions that made it."""
    settings = dataclasses.asdict(config)
    for agent, source in {"ppo": "ppo", "sac": "sac", "expert": "scripted", "mixture": "mixture"}.items():
        if source != config.source:
            del settings[agent]
    files = {Path(name).name: sha256(name) for name in config.policies}
    if config.source == "mixture" and config.mixture.driver is not None:
        settings["mixture"]["driver"] = name = Path(config.mixture.driver).name
        driver = read_checkpoint(best_checkpoint(config.mixture.driver))
        files[name] = driver.manifest["sha256"]["model.safetensors"]
    settings["policies"] = [Path(name).name for name in config.policies]
    return {
        "agent": AGENTS[config.source],
        "config": settings,
        "policy_sha256": files,
        "steps": steps,
        "episodes": episodes,
        "interrupted": interrupted,
        "python": platform.python_version(),
        "versions": _versions(),
    }


def file_attributes(task: Task, runs: list[dict[str, Any]], kept: int) -> dict[str, Any]:
    """Attributes of the file: task, source, licence, command and every run that went into it."""
    return {
        "task": task.id,
        "source": ",".join(sorted({run["config"]["source"] for run in runs})),
        "licence": LICENCE,
        "command": "; ".join(command(task, run["config"]) for run in runs),
        "episodes_recorded": sum(run["episodes"] for run in runs),
        "episodes_kept": kept,
        "steps": sum(run["steps"] for run in runs),
        "runs": json.dumps(runs),
    }


def earlier_runs(path: Path) -> list[dict[str, Any]]:
    """The runs that an existing file was made by; empty for a file without such a record."""
    with h5py.File(path, "r") as file:
        runs: list[dict[str, Any]] = json.loads(file.attrs.get("runs", "[]"))
    return runs


def command(task: Task, settings: dict[str, Any]) -> str:
    """The command line that repeats a run; it names every setting, because defaults may change."""
    return " ".join(["diffpolicy", "collect", f"task={task.name}", *_words(settings, "")])


def _words(settings: dict[str, Any], prefix: str) -> list[str]:
    words: list[str] = []
    for name, value in settings.items():
        if isinstance(value, dict):
            words += _words(value, f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
            words.append(f"{prefix}{name}={text}")
    return words


def _versions() -> dict[str, str]:
    found = {}
    for package in (*PACKAGES, *AGENT_PACKAGES):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
