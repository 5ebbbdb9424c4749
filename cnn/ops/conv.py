"""2-D convolution.

    y[k, i, j] = b[k] + sum_{c, m, n} x[c, i*s + m*d - p, j*s + n*d - p] w[k, c, m, n]
    dw[k, c, m, n] = sum_{i, j} dy[k, i, j] x[c, i*s + m*d - p, j*s + n*d - p];   db[k] = sum_{i, j} dy[k, i, j]
    dx[c, u, v] = sum of dy[k, i, j] w[k, c, m, n] over all (k, i, j, m, n) that read x[c, u, v]
"""
from cnn import shapes, windows
from cnn.ops import winograd
from cnn.plan import PER_THREAD

POINTWISE_BAND = 16     # pixels at a time in the weight gradient of 1x1 convolutions
BAND = 128      # pixels whose gradients the weight gradient takes at a time: 32 KB of four channels


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
    """Forward. w: (K, C / groups, R, S) flat; b: (K,) or None; `relu` is applied on the way out."""
    if winograd.suits(g):
        return winograd.conv2d(program, x, w, b, g, relu)
    y = program.tensor(g.outputs * g.groups, *g.out)
    x = program.bordered(x, *g.side_border())
    _correlate(program, x, y, w, b, g.outputs, g, lambda tile: windows.forward_tables(g, x, y, tile), relu)
    return y


def conv2d_backward(program, dy, x, w, g, dw=None, db=None, need_dx=True):
    """Backward: fills dw and db where they are wanted, returns dx or None."""
    outputs, weights = g.outputs * g.groups, g.outputs * g.groups * g.taps
    transforms = winograd.suits(g)
    scatters = not transforms and _scatters(program, g)
    if need_dx and not transforms and not scatters:
        dy = program.bordered(dy, *g.gradient_border())
    if dw is not None and _pointwise(program, g):
        _pointwise_weight_gradient(program, dy, x, dw, g)
    elif dw is not None and transforms:
        winograd.weight_gradient(program, dy, x, dw, g)
    elif dw is not None:
        x = program.bordered(x, *g.side_border())
        parts = program.shard_sum(dw, weights)
        program.add("conv_dw", lambda: dict(x=x, dy=dy, dw=parts, outputs=g.outputs, taps=g.taps, groups=g.groups,
                                            x_group=g.channels * x.plane, kernel_h=g.kernel[0],
                                            pixels=g.out[0] * g.out[1], band=BAND,
                                            **windows.weight_tables(g, x, dy)))
    if db is not None:
        sums = program.shard_sum(db, outputs)
        program.add("bias_grad", lambda: dict(dy=dy, db=sums, outputs=outputs, out_h=g.out[0], out_w=g.out[1]))
    if not need_dx:
        return None
    if transforms:
        return winograd.input_gradient(program, dy, w, g)
    dx = program.tensor(g.channels * g.groups, *g.size)
    if scatters:
        _scatter(program, dy, dx, w, g)
        return dx
    for residue in g.residues():
        _correlate(program, dy, dx, w, None, g.channels, g,
                   lambda tile, residue=residue: windows.gradient_tables(g, dy, dx, tile, residue), False)
    return dx


def _correlate(program, x, y, w, b, outputs, g, tables, relu):
    """Add one correlation onto `outputs` channels of y in each group; tables(tile) makes its tables."""
    tiles, tile = program.kernels.conv.split(outputs, 0), program.kernels.conv.tile_pixels(outputs)
    # the order of the weights does not depend on the borders, which are settled only at the end
    packed = program.gather(w, windows.packed_order(tables(tile).weights, tiles))

    def arguments():
        t = tables(tile)
        return dict(x=x, w=packed, b=b, y=y, pixel=t.pixel, out=t.out, tap=t.tap, run=t.run,
                    outputs=outputs, taps=len(t.tap), runs=len(t.run), groups=g.groups,
                    x_group=x.channels // g.groups * x.plane, tiles=tiles, relu=relu, single=0, w_row=0)
    program.add("correlate", arguments)


def _pointwise(program, g):
    """Whether the weight gradient is that of a 1x1 convolution, whose channels come in sixteens."""
    return (g.kernel == g.stride == (1, 1) and g.groups == 1 and not any(map(any, g.padding))
            and g.channels % windows.LANES == 0 and program.kernels.winograd.numbers_at_a_time(g.outputs))


def _pointwise_weight_gradient(program, dy, x, dw, g):
    rows = program.copies(g.channels * POINTWISE_BAND * windows.LANES, PER_THREAD)
    parts = program.shard_sum(dw, g.outputs * g.channels)
    at = program.kernels.winograd.numbers_at_a_time(g.outputs)

    def arguments():
        # without borders, which are settled only now, the plane is one long row
        plain = not (x.left or x.right or dy.left or dy.right)
        height, width = (1, g.size[0] * g.size[1]) if plain else g.size
        return dict(x=x, dy=dy, dw=parts, rows=rows, channels=g.channels, outputs=g.outputs, height=height,
                    width=width, band=POINTWISE_BAND, at=at)
    program.add("pointwise_dw", arguments)


def _scatters(program, g):
    """Whether the input gradient is made tap by tap: where taking whole rows of pixels would visit many taps
    that lie outside dy (LeNet's second convolution: 280 to 245 us)."""
    return (max(g.stride) == 1 and not any(map(any, g.padding)) and 5 * g.size[1] > 6 * g.out[1]
            and program.kernels.conv.tile_pixels(g.channels) > 1)


def _scatter(program, dy, dx, w, g):
    """Add the input gradient as the sum over taps of what each pixel of dy sends there."""
    tiles = program.kernels.conv.split(g.channels, 0)
    packed = program.gather(w, windows.packed_order(windows.scatter_weights(g), tiles))
    program.add("scatter", lambda: dict(x=dy, w=packed, y=dx, channels=g.channels, outputs=g.outputs,
                                        groups=g.groups, tiles=tiles, taps=g.kernel[0] * g.kernel[1],
                                        pixels=g.out[0] * g.out[1], **windows.scatter_tables(g, dy, dx)))
