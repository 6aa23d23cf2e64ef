"""The part of `diffpolicy train-world-model` for models of pixels: data, judge, training, and how true it is."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

import diffpolicy
import envs
from diffpolicy import data, training
from diffpolicy.cli.common import compute_device, dataset_path, listed
from diffpolicy.cli.config import build
from diffpolicy.cli.errors import ConfigError
from diffpolicy.cli.imagine import FilmConfig, film_pixels, keep
from diffpolicy.cli.pixel_data import PlayConfig, check_camera, play, together, with_camera
from diffpolicy.cli.train_world_model import FIDELITY, HoldOutConfig, JudgeConfig, run_config, split
from world_models import FrameWindows, PixelConfig, PixelLearner, PixelWorldModel, load_pixel_world_model
from world_models.fidelity import hold_out
from world_models.pixel_assessment import PixelAssessment, assess_pixels, drawn
from world_models.pixel_fidelity import pixel_open_loop, psnr

KIND = "pixels"
HELD_OUT, RANDOM = "held-out", "random actions"


class PixelJudge:
    """Scores a checkpoint by its open-loop PSNR on held-out episodes, and films it; a `training.Judge`."""

    def __init__(
        self, held_out: FrameWindows, config: JudgeConfig, film: FilmConfig, device: torch.device
    ) -> None:
        self.every, self.settings = config.every, {"horizon": config.horizon, "starts": config.starts}
        self._held_out, self._device, self._film = held_out, device, film
        self._horizon = held_out.longest(config.horizon)
        self._starts = drawn(held_out, self._horizon, config.starts, seed=0)

    def __call__(self, checkpoint: Path) -> training.Verdict:
        """Imagine from the same moments every time."""
        model = load_pixel_world_model(training.read_checkpoint(checkpoint), self._device)
        found = pixel_open_loop(model, self._held_out, self._starts, sorted({1, self._horizon}))
        first, last = (psnr(errors.mean()).item() for errors in (found.errors[0], found.errors[-1]))
        values = {"psnr/1": first, f"psnr/{self._horizon}": last}
        shown = film_pixels(model, self._held_out, self._film) if self._film.starts else None
        return training.Verdict(last, values, None if shown is None else shown.gif())


def main(cfg: DictConfig) -> None:
    """Train what `cfg` describes in the folder `cfg.run`, say how true it is, and film it."""
    if build(PlayConfig, cfg.play, "play").judged:  # a run cannot go on with another `play`
        check_camera(envs.task(cfg.task), camera_of(model_config(cfg.world_model)))
    checkpoint = train(cfg)
    console = Console(soft_wrap=True, highlight=False)
    model, known = trained(cfg, checkpoint)
    horizons, starts = listed(cfg, "horizons", int), run_config(cfg).starts
    found = {name: assess_pixels(model, windows, horizons, starts) for name, windows in known.items()}
    for name, one in found.items():
        print_table(name, one, console)
    path = Path(cfg.run) / FIDELITY
    kept = {name: one.to_json() for name, one in found.items()}
    path.write_text(json.dumps(kept, indent=1, allow_nan=False) + "\n")
    console.print(f"fidelity: {path}\ntrained:  {checkpoint}")
    settings = build(FilmConfig, cfg.film, "film")
    if settings.starts:
        for name, windows in known.items():
            film = film_pixels(model, windows, settings)
            keep(film, cfg.run, f"imagined_{name.replace(' ', '_')}", model.config.updates, console)


def train(cfg: DictConfig) -> Path:
    """Train or resume in the folder `cfg.run` and return the checkpoint that the judge likes best."""
    asked, device, task = run_config(cfg), compute_device(cfg), envs.task(cfg.task)
    judging, holding = build(JudgeConfig, cfg.judge, "judge"), build(HoldOutConfig, cfg.hold_out, "hold_out")
    playing, film, config = (
        build(PlayConfig, cfg.play, "play"),
        build(FilmConfig, cfg.film, "film"),
        model_config(cfg.world_model),
    )
    path, camera = dataset_path(task, cfg.data), camera_of(config)
    dataset, hashed = with_camera(task, path, camera), data.sha256(path)
    held = hold_out(dataset, holding.share, holding.seed)
    learned, held_out = split(dataset, held)
    if playing.episodes:
        learned = together(learned, play(task, playing, playing.episodes, playing.seed, camera), camera)
    description = {
        "task": task.id,
        "data": {"file": path.name, "sha256": hashed},
        "held_out": {**asdict(holding), "episodes": held.tolist()},
        "play": asdict(playing),
        "version": diffpolicy.__version__,
    }
    learner = PixelLearner(learned, config, asked.seed, device, description)
    stored = {
        "task": task.id,
        "seed": asked.seed,
        "world_model": asdict(config),
        "hold_out": asdict(holding),
        "play": asdict(playing),
        "data_sha256": hashed,
    }
    training.run(
        learner,
        cfg.run,
        stored,
        checkpoint_every=asked.checkpoint_every,
        log_every=asked.log_every,
        progress=cfg.progress,
        judge=PixelJudge(windows_of(held_out, config, device), judging, film, device),
    )
    return training.best_checkpoint(cfg.run)


def model_config(node: DictConfig) -> PixelConfig:
    """Return the model's configuration; ConfigError for what it does not know."""
    options = OmegaConf.to_container(node, resolve=True)
    assert isinstance(options, dict)
    return build(
        PixelConfig,
        {str(key): value for key, value in options.items() if key not in ("name", "kind")},
        "world_model",
    )


