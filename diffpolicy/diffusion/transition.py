"""Steps of a sampler as distributions: what reinforcement learning needs of denoising, sampled and measured alike."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from diffpolicy.diffusion.errors import DiffusionError
from diffpolicy.diffusion.process import GaussianProcess
from diffpolicy.diffusion.sampler import ancestral_deviation, posterior

StepKind = Literal["ddim", "ancestral", "flow_sde", "dance_sde", "cps"]
STEP_KINDS: tuple[StepKind, ...] = get_args(StepKind)
PUBLISHED_ETA: Mapping[StepKind, float] = {
    "ddim": 1.0,
    "ancestral": 1.0,
    "flow_sde": 0.7,
    "dance_sde": 0.3,
    "cps": 0.7,
}


def element_mean(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the mean (B,) of `values` (B, *S) over all elements of a sample where bool `mask` (B|1, *S) is true.

    What is masked out does not reach the mean, not even as NaN, and its gradient is zero.

    Raises:
        DiffusionError: if the mask is not boolean, does not broadcast to the values, or leaves a sample nothing.
    """
    if mask is None:
        return values.flatten(1).mean(dim=1)
    fits = mask.ndim == values.ndim and all(
        have in (1, want) for have, want in zip(mask.shape, values.shape, strict=True)
    )
    if mask.dtype != torch.bool or not fits:
        raise DiffusionError(
            f"the mask of samples {tuple(values.shape)} is boolean and broadcasts to them, "
            f"got {mask.dtype} of shape {tuple(mask.shape)}"
        )
    mask = mask.expand_as(values)
    count = mask.flatten(1).sum(dim=1)
    if not count.all():
        raise DiffusionError(
            "the mask leaves a sample without a single element: leave that sample out instead"
        )
    return torch.where(mask, values, 0.0).flatten(1).sum(dim=1) / count


@dataclass(frozen=True)
class StepDistribution:
    """The normal distribution N(mean, std^2 I) of the next iterate (B, *S) of a sampler.

    `std` is one number, or a tensor that broadcasts to the mean; zero is a deterministic step, which has no density.
    Everything is computed in float32, whatever the precision of the tensors: likelihood ratios need it.
    """

    mean: Tensor
    std: float | Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Return the iterate (B, *S) in float32 that standard normal `noise` (B, *S) stands for."""
        return self.mean.float() + self.std * noise.float()

    def at(self, rows: Tensor) -> "StepDistribution":
        """Return the distributions of the rows (M,) int64."""
        std = self.std.expand_as(self.mean)[rows] if isinstance(self.std, Tensor) else self.std
        return StepDistribution(self.mean[rows], std)

    def log_prob(self, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the log-density (B,) of `value` (B, *S) per element: its mean where `mask` (B|1, *S) is true.

        The mean, not the sum, so that a ratio's clipping range means the same for samples of every size (DDPO, Black
        et al. 2024; Flow-GRPO, Liu et al. 2025).

        Raises:
            DiffusionError: if the step is deterministic, or the mask is not one (see `element_mean`).
        """
        std = self._spread()
        square = ((value.float() - self.mean.float()) / std) ** 2
        return element_mean(-0.5 * square - std.log() - 0.5 * math.log(2.0 * math.pi), mask)

    def kl(self, other: "StepDistribution", mask: Tensor | None = None) -> Tensor:
        """Return KL(self || other) (B,) per element, as `log_prob` is.

        With equal deviations it is `(mean - mean')^2/(2 std^2)`, the step penalty of DPOK (Fan et al. 2023).

        Raises:
            DiffusionError: if either step is deterministic, or the mask is not one (see `element_mean`).
        """
        std, other_std = self._spread(), other._spread()
        square = ((self.mean.float() - other.mean.float()) / other_std) ** 2
        variance = (std / other_std) ** 2
        return element_mean(0.5 * (square + variance - 1.0 - variance.log()), mask)

    def _spread(self) -> Tensor:
        std = torch.as_tensor(self.std, dtype=torch.float32, device=self.mean.device)
        if not (std > 0.0).all():
            raise DiffusionError(
                "a deterministic step has neither a log-probability nor a KL divergence: use a rule with eta > 0, give "
                "it a minimum_std, or leave the step out (see stochastic_steps)"
            )
        return std


class StepWeights(NamedTuple):
    """A step is `clean x_0 + noisy x_level + std z`, with x_0 the predicted clean sample and z standard normal."""

    clean: float
    noisy: float
    std: float


