"""Reading pickles of strangers. A pickle is a program, and pickle.load() runs it: it may call whatever it names. So
none is loaded here: a subclass of `Unpickler` knows only the opcodes that one kind of file needs, names stay names, and
nothing is called.
"""
from __future__ import annotations

import io
import pickle
from typing import Any

# The pure-Python unpickler, because its table of opcodes can be cut down to those needed, and because it keeps its memo
# in a dict: the C one fills an array up to whatever index a file names.
_Plain: Any = vars(pickle)["_Unpickler"]

# of all kinds: marks, None and truth, integers, tuples, lists, dicts, the memo
_COMMON = (
    pickle.PROTO, pickle.STOP, pickle.MARK, pickle.GLOBAL, pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE,
    pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.TUPLE, pickle.EMPTY_TUPLE, pickle.TUPLE1, pickle.TUPLE2,
    pickle.TUPLE3, pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS, pickle.EMPTY_DICT, pickle.BINPUT,
    pickle.LONG_BINPUT, pickle.BINGET, pickle.LONG_BINGET)


class Opcodes(dict):
    """A table of the opcodes that a kind of file may use. more: besides the usual ones. kind: of file, in words."""

    def __init__(self, *more: bytes, kind: str) -> None:
        super().__init__((opcode[0], _Plain.dispatch[opcode[0]]) for opcode in (*_COMMON, *more))
        self.kind = kind
        self[pickle.SETITEM[0]], self[pickle.SETITEMS[0]] = Unpickler.load_setitem, Unpickler.load_setitems
        self[pickle.REDUCE[0]] = lambda reader: reader.load_reduce()
        self[pickle.BUILD[0]] = lambda reader: reader.load_build()

    def __missing__(self, opcode: int) -> Any:
        import pickletools
        named = pickletools.code2op.get(chr(opcode))    # type: ignore[attr-defined]
        raise pickle.UnpicklingError(f"it uses {named.name if named else hex(opcode)}, which no {self.kind} does")


class Unpickler(_Plain):
    """What reads one kind of file. A subclass has `dispatch`, its Opcodes; `names`, those that its pickles may ask for;
    `keys`, the type of its dicts' keys; and the methods load_reduce and load_build, which say what a call would make.

    raw: a CountingFile. encoding: of Python 2's strings, as pickle.load takes it. Raises UnpicklingError, or whatever a
    malformed pickle leads to: callers catch Exception.
    """

    names: frozenset[str]
    keys: type

    def find_class(self, module: str, name: str) -> str:
        """The name only: nothing is looked up."""
        wanted = f"{module}.{name}"
        if wanted not in self.names:
            raise pickle.UnpicklingError(f"it asks for {wanted}, which no {self.dispatch.kind} does")
        return wanted

    def load_setitem(self) -> None:
        """A dict gets an item."""
        value = self.stack.pop()
        self._put([self.stack.pop(), value])

    def load_setitems(self) -> None:
        """A dict gets several items."""
        self._put(self.pop_mark())

    def _put(self, items: list[Any]) -> None:
        # Only texts are hashed: the hash of a deeply nested tuple may take more stack than there is.
        if set(map(type, items[::2])) - {self.keys} or type(self.stack[-1]) is not dict:
            raise pickle.UnpicklingError("it holds a dict with other keys than texts")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))


class CountingFile:
    """Bytes as a file that may be read from so many times: every object in a pickle takes a read or more, so this
    bounds how many can be made. kind: of file, in words."""

    def __init__(self, raw: bytes, reads: int, kind: str) -> None:
        self._file, self._left, self._kind = io.BytesIO(raw), reads, kind
        self.tell = self._file.tell

    def read(self, n: int) -> bytes:
        """So many bytes, or what is left."""
        self._left -= 1
        if self._left < 0:
            raise pickle.UnpicklingError(f"it holds more objects than a {self._kind} does")
        return self._file.read(n)

    def readline(self) -> bytes:
        """A line, of which no name is as long as 1,000 bytes."""
        return self._file.readline(1000)
