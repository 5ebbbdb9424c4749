"""What `forward` computes from Parameters alone: sigmoid(alpha), scale.exp(), softmax(weights, 0)."""
from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from cnn import hints, shapes
from cnn.engine import parameter
from cnn.engine.parameter import Parameter, Shaped
from cnn.graph.count import Count
from cnn.graph.methods import as_sizes
from cnn.graph.value import Value, number, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cnn.graph.graph import Graph


class Derived:
    """A symbolic array that is the same for every image, beside values: it has no axis of images, and `dim` counts its
    own axes from 0, as in PyTorch.

    value: a value of which each image is the array, or of an array (1, C, H, W) what is left without the first axis.
    first: whether that is so.
    """

    __array_ufunc__ = None      # arrays leave operators to it
    value: Value
    first: bool

    def __init__(self, value: Value, first: bool = False) -> None:
        self.value, self.first = value, first

    @property
    def shape(self) -> tuple[int, ...]:
        """A tuple of ints."""
        return (1,) * self.first + self.value.image

    @property
    def ndim(self) -> int:
        """Number of axes (int), 0 to 4."""
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype:
        """float32 or float64."""
        return self.value.dtype

    def dim(self) -> int:
        """`ndim`, the number of axes."""
        return self.ndim

    def size(self, dim: int | None = None) -> Any:
        """`shape`, or the size (int) of the axis `dim`."""
        return self.shape if dim is None else self.shape[shapes.integer("size", "dim", dim, -self.ndim, self.ndim - 1)]

    def __repr__(self) -> str:
        return f"Derived(shape={self.shape}, dtype={self.dtype})"

    def _axes(self, owner: str, dim: int | Sequence[int]) -> Any:
        """`dim` as axes of the value, which has lost none."""
        if isinstance(dim, (tuple, list)):
            return tuple(self._axes(owner, d) for d in dim)
        return shapes.integer(owner, "dim", dim, -self.ndim, self.ndim - 1) % self.ndim + 1

    def _whole(self, name: str) -> Value:
        """The value, for what counts its axes. Raises ValueError where it has lost one."""
        if self.first:
            raise ValueError(f"{name}: an array computed from Parameters alone must have at most 3 axes for it, got "
                             f"shape {self.shape}")
        return self.value

    # ------------------------------------------------------------ operators and methods, as values have them

    def __getitem__(self, index: Any) -> Derived:
        parts = index if isinstance(index, tuple) else (index,)
        return Derived(self._whole("index")[(slice(None), *parts)])

    def __iter__(self) -> Iterator[Derived]:
        if not self.shape:
            raise TypeError("parameter: an array without axes, computed from Parameters, has no parts")
        return iter([self[i] for i in range(self.shape[0])])

    def __neg__(self) -> Derived:
        return Derived(-self.value, self.first)

    def __abs__(self) -> Derived:
        return Derived(self.value.abs(), self.first)

    def __pow__(self, exponent: float) -> Derived:
        return Derived(self.value.pow(exponent), self.first) if number(exponent) else NotImplemented

    def __matmul__(self, other: Any) -> Any:
        return product(self, other)

    def __rmatmul__(self, other: Any) -> Any:
        return product(other, self)

    @property
    def T(self) -> Derived:
        """The transpose of a matrix."""
        return self.transpose(0, 1)

    def t(self) -> Derived:
        """`T`, the transpose of a matrix."""
        return self.T

    def transpose(self, dim0: int, dim1: int) -> Derived:
        """The axes dim0 and dim1 in each other's place."""
        return Derived(self._whole("transpose").transpose(*self._axes("transpose", (dim0, dim1))))

    def permute(self, *dims: Any) -> Derived:
        """The axes in the order `dims`."""
        return Derived(self._whole("permute").permute(0, *self._axes("permute", as_sizes(dims))))

    def reshape(self, *shape: Any) -> Derived:
        """The elements in another shape, of which one size may be -1."""
        sizes = as_sizes(shape)
        first = len(sizes) == 4 and sizes[0] == 1
        return Derived(self.value.reshape(-1, *sizes[first:]), first)

    view = reshape

    def flatten(self) -> Derived:
        """All axes in one."""
        return self.reshape(-1)

    def unsqueeze(self, dim: int) -> Derived:
        """With one more axis, `dim`, of size 1."""
        value = self._whole("unsqueeze")
        first = len(value.image) == 3 and dim in (0, -4)
        return Derived(value if first else value.unsqueeze(dim + 1 if dim >= 0 else dim), first)

    def squeeze(self, dim: int | Sequence[int] | None = None) -> Derived:
        """Without the axes `dim` of size 1, by default all."""
        value = self.value if dim is None else self._whole("squeeze")
        return Derived(value.squeeze(dim if dim is None else self._axes("squeeze", dim)))

    def expand(self, *sizes: Any) -> Any:
        """Axes of size 1 repeated to `sizes`; where the first is the number of images, a value."""
        given = as_sizes(sizes)
        if given and isinstance(given[0], Count) and len(given) == self.ndim and self.shape[0] == 1:
            return (self.value if self.first else self[0].value).expand(-1, *given[1:])
        return Derived(self._whole("expand").expand(-1, *given))

    def softmax(self, dim: int) -> Derived:
        """exp(x) / sum of exp(x) over the axis `dim`."""
        return over_axes("softmax", Value.softmax, self, dim)

    def log_softmax(self, dim: int) -> Derived:
        """The logarithm of `softmax` over the axis `dim`."""
        return over_axes("log_softmax", Value.log_softmax, self, dim)

    def norm(self, p: float = 2.0, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Derived:
        """(sum of |x|^p)^(1/p) over the axes `dim`, by default all."""
        return over_axes("norm", lambda value, dims: value.norm(p, dims, keepdim), self, dim)

    def float(self) -> Derived:
        """The same."""
        return self

    contiguous = float

    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        raise refusal("whether it is true")

    if not TYPE_CHECKING:
        def __getattr__(self, name: str) -> Any:
            raise hints.missing("what is computed from Parameters", name, hints.OF_VALUES)


class Transposed(Derived):
    """The transpose of a Parameter of two axes. A value times it is a linear map, which needs no copies of it."""

    def __init__(self, of: Any, graph: Graph) -> None:
        self.of, self.graph, self.first = of, graph, False

    @property
    def shape(self) -> tuple[int, ...]:
        return self.of.shape[::-1]

    @cached_property
    def value(self) -> Value:       # type: ignore[override]
        return of(self.of, self.graph).value.transpose(1, 2)


OWN = Parameter, Shaped, Derived


def product(a: Any, b: Any) -> Any:
    """a @ b, of which one is a Parameter or computed from some."""
    from cnn.graph import build
    if isinstance(a, Value) or isinstance(b, Value):
        return build.matmul(a, b)
    graph = computed_in()
    return Derived(build.matmul(*[of(operand, graph)._whole("matmul") for operand in (a, b)]))


def _reduction(name: str) -> Callable:
    def reduced(self: Derived, dim: Any = None, keepdim: bool = False) -> Derived:
        return over_axes(name, lambda value, dims: getattr(value, name)(dims, keepdim), self, dim)
    reduced.__doc__ = f"Value.{name} over the axes `dim`, by default all."
    return reduced


def _function(name: str) -> Callable:
    def apply(self: Derived, *arguments: Any, **options: Any) -> Derived:
        return Derived(getattr(self.value, name)(*arguments, **options), self.first)
    apply.__doc__ = f"Value.{name}."
    return apply


def _operator(name: str, kind: str, turned: bool) -> Callable:
    def operate(self: Derived, other: Any) -> Any:
        if isinstance(other, Value) or not (number(other) or isinstance(other, (*OWN, np.ndarray))):
            return NotImplemented
        from cnn.graph import build

        def of_values(a: Any, b: Any) -> Any:
            return build.arithmetic(kind, a, b)
        return through(of_values, other, self) if turned else through(of_values, self, other)
    operate.__name__ = name
    return operate


for _name in ("sum", "mean", "amax", "amin"):
    setattr(Derived, _name, _reduction(_name))
for _name in ("relu", "sigmoid", "tanh", "abs", "exp", "log", "sqrt", "sin", "cos", "pow", "clamp", "square",
              "reciprocal", "rsqrt", "sign", "clamp_min", "clamp_max", "clip"):
    setattr(Derived, _name, _function(_name))
for _short, _kind in (("add", "add"), ("sub", "subtract"), ("mul", "multiply"), ("truediv", "divide")):
    setattr(Derived, f"__{_short}__", _operator(f"__{_short}__", _kind, False))
    setattr(Derived, f"__r{_short}__", _operator(f"__r{_short}__", _kind, True))
for _short, _kind in (("gt", "greater"), ("ge", "greater_equal"), ("lt", "less"), ("le", "less_equal"),
                      ("eq", "equal"), ("ne", "not_equal")):
    setattr(Derived, f"__{_short}__", _operator(f"__{_short}__", _kind, False))


# ---------------------------------------------------------------- from Parameters, and beside values


def asked(graph: Graph, thing: Parameter | Shaped, name: str) -> Any:
    """The attribute `name` of a Parameter as what can be computed with in a graph; see cnn.engine.parameter.computing.
    Raises AttributeError where there is none."""
    if not hasattr(Derived, name):
        raise hints.missing("a Parameter", name, hints.OF_VALUES)
    axes = len(thing.shape)
    if name in ("T", "t") and (axes < 2 or axes == 2 and isinstance(thing, Parameter)):
        made = of(thing, graph) if axes < 2 else Transposed(thing, graph)
        return made if name == "T" else lambda: made
    return getattr(of(thing, graph), name)


def of(thing: Any, graph: Graph) -> Derived:
    """A Parameter, or an array, as what can be computed with in a graph. Raises ValueError for more than 3 axes."""
    from cnn.graph import build
    if isinstance(thing, Derived):
        return thing
    if not isinstance(thing, (Parameter, Shaped, np.ndarray)):
        raise TypeError(f"parameter: what is computed with Parameters must be one, an array or a number, got "
                        f"{type(thing).__name__}")
    shape = tuple(thing.shape)
    first = len(shape) == 4 and shape[0] == 1
    if len(shape) > 3 + first:
        raise ValueError(f"parameter: what is computed from Parameters and arrays alone must have at most 3 axes, or "
                         f"the shape (1, C, H, W), got {shape}: view(-1) where the shape does not matter")
    operand, sources = build.operand_of("parameter", thing, graph.inputs[0].dtype)
    return Derived(build.constant(operand, shape[first:], graph.inputs[0], sources), first)


def through(function: Callable, *operands: Any) -> Any:
    """The Derived that a function of values, element by element, makes of Parameters, what is computed from them,
    arrays and numbers: their shapes get axes of size 1 in front where others have more, as in NumPy."""
    graph = computed_in()
    given = [operand if number(operand) else of(operand, graph) for operand in operands]
    rank = max(thing.ndim for thing in given if isinstance(thing, Derived))
    return Derived(function(*[_of_rank(thing.value, min(rank, 3)) if isinstance(thing, Derived) else thing
                              for thing in given]), rank == 4)


def over_axes(owner: str, function: Callable, thing: Any, dim: Any) -> Any:
    """The Derived that `function(value, dim)` makes of a Parameter, or of what is computed from some. dim: axes of its
    own, or None for all."""
    own = of(thing, computed_in())
    value = own.value if dim is None else own._whole(owner)
    return Derived(function(value, dim if dim is None else own._axes(owner, dim)))


def computed_in() -> Graph:
    """The graph that is being traced."""
    return parameter.computing.get().graph


def beside(thing: Any, like: Value) -> Any:
    """A Parameter, or what is computed from Parameters, as a value beside another of its graph; all else as it is."""
    from cnn.graph import build
    return build.value_of("parameter", thing, like) if isinstance(thing, OWN) else thing


def _of_rank(value: Value, rank: int) -> Value:
    from cnn.graph import build
    return build.reshaped(value, (*(1,) * (rank - len(value.image)), *value.image))


def computes(*operands: Any) -> bool:
    """Whether these are to be computed with in a graph, though none of them is a value."""
    return parameter.computing.get() is not None and any(isinstance(operand, OWN) for operand in operands)


class Computing:
    """What cnn.engine.parameter.computing holds while a graph is traced: the graph, and how to ask Parameters."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def __call__(self, thing: Parameter | Shaped, name: str) -> Any:
        return asked(self.graph, thing, name)
