"""2-D max pooling: y[c, i, j] = max over the window of x; dx gets dy at the winners, overlaps add up."""
from cnn import shapes


def window(owner, size, kernel, stride, padding, ceil_mode):
    """The sizes of a pooling window over an input of `size` (H, W), checked, as the kernels name them."""
    out_h, out_w = shapes.pool_output(owner, size, kernel, stride, padding, ceil_mode)
    return dict(height=size[0], width=size[1], out_h=out_h, out_w=out_w, kernel_h=kernel[0],
                kernel_w=kernel[1], stride_h=stride[0], stride_w=stride[1], padding_h=padding[0],
                padding_w=padding[1])


def max_pool2d(program, x, win, need_index=True, relu=False):
    """Forward: returns y and the winners' indices into the flattened H*W plane (or None).

    With `relu` the input passes through a ReLU first, at no cost.
    """
    y = program.tensor(x.channels, win["out_h"], win["out_w"])
    index = program.tensor(x.channels, y.height, y.width, integer=True) if need_index else None
    program.add("max_pool", lambda: dict(x=x, y=y, index=index, channels=x.channels, relu=relu, **win))
    return y, index


def max_pool2d_backward(program, dy, index, win):
    """Backward: returns dx."""
    dx = program.tensor(dy.channels, win["height"], win["width"])
    program.add("max_pool_backward", lambda: dict(dy=dy, index=index, dx=dx, channels=dy.channels, **win))
    return dx


def max_pool2d_scatter(program, dy, index, height, width):
    """Backward where only the indices are known."""
    dx = program.tensor(dy.channels, height, width)
    program.add("max_pool_scatter", lambda: dict(dy=dy, index=index, dx=dx, channels=dy.channels, height=height,
                                                 width=width, pixels=dy.height * dy.width))
    return dx
