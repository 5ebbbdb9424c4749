"""Pooling."""
from __future__ import annotations

from typing import TYPE_CHECKING, overload

import numpy as np

from cnn import shapes
from cnn.engine.program import Program
from cnn.engine.tensors import Slot
from cnn.functional.common import also_one
from cnn.functional.common import program as run
from cnn.graph import Value, apply
from cnn.ops import pool

if TYPE_CHECKING:
    from cnn.functional.common import Images
    from cnn.shapes import Padding, Size


def _windows(name: str, size: tuple[int, ...], options: dict) -> tuple[dict, tuple]:
    """Windows of a pooling, and what tells them from others."""
    return pool.windows(name, tuple(size), **options), (tuple(size), *options.items())


def _adaptive_windows(name: str, size: tuple[int, ...], output_size: Size) -> tuple[dict, tuple]:
    key = tuple(size), pool.output_size(name, output_size, size)
    return pool.adaptive_windows(name, *key), key


@overload
def max_pool2d(x: np.ndarray, kernel_size: Size, stride: Size | None = None, padding: Padding | str = 0,
               dilation: Size = 1, ceil_mode: bool = False) -> tuple[np.ndarray, np.ndarray]: ...


@overload
def max_pool2d(x: Value, kernel_size: Size, stride: Size | None = None, padding: Padding | str = 0,
               dilation: Size = 1, ceil_mode: bool = False) -> Value: ...


@also_one(3)
def max_pool2d(x: np.ndarray | Value, kernel_size: Size, stride: Size | None = None, padding: Padding | str = 0,
               dilation: Size = 1, ceil_mode: bool = False) -> tuple[np.ndarray, np.ndarray] | Value:
    """Max pooling. Returns y: (N, C, OH, OW), and the winners' indices, int64 of y's shape, into the flattened H*W
    plane.

    x: (N, C, H, W). kernel_size, stride (default: kernel_size), dilation: int or pair; padding: int, pair,
    ((top, bottom), (left, right)), "same" or "valid"; ceil_mode: whether a window that hangs over the far edge counts.
    Of equal values the first in row-major order wins, a NaN wins over everything, padding never wins.
    """
    options = pool.max_options("max_pool2d", kernel_size, stride, padding, dilation, ceil_mode)
    if isinstance(x, Value):
        return apply(pool.MaxPool2d("max_pool2d", **options), x)
    x = shapes.array("max_pool2d", "x", x, ("N", "C", "H", "W"))
    return _max_pool("max_pool2d", x, *_windows("max_pool2d", x.shape[2:], options))


@overload
def adaptive_max_pool2d(x: np.ndarray, output_size: Size) -> tuple[np.ndarray, np.ndarray]: ...


@overload
def adaptive_max_pool2d(x: Value, output_size: Size) -> Value: ...


@also_one(3)
def adaptive_max_pool2d(x: np.ndarray | Value, output_size: Size) -> tuple[np.ndarray, np.ndarray] | Value:
    """Max pooling with `output_size` windows, an int or a pair, spread over the input; None: as many as pixels.

    x: (N, C, H, W). Window i of n reaches from row floor(i H / n) to ceil((i + 1) H / n); likewise the columns.
    Returns y: (N, C, *output_size), and indices as `max_pool2d`, for `max_pool2d_backward`.
    """
    if isinstance(x, Value):
        size = pool.output_size("adaptive_max_pool2d", output_size, (1, 1, *x.image))
        return apply(pool.MaxPool2d("adaptive_max_pool2d", output_size=size), x)
    x = shapes.array("adaptive_max_pool2d", "x", x, ("N", "C", "H", "W"))
    return _max_pool("adaptive_max_pool2d", x, *_adaptive_windows("adaptive_max_pool2d", x.shape[2:], output_size))


