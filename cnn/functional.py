"""The operations as functions of NCHW arrays, without layers.

All arrays are float32 or float64 (one dtype in a call; nothing is up-cast), of any memory order and byte
order; results are new C-contiguous arrays. Sizes are an int or a pair (height, width). A batch may be
empty. TypeError is raised for a wrong dtype or kind of argument, ValueError for a wrong shape or value,
naming the function, the argument and what would be right.
"""
import math
from contextlib import contextmanager

import numpy as np

from cnn import shapes
from cnn.engine.plan import Program, Slot, circumstances
from cnn.engine.programs import Pool
from cnn.ops import conv, loss, norm, pointwise, pool
from cnn.ops import linear as linear_ops

__all__ = ["adaptive_avg_pool2d", "adaptive_avg_pool2d_backward", "adaptive_max_pool2d", "avg_pool2d",
           "avg_pool2d_backward", "batch_norm", "batch_norm_backward", "conv2d", "conv2d_backward", "cross_entropy",
           "gelu", "gelu_backward", "leaky_relu", "leaky_relu_backward", "linear", "linear_backward", "log_softmax",
           "log_softmax_backward", "max_pool2d", "max_pool2d_backward", "mse_loss", "relu", "relu_backward", "sigmoid",
           "sigmoid_backward", "silu", "silu_backward", "softmax", "softmax_backward", "tanh", "tanh_backward"]

_programs = Pool()


@contextmanager
def _program(key, dtype, images, write):
    """A program that `write(program)` writes, this caller's until the end of the `with`."""
    key = (*key, dtype, circumstances())

    def make():
        program = Program(dtype, images)
        write(program)
        program.compile()
        return program

    program = None
    try:
        program = _programs.take(key, images, make)
        yield program
    finally:
        _programs.give(program)


def _convolution(name, x_shape, w, stride, padding, dilation, groups):
    """Checked geometry of a convolution, and what identifies its program."""
    groups = shapes.integer(name, "groups", groups, 1)
    channels, outputs = x_shape[1], w.shape[0]
    for what, count in (("channels of x", channels), ("outputs of w", outputs)):
        if count % groups or not count:
            raise ValueError(f"{name}: the {count} {what} must be divisible by groups {groups}")
    if w.shape[1] != channels // groups:
        raise ValueError(f"{name}: w must have shape (K, {channels // groups}, R, S) for {channels} channels "
                         f"in {groups} groups, got {w.shape}")
    if 0 in w.shape:
        raise ValueError(f"{name}: w must not be empty, got shape {w.shape}")
    shapes.element_count(name, *x_shape)
    return conv.geometry(name, x_shape[2:], channels, outputs, w.shape[2:], shapes.pair(name, "stride", stride, 1),
                         padding, shapes.pair(name, "dilation", dilation, 1), groups)


def _bias(name, b, outputs, dtype):
    return None if b is None else shapes.array(name, "b", b, (outputs,), dtype)


def conv2d(x, w, b=None, stride=1, padding=0, dilation=1, groups=1):
    """2-D convolution: y[k, i, j] = b[k] + sum_{c, m, n} x[c, i*s + m*d - p, j*s + n*d - p] w[k, c, m, n].

    x: (N, C, H, W); w: (K, C / groups, R, S); b: (K,) or None. padding: int, pair, "same" or "valid".
    Returns y: (N, K, OH, OW).
    """
    x = shapes.array("conv2d", "x", x, ("N", "C", "H", "W"))
    w = shapes.array("conv2d", "w", w, ("K", "C/groups", "R", "S"), x.dtype)
    g = _convolution("conv2d", x.shape, w, stride, padding, dilation, groups)
    b = _bias("conv2d", b, len(w), x.dtype)

    def write(program):
        t = program.input(*x.shape[1:])
        program.output(conv.conv2d(program, t, Slot("w"), None if b is None else Slot("b"), g)[0])
    y = np.empty((len(x), len(w), *g.out), x.dtype)
    with _program(("conv2d", g, b is None), x.dtype, len(x), write) as program:
        program.run(len(x), x=x, w=w, y=y, **({} if b is None else {"b": b}))
    return y


