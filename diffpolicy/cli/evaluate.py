"""`diffpolicy evaluate`: DSRL's protocol on a trained checkpoint, with certificate, report and video."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig
from rich.console import Console

import envs
from diffpolicy import data, evaluation, training
from diffpolicy.cli import demonstrations
from diffpolicy.cli.common import SHIPPED, compute_device, dataset_path, listed
from diffpolicy.cli.errors import ConfigError
from diffpolicy.cli.reporting import write_report
from diffpolicy.cli.suggestions import nearest
from diffpolicy.evaluation.certificate import write_certificate
from diffpolicy.policies import ARMS, Policy, available_arms, load_policy
from diffpolicy.policies.loading import GAUSSIANS


class Guest(NamedTuple):
    """An arm of other runs: for each training seed of the checkpoint a policy, and the SHA-256 of its weights."""

    policies: Sequence[Policy]
    weights: Sequence[str]


def main(cfg: DictConfig) -> None:
    """Evaluate `cfg.checkpoint` into the folder `cfg.run`."""
    if cfg.checkpoint is None:
        raise ConfigError(
            "evaluate needs checkpoint=FOLDER, for example checkpoint=runs/train/BallCircle/..."
        )
    source = Path(cfg.checkpoint)
    checkpoints = [
        training.read_checkpoint(training.best_checkpoint(run))
        for run in demonstrations.trained_seeds(source)
    ]
    manifest = checkpoints[0].manifest
    if manifest["method"] == demonstrations.METHOD or envs.task(manifest["task"]).score != "return":
        demonstrations.evaluate(cfg, checkpoints, Path(cfg.run))
    else:
        evaluate(cfg, source, Path(cfg.run))


def _present(arm: str, arms: list[str]) -> str:
    """Return `arm` if it is evaluated, else the first that is; ConfigError for one that does not exist."""
    if arm not in ARMS and arm not in arms:
        raise ConfigError(f"there is no arm {arm!r}; did you mean {nearest(arm, ARMS) or ', '.join(ARMS)}?")
    return arm if arm in arms else arms[0]


def _player(checkpoint: training.Checkpoint, arm: str, seed: int, device: torch.device) -> Policy:
    if checkpoint.manifest["method"] in GAUSSIANS:
        return load_policy(checkpoint, arm, device=device)
    return load_policy(checkpoint, arm, seed, device)


def evaluate(
    cfg: DictConfig,
    source: Path,
    folder: Path,
    guests: Mapping[str, Guest] | None = None,
    more: Mapping[str, Any] | None = None,
    sections: Callable[[evaluation.Evaluation], Sequence[str]] | None = None,
) -> evaluation.Evaluation:
    """Evaluate the best checkpoint in `source`, the newest where none was judged, into `folder`.

    What is written are certificate.json, report.html and video.mp4. `guests` are played as well, `more` joins the
    manifest in the certificate, and the report has the `sections` (HTML) that are made of the result.
    """
    console = Console(soft_wrap=True, highlight=False)
    checkpoint = training.read_checkpoint(training.best_checkpoint(source))
    manifest = checkpoint.manifest
    task = envs.task(manifest["task"])
    device = compute_device(cfg)
    arms, guests = listed(cfg, "arms", str) or available_arms(manifest), guests or {}
    players: dict[str, Sequence[Policy]] = {
        arm: [_player(checkpoint, arm, seed, device) for seed in manifest["seeds"]] for arm in arms
    }
    players |= {name: guest.policies for name, guest in guests.items()}
    headline, reference = _present(cfg.headline, list(players)), _present(cfg.reference, list(players))

    def progress(arm: str, done: int, total: int) -> None:
        console.print(f"  evaluated {done}/{total}: {arm}", style="dim")

    result = evaluation.evaluate(
        players,
        task.id,
        episodes=cfg.episodes,
        seed=cfg.seed,
        limits=list(cfg.limits),
        reference=reference,
        progress=progress,
    )
    console.print(str(result))
    folder.mkdir(parents=True, exist_ok=True)
    weights: Sequence[str] = [manifest["sha256"]["model.safetensors"]] * len(manifest["seeds"])
    certificate = write_certificate(
        result,
        folder / "certificate.json",
        data_hash=manifest["data"]["sha256"],
        weights_hashes=dict.fromkeys(arms, weights) | {name: guest.weights for name, guest in guests.items()},
        command=[*sys.argv[0].split(), *sys.argv[1:]],
        manifest=manifest | dict(more or {}),
    )
    dataset = data.load(dataset_path(task, cfg.data)) if cfg.data or task.id in SHIPPED else None
    told = sections(result) if sections else ()
    report = write_report(result, headline, players[headline][0], source, dataset, folder, told)
    console.print(f"certificate: {certificate}\nreport:      {report}")
    return result
