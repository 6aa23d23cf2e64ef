"""`diffpolicy calibrate`: where Real-Time Iteration should start, and what its guard should call unusual."""

from omegaconf import DictConfig

import envs
from diffpolicy import training
from diffpolicy.cli.common import compute_device, dataset_path, load_dataset
from diffpolicy.cli.demonstrations import METHOD, trained_seeds
from diffpolicy.cli.errors import ConfigError
from diffpolicy.policies import load_chunk_model
from diffpolicy.policies.acting import discrete_of
from diffpolicy.policies.calibrate import calibrate
from diffpolicy.policies.loading import CALIBRATION


def main(cfg: DictConfig) -> None:
    """Calibrate the best checkpoint of each training seed in `cfg.checkpoint` and print what was found."""
    if cfg.checkpoint is None:
        raise ConfigError("calibrate needs checkpoint=FOLDER, for example checkpoint=runs/train/pusht/...")
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
            list(cfg.arms),
            elapsed=cfg.elapsed,
            angles=task.layout.angles,
            discrete=discrete_of(model),
            device=device,
        )
        path = checkpoint.path / CALIBRATION
        found.save(path)
        print(f"{found}\ncalibration: {path}")
