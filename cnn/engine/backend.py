"""Which back end computes: the kernels, or their twins in plain NumPy."""
from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = ("kernels", "reference")

_thread = threading.local()     # of each: `name`, one of NAMES


def by_twins() -> bool:
    """Whether models, losses and optimizers run on the functions of cnn.reference, in this thread."""
    return getattr(_thread, "name", NAMES[0]) == "reference"


@contextmanager
def use(name: str) -> Iterator[None]:
    """Compute with this back end meanwhile, in this thread."""
    outer, _thread.name = getattr(_thread, "name", NAMES[0]), name
    try:
        yield
    finally:
        _thread.name = outer
