"""Pools of compiled programs, and who may run them and change parameters at the same time.

A program has arrays of its own, so that one thread at a time may run it. A `Pool` lends programs: a thread that finds
none at rest compiles another one. Nothing here is locked by `with`, because Ctrl-C may come between any two lines:
what a pool keeps is changed by single calls, each of which happens wholly or not at all.
"""
import functools
import threading
import time
import weakref

from cnn import runtime
from cnn._ext.guard import Holder

LIMIT, MOST = 512 << 20, 32     # bytes of the programs that rest in a pool, and how many there may be
PAUSE = 0.0002          # seconds from one look to the next whether what is waited for is free


class Pool:
    """Programs at rest, by what they were made from: at most MOST, and `limit` bytes of them, but for the last two.

    A pool that is dropped closes its programs.
    """

    def __init__(self, limit=LIMIT):
        self.limit = limit
        self._resting = []      # the one used last comes last
        self._made = []         # weak references to all that are alive
        self._lent = {}         # weak references to the tokens of those who have borrowed a program

    def take(self, key, images, make):
        """A program made from `key` for so many images or more: one at rest or `make()`. It is the caller's until
        `give`."""
        for program in reversed(tuple(self._resting)):
            if program.made_from == key and program.images >= images:
                try:
                    self._resting.remove(program)
                except ValueError:      # another thread was faster
                    continue
                return program
        program = make()
        if program.made_from is None:
            program.made_from = key
        self._made = [*(r for r in self._made if r() is not None), weakref.ref(program)]
        return program

    def borrow(self, token, key, images, make):
        """As `take`, for a call that is under way while `token`, any object, lives, or until `give`. Waits where as
        many calls are under way as there are cores for: more would only need more memory."""
        most = max(2, -(-runtime.cores() // runtime.get_num_threads()))
        while sum(r() is not None for r in tuple(self._lent.values())) >= most:
            time.sleep(PAUSE)
        self._lent[id(token)] = weakref.ref(token)
        return self.take(key, images, make)

    def give(self, program, token=None):
        """Put a program to rest, if there is one. Of one key only those for the most images stay."""
        if program is not None:
            for other in tuple(self._resting):
                if other.made_from == program.made_from and other.images < program.images:
                    self._drop(other)
            self._resting.append(program)
            resting = tuple(self._resting)
            while len(resting) > MOST or len(resting) > 2 and sum(p.nbytes for p in resting) > self.limit:
                self._drop(resting[0])
                resting = tuple(self._resting)
        self._lent.pop(id(token), None)

    def run(self, key, make):
        """Take a program that has no images, run it, and give it back."""
        program = None
        try:
            program = self.take(key, 0, make)
            program.run(0)
        finally:
            self.give(program)

    def _drop(self, program):
        try:
            self._resting.remove(program)
        except ValueError:      # another thread has taken it
            return
        program.close()

    def resting(self):
        """All programs at rest, the one used last at the end."""
        return list(self._resting)

    def clear(self):
        """Close all programs at rest."""
        for program in tuple(self._resting):
            self._drop(program)

    def __del__(self):
        for reference in getattr(self, "_made", ()):     # Ctrl-C may have come while it was made
            program = reference()
            if program is not None:
                program.close()

    def __reduce__(self):       # programs are no state
        return Pool, (self.limit,)


class Use:
    """The use that a thread makes of guarded things: `take` them, and `leave` them all in a `finally`.

    owner: who speaks in an error. whole: whether it is for a whole training run, which other threads don't wait for.
    """

    __slots__ = ("__weakref__", "_holder", "_owner", "_taken")

    def __init__(self, owner, whole=False):
        self._holder, self._owner, self._taken = Holder(threading.get_ident(), whole), owner, []

    def take(self, guards, alone):
        """Take these guards, alone or together with other threads; waits for those that are in the way.

        Raises RuntimeError where another thread holds one for a whole training run.
        """
        for guard in guards:
            self._taken.append(guard)
            while (other := guard.take(self._holder, alone)) is not None:
                if other.whole:
                    raise RuntimeError(f"{self._owner}: another thread is training this model (Trainer.fit): wait "
                                       f"until it has finished, or use a copy made before (copy.deepcopy)")
                time.sleep(PAUSE)

    def leave(self):
        for guard in self._taken:
            guard.leave(self._holder)


@functools.lru_cache(4096)
def left_to_emit(kind, *methods):
    """Whether a class leaves everything to the `emit` of one of its base classes: no subclass of that one overrides
    these methods, which a program does not call."""
    for cls in kind.__mro__:
        if "emit" in vars(cls):
            return not getattr(cls.emit, "abstract", False)
        if any(name in vars(cls) for name in methods):
            return False
    return False


def guards(parameters):
    """The guards of these parameters, each once."""
    return tuple({id(p._guard): p._guard for p in parameters if p._guard is not None}.values())


def circumstances():
    """What programs depend on besides what they compute; compared with ==."""
    return runtime.get_num_threads(), runtime.get_winograd()
