"""Ranks: processes that MPI has started together, and that train one model, each on its own part of every batch.

`mpiexec -n 4 cnn train ...` starts four. All do the same, but that each runs the blocks of its own shards, and takes
over what the others' blocks have computed wherever a whole-batch operation reads it (the seams of a program, see
training/exchange.py): so any number of ranks has the bits of one. Rank 0 alone prints and writes files.

Whether there are others is asked of the environment; MPI itself is loaded by `world`, through mpi4py. The variable
CNN_MPI=0 has a process take itself for alone.
"""
from __future__ import annotations

import functools
import os
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    Pairs = list[tuple[np.ndarray, np.ndarray]]

# what Open MPI, MPICH and its relatives, and srun with PMIx tell each process: ranks, its own, those on its machine
_ENVIRONMENT = (
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("PMI_SIZE", "PMI_RANK", "MPI_LOCALNRANKS"),
    ("SLURM_NTASKS", "PMIX_RANK", "SLURM_NTASKS_PER_NODE"),
)


LARGE = 1 << 14         # bytes of an array that is worth a message of its own


class Place(NamedTuple):
    """size: number of ranks. rank: the process's own, from 0. local: ranks on its machine."""

    size: int
    rank: int
    local: int


@functools.cache        # a step asks several times
def place() -> Place:
    """The Place that the environment of this process told of at first; alone, that is 1, 0, 1."""
    if os.environ.get("CNN_MPI") != "0":
        for size, rank, local in _ENVIRONMENT:
            found = [os.environ.get(name, "") for name in (size, rank)]
            if all(text.isascii() and text.isdigit() for text in found) and int(found[0]) > 1:
                there = os.environ.get(local, "")
                return Place(int(found[0]), int(found[1]), int(there) if there.isdigit() and int(there) else 1)
    return Place(1, 0, 1)


def leads() -> bool:
    """Whether this process is the one that prints and writes."""
    return place().rank == 0


def _size(arrays: list[np.ndarray]) -> int:
    return sum(array.nbytes for array in arrays)


def _views(arrays: list[np.ndarray], buffer: np.ndarray) -> Pairs:
    """Each array with its place in a buffer of bytes, in which they lie one after the other."""
    pairs, at = [], 0
    for array in arrays:
        pairs.append((array, buffer[at:at + array.nbytes].view(array.dtype).reshape(array.shape)))
        at += array.nbytes
    return pairs


def _copy_to(pairs: Pairs) -> None:
    for array, place in pairs:
        place[...] = array


def _copy_from(pairs: Pairs) -> None:
    for array, place in pairs:
        array[...] = place


