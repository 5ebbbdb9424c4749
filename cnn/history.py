"""What a training run measured, epoch by epoch."""
import csv
import io

from cnn import files


class History(list):
    """A list of rows, one dict for each epoch.

    Keys: `epoch` (from 1), `lr` (of its last step), `train_loss` and `train_accuracy` (means over the
    epoch's images, each taken before the step that it led to), `val_loss` and `val_accuracy` (NaN without
    validation data), `seconds` (of training), `images_per_second`.
    """

    TIMING = ("seconds", "images_per_second")
    COLUMNS = ("epoch", "lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy", *TIMING)

    def column(self, name):
        """One figure over all epochs, as a list."""
        return [row[name] for row in self]

    @classmethod
    def load(cls, path):
        """Read a CSV file that `save` wrote: epochs as int, all else as float; more columns are kept.

        Raises OSError, and ValueError naming the file where it is damaged.
        """
        try:
            with open(path, encoding="utf-8", newline="") as file:
                rows = csv.DictReader(file, strict=True)
                if "epoch" not in (rows.fieldnames or ()):
                    raise ValueError("it has no column epoch")
                return cls({name: int(text) if name == "epoch" else float(text) for name, text in row.items()}
                           for row in rows)
        except (ValueError, TypeError, csv.Error) as error:
            raise ValueError(f"{path}: not a history of a run ({error})") from None

    def __getitem__(self, i):
        return History(super().__getitem__(i)) if isinstance(i, slice) else super().__getitem__(i)

    def results(self):
        """The rows without what depends on the clock, as a list of dicts."""
        return [{name: value for name, value in row.items() if name not in self.TIMING} for row in self]

    def timing(self):
        """What `results` leaves out of the rows."""
        return [{name: row[name] for name in self.TIMING} for row in self]

    @classmethod
    def joined(cls, results, timing):
        """The History of such `results` and `timing`. Raises ValueError for anything else."""
        history = cls({**row, **times} for row, times in zip(results, timing, strict=True))
        if any(set(row) != set(cls.COLUMNS) for row in history):
            raise ValueError(f"History: each row must have {', '.join(cls.COLUMNS)}")
        return history

    def to_csv(self, header=True):
        """The text of a CSV file."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self.COLUMNS, lineterminator="\n")
        if header:
            writer.writeheader()
        writer.writerows(self)
        return text.getvalue()

    def save(self, path):
        """Write a CSV file, whole or not at all."""
        files.write(path, self.to_csv().encode())
