"""What a saved model wants, and pictures and arrays as just that."""
from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

import numpy as np

from cnn import shapes
from cnn.data import pictures

if TYPE_CHECKING:
    from typing import Any, BinaryIO, TypeAlias

    from PIL import Image

    File: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image.Image

_COLOURS = (1, 3, 4)     # channels that a picture's array may have: grey, RGB, RGBA
_KINDS = "a path, bytes, an open binary file, a PIL image, a NumPy array, or a list of these"


class Wanted:
    """What a saved model works on: `shape` (C, H, W) of an image, `classes` (list of K names, empty where the file has
    none), `mean` and `std` (C numbers each, see cnn.data.Dataset) and `pixels`, the dtype of the images that it was
    trained on: "uint8", "float32", or None where the file does not say. A network that `cnn.save` wrote for a shape
    takes float32 images as they are.

    description: as `checkpoint.load_model` returns it. classes: whether it must have some. Raises ValueError naming
    what is missing.
    """

    def __init__(self, description: dict[str, Any], classes: bool = False) -> None:
        self.shape = _shape(description)
        _check_there(description, *(["classes"] if classes else []))
        channels = self.shape[0]
        if "network" in description and not any(description.get(name) for name in ("mean", "std", "pixels")):
            description = {**description, "mean": [0.0] * channels, "std": [1.0] * channels, "pixels": "float32"}
        _check_there(description, "mean", "std")
        for name in ("mean", "std"):
            if len(description[name]) != channels:
                raise ValueError(f"{name} in the model's file must have one value per channel, {channels}, got "
                                 f"{len(description[name])}")
        if description.get("pixels") not in (None, "uint8", "float32"):
            raise ValueError(f"pixels in the model's file must be uint8 or float32, got "
                             f"{shapes.shown(description['pixels'])}")
        self.classes: list[str] = description.get("classes") or []
        self.mean, self.std, self.pixels = description["mean"], description["std"], description.get("pixels")

    def check_classes(self) -> None:
        """Raise ValueError where the file has no classes."""
        _check_there({"classes": self.classes}, "classes")

    @property
    def side(self) -> int:
        """The side of the model's images, which are squares; raises ValueError where they are not."""
        _, height, width = self.shape
        if height != width:
            raise ValueError(f"the model takes images of {shapes.times(self.shape)}, and pictures are only brought to "
                             f"squares: give arrays of that shape")
        return height

    def check_pixels(self, name: str, found: str) -> None:
        """Refuse images in another unit than that of the images that the model was trained on.

        name: what to call them. found: their dtype. Raises ValueError.
        """
        if self.pixels not in (None, found):
            raise ValueError(f"{name}: the model was trained on images of {self.pixels}, these are {found}, which is "
                             f"another unit")


def _shape(description: dict[str, Any]) -> tuple[int, int, int]:
    """(C, H, W) of an image that a model takes."""
    arguments, network = description.get("arguments") or {}, description.get("network")
    if network is None:
        _check_there(arguments, "in_channels", "image_size")
        return arguments["in_channels"], arguments["image_size"], arguments["image_size"]
    given = network["image_shapes"]
    if len(given) != 1 or len(given[0]) != 3:
        found = " and ".join(shapes.batch(tuple(shape)) for shape in given)
        raise ValueError(f"the model's file must be of a network that takes images (N, C, H, W) and nothing else, this "
                         f"one takes {found}; cnn.load_model does without")
    channels, height, width = given[0]
    return channels, height, width


def _check_there(holder: dict[str, Any], *names: str) -> None:
    """Raise ValueError for a name that a model's file lacks."""
    for name in names:
        if not holder.get(name):
            raise ValueError(f"the model's file lacks {name!r}: save_model needs it in the description, cnn.save takes "
                             f"it from a Dataset; cnn.load_model does without")


def images(owner: str, wanted: Wanted, x: Any) -> tuple[np.ndarray, bool]:
    """(images as the model's data set would hold them, whether `x` is one image only).

    owner: who speaks in an error. x: see Predictor. The images are uint8 or float32 (N, C, H, W). Raises TypeError
    and ValueError naming x, or its element, and what reading a picture raises (cnn.data.pictures.read_picture).
    """
    if isinstance(x, (list, tuple)):
        found = [_image(owner, wanted, item, f"x[{i}]") for i, item in enumerate(x)]
        return np.stack(found) if found else np.empty((0, *wanted.shape), wanted.pixels or np.uint8), False
    if isinstance(x, np.ndarray) and x.ndim == 4:
        return _batch(owner, wanted, x), False
    return _image(owner, wanted, x, "x")[None], True


