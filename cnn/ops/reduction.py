"""Reductions over channels, rows and columns, and softmax over any of them."""
from cnn import shapes
from cnn.ops.arithmetic import affine, binary, reduced, repeated
from cnn.ops.operation import Operation
from cnn.ops.pointwise import Softmax, mapped


def left(shape, axes):
    """A shape with size 1 in these axes."""
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


class Reduce(Operation):
    """Sums, means, largest (amax) or smallest (amin) elements over axes of an image, which stay with size 1; axes
    count from 0. The gradient of an extreme is shared evenly among all elements that equal it. plane: whether images
    are (H, W)."""

    def __init__(self, kind, axes, plane=False):
        self.name, self.twin = kind, {"sum": "reduce_sum", "mean": "reduce_mean"}.get(kind, kind)
        super().__init__()
        self.axes, self.plane = axes, plane

    def shape(self, x):
        if 0 in x:
            raise ValueError(f"{self.owner}: every image must have elements, got {shapes.batch(x)}")
        return left(x, self.axes)

    def attributes(self):
        return {"dim": tuple(i + 1 for i in self.axes)}

    def emit(self, program, x):
        axes = [axis + self.plane for axis in self.axes]
        size, shape = x.shape, left(x.shape, axes)
        share = 1.0
        for axis in axes:
            share /= size[axis] if self.name == "mean" else 1
        if self.name in ("sum", "mean"):
            y = reduced(program, x, shape)

            def backward(dy, need_dx):
                return repeated(program, _scaled(program, dy, share), size) if need_dx else None
            return _scaled(program, y, share), backward
        y = reduced(program, x, shape, self.name)

        def backward_of_extreme(dy, need_dx):
            if not need_dx:
                return None
            winners = binary(program, "equal", x, y)
            return binary(program, "keep", binary(program, "divide", dy, reduced(program, winners, shape)), winners)
        return y, backward_of_extreme


def _scaled(program, x, factor):
    return x if factor == 1 else affine(program, x, factor)


class SoftmaxOver(Softmax):
    """Softmax or its logarithm over another axis than the channels, by other operations."""

    def __init__(self, owner, kernel, axis, plane):
        super().__init__(owner, kernel)
        self.name = f"{kernel}_over"        # of its own: a format must not take it for one over the channels
        self.axis, self.plane = axis, plane

    def attributes(self):
        return {"dim": self.axis + 1}

    def emit(self, program, x):
        shape, logs = left(x.shape, (self.axis + self.plane,)), self.kernel == "log_softmax"
        shifted = binary(program, "subtract", x, reduced(program, x, shape, "amax"))
        y = mapped(program, "exp", shifted)
        total = reduced(program, y, shape)
        y = binary(program, "subtract", shifted, mapped(program, "log", total)) if logs else binary(
            program, "divide", y, total)

        def backward(dy, need_dx):
            if not need_dx:
                return None
            if logs:
                return binary(program, "subtract", dy, binary(
                    program, "multiply", mapped(program, "exp", y), reduced(program, dy, shape)))
            return binary(program, "multiply", y, binary(program, "subtract", dy, reduced(
                program, binary(program, "multiply", dy, y), shape)))
        return y, backward
