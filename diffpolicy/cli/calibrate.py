"""`diffpolicy calibrate`: where Real-Time Iteration should start, and what its guard should call unusual."""

from dataclasses import replace

from omegaconf import DictConfig

import envs
from diffpolicy import training
from diffpolicy.cli.common import compute_device, dataset_path, listed, load_dataset
from diffpolicy.cli.demonstrations import METHOD, trained_seeds
from diffpolicy.cli.errors import ConfigError
from diffpolicy.policies import load_chunk_model, parse_arm
from diffpolicy.policies.acting import discrete_of
from diffpolicy.policies.calibrate import calibrate
from diffpolicy.policies.calibration import Calibration
from diffpolicy.policies.loading import CALIBRATION


def main(cfg: DictConfig) -> None:
    """Calibrate the best checkpoint of each training seed in `cfg.checkpoint` and print what was found."""
    if cfg.checkpoint is None:
        raise ConfigError("calibrate needs checkpoint=FOLDER, for example checkpoint=runs/train/pusht/...")
    arms = listed(cfg, "arms", str)
    unguarded = [arm for arm in arms if not parse_arm(arm).guard]
    if unguarded:
        raise ConfigError(
            f"arms: {', '.join(unguarded)} has no guard whose thresholds could be found; the name of one that has "
            "ends in _guard, or in _guard@1 with the actions executed per decision"
        )
    if cfg.elapsed < 1:
        raise ConfigError(f"elapsed={cfg.elapsed}: decisions are at least 1 control step apart")
    device = compute_device(cfg)
    for run in trained_seeds(cfg.checkpoint):
        checkpoint = training.read_checkpoint(training.best_checkpoint(run))
        if checkpoint.manifest["method"] != METHOD:
            raise ConfigError(f"{run} holds no chunk policy: there is nothing to calibrate")
        task = envs.task(checkpoint.manifest["task"])
        model = load_chunk_model(checkpoint, device)
        dataset = load_dataset(task, dataset_path(task, cfg.data), list(model.config.cameras))
        found = calibrate(
            model,
            dataset,
            arms,
            elapsed=cfg.elapsed,
            angles=task.layout.angles,
            discrete=discrete_of(model),
            device=device,
        )
        path = checkpoint.path / CALIBRATION
        if path.exists():
            found = with_earlier(found, Calibration.load(path))
        found.save(path)
        print(f"{found}\ncalibration: {path}")


def with_earlier(found: Calibration, earlier: Calibration) -> Calibration:
    """Return `found` with the thresholds of an earlier calibration for other arms, if it measured the same.

    Thresholds go with the changes between decisions that were called usual, so those of other data are dropped.
    """
    if (earlier.usual, earlier.jump, earlier.angles) != (found.usual, found.jump, found.angles):
        return found
    return replace(found, residuals={**earlier.residuals, **found.residuals})
