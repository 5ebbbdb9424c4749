"""What a training run measured, epoch by epoch."""
from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

from cnn import files
from cnn.text import html_table

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping
    from typing import Any

    from matplotlib.figure import Figure


class History(list):
    """A list of rows, one dict for each epoch.

    Keys: `epoch` (from 1), `lr` (of its last step), `train_loss` and `train_accuracy` (means over the
    epoch's images, each taken before the step that it led to), `val_loss` and `val_accuracy` (NaN without
    validation data), `val_` and the name of each of the trainer's metrics, `seconds` (of training),
    `images_per_second`. Attribute `extra`: tuple of the keys that there are besides COLUMNS.
    """

    TIMING = ("seconds", "images_per_second")
    COLUMNS = ("epoch", "lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy", *TIMING)

    extra: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """All keys, in order: a tuple of str."""
        return (*(name for name in self.COLUMNS if name not in self.TIMING), *self.extra, *self.TIMING)

    def column(self, name: str) -> list:
        """The figure `name` over all epochs, as a list."""
        return [row[name] for row in self]

    @classmethod
    def load(cls, path: str | os.PathLike, skipped: list[str] | None = None) -> History:
        """Read a CSV file that `save` wrote: epochs as int, all else as float; more columns are kept.

        skipped: a list; lines that are damaged are then left out, and what is wrong with each is appended to it.
        Raises OSError, and ValueError naming the file where it is damaged.
        """
        import csv  # here, to keep "import cnn" fast

        text = files.read_text(path)
        history, rows = cls(), csv.DictReader(io.StringIO(text, newline=""), strict=True)
        try:
            if "epoch" not in (rows.fieldnames or ()):
                raise ValueError("it has no column epoch")
            history.extra = tuple(name for name in rows.fieldnames or () if name not in cls.COLUMNS)
            while True:
                try:
                    history.append(_row(next(rows)))
                except StopIteration:
                    return history
                except (ValueError, TypeError, csv.Error) as error:
                    if skipped is None:
                        raise ValueError(f"line {rows.line_num}: {error}") from None
                    skipped.append(f"line {rows.line_num}: {error}")
        except (ValueError, csv.Error) as error:
            raise ValueError(f"{path}: not a history of a run ({error})") from None

    def __getitem__(self, i: Any) -> Any:
        if not isinstance(i, slice):
            return super().__getitem__(i)
        part = History(super().__getitem__(i))
        part.extra = self.extra
        return part

    def plot(self) -> Figure:
        """Loss and accuracy by epoch, as a matplotlib figure; see cnn.plots.curves. Raises ModuleNotFoundError where
        matplotlib is missing."""
        from cnn import plots  # here, to keep "import cnn" fast
        return plots.curves(self)

    def _repr_html_(self) -> str:
        """The table that a notebook shows; columns without any number are left out."""
        names = [name for name in self.columns if any(row.get(name, math.nan) == row.get(name) for row in self)]
        return html_table([name.replace("_", " ") for name in names],
                          [[_short(name, row.get(name, math.nan)) for name in names] for row in self])

    def results(self) -> list[dict]:
        """The rows without what depends on the clock, as a list of dicts."""
        return [{name: value for name, value in row.items() if name not in self.TIMING} for row in self]

    def timing(self) -> list[dict]:
        """What `results` leaves out of the rows."""
        return [{name: row[name] for name in self.TIMING} for row in self]

    @classmethod
    def joined(cls, results: Iterable[Mapping], timing: Iterable[Mapping], extra: tuple[str, ...] = ()) -> History:
        """The History of such `results` and `timing`, with these `extra` keys. Raises ValueError for anything else."""
        history = cls({**row, **times} for row, times in zip(results, timing, strict=True))
        history.extra = extra
        if any(set(row) != set(history.columns) for row in history):
            raise ValueError(f"History: each row must have {', '.join(history.columns)}")
        return history

    def to_csv(self, header: bool = True) -> str:
        """The text of a CSV file. header: whether to begin with the names of the columns."""
        import csv  # here, to keep "import cnn" fast

        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, lineterminator="\n", extrasaction="ignore")
        if header:
            writer.writeheader()
        writer.writerows(self)
        return text.getvalue()

    def save(self, path: str | os.PathLike) -> None:
        """Write a CSV file, `path`, whole or not at all."""
        files.write(path, self.to_csv().encode())


def _short(name: str, value: float) -> str:
    """A figure in a table, rounded."""
    if math.isnan(value):
        return ""
    if name == "epoch":
        return f"{value}"
    if name.endswith("accuracy"):
        return f"{value:.2%}"
    return f"{value:,.0f}" if name == "images_per_second" else f"{value:.2f}" if name == "seconds" else f"{value:.4g}"


def _row(texts: dict) -> dict[str, float]:
    """The numbers of one line. Raises ValueError or TypeError where they are none."""
    if None in texts or None in texts.values():
        raise ValueError("it must have one value per column")
    row = {name: float(text) for name, text in texts.items() if name != "epoch"}
    epoch = int(texts["epoch"])
    if not 0 <= epoch < 2**53:
        raise ValueError(f"epoch must be from 0 to 2**53, got {epoch}")
    return {name: epoch if name == "epoch" else row[name] for name in texts}
