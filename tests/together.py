"""Ranks that are threads of one process: what they tell each other goes by a board, by MPI's own calls."""

import queue
import threading

import numpy as np

from cnn import ranks


class Board:
    """What all ranks see."""

    def __init__(self, size):
        self.barrier, self.given, self.size = threading.Barrier(size, timeout=60), [None] * size, size
        self.sent = {}      # queues of messages, by from, to, tag
        self.lock = threading.Lock()

    def line(self, *key):
        with self.lock:
            return self.sent.setdefault(key, queue.Queue())


class Call:
    """A message under way."""

    def __init__(self, work):
        self.work = work

    @staticmethod
    def Waitall(calls):
        for call in calls:
            call.work()


class Comm:
    """Of an MPI communicator what a World uses."""

    BYTE, Request = "byte", Call

    def __init__(self, board, rank):
        self.COMM_WORLD, self.board, self.rank, self.size = self, board, rank, board.size

    def allgather(self, value):
        self.board.given[self.rank] = value
        self.board.barrier.wait()
        values = list(self.board.given)
        self.board.barrier.wait()
        return values

    def Isend(self, message, rank, tag):
        array, kind = message
        assert kind == self.BYTE and array.flags.c_contiguous
        self.board.line(self.rank, rank, tag).put(array.copy())
        return Call(lambda: None)

    def Irecv(self, message, rank, tag):
        array, kind = message
        assert kind == self.BYTE and array.flags.c_contiguous

        def work():
            array[...] = self.board.line(rank, self.rank, tag).get(timeout=60)
        return Call(work)

    def Allgatherv(self, send, target):
        (own, kind), (there, sizes, other) = send, target
        assert kind == other == self.BYTE and own.dtype == there.dtype == np.uint8
        parts = self.allgather(own.copy())
        assert [len(part) for part in parts] == sizes and len(there) == sum(sizes)
        there[:] = np.concatenate(parts)

    def Alltoallv(self, send, target):
        (own, sizes, kind), (there, returned, other) = send, target
        assert kind == other == self.BYTE and own.dtype == there.dtype == np.uint8 and len(own) == sum(sizes)
        parts = [theirs[self.rank] for theirs in self.allgather(np.split(own.copy(), np.cumsum(sizes)[:-1]))]
        assert [len(part) for part in parts] == returned
        there[:] = np.concatenate(parts)


def on_ranks(size, function):
    """What `function(world)` returns on each of so many ranks."""
    board, results, errors = Board(size), [None] * size, []

    def work(rank):
        try:
            results[rank] = function(ranks.World(Comm(board, rank)))
        except BaseException as error:
            errors.append(error)
            board.barrier.abort()
    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise next((error for error in errors if not isinstance(error, threading.BrokenBarrierError)), errors[0])
    return results
