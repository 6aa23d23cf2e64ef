"""When to stop: what the monitor has seen of a run, and the signs that its reward is being exploited."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

from diffpolicy.training import read_curves

PREFIX = "monitor/"


class Look(NamedTuple):
    """What the monitor measured after `step` updates; None where it cannot be measured.

    `proxy` is the reward trained on and `gold` one that is not, both in their own units; `reference_distance` is the
    mean squared difference of predictions; `manifold` (distance to the nearest real sample) and `diversity` (distance
    of two samples) are ratios to the base's.
    """

    step: int
    proxy: float
    gold: float | None
    reference_distance: float
    manifold: float | None
    diversity: float | None

    def values(self) -> dict[str, float]:
        """Return what there is, by the name of its curve."""
        measured = self._asdict().items()
        return {PREFIX + name: value for name, value in measured if name != "step" and value is not None}


@dataclass(frozen=True)
class StopRule:
    """What ends a run; None switches a reason off.

    `manifold` and `diversity` are ratios to the base; beyond `manifold_warning` a checkpoint is reported, and never
    preferred to one within. `gold_fall` and `divergence` are falls of gold from its best, in standard deviations of the
    base's gold, that have lasted `patience` looks; the second counts while the proxy is above what it was at that best
    (Gao et al. 2023, figure 1). Neither counts where gold is the same for all samples of the base: any fall would be
    infinitely many deviations. `reference_distance` is in what the process predicts, squared.
    """

    manifold_warning: float = 1.1
    manifold: float | None = 1.5
    diversity: float | None = 0.3
    gold_fall: float | None = 0.25
    divergence: float | None = 0.1
    patience: int = 3
    reference_distance: float | None = None

    def __post_init__(self) -> None:
        limits = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, value in limits.items():
            if value is not None and not value > 0.0:
                raise ValueError(
                    f"the stop rule's {name} is positive, or None where it may be off; got {value}"
                )

    def reason(self, looks: Sequence[Look], gold_deviation: float) -> str | None:
        """Return why a run that was seen like this (oldest first, the base included) should stop, or None."""
        now = looks[-1]
        for name, limit, over in (
            (
                "manifold",
                self.manifold,
                "the distance to the nearest real sample is {0:.2f} times the base's",
            ),
            (
                "reference_distance",
                self.reference_distance,
                "the squared distance to the reference is {0:.4g}",
            ),
        ):
            value = getattr(now, name)
            if limit is not None and value is not None and value > limit:
                return f"{over.format(value)}, above the limit of {limit:g}"
        if self.diversity is not None and now.diversity is not None and now.diversity < self.diversity:
            return f"diversity is {now.diversity:.2f} of the base's, below the limit of {self.diversity:g}"
        return self._gold_reason(looks, gold_deviation)

    def excess(self, look: Look) -> float:
        """Return how far a checkpoint is from the base's manifold and spread: above 1 it has left them."""
        ratios = [0.0]
        if look.manifold is not None:
            ratios.append(look.manifold / self.manifold_warning)
        if self.diversity is not None and look.diversity is not None:
            ratios.append(self.diversity / max(look.diversity, 1e-9))
        return max(ratios)

    def _gold_reason(self, looks: Sequence[Look], deviation: float) -> str | None:
        known = [(look, look.gold) for look in looks if look.gold is not None]
        if len(known) <= self.patience or not deviation > 0.0:
            return None
        best, highest = max(known, key=lambda each: each[1])
        recent = known[-self.patience :]
        least = min(highest - gold for _, gold in recent)  # the fall that all of them share

        def lasting(limit: float | None, holds: Callable[[Look], bool]) -> bool:
            return limit is not None and least > limit * deviation and all(holds(look) for look, _ in recent)

        fell = (
            f"gold has been below its best ({highest:.4g} after step {best.step}) for {self.patience} looks"
        )
        if lasting(self.divergence, lambda look: look.proxy > best.proxy):
            return f"{fell} while the reward rose: it is being exploited"
        if lasting(self.gold_fall, lambda look: True):
            return fell
        return None


def read_looks(folder: Path | str) -> list[Look]:
    """Return the looks logged in a run folder, oldest first; [] without any."""
    curves = {
        name.removeprefix(PREFIX): dict(zip(*points, strict=True))
        for name, points in read_curves(folder).items()
        if name.startswith(PREFIX)
    }
    no_curve: dict[int, float] = {}
    return [
        Look(
            step,
            proxy,
            curves.get("gold", no_curve).get(step),
            curves["reference_distance"][step],
            curves.get("manifold", no_curve).get(step),
            curves.get("diversity", no_curve).get(step),
        )
        for step, proxy in sorted(curves.get("proxy", no_curve).items())
    ]
