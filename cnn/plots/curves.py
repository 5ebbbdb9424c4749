"""Curves: loss and accuracy by epoch, learning rates."""
from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from cnn.plots import style
from cnn.plots.style import BLUE, GREEN, GREY, ORANGE, PAPER, WIDTH, styled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

_SERIES = {"train": (BLUE, "-", "o"), "val": (ORANGE, "--", "s")}
_LABELS = {"train": "training", "val": "held out"}
_HEIGHT = 2.4       # inches


@styled
def curves(history: Sequence[Mapping[str, float]]) -> Figure:
    """Loss and accuracy by epoch, of training and held-out images, side by side.

    history: a History, or rows (dicts) with `epoch` and any of train_loss, val_loss, train_accuracy,
    val_accuracy; NaN and infinite values are left out, and counted below the curve.
    """
    figure = style.figure(2 * WIDTH, _HEIGHT)
    for ax, what in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        _curve(ax, history, what)
    return figure


@styled
def curve(history: Sequence[Mapping[str, float]], what: str) -> Figure:
    """One half of `curves`. what: "loss" or "accuracy". Raises ValueError for another."""
    if what not in ("loss", "accuracy"):
        raise ValueError(f"curve: what must be loss or accuracy, got {what!r}")
    figure = style.figure(WIDTH, _HEIGHT)
    _curve(figure.subplots(), history, what)
    return figure


def _curve(ax: Axes, history: Sequence[Mapping[str, float]], what: str) -> None:
    title, lost, epochs = f"{what} by epoch", 0, [row["epoch"] for row in history]
    for part, (colour, dashes, mark) in _SERIES.items():
        values = style.finite([row.get(f"{part}_{what}", math.nan) for row in history])
        if np.isnan(values).all():
            continue
        lost += int(np.isnan(values).sum())
        ax.plot(epochs, values, dashes, color=colour, label=_LABELS[part], lw=1.3, ms=2.8,
                marker=mark if len(values) <= 20 or style.alone(values) else None)
        best = int(np.nanargmax(values) if what == "accuracy" else np.nanargmin(values))
        if part == "val" and len(values) > 1:
            shown = f"{values[best]:.2%}" if what == "accuracy" else f"{values[best]:.4f}"
            ax.plot(epochs[best], values[best], "*", color=GREEN, ms=9, mec=PAPER, mew=0.6, label="best")
            title += f", best: {shown} (epoch {epochs[best]})"
    style.tidy(ax, title, "epoch" + (
        f"\n{lost} value{'s' if lost > 1 else ''} not finite, left out" if lost else ""), pad=20)
    style.few_ticks(ax.yaxis)
    if what == "accuracy":
        style.percent(ax.yaxis)
    style.whole_numbers(ax.xaxis)
    if epochs:
        ax.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5) if len(epochs) < 20 else ax.margins(x=0.02)
    if ax.lines:
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderpad=0, borderaxespad=0.4)
    else:
        style.nothing(ax)


@styled
def learning_rate(lr: ArrayLike, unit: str = "step", at: ArrayLike | None = None) -> Figure:
    """The learning rate of each step (or epoch: `unit` is what the axis is called).

    lr: float (n,). at: the numbers of the steps, (n,); default 1, 2, ... Raises ValueError for another length.
    """
    lr = style.finite(lr)
    at = np.arange(1, len(lr) + 1) if at is None else style.finite(at)
    if at.shape != lr.shape:
        raise ValueError(f"learning_rate: at must have as many values as lr, {len(lr)}, got {len(at)}")
    figure = style.figure(WIDTH, _HEIGHT)
    ax = figure.subplots()
    style.tidy(ax, f"learning rate by {unit}", unit)
    if np.isnan(lr).all():
        style.nothing(ax)
        return figure
    ax.plot(at, lr, color=BLUE, lw=1.3, marker="o" if len(lr) <= 20 or style.alone(lr) else None, ms=2.8)
    ax.set_ylim(bottom=min(0, np.nanmin(lr)))
    style.whole_numbers(ax.xaxis)
    style.few_ticks(ax.yaxis)
    return figure


@styled
def lr_finder(lr: ArrayLike, loss: ArrayLike, suggestion: float | None = None) -> Figure:
    """The loss against a learning rate that was raised step by step, the latter on a logarithmic axis.

    lr, loss: float (n,), lr above 0. suggestion: a learning rate to mark (None or NaN: none). The thick line is the
    mean of each loss and those around it (a fortieth of them); what lies far above the first losses is cut off.
    Raises ValueError for arrays of different lengths.
    """
    lr, loss = style.finite(lr), style.finite(loss)
    if lr.shape != loss.shape:
        raise ValueError(f"lr_finder: loss must have as many values as lr, {len(lr)}, got {len(loss)}")
    figure = style.figure(1.5 * WIDTH, 1.3 * _HEIGHT)
    ax = figure.subplots()
    style.tidy(ax, "loss by learning rate", "learning rate", "loss")
    fine = ~np.isnan(loss) & (lr > 0)
    lr, loss = lr[fine], loss[fine]
    if not len(lr):
        style.nothing(ax)
        return figure
    reach = max(1, len(loss) // 80)
    smooth = np.array([loss[max(0, i - reach):i + reach + 1].mean() for i in range(len(loss))])
    ax.plot(lr, loss, color=GREY, lw=0.8, alpha=0.6, label="each step", marker="." if len(lr) <= 40 else None)
    ax.plot(lr, smooth, color=BLUE, lw=2, label="smoothed")
    ax.set_xscale("log")
    low, start = smooth.min(), smooth[:max(1, len(smooth) // 10)].mean()
    room = max(start - low, 1e-3 * abs(start), 1e-12)
    ax.set_ylim(low - 0.15 * room, start + 0.6 * room)
    if suggestion is not None and math.isfinite(suggestion):
        ax.axvline(suggestion, color=ORANGE, ls="--", lw=1.5, label=f"suggested: {suggestion:.2g}")
    ax.legend(loc="best")
    return figure
