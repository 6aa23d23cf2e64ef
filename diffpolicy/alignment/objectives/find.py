"""FIND: leave the denoiser as it is, and learn which noise to start from."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from diffpolicy.alignment.model import Model
from diffpolicy.alignment.objective import Needs, Objective, Owned, Part, Roles, StartPolicy
from diffpolicy.alignment.samples import Rated, Rollout
from diffpolicy.diffusion import StepDistribution
from diffpolicy.networks.layers import linear
from diffpolicy.training.errors import TrainingError

SMALLEST_STD = 1e-4  # of the noise's distribution, as published


@dataclass(frozen=True)
class FINDConfig:
    """`reward_weight` and `kl_weight` are published, and so is the clip of likelihood ratios to 1 +- `clip`.

    Their scale hardly matters to AdamW, their ratio does. `learning_rate` is that of the noise's distributions: the
    published 1e-3 suits an `amortised` one, a network of the condition with `hidden` units a layer; a distribution
    for every prompt takes up to 5e-2. With `calibrate` the baseline is a network of distribution and condition, trained
    beside them at `calibration_rate`; without it advantages are those of the experience. Networks begin from `seed`.
    """

    reward_weight: float = 10.0
    kl_weight: float = 0.01
    clip: float = 0.2
    learning_rate: float = 1e-3
    amortised: bool = False
    calibrate: bool = False
    calibration_rate: float = 1e-4
    hidden: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.reward_weight > 0.0 and self.kl_weight >= 0.0 and 0.0 < self.clip < 1.0):
            raise ValueError(
                "FIND needs reward_weight > 0, kl_weight >= 0 and a clip between 0 and 1, got "
                f"{self.reward_weight}, {self.kl_weight} and {self.clip}"
            )
        if not (self.learning_rate > 0.0 and self.calibration_rate > 0.0 and self.hidden >= 1):
            raise ValueError(
                "FIND needs positive learning rates and at least one hidden unit, got "
                f"{self.learning_rate}, {self.calibration_rate} and {self.hidden}"
            )


@dataclass(frozen=True)
class FIND(Objective[Rated]):
    """`L = -w_r E min(rho A, clip(rho) A) + w_kl KL(N(m, s^2) || N(0, 1))` of the noise that samples start from.

    Chen et al. 2024: start noise x_T ~ N(m, diag s^2), for every prompt its own or amortised, is a policy with one
    step, and the sampler with its frozen denoiser a part of the environment. Likelihoods and the divergence are means
    over elements: rho is the D-th root of the ratio for the whole noise. Elements that a mask leaves unscored count
    too: through the denoiser they decide about the others.

    The published code pairs the newest noise with the oldest reward, never renews the old distribution and penalises
    m^2 + (s-1)^2. Here every sample keeps its own start, old likelihoods are those of the distribution when `begin` was
    last called, and the divergence is exact.

    Raises:
        ValueError: if an amortised distribution has no tensor to depend on.
    """

    model: Model
    config: FINDConfig = FINDConfig()
    now: nn.Module = field(init=False, repr=False)
    old: nn.Module = field(init=False, repr=False)
    calibration: nn.Module | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        model, config = self.model, self.config
        first = model.prompts.condition(torch.zeros(1, dtype=torch.int64, device=model.device), guided=True)
        generator = torch.Generator(model.device).manual_seed(config.seed)
        if config.amortised:
            if not isinstance(first, Tensor):
                raise ValueError(
                    "noise is amortised over conditions that are tensors, the model's are "
                    f"{type(first).__name__}: leave out `amortised` to learn the noise of every prompt apart"
                )
            now: nn.Module = _Amortised(first[0].numel(), model.shape, config.hidden, generator)
        else:
            now = _PerPrompt(len(model.prompts), model.shape).to(model.device)
        inputs = 2 * prod(model.shape) + _described(first, torch.zeros(1)).shape[1]
        object.__setattr__(self, "now", now)
        object.__setattr__(self, "old", copy.deepcopy(now).requires_grad_(False))
        object.__setattr__(
            self, "calibration", _mlp(inputs, config.hidden, 1, generator) if config.calibrate else None
        )

    @property
    def needs(self) -> Needs:
        """Rated samples with the conditions that they were made with; the denoiser stays as it is."""
        return Needs(rewards=True, guided=True, frozen=True)

    @property
    def owned(self) -> Mapping[str, Owned]:
        """The distribution with the one that made the roll-out, and the baseline if it is learnt."""
        noise = nn.ModuleDict({"now": self.now, "old": self.old})
        owned = {"noise": Owned(noise, self.config.learning_rate)}
        if self.calibration is not None:
            owned["calibration"] = Owned(self.calibration, self.config.calibration_rate)
        return owned

    @property
    def start(self) -> StartPolicy:
        """What a roll-out starts from, see `noise`."""
        return self.noise

    def begin(self) -> None:
        """Remember the present distribution as the one that makes the next roll-out."""
        self.old.load_state_dict(self.now.state_dict())

    @torch.no_grad()
    def noise(self, noise: Tensor, condition: Any, index: Tensor) -> Tensor:
        """Return the noise `m + s noise` (B, *S) that samples of prompts `index` (B,) start from."""
        mean, std = self.now(condition, index)
        made: Tensor = mean + std * noise
        return made.to(noise.dtype)

    def parts(self, batch: Rated, roles: Roles, generator: torch.Generator) -> Iterator[Part]:
        """Yield the loss, in one part."""
        config, rollout = self.config, batch.rollout
        mean, std = self.now(rollout.condition, _prompt(rollout))
        ratio = self._ratio(rollout, StepDistribution(mean, std))
        kl = StepDistribution(mean, std).kl(StepDistribution(torch.zeros_like(mean), 1.0)).mean()
        advantages, calibration = batch.advantages, torch.zeros_like(kl)
        if self.calibration is not None:
            seen = torch.cat([mean.flatten(1), std.flatten(1), _described(rollout.condition, mean)], dim=1)
            expected = self.calibration(seen.detach())[:, 0]
            advantages = batch.rewards - expected.detach()
            calibration = (expected - batch.rewards).square().mean()
        clipped = ratio.clamp(1.0 - config.clip, 1.0 + config.clip)
        gain = torch.minimum(ratio * advantages, clipped * advantages).mean()
        logs = {
            "ratio": ratio.mean().item(),
            "clipped": (ratio != clipped).float().mean().item(),
            "kl": kl.item(),
            "noise_mean": mean.square().mean().sqrt().item(),
            "noise_std": std.mean().item(),
            "calibration_error": calibration.item(),
        }
        yield Part(-config.reward_weight * gain + config.kl_weight * kl + calibration, logs)

    def check(self, batch: Rated, roles: Roles) -> None:
        """Refuse to start unless `begin` remembered the present distribution, so that likelihood ratios are 1.

        Whether samples were started from it cannot be told: any start has a likelihood.
        """
        with torch.no_grad():
            mean, std = self.now(batch.rollout.condition, _prompt(batch.rollout))
            ratio = self._ratio(batch.rollout, StepDistribution(mean, std))
        if not torch.allclose(ratio, torch.ones_like(ratio), atol=1e-4):
            raise TrainingError(
                f"before the first update the ratio of likelihoods is {ratio.mean().item():.4g} and not 1: this "
                "objective's `begin` was not called before the roll-out was made"
            )

    def _ratio(self, rollout: Rollout, now: StepDistribution) -> Tensor:
        """Return the ratio (B,) of likelihoods, per element, of what samples started from."""
        if rollout.start is None:
            raise ValueError("FIND learns from roll-outs that say what they started from; this one does not")
        value = rollout.start / self.model.process.noise_at(self.model.levels[0])
        with torch.no_grad():
            old = StepDistribution(*self.old(rollout.condition, _prompt(rollout)))
        return (now.log_prob(value) - old.log_prob(value)).exp()


class _PerPrompt(nn.Module):
    """A mean and a deviation (B, *S) for every prompt, standard normal to begin with."""

    def __init__(self, prompts: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(prompts, *shape))
        self.log_std = nn.Parameter(torch.zeros(prompts, *shape))

    def forward(self, condition: Any, index: Tensor) -> tuple[Tensor, Tensor]:
        return self.mean[index], self.log_std[index].exp().clamp(min=SMALLEST_STD)


class _Amortised(nn.Module):
    """A mean and a deviation (B, *S) as a network of the condition (B, ...), standard normal to begin with."""

    def __init__(self, inputs: int, shape: tuple[int, ...], hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.shape = shape
        self.layers = _mlp(inputs, hidden, 2 * prod(shape), generator)
        for parameter in self.layers[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, condition: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.layers(condition.flatten(1).float()).chunk(2, dim=1)
        std = log_std.exp().clamp(min=SMALLEST_STD)
        return mean.unflatten(1, self.shape), std.unflatten(1, self.shape)


def _mlp(inputs: int, hidden: int, outputs: int, generator: torch.Generator) -> nn.Sequential:
    """Return the four layers of the authors' network."""
    layers: list[nn.Module] = []
    for width in (inputs, hidden, hidden):
        layers += [linear(width, hidden, generator), nn.SiLU()]
    return nn.Sequential(*layers, linear(hidden, outputs, generator))


def _described(condition: Any, beside: Tensor) -> Tensor:
    """Return conditions as vectors (B, D), where `beside` (B, *S) is; D is 0 for those that are no tensors."""
    if isinstance(condition, Tensor):
        return condition.flatten(1).float()
    return beside.new_zeros(len(beside), 0)


def _prompt(rollout: Rollout) -> Tensor:
    """Return the prompts (B,) of samples."""
    if rollout.prompt is None:
        raise ValueError("FIND learns from roll-outs that say which prompts they answer; this one does not")
    return rollout.prompt
