"""Figures as files."""
from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

import numpy as np

from cnn import files
from cnn.plots.style import styled

if TYPE_CHECKING:
    import os
    from typing import Any

    from matplotlib.figure import Figure

_DPI = 130


@styled
def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file."""
    return _saved(figure, format="png", dpi=_DPI, bbox_inches="tight", pad_inches=0.08)


def save(figure: Figure, path: str | os.PathLike) -> None:
    """Write a figure to a PNG file, whole or not at all. Raises OSError naming the file."""
    files.write(path, png(figure))


@styled
def raw_svg(figure: Figure) -> bytes:
    """A figure as matplotlib writes it as SVG, with text as text."""
    return _saved(figure, format="svg", metadata={"Date": None}, bbox_inches="tight", pad_inches=0.02)


def _saved(figure: Figure, **options: Any) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.filterwarnings("ignore", r"Glyph .* missing", UserWarning)     # a class name in a rare script
        figure.savefig(file, facecolor="white", **options)
    return file.getvalue()
