"""Images and labels in a folder of .npy files, as numpy.save writes them. The images stay in their files."""

import warnings
from pathlib import Path

import numpy as np

from .errors import DataFileError
from .limits import file_size
from .npz import PARTS, Arrays, datasets


def has_arrays(path):
    """Whether a folder holds images to train on in a .npy file."""
    return any(Path(path, f"{images}.npy").is_file() for images, _ in PARTS["training"])


def has_test(path):
    """Whether a folder holds test images in a .npy file."""
    return any(Path(path, f"{images}.npy").is_file() for images, _ in PARTS["test"])


def read_npy_parts(path):
    """Read the arrays of a folder: ((training, validation, test), names of the .npy files that were passed over).

    path: a folder with `train_images.npy` and `train_labels.npy`, and all other arrays, under the same names and of
        the same shapes, as an .npz file may hold (see `read_npz_parts`). Images are uint8 or float32. They are mapped
        into memory and read as they are needed, so that they may be larger than that. Nothing is unpickled.

    Each part is a Dataset with mean 0 and std 1, or None where it is not there (not the training part). Raises
    DataFileError (a ValueError) naming the file where it holds anything else or is damaged, OSError where it cannot be
    read. A file that is cut short while it is mapped ends the process: that is how the system maps files.
    """
    path = Path(path)
    files = _Files(path)
    chosen = {part: files.pair(part, spellings) for part, spellings in PARTS.items()}
    arrays = {part: (pair[0], *map(files.read, pair)) for part, pair in chosen.items() if pair}
    classes = np.array(files.read("classes")) if "classes" in files.names else None
    known = {"classes", *(name for pair in chosen.values() if pair for name in pair)}
    return tuple(datasets(path, arrays, classes, PARTS).values()), [name for name in files.names if name not in known]


class _Files(Arrays):
    """The .npy files of a folder."""

    def __init__(self, path):
        self.held = sorted(entry.name for entry in path.iterdir())
        super().__init__(path)

    def read(self, name):
        """One array, mapped into memory."""
        path = self.path / f"{name}.npy"
        file_size(path)  # refuses what is no regular file
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of odd headers, which are refused where they matter
                array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, TypeError, SyntaxError, OverflowError) as error:
            raise DataFileError(f"{path}: not a readable .npy file ({error})") from None
        if not isinstance(array, np.memmap):
            raise DataFileError(f"{path}: is an archive of several arrays, not one")
        if array.dtype.kind == "f" and (name.endswith("labels") or name.startswith("y")):
            raise DataFileError(f"{path}: labels must be integers, not {array.dtype}; use numpy.save(path, "
                                "labels.astype(numpy.int64))")
        if array.dtype.kind == "f" and array.dtype != np.float32:
            raise DataFileError(f"{path}: must be uint8 or float32, not {array.dtype}, of which a copy would be taken; "
                                "use numpy.save(path, images.astype(numpy.float32))")
        return array
