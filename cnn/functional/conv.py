"""Convolution and linear maps."""
from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from cnn import shapes
from cnn.engine.program import Program
from cnn.engine.tensors import Slot
from cnn.functional.common import also_one, numbers, parameter
from cnn.functional.common import program as run
from cnn.graph import Value, apply, build
from cnn.ops import conv
from cnn.ops import linear as linear_ops
from cnn.ops.conv import transposed

if TYPE_CHECKING:
    from cnn.engine.parameter import Parameter
    from cnn.functional.common import Gradients, Images
    from cnn.ops.conv import windows
    from cnn.shapes import Padding, Size


def _bias(name: str, value: np.ndarray | None, outputs: int, dtype: np.dtype) -> np.ndarray | None:
    return None if value is None else shapes.array(name, "bias", value, (outputs,), dtype)


def _convolution(name: str, x_shape: tuple[int, ...], weight: np.ndarray, stride: Size, padding: Padding | str,
                 dilation: Size, groups: int) -> windows.Geometry:
    """Checked geometry of a convolution, and what identifies its program."""
    groups = shapes.integer(name, "groups", groups, 1)
    channels, outputs = x_shape[1], weight.shape[0]
    for what, count in (("channels of x", channels), ("outputs of weight", outputs)):
        if count % groups or not count:
            raise ValueError(f"{name}: the {count} {what} must be divisible by groups {groups}")
    if weight.shape[1] != channels // groups:
        raise ValueError(f"{name}: weight must have shape (K, {channels // groups}, R, S) for {channels} channels "
                         f"in {groups} groups, got {weight.shape}")
    if 0 in weight.shape:
        raise ValueError(f"{name}: weight must not be empty, got shape {weight.shape}")
    shapes.element_count(name, *x_shape)
    return conv.geometry(name, x_shape[2:], channels, outputs, weight.shape[2:],
                         shapes.pair(name, "stride", stride, 1), padding, shapes.pair(name, "dilation", dilation, 1),
                         groups)


@also_one(3)
def conv2d(x: Images, weight: np.ndarray | Parameter, bias: np.ndarray | Parameter | None = None, stride: Size = 1,
           padding: Padding | str = 0, dilation: Size = 1, groups: int = 1) -> Images:
    """2-D convolution: y[k, i, j] = b[k] + sum_{c, m, n} x[c, i*s + m*d - p, j*s + n*d - p] w[k, c, m, n].

    x: (N, C, H, W); weight (w): (K, C / groups, R, S); bias (b): (K,) or None. stride (s), dilation (d): int or pair;
    padding (p): int, pair, ((top, bottom), (left, right)), "valid" (none) or "same" (OH = ceil(H / s), the odd row or
    column at the end). groups: number of independent convolutions that the channels are divided into. Returns y:
    (N, K, OH, OW).

        >>> x = np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]]).reshape(1, 1, 3, 3)
        >>> w = np.array([[1.0, 2], [3, 4]]).reshape(1, 1, 2, 2)
        >>> cnn.functional.conv2d(x, w)[0, 0].tolist()          # 1*1 + 2*2 + 3*4 + 4*5 = 37
        [[37.0, 47.0], [67.0, 77.0]]
    """
    if isinstance(x, Value):
        w, source = parameter("conv2d", "weight", weight, x.dtype)
        b, other = parameter("conv2d", "bias", bias, x.dtype)
        if w is None or len(w.shape) not in (2, 3, 4) or b is not None and b.shape != w.shape[:1]:
            raise ValueError(f"conv2d: weight must have shape (K, C/groups, R, S), (K, C/groups, S) or (K, C/groups) "
                             f"and bias (K,), got {getattr(w, 'shape', None)} and {getattr(b, 'shape', None)}")
        stride, dilation = (shapes.pair("conv2d", name, value, 1)
                            for name, value in (("stride", stride), ("dilation", dilation)))
        groups = shapes.integer("conv2d", "groups", groups, 1)
        operation = conv.Conv2d("conv2d", w, b, stride, padding, dilation, groups)
        return apply(operation.changed(sources=source + other), x)
    w, b = numbers(weight, bias)
    x = shapes.array("conv2d", "x", x, ("N", "C", "H", "W"))
    w = shapes.array("conv2d", "weight", w, ("K", "C/groups", "R", "S"), x.dtype)
    g: windows.Geometry = _convolution("conv2d", x.shape, w, stride, padding, dilation, groups)
    b = _bias("conv2d", b, len(w), x.dtype)

    def write(program: Program) -> None:
        t = program.input(*x.shape[1:])
        program.output(conv.conv2d(program, t, Slot("w"), None if b is None else Slot("b"), g)[0])
    y = np.empty((len(x), len(w), *g.out), x.dtype)
    with run(("conv2d", g, b is None), x.dtype, len(x), write) as program:
        program.run(len(x), x=x, w=w, y=y, **({} if b is None else {"b": b}))
    return y


