"""Values: what `forward` computes with while a network is traced."""
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cnn import hints, shapes
from cnn.graph import means
from cnn.graph.count import Count, refused
from cnn.graph.line import line
from cnn.graph.methods import Methods, as_sizes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, TypeAlias

    from cnn.engine.parameter import Parameter
    from cnn.graph.graph import Graph

    Operand: TypeAlias = "Value | Parameter | np.ndarray | float"

# functions of NumPy whose operators arrays leave to values
_UFUNCS = ("add", "subtract", "multiply", "divide", "negative", "maximum", "minimum", "greater", "greater_equal",
           "less", "less_equal", "equal", "not_equal")


class Value(Methods):
    """A symbolic array: it has a shape and no elements.

    shape: (-1, C, H, W), (-1, H, W), (-1, features) or (-1,); -1 is the number of images, any. image: the shape of one
    image. dtype: float32 or float64. graph: what it belongs to, None once that is traced.

    Values are added, subtracted, multiplied, divided and compared with each other, with numbers, Parameters and arrays;
    shapes are broadcast as NumPy does, but for the images. A comparison gives a value of ones and zeros, a mask. What
    needs numbers, `if x > 0`, `float(x)` or `np.asarray(x)`, raises TypeError.
    """

    __slots__ = ("dtype", "graph", "image")

    def __init__(self, graph: Graph | None, image: Iterable[int], dtype: np.dtype) -> None:
        self.graph, self.image, self.dtype = graph, tuple(image), dtype

    @property
    def shape(self) -> tuple[Any, ...]:
        """(-1, C, H, W), (-1, H, W), (-1, features) or (-1,); -1 stands for the number of images. Arithmetic with it
        raises TypeError."""
        return (Count(), *self.image)

    @property
    def ndim(self) -> int:
        """Number of axes (int), the images' among them: 1 to 4."""
        return 1 + len(self.image)

    def size(self, dim: int | None = None) -> Any:
        """`shape`, or the size (int) of the axis `dim`, from 0 or negative; that of the images, 0, is -1,
        with which there is no arithmetic."""
        return self.shape if dim is None else self.shape[shapes.integer("size", "dim", dim, -self.ndim, self.ndim - 1)]

    def dim(self) -> int:
        """`ndim`, the number of axes."""
        return self.ndim

    def __repr__(self) -> str:
        return f"Value(shape={self.shape}, dtype={self.dtype})"

    # ------------------------------------------------------------ operators

    def __add__(self, other: Operand) -> Value:
        return _arithmetic("add", self, other)

    def __radd__(self, other: Operand) -> Value:
        return _arithmetic("add", other, self)

    def __sub__(self, other: Operand) -> Value:
        return _arithmetic("subtract", self, other)

    def __rsub__(self, other: Operand) -> Value:
        return _arithmetic("subtract", other, self)

    def __mul__(self, other: Operand) -> Value:
        return _arithmetic("multiply", self, other)

    def __rmul__(self, other: Operand) -> Value:
        return _arithmetic("multiply", other, self)

    def __truediv__(self, other: Operand) -> Value:
        return _arithmetic("divide", self, other)

    def __rtruediv__(self, other: Operand) -> Value:
        return _arithmetic("divide", other, self)

    def __matmul__(self, other: Value | Parameter | np.ndarray) -> Value:
        from cnn.graph import build
        return build.matmul(self, other)

    def __rmatmul__(self, other: Parameter | np.ndarray) -> Value:
        from cnn.graph import build
        return build.matmul(other, self)

    @property
    def T(self) -> Value:
        """Raises TypeError: the axes of images and of features change places in NumPy, which would couple images."""
        raise TypeError("a value has no T: its first axis is that of the images. For products between images take "
                        "arrays, y = model(x); y @ y.T, and give the gradient to model.backward")

    def __neg__(self) -> Value:
        return _arithmetic("multiply", self, -1)

    def __pos__(self) -> Value:
        return self

    def __abs__(self) -> Value:
        return self.abs()

    def __pow__(self, exponent: float) -> Value:
        return self.pow(exponent) if number(exponent) or hasattr(exponent, "shape") else NotImplemented

    def __gt__(self, other: Operand) -> Value:
        return _arithmetic("greater", self, other)

    def __ge__(self, other: Operand) -> Value:
        return _arithmetic("greater_equal", self, other)

    def __lt__(self, other: Operand) -> Value:
        return _arithmetic("less", self, other)

    def __le__(self, other: Operand) -> Value:
        return _arithmetic("less_equal", self, other)

    def __eq__(self, other: Operand) -> Value:      # type: ignore[override]
        return _arithmetic("equal", self, other)

    def __ne__(self, other: Operand) -> Value:      # type: ignore[override]
        return _arithmetic("not_equal", self, other)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        """Arrays leave operators to values, and NumPy's functions of the same meaning are the same."""
        kind = ufunc.__name__
        if method == "__call__" and kind == "matmul" and not options:
            from cnn.graph import build
            return build.matmul(*inputs)
        if method == "__call__" and kind in _UFUNCS and not options:
            return -self if kind == "negative" else _arithmetic(kind, *inputs)
        raise TypeError(f"{line()}numpy.{kind} takes arrays, and got a value; cnn.functional has functions of values")

    def __getitem__(self, index: Any) -> Value:
        """A part of each image: x[:, 2:5], x[:, :, ::2, 1:-1]; an integer, as in x[:, 0], leaves its axis out. One axis
        may be given a list or an array of integers, x[:, [2, 0, 1]]. None is a new axis of size 1, `...` all axes that
        are not given. The axis of the images stays whole and first. Raises TypeError or ValueError for anything else,
        masks among it."""
        from cnn.graph import moving
        return moving.sliced(self, index)

    # ------------------------------------------------------------ methods, as arrays and PyTorch's tensors have them

    def relu(self) -> Value:
        """max(x, 0)."""
        from cnn.graph import build
        return build.relu(self)

    def prelu(self, weight: Parameter | np.ndarray) -> Value:
        """x where x > 0, else weight x; weight: (C,) or (1,). See cnn.functional.prelu."""
        from cnn.graph import build
        return build.prelu(self, weight)

    def sigmoid(self) -> Value:
        """1 / (1 + exp(-x))."""
        from cnn.graph import build
        return build.activated("sigmoid", self)

    def tanh(self) -> Value:
        """The hyperbolic tangent."""
        from cnn.graph import build
        return build.activated("tanh", self)

    def maximum(self, other: Operand) -> Value:
        """The larger of x and `other`; see cnn.functional.maximum."""
        from cnn.graph import build
        return build.extreme("maximum", self, other)

    def minimum(self, other: Operand) -> Value:
        """The smaller of x and `other`; see cnn.functional.minimum."""
        from cnn.graph import build
        return build.extreme("minimum", self, other)

    def where(self, condition: Operand, other: Operand) -> Value:
        """x where the condition is not 0, else `other`; see cnn.functional.where."""
        from cnn.graph import build
        return build.where(condition, self, other)

    def matmul(self, other: Value | Parameter | np.ndarray) -> Value:
        """x @ other, the product of each image's matrices, (N, A, B) and (N, B, C); see cnn.functional.matmul."""
        from cnn.graph import build
        return build.matmul(self, other)

    bmm = matmul

    def flatten(self, start_dim: int = 1, end_dim: int = -1) -> Value:
        """The axes from start_dim to end_dim in one, (N, C, H, W) to (N, C * H * W) by default."""
        from cnn.graph import moving
        return moving.flatten(self, start_dim, end_dim)

    def reshape(self, *shape: int | Sequence[int]) -> Value:
        """The elements of each image in another shape, (-1, C, H, W) or (-1, features). The first size, -1 or
        shape[0], is the number of images. One of the other sizes may be -1, too, and is then inferred. More than four
        axes can only be permuted and reshaped again (cnn.graph.views)."""
        from cnn.graph import build
        return build.reshape(self, as_sizes(shape))

    view = reshape

    def unsqueeze(self, dim: int) -> Value:
        """With one more axis, `dim`, of size 1; see cnn.functional.unsqueeze."""
        from cnn.graph import moving
        return moving.unsqueeze(self, dim)

    def squeeze(self, dim: int | Sequence[int] | None = None) -> Value:
        """Without the axes `dim` of size 1, by default all but that of the images; see cnn.functional.squeeze."""
        from cnn.graph import moving
        return moving.squeeze(self, dim)

    def gather(self, dim: int, index: Value) -> Value:
        """The elements that `index`, a value of one integer per row along the axis `dim`, chooses: the scores of the
        targets, `x.gather(1, target.unsqueeze(1))`. The axis stays with size 1. NaN where the index is too large."""
        from cnn.graph import moving
        return moving.gather(self, dim, index)

    def expand(self, *sizes: int | Sequence[int]) -> Value:
        """Axes of size 1 repeated to `sizes`, those of all axes, the images' first; -1 leaves an axis as it is."""
        from cnn.graph import moving
        return moving.expand(self, as_sizes(sizes))

    def expand_as(self, other: Value) -> Value:
        """`expand` to the shape of another value."""
        return self.expand(other.shape)

    def contiguous(self) -> Value:
        """The value itself, as `float` is: for code that comes from PyTorch. Values have no memory order, and masks are
        floats."""
        return self

    def permute(self, *dims: int | Sequence[int]) -> Value:
        """The axes in the order `dims`, 0, that of the images, first; see cnn.functional.permute."""
        from cnn.graph import moving
        return moving.permute(self, as_sizes(dims))

    def transpose(self, dim0: int, dim1: int) -> Value:
        """The axes dim0 and dim1, 1 and up or negative, in each other's place."""
        from cnn.graph import moving
        return moving.transpose(self, dim0, dim1)

    def split(self, split_size: int | Sequence[int], dim: int = 1) -> tuple[Value, ...]:
        """Parts of `split_size` elements along the axis `dim`; see cnn.functional.split."""
        from cnn.graph import moving
        return moving.split(self, split_size, dim)

    def chunk(self, chunks: int, dim: int = 1) -> tuple[Value, ...]:
        """So many parts, `chunks`, along the axis `dim`; see cnn.functional.chunk."""
        from cnn.graph import moving
        return moving.chunk(self, chunks, dim)

    def mean(self, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Value:
        """The mean over the axes `dim` of each image, 1 and up or negative, by default all; `keepdim` keeps them with
        size 1."""
        from cnn.graph import build
        return means.noted("mean", dim, build.reduced("mean", self, dim, keepdim))

    def sum(self, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Value:
        """The sum over the axes `dim`; dim and keepdim as in `mean`."""
        from cnn.graph import build
        return means.noted("sum", dim, build.reduced("sum", self, dim, keepdim))

    def amax(self, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Value:
        """The largest element over the axes `dim`; dim and keepdim as in `mean`. Equal elements share the gradient
        evenly."""
        from cnn.graph import build
        return means.noted("amax", dim, build.reduced("amax", self, dim, keepdim))

    def amin(self, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Value:
        """The smallest element over the axes `dim`; dim, keepdim and the gradient as in `amax`."""
        from cnn.graph import build
        return means.noted("amin", dim, build.reduced("amin", self, dim, keepdim))

    def abs(self) -> Value:
        """|x|; the derivative at 0 is 0."""
        from cnn.graph import build
        return build.mapped("absolute", self)

    def exp(self) -> Value:
        """e^x."""
        from cnn.graph import build
        return build.mapped("exp", self)

    def log(self) -> Value:
        """The natural logarithm."""
        from cnn.graph import build
        return build.mapped("log", self)

    def sqrt(self) -> Value:
        """The square root."""
        from cnn.graph import build
        return build.mapped("sqrt", self)

    def sin(self) -> Value:
        """The sine of x, in radians."""
        from cnn.graph import build
        return build.mapped("sin", self)

    def cos(self) -> Value:
        """The cosine of x, in radians."""
        from cnn.graph import build
        return build.mapped("cos", self)

    def pow(self, exponent: float) -> Value:
        """x to the power of a number, `exponent`; of a value or a Parameter see cnn.functional.pow."""
        from cnn.graph import build
        return build.power(self, exponent)

    def clamp(self, min: float | None = None, max: float | None = None) -> Value:
        """x, but at least `min` and at most `max`, numbers, of which one may be missing."""
        from cnn.graph import build
        return build.clamp(self, min, max)

    def softmax(self, dim: int = 1) -> Value:
        """exp(x) / sum of exp(x) over the axis `dim`."""
        from cnn.graph import build
        return build.softmax("softmax", self, dim)

    def log_softmax(self, dim: int = 1) -> Value:
        """The logarithm of `softmax` over the axis `dim`."""
        from cnn.graph import build
        return build.softmax("log_softmax", self, dim)

    # ------------------------------------------------------------ what a value cannot tell

    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        raise refusal("whether it is true")

    def __array__(self, *arguments: Any, **more: Any) -> np.ndarray:
        raise refusal("its elements, as an array")

    def __iter__(self) -> Any:
        raise refusal("its images, one after the other")

    def __len__(self) -> int:
        raise refusal("the number of images, which is -1 in a shape,")

    if not TYPE_CHECKING:
        def __getattr__(self, name: str) -> Any:
            raise hints.missing("a value", name, hints.OF_VALUES)

    float = contiguous      # last, because it hides the type


def _refuse(words: str) -> Callable:
    def ask(self: Value, *arguments: Any) -> Any:
        raise refusal(words)
    ask.__doc__ = f"Raises TypeError: a value cannot tell {words}."
    return ask


for _name in ("__float__", "__int__", "__complex__", "__index__", "item", "tolist", "numpy"):
    setattr(Value, _name, _refuse("its elements"))


def refusal(words: str) -> TypeError:
    """The TypeError for a question that a value cannot answer, with the line that asked."""
    return TypeError(f"{line()}a value cannot tell {words} while a network is traced: `forward` must do the same "
                     f"for all images (it may depend on shapes and attributes, but not on elements)")


def _arithmetic(kind: str, a: Operand, b: Operand) -> Any:
    from cnn.graph import build
    return build.arithmetic(kind, a, b)


def number(value: object) -> bool:
    """Whether something is a plain number, Python's or NumPy's. Raises TypeError for the number of images."""
    if isinstance(value, Count):
        raise refused()
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
