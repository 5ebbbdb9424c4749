"""Which back end computes: the kernels, or their twins in plain NumPy."""
from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

from cnn.engine import meanwhile

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = ("kernels", "reference")

Result = TypeVar("Result")
_name: ContextVar[str] = ContextVar("backend", default=NAMES[0])


def by_twins() -> bool:
    """Whether models, losses and optimizers run on the functions of cnn.reference, in this thread."""
    return _name.get() == "reference"


def using(name: str, function: Callable[..., Result], *inputs: Any) -> Result:
    """What `function(*inputs)` returns, computed with this back end."""
    return meanwhile.holds(_name, name, function, *inputs)