def _image(owner: str, wanted: Wanted, x: Any, name: str) -> np.ndarray:
    """One image as uint8 or float32 (C, H, W)."""
    if isinstance(x, np.ndarray):
        x = _checked(owner, wanted, x, name)
        if x.ndim == 3 and _channels_first(owner, wanted, x, name):
            return _resized(owner, wanted, x, name)
        if x.ndim not in (2, 3):
            raise ValueError(f"{owner}: {name} must be an array of shape (H, W), (H, W, C), (C, H, W) or, not within "
                             f"a list, (N, C, H, W), got {x.shape}")
        x = x[None] if x.ndim == 2 else x.transpose(2, 0, 1)
        return _resized(owner, wanted, x, name)
    if isinstance(x, (str, os.PathLike)):
        name = os.fspath(x)
        if os.path.isdir(x):
            raise IsADirectoryError(f"{name}: is a folder: give its pictures, one by one or as a list of paths")
    elif isinstance(x, io.TextIOBase):
        raise TypeError(f"{owner}: {name} must be a file opened for reading bytes, open(path, 'rb'), got a text file")
    elif not (isinstance(x, (bytes, bytearray, memoryview)) or hasattr(x, "read") or _is_pil(x)):
        raise TypeError(f"{owner}: {name} must be {_KINDS}, got {type(x).__name__}")
    wanted.check_pixels(name, "uint8")
    return _picture(wanted, x, name)


def _batch(owner: str, wanted: Wanted, x: np.ndarray) -> np.ndarray:
    """An array (N, C, H, W) as the model wants it."""
    x = _checked(owner, wanted, x, "x")
    if x.shape[1] != wanted.shape[0]:
        raise ValueError(f"{owner}: x must be an array of shape (N, {wanted.shape[0]}, H, W), got {x.shape}; for an "
                         f"array of pictures (N, H, W, C) give list(x)")
    if x.shape[1:] == wanted.shape:
        return x
    found = [_resized(owner, wanted, image, f"x[{i}]") for i, image in enumerate(x)]
    return np.stack(found) if found else np.empty((0, *wanted.shape), x.dtype)


def _checked(owner: str, wanted: Wanted, x: np.ndarray, name: str) -> np.ndarray:
    """An array in the unit of the images that the model was trained on: uint8 or float32."""
    dtype = wanted.pixels or "uint8"
    if dtype == "float32" and x.dtype.kind == "f":
        with np.errstate(all="ignore"):     # what becomes infinite is refused where it is normalised
            return x.astype(np.float32, copy=False)
    if x.dtype != dtype:
        hint = "; from values 0 to 1, use (x * 255).round().astype(np.uint8)" if x.dtype.kind == "f" else ""
        values = "values 0 to 255" if dtype == "uint8" else "values in the unit of the images it was trained on"
        raise TypeError(f"{owner}: {name} must be {dtype} for this model, {values}, got {x.dtype}{hint}")
    return x


def _channels_first(owner: str, wanted: Wanted, x: np.ndarray, name: str) -> bool:
    """Whether an array of three axes is (C, H, W), as a data set has it, or (H, W, C), as a picture has it."""
    first, last = x.shape[0] == wanted.shape[0], x.shape[2] in {*_COLOURS, wanted.shape[0]}
    if first and last:
        raise ValueError(f"{owner}: {name} of shape {x.shape} may be (C, H, W) or (H, W, C): give it as "
                         f"(1, {wanted.shape[0]}, H, W)")
    if not first and not last:
        raise ValueError(f"{owner}: {name} must be one image, (H, W), ({wanted.shape[0]}, H, W) or (H, W, C) with C 1, "
                         f"3 or 4, got {x.shape}; for an array of grey pictures (N, H, W) give list(x)")
    return first


def _resized(owner: str, wanted: Wanted, x: np.ndarray, name: str) -> np.ndarray:
    """An image (C, H, W) with the model's channels and size, treated as a picture where it has others."""
    if x.shape == wanted.shape:
        return x
    if x.dtype != np.uint8 or wanted.shape[0] not in (1, 3) or x.shape[0] not in _COLOURS or 0 in x.shape:
        raise ValueError(f"{owner}: {name} must be an image of {shapes.times(wanted.shape)}, got "
                         f"{shapes.times(x.shape)}")
    array = x[0] if len(x) == 1 else np.ascontiguousarray(x.transpose(1, 2, 0))
    return _picture(wanted, pictures.pillow().fromarray(array), name)


def _picture(wanted: Wanted, source: Any, name: str) -> np.ndarray:
    if wanted.shape[0] not in (1, 3):
        raise ValueError(f"{name}: a picture has 1 or 3 channels, the model takes {wanted.shape[0]}")
    return pictures.read_picture(source, wanted.shape[0], wanted.side, name)


def _is_pil(x: object) -> bool:
    return any(cls.__module__.split(".")[0] == "PIL" for cls in type(x).__mro__)
