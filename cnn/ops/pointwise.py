"""Activations, element by element or over the channels; the formulas stand beside the kernels in _ext/pointwise.pyx."""


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
    program.add("dropout", lambda: dict(x=x, y=y, key=key, p=p, whole=whole, **x.pixels))
    return y
