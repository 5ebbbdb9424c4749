"""CIFAR-10 and CIFAR-100 as their authors publish them: pickles made by Python 2, in a .tar.gz.

None is loaded (see cnn/pickles.py): where a file asks for a call, it is written down what was asked for and
nothing called; the one array is then made from what was written down. An archive is never unpacked to disk:
the members wanted are read into memory, once their sizes have been looked at.
"""

import gzip
import os
import pickle

import numpy as np

from cnn.pickles import CountingFile, Opcodes, Unpickler

from .errors import DataFileError
from .limits import Checksums, file_size

# Bounds on what an image can take up, pixels, label and file name together (really 3106 bytes, 9 reads).
_BYTES_PER_IMAGE = 3200
_READS_PER_IMAGE = 20
_MOST_MEMBERS = 1000  # of an archive (really 9)
_ALLOWANCE = 4096  # for what a file holds besides images: keys, the array's type, ...

_RECONSTRUCT = "numpy.core.multiarray._reconstruct"
_ARRAY = "numpy.ndarray"
_DTYPE = "numpy.dtype"


def read_cifar(paths, md5s, train_size, test_size, label_key, num_classes):
    """Read all batches of a CIFAR data set.

    paths: one .tar.gz archive, or one file per batch.
    md5s: MD5 (hex) of every batch by its file name, in the order of the images; the last batch is the test
        set, the others have equal parts of the training set. Where the SHA-256 that belongs to an MD5 is known
        (sources.py), that is checked too.
    train_size, test_size: how many images there must be.
    label_key: "labels", or "fine_labels" for CIFAR-100.
    num_classes: every label must be less.

    Returns images uint8 (train_size, 3, 32, 32) and labels int64 (train_size,), then the same of the test
    set. Raises DataFileError (a ValueError) naming the file at fault, OSError if one cannot be opened. Nothing else,
    whatever the files hold.
    """
    *train_names, test_name = md5s
    part = train_size // len(train_names)
    train = np.empty((train_size, 3, 32, 32), np.uint8), np.empty(train_size, np.int64)
    test = np.empty((test_size, 3, 32, 32), np.uint8), np.empty(test_size, np.int64)
    places = {name: (train, i * part, part) for i, name in enumerate(train_names)}
    places[test_name] = (test, 0, test_size)
    limits = {name: size * _BYTES_PER_IMAGE + _ALLOWANCE for name, (_, _, size) in places.items()}
    if len(paths) == 1:
        members = _archive_members(os.fspath(paths[0]), limits)
    else:
        members = ((os.path.basename(path), path, _file_bytes(path, limits)) for path in paths)
    for name, where, raw in members:
        checksums = Checksums(md5s[name])
        checksums.update(raw)
        if wrong := checksums.wrong():
            raise DataFileError(
                f"{where}: is not the file it should be, its {wrong[0]} is {wrong[1]}, not {wrong[2]}"
            )
        (images, labels), start, size = places[name]
        batch = slice(start, start + size)
        images[batch], labels[batch] = read_batch(raw, where, size, label_key, num_classes)
    return *train, *test


def read_batch(raw, where, size, label_key, num_classes):
    """Decode one pickled batch.

    raw: the file's bytes. where: what to call the file in messages. size: how many images it must hold.
    label_key, num_classes: as for read_cifar.

    Returns images uint8 (size, 3, 32, 32), values 0 to 255, and labels int64 (size,).
    Raises DataFileError if the pickle asks for anything that a CIFAR batch does not need, or holds
    anything else than `size` images and labels. Nothing else, whatever the bytes are.
    """
    file = CountingFile(raw, size * _READS_PER_IMAGE + _ALLOWANCE, "CIFAR file")
    try:
        batch = _Unpickler(file, encoding="bytes").load()
    except Exception as error:  # what a malformed pickle raises is anybody's guess
        raise DataFileError(f"{where}: is not a CIFAR batch: {_short(error)}") from None
    if type(batch) is not dict:
        raise DataFileError(f"{where}: holds a {type(batch).__name__} where a CIFAR batch holds a dict")
    images = _array(batch.get(b"data"), size * 3072)
    if images is None:
        raise DataFileError(f"{where}: 'data' is not an array of uint8 of shape ({size}, 3072)")
    labels = batch.get(label_key.encode())
    if type(labels) is not list or len(labels) != size or set(map(type, labels)) - {int}:
        raise DataFileError(f"{where}: {label_key!r} is not a list of {size} integers")
    for wrong in (min(labels, default=0), max(labels, default=0)):
        if not 0 <= wrong < num_classes:
            raise DataFileError(f"{where}: label {wrong}; labels must be from 0 to {num_classes - 1}")
    return images.reshape(size, 3, 32, 32), np.array(labels, np.int64)


