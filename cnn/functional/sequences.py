"""Convolution and pooling of sequences, (N, C, L): those of images of one row."""
from __future__ import annotations

from typing import TYPE_CHECKING, overload

import numpy as np

from cnn import shapes
from cnn.functional import conv, pool
from cnn.functional.common import also_one, numbers
from cnn.graph import Value, build

if TYPE_CHECKING:
    from typing import Any

    from cnn.engine.parameter import Parameter
    from cnn.functional.common import Images
    from cnn.shapes import Length, RowPadding


def _images(name: str, x: Any) -> Any:
    """(N, C, L) as (N, C, 1, L)."""
    if isinstance(x, Value):
        return build.as_rows(name, x)
    x = shapes.array(name, "x", x, ("N", "C", "L"))
    return x[:, :, None]


def _sequences(y: Any) -> Any:
    """(N, C, 1, L) as (N, C, L)."""
    return build.without_rows(y) if isinstance(y, Value) else y[:, :, 0]


@also_one(2)
def conv1d(x: Images, weight: np.ndarray | Parameter, bias: np.ndarray | Parameter | None = None, stride: Length = 1,
           padding: RowPadding = 0, dilation: Length = 1, groups: int = 1) -> Images:
    """1-D convolution: y[k, i] = b[k] + sum_{c, m} x[c, i*s + m*d - p] w[k, c, m].

    x: (N, C, L); weight (w): (K, C / groups, R); bias (b): (K,) or None. stride (s), dilation (d): int; padding (p):
    int, a pair (left, right), "same" or "valid". groups: as in `conv2d`. Returns y: (N, K, OL).
    """
    name = "conv1d"
    sizes = (shapes.row(name, "stride", stride, 1), shapes.row_padding(name, padding),
             shapes.row(name, "dilation", dilation, 1), groups)
    if len(getattr(weight, "shape", ())) != 3:
        raise ValueError(f"{name}: weight must have shape (K, C/groups, R), got {getattr(weight, 'shape', weight)}")
    if isinstance(x, Value):
        return _sequences(conv.conv2d(_images(name, x), weight, bias, *sizes))
    w, b = numbers(weight, bias)
    return _sequences(conv.conv2d(_images(name, x), w[:, :, None], b, *sizes))


def conv1d_backward(dy: np.ndarray, x: np.ndarray, weight: np.ndarray, stride: Length = 1, padding: RowPadding = 0,
                    dilation: Length = 1, groups: int = 1,
                    need_dx: bool = True) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
    """Gradients of `conv1d`. dy: (N, K, OL), the gradient of the loss by y; x, weight, stride, padding, dilation,
    groups: as in `conv1d`. Returns dx like x (None without `need_dx`), dw like weight, db: (K,), the last two summed
    over the batch."""
    name = "conv1d_backward"
    x, weight, dy = (shapes.array(name, what, a, axes) for what, a, axes in (
        ("x", x, ("N", "C", "L")), ("weight", weight, ("K", "C/groups", "R")), ("dy", dy, ("N", "K", "OL"))))
    dx, dw, db = conv.conv2d_backward(
        dy[:, :, None], x[:, :, None], weight[:, :, None], shapes.row(name, "stride", stride, 1),
        shapes.row_padding(name, padding), shapes.row(name, "dilation", dilation, 1), groups, need_dx)
    return None if dx is None else dx[:, :, 0], dw[:, :, 0], db


