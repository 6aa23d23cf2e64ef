"""Trains a world model of states; a learner for `training.run`."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from diffpolicy.data import OfflineDataset
from diffpolicy.training import AveragedLearner, Checkpoint
from world_models.config import DiffusionSteps, WorldModelConfig, stored_options
from world_models.errors import WorldModelError
from world_models.state import StateWorldModel
from world_models.windows import Outcome, Window, Windows


class WorldModelLearner(AveragedLearner[StateWorldModel]):
    """Trains all members at once, each on batches of its own, and keeps a moving average of the weights."""

    def __init__(
        self,
        dataset: OfflineDataset,
        config: WorldModelConfig,
        seed: int,
        device: torch.device | str = "cpu",
        description: Mapping[str, Any] | None = None,
    ) -> None:
        self.config, self.total_steps = config, config.updates
        self.windows = Windows(dataset, config.history, device)
        weights = torch.Generator().manual_seed(2 * seed)
        model = StateWorldModel(config, dataset.observation_size, dataset.action_size, weights).to(device)
        model.fit(self.windows)
        self.generator = torch.Generator(device).manual_seed(2 * seed + 1)
        optimizer = torch.optim.AdamW(
            model.parameters(), config.learning_rate, weight_decay=config.weight_decay
        )
        super().__init__(model, optimizer, generator=self.generator)
        self.description = {"seed": seed, **(description or {})}

    def update(self, step: int) -> dict[str, Tensor]:
        """Make update number `step` (from 0)."""
        config = self.config
        shape, device = (config.members, config.batch), self.generator.device
        known = self.windows.known
        index = known[torch.randint(len(known), shape, generator=self.generator, device=device)]
        window, outcome = self.windows.window(index.flatten()), self.windows.outcome(index.flatten())
        window = Window(*(each.reshape(*shape, *each.shape[1:]) for each in window))
        outcome = Outcome(*(each.reshape(*shape, *each.shape[1:]) for each in outcome))
        self.set_rate(config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * step / config.updates)))
        losses = self.trained.loss(window, outcome, self.generator)
        self.optimizer.zero_grad(set_to_none=True)
        # The mean over members would scale each member's gradient down, which Adam undoes: the sum does not.
        (config.members * torch.stack(list(losses.values())).sum()).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.update_average(min(config.average_decay, (1.0 + step) / (10.0 + step)))
        return {name: loss.detach() for name, loss in losses.items()}

    def manifest(self) -> dict[str, Any]:
        """Return what a reader must know to rebuild the model."""
        return {
            "method": "world_model",
            "world_model": asdict(self.config),
            "observation_size": self.average.observation_size,
            "action_size": self.average.action_size,
            "parameters": sum(parameter.numel() for parameter in self.average.parameters()),
            "transitions": len(self.windows.known),
            **self.description,
        }


def load_world_model(checkpoint: Checkpoint, device: torch.device | str = "cpu") -> StateWorldModel:
    """Return the world model of a checkpoint, frozen.

    Raises:
        WorldModelError: if the checkpoint holds something else, or is of another version.
    """
    manifest = checkpoint.manifest
    if manifest.get("method") != "world_model":
        raise WorldModelError(
            f"{checkpoint.path} holds {manifest.get('method', 'something')!r}, not a world model: name a checkpoint of "
            "`diffpolicy train-world-model`"
        )
    with stored_options(checkpoint.path):
        stored = dict(manifest["world_model"])
        config = WorldModelConfig(**stored | {"diffusion": DiffusionSteps(**stored["diffusion"])})
    sizes = (manifest["observation_size"], manifest["action_size"])
    model = StateWorldModel(config, *sizes, torch.Generator())
    # Checkpoints of before columns were copied from others name no sources: none is copied then.
    model.load_state_dict({"source": model.source, **checkpoint.model})
    return model.to(device).requires_grad_(False).eval()
