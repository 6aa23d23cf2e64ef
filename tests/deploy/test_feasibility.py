"""The feasibility step: feasible at once, drawn again, the safest, the backup."""

from dataclasses import replace

import numpy as np
import pytest
from controlling import SAFETY, manifest

from diffpolicy.deploy.chunks import Chunk
from diffpolicy.deploy.feasibility import FeasibleRuntime

OBSERVATION = {"state": np.zeros(3, np.float32)}


class Listed:
    """Decisions with given values, one after another; the action is the number of the decision."""

    def __init__(self, values, feasible_below=0.0):
        self.values, self.elapsed = values, []
        self.manifest = manifest(safety=replace(SAFETY, feasible_below=feasible_below))

    def start(self, seed):
        return 0

    def act(self, observation, memory, *, elapsed=None):
        self.elapsed.append(elapsed)
        return Chunk(np.full((8, 2), memory, np.float32), self.values[memory], ("cold",)), memory + 1


@pytest.mark.parametrize(
    ("values", "chosen", "flags", "decisions"),
    [
        ([-0.1, 1.0], 0, ("cold",), 1),
        ([0.0, 1.0], 0, ("cold",), 1),
        ([None, 1.0], 0, ("cold",), 1),
        ([0.1, 0.2, -0.1, -0.5], 2, ("cold", "resampled"), 3),
        ([0.3, 0.1, 0.2], 1, ("cold", "backup"), 3),
        ([float("nan"), 0.4, 0.5], 1, ("cold", "backup"), 3),
        ([0.4, float("nan"), 0.5], 0, ("cold", "backup"), 3),
    ],
)
def test_the_first_feasible_decision_else_the_safest(values, chosen, flags, decisions):
    inner = Listed(values)
    runtime = FeasibleRuntime(inner, attempts=3)
    chunk, memory = runtime.act(OBSERVATION, runtime.start(0), elapsed=4)
    assert (chunk.actions[0, 0], chunk.flags, memory) == (chosen, flags, decisions)
    assert inner.elapsed == [4, 1, 1][:decisions]
    assert sum(runtime.counts.values()) == 1


def test_a_backup_acts_where_nothing_is_feasible():
    stop = Chunk(np.full((8, 2), 7.0, np.float32))
    runtime = FeasibleRuntime(Listed([1.0, 1.0]), attempts=2, backup=lambda observation: stop)
    chunk, _ = runtime.act(OBSERVATION, 0)
    assert (chunk.actions[0, 0], chunk.flags) == (7.0, ("backup",))


def test_without_a_threshold_nothing_is_asked():
    runtime = FeasibleRuntime(Listed([5.0], feasible_below=None))
    assert runtime.act(OBSERVATION, 0)[0].flags == ("cold",)


def test_attempts_below_one_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        FeasibleRuntime(Listed([0.0]), attempts=0)
