"""Data sets of one's own: a folder with one sub-folder of pictures a class, or arrays in an .npz file."""

import math
import os
import warnings
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np

from .dataset import Dataset, whole_number
from .errors import DataFileError, DataNotFoundError
from .pictures import SUFFIXES, find, hidden, look_at, read_picture

HELD_OUT = 0.2  # share of each class that is held out where there is no folder to test on
_TEST_FOLDERS = ("test", "val", "valid", "validation")  # the first that is there
_SIZE, _LARGEST_UNASKED, _LARGEST = 32, 64, 4096  # pixels a side of the images
_NAMED = 10  # unreadable files that a warning names


class UnreadableFiles(UserWarning):
    """Some pictures of a folder could not be read and were left out.

    Attribute `files`: list of str, each the path of a file and what is wrong with it.
    """

    def __init__(self, folder, files):
        self.files = files
        more = [f"and {len(files) - _NAMED} more"] if len(files) > _NAMED else []
        lines = [f"{folder}: left out {len(files)} file(s) that can't be read:", *files[:_NAMED], *more]
        super().__init__("\n  ".join(lines))


def load_own(path, image_size=None, channels=None, seed=0):
    """Load images of one's own: (training set, held-out set), two Datasets.

    path: a folder (see `read_folder`) or an .npz file (see `read_npz`). image_size, channels: of a folder's
        images. seed: of what is held out where there is no folder to test on: a fifth of each class, of
        less than 3 images none.

    Mean and std of both are those of the training set's pixels.
    Raises DataNotFoundError (a FileNotFoundError) where there is no such path; DataFileError (a ValueError)
    where there are not two classes, or one has no images; and as the two functions named do.
    """
    path = Path(path).expanduser()
    seed = whole_number("load", "seed", seed, least=0)
    if path.is_dir():
        train, test = read_folder(path, image_size, channels)
    elif path.is_file():
        train, test = read_npz(path), None
    else:
        raise DataNotFoundError(f"{path}: there is no such folder or .npz file")
    counts = np.bincount(train.labels, minlength=train.num_classes)
    if len(counts) < 2:
        raise DataFileError(f"{path}: there must be two classes at least, found {', '.join(train.classes) or 'none'}")
    if not counts.all():
        empty = int(counts.argmin())
        raise DataFileError(f"{path}: the class {train.classes[empty]!r} (label {empty}) has no training images")
    if test is None:
        train, test = train.split(HELD_OUT, seed)
        if len(test) == 0:
            raise DataFileError(f"{path}: there are too few images to hold any out; it takes 3 of a class, 5 or more "
                                "are better")
    mean, std = _moments(train.images)
    return tuple(Dataset(part.images, part.labels, part.classes, mean, std, part.name) for part in (train, test))


