"""Policies straight from their checkpoint, in PyTorch; the one module of a running controller that needs torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from diffpolicy import training
from diffpolicy.deploy.describing import action_limits, describe
from diffpolicy.deploy.errors import DeployError
from diffpolicy.deploy.exported import PlayedRuntime
from diffpolicy.deploy.graphs import Deployable, Graphs, graphs_of
from diffpolicy.deploy.manifest import Manifest
from diffpolicy.deploy.run_policy import Player
from diffpolicy.policies import available_arms, load_policy

CHUNK_ARM, FISOR_ARM = "ddim_3", "best_feasible_4"  # unless another is asked for


class TorchRuntime(PlayedRuntime):
    """`arm` of a checkpoint, or of the best one of a run, deciding for one robot at a time on the CPU.

    `seed` is the training seed of those that a run holds (None: the first); `limits` (a mapping, or a YAML file)
    replaces the safety limits derived from the task, and may say names, units, licence and `control_rate`. Raises
    PolicyError, CheckpointError or DeployError.
    """

    def __init__(
        self,
        checkpoint_path: Path | str,
        arm: str | None = None,
        *,
        seed: int | None = None,
        limits: Mapping[str, Any] | Path | str | None = None,
        git: str = "",
    ) -> None:
        self.checkpoint = training.read_checkpoint(best_of(Path(checkpoint_path), seed))
        arm = arm or usual_arm(self.checkpoint)
        self.policy: Deployable = _policy(self.checkpoint, arm, seed)
        self.graphs: Graphs = graphs_of(self.policy, *action_limits(self.checkpoint))
        said = limits if limits is None or isinstance(limits, Mapping) else limits_file(Path(limits))
        manifest = describe(self.checkpoint, self.policy, arm, self.graphs, said, git)
        super().__init__(Player(player_spec(self.graphs, manifest), self.graphs.runs()), manifest)


def best_of(run: Path, seed: int | None) -> Path:
    """Return the folder of a run's best checkpoint, of training seed `seed` where each has a folder of its own."""
    several = sorted(run.glob("seed-*"), key=lambda path: (len(path.name), path.name))
    if several:
        wanted = several[0] if seed is None else run / f"seed-{seed}"
        if wanted not in several:
            raise DeployError(
                f"{run} has no training seed {seed}; it has {', '.join(p.name for p in several)}"
            )
        run = wanted
    return training.best_checkpoint(run)


def usual_arm(checkpoint: training.Checkpoint) -> str:
    """Return the arm of a policy when none is asked for."""
    if checkpoint.manifest["method"] == "diffusion":
        return CHUNK_ARM
    arms = available_arms(checkpoint.manifest)
    return FISOR_ARM if FISOR_ARM in arms else arms[0]


def limits_file(path: Path) -> dict[str, Any]:
    """Return the limits in a YAML file; DeployError where it holds something else."""
    try:
        found = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DeployError(f"the limits in {path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise DeployError(f"{path} holds no limits: write one per line, such as `velocity: 0.5`")
    return {str(key): value for key, value in found.items()}


def player_spec(graphs: Graphs, manifest: Manifest) -> dict[str, Any]:
    """Return what a `Player` has to know of a policy, as plain data."""
    return {
        "kind": graphs.kind,
        "execute": graphs.execute,
        "ahead": graphs.ahead,
        "observation_horizon": manifest.observation_horizon,
        "observation": manifest.as_dict()["observation"],
        "guard": graphs.guard,
        "graphs": {
            name: {"noise": graph.noise, "inputs": graph.inputs, "outputs": graph.outputs}
            for name, graph in graphs.graphs.items()
        },
    }


def _policy(checkpoint: training.Checkpoint, arm: str, seed: int | None) -> Deployable:
    seeds = checkpoint.manifest.get("seeds", [])
    if checkpoint.manifest["method"] == "fisor":
        return load_policy(checkpoint, arm, seeds[0] if seed is None else seed)
    return load_policy(checkpoint, arm)