# --- pickles ---


class _Call:
    """A call that a pickle asked for and did not get."""

    __slots__ = ("args", "function", "state")

    def __init__(self, function, args):
        self.function = function
        self.args = args
        self.state = None


class _Unpickler(Unpickler):
    dispatch = Opcodes(pickle.BINSTRING, pickle.SHORT_BINSTRING, kind="CIFAR file")
    names, keys = frozenset((_RECONSTRUCT, _ARRAY, _DTYPE)), bytes

    def load_reduce(self):
        args = self.stack.pop()
        self.stack.append(_Call(self.stack.pop(), args))

    def load_build(self):
        state = self.stack.pop()
        self.stack[-1].state = state


def _array(made, size):
    """The uint8 array of `size` numbers that a pickle described, flat; None if it described another."""
    if not isinstance(made, _Call) or made.function != _RECONSTRUCT:
        return None
    match made.state:  # version, shape, type, whether in Fortran's order, the numbers
        case (1, (int(), 3072), _Call(function=dtype, args=(b"u1", *_)), False, bytes(data)) if (
            dtype == _DTYPE and len(data) == size
        ):
            return np.frombuffer(data, np.uint8)
    return None


# --- files ---


def _file_bytes(path, limits):
    limit, size = limits[os.path.basename(path)], file_size(path)
    if size > limit:
        raise DataFileError(f"{path}: is {size} bytes long, expected at most {limit}")
    with open(path, "rb") as file:
        return file.read(limit)


def _archive_members(path, limits):
    """Yield (name, what to call it in messages, bytes) of every batch in the archive, in the order found."""
    import tarfile

    missing, left = set(limits), _MOST_MEMBERS
    file_size(path)  # refuses what is no regular file
    with open(path, "rb") as file:
        stream = _BoundedFile(gzip.GzipFile(fileobj=file), sum(limits.values()) + (1 << 20), path)
        try:
            with tarfile.open(fileobj=stream, mode="r|", bufsize=1 << 18) as tar:
                while missing and (member := tar.next()):
                    left -= 1
                    if left < 0:
                        raise DataFileError(f"{path}: refused, it has more than {_MOST_MEMBERS} members")
                    name = member.name.rpartition("/")[2]
                    if name in missing:
                        missing.remove(name)
                        where = f"{path}: member {member.name!r}"
                        _check_member(member, where, limits[name])
                        yield name, where, tar.extractfile(member).read()
        except DataFileError:
            raise
        except Exception as error:  # from tarfile, gzip and zlib: whatever a damaged archive leads to
            raise DataFileError(f"{path}: damaged or cut-off archive: {_short(error)}") from None
    if missing:
        raise DataFileError(f"{path}: does not hold {', '.join(sorted(missing))}")


def _check_member(member, where, limit):
    if not member.isreg():
        raise DataFileError(f"{where}: refused, it is no regular file (a link, a folder or a device)")
    if member.name.startswith("/") or ".." in member.name.split("/"):
        raise DataFileError(f"{where}: refused, its path leads out of the archive")
    if not 0 <= member.size <= limit:
        raise DataFileError(f"{where}: refused, its size is {member.size} bytes, expected at most {limit}")


class _BoundedFile:
    """A file to read from, which refuses to give more than `limit` bytes: the guard against a gzip bomb."""

    def __init__(self, file, limit, path):
        self._file = file
        self._left = limit
        self._error = f"{path}: refused, it unpacks to more than {limit} bytes"

    def read(self, n):
        data = self._file.read(n)
        self._left -= len(data)
        if self._left < 0:
            raise DataFileError(self._error)
        return data


def _short(error):
    return str(error)[:200] or type(error).__name__
