"""ONNX files, read without trust: sizes are compared with the file's before anything is made for them."""
from __future__ import annotations

import math
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cnn import shapes
from cnn.text import printable

if TYPE_CHECKING:
    from typing import Any

OPSETS = range(6, 29)
KINDS = {"FLOAT": np.float32, "DOUBLE": np.float64, "INT32": np.int32, "INT64": np.int64, "BOOL": np.bool_,
         "UINT8": np.uint8, "INT8": np.int8, "FLOAT16": np.float16}
# what may hold an array besides raw_data, by its kind
FIELDS = {"FLOAT": "float_data", "DOUBLE": "double_data", "INT64": "int64_data"}    # all others: int32_data


class Refused(ValueError):
    """Something in a file that cannot be used; the message has no file name yet."""


def words(text: object, most: int = 200) -> str:
    """A text from a file as a message shows it: printable, and cut short."""
    result = printable(text)
    return result if len(result) <= most else result[:most] + "..."


class File:
    """An ONNX file: `graph`, its `opset`, its `metadata` (texts by name), and `size`, the bytes that it may stand for.

    path: the file. onnx: the package. Raises FileNotFoundError, and ValueError naming the file where it is damaged or
    no such file.
    """

    def __init__(self, path: str | os.PathLike, onnx: Any) -> None:
        self.path, self.onnx = Path(path), onnx
        if not self.path.is_file():
            raise FileNotFoundError(f"{path}: there is no such ONNX file")
        content = self.path.read_bytes()
        self.size = len(content)
        try:
            model = onnx.ModelProto.FromString(content)
        except Exception as error:      # whatever protobuf's parser raises; nothing else runs here
            raise ValueError(f"{path}: not a readable ONNX file ({words(error)})") from None
        if not model.HasField("graph") or not model.opset_import:
            raise ValueError(f"{path}: not a readable ONNX file (it has no graph, or does not tell its opset)")
        self.graph = model.graph
        versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
        self.opset = versions[0] if versions else 0
        if self.opset not in OPSETS:
            raise ValueError(f"{path}: opset must be from {OPSETS[0]} to {OPSETS[-1]}, got {self.opset}")
        self.metadata = {entry.key: entry.value for entry in model.metadata_props}
        self._outside: dict[tuple, bytes] = {}      # what was read of other files
        self._files: dict[Path, int] = {}           # their sizes

    def kind(self, number: int) -> str:
        """The name of a number type of ONNX's."""
        try:
            return self.onnx.TensorProto.DataType.Name(number)
        except ValueError:
            return str(number)

    def array(self, tensor: Any) -> np.ndarray:
        """The elements of a TensorProto. Raises Refused."""
        kind, dims = self.kind(tensor.data_type), tuple(tensor.dims)
        if kind not in KINDS:
            raise Refused(f"the type of an array must be one of {', '.join(KINDS)}, got {words(kind)}")
        if any(n < 0 for n in dims) or len(dims) > 8:
            raise Refused(f"an array's shape must be up to 8 sizes of at least 0, got {shapes.shown(dims)}")
        dtype, count = np.dtype(KINDS[kind]), math.prod(dims)
        if tensor.HasField("segment"):
            raise Refused("an array must not be in segments")
        if tensor.data_location == self.onnx.TensorProto.EXTERNAL:
            raw = self._external(tensor, count * dtype.itemsize)
        elif tensor.HasField("raw_data"):
            raw = tensor.raw_data
        else:
            field = getattr(tensor, FIELDS.get(kind, "int32_data"))
            if len(field) != count:
                raise Refused(f"an array of shape {dims} must have {count} elements, got {len(field)}")
            values = np.array(field, FIELDS.get(kind) and dtype or np.int64)
            values = values.astype(np.uint16).view(np.float16) if kind == "FLOAT16" else values.astype(dtype)
            return values.reshape(dims)
        if len(raw) != count * dtype.itemsize:
            raise Refused(f"an array of shape {dims} must have {count * dtype.itemsize} bytes, got {len(raw)}")
        return np.frombuffer(raw, dtype.newbyteorder("<")).astype(dtype).reshape(dims)

    def _external(self, tensor: Any, size: int) -> bytes:
        """The bytes of an array that is in a file beside this one."""
        told = {entry.key: entry.value for entry in tensor.external_data}
        place = told.get("location", "")
        numbers = []
        for name in ("offset", "length"):
            text = told.get(name, "0" if name == "offset" else str(size))
            if not (text.isascii() and text.isdigit() and len(text) < 16):
                raise Refused(f"external data: {name} must be a number of bytes, got {words(text)!r}")
            numbers.append(int(text))
        offset, length = numbers
        if length != size:
            raise Refused(f"external data: length must be {size} bytes for an array of shape {tuple(tensor.dims)}, got "
                          f"{length}")
        key = place, offset, length
        if key not in self._outside:
            self._outside[key] = self._read_outside(place, offset, length)
        return self._outside[key]

    def _read_outside(self, place: str, offset: int, length: int) -> bytes:
        """Part of a file in this one's folder or below: no other may be read."""
        folder = Path(os.path.realpath(self.path.parent))
        parts = Path(place).parts
        if not parts or "\0" in place or "\\" in place or os.path.isabs(place) or ".." in parts:
            raise Refused(f"external data: location must be a file in the model's folder, got {words(place)!r}")
        path = Path(os.path.realpath(folder / place))
        if not path.is_relative_to(folder):
            raise Refused(f"external data: location must be a file in the model's folder, but {words(place)!r} is a "
                          f"link out of it")
        try:
            # a pipe must not be waited for
            handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0))
        except OSError as error:
            raise Refused(f"external data: {words(place)!r} cannot be read ({error.strerror})") from None
        with os.fdopen(handle, "rb") as file:
            there = os.fstat(file.fileno())
            if not stat.S_ISREG(there.st_mode):
                raise Refused(f"external data: {words(place)!r} must be a file")
            if offset + length > there.st_size:
                raise Refused(f"external data: {words(place)!r} has {there.st_size} bytes, but {length} from {offset} "
                              f"on are asked for")
            self._files[path] = there.st_size
            if length + sum(map(len, self._outside.values())) > sum(self._files.values()):
                raise Refused("external data: arrays must not overlap")
            self.size += length
            file.seek(offset)
            return file.read(length)

    def value_shape(self, value: Any) -> tuple[str, list[int | None]]:
        """(number type, sizes, None where they are open) of a graph's input. Raises Refused."""
        if not value.type.HasField("tensor_type"):
            raise Refused(f"input {words(value.name)!r}: it must be a tensor")
        kind, told = value.type.tensor_type.elem_type, value.type.tensor_type
        if not told.HasField("shape"):
            raise Refused(f"input {words(value.name)!r}: the file does not tell its shape")
        return self.kind(kind), [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None
                                 for d in told.shape.dim]
