"""The class of all figures. Imported when the first one is drawn, because it imports matplotlib."""
from __future__ import annotations

from matplotlib.figure import Figure

from cnn.plots import files


class Picture(Figure):
    """A Figure that a notebook shows: once, as the value of its cell.

    Figures made without pyplot are shown only after `%matplotlib inline`. With this method they always are, and pyplot,
    which shows every figure it has made at the end of a cell, does not know them.
    """

    def _repr_png_(self) -> bytes:
        return files.png(self)
