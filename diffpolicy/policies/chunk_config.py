"""The options of action-chunk diffusion policies, checked, and the noise process they name."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from diffpolicy.diffusion import (
    GaussianProcess,
    cosine_betas,
    edm,
    linear_betas,
    rectified_flow,
    variance_preserving,
)
from diffpolicy.policies.errors import PolicyError

MOST_SIGNAL = 0.1  # of the noise, at a process's noisiest level, for samplers that begin at noise alone


@dataclass(frozen=True)
class NetworkConfig:
    """The network behind the denoiser (defaults: the published UNet); other kinds' keys are not used."""

    kind: Literal["mlp", "unet", "transformer"] = "unet"
    hidden: list[int] = field(default_factory=lambda: [512, 512, 512, 512])  # mlp
    channels: list[int] = field(default_factory=lambda: [256, 512, 1024])  # unet
    kernel: int = 5  # unet
    groups: int = 8  # unet
    step_embedding: int = 256  # mlp, unet
    layers: int = 8  # transformer
    heads: int = 4  # transformer
    width: int = 256  # transformer
    dropout: float = 0.3  # transformer: of attention

    def __post_init__(self) -> None:
        counted = ("kernel", "groups", "step_embedding", "layers", "heads", "width")
        for name in counted:
            if getattr(self, name) < 1:
                raise PolicyError(f"network.{name} must be at least 1, got {getattr(self, name)}")
        if min([*self.hidden, *self.channels], default=1) < 1:
            raise PolicyError(f"network.hidden and network.channels are widths of 1 or more, got {self}")
        if not 0.0 <= self.dropout < 1.0:
            raise PolicyError(f"network.dropout is at least 0 and below 1, got {self.dropout}")


@dataclass(frozen=True)
class ProcessConfig:
    """How actions become noise."""

    kind: Literal["cosine", "linear", "edm", "flow"] = "cosine"
    levels: int = 100

    def build(self) -> GaussianProcess:
        """Return the process; the denoiser that samplers see predicts the clean sample, whatever is learnt."""
        if self.kind == "edm":
            return edm(self.levels, prediction="sample")
        if self.kind == "flow":
            return rectified_flow(self.levels, prediction="sample")
        betas = cosine_betas(self.levels) if self.kind == "cosine" else linear_betas(self.levels)
        return variance_preserving(betas, prediction="sample")


@dataclass(frozen=True)
class ConditioningConfig:
    """What the network is asked for, in which coordinates, and what it is shown (defaults: as published)."""

    prediction: Literal["epsilon", "sample", "v", "flow", "edm"] = "epsilon"
    relative: bool = False  # actions relative to the agent, where the task's actions are positions
    dct: bool = False  # the network works on the cosine transform of a chunk
    weight_power: float = 0.0  # the loss of a coordinate counts spread^power (edm)
    features: Literal["plain", "geometric"] = "plain"
    newest_only: bool = False  # one token, of the newest step, instead of one for each observed step
    normalizer: Literal["minmax", "limits"] = "minmax"  # of actions; limits: they are in [-1, 1] as they are
    discrete_scale: float = 1.0  # factor on two-valued actions (RTI-DP's "scale": 0.1)
    symmetry: bool = False  # train on mirror images, where the task declares them
    mask_padding: bool = False  # repeated edge samples do not count in the loss
    per_step_levels: bool = False  # every action has its own noise level (streaming diffusion)


