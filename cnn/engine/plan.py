"""Programs: what a layer asks the kernels to do, and running it.

A layer describes itself by adding operations to a `Program`. Running a single layer and running a whole
training step are then the same thing: a list of operations handed to the executor (_ext/executor.pyx),
which carries sixteen images at a time through all of them.

    program = Program(np.float32, images=64)
    x = program.tensor(1, 28, 28)                       # becomes (blocks, 1, 28, 28, 16)
    program.add("relu", lambda: dict(x=x, y=x, **x.pixels))
    program.run(64)

Operations are written down as functions that return their arguments, because where an array lies is
known only when the whole program is: a convolution that comes later may ask for a border of zeros.
"""
import math
from typing import Any

import numpy as np

from cnn import _ext, runtime, shapes
from cnn._ext import executor
from cnn.engine.memory import LANES, zeros

CACHE_LINE = 64         # bytes
APART = 65 * CACHE_LINE     # from the end of an array to the next, which begins at another place in its page
PRIVATE = 1 << 18       # bytes of an array of which every thread makes its own
MAX_SHARDS = 16     # parts into which a batch is cut, and summed in order; it never depends on threads
# what an array has one copy of; as in op.pxd
ONCE, PER_BLOCK, PER_SHARD, PER_ACTIVE_BLOCK, PER_ACTIVE_THREAD, PER_STEP = range(6)

ARG = np.dtype([("base", np.uintp), ("step", np.intp), ("per", np.intp), ("plane", np.intp),
                ("row", np.intp)])
ADDRESS = np.dtype([("word", np.intp), ("step", np.intp), ("per", np.intp)])
OP = np.dtype([("kernel", np.uintp), ("tasks", np.intp), ("splits", np.intp), ("n_words", np.intp),
               ("n_addresses", np.intp), ("addresses", ADDRESS, (12,)), ("words", np.intp, (32,)),
               ("args", ARG, (11,)), ("n", np.intp, (16,)), ("f", np.float64, (8,))])
SEGMENT = np.dtype([("first", np.intp), ("count", np.intp), ("tasks", np.intp)])


