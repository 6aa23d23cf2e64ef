"""`diffpolicy benchmark suite=NAME`: hours of learning, resumable, kept as benchmarks/results/NAME.json.

What a suite does stands in a module of its own (diffpolicy/cli/suites), its options in configs/suite/NAME.yaml. What is
done already is not done again. Targets that are missed stay in the file as missed.
"""

from importlib import import_module

from omegaconf import DictConfig

SUITES = {
    "safe-offline": "diffpolicy.cli.suites.safe_offline",
    "align-digits": "diffpolicy.cli.suites.align_digits",
    "rti": "diffpolicy.cli.suites.rti",
    "safe-refine": "diffpolicy.cli.suites.safe_refine",
    "align-pusht": "diffpolicy.cli.suites.align_pusht",
    "world-model": "diffpolicy.cli.suites.world_model",
    "deploy": "diffpolicy.cli.suites.deploy",
    "world4rl": "diffpolicy.cli.suites.world4rl",
}


def main(cfg: DictConfig) -> None:
    """Run or go on with the suite `cfg.suite`."""
    import_module(SUITES[cfg.suite]).main(cfg)