def _moments(images):
    """Mean and standard deviation of each channel, in the units of a Dataset; 1 for one that is all the same."""
    white = 255.0 if images.dtype == np.uint8 else 1.0
    step = max(1, (1 << 22) // images[0].size)

    def mean(function):
        sums = [function(images[i : i + step].astype(np.float64) / white).sum(axis=(0, 2, 3))
                for i in range(0, len(images), step)]  # fmt: skip
        return np.sum(sums, axis=0) / images[:, 0].size

    centre = mean(lambda x: x)
    std = np.sqrt(mean(lambda x: (x - centre[:, None, None]) ** 2))
    return centre, np.where(std > 0, std, 1)


# ------------------------------------------------------------------------------------------ folders


def read_folder(path, image_size=None, channels=None):
    """Read the pictures of a folder: (training set, test set or None), with mean 0 and std 1.

    path: a folder with one sub-folder a class, named as the class; or one that has nothing but train and
        test (or val, valid, validation) in it, both such folders. Pictures further down belong to the class
        above them.
    image_size: pixels a side to which every picture is resized and cropped, 1 to 4096. Default: the shorter
        side that most pictures have, if that is at most 64; else 32.
    channels: 1 (grey) or 3 (RGB). Default: grey where all pictures are stored as grey.

    Hidden files, links to folders, and files that are no pictures by their names are passed over. Pictures
    that can't be read are left out, with a warning, UnreadableFiles, that counts and names them.

    Raises TypeError or ValueError for an image_size or channels out of range, DataFileError (a ValueError)
    where there are no classes or no pictures, OSError where a folder can't be read, ModuleNotFoundError
    naming the extra to install where Pillow is missing.
    """
    path = Path(path)
    if image_size is not None and whole_number("load", "image_size", image_size, least=1) > _LARGEST:
        raise ValueError(f"load: image_size must be at most {_LARGEST}, not {image_size}")
    if channels not in (None, 1, 3):
        raise ValueError(f"load: channels must be 1 (grey), 3 (RGB) or None, not {channels!r}")
    classes, parts = _find_pictures(path)
    unreadable, looks = [], {}

    def attempt(read, file, *arguments):
        try:
            return read(file, *arguments)
        except (OSError, ValueError) as error:
            unreadable.append(str(error))

    for part in parts:
        looks.update((file, look) for file, _ in part if (look := attempt(look_at, file)) is not None)
    if channels is None:
        channels = 1 if all(grey for grey, _ in looks.values()) else 3
    if image_size is None:
        side, count = Counter(side for _, side in looks.values()).most_common(1)[0] if looks else (_SIZE, 0)
        image_size = side if 2 * count > len(looks) and side <= _LARGEST_UNASKED else _SIZE
    sets = []
    for part in parts:
        part = [(file, label) for file, label in part if file in looks]
        images, labels = np.empty((len(part), channels, image_size, image_size), np.uint8), []
        for file, label in part:
            if (picture := attempt(read_picture, file, channels, image_size)) is not None:
                images[len(labels)] = picture
                labels.append(label)
        sets.append(Dataset(images[: len(labels)], labels, classes, name=path.resolve().name))
    if unreadable:
        warnings.warn(UnreadableFiles(path, unreadable), stacklevel=2)
    if not all(map(len, sets)):
        raise DataFileError(f"{path}: there are no pictures{' to test on' if len(sets[0]) else ''} that can be read "
                            f"({', '.join(SUFFIXES)})")
    return sets[0], sets[1] if len(sets) == 2 else None


def _find_pictures(path):
    """The classes' names, and a list of (file, label) for the training set and, if there is one, the test set."""
    folders = _subfolders(path)
    by_use = {name.lower(): folder for name, folder in folders.items()}
    test = next((by_use[name] for name in _TEST_FOLDERS if name in by_use), None)
    tops = [folders]
    if test is not None and "train" in by_use and by_use.keys() <= {"train", *_TEST_FOLDERS}:
        tops = [_subfolders(by_use["train"]), _subfolders(test)]
        if unknown := sorted(tops[1].keys() - tops[0].keys()):
            raise DataFileError(f"{test}: the class {unknown[0]!r} is not among those of {by_use['train']}")
    classes = list(tops[0])
    if len(classes) < 2:
        raise DataFileError(f"{path}: there must be a sub-folder of pictures for each of two classes at least (or "
                            f"train and test with such), found {', '.join(classes) or 'none'}")
    for name in classes:
        if not name.isprintable():
            raise DataFileError(f"{path}: {name!r} names no class: it has characters that can't be printed")
    return classes, [
        [(file, label) for label, name in enumerate(classes) if name in top for file in find(top[name])]
        for top in tops
    ]


def _subfolders(folder):
    """{name: path} of the sub-folders that are not hidden, in the order of their names."""
    found = [entry for entry in folder.iterdir() if entry.is_dir() and not hidden(entry.name)]
    return {entry.name: entry for entry in sorted(found)}


# ------------------------------------------------------------------------------------------ arrays


def read_npz(path):
    """Read a file that numpy.savez or savez_compressed wrote: a Dataset with mean 0 and std 1.

    path: an .npz file with `images`, (N, H, W), (N, H, W, C) or (N, C, H, W) with C from 1 to 4, uint8 or
        floats in a unit of your own; `labels`, integers (N,) that count from 0; and, if they have names,
        `classes`, strings. Nothing is unpickled, and no more memory taken than the file's size bears out.

    The Dataset's images are uint8 or float32. Raises DataFileError (a ValueError) naming the file where it
    holds anything else or is damaged.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as file:
            images, labels = _read_npy(path, file, "images"), _read_npy(path, file, "labels")
            classes = _read_npy(path, file, "classes") if "classes.npy" in file.namelist() else None
    except DataFileError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy have many ways to say that a file is damaged
        raise DataFileError(f"{path}: not a readable .npz file ({error})") from None
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise DataFileError(f"{path}: images must be uint8 (0 to 255) or floats, not {images.dtype}")
    if images.ndim == 4:
        first, last = (1 <= images.shape[axis] <= 4 for axis in (1, 3))
        if last and not first:
            images = images.transpose(0, 3, 1, 2)
    if images.ndim not in (3, 4) or (images.ndim == 4 and first == last):
        raise DataFileError(f"{path}: images must be of shape (N, H, W), (N, H, W, C) or (N, C, H, W) with C from 1 "
                            f"to 4 and H, W larger, not {images.shape}")
    if images.dtype != np.uint8:
        with np.errstate(over="ignore"):
            images = images.astype(np.float32)
        if not np.isfinite(images).all():
            raise DataFileError(f"{path}: images must be finite, but there are NaN or infinite pixels")
    if classes is not None:
        if classes.ndim != 1 or classes.dtype.kind != "U":
            raise DataFileError(f"{path}: classes must be strings (K,), not {classes.dtype} {classes.shape}")
        classes = classes.tolist()
    try:
        return Dataset(images, labels, classes, name=path.stem)
    except (TypeError, ValueError) as error:
        raise DataFileError(f"{path}: {error}") from None


def _read_npy(path, file, name):
    """One array of a zip file; what the headers promise is believed only as far as the file can hold it."""
    if f"{name}.npy" not in file.namelist():
        raise DataFileError(f"{path}: there is no array {name!r} in it, but {', '.join(file.namelist()) or 'nothing'}")
    info = file.getinfo(f"{name}.npy")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataFileError(f"{path}: {name} is compressed in a way that numpy.savez does not use")
    with file.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise DataFileError(f"{path}: {name} is of .npy version {version}, not (1, 0) or (2, 0)")
        read_header = getattr(np.lib.format, f"read_array_header_{version[0]}_{version[1]}")
        shape, fortran, dtype = read_header(stream)
        if dtype.hasobject or dtype.itemsize == 0:
            raise DataFileError(f"{path}: {name} must hold numbers or strings, not {dtype} (which would be unpickled)")
        promised = math.prod(shape) * dtype.itemsize
        most = min(info.file_size, 1032 * os.path.getsize(path))  # deflate cannot pack tighter than 1032
        if not 0 <= promised <= most:
            raise DataFileError(f"{path}: {name} promises {shape} of {dtype}, {promised} bytes, but there can be "
                                f"{most} at most")
        values = np.empty(promised, np.uint8)
        view, found = memoryview(values), 0
        while found < promised and (n := stream.readinto(view[found : found + (1 << 20)])):
            found += n
        if found < promised or stream.read(1):
            raise DataFileError(f"{path}: {name} is not the {promised} bytes long that its header promises")
    array = values.view(dtype).reshape(shape, order="F" if fortran else "C")
    return array.astype(dtype.newbyteorder("="), copy=False)
