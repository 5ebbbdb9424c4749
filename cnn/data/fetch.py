"""Where a data set's files are: found on this machine, or else downloaded into the user's cache."""

import os
import warnings
from os.path import isdir, isfile, join

from .errors import DataNotFoundError, DataWarning
from .sources import SHA256


def find_or_download(source, data_dir=None):
    """Paths of a data set's files.

    source: the Source to look for. data_dir: the first folder to look in, or None; then come
    $CNN_DATA_DIR and the user's cache. In each, the files may lie in a folder named after the data set, or
    directly. A folder that does not exist is named in a DataWarning.

    Returns the four IDX files in their usual order, or one CIFAR archive, or all the batches out of one.
    Raises DataNotFoundError (a FileNotFoundError) if they are nowhere and cannot be downloaded.
    """
    if source.bundled:
        paths, _ = _files_in(source.bundled, source)
        if not paths:
            raise DataNotFoundError(
                f"{source.name}: its files are missing from the installed package, {source.bundled}")
        return paths
    looked_in, incomplete = [], []
    for base in _bases(data_dir):
        looked_in.append(base)
        for folder in (join(base, source.name), base):
            for inner in ("", *source.folders):
                place = join(folder, inner) if inner else folder
                paths, missing = _files_in(place, source)
                if paths:
                    return paths
                if 0 < len(missing) < len(source.contents):
                    incomplete.append(f"  {place} lacks {', '.join(missing)}\n")
    cache = cache_folder()
    problems = _download(source, join(cache, source.name)) if cache else [
        "nothing, for there is no home folder to download into (HOME is not set)"]
    if problems:
        place = f"{join(cache, source.name)}, or into any folder" if cache else "any folder"
        raise DataNotFoundError(
            f"{source.name}: not found, and not downloaded.\n"
            f"  files wanted: {', '.join(source.downloads)}\n"
            f"  looked in: {', '.join(looked_in) or 'no folder'} (and in {source.name!r} inside)\n"
            f"{''.join(incomplete)}"
            f"  tried: {'; '.join(problems)}\n"
            f"  Put the files into {place} that you give as data_dir= or $CNN_DATA_DIR."
        )
    return _files_in(join(cache, source.name), source)[0]


def cache_folder():
    """The user's cache of this package, e.g. ~/.cache/cnn; None where there is no home folder."""
    try:
        import pooch

        folder = str(pooch.os_cache("cnn"))
    except ImportError:
        folder = os.path.expanduser(join("~", ".cache", "cnn"))
    except RuntimeError:  # from pooch's platformdirs, without a home folder
        return None
    return None if folder.startswith("~") else folder


def expanded(path, what=""):
    """A path with its leading ~ or ~user replaced by that home folder.

    what: what the path is, to begin the error message with. Raises DataNotFoundError (a FileNotFoundError) where there
    is no such home folder, and nothing of just that name either.
    """
    path = os.fspath(path)
    result = os.path.expanduser(path)
    if result.startswith("~") and not os.path.exists(result):
        user = path.split(os.sep)[0][1:]
        reason = f"there is no user {user!r}" if user else "there is no home folder (HOME is not set)"
        raise DataNotFoundError(f"{what}{path}: {reason}")
    return result


def _bases(data_dir):
    """The folders to look in, in turn. The cache comes last, for asking for it imports pooch."""
    for what, path in (("data_dir", data_dir), ("CNN_DATA_DIR", os.environ.get("CNN_DATA_DIR") or None)):
        if path is not None:
            base = expanded(path, f"{what} ")
            if not isdir(base):
                warnings.warn(DataWarning(f"{what} {base}: no such folder; trying the other places"), stacklevel=4)
            yield base
    if cache := cache_folder():
        yield cache


def _files_in(folder, source):
    """(the data set's files, or None unless the folder holds all of them; names of those that it lacks)."""
    if source.format == "cifar":
        batches = [name for name in source.contents if not isfile(join(folder, name))]
        archive = [name for name in source.downloads if not isfile(join(folder, name))]
        for names, missing in ((source.contents, batches), (source.downloads, archive)):
            if not missing:
                return [join(folder, name) for name in names], []
        return None, batches
    paths, missing = [], []
    for name, md5 in source.contents.items():
        # Some tools unpack train-images-idx3-ubyte.gz to train-images.idx3-ubyte.
        names = [name, name.replace("-idx", ".idx")]
        # Where the MD5 of the unpacked file is not known, only the .gz can be checked.
        names = [*(names if md5 else ()), *(f"{name}.gz" for name in names)]
        found = [join(folder, name) for name in names if isfile(join(folder, name))]
        paths += found[:1]
        missing += [] if found else [names[0]]
    return (None if missing else paths), missing


def _download(source, folder):
    """Fetch every file from the first mirror that has it. Returns what went wrong, one text per mirror."""
    for name, md5 in source.downloads.items():
        problems = []
        for mirror in source.mirrors:
            try:
                _retrieve(mirror + name, md5, folder, name)
                break
            except ImportError:
                return ["nothing, for the package pooch, which downloads, is not installed"]
            except (OSError, ValueError) as error:
                problems.append(f"{mirror}{name} ({_reason(error, md5)})")
        else:
            return problems
    return []


def _retrieve(url, md5, folder, name):
    """Download one file. It gets its name only once it is whole and has the right checksum."""
    import pooch

    try:
        import tqdm
    except ImportError:
        tqdm = None  # then without a progress bar
    # timeout: seconds without a byte before the next mirror has its turn
    downloader = pooch.HTTPDownloader(progressbar=tqdm is not None, chunk_size=1 << 16, timeout=30)
    wanted = f"sha256:{SHA256[md5]}" if md5 in SHA256 else f"md5:{md5}"
    pooch.retrieve(url, known_hash=wanted, fname=name, path=folder, downloader=downloader)


def _reason(error, md5):
    """In a few words: the messages of the HTTP library run over many lines."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP status {response.status_code}"
    if isinstance(error, OSError):
        return str(error) if error.errno else type(error).__name__
    return f"what it sent has not the right {'SHA-256' if md5 in SHA256 else 'MD5'}"
