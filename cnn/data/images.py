"""Reading pictures to classify, PNG, JPEG and the like, and IDX files."""
from pathlib import Path

from . import pictures
from .errors import DataFileError
from .idx import read_idx

_IDX_MAGIC = bytes.fromhex("00000803")
_GZIP_MAGIC = bytes.fromhex("1f8b")


def read(path, channels, size):
    """Read the images of one file as uint8 (n, channels, size, size).

    A picture is turned into grey or RGB as `channels` (1 or 3) says, resized and cropped to `size` pixels a side,
    just as those of a training folder are (cnn.data.pictures); an IDX file, packed or not, must hold images of
    just that size.

    Raises FileNotFoundError, DataFileError (a ValueError) naming the file where it can't be read or doesn't fit, and
    ModuleNotFoundError naming the extra to install where Pillow is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    with path.open("rb") as file:
        head = file.read(4)
    if head == _IDX_MAGIC or head[:2] == _GZIP_MAGIC:
        images = read_idx(path)
        if images.ndim != 3 or channels != 1 or images.shape[1:] != (size, size):
            raise DataFileError(f"{path}: the model takes images of {channels}x{size}x{size}, the file holds an "
                                     f"array of {images.shape}")
        images = images[:, None]
    else:
        if channels not in (1, 3):
            raise DataFileError(f"{path}: a picture has 1 or 3 channels, the model takes {channels}")
        images = pictures.read_picture(path, channels, size)[None]
    return images
