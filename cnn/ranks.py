"""Ranks: processes that MPI has started together, and that train one model, each on its own part of every batch.

`mpiexec -n 4 cnn train ...` starts four. All do the same, but that each runs the blocks of its own shards, and takes
over what the others' blocks have computed wherever a whole-batch operation reads it (the seams of a program): so any
number of ranks has the bits of one. Rank 0 alone prints and writes files.

Whether there are others is asked of the environment; MPI itself is loaded by `world`, through mpi4py. The variable
CNN_MPI=0 has a process take itself for alone.
"""
from __future__ import annotations

import functools
import os
import sys
import time
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    Rows = list[tuple[np.ndarray, int]]

# what Open MPI, MPICH and its relatives, and srun with PMIx tell each process: ranks, its own, those on its machine
_ENVIRONMENT = (
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("PMI_SIZE", "PMI_RANK", "MPI_LOCALNRANKS"),
    ("SLURM_NTASKS", "PMIX_RANK", "SLURM_NTASKS_PER_NODE"),
)


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


class World:
    """All ranks. rank: this one's number. size: how many there are."""

    def __init__(self, mpi: Any) -> None:
        self._mpi, self._comm = mpi, mpi.COMM_WORLD
        self.rank, self.size = self._comm.rank, self._comm.size

    def shards(self, count: int) -> tuple[int, int]:
        """(first, count) of the shards that are this rank's, of so many."""
        first = count * self.rank // self.size
        return first, count * (self.rank + 1) // self.size - first

    def exchange(self, count: int, rows: Rows) -> None:
        """Fill in the rows of the others' shards; see Program.run. count: number of shards."""
        cuts = [count * i // self.size for i in range(self.size + 1)]
        for array, each in rows:
            ends = np.minimum(np.array(cuts) * each, len(array)) * array[0].nbytes
            counts = np.diff(ends).tolist()
            there = array.reshape(-1).view(np.uint8)[:ends[-1]]
            self._comm.Allgatherv(self._mpi.IN_PLACE, [there, counts, ends[:-1].tolist(), self._mpi.BYTE])

    def largest(self, value: int) -> int:
        """The largest value that any rank has."""
        return max(self._comm.allgather(value))

    def told(self, value: Any) -> Any:
        """The value that rank 0 has, which can be pickled."""
        return self._comm.bcast(value)

    def same(self, owner: str, facts: dict) -> None:
        """Raise ValueError, naming the fact and the ranks, unless all have the same facts."""
        for rank, others in enumerate(self._comm.allgather(facts)):
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
