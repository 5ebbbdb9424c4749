"""Where the values of a C file lie: one static array, in which values that do not live at the same time share bytes."""
from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(eq=False)
class Buffer:
    """Memory of one value. size: elements (int); fixed: an expression in C for what lies elsewhere, "" for what is in
    the array; passed: the name of the argument of `network` by which it is read; first, last: the steps that write and
    that last read it; offset: elements from the array's beginning."""

    size: int
    fixed: str = ""
    passed: str = ""
    first: int = -1
    last: int = -1
    offset: int = -1

    def __str__(self) -> str:
        return self.passed or self.fixed or f"memory + {self.offset}"


@dataclass(eq=False)
class Step:
    """A call of one function. inplace: whether it may write over its input; scratch: elements (int) that it needs for
    itself."""

    name: str
    inputs: list[Buffer]
    output: Buffer
    comment: str
    inplace: bool = False
    scratch: int = 0
    own: Buffer | None = field(default=None, repr=False)


def place(steps: list[Step], held: Buffer | None = None) -> int:
    """Give all buffers their offsets; returns the elements of the array (int). held: a buffer that is filled before
    the first step.

    Where a step may write over an input that nobody reads after it, both share their place. The rest is placed at the
    lowest free offset, in order of size and in order of time; the smaller result is taken.
    """
    for i, step in enumerate(steps):
        for buffer in step.inputs:
            buffer.last = i
        step.output.first = i if step.output.first < 0 else step.output.first
        step.output.last = max(step.output.last, i)
        if step.scratch:
            step.own = Buffer(step.scratch, first=i, last=i)
    groups: dict[int, list[Buffer]] = {}
    if held is not None and not held.fixed:
        groups[id(held)] = [held]
    for i, step in enumerate(steps):
        for buffer in (step.output, step.own):
            if buffer is None or buffer.fixed or id(buffer) in groups:
                continue
            over = next((b for b in step.inputs if step.inplace and buffer is step.output and id(b) in groups
                         and b.last == i and b.size == buffer.size), None)
            groups[id(buffer)] = groups.get(id(over), [])
            groups[id(buffer)].append(buffer)
    together = list({id(group): group for group in groups.values()}.values())
    by_size = sorted(together, key=lambda group: (-group[0].size, group[0].first))
    by_time = sorted(together, key=lambda group: (group[0].first, -group[0].size))
    return _placed(min(by_size, by_time, key=_placed))


def _placed(groups):
    """Place groups of buffers in this order; returns the size of all."""
    done: list[tuple[int, int, int, int]] = []      # first, last, offset, end
    whole = 0
    for group in groups:
        first, last, size = min(b.first for b in group), max(b.last for b in group), group[0].size
        offset = 0
        for _, _, start, end in sorted((d for d in done if d[0] <= last and first <= d[1]), key=lambda d: d[2]):
            if offset + size <= start:
                break
            offset = max(offset, end)
        done.append((first, last, offset, offset + size))
        whole = max(whole, offset + size)
        for buffer in group:
            buffer.offset = offset
    return whole
