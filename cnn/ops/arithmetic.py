"""Arithmetic of values; the formulas stand beside the kernels in _ext/arithmetic.pyx.

Where shapes differ, what has one channel, row or column is repeated; its gradient is the sum over all repetitions.
"""
from cnn import shapes
from cnn.ops import pointwise
from cnn.ops.operation import Operation, laid

# as in the kernels, which count from 1
KINDS = ("add", "subtract", "multiply", "divide", "repeat", "maximum", "minimum", "greater", "greater_equal", "equal",
         "not_equal", "share", "keep", "drop")
REDUCTIONS = ("sum", "amax", "amin")


def broadcast(owner, a, b):
    """The shape that two shapes of images are repeated to."""
    if len(a) == len(b) and all(m == n or 1 in (m, n) for m, n in zip(a, b, strict=True)):
        return tuple(n if m == 1 else m for m, n in zip(a, b, strict=True))
    hint = "" if len(a) == len(b) else "; reshape one of them, to (-1, C, 1, 1) say"
    raise ValueError(f"{owner}: {shapes.batch(a)} and {shapes.batch(b)} do not go together{hint}")


def binary(program, kind, a, b, y=None):
    """y = a + b and the like, see `combined` in the kernel's file; returns y, by default a new tensor."""
    shape = broadcast(kind, a.shape, b.shape)
    y = program.tensor(*shape, flat=a.flat and b.flat) if y is None else y
    if program.by_channels and y.channels > 1:
        a, b = _spread(program, a), _spread(program, b)
    program.add("binary", lambda: dict(a=a, b=b, y=y, kind=1 + KINDS.index(kind), **_steps("a", a, y),
                                       **_steps("b", b, y), **y.pixels))
    return y


def where(program, condition, a, b):
    """y = a where the condition is not 0, else b; returns y."""
    shape = broadcast("where", broadcast("where", condition.shape, a.shape), b.shape)
    y = program.tensor(*shape, flat=condition.flat)
    if program.by_channels and y.channels > 1:
        condition, a, b = (_spread(program, x) for x in (condition, a, b))
    program.add("where", lambda: dict(condition=condition, a=a, b=b, y=y, **_steps("condition", condition, y),
                                      **_steps("a", a, y), **_steps("b", b, y), **y.pixels))
    return y


def _spread(program, x):
    """A tensor of one channel, such that it can be read in place of sixteen channels side by side."""
    if x.channels > 1:
        return x
    y = program.like(x)
    program.add("spread_channel", lambda: dict(x=x, y=y, height=x.height, width=x.width))
    return y


def _steps(name, x, y):
    """By how much to go on in an operand: not at all where it is repeated."""
    return {f"{name}_channel": x.plane if x.planes == y.planes else 0,
            f"{name}_row": x.row if x.height == y.height else 0, f"{name}_pixel": int(x.width == y.width)}


def affine(program, x, factor, summand=0.0):
    """y = factor x + summand; returns y."""
    y = program.like(x)
    program.add("affine", lambda: dict(x=x, y=y, factor=factor, summand=summand, **y.pixels))
    return y


def zeros_like(program, x):
    """A tensor of zeros."""
    y = program.like(x)
    program.add("affine", lambda: dict(x=y, y=y, factor=0.0, summand=0.0, **y.pixels))
    return y


def repeated(program, x, shape):
    """x with its one channel, row or column repeated to this shape; returns y."""
    y = program.tensor(*shape, flat=x.flat)
    if program.by_channels and y.channels > 1:
        x = _spread(program, x)
    program.add("binary", lambda: dict(a=x, b=x, y=y, kind=1 + KINDS.index("repeat"), **_steps("a", x, y),
                                       **_steps("b", x, y), **y.pixels))
    return y


def reciprocal(program, x, number):
    """y = number / x; returns y."""
    y = program.like(x)
    program.add("reciprocal", lambda: dict(x=x, y=y, number=number, **y.pixels))
    return y


def by_divisor(program, dy, y, b):
    """The gradient of y = a / b by b: -dy y / b."""
    return affine(program, binary(program, "divide", binary(program, "multiply", dy, y), b), -1.0)


def reduced(program, x, shape, kind="sum"):
    """The sums (or largest or smallest elements) of x over all channels, rows or columns of which `shape` has one;
    returns y, or x where that is none."""
    if x.shape == tuple(shape):
        return x
    number = 1 + REDUCTIONS.index(kind)
    if program.by_channels and x.channels > shape[0] == 1:
        together = program.tensor(1, *x.shape[1:], flat=x.flat)
        program.add("reduce_channels", lambda: dict(x=x, y=together, kind=number, **x.size))
        return reduced(program, together, shape, kind)
    y = program.tensor(*shape, flat=x.flat)
    program.add("reduce", lambda: dict(x=x, y=y, kind=number, y_channels=y.planes, y_height=y.height, y_width=y.width,
                                       **x.pixels))
    return y


class Add(Operation):
    """a + b of one shape, and perhaps a ReLU."""

    name = twin = "add"
    relu = False

    def shape(self, a, b):
        if a != b:
            raise ValueError(f"{self.owner}: {shapes.batch(a)} and {shapes.batch(b)} must be equal")
        return a

    def emit(self, program, a, b):
        relu = self.relu
        y = pointwise.add(program, a, b, program.like(a), relu)

        def backward(dy, wanted):
            if relu:
                dy = pointwise.mask(program, dy, y)
            return dy if wanted[0] else None, dy if wanted[1] else None
        return y, backward


