"""2-D convolution with fewer multiplications, by tiles: see cnn/_ext/winograd.pyx for the formulas."""
from cnn.engine.memory import LANES, zeros
from cnn.engine.tensors import ONCE, PER_ACTIVE_BLOCK, PER_ACTIVE_THREAD, PER_BLOCK, PER_SHARD
from cnn.runtime import get_winograd

CHANNELS = 12       # the fewest that make up for transforming the tiles
CHANNELS_OF_FIVE = 24   # the same for 5 x 5 of one image
TILES = 4           # the fewest of one image that make up for reading more weights,
TILES_TO_LEARN = 16     # and for transforming them in each step
WEIGHTS = 1 << 22   # transformed for one image: with more, few tiles of 2 x 2 outputs are as fast, with half the memory
CACHE = 1 << 20
CACHE_OF_ONE = 1 << 17      # of one image, or half of the weights, which are read once for each chunk of tiles
OUTPUTS = 24        # of a task of the weight gradient over the whole batch


def suits(g):
    """Whether the formulas are made for this convolution, and save time."""
    return (get_winograd() and g.kernel in ((3, 3), (5, 5)) and g.stride == g.dilation == (1, 1) and g.groups == 1
            and min(g.channels, g.outputs) >= CHANNELS)


def conv2d(program, x, w, b, g, relu):
    """Forward, as in cnn/ops/conv/__init__.py."""
    t = _Tiles(g)
    y = program.tensor(g.outputs, *g.out)
    x = t.bordered(program, x)
    m = _Products(program, t, g.channels, g.outputs)
    u = m.weights(program, w, g.taps, g.kernel[0] * g.kernel[1])
    v, p = m.scratch(program)
    program.add("winograd", lambda: dict(x=x, u=u, b=b, y=y, zero=zeros(x.row, program.dtype), v=v, p=p, relu=relu,
                                         **t.sizes, **m.sizes))
    return y, None


def suits_one(program, g):
    """The same for one image whose channels lie side by side."""
    fewest = CHANNELS if g.kernel == (3, 3) else CHANNELS_OF_FIVE
    tiles = TILES_TO_LEARN if program.gradients else TILES
    return suits(g) and g.channels >= fewest and _tiles_of_one(program, g).tiles >= tiles


def _tiles_of_one(program, g):
    """Smaller tiles where there would be too few, or few that read many weights, unless each step transforms these."""
    t = _Tiles(g)
    small = t.tiles < TILES or t.tiles < 2 * TILES and t.n**2 * g.channels * g.outputs > WEIGHTS
    return _Tiles(g, 2) if small and not program.gradients else t


