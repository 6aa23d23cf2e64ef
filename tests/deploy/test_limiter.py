"""The limiter: whatever is asked of it, nothing ever leaves the limits, and what keeps them is passed unchanged."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffpolicy.deploy.errors import ManifestError
from diffpolicy.deploy.limiter import MotionLimiter
from diffpolicy.deploy.manifest import Safety

SAFETY = Safety((0.0, -1.0), (10.0, 1.0), (5.0, 1.0), (20.0, 8.0), (200.0, 100.0))
PERIOD = 0.02

positive = st.floats(0.01, 100.0)


@st.composite
def safeties(draw: st.DrawFn) -> tuple[Safety, float]:
    period = draw(st.sampled_from([0.1, 0.02, 0.004]))
    widths = [draw(positive) for _ in range(2)]
    speeds = [width / draw(st.floats(0.05, 3.0)) for width in widths]
    accelerations = [speed / draw(st.floats(0.01, 0.5)) for speed in speeds]
    jerks = [acceleration / draw(st.floats(0.01, 0.5)) for acceleration in accelerations]
    low = [draw(st.floats(-100.0, 100.0)) for _ in widths]
    high = [below + width for below, width in zip(low, widths, strict=True)]
    limits = Safety(tuple(low), tuple(high), tuple(speeds), tuple(accelerations), tuple(jerks))
    return limits, period


def assert_within(commands: np.ndarray, safety: Safety, period: float) -> None:
    """Every difference of `commands` (n, A), which start at rest, keeps its limit but for rounding."""
    path = np.concatenate([np.repeat(commands[:1], 3, axis=0), commands])
    assert (path >= np.array(safety.position_low)).all()
    assert (path <= np.array(safety.position_high)).all()
    scale = np.abs(path).max() + 1.0
    for order, limit in enumerate((safety.velocity, safety.acceleration, safety.jerk), start=1):
        rates = np.abs(np.diff(path, n=order, axis=0)) / period**order
        rounding = 2**order * 4e-16 * scale / period**order
        assert (rates <= np.array(limit) * (1 + 1e-7) + rounding).all(), (
            order,
            rates.max(axis=0),
            limit,
        )


@settings(max_examples=40, deadline=None)
@given(safeties(), st.integers(0, 2**32 - 1))
def test_no_target_leads_out_of_the_limits(case: tuple[Safety, float], seed: int) -> None:
    safety, period = case
    generator = np.random.default_rng(seed)
    low, high = np.array(safety.position_low), np.array(safety.position_high)
    limiter = MotionLimiter(safety, period)
    limiter.motion = limiter.at_rest(generator.uniform(low, high))
    commands = [limiter.motion.position]
    while len(commands) < 80:
        kind, count = generator.integers(5), int(generator.integers(1, 12))
        wild = generator.uniform(low - (high - low), high + (high - low))
        for step in range(count):
            if kind == 0:
                commands.append(limiter.halt())
            elif kind == 1:
                commands.append(limiter.step(generator.uniform(low, high)))
            elif kind == 2:
                commands.append(limiter.step(wild))
            elif kind == 3:
                commands.append(limiter.step(low if step % 2 else high))
            else:
                commands.append(limiter.step(high))
    assert_within(np.array(commands), safety, period)


def follow(limiter: MotionLimiter, targets: np.ndarray) -> np.ndarray:
    return np.array([limiter.step(target) for target in targets])


def test_a_target_within_the_limits_passes_unchanged() -> None:
    limiter = MotionLimiter(SAFETY, PERIOD)
    sway = np.sin(np.pi * np.linspace(0.0, 1.0, 200) ** 2) ** 4  # from rest to rest within 4 s
    targets = np.array([5.0, 0.0]) + sway[:, None] * np.array([2.5, -0.5])
    assert np.allclose(follow(limiter, targets), targets, atol=1e-12)


def test_a_jump_is_reached_quickly_and_kept_with_hardly_any_overshoot() -> None:
    limiter = MotionLimiter(SAFETY, PERIOD)
    commands = follow(limiter, np.tile([9.0, -0.5], (150, 1)))
    assert commands[:, 0].max() <= 9.0 + 0.01 * 4.0
    assert commands[:, 1].min() >= -0.5 - 0.01 * 0.5
    assert np.allclose(commands[-1], [9.0, -0.5], atol=1e-9)
    # The first axis needs 4 units at 5 units/s, and .25 s for speed + .1 s for acceleration.
    assert np.flatnonzero(np.abs(commands[:, 0] - 9.0) < 0.01)[0] * PERIOD < 1.5 * (0.8 + 0.35)


def test_a_moving_target_is_caught_up_with() -> None:
    limiter = MotionLimiter(SAFETY, PERIOD)
    targets = np.stack([np.linspace(1.0, 9.0, 200), np.zeros(200)], axis=1)  # 2 units/s, begun 4 units away
    commands = follow(limiter, targets)
    assert np.allclose(commands[150:, 0], targets[150:, 0], atol=1e-6)


def test_a_halt_comes_to_rest_and_stays() -> None:
    limiter = MotionLimiter(SAFETY, PERIOD)
    follow(limiter, np.tile([10.0, 1.0], (15, 1)))
    assert limiter.motion.velocity[0] > 1.0
    held = np.array([limiter.halt() for _ in range(60)])
    assert np.array_equal(held[-1], held[-20])
    assert not limiter.motion.velocity.any()


def test_it_starts_inside_the_limits() -> None:
    limiter = MotionLimiter(SAFETY, PERIOD)
    assert limiter.at_rest(np.array([-5.0, 0.5])).position.tolist() == [0.0, 0.5]


def test_limits_that_cannot_stop_are_refused() -> None:
    with pytest.raises(ManifestError, match=r"element 1 needs .* to stop"):
        MotionLimiter(replace(SAFETY, acceleration=(20.0, 0.01)), PERIOD)
