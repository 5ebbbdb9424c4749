"""Images and labels in an .npz file, as numpy.savez writes it. Nothing in the file is ever unpickled."""

import math
import warnings
import zipfile
from pathlib import Path

import numpy as np

from .dataset import Dataset, altered
from .errors import DataFileError
from .limits import empty_bytes, file_size, most_unpacked

PARTS = {  # what the arrays of each part may be called
    "training": (("images", "labels"), ("train_images", "train_labels"), ("x_train", "y_train")),
    "validation": tuple(
        pair
        for part in ("val", "valid", "validation")
        for pair in ((f"{part}_images", f"{part}_labels"), (f"x_{part}", f"y_{part}"))
    ),
    "test": (("test_images", "test_labels"), ("x_test", "y_test")),
}


def read_npz(path):
    """Read a file that numpy.savez or savez_compressed wrote: a Dataset with mean 0 and std 1.

    path: an .npz file with `images`, (N, H, W), (N, H, W, C) or (N, C, H, W) with C from 1 to 4, uint8 or
        floats in a unit of your own; `labels`, integers (N,) that count from 0; and, if they have names,
        `classes`, strings. Nothing is unpickled, and no more memory taken than the file's size bears out.

    The Dataset's images are uint8 or float32. Raises DataFileError (a ValueError) naming the file where it
    holds anything else, is damaged, or unpacks to more than 128 MiB and a hundred times its size; OSError where it
    cannot be read. Nothing else, whatever the file holds.
    """
    return _read(path, ("training",))[0]["training"]


def read_npz_parts(path):
    """Read all parts of an .npz file: ((training, validation, test), names of the arrays that were passed over).

    Each part is a Dataset as `read_npz` returns it, or None where the file lacks it (not the training part). The
    arrays of validation and test are called `val_images` and `val_labels`, `test_images` and `test_labels`; other
    common names, such as `x_train`, `y_train`, will do. Raises what `read_npz` raises.
    """
    found, passed_over = _read(path, tuple(PARTS))
    return tuple(found[part] for part in PARTS), passed_over


def has_test(path):
    """Whether there are test images in an .npz file, by the names of its arrays; False where it cannot be read."""
    try:
        with zipfile.ZipFile(path) as file:
            names = {name.removesuffix(".npy") for name in file.namelist()}
    except Exception:  # reading it says what is wrong
        return False
    return any(images in names for images, _ in PARTS["test"])


def _read(path, parts):
    path = Path(path)
    arrays, classes, names = _read_arrays(path, parts)
    return datasets(path, arrays, classes, parts), names


def datasets(path, arrays, classes, parts):
    """{part: Dataset with mean 0 and std 1, or None} of arrays.

    path: in errors. arrays: {part: (name of the images, images, labels)} as they are in files. classes: an array of
    strings, or None. parts: those to return. Raises DataFileError (a ValueError) where they do not make data sets.
    """
    if classes is not None:
        classes = _names(path, classes)
    shape = dtype = None
    sets = dict.fromkeys(parts)
    for part, (name, images, labels) in arrays.items():
        images = _as_images(path, name, images)
        shape, dtype = (images.shape[1:], images.dtype) if shape is None else (shape, dtype)
        if (images.shape[1:], images.dtype) != (shape, dtype):
            raise DataFileError(f"{path}: {name} holds {images.shape[1:]} of {images.dtype} an image, but those to "
                                f"train on are {shape} of {dtype}")
        labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
        if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
            wanted = "integers" if labels.dtype.kind not in "iu" else f"of shape ({len(images)},), one per image"
            raise DataFileError(f"{path}: labels must be {wanted}, not {labels.dtype} {labels.shape}")
        sets[part] = images, labels
    try:
        found = {part: Dataset(*pair, classes, name=path.stem) for part, pair in sets.items() if pair}
        most = max((held.classes for held in found.values()), key=len)
        found = {part: altered(held, classes=most) for part, held in found.items()}
    except (TypeError, ValueError) as error:
        raise DataFileError(f"{path}: {error}") from None
    return sets | found


def _read_arrays(path, parts):
    """{part: (name of the images, images, labels)}, the classes or None, and the names that mean nothing."""
    size = file_size(path)
    with open(path, "rb") as raw:
        try:
            with zipfile.ZipFile(raw) as file, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of odd headers, which are refused where they matter
                members = _Members(path, file, size)
                chosen = {part: members.pair(part, PARTS[part]) for part in parts}
                arrays = {part: (pair[0], *map(members.read, pair)) for part, pair in chosen.items() if pair}
                classes = members.read("classes") if "classes" in members.names else None
        except DataFileError:
            raise
        except Exception as error:  # zipfile, zlib and NumPy have many ways to say that a file is damaged
            raise DataFileError(f"{path}: not a readable .npz file ({error})") from None
    known = {"classes", *(name for pair in chosen.values() if pair for name in pair)}
    return arrays, classes, [name for name in members.names if name not in known]


