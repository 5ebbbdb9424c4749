"""Parameters, and the flat arrays in which an optimizer lays them."""
from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

import numpy as np

from cnn import shapes
from cnn._ext.guard import Guard
from cnn.engine.data import Data, computing
from cnn.engine.memory import zeros
from cnn.engine.watch import Stamp

if TYPE_CHECKING:
    from typing import Any, Self

    from numpy.typing import ArrayLike, DTypeLike

refuse: ContextVar = ContextVar("refuse", default=None)     # called where `data` is read while nobody may
still: ContextVar = ContextVar("still", default=False)      # whether gradients stop at what is computed


class Operand:
    """What is computed with in `forward`: operators, and methods such as `exp`, give a cnn.graph.derived.Derived."""

    __array_priority__ = 1000   # arrays leave operators to it

    def __getattr__(self, name: str) -> Any:
        ask = computing.get()
        if name.startswith("_") or ask is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}"
                                 + (": its array is `data`" if not name.startswith("_") else ""))
        return ask(self, name)

    def __iter__(self) -> Any:
        return self._asked("__iter__")

    def __getitem__(self, index: Any) -> Any:
        return self._asked("__getitem__", index)

    def __bool__(self) -> bool:
        return True if computing.get() is None else self._asked("__bool__")

    def __eq__(self, other: object) -> Any:     # elsewhere it is the same Parameter or not
        return NotImplemented if computing.get() is None or hasattr(type(other), "graph") else self._asked(
            "__eq__", other)

    def __ne__(self, other: object) -> Any:
        return NotImplemented if computing.get() is None or hasattr(type(other), "graph") else self._asked(
            "__ne__", other)

    __hash__ = object.__hash__

    def _asked(self, name: str, *operands: Any) -> Any:
        ask = computing.get()
        if ask is None:
            raise TypeError(f"{type(self).__name__}: it is computed with in the forward of a module; elsewhere its "
                            f"array is `data`")
        return ask(self, name)(*operands)


def _operator(name: str) -> Any:
    def operate(self: Operand, *operands: Any) -> Any:
        if operands and hasattr(type(operands[0]), "graph"):
            return NotImplemented       # a value knows what to do
        return self._asked(name, *operands)
    operate.__name__ = name
    return operate


for _name in ("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "matmul", "rmatmul", "pow", "rpow",
              "neg", "abs", "gt", "ge", "lt", "le"):
    setattr(Operand, f"__{_name}__", _operator(f"__{_name}__"))