def _max_pool(name: str, x: np.ndarray, win: dict, key: tuple) -> tuple[np.ndarray, np.ndarray]:
    shape = _pooled(name, x.shape, win)
    y, indices = np.empty(shape, x.dtype), np.empty(shape, np.int64)
    if y.size == 0:
        return y, indices

    def write(program: Program) -> None:
        t, index = pool.max_pool2d(program, program.input(*x.shape[1:]), win)
        program.output(t)
        program.add("unpack_index", lambda: dict(x=index, y=Slot("indices"), size=int(np.prod(shape[1:]))))
    with run((name, x.shape[1], key), x.dtype, len(x), write) as program:
        program.run(len(x), x=x, y=y, indices=indices)
    return y, indices


def max_pool2d_backward(dy: np.ndarray, indices: np.ndarray, input_shape: tuple[int, ...]) -> np.ndarray:
    """Gradient of `max_pool2d`: dx[c, indices] += dy, so that overlapping windows add up.

    dy: (N, C, OH, OW); indices: int64 of that shape, each in [0, H*W); input_shape: (N, C, H, W).
    Returns dx: (N, C, H, W).
    """
    name = "max_pool2d_backward"
    dy = shapes.array(name, "dy", dy, ("N", "C", "OH", "OW"))
    indices = shapes.array(name, "indices", indices, dy.shape, np.int64)
    height, width = _input_size(name, input_shape, dy)
    if indices.size and not 0 <= indices.min() <= indices.max() < height * width:
        raise ValueError(f"{name}: indices must lie in [0, {height * width}), got {indices.min()} to "
                         f"{indices.max()}")
    dx, size = np.zeros((*dy.shape[:2], height, width), dy.dtype), int(np.prod(dy.shape[1:]))
    if dy.size == 0:
        return dx

    def write(program: Program) -> None:
        t = program.input(*dy.shape[1:], name="dy")
        index = program.tensor(*dy.shape[1:], integer=True)
        program.add("pack_index", lambda: dict(x=Slot("indices"), y=index, size=size))
        program.output(pool.max_pool2d_scatter(program, t, index, height, width), "dx")
    with run((name, dy.shape[1:], height, width), dy.dtype, len(dy), write) as program:
        program.run(len(dy), dy=dy, indices=indices, dx=dx)
    return dx


def _pooled(name: str, shape: tuple[int, ...], win: dict) -> tuple[int, ...]:
    """Shape of what comes out of a pooling."""
    shapes.element_count(name, *shape)
    shapes.element_count(name, *shape[:2], win["out_h"], win["out_w"])
    return *shape[:2], win["out_h"], win["out_w"]


def _input_size(name: str, input_shape: tuple[int, ...], dy: np.ndarray) -> tuple[int, ...]:
    """(H, W) of the input whose gradient is wanted, checked."""
    if not isinstance(input_shape, (tuple, list)):
        raise TypeError(f"{name}: input_shape must be a tuple (N, C, H, W), got {input_shape!r}")
    if len(input_shape) != 4 or tuple(input_shape[:2]) != dy.shape[:2]:
        raise ValueError(f"{name}: input_shape must be ({dy.shape[0]}, {dy.shape[1]}, H, W), got {input_shape}")
    height, width = (shapes.integer(name, "input_shape", n, 0) for n in input_shape[2:])
    shapes.element_count(name, *dy.shape[:2], height, width)
    return height, width


@also_one(3)
def avg_pool2d(x: Images, kernel_size: Size, stride: Size | None = None, padding: Padding | str = 0,
               ceil_mode: bool = False, count_include_pad: bool = True,
               divisor_override: int | None = None) -> Images:
    """Average pooling. x: (N, C, H, W). Returns y: (N, C, OH, OW).

    kernel_size, stride (default: kernel_size): int or pair; padding: as in `max_pool2d`; ceil_mode: whether a window
    that hangs over the far edge counts. y[c, i, j] is the sum of the window's pixels over their number. The padding
    counts in it, as zeros, if count_include_pad; what a window of ceil_mode sees beyond the padding does not.
    divisor_override: an int, not 0, to divide by instead of the number of pixels.
    """
    options = pool.avg_options("avg_pool2d", kernel_size, stride, padding, ceil_mode, count_include_pad,
                               divisor_override)
    if isinstance(x, Value):
        return apply(pool.AvgPool2d("avg_pool2d", **options), x)
    x = shapes.array("avg_pool2d", "x", x, ("N", "C", "H", "W"))
    return _avg_pool("avg_pool2d", x, *_windows("avg_pool2d", x.shape[2:], options))


