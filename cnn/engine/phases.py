"""What a program is written down as: phases, each a list of segments of operations."""


class Segment:
    """Operations between two barriers: all cut into tasks; or per block, but for those that `prepare` adds, whose
    tasks every thread runs before its first block."""

    def __init__(self, per_block):
        self.per_block = per_block
        self.exchanged, self.asks = [], False       # see Program.exchanged and Program.ahead
        self.ops = []       # (kernel name, function that returns the arguments, tasks)


class Phase:
    """What one run does: segments of operations, of which those of `once` come first, functions to call before it,
    arrays that count its steps. divided: by operation what its tasks make, see Program.after; backward_end: the last
    segment of the backward pass."""

    def __init__(self):
        self.once, self.segments, self.hooks, self.counters = [], [], [], []
        self.divided, self.backward_end = {}, None

    def in_order(self):
        """A list of all segments."""
        return [*self.once, *self.segments]
