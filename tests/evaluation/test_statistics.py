"""Statistics against closed forms, scipy, and coverage by simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from diffpolicy.evaluation.statistics import (
    bootstrap_interval,
    clopper_pearson_upper,
    cvar,
    estimate,
    iqm,
    mean,
    paired_difference,
    paired_ratio,
)

TABLES = arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 7)), elements=st.floats(-1e6, 1e6))


@pytest.mark.parametrize("count", [4, 8, 60, 100])
def test_iqm_is_the_trimmed_mean_where_quarters_are_whole(count: int) -> None:
    values = np.random.default_rng(count).normal(size=(5, count))
    np.testing.assert_allclose(iqm(values), stats.trim_mean(values, 0.25, axis=-1))


def test_iqm_counts_the_outermost_kept_values_in_part() -> None:
    # Five values: the middle half holds the third, and three quarters of its neighbours.
    assert iqm([0.0, 1.0, 2.0, 4.0, 100.0]) == pytest.approx((0.75 * 1 + 2 + 0.75 * 4) / 2.5)


def test_cvar_is_the_mean_of_the_worst_tenth() -> None:
    assert cvar(np.arange(100.0)) == pytest.approx(np.mean(np.arange(90, 100)))
    # The worst tenth of 15 values is the worst and half of the next one.
    assert cvar(np.arange(15.0)) == pytest.approx((14 + 0.5 * 13) / 1.5)
    assert cvar([[3.0, 1.0], [2.0, 6.0]], alpha=0.5) == pytest.approx(4.5)
    assert cvar([1.0, 2.0, 3.0], alpha=0.0) == pytest.approx(2.0)


@settings(deadline=None)
@given(TABLES)
def test_statistics_stay_inside_the_data(values: np.ndarray) -> None:
    slack = 1e-6 * (1 + np.abs(values).max())
    for one in (iqm(values.ravel()), cvar(values), *bootstrap_interval(values, iqm, resamples=20)):
        assert values.min() - slack <= one <= values.max() + slack
    assert cvar(values) >= values.mean() - slack


@pytest.mark.parametrize(("successes", "trials"), [(0, 20), (1, 20), (7, 60), (59, 60)])
def test_clopper_pearson_inverts_the_binomial_tail(successes: int, trials: int) -> None:
    bound = clopper_pearson_upper(successes, trials)
    assert stats.binom.cdf(successes, trials, bound) == pytest.approx(0.05)
    assert bound == pytest.approx(
        stats.binomtest(successes, trials, alternative="less").proportion_ci(0.95, "exact").high
    )


def test_clopper_pearson_at_the_ends() -> None:
    assert clopper_pearson_upper(0, 60) == pytest.approx(1 - 0.05 ** (1 / 60))
    assert clopper_pearson_upper(5, 5) == 1.0
    with pytest.raises(ValueError, match="3 of 2"):
        clopper_pearson_upper(3, 2)


def test_bootstrap_is_seeded_and_exact_for_constants() -> None:
    values = np.random.default_rng(0).normal(size=(3, 20))
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)
    assert bootstrap_interval(np.full((3, 20), 7.0)) == (7.0, 7.0)


def test_bootstrap_stream_is_pinned() -> None:
    """Certificates are recomputed by later versions: the drawn indices must never change."""
    assert bootstrap_interval([[0.0, 1.0, 2.0, 5.0], [3.0, 4.0, 9.0, 2.0]]) == pytest.approx((1.25, 5.753125))


def test_bootstrap_of_one_training_seed_agrees_with_scipy() -> None:
    values = np.random.default_rng(3).exponential(size=(1, 200))
    theirs = stats.bootstrap((values[0],), np.mean, method="percentile", n_resamples=4000, rng=0)
    ours = bootstrap_interval(values, mean, resamples=4000)
    assert ours == pytest.approx(tuple(theirs.confidence_interval), abs=0.01)


def test_training_seeds_that_differ_widen_the_interval() -> None:
    rng = np.random.default_rng(4)
    same = rng.normal(size=(4, 50))
    apart = same + 3.0 * np.arange(4)[:, None]
    spread = [interval.high - interval.low for interval in map(bootstrap_interval, (same, apart))]
    assert spread[1] > 5 * spread[0]


@pytest.mark.parametrize(("between", "least"), [(0.0, 0.93), (0.5, 0.80)])
def test_coverage_by_simulation(between: float, least: float) -> None:
    """Five training seeds of 20 episodes: right without spread between seeds, known to be low with it."""
    rng = np.random.default_rng(5)
    hits, trials = 0, 300
    for _ in range(trials):
        values = rng.normal(0.0, 1.0, (5, 20)) + rng.normal(0.0, between, (5, 1))
        low, high = bootstrap_interval(values, mean, resamples=200)
        hits += low <= 0.0 <= high
    assert hits / trials >= least


def test_paired_difference_removes_what_the_pairs_share() -> None:
    rng = np.random.default_rng(6)
    shared = rng.normal(0, 10, (3, 40))
    a, b = shared + 1.0 + rng.normal(0, 0.1, shared.shape), shared
    paired = paired_difference(a, b)
    assert paired.mean == pytest.approx(1.0, abs=0.05)
    assert 0.9 < paired.mean_interval.low < 1.0 < paired.mean_interval.high < 1.1
    assert estimate(a).mean_interval.high - estimate(a).mean_interval.low > 3.0
    with pytest.raises(ValueError, match="equal shapes"):
        paired_difference(a, b[:2])


@pytest.mark.parametrize("bad", [[1.0, 2.0], [[]], [[np.nan]], [[np.inf, 1.0]]])
def test_bad_tables_are_refused(bad: list[object]) -> None:
    with pytest.raises(ValueError, match="values"):
        estimate(bad)


def test_a_ratio_of_pairs_cancels_what_they_share() -> None:
    base = np.random.default_rng(2).normal(1.0, 0.2, (3, 30))
    value, interval = paired_ratio(0.9 * base, base)
    assert value == pytest.approx(0.9)
    assert interval == pytest.approx((0.9, 0.9))
    shuffled = np.random.default_rng(3).permuted(0.9 * base, axis=1)
    value, interval = paired_ratio(shuffled, base)
    assert value == pytest.approx(0.9)
    assert interval.low < 0.89 < 0.91 < interval.high


def test_ratios_that_say_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="more than zero"):
        paired_ratio([[1.0]], [[0.0]])
    with pytest.raises(ValueError, match="equal shapes"):
        paired_ratio([[1.0]], [[1.0, 1.0]])