def conv2d_backward(dy: np.ndarray, x: np.ndarray, weight: np.ndarray, stride: Size = 1, padding: Padding | str = 0,
                    dilation: Size = 1, groups: int = 1, need_dx: bool = True) -> Gradients:
    """Gradients of `conv2d`. dy: the gradient of the loss by y, of y's shape.

    x, weight, stride, padding, dilation and groups are those of `conv2d`. Returns dx like x (None without `need_dx`),
    dw like weight, db: (K,). dw and db are summed over the batch.
    """
    x = shapes.array("conv2d_backward", "x", x, ("N", "C", "H", "W"))
    weight = shapes.array("conv2d_backward", "weight", weight, ("K", "C/groups", "R", "S"), x.dtype)
    g = _convolution("conv2d_backward", x.shape, weight, stride, padding, dilation, groups)
    dy = shapes.array("conv2d_backward", "dy", dy, (len(x), len(weight), *g.out), x.dtype)

    def write(program: Program) -> None:
        tx = program.input(*x.shape[1:])
        tdy = program.input(*dy.shape[1:], name="dy")
        tdx = conv.conv2d_backward(program, tdy, tx, Slot("w"), g, Slot("dw"), Slot("db"), need_dx)
        if need_dx:
            program.output(tdx, "dx")
    dx, dw, db = np.empty_like(x) if need_dx else None, np.empty_like(weight), np.empty(len(weight), x.dtype)
    with run(("conv2d_backward", g, bool(need_dx)), x.dtype, len(x), write) as program:
        program.run(len(x), x=x, dy=dy, w=weight, dw=dw, db=db, **({"dx": dx} if need_dx else {}))
    return dx, dw, db


def _transposed(name: str, x_shape: tuple[int, ...], weight: np.ndarray, stride: Size, padding: Padding,
                output_padding: Size, groups: int, dilation: Size) -> windows.Geometry:
    """Checked geometry of a transposed convolution, and what identifies its program."""
    groups = shapes.integer(name, "groups", groups, 1)
    channels = x_shape[1]
    if channels % groups or not channels:
        raise ValueError(f"{name}: the {channels} channels of x must be divisible by groups {groups}")
    if len(weight) != channels:
        raise ValueError(f"{name}: weight must have shape ({channels}, K/groups, R, S) for {channels} channels, got "
                         f"{weight.shape}")
    if 0 in weight.shape:
        raise ValueError(f"{name}: weight must not be empty, got shape {weight.shape}")
    shapes.element_count(name, *x_shape)
    stride, dilation = (shapes.pair(name, what, value, 1)
                        for what, value in (("stride", stride), ("dilation", dilation)))
    return transposed.geometry(name, x_shape[2:], channels, weight.shape[1] * groups, weight.shape[2:], stride, padding,
                               shapes.output_padding(name, output_padding, stride, dilation), dilation, groups)


