"""`diffpolicy export`: a policy as a folder that plays with numpy and onnxruntime alone."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig

import envs
from diffpolicy import data
from diffpolicy.cli.common import SHIPPED, dataset_path, load_dataset
from diffpolicy.cli.errors import ConfigError
from diffpolicy.deploy.exporting import FORMATS, export
from diffpolicy.deploy.torch_runtime import TorchRuntime
from diffpolicy.evaluation import provenance


def main(cfg: DictConfig) -> None:
    """Export `cfg.checkpoint` to `cfg.to`, or to `policy` in `cfg.run`; fails where it is not what PyTorch computes."""
    if cfg.checkpoint is None:
        raise ConfigError("export needs checkpoint=FOLDER, for example checkpoint=runs/train/pusht/...")
    if cfg.format not in FORMATS:
        raise ConfigError(f"format={cfg.format}: choose one of {', '.join(FORMATS)}")
    for key, least in (("samples", 1), ("decisions", 0), ("threads", 1)):
        if not isinstance(cfg[key], int) or cfg[key] < least:
            raise ConfigError(f"{key}={cfg[key]} is a whole number of at least {least}")
    runtime = TorchRuntime(
        cfg.checkpoint, cfg.arm, seed=cfg.seed, limits=cfg.safety, git=provenance.code()["commit"] or ""
    )
    found = export(
        runtime,
        Path(cfg.run) / "policy" if cfg.to is None else Path(cfg.to),
        cfg.format,
        real=real_readings(runtime, cfg.data, cfg.samples),
        samples=cfg.samples,
        decisions=cfg.decisions,
        threads=cfg.threads,
        machine=str(provenance.machine()["cpu"]),
    )
    print((found.folder / "parity.md").read_text())
    print(f"export: {found.folder}\ncheck it there with: python run_policy.py")
    found.check()


def real_readings(runtime: TorchRuntime, path: str | None, count: int) -> dict[str, NDArray[Any]] | None:
    """Return windows of readings (N, To, ...) spread over a dataset; None where there is none to be had."""
    task = envs.task(runtime.checkpoint.manifest["task"])
    if path is None and task.id not in SHIPPED:
        return None
    seen = [signal.name for signal in runtime.manifest.observation]
    cameras = [name for name in seen if name != "state"]
    dataset = load_dataset(task, dataset_path(task, path), cameras)
    sampler = data.ChunkSampler(
        dataset, runtime.manifest.observation_horizon, runtime.manifest.observation_horizon, 1
    )
    index = torch.from_numpy(
        np.linspace(0, len(sampler) - 1, min(count, len(sampler))).round().astype(np.int64)
    )
    chunks = sampler.batch(index)
    read = {"state": chunks.states, **(chunks.images or {})}
    return {name: read[name].numpy() for name in seen}
