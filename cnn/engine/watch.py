"""Knowing when a model has changed.

A compiled program is looked up by what it was made from. A layer, a parameter and an optimizer each have a `Stamp`, a
number that no other stamp has ever had, and take a new one whenever something about them changes.
"""
import itertools

_numbers = itertools.count()


class Stamp:
    """A number that stands for one state of an object; `new` takes another. read: whether a program keeps what NumPy
    has computed from its buffers."""

    __slots__ = ("number", "read")

    def __init__(self):
        self.read = False
        self.number = next(_numbers)

    def new(self):
        self.number = next(_numbers)


def _watched(kind, names):
    """A subclass of list or dict whose methods of these names give its `stamp`, where it has one, a new number."""
    def changing(name):
        method = getattr(kind, name)

        def change(self, *arguments, **more):
            try:
                return method(self, *arguments, **more)
            finally:
                self.stamp.new()
        change.__name__, change.__doc__ = name, method.__doc__
        return change

    def __init__(self, stamp, values=()):
        kind.__init__(self, values)
        self.stamp = stamp

    def __reduce__(self):       # copies and pickles are plain; whoever owns them watches them again
        return kind, (kind(self),)

    def __copy__(self):
        return kind(self)

    members = {"__slots__": ("stamp",), "__init__": __init__, "__reduce__": __reduce__, "__copy__": __copy__,
               "__doc__": f"A {kind.__name__} that gives a Stamp a new number with each change."}
    return type(f"Watched{kind.__name__.title()}", (kind,), members | {name: changing(name) for name in names})


WatchedList = _watched(list, ["__setitem__", "__delitem__", "__iadd__", "__imul__", "append", "clear", "extend",
                              "insert", "pop", "remove", "reverse", "sort"])
WatchedDict = _watched(dict, ["__setitem__", "__delitem__", "__ior__", "clear", "pop", "popitem", "setdefault",
                              "update"])