@also_one(3)
def conv_transpose2d(x: Images, weight: np.ndarray | Parameter, bias: np.ndarray | Parameter | None = None,
                     stride: Size = 1, padding: Padding = 0, output_padding: Size = 0, groups: int = 1,
                     dilation: Size = 1) -> Images:
    """Transposed 2-D convolution: y[k, i*s + m*d - p, j*s + n*d - p] += x[c, i, j] w[c, k, m, n], from b[k] on.

    x: (N, C, H, W); weight (w): (C, K / groups, R, S); bias (b): (K,) or None. stride (s), dilation (d): int or pair;
    padding (p): int, pair or ((top, bottom), (left, right)), which y loses at its edges; output_padding: int or pair,
    less than s or less than d, rows and columns that y has more at its end. groups: number of independent convolutions
    that the channels are divided into. Returns y: (N, K, OH, OW), OH = (H - 1)*s - top - bottom + d*(R - 1) +
    output_padding + 1.

        >>> x = np.array([[1.0, 2], [3, 4]]).reshape(1, 1, 2, 2)
        >>> w = np.array([[1.0, 10]]).reshape(1, 1, 1, 2)
        >>> cnn.functional.conv_transpose2d(x, w, stride=(1, 2))[0, 0].tolist()      # each x times the whole kernel
        [[1.0, 10.0, 2.0, 20.0], [3.0, 30.0, 4.0, 40.0]]
    """
    name = "conv_transpose2d"
    if isinstance(x, Value):
        w, source = parameter(name, "weight", weight, x.dtype)
        b, other = parameter(name, "bias", bias, x.dtype)
        groups = shapes.integer(name, "groups", groups, 1)
        if w is None or len(w.shape) not in (3, 4) or b is not None and b.shape != (w.shape[1] * groups,):
            raise ValueError(f"{name}: weight must have shape (C, K/groups, R, S) or (C, K/groups, S) and bias (K,), "
                             f"got {getattr(w, 'shape', None)} and {getattr(b, 'shape', None)}")
        stride, dilation = (shapes.pair(name, what, value, 1)
                            for what, value in (("stride", stride), ("dilation", dilation)))
        if w.shape[0] % groups:
            raise ValueError(f"{name}: the {w.shape[0]} channels of weight must be divisible by groups {groups}")
        more = shapes.output_padding(name, output_padding, stride, dilation)
        operation = transposed.ConvTranspose2d(name, w, b, stride, padding, more, groups, dilation)
        return apply(operation.changed(sources=source + other), x)
    w, b = numbers(weight, bias)
    x = shapes.array(name, "x", x, ("N", "C", "H", "W"))
    w = shapes.array(name, "weight", w, ("C", "K/groups", "R", "S"), x.dtype)
    g: windows.Geometry = _transposed(name, x.shape, w, stride, padding, output_padding, groups, dilation)
    outputs = g.channels * g.groups
    b = _bias(name, b, outputs, x.dtype)

    def write(program: Program) -> None:
        t = program.input(*x.shape[1:])
        program.output(transposed.conv_transpose2d(program, t, Slot("w"), None if b is None else Slot("b"), g))
    y = np.empty((len(x), outputs, *g.size), x.dtype)
    with run((name, g, b is None), x.dtype, len(x), write) as program:
        program.run(len(x), x=x, w=w, y=y, **({} if b is None else {"b": b}))
    return y


def conv_transpose2d_backward(dy: np.ndarray, x: np.ndarray, weight: np.ndarray, stride: Size = 1, padding: Padding = 0,
                              output_padding: Size = 0, groups: int = 1, dilation: Size = 1,
                              need_dx: bool = True) -> Gradients:
    """Gradients of `conv_transpose2d`. dy: the gradient of the loss by y, of y's shape.

    x, weight, stride, padding, output_padding, groups and dilation are those of `conv_transpose2d`. Returns dx like x
    (None without `need_dx`), dw like weight, db: (K,). dw and db are summed over the batch.
    """
    name = "conv_transpose2d_backward"
    x = shapes.array(name, "x", x, ("N", "C", "H", "W"))
    weight = shapes.array(name, "weight", weight, ("C", "K/groups", "R", "S"), x.dtype)
    g = _transposed(name, x.shape, weight, stride, padding, output_padding, groups, dilation)
    outputs = g.channels * g.groups
    dy = shapes.array(name, "dy", dy, (len(x), outputs, *g.size), x.dtype)

    def write(program: Program) -> None:
        tx = program.input(*x.shape[1:])
        tdy = program.input(*dy.shape[1:], name="dy")
        tdx = transposed.conv_transpose2d_backward(program, tdy, tx, Slot("w"), g, Slot("dw"), Slot("db"), need_dx)
        if need_dx:
            program.output(tdx, "dx")
    dx, dw, db = np.empty_like(x) if need_dx else None, np.empty_like(weight), np.empty(outputs, x.dtype)
    with run((name, g, bool(need_dx)), x.dtype, len(x), write) as program:
        program.run(len(x), x=x, dy=dy, w=weight, dw=dw, db=db, **({"dx": dx} if need_dx else {}))
    return dx, dw, db


