"""Samplers: from noise to clean samples, a denoiser evaluation or two at a time."""

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor

from diffpolicy.diffusion.errors import DiffusionError
from diffpolicy.diffusion.process import GaussianProcess

Solver = Literal["ddpm", "ddim", "dpm_solver", "heun"]
SOLVERS: tuple[Solver, ...] = get_args(Solver)

HEUN_RANGE = 100.0  # the largest noise/signal from which Heun's step is corrected; EDM's own levels end at 80


class Denoiser(Protocol):
    """What its process calls a prediction, for noisy samples (..., D) at levels of their leading dimensions."""

    def __call__(self, noisy: Tensor, level: Tensor, condition: Any, /) -> Tensor:
        """Return the prediction (..., D); `condition` is whatever the caller of a sampler has passed."""
        ...


@dataclass(frozen=True)
class Sampler:
    """Takes samples (B, ...) through `levels` of a process to the clean sample.

    `levels` descend; each step goes to the next of them and the last one to the clean sample. Solvers:

    - "ddpm": the ancestral sampler with the posterior's variance (Ho et al. 2020, eq. 6-7, "fixed_small").
    - "ddim": Song et al. 2021, eq. 12 and 16: deterministic for `eta` 0, the ancestral sampler for `eta` 1. On a
      rectified flow it is Euler on the velocity, on EDM's process Euler on the probability-flow ODE.
    - "dpm_solver": DPM-Solver++(2M) (Lu et al. 2022, algorithm 2); its first and last steps are DDIM's.
    - "heun": EDM's second-order step in x/signal over noise/signal (Karras et al. 2022, algorithm 1), two evaluations
      a step; one in the last step, and in those from levels beyond its range, where noise/signal is above 100: the
      mean of two slopes over a step of thousands would be far worse than Euler's one slope, which is nearly exact.

    With `single_index` every listed level k goes to k-1, whatever the list says next, as RTI-DP's lists are run
    (Duan et al. 2025). `clip` bounds the predicted clean sample by +-clip before each step is taken.

    Raises:
        DiffusionError: if the levels, or the options together, are not those of such a sampler.
    """

    process: GaussianProcess
    solver: Solver
    levels: tuple[int, ...]
    eta: float = 0.0
    single_index: bool = False
    clip: float | None = None

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise DiffusionError(f"a solver is one of {', '.join(SOLVERS)}, not {self.solver!r}")
        top = self.process.levels - 1
        if not self.levels or self.levels[0] > top or self.levels[-1] < 0:
            raise DiffusionError(f"a sampler needs levels between 0 and {top}, got {self.levels}")
        if any(later >= earlier for earlier, later in zip(self.levels, self.levels[1:], strict=False)):
            raise DiffusionError(f"the levels of a sampler descend, without repetition, got {self.levels}")
        if self.eta and self.solver != "ddim":
            raise DiffusionError(
                f"eta belongs to the solver 'ddim', {self.solver!r} has none; got eta={self.eta}"
            )
        if not 0.0 <= self.eta <= 1.0:
            raise DiffusionError(f"eta lies between 0 (deterministic) and 1 (ancestral), got {self.eta}")
        if self.single_index and self.solver not in ("ddpm", "ddim"):
            raise DiffusionError(f"single-index steps are for 'ddpm' and 'ddim', not for {self.solver!r}")
        if self.single_index and self.levels[-1] != 0:
            raise DiffusionError(
                f"single-index steps end at the clean sample only from level 0, got {self.levels}"
            )
        if self.clip is not None and not self.clip > 0.0:
            raise DiffusionError(
                f"the predicted clean sample is clipped at a positive value, got clip={self.clip}"
            )

    @property
    def transitions(self) -> tuple[tuple[int, int], ...]:
        """The steps (from level, to level), -1 being the clean sample."""
        to = tuple(level - 1 for level in self.levels) if self.single_index else (*self.levels[1:], -1)
        return tuple(zip(self.levels, to, strict=True))

    @property
    def evaluations(self) -> int:
        """Denoiser evaluations of one sample."""
        return sum(2 if self._corrects(*step) else 1 for step in self.transitions)

    @property
    def draws(self) -> int:
        """Noise tensors of one sample, its start included."""
        return 1 + sum(self._deviation(*step) > 0.0 for step in self.transitions)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Return the standard normal noise (draws, *shape) of samples of `shape`: their start, then their steps'."""
        noise = torch.empty(self.draws, *shape, device=self.process.device)
        return noise.normal_(generator=generator)

    def sample(
        self, denoiser: Denoiser, condition: Any, noise: Tensor, start: Tensor | None = None
    ) -> Tensor:
        """Return clean samples (B, ...), a pure function of `noise` (draws, B, ...), see `draw`.

        `start` (B, ...) is the iterate at the first level; without one it is noise alone, `noise_k noise[0]`. All is
        computed in the precision of `noise`, whatever that of the denoiser, and gradients flow through.
        """
        noisy = self.process.noise_at(self.levels[0]) * noise[0] if start is None else start
        drawn = iter(noise[1:].unbind())
        previous: tuple[Tensor, int] | None = None
        for level, to in self.transitions:
            clean = self._predict(denoiser, noisy, level, condition)
            if self.solver == "dpm_solver":
                estimate = clean if previous is None else self._extrapolate(clean, level, to, *previous)
                previous = clean, level
            elif self._corrects(level, to):
                estimate = self._correct(denoiser, condition, noisy, clean, level, to)
            else:
                estimate = clean
            deviation = self._deviation(level, to)
            clean_weight, noisy_weight = posterior(self.process, level, to, deviation)
            noisy = clean_weight * estimate + noisy_weight * noisy
            if deviation > 0.0:
                noisy = noisy + deviation * next(drawn)
        return noisy

    def _predict(self, denoiser: Denoiser, noisy: Tensor, level: int, condition: Any) -> Tensor:
        levels = torch.full(noisy.shape[:1], level, dtype=torch.int64, device=noisy.device)
        # Half-precision predictions are widened first, so that no coefficient is applied in their precision.
        prediction = denoiser(noisy, levels, condition).to(noisy.dtype)
        clean = self.process.to_clean(prediction, noisy, level)
        return clean if self.clip is None else clean.clamp(-self.clip, self.clip)

    def _deviation(self, level: int, to: int) -> float:
        """Standard deviation of the noise that a step adds."""
        eta = 1.0 if self.solver == "ddpm" else self.eta
        return eta * ancestral_deviation(self.process, level, to)

    def _corrects(self, level: int, to: int) -> bool:
        within = self.process.noise_at(level) <= HEUN_RANGE * self.process.signal_at(level)
        return self.solver == "heun" and to >= 0 and within

    def _correct(
        self, denoiser: Denoiser, condition: Any, noisy: Tensor, clean: Tensor, level: int, to: int
    ) -> Tensor:
        """Return the clean sample whose Euler step is Heun's: that of the mean of the noises at both ends."""
        process = self.process
        clean_weight, noisy_weight = posterior(process, level, to, 0.0)
        reached = clean_weight * clean + noisy_weight * noisy
        there = self._predict(denoiser, reached, to, condition)
        noise = (process.to_noise(clean, noisy, level) + process.to_noise(there, reached, to)) / 2
        return (noisy - process.noise_at(level) * noise) / process.signal_at(level)

    def _extrapolate(self, clean: Tensor, level: int, to: int, before: Tensor, before_level: int) -> Tensor:
        """Return DPM-Solver++(2M)'s `(1 + 1/(2r)) x0 - 1/(2r) x0_before`, r the ratio of the log-SNR steps."""
        if (
            to < 0 or self.process.signal_at(before_level) == 0.0
        ):  # an infinite step: no line to draw through both
            return clean
        here = self._log_snr(level)
        weight = (self._log_snr(to) - here) / (here - self._log_snr(before_level)) / 2
        return (1 + weight) * clean - weight * before

    def _log_snr(self, level: int) -> float:
        return math.log(self.process.signal_at(level) / self.process.noise_at(level))


def ancestral_deviation(process: GaussianProcess, level: int, to: int) -> float:
    """Return the standard deviation of x_to given x_level and the clean sample (Ho et al. 2020, eq. 7)."""
    if to < 0:
        return 0.0
    ratio = process.signal_at(level) / process.signal_at(to)
    noise, noise_to = process.noise_at(level), process.noise_at(to)
    return noise_to / noise * math.sqrt(noise**2 - (ratio * noise_to) ** 2)


def posterior(process: GaussianProcess, level: int, to: int, deviation: float) -> tuple[float, float]:
    """Return (a, b) such that x_to has mean `a x_0 + b x_level` when noise of `deviation` is added anew.

    DDIM's family (Song et al. 2021, eq. 7): the noise in x_level is kept, scaled to the variance that is left.
    """
    kept = math.sqrt(max(process.noise_at(to) ** 2 - deviation**2, 0.0)) / process.noise_at(level)
    return process.signal_at(to) - kept * process.signal_at(level), kept
