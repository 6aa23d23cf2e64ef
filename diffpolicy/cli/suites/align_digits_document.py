"""What the runs of the suite `align-digits` say: rows and targets."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

import numpy as np
from omegaconf import DictConfig

from diffpolicy.cli.suites.jobs import Job
from diffpolicy.cli.suites.results import target
from diffpolicy.evaluation.statistics import Interval, bootstrap_interval

OFFLINE = ("sft", "diffusion_dpo_offline", "d3po_offline", "d3po_offline_other_starts")
EQUAL_REWARD = -0.5  # the proxy at which distances to the reference are compared
CEILING = -0.05  # the proxy that counts as the reward's ceiling, which is 0

Curve = Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class Found:
    """The runs of one network by method: those that a learning rate was chosen with, the choice, and the others."""

    network: str
    tuned: Mapping[str, Mapping[float, Sequence[Job]]]
    chosen: Mapping[str, float]
    reported: Mapping[str, Sequence[Job]]


@dataclass(frozen=True)
class Outcome:
    """What a seed's run came to: its point of highest gold within the manifold's limit, and whether that is the target.

    A method that learns offline is judged by its last point, since nothing stops it.
    """

    seed: int
    curve: Curve
    best: Mapping[str, float]
    reached: bool
    calls: float
    unchanged: bool

    @property
    def manifold_ratio(self) -> float:
        """The best point's distance to real pictures, over the base's."""
        return self.best["manifold"] / self.curve[0]["manifold"]


def outcome(job: Job, wanted: Mapping[str, float]) -> Outcome:
    """Return what a run came to; `calls` is its budget where it did not reach the target."""
    result, online = job.result(), job.of["data"] == "online"
    curve: Curve = result["curve"]
    limit = wanted["manifold"] * curve[0]["manifold"]
    within = [point for point in curve if point["manifold"] <= limit]
    best = max(within, key=lambda point: point["gold"]) if online else curve[-1]
    reached = best["gold"] >= wanted["gold"] if online else best["win"] > wanted["win"] and best in within
    budget = float(job.of["iterations"] * job.of["online"]["groups"] * job.of["online"]["group_size"])
    calls = best["calls"] if reached else budget
    return Outcome(int(job.of["seed"]), curve, best, reached, calls, result["network_unchanged"])


def outcomes(jobs: Sequence[Job], wanted: Mapping[str, float]) -> list[Outcome]:
    """Return what those runs came to that are there."""
    return [outcome(job, wanted) for job in jobs if job.kept()]


def paired(
    ends: Mapping[str, Sequence[Outcome]], one: str, other: str, of: Callable[[Outcome, Outcome], float]
) -> list[float]:
    """Return what `of` says of two methods' runs, for every seed that both have."""
    others = {each.seed: each for each in ends.get(other, ())}
    return [of(each, others[each.seed]) for each in ends.get(one, ()) if each.seed in others]


def chosen_rate(rates: Mapping[float, Sequence[Job]], wanted: Mapping[str, float]) -> float | None:
    """Return the learning rate whose runs reached the target most often, then soonest, then came nearest.

    Offline methods are chosen by their win rate within the manifold's limit. None if no run is there.
    """
    ranked = {}
    for rate, jobs in rates.items():
        found = outcomes(jobs, wanted)
        if found:
            online = jobs[0].of["data"] == "online"
            merit = fmean(each.best["gold" if online else "win"] for each in found)
            sooner = -fmean(each.calls for each in found) if online else 0.0
            ranked[rate] = (fmean(each.reached for each in found), sooner, merit)
    return max(ranked, key=lambda rate: ranked[rate]) if ranked else None


def document_of(
    cfg: DictConfig, found: Sequence[Found], lasting: Mapping[str, Sequence[Job]], variance: Job
) -> dict[str, Any]:
    """Return rows and targets of the runs that are there, and how many are missing."""
    wanted = {str(name): float(value) for name, value in cfg.target.items()}
    every = [job for one in found for jobs in one.reported.values() for job in jobs]
    every += [job for jobs in lasting.values() for job in jobs]
    ends = {name: outcomes(jobs, wanted) for name, jobs in lasting.items()}
    targets = [each for one in found for each in network_targets(one, wanted)]
    return {
        "seeds": list(cfg.seeds),
        "wanted": wanted,
        "missing": sum(not job.kept() for job in every),
        "rows": [row for one in found for row in rows(one, wanted)],
        "long": [long_row(name, found_) for name, found_ in ends.items() if found_],
        "targets": targets + long_targets(ends, wanted) + variance_targets(variance),
    }


