"""Activations, element by element or over the channels; the formulas stand beside the kernels in _ext/pointwise.pyx."""
import numpy as np

from cnn.engine.tensors import PER_ACTIVE_THREAD
from cnn.ops.operation import Operation, spatial


def forward(program, kernel, x, **scalars):
    """y = f(x)"""
    y = program.like(x)
    program.add(kernel, lambda: dict(x=x, y=y, **scalars, **x.pixels))
    return y


def backward(program, kernel, dy, saved, name, **scalars):
    """dx from dy and what the forward pass saved: its input ("x") or its output ("y")."""
    dx = program.like(dy)
    program.add(f"{kernel}_backward", lambda: dict(dy=dy, dx=dx, **{name: saved}, **scalars, **dy.pixels))
    return dx


def mask(program, dy, y):
    """The backward pass of a ReLU that was part of the operation before: dy, but 0 where y <= 0."""
    dx = program.overwritable(dy)
    program.add("relu_backward", lambda: dict(dy=dy, y=y, dx=dx, **dy.pixels))
    return dx


def add(program, a, b, y, relu=False):
    """y = a + b, which may be a or b itself, and perhaps a ReLU of it; returns y."""
    program.add("add", lambda: dict(a=a, b=b, y=y, relu=relu, **y.pixels))
    return y


def copy(program, x, y):
    """y = x; either may be a part of a tensor."""
    program.add("copy", lambda: dict(x=x, y=y, **x.pixels))


def dropout(program, x, key, p, whole=False):
    """y = x / (1 - p) where the element's hash says so, else 0; the gradient is the same map of dy.

    key: uint64 (2,), seed and step. whole: the elements are whole channels.
    """
    y = program.like(x)
    program.add("dropout_channels" if program.by_channels else "dropout", lambda: dict(
        x=x, y=y, key=key, p=p, whole=whole, **x.size))
    return y


# Maps with two numbers at most, as in the kernel, which counts from 1; of some the backward pass gets y, not x.
MAPS = ("clamp", "hardtanh", "elu", "hardswish", "hardsigmoid", "mish", "softplus", "absolute", "exp", "log", "sqrt",
        "power", "sin", "cos")
FROM_OUTPUT = ("exp", "sqrt")


def mapped(program, name, x, a=0.0, b=0.0):
    """y = f(x), for a name in MAPS."""
    y = program.like(x)
    program.add("map", lambda: dict(x=x, y=y, kind=1 + MAPS.index(name), a=a, b=b, **x.pixels))
    return y


def mapped_backward(program, name, dy, saved, a=0.0, b=0.0):
    """dx = dy f'(x), from x or y."""
    dx = program.like(dy)
    program.add("map_backward", lambda: dict(dy=dy, x=saved, dx=dx, kind=1 + MAPS.index(name), a=a, b=b, **dy.pixels))
    return dx


class Map(Operation):
    """One of MAPS. numbers: what the formula takes besides x, by name, at most two."""

    def __init__(self, owner, name, **numbers):
        self.name = self.twin = name
        super().__init__(owner)
        self.numbers = numbers

    def shape(self, x):
        return x

    def attributes(self):
        return self.numbers

    def emit(self, program, x):
        name, numbers = self.name, self.numbers.values()
        y = mapped(program, name, x, *numbers)
        saved = y if name in FROM_OUTPUT else x

        def back(dy, need_dx):
            return mapped_backward(program, name, dy, saved, *numbers) if need_dx else None
        return y, back


class Activation(Operation):
    """kernel: the name of the forward kernel, `<kernel>_backward` being that of the other; saved: what the backward
    kernel needs besides dy, "x" or "y"; scalars: what both take."""

    def __init__(self, owner, kernel, saved, **scalars):
        self.name = self.twin = kernel
        super().__init__(owner)
        self.kernel, self.saved, self.scalars = kernel, saved, scalars

    def shape(self, x):
        return x

    def attributes(self):
        return self.scalars

    def emit(self, program, x):
        kernel, saved, scalars = self.kernel, self.saved, self.scalars
        y = forward(program, kernel, x, **scalars)
        kept = x if saved == "x" else y

        def back(dy, need_dx):
            return backward(program, kernel, dy, kept, saved, **scalars) if need_dx else None
        return y, back


class ReLU(Activation):
    """max(x, 0), which many operations can do on their way out."""

    def __init__(self, owner="relu"):
        super().__init__(owner, "relu", "y")


class Softmax(Activation):
    """Over the channels; kernel: softmax or log_softmax."""

    axis = 0        # of an image

    def __init__(self, owner, kernel):
        super().__init__(owner, kernel, "y")

    def emit(self, program, x):
        y, logs, kernel = program.like(x), self.kernel == "log_softmax", self.kernel
        if program.by_channels:
            program.add("softmax_channels", lambda: dict(x=x, y=y, logs=logs, **x.size))
        else:
            room = program.copies(x.channels * program.kernels.softmax.ROOM, PER_ACTIVE_THREAD)
            program.add(kernel, lambda: dict(x=x, y=y, room=room, **x.size))

        def back(dy, need_dx):
            if not need_dx:
                return None
            if not program.by_channels:
                return backward(program, kernel, dy, y, "y")
            dx = program.like(dy)
            program.add("softmax_channels_backward", lambda: dict(dy=dy, y=y, dx=dx, logs=logs, **x.size))
            return dx
        return y, back


class Dropout(Operation):
    """Zeroes elements, or whole channels, with probability p. own: int64 (2,), what the masks are drawn with: a number
    and the count of the forward passes, which each run counts up."""

    name = twin = "dropout"
    effects = True

    def __init__(self, owner, p, whole, own):
        super().__init__(owner)
        self.p, self.whole, self.own = p, whole, own

    def shape(self, x):
        return spatial(self.owner, x) if self.whole else x

    def attributes(self):
        return {"p": self.p}

    def emit(self, program, x):
        key, own, number = program.per_step(2, np.uint64), self.own, program.count(self.own[1:])
        p, whole = self.p, self.whole

        def draw(step):
            key.array[step] = own[0], number(step) % 2**32
        program.on_run(draw)

        def drop(t):
            return dropout(program, t, key, p, whole)
        return drop(x), lambda dy, need_dx: drop(dy) if need_dx else None
