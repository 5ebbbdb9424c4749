"""What ranks tell each other at the seams of a step, so that any number of them has the bits of one.

Sums over the shards of a batch are a fixed binary tree (_ext/tree.pxd). A rank has neighbouring shards; it sums those
subtrees of which it has all shards, and what is above them is summed by all ranks, or by one for all.
"""
from __future__ import annotations

import functools
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from cnn import _ext
from cnn.engine.memory import LANES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cnn.ranks import World

    Rows = list[tuple[np.ndarray, int]]
    Divided = Sequence[tuple[list[np.ndarray], list[int]]]

SCATTER = 1 << 16       # bytes of sums from which on each rank of three or more sums a part of them


def exchange(world: World, count: int, rows: Rows, divided: Divided = ()) -> Callable[[], None]:
    """A function that fills in the rows of the others' shards, sums over all, and what the others' tasks have made; see
    Program.run. count: number of shards.

    Of what is to be summed a rank sums its own subtrees first. Two ranks, and those that have little to sum, give
    theirs to all others, and all sum them. Otherwise each rank gets those of one part of the numbers, and its sums
    go to all: that is twice the numbers, however many ranks there are.
    """
    cuts, sums = world.cuts(count), [array for array, each in rows if not each]
    nodes = [subtrees(first, stop) for first, stop in pairwise(cuts)]
    todo = [adding(array[first:first + width], tuple((row, 1) for row in range(width)))
            for array in sums for first, width in nodes[world.rank]]
    leaves = [node for part in nodes for node in part]
    scattered = world.size > 2 and sum(array[0].nbytes for array in sums) >= SCATTER
    whole = [[array[first * each:stop * each] for array, each in rows if each] if first < stop else []
             for first, stop in pairwise(cuts)]
    for arrays, bounds in divided:
        tasks = world.cuts(len(bounds) - 1)
        for rank, part in enumerate(whole):
            part += [array[bounds[tasks[rank]]:bounds[tasks[rank + 1]]] for array in arrays]
    if scattered:
        parts = [[_part(array, rank, world.size) for array in sums] for rank in range(world.size)]
        mine = parts[world.rank]
        todo.append(world.sending(
            [[part[first] for part in theirs for first, _ in nodes[world.rank]] for theirs in parts],
            [[part[first] for part in mine for first, _ in theirs] for theirs in nodes]))
        todo += [adding(part, leaves) for part in mine]
        given = [[part[0] for part in theirs] for theirs in parts]
    else:
        given = [[array[first] for array in sums for first, _ in theirs] for theirs in nodes]
    todo.append(world.gathering([[*a, *b] for a, b in zip(whole, given, strict=True)]))
    if not scattered:
        todo += [adding(array, leaves) for array in sums]

    def run() -> None:
        for function in todo:
            function()
    return run


@functools.cache
def subtrees(first: int, stop: int) -> tuple[tuple[int, int], ...]:
    """The largest subtrees that make up the shards from first to before stop: (first shard, how many) of each."""
    found = []
    while first < stop:
        width = 1
        while first % (2 * width) == 0 and first + 2 * width <= stop:
            width *= 2
        found.append((first, width))
        first += width
    return tuple(found)


def adding(array: np.ndarray, nodes: Sequence[tuple[int, int]]) -> Callable[[], None]:
    """A function that sums rows of an array into the first of them, in the order of the tree over all shards. nodes:
    (row, how many shards it is the sum of), one after the other."""
    if len(nodes) < 2:
        return lambda: None
    add_rows, address = _ext.kernels(array.dtype).pack.add_rows, array.ctypes.data
    step, count, order = array.strides[0] // array.itemsize, array.shape[1], _order(tuple(nodes))

    def add(kept: np.ndarray = array) -> None:      # the address holds while the array does
        add_rows(address, step, count, *order)
    return add


@functools.lru_cache(64)
def _order(nodes: tuple[tuple[int, int], ...]) -> tuple[list[int], list[int]]:
    """The rows, and after each how often the last two sums are added."""
    sums, left = [], 0
    for first, width in nodes:
        index = first // width
        sums.append((~index & index + 1).bit_length() - 1)      # as many as ones stand at its end: siblings on the left
        left += 1 - sums[-1]
    sums[-1] += left - 1
    return [row for row, _ in nodes], sums


def _part(array: np.ndarray, rank: int, size: int) -> np.ndarray:
    """A rank's part of the numbers of all rows, which are whole vectors."""
    vectors = array.shape[1] // LANES
    return array[:, vectors * rank // size * LANES:vectors * (rank + 1) // size * LANES]
