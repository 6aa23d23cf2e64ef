"""Roles: the denoiser that is trained, the one that made the roll-out, the base, an average; all of one network."""

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from diffpolicy.diffusion import Denoiser
from diffpolicy.training.state import digest

TRAIN, OLD, REFERENCE, EMA = "train", "old", "reference", "ema"


class RoleBook(Mapping[str, Denoiser]):
    """Denoisers by role. "train" and "reference" are always there; `add` makes others of what "train" is then."""

    @abstractmethod
    def add(self, name: str) -> None:
        """Fill a role with what "train" is now; refill it if it is filled."""

    @abstractmethod
    def tensors(self, name: str) -> dict[str, Tensor]:
        """Return the tensors of a role that can differ from those of another, by name, not copied."""

    @abstractmethod
    def model(self) -> dict[str, Tensor]:
        """Return the tensors of "train" that are to be kept, by name."""

    def parameters(self) -> list[nn.Parameter]:
        """Return what is trained."""
        own = self.tensors(TRAIN).values()
        return [tensor for tensor in own if isinstance(tensor, nn.Parameter) and tensor.requires_grad]

    @torch.no_grad()
    def blend(self, name: str, decay: float) -> None:
        """Move a role to `decay role + (1 - decay) train`; what is not floating point is copied.

        Raises:
            ValueError: if the decay is not between 0 and 1, or the role is the reference.
        """
        if not 0.0 <= decay <= 1.0:
            raise ValueError(f"a role is moved by a decay between 0 and 1, got {decay}")
        if name == REFERENCE:
            raise ValueError("the reference never moves; add another role")
        train = self.tensors(TRAIN)
        for key, tensor in self.tensors(name).items():
            if tensor.is_floating_point():
                tensor.lerp_(train[key].to(tensor), 1.0 - decay)
            else:
                tensor.copy_(train[key])

    def checksum(self, name: str) -> str:
        """Return the SHA-256 of a role's tensors."""
        return digest(self.tensors(name))

    def state(self) -> dict[str, Any]:
        """Return the tensors of all roles but the reference, which is what it was made of."""
        return {name: dict(self.tensors(name)) for name in self if name != REFERENCE}

    @torch.no_grad()
    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned, whatever roles were filled since."""
        for name, stored in state.items():
            if name not in self:
                self.add(name)
            for key, tensor in self.tensors(name).items():
                tensor.copy_(stored[key])


class CopiedRoles(RoleBook):
    """Every role is a copy of the whole network; `wrap` makes a denoiser of a network, by default the network itself.

    The given network is the one that is trained.
    """

    def __init__(self, network: nn.Module, wrap: Callable[[Any], Denoiser] | None = None) -> None:
        self._wrap = wrap or (lambda network: network)
        # Without dropout: the likelihood ratio of an untrained network has to be 1.
        self._networks: dict[str, nn.Module] = {TRAIN: network.eval()}
        self.add(REFERENCE)

    def add(self, name: str) -> None:
        """Fill a role with a copy of what "train" is now."""
        if name == TRAIN or (name == REFERENCE and REFERENCE in self._networks):
            raise ValueError(f"the role {name!r} is filled from the beginning")
        self._networks[name] = copy.deepcopy(self._networks[TRAIN]).requires_grad_(False)

    def network(self, name: str) -> nn.Module:
        """Return the network of a role."""
        return self._networks[name]

    def denoiser(self, network: nn.Module) -> Denoiser:
        """Return the denoiser that a network like those of the roles is."""
        return self._wrap(network)

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Return the parameters and buffers of a role's network."""
        network = self._networks[name]
        return dict(network.named_parameters()) | dict(network.named_buffers())

    def model(self) -> dict[str, Tensor]:
        """Return the state dict of the network that is trained."""
        return dict(self._networks[TRAIN].state_dict())

    def __getitem__(self, name: str) -> Denoiser:
        """Return the denoiser of a role."""
        return self.denoiser(self._networks[name])

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the roles filled."""
        return iter(self._networks)

    def __len__(self) -> int:
        """How many roles are filled."""
        return len(self._networks)
