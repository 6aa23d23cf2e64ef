"""What `train` and `evaluate` need for policies cloned from demonstrations: data, learner, judge, arms."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

import diffpolicy
import envs
from diffpolicy import data, evaluation, training
from diffpolicy.cli.common import compute_device, dataset_path, listed, load_dataset
from diffpolicy.cli.config import build
from diffpolicy.cli.errors import ConfigError
from diffpolicy.evaluation import provenance
from diffpolicy.evaluation.video import animation, film, record_video
from diffpolicy.policies import ARMS as FISOR_ARMS
from diffpolicy.policies import DiffusionConfig, DiffusionLearner, Policy, load_chunk_model, parse_arm
from diffpolicy.policies.acting import chunk_policy
from diffpolicy.policies.loading import GAUSSIANS, available_arms, load_policy, read_calibration

METHOD = "diffusion"  # what a checkpoint's manifest says
ARMS = ("ddim_3@8", "soft_20_10_3@1", "rti_5_3_1_0@1", "ddpm_100@8")  # evaluated unless others are named


@dataclass(frozen=True)
class JudgeConfig:
    """How checkpoints are judged by roll-outs while training goes on."""

    every: int  # updates
    arms: list[str]  # a checkpoint's score is that of its worst arm
    episodes: int
    seed: int  # of the first episode; reporting uses others
    film_frames: int = 60  # 0: no film

    def __post_init__(self) -> None:
        if self.every < 1 or self.episodes < 1 or not self.arms:
            raise ConfigError(
                "judge needs every >= 1, episodes >= 1 and at least one arm; judge=null leaves it out"
            )
        guarded = [arm for arm in self.arms if parse_arm(arm).guard]
        if guarded:
            raise ConfigError(
                f"judge.arms: {', '.join(guarded)} needs a calibration, which is made after training; "
                "leave _guard out of its name"
            )


class RolloutJudge:
    """Scores a checkpoint by the worst of several ways to act with it; a `training.Judge`."""

    def __init__(self, task: envs.Task, config: JudgeConfig, device: torch.device) -> None:
        self.every, self.arms = config.every, config.arms
        self.settings = {"arms": list(config.arms), "episodes": config.episodes, "seed": config.seed}
        self._task, self._config, self._device = task, config, device

    def __call__(self, checkpoint: Path) -> training.Verdict:
        """Play the episodes with every arm."""
        config = self._config
        arms = players([training.read_checkpoint(checkpoint)], config.arms, self._device)
        table = evaluation.score(arms, self._task.id, episodes=config.episodes, seed=config.seed)
        scores = {name: table.row(name).score.mean for name in config.arms}
        logged = {f"score/{name}": value for name, value in scores.items()}
        return training.Verdict(min(scores.values()), logged, self._film(arms[config.arms[0]][0]))

    def _film(self, policy: Policy) -> bytes | None:
        if not self._config.film_frames:
            return None
        try:
            return animation(film(policy, self._task.id, self._config.seed, self._config.film_frames))
        except envs.RenderingError:
            return None  # nothing here can draw, which is no reason to stop training


def make_learner(
    task: envs.Task, path: Path, policy: DictConfig, seed: int, device: torch.device
) -> tuple[DiffusionLearner, dict[str, Any]]:
    """Return a learner for the configuration and the plain configuration that its checkpoints carry."""
    options = OmegaConf.to_container(policy, resolve=True)
    assert isinstance(options, dict)
    name = str(options.pop("name"))
    config = build(DiffusionConfig, {str(key): value for key, value in options.items()}, "policy")
    hashed = data.sha256(path)
    _check_cameras(task, config)
    description = {
        "task": task.id,
        "policy": name,
        "data": {"file": path.name, "sha256": hashed},
        "version": diffpolicy.__version__,
    }
    dataset = load_dataset(task, path, config.cameras)
    for camera in config.cameras:
        height, width = dataset.images[camera].shape[1:3]
        if config.encoder.crop > min(height, width):
            raise ConfigError(
                f"policy.encoder.crop={config.encoder.crop} does not fit into the {height} x {width} pixels of {camera}"
            )
    learner = DiffusionLearner(dataset, config, seed, task.layout, device, description)
    stored = {"task": task.id, "seeds": [seed], "policy": asdict(config), "data_sha256": hashed}
    return learner, stored


def _check_cameras(task: envs.Task, config: DiffusionConfig) -> None:
    """Refuse a policy that would look at pictures its task does not show, or not at those that it needs."""
    if config.cameras and task.image_size is None:
        raise ConfigError(
            f"policy.cameras={config.cameras}: {task.name} shows no pictures to a policy that acts; "
            "set policy.cameras=[], or choose a task that does, such as PushTImage"
        )
    if task.image_size is not None and not config.cameras:
        raise ConfigError(
            f"{task.name} shows what matters in its pictures only: set policy.cameras=[camera] and "
            "policy.conditioning.symmetry=false"
        )


def train(cfg: DictConfig, task: envs.Task, device: torch.device) -> Path:
    """Train or resume one run for each of `cfg.seeds`; return the last checkpoint of the last.

    A single seed trains in `cfg.run`, several in its folders seed-0, seed-1 ... one after the other.
    """
    path, folder, seeds = dataset_path(task, cfg.data), Path(cfg.run), listed(cfg, "seeds", int)
    if not seeds:
        raise ConfigError("seeds must name at least one training seed, for example seeds=[0]")
    judge = make_judge(task, cfg.judge, device)
    for seed, run in zip(seeds, run_folders(folder, seeds), strict=True):
        learner, config = make_learner(task, path, cfg.policy, seed, device)
        for arm in judge.arms if judge else ():
            chunk_policy(
                learner.average, arm, device=device
            )  # what cannot act is refused now, not at a judgement
        last = training.run(
            learner,
            run,
            config,
            checkpoint_every=cfg.checkpoint_every,
            log_every=cfg.log_every,
            progress=cfg.progress,
            judge=judge,
        )
    return last


def run_folders(folder: Path, seeds: Sequence[int]) -> list[Path]:
    """Return where each of `seeds` trains: in `folder` itself if there is one, else in its folders seed-0, seed-1 ...

    Raises ConfigError where the folder holds runs of the other kind, which would be taken for these ones.
    """
    held = sorted(path.name for path in folder.glob("seed-*"))
    if len(seeds) == 1 and held:
        raise ConfigError(
            f"{folder} holds a run for each of several seeds ({', '.join(held)}): choose another folder with run=FOLDER"
        )
    if len(seeds) > 1 and (folder / "checkpoints").exists():
        raise ConfigError(f"{folder} holds a run of one seed: choose another folder with run=FOLDER")
    return [folder] if len(seeds) == 1 else [folder / f"seed-{seed}" for seed in seeds]


def trained_seeds(folder: Path | str) -> list[Path]:
    """Return the runs in a folder that `train` made: itself, or its folders seed-0, seed-1 ..."""
    several = sorted(Path(folder).glob("seed-*"), key=lambda path: (len(path.name), path.name))
    return several or [Path(folder)]


def make_judge(task: envs.Task, node: DictConfig | None, device: torch.device) -> RolloutJudge | None:
    """Return the judge that the configuration asks for, if any."""
    return None if node is None else RolloutJudge(task, build(JudgeConfig, node, "judge"), device)


def players(
    checkpoints: Sequence[training.Checkpoint], arms: Sequence[str], device: torch.device
) -> dict[str, Sequence[Policy]]:
    """Return for every arm one policy for each of the checkpoints (training seeds), which are of one method.

    Guarded arms take their thresholds from what `diffpolicy calibrate` left beside the checkpoint.
    """
    if checkpoints[0].manifest["method"] in GAUSSIANS:
        return {name: [load_policy(one, name, device=device) for one in checkpoints] for name in arms}
    models = [(load_chunk_model(one, device), read_calibration(one)) for one in checkpoints]
    return {
        name: [chunk_policy(model, name, calibration=found, device=device) for model, found in models]
        for name in arms
    }


def chosen_arm(name: str, arms: Sequence[str]) -> str:
    """Return `name` if it is among `arms`, the first of them for FISOR's; ConfigError for any other."""
    if name in arms:
        return name
    if name not in FISOR_ARMS:  # the configuration's defaults are FISOR's
        raise ConfigError(f"arm {name!r} is not evaluated; arms are {', '.join(arms)}")
    return arms[0]