class World:
    """All ranks. rank: this one's number. size: how many there are."""

    def __init__(self, mpi: Any) -> None:
        self._mpi, self._comm = mpi, mpi.COMM_WORLD
        self.rank, self.size = self._comm.rank, self._comm.size

    def shards(self, count: int) -> tuple[int, int]:
        """(first, count) of the shards that are this rank's, of so many."""
        first, stop = self.cuts(count)[self.rank:self.rank + 2]
        return first, stop - first

    def cuts(self, count: int) -> list[int]:
        """Where the ranks' parts of so many shards begin, and where the last one ends."""
        return [count * i // self.size for i in range(self.size + 1)]

    def gather(self, parts: list[list[np.ndarray]]) -> None:
        """Give all others this rank's part of some arrays, and fill in theirs; parts: those of each rank. Large arrays
        go from where they are to where they belong, small ones together."""
        self.gathering(parts)()

    def gathering(self, parts: list[list[np.ndarray]]) -> Callable[[], None]:
        """A function that gathers these arrays, what they hold whenever it is called."""
        large = [[[array, self._mpi.BYTE] for array in part if array.nbytes >= LARGE] for part in parts]
        small = [[array for array in part if array.nbytes < LARGE] for part in parts]
        others = [rank for rank in range(self.size) if rank != self.rank]
        receive = [(buffer, rank, i) for rank in others for i, buffer in enumerate(large[rank])]
        send = [(buffer, rank, i) for rank in others for i, buffer in enumerate(large[self.rank])]
        sizes = [_size(part) for part in small]
        together = bool(others) and any(sizes)
        mine, there = np.empty(sizes[self.rank], np.uint8), np.empty(sum(sizes), np.uint8)
        joined, filled = _views(small[self.rank], mine), self._others(small, there)
        own, all_ = [mine, self._mpi.BYTE], [there, sizes, self._mpi.BYTE]

        def gather() -> None:
            calls = [self._comm.Irecv(*one) for one in receive]
            calls += [self._comm.Isend(*one) for one in send]
            if together:
                _copy_to(joined)
                self._comm.Allgatherv(own, all_)
                _copy_from(filled)
            self._mpi.Request.Waitall(calls)
        return gather

    def sending(self, there: list[list[np.ndarray]], back: list[list[np.ndarray]]) -> Callable[[], None]:
        """A function that gives each rank what is there for it, and fills in what comes back."""
        sizes, returned = [_size(part) for part in there], [_size(part) for part in back]
        given, got = np.empty(sum(sizes), np.uint8), np.empty(sum(returned), np.uint8)
        joined = _views([array for part in there for array in part], given)
        filled = self._others(back, got)
        out, into = [given, sizes, self._mpi.BYTE], [got, returned, self._mpi.BYTE]

        def send() -> None:
            _copy_to(joined)
            self._comm.Alltoallv(out, into)
            _copy_from(filled)
        return send

    def _others(self, parts: list[list[np.ndarray]], there: np.ndarray) -> Pairs:
        """What of `there` goes where: all but this rank's."""
        pairs, at = [], 0
        for rank, part in enumerate(parts):
            if rank != self.rank:
                pairs += _views(part, there[at:])
            at += _size(part)
        return pairs

    def largest(self, value: int) -> int:
        """The largest value that any rank has."""
        return max(self.all(value))

    def all(self, value: Any) -> list[Any]:
        """The values that the ranks have, which can be pickled."""
        return self._comm.allgather(value)

    def told(self, value: Any) -> Any:
        """The value that rank 0 has, which can be pickled."""
        return self._comm.bcast(value)

    def same(self, owner: str, facts: dict) -> None:
        """Raise ValueError, naming the fact and the ranks, unless all have the same facts."""
        for rank, others in enumerate(self.all(facts)):
            for name, value in facts.items():
                if others.get(name) != value:
                    raise ValueError(f"{owner}: all ranks must have the same {name}, but that of rank {self.rank} is "
                                     f"{value}, and of rank {rank} {others.get(name)}")

    def wait(self) -> None:
        """Return when all ranks are here."""
        self._comm.Barrier()

    def abort(self, code: int) -> None:
        """End all ranks."""
        sys.stdout.flush()
        sys.stderr.flush()
        time.sleep(0.2)     # mpiexec ends at once, and leaves unread what it has not passed on yet
        self._comm.Abort(code)


_world: World | None = None


def world() -> World | None:
    """The World that this process is a part of, or None where it is alone.

    Raises ModuleNotFoundError, naming the extra to install, where mpi4py is missing; RuntimeError where MPI sees other
    ranks than the environment tells of.
    """
    global _world
    there = place()
    if _world is None and there.size > 1:
        try:
            from mpi4py import MPI
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(f"{there.size} ranks need mpi4py: pip install 'cnn[mpi]'") from error
        if MPI.COMM_WORLD.size != there.size:
            raise RuntimeError(f"mpiexec has started {there.size} ranks, but mpi4py sees {MPI.COMM_WORLD.size}: both "
                               f"must be of one MPI, mpi4py uses {MPI.Get_library_version().splitlines()[0]}")
        _world = World(MPI)
    return _world


def _fatal(kind: type[BaseException], error: BaseException, where: Any) -> None:
    """What happens with an exception that nobody catches."""
    import traceback  # takes 2 ms
    give_way()
    traceback.print_exception(kind, error, where)
    leave(error)


def give_way() -> None:
    """Let rank 0 tell of an error first: where all have met with the same, it ends the others before they do."""
    if not leads():
        time.sleep(1)


def leave(error: BaseException) -> None:
    """End all ranks if this one ends by an error: they would wait for it forever."""
    code = error.code if isinstance(error, SystemExit) else 1
    if code not in (None, 0) and not isinstance(error, ModuleNotFoundError) and (there := world()) is not None:
        there.abort(code if isinstance(code, int) else 1)


def largest(value: int) -> int:
    """The largest value that any rank has."""
    there = world()
    return value if there is None else there.largest(value)


def anywhere(value: Any) -> Any:
    """The value if it is true; else whether it is on any rank."""
    elsewhere = largest(bool(value))
    return value or bool(elsewhere)


def told(value: Any) -> Any:
    """The value that rank 0 has."""
    there = world()
    return value if there is None else there.told(value)


@contextmanager
def leader_first() -> Iterator[None]:
    """A block that rank 0 goes through before the others do: what it downloads or makes is there for all."""
    there = world()
    if there is not None and there.rank:
        there.wait()
    yield
    if there is not None and not there.rank:
        there.wait()


if place().size > 1:
    sys.excepthook = _fatal
