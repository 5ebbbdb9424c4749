"""From what a program's phase has written down to what the executor takes: placing its arrays, and writing the structs
of its kernels."""
import math
from struct import pack, unpack
from typing import Any, NamedTuple

import numpy as np

from cnn.engine.memory import PAGE, place, zeros
from cnn.engine.tensors import ONCE, PER_BLOCK, PER_SHARD, PER_STEP, Copies, Grid, Part, Slot, Tensor

# the executor's structs, see _ext/op.pxd and _ext/executor.pyx
ADDRESS = np.dtype([("word", np.intp), ("step", np.intp), ("per", np.intp)])
OP = np.dtype([("kernel", np.uintp), ("tasks", np.intp), ("splits", np.intp), ("divided", np.intp),
               ("n_words", np.intp), ("n_addresses", np.intp), ("addresses", ADDRESS, (12,)),
               ("words", np.intp, (32,))])
_WORDS = OP.itemsize // 8 - OP["words"].shape[0]    # where they begin
SEGMENT = np.dtype([("first", np.intp), ("count", np.intp), ("tasks", np.intp)])

_OWN = Tensor, Part, Grid, Copies     # arguments that are arrays of the program


class Seam(NamedTuple):
    """Where a phase can be cut, so that others may put in what they have computed.

    segment: number of the segment before which it is. arrays: those that blocks have filled and that the segment reads.
    divided: what tasks have made that processes divide, see Program.after.
    """

    segment: int
    arrays: tuple = ()
    divided: Any = ()


class Compiled:
    """A phase as the executor takes it. `slots`: by name the (operation, word) pairs to which the address of the
    array of that name goes. `arrays`: all whose addresses are in the operations. `threads`: the most of any use.
    `seams`: in order. `exchanges`: see Program.run."""

    def __init__(self, phase, ops, table, slots, arrays, threads, seams):
        self.phase, self.ops, self.table, self.slots, self.arrays = phase, ops, table, slots, arrays
        self.threads, self.seams = threads, seams
        self.addresses = ops.ctypes.data, table.ctypes.data, len(table)
        self.counters = tuple(counter.ctypes.data for counter in phase.counters)
        self.exchanges = {}

    def pieces(self):
        """The same phase, cut at its seams: the `addresses` of each piece, and the seam behind it, None at the end."""
        ops, table, count = self.addresses
        begin = 0
        for seam in (*self.seams, None):
            end = count if seam is None else seam.segment
            yield (ops, table + begin * SEGMENT.itemsize, end - begin), seam
            begin = end


