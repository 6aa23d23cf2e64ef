"""The report: one HTML file without links to elsewhere; plain words first, then figures, then provenance."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

import envs
from diffpolicy.evaluation.figures import (
    Curve,
    FeasibleSlice,
    curves_figure,
    distribution_figure,
    feasible_figure,
    interval_figure,
    scatter_figure,
)
from diffpolicy.evaluation.page import STYLE, figure, page, section, table
from diffpolicy.evaluation.protocol import Evaluation
from diffpolicy.evaluation.summary import RULE
from diffpolicy.evaluation.table import iqm_text, mean_text, number, percent, verdict


class ReportError(Exception):
    """A report that cannot be written as asked."""


@dataclass(frozen=True, slots=True)
class Extras:
    """What a report may show beside the evaluation; each part is left out where there is none.

    `dataset` holds the returns and costs (E,) of the data's episodes, `film_strip` is PNG, `video` an mp4
    file, `certificate` a certificate's document; `sections` are whole ones, of HTML (`page.section`).
    """

    dataset: tuple[ArrayLike, ArrayLike] | None = None
    curves: Sequence[Curve] = ()
    feasible: Sequence[FeasibleSlice] = ()
    video: Path | None = None
    film_strip: bytes | None = None
    certificate: Mapping[str, Any] = field(default_factory=dict)
    sections: Sequence[str] = ()


def write_report(
    evaluation: Evaluation,
    path: str | Path,
    *,
    subject: str,
    limit: float | None = None,
    extras: Extras | None = None,
) -> Path:
    """Write report.html about the arm `subject` at a cost limit (the lowest evaluated one by default).

    Raises EvaluationError for an arm or limit that was not evaluated, ReportError if a file cannot be read or
    written.
    """
    where = Path(path)
    temporary = where.with_name(where.name + ".part")
    try:
        text = render(evaluation, subject=subject, limit=limit, extras=extras or Extras())
        where.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(where)
    except OSError as error:
        raise ReportError(f"{where.name} cannot be written: {error.strerror} ({error.filename})") from error
    return where


def render(evaluation: Evaluation, *, subject: str, limit: float | None, extras: Extras) -> str:
    """The report as HTML text; see `write_report`."""
    chosen = min(evaluation.limits) if limit is None else float(limit)
    task = envs.task(evaluation.task)
    arms = evaluation.arms
    film = _film(extras)
    sections = [
        section("What it does", film) if film else "",
        *extras.sections,
        section("All arms", _arms_table(evaluation, chosen), _limits_table(evaluation), _rules(evaluation)),
        section(
            "Return and cost",
            figure(
                interval_figure(arms, chosen),
                "Points with 95 % intervals; safe is a bar wholly left of the dashed line.",
                wide=True,
            ),
            figure(
                scatter_figure(task, arms, chosen, extras.dataset),
                f"Every episode; grey: the dataset's. Wanted: high, and left of the limit {chosen:g}.",
            ),
            figure(
                distribution_figure(arms, evaluation.limits),
                "Costs of all episodes: a curve that reaches 1 left of a limit never exceeded it.",
            ),
            grid=True,
        ),
        section("Compared on the same seeds", _differences_table(evaluation))
        if evaluation.differences
        else "",
        _feasible(extras),
        section(
            "Training",
            figure(curves_figure(extras.curves), "Logged quantities over training steps.", wide=True),
        )
        if extras.curves
        else "",
        section("Where this comes from", _provenance(evaluation, extras)),
    ]
    lead = f'<p class="lead">{escape(headline(evaluation, subject, chosen))}</p>'
    badge = _badge(verdict(evaluation.arm(subject).summary, chosen))
    title = f"{subject} on {task.name}"
    return page(title, f"<header><h1>{escape(title)} {badge}</h1>{lead}</header>", *sections, style=STYLE)


def headline(evaluation: Evaluation, subject: str, limit: float) -> str:
    """The result in plain words: safe or not, at which limit, and how sure that is."""
    summary = evaluation.arm(subject).summary
    at = summary.at(limit)
    task = envs.task(evaluation.task).name
    opening = {
        "safe": f"{subject} is safe on {task} at cost limit {limit:g}",
        "unsafe": f"{subject} is not safe on {task} at cost limit {limit:g}",
        "not shown": f"{subject} was not shown to be safe on {task} at cost limit {limit:g}",
    }[verdict(summary, limit)]
    exceeded = "none" if at.exceeded == 0 else "all" if at.exceeded == summary.episodes else str(at.exceeded)
    bound = percent(at.exceed_probability_upper)
    sure = (
        f", so with 95 % confidence at most {bound} of episodes do" if at.exceeded < summary.episodes else ""
    )
    return (
        f"{opening}: of {summary.episodes} episodes {exceeded} exceeded it{sure}. It costs"
        f" {mean_text(summary.cost)} per episode and earns a normalised return of"
        f" {iqm_text(summary.normalized_return)}, where 1 is the best of the benchmark's data."
    )


def _film(extras: Extras) -> str:
    parts = []
    if extras.video is not None:
        source = _data_uri("video/mp4", extras.video.read_bytes())
        parts.append(f'<video controls muted loop playsinline preload="metadata" src="{source}"></video>')
    if extras.film_strip is not None:
        source = _data_uri("image/png", extras.film_strip)
        parts.append(
            f'<img class="strip" alt="Frames from the start to the end of the episode" src="{source}">'
        )
    if not parts:
        return ""
    caption = "One episode. The bar fills with time: blue where a step was safe, orange where it cost."
    return f"<figure>{''.join(parts)}<figcaption>{caption}</figcaption></figure>"


def _arms_table(evaluation: Evaluation, limit: float) -> str:
    head = [
        "arm",
        "return: IQM",
        "return: mean",
        f"cost / {limit:g}",
        "worst 10 %",
        "episodes violating",
        f"at {limit:g}",
    ]
    rows = []
    for arm in evaluation.arms:
        s = arm.summary
        rows.append(
            [
                escape(arm.name),
                iqm_text(s.normalized_return),
                mean_text(s.normalized_return),
                mean_text(s.at(limit).normalized_cost),
                number(s.cost_cvar),
                f"{s.violating_episodes}/{s.episodes} (≤ {percent(s.violation_probability_upper)})",
                _badge(verdict(s, limit)),
            ]
        )
    return table(head, rows)


def _limits_table(evaluation: Evaluation) -> str:
    head = ["arm", *(f"P(cost &gt; {limit:g}) ≤" for limit in evaluation.limits)]
    rows = []
    for arm in evaluation.arms:
        cells = []
        for at in arm.summary.limits:
            counted = f"{at.exceeded}/{arm.summary.episodes}"
            mark = _badge(verdict(arm.summary, at.limit))
            cells.append(f"{percent(at.exceed_probability_upper)} <small>{counted}</small> {mark}")
        rows.append([escape(arm.name), *cells])
    return table(head, rows)


def _differences_table(evaluation: Evaluation) -> str:
    head = [f"minus {escape(evaluation.reference)}", "return: IQM", "return: mean", "cost: mean"]
    rows = [
        [
            escape(one.arm),
            iqm_text(one.normalized_return),
            mean_text(one.normalized_return),
            mean_text(one.cost),
        ]
        for one in evaluation.differences
    ]
    return table(head, rows)


def _rules(evaluation: Evaluation) -> str:
    seeds = evaluation.arms[0].summary.training_seeds
    alone = "With one training seed the intervals speak of these trained policies, not of the methods."
    return (
        f'<p class="note">{escape(RULE)}. Brackets: 95 % bootstrap intervals over training seeds and'
        " episodes; IQM: mean of the middle half; P: one-sided 95 % Clopper-Pearson bound; worst 10 %: mean"
        " cost of the worst tenth of episodes. Returns are normalised as in DSRL."
        f" {alone if seeds == 1 else ''}</p>"
    )


def _feasible(extras: Extras) -> str:
    if not extras.feasible:
        return ""
    caption = (
        "Orange: states from which no manoeuvre is safe (ground truth). Blue line: edge of the learned"
        " feasible set; dashed: of the set without learning. IoU compares infeasible sets; 1 is perfect."
    )
    return section("The learned feasible set", figure(feasible_figure(extras.feasible), caption, wide=True))


def _provenance(evaluation: Evaluation, extras: Extras) -> str:
    first = evaluation.arms[0].summary
    seeds = f"{first.training_seeds} training seeds × {evaluation.episodes} episodes per arm"
    rows = [["task", escape(evaluation.task)], ["protocol", f"{seeds}, from seed {evaluation.seed}"]]
    document = extras.certificate
    if document:
        machine, code = document["machine"], document["code"]
        words = [machine["cpu"], f"{machine['cores']} cores", machine["accelerator"], machine["system"]]
        dirty = " with local changes" if code["dirty"] else ""
        versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
        rows += [
            ["made", escape(document["created"])],
            ["command", f"<code>{escape(document['command'])}</code>"],
            ["data", f"<code>{document['data']['sha256']}</code>"],
            ["code", f"<code>{code['commit'] or code['sha256']}</code>{dirty}"],
            ["machine", escape(", ".join(word for word in words if word))],
            ["versions", escape(versions)],
        ]
    return table(["", ""], rows, kind="facts")


def _badge(word: str) -> str:
    sign = {"safe": "✓", "unsafe": "✕", "not shown": "?"}[word]
    return f'<span class="badge {word.replace(" ", "-")}">{sign} {word}</span>'


def _data_uri(kind: str, contents: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(contents).decode('ascii')}"
