"""2-D convolution.

    y[k, i, j] = b[k] + sum_{c, m, n} x[c, i*s + m*d - p, j*s + n*d - p] w[k, c, m, n]
    dw[k, c, m, n] = sum_{i, j} dy[k, i, j] x[c, i*s + m*d - p, j*s + n*d - p];   db[k] = sum_{i, j} dy[k, i, j]
    dx[c, u, v] = sum of dy[k, i, j] w[k, c, m, n] over all (k, i, j, m, n) that read x[c, u, v]
"""
from cnn import shapes
from cnn.ops.conv import conv1x1, depthwise, direct, windows, winograd, winograd_rows
from cnn.ops.pool import side_by_side


def geometry(owner, size, channels, outputs, kernel, stride, padding, dilation, groups):
    """Sizes of a convolution of `channels` onto `outputs` channels, checked."""
    padding = shapes.padding(owner, padding, kernel, stride, dilation)
    out = shapes.conv_output(owner, size, kernel, stride, padding, dilation)
    # before any table is made for it
    for what, sizes in (("input", (channels, size[0], size[1] + sum(padding[1]))), ("output", (outputs, *out)),
                        ("kernel", (outputs, channels // groups, *kernel))):
        shapes.block(owner, what, *sizes)
    return windows.Geometry(size, out, kernel, stride, dilation, padding, channels // groups,
                            outputs // groups, groups)


def conv2d(program, x, w, b, g, relu=False):
    """Forward. w: (K, C / groups, R, S) flat; b: (K,) or None; `relu` is applied on the way out.

    Returns y, and what the backward pass may use again.
    """
    return _method(g).conv2d(program, x, w, b, g, relu)


def ends_in_pool(g, win):
    """Whether `conv2d_pool` can be used."""
    return hasattr(_method(g), "conv2d_pool") and g.groups == 1 and bool(side_by_side(win))


def conv2d_pool(program, x, w, b, g, relu, win, need_index=True):
    """Forward and `max_pool2d` in one, which keeps nothing in between: returns y, the winners' indices (or None), and
    what the backward pass may use again."""
    return _method(g).conv2d_pool(program, x, w, b, g, relu, win, need_index)


def conv2d_backward(program, dy, x, w, g, dw=None, db=None, need_dx=True, saved=None):
    """Backward: fills dw and db where they are wanted, returns dx or None. saved: what the forward pass returned."""
    if db is not None:
        outputs = g.outputs * g.groups
        sums = program.shard_sum(db, outputs)
        program.add("bias_grad", lambda: dict(dy=dy, db=sums, outputs=outputs, out_h=g.out[0], out_w=g.out[1]))
    return _method(g).conv2d_backward(program, dy, x, saved, w, g, dw, need_dx)


def _method(g):
    """How to compute it: the first that suits."""
    return next((method for method in (winograd, winograd_rows, depthwise, conv1x1) if method.suits(g)), direct)
