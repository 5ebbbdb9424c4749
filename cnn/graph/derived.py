"""What `forward` computes from Parameters alone: sigmoid(alpha), scale.exp(), softmax(weights, 0)."""
from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from cnn import hints, shapes
from cnn.engine import parameter
from cnn.engine.parameter import Parameter, Shaped
from cnn.graph import arranged
from cnn.graph.arranged import Moves
from cnn.graph.methods import correction_of, root_of
from cnn.graph.value import Value, number, refusal
from cnn.ops.weighted import Awaited

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cnn.graph.graph import Graph


class Derived(Moves):
    """A symbolic array that is the same for every image, beside values: it has no axis of images, and `dim` counts its
    own axes from 0, as in PyTorch.

    value: a value of which each image is the array, as cnn.graph.arranged lays it. shape: of the array.
    """

    __array_ufunc__ = None      # arrays leave operators to it
    value: Value
    shape: tuple[int, ...]

    def __init__(self, value: Value, shape: tuple[int, ...]) -> None:
        self.shape = tuple(shape)
        self.value = arranged.shaped(value, arranged.image_of(self.shape))

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

    def plain(self) -> Value:
        """The value, of which each image has this shape, of at most three axes."""
        return arranged.shaped(self.value, self.shape)

    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def size(self, dim: int | None = None) -> Any:
        """`shape`, or the size (int) of the axis `dim`."""
        return self.shape if dim is None else self.shape[self._axis("size", dim)]

    def __repr__(self) -> str:
        return f"Derived(shape={self.shape}, dtype={self.dtype})"

    def _axis(self, owner: str, dim: int) -> int:
        return shapes.integer(owner, "dim", dim, -self.ndim, self.ndim - 1) % self.ndim

    def _axes(self, owner: str, dim: int | Sequence[int] | None) -> tuple[int, ...]:
        """`dim`, one axis or several, by default all, from 0."""
        if dim is None:
            return tuple(range(self.ndim))
        axes = tuple(self._axis(owner, d) for d in (dim if isinstance(dim, (tuple, list)) else (dim,)))
        if len(set(axes)) != len(axes) or not axes:
            raise ValueError(f"{owner}: dim must be different axes, got {dim}")
        return axes

    def _with(self, shape: tuple[int, ...], value: Value | None = None) -> Derived:
        return Derived(self.value if value is None else value, shape)

    def _picked(self, index: Callable[[np.ndarray], np.ndarray]) -> Derived:
        return Derived(*arranged.picked(self.value, self.shape, index))

    # ------------------------------------------------------------ operators and methods, as values have them

    def __getitem__(self, index: Any) -> Derived:
        parts = index if isinstance(index, tuple) else (index,)
        for part in parts:
            if not (part is None or part is Ellipsis or isinstance(part, (int, np.integer, slice, list, np.ndarray))):
                raise TypeError(f"index: of an array computed from Parameters, numbers, slices and lists of numbers "
                                f"take parts, got {shapes.shown(part)}")
        return self._picked(lambda numbers: arranged.indexed(numbers, parts))

    def __iter__(self) -> Iterator[Derived]:
        if not self.shape:
            raise TypeError("parameter: an array without axes, computed from Parameters, has no parts")
        return iter([self[i] for i in range(self.shape[0])])

    def __neg__(self) -> Derived:
        return Derived(-self.value, self.shape)

    def __abs__(self) -> Derived:
        return Derived(self.value.abs(), self.shape)

    def __pow__(self, exponent: float) -> Derived:
        return Derived(self.value.pow(exponent), self.shape) if number(exponent) else NotImplemented

    def __rpow__(self, base: float) -> Derived:
        return Derived((self.value * math.log(shapes.number("pow", "the base", base, above=0))).exp(), self.shape)

    def tril(self, diagonal: int = 0) -> Any:
        """The matrices of the last two axes, 0 above the diagonal of this number."""
        return self._within("tril", np.tril, diagonal)

    def triu(self, diagonal: int = 0) -> Any:
        """The matrices of the last two axes, 0 below the diagonal of this number."""
        return self._within("triu", np.triu, diagonal)

    def _within(self, name: str, part: Callable, diagonal: int) -> Any:
        from cnn.graph import build
        diagonal = shapes.integer(name, "diagonal", diagonal, -2**31)
        if self.ndim < 2:
            raise ValueError(f"{name}: an array must have matrices, two axes or more, got shape {self.shape}")
        return through(build.where, part(np.ones(self.shape[-2:], self.dtype), diagonal), self, 0.0)

    def __matmul__(self, other: Any) -> Any:
        return product(self, other)

    def __rmatmul__(self, other: Any) -> Any:
        return product(other, self)

    def softmax(self, dim: int) -> Derived:
        """exp(x) / sum of exp(x) over the axis `dim`."""
        return over_axes("softmax", Value.softmax, self, dim)

    def log_softmax(self, dim: int) -> Derived:
        """The logarithm of `softmax` over the axis `dim`."""
        return over_axes("log_softmax", Value.log_softmax, self, dim)

    def norm(self, p: float = 2.0, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Derived:
        """(sum of |x|^p)^(1/p) over the axes `dim`, by default all."""
        return reduced("norm", lambda value, dims: value.norm(p, dims, True), self, dim, keepdim)

    def var(self, dim: int | Sequence[int] | None = None, unbiased: bool = True, keepdim: bool = False, *,
            correction: float | None = None) -> Derived:
        """The variance over the axes `dim`, by default all; see Value.var."""
        n, less = math.prod(self.shape[axis] for axis in self._axes("var", dim)), correction_of(unbiased, correction)
        if n <= less:
            raise ValueError(f"var: dim must be axes of more than {less:g} elements, got {dim} of {self.shape}")
        centred: Any = self - reduced("mean", lambda value, dims: value.mean(dims, True), self, dim, True)
        return (centred * centred).sum(dim, keepdim) / (n - less)

    def std(self, dim: int | Sequence[int] | None = None, unbiased: bool = True, keepdim: bool = False, *,
            correction: float | None = None) -> Derived:
        """The square root of `var`; see Value.std."""
        of_all = self.var(dim, unbiased, keepdim, correction=correction)
        return Derived(root_of(of_all.value, 2), of_all.shape)

    def detach(self) -> Derived:
        """The same, through which no gradient goes back."""
        return Derived(self.value.detach(), self.shape)

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
        self.of, self.graph, self.shape = of, graph, of.shape[::-1]

    @cached_property
    def value(self) -> Value:       # type: ignore[override]
        return of(self.of, self.graph).transpose(0, 1).value


OWN = Parameter, Shaped, Derived


def product(a: Any, b: Any) -> Any:
    """a @ b, of which one is a Parameter or computed from some."""
    from cnn.graph import build
    if isinstance(a, Value) or isinstance(b, Value):
        return build.matmul(a, b)
    graph = computed_in()
    x, y = (of(operand, graph) for operand in (a, b))
    if len(x.shape) == 1 or len(y.shape) == 1:      # vectors: a row before, a column after
        made = product(x[None] if len(x.shape) == 1 else x, y[:, None] if len(y.shape) == 1 else y)
        rows = made.shape[:-2] if len(x.shape) == 1 else made.shape[:-1]
        return made.reshape(*rows, *(made.shape[-1:] if len(y.shape) > 1 else ()))
    if x.ndim > 3 or y.ndim > 3:
        raise ValueError(f"matmul: arrays computed from Parameters must have at most 3 axes, got {x.shape} and "
                         f"{y.shape}")
    heads = max(x.ndim, y.ndim) - 2
    made = build.matmul(*(z.reshape(*(1,) * (heads + 2 - z.ndim), *z.shape).plain() for z in (x, y)))
    return Derived(made, made.image)


def _reduction(name: str) -> Callable:
    def reduce(self: Derived, dim: Any = None, keepdim: bool = False) -> Derived:
        return reduced(name, lambda value, dims: getattr(value, name)(dims, True), self, dim, keepdim)
    reduce.__doc__ = f"Value.{name} over the axes `dim`, by default all."
    return reduce


def _function(name: str) -> Callable:
    def apply(self: Derived, *arguments: Any, **options: Any) -> Derived:
        return Derived(getattr(self.value, name)(*arguments, **options), self.shape)
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
    """A Parameter, or an array, as what can be computed with in a graph. Raises ValueError for more than 4 axes."""
    from cnn.graph import build
    if isinstance(thing, Derived):
        return thing
    if not isinstance(thing, (Parameter, Shaped, np.ndarray)):
        raise TypeError(f"parameter: what is computed with Parameters must be one, an array or a number, got "
                        f"{type(thing).__name__}")
    shape = tuple(thing.shape)
    operand, sources = build.operand_of("parameter", thing, graph.inputs[0].dtype)
    return Derived(build.constant(operand, arranged.image_of(shape), graph.inputs[0], sources), shape)


def awaited(thing: Shaped | Derived) -> Parameter | Awaited:
    """It in the place of a Parameter of an operation: one whose own shape it has is the Parameter itself."""
    if isinstance(thing, Shaped) and thing.shape == thing.parameter.shape:
        return thing.parameter
    made = of(thing, computed_in())
    return Awaited(made.value, made.shape)


def through(function: Callable, *operands: Any) -> Any:
    """The Derived that a function of values, element by element, makes of Parameters, what is computed from them,
    arrays and numbers: their shapes get axes of size 1 in front where others have more, as in NumPy."""
    graph = computed_in()
    given = [operand if number(operand) else of(operand, graph) for operand in operands]
    sizes = [thing.shape for thing in given if isinstance(thing, Derived)]
    try:
        shape = np.broadcast_shapes(*sizes)
    except ValueError:
        told = " and ".join(map(str, sizes))
        raise ValueError(f"parameter: arrays of shapes {told} do not go together") from None
    return Derived(function(*[arranged.repeated(thing.value, thing.shape, shape) if isinstance(thing, Derived)
                              else thing for thing in given]), shape)


def over_axes(owner: str, function: Callable, thing: Any, dim: Any) -> Any:
    """The Derived that `function(value, dim)`, whose result has its value's shape, makes of a Parameter, or of what is
    computed from some. dim: one of its own axes, or several."""
    own = of(thing, computed_in())
    axes = own._axes(owner, dim)

    def apply(value: Value, dims: tuple[int, ...]) -> Value:
        return function(value, dims[0] if len(dims) == 1 else dims)
    return Derived(arranged.over(own.value, own.shape, axes, apply), own.shape)


def reduced(owner: str, function: Callable, thing: Any, dim: Any, keepdim: Any) -> Any:
    """The Derived that `function(value, dim)`, which keeps axes with size 1, makes of a Parameter, or of what is
    computed from some. dim: axes of its own, or None for all; keepdim: whether they stay."""
    own = of(thing, computed_in())
    if not own.shape:       # of one number, as of a row of one
        if dim is not None:
            raise ValueError(f"{owner}: dim must be None for an array without axes, got {dim}")
        return Derived(arranged.over(own.reshape(1).value, (1,), (0,), function), ())
    axes = own._axes(owner, dim)
    value = arranged.over(own.value, own.shape, axes, function)
    if shapes.flag(owner, "keepdim", keepdim):
        return Derived(value, tuple(1 if i in axes else n for i, n in enumerate(own.shape)))
    return Derived(value, tuple(n for i, n in enumerate(own.shape) if i not in axes))


def joined(owner: str, things: Sequence[Any], dim: int) -> Any:
    """The Derived of several one after the other along the axis `dim` of their own, or with the owner "stack" side by
    side along a new one."""
    from cnn.graph import moving
    given = [of(thing, computed_in()) for thing in things]
    axes, told = given[0].ndim, ", ".join(str(x.shape) for x in given)
    if owner == "stack":
        at = shapes.integer(owner, "dim", dim, -axes - 1, axes) % (axes + 1)
        fits = all(x.shape == given[0].shape for x in given)
    else:
        if not axes:
            raise ValueError(f"{owner}: arrays without axes are joined by stack, got {told}")
        at = given[0]._axis(owner, dim)
        fits = all(x.ndim == axes and x.shape[:at] + x.shape[at + 1:] == given[0].shape[:at] + given[0].shape[at + 1:]
                   for x in given)
    if not fits:
        raise ValueError(f"{owner}: shapes must be the same" + (", but for the axis dim" if owner == "cat" else "")
                         + f", got {told}")
    given = [x.unsqueeze(at) for x in given] if owner == "stack" else given
    before, after = math.prod(given[0].shape[:at]), math.prod(given[0].shape[at + 1:])
    made = moving.cat([x.reshape(before, x.shape[at], after).plain() for x in given], 2)
    total = sum(x.shape[at] for x in given)
    return Derived(made, (before, total, after)).reshape(*given[0].shape[:at], total, *given[0].shape[at + 1:])


def computed_in() -> Graph:
    """The graph that is being traced."""
    return parameter.computing.get().graph


def beside(thing: Any, like: Value) -> Any:
    """A Parameter, or what is computed from Parameters, as a value beside another of its graph; all else as it is."""
    from cnn.graph import build
    return build.value_of("parameter", thing, like) if isinstance(thing, OWN) else thing


def computes(*operands: Any) -> bool:
    """Whether these are to be computed with in a graph, though none of them is a value."""
    return parameter.computing.get() is not None and any(isinstance(operand, OWN) for operand in operands)
