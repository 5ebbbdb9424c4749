"""Weights in the files of `torch.save`, as PyTorch wrote them before 1.6, read without PyTorch.

Such a file is five pickles and the raw elements behind them. None is loaded (see cnn/pickles.py): of the three calls
that weights need it is written down what they would make.
"""
from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cnn import pickles
from cnn.text import printable

if TYPE_CHECKING:
    import os

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
_MOST_READS = 200_000       # of the pickles; each object takes one or more (those of EfficientNet-Lite0 take 14,000)
_MOST_AXES = 8
_KIND = "file of weights"
_DICT, _REBUILD = "collections.OrderedDict", "torch._utils._rebuild_tensor_v2"
_TYPES = {"torch.FloatStorage": "<f4", "torch.DoubleStorage": "<f8", "torch.HalfStorage": "<f2",
          "torch.LongStorage": "<i8"}


class _Storage(NamedTuple):
    """Elements that follow the pickles. dtype: as NumPy names it; size: how many there are."""

    key: str
    dtype: str
    size: int


class _Tensor(NamedTuple):
    """What a tensor would be made of, unchecked: (storage, offset, shape, strides, ...)."""

    parts: tuple[Any, ...]


def read_state(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read a file with a `state_dict`, {name: tensor}, that `torch.save` wrote before PyTorch 1.6.

    path: the file. It may come from anyone: nothing in it is run, and no more memory taken than a small multiple of its
    size. Returns arrays of float16, float32, float64 or int64, which cannot be written to. Raises FileNotFoundError,
    and ValueError naming the file where it is damaged, holds anything else, or is of a newer version.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{printable(path)}: there is no such file")
    raw = path.read_bytes()
    try:
        return _state(raw)
    except Exception as error:      # what a malformed pickle raises is anybody's guess
        raise ValueError(f"{printable(path)}: not weights that PyTorch wrote before version 1.6 "
                         f"({printable(str(error)[:200]) or type(error).__name__})") from None


def _state(raw: bytes) -> dict[str, np.ndarray]:
    if raw[:2] == b"PK":
        raise ValueError("it is a zip file, as newer versions write")
    file = pickles.CountingFile(raw, _MOST_READS, _KIND)
    magic, version, system, state, keys = (_Unpickler(file, encoding="strict").load() for _ in range(5))
    if (magic, version) != (_MAGIC, _VERSION) or type(system) is not dict or system.get("little_endian") is not True:
        raise ValueError("its first lines are not PyTorch's")
    if type(state) is not dict or not all(type(value) is _Tensor for value in state.values()):
        raise ValueError("it must hold a dict of tensors")
    tensors = {name: _checked(name, value) for name, value in state.items()}
    storages = {storage.key: storage for storage, *_ in tensors.values()}
    if any(storages[storage.key] != storage for storage, *_ in tensors.values()):
        raise ValueError("two of its tensors describe the same elements differently")
    if type(keys) is not list or set(map(type, keys)) - {str} or sorted(keys) != sorted(storages):
        raise ValueError("its list of elements is not that of its tensors")
    start, places = file.tell(), {}
    for key in keys:
        size = int.from_bytes(raw[start:start + 8], "little")
        if size != storages[key].size:
            raise ValueError(f"there are {size:,} elements where {storages[key].size:,} belong")
        places[key], start = start + 8, start + 8 + size * np.dtype(storages[key].dtype).itemsize
        if start > len(raw):
            raise ValueError("it ends before its elements do")
    if start != len(raw):
        raise ValueError(f"{len(raw) - start:,} bytes follow its elements")
    result = {}
    for name, (storage, offset, shape, strides) in tensors.items():
        item = np.dtype(storage.dtype).itemsize
        result[name] = np.ndarray(shape, storage.dtype, raw, places[storage.key] + offset * item,
                                  [stride * item for stride in strides])
    return result


def _checked(name: str, tensor: _Tensor) -> tuple[_Storage, int, tuple[int, ...], tuple[int, ...]]:
    """(storage, offset, shape, strides) of a tensor that has no more elements than its storage and lies in it."""
    match tensor.parts:
        case (_Storage() as storage, int(offset), tuple(shape), tuple(strides), bool(), *_) if (
                len(shape) == len(strides) <= _MOST_AXES and all(
                    type(n) is int and 0 <= n <= storage.size for n in (offset, *shape, *strides))):
            last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
            if 0 < math.prod(shape) <= storage.size and last < storage.size:
                return storage, offset, shape, strides
    raise ValueError(f"the tensor {name!r} does not lie in its elements as it should")


class _Unpickler(pickles.Unpickler):
    dispatch = pickles.Opcodes(pickle.BINUNICODE, pickle.LONG1, pickle.BINPERSID, kind=_KIND)
    names, keys = frozenset((_DICT, _REBUILD, *_TYPES)), str

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case ("storage", str(kind), str(key), str(), int(size), None) if kind in _TYPES and size >= 0:
                return _Storage(key, _TYPES[kind], size)
        raise pickle.UnpicklingError("it refers to something else than elements")

    def load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if function == _DICT and arguments == ():
            self.stack.append({})
        elif function == _REBUILD and type(arguments) is tuple:
            self.stack.append(_Tensor(arguments))
        else:
            raise pickle.UnpicklingError("it asks for a call that weights do not need")

    def load_build(self) -> None:
        self.stack.pop()        # versions of the modules, an attribute of the dict
        if type(self.stack[-1]) is not dict:
            raise pickle.UnpicklingError("it gives attributes to something else than a dict")