class Compiler:
    """Compiles phases of one program."""

    def __init__(self, program):
        self.program = program

    def compiled(self, phase):
        everything = phase.in_order()
        self._allocate(array for s in everything for array in s.exchanged)     # `ahead` wants their addresses
        values = {op: op[1]() for s in everything for op in s.ops}
        segments = [s for s in everything if s.ops]
        own = {op: [v.root for v in values[op].values() if isinstance(v, _OWN)] for s in segments for op in s.ops}
        if not self.program.keep:
            self._place(segments, own)
        self._allocate(array for arrays in own.values() for array in arrays)
        ops = np.zeros(sum(len(s.ops) for s in segments), OP)
        rows = ops.view(np.intp).reshape(len(ops), -1)
        table = np.zeros(len(segments), SEGMENT)
        slots, arrays, at = {}, [], 0
        for segment, entry in zip(segments, table, strict=True):
            entry["first"], entry["count"] = at, len(segment.ops)
            for op in segment.ops:
                self._write(rows[at], op[0], values[op], op[2], op in phase.divided, at, slots, arrays)
                at += 1
            entry["tasks"] = 0 if segment.per_block else sum(op[2] for op in segment.ops)
        kept = [s.per_block or bool(t["tasks"]) for s, t in zip(segments, table, strict=True)]
        seams = self._seams([s for s, keep in zip(segments, kept, strict=True) if keep], own, phase)
        table = table[kept]
        splits = bool(ops["splits"].any())
        most = self.program.threads if splits else max([t or self.program.shards for t in table["tasks"]], default=1)
        return Compiled(phase, ops, table, slots, arrays, min(self.program.threads, int(most)), seams)

    def _place(self, segments, own):
        """Place the arrays of a phase that stands by itself, all in one piece of memory, so that no page is used in
        part. Those of one layout that are never in use at the same time share a room, the largest first: the less
        memory there is, the more of it stays in the caches, and the sooner the first run has touched all of it.
        own: the program's arrays that each operation uses."""
        uses, whole = self._in_use(segments, own)

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
        starts = [0]
        for i, (largest, *_) in enumerate(rooms, 1):
            starts.append(-(-(starts[-1] + size(largest)) // PAGE) * PAGE + place(i))
        memory = self._zeros(starts[-1], np.uint8)

        def placed(array, start):
            return memory[start:start + size(array)].view(array.dtype).reshape(self._room(array))
        for arrays, start in zip(rooms, starts[:-1], strict=True):
            largest = placed(arrays[0], start)
            for array in arrays:
                array.array = placed(array, start) if array in whole else largest

    def _in_use(self, segments, own):
        """When arrays are in use: by array a bit for each operation from the first to the last that uses it. What
        tasks use, or all blocks of a shard, is in use for whole segments; the set of these arrays is returned, too.
        Tensors that operations of several segments use get one copy for each block."""
        ops = [(s, op) for s, segment in enumerate(segments) for op in segment.ops]
        first, last, whole = {}, {}, set()      # by number
        for i, (_, op) in enumerate(ops):
            for array in own[op]:
                first.setdefault(array, i)
                last[array] = i
                if array.per == ONCE or isinstance(array, Copies) and (op[2] or array.per == PER_SHARD):
                    whole.add(array)
        ends = np.cumsum([0, *(len(segment.ops) for segment in segments)]).tolist()
        for array in first:
            begin, end = ops[first[array]][0], ops[last[array]][0]      # segments
            if array in whole:
                first[array], last[array] = ends[begin], ends[end + 1] - 1
            elif isinstance(array, Tensor) and begin != end:
                array.per = PER_BLOCK
        return {array: (2 << last[array]) - (1 << first[array]) for array in first}, whole

    def _seams(self, segments, own, phase):
        result, filled = [], set()
        end = None      # of the backward pass
        if phase.divided:
            backward = set(phase.segments[:phase.segments.index(phase.backward_end) + 1])
            end = max(i for i, segment in enumerate(segments) if segment in backward)
        for i, segment in enumerate(segments):
            used = dict.fromkeys(array for op in segment.ops for array in own[op])      # in order
            if segment.per_block:
                filled.update(array for array in used if array.per in (PER_BLOCK, PER_SHARD))
            elif rows := tuple(array for array in used if array in filled):
                result.append(Seam(i, rows))
                filled.difference_update(rows)
            if i == end:
                result.append(Seam(i + 1, divided=tuple(phase.divided.values())))
        return result

    def _allocate(self, arrays):
        """Give arrays that have none memory of their own."""
        for array in arrays:
            if array.array is None:
                array.array = self._zeros(self._room(array), array.dtype)

    def _room(self, array):
        return array.room(self._count(array.per))

    def _zeros(self, shape, dtype):
        array = zeros(shape, dtype)
        self.program.nbytes += array.nbytes
        return array

    def _count(self, per):
        return {ONCE: 1, PER_BLOCK: self.program.blocks, PER_SHARD: self.program.shards}.get(per, self.program.threads)

    def _write(self, row, name, values, tasks, divided, at, slots, alive):
        """Fill one of the rows of OP, seen as words; at: its number."""
        kernel = self.program.kernels.find(name)
        unknown, missing = values.keys() - kernel.fields.keys(), kernel.numbers - values.keys()
        if unknown or missing:
            raise TypeError(f"{name}: unknown arguments {sorted(unknown)}, missing {sorted(missing)}")
        words, addresses = [], []
        for field, kind in kernel.fields.items():
            value = values.get(field)
            if kind == "size":
                words.append(value() if callable(value) else value)     # of where an array lies
            elif kind == "number":
                words += unpack("=q", pack("=d", value))
            else:
                base, step, per, *shape = self._argument(value, (at, len(words)), slots, alive)
                if per != ONCE:
                    addresses += len(words), step, per
                words += [base, *shape] if kind == "image" else [base]
        head = [kernel.address, tasks, kernel.splits, divided, len(words), len(addresses) // 3, *addresses]
        row[:len(head)], row[_WORDS:_WORDS + len(words)] = head, words

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
