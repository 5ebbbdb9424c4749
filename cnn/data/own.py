"""Data sets of one's own: a folder with one sub-folder of pictures a class, or arrays in .npz or .npy files."""

import os
import warnings
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import npy
from .dataset import Dataset, altered
from .decoded import decoded
from .described import whole_number
from .errors import DataFileError, DataNotFoundError, DataWarning
from .fetch import expanded
from .moments import constant_images, mean_std
from .npy import has_arrays, read_npy_parts
from .npz import has_test, read_npz, read_npz_parts
from .pictures import DARK, NAMES, find, hidden, is_picture, kinds, look_at

__all__ = ["Survey", "UnreadableFiles", "load_own", "read_folder", "read_npz", "read_npz_parts", "survey"]

TEST_SHARE = 0.2  # share of each class that becomes the test set where there is no part to test on
_VALIDATION_FOLDERS = ("val", "valid", "validation")
_SIZE, _LARGEST_UNASKED, _LARGEST = 32, 64, 4096  # pixels a side of the images
_NAMED = 10  # files that a warning names
_DIM = 4096  # 16-bit values below become less than 16 of 255
_HEADS = {  # what the first bytes of a file say that it is
    b"\x89PNG": "a picture", b"\xff\xd8\xff": "a picture", b"GIF8": "a picture", b"BM": "a picture",
    b"II*\0": "a picture", b"MM\0*": "a picture",
    b"\x93NUMPY": "a single array; numpy.savez('mine.npz', images=..., labels=...) keeps both in one file, and a "
                  "folder with train_images.npy and train_labels.npy may be larger than memory",
    b"\x1f\x8b": "a packed file; unpack it", b"BZh": "a packed file; unpack it",
    b"\xfd7zXZ": "a packed file; unpack it", b"7z\xbc\xaf": "an archive; unpack it", b"Rar!": "an archive; unpack it",
    b"\0\0\x08": "an IDX file; give the name of its data set, as mnist, and its folder as data_dir",
}  # fmt: skip
_WANTED = ("A data set is a folder with one sub-folder of pictures a class, or an .npz file with images and labels, or "
           "a folder with train_images.npy and train_labels.npy")


class UnreadableFiles(DataWarning):
    """Some pictures of a folder could not be read and were left out.

    Attribute `files`: list of str, each the path of a file and what is wrong with it.
    """

    def __init__(self, folder, files):
        self.files = files
        lines = [f"{folder}: left out {len(files)} file(s) that can't be read:", *_some(files)]
        super().__init__("\n  ".join(lines))


def load_own(path, image_size=None, channels=None, seed=0, validation=True, cache=True):
    """Load images of one's own: (training set, validation set or None, test set), Datasets.

    path: a folder of pictures (see `read_folder`) or of .npy files (see `read_npy_parts`), or an .npz file (see
        `read_npz_parts`). image_size, channels: of a folder's
        images. seed: of the test set where there is no part to test on: a fifth of each class, of
        less than 3 images none. validation: whether a validation set is wanted; else one is not read, and a
        DataWarning says so. cache: see `read_folder`.

    Mean and std of all are those of the training set's pixels. A DataWarning tells of what was passed over, and of
    pictures that are the same all over.
    Raises DataNotFoundError (a FileNotFoundError) where there is no such path; DataFileError (a ValueError)
    where there are not two classes, or one has no images; and as the functions named do.
    """
    path = Path(path)
    seed = whole_number("load", "seed", seed, least=0)
    if path.is_dir() and not has_arrays(path):
        parts = read_folder(path, image_size, channels, validation, cache)
    elif path.is_file() or path.is_dir():
        parts = _read_arrays(path, validation)
    elif path.exists():
        raise DataFileError(f"{path}: is neither a folder nor a file, but a pipe or a device")
    else:
        raise DataNotFoundError(f"{path}: there is no such folder or .npz file")
    train, checked, test = parts
    counts = np.bincount(train.labels, minlength=train.num_classes)
    if len(counts) < 2:
        raise DataFileError(f"{path}: there must be two classes at least, found {', '.join(train.classes) or 'none'}")
    if not counts.all():
        empty = int(counts.argmin())
        raise DataFileError(f"{path}: the class {train.classes[empty]!r} (label {empty}) has no training images")
    if test is None:
        train, test = train.split(TEST_SHARE, seed)
    for part, use in ((test, "test on any"), (checked, "validate on any")):
        if part is not None and len(part) == 0:
            raise DataFileError(f"{path}: there are too few images to {use}; it takes 3 of a class, 5 or more "
                                "are better")
    mean, std = mean_std(train)
    return tuple(part if part is None else altered(part, mean=mean, std=std) for part in (train, checked, test))


