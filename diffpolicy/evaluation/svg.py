"""Figures as inline SVG that follows the page's text colour, so that one picture serves light and dark."""

import io
import re
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

# Okabe and Ito's palette without black and yellow, each with its own marker: colour is never the only sign.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "p")  # nine and seven: 63 arms before two look alike
INK = "#010203"  # stands for the page's text colour; replaced by currentColor
WIDTH = 5.2  # in; about the width of a phone's page, so that text keeps its size there
WIDE = 8.5  # in; scrolls on a phone

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.6,
}


def figure(
    height: float, *, width: float = WIDTH, columns: int = 1, rows: int = 1, share_y: bool = False
) -> Figure:
    """An empty figure of `width` and `height` [in] with its axes."""
    with mpl.rc_context(STYLE):
        drawn = Figure(figsize=(width, height), layout="constrained")
        drawn.subplots(rows, columns, sharey=share_y, squeeze=False)
    return drawn


def export(drawn: Figure, name: str) -> str:
    """The figure as an <svg> element without size, with ids that begin with `name`; it repeats exactly."""
    buffer, undated = io.StringIO(), dict.fromkeys(("Date", "Creator", "Type", "Format"))
    drawn.patch.set_alpha(0.0)
    for axes in drawn.axes:
        axes.patch.set_alpha(0.0)
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        drawn.savefig(buffer, format="svg", metadata=undated)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    # Several figures share one page: without a prefix the second would draw the first one's markers.
    text = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    head, end, body = text.partition(">")
    head = re.sub(r' (?:width|height)="[^"]*"', "", head)
    return f'{head} role="img"{end}{body}'