@also_one(2)
def conv_transpose1d(x: Images, weight: np.ndarray | Parameter, bias: np.ndarray | Parameter | None = None,
                     stride: Length = 1, padding: Length | tuple[int, int] = 0, output_padding: Length = 0,
                     groups: int = 1, dilation: Length = 1) -> Images:
    """Transposed 1-D convolution: y[k, i*s + m*d - p] += x[c, i] weight[c, k, m], from bias[k] on.

    x: (N, C, L); weight: (C, K / groups, R); bias: (K,) or None. stride (s), dilation (d): int; padding (p): int or a
    pair (left, right), which y loses at its ends; output_padding: int, less than s or less than d, what y has more at
    its end. groups: as in `conv_transpose2d`. Returns y: (N, K, OL), OL = (L - 1)*s - left - right + d*(R - 1) +
    output_padding + 1. Raises TypeError or ValueError for anything else.
    """
    name = "conv_transpose1d"
    if len(getattr(weight, "shape", ())) != 3:
        raise ValueError(f"{name}: weight must have shape (C, K/groups, R), got {getattr(weight, 'shape', weight)}")
    sizes = _transposed(name, stride, padding, output_padding, groups, dilation)
    if isinstance(x, Value):
        return _sequences(conv.conv_transpose2d(_images(name, x), weight, bias, *sizes))
    array, offset = numbers(weight, bias)
    return _sequences(conv.conv_transpose2d(_images(name, x), array[:, :, None], offset, *sizes))


def conv_transpose1d_backward(dy: np.ndarray, x: np.ndarray, weight: np.ndarray, stride: Length = 1,
                              padding: Length | tuple[int, int] = 0, output_padding: Length = 0, groups: int = 1,
                              dilation: Length = 1,
                              need_dx: bool = True) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
    """Gradients of `conv_transpose1d`. dy: (N, K, OL), the gradient of the loss by y; x, weight, stride, padding,
    output_padding, groups, dilation: as in `conv_transpose1d`. Returns dx like x (None without `need_dx`), dweight like
    weight, dbias: (K,), the last two summed over the batch."""
    name = "conv_transpose1d_backward"
    x, weight, dy = (shapes.array(name, what, a, axes) for what, a, axes in (
        ("x", x, ("N", "C", "L")), ("weight", weight, ("C", "K/groups", "R")), ("dy", dy, ("N", "K", "OL"))))
    dx, dw, db = conv.conv_transpose2d_backward(
        dy[:, :, None], x[:, :, None], weight[:, :, None],
        *_transposed(name, stride, padding, output_padding, groups, dilation), need_dx)
    return None if dx is None else dx[:, :, 0], dw[:, :, 0], db


def _transposed(name: str, stride: Length, padding: Length | tuple[int, int], output_padding: Length, groups: int,
                dilation: Length) -> tuple[Any, Any, Any, int, Any]:
    """What `conv_transpose2d` takes for images of one row."""
    return (shapes.row(name, "stride", stride, 1), shapes.row_padding(name, padding, words=False),
            (0, shapes.row(name, "output_padding", output_padding)[1]), groups,
            shapes.row(name, "dilation", dilation, 1))


def _pooled(y: Any) -> Any:
    """A value, or the two arrays of max pooling."""
    return tuple(map(_sequences, y)) if isinstance(y, tuple) else _sequences(y)


@overload
def max_pool1d(x: np.ndarray, kernel_size: Length, stride: Length | None = None, padding: RowPadding = 0,
               dilation: Length = 1, ceil_mode: bool = False) -> tuple[np.ndarray, np.ndarray]: ...


@overload
def max_pool1d(x: Value, kernel_size: Length, stride: Length | None = None, padding: RowPadding = 0,
               dilation: Length = 1, ceil_mode: bool = False) -> Value: ...


@also_one(2)
def max_pool1d(x: np.ndarray | Value, kernel_size: Length, stride: Length | None = None, padding: RowPadding = 0,
               dilation: Length = 1, ceil_mode: bool = False) -> tuple[np.ndarray, np.ndarray] | Value:
    """Max pooling of sequences. Returns y: (N, C, OL), and the winners' indices, int64 of y's shape.

    x: (N, C, L). kernel_size, stride (default: kernel_size), dilation: int; padding: int, (left, right), "same" or
    "valid"; ceil_mode: as in `max_pool2d`. Of a value the pooled value alone is returned.
    """
    name = "max_pool1d"
    return _pooled(pool.max_pool2d(
        _images(name, x), shapes.row(name, "kernel_size", kernel_size, 1),
        None if stride is None else shapes.row(name, "stride", stride, 1), shapes.row_padding(name, padding),
        shapes.row(name, "dilation", dilation, 1), ceil_mode))


