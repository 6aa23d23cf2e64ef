"""What is counted, and the page that Prometheus reads."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffpolicy.deploy.metrics import BUCKETS, NAMES, RECENT, SECONDS, Duration, Metrics

SAMPLE = re.compile(r'^([a-z_]+)(?:\{((?:[a-z]+="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (\S+)$')


def parsed(text):
    """{(name, labels): value}, as the text format 0.0.4 has it; every family has its help and type first."""
    found, kinds = {}, {}
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# HELP "):
            assert len(line.split(" ", 3)) == 4
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in kinds
            kinds[name] = kind
        else:
            match = SAMPLE.match(line)
            assert match, line
            name, labels, value = match.groups()
            family = re.sub("_(bucket|sum|count)$", "", name)
            assert name in kinds or kinds[family] == "histogram"
            assert (name, labels) not in found
            found[name, labels] = float(value)
    return found


def page(metrics):
    return parsed(metrics.exposition(True, {"policy": "toy", "task": 'a "b"\\\nc'}))


def test_the_page_of_a_fresh_server():
    found = page(Metrics())
    assert found["diffpolicy_ready", None] == 1
    assert found["diffpolicy_requests_total", None] == 0
    assert found["diffpolicy_request_seconds_count", None] == 0
    assert ("diffpolicy_info", r'policy="toy",task="a \"b\"\\\nc"') in found


def test_the_page_says_what_was_counted():
    metrics = Metrics(requests=5)
    for seconds in (0.0004, 0.001, 0.03, 7.0):
        metrics.answered(seconds)
    metrics.refusals["deadline"] += 2
    metrics.flagged(["cold", "cold", 'odd "name"'])
    metrics.shielded({}, {"velocity": 3})
    metrics.feasible_value = -0.25
    found = page(metrics)
    assert found["diffpolicy_replies_total", None] == 4
    assert found["diffpolicy_deadline_misses_total", None] == 2
    assert found["diffpolicy_refusals_total", 'code="deadline"'] == 2
    assert found["diffpolicy_flags_total", 'flag="cold"'] == 2
    assert found["diffpolicy_flags_total", r'flag="odd \"name\""'] == 1
    assert found["diffpolicy_shield_total", 'step="velocity"'] == 3
    assert found["diffpolicy_feasible_value", None] == -0.25
    buckets = [found["diffpolicy_request_seconds_bucket", f'le="{bound!r}"'] for bound in BUCKETS]
    assert buckets[:3] == [1, 2, 2]
    assert buckets[-1] == 3
    assert found["diffpolicy_request_seconds_bucket", 'le="+Inf"'] == 4
    assert found["diffpolicy_request_seconds_sum", None] == pytest.approx(7.0314)
    assert ("diffpolicy_cost_total", None) not in found


@given(st.lists(st.floats(0, 10), max_size=50))
def test_buckets_are_cumulative_and_quantiles_those_of_the_durations(seconds):
    duration = Duration()
    for each in seconds:
        duration.add(each)
    for bound, below in zip(BUCKETS, np.cumsum(duration.buckets), strict=True):
        assert below == sum(each <= bound for each in seconds)
    quantiles = duration.quantiles()
    if not seconds:
        assert quantiles is None
    else:
        assert quantiles["p50"] == pytest.approx(np.quantile(seconds, 0.5))
        assert quantiles["max"] == max(seconds)


def test_quantiles_forget_what_is_old():
    duration = Duration()
    duration.add(100.0)
    for _ in range(RECENT):
        duration.add(1.0)
    assert duration.quantiles()["max"] == 1.0
    assert duration.count == RECENT + 1


def test_a_second_of_history_has_what_came_in_it():
    metrics = Metrics()
    metrics.answered(0.25)
    metrics.refusals["shape"] += 1
    metrics.tick()
    metrics.answered(0.5)
    metrics.answered(0.5)
    metrics.spent(2.0)
    metrics.shielded({}, {"jerk": 4})
    metrics.tick()
    metrics.tick()
    assert [tuple(second) for second in metrics.history] == [
        (1, 1, 0.25, 0.25, None, 0),
        (2, 0, 0.5, 0.5, 2.0, 4),
        (0, 0, None, None, 0.0, 0),
    ]
    for _ in range(2 * SECONDS):
        metrics.tick()
    assert len(metrics.history) == SECONDS


def test_names_from_outside_do_not_fill_the_memory():
    metrics = Metrics()
    for i in range(10 * NAMES):
        metrics.flagged([f"flag {i}"])
        metrics.shielded({}, {f"step {i}": 1})
    assert len(metrics.flags) == len(metrics.shield) == NAMES + 1
    assert metrics.flags["other"] == metrics.shield["other"] == 9 * NAMES
    assert page(metrics)["diffpolicy_flags_total", 'flag="other"'] == 9 * NAMES


def test_a_shield_that_starts_again_is_counted_on():
    metrics = Metrics()
    metrics.shielded({}, {"velocity": 5})
    metrics.shielded({"velocity": 5}, {"velocity": 7})
    metrics.shielded({"velocity": 7}, {"velocity": 1})
    assert metrics.shield["velocity"] == 8
