"""The denoiser of action chunks as samplers see it: clean chunks from noisy ones, whatever network is behind it."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from diffpolicy.data import Chunks, MinMaxNormalizer
from diffpolicy.networks import (
    ChunkMLP,
    ConditionalUNet1D,
    DiffusionTransformer,
    ResNetEncoder,
    ViTEncoder,
)
from diffpolicy.policies.chunk_config import DiffusionConfig, EncoderConfig
from diffpolicy.policies.chunk_levels import draw_levels
from diffpolicy.policies.errors import PolicyError
from diffpolicy.policies.features import ObservationFeatures
from diffpolicy.policies.policy import Observation
from diffpolicy.policies.preconditioning import Preconditioner
from envs.layout import Layout

LEAST_HALF_RANGE = 5e-5  # of a two-valued action; demonstrations with one value of it alone have none
SMALL_WIDTHS = (32, 64, 128)  # of the small ResNet


class Condition(NamedTuple):
    """What a denoiser is given: tokens (B, 1 or To, C), and the origin (B, 1, A) of actions in normalised units."""

    tokens: Tensor
    origin: Tensor


class ChunkModel(nn.Module):
    """Predicts clean chunks (B, Tp, A) in normalised action units from noisy ones, observations and noise levels.

    `process` predicts "sample", so every sampler works on every network, prediction type and preconditioning.
    """

    center: Tensor
    scale: Tensor

    def __init__(
        self,
        config: DiffusionConfig,
        observation_size: int,
        action_size: int,
        layout: Layout,
        generator: torch.Generator,
    ) -> None:
        """Make a model with weights drawn from `generator`, to be fitted or loaded; `layout` says what columns mean."""
        super().__init__()
        asked, network = config.conditioning, config.network
        self.process = config.process.build()
        self.observation_horizon = config.observation_horizon
        self.prediction_horizon = config.prediction_horizon
        self.execution_horizon = config.execution_horizon
        self.observation_size, self.action_size = observation_size, action_size
        self.per_step_levels = asked.per_step_levels
        self.layout, self.config = layout, config
        self.picture_sizes: dict[str, tuple[int, int]] = {}  # by camera (H, W) [pixel], where they are known
        self.register_buffer("center", torch.zeros(action_size))
        self.register_buffer("scale", torch.ones(action_size))
        self.features = ObservationFeatures(layout, asked.features, observation_size, asked.newest_only)
        self.encoders = nn.ModuleDict(
            {camera: _encoder(config.encoder, generator) for camera in config.cameras}
        )
        token_count = 1 if asked.newest_only else config.observation_horizon
        token_size = self.features.size + config.encoder.size * len(self.encoders)
        horizon, actions = config.prediction_horizon, self.action_size
        self.preconditioner = Preconditioner(
            self.process, asked.prediction, (horizon, actions), dct=asked.dct, weight_power=asked.weight_power
        )
        options = {"generator": generator, "per_step_levels": asked.per_step_levels}
        self.network: nn.Module
        if network.kind == "mlp":
            sizes = (horizon, actions, token_count, token_size)
            self.network = ChunkMLP(*sizes, network.hidden, step_embedding=network.step_embedding, **options)  # type: ignore[arg-type]
        elif network.kind == "unet":
            shape = (network.channels, network.kernel, network.groups, network.step_embedding)
            self.network = ConditionalUNet1D(actions, token_count, token_size, *shape, **options)  # type: ignore[arg-type]
        else:
            depth = (network.layers, network.heads, network.width, network.dropout)
            sizes = (horizon, actions, token_count, token_size)
            self.network = DiffusionTransformer(*sizes, *depth, **options)  # type: ignore[arg-type]

    def to_device(self, device: torch.device | str) -> "ChunkModel":
        """Move weights and noise tables to `device`."""
        self.process = self.process.to(device)
        return self.to(device)

    def fit(self, states: Tensor, actions: Tensor) -> None:
        """Fit normalisation and spreads to windows: states (N, To, O), actions (N, Tp, A) in [-1, 1], on the CPU."""
        asked = self.config.conditioning
        fitted = MinMaxNormalizer.fit(actions)
        if asked.normalizer == "minmax":
            self.center, self.scale = fitted.center, fitted.half_range
        # The two values of a discrete action, which need not be -1 and 1, become +-discrete_scale in any case. One that
        # never changes keeps its value whichever label is executed.
        discrete = list(self.layout.discrete)
        values = actions[..., discrete].flatten(0, -2)
        narrow = values.amax(dim=0) - values.amin(dim=0) < 2 * LEAST_HALF_RANGE
        half_range = torch.where(narrow, LEAST_HALF_RANGE, fitted.half_range[discrete])
        self.center[discrete] = fitted.center[discrete]
        self.scale[discrete] = half_range / asked.discrete_scale
        self.features.fit(states)
        relative = self.from_actions(actions) - self.origin(states)
        self.preconditioner.fit(self.preconditioner.to_coordinates(relative))

    def from_actions(self, actions: Tensor) -> Tensor:
        """Return actions (..., A) in [-1, 1] in normalised units, in which noise is added."""
        return (actions - self.center) / self.scale

    def to_actions(self, normalised: Tensor) -> Tensor:
        """Return normalised actions (..., A) in the environment's units, clipped to [-1, 1]."""
        return (normalised * self.scale + self.center).clamp(-1.0, 1.0)

    def origin(self, states: Tensor) -> Tensor:
        """Return the agent's newest position (B, 1, A) in normalised action units, zero where it does not count."""
        layout = self.layout
        if not self.config.conditioning.relative or layout.agent_scale is None:
            return states.new_zeros(len(states), 1, self.action_size)
        agent = states[:, -1:, list(layout.agent)]
        return self.from_actions(layout.agent_scale * agent + layout.agent_offset)

    def encode(self, observation: Observation, generator: torch.Generator | None = None) -> Condition:
        """Return what the denoiser needs to know of an observation; a `generator` crops pictures at random."""
        tokens = [self.features(observation.state)]
        for camera, encoder in self.encoders.items():
            images = observation.images or {}
            if camera not in images:
                raise PolicyError(
                    f"the policy looks at camera {camera!r}; the observation has {list(images) or 'none'}"
                )
            pictures = images[camera][:, -tokens[0].shape[1] :]
            size = (pictures.shape[-3], pictures.shape[-2])
            if size != self.picture_sizes.get(
                camera, size
            ):  # a crop of other pictures would be of something else
                raise PolicyError(
                    f"camera {camera!r} gives pictures of {size} pixels; the policy was trained on "
                    f"{self.picture_sizes[camera]}: scale them to that"
                )
            seen = encoder(pictures.flatten(0, 1), generator)
            tokens.append(seen.view(len(pictures), -1, seen.shape[-1]))
        return Condition(torch.cat(tokens, dim=-1), self.origin(observation.state))

    def forward(self, noisy: Tensor, level: Tensor, condition: Condition) -> Tensor:
        """Return the clean chunk predicted for `noisy` (B, Tp, A) at `level` (B,), or (B, Tp) with per-step levels.

        A model of per-step levels takes `level` (B,) for that of every action, so that it plays all arms.
        """
        tables = self.preconditioner
        if self.per_step_levels and level.ndim == 1:
            level = level.unsqueeze(1).expand(-1, noisy.shape[1])
        signal, _ = tables.corruption(level)
        coordinates = tables.to_coordinates(noisy - signal * condition.origin)
        gain, skip, out = tables.acting(level)
        predicted: Tensor = self.network(gain * coordinates, level, condition.tokens)
        return tables.from_coordinates(skip * coordinates + out * predicted) + condition.origin

    def loss(self, chunks: Chunks, generator: torch.Generator) -> Tensor:
        """Return the mean squared error of the network on a batch, its noise and dropout drawn from `generator`.

        Uniform over noise levels and, but for `weight_power`, over coordinates. With `mask_padding` padded actions
        neither count nor are counted; with `dct` that is asked of the error taken back to time steps.
        """
        asked, tables = self.config.conditioning, self.preconditioner
        clean = self.from_actions(chunks.actions)
        shape, low = clean.shape, self.config.optimizer.bfloat16
        level = draw_levels(shape[0], shape[1], self.process.levels, self.per_step_levels, generator)
        noise = torch.empty_like(clean).normal_(generator=generator)
        with torch.autocast(clean.device.type, torch.bfloat16, enabled=low):
            tokens, origin = self.encode(Observation(chunks.states, chunks.images), generator)
        coordinates = tables.to_coordinates(clean - origin)
        signal, spread = tables.corruption(level)
        gain = tables.acting(level)[0]
        of_clean, of_noise = tables.targets(level)
        with torch.autocast(clean.device.type, torch.bfloat16, enabled=low):
            inputs = gain * (signal * coordinates + spread * noise)
            predicted: Tensor = self.network(inputs, level, tokens, generator)
        error = (predicted.float() - of_clean * coordinates - of_noise * noise) * tables.weight.sqrt()
        if not asked.mask_padding:
            return error.square().mean()
        counted = chunks.valid.unsqueeze(-1)
        squares = tables.from_coordinates(error).square() * counted
        return squares.sum() / (counted.sum() * shape[-1]).clamp(min=1)


def _encoder(config: EncoderConfig, generator: torch.Generator) -> nn.Module:
    if config.kind == "vit":
        return ViTEncoder(config.size, crop=config.crop, generator=generator)
    if config.kind == "resnet_small":
        return ResNetEncoder(config.size, SMALL_WIDTHS, 1, config.crop, generator=generator)
    return ResNetEncoder(config.size, crop=config.crop, generator=generator)
