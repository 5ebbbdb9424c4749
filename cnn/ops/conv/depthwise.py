"""Depthwise convolution with 3x3 kernels; the formulas stand beside the kernels in _ext/depthwise.pyx."""
from cnn.engine.memory import zeros


def suits(g):
    """Whether the kernels for depthwise convolution take this one."""
    return (g.channels == g.outputs == 1 and g.groups > 1 and g.kernel == (3, 3) and g.dilation == (1, 1)
            and g.stride in ((1, 1), (2, 2)))


def conv2d(program, x, w, b, g, relu):
    """Forward, as in cnn/ops/conv/__init__.py."""
    y = program.tensor(g.groups, *g.out)
    x = program.bordered(x, *g.side_border())
    _add(program, x, w, b, y, g.padding[0][0], g.padding[1][0], g.stride[0], relu, turned=False)
    return y, None


def conv2d_backward(program, dy, x, saved, w, g, dw, need_dx):
    """Backward, as in cnn/ops/conv/__init__.py."""
    top, left = g.padding[0][0], g.padding[1][0]
    if need_dx:
        dy = program.bordered(dy, *_gradient_border(g))
    if dw is not None:
        x = program.bordered(x, *g.side_border())
        parts = program.shard_sum(dw, g.groups * g.taps)
        program.add("depthwise_dw", lambda: dict(x=x, dy=dy, dw=parts, zero=zeros(x.row, program.dtype),
                                                 channels=g.groups, height=g.size[0], out_h=g.out[0], out_w=g.out[1],
                                                 stride=g.stride[0], top=top, left=left))
    if not need_dx:
        return None
    dx = program.tensor(g.groups, *g.size)
    if g.stride == (1, 1):
        _add(program, dy, w, None, dx, 2 - top, 2 - left, 1, relu=False, turned=True)
    else:
        program.add("depthwise_dx", lambda: dict(dy=dy, w=w, dx=dx, zero=zeros(dy.row, program.dtype),
                                                 channels=g.groups, height=g.size[0], width=g.size[1],
                                                 out_h=g.out[0], top=top, left=left, edge=dy.left))
    return dx


def _gradient_border(g):
    """Columns of zeros that the input gradient reads left and right of dy."""
    before = g.padding[1][0]
    if g.stride == (1, 1):
        return g.gradient_border()
    return max(0, 1 - before // 2), max(0, (before + g.size[1] - 1) // 2 - (g.out[1] - 1))


def _add(program, x, w, b, y, top, left, stride, relu, turned):
    program.add("depthwise", lambda: dict(x=x, w=w, b=b, y=y, zero=zeros(x.row, program.dtype), channels=x.channels,
                                          height=x.height, out_h=y.height, out_w=y.width, stride=stride, top=top,
                                          left=left, relu=relu, turned=turned))
