"""What all figures share: colours, sizes, words."""
from __future__ import annotations

import functools
import math
import unicodedata
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN = "#0072b2", "#d55e00", "#009e73"       # Okabe and Ito 2008
TEXT, GREY, LINES, PAPER = "#1b1b1b", "#5c5c5c", "#dddddd", "#ffffff"
SIZE = 10               # of all text, in points
WIDTH = 3.1             # of a figure with one part, in inches
_RC = {"font.size": SIZE, "axes.titlesize": SIZE, "figure.titlesize": SIZE, "axes.labelsize": SIZE,
       "xtick.labelsize": SIZE, "ytick.labelsize": SIZE, "legend.fontsize": SIZE, "axes.titlelocation": "left",
       "text.color": TEXT, "axes.labelcolor": TEXT, "axes.edgecolor": GREY, "xtick.color": GREY, "ytick.color": GREY,
       "xtick.labelcolor": TEXT, "ytick.labelcolor": TEXT, "grid.color": LINES, "legend.frameon": False,
       "legend.handlelength": 1.4, "legend.handletextpad": 0.4, "legend.columnspacing": 0.8,
       "figure.constrained_layout.h_pad": 0.03, "figure.constrained_layout.w_pad": 0.03,
       "image.composite_image": False, "svg.fonttype": "none", "svg.hashsalt": "cnn"}


def require() -> None:
    """Raise ModuleNotFoundError, naming the extra to install, where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ModuleNotFoundError(f"pictures need matplotlib: pip install 'cnn[plot]' ({error})") from None


def styled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that draws, whatever matplotlibrc and other code have set: all figures look the same."""
    @functools.wraps(function)
    def draw(*arguments: Any, **more: Any) -> Any:
        require()
        from matplotlib import style
        with style.context(["default", _RC]):
            return function(*arguments, **more)
    return draw


def figure(width: float, height: float) -> Figure:
    """An empty figure; width and height in inches."""
    from cnn.plots.figure import Picture
    return Picture(figsize=(width, height), layout="constrained")


def tidy(ax: Axes, title: str, xlabel: str, ylabel: str = "", pad: float = 6) -> None:
    """Title, names and grid of the axes of a curve. pad: points between them and their title."""
    ax.set_title(title, pad=pad)
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.grid(lw=0.7)
    ax.set_axisbelow(True)
    ax.tick_params(length=0)
    ax.spines[["top", "right"]].set_visible(False)


def scale(ax: Axes, image: Any, label: str = "") -> None:
    """A scale of an image's colours beside it."""
    bar: Any = ax.figure.colorbar(image, ax=ax, fraction=0.05, pad=0.02, aspect=12)
    bar.solids.set_rasterized(True)     # one image instead of 256 rectangles in an SVG
    bar.locator = _few(4)
    bar.update_ticks()
    bar.ax.tick_params(length=0)
    bar.outline.set_visible(False)
    bar.set_label(label)


def percent(axis: Any) -> None:
    """Label an axis of shares in percent."""
    from matplotlib.ticker import PercentFormatter
    axis.set_major_formatter(PercentFormatter(1, symbol=" %"))


def whole_numbers(axis: Any) -> None:
    """Label an axis at whole numbers only."""
    axis.set_major_locator(_few(6, integer=True, min_n_ticks=1))


def magnitudes(ax: Axes) -> None:
    """Make the horizontal axis logarithmic, with its labels written out: 0.01, not a power of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=6))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.tick_params(axis="x", which="minor", length=0)


def few_ticks(axis: Any) -> None:
    """Label an axis at five places at most."""
    axis.set_major_locator(_few(5))


def _few(count: int, **more: Any) -> Any:
    from matplotlib.ticker import MaxNLocator
    return MaxNLocator(count, steps=[1, 2, 2.5, 5, 10], **more)


def nothing(ax: Axes) -> None:
    """Say that there is nothing to draw."""
    ax.text(0.5, 0.5, "no values", transform=ax.transAxes, ha="center", va="center", color=GREY)


def finite(values: Any) -> np.ndarray:
    """A float copy, at least one axis, with NaN for infinity."""
    values = np.atleast_1d(np.asarray(values, float)).copy()
    values[~np.isfinite(values)] = np.nan
    return values


def alone(values: np.ndarray) -> bool:
    """Whether a value of (n,) has no neighbour to draw a line to."""
    there = np.pad(~np.isnan(values), 1)
    return bool((there[1:-1] & ~there[:-2] & ~there[2:]).any())


def share(p: float) -> str:
    """A probability in percent."""
    return "–" if math.isnan(p) else f"{p:.0%}" if p >= 0.095 else f"{p:.1%}"


def short(text: Any, most: int) -> str:
    """A name on one line, of at most `most` letters."""
    text = "".join(" " if unicodedata.category(c).startswith("C") else c for c in str(text))
    return text if len(text) <= most else text[:most - 1] + "…"


def longest(names: Iterable[str]) -> int:
    """Letters of the longest name, wide ones (Chinese, Japanese) counted twice."""
    return max((sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in name) for name in names), default=0)