class Parameter(Operand):
    """A trainable array and its gradient.

    data: float32 or float64 array, or a NumPy number of these. Assigning to `data` copies into place, so that the
        arrays that the kernels and the optimizer know stay the same.
    grad: array of the same shape and dtype, set (not added to) by each backward pass.
    requires_grad: whether the backward pass computes `grad`, and an optimizer changes the parameter; False while it
        belongs to a layer that is frozen.
    lr_scale: by how much `optim.parameter_groups` multiplies its learning rate; 1 unless a model sets it.

    Raises TypeError for what is no array of floats, ValueError for a wrong shape.
    """

    def __init__(self, data: np.ndarray, requires_grad: bool = True) -> None:
        data = shapes.array("Parameter", "data", np.asarray(data) if isinstance(data, np.floating) else data)
        self._data = zeros(data.shape, data.dtype)
        self._view: Data | None = None
        self._data[...] = data
        self._grad = zeros(data.shape, data.dtype)
        self._requires_grad, self._frozen = bool(requires_grad), False
        self.lr_scale = 1.0
        self._stamp = Stamp()       # a new one whenever it moves
        self._guard = None          # who reads and changes it: one for all parameters of an optimizer

    @property
    def data(self) -> np.ndarray:
        """The array, with PyTorch's methods that change it, `normal_` say. Assigning copies into place."""
        refused = refuse.get()
        if refused is not None:
            refused()
        if self._view is None:
            self._view = self._data.view(Data)
        return self._view

    @data.setter
    def data(self, value: ArrayLike) -> None:
        self._data[...] = self._checked("data", value)

    @property
    def grad(self) -> np.ndarray:
        """The gradient, of the same shape and dtype as `data`. Assigning copies into place."""
        return self._grad

    @grad.setter
    def grad(self, value: ArrayLike) -> None:
        self._grad[...] = self._checked("grad", value)

    def _checked(self, name: str, value: ArrayLike) -> np.ndarray:
        value = np.asarray(value)
        if value.dtype.kind not in "fiu":
            raise TypeError(f"Parameter: {name} must hold numbers, got {value.dtype}")
        if value.shape != self.shape:
            raise ValueError(f"Parameter: {name} must have shape {self.shape}, got {value.shape}")
        return value

    @property
    def requires_grad(self) -> bool:
        """Whether the backward pass computes `grad`; False in a layer that is frozen."""
        return self._requires_grad and not self._frozen

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self._requires_grad = bool(value)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of `data`, a tuple."""
        return self._data.shape

    def size(self, dim: int | None = None) -> Any:
        """`shape`, or the size (int) of the axis `dim`."""
        axes = len(self.shape)
        return self.shape if dim is None else self.shape[shapes.integer("Parameter", "dim", dim, -axes, axes - 1)]

    def numel(self) -> int:
        """Number of elements (int)."""
        return self._data.size

    @property
    def ndim(self) -> int:
        """Number of axes (int)."""
        return self._data.ndim

    def dim(self) -> int:
        """`ndim`, the number of axes."""
        return self.ndim

    @property
    def dtype(self) -> np.dtype:
        """float32 or float64, a NumPy dtype."""
        return self._data.dtype

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Set `requires_grad`; returns the Parameter."""
        self.requires_grad = requires_grad
        return self

    def view(self, *shape: int | tuple[int, ...]) -> Shaped:
        """The Parameter in another shape, `scale.view(1, -1, 1, 1)`, to compute with beside a value. Raises ValueError
        for a shape of another number of elements."""
        try:
            return self._seen_as(self._data.reshape(*shape).shape)
        except (TypeError, ValueError):
            raise ValueError(f"Parameter: shape must be of {self.numel()} elements, got "
                             f"{shapes.shown(shape)}") from None

    reshape = view

    def expand(self, *sizes: Any) -> Any:
        """The Parameter beside a value, the same for every image: `token.expand(x.size(0), -1, -1)` of a token (1, L,
        C). sizes: of all axes; only the first, that of the images, may be another than it is, from 1. Raises ValueError
        else."""
        given = tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes
        if computing.get() is not None:
            return self._asked("expand", *given)
        if len(given) != len(self.shape) or self.shape[:1] != (1,) or any(
                n not in (-1, old) for n, old in zip(given[1:], self.shape[1:], strict=False)):
            raise ValueError(f"Parameter: expand must get the sizes of {self.shape}, of which the first, 1, may become "
                             f"the number of images, got {shapes.shown(given)}")
        return Shaped(self, self.shape)

    def __getitem__(self, index: Any) -> Shaped:
        """The Parameter with new axes, `scale[:, None, None]`, or a part of it, to compute with in `forward`; elsewhere
        a part raises TypeError."""
        parts = index if isinstance(index, tuple) else (index,)
        if not all(part is None or part is Ellipsis or isinstance(part, slice) and part == slice(None)
                   for part in parts):
            return self._asked("__getitem__", index)
        try:
            return self._seen_as(self._data[index].shape)
        except IndexError as error:
            raise ValueError(f"index: {error}, got {shapes.shown(index)} of shape {self.shape}") from None

    def _seen_as(self, shape: tuple[int, ...]) -> Any:
        """It in another shape of as many elements."""
        return self._asked("reshape", *shape).detach() if still.get() else Shaped(self, shape)

    def __repr__(self) -> str:
        return f"Parameter(shape={self.shape}, dtype={self.dtype})"

    def _move(self, data: np.ndarray, grad: np.ndarray) -> None:
        """Live in these arrays from now on, with the values there are."""
        data[...], grad[...] = self._data, self._grad
        self._data, self._grad, self._view = data, grad, None
        self._stamp.new()

    def __getstate__(self) -> dict:
        return {name: value for name, value in vars(self).items() if name not in ("_stamp", "_guard", "_view")}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state, _stamp=Stamp(), _guard=None, _view=None)
        self._move(zeros(self.shape, self.dtype), zeros(self.shape, self.dtype))

    def to(self, dtype: DTypeLike) -> None:
        """Change the number type to dtype, float32 or float64, in place. Raises TypeError for another."""
        dtype = shapes.float_type("Parameter", dtype)
        if dtype != self.dtype:
            self._move(zeros(self.shape, dtype), zeros(self.shape, dtype))


class Shaped(Operand):
    """A Parameter in another shape, beside a value. parameter: what it is; shape: a tuple of as many elements."""

    def __init__(self, parameter: Parameter, shape: tuple[int, ...]) -> None:
        self.parameter, self.shape = parameter, shape


def converted(buffers: dict[str, np.ndarray], dtype: DTypeLike) -> dict[str, np.ndarray]:
    """A layer's other arrays, by name, with all floats of them in another number type."""
    return {name: array.astype(shapes.float_type(name, dtype)) if array.dtype in shapes.FLOATS else array
            for name, array in buffers.items()}


def flatten(parameters: list[Parameter]) -> tuple[np.ndarray, np.ndarray]:
    """Lay parameters side by side in one flat array, their gradients in another.

    parameters: a list of distinct Parameters of one dtype. Returns the two arrays (float32 or float64,
    (total size,)), of which every parameter's `data` and `grad` are views from now on.
    """
    kinds = {p.dtype for p in parameters}
    if len(kinds) != 1:
        raise ValueError(f"flatten: parameters must share one dtype, got {sorted(map(str, kinds))}")
    total = sum(p.numel() for p in parameters)
    data, grad, guard = zeros(total, *kinds), zeros(total, *kinds), Guard()
    at = 0
    for p in parameters:
        p._guard = guard
        p._move(data[at:at + p.numel()].reshape(p.shape), grad[at:at + p.numel()].reshape(p.shape))
        at += p.numel()
    return data, grad
