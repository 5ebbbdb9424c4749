"""What operators, methods and functions of values add to their graph."""
from __future__ import annotations

import math

import numpy as np

from cnn import shapes
from cnn.engine.data import own
from cnn.engine.parameter import Parameter, Shaped, still
from cnn.graph.count import Count
from cnn.graph.derived import Derived, Transposed, awaited, of
from cnn.graph.trace import add, apply
from cnn.graph.value import Value, number
from cnn.ops import arithmetic as ops
from cnn.ops import conv, pointwise, pool, reduction, reshaping
from cnn.ops import linear as linear_ops

LINEAR = ("add", "subtract", "multiply", "divide")
COMPARISONS = ("greater", "greater_equal", "equal", "not_equal")
TURNED = {"less": "greater", "less_equal": "greater_equal"}     # a < b is b > a


def arithmetic(kind, a, b):
    """a + b and the like, the larger or smaller of both, or a comparison; either may be a number, a Parameter or an
    array instead of a value."""
    if kind in TURNED:
        return arithmetic(TURNED[kind], b, a)
    if kind in LINEAR and number(b):
        return _with_number(kind, a, float(b))
    if kind in LINEAR and number(a):
        return _from_number(kind, float(a), b)
    operands = values(kind, a, b)
    if any(operand is NotImplemented for operand in operands):
        return NotImplemented
    if kind == "add" and operands[0].image == operands[1].image:
        return apply(ops.Add(), *operands)
    return apply((ops.Comparison if kind in COMPARISONS else ops.Arithmetic)(kind), *operands)


def is_mask(x):
    """Whether a value is what a comparison has made."""
    node = next((node for node in x.graph.nodes if node.output is x), None)
    return node is not None and isinstance(node.operation, ops.Comparison)


def values(kind, *operands):
    """Operands as values of one graph, to which one of them belongs."""
    like = next(operand for operand in operands if isinstance(operand, Value))
    return [value_of(kind, operand, like) for operand in operands]


def extreme(kind, a, b):
    """The larger or the smaller of two."""
    y = arithmetic(kind, a, b)
    if y is NotImplemented:
        wrong = b if isinstance(a, Value) else a
        raise TypeError(f"{kind}: it takes values, numbers, Parameters and arrays, got {type(wrong).__name__}")
    return y


def where(condition, a, b):
    operands = values("where", condition, a, b)
    for operand, given in zip(operands, (condition, a, b), strict=True):
        if operand is NotImplemented:
            raise TypeError(f"where: it takes values, numbers, Parameters and arrays, got {type(given).__name__}")
    return apply(ops.Where(), *operands)


def mapped(name, x, owner=None, **numbers):
    """A function of each element, one of MAPS."""
    return apply(pointwise.Map(owner or name, name, **numbers), x)


def power(x, n):
    """x^n for a number; for a value, a Parameter or an array n, of x at least 0, as e^(n log x)."""
    if isinstance(n, (Value, Parameter, Shaped, Derived, np.ndarray)):
        zero, n = x == 0, values("pow", x, n)[1]
        y = mapped("exp", arithmetic("multiply", mapped("log", where(zero, 1.0, x)), n))
        return where(zero, (n == 0) - mapped("log", n >= 0), y)     # 0, 1 or infinity
    n = shapes.number("pow", "the exponent", n)
    return mapped("sqrt", x) if n == 0.5 else mapped("power", x, "pow", exponent=n)


def clamp(x, low=None, high=None, owner="clamp"):
    low, high = limits(owner, low, high)
    return mapped("clamp", x, owner, min=low, max=high)


def limits(owner, low, high):
    """The limits of a clamp as floats; a missing one is infinite."""
    if low is None and high is None:
        raise ValueError(f"{owner}: min or max must be given")
    def checked(what, bound, end):
        infinite = bound is None or isinstance(bound, (float, np.floating)) and bound == end
        if isinstance(bound, (Value, Parameter, Shaped, Derived)) or isinstance(bound, np.ndarray) and bound.ndim:
            raise TypeError(f"{owner}: {what} must be a number, got {type(bound).__name__}; "
                            f"x.{'maximum' if what == 'min' else 'minimum'}(other) takes one for each element")
        return end if infinite else shapes.number(owner, what, bound)
    return checked("min", low, -math.inf), checked("max", high, math.inf)


