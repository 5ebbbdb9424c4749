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

    COLUMNS = ("epoch", "lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "seconds",
               "images_per_second")

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

    def save(self, path):
        """Write a CSV file, whole or not at all."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self.COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self)
        files.write(path, text.getvalue().encode())
