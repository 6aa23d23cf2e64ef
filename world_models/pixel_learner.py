"""Trains a world model of pixels; a learner for `training.run`."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from diffpolicy.data import OfflineDataset
from diffpolicy.training import AveragedLearner, Checkpoint
from world_models.config import stored_options
from world_models.errors import WorldModelError
from world_models.frames import OUTCOMES, FrameWindows, moved
from world_models.pixel import PixelWorldModel
from world_models.pixel_config import PixelConfig, PixelNoise
from world_models.windows import advance

METHOD = "pixel_world_model"


class PixelLearner(AveragedLearner[PixelWorldModel]):
    """Trains the denoiser and the heads, each on batches of its own, and keeps a moving average of the weights.

    `tasks` (E,) int64 says to which task each episode belongs; the random numbers are those of `seed`.
    """

    def __init__(
        self,
        dataset: OfflineDataset,
        config: PixelConfig,
        seed: int,
        device: torch.device | str = "cpu",
        description: Mapping[str, Any] | None = None,
        tasks: Tensor | None = None,
    ) -> None:
        self.config, self.total_steps = config, config.updates
        self.windows = FrameWindows(
            dataset, config.history, config.size, device, config.camera, config.success_reward, tasks
        )
        self._followed = self.windows.followed(config.autoregressive)
        model = PixelWorldModel(config, dataset.action_size, torch.Generator().manual_seed(2 * seed)).to(
            device
        )
        model.fit(self.windows)
        self._odds = odds(self.windows.labels)
        self.generator = torch.Generator(device).manual_seed(2 * seed + 1)
        optimizer = torch.optim.AdamW(
            model.parameters(), config.learning_rate, weight_decay=config.weight_decay
        )
        super().__init__(model, optimizer, generator=self.generator)
        self.description = {"seed": seed, **(description or {})}

    def update(self, step: int) -> dict[str, Tensor]:
        """Make update number `step` (from 0)."""
        self.set_rate(self.config.learning_rate * min(1.0, (step + 1) / self.config.warm_up))
        self.optimizer.zero_grad(set_to_none=True)
        losses = {"dynamics": self._learn_dynamics(), **self._learn_outcomes()}
        # The heads share nothing with the denoiser, so the gradient of the one does not cut that of the other.
        heads = list(self.trained.heads.parameters())
        known = {id(parameter) for parameter in heads}
        others = [each for each in self.trained.parameters() if id(each) not in known]
        for parameters in (heads, others):
            nn.utils.clip_grad_norm_(parameters, self.config.clip)
        self.optimizer.step()
        self.update_average(min(self.config.average_decay, (1.0 + step) / (10.0 + step)))
        return losses

    def _learn_dynamics(self) -> Tensor:
        """Add the gradient of predicting some frames in a row, from the model's own after the first."""
        count = self.config.autoregressive
        index = self._followed[self._drawn(len(self._followed))]
        window = self.windows.window(index)
        total = torch.zeros((), device=index.device)
        for ahead in range(count):
            truth = self.windows.outcome(index + ahead).next_frames
            loss, predicted = self.trained.dynamics_loss(window, truth, self.generator)
            (loss / count).backward()  # type: ignore[no-untyped-call]
            total = total + loss.detach() / count
            if ahead + 1 < count:
                window = advance(window, predicted, self.windows.actions[index + ahead + 1])
        return total

    def _learn_outcomes(self) -> dict[str, Tensor]:
        shape, generator = self.config.outcome_batch, self.generator
        index = torch.multinomial(self._odds, shape, replacement=True, generator=generator)
        window, outcome = self.windows.window(index), self.windows.outcome(index)
        if self.config.shift:
            frames = torch.cat([window.observations, outcome.next_frames[:, None]], dim=1)
            frames = moved(frames, self.config.shift, self.generator)
            window = window._replace(observations=frames[:, :-1])
            outcome = outcome._replace(next_frames=frames[:, -1])
        losses = self.trained.outcome_loss(window, outcome, self._odds.mean() / self._odds[index])
        losses.sum().backward()  # type: ignore[no-untyped-call]
        return dict(zip(OUTCOMES, losses.detach().unbind(), strict=True))

    def _drawn(self, count: int) -> Tensor:
        shape, device = (self.config.batch,), self.generator.device
        return torch.randint(count, shape, generator=self.generator, device=device)

    def manifest(self) -> dict[str, Any]:
        """Return what a reader must know to rebuild the model."""
        frequency = self.average.heads.frequency.tolist()
        return {
            "method": METHOD,
            "pixel_world_model": asdict(self.config),
            "action_size": self.average.action_size,
            "parameters": sum(parameter.numel() for parameter in self.average.parameters()),
            "transitions": len(self.windows),
            "outcomes": dict(zip(OUTCOMES, frequency, strict=True)),
            **self.description,
        }


def odds(labels: Tensor) -> Tensor:
    """Return how much likelier each transition (N,) of `labels` (N, 3) is to be drawn than if all were alike, plus one.

    Each outcome that happens at all is as likely to be drawn as any transition is: a rare one would be met once or
    twice in a batch, and its share of the gradient be noise. Weights 1 / odds make up for it.
    """
    share = labels.mean(0)
    return 1.0 + torch.where(share > 0.0, labels / share.clamp(min=1e-9), 0.0).sum(1)


def load_pixel_world_model(checkpoint: Checkpoint, device: torch.device | str = "cpu") -> PixelWorldModel:
    """Return the world model of a checkpoint, frozen.

    Raises:
        WorldModelError: if the checkpoint holds something else, or is of another version.
    """
    manifest = checkpoint.manifest
    if manifest.get("method") != METHOD:
        raise WorldModelError(
            f"{checkpoint.path} holds {manifest.get('method', 'something')!r}, not a world model of pixels: name a "
            "checkpoint of one"
        )
    with stored_options(checkpoint.path):
        stored = dict(manifest["pixel_world_model"])
        config = PixelConfig(**stored | {"noise": PixelNoise(**stored["noise"])})
    model = PixelWorldModel(config, manifest["action_size"], torch.Generator())
    model.load_state_dict(checkpoint.model)
    return model.to(device).requires_grad_(False).eval()
