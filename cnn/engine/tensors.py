"""Arrays of a program, and where they lie."""

from cnn import shapes
from cnn.engine.memory import LANES

# what an array has one copy of; as in op.pxd
ONCE, PER_BLOCK, PER_SHARD, PER_ACTIVE_BLOCK, PER_ACTIVE_THREAD, PER_STEP = range(6)


class Tensor:
    """An activation of the network: (blocks, channels, height, width, 16), with borders left and right.

    `flat` marks the public shape (N, channels) of vectors, where height and width are 1. planes: how many planes of
    height x width rows it has, where that is not the number of channels.
    """

    def __init__(self, channels, height, width, dtype, per, flat=False, planes=None):
        self.planes = channels if planes is None else planes
        self.channels, self.height, self.width, self.flat = channels, height, width, flat
        self.dtype, self.per = dtype, per
        self.left = self.right = 0
        self.source = None      # the tensor that this one is another view of, and whose array it has
        self.viewed = False     # whether there are such views: it can't have borders then
        self.normalised = None  # (x, Norm) where it comes from a batch norm: kernels may read x instead
        self.shared = False     # whether others read it later, too: nobody may write over it then
        self.kept = False       # whether tasks read it after the blocks: never, then
        self.array = None

    @property
    def root(self):
        """The tensor whose numbers these are: itself, or what it is a view of."""
        return self if self.source is None else self.source.root

    @property
    def shape(self):
        """Public shape of one image."""
        return (self.channels,) if self.flat else (self.channels, self.height, self.width)

    @property
    def pixels(self):
        return {"channels": self.planes, "height": self.height, "width": self.width}

    @property
    def size(self):
        """As `pixels`, for kernels that count channels also where these lie side by side."""
        return {"channels": self.channels, "height": self.height, "width": self.width}

    @property
    def row(self):
        """Numbers from one row of pixels to the next."""
        return (self.left + self.width + self.right) * LANES

    @property
    def plane(self):
        """Numbers from one channel to the next: an odd number of rows of sixteen, because at a multiple of a high
        power of two all channels would share a few sets of the cache. Views and indices need them side by side."""
        size = self.height * self.row
        apart = size % (2 * LANES) == 0 and not self.viewed and self.source is None and self.dtype.kind == "f"
        return size + LANES if apart else size

    @property
    def layout(self):
        """What two tensors must have in common to live in the same array, one after the other: with borders, which
        must stay zero, all."""
        size = (self.planes, self.height, self.width, self.left, self.right, self.plane)
        return self.per, self.dtype, *(size if self.left or self.right else ())

    @property
    def numbers(self):
        """How many a block takes up, with room for one border more: the last row's right border may lie beyond its
        plane."""
        return -(-(self.planes * self.plane + (self.left + self.right) * LANES) // LANES) * LANES

    def part(self, first, like):
        """As many channels of it from `first` as the tensor `like` has, to be read or written by an operation."""
        return Part(self, first, like.pixels)

    def step(self):
        """Numbers from one copy to the next; known when the tensor is placed."""
        return self.root.array.strides[0] // self.dtype.itemsize

    def room(self, copies):
        """Shape of the array that holds so many copies; raises ValueError where it is too large."""
        if self.numbers >= 2**31:
            raise ValueError(f"an activation of {'×'.join(map(str, self.shape))} is too large: "
                             f"sixteen images of it must have fewer than 2**31 elements")
        shapes.element_count("Program", copies, self.numbers)
        return copies, self.numbers

    def argument(self):
        array = self.root.array
        return (array.ctypes.data + self.left * LANES * self.dtype.itemsize, array.strides[0], self.root.per,
                self.plane, self.row)


class Part:
    """Some channels of a tensor."""

    def __init__(self, tensor, first, pixels):
        self.root, self.tensor, self.first, self.pixels = tensor.root, tensor, first, pixels

    def argument(self):
        base, *others = self.tensor.argument()
        return base + self.first * self.tensor.plane * self.tensor.dtype.itemsize, *others


class Grid:
    """Pixels of a tensor, from (row, column) on: every so many rows, `stride`; of columns operations do likewise."""

    def __init__(self, tensor, row, column, stride):
        self.root, self.tensor, self.row, self.column, self.stride = tensor.root, tensor, row, column, stride

    def argument(self):
        base, step, per, plane, row = self.tensor.argument()
        first = self.row * row + self.column * LANES
        return base + first * self.tensor.dtype.itemsize, step, per, plane, row * self.stride


class Slot:
    """An array that is handed over anew for each run; with `per_step` its first axis is that of the run's steps."""

    def __init__(self, name, per_step=False):
        self.name, self.per_step = name, per_step


class Table:
    """An array with a row for each step of a run (or block, shard, thread)."""

    def __init__(self, array, per):
        self.array, self.per = array, per

    def argument(self):
        return self.array.ctypes.data, self.array.strides[0], self.per, 0, 0


class Copies(Table):
    """One with rows of `size` numbers, which there are as soon as a program knows how many it needs."""

    def __init__(self, size, dtype, per):
        super().__init__(None, per)
        self.dtype, self.numbers = dtype, -(-size // LANES) * LANES
        self.layout = per, dtype

    def room(self, copies):
        """Shape of the array that holds so many copies."""
        return copies, self.numbers

    @property
    def root(self):
        return self

    @property
    def step(self):
        """Numbers from one copy to the next, where tasks use them."""
        return self.numbers
