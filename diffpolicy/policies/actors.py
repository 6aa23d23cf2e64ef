"""Diffusion actors: a stack of conditional denoisers over actions, their loss, average and samples."""

import copy
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from diffpolicy.diffusion import AncestralSampler, variance_preserving, vp_betas
from diffpolicy.networks import MLPDenoiser, ResidualDenoiser
from diffpolicy.policies.errors import PolicyError


@dataclass(frozen=True)
class ActorConfig:
    """Network, optimiser and diffusion of the actors (defaults: FISOR's)."""

    network: str = "residual"  # "residual" (FISOR's) or "mlp"
    hidden: list[int] = field(
        default_factory=lambda: [256, 256, 256]
    )  # widths; residual: width of each block
    dropout: float = 0.1
    batch: int = 1024
    learning_rate: float = 3e-4
    decay_steps: int = 3_000_000  # of the cosine schedule, in actor updates
    ema: float = 0.001
    diffusion_steps: int = 5
    bfloat16: bool = False  # train in bfloat16 with float32 weights, optimiser and averages

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 1:
            raise PolicyError(f"actor.hidden names one width at least, each 1 or more, got {self.hidden}")
        for name in ("batch", "diffusion_steps"):
            if getattr(self, name) < 1:
                raise PolicyError(f"actor.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "decay_steps"):
            if not 0 <= getattr(self, name) < math.inf:
                raise PolicyError(f"actor.{name} is 0 or more, got {getattr(self, name)}")
        if not 0.0 <= self.dropout < 1.0:
            raise PolicyError(f"actor.dropout is at least 0 and below 1, got {self.dropout}")
        if not 0.0 <= self.ema <= 1.0:
            raise PolicyError(f"actor.ema lies between 0 and 1, got {self.ema}")


class DiffusionActors(nn.Module):
    """`members` denoisers of actions given observations, with exponential averages that are the ones that act."""

    def __init__(
        self,
        members: int,
        observation_size: int,
        action_size: int,
        config: ActorConfig,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        sizes = (members, action_size, observation_size, config.diffusion_steps)
        self.denoiser: nn.Module
        if config.network == "residual":
            width, blocks = config.hidden[0], len(config.hidden)
            if any(size != width for size in config.hidden):
                raise PolicyError(f"actor.hidden of a residual network names one width, got {config.hidden}")
            self.denoiser = ResidualDenoiser(*sizes, generator, width, blocks, config.dropout)
        elif config.network == "mlp":
            self.denoiser = MLPDenoiser(*sizes, config.hidden, generator)
        else:
            raise PolicyError(f"actor.network is 'residual' or 'mlp', got {config.network!r}")
        self.average = copy.deepcopy(self.denoiser).requires_grad_(False)
        self.action_size, self.config = action_size, config
        self.process = variance_preserving(vp_betas(config.diffusion_steps))

    def to_device(self, device: torch.device) -> "DiffusionActors":
        """Move networks and noise tables to `device`."""
        self.process = self.process.to(device)
        return self.to(device)

    def loss(
        self, actions: Tensor, observations: Tensor, weights: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        """Return the weighted noise-prediction loss of each member, (M,).

        `mean_B w ||eps_theta(x_k, s, k) - eps||^2`, summed over action dimensions (FISOR, eq. 12), for actions
        (M, B, A), observations (M, B, O) and weights (M, B) (None: all one).
        """
        members, batch = actions.shape[:2]
        step = torch.randint(
            self.process.levels, (members, batch), device=actions.device, generator=generator
        )
        noise = torch.empty_like(actions).normal_(generator=generator)
        noisy = self.process.corrupt(actions, step, noise)
        prediction = self._predict(noisy, step, observations, generator)
        error = (prediction - self.process.target(actions, noise, step)).square().sum(dim=-1)
        return (error if weights is None else weights * error).mean(dim=-1)

    def _predict(
        self, noisy: Tensor, step: Tensor, observations: Tensor, generator: torch.Generator
    ) -> Tensor:
        if not self.config.bfloat16:
            prediction: Tensor = self.denoiser(noisy, step, observations, generator)
            return prediction
        weights = {name: weight.bfloat16() for name, weight in self.denoiser.named_parameters()}
        inputs = (noisy.bfloat16(), step, observations.bfloat16(), generator)
        low: Tensor = torch.func.functional_call(self.denoiser, weights, inputs)
        return low.float()

    @torch.no_grad()
    def update_average(self) -> None:
        """Move the averaged networks towards the trained ones."""
        average: list[Tensor] = list(self.average.parameters())
        trained: list[Tensor] = list(self.denoiser.parameters())
        torch._foreach_lerp_(average, trained, self.config.ema)

    def draw(self, members: int, batch: int, generator: torch.Generator) -> Tensor:
        """Return the noise (levels, M, B, A) that `sample` needs for a batch."""
        return AncestralSampler(self.process).draw((members, batch, self.action_size), generator)

    def sample(self, observations: Tensor, noise: Tensor) -> Tensor:
        """Return one action (M, B, A) in [-1, 1] for each of the observations (M, B, O), a pure function."""
        precision = next(self.average.parameters()).dtype

        def denoiser(noisy: Tensor, step: Tensor, condition: Tensor) -> Tensor:
            predicted: Tensor = self.average(noisy.to(precision), step, condition)
            return predicted.float()

        return AncestralSampler(self.process).sample(denoiser, observations.to(precision), noise)
