"""The last lines of `diffpolicy align`: what was there before, what is there now."""

import json
from pathlib import Path

from diffpolicy import training
from diffpolicy.alignment.monitor import FACTS
from diffpolicy.alignment.report import value_at
from diffpolicy.alignment.stopping import Look, read_looks
from diffpolicy.training.judging import read_scores

ROWS = {
    "reward": "proxy",
    "gold": "gold",
    "distance to real samples": "manifold",
    "diversity": "diversity",
    "distance to the base": "reference_distance",
}


def summary(run: Path, base: float | None = None) -> list[str]:
    """Return base and best checkpoint side by side, as the monitor or the judge of a run folder saw them.

    `base` is the judge's score of what the run began with.
    """
    looks = read_looks(run)
    return _of_monitor(run, looks) if looks else _of_judge(run, base)


def _of_monitor(run: Path, looks: list[Look]) -> list[str]:
    best = training.read_checkpoint(training.best_checkpoint(run)).step
    look = next((each for each in looks if each.step == best), looks[-1])
    base = json.loads((run / FACTS).read_text())["base"]
    start = {"proxy": base["proxy"], "gold": base["gold"], "manifold": 1.0, "diversity": 1.0}
    calls = training.read_curves(run).get("reward_calls", ([], []))
    rewards = value_at(calls, look.step)
    spent = f" ({rewards:.0f} rewards)" if rewards else ""
    lines = [f"{'':<26}{'base':>9}{f'update {look.step}':>12}{spent}"]
    for label, name in ROWS.items():
        value = getattr(look, name)
        if value is not None:
            lines.append(f"{label:<26}{start.get(name, 0.0):>9.3g}{value:>12.3g}")
    stop = read_scores(run).stopped
    return [*lines, *([f"stopped:    {stop}"] if stop else [])]


def _of_judge(run: Path, base: float | None) -> list[str]:
    scores = read_scores(run).by_step
    if not scores:
        return []
    best = max(scores, key=lambda step: scores[step])
    before = "" if base is None else f"; {base:.3f} before"
    return [f"score:      {scores[best]:.3f} after {best} updates, the best of {len(scores)} looks{before}"]
