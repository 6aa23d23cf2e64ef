"""Differences between a graph and PyTorch: their units, and that nothing which is not a number passes for small."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from diffpolicy.deploy.exporting import Exported, ParityError
from diffpolicy.deploy.parity import TOLERANCE, Difference, compare
from diffpolicy.deploy.run_policy import Array

SCALES = {"actions": np.array([1.0, 100.0])}


def differences(expected: list[list[float]], found: list[list[float]]) -> Difference:
    (row,) = compare("cold", "random", _calls(expected), _calls(found), SCALES)
    return row


def _calls(values: list[list[float]]) -> list[dict[str, Array]]:
    return [{"actions": np.array([value], np.float64)} for value in values]


def test_errors_are_in_units_of_what_the_tolerance_is_for() -> None:
    row = differences([[0.0, 200.0], [1.0, -400.0]], [[0.5, 200.0], [1.0, -300.0]])
    assert (row.absolute, row.relative, row.error, row.samples) == (100.0, 100.0 / 400.0, 1.0, 2)
    assert not row.passed
    assert differences([[1.0, 0.0]], [[1.0, 50.0 * TOLERANCE]]).passed


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["found", "expected", "both"])
def test_what_is_no_number_never_passes_and_is_counted(bad: float, where: str) -> None:
    good, wrong = [[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.0], [3.0, bad]]
    row = differences(good if where == "found" else wrong, good if where == "expected" else wrong)
    assert row.not_finite == 1
    assert row.error == 0.0  # of the others
    assert not row.passed
    json.dumps(asdict(row), allow_nan=False)
    with pytest.raises(ParityError, match=r"actions of the graph 'cold' holds NaN or infinity \(1 numbers"):
        Exported(Path("policy"), [row], []).check()