def conv2d_one(program, x, w, g, scale, shift, relu=False, z=None, turned=False):
    """Forward of one image, as `conv2d` in channels.py; scale, shift: see fitted.py. turned: whether w is that of the
    convolution whose input gradient this is."""
    t = _tiles_of_one(program, g)
    x, y = t.bordered(program, x), program.tensor(g.outputs, *g.out)
    area, padded = g.kernel[0] * g.kernel[1], y.planes * LANES
    count = t.n**2 * (padded * g.channels + LANES)
    chunk = t.chunk(program, x.planes + y.planes, cache=max(CACHE_OF_ONE, count * program.dtype.itemsize // 2))
    to_tap, to_output = (area * g.outputs, area) if turned else (area, area * g.channels)
    seen = program.seen(w)
    u, = program.packed("winograd_weights", lambda u: dict(
        w=w, seen=seen, u=u, tile=t.m, kernel=g.kernel[0], outputs=g.outputs, taps=g.channels, kt=LANES, padded=padded,
        to_tap=to_tap, to_output=to_output, turned=turned), y.planes, count)
    v, p = (program.copies(t.n**2 * LANES * (planes * chunk + 1), PER_ACTIVE_THREAD) for planes in (x.planes, y.planes))
    program.add("winograd_channels", lambda: dict(
        x=x, u=u, scale=scale, shift=shift, z=z, y=y, zero=zeros(x.row, program.dtype), v=v, p=p, count=g.channels,
        relu=relu, **t.sizes | dict(channels=x.planes, outputs=y.planes, chunk=chunk)))
    return y


def conv2d_backward(program, dy, x, saved, w, g, dw, need_dx):
    """Backward, as in cnn/ops/conv/__init__.py."""
    if dw is not None:
        weight_gradient(program, dy, x, dw, g)
    return input_gradient(program, dy, w, g) if need_dx else None


def input_gradient(program, dy, w, g):
    """dx."""
    t = _Tiles(g)
    dx = program.tensor(g.channels, *g.size)
    m = _Products(program, t, g.outputs, g.channels)
    u = m.weights(program, w, g.kernel[0] * g.kernel[1], g.taps)
    d, p = m.scratch(program)
    program.add("winograd_dx", lambda: dict(dy=dy, u=u, dx=dx, d=d, p=p, width=g.size[1], **t.sizes, **m.sizes))
    return dx


def weight_gradient(program, dy, x, dw, g):
    """Fills dw: by way of one dU for each shard, or where those would be larger than all transformed tiles, of
    these."""
    t = _Tiles(g)
    x = t.bordered(program, x)
    if g.outputs * g.channels > LANES * t.tiles * (g.outputs + g.channels):
        _weight_gradient_of_all(program, dy, x, dw, g, t)
        return
    # one side is read number by number, the other in rows of sixteen, whose transposing costs about nine row
    # operations each
    def cost(numbers, rows):
        return -(-rows // LANES) * (numbers + 9)
    swapped = cost(g.channels, g.outputs) < cost(g.outputs, g.channels)
    numbers, rows = (g.channels, g.outputs) if swapped else (g.outputs, g.channels)
    at, padded, groups = _outer_sizes(program, numbers, rows)
    chunk = t.chunk(program, padded + groups * LANES)
    number_tiles, row_tiles = (program.copies(t.n**2 * LANES * (count * chunk + 1), PER_ACTIVE_BLOCK)
                               for count in (padded, groups * LANES))
    v, d = (number_tiles, row_tiles) if swapped else (row_tiles, number_tiles)
    scratch = program.copies(groups * chunk * LANES**2, PER_ACTIVE_BLOCK)
    du = program.copies(t.n**2 * (padded * groups + 1) * LANES, PER_SHARD)
    program.add("winograd_dw", lambda: dict(x=x, dy=dy, zero=zeros(x.row, program.dtype), du=du, v=v, d=d,
                                            rows=scratch, chunk=chunk, at=at, padded=padded, swapped=swapped,
                                            **t.sizes))
    area = g.kernel[0] * g.kernel[1]
    program.after("winograd_dw_sum", lambda: dict(
        du=du, dw=dw, tile=t.m, kernel=g.kernel[0], rows=rows, padded=padded, step=du.step,
        to_number=area if swapped else g.taps, to_row=g.taps if swapped else area), numbers)


def _weight_gradient_of_all(program, dy, x, dw, g, t):
    at, padded, groups = _outer_sizes(program, g.outputs, g.channels)
    size = t.n**2 * LANES * (groups * LANES * t.tiles + 1)
    d = program.copies(t.n**2 * LANES * (padded * t.tiles + 1), PER_BLOCK)
    rows, v = program.copies(size, PER_BLOCK), program.copies(size, PER_ACTIVE_BLOCK)
    du = program.copies(t.n**2 * LANES * (OUTPUTS * groups + 1), PER_ACTIVE_BLOCK)
    program.add("winograd_tiles", lambda: dict(x=x, dy=dy, zero=zeros(x.row, program.dtype), d=d, v=v, rows=rows,
                                               chunk=t.tiles, padded=padded, **t.sizes))
    tasks = -(-padded // OUTPUTS)
    program.after("winograd_dw_all", lambda: dict(
        d=d, rows=rows, du=du, dw=dw, tile=t.m, kernel=g.kernel[0], channels=g.channels, outputs=g.outputs,
        tiles=t.tiles, at=at, padded=padded, each=OUTPUTS, d_block=d.step, rows_block=rows.step),
        tasks, ([dw], [min(i * OUTPUTS, g.outputs) for i in range(tasks + 1)]))


def _outer_sizes(program, numbers, rows):
    """How many numbers `outer` takes at a time, how many there are with padding, and how many rows of sixteen."""
    at = program.kernels.winograd.register_tile(numbers)[0]
    return at, -(-numbers // at) * at, -(-rows // LANES)


class _Tiles:
    """The tiles of a convolution: m by m outputs, n by n inputs."""

    def __init__(self, g, m=None):
        self.g = g
        self.m = m or (2 if g.kernel == (5, 5) or 16 * _count(g, 2) <= 36 * _count(g, 4) else 4)
        self.n = self.m + g.kernel[0] - 1
        self.wide = -(-g.out[1] // self.m)
        self.tiles = _count(g, self.m)

    @property
    def sizes(self):
        g = self.g
        return {"tile": self.m, "kernel": g.kernel[0], "channels": g.channels, "outputs": g.outputs,
                "height": g.size[0], "out_h": g.out[0], "out_w": g.out[1], "top": g.padding[0][0],
                "left": g.padding[1][0], "wide": self.wide, "tiles": self.tiles}

    def bordered(self, program, x):
        """x with the columns of zeros that the outermost tiles read."""
        left = self.g.padding[1][0]
        return program.bordered(x, left, max(0, self.wide * self.m + self.g.kernel[1] - 1 - left - self.g.size[1]))

    def chunk(self, program, channels, multiple=1, cache=CACHE):
        """How many tiles of so many channels to take at a time: those that fit the cache, in equal chunks, but at
        least four, for which a weight is read once."""
        most = max(4, cache // (self.n**2 * LANES * program.dtype.itemsize * channels)) // multiple
        chunks = -(-self.tiles // (most * multiple))
        return -(-self.tiles // (chunks * multiple)) * multiple


def _count(g, m):
    return -(-g.out[0] // m) * -(-g.out[1] // m)


class _Products:
    """How the products P[f] = U[f] V[f], (outputs, taps) by (taps, tiles), are cut: `chunk` tiles at a time, and
    of these `group` outputs."""

    def __init__(self, program, t, taps, outputs):
        self.t, self.taps, self.outputs = t, taps, outputs
        self.kt, tiles = program.kernels.winograd.register_tile(outputs)
        if t.tiles == 1:
            self.kt, tiles = program.kernels.winograd.SINGLE_TILE, 1
        self.padded = -(-outputs // self.kt) * self.kt
        self.chunk = t.chunk(program, taps + min(outputs, 8), tiles)
        # P of a few outputs stays in the cache, unless V does not, which is then better read only once
        transformed = t.n**2 * LANES * program.dtype.itemsize * self.chunk * taps
        self.group = self.padded if transformed > CACHE else min(self.padded, 2 * self.kt)

    @property
    def sizes(self):
        return {"chunk": self.chunk, "kt": self.kt, "padded": self.padded, "group": self.group}

    def weights(self, program, w, to_output, to_tap):
        """U, made before the blocks; `to_output` and `to_tap`: numbers of w from one to the next."""
        u = program.copies(self.t.n**2 * (self.padded * self.taps + LANES), ONCE)
        program.before("winograd_weights",
                       lambda: dict(w=w, seen=None, u=u, tile=self.t.m, kernel=self.t.g.kernel[0], outputs=self.outputs,
                                    taps=self.taps, kt=self.kt, padded=self.padded, to_tap=to_tap,
                                    to_output=to_output, turned=False), self.padded // self.kt)
        return u

    def scratch(self, program):
        """Room for V and P of a chunk."""
        rows = self.t.n**2 * LANES
        return (program.copies(rows * (self.taps * self.chunk + 1), PER_ACTIVE_THREAD),
                program.copies(rows * (self.group * self.chunk + 1), PER_ACTIVE_THREAD))
