"""Modules made of modules."""
from __future__ import annotations

from typing import TYPE_CHECKING

from cnn import shapes
from cnn.engine.watch import WatchedList
from cnn.graph.build import axes_of
from cnn.graph.moving import cat
from cnn.layers.module import Module
from cnn.layers.parts import number_dropouts, takes_numbers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    from cnn.graph import Value


class ModuleList(Module):
    """Modules in a list, `layers[i]`, which are a part of whatever has the list as an attribute. Names of parameters
    start with their numbers. It cannot be called: `forward` of the module that has it does so with its members.

    modules: an iterable of modules, none by default. Raises TypeError for anything that is no module.
    """

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        self.layers = shapes.listed(type(self).__name__, "modules", modules, "modules")
        # layers that were given no seed of their own must not draw the same masks
        number_dropouts(self.modules())

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "layers":
            for i, layer in enumerate(value):
                if not isinstance(layer, Module):
                    pair = ": named_children() gives names and modules; a part of a Sequential is model[:2]"
                    raise TypeError(f"{type(self).__name__}: argument {i} must be a layer, got {type(layer).__name__}"
                                    f"{pair * isinstance(layer, tuple)}")
            value = WatchedList(self._stamp, value)
        super().__setattr__(name, value)

    def named_children(self) -> list[tuple[str, Module]]:
        return [(str(i), layer) for i, layer in enumerate(self.layers)]

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Module]:
        return iter(self.layers)

    def __getitem__(self, i: int | slice) -> Any:
        return ModuleList(self.layers[i]) if isinstance(i, slice) else self.layers[i]

    def append(self, module: Module) -> ModuleList:
        """Add a module at the end; returns the list."""
        self.layers = [*self.layers, module]
        return self

    def extend(self, modules: Iterable[Module]) -> ModuleList:
        """Add modules at the end; returns the list."""
        self.layers = [*self.layers, *modules]
        return self


class Sequential(ModuleList):
    """Modules one after the other; `model[i]` is the i-th. Names of parameters start with its number.

    layers: modules, or one dict of modules by name, whose names the parameters then start with.

    Raises TypeError for anything that is no module.
    """

    of_parameters = True

    names: tuple[str, ...] = ()     # of the first layers; the others have their numbers

    @property
    def of_numbers(self) -> bool:
        """Whether the input may be numbers (N,), or integers."""
        return bool(len(self.layers)) and takes_numbers(self.layers[0])

    def __init__(self, *layers: Module | dict[str, Module]) -> None:
        if len(layers) == 1 and isinstance(layers[0], dict):
            self.names, layers = _names_of(type(self).__name__, layers[0]), tuple(layers[0].values())
        super().__init__(layers)        # type: ignore[arg-type]

    def named_children(self) -> list[tuple[str, Module]]:
        names = [*self.names, *map(str, range(len(self.names), len(self.layers)))]
        return list(zip(names, self.layers, strict=False))

    def add_module(self, name: str, module: Module) -> None:
        """Add a module of this name at the end."""
        names = _names_of(type(self).__name__, {**dict(self.named_children()), name: module})
        if len(names) == len(self.layers):
            raise ValueError(f"{type(self).__name__}: name must not be that of another layer, got {name!r}")
        self.append(module)
        self.names = names

    def __getitem__(self, i: int | slice) -> Any:
        if not isinstance(i, slice):
            return self.layers[i]
        return Sequential(dict(self.named_children()[i])) if self.names else Sequential(*self.layers[i])

    def image_axes(self) -> int | None:
        return self.layers[0].image_axes() if len(self.layers) else None

    def forward(self, x: Value) -> Value:
        for layer in self.layers:
            x = layer(x)
        return x