def evaluate(
    cfg: DictConfig, checkpoints: Sequence[training.Checkpoint], folder: Path
) -> evaluation.ScoreTable:
    """Score the arms `cfg.arms` of the checkpoints on their task; write scores.json and video.mp4 to `folder`."""
    console = Console(soft_wrap=True, highlight=False)
    manifest = checkpoints[0].manifest
    task = envs.task(manifest["task"])
    usual = available_arms(manifest) if manifest["method"] in GAUSSIANS else list(ARMS)
    names = listed(cfg, "arms", str) or usual
    headline, reference = chosen_arm(cfg.headline, names), chosen_arm(cfg.reference, names)
    arms = players(checkpoints, names, compute_device(cfg))

    def progress(arm: str, done: int, total: int) -> None:
        console.print(f"  evaluated {done}/{total}: {arm}", style="dim")

    table = evaluation.score(
        arms, task.id, episodes=cfg.episodes, seed=cfg.seed, reference=reference, progress=progress
    )
    console.print(str(table))
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "task": task.id,
        "command": provenance.portable_command([*sys.argv[0].split(), *sys.argv[1:]]),
        "code": provenance.code(),
        "machine": provenance.machine(),
        "weights": [checkpoint.manifest["sha256"]["model.safetensors"] for checkpoint in checkpoints],
        "data": manifest["data"]["sha256"],
        "rows": table.to_json(),
    }
    (folder / "scores.json").write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
    console.print(f"scores: {folder / 'scores.json'}")
    try:
        record_video(arms[headline][0], task.id, cfg.seed, folder / "video.mp4", name=headline)
        console.print(f"video:  {folder / 'video.mp4'}")
    except envs.RenderingError as error:
        console.print(f"no video: {error}")
    return table
