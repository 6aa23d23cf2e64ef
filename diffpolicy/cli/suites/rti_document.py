"""What the suite `rti` found, as rows, targets and Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import envs
from diffpolicy.cli.suites.results import target
from diffpolicy.evaluation import ScoreRow, ScoreTable
from diffpolicy.evaluation.imitation import score_table
from diffpolicy.evaluation.statistics import estimate, paired_difference, paired_ratio
from diffpolicy.evaluation.summary import Episodes
from diffpolicy.policies import parse_arm

RTI_BUDGET, RTI_SHARE = 4, 0.95  # evaluations per decision, share of the best cold sampler's score
CHUNK_BUDGET, CHUNK_SHARE = 3, 0.98  # evaluations per chunk, share of DDPM-100's score
DDPM = "ddpm_100@8"


@dataclass(frozen=True)
class Found:
    """Everything about one network of one task; `delays` and `jumps` are empty where they were not asked for."""

    task: envs.Task
    network: str
    table: ScoreTable
    per_chunk: Mapping[str, float]  # evaluations of a decision, by arm
    latency: Mapping[str, Mapping[str, Any]]  # by arm and runtime; empty where it was not asked for
    delays: Mapping[tuple[str, float], Episodes]  # by way of execution and latency [s]
    jumps: Mapping[tuple[str, bool], Episodes]  # by arm, with the jump or without
    judged_by: Sequence[str]
    weights: Sequence[str]
    jump_at: int

    @property
    def name(self) -> str:
        """Task and network."""
        return f"{self.task.name} {self.network}"

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A plain row for each arm."""
        return [
            {
                "network": self.network,
                **row,
                "execute": int(row["arm"].partition("@")[2]),
                "evaluations_per_chunk": self.per_chunk[row["arm"]],
                "latency_ms": self.latency.get(row["arm"], {}),
            }
            for row in self.table.to_json()
        ]

    @property
    def delay_rows(self) -> list[dict[str, Any]]:
        """A plain row for each way of execution and latency."""
        return [
            {
                "task": self.task.name,
                "network": self.network,
                "execution": execution,
                "latency_ms": round(1000 * seconds),
                "score": asdict(estimate(self._scores(episodes))),
            }
            for (execution, seconds), episodes in self.delays.items()
        ]

    @property
    def jump_rows(self) -> list[dict[str, Any]]:
        """A plain row for each arm: after the jump, without one, and what a guard adds on the same pairs."""
        found = []
        for (arm, jump), episodes in self.jumps.items():
            if not jump:
                continue
            after, still = self._scores(episodes), self._scores(self.jumps[arm, False])
            every = [episode for row in episodes for episode in row]
            plain = self.jumps.get((arm.replace("_guard", ""), True)) if "_guard" in arm else None
            found.append(
                {
                    "task": self.task.name,
                    "network": self.network,
                    "arm": arm,
                    "after_jump": asdict(estimate(after)),
                    "without_jump": asdict(estimate(still)),
                    "lost": asdict(paired_difference(after, still)),
                    "guard_adds": plain and asdict(paired_difference(after, self._scores(plain))),
                    "cold_starts": sum(episode.cold_starts for episode in every) / len(every),
                    "over_before_jump": sum(episode.length <= self.jump_at for episode in every),
                }
            )
        return found

    def _scores(self, episodes: Episodes) -> Any:
        return score_table(episodes, self.table.kind)


def targets(found: Found) -> list[dict[str, Any]]:
    """Return the targets that this network can speak to, met or missed."""
    names = [row.arm for row in found.table.rows]
    every_step = [arm for arm in names if arm.endswith("@1")]
    warm = [arm for arm in every_step if _is_warm(arm) and found.per_chunk[arm] <= RTI_BUDGET]
    published = [arm for arm in warm if _is_rti(arm)]
    cold = [arm for arm in names if parse_arm(arm).kind == "cold"]
    few = [arm for arm in names if arm.endswith("@8") and found.per_chunk[arm] <= CHUNK_BUDGET]
    budget = f"of at most {RTI_BUDGET} evaluations at every step"
    questions: list[tuple[str, list[str], list[str], float]] = []
    for kind, ours in (("RTI as published", published), ("a warm start of any kind", warm)):
        frequent = [arm for arm in cold if arm in every_step]
        questions += [
            (f"{kind}, {budget}, and the best cold sampler at every step", ours, frequent, RTI_SHARE),
            (f"{kind}, {budget}, and the best cold sampler at any horizon", ours, cold, RTI_SHARE),
        ]
    questions.append(
        (
            f"executing 8: an arm of at most {CHUNK_BUDGET} evaluations a chunk and DDPM-100",
            few,
            [arm for arm in names if arm == DDPM],
            CHUNK_SHARE,
        )
    )
    reached = [
        _share(found, f"{found.name}: {name}", ours, theirs, share)
        for name, ours, theirs, share in questions
        if ours and theirs
    ]
    if warm:
        judges = [arm for arm in found.judged_by if _is_warm(arm)]
        name = f"{found.name}: warm starts among the arms that chose the checkpoints"
        reached.append(target(name, ">= 1", len(judges), None, bool(judges)))
    return reached