class Survey(NamedTuple):
    """What there is to know of images of one's own before they are read.

    sides: pixels of the shorter side of each picture in a folder that can be read, a list of int; of arrays
    empty. tested: whether there is a part of its own to test on.
    """

    sides: list[int]
    tested: bool


def survey(path):
    """Look at a folder of pictures, at the heads of its files, or at the names of arrays: a Survey.

    Raises what `load_own` raises where there is no such path, or no classes. All else is left to `load_own` to tell.
    """
    path = Path(expanded(path, "load: "))
    if not path.is_dir():
        return Survey([], path.is_file() and has_test(path))
    if has_arrays(path):
        return Survey([], npy.has_test(path))
    folder = _Folder(path, validation=True)
    looks = [folder.attempt(look_at, file) for part in folder.parts.values() for file, _ in part]
    return Survey([look[1] for look in looks if look is not None], "test" in folder.parts)


def _read_arrays(path, validation):
    if not path.is_dir():
        _refuse_other_files(path)
    (train, checked, test), passed_over = (read_npy_parts if path.is_dir() else read_npz_parts)(path)
    if passed_over:
        _warn(f"{path}: passed over the array(s) {', '.join(passed_over[:_NAMED])}")
    if checked is not None and not validation:
        checked = None
        _warn_unused(path, "its validation images")
    for part in (train, checked, test):
        if part is not None and (same := constant_images(part)):
            _warn(f"{path}: {len(same)} of {len(part)} images hold one value only, from which nothing can be learnt: "
                  f"{', '.join(_some(list(map(str, same))))}")
    return train, checked, test


def _refuse_other_files(path):
    with open(path, "rb") as file:
        head = file.read(8)
    if path.suffix.lower() != ".npz" and not head.startswith(b"PK"):
        said = next((words for start, words in _HEADS.items() if head.startswith(start)), None)
        if said is None and is_picture(path.name):
            said = "a picture"
        raise DataFileError(f"{path}: is {said or 'neither a folder nor an .npz file'}. {_WANTED}")


def _warn(text):
    warnings.warn(DataWarning(text), stacklevel=5)


def _warn_unused(path, what):
    _warn(f"{path}: {what} are not used here; cnn.data.load_parts returns them, too")


def _some(texts):
    """Not more texts than anyone would read."""
    return [*texts[:_NAMED], *([f"and {len(texts) - _NAMED} more"] if len(texts) > _NAMED else [])]


# ------------------------------------------------------------------------------------------ folders


def read_folder(path, image_size=None, channels=None, validation=True, cache=True):
    """Read the pictures of a folder: (training set, validation set or None, test set or None), with mean 0 and std 1.

    path: a folder with one sub-folder a class, named as the class; or one that has nothing in it but train, test and
        val (or valid, validation), all such folders, or train and one of the others, which is then to test on.
        Pictures further down belong to the class above them.
    image_size: pixels a side to which every picture is resized and cropped, 1 to 4096. Default: the shorter
        side that most pictures have, if that is at most 64; else 32.
    channels: 1 (grey) or 3 (RGB). Default: grey where all pictures are stored as grey.
    validation: whether to read a validation set, too.
    cache: whether to keep the decoded pictures for the next time, in a file that is mapped into memory (decoded.py).

    Hidden files and links to folders are passed over. So are files that are no pictures by their names, with a
    DataWarning that counts their kinds. Pictures that can't be read are left out, with a warning, UnreadableFiles,
    that counts and names them. A DataWarning names those that are the same all over.

    Raises TypeError or ValueError for an image_size or channels out of range, DataFileError (a ValueError)
    where there are no classes or no pictures, OSError where a folder can't be read, ModuleNotFoundError
    naming the extra to install where Pillow is missing.
    """
    path = Path(path)
    if image_size is not None and whole_number("load", "image_size", image_size, least=1) > _LARGEST:
        raise ValueError(f"load: image_size must be at most {_LARGEST}, not {image_size}")
    if channels not in (None, 1, 3):
        raise ValueError(f"load: channels must be 1 (grey), 3 (RGB) or None, not {channels!r}")
    folder = _Folder(path, validation)
    if unused := not validation and "validation" in folder.parts:
        folder.left_out = "validation"
    sets = folder.read(channels, image_size, cache)
    if folder.unreadable:
        warnings.warn(UnreadableFiles(path, folder.unreadable), stacklevel=4)
    folder.refuse_what_is_empty(sets)
    folder.warn()
    if unused:
        _warn_unused(path, f"the pictures in {folder.tops['validation'].name}/")
    return sets["training"], sets.get("validation"), sets.get("test")


