"""How much a file is trusted: memory by its real size, content by its checksums.

A header is believed only as far as the file's own length bears it out, so that a damaged or hostile file costs an
error message, not memory.
"""

import os
import stat

import numpy as np

from .errors import DataFileError
from .sources import SHA256

_DEFLATE_RATIO = 1032  # deflate can't pack tighter than this
_RATIO, _SMALL = 100, 2**27  # images never come near that: what unpacks to over 128 MiB may grow a hundredfold


def file_size(path):
    """Size in bytes of a file. Raises DataFileError for a pipe or device, which could be read forever, else OSError."""
    found = os.stat(path)
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):  # opening a folder raises the right OSError
        raise DataFileError(f"{path}: is no regular file but a pipe or a device")
    return found.st_size


def most_unpacked(packed):
    """How many bytes a compressed file of `packed` bytes may unpack to."""
    return min(_DEFLATE_RATIO * packed, max(_SMALL, _RATIO * packed))


def empty_bytes(path, size):
    """An uninitialised array of `size` bytes. Raises DataFileError where there is not enough memory."""
    try:
        return np.empty(size, np.uint8)
    except (MemoryError, ValueError):
        raise DataFileError(f"{path}: {size:,} bytes do not fit into the memory of this machine") from None


class Checksums:
    """MD5, and where it is known SHA-256, of a file that should have the MD5 `md5`."""

    def __init__(self, md5):
        import hashlib  # here, to keep "import cnn" fast

        self._wanted = [("MD5", md5, hashlib.md5(usedforsecurity=False))]
        if md5 in SHA256:
            self._wanted.append(("SHA-256", SHA256[md5], hashlib.sha256()))

    def update(self, data):
        for _, _, digest in self._wanted:
            digest.update(data)

    def wrong(self):
        """(name of the checksum, what it is, what it should be) where one differs, else None."""
        for name, wanted, digest in self._wanted:
            if digest.hexdigest() != wanted:
                return name, digest.hexdigest(), wanted
        return None