class Arrays:
    """Arrays in .npy files at a path. Subclasses have `read(name)`, which returns one.

    held: names of all files there, a list; names: those of the arrays.
    """

    def __init__(self, path):
        self.path = path
        self.names = [name.removesuffix(".npy") for name in self.held if name.endswith(".npy")]

    def pair(self, part, spellings):
        """The names (images, labels) of a part, or None where there is neither."""
        pairs = [pair for pair in spellings if set(pair) & set(self.names)]
        if len(pairs) > 1:
            raise DataFileError(f"{self.path}: holds {' and '.join(images for images, _ in pairs)}; which are the "
                                f"{part} images?")
        missing = [name for name in (pairs or spellings)[0] if name not in self.names]
        if missing and (pairs or part == "training"):
            held = ", ".join(self.held[:10]) + (f" and {len(self.held) - 10} more" if len(self.held) > 10 else "")
            raise DataFileError(f"{self.path}: there is no array {missing[0]!r} in it, but {held or 'nothing'}"
                                f"{'' if self.names else '; is it an archive of pictures? Then unpack it'}")
        return pairs[0] if pairs else None


class _Members(Arrays):
    """The arrays in a zip file. Together they take no more memory than the file's size bears out."""

    def __init__(self, path, file, size):
        self._file, self._size, self.held = file, size, file.namelist()
        self._left = most_unpacked(size)
        super().__init__(path)

    def read(self, name):
        """One array; what the headers promise is believed only as far as the file can hold it."""
        path, info = self.path, self._file.getinfo(f"{name}.npy")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DataFileError(f"{path}: {name} is compressed in a way that numpy.savez does not use")
        with self._file.open(info) as stream:
            version = np.lib.format.read_magic(stream)
            if version not in ((1, 0), (2, 0)):
                raise DataFileError(f"{path}: {name} is of .npy version {version}, not (1, 0) or (2, 0)")
            read_header = getattr(np.lib.format, f"read_array_header_{version[0]}_{version[1]}")
            shape, fortran, dtype = read_header(stream)
            if dtype.hasobject or dtype.itemsize == 0:
                raise DataFileError(f"{path}: {name} must hold numbers or strings, not {dtype} (which would be "
                                    "unpickled)")
            promised = math.prod(shape) * dtype.itemsize
            most = self._left if info.compress_type == zipfile.ZIP_DEFLATED else min(self._left, self._size)
            if not 0 <= promised <= min(most, info.file_size):
                raise DataFileError(f"{path}: {name} promises {shape} of {dtype}, {promised} bytes, but there can be "
                                    f"{min(most, info.file_size)} at most")
            self._left -= promised
            values = empty_bytes(path, promised)
            view, found = memoryview(values), 0
            while found < promised and (n := stream.readinto(view[found : found + (1 << 20)])):
                found += n
            if found < promised or stream.read(1):
                raise DataFileError(f"{path}: {name} is not the {promised} bytes long that its header promises")
        array = values.view(dtype).reshape(shape, order="F" if fortran else "C")
        return array.astype(dtype.newbyteorder("="), copy=False)


def _names(path, classes):
    if classes.ndim != 1 or classes.dtype.kind != "U":
        raise DataFileError(f"{path}: classes must be strings (K,), not {classes.dtype} {classes.shape}")
    try:
        names = classes.tolist()
        "".join(names).encode()
    except (SystemError, ValueError):  # no such characters, or halves of some
        raise DataFileError(f"{path}: classes must be text, but they hold what are no characters") from None
    return names


def _as_images(path, name, images):
    """Images as (N, H, W) or (N, C, H, W), uint8 or float32."""
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise DataFileError(f"{path}: {name} must be uint8 (0 to 255) or floats, not {images.dtype}")
    if images.ndim == 4:
        first, last = (1 <= images.shape[axis] <= 4 for axis in (1, 3))
        if last and not first:
            images = images.transpose(0, 3, 1, 2)
    if images.ndim not in (3, 4) or (images.ndim == 4 and first == last):
        raise DataFileError(f"{path}: {name} must be of shape (N, H, W), (N, H, W, C) or (N, C, H, W) with C from 1 "
                            f"to 4 and H, W larger, not {images.shape}")
    if images.dtype != np.uint8:
        with np.errstate(all="ignore"):
            images = images.astype(np.float32, copy=False)
    return images