class Arithmetic(Operation):
    """a + b, a - b, a * b, a / b, max(a, b) or min(a, b), repeated to one shape."""

    def __init__(self, kind):
        self.name = self.twin = kind
        super().__init__()

    def shape(self, a, b):
        return broadcast(self.owner, a, b)

    def emit(self, program, a, b):
        kind = self.name
        y = binary(program, kind, a, b)

        def backward(dy, wanted):
            return tuple(reduced(program, _SHARES[kind][i](program, dy, a, b, y), x.shape) if want else None
                         for i, (x, want) in enumerate(zip((a, b), wanted, strict=True)))
        return y, backward


def _of_larger(program, dy, a, b):
    """The share of a in the gradient dy of max(a, b): all where a is larger, half where both are equal."""
    return binary(program, "multiply", dy, binary(program, "share", a, b))


# the gradients of a and of b, before they are summed over repetitions
_SHARES = {
    "add": (lambda p, dy, a, b, y: dy, lambda p, dy, a, b, y: dy),
    "subtract": (lambda p, dy, a, b, y: dy, lambda p, dy, a, b, y: affine(p, dy, -1.0)),
    "multiply": (lambda p, dy, a, b, y: binary(p, "multiply", dy, b), lambda p, dy, a, b, y: binary(
        p, "multiply", dy, a)),
    "divide": (lambda p, dy, a, b, y: binary(p, "divide", dy, b), lambda p, dy, a, b, y: by_divisor(p, dy, y, b)),
    "maximum": (lambda p, dy, a, b, y: _of_larger(p, dy, a, b), lambda p, dy, a, b, y: _of_larger(p, dy, b, a)),
    "minimum": (lambda p, dy, a, b, y: _of_larger(p, dy, b, a), lambda p, dy, a, b, y: _of_larger(p, dy, a, b)),
}


class Comparison(Operation):
    """1 where a > b (greater), a >= b (greater_equal), a = b (equal) or not (not_equal), else 0; repeated to one shape.
    It has no gradient."""

    def __init__(self, kind):
        self.name = self.twin = kind
        super().__init__()

    def shape(self, a, b):
        return broadcast(self.owner, a, b)

    def emit(self, program, a, b):
        return binary(program, self.name, a, b), lambda dy, wanted: (None, None)


class Where(Operation):
    """a where a condition is not 0, else b; all three repeated to one shape."""

    name = twin = "where"

    def shape(self, condition, a, b):
        return broadcast(self.owner, broadcast(self.owner, condition, a), b)

    def emit(self, program, condition, a, b):
        def backward(dy, wanted):
            return None, *(reduced(program, binary(program, kind, dy, condition), x.shape) if want else None
                           for kind, x, want in zip(("keep", "drop"), (a, b), wanted[1:], strict=True))
        return where(program, condition, a, b), backward


class Affine(Operation):
    """factor x + summand, with two numbers."""

    name = twin = "affine"

    def __init__(self, factor, summand):
        super().__init__()
        self.factor, self.summand = factor, summand

    def shape(self, x):
        return x

    def attributes(self):
        return {"factor": self.factor, "summand": self.summand}

    def emit(self, program, x):
        factor, summand = self.factor, self.summand

        def scaled(t, summand=0.0):     # 0 times NaN or infinity is NaN, but the kernel does not look for a factor of 0
            if factor:
                return affine(program, t, factor, summand)
            zero = binary(program, "subtract", t, t)
            return affine(program, zero, 1.0, summand) if summand else zero
        return scaled(x, summand), lambda dy, need_dx: scaled(dy) if need_dx else None


class Reciprocal(Operation):
    """number / x."""

    name = twin = "reciprocal"

    def __init__(self, number):
        super().__init__()
        self.number = number

    def shape(self, x):
        return x

    def attributes(self):
        return {"number": self.number}

    def emit(self, program, x):
        y = reciprocal(program, x, self.number)

        def backward(dy, need_dx):
            return by_divisor(program, dy, y, x) if need_dx else None
        return y, backward


class Constant(Operation):
    """A Parameter's numbers, the same for every image. image: the shape of one image, of as many numbers."""

    name, twin = "parameter", "spread"

    def __init__(self, parameter, image):
        super().__init__()
        self.image, self.parameters = tuple(image), {"parameter": parameter}

    def shape(self):
        return self.image

    def emit(self, program):
        p = self.parameters["parameter"]
        count = p.numel()
        if program.by_channels:
            data = program.kept(p.data)
            y = program.tensor(**laid(self.image))
            program.add("pack_channels", lambda: dict(x=data, y=y, size=0, **y.size))
            return y, lambda dy, wanted: self._summed(program, dy)
        y = program.tensor(count, flat=True)
        program.add("spread", lambda: dict(x=p.data, y=y, channels=count))
        view = y if len(self.image) < 2 else program.view(y, **laid(self.image))

        def backward(dy, wanted):
            dp = program.gradient(p)
            if dp is not None:
                flat = dy if dy.flat else program.view(dy, count, flat=True)
                sums = program.shard_sum(dp, count)
                program.add("bias_grad", lambda: dict(dy=flat, db=sums, outputs=count, out_h=1, out_w=1))
            return ()
        return view, backward

    def _summed(self, program, dy):
        """The gradient where channels are side by side: dy of all images, summed."""
        dp = program.gradient(self.parameters["parameter"])
        if dp is not None:
            program.summed(dy, dp)
        return ()
