"""IDX files, the format of MNIST: a few big-endian sizes, then the numbers themselves.

    bytes 0-1   zero
    byte  2     type of the numbers (0x08 = uint8)
    byte  3     how many dimensions
    then        one big-endian uint32 per dimension, e.g. count, rows, columns
    then        the numbers, last dimension fastest

So a file of images begins 00 00 08 03, a file of labels 00 00 08 01. The header is believed only as far as
the file's own length bears it out (limits.py).
"""

from __future__ import annotations

import math
import os
import sys
from typing import TYPE_CHECKING

import numpy as np

from .errors import DataFileError
from .limits import Checksums, empty_bytes, file_size, most_unpacked

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MAX_DIMENSIONS = 32  # what every NumPy can hold
_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 20  # bytes read at a time


def read_idx(path: str | os.PathLike, md5: str | None = None, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Read one IDX file, gzipped or not (its first bytes tell, not its name).

    path: the file.
    md5: if given, the MD5 (hex) that the file must have when it is unpacked; where the SHA-256 that belongs to it
        is known (sources.py), that is checked too.
    shape: if given, the shape that the array must have, e.g. (60000, 28, 28).

    Returns an array of the file's shape and type: uint8, int8, int16, int32, float32 or float64.
    Raises DataFileError (a ValueError) if the file is not a whole IDX file of that MD5 and shape, is packed more than
    a hundredfold and larger than 128 MiB, or does not fit into memory; OSError (FileNotFoundError, ...) if it cannot
    be read. Nothing else, whatever the file holds.
    """
    path = os.fspath(path)
    try:
        return _read(path, md5, shape)
    except DataFileError as error:
        if md5 is None:
            raise
        raise DataFileError(f"{error}; the right file has, unpacked, the MD5 {md5}") from None


def read_idx_pair(images_path: str | os.PathLike, labels_path: str | os.PathLike, num_classes: int | None = None,
                  md5s: Sequence[str | None] = (None, None),
                  shape: tuple[int, ...] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Read a file of images and the file of their labels.

    images_path, labels_path: IDX files of uint8, gzipped or not.
    num_classes: if given, every label must be less.
    md5s: the MD5 (hex) that each of the two must have when unpacked, or None.
    shape: if given, the shape (N, H, W) that the images must have.

    Returns images uint8 (N, H, W), values 0 to 255, and labels int64 (N,).
    Raises DataFileError (a ValueError) naming the file at fault, OSError if one cannot be read.
    """
    images = read_idx(images_path, md5s[0], shape)
    labels = read_idx(labels_path, md5s[1])
    for path, array, ndim, what in ((images_path, images, 3, "images"), (labels_path, labels, 1, "labels")):
        if array.dtype != np.uint8 or array.ndim != ndim:
            raise DataFileError(
                f"{path}: holds {array.dtype} in {array.ndim} dimension(s); "
                f"a file of {what} holds uint8 in {ndim} (magic 0x{0x800 + ndim:08x})"
            )
    if len(labels) != len(images):
        raise DataFileError(
            f"{labels_path}: holds {len(labels)} labels, but {images_path} holds {len(images)} images; "
            "there must be one label per image"
        )
    if num_classes is not None and len(labels) and labels.max() >= num_classes:
        raise DataFileError(
            f"{labels_path}: label {labels.max()} at position {int(labels.argmax())}; "
            f"labels must be from 0 to {num_classes - 1}"
        )
    return images, labels.astype(np.int64)


def _read(path, md5, shape):
    import gzip  # here, to keep "import cnn" fast
    import zlib

    size_on_disk = file_size(path)
    with open(path, "rb") as file:
        zipped = file.read(2) == _GZIP_MAGIC
        file.seek(0)
        stream = gzip.GzipFile(fileobj=file) if zipped else file
        try:
            header, dtype, dimensions = _read_header(path, stream)
            if shape is not None and dimensions != tuple(shape):
                raise DataFileError(f"{path}: holds an array of shape {dimensions}, expected {tuple(shape)}")
            promised = math.prod(dimensions) * dtype.itemsize
            most = most_unpacked(size_on_disk) if zipped else size_on_disk - len(header)
            if promised > most:
                raise DataFileError(
                    f"{path}: its header promises {_in_words(dimensions, dtype)}, but a file of "
                    f"{size_on_disk} bytes {'may unpack to' if zipped else 'cannot hold more than'} {most}"
                    f"{' at most' if zipped else ''}"
                )
            values = empty_bytes(path, promised)
            checksums = Checksums(md5)
            checksums.update(header)
            found = _read_into(stream, values, checksums.update if md5 is not None else None)
            # One byte more than promised must not be there. Asking for it also makes gzip compare its
            # checksum; what would come after that byte is never unpacked.
            trailing = stream.read(1)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataFileError(f"{path}: damaged or cut-off gzip data ({error})") from None
    if found < promised:
        raise DataFileError(
            f"{path}: its header promises {_in_words(dimensions, dtype)}, but only {found} bytes follow"
        )
    if trailing:
        raise DataFileError(
            f"{path}: more bytes follow than the {_in_words(dimensions, dtype)} that its header promises"
        )
    if md5 is not None and (wrong := checksums.wrong()):
        raise DataFileError(f"{path}: is not the file it should be, its {wrong[0]} unpacked is {wrong[1]}")
    if dtype.byteorder == ">" and sys.byteorder == "little":
        values.view(dtype).byteswap(inplace=True)  # no second array
    try:
        return values.view(dtype.newbyteorder("=")).reshape(dimensions)
    except ValueError as error:  # e.g. no images of 2**32 x 2**32 x 2**32 pixels each
        raise DataFileError(f"{path}: impossible shape {dimensions} ({error})") from None


def _read_header(path, stream):
    """The header's bytes, the dtype of the numbers and the shape as a tuple of ints."""
    magic = stream.read(4)
    if not magic:
        raise DataFileError(f"{path}: is empty; an IDX file begins with four bytes such as 00 00 08 03")
    type_code, ndim = (magic[2], magic[3]) if len(magic) == 4 else (0, 0)
    if magic[:2] != b"\0\0" or type_code not in _DTYPES or not 1 <= ndim <= _MAX_DIMENSIONS:
        raise DataFileError(
            f"{path}: begins with the bytes {magic.hex(' ')}, so it is no IDX file; "
            "images begin with 00 00 08 03, labels with 00 00 08 01"
        )
    sizes = stream.read(4 * ndim)
    if len(sizes) < 4 * ndim:
        raise DataFileError(f"{path}: ends inside its header, which should be {4 + 4 * ndim} bytes long")
    return magic + sizes, np.dtype(_DTYPES[type_code]), tuple(np.frombuffer(sizes, ">u4").tolist())


def _read_into(stream, values, use=None):
    """Fill the bytes of `values` from the stream; returns how many there were.

    `use` is called with each piece in turn, in a thread, while the next one is unpacked.
    """
    from concurrent.futures import ThreadPoolExecutor  # imported here to keep "import cnn" fast

    view = memoryview(values)
    found = 0
    with ThreadPoolExecutor(1) as behind:
        while found < len(view):
            n = stream.readinto(view[found : found + _CHUNK])
            if not n:
                break
            if use:
                behind.submit(use, view[found : found + n])
            found += n
    return found


def _in_words(dimensions, dtype):
    sizes = " x ".join(map(str, dimensions))
    return f"{sizes} numbers = {math.prod(dimensions) * dtype.itemsize} bytes"
