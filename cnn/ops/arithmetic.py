"""Arithmetic of values, and other shapes of them; the formulas stand beside the kernels in _ext/arithmetic.pyx.

Where shapes differ, what has one channel, row or column is repeated; its gradient is the sum over all repetitions.
"""
import math

from cnn import shapes
from cnn.ops import pointwise
from cnn.ops.operation import Operation

KINDS = ("add", "subtract", "multiply", "divide", "repeat")      # as in the kernel


def broadcast(owner, a, b):
    """The shape that two shapes of images are repeated to."""
    if len(a) == len(b) and all(m == n or 1 in (m, n) for m, n in zip(a, b, strict=True)):
        return tuple(n if m == 1 else m for m, n in zip(a, b, strict=True))
    hint = "" if len(a) == len(b) else "; reshape one of them, to (-1, C, 1, 1) say"
    raise ValueError(f"{owner}: {shapes.batch(a)} and {shapes.batch(b)} do not go together{hint}")


def binary(program, kind, a, b):
    """y = a + b, a - b, a * b or a / b; returns y."""
    shape = broadcast(kind, a.shape, b.shape)
    y = program.tensor(*shape, flat=a.flat and b.flat)
    if program.by_channels and y.channels > 1:
        a, b = _spread(program, a), _spread(program, b)
    program.add("binary", lambda: dict(a=a, b=b, y=y, kind=KINDS.index(kind), **_steps("a", a, y), **_steps("b", b, y),
                                       **y.pixels))
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
    program.add("binary", lambda: dict(a=x, b=x, y=y, kind=KINDS.index("repeat"), **_steps("a", x, y),
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


def reduced(program, x, shape):
    """The sums of x over all channels, rows or columns of which `shape` has one; returns y, or x where that is none."""
    if x.shape == tuple(shape):
        return x
    if program.by_channels and x.channels > shape[0] == 1:
        together = program.tensor(1, *x.shape[1:], flat=x.flat)
        program.add("sum_channels", lambda: dict(x=x, y=together, **x.size))
        return reduced(program, together, shape)
    y = program.tensor(*shape, flat=x.flat)
    program.add("reduce_sum", lambda: dict(x=x, y=y, y_channels=y.planes, y_height=y.height, y_width=y.width,
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
    """a + b, a - b, a * b or a / b, repeated to one shape."""

    def __init__(self, kind):
        self.name = self.twin = kind
        super().__init__()

    def shape(self, a, b):
        return broadcast(self.owner, a, b)

    def emit(self, program, a, b):
        kind = self.name
        y = binary(program, kind, a, b)
        a_shape, b_shape = a.shape, b.shape

        def backward(dy, wanted):
            da = db = None
            if wanted[0]:
                da = dy if kind in ("add", "subtract") else binary(program, kind, dy, b)
                da = reduced(program, da, a_shape)
            if wanted[1]:
                if kind == "add":
                    db = dy
                elif kind == "subtract":
                    db = affine(program, dy, -1.0)
                elif kind == "multiply":
                    db = binary(program, "multiply", dy, a)
                else:
                    db = by_divisor(program, dy, y, b)
                db = reduced(program, db, b_shape)
            return da, db
        return y, backward


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


class Sum(Operation):
    """Sums over rows and columns, which stay with size 1. axes: of (H, W), 1 and 2 being their places in the shape of
    an image."""

    name = "sum"
    twin = "reduce_sum"

    def __init__(self, axes):
        super().__init__()
        self.axes = axes

    def shape(self, x):
        return tuple(1 if i in self.axes else n for i, n in enumerate(x))

    def attributes(self):
        return {"dim": tuple(i + 1 for i in self.axes)}

    def emit(self, program, x):
        size = x.shape

        def backward(dy, need_dx):
            return repeated(program, dy, size) if need_dx else None
        return reduced(program, x, self.shape(size)), backward


class Reshape(Operation):
    """The same numbers of each image in another shape. Costs nothing."""

    name = twin = "reshape"

    def __init__(self, owner, image):
        super().__init__(owner)
        self.image = tuple(image)

    def shape(self, x):
        if math.prod(x) != math.prod(self.image):
            raise ValueError(f"{self.owner}: {shapes.batch(x)} has {math.prod(x)} elements per image, but "
                             f"{shapes.batch(self.image)} {math.prod(self.image)}")
        return self.image

    def emit(self, program, x):
        channels, height, width, flat = x.channels, x.height, x.width, x.flat
        y = program.view(x, *self.image, flat=len(self.image) == 1)
        return y, lambda dy, need_dx: program.view(dy, channels, height, width, flat) if need_dx else None


def move(program, x, x_first, y, y_first, like):
    """Channels of y from `y_first` are those of x from `x_first`, as many as `like` has."""
    if program.by_channels:
        program.add("move_channels", lambda: dict(x=x, y=y, x_first=x_first, y_first=y_first, **like.size))
    else:
        pointwise.copy(program, x.part(x_first, like), y.part(y_first, like))


class Concat(Operation):
    """The channels (or features) of all inputs one after the other."""

    name = twin = "cat"

    def shape(self, *inputs):
        if len({shape[1:] for shape in inputs}) > 1 or len({len(shape) for shape in inputs}) > 1:
            raise ValueError(f"{self.owner}: {', '.join(map(shapes.batch, inputs))}: they may differ in channels only")
        return sum(shape[0] for shape in inputs), *inputs[0][1:]

    def emit(self, program, *inputs):
        first = [sum(t.channels for t in inputs[:i]) for i in range(len(inputs))]
        shape = self.shape(*(t.shape for t in inputs))
        y = program.tensor(*shape, flat=inputs[0].flat)
        for t, c in zip(inputs, first, strict=True):
            move(program, t, 0, y, c, t)
        likes = inputs

        def backward(dy, wanted):
            shares = []
            for t, c, want in zip(likes, first, wanted, strict=True):
                shares.append(program.like(t) if want else None)
                if want:
                    move(program, dy, c, shares[-1], 0, t)
            return tuple(shares)
        return y, backward


class Channels(Operation):
    """Channels (or features) from `first` to before `stop`."""

    name, twin = "slice", "slice_channels"

    def __init__(self, first, stop):
        super().__init__()
        self.first, self.stop = first, stop

    def shape(self, x):
        return self.stop - self.first, *x[1:]

    def attributes(self):
        return {"channels": f"{self.first}:{self.stop}"}

    def emit(self, program, x):
        first = self.first
        y = program.tensor(*self.shape(x.shape), flat=x.flat)
        move(program, x, first, y, 0, y)

        def backward(dy, need_dx):
            if not need_dx:
                return None
            dx = zeros_like(program, x)
            move(program, dy, 0, dx, first, dy)
            return dx
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
        count = p.size
        if program.by_channels:
            data = program.kept(p.data)
            y = program.tensor(*self.image, flat=len(self.image) == 1)
            program.add("pack_channels", lambda: dict(x=data, y=y, size=0, **y.size))
            return y, lambda dy, wanted: self._summed(program, dy)
        y = program.tensor(count, flat=True)
        program.add("spread", lambda: dict(x=p.data, y=y, channels=count))
        view = y if len(self.image) == 1 else program.view(y, *self.image)

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
            dy.root.kept = True
            program.after("sum_images", lambda: dict(x=dy, y=dp, x_image=dy.step, **dy.size), dy.channels)
        return ()
