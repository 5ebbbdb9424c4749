"""Pictures (PNG, JPEG and the like) as square arrays of bytes. Needs Pillow."""

import io
import os
import stat
import threading
import warnings
from contextlib import contextmanager, suppress

import numpy as np

from .errors import DataFileError, DataWarning

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF")  # as Pillow calls them
SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif"),
)
NAMES = "PNG, JPEG, BMP, GIF, WebP, TIFF, PPM, JPEG 2000, AVIF"  # the formats, in messages
MOST_PIXELS = 2**25  # of a decoded picture, which takes up to four bytes for each, several times over
_AT_ONCE = 2**24  # bytes of a file up to which it is read at once
DARK, _BRIGHTEST = 256, 65535  # 16-bit values below become 0; the largest
_ORIENTATION = 0x0112  # EXIF's tag


def read_picture(source, channels, size, name=None):
    """Read one picture as uint8 (channels, size, size).

    source: a file of one of FORMATS (of several frames or pages the first): its path, its content (bytes), or the
        file itself, open for reading bytes, which is read from its start and stays open. Or a PIL image, which stays
        as it is. AVIF takes Pillow 11.3 or newer.
    channels: 1 (grey) or 3 (RGB). size: pixels. name: what to call the picture in errors; default: its path, or
        "the picture".

    The picture is turned upright as its EXIF says, what is transparent becomes white, 16 bits become 8; then
    it is resized until its shorter side has `size` pixels, and the middle is cut out. A DataWarning says so where
    16 bits hold no value of 256 or more, because the picture then becomes black.

    Raises DataFileError (a ValueError) naming the picture where it is no such picture, is damaged or too large, so
    that a small file cannot take all memory: more than MOST_PIXELS (2**25) to decode, or more than Pillow's
    MAX_IMAGE_PIXELS in a JPEG, which is decoded at a fraction of its size. FileNotFoundError where there is none,
    and ModuleNotFoundError naming the extra to install where Pillow is missing.
    """
    name = _name(source) if name is None else name
    pixels, brightest = read_pixels(source, channels, size, name)
    if brightest is not None and brightest < DARK:
        warnings.warn(DataWarning(f"{name}: becomes black, because its 16 bits hold no value above {brightest}; "
                                  "multiply the values so that they reach 65535"), stacklevel=2)
    return pixels


def read_pixels(source, channels, size, name=None):
    """(what `read_picture` returns, the largest value of a picture with 16 bits or else None), without a warning."""
    with _opened(source, _name(source) if name is None else name) as picture:
        from PIL import Image, ImageOps

        if picture is not source:  # a draft would change the caller's image
            picture.draft(None, (2 * size, 2 * size))  # a JPEG is decoded at a fraction of its size, if that will do
        _refuse_more_than(MOST_PIXELS, picture)
        if picture.mode == "F":
            raise ValueError("its pixels are floats, whose unit nobody knows; convert it to mode L or RGB")
        picture.load()
        with suppress(Exception):  # broken EXIF is no reason to refuse the pixels
            if picture.getexif().get(_ORIENTATION, 1) != 1:
                picture = ImageOps.exif_transpose(picture)
        brightest, mode = None, "L" if channels == 1 else "RGB"
        if picture.mode.startswith("I"):  # 16-bit grey, which convert() would cut off at 255
            values = np.asarray(picture)
            brightest = int(values.max())
            if values.min() < 0 or brightest > _BRIGHTEST:
                raise ValueError(f"its pixels are integers from {values.min()} to {brightest}; convert it to 8 or 16 "
                                 "bits, 0 to 65535")
            picture = Image.fromarray((values >> 8).astype(np.uint8))
        elif "A" in picture.getbands() or "transparency" in picture.info:
            picture = _on_white(picture, mode)
        if picture.mode != mode:
            picture = picture.convert(mode)
        if picture.size != (size, size):
            picture = ImageOps.fit(picture, (size, size), Image.Resampling.BILINEAR)
        pixels = np.asarray(picture, np.uint8)
    pixels = pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))
    return pixels, brightest


def find(folder, passed_over=None):
    """Yield the paths (str) of all files in a folder, and further down, that are pictures by their names; in order.

    Hidden files and folders are left out, and so are links to folders. passed_over: a Counter that is told the kinds
    of all other files, and of the links. Raises OSError where a folder can't be read.
    """

    def refuse(error):
        raise error

    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not hidden(name))
        if passed_over is not None:
            passed_over["link to a folder"] += sum(os.path.islink(os.path.join(parent, name)) for name in folders)
        for name in sorted(names):
            if hidden(name):
                continue
            if is_picture(name):
                yield os.path.join(parent, name)
            elif passed_over is not None:
                passed_over[os.path.splitext(name)[1].lower() or "without a suffix"] += 1


