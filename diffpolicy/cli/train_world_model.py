"""`diffpolicy train-world-model`: what actions do, learnt from an offline dataset; resumes a stopped run."""

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

import diffpolicy
import envs
from diffpolicy import data, training
from diffpolicy.cli.common import compute_device, dataset_path, listed, load_dataset
from diffpolicy.cli.config import build
from diffpolicy.cli.errors import ConfigError
from diffpolicy.cli.imagine import DPI, FilmConfig, drawer, keep, track_states
from world_models import StateWorldModel, Windows, WorldModelConfig, WorldModelLearner, load_world_model
from world_models.assessment import Assessment, assess, checked_horizons
from world_models.fidelity import hold_out, longest, open_loop, starts_of

FIDELITY = "fidelity.json"


@dataclass(frozen=True)
class HoldOutConfig:
    """Which episodes the model never sees: a `share` of them, drawn with a `seed`."""

    share: float = 0.1
    seed: int = 0


@dataclass(frozen=True)
class JudgeConfig:
    """Checkpoints are judged `every` so many updates by their error after `horizon` steps from `starts` moments."""

    every: int = 1000
    horizon: int = 15
    starts: int = 256

    def __post_init__(self) -> None:
        if min(self.every, self.horizon, self.starts) < 1:
            raise ConfigError("judge needs every >= 1, horizon >= 1 and starts >= 1")


@dataclass(frozen=True)
class RunConfig:
    """What is asked of every training, of states or of pixels; the keys stand at the top of the configuration."""

    seed: int
    starts: int
    checkpoint_every: int
    log_every: int

    def __post_init__(self) -> None:
        for name in ("starts", "checkpoint_every", "log_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1")
        if abs(self.seed) >= 2**62:  # generators are seeded with 2 seed and 2 seed + 1, of 64 bits
            raise ConfigError(f"seed={self.seed} must be smaller than 2^62")


class OpenLoopJudge:
    """Scores a checkpoint by its open-loop error on held-out episodes; a `training.Judge`."""

    def __init__(self, held_out: data.OfflineDataset, config: JudgeConfig, device: torch.device) -> None:
        self.every, self.settings = config.every, {"horizon": config.horizon, "starts": config.starts}
        self._horizon = longest(held_out, config.horizon)
        self._held_out, self._device = held_out, device
        self._starts = starts_of(held_out, self._horizon, config.starts, seed=0).to(device)

    def __call__(self, checkpoint: Path) -> training.Verdict:
        """Imagine from the same moments every time."""
        model = load_world_model(training.read_checkpoint(checkpoint), self._device)
        windows = Windows(self._held_out, model.config.history, self._device)
        found = open_loop(model, windows, self._starts, sorted({1, self._horizon}))
        first, last = found.errors[0].mean().item(), found.errors[-1].mean().item()
        values = {"open_loop/1": first, f"open_loop/{self._horizon}": last}
        # Of a model that is lost the error is not a number, with which no other would compare.
        return training.Verdict(-last if math.isfinite(last) else -math.inf, values)


def main(cfg: DictConfig) -> None:
    """Train what `cfg` describes in the folder `cfg.run`, say how true it is, and film it."""
    # What is used after training alone is refused before it.
    horizons = checked_horizons(listed(cfg, "horizons", int))
    build(FilmConfig, cfg.film, "film")
    if cfg.world_model.kind == "pixels":
        from diffpolicy.cli import pixel_world_model  # here, because it is made of parts of this module

        pixel_world_model.main(cfg)
        return
    checkpoint = train(cfg)
    console = Console(soft_wrap=True, highlight=False)
    model, held_out = trained(cfg, checkpoint)
    found = assess(model, held_out, horizons, run_config(cfg).starts)
    print_table(found, console)
    (Path(cfg.run) / FIDELITY).write_text(json.dumps(found.to_json(), indent=1, allow_nan=False) + "\n")
    console.print(f"fidelity: {Path(cfg.run) / FIDELITY}\ntrained:  {checkpoint}")
    film_states(cfg, model, held_out, console)


