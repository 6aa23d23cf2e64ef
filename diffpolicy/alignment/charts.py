"""Line charts of a run as inline SVG, in the colours of the page around them."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#010203"  # stands for the page's text colour; replaced by currentColor
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # of Okabe and Ito; markers differ too
MARKERS = ("o", "s", "^", "D")
MANY = 40  # points, above which markers hide the line
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
} | dict.fromkeys(
    ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color"), INK
)


class Panel(NamedTuple):
    """One pair of axes: lines (xs, ys) by name, the axis they share, and dashed levels by name."""

    label: str
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    levels: Mapping[str, float] = {}


def chart(name: str, along: str, panels: Sequence[Panel]) -> str:
    """Return panels above each other, which share the x-axis `along`, as an <svg> element; it repeats exactly.

    Ids in it begin with `name`, so that several charts can stand on one page.
    """
    import matplotlib as mpl  # takes as long to import as all of alignment, and only reports need it
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        drawn = Figure(figsize=(5.2, 0.6 + 1.9 * len(panels)), layout="constrained")
        axes = drawn.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for each, panel in zip(axes, panels, strict=True):
            for index, (line, (xs, ys)) in enumerate(panel.lines.items()):
                marker = MARKERS[index % 4] if len(xs) <= MANY else ""
                look: dict[str, Any] = {"color": COLOURS[index % 4], "marker": marker}
                each.plot(xs, ys, label=line, markersize=3.5, linewidth=1.5, **look)
            for index, (level, height) in enumerate(panel.levels.items()):
                each.axhline(
                    height, color=INK, alpha=0.55, linewidth=0.8, linestyle=(0, (4 - index, 3)), label=level
                )
            each.set_ylabel(panel.label)
            if len(panel.lines) + len(panel.levels) > 1:
                each.legend(frameon=False, fontsize=8)
        axes[-1].set_xlabel(along)
    return _export(drawn, name)


def _export(drawn: "Figure", name: str) -> str:
    import matplotlib as mpl

    drawn.patch.set_alpha(0.0)
    for axes in drawn.axes:
        axes.patch.set_alpha(0.0)
    buffer, undated = io.StringIO(), dict.fromkeys(("Date", "Creator", "Type", "Format"))
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        drawn.savefig(buffer, format="svg", metadata=undated)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    head, end, body = text.partition(">")
    head = re.sub(r' (?:width|height|xmlns(?::xlink)?)="[^"]*"', "", head)  # in a page they need no names
    return f'{head} role="img"{end}{body}'
