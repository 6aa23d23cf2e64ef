"""The report's section on a refinement: its gain, what was imagined beside what came true, and the gate."""

from collections.abc import Sequence
from html import escape
from typing import Any

import envs
from diffpolicy.cli.pipeline_outcome import REFINED, START, Refinement, gains, in_words
from diffpolicy.evaluation import Evaluation
from diffpolicy.evaluation.page import figure, section, table
from diffpolicy.evaluation.statistics import estimate
from diffpolicy.evaluation.svg import COLOURS, MARKERS, WIDE, export
from diffpolicy.evaluation.svg import figure as drawing
from diffpolicy.evaluation.table import mean_text, number

Values = Sequence[Sequence[float]]  # of episodes, a row for each training seed


def refinement_section(result: Evaluation, refinements: Sequence[Refinement], limit: float) -> str:
    """Return the section (HTML); of a refinement that was refused before it began it only says why."""
    parts = [f"<p>{escape(in_words(result, limit))}</p>"]
    differences = [
        [f"{REFINED} minus {escape(one.reference)}", mean_text(one.normalized_return), mean_text(one.cost)]
        for one in gains(result, limit)
    ]
    if differences:
        parts.append(table(["on the same episodes", "return: mean", "cost: mean"], differences))
    parts.append(_gate(result, refinements))
    rows = imagined_and_real(result, refinements)
    if rows:
        caption = (
            "Whole episodes in the frozen world model and in the real simulator, with means and 95 % intervals. "
            "Refinement learnt from imagined branches alone."
        )
        parts.append(figure(imagination_figure(rows, limit), caption, wide=True))
    return section("Refined in imagination", *parts)


def imagined_and_real(
    result: Evaluation, refinements: Sequence[Refinement]
) -> list[tuple[str, bool, Values, Values]]:
    """Return (policy, imagined or not, normalised returns, costs) of the start and of the refined policy."""
    if any(one.refused is not None for one in refinements):
        return []
    task, names = envs.task(result.task), [arm.name for arm in result.arms]
    rows: list[tuple[str, bool, Values, Values]] = []
    for name in (START, REFINED):
        imagined: list[Any] = [one.document["measured"][name]["imagined"] for one in refinements]
        returns = [[task.normalized_return(each) for each in one["returns"]] for one in imagined]
        rows.append((name, True, returns, [one["costs"] for one in imagined]))
        if name in names:
            played = result.arm(name).episodes
            returns = [[task.normalized_return(each.episode_return) for each in row] for row in played]
            rows.append((name, False, returns, [[each.episode_cost for each in row] for row in played]))
    return rows


def imagination_figure(rows: Sequence[tuple[str, bool, Values, Values]], limit: float) -> str:
    """Return an <svg>: every episode, with the means and their intervals, a row for each of `rows`."""
    drawn = drawing(0.42 * len(rows) + 0.8, width=WIDE, columns=2, share_y=True)
    left, right = drawn.axes
    for height, (_, imagined, *both) in enumerate(rows):
        colour, marker = COLOURS[int(imagined)], MARKERS[int(imagined)]
        for axes, values in zip((left, right), both, strict=True):
            found, episodes = estimate(values), [value for row in values for value in row]
            axes.scatter(
                episodes, [height + 0.22] * len(episodes), s=9, color=colour, alpha=0.35, linewidth=0
            )
            axes.plot(found.mean_interval, (height, height), color=colour, lw=2.2, solid_capstyle="round")
            axes.plot([found.mean], [height], marker, color=colour, ms=6)
    names = [f"{name}, {'imagined' if imagined else 'real'}" for name, imagined, *_ in rows]
    left.set_yticks(range(len(rows)), names)
    left.set(xlabel="normalised return", ylim=(len(rows) - 0.5, -0.5))
    right.axvline(limit, color=COLOURS[-1], lw=0.9, ls=(0, (4, 3)))
    right.set_xlabel(f"episode cost (dashed: the limit {limit:g})")
    right.set_xlim(left=min(-0.02 * limit, right.get_xlim()[0]))
    right.tick_params(left=False)
    return export(drawn, "imagination")


def _gate(result: Evaluation, refinements: Sequence[Refinement]) -> str:
    task = envs.task(result.task)
    head = ["gate", "imagined return", "imagined cost", "uncertainty", "verdict"]
    rows = []
    for one in refinements:
        seed = f"training seed {one.seed}"
        if one.refused is not None:
            rows.append([seed, "", "", "", escape(one.said)])
            continue
        figures = one.document["release"]["figures"]
        rows.append(
            [
                seed,
                number(task.normalized_return(figures["imagined_return"])),
                number(figures["imagined_cost"]),
                number(figures["uncertainty_ratio"]),
                escape(one.said),
            ]
        )
    note = (
        '<p class="note">The best offline arm is chosen on these very episodes, which favours it. The gate judges '
        "whole imagined episodes before anything is evaluated. Uncertainty: of the world model in them, 1 is that "
        "of real transitions it has not seen. The hash of its weights was the same before and after.</p>"
    )
    return table(head, rows) + note