def kinds(counts):
    """A Counter's kinds of files in words, the most frequent first: "10 .tif, 2 .txt"."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    words = [f"{count:,} {kind}" for kind, count in ordered if count]
    return ", ".join(words[:10]) + (f" and {len(words) - 10} more kinds" if len(words) > 10 else "")


def is_picture(name):
    """Whether a file of that name is a picture."""
    return name.lower().endswith(SUFFIXES)


def hidden(name):
    """Whether a file or folder of that name is the system's, and nobody's picture."""
    return name.startswith(".") or name == "__MACOSX" or name.lower() in ("thumbs.db", "desktop.ini")


def look_at(path):
    """(whether it is stored as grey, pixels of the shorter side) of a picture, from the head of the file.

    Raises as `read_picture` does.
    """
    with _opened(path, path, head=True) as picture:
        return picture.mode in ("1", "L", "LA") or picture.mode.startswith("I"), min(picture.size)


def _on_white(picture, mode):
    """A picture with transparency on white, as `mode`; strip by strip, because whole copies would take memory."""
    from PIL import Image

    result = Image.new(mode, picture.size)
    width, height = picture.size
    rows = max(1, 2**20 // width)
    for top in range(0, height, rows):
        box = (0, top, width, min(top + rows, height))
        strip = picture.crop(box).convert("RGBA")
        white = Image.new("RGBA", strip.size, "white")
        result.paste(Image.alpha_composite(white, strip).convert(mode), box)
    return result


def _refuse_more_than(limit, picture):
    width, height = picture.size
    if limit is not None and width * height > limit:
        raise ValueError(f"{width}x{height} is more than {limit:,} pixels")


def pillow():
    """The module PIL.Image. Raises ModuleNotFoundError naming the extra to install where Pillow is missing."""
    try:
        from PIL import Image
    except ImportError:
        raise ModuleNotFoundError("reading pictures needs Pillow: pip install 'cnn[images]'") from None
    return Image


def _known(Image):
    """Those of FORMATS that this version of Pillow knows."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _name(source):
    return source if isinstance(source, (str, os.PathLike)) else "the picture"


@contextmanager
def _opened(source, name, head=False):
    """The picture in a file, or an image itself; whatever goes wrong with it becomes a DataFileError that names it.

    head: only the file's head will be needed. Else a file that is not too long is read at once: Pillow reads in many
    small pieces, and with each gives up Python's lock, for which another thread may make it wait.
    """
    Image, length = pillow(), None
    if isinstance(source, (str, os.PathLike)):
        length = _length(source)
        if length is None:
            raise FileNotFoundError(f"{name}: there is no such file")
    elif isinstance(source, (bytes, bytearray, memoryview)):
        source = io.BytesIO(source)
    try:
        if length is not None and length <= _AT_ONCE and not head:
            with open(source, "rb", buffering=0) as file:
                source = io.BytesIO(file.read(length))
        with _quiet:
            if isinstance(source, Image.Image):
                yield source
                return
            with Image.open(source, formats=_known(Image)) as picture:
                _refuse_more_than(Image.MAX_IMAGE_PIXELS, picture)
                if picture.format not in ("JPEG", "MPO"):  # MPO: a JPEG with more pictures behind it
                    _refuse_more_than(MOST_PIXELS, picture)
                yield picture
    except Image.UnidentifiedImageError:
        raise DataFileError(f"{name}: not a picture that can be read (it is none of {NAMES})") from None
    except Exception as error:  # damaged files make Pillow stumble in all sorts of ways
        reason = str(error) or type(error).__name__
        raise DataFileError(f"{name}: not a picture that can be read ({reason})") from None


def _length(path):
    """The bytes of a file, or None where there is none, or what is no file."""
    try:
        there = os.stat(path)
    except (OSError, ValueError):
        return None
    return there.st_size if stat.S_ISREG(there.st_mode) else None


class _Quiet:
    """Pillow's warnings, of odd metadata and of sizes that are refused here, are ignored meanwhile.

    Python's catch_warnings restores what it found. With threads that overlap, that could be another thread's filters,
    for ever; so the first one in saves them and the last one out restores them.
    """

    def __init__(self):
        self._lock, self._inside, self._saved = threading.Lock(), 0, None

    def __enter__(self):
        with self._lock:
            if self._inside == 0:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\b")
            self._inside += 1

    def __exit__(self, *error):
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._saved.__exit__(*error)


_quiet = _Quiet()
