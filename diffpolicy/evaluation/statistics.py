"""Estimates with their uncertainty: interquartile mean, bootstrap, exact binomial bound, CVaR, differences.

Values are arrays (K, M): K training seeds, M episodes of each. All of it is pure functions of the arguments.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv  # type: ignore[import-untyped]

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]

CONFIDENCE = 0.95
RESAMPLES = 2000


class Interval(NamedTuple):
    """A two-sided confidence interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and an interquartile mean, each with its 95 % bootstrap interval; never a bare figure."""

    mean: float
    mean_interval: Interval
    iqm: float
    iqm_interval: Interval


def mean(values: ArrayLike) -> Array:
    """Mean over the last axis, (..., n) -> (...)."""
    return np.asarray(np.mean(np.asarray(values, dtype=np.float64), axis=-1))


def iqm(values: ArrayLike) -> Array:
    """Interquartile mean over the last axis, (..., n) -> (...): mean of the middle half (Agarwal 2021).

    Where n is not a multiple of four the two outermost kept values count in part, so nothing jumps with n.
    """
    return _band_mean(values, 0.25, 0.75)


def cvar(costs: ArrayLike, alpha: float = 0.9) -> float:
    """Conditional value at risk: the mean of the worst (1 - alpha) share of all `costs`, of any shape.

    A fractional last value counts in part (Rockafellar and Uryasev 2002, for a finite sample).
    """
    if not 0.0 <= alpha < 1.0:
        raise ValueError(f"alpha is {alpha}; it must lie in [0, 1)")
    return float(_band_mean(np.ravel(np.asarray(costs, dtype=np.float64)), alpha, 1.0))


def bootstrap_interval(
    values: ArrayLike,
    statistic: Statistic = mean,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Percentile bootstrap interval of `statistic` over values (K, M), resampled on two levels.

    Training seeds are drawn with replacement and, inside each one drawn, its episodes: episodes of one
    trained policy share its luck and are not independent evidence about the method. With K = 1 only episodes
    are drawn, and the interval speaks of that one policy. Measured coverage of the mean with 20 normal
    episodes each: 3 training seeds .98, .94, .86 and 5 seeds .99, .97, .90 where the spread between training
    seeds is 0, 0.2, 0.5 times that between episodes.
    """
    table = _table(values)
    drawn = _resample(table.shape, seed, resamples)
    return _percentiles(statistic(table[drawn].reshape(resamples, -1)), confidence)


def estimate(values: ArrayLike, *, seed: int = 0) -> Estimate:
    """Mean and interquartile mean of values (K, M), each with its bootstrap interval."""
    flat = _table(values).reshape(-1)
    return Estimate(
        mean=float(mean(flat)),
        mean_interval=bootstrap_interval(values, mean, seed=seed),
        iqm=float(iqm(flat)),
        iqm_interval=bootstrap_interval(values, iqm, seed=seed),
    )


def paired_difference(a: ArrayLike, b: ArrayLike, *, seed: int = 0) -> Estimate:
    """Estimate of a - b over the same (training seed, episode seed) pairs, a and b (K, M)."""
    first, second = _table(a), _table(b)
    if first.shape != second.shape:
        raise ValueError(f"pairs need equal shapes; got {first.shape} and {second.shape}")
    return estimate(first - second, seed=seed)


def paired_ratio(a: ArrayLike, b: ArrayLike, *, seed: int = 0) -> tuple[float, Interval]:
    """mean(a) / mean(b) over the same (training seed, episode seed) pairs (K, M), with its bootstrap interval.

    Raises ValueError where b averages zero or less, since such a ratio says nothing.
    """
    first, second = _table(a), _table(b)
    if first.shape != second.shape:
        raise ValueError(f"pairs need equal shapes; got {first.shape} and {second.shape}")
    if second.mean() <= 0.0:
        raise ValueError(f"the denominator averages {second.mean():g}; a ratio needs more than zero")
    drawn = _resample(first.shape, seed, RESAMPLES)
    above, below = (mean(table[drawn].reshape(RESAMPLES, -1)) for table in (first, second))
    ratios = np.divide(above, below, out=np.full(RESAMPLES, np.inf), where=below > 0.0)
    return float(first.mean() / second.mean()), _percentiles(ratios, CONFIDENCE)


def clopper_pearson_upper(successes: int, trials: int, confidence: float = CONFIDENCE) -> float:
    """One-sided exact upper bound on a probability after `successes` in `trials` (Clopper and Pearson 1934).

    For episodes of several trained policies it bounds the average probability over these policies (Hoeffding
    1956: a sum of unequal Bernoulli variables is no more spread than the binomial with their average).
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"{successes} of {trials}: need 0 <= successes <= trials and at least one trial")
    if successes == trials:
        return 1.0
    return float(betaincinv(successes + 1, trials - successes, confidence))


def _band_mean(values: ArrayLike, low: float, high: float) -> Array:
    """Mean of the part of the empirical distribution between two quantile levels, over the last axis."""
    ordered = np.sort(np.asarray(values, dtype=np.float64), axis=-1)
    count = ordered.shape[-1] if ordered.ndim else 0
    if count == 0:
        raise ValueError("no values: the statistic of an empty sample is undefined")
    edges = np.arange(count + 1) / count
    weights = np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0.0, None)
    return np.asarray(ordered @ (weights / weights.sum()))


def _table(values: ArrayLike) -> Array:
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or table.size == 0:
        raise ValueError(
            f"values have shape {table.shape}; expected (training seeds, episodes), none of them zero"
        )
    if not np.isfinite(table).all():
        raise ValueError("values hold NaN or infinity")
    return table


def _resample(
    shape: tuple[int, ...], seed: int, resamples: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices (resamples, K, 1) of training seeds, (resamples, K, M) of their episodes, with replacement."""
    training_seeds, episodes = shape
    draw = _Draws(seed)
    rows = draw.below(training_seeds, (resamples, training_seeds, 1))
    return rows, draw.below(episodes, (resamples, training_seeds, episodes))


def _percentiles(replicates: Array, confidence: float) -> Interval:
    tail = 50.0 * (1.0 - confidence)
    low, high = np.percentile(replicates, [tail, 100.0 - tail])
    return Interval(float(low), float(high))


class _Draws:
    """Indices from a bit generator's raw bits, whose stream NumPy never changes, unlike that of `Generator`.

    So a certificate's intervals can be recomputed years later. The bias of the remainder is below n / 2^64.
    """

    def __init__(self, seed: int) -> None:
        self._bits = np.random.PCG64(seed)

    def below(self, limit: int, shape: tuple[int, ...]) -> NDArray[np.int64]:
        raw = self._bits.random_raw(int(np.prod(shape)))
        return (np.asarray(raw, dtype=np.uint64) % np.uint64(limit)).astype(np.int64).reshape(shape)
