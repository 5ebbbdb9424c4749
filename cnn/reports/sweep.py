"""A sweep as one HTML page: its best trial, what every trial reached, and by which settings."""
from __future__ import annotations

from typing import TYPE_CHECKING

from cnn.plots import search, style
from cnn.reports import svg, theme
from cnn.text import html as escaped
from cnn.text import html_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    Row = Mapping[str, Any]

_WORDS = {"complete": "", "pruned": "pruned", "fail": "failed", "running": "running", "waiting": "waiting"}


def html(name: str, rows: Sequence[Row], best: Row | None, monitor: str, ranges: Mapping[str, bool],
         words: Mapping[str, Any]) -> str:
    """The page of a sweep of this name.

    rows: of all trials, see runs.sweep.rows; best: the best of them, or None; monitor: what they are compared by;
    ranges: for each setting that is drawn whether its range is logarithmic; words: trials (how many are wanted),
    sampler, pruner. Without matplotlib there are no figures.
    """
    finished = [row for row in rows if row["state"] in ("complete", "pruned", "fail")]
    facts = (f'<p class="muted">{len(finished)} of {words["trials"]} trials finished, compared by {escaped(monitor)}; '
             f'sampler {escaped(words["sampler"])}, pruner {escaped(words["pruner"])}</p>')
    headline = theme.cards(
        theme.card("Which trial is best?", "None is complete yet." if best is None else shown(best["params"]),
                   *([] if best is None else [f"Trial {best['number']}: {_value(best['value'], monitor)}"])),
        theme.card("How did the others end?", _ends(rows)), kind="cards headline")
    note = ('<p class="note">All are measured on validation images. The test accuracy is not shown: who chooses by it '
            'spoils it. Read that of the one trial you keep, in its summary.json.</p>')
    return theme.document(f"Sweep {name}", [facts, headline, note, _figures(rows, monitor, ranges),
                                            theme.section("All trials, the best first", _table(rows, monitor, ranges))])


def said(row: Row, monitor: str) -> str:
    """One trial's result in words."""
    reached = "" if row["value"] is None else f"{monitor} {_value(row['value'], monitor)}"
    state = _WORDS[row["state"]] and f"{_WORDS[row['state']]}" + (
        f" after epoch {row['epoch']}" if row["state"] == "pruned" else "")
    return ", ".join(filter(None, (state, reached))) or "no value"


def shown(params: Mapping[str, Any]) -> str:
    """Settings in words."""
    return ", ".join(f"{name} {_short(value)}" for name, value in params.items())


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _value(value: float, monitor: str) -> str:
    return f"{value:.2%}" if "accuracy" in monitor else f"{value:.4g}"


def _ends(rows: Sequence[Row]) -> str:
    counts = {state: sum(row["state"] == state for row in rows) for state in _WORDS}
    return ", ".join(f"{count} {_WORDS[state] or 'complete'}" for state, count in counts.items() if count) or "none yet"


def _figures(rows: Sequence[Row], monitor: str, ranges: Mapping[str, bool]) -> str:
    try:
        style.require()
    except ModuleNotFoundError as error:
        return f'<p class="note">Not shown: {escaped(error)}</p>'
    known = [row for row in rows if row["value"] is not None]
    values, complete = [row["value"] for row in known], [row["state"] == "complete" for row in known]
    figure = search.trials([row["number"] for row in known], values, complete, monitor, "accuracy" in monitor)
    drawn = [_card(figure, "trials", f"{monitor} of each trial")]
    for i, (name, log) in enumerate(ranges.items()):
        having = [k for k, row in enumerate(known) if name in row["params"]]
        figure = search.setting(name, [known[k]["params"][name] for k in having], [values[k] for k in having],
                                [complete[k] for k in having], monitor, log)
        drawn.append(_card(figure, f"setting{i}", f"{monitor} by {name}"))
    return theme.section("What the trials reached", theme.cards(*drawn))


def _card(figure: Any, name: str, title: str) -> str:
    return (f'<figure class="card">{svg.inline(figure, name, title)}<figcaption><b>{escaped(title)}</b></figcaption>'
            f"</figure>")


def _table(rows: Sequence[Row], monitor: str, ranges: Mapping[str, bool]) -> str:
    sign = -1 if "accuracy" in monitor else 1
    order = sorted(rows, key=lambda row: (row["state"] != "complete", row["value"] is None,
                                          sign * (row["value"] or 0), row["number"]))
    body = [(row["number"], said(row, monitor), *(_short(row["params"].get(name, "")) for name in ranges),
             "" if row["seconds"] is None else f"{row['seconds']:.1f} s") for row in order]
    return f'<div class="card stack">{html_table(("trial", "result", *ranges, "time"), body)}</div>' if body else ""
