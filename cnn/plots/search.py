"""Figures of a search for settings: what each trial reached."""
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cnn.plots import style
from cnn.plots.style import BLUE, GREY, ORANGE, WIDTH, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

_HEIGHT = 2.3       # of a figure, in inches


@styled
def trials(numbers: ArrayLike, values: ArrayLike, complete: ArrayLike, what: str, larger: bool) -> Figure:
    """The value of each trial, and the best so far.

    numbers: of the trials (n,); values: float (n,), NaN where there is none; complete: bool (n,), whether the trial ran
    to its end; what: what the values are called; larger: whether larger ones are better.
    """
    numbers, values, complete = np.asarray(numbers), style.finite(values), np.asarray(complete, bool)
    figure = style.figure(WIDTH, _HEIGHT)
    ax = figure.subplots()
    style.tidy(ax, "", "trial", what, pad=20)
    shown = ~np.isnan(values)
    if not shown.any():
        style.nothing(ax)
        return figure
    for mask, colour, marker, label in ((complete, BLUE, "o", "complete"), (~complete, GREY, "x", "ended early")):
        if (mask & shown).any():
            ax.plot(numbers[mask & shown], values[mask & shown], marker, color=colour, ms=4, label=label)
    mask = complete & shown
    if mask.any():
        best = (np.maximum if larger else np.minimum).accumulate(values[mask])
        ax.step(numbers[mask], best, where="post", color=ORANGE, lw=1.3, label="best so far")
    _axes(ax, what)
    style.whole_numbers(ax.xaxis)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderpad=0, borderaxespad=0.4)
    return figure


@styled
def setting(name: str, drawn: list, values: ArrayLike, complete: ArrayLike, what: str, log: bool = False) -> Figure:
    """The value of each trial by one of its settings.

    name: of the setting; drawn: what each trial had, n numbers, texts or bools; values, complete, what: as for
    `trials`; log: whether the setting's axis is logarithmic.
    """
    values, complete = style.finite(values), np.asarray(complete, bool)
    figure = style.figure(WIDTH, _HEIGHT)
    ax = figure.subplots()
    style.tidy(ax, "", name, what)
    shown = ~np.isnan(values)
    if not shown.any():
        style.nothing(ax)
        return figure
    words = any(isinstance(value, (bool, str)) for value in drawn)
    if words:
        names = sorted({str(value) for value in drawn})
        at = np.array([names.index(str(value)) for value in drawn], float)
        ax.set_xticks(range(len(names)), names)
        ax.set_xlim(-0.5, len(names) - 0.5)
    else:
        at = np.asarray(drawn, float)
        if not log:
            style.few_ticks(ax.xaxis)
    for mask, colour, marker in ((complete, BLUE, "o"), (~complete, GREY, "x")):
        ax.plot(at[mask & shown], values[mask & shown], marker, color=colour, ms=4)
    if log and not words:
        style.magnitudes(ax)
    _axes(ax, what)
    return figure


def _axes(ax: Axes, what: str) -> None:
    style.few_ticks(ax.yaxis)
    if "accuracy" in what:
        style.percent(ax.yaxis)