@dataclass(frozen=True)
class EncoderConfig:
    """What looks at pictures; one per camera."""

    kind: Literal["resnet18", "resnet_small", "vit"] = "resnet18"
    size: int = 64  # numbers per picture
    crop: int = 84  # [pixel]; random in training, central in use


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with warm-up and a cosine, averaged weights (defaults: as published)."""

    updates: int = 470_000
    batch: int = 256
    learning_rate: float = 1e-4
    betas: list[float] = field(default_factory=lambda: [0.95, 0.999])
    weight_decay: float = 1e-6
    warmup: int = 500  # updates
    final_fraction: float = 0.0  # of the learning rate, at the end of the cosine
    gradient_clip: float | None = None  # of the norm
    ema_power: float = 0.75
    ema_limit: float = 0.9999
    bfloat16: bool = False  # autocast; weights, optimiser and averages stay float32

    def __post_init__(self) -> None:
        if len(self.betas) != 2 or not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise PolicyError(f"optimizer.betas are two numbers of at least 0 and below 1, got {self.betas}")
        for name in ("updates", "batch"):
            if getattr(self, name) < 1:
                raise PolicyError(f"optimizer.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "weight_decay", "warmup", "final_fraction", "ema_power"):
            if not getattr(self, name) >= 0:
                raise PolicyError(f"optimizer.{name} is 0 or more, got {getattr(self, name)}")
        if not 0.0 <= self.ema_limit <= 1.0:
            raise PolicyError(f"optimizer.ema_limit lies between 0 and 1, got {self.ema_limit}")
        if self.gradient_clip is not None and not self.gradient_clip > 0.0:
            raise PolicyError(
                f"optimizer.gradient_clip is above 0, or null for none, got {self.gradient_clip}"
            )


@dataclass(frozen=True)
class DiffusionConfig:
    """Everything that decides what is learnt; PolicyError where options contradict each other."""

    observation_horizon: int = 2
    prediction_horizon: int = 16
    execution_horizon: int = 8
    cameras: list[str] = field(default_factory=list)  # that the policy sees; none: states only
    network: NetworkConfig = field(default_factory=NetworkConfig)
    process: ProcessConfig = field(default_factory=ProcessConfig)
    conditioning: ConditioningConfig = field(default_factory=ConditioningConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        """Refuse what cannot work, before any data is read."""
        asked = self.conditioning
        self._check_process()
        self._check_network()
        if asked.dct and asked.per_step_levels:
            raise PolicyError(
                "conditioning.dct mixes the actions of a chunk, so they need one noise level: "
                "set conditioning.dct=false or conditioning.per_step_levels=false"
            )
        if self.process.kind == "flow" and asked.prediction == "epsilon":
            raise PolicyError(
                "process.kind=flow ends in pure noise, from which its noise says nothing about the action: "
                "set conditioning.prediction to flow, v, sample or edm"
            )
        if not 0.0 < asked.discrete_scale <= 1.0:
            raise PolicyError(
                "conditioning.discrete_scale shrinks two-valued actions: it is above 0 and at most 1, not "
                f"{asked.discrete_scale}"
            )
        if asked.weight_power and asked.prediction != "edm":
            raise PolicyError(
                f"conditioning.weight_power needs prediction=edm, which measures spreads, not {asked.prediction}"
            )

    def _check_process(self) -> None:
        process = self.process.build()
        signal, noise = (table(process.levels - 1) for table in (process.signal_at, process.noise_at))
        if signal > MOST_SIGNAL * noise:
            raise PolicyError(
                f"process.kind={self.process.kind} with {process.levels} levels keeps {signal:.2f} of the action at "
                "its noisiest one, but samplers begin at noise alone: set process.levels=1000, or process.kind=cosine"
            )

    def _check_network(self) -> None:
        network = self.network
        if not network.hidden or not network.channels:
            raise PolicyError("network.hidden and network.channels name one width at least")
        coarsening = 2 ** (len(network.channels) - 1)
        if network.kind == "unet" and self.prediction_horizon % coarsening:
            raise PolicyError(
                f"a UNet of {len(network.channels)} widths halves a chunk {len(network.channels) - 1} times: set "
                f"prediction_horizon to a multiple of {coarsening}, not {self.prediction_horizon}"
            )


def config_from(stored: Mapping[str, Any]) -> DiffusionConfig:
    """Return the configuration whose `asdict` was stored in a checkpoint; PolicyError for another version's keys."""
    parts = {field.name: field.default_factory for field in dataclasses.fields(DiffusionConfig)}
    try:
        values = {
            name: parts[name](**value) if isinstance(value, Mapping) else value  # type: ignore[operator]
            for name, value in stored.items()
        }
        return DiffusionConfig(**values)
    except (KeyError, TypeError) as error:
        raise PolicyError(
            f"the checkpoint's policy has an option that this version does not know ({error}); "
            "load it with the version named in its manifest"
        ) from error
