"""The number of images in a value's shape, which nobody knows while a network is traced."""
from __future__ import annotations

from typing import Any

from cnn.graph.line import line


class Count:
    """The number of images, `x.shape[0]`: a first size of `reshape`. It equals -1 and prints as that. It is no int:
    arithmetic with it, `range` of it and arrays of it raise TypeError, because what they give with -1 would be wrong
    without a word."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "-1"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Count) or type(other) is int and other == -1

    def __hash__(self) -> int:
        return hash(-1)

    def _refuse(self, *operands: Any, **more: Any) -> Any:
        raise refused()

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _refuse
    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __divmod__ = __rdivmod__ = __pow__ = __rpow__ = _refuse
    __neg__ = __abs__ = __float__ = __int__ = __index__ = __round__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __array__ = __array_ufunc__ = __bool__ = _refuse


def refused() -> TypeError:
    """The TypeError for a computation with the number of images, with the line that asked."""
    return TypeError(f"{line()}the number of images, x.shape[0] or x.size(0), cannot be computed with: it is any, and "
                     f"-1 while a network is traced. As the first size of reshape it stands for itself; a loss is one "
                     f"number per image, whose mean over the batch is taken")