def prelu(x, weight):
    """max(x, 0) + weight min(x, 0)"""
    channels = x.image[:1] or (1,)
    if not isinstance(weight, (Parameter, Shaped, Derived, np.ndarray)):
        raise TypeError(f"prelu: weight must be a Parameter or an array, got {type(weight).__name__}")
    if tuple(weight.shape) not in ((1,), channels):
        raise ValueError(f"prelu: weight must have shape ({channels[0]},) or (1,), got {tuple(weight.shape)}")
    image = *weight.shape, *(1,) * (len(x.image) - 1)
    if isinstance(weight, Derived):
        slopes = reshaped(weight.value, image)
    else:
        operand, sources = operand_of("prelu", weight, x.dtype)
        slopes = constant(operand, image, x, sources)
    return relu(x) + slopes * clamp(x, high=0.0)


def softmax(kernel, x, dim, owner=None):
    """Softmax or its logarithm over an axis."""
    owner = owner or kernel
    axis, = axes_of(owner, x, dim)
    if len(x.image) != 2 and axis == 0:
        return apply(pointwise.Softmax(owner, kernel), x)
    return apply(reduction.SoftmaxOver(owner, kernel, axis, len(x.image) == 2), x)


def dims_of(owner, dim, count=None):
    """`dim` as a tuple of integers, or None for all axes where `count` is None, too."""
    if dim is None and count is None:
        return None
    if not isinstance(dim, (tuple, list)):
        dim = (dim,)
    return tuple(shapes.integer(owner, "dim", d, -2**31) for d in dim)


def axes_of(owner, x, dim, count=1):
    """Axes of an image, from 0, for axes of a batch; count: how many are wanted, None: any, `dim` None: all."""
    dims = dims_of(owner, dim, count)
    if dims is None:
        return list(range(len(x.image)))
    axes = [shapes.integer(owner, "dim", d, -x.ndim, x.ndim - 1) % x.ndim - 1 for d in dims]
    if -1 in axes:
        raise ValueError(f"{owner}: dim must not be that of the images, 0, got {dim}: images stay apart in a network "
                         f"and in a loss, of whose numbers the mean is taken")
    if len(set(axes)) != len(axes) or not axes or count not in (None, len(axes)):
        raise ValueError(f"{owner}: dim must be {'one axis' if count == 1 else 'different axes'}, got {dim}")
    return sorted(axes)


def _with_number(kind, x, n):
    if kind == "divide" and n == 0:
        raise ValueError("divide: a value must not be divided by 0")
    factor, summand = {"add": (1.0, n), "subtract": (1.0, -n), "multiply": (n, 0.0)}.get(kind) or (1 / n, 0.0)
    return apply(ops.Affine(factor, summand), x)


def _from_number(kind, n, x):
    if kind == "divide":
        return apply(ops.Reciprocal(n), x)
    factor, summand = {"add": (1.0, n), "subtract": (-1.0, n), "multiply": (n, 0.0)}[kind]
    return apply(ops.Affine(factor, summand), x)


def value_of(kind, operand, like):
    """An operand as a value of the same graph: a Parameter or an array is the same for every image."""
    if isinstance(operand, Value):
        return operand
    if number(operand):
        operand = np.full(1, operand, like.dtype)
    if not isinstance(operand, (Parameter, Shaped, Derived, np.ndarray)):
        return NotImplemented
    shape = tuple(operand.shape)
    if len(shape) == len(like.image) + 1 and shape[0] == 1:
        shape = shape[1:]
    shape = (1,) * (len(like.image) - len(shape)) + shape
    if len(shape) != len(like.image):
        raise ValueError(f"{kind}: a parameter of shape {shape} does not go together with "
                         f"{shapes.batch(like.image)}")
    if isinstance(operand, Derived):
        return reshaped(operand.value, shape)
    parameter, sources = operand_of(kind, operand, like.dtype)
    return constant(parameter, shape, like, sources)


def operand_of(kind, operand, dtype):
    """The Parameter whose numbers an operand has, and (array, Parameter) where it takes an array's before each run."""
    if not isinstance(operand, np.ndarray):
        return operand.parameter if isinstance(operand, Shaped) else operand, ()
    if operand.dtype.kind not in "fiub":
        raise TypeError(f"{kind}: an array beside a value must hold numbers, got {operand.dtype}")
    made = Parameter(np.asarray(operand, dtype), requires_grad=False)
    return made, ((own(operand), made),)


