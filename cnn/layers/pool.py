"""Pooling."""
from cnn import shapes
from cnn.layers.base import Layer
from cnn.ops import pool


class MaxPool2d(Layer):
    """The largest value of each window; the gradient goes to that value alone.

    x: (N, C, H, W); y: (N, C, OH, OW). kernel_size, stride (default: kernel_size), padding: an int or a
    pair (height, width); padding is at most half the kernel and never wins. With ceil_mode a window that
    hangs over the far edge counts. Of equal values the first in row-major order wins; NaN wins over all.

    Raises TypeError or ValueError for arguments, and on the first use for inputs, that do not fit.
    """

    def __init__(self, kernel_size, stride=None, padding=0, ceil_mode=False):
        super().__init__()
        name = type(self).__name__
        self.kernel_size = shapes.pair(name, "kernel_size", kernel_size, 1)
        self.stride = self.kernel_size if stride is None else shapes.pair(name, "stride", stride, 1)
        self.padding = shapes.pair(name, "padding", padding, 0)
        self.ceil_mode = bool(ceil_mode)

    def emit(self, program, x, relu=False):
        self._spatial(x)
        win = pool.window(type(self).__name__, (x.height, x.width), self.kernel_size, self.stride,
                          self.padding, self.ceil_mode)
        y, index = pool.max_pool2d(program, x, win, self.training, relu)

        def backward(dy, need_dx):
            return pool.max_pool2d_backward(program, dy, index, win) if need_dx else None
        return y, backward

    def extra_repr(self):
        text = f"kernel_size={self.kernel_size}, stride={self.stride}"
        text += f", padding={self.padding}" if self.padding != (0, 0) else ""
        return text + (", ceil_mode=True" if self.ceil_mode else "")
