"""Programs: what a layer asks the kernels to do, and running it.

A layer describes itself by adding operations to a `Program`. Running a single layer and running a whole training step
are then the same thing: a list of operations handed to the executor (_ext/executor.pyx), which carries sixteen images
at a time through all of them.

    program = Program(np.float32, images=64)
    x = program.tensor(1, 28, 28)                       # becomes (blocks, 1, 28, 28, 16)
    program.add("relu", lambda: dict(x=x, y=x, **x.pixels))
    program.run(64)

Operations are written down as functions that return their arguments, because where an array lies is
known only when the whole program is: a convolution that comes later may ask for a border of zeros.
"""
from typing import Any

import numpy as np

from cnn import _ext, runtime
from cnn._ext import executor
from cnn.engine.compiling import Compiler
from cnn.engine.memory import CACHE_LINE, LANES, zeros
from cnn.engine.phases import Phase, Segment
from cnn.engine.shards import blocks_per_shard, most_shards
from cnn.engine.tensors import ONCE, PER_ACTIVE_BLOCK, PER_BLOCK, PER_SHARD, PER_STEP, Copies, Slot, Table, Tensor

PRIVATE = 1 << 18       # bytes of an array of which every thread makes its own


class Program:
    """Operations on batches of up to `images` images, in one or more phases.

    dtype: float32 or float64, of everything computed.
    images: the largest batch; any smaller one can be run too. steps: the most batches that a run can work through one
        after the other.
    keep: whether activations stay after a run (one copy for each block), as a backward phase that is
        run by itself needs them. Otherwise a thread has one copy, which stays in its cache, of those that
        are not used on both sides of a `cut`.
    gradients: whether there is to be a backward pass, in this phase or another.
    learns: whether a backward pass computes gradients of parameters, besides those of inputs.
    by_channels: whether a block is one image with sixteen channels side by side, instead of sixteen images: for few
        images, and a forward pass only.
    snapshot: a list, if it is to keep the weights that there are when it is compiled; else a run takes them as they are
        then. The list is filled with the packed weights; another program of the same graph takes them from it.
    processes: how many share each step, see `run`.
    threads: how many run it; by default as many as `set_num_threads` says. `sharing` is how many of them share one
        block, where there are so few blocks; those who write a program with little to do in each may lower it.

    One thread at a time may run it. A phase exists once it is compiled: what an exception cuts short is not kept.
    """

    loss: Any       # what those who write a program may note in it

    def __init__(self, dtype, images, keep=False, steps=1, gradients=False, by_channels=False, snapshot=None,
                 threads=None, processes=1, learns=True):
        self.dtype = np.dtype(dtype)
        self.kernels = _ext.kernels(self.dtype)
        self.images, self.keep, self.steps, self.gradients = images, keep, steps, gradients
        self.processes, self.learns = processes, learns
        self.made_from = None       # what a Pool looks it up by
        self.threads = self.sharing = threads or runtime.get_num_threads()
        self.by_channels, self.per_block = by_channels, 1 if by_channels else LANES
        self.blocks = max(1, -(-images // self.per_block))
        self.shards = most_shards(images, self.per_block)
        self.batch = self.nbytes = 0        # images of the run at hand; bytes of its own arrays
        self._drafts, self._compiled = {}, {}       # phases that are not compiled yet, and those that are
        self._packing, self._snapshot, self._given = None, snapshot, iter(snapshot or ())
        self._pulls = []        # see `pulled`
        if snapshot is not None:
            self.begin("weights")
            self._packing = self._segments
        self.begin("forward")

    def close(self):
        """Let go of everything: a program is a circle of references, which would keep its memory for a while."""
        for phase in (*self._drafts.values(), *(compiled.phase for compiled in self._compiled.values())):
            for segment in phase.in_order():
                segment.ops.clear()
        self._drafts.clear()
        self._compiled.clear()
        self._pulls.clear()
        self._phase = self._segments = self.uses = None
        for name in ("pull", "results", "loss"):     # what those who wrote it have noted
            vars(self).pop(name, None)

    # ------------------------------------------------------------ arrays

    def tensor(self, channels, height=1, width=1, flat=False, *, integer=False):
        """A new activation. With `integer` it holds integers as wide as the dtype (pooling indices)."""
        dtype = np.dtype(f"i{self.dtype.itemsize}") if integer else self.dtype
        planes = -(-channels // LANES) if self.by_channels else channels
        return Tensor(channels, height, width, dtype, PER_BLOCK if self.keep else PER_ACTIVE_BLOCK, flat, planes)

    def like(self, tensor):
        return self.tensor(tensor.channels, tensor.height, tensor.width, tensor.flat)

    def view(self, tensor, channels, height=1, width=1, flat=False):
        """The same numbers as another tensor, seen in another shape of as many elements."""
        if self.by_channels and (channels, height, width) != (tensor.channels, tensor.height, tensor.width):
            y = self.tensor(channels, height, width, flat)
            self.add("regroup", lambda: dict(x=tensor, y=y, y_channels=channels, y_height=height, y_width=width,
                                             **tensor.size))
            return y
        if tensor.left or tensor.right:
            tensor = self._copied(tensor)
        view = self.tensor(channels, height, width, flat)
        view.source, view.viewed, tensor.viewed = tensor, True, True
        return view

    def overwritable(self, tensor):
        """The tensor itself, or a new one like it where others still read its numbers."""
        return self.like(tensor) if tensor.root.shared or tensor.root.kept else tensor

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
        array = zeros(count, self.dtype)
        self.nbytes += array.nbytes
        return array

    def gradient(self, parameter):
        """An array for the gradient of a parameter, or None where it is not wanted. The first is the parameter's own;
        what further uses fill is added to it by `add_gradients`."""
        if parameter is None or not (self.learns and parameter.requires_grad):
            return None
        uses = self.uses.setdefault(id(parameter), [])
        uses.append(self.zeros(parameter.numel()).reshape(parameter.shape) if uses else parameter.grad)
        return uses[-1]

    def add_gradients(self):
        """End the backward pass. Where a parameter is used several times, add up its gradients, in the order in which
        they were asked for; then compute those of what is computed `once`, and add these."""
        self._phase.backward_end = self._segments[-1]
        self._add_up()
        for pull in self._pulls:
            pull(self.uses, self._segments)
        if self._pulls:
            self.cut()
            self._add_up()

    def _add_up(self):
        for i in range(1, max(map(len, self.uses.values()), default=0)):
            self.cut()      # one after the other: operations between two cuts run at the same time
            for grad, *others in (uses for uses in self.uses.values() if len(uses) > i):
                self.before("accumulate", lambda grad=grad, other=others[i - 1]: dict(x=other, y=grad, count=grad.size),
                            self.kernels.pack.chunks(grad.size))
        for uses in self.uses.values():
            del uses[1:]

    @property
    def once(self):
        """A list of segments of tasks that run before all others of the phase; None in a snapshot, which takes all as
        it is. See cnn.engine.once."""
        return None if self._snapshot is not None else self._phase.once

    def pulled(self, function):
        """Call `function(uses, segments)` where a backward pass ends: it adds segments of tasks. uses: by the ids of
        parameters, lists of which the first is the gradient."""
        self._pulls.append(function)

    def summed(self, dy, target):
        """The sum over all images of a tensor in which channels lie side by side, after the blocks."""
        dy.root.kept = True
        self.after("sum_images", lambda: dict(x=dy, y=target, x_image=dy.step, **dy.size), dy.channels)

    # ------------------------------------------------------------ writing

    def begin(self, phase):
        """Add what follows to this phase, which `run` names; what an earlier attempt added is gone."""
        self._phase = self._drafts[phase] = Phase()
        self._segments, self.uses = self._phase.segments, {}
        self._segments.append(Segment(False))
        self.cut()

    def cut(self):
        """Wait for the whole batch: what follows may use what all blocks have computed."""
        self._segments += [Segment(False), Segment(True), Segment(False)]

    def add(self, kernel, arguments):
        """Add an operation on every block."""
        self._segments[-2].ops.append((kernel, arguments, 0))

    def first(self, kernel, arguments, tasks):
        """Add an operation on the whole batch, cut into tasks, before all others of the phase."""
        self._segments[0].ops.append((kernel, arguments, tasks))

    def before(self, kernel, arguments, tasks):
        """Add an operation on the whole batch, cut into tasks, before the blocks of this segment."""
        self._segments[-3].ops.append((kernel, arguments, tasks))

    def after(self, kernel, arguments, tasks, divided=None):
        """Add an operation on the whole batch, cut into tasks, after the blocks of this segment.

        divided: (arrays, rows), if it makes gradients, which nothing reads before the backward pass ends: its task i
        makes rows[i] to rows[i + 1] - 1 of each of the arrays, None among them. Where several processes share a step,
        each runs a part of these tasks.
        """
        op = kernel, arguments, tasks
        self._segments[-1].ops.append(op)
        if divided is not None and self.processes > 1:
            self._phase.divided[op] = [array for array in divided[0] if array is not None], divided[1]

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
        if self._packing is not None:
            draft, packs = self._drafts.pop("weights"), any(segment.ops for segment in self._packing)
            self._packing = None
            if packs:
                self._compiled["weights"] = Compiler(self).compiled(draft)
                self.run(1, "weights")
                del self._compiled["weights"]
        if phase not in self._compiled:
            self._compiled[phase] = Compiler(self).compiled(self._drafts[phase])
            del self._drafts[phase]

    def run(self, images, phase="forward", /, steps=1, before=None, share=None, at_seam=None, **arrays):
        """Run a phase on a batch of `images` images, or on `steps` of them, one after the other.

        `arrays` fill the slots, one NumPy array each. `before(step)` is called before the functions of `on_run` are.
        share: (first, count, process) where `processes` share the step: the shards whose blocks are to be run, while
        others run the others, and the number of this process. Then what `at_seam(rows, divided)` returns, which is kept
        for later runs, is called wherever what follows reads what blocks have computed, and must fill in others' rows.
        rows: (array, rows of a shard) pairs; the rows of an array, its first axis, are those of blocks. Where that
        number is 0 they are those of shards, and only their sum is wanted, in the first row: see _ext/tree.pxd.
        divided: see `after`.
        """
        self.compile(phase)
        compiled = self._compiled[phase]
        if missing := sorted(compiled.slots.keys() - arrays.keys()):
            raise TypeError(f"Program: arrays are missing: {', '.join(missing)}")
        self.batch = images
        for step in range(steps):
            for hook in compiled.phase.hooks if before is None else (before, *compiled.phase.hooks):
                hook(step)
        slots = [(places, arrays[name]) for name, places in compiled.slots.items()]
        per_shard = blocks_per_shard(images, self.per_block)
        if at_seam is None:
            executor.run(*compiled.addresses, images, per_shard, self.threads_for(images, compiled.threads), 0, steps,
                         slots, compiled.counters, None, self.per_block)
            return
        first, count, process = share
        exchanges = compiled.exchanges.setdefault((at_seam, images), [])
        for step in range(steps):
            for i, (addresses, seam) in enumerate(compiled.pieces()):
                counters, own = () if seam else compiled.counters, (first, count, 1, process, self.processes)
                executor.run(*addresses, images, per_shard, compiled.threads, step, 1, slots, counters, own,
                             self.per_block)
                if seam is not None:
                    if i == len(exchanges):
                        rows = [(array.array, per_shard * (array.per == PER_BLOCK)) for array in seam.arrays]
                        exchanges.append(at_seam(rows, seam.divided))
                    exchanges[i]()

    def threads_for(self, images, most):
        """How many threads run a batch, of `most` that can."""
        return min(most, self.sharing) if 2 * -(-images // self.per_block) <= most else most

    def phase(self, name):
        """A phase that is complete, as the executor takes it."""
        return self._compiled[name]

    def phases(self):
        """Names of the phases that are complete."""
        return list(self._compiled)

    # ------------------------------------------------------------ steps that many layers share

    def input(self, channels, height=1, width=1, *, flat=False, name="x", per_step=False):
        """A tensor packed from the NCHW array of the slot `name`; per_step: see Slot."""
        x = self.tensor(channels, height, width, flat)
        if self.by_channels:
            self.add("pack_channels", lambda: dict(x=Slot(name, per_step), y=x, channels=channels, height=height,
                                                   width=width, size=channels * height * width))
        else:
            self.add("pack", lambda: dict(x=Slot(name, per_step), y=x, **x.pixels))
        return x

    def output(self, tensor, name="y"):
        """Unpack a tensor into the NCHW array of the slot `name`."""
        self.add("unpack_channels" if self.by_channels else "unpack",
                 lambda: dict(x=tensor, y=Slot(name), **tensor.size))

    def gather(self, source, order):
        """An array filled with source[order] before the blocks: weights in the order a kernel wants."""
        return self.prepare("gather", lambda packed: dict(x=source, index=order, y=packed, count=len(order)),
                            len(order), self.kernels.pack.chunks(len(order)))

    def prepare(self, kernel, arguments, count, tasks):
        """An array of `count` numbers which an operation, cut into tasks, makes before the blocks;
        `arguments(array)` are its arguments.

        Of a small one every thread makes its own: two cores that read an array which one of them writes, run after run,
        wait for one another longer than this takes.
        """
        if count * self.dtype.itemsize <= PRIVATE:
            array = self.copies(count, PER_ACTIVE_BLOCK)
            self._segments[-2].ops.append((kernel, lambda: arguments(array), tasks))
        else:
            array = self.copies(count, ONCE)
            self._segments[-3].ops.append((kernel, lambda: arguments(array), tasks))
        return array

    def packed(self, kernel, arguments, tasks, *counts):
        """Arrays of so many numbers that an operation on weights, cut into tasks, makes before the blocks, or once and
        for all in a snapshot; `arguments(*arrays)` are its arguments."""
        return self._made_before(0, kernel, arguments, tasks, *counts)

    def turned(self, kernel, arguments, tasks, count):
        """An array of so many numbers that an operation, cut into tasks, makes of what others have `packed`, before the
        blocks or, in a snapshot, once and for all; `arguments(array)` are its arguments."""
        return self._made_before(1, kernel, arguments, tasks, count)[0]

    def _made_before(self, segment, kernel, arguments, tasks, *counts):
        arrays = next(self._given, None)
        if arrays is None:
            arrays = tuple(map(self.zeros, counts))
            (self._packing or self._segments)[segment].ops.append((kernel, lambda: arguments(*arrays), tasks))
            if self._snapshot is not None:
                self._snapshot.append(arrays)
                self.nbytes -= sum(array.nbytes for array in arrays)    # they are the snapshot's
        return arrays

    def kept(self, array):
        """An array that a run reads as it is then; in a snapshot a copy."""
        return array if self._snapshot is None else array.copy()

    def seen(self, weights):
        """Room for a copy of weights, by which a run tells whether they have changed; None in a snapshot, and where
        every step changes them."""
        return None if self.gradients or self._snapshot is not None else self.zeros(weights.size)

    def shard_sum(self, target, count):
        """`count` numbers for each shard; after the blocks their sum, see _ext/tree.pxd, goes to `target`."""
        parts = self.copies(count, PER_SHARD)
        self.after("sum_shards", lambda: dict(x=parts, y=target, count=count, step=parts.step),
                   self.kernels.pack.chunks(count))
        return parts