@also_one(1)
def linear(x: Images, weight: Any, bias: np.ndarray | Parameter | None = None) -> Images:
    """y = x w^T + b. x: (N, C), (N, L, C) or (N, H, W, C); weight (w): (K, C); bias (b): (K,) or None. Returns y:
    (N, K), (N, L, K) or (N, H, W, K)."""
    if isinstance(x, Value):
        w, source = parameter("linear", "weight", weight, x.dtype)
        b, other = parameter("linear", "bias", bias, x.dtype)
        if w is None or len(w.shape) != 2 or b is not None and b.shape != w.shape[:1]:
            raise ValueError(f"linear: weight must have shape (K, C) and bias (K,), got {getattr(w, 'shape', None)} "
                             f"and {getattr(b, 'shape', None)}")
        return build.linear("linear", x, w, b, source + other)
    w, b = numbers(weight, bias)
    x, axes = _vectors(x)
    x, w = _linear_arrays("linear", x, w)
    b = _bias("linear", b, len(w), x.dtype)

    def write(program: Program) -> None:
        t = program.input(x.shape[1], flat=True)
        program.output(linear_ops.linear(program, t, Slot("w"), None if b is None else Slot("b"), len(w)))
    y = np.empty((len(x), len(w)), x.dtype)
    with run(("linear", w.shape, b is None), x.dtype, len(x), write) as program:
        program.run(len(x), x=x, w=w, y=y, **({} if b is None else {"b": b}))
    return y.reshape(*axes, len(w))


def linear_backward(dy: np.ndarray, x: np.ndarray, weight: np.ndarray, need_dx: bool = True) -> Gradients:
    """Gradients of `linear`: dx = dy w (None without `need_dx`), dw = dy^T x, db = sum of dy over the batch.

    dy: (N, K), (N, L, K) or (N, H, W, K), the gradient of the loss by y; x: (N, C), (N, L, C) or (N, H, W, C) and
    weight (w): (K, C) as in `linear`.
    """
    x, axes = _vectors(x)
    x, weight = _linear_arrays("linear_backward", x, weight)
    dy = shapes.array("linear_backward", "dy", dy, (*axes, len(weight)), x.dtype).reshape(len(x), len(weight))

    def write(program: Program) -> None:
        tx = program.input(x.shape[1], flat=True)
        tdy = program.input(len(weight), flat=True, name="dy")
        tdx = linear_ops.linear_backward(program, tdy, tx, Slot("w"), Slot("dw"), Slot("db"), need_dx)
        if need_dx:
            program.output(tdx, "dx")
    dx, dw, db = np.empty_like(x) if need_dx else None, np.empty_like(weight), np.empty(len(weight), x.dtype)
    with run(("linear_backward", weight.shape, bool(need_dx)), x.dtype, len(x), write) as program:
        program.run(len(x), x=x, dy=dy, w=weight, dw=dw, db=db, **({"dx": dx} if need_dx else {}))
    return None if dx is None else dx.reshape(*axes, x.shape[1]), dw, db


def _vectors(x: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
    """(N, L, C) and (N, H, W, C) as (N L, C) and (N H W, C), all else as it is; and the sizes of the first axes."""
    if not isinstance(x, np.ndarray) or x.ndim not in (3, 4):
        return x, np.shape(x)[:-1]
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1]), x.shape[:-1]


def _linear_arrays(name: str, x: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x = shapes.array(name, "x", x, ("N", "C"))
    weight = shapes.array(name, "weight", weight, ("K", x.shape[1]), x.dtype)
    if 0 in weight.shape:
        raise ValueError(f"{name}: weight must not be empty, got shape {weight.shape}")
    shapes.element_count(name, len(x), *weight.shape)
    return x, weight