class ModuleDict(Module):
    """Modules by name, `heads["digit"]`, which are a part of whatever has the dict as an attribute. Names of parameters
    start with theirs. It cannot be called: `forward` of the module that has it does so with its members.

    modules: a dict of modules, or (name, module) pairs, none by default. Raises TypeError for anything that is no
    module, or no name.
    """

    def __init__(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]] = ()) -> None:
        super().__init__()
        given = dict(modules)
        self.names = _names_of(type(self).__name__, given)
        self.layers = list(given.values())
        number_dropouts(self.modules())

    def named_children(self) -> list[tuple[str, Module]]:
        return list(zip(self.names, self.layers, strict=True))

    def __getitem__(self, name: str) -> Module:
        return dict(self.named_children())[name]

    def __setitem__(self, name: str, module: Module) -> None:
        given = {**dict(self.named_children()), name: module}
        names = _names_of(type(self).__name__, given)
        self.names, self.layers = names, list(given.values())

    if not TYPE_CHECKING:
        def __getattr__(self, name: str) -> Any:    # heads.digit, too
            return self[name] if name in vars(self).get("names", ()) else super().__getattr__(name)

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def keys(self) -> tuple[str, ...]:
        """The names, a tuple."""
        return self.names

    def values(self) -> tuple[Module, ...]:
        """The modules, a tuple."""
        return tuple(self.layers)

    def items(self) -> list[tuple[str, Module]]:
        """List of (name, module)."""
        return self.named_children()


def _names_of(owner: str, modules: dict[str, Module]) -> tuple[str, ...]:
    """The names of modules in a dict, checked."""
    for name, module in modules.items():
        if not isinstance(name, str) or not name or "." in name:
            raise TypeError(f"{owner}: names must be strings without dots, not empty, got {name!r}")
        if not isinstance(module, Module):
            raise TypeError(f"{owner}: {name} must be a layer, got {type(module).__name__}")
    return tuple(modules)


class Identity(Module):
    """x itself, in the place of a layer: `model.head = cnn.Identity()`. Takes, and ignores, any arguments."""

    of_parameters = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, x: Value) -> Value:
        return x


class Residual(Module):
    """y = body(x) + shortcut(x), where the shortcut is x itself unless it is given (He et al. 2016).

    Both must give arrays of one shape, (N, C, H, W) or (N, features). Names of parameters start with "body." and
    "shortcut.".

    Raises TypeError for what is no module, and on the first use ValueError where the shapes differ.
    """

    def __init__(self, body: Module, shortcut: Module | None = None) -> None:
        super().__init__()
        for name, layer in (("body", body), ("shortcut", shortcut)):
            if not isinstance(layer, Module) and (name == "body" or layer is not None):
                raise TypeError(f"Residual: {name} must be a layer, got {type(layer).__name__}")
        self.body, self.shortcut = body, shortcut

    def forward(self, x: Value) -> Value:
        body, shortcut = self.body(x), self.shortcut(x) if self.shortcut else x
        if body.image != shortcut.image:
            raise ValueError(f"Residual: the body gives {shapes.batch(body.image)}, but the shortcut "
                             f"{shapes.batch(shortcut.image)}: they must be equal")
        return body + shortcut


class Concat(Module):
    """The outputs of all branches one after the other; each branch gets the same x.

    dim: the axis along which they are joined, 1 (channels or features) and up, or negative, as in `cnn.cat`; in all
    others the outputs must agree. Names of parameters start with the branch's number.

    Raises ValueError without a branch, TypeError for what is no module or no integer, and on the first use ValueError
    where the outputs do not fit together.
    """

    def __init__(self, *branches: Module, dim: int = 1) -> None:
        super().__init__()
        if not branches:
            raise ValueError("Concat: branches must be at least one layer, got none")
        for i, branch in enumerate(branches):
            if not isinstance(branch, Module):
                raise TypeError(f"Concat: argument {i} must be a layer, got {type(branch).__name__}")
        self.branches = branches
        self.dim = shapes.integer("Concat", "dim", dim, -4, 3)
        if self.dim == 0:
            raise ValueError("Concat: dim must not be that of the images, 0, got 0")

    def named_children(self) -> list[tuple[str, Module]]:
        return [(str(i), branch) for i, branch in enumerate(self.branches)]

    def forward(self, x: Value) -> Value:
        outputs = [branch(x) for branch in self.branches]
        axis, = axes_of("Concat", outputs[0], self.dim)
        if len({(*y.image[:axis], *y.image[axis + 1:]) for y in outputs}) > 1 or len({y.ndim for y in outputs}) > 1:
            where = f"along axis {axis + 1}" if axis else "in channels"
            raise ValueError(f"Concat: the branches give {', '.join(shapes.batch(y.image) for y in outputs)}: they may "
                             f"differ {where} only")
        return cat(outputs, axis + 1)

    def extra_repr(self) -> str:
        return "" if self.dim == 1 else f"dim={self.dim}"
