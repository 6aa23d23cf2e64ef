"""`diffpolicy demo`: from the shipped dataset to a trained policy, its certificate, report and video."""

from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from diffpolicy.cli.evaluate import evaluate
from diffpolicy.cli.train import train


def main(cfg: DictConfig) -> None:
    """Train and evaluate in the folder `cfg.run`; a stopped demo goes on."""
    console = Console(soft_wrap=True, highlight=False)
    console.rule(f"1 of 2: train on {cfg.task}")
    train(cfg)
    console.rule("2 of 2: evaluate by the DSRL protocol")
    result = evaluate(cfg, Path(cfg.run), Path(cfg.run))
    best, base = result.arm(cfg.headline).summary, result.arm(cfg.reference).summary
    cost = best.at(min(result.limits))
    console.print(
        f"\n{cfg.headline}: normalised return {best.normalized_return.mean:.2f} "
        f"(cloning the safe episodes: {base.normalized_return.mean:.2f}), normalised cost "
        f"{cost.normalized_cost.mean:.2f} at limit {cost.limit:g}; open the report in a browser.",
        style="bold",
    )
