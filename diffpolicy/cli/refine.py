"""`diffpolicy refine`: makes a policy better in a frozen world model, and judges it; resumes a stopped run."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from diffpolicy import training
from diffpolicy.alignment import Aligner
from diffpolicy.cli.common import compute_device
from diffpolicy.cli.config import build
from diffpolicy.cli.refine_choice import imagined_judge
from diffpolicy.cli.refine_options import check_options, cost_limit
from diffpolicy.cli.refine_results import Side, measure, table
from diffpolicy.cli.refine_subjects import Subject, clone_subject, critics_weights, load_subject
from diffpolicy.cli.refine_world import World, check_world, load_world
from diffpolicy.refinement import (
    GateConfig,
    RefusedError,
    Release,
    check_data,
    check_length,
    check_start,
    judge,
    replay_confusion,
)

RELEASE = "release.json"
RELEASED = "released"  # folder of the policy that may be used, beside the run's own checkpoints
NOT_LEARNT_FROM = ("run", "device", "threads", "progress", "checkpoint_every", "log_every")
FILES = ("start", "world", "data", "critics")  # told apart by what is in them, not by where they are
AFTERWARDS = ("choose_every", "gate", "deploy", "episodes", "episodes_seed", "save_refused")


def main(cfg: DictConfig) -> None:
    """Refine what `cfg` describes in the folder `cfg.run`, measure and judge it.

    Raises:
        RefusedError: if the gate refuses data, start or policy, and nobody asked for that all the same.
    """
    check_options(cfg)
    console, run, device = Console(soft_wrap=True, highlight=False), Path(cfg.run), compute_device(cfg)
    world, gate = load_world(cfg, device), build(GateConfig, cfg.gate, "gate")
    check_world(world)
    limit = cost_limit(cfg) if world.task.score == "return" else None
    asked = None if cfg.method == "reward" else limit  # what is asked of the start and of checkpoints
    try:
        start, before = begin(cfg, world, gate, limit, asked, console)
    except RefusedError:
        if judged_before(run, learnt_from(cfg, world)):
            withdraw(run)
        raise
    learner, chooser = start.learner(cfg), imagined_judge(cfg, world, gate, asked)
    last = training.run(
        learner,
        run,
        stored_config(cfg, world, start),
        checkpoint_every=cfg.checkpoint_every,
        log_every=cfg.log_every,
        progress=cfg.progress,
        judge=chooser,
    )
    checkpoint = last if chooser is None else training.best_checkpoint(run)
    take(learner, checkpoint)
    after = measure(cfg, world, start.policy())
    release = decide(world, after, gate, limit, decide(world, before, gate, limit))
    console.print(table(world.task, {"start": before, "refined": after}, world.known_uncertainty))
    frozen = world.check_frozen()
    keep(run, checkpoint, release, frozen, bool(cfg.save_refused), {"start": before, "refined": after})
    say(console, run, checkpoint, release, bool(cfg.save_refused))


def begin(
    cfg: DictConfig,
    world: World,
    gate: GateConfig,
    limit: float | None,
    asked: float | None,
    console: Console,
) -> tuple[Subject, Side]:
    """Return what is to be refined, measured; RefusedError where it may not be, `limit` and `asked` as in `main`."""
    if limit is not None:
        check_length(world.dataset, world.task.max_episode_steps)
    if asked is not None:
        console.print(f"violations: {world.cost_rate:.2%} of the data's steps")
        check_data(world.cost_rate, gate)
    cloned = cfg.start is None
    start = clone_subject(cfg, world, Path(cfg.run) / "start") if cloned else load_subject(cfg, world)
    before = measure(cfg, world, start.policy())
    check_start(before.imagined, world.known_uncertainty, asked, gate)
    return start, before


def stored_config(cfg: DictConfig, world: World, start: Subject) -> dict[str, Any]:
    """Return what checkpoints keep: all that is learnt from, files by their contents."""
    kept = learnt_from(cfg, world) | {"start_sha256": start.weights}
    return {**start.config, "refine": kept, "task": world.task.id}


def learnt_from(cfg: DictConfig, world: World) -> dict[str, Any]:
    """Return the options and contents of files that a refinement follows from, but for its start."""
    given: Any = OmegaConf.to_container(cfg, resolve=True)
    left_out = (*NOT_LEARNT_FROM, *FILES, *AFTERWARDS)
    kept = {name: value for name, value in given.items() if name not in left_out}
    hashes = {"world_sha256": world.weights, "data_sha256": world.data_sha256}
    return kept | hashes | {"critics_sha256": critics_weights(cfg)}


def judged_before(run: Path, options: dict[str, Any]) -> bool:
    """Whether the folder holds this very refinement: what is there of another one is not to be taken back."""
    found = training.latest_checkpoint(run)
    if found is None:
        return False
    stored = dict(training.read_checkpoint(found).config.get("refine", {}))
    return {name: value for name, value in stored.items() if name != "start_sha256"} == options


@torch.no_grad()
def take(learner: Aligner, checkpoint: Path) -> None:
    """Put the weights of a checkpoint into the role that is trained: a run that is done is not loaded by itself."""
    stored = training.read_checkpoint(checkpoint).model
    for name, tensor in learner.model_to_align.roles.model().items():
        tensor.copy_(stored[name])


def decide(
    world: World, found: Side, gate: GateConfig, limit: float | None, start: Release | None = None
) -> Release:
    """Return the gate's judgement of what was measured; real failures are replayed in the model where there are any."""
    confusion = None
    if found.recorded is not None and world.task.score == "success":
        confusion = replay_confusion(world.model, found.recorded)
    task = world.task
    scale = 1.0 if task.score == "success" else task.max_episode_reward - task.min_episode_reward
    return judge(
        found.imagined,
        world.known_uncertainty,
        gate,
        limit=limit,
        start=start,
        confusion=confusion,
        real=found.real,
        scale=scale,
    )


