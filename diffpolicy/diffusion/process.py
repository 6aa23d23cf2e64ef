"""Gaussian noise processes: how a clean sample becomes noise, and back."""

from typing import Literal, get_args

import torch
from torch import Tensor

from diffpolicy.diffusion.errors import DiffusionError

Prediction = Literal["epsilon", "sample", "v", "flow"]
PREDICTIONS: tuple[Prediction, ...] = get_args(Prediction)


class GaussianProcess:
    """A table of noise levels: at level k, `x_k = signal_k x_0 + noise_k eps` for a clean x_0 and normal eps.

    Level 0 has the least noise, level T-1 the most, and level -1 is the clean sample itself. `prediction` is what a
    denoiser returns: the noise ("epsilon"), the clean sample ("sample"), `v = signal eps - noise x_0` (Salimans and
    Ho 2022, appendix D) or the velocity `eps - x_0` of a straight path ("flow", Liu et al. 2023, eq. 1).

    `signal` and `noise` are (T,) tables, of float64 for full accuracy; they are kept as float32 on `device`. A sample
    may have any shape (..., D); a level is an int64 tensor of its leading dimensions, one for each row, say (B,) or
    (B, H) for chunks (B, H, A), or an int for all of it, whose coefficients are then exact to float64.

    Raises:
        DiffusionError: if the tables are not those of such a process, or the prediction does not determine the sample.
    """

    def __init__(
        self,
        signal: Tensor,
        noise: Tensor,
        prediction: Prediction = "epsilon",
        device: torch.device | str = "cpu",
    ) -> None:
        signal, noise = signal.detach().double().cpu(), noise.detach().double().cpu()
        _check(signal, noise, prediction)
        self.prediction: Prediction = prediction
        self.levels = len(signal)
        # The clean sample is the last entry, so that level -1 is found by the same indexing as any other.
        self._signals: tuple[float, ...] = (*signal.tolist(), 1.0)
        self._noises: tuple[float, ...] = (*noise.tolist(), 0.0)
        self._table = torch.tensor((self._signals, self._noises), dtype=torch.float64).to(
            device, torch.float32
        )

    @property
    def signal(self) -> Tensor:
        """What remains of the clean sample at each level, (T,) float32."""
        return self._table[0, :-1]

    @property
    def noise(self) -> Tensor:
        """Standard deviation of the noise at each level, (T,) float32."""
        return self._table[1, :-1]

    @property
    def device(self) -> torch.device:
        """Where the tables are."""
        return self._table.device

    def signal_at(self, level: int) -> float:
        """Return the signal of a level, 1 at level -1."""
        return self._signals[self._checked(level)]

    def noise_at(self, level: int) -> float:
        """Return the standard deviation of the noise of a level, 0 at level -1."""
        return self._noises[self._checked(level)]

    def predicting(self, prediction: Prediction) -> "GaussianProcess":
        """Return the same levels for a denoiser that predicts something else."""
        return self._copy(prediction, self.device)

    def to(self, device: torch.device | str) -> "GaussianProcess":
        """Return the same process with its tables on `device`."""
        return self._copy(self.prediction, device)

    def corrupt(self, clean: Tensor, level: Tensor | int, noise: Tensor) -> Tensor:
        """Return `clean` (..., D) at `level`, given standard normal `noise` (..., D)."""
        signal, deviation = self._coefficients(level, clean)
        return signal * clean + deviation * noise

    def target(self, clean: Tensor, noise: Tensor, level: Tensor | int) -> Tensor:
        """Return what a denoiser regresses on (..., D) when `noise` has been added to `clean` at `level`."""
        match self.prediction:
            case "epsilon":
                return noise
            case "sample":
                return clean
            case "flow":
                return noise - clean
            case "v":
                signal, deviation = self._coefficients(level, clean)
                return signal * noise - deviation * clean

    def to_clean(self, prediction: Tensor, noisy: Tensor, level: Tensor | int) -> Tensor:
        """Return the clean sample (..., D) that `prediction` implies for `noisy` at `level`."""
        if self.prediction == "sample":
            return prediction
        signal, deviation = self._coefficients(level, noisy)
        match self.prediction:
            case "epsilon":
                return (noisy - deviation * prediction) / signal
            case "v":
                return (signal * noisy - deviation * prediction) / (signal**2 + deviation**2)
            case "flow":
                return (noisy - deviation * prediction) / (signal + deviation)

    def to_noise(self, clean: Tensor, noisy: Tensor, level: Tensor | int) -> Tensor:
        """Return the noise (..., D) that lies between `clean` and `noisy` at `level` (not -1, which has none)."""
        signal, deviation = self._coefficients(level, noisy)
        return (noisy - signal * clean) / deviation

    def _coefficients(
        self, level: Tensor | int, sample: Tensor
    ) -> tuple[Tensor, Tensor] | tuple[float, float]:
        if isinstance(level, int):
            return self.signal_at(level), self.noise_at(level)
        shape = (*level.shape, *(1,) * (sample.ndim - level.ndim))
        return self._table[0][level].reshape(shape), self._table[1][level].reshape(shape)

    def _checked(self, level: int) -> int:
        if not -1 <= level < self.levels:
            raise DiffusionError(
                f"there is no noise level {level}: this process has the levels 0 to {self.levels - 1}, "
                "and -1 for the clean sample"
            )
        return level

    def _copy(self, prediction: Prediction, device: torch.device | str) -> "GaussianProcess":
        signal = torch.tensor(self._signals[:-1], dtype=torch.float64)
        noise = torch.tensor(self._noises[:-1], dtype=torch.float64)
        return GaussianProcess(signal, noise, prediction, device)


def _check(signal: Tensor, noise: Tensor, prediction: str) -> None:
    if signal.ndim != 1 or signal.shape != noise.shape or not len(signal):
        raise DiffusionError(
            "signal and noise of a process are tables (T,) of equal length, "
            f"got the shapes {tuple(signal.shape)} and {tuple(noise.shape)}"
        )
    if not (torch.isfinite(signal).all() and torch.isfinite(noise).all()):
        raise DiffusionError("signal and noise of a process are finite numbers, these hold NaN or infinity")
    if (signal < 0).any() or (noise <= 0).any():
        raise DiffusionError(
            "every level of a process has signal >= 0 and noise > 0 (the clean sample is level -1)"
        )
    # noise/signal has to grow; cross-multiplied, since the last level may have no signal at all.
    if (noise[1:] * signal[:-1] <= noise[:-1] * signal[1:]).any():
        raise DiffusionError(
            "levels go from the least to the most noise: noise/signal has to grow from each to the next"
        )
    if prediction not in PREDICTIONS:
        raise DiffusionError(f"a denoiser predicts one of {', '.join(PREDICTIONS)}, not {prediction!r}")
    if prediction == "epsilon" and signal[-1] == 0:
        raise DiffusionError(
            f"at level {len(signal) - 1} there is no signal, so predicted noise cannot say what the clean sample is: "
            "use 'sample', 'v' or 'flow' prediction, or leave that level out"
        )
