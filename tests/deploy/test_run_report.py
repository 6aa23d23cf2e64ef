"""Times of a run, in memory that does not grow."""

import pytest

from diffpolicy.deploy.run_report import Samples


def test_samples_do_not_grow() -> None:
    samples = Samples()
    assert samples.milliseconds() == {}
    for value in range(1, 101):
        samples.add(value / 1000.0)
    found = samples.milliseconds()
    assert found["p50"] == pytest.approx(50.5)
    assert found["max"] == pytest.approx(100.0)
