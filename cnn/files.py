"""Writing files so that a crash leaves the old one or the new one, never half of one; logs, locks, and reading text."""
import errno
import os
import stat
from contextlib import contextmanager, suppress
from pathlib import Path

from cnn import ranks

_TEMPORARY = ".cnn-tmp"     # what the names of temporary files end in: no one else's are ever removed


def write(path, content):
    """Write bytes to `path`. All of the package's files but logs are written here.

    A regular file is replaced as a whole: by a temporary file beside it, flushed to the disk, then renamed. It keeps
    its mode and, where that is allowed, its owner; a new file gets the mode that the umask says. Symbolic links are
    followed. Devices, pipes and /dev/stdout are written in place. Of several ranks only the first writes.

    Raises OSError, naming `path`, where that fails; what was there before is then untouched.
    """
    if not ranks.leads():
        return
    try:
        there = _status(path)
        _refuse_folder(there)
        if there is not None and _in_place(path, there):
            _append(path, content)
        else:
            _replace(Path(os.path.realpath(path)), content, there)
    except (OSError, ValueError) as error:
        raise _named(path, error) from error


def check(path):
    """Raise the OSError that `write` would raise, as far as it can be told before there is anything to write."""
    try:
        there, parent = _status(path), Path(os.path.realpath(path)).parent
        _refuse_folder(there)
        if there is None or not _in_place(path, there):
            if not stat.S_ISDIR(os.stat(parent).st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            if not os.access(parent, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except (OSError, ValueError) as error:
        raise _named(path, error) from None


def expanded(path):
    """The text of a path with ~ and ~user replaced by that home folder.

    Raises ValueError where there is no such user or no home folder is known, unless there is a file of that very name.
    """
    result = os.path.expanduser(path)
    if result.startswith("~") and not os.path.exists(result):
        who = result[1:].split(os.sep)[0]
        raise ValueError(f"{path}: " + (f"there is no user {who!r}" if who else "your home folder is not known")
                         + f"; write ./{result} for a file of that name")
    return result


def _named(path, error):
    """The OSError that tells what could not be written. A ValueError comes from a null byte in the name."""
    if isinstance(error, ValueError):
        return OSError(errno.EINVAL, f"could not write: {error}", str(path))
    return OSError(error.errno, f"could not write: {error.strerror}", str(path))


def _refuse_folder(there):
    if there is not None and stat.S_ISDIR(there.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))


def _status(path):
    """What os.stat says of it, None where there is nothing yet."""
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _in_place(path, there):
    # an open file of this process may be a regular one: to replace it would lose what is printed besides
    open_file = os.path.abspath(path).startswith(("/dev/std", "/dev/fd/", "/proc/"))
    return open_file or not stat.S_ISREG(there.st_mode)


def _append(path, content):
    """Write behind what is there, as is right for open files and makes no difference to devices and pipes."""
    with open(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOCTTY), "wb", buffering=0) as file:
        _write_all(file, content)


def _replace(path, content, there):
    temporary = None
    try:
        handle, temporary = _temporary(path.parent, path.name, 0o666 if there is None else 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            if there is not None:
                _keep_owner(file.fileno(), there)
                os.chmod(temporary, stat.S_IMODE(there.st_mode))
            os.fsync(file.fileno())
            os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)


@contextmanager
def writing(path):
    """A new file, open for reading and writing bytes without a buffer, for what is too large for `write`.

    When the block ends it is flushed to the disk and becomes `path`; an exception leaves nothing of it.
    """
    path = Path(path)
    handle, temporary = _temporary(path.parent, path.name, 0o666)
    try:
        with os.fdopen(handle, "w+b", buffering=0) as file:
            yield file
            os.fsync(file.fileno())
            os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def _keep_owner(handle, there):
    now = os.fstat(handle)
    if (now.st_uid, now.st_gid) != (there.st_uid, there.st_gid):
        with suppress(OSError):     # only root may give files away
            os.fchown(handle, there.st_uid, there.st_gid)


def _write_all(file, content):
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest):]


# ---------------------------------------------------------------- temporary files

def _temporary(folder, name, mode):
    """A new file beside the one to be replaced, locked as long as it is open: its handle and its path."""
    while True:
        path = os.path.join(folder, f".{name[:80]}.{os.urandom(4).hex()}{_TEMPORARY}")
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), mode)
        _flock(handle)
        if os.fstat(handle).st_nlink:
            return handle, path
        os.close(handle)    # `clean` has taken it for a dead one's, between these two lines


def clean(folder, pattern=f".*{_TEMPORARY}"):
    """Remove temporary files that killed processes have left in a folder; those of living ones stay."""
    for path in Path(folder).glob(pattern) if ranks.leads() else ():
        try:
            handle = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            if _flock(handle, wait=False):
                path.unlink(missing_ok=True)
        except OSError:     # someone else's, or in a folder that is read-only
            pass
        finally:
            os.close(handle)


# ---------------------------------------------------------------- locks

class Locked(FileExistsError):
    """Another process works in a folder."""


@contextmanager
def locked(folder, make=False):
    """Hold the lock of a folder, which nobody else has meanwhile. make: whether to make the folder where there is none.

    The lock is on the folder itself, which is never replaced: nothing is left when the process ends, however that
    happens. File systems without locks give none. Raises Locked, naming the folder, where another holds it.
    Of several ranks only the first holds it.
    """
    folder = Path(folder)
    if not ranks.leads():
        yield folder
        return
    while True:
        if make:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except FileExistsError:
                raise FileExistsError(f"{folder}: must be a folder, but there is a file of that name") from None
        handle = os.open(folder, os.O_RDONLY)
        try:
            if not _flock(handle, wait=False, without=True):
                raise Locked(f"{folder}: another process is working on this run")
            there = _status(folder)
            if there is not None and os.path.samestat(there, os.fstat(handle)):
                yield folder
                return
        finally:
            os.close(handle)    # and so the lock ends


def _flock(handle, wait=True, without=False):
    """Lock an open file or folder; whether that was done. `without`: what to say where there are no locks."""
    import fcntl
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:     # a file system without locks
        return without
    return True


# ---------------------------------------------------------------- logs

class Log:
    """A file that grows by whole pieces of text, each in the hands of the system when `write` returns.

    Raises OSError, naming `path`, where that fails. Of several ranks only the first writes.
    """

    def __init__(self, path):
        self.path = path
        try:
            self._file = open(path if ranks.leads() else os.devnull, "ab", buffering=0)     # noqa: SIM115
        except OSError as error:
            raise _named(path, error) from error

    def write(self, text):
        try:
            _write_all(self._file, text.encode())
        except OSError as error:
            raise _named(self.path, error) from error

    def close(self):
        self._file.close()


# ---------------------------------------------------------------- reading

def read_text(path):
    """The text of a UTF-8 file, with or without a byte order mark.

    Raises OSError, and ValueError, naming the file, where it is in another encoding.
    """
    content = Path(path).read_bytes()
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"{path}: must be UTF-8 text, this is UTF-16; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: must be UTF-8 text, but byte {error.start} is {content[error.start]:#04x}") from None


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
