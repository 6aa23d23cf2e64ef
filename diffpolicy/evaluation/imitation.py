"""Scores of imitation tasks: arms x training seeds x episodes on the same seeds, with intervals, and what they cost.

What a task counts is its `score`: "best_reward" is the highest reward of an episode (Push-T: the coverage reached, Chi
et al. 2023), "success" whether any step succeeded, "return" the undiscounted sum.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np

import envs
from diffpolicy.evaluation.protocol import Progress, episode_seeds
from diffpolicy.evaluation.rollout import Episode, batch_size, play
from diffpolicy.evaluation.statistics import Array, Estimate, estimate, paired_difference
from diffpolicy.evaluation.summary import Episodes, EvaluationError, require_rectangular
from diffpolicy.evaluation.table import aligned, mean_text, number
from diffpolicy.policies import Policy

Kind = Literal["return", "best_reward", "success"]
PARALLEL = 100  # a batch of small networks costs little more than one row

_VALUE: dict[Kind, Callable[[Episode], float]] = {
    "return": lambda episode: episode.episode_return,
    "best_reward": lambda episode: episode.best_reward,
    "success": lambda episode: float(episode.success),
}


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One arm over all its training seeds and episodes; `difference` is to the reference on the same pairs."""

    arm: str
    episodes: Episodes
    score: Estimate
    success: Estimate
    evaluations_per_step: float
    cold_starts_per_episode: float
    difference: Estimate | None

    @property
    def training_seeds(self) -> int:
        """Number of trained policies behind the row."""
        return len(self.episodes)


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """Every arm's score on one task; `str` gives the table for a terminal."""

    task: str
    kind: Kind
    reference: str
    rows: tuple[ScoreRow, ...]

    def row(self, arm: str) -> ScoreRow:
        """The row of that arm; EvaluationError if there is none."""
        for row in self.rows:
            if row.arm == arm:
                return row
        raise EvaluationError(f"no arm {arm!r}; there are {[row.arm for row in self.rows]}")

    def to_json(self) -> list[dict[str, Any]]:
        """One plain row for each arm: what a results file keeps, single episodes left out."""
        kept = []
        for row in self.rows:
            entry = {key: value for key, value in asdict(row).items() if key != "episodes"}
            by_seed = score_table(row.episodes, self.kind).mean(axis=1).tolist()
            kept.append({"task": self.task, "kind": self.kind, **entry, "score_by_seed": by_seed})
        return kept

    def __str__(self) -> str:
        first = self.rows[0]
        head = f"{self.task}: {first.training_seeds} x {len(first.episodes[0])} episodes per arm; score: {self.kind}"
        columns = [
            "arm",
            "score [95 %]",
            "success",
            f"minus {self.reference}",
            "evaluations/step",
            "cold starts",
        ]
        rows = [
            [
                row.arm,
                mean_text(row.score, 3),
                number(row.success.mean),
                "" if row.difference is None else mean_text(row.difference, 3),
                f"{row.evaluations_per_step:.3g}",
                f"{row.cold_starts_per_episode:.1f}",
            ]
            for row in self.rows
        ]
        return "\n".join([head, "", *aligned([columns, *rows])])


def score(
    arms: Mapping[str, Sequence[Policy]],
    task: str,
    *,
    episodes: int = 100,
    seed: int = 0,
    reference: str | None = None,
    workers: int | None = None,
    parallel: int = PARALLEL,
    progress: Progress | None = None,
) -> ScoreTable:
    """Play every arm (one policy per training seed) on the same episode seeds and tabulate the task's score.

    `reference` is the arm the others are compared with (the first by default); `progress(arm, done, total)` is
    called after each policy's episodes. Raises EvaluationError for arms that cannot be paired, RolloutError for
    what goes wrong in an episode.
    """
    counts = {name: len(policies) for name, policies in arms.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise EvaluationError(f"arms need one policy per training seed each, to be paired; got {counts}")
    if episodes < 1:
        raise EvaluationError(f"episodes is {episodes}; at least one per training seed is needed")
    row = envs.task(task)
    done, total = 0, sum(counts.values())
    played: dict[str, Episodes] = {}
    vector: Any = envs.make_vector(row.id, batch_size(episodes, parallel), workers=workers, autoreset=False)
    try:
        for name, policies in arms.items():
            rows: list[tuple[Episode, ...]] = []
            for member, policy in enumerate(policies):
                seeds, ends = episode_seeds(seed, member, episodes), row.score == "success"
                rows.append(tuple(play(policy, vector, seeds, until_success=ends, name=name)))
                done += 1
                if progress is not None:
                    progress(name, done, total)
            played[name] = tuple(rows)
    finally:
        vector.close()
    return tabulate(row.name, row.score, played, reference=reference)


def tabulate(
    task: str, kind: Kind, played: Mapping[str, Episodes], *, reference: str | None = None
) -> ScoreTable:
    """The table of episodes already played; a pure function.

    Raises EvaluationError for an unknown kind or reference, or arms that did not play the same seeds.
    """
    if kind not in get_args(Kind):
        raise EvaluationError(f"a task's score is one of {', '.join(get_args(Kind))}, not {kind!r}")
    if not played:
        raise EvaluationError("no arms to score")
    chosen = next(iter(played)) if reference is None else reference
    if chosen not in played:
        raise EvaluationError(f"the reference arm {chosen!r} was not evaluated; arms are {sorted(played)}")
    base = played[chosen]
    rows = []
    for name, episodes in played.items():
        require_rectangular(f"arm {name!r}", episodes)
        if [[e.seed for e in row] for row in episodes] != [[e.seed for e in row] for row in base]:
            raise EvaluationError(
                f"arms {name!r} and {chosen!r} played different seeds; they cannot be paired"
            )
        values = score_table(episodes, kind)
        every = [episode for row in episodes for episode in row]
        rows.append(
            ScoreRow(
                arm=name,
                episodes=episodes,
                score=estimate(values),
                success=estimate(score_table(episodes, "success")),
                evaluations_per_step=sum(e.evaluations for e in every) / sum(e.length for e in every),
                cold_starts_per_episode=sum(e.cold_starts for e in every) / len(every),
                difference=None if name == chosen else paired_difference(values, score_table(base, kind)),
            )
        )
    return ScoreTable(task, kind, chosen, tuple(rows))


def score_table(episodes: Episodes, kind: Kind) -> Array:
    """What each episode scored (K, M)."""
    return np.array([[_VALUE[kind](episode) for episode in row] for row in episodes])
