"""2-D pooling: the maximum or the average of each window of x.

    max: y[c, i, j] = max over the window of x; dx gets dy at the winners, overlaps add up
    avg: y[c, i, j] = sum over the window of x / divisor; every pixel of it gets dy / divisor
"""
import numpy as np

from cnn import shapes
from cnn.ops.operation import Operation, spatial


def windows(owner, size, kernel_size, stride, padding, ceil_mode=False, count_include_pad=True, dilation=(1, 1),
            divisor_override=None):
    """Windows of `kernel_size` pixels every `stride` pixels of an input of `size` (H, W), checked: what the kernels
    want to know of them, by name. The pixels of a window lie `dilation` apart.

    An average is divided by the pixels of its window, those of the padding included or not; where the window
    hangs over the far padding (ceil_mode) what lies beyond never counts. Or by `divisor_override`.
    """
    out = shapes.pool_output(owner, size, kernel_size, stride, padding, ceil_mode, dilation)
    pads = shapes.padding(owner, padding, kernel_size, stride, dilation, size)
    axes = []
    for side, n, k, s, d, (before, after) in zip(size, out, kernel_size, stride, dilation, pads, strict=True):
        first = np.arange(n) * s - before
        stop = np.minimum(first + d * (k - 1) + 1, side + after)
        low, high = np.where(first < 0, first % d, first), np.minimum(stop, side)
        if (low >= high).any():
            raise ValueError(f"{owner}: every window must see a pixel of the input {shapes.times(size)}, but one of "
                             f"kernel_size {shapes.times(kernel_size)}, dilation {shapes.times(dilation)} sees none: "
                             f"its maximum would be -inf")
        counted = (stop, first) if count_include_pad else (high, low)
        axes.append((low, high, -(-np.subtract(*counted) // d)))
    if divisor_override is not None:
        axes = [(low, high, np.full_like(low, fixed)) for (low, high, _), fixed in zip(
            axes, (divisor_override, 1), strict=True)]
    return _tables(size, axes, dilation)


def adaptive_windows(owner, size, out):
    """Windows that spread over an input of `size` (H, W) so that there are `out` (height, width) of them:
    the i-th reaches from floor(i H / height) to ceil((i + 1) H / height)."""
    if min(size) < 1:
        raise ValueError(f"{owner}: the input must not be empty, got {size[0]}×{size[1]}")
    shapes.block(owner, "output", *out)     # before any table is made for it
    axes = []
    for side, n in zip(size, out, strict=True):
        low, high = np.arange(n) * side // n, -(-np.arange(1, n + 1) * side // n)
        axes.append((low, high, high - low))
    return _tables(size, axes)


def _tables(size, axes, steps=(1, 1)):
    """For each axis its size, and of every window the first pixel, one past the last, and the pixels to divide
    by; the step from pixel to pixel; `tiles` where the windows cover every pixel once, `pairs` where they are 2x2 and
    side by side."""
    rows, columns = (np.stack(axis, 1).astype(np.int32) for axis in axes)
    tiles = tuple(steps) == (1, 1) and all(np.array_equal([0, *table[:, 1]], [*table[:, 0], side])
                for table, side in zip((rows, columns), size, strict=True))
    win = dict(height=size[0], width=size[1], out_h=len(rows), out_w=len(columns), tiles=tiles, rows=rows,
               columns=columns, row_step=steps[0], column_step=steps[1])
    return win | {"pairs": side_by_side(win) == (2, 2)}


def side_by_side(win):
    """Height and width of the windows, where all are of one size and lie side by side from the first pixel on, as
    `correlate_pool` wants them; else None."""
    if not win["out_h"] or not win["out_w"] or max(win["row_step"], win["column_step"]) > 1:
        return None
    size = int(win["rows"][0, 1]), int(win["columns"][0, 1])
    regular = all(np.array_equal(win[axis][:, 0], np.arange(len(win[axis])) * n)
                  and np.array_equal(win[axis][:, 1] - win[axis][:, 0], np.full(len(win[axis]), n))
                  for axis, n in zip(("rows", "columns"), size, strict=True))
    return size if regular else None


def max_pool2d(program, x, win, need_index=True, relu=False):
    """Forward: returns y and the winners' indices into the flattened H*W plane (or None).

    With `relu` the input passes through a ReLU first, at no cost.
    """
    y, index = pooled(program, x.channels, win, need_index)
    program.add("max_pool", lambda: dict(x=x, y=y, index=index, channels=x.planes, relu=relu, **win))
    return y, index


def pooled(program, channels, win, need_index):
    """Tensors for the maxima of so many channels, and for their indices or None."""
    return (program.tensor(channels, win["out_h"], win["out_w"]),
            program.tensor(channels, win["out_h"], win["out_w"], integer=True) if need_index else None)


def max_pool2d_backward(program, dy, index, win, sums=None):
    """Backward: returns dx. sums: an array of each shard for the sum of each channel's dx, with `pairs` only."""
    if index is None:
        raise ValueError("max_pool2d: the program was written without gradients")
    dx = program.tensor(dy.channels, win["height"], win["width"])
    program.add("max_pool_backward", lambda: dict(dy=dy, index=index, dx=dx, sums=sums, channels=dy.planes, **win))
    return dx


def max_pool2d_scatter(program, dy, index, height, width):
    """Backward where only the indices are known."""
    dx = program.tensor(dy.channels, height, width)
    program.add("max_pool_scatter", lambda: dict(dy=dy, index=index, dx=dx, channels=dy.channels, height=height,
                                                 width=width, pixels=dy.height * dy.width))
    return dx


def avg_pool2d(program, x, win, flat=False):
    """Forward: returns y; a vector if `flat`, where there is one window."""
    y = program.tensor(x.channels, win["out_h"], win["out_w"], flat)
    program.add("avg_pool", lambda: dict(x=x, y=y, channels=x.planes, **win))
    return y


def avg_pool2d_backward(program, dy, win):
    """Backward: returns dx."""
    dx = program.tensor(dy.channels, win["height"], win["width"])
    program.add("avg_pool_backward", lambda: dict(dy=dy, dx=dx, channels=dy.planes, **win))
    return dx


def output_size(owner, value, size=(None, None)):
    """The numbers of windows (OH, OW) of an adaptive pooling, from an integer, a pair or None, which stands for as many
    as there are pixels, those of `size`. Raises TypeError or ValueError for anything else."""
    sides = (value, value) if value is None else tuple(value) if isinstance(value, (tuple, list)) else ()
    if len(sides) != 2 or not any(n is None for n in sides):
        return shapes.pair(owner, "output_size", value, 1)
    return tuple(own if n is None else shapes.integer(owner, "output_size", n, 1)
                 for n, own in zip(sides, size[-2:], strict=True))


def max_options(owner, kernel_size, stride, padding, dilation, ceil_mode):
    """What a max pooling by windows of one size takes, checked."""
    return {**_options(owner, kernel_size, stride, padding), "dilation": shapes.pair(owner, "dilation", dilation, 1),
            "ceil_mode": shapes.flag(owner, "ceil_mode", ceil_mode)}


def avg_options(owner, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override):
    """What an average pooling by windows of one size takes, checked."""
    options = {**_options(owner, kernel_size, stride, padding), "ceil_mode": shapes.flag(owner, "ceil_mode", ceil_mode),
               "count_include_pad": shapes.flag(owner, "count_include_pad", count_include_pad)}
    if divisor_override is not None:
        options["divisor_override"] = shapes.integer(owner, "divisor_override", divisor_override, -shapes.MAX_SIZE)
        if not options["divisor_override"]:
            raise ValueError(f"{owner}: divisor_override must not be 0")
    return options


def _options(owner, kernel_size, stride, padding):
    kernel = shapes.pair(owner, "kernel_size", kernel_size, 1)
    return {"kernel_size": kernel, "stride": kernel if stride is None else shapes.pair(owner, "stride", stride, 1),
            "padding": shapes.pool_padding(owner, padding)}


class _Pool(Operation):
    """options: what `windows` takes by name; or output_size (a pair), for windows that spread over the input."""

    def __init__(self, owner, **options):
        super().__init__(owner)
        self.options = options

    def windows(self, size):
        """The windows of an input of this size (H, W)."""
        if "output_size" in self.options:
            return adaptive_windows(self.owner, size, self.options["output_size"])
        return windows(self.owner, size, **self.options)

    def shape(self, x):
        win = self.windows(spatial(self.owner, x)[1:])
        return x[0], win["out_h"], win["out_w"]

    def attributes(self):
        name = "output_size" if "output_size" in self.options else "kernel_size"
        shown = {name.split("_")[0]: shapes.times(self.options[name])}
        if self.options.get("dilation", (1, 1)) != (1, 1):
            shown["dilation"] = shapes.times(self.options["dilation"])
        return shown


class MaxPool2d(_Pool):
    """The maximum of each window. relu: whether its input passes through a ReLU first."""

    name = twin = "max_pool2d"
    relu = False

    def emit(self, program, x):
        win = self.windows(x.shape[1:])
        y, index = max_pool2d(program, x, win, program.gradients, self.relu)

        def backward(dy, need_dx):
            return max_pool2d_backward(program, dy, index, win) if need_dx else None
        return y, backward


class AvgPool2d(_Pool):
    """The average of each window. flat: whether the one window's average becomes a vector, (C,)."""

    name = twin = "avg_pool2d"
    flat = False

    def shape(self, x):
        return super().shape(x)[:1] if self.flat else super().shape(x)

    def emit(self, program, x):
        win = self.windows(x.shape[1:])

        def backward(dy, need_dx):
            return avg_pool2d_backward(program, dy, win) if need_dx else None
        return avg_pool2d(program, x, win, self.flat), backward
