"""The evaluation as plain text for a terminal: no figure without its interval."""

from collections.abc import Sequence

from diffpolicy.evaluation.statistics import Estimate, Interval
from diffpolicy.evaluation.summary import RULE, Arm, ArmSummary, Difference


def render(task: str, arms: Sequence[Arm], differences: Sequence[Difference]) -> str:
    """Tables of arms, of arms at each cost limit, and of paired differences, with the rules they follow."""
    first = arms[0].summary
    per_seed = first.episodes // first.training_seeds
    lines = [
        f"{task}: {_count(first.training_seeds, 'training seed')} x {_count(per_seed, 'episode')} per arm",
        "",
    ]
    header = [
        "arm",
        "normalised return: IQM [95 %]",
        "mean [95 %]",
        "cost: mean [95 %]",
        "CVaR 90",
        "violating",
    ]
    lines += aligned([header, *(_arm_row(arm) for arm in arms)])
    lines.append("")
    header = ["arm", "limit", "normalised cost: mean [95 %]", "over the limit", "P(over) <=", "verdict"]
    lines += aligned([header, *(row for arm in arms for row in _limit_rows(arm))])
    if differences:
        reference = differences[0].reference
        lines += ["", f"difference to {reference} on the same seeds"]
        header = ["arm", "normalised return: IQM [95 %]", "mean [95 %]", "cost: mean [95 %]"]
        lines += aligned([header, *(_difference_row(one) for one in differences)])
    lines += [
        "",
        RULE + ".",
        "P(over): one-sided 95 % Clopper-Pearson bound on the probability of exceeding the limit.",
    ]
    if first.training_seeds == 1:
        lines.append("One training seed: the intervals speak of these trained policies, not of the methods.")
    return "\n".join(lines)


def interval_text(value: float, interval: Interval, decimals: int | None = None) -> str:
    """`0.71 [0.66, 0.75]`."""
    low, high = (number(bound, decimals) for bound in interval)
    return f"{number(value, decimals)} [{low}, {high}]"


def number(value: float, decimals: int | None = None) -> str:
    """Two decimals below 10, one below 100, none above, unless `decimals` are given; never `-0.00`."""
    digits = decimals
    if digits is None:
        digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0.0 else text


def percent(share: float) -> str:
    """A probability in per cent, rounded up so that an upper bound stays one: `4.9 %`."""
    tenths = -(-round(share * 1000, 6) // 1)
    return f"{min(tenths / 10, 100.0):.1f} %"


def verdict(summary: ArmSummary, limit: float) -> str:
    """`safe`, `unsafe` (the mean itself is over the limit) or `not shown` (the interval reaches over it)."""
    at = summary.at(limit)
    if at.safe:
        return "safe"
    return "unsafe" if at.normalized_cost.mean > 1.0 else "not shown"


def mean_text(value: Estimate, decimals: int | None = None) -> str:
    """The mean with its interval."""
    return interval_text(value.mean, value.mean_interval, decimals)


def iqm_text(value: Estimate) -> str:
    """The interquartile mean with its interval."""
    return interval_text(value.iqm, value.iqm_interval)


def _arm_row(arm: Arm) -> list[str]:
    s = arm.summary
    violating = f"{s.violating_episodes}/{s.episodes} (<= {percent(s.violation_probability_upper)})"
    returns = s.normalized_return
    return [
        arm.name,
        iqm_text(returns),
        mean_text(returns),
        mean_text(s.cost),
        number(s.cost_cvar),
        violating,
    ]


def _limit_rows(arm: Arm) -> list[list[str]]:
    rows = []
    for at in arm.summary.limits:
        over, bound = f"{at.exceeded}/{arm.summary.episodes}", percent(at.exceed_probability_upper)
        rows.append(
            [
                arm.name,
                f"{at.limit:g}",
                mean_text(at.normalized_cost),
                over,
                bound,
                verdict(arm.summary, at.limit),
            ]
        )
    return rows


def _difference_row(one: Difference) -> list[str]:
    returns = one.normalized_return
    return [one.arm, iqm_text(returns), mean_text(returns), mean_text(one.cost)]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table whose columns line up; the first row is its head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
