"""Writing files so that a crash leaves the old one or the new one, never half of one; and logs."""
import os
import tempfile
from pathlib import Path


def write(path, content):
    """Write bytes to `path`: into a temporary file beside it, flushed to the disk, then renamed.

    Raises OSError, naming `path`, where that fails; what was there before is then untouched.
    """
    path = Path(path)
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise OSError(error.errno, f"could not write: {error.strerror}", str(path)) from error
    finally:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)


class Log:
    """A file that grows by whole pieces of text, each in the hands of the system when `write` returns.

    Raises OSError, naming `path`, where that fails.
    """

    def __init__(self, path):
        self.path = path
        try:
            self._file = open(path, "ab", buffering=0)     # noqa: SIM115
        except OSError as error:
            raise self._named(error) from error

    def write(self, text):
        rest = text.encode()
        try:
            while rest:
                rest = rest[self._file.write(rest):]
        except OSError as error:
            raise self._named(error) from error

    def close(self):
        self._file.close()

    def _named(self, error):
        return OSError(error.errno, f"could not write: {error.strerror}", str(self.path))


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder):
    """Make the rename itself last, where the system can do that."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
