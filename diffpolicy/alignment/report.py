"""The report of an alignment run: one HTML page of what was rewarded, what was gained and what it cost."""

import json
from base64 import b64encode
from bisect import bisect_right
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import yaml

from diffpolicy.alignment.charts import Panel, chart
from diffpolicy.alignment.monitor import FACTS, PICTURE
from diffpolicy.alignment.stopping import Look, StopRule, read_looks
from diffpolicy.training import best_checkpoint, latest_checkpoint, read_checkpoint, read_curves
from diffpolicy.training.errors import CheckpointError
from diffpolicy.training.judging import read_scores

PAGE = "report.html"
SIGNALS = ("gradient_norm", "clipped", "flat_groups", "ties")  # of training, shown where they were logged
MANY_FLAT = 0.5  # share of groups whose rewards are all equal
STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #808890; }
body { font: 1rem/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 64rem; padding: 2rem 1.25rem; }
h1 { font-size: 1.7rem; margin: 0 0 .5rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
.charts { display: grid; gap: 1.25rem; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); }
figure { margin: 0; padding: .9rem; border: 1px solid var(--line); border-radius: .5rem; }
figcaption { color: var(--soft); font-size: .85rem; } svg { width: 100%; height: auto; display: block; }
svg text { font-family: inherit !important; } img { width: min(100%, 44rem); image-rendering: pixelated; }
.warning { border-left: .3rem solid #d55e00; padding: .1rem .8rem; margin: .5rem 0; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .25rem .8rem; border-bottom: 1px solid var(--line); font-size: .9rem; }
pre { overflow-x: auto; border: 1px solid var(--line); border-radius: .5rem; padding: .8rem; font-size: .82rem; }
"""


def write_report(folder: Path | str, title: str = "Alignment report") -> Path:
    """Write `report.html` into a run folder that a `Monitor` has watched, and return its path.

    The page needs no network. Everything in it comes from the folder: the monitor's curves, its picture, the
    configuration and the manifest of the last checkpoint.

    Raises:
        CheckpointError: if there is no checkpoint, no look of a monitor, or the page cannot be written.
    """
    folder = Path(folder)
    last, looks = latest_checkpoint(folder), read_looks(folder)
    facts = _read_json(folder / FACTS)
    if last is None or not looks or not facts:
        raise CheckpointError(
            f"{folder} holds no run that a monitor has looked at. Give `Monitor` to `training.run` as its judge"
        )
    checkpoint, base = read_checkpoint(last), facts["base"]
    rule, looks = StopRule(**facts["rule"]), [_first(base), *looks]
    stop = read_scores(folder).stopped
    curves = read_curves(folder)
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(_summary(looks, stop, best_checkpoint(folder).name))}</p>",
        *(f'<p class="warning">{escape(text)}</p>' for text in warnings(looks, rule, facts, curves)),
        _picture(folder),
        "<h2>What was gained, and what it cost</h2>",
        _charts(looks, rule, curves),
        "<h2>Looks</h2>",
        _table(looks),
        "<h2>What was aligned</h2>",
        _listing(checkpoint.manifest),
        "<h2>Settings</h2>",
        _listing(checkpoint.config),
        _listing({"monitor": {name: value for name, value in facts.items() if name != "base"}}),
    ]
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>\n"
        + "\n".join(part for part in body if part)
        + "\n</body></html>\n"
    )
    try:
        (folder / PAGE).write_text(page, encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"cannot write {folder / PAGE}: {error.strerror or error}") from error
    return folder / PAGE


def warnings(
    looks: Sequence[Look],
    rule: StopRule,
    facts: dict[str, Any],
    curves: dict[str, tuple[list[int], list[float]]],
) -> list[str]:
    """Return what a reader has to know before believing the reward, a sentence each."""
    found = []
    outside = [look.step for look in looks if rule.excess(look) > 1.0]
    if outside:
        found.append(
            f"From step {outside[0]} on, {len(outside)} looks lie outside the limits: samples leave what is real, or "
            "become one sample. Rewards there are not comparable; take the best checkpoint instead."
        )
    if looks[-1].gold is None:
        found.append("There is no gold reward: nothing says whether what was rewarded is what was wanted.")
    if not facts["real"]:
        found.append("There are no real samples: nothing says whether samples still look like the data.")
    flat = curves.get("flat_groups", ([], []))[1]
    if flat and flat[-1] > MANY_FLAT:
        found.append(f"{flat[-1]:.0%} of the last groups have equal rewards and teach nothing.")
    return found


def _summary(looks: Sequence[Look], stop: str | None, best: str) -> str:
    first, last = looks[0], looks[-1]
    text = f"In {last.step} updates the reward went from {first.proxy:.4g} to {last.proxy:.4g}"
    if first.gold is not None and last.gold is not None:
        text += f" and gold from {first.gold:.4g} to {last.gold:.4g}"
    text += f". The best checkpoint is {best}."
    return text + (f" The run was stopped: {stop}." if stop else "")


def _charts(looks: Sequence[Look], rule: StopRule, curves: dict[str, tuple[list[int], list[float]]]) -> str:
    calls = curves.get("reward_calls")
    along = "reward calls" if calls else "updates"
    xs = [value_at(calls, look.step) if calls else float(look.step) for look in looks]
    far = [look.reference_distance**0.5 for look in looks]
    limits = {"reported": rule.manifold_warning, "stops": rule.manifold}
    near = {name: level for name, level in limits.items() if level is not None}
    few = {} if rule.diversity is None else {"stops": rule.diversity}
    spreads = [*_panels(looks, xs, ["manifold"], near), *_panels(looks, xs, ["diversity"], few)]
    drawn = [
        (
            "reward",
            along,
            _panels(looks, xs, ["proxy"]) + _panels(looks, xs, ["gold"]),
            "Means over fixed samples.",
        ),
        (
            "spread",
            along,
            spreads,
            "Distance to the nearest real sample and between samples, over the base's.",
        ),
        (
            "distance",
            "root of the squared distance to the reference",
            _panels(looks, far, ["proxy"]) + _panels(looks, far, ["gold"]),
            "Where the reward rises and gold falls, the reward is being exploited.",
        ),
    ]
    signals = [Panel(name, {name: curves[name]}) for name in SIGNALS if name in curves]
    drawn.append(("signals", "updates", signals, "What training logged."))
    figures = [
        f"<figure>{chart(name, along, panels)}<figcaption>{caption}</figcaption></figure>"
        for name, along, panels, caption in drawn
        if panels
    ]
    return f'<div class="charts">{"".join(figures)}</div>'


def _panels(
    looks: Sequence[Look], xs: Sequence[float], names: Sequence[str], levels: dict[str, float] | None = None
) -> list[Panel]:
    """Return a panel for each of these measures that was taken."""
    panels = []
    for name in names:
        known = [(x, getattr(look, name)) for x, look in zip(xs, looks, strict=True)]
        known = [point for point in known if point[1] is not None]
        if known:
            label = "reward" if name == "proxy" else name
            panels.append(Panel(label, {label: ([x for x, _ in known], [y for _, y in known])}, levels or {}))
    return panels


def _table(looks: Sequence[Look]) -> str:
    head = "".join(f"<th>{name.replace('_', ' ')}</th>" for name in Look._fields)
    rows = [
        "".join(f"<td>{'' if value is None else f'{value:.4g}'}</td>" for value in look) for look in looks
    ]
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _picture(folder: Path) -> str:
    if not (folder / PICTURE).exists():
        return ""
    data = b64encode((folder / PICTURE).read_bytes()).decode()
    return (
        f'<h2>Samples</h2><figure><img alt="samples before and after" src="data:image/png;base64,{data}">'
        "<figcaption>The base on the left, the last look on the right; from the same noise.</figcaption></figure>"
    )


def _listing(values: Any) -> str:
    if not values:
        return ""
    return f"<pre>{escape(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))}</pre>"


def _first(base: dict[str, float | None]) -> Look:
    """Return the look at the base."""
    manifold = None if base["manifold"] is None else 1.0
    return Look(0, base["proxy"] or 0.0, base["gold"], 0.0, manifold, 1.0)


def value_at(curve: tuple[list[int], list[float]], step: int) -> float:
    """Return the newest value of a curve at a step; 0 before the first."""
    place = bisect_right(curve[0], step)
    return curve[1][place - 1] if place and step else 0.0


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}  # nobody has looked yet
    return found if isinstance(found, dict) else {}
