"""Data sets by name, or by path."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .dataset import Dataset
from .errors import DataFileError
from .fetch import expanded, find_or_download
from .idx import read_idx_pair
from .limits import Checksums, file_size
from .sources import SOURCES

if TYPE_CHECKING:
    from typing import Any

    from .sources import Source

NAMES = tuple(SOURCES)


def load(name: str | os.PathLike, data_dir: str | os.PathLike | None = None, image_size: int | None = None,
         channels: int | None = None, seed: int = 0, cache: bool = True) -> tuple[Dataset, Dataset]:
    """Load a data set: (training set, test set), each a Dataset with images (N, C, H, W).

    name: one of NAMES. "mnist-sample" comes with this package: 4,000 and 1,000 images out of MNIST's
        training set. The others are looked for in data_dir, then in $CNN_DATA_DIR, then in the user's
        cache; if they are nowhere, they are downloaded into the cache.
        Or the path of images of your own: a folder with one sub-folder of pictures a class, a folder with
        train_images.npy and train_labels.npy, or an .npz file (docs/own-data.md).
    data_dir: a folder with the files as published (gzipped or not; the CIFAR archive or the folder out of
        it), or with a subfolder of the data set's name that holds them; or None.
    image_size, channels: pixels a side and channels (1 or 3) that a folder's pictures are brought to. Images
        from elsewhere are taken as they are, and must have them.
    seed: of the fifth of your own images that becomes the test set, where they have no part to test on.
    cache: whether the pictures of a folder are decoded only once and kept in its sub-folder .cnn-cache
        (docs/own-data.md). The environment variable CNN_PICTURE_CACHE=0 has the same effect as False.

    Every file of a named data set is checked against its published MD5, and where it is known its SHA-256; its images
    are uint8. Your own may be float32. Mean and std of both sets are the training set's. A DataWarning tells what
    was left out, and validation images of your own, which `load_parts` returns, are among that.

    Raises ValueError for an unknown name, DataFileError (a ValueError) if a file is not the right one,
    DataNotFoundError (a FileNotFoundError) if the files are not here and cannot be downloaded.
    """
    train, _, test = _load(name, data_dir, image_size, channels, seed, validation=False, cache=cache)
    return train, test


def load_parts(name: str | os.PathLike, data_dir: str | os.PathLike | None = None, image_size: int | None = None,
               channels: int | None = None, seed: int = 0,
               cache: bool = True) -> tuple[Dataset, Dataset | None, Dataset]:
    """Load a data set: (training set, validation set or None, test set).

    Only data of your own have a validation set: a folder with `val` (or `valid`, `validation`) beside `train` and
    `test`, arrays called `val_images` and `val_labels` (docs/own-data.md). name, data_dir, image_size, channels,
    seed, cache and all else are as in `load`.
    """
    return _load(name, data_dir, image_size, channels, seed, validation=True, cache=cache)


def _load(name: str | os.PathLike, data_dir: str | os.PathLike | None, image_size: int | None, channels: int | None,
          seed: int, validation: bool, cache: bool) -> tuple[Dataset, Dataset | None, Dataset]:
    source = SOURCES.get(name) if isinstance(name, str) else None
    if source is not None:
        parts = _load_named(source, data_dir)
    elif _is_path(name):
        from .own import load_own  # imported here to keep "import cnn" fast

        parts = load_own(expanded(name, "load: "), image_size, channels, seed, validation, cache)
    else:
        raise ValueError(f"load: name must be one of {', '.join(NAMES)}, or the path of a folder or .npz file, "
                         f"not {name!r}{_meant(name)}")
    found = parts[0].images.shape[1:]
    if image_size not in (None, *found[1:]) or channels not in (None, found[0]):
        raise ValueError(f"load: image_size {image_size} and channels {channels} do not fit {name}: its images are of "
                         f"{'x'.join(map(str, found))}, and only those of a folder are resized")
    return parts


def _meant(name: object) -> str:
    """The known name that an unknown one looks like, as the end of a message."""
    from difflib import get_close_matches  # imported here to keep "import cnn" fast

    close = get_close_matches(name.lower(), NAMES, 1) if isinstance(name, str) else ()
    return f"; did you mean {close[0]!r}?" if close else ""


def _is_path(name: object) -> bool:
    """Whether `name` is meant as a path: it is there, or looks like nothing else."""
    if not isinstance(name, (str, os.PathLike)):
        return False
    text = os.fspath(name)
    return (isinstance(name, os.PathLike) or os.sep in text or text.startswith("~") or text.endswith(".npz")
            or os.path.exists(text))


def _load_named(source: Source, data_dir: str | os.PathLike | None) -> tuple[Dataset, Dataset | None, Dataset]:
    if not isinstance(data_dir, (str, os.PathLike, type(None))):
        raise TypeError(f"load: data_dir must be a folder or None, not {data_dir!r}")
    paths = find_or_download(source, data_dir)
    read = _read_idx_files if source.format == "idx" else _read_cifar_files
    train_images, train_labels, test_images, test_labels = read(source, paths)
    about: dict[str, Any] = {"classes": source.classes, "mean": source.mean, "std": source.std, "name": source.name}
    return Dataset(train_images, train_labels, **about), None, Dataset(test_images, test_labels, **about)


def _read_idx_files(source: Source, paths: list[str]) -> tuple:
    from concurrent.futures import ThreadPoolExecutor  # imported here to keep "import cnn" fast

    md5s = list(source.contents.values())
    for path, packed, unpacked in zip(paths, source.downloads.values(), md5s, strict=True):
        if unpacked is None:
            _check_md5(path, packed)
    train_images, train_labels, test_images, test_labels = paths
    classes = len(source.classes)
    train_shape = (source.train_size, *source.image_shape)
    test_shape = (source.test_size, *source.image_shape)
    with ThreadPoolExecutor(1) as beside:
        test = beside.submit(read_idx_pair, test_images, test_labels, classes, md5s[2:], test_shape)
        train = read_idx_pair(train_images, train_labels, classes, md5s[:2], train_shape)
    return *train, *test.result()


def _read_cifar_files(source: Source, paths: list[str]) -> tuple:
    from .cifar import read_cifar  # imported here to keep "import cnn" fast

    sizes = source.train_size, source.test_size
    return read_cifar(paths, source.contents, *sizes, source.label_key, len(source.classes))


def _check_md5(path: str, md5: str) -> None:
    checksums = Checksums(md5)
    file_size(path)  # refuses what is no regular file
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            checksums.update(chunk)
    if wrong := checksums.wrong():
        raise DataFileError(
            f"{path}: is not the file it should be, its {wrong[0]} is {wrong[1]}, not {wrong[2]}"
        )
