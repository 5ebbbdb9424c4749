"""How a page looks: its colours, for light and dark, and its style sheet."""
from __future__ import annotations

from typing import TYPE_CHECKING

from cnn.reports import svg
from cnn.text import html

if TYPE_CHECKING:
    from collections.abc import Iterable

# ground: behind everything; paper: of a card; line: grids and borders; warning: text on alarm
LIGHT = {"text": "#1b1b1b", "muted": "#5c5c5c", "line": "#dddddd", "paper": "#ffffff", "ground": "#f1f2f4",
         "blue": "#0072b2", "orange": "#d55e00", "green": "#009e73", "warning": "#7d1a00", "alarm": "#fde6dc"}
DARK = {"text": "#eeeeee", "muted": "#a8adb4", "line": "#3a3f46", "paper": "#1b1e23", "ground": "#101216",
        "blue": "#56b4e9", "orange": "#f08a3c", "green": "#3fc79d", "warning": "#ffc2a8", "alarm": "#4a1d0c"}

_STYLE = """
* { box-sizing: border-box; }
body { font: PIXELSpx/1.5 system-ui, sans-serif; color: var(--text); background: var(--ground); max-width: 1200px;
  margin: 0 auto; padding: 12px; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.2; margin: 0.5rem 0 0; } h2 { font-size: 1.2rem; margin: 2rem 0 0.6rem; }
h3 { font-size: inherit; margin: 0; color: var(--muted); } p { margin: 0.4rem 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 355px), 1fr)); gap: 12px; }
.headline { grid-template-columns: repeat(auto-fit, minmax(min(100%, 14rem), 1fr)); }
.card { background: var(--paper); border-radius: 8px; padding: 10px; margin: 0; min-width: 0; }
.wide { grid-column: 1 / -1; } .big { font-size: 1.5rem; line-height: 1.3; font-weight: 600; margin: 0.2rem 0; }
h1 + .muted { margin-bottom: 1rem; } .muted, figcaption { color: var(--muted); }
.note { color: var(--muted); } .banner { color: var(--warning); background: var(--alarm); border-radius: 8px;
  padding: 10px; }
figcaption b { color: var(--text); }
svg { display: block; max-width: 100%; height: auto; margin-bottom: 0.4rem; } svg text { font: inherit;
  font-size: SIZEpx; font-variant-numeric: tabular-nums; }
svg path { stroke-linejoin: round; } svg image, img { image-rendering: pixelated; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(6.6rem, 1fr)); gap: 12px; margin-top: 0.6rem; }
.rows { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 16rem), 1fr)); gap: 12px;
  margin-top: 0.6rem; }
.pairs { grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr)); }
.tiles figure, .rows figure { margin: 0; } .row { display: flex; gap: 4px; }
.row img { flex: 1 1 0; min-width: 0; max-width: 7rem; height: auto; display: block; margin-bottom: 0.2rem; }
.tiles img, .one { width: 100%; max-width: 7rem; height: auto; display: block; margin-bottom: 0.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: 0.15rem 0 0.15rem 0.5rem; text-align: right; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th:first-child, td:first-child { padding-left: 0; }
th { font-weight: 600; color: var(--muted); } tr.total td { font-weight: 600; border-bottom: 0; }
th:not(:first-child), td:not(:first-child) { white-space: nowrap; }
.plain td:last-child, .plain th:last-child { text-align: left; white-space: normal; }
details { background: var(--paper); border-radius: 8px; padding: 10px; margin-top: 2rem; }
.card details { padding: 0; margin: 0; }
summary { cursor: pointer; font-weight: 600; } pre { white-space: pre-wrap; margin: 0.4rem 0; font-size: inherit; }
.card.stack { container-type: inline-size; }
@container (max-width: 30rem) {
  .stack thead { display: none; } .stack tr { display: flex; flex-wrap: wrap; column-gap: 0.9rem;
    border-bottom: 1px solid var(--line); padding: 0.3rem 0; }
  .stack td { border: 0; padding: 0; } .stack td:first-child { flex-basis: 100%; font-weight: 600; }
  .stack td:not(:first-child)::before { content: attr(data-label) " "; color: var(--muted); font-weight: 400; }
  .stack td.none { display: none; }
}
@media print { h2 { break-after: avoid; } .card, tr { break-inside: avoid; } }
"""


# a page may show what is inside it, and nothing else: no script, nothing from anywhere
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def document(title: str, parts: Iterable[str]) -> str:
    """A whole page. title: plain text; parts: HTML, of which empty ones are left out."""
    words = html(title)
    return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{words}</title>'
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<style>{css()}</style></head>\n"
            f"<body><h1>{words}</h1>\n" + "\n".join(filter(None, parts)) + "\n</body></html>\n")


def section(title: str, content: str) -> str:
    """A part of a page under a heading, or nothing where there is no content, HTML."""
    return f"<h2>{html(title)}</h2>\n{content}" if content else ""


def cards(*given: str, kind: str = "cards") -> str:
    """Cards beside one another, empty ones left out. kind: their class."""
    shown = [one for one in given if one]
    return f'<div class="{kind}">' + "\n".join(shown) + "</div>" if shown else ""


def card(question: str, words: str, *answers: str) -> str:
    """A question with its answers in large type, and words on them, all plain text."""
    big = "".join(f'<p class="big">{html(answer)}</p>' for answer in answers)
    return f'<div class="card"><h3>{html(question)}</h3>{big}<p>{html(words)}</p></div>'


def css() -> str:
    """The style sheet of a page."""
    words = _STYLE.replace("PIXELS", str(svg.PIXELS)).replace("SIZE", str(svg.style.SIZE))
    classes = "".join(f".fill-{name} {{ fill: var(--{name}); }} .stroke-{name} {{ stroke: var(--{name}); }}\n"
                      for name in svg.COLOURS.values())
    return (f":root {{ color-scheme: light dark; {_variables(LIGHT)} }}\n"
            f"@media (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK)} }} }}{words}{classes}")


def _variables(colours: dict[str, str]) -> str:
    return " ".join(f"--{name}: {value};" for name, value in colours.items())
