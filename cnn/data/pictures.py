"""Pictures (PNG, JPEG and the like) as square arrays of bytes. Needs Pillow."""

import os
import warnings
from contextlib import contextmanager, suppress

import numpy as np

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")


def read_picture(path, channels, size):
    """Read one picture as uint8 (channels, size, size).

    path: a PNG, JPEG, BMP, GIF (its first frame) or WebP file. channels: 1 (grey) or 3 (RGB). size: pixels.

    The picture is turned upright as its EXIF says, what is transparent becomes white, 16 bits become 8; then
    it is resized until its shorter side has `size` pixels, and the middle is cut out.

    Raises ValueError naming the file where it is no such picture, is damaged or has more pixels than Pillow's
    MAX_IMAGE_PIXELS (so that a small file cannot take all memory), FileNotFoundError where there is none,
    ModuleNotFoundError naming the extra to install where Pillow is missing.
    """
    with _opened(path) as picture:
        from PIL import Image, ImageOps

        picture.draft(None, (2 * size, 2 * size))  # a JPEG is decoded at a fraction of its size, if that will do
        with suppress(Exception):  # broken EXIF is no reason to refuse the pixels
            picture = ImageOps.exif_transpose(picture)
        if picture.mode.startswith("I"):  # 16-bit grey, which convert() would cut off at 255
            picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
        elif "A" in picture.getbands() or "transparency" in picture.info:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        picture = picture.convert("L" if channels == 1 else "RGB")
        if picture.size != (size, size):
            picture = ImageOps.fit(picture, (size, size), Image.Resampling.BILINEAR)
        pixels = np.asarray(picture, np.uint8)
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def find(folder):
    """Yield the paths (str) of all files in a folder, and further down, that are pictures by their names; in order.

    Hidden files and folders are passed over, and so are links to folders. Raises OSError where a folder can't be read.
    """

    def refuse(error):
        raise error

    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not hidden(name))
        for name in sorted(names):
            if name.lower().endswith(SUFFIXES) and not hidden(name):
                yield os.path.join(parent, name)


def hidden(name):
    """Whether a file or folder of that name is nobody's picture."""
    return name.startswith(".") or name == "__MACOSX"


def look_at(path):
    """(whether it is stored as grey, pixels of the shorter side) of a picture, from the head of the file.

    Raises as `read_picture` does.
    """
    with _opened(path) as picture:
        return picture.mode in ("1", "L", "LA", "I", "I;16", "I;16B"), min(picture.size)


@contextmanager
def _opened(path):
    """The picture in a file; whatever goes wrong with it becomes a ValueError that names the file."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise ModuleNotFoundError("reading pictures needs Pillow: pip install 'cnn[images]'") from None
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: there is no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, and of sizes that are refused here
            with Image.open(path, formats=FORMATS) as picture:
                width, height = picture.size
                if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
                    raise ValueError(f"{width}x{height} is more than {Image.MAX_IMAGE_PIXELS:,} pixels")
                yield picture
    except UnidentifiedImageError:
        raise ValueError(f"{path}: not a picture that can be read (it is none of {', '.join(FORMATS)})") from None
    except Exception as error:  # damaged files make Pillow stumble in all sorts of ways
        reason = str(error) or type(error).__name__
        raise ValueError(f"{path}: not a picture that can be read ({reason})") from None
