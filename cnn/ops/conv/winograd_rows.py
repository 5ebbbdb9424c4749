"""2-D convolution with fewer multiplications, by pieces of rows: Winograd's F(2, 5) along the width.

With R kernel rows and n frequencies, what remains is a convolution of n groups with a kernel of R x 1, which
`direct` does: with few channels transforms of two dimensions would cost more than they save, because each product
would have too few terms. Formulas: cnn/_ext/winograd_rows.pyx.
"""
import numpy as np

from cnn.engine.memory import LANES
from cnn.engine.tensors import PER_ACTIVE_THREAD, PER_SHARD
from cnn.ops.conv import direct
from cnn.ops.conv.windows import Geometry
from cnn.ops.pool import pooled, side_by_side
from cnn.runtime import get_winograd

M, N = 2, 6             # outputs and inputs of a piece; frequencies
TERMS = 25              # the fewest terms of a sum that make up for transforming
NUMBERS = 1 << 18       # the most of V and M of a block, which stay in the second cache


def suits(g):
    """Whether the formulas are made for this convolution, and save time."""
    return (get_winograd() and g.kernel[1] == 5 and g.stride == g.dilation == (1, 1) and g.groups == 1
            and min(g.channels, g.outputs) * g.kernel[0] >= TERMS
            and N * _wide(g) * LANES * (g.channels * g.size[0] + g.outputs * g.out[0]) <= NUMBERS)


def conv2d(program, x, w, b, g, relu):
    """Forward, as in cnn/ops/conv/__init__.py; returns y and V."""
    v, p = _products(program, x, w, g)
    y = program.tensor(g.outputs, *g.out)
    program.add("winograd_rows_y", lambda: dict(p=p, b=b, y=y, outputs=g.outputs, out_h=g.out[0],
                                                wide=_wide(g), out_w=g.out[1], relu=relu))
    return y, v


def conv2d_pool(program, x, w, b, g, relu, win, need_index):
    """Forward and `max_pool2d` in one, of windows that lie side by side; returns y, the indices and V."""
    v, p = _products(program, x, w, g)
    height, width = side_by_side(win)
    y, index = pooled(program, g.outputs, win, need_index)
    rows = program.copies(height * g.out[1] * LANES, PER_ACTIVE_THREAD)
    program.add("winograd_rows_pool", lambda: dict(p=p, b=b, y=y, index=index, rows=rows, outputs=g.outputs,
                                                   width=g.out[1], wide=_wide(g), relu=relu,
                                                   win_h=height, win_w=width, out_h=y.height, out_w=y.width))
    return y, index, v


def conv2d_backward(program, dy, x, v, w, g, dw, need_dx):
    """Backward, as in cnn/ops/conv/__init__.py; v: V where it is known."""
    inner, wide = _inner(g), _wide(g)
    d = program.tensor(N * g.outputs, g.out[0], wide)
    program.add("winograd_rows_dy", lambda: dict(dy=dy, d=d, outputs=g.outputs, out_h=g.out[0],
                                                 wide=wide, out_w=g.out[1]))
    if dw is not None:
        rows = g.outputs * g.channels * g.kernel[0]
        # a vector more, because the last is read whole
        parts = program.copies(N * rows + LANES, PER_SHARD)
        direct.weight_gradient(program, d, _transformed(program, x, g) if v is None else v, parts, inner)
        program.after("winograd_rows_dw", lambda: dict(du=parts, dw=dw, rows=rows,
                                                       step=parts.step), program.kernels.winograd_rows.tasks(rows))
    if not need_dx:
        return None
    dv = direct.input_gradient(program, d, _packing(program, w, g), inner)
    dx = program.tensor(g.channels, *g.size)
    program.add("winograd_rows_dx", lambda: dict(dv=dv, dx=dx, channels=g.channels,
                                                 height=g.size[0], wide=wide, left=g.padding[1][0], width=g.size[1]))
    return dx


def _products(program, x, w, g):
    """V and M."""
    v = _transformed(program, x, g)
    return v, direct.correlation(program, v, _packing(program, w, g), None, _inner(g))


def _wide(g):
    """Pieces of a row."""
    return -(-g.out[1] // M)


def _inner(g):
    """The convolution of all frequencies."""
    wide = _wide(g)
    return Geometry((g.size[0], wide), (g.out[0], wide), (g.kernel[0], 1), (1, 1), (1, 1), (g.padding[0], (0, 0)),
                    g.channels, g.outputs, N)


def _transformed(program, x, g):
    """V."""
    wide, left = _wide(g), g.padding[1][0]
    x = program.bordered(x, left, max(0, wide * M + N - M - left - g.size[1]))
    v = program.tensor(N * g.channels, g.size[0], wide)
    program.add("winograd_rows", lambda: dict(x=x, v=v, channels=g.channels, height=g.size[0],
                                              wide=wide, left=left))
    return v


def _packing(program, w, g):
    """U in the order in which a kernel wants it."""
    rows = g.outputs * g.channels * g.kernel[0]

    def pack(order):
        row = order[:rows].astype(np.int32)     # the same in every group
        return program.prepare("winograd_rows_weights",
                               lambda u: dict(w=w, row=row, u=u, rows=rows), len(order),
                               program.kernels.winograd_rows.tasks(rows))
    return pack