def max_pool1d_backward(dy: np.ndarray, indices: np.ndarray, input_shape: tuple[int, ...]) -> np.ndarray:
    """Gradient of `max_pool1d`. dy: (N, C, OL); indices: int64 of that shape; input_shape: (N, C, L). Returns dx:
    (N, C, L)."""
    name = "max_pool1d_backward"
    dy = shapes.array(name, "dy", dy, ("N", "C", "OL"))
    indices = shapes.array(name, "indices", indices, dy.shape, np.int64)
    return pool.max_pool2d_backward(dy[:, :, None], indices[:, :, None], _row_shape(name, input_shape))[:, :, 0]


@also_one(2)
def avg_pool1d(x: Images, kernel_size: Length, stride: Length | None = None, padding: RowPadding = 0,
               ceil_mode: bool = False, count_include_pad: bool = True) -> Images:
    """Average pooling of sequences. x: (N, C, L). Returns y: (N, C, OL).

    kernel_size, stride (default: kernel_size): int; padding: int, (left, right), "same" or "valid"; ceil_mode,
    count_include_pad: as in `avg_pool2d`.
    """
    name = "avg_pool1d"
    kernel, step, pads = _average(name, kernel_size, stride, padding)
    return _sequences(pool.avg_pool2d(_images(name, x), kernel, step, pads, ceil_mode, count_include_pad))


def avg_pool1d_backward(dy: np.ndarray, input_shape: tuple[int, ...], kernel_size: Length,
                        stride: Length | None = None, padding: RowPadding = 0, ceil_mode: bool = False,
                        count_include_pad: bool = True) -> np.ndarray:
    """Gradient of `avg_pool1d`. dy: (N, C, OL); input_shape: (N, C, L); kernel_size, stride, padding, ceil_mode,
    count_include_pad: as in `avg_pool1d`. Returns dx: (N, C, L)."""
    name = "avg_pool1d_backward"
    dy = shapes.array(name, "dy", dy, ("N", "C", "OL"))
    kernel, step, pads = _average(name, kernel_size, stride, padding)
    return pool.avg_pool2d_backward(dy[:, :, None], _row_shape(name, input_shape), kernel, step, pads, ceil_mode,
                                    count_include_pad)[:, :, 0]


def _average(name: str, kernel_size: Length, stride: Length | None, padding: RowPadding) -> tuple[Any, Any, Any]:
    return (shapes.row(name, "kernel_size", kernel_size, 1),
            None if stride is None else shapes.row(name, "stride", stride, 1), shapes.row_padding(name, padding))


def _row_shape(name: str, input_shape: tuple[int, ...]) -> tuple[int, ...]:
    if not isinstance(input_shape, (tuple, list)) or len(input_shape) != 3:
        raise ValueError(f"{name}: input_shape must be (N, C, L), got {shapes.shown(input_shape)}")
    return *input_shape[:2], 1, input_shape[2]


@also_one(2)
def adaptive_avg_pool1d(x: Images, output_size: Length) -> Images:
    """Average pooling with `output_size` windows, an int, spread as in `adaptive_max_pool2d`. x: (N, C, L). Returns y:
    (N, C, output_size)."""
    name = "adaptive_avg_pool1d"
    return _sequences(pool.adaptive_avg_pool2d(_images(name, x), shapes.row(name, "output_size", output_size, 1)))


@overload
def adaptive_max_pool1d(x: np.ndarray, output_size: Length) -> tuple[np.ndarray, np.ndarray]: ...


@overload
def adaptive_max_pool1d(x: Value, output_size: Length) -> Value: ...


@also_one(2)
def adaptive_max_pool1d(x: np.ndarray | Value, output_size: Length) -> tuple[np.ndarray, np.ndarray] | Value:
    """Max pooling with `output_size` windows, an int, spread as in `adaptive_max_pool2d`. x: (N, C, L). Returns y:
    (N, C, output_size), and indices as `max_pool1d`, for `max_pool1d_backward`; of a value the pooled value alone."""
    name = "adaptive_max_pool1d"
    return _pooled(pool.adaptive_max_pool2d(_images(name, x), shapes.row(name, "output_size", output_size, 1)))