class Tensor:
    """An activation of the network: (blocks, channels, height, width, 16), with borders left and right.

    `flat` marks the public shape (N, channels) of vectors, where height and width are 1.
    """

    def __init__(self, channels, height, width, dtype, per, flat=False):
        self.channels, self.height, self.width, self.flat = channels, height, width, flat
        self.dtype, self.per = dtype, per
        self.left = self.right = 0
        self.source = None      # the tensor that this one is another view of, and whose array it has
        self.viewed = False     # whether there are such views: it can't have borders then
        self.normalised = None  # (x, Norm) where it comes from a batch norm: kernels may read x instead
        self.shared = False     # whether others read it later, too: nobody may write over it then
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
        size = (self.channels, self.height, self.width, self.left, self.right, self.plane)
        return self.per, self.dtype, *(size if self.left or self.right else ())

    @property
    def numbers(self):
        """How many a block takes up, with room for one border more: the last row's right border may lie beyond its
        plane."""
        return -(-(self.channels * self.plane + (self.left + self.right) * LANES) // LANES) * LANES

    def part(self, first, like):
        """As many channels of it from `first` as the tensor `like` has, to be read or written by an operation."""
        return _Part(self, first, like.pixels)

    def room(self, copies):
        """Shape of the array that holds so many copies; raises ValueError where it is too large."""
        if self.numbers >= 2**31:
            raise ValueError(f"an activation of {'×'.join(map(str, self.shape))} is too large: "
                             f"sixteen images of it must stay below 2**31 numbers")
        shapes.element_count("Program", copies, self.numbers)
        return copies, self.numbers

    def argument(self):
        array = self.root.array
        return (array.ctypes.data + self.left * LANES * self.dtype.itemsize, array.strides[0], self.root.per,
                self.plane, self.row)


class _Part:
    """Some channels of a tensor."""

    def __init__(self, tensor, first, pixels):
        self.root, self.tensor, self.first, self.pixels = tensor.root, tensor, first, pixels

    def argument(self):
        base, *others = self.tensor.argument()
        return base + self.first * self.tensor.plane * self.tensor.dtype.itemsize, *others


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


class _Segment:
    """Operations between two barriers: all cut into tasks; or per block, but for those that `prepare` adds, whose
    tasks every thread runs before its first block."""

    def __init__(self, per_block):
        self.per_block = per_block
        self.exchanged, self.asks = [], False       # see Program.exchanged and Program.ahead
        self.ops = []       # (kernel name, function that returns the arguments, tasks)


class _Phase:
    """What one run does: segments of operations, functions to call before it, arrays that count its steps."""

    def __init__(self):
        self.segments, self.hooks, self.counters = [], [], []


class _Compiled:
    """A phase as the executor takes it. `slots`: by name the (operation, word) pairs to which the address of the
    array of that name goes. `arrays`: all whose addresses are in the operations. `threads`: the most of any use."""

    def __init__(self, phase, ops, table, slots, arrays, threads):
        self.phase, self.ops, self.table, self.slots, self.arrays = phase, ops, table, slots, arrays
        self.threads = threads
        self.addresses = ops.ctypes.data, table.ctypes.data, len(table)
        self.counters = tuple(counter.ctypes.data for counter in phase.counters)


class Program:
    """Operations on batches of up to `images` images, in one or more phases.

    dtype: float32 or float64, of everything computed.
    images: the largest batch; any smaller one can be run too.
    steps: the most batches that a run can work through one after the other.
    keep: whether activations stay after a run (one copy for each block), as a backward phase that is
        run by itself needs them. Otherwise a thread has one copy, which stays in its cache, of those that
        are not used on both sides of a `cut`.
    gradients: whether there is to be a backward pass, in this phase or another.

    One thread at a time may run it. A phase exists once it is compiled: what an exception cuts short is not kept.
    """

    loss: Any       # what those who write a program may note in it

    def __init__(self, dtype, images, keep=False, steps=1, gradients=False):
        self.dtype = np.dtype(dtype)
        self.kernels = _ext.kernels(self.dtype)
        self.images, self.keep, self.steps, self.gradients = images, keep, steps, gradients
        self.made_from = None       # what a Pool looks it up by
        self.threads = runtime.get_num_threads()
        self.blocks = max(1, -(-images // LANES))
        self.shards = min(self.blocks, MAX_SHARDS)
        self.batch = 0      # images of the run at hand
        self.nbytes = 0     # of its own arrays
        self._drafts = {}   # phases that are not compiled yet
        self._compiled = {}
        self.begin("forward")

    def close(self):
        """Let go of everything: a program is a circle of references, which would keep its memory for a while."""
        for phase in (*self._drafts.values(), *(compiled.phase for compiled in self._compiled.values())):
            for segment in phase.segments:
                segment.ops.clear()
        self._drafts.clear()
        self._compiled.clear()
        self._phase = self._segments = self._uses = None
        for name in ("pull", "results", "loss"):     # what those who wrote it have noted
            vars(self).pop(name, None)

    # ------------------------------------------------------------ arrays

    def tensor(self, channels, height=1, width=1, flat=False, *, integer=False):
        """A new activation. With `integer` it holds integers as wide as the dtype (pooling indices)."""
        dtype = np.dtype(f"i{self.dtype.itemsize}") if integer else self.dtype
        return Tensor(channels, height, width, dtype, PER_BLOCK if self.keep else PER_ACTIVE_BLOCK, flat)

    def like(self, tensor):
        return self.tensor(tensor.channels, tensor.height, tensor.width, tensor.flat)

    def view(self, tensor, channels, height=1, width=1, flat=False):
        """The same numbers as another tensor, seen in another shape of as many elements."""
        if tensor.left or tensor.right:
            tensor = self._copied(tensor)
        view = self.tensor(channels, height, width, flat)
        view.source, view.viewed, tensor.viewed = tensor, True, True
        return view

    def overwritable(self, tensor):
        """The tensor itself, or a new one like it where others still read its numbers."""
        return self.like(tensor) if tensor.root.shared else tensor

    def bordered(self, tensor, left, right):
        """The tensor, with at least so many columns of zeros on both sides."""
        if tensor.left >= left and tensor.right >= right:
            return tensor
        if tensor.viewed or tensor.array is not None:
            tensor = self._copied(tensor)
        tensor.left, tensor.right = max(tensor.left, left), max(tensor.right, right)
        return tensor

    def _copied(self, tensor):
        copy = self.like(tensor)
        self.add("copy", lambda: dict(x=tensor, y=copy, **copy.pixels))
        return copy

    def copies(self, size, per, dtype=None):
        return Copies(size, np.dtype(dtype or self.dtype), per)

    def per_step(self, count, dtype=np.float64):
        """`count` numbers for each step of a run, which a function given to `on_run` sets."""
        return Table(np.zeros((self.steps, count), dtype), PER_STEP)

    def exchanged(self, *arrays):
        """Note that threads read of these Copies, one for each block, what others have written in this segment."""
        self._segments[-2].exchanged += arrays

    def ahead(self):
        """A function that returns the arguments by which the first convolution of a segment, while it computes, asks
        for all that is `exchanged`: before a core may write what others have read they must be told, which takes
        longer than computing it."""
        segment = self._segments[-2]
        first, segment.asks = not segment.asks, True

        def arguments():
            if not first or self.threads == 1 or not segment.exchanged:
                return dict(ahead_size=0)
            lines = [(c.array.ctypes.data + np.arange(0, c.array.nbytes, CACHE_LINE, np.uintp)).reshape(self.blocks, -1)
                     for c in segment.exchanged]
            table = np.concatenate(lines, axis=1)
            return dict(ahead=Table(table, PER_BLOCK), ahead_size=table.shape[1])
        return arguments

    def zeros(self, count):
        """An array of its own, whatever the number of threads and blocks."""
        return self._zeros(count, self.dtype)

    def gradient(self, parameter):
        """An array for the gradient of a parameter, or None where it is not wanted. The first is the parameter's own;
        what further uses fill is added to it by `add_gradients`."""
        if parameter is None or not parameter.requires_grad:
            return None
        uses = self._uses.setdefault(id(parameter), [])
        uses.append(self.zeros(parameter.size).reshape(parameter.shape) if uses else parameter.grad)
        return uses[-1]

    def add_gradients(self):
        """Where a parameter is used several times, add up its gradients, in the order in which they were asked for."""
        if any(len(uses) > 1 for uses in self._uses.values()):
            self.cut()
        for grad, *others in self._uses.values():
            for other in others:
                self.before("accumulate", lambda grad=grad, other=other: dict(x=other, y=grad, count=grad.size),
                            self.kernels.pack.chunks(grad.size))

    # ------------------------------------------------------------ writing

    def begin(self, phase):
        """Add what follows to this phase, which `run` names; what an earlier attempt added is gone."""
        self._phase = self._drafts[phase] = _Phase()
        self._segments, self._uses = self._phase.segments, {}
        self._segments.append(_Segment(False))
        self.cut()

    def cut(self):
        """Wait for the whole batch: what follows may use what all blocks have computed."""
        self._segments += [_Segment(False), _Segment(True), _Segment(False)]

    def add(self, kernel, arguments):
        """Add an operation on every block."""
        self._segments[-2].ops.append((kernel, arguments, 0))

    def first(self, kernel, arguments, tasks):
        """Add an operation on the whole batch, cut into tasks, before all others of the phase."""
        self._segments[0].ops.append((kernel, arguments, tasks))

    def before(self, kernel, arguments, tasks):
        """Add an operation on the whole batch, cut into tasks, before the blocks of this segment."""
        self._segments[-3].ops.append((kernel, arguments, tasks))

    def after(self, kernel, arguments, tasks):
        """Add an operation on the whole batch, cut into tasks, after the blocks of this segment."""
        self._segments[-1].ops.append((kernel, arguments, tasks))

    def on_run(self, function):
        """Call `function(step)` before a run of this phase for each of its steps, from 0; `batch` tells how many
        images they have. It must change nothing but arrays of the program: the run may still be interrupted."""
        self._phase.hooks.append(function)

    def count(self, counter):
        """Have an int64 array of one number count the uses that this phase's steps make of something. Returns a
        function of the step that tells which use this one will be, from 1."""
        counters = self._phase.counters
        counters.append(counter)
        own, address = len(counters), counter.ctypes.data

        def number(step):
            uses = [i for i, other in enumerate(counters, 1) if other.ctypes.data == address]
            return int(counter.flat[0]) + step * len(uses) + uses.index(own) + 1
        return number

    def has(self, phase):
        """Whether a phase is complete."""
        return phase in self._compiled

    # ------------------------------------------------------------ compiling and running

    def compile(self, phase="forward"):
        """Compile what has been added to a phase, unless it is compiled already."""
        if phase not in self._compiled:
            self._compiled[phase] = self._compile(self._drafts[phase])
            del self._drafts[phase]

    def _compile(self, phase):
        self._allocate(array for s in phase.segments for array in s.exchanged)     # `ahead` wants their addresses
        values = {op: op[1]() for s in phase.segments for op in s.ops}
        self._drop_unread(phase, values)
        segments = [s for s in phase.segments if s.ops]
        if not self.keep:
            self._place(segments, values)
        self._allocate(array for op in (op for s in segments for op in s.ops) for array in _own_arrays(values[op]))
        ops = np.zeros(sum(len(s.ops) for s in segments), OP)
        table = np.zeros(len(segments), SEGMENT)
        slots, arrays, at = {}, [], 0
        for segment, entry in zip(segments, table, strict=True):
            entry["first"], entry["count"] = at, len(segment.ops)
            for op in segment.ops:
                self._write(ops, at, op[0], values[op], op[2], slots, arrays)
                at += 1
            entry["tasks"] = 0 if segment.per_block else sum(op[2] for op in segment.ops)
        table = table[[s.per_block or bool(t["tasks"]) for s, t in zip(segments, table, strict=True)]]
        splits = bool(ops["splits"].any())
        most = self.threads if splits else max([t or self.shards for t in table["tasks"]], default=1)
        return _Compiled(phase, ops, table, slots, arrays, min(self.threads, int(most)))

    def _drop_unread(self, phase, values):
        """Leave out normalisations whose output no operation reads; values: the arguments of every operation."""
        unread = {op: given["y"].root for op, given in values.items() if op[0] == "normalise"}
        read = {v.root for op, given in values.items() for name, v in given.items()
                if isinstance(v, (Tensor, _Part)) and not (op in unread and name == "y")}
        read.update(v.root for compiled in self._compiled.values() for v in compiled.arrays
                    if isinstance(v, (Tensor, _Part)))
        for s in phase.segments:
            s.ops = [op for op in s.ops if op not in unread or unread[op] in read]

    def _count(self, per):
        return {ONCE: 1, PER_BLOCK: self.blocks, PER_SHARD: self.shards}.get(per, self.threads)

    def _place(self, segments, values):
        """Place the arrays of a phase that stands by itself, all in one piece of memory, so that no page is used in
        part. Those of one layout that are never in use at the same time share a room, the largest first: the less
        memory there is, the more of it stays in the caches, and the sooner the first run has touched all of it."""
        uses, whole = self._in_use(segments, values)

        def size(array):
            return math.prod(self._room(array)) * array.dtype.itemsize
        rooms = {}      # by layout: lists of [when it is in use, arrays]
        for array in sorted((a for a in uses if a.array is None), key=size, reverse=True):
            alike = rooms.setdefault(array.dtype if array in whole else array.layout, [])
            room = next((room for room in alike if not room[0] & uses[array]), None)
            if room is None:
                alike.append([uses[array], [array]])
            else:
                room[0] |= uses[array]
                room[1].append(array)
        rooms = [arrays for alike in rooms.values() for _, arrays in alike]
        sizes = [-(-size(largest) // CACHE_LINE) * CACHE_LINE + APART for largest, *_ in rooms]
        memory, start = self._zeros(sum(sizes), np.uint8), 0

        def placed(array):
            return memory[start:start + size(array)].view(array.dtype).reshape(self._room(array))
        for arrays, apart in zip(rooms, sizes, strict=True):
            largest = placed(arrays[0])
            for array in arrays:
                array.array = placed(array) if array in whole else largest
            start += apart

    def _in_use(self, segments, values):
        """When arrays are in use: by array a bit for each operation from the first to the last that uses it. What
        tasks use, or all blocks of a shard, is in use for whole segments; the set of these arrays is returned, too.
        Tensors that operations of several segments use get one copy for each block."""
        ops = [(s, op) for s, segment in enumerate(segments) for op in segment.ops]
        first, last, whole = {}, {}, set()      # by number
        for i, (_, op) in enumerate(ops):
            for array in _own_arrays(values[op]):
                first.setdefault(array, i)
                last[array] = i
                if isinstance(array, Copies) and (op[2] or array.per in (ONCE, PER_SHARD)):
                    whole.add(array)
        ends = np.cumsum([0, *(len(segment.ops) for segment in segments)]).tolist()
        for array in first:
            begin, end = ops[first[array]][0], ops[last[array]][0]      # segments
            if array in whole:
                first[array], last[array] = ends[begin], ends[end + 1] - 1
            elif isinstance(array, Tensor) and begin != end:
                array.per = PER_BLOCK
        return {array: (2 << last[array]) - (1 << first[array]) for array in first}, whole

    def _allocate(self, arrays):
        """Give arrays that have none memory of their own."""
        for array in arrays:
            if array.array is None:
                array.array = self._zeros(self._room(array), array.dtype)

    def _room(self, array):
        return array.room(self._count(array.per))

    def _zeros(self, shape, dtype):
        array = zeros(shape, dtype)
        self.nbytes += array.nbytes
        return array

    def _write(self, ops, at, kernel, values, tasks, slots, alive):
        if len(self.kernels.table[kernel]) == 4:
            self._write_old(ops, at, kernel, values, tasks, slots, alive)
            return
        address, fields = self.kernels.table[kernel]
        unknown = set(values) - set(fields)
        missing = {name for name, kind in fields.items() if kind in ("size", "number")} - set(values)
        if unknown or missing:
            raise TypeError(f"{kernel}: unknown arguments {sorted(unknown)}, missing {sorted(missing)}")
        words, addresses = [], []
        for name, kind in fields.items():
            value = values.get(name)
            if kind == "size":
                words.append(value)
            elif kind == "number":
                words.append(np.float64(value).view(np.intp))
            else:
                base, step, per, *shape = self._argument(value, (at, len(words)), slots, alive)
                if per != ONCE:
                    addresses.append((len(words), step, per))
                words += [base, *shape] if kind == "image" else [base]
        op = ops[at]
        op["kernel"], op["tasks"], op["splits"] = address, tasks, kernel in self.kernels.splits
        op["n_words"], op["n_addresses"] = len(words), len(addresses)
        op["words"][:len(words)], op["addresses"][:len(addresses)] = words, addresses

    def _argument(self, value, place, slots, alive):
        """Where an array lies: address, step from copy to copy, of what there are copies, plane, row."""
        if value is None:
            return 0, 0, ONCE, 0, 0
        if isinstance(value, Slot):
            slots.setdefault(value.name, []).append(place)
            return 0, 0, PER_STEP if value.per_step else ONCE, 0, 0
        alive.append(value)
        if isinstance(value, np.ndarray):
            return value.ctypes.data, 0, ONCE, 0, 0
        return value.argument()

    def _write_old(self, ops, at, kernel, values, tasks, slots, alive):
        address, arrays, sizes, scalars = self.kernels.table[kernel]
        unknown = set(values) - {*arrays, *sizes, *scalars}
        missing = {*sizes, *scalars} - set(values)
        if unknown or missing:
            raise TypeError(f"{kernel}: unknown arguments {sorted(unknown)}, missing {sorted(missing)}")
        op = ops[at]
        op["kernel"], op["tasks"], op["splits"] = address, tasks, kernel in self.kernels.splits
        for i, name in enumerate(arrays):
            value = values.get(name)
            if value is None:
                continue
            if isinstance(value, Slot):
                slots.setdefault(value.name, []).append((at, i))
                op["args"][i]["per"] = PER_STEP if value.per_step else ONCE
                continue
            alive.append(value)
            if isinstance(value, np.ndarray):
                op["args"][i] = (value.ctypes.data, 0, ONCE, 0, 0)
            else:
                op["args"][i] = value.argument()
        for i, name in enumerate(sizes):
            op["n"][i] = values[name]
        for i, name in enumerate(scalars):
            op["f"][i] = values[name]

    def run(self, images, phase="forward", /, steps=1, before=None, **arrays):
        """Run a phase on a batch of `images` images, or on `steps` of them, one after the other.

        `arrays` fill the slots, one NumPy array each. `before(step)` is called before the functions of `on_run` are.
        """
        self.compile(phase)
        compiled = self._compiled[phase]
        if compiled.slots.keys() - arrays.keys():
            raise TypeError(f"Program: arrays are missing: "
                            f"{', '.join(sorted(compiled.slots.keys() - arrays.keys()))}")
        self.batch = images
        for step in range(steps):
            if before is not None:
                before(step)
            for hook in compiled.phase.hooks:
                hook(step)
        slots = [(places, arrays[name]) for name, places in compiled.slots.items()]
        executor.run(*compiled.addresses, images, _blocks_per_shard(images), compiled.threads, steps, slots,
                     compiled.counters)

    # ------------------------------------------------------------ looking at single operations

    def phases(self):
        """Names of the phases that are complete."""
        return list(self._compiled)

    def operations(self, phase):
        """What a phase that has been run consists of: a list of dicts with the kernel's name, the shape that
        it works on (a text), the multiply-adds that its formula takes for one image (by the plain sum, for
        Winograd's algorithm too), the bytes of these tensors in sixteen images, and what `run_operation` wants."""
        compiled = self._compiled[phase]
        ops, table = compiled.ops, compiled.table
        written = [op for s in compiled.phase.segments for op in s.ops]
        result = []
        for segment in table:
            for i in range(segment["first"], segment["first"] + segment["count"]):
                kernel, arguments, _ = written[i]
                values = arguments()
                tensors = [v for v in values.values() if isinstance(v, Tensor)]
                result.append({"kernel": kernel, "shape": ", ".join("×".join(map(str, t.shape)) for t in tensors),
                               "macs": _macs(kernel, values),
                               "bytes": sum(math.prod(t.shape) * LANES * t.dtype.itemsize for t in tensors),
                               "index": i, "tasks": int(ops[i]["tasks"]) if segment["tasks"] else 0,
                               "phase": phase})
        return result

    def run_operation(self, operation, images, /, **arrays):
        """Run one of `operations` alone, on one thread; arrays: as for `run`."""
        segment = np.array([(operation["index"], 1, operation["tasks"])], SEGMENT)
        compiled = self._compiled[operation["phase"]]
        slots = [(places, arrays[name]) for name, places in compiled.slots.items()]
        executor.run(compiled.addresses[0], segment.ctypes.data, 1, images, _blocks_per_shard(images), 1, 1, slots)

    # ------------------------------------------------------------ steps that many layers share

    def input(self, channels, height=1, width=1, *, flat=False, name="x"):
        """A tensor packed from the NCHW array of the slot `name`."""
        x = self.tensor(channels, height, width, flat)
        self.add("pack", lambda: dict(x=Slot(name), y=x, **x.pixels))
        return x

    def output(self, tensor, name="y"):
        """Unpack a tensor into the NCHW array of the slot `name`."""
        self.add("unpack", lambda: dict(x=tensor, y=Slot(name), **tensor.pixels))

    def gather(self, source, order):
        """An array filled with source[order] before the blocks: weights in the order a kernel wants."""
        return self.prepare("gather", lambda packed: dict(x=source, index=order, y=packed, count=len(order)),
                            len(order), self.kernels.pack.chunks(len(order)))

    def prepare(self, kernel, arguments, count, tasks):
        """An array of `count` numbers which an operation, cut into tasks, makes before the blocks;
        `arguments(array)` are its arguments.

        Of a small one every thread makes its own: two cores that read an array which one of them writes, run
        after run, wait for one another longer than this takes.
        """
        if count * self.dtype.itemsize <= PRIVATE:
            array = self.copies(count, PER_ACTIVE_BLOCK)
            self._segments[-2].ops.append((kernel, lambda: arguments(array), tasks))
        else:
            array = self.copies(count, ONCE)
            self._segments[-3].ops.append((kernel, lambda: arguments(array), tasks))
        return array

    def shard_sum(self, target, count):
        """`count` numbers for each shard; after the blocks their sum, taken in order, goes to `target`."""
        parts = self.copies(count, PER_SHARD)
        self.after("sum_shards", lambda: dict(x=parts, y=target, count=count, step=parts.step),
                   self.kernels.pack.chunks(count))
        return parts


def _own_arrays(values):
    """Those of the program that an operation with these arguments uses."""
    return [v.root for v in values.values() if isinstance(v, (Tensor, _Part, Copies))]


def circumstances():
    """What programs depend on besides what they compute; compared with ==."""
    return runtime.get_num_threads(), runtime.get_winograd()


def _blocks_per_shard(images):
    """It depends on the batch alone, so that sums over shards do not depend on the number of threads."""
    blocks = math.ceil(images / LANES)
    return max(1, math.ceil(blocks / MAX_SHARDS))


def _macs(kernel, values):
    """Multiply-adds of an operation on one image."""
    if kernel in ("correlate", "correlate_pool"):
        run = values["run"].astype(np.int64)
        return int((run[:, 1] * run[:, 3] * run[:, 4]).sum()) * values["outputs"] * values.get("groups", 1)
    if kernel == "scatter":
        return math.prod(values[name] for name in ("channels", "outputs", "groups", "taps", "pixels"))
    if kernel == "conv_dw":
        pixels = int(np.diff(values["span"], axis=1).sum())
        return pixels * values["taps"] // values["spans"] * values["outputs"] * values["groups"]
    if kernel == "depthwise_dx":
        return 9 * math.prod(values["dy"].shape)
    if kernel in ("depthwise", "depthwise_dw"):
        return 9 * values["channels"] * values["out_h"] * values["out_w"]
    if kernel in ("conv1x1", "pointwise_dw"):
        return values["outputs"] * values["channels"] * values["height"] * values["width"]
    if kernel == "linear_dw":
        return values["outputs"] * values["inputs"]
    if kernel in ("winograd", "winograd_dx", "winograd_dw"):
        width = values["dx" if kernel == "winograd_dx" else "x"].width
        meets = [sum(0 <= i + r - before < size for i in range(out) for r in range(values["kernel"]))
                 for out, size, before in ((values["out_h"], values["height"], values["top"]),
                                           (values["out_w"], width, values["left"]))]
        return math.prod(meets) * values["channels"] * values["outputs"]
    return 0