def rows(found: Found, wanted: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return one row for each method that has runs."""
    made = []
    for name, jobs in found.reported.items():
        ended = outcomes(jobs, wanted)
        if not ended:
            continue
        envelope = {
            f"{rate:g}": {
                "reached": round(fmean(each.reached for each in tuned), 2),
                "calls": round(fmean(each.calls for each in tuned)),
                "gold": round(fmean(each.best["gold"] for each in tuned), 3),
            }
            for rate, of_rate in found.tuned[name].items()
            if (tuned := outcomes(of_rate, wanted))
        }
        made.append(
            {
                "network": found.network,
                "method": name,
                "learning_rate": found.chosen[name],
                "runs": len(ended),
                "reached": sum(each.reached for each in ended),
                "calls": _mean([each.calls for each in ended]),
                "gold": _mean([each.best["gold"] for each in ended]),
                "manifold_ratio": _mean([each.manifold_ratio for each in ended]),
                "diversity": _mean([each.best["diversity"] for each in ended]),
                "win": _mean([each.best["win"] for each in ended]),
                "distance": _mean([each.best["distance"] for each in ended]),
                "tuning": envelope,
            }
        )
    return made


def long_row(name: str, ended: Sequence[Outcome]) -> dict[str, Any]:
    """Return where the long runs of a method end."""
    last = [each.curve[-1] for each in ended]
    ratios = [each.curve[-1]["manifold"] / each.curve[0]["manifold"] for each in ended]
    row: dict[str, Any] = {"method": name, "runs": len(ended), "calls": last[0]["calls"]}
    row |= {key: _mean([point[key] for point in last]) for key in ("proxy", "gold", "diversity")}
    return row | {"manifold_ratio": _mean(ratios)}


def network_targets(found: Found, wanted: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return the targets of one network: every method's own, and the orders expected between methods."""
    ended = {name: outcomes(jobs, wanted) for name, jobs in found.reported.items()}
    made = []
    for name, each in ended.items():
        if each and name in OFFLINE:
            values = [one.best["win"] for one in each]
            text, bound = f"mean > {wanted['win']:g}", fmean(values) > wanted["win"]
            made.append(
                target(f"{found.network}: {name}, win rate over the base", text, *_value(values), bound)
            )
        elif each:
            values = [one.best["gold"] for one in each]
            made.append(
                target(
                    f"{found.network}: {name}, gold within {wanted['manifold']:g} x the base's manifold distance",
                    f"mean >= {wanted['gold']:g}",
                    *_value(values),
                    fmean(values) >= wanted["gold"],
                )
            )

    def compare(name: str, more: str, less: str, of: Callable[[Outcome], float]) -> None:
        differences = paired(ended, more, less, lambda a, b: of(a) - of(b))
        if differences:
            label = f"{found.network}: {name}, {more} minus {less}"
            made.append(target(label, "mean > 0", *_value(differences), fmean(differences) > 0.0))

    calls = "calls to the target (the budget where it is not reached)"
    compare(calls, "flow_grpo_40", "flow_grpo", lambda one: one.calls)
    compare(calls, "flow_grpo_40", "awm", lambda one: one.calls)
    compare(calls, "flow_grpo_40", "nft", lambda one: one.calls)
    compare("win rate", "d3po_offline", "d3po_offline_other_starts", lambda one: one.best["win"])
    compare(
        f"distance to the reference at a reward of {EQUAL_REWARD:g}",
        "ddpo",
        "dpok",
        lambda one: at_reward(one.curve, "distance"),
    )
    if ended.get("find"):
        same = fmean(one.unchanged for one in ended["find"])
        gains = [one.best["proxy"] - one.curve[0]["proxy"] for one in ended["find"]]
        made.append(target(f"{found.network}: find, share of runs that left the network as it was", "1", same, None,
                           same == 1.0))  # fmt: skip
        made.append(
            target(f"{found.network}: find, gain in reward", "mean > 0", *_value(gains), fmean(gains) > 0.0)
        )
    return made


def at_reward(curve: Curve, key: str, reward: float = EQUAL_REWARD) -> float:
    """Return a curve's value where its proxy first reaches `reward`, interpolated; its last value if it never does."""
    for before, after in pairwise(curve):
        if before["proxy"] < reward <= after["proxy"]:
            share = (reward - before["proxy"]) / (after["proxy"] - before["proxy"])
            return before[key] + share * (after[key] - before[key])
    return curve[-1][key]


def long_targets(ends: Mapping[str, Sequence[Outcome]], wanted: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return what the long runs were expected to show."""
    made: list[dict[str, Any]] = []

    def add(name: str, text: str, values: Sequence[float], met: Callable[[float], bool]) -> None:
        if values:
            made.append(target(f"long: {name}", text, *_value(values), met(fmean(values))))

    def minus(one: str, other: str, of: Callable[[Outcome], float]) -> list[float]:
        return paired(ends, one, other, lambda a, b: of(a) - of(b))

    def last(key: str) -> Callable[[Outcome], float]:
        return lambda each: each.curve[-1][key]

    def ratio(each: Outcome) -> float:
        return each.curve[-1]["manifold"] / each.curve[0]["manifold"]

    for name, found in ends.items():
        add(f"{name} over-optimises: manifold distance at the end over the base's", "mean > 1.1",
            [ratio(each) for each in found], lambda mean: mean > 1.1)  # fmt: skip
    add("awm without its EMA penalty collapses: diversity, awm minus awm_no_ema", "mean > 0",
        minus("awm", "awm_no_ema", last("diversity")), lambda mean: mean > 0.0)  # fmt: skip
    add("awm without its EMA penalty leaves the manifold: ratio, awm_no_ema minus awm", "mean > 0",
        minus("awm_no_ema", "awm", ratio), lambda mean: mean > 0.0)  # fmt: skip
    add("nft without negatives collapses: diversity, nft minus nft_no_negative", "mean > 0",
        minus("nft", "nft_no_negative", last("diversity")), lambda mean: mean > 0.0)  # fmt: skip
    add("nft without negatives lags: calls to a reward of -0.5, nft_no_negative minus nft", "mean > 0",
        minus("nft_no_negative", "nft", lambda each: at_reward(each.curve, "calls")),
        lambda mean: mean > 0.0)  # fmt: skip
    add("awm(A/5, w_ema = 1) is nft(beta = 1): mean difference of their gold over the curve", "mean < 0.05",
        paired(ends, "awm", "nft", lambda a, b: _gap(a.curve, b.curve)), lambda mean: mean < 0.05)  # fmt: skip
    add("rwr stalls: reward at the end, nft minus rwr", "mean > 0", minus("nft", "rwr", last("proxy")),
        lambda mean: mean > 0.0)  # fmt: skip
    add("rwr loses diversity: that at the end over the base's", "mean < 0.6",
        [one.curve[-1]["diversity"] / one.curve[0]["diversity"] for one in ends.get("rwr", ())],
        lambda mean: mean < 0.6)  # fmt: skip
    for other in ("awm", "nft", "flow_grpo"):
        add(f"draft_k is first at the reward's ceiling ({CEILING:g}): calls, {other} minus draft_k", "mean > 0",
            minus(other, "draft_k", lambda each: at_reward(each.curve, "calls", CEILING)),
            lambda mean: mean > 0.0)  # fmt: skip
    add("a cap holds draft_k near the manifold: ratio, draft_k minus draft_k_capped", "mean > 0",
        minus("draft_k", "draft_k_capped", ratio), lambda mean: mean > 0.0)  # fmt: skip
    return made


def variance_targets(job: Job) -> list[dict[str, Any]]:
    """Return the target of DRaFT-LV's gradient, if it has been measured."""
    if not job.kept():
        return []
    value = job.result()["draft_lv"] / job.result()["draft_k"]
    name = "gradient variance of draft_lv over that of draft_k with one step, as many roll-outs"
    return [target(name, "< 1", value, None, value < 1.0)]


def markdown(document: Mapping[str, Any]) -> str:
    """Return the rows as Markdown tables."""
    wanted = document["wanted"]
    lines = [
        f"Made by `{document['command']}`; {len(document['seeds'])} seeds, {document['missing']} runs missing.",
        f"Target: gold {wanted['gold']:g} within {wanted['manifold']:g} times the base's distance to real pictures. "
        "Figures are at each run's best point within that distance (offline: at the end), mean [95 % interval] over "
        "seeds; calls of runs that did not reach the target are their budget.",
        "",
        "| network | method | learning rate | reached | calls | gold | manifold | diversity | win rate |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in document["rows"]:
        lines.append(
            f"| {row['network']} | {row['method']} | {row['learning_rate']:g} | {row['reached']}/{row['runs']} "
            f"| {_text(row['calls'], 0)} | {_text(row['gold'], 3)} | {_text(row['manifold_ratio'], 2)} "
            f"| {_text(row['diversity'], 2)} | {_text(row['win'], 3)} |"
        )
    lines += ["", "| long run | calls | proxy | gold | manifold | diversity |", "|---|---|---|---|---|---|"]
    for row in document["long"]:
        lines.append(
            f"| {row['method']} | {row['calls']:.0f} | {_text(row['proxy'], 3)} | {_text(row['gold'], 3)} "
            f"| {_text(row['manifold_ratio'], 2)} | {_text(row['diversity'], 2)} |"
        )
    return "\n".join(lines) + "\n"


def _gap(one: Curve, other: Curve) -> float:
    return fmean(abs(a["gold"] - b["gold"]) for a, b in zip(one, other, strict=False))


def _value(values: Sequence[float]) -> tuple[float, Interval]:
    return fmean(values), bootstrap_interval(np.asarray([values]))


def _mean(values: Sequence[float]) -> dict[str, Any]:
    mean, interval = _value(values)
    return {
        "mean": round(mean, 4),
        "interval": [round(bound, 4) for bound in interval],
        "values": list(values),
    }


def _text(estimate: Mapping[str, Any], digits: int) -> str:
    low, high = estimate["interval"]
    return f"{estimate['mean']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
