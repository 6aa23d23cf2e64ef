"""Diffusion policies of action chunks, cloned from demonstrations (Chi et al., RSS 2023), and how they are trained."""

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from diffpolicy.data import Chunks, ChunkSampler, OfflineDataset
from diffpolicy.policies.chunk_config import DiffusionConfig, OptimizerConfig
from diffpolicy.policies.chunk_model import ChunkModel
from diffpolicy.policies.errors import PolicyError
from diffpolicy.policies.symmetry import Symmetries
from diffpolicy.training import AveragedLearner
from envs.layout import Layout

FITTED = 65_536  # windows, at most, that normalisation and spreads are fitted to
BEYOND = 1e-3  # how far demonstrated actions may lie outside [-1, 1]: rounding, or another unit's last digit


def learning_rate(step: int, config: OptimizerConfig) -> float:
    """Return the rate of update `step` (from 0): linear warm-up, then a half cosine to `final_fraction`."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(config.updates - config.warmup, 1)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
    return config.learning_rate * (config.final_fraction + (1.0 - config.final_fraction) * cosine)


def average_decay(step: int, config: OptimizerConfig) -> float:
    """Return the averages' decay at update `step` (from 0): `1 - (1 + step)^-power`, at most `ema_limit`."""
    decay: float = 1.0 - (1.0 + step) ** -config.ema_power
    return min(config.ema_limit, decay)


class DiffusionLearner(AveragedLearner[ChunkModel]):
    """Trains one chunk policy of one seed; a `training.Learner`."""

    def __init__(
        self,
        dataset: OfflineDataset,
        config: DiffusionConfig,
        seed: int,
        layout: Layout,
        device: torch.device,
        description: Mapping[str, Any] | None = None,
    ) -> None:
        """Prepare training on demonstrations whose actions are in [-1, 1].

        `description` goes into the checkpoint's manifest. Raises PolicyError for data that a policy cannot learn
        from, cameras that the data lacks, and symmetries asked of pictures.
        """
        _check(dataset, config, layout)
        self.config, self.seed, self.device = config, seed, device
        self.total_steps = config.optimizer.updates
        self.description = dict(description or {})
        self.cameras = {name: list(dataset.images[name].shape[1:3]) for name in config.cameras}
        wanted = {name: dataset.images[name] for name in config.cameras}
        self.windows = _windows(replace(dataset, images=wanted), config)
        sizes = (dataset.observation_size, dataset.action_size)
        used = layout if config.conditioning.symmetry else Layout()
        self.symmetries = Symmetries(used, *sizes, device)
        # Three streams: weights; windows, on the CPU where the data is; noise, on the device.
        initial = torch.Generator().manual_seed(3 * seed)
        model = ChunkModel(config, *sizes, layout, initial)
        _fit(model, dataset, Symmetries(used, *sizes, torch.device("cpu")))
        model = model.to_device(device)
        self.indices = torch.Generator().manual_seed(3 * seed + 1)
        self.generator = torch.Generator(device).manual_seed(3 * seed + 2)
        chosen = config.optimizer
        optimizer = torch.optim.AdamW(
            model.parameters(),
            chosen.learning_rate,
            betas=(chosen.betas[0], chosen.betas[1]),
            weight_decay=chosen.weight_decay,
            fused=True,
        )
        super().__init__(model, optimizer, indices=self.indices, generator=self.generator)

    def update(self, step: int) -> dict[str, Tensor]:
        """Make update number `step` (from 0) on windows drawn with replacement, mirrored at random."""
        config = self.config.optimizer
        index = torch.randint(len(self.windows), (config.batch,), generator=self.indices)
        chunks = self._mirrored(_to(self.windows.batch(index), self.device))
        rate = learning_rate(step, config)
        self.set_rate(rate)
        loss = self.trained.loss(chunks, self.generator)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        logs = {"loss": loss.detach(), "learning_rate": torch.tensor(rate)}
        if config.gradient_clip is not None:
            norm = torch.nn.utils.clip_grad_norm_(self.trained.parameters(), config.gradient_clip)
            logs["gradient_norm"] = norm.detach()
        self.optimizer.step()
        self.update_average(average_decay(step, config))
        return logs

    def _mirrored(self, chunks: Chunks) -> Chunks:
        """Replace each window by its image under one of the symmetries, all equally likely."""
        if len(self.symmetries) == 1:
            return chunks
        shape = (len(chunks.states),)
        which = torch.randint(len(self.symmetries), shape, device=self.device, generator=self.generator)
        return self.symmetries.apply(chunks, which)

    def manifest(self) -> dict[str, Any]:
        """Return what a reader must know to rebuild the policy, beside its configuration."""
        return {
            "method": "diffusion",
            "seed": self.seed,
            "layout": asdict(self.average.layout),
            "observation_horizon": self.config.observation_horizon,
            "prediction_horizon": self.config.prediction_horizon,
            "execution_horizon": self.config.execution_horizon,
            "observation_size": self.average.observation_size,
            "action_size": self.average.action_size,
            "cameras": self.cameras,
            "parameters": sum(parameter.numel() for parameter in self.average.parameters()),
            "windows": len(self.windows),
            **self.description,
        }


def _fit(model: ChunkModel, dataset: OfflineDataset, symmetries: Symmetries) -> None:
    """Fit a model's normalisation and spreads to the windows of demonstrations and their mirror images."""
    windows = _windows(replace(dataset, images={}), model.config)
    index = torch.linspace(0, len(windows) - 1, min(len(windows), FITTED)).round().long()
    batch = windows.batch(index)
    images = [symmetries.apply(batch, torch.full_like(index, which)) for which in range(len(symmetries))]
    model.fit(torch.cat([seen.states for seen in images]), torch.cat([seen.actions for seen in images]))


def _windows(dataset: OfflineDataset, config: DiffusionConfig) -> ChunkSampler:
    horizons = (config.observation_horizon, config.prediction_horizon, config.execution_horizon)
    return ChunkSampler(dataset, *horizons)


def _to(chunks: Chunks, device: torch.device) -> Chunks:
    images = chunks.images
    moved = None if images is None else {name: seen.to(device) for name, seen in images.items()}
    return Chunks(chunks.states.to(device), chunks.actions.to(device), chunks.valid.to(device), moved)


def _check(dataset: OfflineDataset, config: DiffusionConfig, layout: Layout) -> None:
    """Raise PolicyError for data that cannot be learnt from as asked."""
    for name, values in (("observations", dataset.observations), ("actions", dataset.actions)):
        bad = (~values.isfinite().all(dim=1)).nonzero().flatten()
        if len(bad):
            raise PolicyError(
                f"{name} hold NaN or infinity in {len(bad)} rows, the first is {int(bad[0])}: "
                "`diffpolicy data check` names them all"
            )
    furthest = float(dataset.actions.abs().max())
    if furthest > 1.0 + BEYOND:
        raise PolicyError(
            f"actions reach {furthest:.4g}, but policies act in [-1, 1]: scale them with "
            "dataset.scaled_actions(low, high), with the limits of the task's raw actions"
        )
    missing = [camera for camera in config.cameras if camera not in dataset.images]
    if missing:
        raise PolicyError(
            f"the dataset has no camera {', '.join(missing)}; it has {', '.join(dataset.images) or 'none'}"
        )
    if config.cameras and config.conditioning.symmetry and layout.symmetries:
        raise PolicyError(
            "the mirror image of a picture is not known: set conditioning.symmetry=false for a policy with cameras"
        )
