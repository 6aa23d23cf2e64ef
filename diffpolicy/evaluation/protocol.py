"""The DSRL protocol: arms x training seeds x episodes on one task, all kept, judged at several limits."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import envs
from diffpolicy.evaluation.rollout import Episode, batch_size, play
from diffpolicy.evaluation.summary import (
    LIMITS,
    Arm,
    Difference,
    Episodes,
    EvaluationError,
    Scores,
    differences,
    require_rectangular,
    summarize,
)
from diffpolicy.evaluation.table import render
from diffpolicy.policies import Policy

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything one evaluation found; `str` gives the table for a terminal."""

    task: str  # the full id
    seed: int
    episodes: int  # per arm and training seed
    limits: tuple[float, ...]
    reference: str
    arms: tuple[Arm, ...]
    differences: tuple[Difference, ...]

    def arm(self, name: str) -> Arm:
        """The arm of that name; EvaluationError if there is none."""
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise EvaluationError(f"no arm {name!r}; there are {[arm.name for arm in self.arms]}")

    def __str__(self) -> str:
        return render(self.task, self.arms, self.differences)


def evaluate(
    arms: Mapping[str, Sequence[Policy]],
    task: str,
    *,
    episodes: int = 20,
    seed: int = 0,
    limits: Sequence[float] = LIMITS,
    reference: str | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Play every arm (one policy per training seed) on the same episode seeds; judge by DSRL's protocol.

    `reference` is the arm that the others are compared with (the first by default);
    `progress(arm, done, total)` is called after each policy's episodes. Raises EvaluationError for arms that
    cannot be paired, RolloutError for what goes wrong in an episode.
    """
    _check(arms, episodes, limits)
    row = envs.task(task)
    total, done = sum(len(policies) for policies in arms.values()), 0
    played: dict[str, Episodes] = {}
    vector: Any = envs.make_vector(row.id, batch_size(episodes), workers=workers, autoreset=False)
    try:
        for name, policies in arms.items():
            rows: list[tuple[Episode, ...]] = []
            for member, policy in enumerate(policies):
                rows.append(tuple(play(policy, vector, episode_seeds(seed, member, episodes), name=name)))
                done += 1
                if progress is not None:
                    progress(name, done, total)
            played[name] = tuple(rows)
    finally:
        vector.close()
    return judge(row, played, seed=seed, limits=limits, reference=reference)


def judge(
    task: Scores,
    played: Mapping[str, Episodes],
    *,
    seed: int,
    limits: Sequence[float] = LIMITS,
    reference: str | None = None,
) -> Evaluation:
    """The evaluation of episodes already played; a pure function, so that a certificate can be recomputed."""
    if not played:
        raise EvaluationError("no arms to judge")
    for name, episodes in played.items():
        require_rectangular(f"arm {name!r}", episodes)
    chosen = next(iter(played)) if reference is None else reference
    return Evaluation(
        task=task.id,
        seed=seed,
        episodes=len(played[next(iter(played))][0]),
        limits=tuple(float(limit) for limit in limits),
        reference=chosen,
        arms=tuple(Arm(name, rows, summarize(task, rows, limits)) for name, rows in played.items()),
        differences=differences(task, played, chosen),
    )


def episode_seeds(seed: int, member: int, episodes: int) -> range:
    """Episode seeds of the `member`-th training seed: the same for every arm, different between members."""
    return range(seed + member * episodes, seed + (member + 1) * episodes)


def _check(arms: Mapping[str, Sequence[Policy]], episodes: int, limits: Sequence[float]) -> None:
    if not arms or not all(arms.values()):
        raise EvaluationError("each arm needs at least one policy")
    counts = {name: len(policies) for name, policies in arms.items()}
    if len(set(counts.values())) != 1:
        raise EvaluationError(f"arms need one policy per training seed each, to be paired; got {counts}")
    if episodes < 1:
        raise EvaluationError(f"episodes is {episodes}; at least one per training seed is needed")
    if not limits or any(limit < 0 for limit in limits):
        raise EvaluationError(f"cost limits are {list(limits)}; give one or more that are not negative")