class _Folder:
    """A folder of pictures: which there are, of which class, and what there is to say about them.

    classes: names. tops: {use: folder}, parts: {use: [(file, label), ...]}, where use is "training" and perhaps
    "validation" and "test".
    """

    def __init__(self, path, validation):
        self.path, self.tops = path, _tops(path)
        self.unreadable, self.left_out = [], None
        self._passed_over = {}  # a Counter of kinds of files for each class's folder
        tops = {use: _subfolders(top) for use, top in self.tops.items()}
        self.classes = list(tops["training"])
        if len(self.classes) < 2:
            raise DataFileError(f"{path}: there must be a sub-folder of pictures for each of two classes at least (or "
                                f"train and test with such), found {', '.join(self.classes) or 'none'}"
                                f"{_hint(path, tops['training'])}")
        for use, top in tops.items():
            unknown = sorted(top.keys() - tops["training"].keys())
            if unknown and (use != "validation" or validation):
                raise DataFileError(f"{self.tops[use]}: the class {unknown[0]!r} is not among those of "
                                    f"{self.tops['training']}")
        for name in self.classes:
            if not name.isprintable():
                raise DataFileError(f"{path}: {name!r} names no class: it has characters that can't be printed")
        self.parts = {
            use: [(file, label) for label, name in enumerate(self.classes) if name in top
                  for file in find(top[name], self._passed_over.setdefault((use, label), Counter()))]
            for use, top in tops.items()
        }  # fmt: skip

    def attempt(self, read, file, *arguments):
        try:
            return read(file, *arguments)
        except (OSError, ValueError) as error:
            self.unreadable.append(str(error))

    def read(self, channels, size, cache):
        """{use: Dataset} of the parts that are not left out."""
        parts = [(use, file, label) for use, part in self.parts.items() for file, label in part]
        taken = [number for number, (use, _, _) in enumerate(parts) if use != self.left_out]
        paths = [file for _, file, _ in parts]
        choose = (channels, size) if channels and size else lambda looks: _chosen(channels, size, looks)
        images, found = decoded(self.path, paths, taken, choose, [channels, size, self.left_out], cache)
        self.unreadable = [f"{paths[number]}{wrong}" for number, wrong in found.unreadable]
        self._same, self._dark = ([paths[number] for number in numbers] for numbers in (found.same, found.dark))
        self._brightest = found.brightest
        odd = {number for number, _ in found.unreadable}
        good, sets, at = [number for number in taken if number not in odd], {}, 0
        for use in self.parts:
            if use == self.left_out:
                continue
            labels = [parts[number][2] for number in good if parts[number][0] == use]
            name = self.path.resolve().name
            if self.tops[use].name.lower() in _VALIDATION_FOLDERS:
                name = f"{name}/{self.tops[use].name}"
            sets[use] = Dataset(images[at : at + len(labels)], labels, self.classes, name=name)
            at += len(labels)
        return sets

    def refuse_what_is_empty(self, sets):
        """Raise DataFileError where a part, or a class to train on, has no pictures."""
        if not all(map(len, sets.values())):
            use = next(use for use, held in sets.items() if not len(held))
            total = sum((count for (of, _), count in self._passed_over.items() if of == use), Counter())
            raise DataFileError(f"{self.path}: there are no pictures{_PURPOSE[use]} that can be read "
                                f"({NAMES}){_but(total)}")
        counts = np.bincount(sets["training"].labels, minlength=len(self.classes))
        if not counts.all():
            empty = int(counts.argmin())
            raise DataFileError(f"{self.path}: the class {self.classes[empty]!r} (label {empty}) has no training "
                                f"images ({NAMES}){_but(self._passed_over['training', empty])}")

    def warn(self):
        """Say what was passed over, and which pictures tell nothing."""
        passed_over = sum(self._passed_over.values(), Counter())
        beside = [entry.name for top in {self.path, *self.tops.values()} for entry in os.scandir(top)
                  if is_picture(entry.name) and not hidden(entry.name)]
        if beside:
            passed_over["in no class's folder"] = len(beside)
        if total := passed_over.total():
            _warn(f"{self.path}: {total:,} file{'s' if total > 1 else ''} passed over: {kinds(passed_over)}; pictures "
                  f"are {NAMES}")
        if self._dark:
            _warn(f"{self.path}: {len(self._dark)} picture(s) become black, because their 16 bits hold no value of "
                  f"{DARK} or more; multiply the values so that they reach 65535: {', '.join(_some(self._dark))}")
        elif self._brightest is not None and self._brightest < _DIM:
            _warn(f"{self.path}: pictures of 16 bits become almost black, because they hold no value above "
                  f"{self._brightest}; multiply the values so that they reach 65535")
        if same := sorted(set(self._same) - set(self._dark)):
            _warn(f"{self.path}: {len(same)} picture(s) hold one value only, from which nothing can be learnt: "
                  f"{', '.join(_some(same))}")


