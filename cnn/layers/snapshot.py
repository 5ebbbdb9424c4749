"""What objects hold at this moment, to tell later whether they still do."""
import collections
import sys
import types
import weakref

import numpy as np

from cnn.engine.parameter import Parameter

SMALL = 16      # the most numbers of an array that are compared one by one; of others it is known which array it is
DEPTH = 8       # how many objects and containers one inside the other are looked into
WHOLE = (int, bool, str, bytes, type(None), float, complex, np.generic)
CLOSED = (type, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType)


class Same:
    """Stands for one object, which it does not keep alive where that can be avoided."""

    __slots__ = ("_hash", "_reference")

    def __init__(self, thing):
        self._hash = id(thing)
        try:
            self._reference = weakref.ref(thing)
        except TypeError:
            self._reference = lambda: thing

    def __eq__(self, other):
        thing = self._reference()
        return isinstance(other, Same) and thing is not None and thing is other._reference()

    def __hash__(self):
        return self._hash


def snapshot(thing, seen, depth=DEPTH):
    """Something hashable that compares equal as long as `thing` holds the same.

    It looks into containers and objects of classes of one's own, but not into large arrays. seen: ids of what need not
    be looked into, a set that grows.
    """
    kind = type(thing)
    if issubclass(kind, WHOLE):
        return kind, repr(thing) if issubclass(kind, (float, complex, np.generic)) else thing
    if isinstance(thing, np.ndarray) and thing.size <= SMALL and thing.dtype.kind != "O":
        return thing.shape, thing.dtype.str, thing.tobytes()
    if isinstance(thing, (np.ndarray, *CLOSED)) or depth == 0 or id(thing) in seen:
        return Same(thing)
    seen.add(id(thing))
    if isinstance(thing, Parameter):
        return thing._stamp.number, thing.requires_grad
    if hasattr(thing, "_stamp") and hasattr(thing, "modules"):      # a module that is not among the others
        inside = [(part._stamp.number, part.training,
                   *(snapshot(p, seen) for _, p in part.own_parameters()),
                   *(snapshot(value, seen, depth - 1) for _, value in part._unwatched()),
                   *(snapshot(value, seen, depth - 1) for cls in own_classes(part)
                     for _, value in class_attributes(cls)))
                  for part in thing.modules()]
        return kind, tuple(inside)
    if isinstance(thing, dict):
        return kind, tuple([(snapshot(key, seen, depth - 1), snapshot(value, seen, depth - 1))
                            for key, value in tuple(thing.items())])
    if isinstance(thing, (list, tuple, collections.deque)):
        return kind, tuple([snapshot(value, seen, depth - 1) for value in tuple(thing)])
    if isinstance(thing, (set, frozenset)):
        return kind, frozenset([snapshot(value, seen, depth - 1) for value in tuple(thing)])
    if isinstance(thing, bytearray):
        return kind, bytes(thing)
    if _open(kind) and hasattr(thing, "__dict__"):
        return Same(thing), snapshot(vars(thing), seen, depth - 1)
    return Same(thing)


def own_classes(module):
    """The classes of a module that are not the package's, unless it is written in NumPy and may do what it likes."""
    return () if module.in_numpy else [cls for cls in type(module).__mro__
                                       if not cls.__module__.startswith(("cnn.", "builtins"))]


def class_attributes(cls):
    """(name, value) of what a class sets besides methods and properties."""
    return [(name, value) for name, value in tuple(vars(cls).items())
            if not (name[:2] == "__" or name == "in_numpy" or callable(value) or hasattr(value, "__get__"))]


def _open(kind):
    """Whether objects of this class may be settings of one's own."""
    package = kind.__module__.partition(".")[0]
    plain = (kind.__module__, kind.__name__) in (("types", "SimpleNamespace"), ("argparse", "Namespace"))
    return plain or package not in ("cnn", *sys.stdlib_module_names) or package == "__main__"
