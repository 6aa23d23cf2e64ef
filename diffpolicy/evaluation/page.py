"""The bones of an HTML page: sections, tables that become cards on a phone, figures, one style sheet."""

from collections.abc import Sequence
from html import escape

STYLE = """
:root { color-scheme: light dark; --ink: #1c2127; --soft: #5b6570; --line: #dfe3e8; --page: #fbfbfa;
  --card: #ffffff;
  --good: #00664b; --good-bg: #d9f0e8; --bad: #9a3c00; --bad-bg: #fbe3d3;
  --open: #58606a; --open-bg: #e9ecef; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8ea; --soft: #9aa4ae; --line: #343b43; --page: #15181c; --card: #1c2025;
    --good: #7fdcbc; --good-bg: #123a2e; --bad: #ffb184; --bad-bg: #4a2208;
    --open: #c0c7ce; --open-bg: #2c3238; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); line-height: 1.55;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 66rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: clamp(1.5rem, 4vw, 2.1rem); line-height: 1.2; margin: 0 0 .75rem; letter-spacing: -.01em; }
h1 .badge { font-size: .45em; vertical-align: middle; }
h2 { font-size: 1.15rem; margin: 0 0 1rem; }
.lead { font-size: clamp(1.02rem, 2.2vw, 1.2rem); max-width: 46rem; margin: 0; }
.note, figcaption, small { color: var(--soft); font-size: .84rem; }
section { margin-top: 2.75rem; }
.grid { display: grid; gap: 1.25rem; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); }
figure { margin: 0; padding: 1rem; background: var(--card); border: 1px solid var(--line);
  border-radius: .6rem; }
figure svg { display: block; width: 100%; height: auto; color: var(--ink); }
figure.wide { overflow-x: auto; grid-column: 1 / -1; }
figure.wide svg { max-width: 52rem; margin: 0 auto; }
figure svg text { font-family: inherit !important; }
figcaption { margin-top: .6rem; }
video { display: block; width: 100%; max-width: 26rem; margin: 0 auto .75rem; border-radius: .4rem; }
.strip { display: block; width: 100%; height: auto; border-radius: .3rem; }
table { width: 100%; border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums;
  margin: 0 0 1.25rem; background: var(--card); border: 1px solid var(--line); }
th, td { text-align: left; padding: .5rem .7rem; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { color: var(--soft); font-weight: 500; font-size: .8rem; }
tbody th { font-weight: 600; }
.facts thead { display: none; }
.facts tbody th { color: var(--soft); font-weight: 500; width: 7rem; }
code { font-size: .82rem; overflow-wrap: anywhere; }
.badge { display: inline-block; white-space: nowrap; padding: .05rem .5rem; border-radius: 1rem;
  font-size: .78rem; font-weight: 600; background: var(--open-bg); color: var(--open); }
.badge.safe { background: var(--good-bg); color: var(--good); }
.badge.unsafe { background: var(--bad-bg); color: var(--bad); }
@media (max-width: 46rem) {
  figure.wide svg { min-width: 38rem; }
  main { padding-top: 1.5rem; }
  thead { display: none; }
  tr { display: block; padding: .5rem 0; border-bottom: 1px solid var(--line); }
  th, td { display: flex; justify-content: space-between; gap: 1rem; border: 0; padding: .2rem .8rem; }
  td::before { content: attr(data-label); color: var(--soft); }
  .facts td, .facts tbody th { display: block; width: auto; }
}
"""


def page(title: str, *parts: str, style: str) -> str:
    """A whole HTML document."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head>\n<body><main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main></body></html>\n"
    )


def section(title: str, *parts: str, grid: bool = False) -> str:
    """A titled section; with `grid` its parts stand side by side where there is room."""
    body = "\n".join(parts)
    inside = f'<div class="grid">{body}</div>' if grid else body
    return f"<section><h2>{escape(title)}</h2>\n{inside}</section>"


def figure(svg: str, caption: str, *, wide: bool = False) -> str:
    """An <svg> element with its caption."""
    kind = ' class="wide"' if wide else ""
    return f"<figure{kind}>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, kind: str = "") -> str:
    """A table of HTML cells; the first of a row heads it, each cell names its column where narrow."""
    columns = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    lines = []
    for first, *others in rows:
        labelled = zip(head[1:], others, strict=True)
        cells = "".join(f'<td data-label="{label}"><span>{cell}</span></td>' for label, cell in labelled)
        lines.append(f'<tr><th scope="row"><span>{first}</span></th>{cells}</tr>')
    body = "".join(lines)
    return f'<table class="{kind}"><thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table>'
