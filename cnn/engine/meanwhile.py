"""What holds in a thread while a function runs.

Not `with` or `finally`: Ctrl-C can come just before they put back what held before. `Context.run` always does.
"""
from __future__ import annotations

from contextvars import copy_context
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import ContextVar

Result = TypeVar("Result")


def holds(variable: ContextVar, value: Any, function: Callable[..., Result], *inputs: Any, **options: Any) -> Result:
    """What `function(*inputs, **options)` returns; meanwhile `variable.get()` is the value, in this thread alone."""
    def run() -> Result:
        variable.set(value)
        return function(*inputs, **options)
    return copy_context().run(run)
