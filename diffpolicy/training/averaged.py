"""What learners share that train one network and keep a moving average of it, which is what is used in the end."""

import copy
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


class AveragedLearner(Generic[Network]):
    """The state of such a learner; a subclass adds `total_steps`, `update` and `manifest` and is a `Learner`.

    `average` begins as a copy of the `trained` network. Checkpoints keep every one of `streams`, the random numbers
    that training draws, under its name.
    """

    def __init__(
        self, trained: Network, optimizer: torch.optim.Optimizer, **streams: torch.Generator
    ) -> None:
        self.trained, self.optimizer, self._streams = trained, optimizer, streams
        self.average: Network = copy.deepcopy(trained).requires_grad_(False)

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of all parameters."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    @torch.no_grad()
    def update_average(self, decay: float) -> None:
        """Move the average by `1 - decay` of its distance to the trained parameters."""
        average: list[Tensor] = list(self.average.parameters())
        trained: list[Tensor] = list(self.trained.parameters())
        torch._foreach_lerp_(average, trained, 1.0 - decay)

    def state(self) -> dict[str, Any]:
        """Return everything that training goes on from."""
        return {
            "trained": self.trained.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            **{name: stream.get_state() for name, stream in self._streams.items()},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a `state()`."""
        self.trained.load_state_dict(state["trained"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name, stream in self._streams.items():
            stream.set_state(state[name].cpu())

    def model(self) -> dict[str, Tensor]:
        """Return the averaged network's parameters and buffers."""
        return self.average.state_dict()
