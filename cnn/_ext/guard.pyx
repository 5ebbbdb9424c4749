"""Guards: which Python threads may use something at the same time.

Every method is one call in C, during which no other Python thread runs and no interrupt arrives: a lock that is taken
and given back by Python code stays taken for ever where Ctrl-C comes between two of its lines. A guard knows holders
by weak references, so that one whose frame is gone holds nothing any more.
"""
from weakref import ref


class Holder:
    """Something that holds guards, for one Python thread. `whole`: for the length of a whole training run."""

    __slots__ = ("thread", "whole", "__weakref__")

    def __init__(self, thread, whole=False):
        self.thread, self.whole = thread, whole


cdef class Guard:
    """Any number of threads may hold it together, or one of them alone. A thread never stands in its own way."""

    cdef list _together
    cdef list _alone

    def __init__(self):
        self._together, self._alone = [], []

    def __reduce__(self):       # nobody holds a copy
        return Guard, ()

    def take(self, holder, bint alone):
        """Let `holder` hold it, unless another thread is in the way: returns that one's Holder, else None."""
        # From here on nothing is allocated that could start Python's garbage collection, and with it other threads.
        mine = ref(holder)
        other = _another(self._alone, holder)
        if other is None and alone:
            other = _another(self._together, holder)
        if other is None:
            (self._alone if alone else self._together).append(mine)
        return other

    def leave(self, holder):
        """`holder` holds it no more, if it did."""
        _remove(self._alone, holder)
        _remove(self._together, holder)


cdef object _another(list holders, holder):
    """One of these holders that belongs to another thread, or None; forgets those that are gone."""
    cdef Py_ssize_t i
    for i in range(len(holders) - 1, -1, -1):
        other = holders[i]()
        if other is None:
            del holders[i]
        elif other.thread != holder.thread:
            return other
    return None


cdef void _remove(list holders, holder):
    cdef Py_ssize_t i
    for i in range(len(holders) - 1, -1, -1):
        if holders[i]() is holder:
            del holders[i]