def conv2d_backward(dy, x, w, stride=1, padding=0, dilation=1, groups=1, need_dx=True):
    """Gradients of `conv2d`: dy is the gradient of the loss by y, of y's shape.

    Returns dx like x (None without `need_dx`), dw like w, db: (K,), each summed over the batch but dx.
    """
    x = shapes.array("conv2d_backward", "x", x, ("N", "C", "H", "W"))
    w = shapes.array("conv2d_backward", "w", w, ("K", "C/groups", "R", "S"), x.dtype)
    g = _convolution("conv2d_backward", x.shape, w, stride, padding, dilation, groups)
    dy = shapes.array("conv2d_backward", "dy", dy, (len(x), len(w), *g.out), x.dtype)

    def write(program):
        tx = program.input(*x.shape[1:])
        tdy = program.input(*dy.shape[1:], name="dy")
        tdx = conv.conv2d_backward(program, tdy, tx, Slot("w"), g, Slot("dw"), Slot("db"), need_dx)
        if need_dx:
            program.output(tdx, "dx")
    dx, dw, db = np.empty_like(x) if need_dx else None, np.empty_like(w), np.empty(len(w), x.dtype)
    with _program(("conv2d_backward", g, bool(need_dx)), x.dtype, len(x), write) as program:
        program.run(len(x), x=x, dy=dy, w=w, dw=dw, db=db, **({"dx": dx} if need_dx else {}))
    return dx, dw, db


def _windows(name, size, kernel_size, stride, padding, *flags):
    """Windows of a pooling, and what tells them from others."""
    kernel = shapes.pair(name, "kernel_size", kernel_size, 1)
    stride = kernel if stride is None else shapes.pair(name, "stride", stride, 1)
    key = (tuple(size), kernel, stride, shapes.pair(name, "padding", padding, 0), *map(bool, flags))
    return pool.windows(name, *key), key


def _adaptive_windows(name, size, output_size):
    key = tuple(size), shapes.pair(name, "output_size", output_size, 1)
    return pool.adaptive_windows(name, *key), key


def max_pool2d(x, kernel_size, stride=None, padding=0, ceil_mode=False):
    """Max pooling. x: (N, C, H, W). Returns y: (N, C, OH, OW), and the winners' indices, int64 of y's shape,
    into the flattened H*W plane.

    Of equal values the first in row-major order wins, a NaN wins over everything, padding never wins.
    """
    x = shapes.array("max_pool2d", "x", x, ("N", "C", "H", "W"))
    return _max_pool("max_pool2d", x, *_windows("max_pool2d", x.shape[2:], kernel_size, stride, padding, ceil_mode))


def adaptive_max_pool2d(x, output_size):
    """Max pooling with `output_size` windows, an int or a pair, spread over the input.

    x: (N, C, H, W). Window i of n reaches from row floor(i H / n) to ceil((i + 1) H / n); likewise the columns.
    Returns y: (N, C, *output_size), and indices as `max_pool2d`, for `max_pool2d_backward`.
    """
    x = shapes.array("adaptive_max_pool2d", "x", x, ("N", "C", "H", "W"))
    return _max_pool("adaptive_max_pool2d", x, *_adaptive_windows("adaptive_max_pool2d", x.shape[2:], output_size))


def _max_pool(name, x, win, key):
    shape = _pooled(name, x.shape, win)
    y, indices = np.empty(shape, x.dtype), np.empty(shape, np.int64)
    if y.size == 0:
        return y, indices

    def write(program):
        t, index = pool.max_pool2d(program, program.input(*x.shape[1:]), win)
        program.output(t)
        program.add("unpack_index", lambda: dict(x=index, y=Slot("indices"), size=int(np.prod(shape[1:]))))
    with _program((name, x.shape[1], key), x.dtype, len(x), write) as program:
        program.run(len(x), x=x, y=y, indices=indices)
    return y, indices


def max_pool2d_backward(dy, indices, input_shape):
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

    def write(program):
        t = program.input(*dy.shape[1:], name="dy")
        index = program.tensor(*dy.shape[1:], integer=True)
        program.add("pack_index", lambda: dict(x=Slot("indices"), y=index, size=size))
        program.output(pool.max_pool2d_scatter(program, t, index, height, width), "dx")
    with _program((name, dy.shape[1:], height, width), dy.dtype, len(dy), write) as program:
        program.run(len(dy), dy=dy, indices=indices, dx=dx)
    return dx


