"""Learnt values: a network that is fitted to the returns of roll-outs, for advantages over many steps."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffpolicy.networks.layers import linear

HIDDEN = (256, 256, 256)  # units, as published (DPPO, Ren et al. 2024)


@dataclass(frozen=True)
class Unit:
    """What values are learnt in: `offset + scale y` for a network's output y, so that outputs are about 1."""

    offset: float = 0.0
    scale: float = 1.0

    @classmethod
    def of(cls, returns: Tensor) -> "Unit":
        """Return the mean and deviation of some returns (N,); the deviation 1 where they are all the same."""
        spread = returns.std(correction=0).item()
        return cls(returns.mean().item(), spread if spread > 1e-6 else 1.0)


class ValueNetwork:
    """The value of inputs (..., I), which begins at the unit's offset everywhere, with the optimiser that fits it."""

    def __init__(
        self,
        inputs: int,
        learning_rate: float,
        batch: int,
        seed: int,
        device: torch.device | str = "cpu",
        hidden: Sequence[int] = HIDDEN,
        unit: Unit | None = None,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        sizes = (inputs, *hidden)
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [linear(before, after, generator), nn.Mish()]
        last = nn.Linear(sizes[-1], 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.network = nn.Sequential(*layers, last).to(device)
        self.batch, self.unit = batch, unit or Unit()
        self._optimizer = torch.optim.AdamW(self.network.parameters(), learning_rate, weight_decay=0.0)

    @property
    def fitted(self) -> bool:
        """Whether it has ever been fitted."""
        return bool(self._optimizer.state)

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the values (...) of inputs (..., I)."""
        return self.unit.offset + self.unit.scale * self._output(inputs)

    def fit(self, inputs: Tensor, returns: Tensor, epochs: int, generator: torch.Generator) -> None:
        """Make `epochs` passes over inputs (N, I) and their returns (N,), in random minibatches."""
        wanted = (returns - self.unit.offset) / self.unit.scale
        for _ in range(epochs):
            order = torch.randperm(len(inputs), generator=generator, device=inputs.device)
            for index in torch.split(order, self.batch):
                loss = F.mse_loss(self._output(inputs[index]), wanted[index])
                self._optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                self._optimizer.step()

    def state(self) -> dict[str, Any]:
        """Return weights and optimiser, copied."""
        return copy.deepcopy(
            {"network": dict(self.network.state_dict()), "optimizer": self._optimizer.state_dict()}
        )

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])

    def _output(self, inputs: Tensor) -> Tensor:
        value: Tensor = self.network(inputs).squeeze(-1)
        return value