def _chosen(channels, size, looks):
    """(channels, pixels a side) of the images, by what the heads of the pictures say where they are not given. looks:
    an iterator over these, of which no more is taken than is needed."""
    looks = (look for look in looks if look is not None)
    looks = list(looks) if size is None else looks
    if channels is None:
        channels = 1 if all(grey for grey, _ in looks) else 3       # the first in colour decides
    if size is None:
        side, count = Counter(side for _, side in looks).most_common(1)[0] if looks else (_SIZE, 0)
        size = side if 2 * count > len(looks) and side <= _LARGEST_UNASKED else _SIZE
    return channels, size


_PURPOSE = {"training": "", "validation": " to validate on", "test": " to test on"}


def _but(counts):
    return f"; found {kinds(counts)}" if counts.total() else ""


def _tops(path):
    """{use: folder} where the classes' folders are, by what their pictures are for."""
    folders = _subfolders(path)
    by_use = {}
    for name, folder in folders.items():
        use = "validation" if name.lower() in _VALIDATION_FOLDERS else name.lower()
        by_use.setdefault(use, []).append(folder)
    uses = [use for use in ("train", "validation", "test") if use in by_use]
    if "train" not in uses or len(uses) == 1:
        return {"training": path}
    if by_use.keys() - set(uses):
        # Beside other folders, train and test may be classes; not where they have the same sub-folders.
        common = set.intersection(*({*_subfolders(folder)} for use in uses for folder in by_use[use]))
        if common:
            other = next(folder.name for use, (folder, *_) in by_use.items() if use not in uses)
            raise DataFileError(f"{path}: holds {', '.join(uses)} with classes in them, but {other!r} as well; move "
                                "that elsewhere")
        return {"training": path}
    for use in uses:
        if len(by_use[use]) > 1:
            raise DataFileError(f"{path}: holds {' and '.join(repr(f.name) for f in by_use[use])}, of which one only "
                                "can be used; move the other elsewhere")
    if "test" not in uses:  # then the validation pictures are what is tested on
        return {"training": by_use["train"][0], "test": by_use["validation"][0]}
    return {("training" if use == "train" else use): by_use[use][0] for use in uses}


def _hint(path, folders):
    """What may have been meant by a folder without classes."""
    names = {entry.name for entry in os.scandir(path)}
    if {"config.toml", "model.safetensors"} & names:
        return "; this is the folder of a run"
    if idx := sorted(name for name in names if "idx1-ubyte" in name or "idx3-ubyte" in name or name == "test_batch"):
        return (f"; with files such as {idx[0]}, give the name of the data set, as mnist or cifar10, and this folder "
                "as data_dir")
    if arrays := sorted(name for name in names if name.endswith(".npz")):
        return f"; did you mean {path / arrays[0]}?"
    if any(map(is_picture, names)):
        return "; the pictures lie in no class's folder: move them into one for each class"
    for folder in folders.values():
        if len(_subfolders(folder)) > 1:
            return f"; did you mean {folder}?"
    return ""


def _subfolders(folder):
    """{name: path} of the sub-folders that are not hidden, in the order of their names."""
    found = [entry for entry in folder.iterdir() if entry.is_dir() and not hidden(entry.name)]
    return {entry.name: entry for entry in sorted(found)}
