"""A verb that writes down what it was given, or fails as asked: a job to test the command with."""

from pathlib import Path

from omegaconf import DictConfig

from diffpolicy.data import DataError


def main(cfg: DictConfig) -> None:
    if cfg.fails == "user":
        raise DataError("rewards:\n has 3 rows")
    if cfg.fails == "defect":
        raise KeyError("a defect")
    if cfg.fails == "interrupt":
        raise KeyboardInterrupt
    if cfg.fails == "missing":
        raise ModuleNotFoundError("No module named 'stable_baselines3'", name="stable_baselines3.common")
    Path(cfg.run, "result.txt").write_text(f"{cfg.task} {cfg.number}")