def constant(parameter, image, like, sources=()):
    """A Parameter as a value, beside another of its graph."""
    if not parameter.numel():
        raise ValueError(f"parameter: it must not be empty, got shape {parameter.shape}")
    if parameter.dtype != like.dtype:
        raise TypeError(f"parameter: it must be of {like.dtype}, as the values beside it, got {parameter.dtype}")
    return add(like.graph, ops.Constant(parameter, image).changed(sources=sources), (), like.dtype)


def relu(x):
    return apply(pointwise.ReLU(), x)


def activated(kernel, x):
    """tanh or sigmoid, whose derivatives are told by what they return."""
    return apply(pointwise.Activation(kernel, kernel, "y"), x)


def reshape(x, shape):
    """x in a shape; with more than four axes it is a View."""
    if len(shape) > 4:
        from cnn.graph import views
        return views.viewed(x, np.arange(math.prod(x.image)), shape)
    sizes = [-1 if isinstance(n, Count) else shapes.integer("reshape", "shape", n, -1) for n in shape]
    if len(sizes) not in (1, 2, 3, 4) or sizes[0] != -1 or 0 in sizes or sizes[1:].count(-1) > 1:
        raise ValueError(f"reshape: shape must be (-1, C, H, W), (-1, H, W), (-1, features) or (-1,), -1 being the "
                         f"images and at most one other size, got {tuple(shape)}")
    if len(sizes) == 1 and math.prod(x.image) != 1:
        raise ValueError(f"reshape: (-1,) would put the {math.prod(x.image)} elements of all images of "
                         f"{shapes.batch(x.image)} side by side, and images stay apart: flatten() gives "
                         f"(-1, {math.prod(x.image)}), and sum() and mean() are those of each image")
    count, known = math.prod(x.image), math.prod(n for n in sizes[1:] if n != -1)
    return reshaped(x, tuple(count // known if n == -1 else n for n in sizes[1:]))


def matmul(x, other):
    """x other for each image, (A, B) times (B, C).
    Either may be a Parameter or an array, (B, C) or (A, B), the same for every image; x may be a vector then, or have
    heads. Of values (heads, A, B) and (heads, B, C) it is the product of each head."""
    if isinstance(other, Transposed) and isinstance(x, Value):
        return linear("matmul", x, other.of, None)
    if isinstance(other, (Parameter, Shaped, Derived)) and isinstance(x, Value) and len(other.shape) == 2 and (
            x.image[-1:] == other.shape[:1]):
        return linear("matmul", x, awaited(of(other, x.graph).T), None)
    if isinstance(other, (Parameter, Shaped, Derived)) and isinstance(x, Value) and x.image and (
            x.image[-1:] == tuple(other.shape)):    # a vector: a number of each row
        y = linear("matmul", x, awaited(of(other, x.graph).reshape(1, -1)), None)
        return reshaped(y, y.image[:-1])
    a = x if isinstance(x, Value) else matrix("x", x, other)
    b = other if isinstance(other, Value) else matrix("other", other, x)
    told = [shapes.batch(one.image) if isinstance(one, Value) else str(one.shape) for one in (x, other)]
    image, heads = a.image, [one.image[:-2] for one in (a, b)]
    fits = image and image[-1:] == b.image[-2:-1] and (heads[0] == heads[1] or () in heads or (1,) in heads)
    if len(b.image) == 1 or b is other and (len(image) == 1 or fits and a is x and len(image) != len(b.image)):
        raise ValueError(
            f"matmul: {told[0]} times {told[1]} would couple the images of a batch. "
            f"Each image's own product is (x * other).sum(1); for products between images take arrays, y = model(x); "
            f"y @ y.T, and give the gradient to model.backward")
    if not fits:
        raise ValueError(f"matmul: x and other must have shapes (N, A, B) and (N, B, C), or (N, heads, A, B) and "
                         f"(N, heads, B, C), or (N, B) and, of an array or a Parameter, (B, C), got {told[0]} and "
                         f"{told[1]}")
    if len(image) == 3 and len(b.image) == 2 or len(image) == 1:    # rows of one matrix
        a = reshaped(a, (math.prod(image[:-1]), image[-1]))
    elif len(b.image) == 3:                                         # what has one head is repeated
        a, b = _of_heads(a, b.image[0]), _of_heads(b, image[0] if len(image) == 3 else 1)
    y = apply(linear_ops.Matmul(), a, b)
    return y if len(y.image) > 2 or len(image) == 2 else reshaped(y, (*image[:-1], y.image[-1]))


def _of_heads(x, heads):
    """(A, B) as (heads, A, B), and (1, A, B), too."""
    from cnn.graph import moving
    x = reshaped(x, (1,) * (3 - len(x.image)) + x.image)
    return moving.expand(x, (-1, heads, -1, -1)) if x.image[0] == 1 else x


def matrix(what, operand, like):
    """A Parameter, what is computed from some, or an array, of two axes, as a value of the graph of another."""
    if not isinstance(operand, (Parameter, Derived, np.ndarray)) or len(operand.shape) != 2:
        raise TypeError(f"matmul: {what} must be a value, or a Parameter or an array of two axes, got "
                        f"{getattr(operand, 'shape', type(operand).__name__)}")
    if isinstance(operand, Derived):
        return operand.plain()
    if isinstance(operand, np.ndarray) and operand.dtype.kind not in "fiub":
        raise TypeError(f"matmul: {what}, an array beside a value, must hold numbers, got {operand.dtype}")
    parameter, sources = operand_of("matmul", operand, like.dtype)
    return constant(parameter, parameter.shape, like, sources)


def linear(owner, x, weight, bias, sources=()):
    """x weight^T + bias over the last axis, of vectors (F,), or of rows (L, F) and images (H, W, F), whose rows are the
    pixels of a 1 x 1 convolution. weight: Parameter (outputs, F); bias: Parameter (outputs,) or None. sources: arrays
    that they are looked up in, as `functional.common.parameter` returns them."""
    *axes, inputs = x.image or (0,)
    outputs, rows = weight.shape[0], math.prod(axes)
    if not axes or inputs != weight.shape[1]:
        return apply(linear_ops.Linear(owner, weight, bias).changed(sources=sources), x)    # which refuses the others
    if rows == 1:
        y = linear(owner, reshaped(x, (inputs,)), weight, bias, sources)
        return reshaped(y, (*axes, outputs))
    from cnn.graph import moving
    image = moving.in_order(reshaped(x, (*(1,) * (2 - len(axes)), *axes, inputs)), (2, 0, 1), owner)
    y = apply(conv.Conv2d(owner, weight, bias, (1, 1), 0, (1, 1), 1).changed(sources=sources), image)
    return reshaped(moving.in_order(y, (1, 2, 0), owner), (*axes, outputs))


def sequences(owner, x):
    """x, which must be sequences (C, L)."""
    if len(x.image) != 2:
        hint = ": sequences from a data set are images of one channel, so that forward begins with x.squeeze(1)"
        raise ValueError(f"{owner}: x must have shape (N, C, L), got {shapes.batch(x.image)}"
                         f"{hint * (len(x.image) == 3 and x.image[0] == 1)}")
    return x


def as_rows(owner, x):
    """(C, L) as images of one row, (C, 1, L)."""
    return reshaped(sequences(owner, x), (x.image[0], 1, x.image[1]))


def as_images(owner, x):
    """(C, L) as images of one row, (C, 1, L), and (C,) as images of one pixel, (C, 1, 1); images as they are."""
    if not x.image:
        raise ValueError(f"{owner}: x must have shape (N, C, H, W), (N, C, L) or (N, C), got {shapes.batch(x.image)}")
    return reshaped(x, (x.image[0], *(1,) * (3 - len(x.image)), *x.image[1:]))


def without_rows(y):
    """(C, 1, L) as (C, L)."""
    return reshaped(y, (y.image[0], y.image[2]))


def reduced(kind, x, dim, keepdim, owner=None):
    """The mean, sum, largest or smallest elements over axes of an image."""
    axes = axes_of(owner or kind, x, dim, None)
    kept = tuple(1 if i in axes else n for i, n in enumerate(x.image))
    image = tuple(n for i, n in enumerate(x.image) if i not in axes)
    if kind == "mean" and len(x.image) == 3 and axes in ([1], [2], [1, 2]):
        y = pool.AvgPool2d(kind, output_size=kept[1:])
        return apply(y, x) if keepdim else apply(y.changed(flat=True), x) if len(axes) == 2 else reshaped(
            apply(y, x), image)
    y = apply(reduction.Reduce(kind, tuple(axes), len(x.image) == 2), x) if axes else x
    return y if keepdim else reshaped(y, image)


def reshaped(x, image):
    """A value in another shape of as many elements."""
    if x.image == tuple(image):
        return apply(reshaping.Detach(), x) if still.get() else x
    return apply(reshaping.Reshape("reshape", image), x)
