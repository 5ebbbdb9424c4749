"""The pictures of a folder, decoded in threads, once: they are kept in a file that is mapped into memory.

A cache is a folder, `.cnn-cache` among the pictures, or in the user's cache folder where that cannot be written. For
each size and number of channels that was asked for it holds two files: the pixels, uint8 (N, C, H, W) as they are in
memory, and a JSON file with a hash below it, which names them and says what they are of. That is written last, so
that a cache is whole or not there; and whoever writes it holds the folder's lock, so that a second process waits and
then reads.
"""

import hashlib
import json
import math
import os
import time
import warnings
import zlib
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

import cnn.files as files
from cnn.ranks import leads
from cnn.runtime import get_num_threads

from .ahead import read_ahead
from .errors import DataFileError, DataWarning
from .fetch import cache_folder
from .pictures import DARK, look_at, pillow, read_pixels

VERSION = 2  # of the format, and of what is made of a picture
FOLDER = ".cnn-cache"
OFF = "CNN_PICTURE_CACHE"  # the environment variable that is 0 where there is to be no cache
_TOGETHER = 64  # files that a thread takes at once, at most
_PIECE = 1 << 24  # bytes that are checked at once, or that a thread writes at once
_SMALL = 1 << 26  # bytes up to which images are read into memory, as those of other data sets are


def off():
    """Whether the environment says that there is to be no cache. Raises ValueError for what it does not understand."""
    said = os.environ.get(OFF, "1")
    if said not in ("0", "1"):
        raise ValueError(f"{OFF} must be 0 or 1, got {said!r}")
    return said == "0"


class Found(NamedTuple):
    """What reading the pictures has brought; pictures go by their number among those read.

    channels, size: of the images. unreadable: (number, what is wrong, which follows the path), same: those of one
    value only, dark: those of 16 bits that become black. brightest: the largest value of 16 bits, or None.
    """

    channels: int
    size: int
    unreadable: list
    same: list
    dark: list
    brightest: int | None


def decoded(path, paths, taken, choose, request, cache=True):
    """The pictures at some paths: (images uint8 (n, C, size, size), which are those that can be read, and a Found).

    path: the folder of them all. paths: of all pictures. taken: the numbers, in these, of the pictures to decode, in
    order. choose: (channels, size), or a function that makes them of an iterator over what `look_at` says of each
    picture of `paths`, None where it cannot be read, and need not use it up. request: what it depends on besides, which
    JSON can hold. cache: whether to keep the result, and to take one that was kept.

    A DataWarning tells of a cache that was damaged or is out of date, and where none could be written; the images are
    then in memory. Raises DataFileError where they do not fit in there.
    """
    pillow()
    pictures = _Pictures(path, paths, taken, choose)
    if cache and not off() and taken:
        key = hashlib.blake2b(json.dumps(request).encode(), digest_size=8).hexdigest()
        about, failed = _fingerprint(path, paths, taken, request), None
        for folder in _places(Path(path)):
            cached = _Cache(folder, key, about)
            try:
                if (kept := cached.read()) or (leads() and (kept := cached.made(pictures))):
                    return kept
            except OSError as error:
                failed = error
        if failed is not None:
            warnings.warn(DataWarning(f"{path}: the decoded pictures could not be kept ({failed}); they are in memory, "
                                      "for this time only"), stacklevel=5)
    return pictures.in_memory()


def _empty(path, shape):
    try:
        return np.empty(shape, np.uint8)
    except MemoryError:
        sizes = "x".join(map(str, shape[1:]))
        raise DataFileError(f"{path}: {shape[0]:,} images of {sizes} do not fit into the memory of this machine; "
                            "choose a smaller image size") from None


def _shape(found):
    return found.channels, found.size, found.size


# ------------------------------------------------------------------------------------------ reading pictures