def _share(found: Found, name: str, ours: list[str], theirs: list[str], share: float) -> dict[str, Any]:
    """Return the target that the best of `ours` keeps a `share` of the score of the best of `theirs`."""
    best, rival = (
        max((found.table.row(arm) for arm in arms), key=lambda row: row.score.mean) for arms in (ours, theirs)
    )
    label = f"{name}: {best.arm} / {rival.arm}"
    if rival.score.mean <= 0.0:  # nothing to keep a share of
        return target(label, f">= {share}", 0.0, None, False)
    value, interval = paired_ratio(_values(found, best), _values(found, rival))
    return target(label, f">= {share}", value, interval, value >= share)


def _values(found: Found, row: ScoreRow) -> Any:
    return score_table(row.episodes, found.table.kind)


def _is_warm(arm: str) -> bool:
    parsed = parse_arm(arm)
    return parsed.warm is not None and not parsed.guard


def _is_rti(arm: str) -> bool:
    """Whether a warm start is Real-Time Iteration as published, rather than a relative of ours."""
    warm = parse_arm(arm).warm
    return warm is not None and warm.single_index


def markdown(document: Mapping[str, Any]) -> str:
    """Return the document's rows as Markdown tables."""
    lines = [
        f"Made by `{document['command']}`; {len(document['seeds'])} training seeds, episodes of each: "
        f"{episodes_text(document)}, from seed {document['seed']}. "
        "Brackets: 95 % intervals over training seeds and episodes. "
        "Latency: one robot, one core, per decision. The best of several arms is chosen by the same episodes.",
    ]
    for name, rows in grouped(document["rows"]).items():
        runtimes = list(dict.fromkeys(name for row in rows for name in row["latency_ms"]))
        heads = [f"{runtime} p50 / p95 / p99 / max [ms]" for runtime in runtimes]
        head = [
            "arm",
            "score",
            "difference",
            "success",
            "evaluations/step",
            "evaluations/chunk",
            "cold starts",
        ]
        lines += ["", f"## {name}", ""]
        lines += _table(
            [*head, *heads],
            [
                [
                    row["arm"],
                    _interval(row["score"]),
                    _interval(row["difference"]),
                    f"{row['success']['mean']:.2f}",
                    f"{row['evaluations_per_step']:.3g}",
                    f"{row['evaluations_per_chunk']:g}",
                    f"{row['cold_starts_per_episode']:.1f}",
                    *(_latency(row["latency_ms"].get(runtime)) for runtime in runtimes),
                ]
                for row in rows
            ],
        )
    for name, rows in grouped(document["delays"]).items():
        lines += ["", f"## {name}: latency of decisions", ""]
        cells = [[row["execution"], f"{row['latency_ms']}", _interval(row["score"])] for row in rows]
        lines += _table(["execution", "latency [ms]", "score"], cells)
    for name, rows in grouped(document["jumps"]).items():
        lines += ["", f"## {name}: jump test", ""]
        head = ["arm", "after the jump", "without", "lost", "guard adds", "cold starts", "over before"]
        estimates = ("after_jump", "without_jump", "lost", "guard_adds")
        lines += _table(
            head,
            [
                [
                    row["arm"],
                    *(_interval(row[key]) for key in estimates),
                    f"{row['cold_starts']:.1f}",
                    str(row["over_before_jump"]),
                ]
                for row in rows
            ],
        )
    return "\n".join(lines) + "\n"


def episodes_text(document: Mapping[str, Any]) -> str:
    """Return how many episodes of each task every training seed played: `PushT 100, pick-place-v3 50`."""
    return ", ".join(f"{task} {count}" for task, count in document["episodes"].items())


def grouped(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each task and network, under its name."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(f"{row['task']}, {row['network']}", []).append(row)
    return groups


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def _interval(estimate: Mapping[str, Any] | None) -> str:
    if estimate is None:
        return ""
    low, high = estimate["mean_interval"]
    return f"{estimate['mean']:.3f} [{low:.3f}, {high:.3f}]"


def _latency(found: Mapping[str, float] | None) -> str:
    return "" if found is None else " / ".join(f"{found[key]:.2f}" for key in ("p50", "p95", "p99", "max"))
