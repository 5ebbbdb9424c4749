"""Text that is safe to print, or to put on a page."""
from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def printable(text: object) -> str:
    """`text` with every control character, lone surrogate or other unprintable character written as its escape.

    text: str. Names from files may hold terminal escape codes; a plain space stays.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() if not "\ud800" <= c <= "\udfff"
                   else f"\\u{ord(c):04x}" for c in str(text))


def html(text: object) -> str:
    """`text` for a page: what is unprintable, but for line ends, and what means something in HTML is escaped."""
    from html import escape  # here, to keep "import cnn" fast
    return escape("\n".join(map(printable, str(text).split("\n"))))


def html_table(header: Sequence[object], rows: Iterable[Sequence[object]],
               total: Sequence[object] | None = None) -> str:
    """A <table>, the first column flush left. Cells are escaped, and know the header of their column (data-label).

    header, rows, total: texts, or what str() makes one; total: a last row. Empty cells have class "none".
    """
    head = "".join(f"<th{_LEFT if i == 0 else ''}>{html(name)}</th>" for i, name in enumerate(header))
    body = "".join(f"<tr>{_cells(header, row)}</tr>\n" for row in rows)
    last = f'<tr class="total">{_cells(header, total)}</tr>\n' if total else ""
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>{body}{last}</tbody></table>"


_LEFT = ' style="text-align: left"'     # a notebook's own style would have it on the right


def _cells(header: Sequence[object], row: Sequence[object]) -> str:
    cells = []
    for i, (name, cell) in enumerate(zip(header, row, strict=True)):
        words = html(cell)
        if i == 0:      # spaces at the beginning are an indent
            words = "&nbsp;" * (len(words) - len(words.lstrip(" "))) + words.lstrip(" ")
        empty = "" if words else ' class="none"'
        cells.append(f'<td{_LEFT if i == 0 else ""} data-label="{html(name)}"{empty}>{words}</td>')
    return "".join(cells)