class _Pictures:
    """What is to be decoded. The arguments are those of `decoded`."""

    def __init__(self, path, paths, taken, choose):
        self.path, self.paths, self.taken, self._choose = path, paths, taken, choose

    @cached_property
    def _looked_at(self):
        """A Found with channels and size, and {number: what is wrong} of those looked at that cannot be read."""
        if isinstance(self._choose, tuple):
            return Found(*self._choose, [], [], [], None), {}
        unreadable = {}

        def look(numbers):
            return [_attempt(look_at, self.paths[number]) for number in numbers]

        def looks():
            for number, (seen, wrong) in enumerate(_in_threads(look, len(self.paths))):
                if wrong is not None:
                    unreadable[number] = wrong
                yield seen

        with closing(looks()) as seen:
            return Found(*self._choose(seen), [], [], [], None), unreadable

    @property
    def shape(self):
        """Of the array that holds them all, (n, C, H, W)."""
        return len(self.taken), *_shape(self._looked_at[0])

    def read(self, put):
        """Decode them. Returns the Found.

        put(row, images) is called for some at a time, in any order: those from a row on, 0 where one can't be read.
        """
        found, unreadable = self._looked_at
        channels, size = found.channels, found.size

        def read(file, image):
            image[:], brightest = read_pixels(file, channels, size)
            return size > 1 and bool((image == image[:, :1, :1]).all()), brightest

        def some(rows):
            images, said = np.zeros((len(rows), *_shape(found)), np.uint8), []
            for row, image in zip(rows, images, strict=True):
                number = self.taken[row]
                wrong = unreadable.get(number)
                said.append((None, wrong) if wrong is not None else _attempt(read, self.paths[number], image))
            put(rows.start, images)
            return said

        same, dark, most, wrongs = [], [], None, dict(unreadable)
        together = max(1, min(_TOGETHER, _PIECE // math.prod(_shape(found))))
        for number, (said, wrong) in zip(self.taken, _in_threads(some, len(self.taken), together), strict=True):
            if wrong is not None:
                wrongs[number] = wrong
                continue
            alike, brightest = said
            if alike:
                same.append(number)
            if brightest is not None:
                most = max(brightest, most or 0)
                if brightest < DARK:
                    dark.append(number)
        return Found(channels, size, sorted(wrongs.items()), same, dark, most)

    def good(self, found):
        """The rows of those that could be read."""
        unreadable = {number for number, _ in found.unreadable}
        return [row for row, number in enumerate(self.taken) if number not in unreadable]

    def in_memory(self):
        """(images, Found). Raises DataFileError where they do not fit."""
        images = _empty(self.path, self.shape)

        def put(row, some):
            images[row : row + len(some)] = some

        found = self.read(put)
        good = self.good(found)
        for to, row in enumerate(good):
            if to != row:
                images[to] = images[row]
        return images[: len(good)], found


def _in_threads(read, count, most=_TOGETHER):
    """Yield, in order, all that is in `read(part)`, called for parts of range(count), of `most` numbers at most."""
    threads = get_num_threads()
    together = max(1, min(most, count // (8 * threads)))
    parts = (range(at, min(at + together, count)) for at in range(0, count, together))
    with closing(read_ahead(read, parts, 2 * threads, threads=threads)) as ahead:
        for results in ahead:
            yield from results


def _attempt(read, file, *more):
    """(read(file, *more), None), or (None, what is wrong, which follows the file's path)."""
    try:
        return read(file, *more), None
    except (OSError, ValueError) as error:
        return None, str(error).removeprefix(str(file))


# ------------------------------------------------------------------------------------------ keeping them


def _fingerprint(path, paths, taken, request):
    """A hash of all that the decoded pictures depend on."""
    import PIL

    state = hashlib.blake2b(json.dumps([VERSION, PIL.__version__, request, taken]).encode(), digest_size=16)
    start = os.path.join(path, "")
    for file in paths:
        try:
            there = os.stat(file)
            said = there.st_size, there.st_mtime_ns
        except OSError:  # a link that leads nowhere
            said = None
        name = file[len(start) :] if file.startswith(start) else os.path.relpath(file, path)    # which takes long
        state.update(repr((name, said)).encode(errors="surrogateescape"))
    return state.hexdigest()


def _places(path):
    """The folders that may hold a cache, the best first."""
    yield path / FOLDER
    if home := cache_folder():
        yield Path(home) / "pictures" / hashlib.blake2b(os.fsencode(os.path.realpath(path)), digest_size=8).hexdigest()


class _Cache:
    """Decoded pictures in a folder. key: of the request. about: fingerprint of all that they depend on."""

    def __init__(self, folder, key, about):
        self._folder, self._key, self._about = folder, key, about
        self._index = folder / f"{key}.json"

    def read(self, say=False):
        """What `decoded` returns, if it is here, whole and up to date; else None. say: a warning tells why not."""
        wrong = None
        try:
            text, seal = self._index.read_bytes().rsplit(b"\n", 1)
            if seal != _seal(text):
                raise ValueError("odd seal")
            said = json.loads(text)
            if said["about"] != self._about:
                wrong = "are out of date, because pictures, settings or versions have changed"
            else:
                found, name = Found(*said["found"]), said["pixels"]
                if os.path.basename(name) != name or not name.startswith(self._key):
                    raise ValueError("odd name")
                images = _opened(self._folder / name, (said["count"], *_shape(found)))
                if _checksum(images) == said["checksum"]:
                    return images, found
                wrong = "are damaged"
        except FileNotFoundError:
            wrong = "are damaged" if self._index.exists() else None
        except OSError:
            raise
        except Exception:  # whatever else a damaged file may lead to
            wrong = "are damaged"
        if wrong and say:
            warnings.warn(DataWarning(f"{self._folder}: the decoded pictures {wrong}; they are decoded anew"),
                          stacklevel=6)
        return None

    def made(self, pictures):
        """Decode the pictures and keep them; returns what `decoded` does."""
        with _alone(self._folder):
            if kept := self.read(say=True):  # another process was faster
                return kept
            files.clean(self._folder)
            pixels = self._folder / f"{self._key}-{os.urandom(4).hex()}.pixels"
            with files.writing(pixels) as file:
                found = self._written(pictures, file.fileno())
            count = len(pictures.good(found))
            if not count:
                pixels.unlink()
                return np.empty((0, *_shape(found)), np.uint8), found
            images = _opened(pixels, (count, *_shape(found)))
            text = json.dumps({"about": self._about, "found": found, "pixels": pixels.name, "count": count,
                               "checksum": _checksum(images)}).encode()
            try:
                files.write(self._index, text + b"\n" + _seal(text))
            except BaseException:
                pixels.unlink()  # nobody would know of it
                raise
            for old in self._folder.glob(f"{self._key}-*.pixels"):
                if old != pixels:
                    with suppress(OSError):
                        old.unlink()  # whoever has mapped it keeps it
            return images, found

    def _written(self, pictures, handle):
        """Decode pictures into a file, one after the other; returns the Found."""
        size = math.prod(pictures.shape[1:])
        found = pictures.read(lambda row, images: _put(handle, images, row * size))
        good = pictures.good(found)
        for to, row in enumerate(good):
            if to != row:
                _put(handle, os.pread(handle, size, row * size), to * size)
        os.ftruncate(handle, len(good) * size)
        return found


def _opened(path, shape):
    """The images in a file: an array, mapped into memory if they are many. Raises ValueError for another size."""
    if os.path.getsize(path) != math.prod(shape):
        raise ValueError("odd size")
    if math.prod(shape) <= _SMALL:
        return np.fromfile(path, np.uint8).reshape(shape)
    return np.asarray(np.memmap(path, np.uint8, "r", shape=shape))


def _put(handle, content, offset):
    """Write at a place in a file. Not by a map of it: on a full disk that would end the process."""
    rest = memoryview(content).cast("B")
    while rest:
        written = os.pwrite(handle, rest, offset)
        rest, offset = rest[written:], offset + written


def _seal(text):
    """The last line of an index, by which damage is found."""
    return hashlib.blake2b(text, digest_size=16).hexdigest().encode()


def _checksum(images):
    """CRC-32 of all bytes."""
    result, data = 0, images.reshape(-1)
    for start in range(0, len(data), _PIECE):
        result = zlib.crc32(data[start : start + _PIECE], result)
    return result


@contextmanager
def _alone(folder):
    """Hold the folder's lock; wait where another process has it."""
    waits = False
    while True:
        with ExitStack() as stack:
            try:
                stack.enter_context(files.locked(folder, make=True))
            except files.Locked:
                if not waits:
                    warnings.warn(DataWarning(f"{folder}: another process decodes pictures; waiting for it"),
                                  stacklevel=7)
                waits = True
                time.sleep(0.1)
                continue
            yield
            return
