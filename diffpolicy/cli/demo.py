"""`diffpolicy demo`: the pipeline on the task whose dataset ships, with budgets of minutes (demo.yaml)."""

from omegaconf import DictConfig

from diffpolicy.cli import pipeline


def main(cfg: DictConfig) -> None:
    """Run the pipeline in the folder `cfg.run`; a stopped demo goes on."""
    pipeline.main(cfg)
