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

    def save(self, path):
        """Write a CSV file, whole or not at all."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self.COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self)
        files.write(path, text.getvalue().encode())
