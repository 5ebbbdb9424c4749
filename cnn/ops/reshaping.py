"""Values in other shapes, and parts of them."""
import math

import numpy as np

from cnn import shapes
from cnn.engine.tensors import Grid
from cnn.ops import pointwise
from cnn.ops.arithmetic import zeros_like
from cnn.ops.operation import Operation, laid, spatial


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


class Detach(Operation):
    """x itself, through which no gradient goes back."""

    name = twin = "detach"

    def shape(self, x):
        return x

    def emit(self, program, x):
        return x, lambda dy, need_dx: None


class Store(Operation):
    """x itself, which is the same for all images, and is copied to an array. array: of as many elements."""

    name = twin = "store"

    def __init__(self, array):
        super().__init__()
        self.array = array

    def shape(self, x):
        return x

    def emit(self, program, x):
        program.result(x, self.array)
        return x, lambda dy, need_dx: None


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


class ConcatAlong(Operation):
    """All inputs one after the other along rows (axis 1 of C, H, W) or columns (2). plane: whether images are
    (H, W)."""

    name = twin = "cat_along"

    def __init__(self, axis, plane=False):
        super().__init__("cat")
        self.axis, self.plane = axis - plane, plane     # of an image

    def shape(self, *inputs):
        rest = {(*shape[:self.axis], *shape[self.axis + 1:]) for shape in inputs}
        if len(rest) > 1 or len({len(shape) for shape in inputs}) > 1:
            raise ValueError(f"{self.owner}: {', '.join(map(shapes.batch, inputs))}: they may differ along axis "
                             f"{self.axis + 1} only")
        along = sum(shape[self.axis] for shape in inputs)
        return *inputs[0][:self.axis], along, *inputs[0][self.axis + 1:]

    def attributes(self):
        return {"dim": self.axis + 1}

    def emit(self, program, *inputs):
        axis = self.axis + self.plane
        y = program.tensor(*(sum(t.shape[i] for t in inputs) if i == axis else inputs[0].shape[i] for i in range(3)))
        first = [sum(t.shape[axis] for t in inputs[:i]) for i in range(len(inputs))]

        def part(whole, start):
            return Grid(whole, *((start, 0) if axis == 1 else (0, start)), 1)
        for t, start in zip(inputs, first, strict=True):
            program.add("copy", lambda t=t, start=start: dict(x=t, y=part(y, start), **t.pixels))
        likes = inputs

        def backward(dy, wanted):
            shares = []
            for t, start, want in zip(likes, first, wanted, strict=True):
                shares.append(program.like(t) if want else None)
                if want:
                    program.add("copy", lambda t=t, start=start, share=shares[-1]: dict(
                        x=part(dy, start), y=share, **t.pixels))
            return tuple(shares)
        return y, backward


class Pick(Operation):
    """Elements of x by a table for each axis of (C, H, W), int32 arrays, of which -1 stands for `value`; None: the
    axis as it is. plane: whether images are (H, W). owner, words: what to call it, and its attributes."""

    twin = "pick"

    def __init__(self, owner, tables, value=0.0, plane=False, words=()):
        self.name = owner
        super().__init__(owner)
        self.tables = [table if table is None else np.ascontiguousarray(table, np.int32) for table in tables]
        self.value, self.plane, self.words = value, plane, dict(words)

    def shape(self, x):
        tables = self.tables[self.plane:] if len(x) > 1 else self.tables[:1]
        if len(tables) != len(x) or self.plane and self.tables[0] is not None:
            raise ValueError(f"{self.owner}: there must be a table for each axis of {shapes.batch(x)}")
        for axis, (n, table) in enumerate(zip(x, tables, strict=True)):
            least = 0 if axis == 0 and not self.plane else -1       # channels come from one of x's
            if table is not None and (not len(table) or table.min() < least or table.max() >= n):
                raise ValueError(f"{self.owner}: a table must hold numbers from {least} to {n - 1}")
        return tuple(n if table is None else len(table) for n, table in zip(x, tables, strict=True))

    def attributes(self):
        return self.words

    def emit(self, program, x):
        channel, *places = self.tables
        sizes = x.height, x.width
        row, column = (np.arange(n, dtype=np.int32) if table is None else table
                       for n, table in zip(sizes, places, strict=True))
        y = program.tensor(x.channels if channel is None else len(channel), len(row), len(column), x.flat)
        lanes, value = bool(program.by_channels and channel is not None), self.value

        def size(t):
            return t.pixels if channel is None else t.size
        program.add("pick", lambda: dict(x=x, channel=channel, row=row, column=column, y=y, lanes=lanes, value=value,
                                         **size(y)))

        def backward(dy, need_dx):
            if not need_dx:
                return None
            dx = program.like(x)
            program.add("pick_backward", lambda: dict(
                dy=dy, channel=channel, row=row, column=column, dx=dx, lanes=lanes, **size(dy),
                **{f"x_{name}": n for name, n in size(x).items()}))
            return dx
        return y, backward