def withdraw(run: Path) -> None:
    """Take back what an earlier judgement of the same run said, and the policy that it let out."""
    (run / RELEASE).unlink(missing_ok=True)
    shutil.rmtree(run / RELEASED, ignore_errors=True)


def keep(
    run: Path, checkpoint: Path, release: Release, frozen: str, anyway: bool, sides: Mapping[str, Side]
) -> None:
    """Write the judgement beside the run, and the policy into its folder "released" if it may be used, or is wanted."""
    verdict = release.described() | {"world_model_sha256": frozen}
    document = {"release": verdict, "measured": {name: side.to_json() for name, side in sides.items()}}
    withdraw(run)
    (run / RELEASE).write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
    if not release.released and not anyway:
        return
    found = training.read_checkpoint(checkpoint)
    described = {k: v for k, v in found.manifest.items() if k not in ("format", "step", "sha256")}
    training.write_checkpoint(
        run / RELEASED,
        found.step,
        model=found.model,
        state={},
        config=found.config,
        manifest=described | {"refinement": verdict},
    )


def say(console: Console, run: Path, checkpoint: Path, release: Release, anyway: bool) -> None:
    """Tell where everything is; RefusedError for a policy that was refused."""
    console.print(f"checkpoint: {checkpoint}\njudgement:  {run / RELEASE}")
    if release.released or anyway:
        console.print(
            f"released:   {run / RELEASED}\nnext:       diffpolicy evaluate checkpoint={run / RELEASED}"
        )
    if not release.released:
        reasons = "; ".join(release.reasons)
        if anyway:
            Console(stderr=True).print(f"warning: saved although the gate refused it: {reasons}")
            return
        raise RefusedError(
            f"the gate refuses the refined policy: {reasons}. It is not released; `diffpolicy evaluate "
            f"checkpoint={run}` shows what it does. To release it all the same: save_refused=true"
        )
