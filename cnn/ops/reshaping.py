"""Values in other shapes, and parts of them."""
import math

from cnn import shapes
from cnn.ops import pointwise
from cnn.ops.arithmetic import zeros_like
from cnn.ops.operation import Operation, laid


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
        y = program.view(x, **laid(self.image))
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
