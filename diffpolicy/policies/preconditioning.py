"""Preconditioning: the clean chunk from what a network says, whatever it is asked to predict.

In coordinates z of a chunk (relative to the agent, and in the cosine basis, where asked for) a noisy chunk is
`u = a z + b eps` with the process's signal a and noise b. The estimate of z is `skip u + out F(in u)`, and the network
F regresses on `target_clean z + target_noise eps`, the F for which the estimate is z. What a network predicts is
nothing but the choice of (in, skip, out) for every noise level:

    epsilon   F = eps                skip = 1/a,                   out = -b/a
    sample    F = z                  skip = 0,                     out = 1
    v         F = a eps - b z        skip = a/(a^2 + b^2),         out = -b/(a^2 + b^2)
    flow      F = eps - z            skip = 1/(a + b),             out = -b/(a + b)
    edm       F of unit variance     skip = a d^2/(b^2 + a^2 d^2), out = b d/sqrt(b^2 + a^2 d^2)

edm is Karras et al. 2022, eq. 7, with the clean spread d of each coordinate, in terms of the process's own u instead of
y = u/a, so that it stays finite where no signal is left. There in = 1/sqrt(b^2 + a^2 d^2); elsewhere 1/sqrt(a^2 + b^2),
but at most 1.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from diffpolicy.diffusion import GaussianProcess
from diffpolicy.policies.errors import PolicyError

LEAST_SPREAD = 1e-3  # what varies less is as good as constant, and dividing by it would magnify rounding


class Scales(NamedTuple):
    """The factors of a noise level or of a table of them, any shape."""

    input: Tensor
    skip: Tensor
    out: Tensor
    target_clean: Tensor
    target_noise: Tensor


def scales(prediction: str, signal: Tensor, noise: Tensor, spread: Tensor) -> Scales:
    """Return the factors for broadcastable signal a, noise b and clean spread d (used by "edm"), in their dtype.

    Raises PolicyError for an unknown prediction, and for "epsilon" where there is no signal.
    """
    whole = torch.zeros_like(signal + noise + spread)
    a, b, d = signal + whole, noise + whole, spread + whole
    gain = (1.0 / (a.square() + b.square()).sqrt()).clamp(max=1.0)
    if prediction == "epsilon":
        if not bool((signal > 0.0).all()):
            raise PolicyError("a noise level without signal cannot be left by predicting its noise (epsilon)")
        skip, out = 1.0 / a, -b / a
    elif prediction == "sample":
        skip, out = torch.zeros_like(a), torch.ones_like(a)
    elif prediction == "v":
        skip, out = a / (a.square() + b.square()), -b / (a.square() + b.square())
    elif prediction == "flow":
        skip, out = 1.0 / (a + b), -b / (a + b)
    elif prediction == "edm":
        total = b.square() + (a * d).square()
        gain, skip, out = 1.0 / total.sqrt(), a * d.square() / total, b * d / total.sqrt()
        # Written out: 1 - skip a cancels to nothing where the noise is small.
        return Scales(gain, skip, out, b / (d * total.sqrt()), -a * d / total.sqrt())
    else:
        raise PolicyError(f"prediction is epsilon, sample, v, flow or edm, got {prediction!r}")
    return Scales(gain, skip, out, (1.0 - skip * a) / out, -skip * b / out)


def cosine_basis(horizon: int) -> Tensor:
    """Return the orthonormal type-II cosine transform (horizon, horizon) in float64: coefficients = basis @ chunk."""
    steps = torch.arange(horizon, dtype=torch.float64)
    basis = torch.cos(math.pi / horizon * (steps + 0.5) * steps.unsqueeze(1)) * math.sqrt(2.0 / horizon)
    basis[0] /= math.sqrt(2.0)
    return basis


class Preconditioner(nn.Module):
    """The factors of every level, and the basis, of chunks (B, H, A); constants once they are fitted."""

    signal: Tensor
    noise: Tensor
    weight: Tensor
    basis: Tensor | None
    _acting: Tensor
    _targets: Tensor
    _positions: Tensor

    def __init__(
        self,
        process: GaussianProcess,
        prediction: str,
        shape: tuple[int, int],
        *,
        dct: bool = False,
        weight_power: float = 0.0,
    ) -> None:
        """Tabulate `process` for chunks of `shape` (H, A) whose coordinates have spread 1, until `fit` knows better."""
        super().__init__()
        levels = range(process.levels)
        self._exact_signal = torch.tensor([process.signal_at(k) for k in levels], dtype=torch.float64)
        self._exact_noise = torch.tensor([process.noise_at(k) for k in levels], dtype=torch.float64)
        self._prediction, self._weight_power = prediction, weight_power
        self.register_buffer("signal", self._exact_signal.float(), persistent=False)
        self.register_buffer("noise", self._exact_noise.float(), persistent=False)
        self.register_buffer("basis", cosine_basis(shape[0]).float() if dct else None, persistent=False)
        self.register_buffer("_positions", torch.arange(shape[0]), persistent=False)
        for name, value in self._tables(torch.ones(shape)).items():
            self.register_buffer(name, value)

    def fit(self, coordinates: Tensor) -> None:
        """Measure the spread of each of the coordinates (N, H, A) of clean chunks, as "edm" needs it.

        It is the root of the mean square rather than a deviation: the network's inputs are not centred.
        """
        spread = coordinates.double().square().mean(dim=0).sqrt().clamp(min=LEAST_SPREAD)
        for name, value in self._tables(spread).items():
            setattr(self, name, value)

    def _tables(self, spread: Tensor) -> dict[str, Tensor]:
        """Return the float32 tables for coordinates of clean spread (H, A), computed in float64."""
        signal, noise = self._exact_signal.view(-1, 1, 1), self._exact_noise.view(-1, 1, 1)
        table = scales(self._prediction, signal, noise, spread.double())
        weight = spread.double() ** self._weight_power
        return {
            "weight": (weight / weight.mean()).float(),
            "_acting": torch.stack([table.input, table.skip, table.out], dim=-1).float(),  # (T, H, A, 3)
            "_targets": torch.stack([table.target_clean, table.target_noise], dim=-1).float(),  # (T, H, A, 2)
        }

    def _at(self, table: Tensor, level: Tensor) -> tuple[Tensor, ...]:
        """Return the factors (B, H, A) of `level` (B,), or (B, H)."""
        chosen = table[level] if level.ndim == 1 else table[level, self._positions]
        return chosen.unbind(dim=-1)

    def acting(self, level: Tensor) -> tuple[Tensor, ...]:
        """Return (in, skip, out), each (B, H, A), of `level` (B,), or (B, H)."""
        return self._at(self._acting, level)

    def targets(self, level: Tensor) -> tuple[Tensor, ...]:
        """Return (target_clean, target_noise), each (B, H, A), of `level` (B,), or (B, H)."""
        return self._at(self._targets, level)

    def corruption(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """Return signal and noise, each (B, 1 or H, 1), of `level` (B,), or (B, H)."""
        shaped = level.unsqueeze(-1) if level.ndim == 2 else level.view(-1, 1, 1)
        return self.signal[shaped], self.noise[shaped]

    def to_coordinates(self, chunk: Tensor) -> Tensor:
        """Return the coordinates (B, H, A) of a chunk (B, H, A); noise stays standard normal."""
        return chunk if self.basis is None else self.basis @ chunk

    def from_coordinates(self, coordinates: Tensor) -> Tensor:
        """The inverse of `to_coordinates`."""
        return coordinates if self.basis is None else self.basis.T @ coordinates