def _pooled(name, shape, win):
    """Shape of what comes out of a pooling."""
    shapes.element_count(name, *shape)
    shapes.element_count(name, *shape[:2], win["out_h"], win["out_w"])
    return *shape[:2], win["out_h"], win["out_w"]


def _input_size(name, input_shape, dy):
    """(H, W) of the input whose gradient is wanted, checked."""
    if not isinstance(input_shape, (tuple, list)):
        raise TypeError(f"{name}: input_shape must be a tuple (N, C, H, W), got {input_shape!r}")
    if len(input_shape) != 4 or tuple(input_shape[:2]) != dy.shape[:2]:
        raise ValueError(f"{name}: input_shape must be ({dy.shape[0]}, {dy.shape[1]}, H, W), got {input_shape}")
    height, width = (shapes.integer(name, "input_shape", n, 0) for n in input_shape[2:])
    shapes.element_count(name, *dy.shape[:2], height, width)
    return height, width


def avg_pool2d(x, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
    """Average pooling. x: (N, C, H, W). Returns y: (N, C, OH, OW).

    y[c, i, j] is the sum of the window's pixels over their number, in which the padding counts (as zeros) if
    count_include_pad, and what a window of ceil_mode sees beyond the padding does not.
    """
    x = shapes.array("avg_pool2d", "x", x, ("N", "C", "H", "W"))
    return _avg_pool("avg_pool2d", x, *_windows("avg_pool2d", x.shape[2:], kernel_size, stride, padding, ceil_mode,
                                                count_include_pad))


def avg_pool2d_backward(dy, input_shape, kernel_size, stride=None, padding=0, ceil_mode=False,
                        count_include_pad=True):
    """Gradient of `avg_pool2d`: each pixel of a window gets dy over the window's number of pixels.

    dy: (N, C, OH, OW); input_shape: (N, C, H, W). Returns dx: (N, C, H, W).
    """
    name = "avg_pool2d_backward"
    dy = shapes.array(name, "dy", dy, ("N", "C", "OH", "OW"))
    return _avg_pool_backward(name, dy, *_windows(name, _input_size(name, input_shape, dy), kernel_size, stride,
                                                  padding, ceil_mode, count_include_pad))


def adaptive_avg_pool2d(x, output_size):
    """Average pooling with `output_size` windows, an int or a pair, spread as in `adaptive_max_pool2d`.

    x: (N, C, H, W). Returns y: (N, C, *output_size).
    """
    x = shapes.array("adaptive_avg_pool2d", "x", x, ("N", "C", "H", "W"))
    return _avg_pool("adaptive_avg_pool2d", x, *_adaptive_windows("adaptive_avg_pool2d", x.shape[2:], output_size))


def adaptive_avg_pool2d_backward(dy, input_shape):
    """Gradient of `adaptive_avg_pool2d`. dy: (N, C, OH, OW); input_shape: (N, C, H, W). Returns dx."""
    name = "adaptive_avg_pool2d_backward"
    dy = shapes.array(name, "dy", dy, ("N", "C", "OH", "OW"))
    return _avg_pool_backward(name, dy, *_adaptive_windows(name, _input_size(name, input_shape, dy), dy.shape[2:]))


def _avg_pool(name, x, win, key):
    y = np.empty(_pooled(name, x.shape, win), x.dtype)
    if y.size == 0:
        return y
    with _program((name, x.shape[1], key), x.dtype, len(x), lambda program: program.output(
        pool.avg_pool2d(program, program.input(*x.shape[1:]), win))) as program:
        program.run(len(x), x=x, y=y)
    return y


def _avg_pool_backward(name, dy, win, key):
    shapes.array(name, "dy", dy, (*dy.shape[:2], win["out_h"], win["out_w"]))
    dx = np.empty((*dy.shape[:2], win["height"], win["width"]), dy.dtype)
    if dx.size == 0:
        return dx
    with _program((name, dy.shape[1], key), dy.dtype, len(dy), lambda program: program.output(
        pool.avg_pool2d_backward(program, program.input(*dy.shape[1:], name="dy"), win), "dx")) as program:
        program.run(len(dy), dy=dy, dx=dx)
    return dx


def linear(x, w, b=None):
    """y = x w^T + b. x: (N, C); w: (K, C); b: (K,) or None. Returns y: (N, K)."""
    x, w = _linear_arrays("linear", x, w)
    b = _bias("linear", b, len(w), x.dtype)

    def write(program):
        t = program.input(x.shape[1], flat=True)
        program.output(linear_ops.linear(program, t, Slot("w"), None if b is None else Slot("b"), len(w)))
    y = np.empty((len(x), len(w)), x.dtype)
    with _program(("linear", w.shape, b is None), x.dtype, len(x), write) as program:
        program.run(len(x), x=x, w=w, y=y, **({} if b is None else {"b": b}))
    return y


def linear_backward(dy, x, w, need_dx=True):
    """Gradients of `linear`: dx = dy w (None without `need_dx`), dw = dy^T x, db = sum of dy over the batch."""
    x, w = _linear_arrays("linear_backward", x, w)
    dy = shapes.array("linear_backward", "dy", dy, (len(x), len(w)), x.dtype)

    def write(program):
        tx = program.input(x.shape[1], flat=True)
        tdy = program.input(len(w), flat=True, name="dy")
        tdx = linear_ops.linear_backward(program, tdy, tx, Slot("w"), Slot("dw"), Slot("db"), need_dx)
        if need_dx:
            program.output(tdx, "dx")
    dx, dw, db = np.empty_like(x) if need_dx else None, np.empty_like(w), np.empty(len(w), x.dtype)
    with _program(("linear_backward", w.shape, bool(need_dx)), x.dtype, len(x), write) as program:
        program.run(len(x), x=x, dy=dy, w=w, dw=dw, db=db, **({"dx": dx} if need_dx else {}))
    return dx, dw, db


def _linear_arrays(name, x, w):
    x = shapes.array(name, "x", x, ("N", "C"))
    w = shapes.array(name, "w", w, ("K", x.shape[1]), x.dtype)
    if 0 in w.shape:
        raise ValueError(f"{name}: w must not be empty, got shape {w.shape}")
    shapes.element_count(name, len(x), *w.shape)
    return x, w


def batch_norm(x, running_mean=None, running_var=None, weight=None, bias=None, training=False, momentum=0.1,
               eps=1e-5):
    """Batch normalisation of each channel: y = weight (x - mean) / sqrt(var + eps) + bias.

    x: (N, C, H, W); all others (C,) or None. With `training` mean and (biased) variance are the batch's, and the
    running ones, where given, are changed in place: r = (1 - momentum) r + momentum new, with the unbiased
    variance. Otherwise they are the running ones. Returns y like x.

    Raises ValueError for a batch with a single value per channel in training, or running statistics that are
    missing otherwise.
    """
    name = "batch_norm"
    x, w, b = _batch_norm_arrays(name, x, weight, bias)
    channels = x.shape[1]
    given = {"running_mean": running_mean, "running_var": running_var}
    if (running_mean is None) != (running_var is None) or (running_mean is None and not training):
        raise ValueError(f"{name}: running_mean and running_var must both be given"
                         f"{', or none of them' if training else ' where training is false'}")
    if training and x.size == channels:
        raise ValueError(f"{name}: x must hold more than one value per channel in training, got shape {x.shape}")
    running = {what: shapes.array(name, what, value, (channels,), x.dtype).copy()
               for what, value in given.items() if value is not None}
    factor = np.array([shapes.number(name, "momentum", momentum, 0, 1)])
    eps = shapes.number(name, "eps", eps, 0)
    arrays = {"w": w, "b": b, **running}
    slots = {what: None if arrays.get(what) is None else Slot(what) for what in ("w", "b", *given)}

    def write(program):
        t = program.input(*x.shape[1:])
        statistics = slots["running_mean"], slots["running_var"]
        if training:
            kept = norm.batch_statistics(program, t, slots["w"], slots["b"], eps, statistics, Slot("factor"))
        else:
            kept = norm.Norm(*statistics, slots["w"], slots["b"], eps, relu=False)
        program.output(norm.normalise(program, t, kept))
    key = (name, x.shape[1:], bool(training), eps, *(slot is None for slot in slots.values()))
    y = np.empty_like(x)
    with _program(key, x.dtype, len(x), write) as program:
        program.run(len(x), x=x, y=y, factor=factor, **{what: a for what, a in arrays.items() if a is not None})
    if training:
        for what, value in running.items():
            given[what][...] = value
    return y


def batch_norm_backward(dy, x, weight=None, eps=1e-5):
    """Gradients of `batch_norm` in training. dy: the gradient of the loss by y, like x.

    Returns dx like x, dweight and dbias (C,), each summed over the batch but dx.
    """
    name = "batch_norm_backward"
    x, w, _ = _batch_norm_arrays(name, x, weight, None)
    dy = shapes.array(name, "dy", dy, x.shape, x.dtype)
    eps = shapes.number(name, "eps", eps, 0)

    def write(program):
        t, tdy = program.input(*x.shape[1:]), program.input(*x.shape[1:], name="dy")
        kept = norm.batch_statistics(program, t, None if w is None else Slot("w"), None, eps)
        program.output(norm.normalise_backward(program, tdy, t, kept, Slot("dw"), Slot("db")), "dx")
    dx, dw, db = np.empty_like(x), np.empty(x.shape[1], x.dtype), np.empty(x.shape[1], x.dtype)
    with _program((name, x.shape[1:], eps, w is None), x.dtype, len(x), write) as program:
        program.run(len(x), x=x, dy=dy, dx=dx, dw=dw, db=db, **({} if w is None else {"w": w}))
    return dx, dw, db


def _batch_norm_arrays(name, x, weight, bias):
    x = shapes.array(name, "x", x, ("N", "C", "H", "W"))
    if 0 in x.shape[1:]:
        raise ValueError(f"{name}: every image of x must have pixels, got shape {x.shape}")
    shapes.element_count(name, *x.shape)
    w, b = (None if value is None else shapes.array(name, what, value, (x.shape[1],), x.dtype)
            for what, value in (("weight", weight), ("bias", bias)))
    return x, w, b


def _pointwise(name, kernel, saved, arrays, **scalars):
    """Run an activation, or its backward where `saved` says what it gets besides dy; arrays of any shape."""
    checked = [shapes.array(name, what, value, None if i == 0 else arrays["dy"].shape,
                            None if i == 0 else arrays["dy"].dtype)
               for i, (what, value) in enumerate(arrays.items())]
    shape, dtype = checked[0].shape, checked[0].dtype
    # whatever the shape, it is a row of numbers: cut it into images of up to 256
    width = min(256, max(1, -(-checked[0].size // 16)))
    count = -(-checked[0].size // width)
    padded = [np.zeros(count * width, dtype) for _ in checked]
    for flat, value in zip(padded, checked, strict=True):
        flat[:value.size] = value.ravel()

    def write(program):
        tensors = [program.input(width, flat=True, name=what) for what in arrays]
        if saved is None:
            program.output(pointwise.forward(program, kernel, *tensors, **scalars), "out")
        else:
            program.output(pointwise.backward(program, kernel, *tensors, saved, **scalars), "out")
    out = np.empty(count * width, dtype)
    with _program((name, kernel, width, *scalars.values()), dtype, count, write) as program:
        program.run(count, out=out, **dict(zip(arrays, padded, strict=True)))
    return out[:checked[0].size].reshape(shape)


def relu(x):
    """max(x, 0); NaN stays NaN. x of any shape."""
    return _pointwise("relu", "relu", None, {"x": x})


def relu_backward(dy, y):
    """dx = dy where y > 0 (or NaN), else 0; y is what `relu` returned."""
    return _pointwise("relu_backward", "relu", "y", {"dy": dy, "y": y})


def leaky_relu(x, negative_slope=0.01):
    """x where x > 0, else negative_slope * x. x of any shape."""
    slope = shapes.number("leaky_relu", "negative_slope", negative_slope)
    return _pointwise("leaky_relu", "leaky_relu", None, {"x": x}, slope=slope)


def leaky_relu_backward(dy, x, negative_slope=0.01):
    """dx = dy where x > 0, else negative_slope * dy."""
    slope = shapes.number("leaky_relu_backward", "negative_slope", negative_slope)
    return _pointwise("leaky_relu_backward", "leaky_relu", "x", {"dy": dy, "x": x}, slope=slope)


def tanh(x):
    """tanh(x). x of any shape."""
    return _pointwise("tanh", "tanh", None, {"x": x})


def tanh_backward(dy, y):
    """dx = dy (1 - y^2); y is what `tanh` returned."""
    return _pointwise("tanh_backward", "tanh", "y", {"dy": dy, "y": y})


def sigmoid(x):
    """1 / (1 + exp(-x)). x of any shape."""
    return _pointwise("sigmoid", "sigmoid", None, {"x": x})


def sigmoid_backward(dy, y):
    """dx = dy y (1 - y); y is what `sigmoid` returned."""
    return _pointwise("sigmoid_backward", "sigmoid", "y", {"dy": dy, "y": y})


def silu(x):
    """x sigmoid(x). x of any shape."""
    return _pointwise("silu", "silu", None, {"x": x})


def silu_backward(dy, x):
    """dx = dy s (1 + x (1 - s)) with s = sigmoid(x)."""
    return _pointwise("silu_backward", "silu", "x", {"dy": dy, "x": x})


def gelu_kernel(name, approximate):
    """The kernel for a choice of `approximate`, checked."""
    kernels = {"none": "gelu", "tanh": "gelu_tanh"}
    if not isinstance(approximate, str) or approximate not in kernels:
        raise ValueError(f'{name}: approximate must be "none" or "tanh", got {approximate!r}')
    return kernels[approximate]


def gelu(x, approximate="none"):
    """x P(x), P the normal distribution function, or with approximate="tanh"
    x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2. x of any shape. Hendrycks and Gimpel 2016."""
    return _pointwise("gelu", gelu_kernel("gelu", approximate), None, {"x": x})


def gelu_backward(dy, x, approximate="none"):
    """dx = dy times the derivative of `gelu` at x."""
    return _pointwise("gelu_backward", gelu_kernel("gelu_backward", approximate), "x", {"dy": dy, "x": x})


def softmax(x, dim=1):
    """exp(x_c) / sum of exp(x_k) over the channels or features k; x: (N, C, H, W) or (N, features); dim: 1."""
    return _over_channels("softmax", None, {"x": x}, dim)


def softmax_backward(dy, y, dim=1):
    """dx_c = y_c (dy_c - sum of dy_k y_k); y is what `softmax` returned."""
    return _over_channels("softmax", "y", {"dy": dy, "y": y}, dim)


def log_softmax(x, dim=1):
    """log of `softmax`, without its overflows: x_c - log of the sum of exp(x_k)."""
    return _over_channels("log_softmax", None, {"x": x}, dim)


def log_softmax_backward(dy, y, dim=1):
    """dx_c = dy_c - exp(y_c) times the sum of dy_k; y is what `log_softmax` returned."""
    return _over_channels("log_softmax", "y", {"dy": dy, "y": y}, dim)


def channel_axis(name, dim):
    """dim, which must be 1."""
    if shapes.integer(name, "dim", dim, -2**31) != 1:
        raise ValueError(f"{name}: dim must be 1 (channels or features), got {dim}")
    return 1


def _over_channels(kernel, saved, arrays, dim):
    """Run softmax or its logarithm, or the backward pass where `saved` says what it gets besides dy."""
    name = kernel if saved is None else f"{kernel}_backward"
    channel_axis(name, dim)
    first, *others = arrays
    checked = {first: shapes.images(name, first, arrays[first])}
    shape, dtype = checked[first].shape, checked[first].dtype
    if 0 in shape[1:]:
        raise ValueError(f"{name}: every image of {first} must have pixels, got shape {shape}")
    shapes.element_count(name, *shape)
    checked.update({what: shapes.array(name, what, arrays[what], shape, dtype) for what in others})

    def write(program):
        tensors = [program.input(*shape[1:], flat=len(shape) == 2, name=what) for what in arrays]
        made = (pointwise.forward(program, kernel, *tensors) if saved is None
                else pointwise.backward(program, kernel, *tensors, saved))
        program.output(made, "out")
    out = np.empty(shape, dtype)
    with _program((name, shape[1:]), dtype, len(checked[first]), write) as program:
        program.run(len(out), out=out, **checked)
    return out


def targets(name, value, count, classes):
    """Class numbers as int64 (count,), checked to lie in [0, classes)."""
    value = np.asarray(value)
    if value.dtype.kind not in "iu":
        raise TypeError(f"{name}: targets must be integers, got {value.dtype}")
    if value.shape != (count,):
        raise ValueError(f"{name}: targets must have shape ({count},), got {value.shape}")
    if count and not 0 <= value.min() <= value.max() < classes:
        raise ValueError(f"{name}: targets must lie in [0, {classes}), got {value.min()} to {value.max()}")
    return np.ascontiguousarray(value, np.int64)


def class_weights(name, weight, classes):
    """Weights as float64 (classes,), finite and not negative; None stays None."""
    if weight is None:
        return None
    try:
        kind, weight = np.asarray(weight).dtype.kind, np.ascontiguousarray(weight, np.float64)
    except (TypeError, ValueError):
        kind = "O"
    if kind not in "fiu":
        raise TypeError(f"{name}: weight must hold a number for each class, got {weight!r}")
    if weight.shape != (classes,):
        raise ValueError(f"{name}: weight must have shape ({classes},), got {weight.shape}")
    if not (np.isfinite(weight).all() and (weight >= 0).all()):
        raise ValueError(f"{name}: weight must be finite and not negative, got {weight}")
    if not weight.any():
        raise ValueError(f"{name}: weight must be above 0 for one class at least, got {weight}")
    return weight


def cross_entropy(logits, targets_, label_smoothing=0.0, weight=None):
    """Softmax and log loss, fused: L = -log softmax(logits)[target], the (weighted) mean over the batch.

    logits: (N, K); targets: integers (N,) in [0, K); weight: (K,) or None; label_smoothing in [0, 1].
    Returns the loss (float) and dlogits (N, K). Of an empty batch, and where all targets have weight 0, the loss is
    NaN, as in PyTorch; the gradient is then 0.
    """
    name = "cross_entropy"
    logits = shapes.array(name, "logits", logits, ("N", "K"))
    classes = shapes.integer(name, "the number of classes", logits.shape[1], 1)
    target = targets(name, targets_, len(logits), classes)
    smoothing = shapes.number(name, "label_smoothing", label_smoothing, 0, 1)
    weight = class_weights(name, weight, classes)
    total = np.array([float(len(target)) if weight is None else weight[target].sum()])
    dlogits = np.empty_like(logits)

    def write(program):
        z = program.input(classes, flat=True)
        dz, program.loss, _ = loss.cross_entropy(program, z, Slot("total"), smoothing,
                                                 None if weight is None else Slot("weight"))
        program.output(dz)
    with _program((name, classes, smoothing, weight is None), logits.dtype, len(logits), write) as program:
        program.run(len(logits), x=logits, y=dlogits, target=target, total=total,
                    **({} if weight is None else {"weight": weight}))
        with np.errstate(invalid="ignore"):
            summed = float(program.loss[:len(logits)].sum())
    return summed / float(total[0]) if total[0] else math.nan, dlogits


def mse_loss(prediction, target):
    """Mean squared error over all elements. Arrays of one shape, (N, C, H, W) or (N, features).

    Returns the loss (float) and its gradient by the prediction. Of an empty batch the loss is NaN.
    """
    name = "mse_loss"
    prediction = shapes.array(name, "prediction", prediction)
    if prediction.ndim not in (2, 4) or 0 in prediction.shape[1:]:
        raise ValueError(f"{name}: prediction must have shape (N, C, H, W) or (N, features), got {prediction.shape}")
    target = shapes.array(name, "target", target, prediction.shape, prediction.dtype)
    gradient = np.empty_like(prediction)

    def write(program):
        size, flat = prediction.shape[1:], prediction.ndim == 2
        y = program.input(*size, flat=flat)
        dy, program.loss = loss.mse(program, y, program.input(*size, flat=flat, name="t"))
        program.output(dy)
    with _program((name, prediction.shape[1:]), prediction.dtype, len(prediction), write) as program:
        program.run(len(prediction), x=prediction, t=target, y=gradient)
        loss_sum = program.loss[:len(prediction)].sum()
    with np.errstate(invalid="ignore"):
        return float(np.divide(loss_sum, np.float64(prediction.size))), gradient
