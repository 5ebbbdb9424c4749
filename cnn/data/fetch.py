"""Where a data set's files are: found on this machine, or else downloaded into the user's cache."""

import os
from os.path import expanduser, isfile, join

from .errors import DataNotFoundError


def find_or_download(source, data_dir=None):
    """Paths of a data set's files.

    source: the Source to look for. data_dir: the first folder to look in, or None; then come
    $CNN_DATA_DIR and the user's cache. In each, the files may lie in a folder named after the data set, or
    directly.

    Returns the four IDX files in their usual order, or one CIFAR archive, or all the batches out of one.
    Raises DataNotFoundError (a FileNotFoundError) if they are nowhere and cannot be downloaded.
    """
    looked_in = []
    for base in _bases(source, data_dir):
        looked_in.append(base)
        for folder in (join(base, source.name), base):
            for inner in ("", *source.folders):
                paths = _files_in(join(folder, inner), source)
                if paths:
                    return paths
    if source.bundled:
        raise DataNotFoundError(f"{source.name}: its files are missing from the installed package, {base}")
    folder = join(base, source.name)  # in the user's cache, which is looked in last
    problems = _download(source, folder)
    if problems:
        raise DataNotFoundError(
            f"{source.name}: found nowhere and not downloaded.\n"
            f"  files wanted: {', '.join(source.downloads)}\n"
            f"  looked in: {', '.join(looked_in)} (and in {source.name!r} inside)\n"
            f"  tried: {'; '.join(problems)}\n"
            f"  Put the files into {folder}, or into any folder that you give as data_dir= or $CNN_DATA_DIR."
        )
    return _files_in(folder, source)


def cache_folder():
    """The user's cache of this package, e.g. ~/.cache/cnn."""
    try:
        import pooch
    except ImportError:
        return expanduser(join("~", ".cache", "cnn"))
    return str(pooch.os_cache("cnn"))


def _bases(source, data_dir):
    """The folders to look in, in turn. The cache comes last, for asking for it imports pooch."""
    if source.bundled:
        yield source.bundled
        return
    if data_dir is not None:
        yield expanduser(os.fspath(data_dir))
    if os.environ.get("CNN_DATA_DIR"):
        yield expanduser(os.environ["CNN_DATA_DIR"])
    yield cache_folder()


def _files_in(folder, source):
    """The data set's files if the folder holds all of them, else None."""
    if source.format == "cifar":
        for names in (source.contents, source.downloads):  # the batches, or the archive
            paths = [join(folder, name) for name in names]
            if all(map(isfile, paths)):
                return paths
        return None
    paths = []
    for name, md5 in source.contents.items():
        # Where the MD5 of the unpacked file is not known, only the .gz can be checked.
        path = join(folder, name)
        if not (md5 and isfile(path)):
            path += ".gz"
        if not isfile(path):
            return None
        paths.append(path)
    return paths


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
                problems.append(f"{mirror}{name} ({_reason(error)})")
        else:
            return problems
    return []


def _retrieve(url, md5, folder, name):
    """Download one file. It gets its name only once it is whole and has the right MD5."""
    import pooch

    try:
        import tqdm
    except ImportError:
        tqdm = None  # then without a progress bar
    # timeout: seconds without a byte before the next mirror has its turn
    downloader = pooch.HTTPDownloader(progressbar=tqdm is not None, chunk_size=1 << 16, timeout=30)
    pooch.retrieve(url, known_hash=f"md5:{md5}", fname=name, path=folder, downloader=downloader)


def _reason(error):
    """In a few words: the messages of the HTTP library run over many lines."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP status {response.status_code}"
    if isinstance(error, OSError):
        return str(error) if error.errno else type(error).__name__
    return "what it sent has not the right MD5"