def avg_pool2d_backward(dy: np.ndarray, input_shape: tuple[int, ...], kernel_size: Size, stride: Size | None = None,
                        padding: Padding | str = 0, ceil_mode: bool = False, count_include_pad: bool = True,
                        divisor_override: int | None = None) -> np.ndarray:
    """Gradient of `avg_pool2d`: each pixel of a window gets dy over the window's number of pixels.

    dy: (N, C, OH, OW); input_shape: (N, C, H, W). kernel_size, stride, padding, ceil_mode, count_include_pad and
    divisor_override are those of `avg_pool2d`. Returns dx: (N, C, H, W).
    """
    name = "avg_pool2d_backward"
    dy = shapes.array(name, "dy", dy, ("N", "C", "OH", "OW"))
    options = pool.avg_options(name, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    return _avg_pool_backward(name, dy, *_windows(name, _input_size(name, input_shape, dy), options))


@also_one(3)
def adaptive_avg_pool2d(x: Images, output_size: Size) -> Images:
    """Average pooling with `output_size` windows, an int, None or a pair, spread as in `adaptive_max_pool2d`.

    x: (N, C, H, W). Returns y: (N, C, *output_size).
    """
    if isinstance(x, Value):
        size = pool.output_size("adaptive_avg_pool2d", output_size, (1, 1, *x.image))
        return apply(pool.AvgPool2d("adaptive_avg_pool2d", output_size=size), x)
    x = shapes.array("adaptive_avg_pool2d", "x", x, ("N", "C", "H", "W"))
    return _avg_pool("adaptive_avg_pool2d", x, *_adaptive_windows("adaptive_avg_pool2d", x.shape[2:], output_size))


def adaptive_avg_pool2d_backward(dy: np.ndarray, input_shape: tuple[int, ...]) -> np.ndarray:
    """Gradient of `adaptive_avg_pool2d`. dy: (N, C, OH, OW); input_shape: (N, C, H, W). Returns dx."""
    name = "adaptive_avg_pool2d_backward"
    dy = shapes.array(name, "dy", dy, ("N", "C", "OH", "OW"))
    return _avg_pool_backward(name, dy, *_adaptive_windows(name, _input_size(name, input_shape, dy), dy.shape[2:]))


def _avg_pool(name: str, x: np.ndarray, win: dict, key: tuple) -> np.ndarray:
    y = np.empty(_pooled(name, x.shape, win), x.dtype)
    if y.size == 0:
        return y
    with run((name, x.shape[1], key), x.dtype, len(x), lambda program: program.output(
        pool.avg_pool2d(program, program.input(*x.shape[1:]), win))) as program:
        program.run(len(x), x=x, y=y)
    return y


def _avg_pool_backward(name: str, dy: np.ndarray, win: dict, key: tuple) -> np.ndarray:
    shapes.array(name, "dy", dy, (*dy.shape[:2], win["out_h"], win["out_w"]))
    dx = np.empty((*dy.shape[:2], win["height"], win["width"]), dy.dtype)
    if dx.size == 0:
        return dx
    with run((name, dy.shape[1], key), dy.dtype, len(dy), lambda program: program.output(
        pool.avg_pool2d_backward(program, program.input(*dy.shape[1:], name="dy"), win), "dx")) as program:
        program.run(len(dy), dy=dy, dx=dx)
    return dx