class Permute(Operation):
    """The axes of an image, two or three, in another order: axis k of the result is axis axes[k] of x."""

    name = twin = "permute"

    def __init__(self, owner, axes):
        super().__init__(owner)
        self.axes = tuple(axes)

    def shape(self, x):
        if sorted(self.axes) != list(range(len(x))) or len(x) < 2:
            raise ValueError(f"{self.owner}: dims must be all axes of {shapes.batch(x)}, 0, that of the images, first, "
                             f"got {tuple(self.attributes()['dims'])}")
        return tuple(x[axis] for axis in self.axes)

    def attributes(self):
        return {"dims": (0, *(axis + 1 for axis in self.axes))}

    def emit(self, program, x):
        there = self.axes if len(self.axes) == 3 else (0, *(axis + 1 for axis in self.axes))     # a plane is a channel
        back = tuple(there.index(axis) for axis in range(3))

        def moved(t, order, inverse):
            y = program.tensor(*(t.shape[axis] for axis in order))
            channel, row, column = inverse
            program.add("permute", lambda: dict(x=t, y=y, channel=channel, row=row, column=column,
                                                lanes=program.by_channels, **y.size))
            return y
        return moved(x, there, back), lambda dy, need_dx: moved(dy, back, there) if need_dx else None


def nearest(size, out, scale=None):
    """Which input each output of a nearest map copies, PyTorch's rule: int32 (out,). scale: outputs for each input,
    where it is given; it does not count where the outputs are as many as the inputs, or twice as many."""
    i = np.arange(out, dtype=np.int32)
    if out in (size, 2 * size):
        return i // (out // size)
    at = i.astype(np.float32) * np.float32(size / out if scale is None else 1 / scale)
    return np.minimum(np.floor(at).astype(np.int32), size - 1)


def neighbours(size, out, align, scale=None):
    """Where the outputs of a bilinear map lie between the inputs, PyTorch's rule: int32 (out, 2) of the inputs before
    and after, and float64 (out,), the share of the one after. scale: outputs for each input, where it is given; it does
    not count where the outputs are as many as the inputs."""
    i = np.arange(out)
    if out == size:
        at = i.astype(np.float64)
    elif align:
        at = i * ((size - 1) / (out - 1) if out > 1 else 0.0)
    else:
        at = np.maximum((i + 0.5) * (size / out if scale is None else 1 / scale) - 0.5, 0)
    first = np.minimum(np.floor(at).astype(np.int32), size - 1)
    return np.stack([first, np.minimum(first + 1, size - 1)], 1), np.where(first < size - 1, at - first, 0.0)


class Bilinear(Operation):
    """Resampled to another size; rows, columns: as `neighbours` returns them. words: its attributes."""

    name = twin = "bilinear"

    def __init__(self, owner, rows, columns, words=()):
        super().__init__(owner)
        self.rows, self.columns, self.words = rows, columns, dict(words)

    def shape(self, x):
        for n, (table, share) in zip(spatial(self.owner, x)[1:], (self.rows, self.columns), strict=True):
            if not len(table) or table.min() < 0 or table.max() >= n or len(share) != len(table):
                raise ValueError(f"{self.owner}: a table must hold pairs of numbers from 0 to {n - 1}, and as many "
                                 f"shares")
        return x[0], len(self.rows[0]), len(self.columns[0])

    def attributes(self):
        return self.words

    def emit(self, program, x):
        (row, down), (column, right) = self.rows, self.columns
        y = program.tensor(x.channels, len(row), len(column))
        program.add("bilinear", lambda: dict(x=x, row=row, down=down, column=column, right=right, y=y, **y.pixels))

        def backward(dy, need_dx):
            if not need_dx:
                return None
            dx = program.like(x)
            program.add("bilinear_backward", lambda: dict(
                dy=dy, row=row, down=down, column=column, right=right, dx=dx, x_height=dx.height, x_width=dx.width,
                **dy.pixels))
            return dx
        return y, backward


class PixelShuffle(Operation):
    """(C r^2, H, W) to (C, H r, W r), or with `back` the other way round."""

    def __init__(self, owner, factor, back=False):
        self.name = self.twin = "pixel_unshuffle" if back else "pixel_shuffle"
        super().__init__(owner)
        self.factor, self.back = factor, back

    def shape(self, x):
        r, (channels, height, width) = self.factor, x
        if self.back:
            if height % r or width % r:
                raise ValueError(f"{self.owner}: height and width must be multiples of {r}, got {height}×{width}")
            return channels * r * r, height // r, width // r
        if channels % (r * r):
            raise ValueError(f"{self.owner}: the channels must be a multiple of {r * r}, got {channels}")
        return channels // (r * r), height * r, width * r

    def attributes(self):
        return {"factor": self.factor}

    def emit(self, program, x):
        def moved(t, back):
            r = self.factor
            size = (t.channels * r * r, t.height // r, t.width // r) if back else (
                t.channels // (r * r), t.height * r, t.width * r)
            y = program.tensor(*size)
            small, large = (y, t) if back else (t, y)
            program.add("pixel_shuffle", lambda: dict(
                small=small, large=large, channels=large.channels, height=small.height, width=small.width, factor=r,
                lanes=program.by_channels, back=back))
            return y
        return moved(x, self.back), lambda dy, need_dx: moved(dy, not self.back) if need_dx else None