@dataclass(frozen=True)
class StepRule:
    """How a sampler steps from a level to a cleaner one, as a distribution; `eta` 0 is the same ODE step for all.

    - "ddim": `eta` times the posterior's deviation (Song et al. 2021, eq. 12 and 16); 1 is DDPO's.
    - "ancestral": the process's own posterior, hence DDIM with eta 1 (Ho et al. 2020, eq. 6-7).
    - "flow_sde": Euler-Maruyama on the SDE with the marginals of the straight path x_t = (1-t) x_0 + t e and the
      diffusion `eta sqrt(t/(1-t))` (Flow-GRPO, Liu et al. 2025, where eta is called a). At t = 1 its 1-t is that of
      the next level, as in its code.
    - "dance_sde": the same with the constant diffusion `eta` (DanceGRPO, Xue et al. 2025).
    - "cps": `sin(eta pi/2)` of the next level's noise is new, the rest is kept (Flow-CPS, Wang and Yu 2025). Every
      level has its right amount of noise, but the marginals are not preserved, however many steps are taken.

    The two SDEs see other processes on the straight path, scaled by 1/(signal + noise) at t = noise/(signal + noise).
    Their last step adds noise as well; that of the others is deterministic. `eta` None is the published one,
    `PUBLISHED_ETA`. No step has a deviation below `minimum_std`, in the units of the iterate, in sampling and in
    log-probabilities alike (DPPO, Ren et al. 2024); the mean of the step is not changed by it.

    Raises:
        DiffusionError: if the numbers are not those of such a rule.
    """

    kind: StepKind
    eta: float | None = None
    minimum_std: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in STEP_KINDS:
            raise DiffusionError(f"a step rule is one of {', '.join(STEP_KINDS)}, not {self.kind!r}")
        if self.kind == "ancestral" and self.strength != 1.0:
            raise DiffusionError(
                f"ancestral steps have no eta, got eta={self.eta}: use 'ddim' for one between 0 and 1"
            )
        if self._is_sde and not 0.0 <= self.strength < math.inf:
            raise DiffusionError(f"eta of {self.kind!r} is a finite diffusion, 0 or more, got eta={self.eta}")
        if not self._is_sde and not 0.0 <= self.strength <= 1.0:
            raise DiffusionError(f"eta of {self.kind!r} lies between 0 and 1, got eta={self.eta}")
        if not 0.0 <= self.minimum_std < math.inf:
            raise DiffusionError(f"minimum_std is a deviation, 0 or more, got {self.minimum_std}")

    @property
    def strength(self) -> float:
        """The eta in use."""
        return PUBLISHED_ETA[self.kind] if self.eta is None else self.eta

    @property
    def _is_sde(self) -> bool:
        return self.kind in ("flow_sde", "dance_sde")

    def step(
        self, process: GaussianProcess, clean_prediction: Tensor, noisy: Tensor, level: int, next_level: int
    ) -> StepDistribution:
        """Return the distribution of the iterate (B, *S) at `next_level` (-1 is the clean sample), mean in float32.

        `noisy` (B, *S) is the iterate at `level`, `clean_prediction` (B, *S) the clean sample predicted from it.

        Raises:
            DiffusionError: if the levels do not descend, or an SDE's step between them would overshoot.
        """
        clean, kept, std = self.weights(process, level, next_level)
        return StepDistribution(clean * clean_prediction.float() + kept * noisy.float(), std)

    def weights(self, process: GaussianProcess, level: int, next_level: int) -> StepWeights:
        """Return the coefficients of the step from `level` to `next_level`.

        Raises:
            DiffusionError: if the levels do not descend, or an SDE's step between them would overshoot.
        """
        if not -1 <= next_level < level:
            raise DiffusionError(
                f"a step goes from a level to a cleaner one, -1 being the clean sample; got {level} to {next_level}"
            )
        if self._is_sde:
            return self._euler_maruyama(process, level, next_level)
        if self.kind == "cps":
            std = process.noise_at(next_level) * math.sin(self.strength * math.pi / 2)
        else:
            std = self.strength * ancestral_deviation(process, level, next_level)
        return StepWeights(*posterior(process, level, next_level, std), max(std, self.minimum_std))

    def _euler_maruyama(self, process: GaussianProcess, level: int, next_level: int) -> StepWeights:
        signal, next_signal = process.signal_at(level), process.signal_at(next_level)
        scale, next_scale = signal + process.noise_at(level), next_signal + process.noise_at(next_level)
        time, next_time = process.noise_at(level) / scale, process.noise_at(next_level) / next_scale
        variance = self.strength**2
        if self.kind == "flow_sde":
            # The diffusion is infinite where no signal is left; the authors' code takes 1-t from the next level there.
            variance *= time / (signal / scale if signal > 0.0 else next_signal / next_scale)
        drift = variance * (time - next_time) / (2.0 * time**2)
        kept = next_time / time - drift
        if kept * time < -1.0:
            raise DiffusionError(
                f"the {self.kind} step from level {level} to {next_level} overshoots, the noise left after it would be "
                f"{kept * time:.3g} times that of pure noise: take finer steps or a smaller eta, begin where no signal "
                "is left, or use 'ancestral' steps"
            )
        kept *= next_scale / scale
        std = math.sqrt(variance * (time - next_time)) * next_scale
        return StepWeights(next_signal - kept * signal, kept, max(std, self.minimum_std))