def camera_of(config: PixelConfig) -> str:
    """Return the camera whose pictures are learnt; ConfigError when none is named."""
    if config.camera is None:
        raise ConfigError("world_model.camera names the camera whose pictures are learnt, for example camera")
    return config.camera


def windows_of(dataset: data.OfflineDataset, config: PixelConfig, device: torch.device) -> FrameWindows:
    """Return the windows of a dataset as a model is shown them."""
    return FrameWindows(dataset, config.history, config.size, device, config.camera, config.success_reward)


def trained(cfg: DictConfig, path: Path) -> tuple[PixelWorldModel, dict[str, FrameWindows]]:
    """Return the model of a checkpoint and what it has not seen: held-out episodes, and random actions if any."""
    checkpoint, device, task = training.read_checkpoint(path), compute_device(cfg), envs.task(cfg.task)
    model = load_pixel_world_model(checkpoint, device)
    camera = camera_of(model.config)
    dataset = with_camera(task, dataset_path(task, cfg.data), camera)
    held_out = split(dataset, torch.tensor(checkpoint.manifest["held_out"]["episodes"]))[1]
    known = {HELD_OUT: windows_of(held_out, model.config, device)}
    playing = build(PlayConfig, cfg.play, "play")
    if playing.judged:
        played = play(task, playing, playing.judged, playing.seed + 1, camera)
        known[RANDOM] = windows_of(played, model.config, device)
    return model, known


def print_table(name: str, found: PixelAssessment, console: Console) -> None:
    """Print how true a model is to some episodes."""
    table = Table(title=f"{name}, {found.found.errors.shape[1]} starts, the real actions")
    for column in ("steps", "PSNR [dB]", "nothing moves [dB]", "gain", "median gain", "success told"):
        table.add_column(column, justify="right")
    for row in found.rows():
        figures = (row.psnr, row.persistence_psnr, row.gain, row.median_gain, row.told)
        table.add_row(str(row.steps), *(_figure(figure) for figure in figures))
    console.print(table)
    told: Mapping[str, Any] = {outcome: each._asdict() for outcome, each in found.telling.items()}
    parts = [
        f"{outcome} {_figure(each['recall'])} / {_figure(each['precision'])}"
        for outcome, each in told.items()
    ]
    console.print("gain: how many times smaller the mean square error is than if nothing moved")
    console.print("recall / precision on real frames:  " + "  ".join(parts))
    console.print(f"actions:   errors grow {_figure(found.following)} times with another moment's actions")


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"
