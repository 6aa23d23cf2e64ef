"""The pixel rows of the suite `world-model`: how true models of camera pictures are, and whether actions are heard.

Every arm is trained once per seed on a dataset's pictures, with or without random actions played in the simulator, and
judged on held-out episodes and on other random actions. Every assessment is a result of its own below `run`.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console

import envs
from diffpolicy import data, training
from diffpolicy.cli.common import dataset_path
from diffpolicy.cli.errors import ConfigError
from diffpolicy.cli.pixel_world_model import RANDOM, train, trained
from diffpolicy.cli.suites.jobs import Job, run_all
from diffpolicy.cli.suites.results import target
from diffpolicy.evaluation.statistics import estimate, paired_ratio
from world_models.pixel_assessment import assess_pixels
from world_models.pixel_fidelity import psnr

DIGITS = 8  # of errors in kept results


def pixel_rows(cfg: DictConfig, console: Console) -> dict[str, Any]:
    """Train and assess all models of pixels where that is not done; `cfg` is the suite's configuration.

    Returns `rows`, one for each arm, kind of data and horizon, with intervals over starts and seeds, and `targets`.
    Where the dataset is not on this machine both are empty and `missing` says how to get it.
    """
    options = cfg.pixels
    task = envs.task(str(options.task))
    try:
        path = dataset_path(task, options.data)
    except ConfigError as missing:
        console.print(f"no rows of pixels: {missing}")
        return {"missing": str(missing), "rows": [], "targets": []}
    console.rule(f"{task.name}, pictures")
    rows: list[dict[str, Any]] = []
    for arm in options.arms:
        jobs = [job(cfg, task, str(arm), seed, path) for seed in options.seeds]
        run_all(jobs, console)
        rows += rows_of(task.name, str(arm), [one.result() for one in jobs])
    return {"rows": rows, "targets": targets(rows, str(next(iter(options.arms))))}


def job(cfg: DictConfig, task: envs.Task, arm: str, seed: int, path: Path) -> Job:
    """Train one model where that is not done and return the job that assesses it."""
    options = cfg.pixels
    run = Path(cfg.run).resolve() / task.name / arm.replace(" ", "_") / f"seed-{seed}"
    changed = {"task": task.id, "data": str(path), "seed": seed, "run": str(run), "device": cfg.device}
    shared = {name: cfg[name] for name in ("threads", "progress", "checkpoint_every", "log_every")}
    with open_dict(cfg):  # the verb has more options than the suite names
        settings = OmegaConf.merge(options, options.arms[arm] or {}, changed, shared)
    assert isinstance(settings, DictConfig)
    checkpoint = train(settings)
    of = {
        "weights": training.read_checkpoint(checkpoint).manifest["sha256"]["model.safetensors"],
        "data": data.sha256(path),
        "play": OmegaConf.to_container(settings.play),
        "starts": settings.starts,
        "horizons": list(settings.horizons),
    }
    return Job(
        f"{task.name} {arm} seed {seed}", run / "assessment.json", of, partial(assessed, settings, checkpoint)
    )


def assessed(settings: DictConfig, checkpoint: Path) -> dict[str, Any]:
    """Return how true a checkpoint is to each kind of data, with the errors (H, S) from every start."""
    model, known = trained(settings, checkpoint)
    results = {}
    for name, windows in known.items():
        found = assess_pixels(model, windows, list(settings.horizons), settings.starts)
        tables = {"errors": found.found.errors, "persistence": found.found.persistence}
        results[name] = {
            **found.to_json(),
            **{
                table: [[round(value, DIGITS) for value in row] for row in values.tolist()]
                for table, values in tables.items()
            },
        }
    manifest = training.read_checkpoint(checkpoint).manifest
    return {"parameters": manifest["parameters"], "known": results}


def rows_of(task: str, arm: str, results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of one arm from its results, one for each seed; all are from the same starts."""
    rows = []
    for kind in results[0]["known"]:
        each = [result["known"][kind] for result in results]
        for number, steps in enumerate(one["steps"] for one in each[0]["horizons"]):
            errors, still = (
                np.array([one[name][number] for one in each]) for name in ("errors", "persistence")
            )
            gain, interval = paired_ratio(still, np.maximum(errors, 1e-12))
            found = estimate(errors)
            rows.append(
                {
                    "task": task,
                    "model": arm,
                    "data": kind,
                    "steps": steps,
                    "error": found.mean,
                    "error_interval": list(found.mean_interval),
                    "psnr": decibels(found.mean),
                    "persistence_psnr": decibels(float(still.mean())),
                    "gain": gain,
                    "gain_interval": list(interval),
                    "action_following": float(np.mean([one["action_following"] for one in each])),
                    "parameters": results[0]["parameters"],
                    "seeds": len(results),
                    "starts": each[0]["starts"],
                }
            )
    return rows


def decibels(error: float) -> float:
    """Return the PSNR [dB] of a mean square error."""
    return psnr(torch.tensor(error)).item()


def targets(rows: Sequence[Mapping[str, Any]], arm: str) -> list[dict[str, Any]]:
    """Return the targets of the first arm: better than a world in which nothing moves, and actions are heard."""
    found = []
    for row in rows:
        if row["model"] != arm:
            continue
        name = f"{row['task']}, pictures, {row['data']}"
        if row["steps"] in (1, 15):
            low, _ = row["gain_interval"]
            wanted = (
                f"{name}: times better than nothing moving after {row['steps']} steps (mean square), {arm}"
            )
            found.append(target(wanted, "> 1", row["gain"], row["gain_interval"], low > 1.0))
        if row["steps"] == 1 and row["data"] == RANDOM:
            value = row["action_following"]
            found.append(
                target(f"{name}: error with others' actions, {arm}", "> 1.1 times", value, None, value > 1.1)
            )
    return found


def pixel_markdown(found: Mapping[str, Any]) -> str:
    """Return what `pixel_rows` found as a Markdown section."""
    lines = ["", "## Pictures", ""]
    if not found["rows"]:
        return "\n".join([*lines, f"Not measured: {found['missing']}"]) + "\n"
    one = found["rows"][0]
    lines += [
        f"{one['task']}, {one['parameters']:,} parameters, {one['seeds']} seed(s), {one['starts']} starts, the real "
        "actions. PSNR is that of the mean square error; gain: how many times smaller that is than if nothing moved, "
        "with its 95 % interval over seeds and starts; actions: one-step error with another moment's actions over that "
        "with the real ones.",
        "",
        "| learnt from | data | steps | PSNR [dB] | nothing moves [dB] | gain | actions |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        low, high = row["gain_interval"]
        lines.append(
            f"| {row['model']} | {row['data']} | {row['steps']} | {row['psnr']:.2f} | {row['persistence_psnr']:.2f} "
            f"| {row['gain']:.2f} [{low:.2f}, {high:.2f}] | {row['action_following']:.2f} times |"
        )
    return "\n".join(lines) + "\n"
