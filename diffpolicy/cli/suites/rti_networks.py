"""The networks of the suite `rti`: trained where they are not, calibrated, and ready to act as any arm."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

import envs
from diffpolicy import training
from diffpolicy.cli.collect import collect_task
from diffpolicy.cli.common import SHIPPED, compute_device, dataset_file, dataset_path, load_dataset
from diffpolicy.cli.demonstrations import run_folders
from diffpolicy.cli.train import train
from diffpolicy.policies import ChunkPolicy, PolicyError, load_chunk_model
from diffpolicy.policies.acting import chunk_policy, discrete_of
from diffpolicy.policies.calibrate import calibrate
from diffpolicy.policies.calibration import Calibration
from diffpolicy.policies.freezing import Freezing
from diffpolicy.policies.runtimes import Runtime, compile_inference
from diffpolicy.policies.streaming import StreamingPolicy


class Trained:
    """One network of one task with a model for each training seed; its results go to `folder`.

    `weights` are the models' SHA-256, `judged_by` the arms whose score chose the checkpoints, `guarded` those that
    need a calibration on the demonstrations at `data`, which is made when it is first asked for.
    """

    def __init__(
        self,
        task: envs.Task,
        network: str,
        checkpoints: Sequence[training.Checkpoint],
        options: DictConfig,
        guarded: Sequence[str],
    ) -> None:
        self.task, self.network = task, network
        self.folder = Path(options.run) / "results"
        self.weights = [str(one.manifest["sha256"]["model.safetensors"]) for one in checkpoints]
        self.judged_by = list(OmegaConf.select(options, "judge.arms") or ())
        self._device = compute_device(options)
        self._models = [load_chunk_model(checkpoint, self._device) for checkpoint in checkpoints]
        self._guarded, self._data = list(guarded), Path(options.data)
        self._calibrations: dict[int, Calibration] = {}

    def policy(self, arm: str, member: int, **options: Any) -> ChunkPolicy | StreamingPolicy:
        """Return an arm of one training seed."""
        calibration = self._calibration(member) if arm in self._guarded else None
        return chunk_policy(
            self._models[member], arm, calibration=calibration, device=self._device, **options
        )

    def planner(self, arm: str, member: int, freezing: Freezing) -> ChunkPolicy:
        """Return an arm that can keep to what is executed meanwhile; PolicyError for streaming arms."""
        policy = self.policy(arm, member, freezing=freezing)
        if not isinstance(policy, ChunkPolicy):
            raise PolicyError(f"arm {arm!r} cannot be executed while it decides; delays.arm must be another")
        return policy

    def evaluations(self, arm: str) -> tuple[float, float]:
        """Return an arm's denoiser evaluations per control step and per decision, once under way."""
        policy = self.policy(arm.replace("_guard", ""), 0)
        return policy.evaluations_per_step, policy.evaluations_per_step * policy.execute

    def _calibration(self, member: int) -> Calibration:
        if member not in self._calibrations:
            self._calibrations[member] = calibrate(
                self._models[member],
                load_dataset(self.task, self._data, []),
                self._guarded,
                angles=self.task.layout.angles,
                discrete=discrete_of(self._models[member]),
                device=self._device,
            )
        return self._calibrations[member]


def compiled(runtime: Runtime) -> dict[str, Any]:
    """Return the options of `chunk_policy` for one robot on a runtime: none for "eager"."""
    if runtime == "eager":
        return {}
    return {"sampling": partial(compile_inference, runtime=runtime)}


def train_network(cfg: DictConfig, task: envs.Task, network: str, guarded: Sequence[str]) -> Trained:
    """Train or resume every seed of a network; it acts with the checkpoints that its judge liked best."""
    options = network_config(cfg, task, network)
    train(options)
    runs = run_folders(Path(options.run), list(options.seeds))
    checkpoints = [training.read_checkpoint(training.best_checkpoint(run)) for run in runs]
    return Trained(task, network, checkpoints, options, guarded)


def network_config(cfg: DictConfig, task: envs.Task, network: str) -> DictConfig:
    """Return the options of `train`: those of the task, changed by what the suite says of this network."""
    changes = (cfg.networks[network] or {}).get("train", {})
    merged = OmegaConf.merge(cfg, changes)
    assert isinstance(merged, DictConfig)
    merged.task, merged.run = task.id, str(Path(cfg.run).resolve() / task.name / network)
    merged.data = str(demonstrations_path(cfg, task))
    return merged


def demonstrations_path(cfg: DictConfig, task: envs.Task) -> Path:
    """Return the demonstrations that ship with the project, else those of a scripted expert, collected if missing."""
    if task.id in SHIPPED:
        return dataset_path(task, None)
    path = dataset_file(Path(cfg.data_folder), task)
    if not path.exists():
        unfinished = path.with_suffix(".collecting")  # an interrupted collection is not trained on
        collect_task(task, unfinished, {}, progress=cfg.progress)
        unfinished.replace(path)
    return path
