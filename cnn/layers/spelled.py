"""What a module can be asked in PyTorch's words, beside what Module itself has."""
from __future__ import annotations

from typing import TYPE_CHECKING

from cnn import hints
from cnn.layers.parts import named_modules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Self

    from cnn.layers.module import Module


class Spelled:
    """A base class of Module."""

    def apply(self, fn: Callable[[Module], Any]) -> Self:
        """Call `fn` with each module inside, then with this one; returns the module. `fn` sets initial weights, say:
        `m.weight.data = array`."""
        for _, child in self.children():        # type: ignore[attr-defined]
            child.apply(fn)
        fn(self)        # type: ignore[arg-type]
        return self

    def add_module(self, name: str, module: Module) -> None:
        """Make a module an attribute of this name. Raises TypeError for what is no module, or no name."""
        if not isinstance(module, Spelled):
            raise TypeError(f"{type(self).__name__}: module must be a module, got {type(module).__name__}")
        if not isinstance(name, str) or not name or "." in name:
            raise TypeError(f"{type(self).__name__}: name must be a string without dots, not empty, got {name!r}")
        setattr(self, name, module)

    def named_children(self) -> list[tuple[str, Module]]:
        """(name, module) of the modules directly inside this one, as `children`."""
        return self.children()      # type: ignore[attr-defined]

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """(name, module) of this module, whose name is `prefix`, and of all inside, each once."""
        seen: set[int] = set()
        for name, module in named_modules(self, prefix):
            if id(module) not in seen:
                seen.add(id(module))
                yield name, module

    if not TYPE_CHECKING:
        def __getattr__(self, name: str) -> Any:
            raise hints.missing(f"{type(self).__name__!r} object", name, hints.OF_MODULES)
