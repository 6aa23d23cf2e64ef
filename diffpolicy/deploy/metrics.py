"""What the server counts, and how Prometheus reads it (text exposition format 0.0.4)."""

import bisect
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)  # upper bounds [s]
RECENT = 4096  # durations that quantiles are taken over
NAMES = 64  # different flags or shield steps; what comes from outside must not fill the memory
SECONDS = 180  # of history for the status page


class Duration:
    """A histogram of seconds since the start, and the quantiles of the newest `RECENT`."""

    def __init__(self) -> None:
        self.buckets = [0] * len(BUCKETS)
        self.count = 0
        self.total = 0.0
        self.recent: deque[float] = deque(maxlen=RECENT)

    def add(self, seconds: float) -> None:
        """Count one."""
        self.count += 1
        self.total += seconds
        self.recent.append(seconds)
        if (index := bisect.bisect_left(BUCKETS, seconds)) < len(BUCKETS):
            self.buckets[index] += 1

    def quantiles(self) -> dict[str, float] | None:
        """Return p50, p95, p99 and max of the newest [s], None before the first."""
        return _quantiles(self.recent)


def _quantiles(seconds: Iterable[float]) -> dict[str, float] | None:
    array = np.fromiter(seconds, dtype=np.float64)
    if not array.size:
        return None
    p50, p95, p99 = np.quantile(array, (0.5, 0.95, 0.99))
    return {"p50": float(p50), "p95": float(p95), "p99": float(p99), "max": float(array.max())}


class Second(NamedTuple):
    """One second of history; latencies [s] are None where nothing was answered."""

    replies: int
    refusals: int
    p50: float | None
    p99: float | None
    cost: float | None
    shield: int


@dataclass
class Metrics:
    """Counters since the start. `latency` is from a request's arrival to its reply, `inference` the policy's part."""

    requests: int = 0
    replies: int = 0
    late: int = 0  # decisions that came after their deadline
    clients: int = 0
    connections: int = 0
    infeasible: int = 0
    feasible_value: float | None = None
    cost: float | None = None  # sum of what clients sent
    refusals: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)  # connections and pages, by reason
    flags: Counter[str] = field(default_factory=Counter)
    shield: Counter[str] = field(default_factory=Counter)
    latency: Duration = field(default_factory=Duration)
    inference: Duration = field(default_factory=Duration)
    history: deque[Second] = field(default_factory=lambda: deque(maxlen=SECONDS))
    _marks: tuple[int, int, float, int] = (0, 0, 0.0, 0)
    _fresh: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))

    def answered(self, seconds: float) -> None:
        """Count a reply that took `seconds` since its request arrived."""
        self.replies += 1
        self.latency.add(seconds)
        self._fresh.append(seconds)

    def flagged(self, flags: Iterable[str]) -> None:
        """Count what the runtime says happened on the way to a decision."""
        for flag in flags:
            _count(self.flags, flag, 1)

    def shielded(self, before: Mapping[str, int], now: Mapping[str, int]) -> None:
        """Count what a client's shield did: its counts before and now, which start at 0 when the client does."""
        for step, count in now.items():
            earlier = before.get(step, 0)
            _count(self.shield, step, count - earlier if count >= earlier else count)

    def spent(self, cost: float) -> None:
        """Add a cost that a client sent."""
        self.cost = (self.cost or 0.0) + cost

    def tick(self) -> None:
        """Close a second of history; to be called once in each."""
        refusals, shield, cost = self.refusals.total(), self.shield.total(), self.cost or 0.0
        replies, refused, spent, acted = self._marks
        spread = _quantiles(self._fresh)
        self.history.append(
            Second(
                self.replies - replies,
                refusals - refused,
                spread["p50"] if spread else None,
                spread["p99"] if spread else None,
                None if self.cost is None else cost - spent,
                shield - acted,
            )
        )
        self._marks = (self.replies, refusals, cost, shield)
        self._fresh.clear()

    def exposition(self, ready: bool, info: Mapping[str, str]) -> str:
        """Return the page that Prometheus scrapes; `info` labels the policy that is served."""
        text = Exposition()
        text.gauge("info", "The policy that is served.", [(info, 1)])
        text.gauge("ready", "1 once warm-up is over.", [({}, int(ready))])
        text.gauge("clients", "Connected clients.", [({}, self.clients)])
        text.counter("connections_total", "Clients that connected.", [({}, self.connections)])
        text.counter("requests_total", "Requests received, refused ones too.", [({}, self.requests)])
        text.counter("replies_total", "Requests answered with actions.", [({}, self.replies)])
        text.counter("refusals_total", "Requests refused, by code.", _labelled("code", self.refusals))
        text.counter("rejected_total", "Connections rejected, by reason.", _labelled("reason", self.rejected))
        misses = self.refusals["deadline"]
        text.counter("deadline_misses_total", "Requests whose deadline passed.", [({}, misses)])
        text.counter(
            "late_decisions_total", "Decisions that came too late and were dropped.", [({}, self.late)]
        )
        text.counter("flags_total", "What happened on the way to decisions.", _labelled("flag", self.flags))
        text.counter("shield_total", "What clients' shields did, by step.", _labelled("step", self.shield))
        text.counter("infeasible_total", "Decisions the critics call infeasible.", [({}, self.infeasible)])
        if self.feasible_value is not None:
            text.gauge("feasible_value", "The critics' newest value.", [({}, self.feasible_value)])
        if self.cost is not None:
            text.counter("cost_total", "Costs that clients sent.", [({}, self.cost)])
        text.histogram("request_seconds", "From a request's arrival to its reply.", self.latency)
        text.histogram("inference_seconds", "What the policy took.", self.inference)
        return text.page()


def _count(counter: Counter[str], name: str, number: int) -> None:
    counter[name if name in counter or len(counter) < NAMES else "other"] += number


Samples = list[tuple[Mapping[str, str], float]]


def _labelled(label: str, counter: Counter[str]) -> Samples:
    return [({label: name}, count) for name, count in sorted(counter.items())]


class Exposition:
    """Lines of `name{label="value"} number`, each family with its help and type."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def counter(self, name: str, about: str, samples: Samples) -> None:
        """Add a family of numbers that only grow."""
        self._family(name, about, "counter", samples)

    def gauge(self, name: str, about: str, samples: Samples) -> None:
        """Add a family of numbers that come and go."""
        self._family(name, about, "gauge", samples)

    def histogram(self, name: str, about: str, duration: Duration) -> None:
        """Add a histogram with cumulative buckets."""
        self._head(name, about, "histogram")
        below = 0
        for bound, count in zip(BUCKETS, duration.buckets, strict=True):
            below += count
            self._line(f"{name}_bucket", {"le": repr(bound)}, below)
        self._line(f"{name}_bucket", {"le": "+Inf"}, duration.count)
        self._line(f"{name}_sum", {}, duration.total)
        self._line(f"{name}_count", {}, duration.count)

    def page(self) -> str:
        """Return all lines."""
        return "\n".join(self._lines) + "\n"

    def _family(self, name: str, about: str, kind: str, samples: Samples) -> None:
        self._head(name, about, kind)
        for labels, value in samples:
            self._line(name, labels, value)

    def _head(self, name: str, about: str, kind: str) -> None:
        self._lines += [f"# HELP diffpolicy_{name} {about}", f"# TYPE diffpolicy_{name} {kind}"]

    def _line(self, name: str, labels: Mapping[str, str], value: float) -> None:
        inside = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        self._lines.append(f"diffpolicy_{name}{f'{{{inside}}}' if inside else ''} {value!r}")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
