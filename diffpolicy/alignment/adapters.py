"""Roles as LoRA adapters of one network: the base is there once, however many roles are filled."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from diffpolicy.alignment.roles import REFERENCE, TRAIN, RoleBook
from diffpolicy.diffusion import Denoiser

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
"""The projections that are adapted by default, as diffusers calls them (DDPO, Black et al. 2024, appendix D)."""


def adapter_name(role: str) -> str:
    """Return what peft calls the adapter of a role: not "train" itself, which every module has as a method."""
    return f"role_{role}"


class AdapterRoles(RoleBook):
    """Every role is a low-rank adapter (Hu et al. 2022) of one network; "reference" is the network without one.

    The network is changed in place: `targets` of its modules gain adapters of `rank`, in float32 whatever the precision
    of the base, and the base is frozen. Their output is scaled by `alpha/rank`, 1 by default. At the beginning "train"
    is exactly the reference. Its first factors are drawn from `seed`, not from the global generator. `wrap` makes a
    denoiser of the network, by default the network itself.

    A role's adapter is active during a call of its denoiser only, and "train" at all other times: the network that
    others hold is the one being trained, and whatever gradient checkpointing computes again in a backward pass, it
    computes with "train". Other roles are never checkpointed, since they would be computed again as "train".

    Raises:
        ModuleNotFoundError: if peft is not installed.
        ValueError: if the network has no such module, or adapters already, or the rank or alpha is not positive.
    """

    def __init__(
        self,
        network: nn.Module,
        wrap: Callable[[Any], Denoiser] | None = None,
        *,
        rank: int = 8,
        alpha: float | None = None,
        targets: Sequence[str] = ATTENTION,
        seed: int = 0,
    ) -> None:
        if rank < 1 or (alpha is not None and not alpha > 0.0):
            raise ValueError(
                f"an adapter has a rank of 1 or more and a positive alpha, got {rank} and {alpha}"
            )
        if any("lora_" in key for key, _ in network.named_parameters()):
            raise ValueError("this network has adapters already: merge or remove them, or load it anew")
        self._peft = _import_peft()
        self.network = network.eval().requires_grad_(False)
        self.config = self._peft.LoraConfig(
            r=rank, lora_alpha=rank if alpha is None else alpha, target_modules=list(targets)
        )
        denoiser: Denoiser = wrap(network) if wrap else network
        self._denoiser = denoiser
        self._base = dict(network.named_parameters()) | dict(network.named_buffers())
        self._tensors: dict[str, dict[str, Tensor]] = {}
        self._active = TRAIN
        self._inject(TRAIN, seed)

    def add(self, name: str) -> None:
        """Fill a role with a copy of what "train" is now."""
        if name in (TRAIN, REFERENCE):
            raise ValueError(f"the role {name!r} is filled from the beginning")
        if not name.isidentifier():
            raise ValueError(f"a role played by an adapter is named by letters, digits and _, not {name!r}")
        if name not in self._tensors:
            self._inject(name, seed=0)
        self.blend(name, 0.0)

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Return the adapter of a role, under the same names for all of them; those of the base for "reference"."""
        self._check(name)
        return dict(self._base if name == REFERENCE else self._tensors[name])

    def model(self) -> dict[str, Tensor]:
        """Return the adapter that is trained."""
        return self.tensors(TRAIN)

    def __getitem__(self, name: str) -> Denoiser:
        """Return the denoiser of a role."""
        self._check(name)

        def denoise(noisy: Tensor, level: Tensor, condition: Any, /) -> Tensor:
            with self._playing(name):
                return self._denoiser(noisy, level, condition)

        return denoise

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the roles filled."""
        yield from (*self._tensors, REFERENCE)

    def __len__(self) -> int:
        """How many roles are filled."""
        return len(self._tensors) + 1

    def _check(self, name: str) -> None:
        if name not in self._tensors and name != REFERENCE:
            raise KeyError(f"no adapter plays the role {name!r}; there are {', '.join(self)}")

    def _inject(self, name: str, seed: int) -> None:
        # peft draws new adapters from torch's global generator, which is put back afterwards.
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several adapters are meant
            torch.default_generator.manual_seed(seed)
            self._peft.inject_adapter_in_model(self.config, self.network, adapter_name(name))
        layer = self._peft.tuners.tuners_utils.BaseTunerLayer
        self._layers = [module for module in self.network.modules() if isinstance(module, layer)]
        found: dict[str, Tensor] = {}
        for key, parameter in self.network.named_parameters():
            head, marker, tail = f"{key}.".rpartition(f".{adapter_name(name)}.")
            if marker and head.rpartition(".")[2].startswith("lora_"):
                parameter.data = parameter.data.float()
                found[f"{head}.{tail}".rstrip(".")] = parameter
        self._tensors[name] = found
        self._activate(self._active)

    def _activate(self, name: str) -> None:
        for layer in self._layers:
            layer.enable_adapters(name != REFERENCE)
            if name != REFERENCE:
                layer.set_adapter(adapter_name(name))
        # peft lets the active adapter learn, and nothing else; here it is always "train", and never another.
        for role, tensors in self._tensors.items():
            for tensor in tensors.values():
                tensor.requires_grad_(role == TRAIN)
        self._active = name

    @contextmanager
    def _playing(self, name: str) -> Iterator[None]:
        """Let the network be a role for a while; what it was before is put back whatever happens."""
        if name == self._active:
            yield
            return
        before = self._active
        checkpointed: list[Any] = [
            module for module in self.network.modules() if getattr(module, "gradient_checkpointing", False)
        ]
        try:
            self._activate(name)
            for module in checkpointed:
                module.gradient_checkpointing = name == TRAIN
            yield
        finally:
            for module in checkpointed:
                module.gradient_checkpointing = True
            self._activate(before)


def _import_peft() -> Any:
    try:
        return import_module("peft")
    except ImportError as error:
        raise ModuleNotFoundError(
            "LoRA adapters need the package peft: pip install 'diffpolicy[images]'"
        ) from error
