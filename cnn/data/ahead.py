"""Reading ahead: what is needed next is read in a thread while the caller works on what it has."""

from __future__ import annotations

import os
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

Job = TypeVar("Job")
Result = TypeVar("Result")


def read_ahead(read: Callable[[Job], Result], jobs: Iterable[Job], depth: int, again: bool = True,
               threads: int = 1) -> Iterator[Result]:
    """Yield `read(job)` for each job, in their order, read in one thread or in several.

    depth: how many results may wait to be asked for; with 0 the caller's thread reads. again: whether a job can be
    read once more: after a fork the child has no such thread, and then starts its own; else it raises RuntimeError.

    An exception is raised where the result would be yielded. The thread has ended when this iterator has, also when
    it is closed or nobody holds it any more.
    """
    if not depth:
        yield from map(read, jobs)
        return
    from concurrent.futures import ThreadPoolExecutor  # here, to keep "import cnn" fast

    jobs, process, thread = iter(jobs), os.getpid(), ThreadPoolExecutor(threads, "cnn-read-ahead")
    waiting: deque[tuple[Job, Future[Result]]] = deque()
    try:
        while True:
            if os.getpid() != process:
                if not again:
                    raise RuntimeError("this pass over the batches has begun before a fork; begin a new one in the "
                                       "child")
                process, thread = os.getpid(), ThreadPoolExecutor(threads, "cnn-read-ahead")
                waiting = deque((job, thread.submit(read, job)) for job, _ in waiting)
            for job in islice(jobs, depth + 1 - len(waiting)):
                waiting.append((job, thread.submit(read, job)))
            if not waiting:
                return
            yield waiting.popleft()[1].result()
    finally:
        if os.getpid() == process:  # a child has no such thread, but its locks may be held for ever
            thread.shutdown(wait=True, cancel_futures=True)
