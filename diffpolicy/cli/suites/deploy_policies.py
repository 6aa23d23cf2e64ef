"""The policies whose exports the suite `deploy` compares with PyTorch: one of every kind, trained where it is missing.

Few updates are enough: whether a graph computes what PyTorch computes, and how fast, does not depend on the score.
"""

import subprocess
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from rich.console import Console

import envs
from diffpolicy import data, training
from diffpolicy.cli.collect import collect_task
from diffpolicy.cli.common import dataset_path, load_dataset
from diffpolicy.cli.errors import ConfigError
from diffpolicy.cli.pixel_data import PlayConfig, play
from diffpolicy.cli.robot_processes import ours
from diffpolicy.cli.suites.safe_offline import task_config
from diffpolicy.cli.train import train
from diffpolicy.policies.gaussian import GaussianConfig
from diffpolicy.refinement import CloneConfig, cloner

CHUNKS = ("diffusion_mlp", "diffusion_transformer", "diffusion_unet", "flow_unet")
PICTURES, FISOR, GAUSSIAN = "diffusion_mlp with pictures", "fisor", "gaussian"
KINDS = (*CHUNKS, PICTURES, FISOR, GAUSSIAN)
SEEING = (  # docs/diffusion-policy.md
    "policy.cameras=[camera]",
    "policy.encoder.kind=resnet_small",
    "policy.conditioning.symmetry=false",
    "policy.conditioning.newest_only=false",
    "policy.optimizer.batch=64",
)
SAFE_TASK, SEEN_TASK, CAMERA = "BallCircle", "PushTImage", "camera"
SEED = 0  # of training


def policy_of(cfg: DictConfig, kind: str, console: Console) -> tuple[Path, str | None]:
    """Return the run of a policy of some kind, trained if it is missing, and its dataset (None: the shipped one).

    FISOR's is the suite's own of BallCircle. Raises ConfigError for a kind that there is not.
    """
    folder, updates = Path(cfg.run).resolve() / "exports" / kind.replace(" ", "_"), int(cfg.exports.updates)
    if kind in CHUNKS:
        return trained_chunks(folder, kind, updates, ["task=PushT"], console), None
    if kind == PICTURES:
        seen = random_pictures(folder / "pictures.npz", cfg.exports.episodes)
        options = [f"task={SEEN_TASK}", f"data={seen}", *SEEING]
        return trained_chunks(folder, CHUNKS[0], updates, options, console), str(seen)
    if kind == FISOR:
        return trained_critics(cfg, envs.task(SAFE_TASK)), None
    if kind == GAUSSIAN:
        return trained_clone(folder, updates, cfg.progress), None
    raise ConfigError(f"exports.arms: there is no kind {kind!r}; the kinds are {', '.join(KINDS)}")


def trained_chunks(folder: Path, policy: str, updates: int, options: list[str], console: Console) -> Path:
    """Train a chunk policy by its fast recipe, but for `updates` updates, unless it is there; return its run."""
    if not _trained(folder, updates):
        console.print(f"{folder.name}: {updates} updates", style="dim")
        words = [f"policy={policy}", *options, f"seeds=[{SEED}]", "judge=null", f"run={folder}"]
        words += [f"policy.optimizer.updates={updates}", f"checkpoint_every={updates}"]
        done = subprocess.run([*ours("diffpolicy"), "train", *words], check=False)
        if done.returncode != 0:
            raise ConfigError(
                f"training failed with exit status {done.returncode}; what it said stands above"
            )
    return folder


def random_pictures(path: Path, episodes: int) -> Path:
    """Write `episodes` of random actions in Push-T with their pictures to an .npz file, unless it is there."""
    if not path.exists():
        task = envs.task(SEEN_TASK)
        played = play(task, PlayConfig(), episodes, SEED, CAMERA)
        low, high = task.action_low, task.action_high
        assert low is not None
        assert high is not None
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name("unfinished.npz")
        np.savez(
            unfinished,
            state=played.observations[played.rows].numpy(),
            action=low + (high - low) * (played.actions.numpy() + 1.0) / 2.0,
            img=np.asarray(played.images[CAMERA]),
            episode_ends=played.episode_ends.numpy(),
        )
        unfinished.replace(path)
    return path


def trained_critics(cfg: DictConfig, task: envs.Task) -> Path:
    """Return the run of the suite `safe-offline` for a task, trained if it is missing, on data collected if need be."""
    source = cfg.copy()
    source.run = cfg.policies
    one = task_config(source, task)
    if not (Path(one.run) / "checkpoints").exists():
        if not Path(one.data).exists():
            # An interrupted collection is not trained on.
            unfinished = Path(one.data).with_suffix(".collecting")
            collect_task(task, unfinished, {}, progress=one.progress)
            unfinished.replace(one.data)
        train(one)
    return Path(one.run)


def trained_clone(folder: Path, updates: int, progress: bool) -> Path:
    """Clone BallCircle's data with a Gaussian policy, unless it is there; return its run."""
    if _trained(folder, updates):
        return folder
    task = envs.task(SAFE_TASK)
    path = dataset_path(task, None)
    policy, config, hashed = GaussianConfig(), CloneConfig(updates=updates), data.sha256(path)
    description = {"task": task.id, "data": {"file": path.name, "sha256": hashed}}
    learner = cloner(load_dataset(task, path), policy, config, SEED, torch.device("cpu"), description)
    stored = {"gaussian": policy.stored(), "clone": asdict(config), "data_sha256": hashed}
    training.run(learner, folder, stored, checkpoint_every=updates, log_every=100, progress=progress)
    return folder


def _trained(folder: Path, updates: int) -> bool:
    """Whether a run has made all its updates."""
    return (folder / "checkpoints" / f"step-{updates:08d}").exists()
