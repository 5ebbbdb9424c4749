"""Which classes are taken for which."""
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cnn.plots import style
from cnn.plots.style import BLUE, GREY, LINES, ORANGE, SIZE, TEXT, WIDTH, styled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

FULL = 0.25             # share of a class from which on an error has the strongest colour
STRONGEST = 0.75        # opacity of that colour; more would leave the text on it too little contrast in the dark
RIGHT = 0.2             # opacity of the right ones' colour, if all are right
_LETTER = 0.6 * SIZE / 72       # width of a digit or letter, in inches
_FEW = 12               # classes up to which a figure is as narrow as others
_SMALLEST, _LARGEST = 1.35 * SIZE / 72, 12.0    # a cell whose name can be read, and the figure, in inches


@styled
def confusion_matrix(matrix: ArrayLike, classes: Sequence[str]) -> Figure:
    """A confusion matrix: errors in orange, the right ones in pale blue.

    The opacity of orange grows with the square root of the error's share of the true class, up to a quarter of the
    class: one error in a hundred has a fifth of the strongest colour. Numbers are images; where there is no room for
    their digits, percent of the true class; where there is none for these, they are left out.

    matrix: integers (K, K), rows true, columns predicted (metrics.confusion_matrix). classes: K names.
    Raises ValueError where they do not fit.
    """
    counts = np.asarray(matrix)
    if counts.ndim != 2 or counts.shape != (len(classes), len(classes)) or not len(classes):
        raise ValueError(f"confusion_matrix: matrix must have shape ({len(classes)}, {len(classes)}), as there are so "
                         f"many classes, got {counts.shape}")
    k = len(counts)
    names = [style.short(name, 16) for name in classes]
    letters = style.longest(names)
    left = letters * _LETTER + 0.3      # of the cells
    smallest = _SMALLEST if k <= _FEW else max(_SMALLEST, _room(str(counts.max())))
    side = min(max(WIDTH - left, k * smallest), _LARGEST)
    cell = side / k
    flat = letters * _LETTER < cell
    figure = style.figure(side + left, side + 0.6 + (0 if flat else left - 0.3))
    ax = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    ax.imshow(colours(shares), interpolation="none")
    for axis, turned in ((ax.xaxis, 0 if flat else 90), (ax.yaxis, 0)):
        axis.set_ticks(range(k), names, rotation=turned, fontsize=min(SIZE, 60 * cell), parse_math=False)
        axis.set_ticks(np.arange(k + 1) - 0.5, minor=True)
    ax.grid(which="minor", color=LINES, lw=0.7 if k <= 30 else 0.3)
    ax.tick_params(which="both", length=0)
    ax.spines[:].set_color(GREY)
    words, unit = _words(counts, shares, cell)
    for (i, j), word in words.items():
        ax.text(j, i, word, ha="center", va="center", color=TEXT)
    ax.set_xlabel("predicted class")
    ax.set_ylabel("true class")
    total = int(counts.sum())
    right = f", {np.trace(counts) / total:.2%} right" if total else ""
    ax.set_title(f"{total:,} images{right}{unit}")
    return figure


def colours(shares: np.ndarray) -> np.ndarray:
    """The colour of each cell, float (K, K, 4): red, green, blue and opacity from 0 to 1. shares: float (K, K), of the
    rows."""
    from matplotlib.colors import to_rgba
    opacity = STRONGEST * np.sqrt(np.minimum(shares / FULL, 1))
    result = np.empty((*shares.shape, 4))
    result[:] = to_rgba(ORANGE)
    result[..., 3] = opacity
    i = np.arange(len(shares))
    result[i, i] = to_rgba(BLUE)
    result[i, i, 3] = RIGHT * shares[i, i]
    return result


def _words(counts: np.ndarray, shares: np.ndarray, cell: float) -> tuple[dict[tuple[int, int], str], str]:
    """What is written into cells of so many inches, and its unit in words."""
    cells = [(int(i), int(j)) for i, j in np.argwhere(counts)]
    images = {(i, j): f"{counts[i, j]}" for i, j in cells}
    percent = {(i, j): f"{100 * shares[i, j]:.0f}" if shares[i, j] >= 0.005 else "<1" for i, j in cells}
    for words, unit in ((images, ""), (percent, "; numbers: % of the true class")):
        if cell >= max((_room(word) for word in words.values()), default=0) and cell >= 0.99 * _SMALLEST:
            return words, unit
    return {}, ""


def _room(word: str) -> float:
    """How many inches of a cell a number takes."""
    return len(word) * _LETTER + 0.02