def film_states(
    cfg: DictConfig, model: StateWorldModel, held_out: data.OfflineDataset, console: Console
) -> None:
    """Write into the folder `cfg.run` what is imagined beside what is real: a film, or a plot where none can be."""
    settings = build(FilmConfig, cfg.film, "film")
    if not settings.starts:
        return
    windows = Windows(held_out, model.config.history, model.mean.device)
    steps = longest(held_out, settings.steps)
    starts = starts_of(held_out, steps, settings.starts, seed=0).to(model.mean.device)
    tracks, draw = track_states(model, windows, starts, steps), drawer(envs.task(cfg.task))
    if draw is not None:
        film = tracks.film(draw, settings.frames_per_second)
        keep(film, cfg.run, "imagined", model.config.updates, console)
    else:
        path = Path(cfg.run) / "imagined.png"
        tracks.plot().savefig(path, dpi=DPI)
        console.print(f"plot:     {path}, real and imagined observations of {steps} steps")


def run_config(cfg: DictConfig) -> RunConfig:
    """Return what is asked of a training; ConfigError where it cannot be done."""
    return build(RunConfig, {field.name: cfg[field.name] for field in fields(RunConfig)})


def train(cfg: DictConfig) -> Path:
    """Train or resume in the folder `cfg.run` and return the checkpoint that the judge likes best."""
    asked, device, task = run_config(cfg), compute_device(cfg), envs.task(cfg.task)
    judging, holding = build(JudgeConfig, cfg.judge, "judge"), build(HoldOutConfig, cfg.hold_out, "hold_out")
    path = dataset_path(task, cfg.data)
    dataset, hashed = load_dataset(task, path), data.sha256(path)
    held, config = hold_out(dataset, holding.share, holding.seed), model_config(cfg.world_model)
    description = {
        "task": task.id,
        "data": {"file": path.name, "sha256": hashed},
        "held_out": {**asdict(holding), "episodes": held.tolist()},
        "version": diffpolicy.__version__,
    }
    learned, held_out = split(dataset, held)
    learner = WorldModelLearner(learned, config, asked.seed, device, description)
    stored = {
        "task": task.id,
        "seed": asked.seed,
        "world_model": asdict(config),
        "hold_out": asdict(holding),
        "data_sha256": hashed,
    }
    training.run(
        learner,
        cfg.run,
        stored,
        checkpoint_every=asked.checkpoint_every,
        log_every=asked.log_every,
        progress=cfg.progress,
        judge=OpenLoopJudge(held_out, judging, device),
    )
    return training.best_checkpoint(cfg.run)


def model_config(node: DictConfig) -> WorldModelConfig:
    """Return the model's configuration; ConfigError for what it does not know."""
    options = OmegaConf.to_container(node, resolve=True)
    assert isinstance(options, dict)
    return build(
        WorldModelConfig, {str(key): value for key, value in options.items() if key != "name"}, "world_model"
    )


def split(
    dataset: data.OfflineDataset, held: torch.Tensor
) -> tuple[data.OfflineDataset, data.OfflineDataset]:
    """Return the episodes that are learnt from, and those `held` (H,) out."""
    kept = torch.ones(dataset.num_episodes, dtype=torch.bool)
    kept[held] = False
    return dataset.select(kept), dataset.select(held)


def trained(cfg: DictConfig, path: Path) -> tuple[StateWorldModel, data.OfflineDataset]:
    """Return the model of a checkpoint and the episodes that it has not seen."""
    checkpoint = training.read_checkpoint(path)
    task = envs.task(cfg.task)
    held = torch.tensor(checkpoint.manifest["held_out"]["episodes"])
    dataset = load_dataset(task, dataset_path(task, cfg.data))
    return load_world_model(checkpoint, compute_device(cfg)), split(dataset, held)[1]


def print_table(found: Assessment, console: Console) -> None:
    """Print how true a model is to held-out episodes."""
    table = Table(title=f"Held-out episodes, {found.found.errors.shape[1]} starts, the real actions")
    for name in (
        "steps",
        "error",
        "median",
        "nothing moves",
        "gain",
        "return R2",
        "cost",
        "true cost",
        "rank",
    ):
        table.add_column(name, justify="right")
    for row in found.rows():
        figures = (
            row.error,
            row.median,
            row.persistence,
            row.gain,
            row.return_r2,
            row.cost,
            row.true_cost,
            row.rank,
        )
        table.add_row(str(row.steps), *(_figure(figure) for figure in figures))
    console.print(table)
    heads: dict[str, Any] = found.heads._asdict()
    console.print("errors in deviations of the data; rank: Spearman's correlation of uncertainty and error")
    console.print("one step:  " + "  ".join(f"{name} {_figure(value)}" for name, value in heads.items()))
    console.print(f"actions:   errors grow {_figure(found.following)} times with another moment's actions")


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"
