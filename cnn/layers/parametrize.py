"""Parameters of layers that are computed from others: by length and direction, divided by the spectral norm, or by a
module of one's own."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cnn import functional, shapes
from cnn.engine import parameter
from cnn.engine.parameter import Parameter
from cnn.graph import derived
from cnn.graph.once import Chain, Computed, Held
from cnn.graph.trace import apply, computed_alone
from cnn.layers.container import ModuleDict
from cnn.layers.module import Module
from cnn.layers.parts import in_evaluation, on_parameters
from cnn.ops.reshaping import Store

if TYPE_CHECKING:
    from cnn.graph.derived import Derived

FIRST = 15      # power iterations at first


class Parametrizations(Module):
    """What computes a Parameter of a layer: `original`, or `original0` and so on, and modules that are called with
    these, one after the other."""

    def __init__(self, originals: list[Parameter]) -> None:
        super().__init__()
        for name, p in zip(["original"] if len(originals) == 1 else [f"original{i}" for i in range(len(originals))],
                           originals, strict=True):
            setattr(self, name, p)

    def add(self, module: Module) -> None:
        """Compute one thing more."""
        setattr(self, str(len(self.named_children())), module)

    def computed(self) -> Any:
        """The Parameter, to compute with while a network is traced; else one whose `data` is computed."""
        if parameter.computing.get() is not None:
            return self._apply()
        nodes, made = in_evaluation(self, computed_alone, self._apply, self.parameters()[0].dtype)
        return Chain(nodes, made.dtype).take(made.value, made.shape)

    def _apply(self) -> Derived:
        found: Any = [p for _, p in self.own_parameters()]
        for _, module in self.named_children():
            found = [on_parameters(module, *found)]
        return found[0] if isinstance(found[0], derived.Derived) else derived.of(found[0], derived.computed_in())


class WeightNorm(Module):
    """g v / |v|, |v| being the lengths along all axes but `dim`."""

    of_parameters = True

    def __init__(self, dim: int | None) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, g: Any, v: Any) -> Any:
        others = _others(self.dim, len(v.shape))
        return v * (g / (v.norm(dim=others, keepdim=True) if others else abs(v)))


class SpectralNorm(Module):
    """w / s, s being the largest singular value of w as a matrix with the axis `dim` first: u^T w v with unit vectors u
    and v, which each step in training mode brings nearer to the singular vectors by power iterations."""

    of_parameters = True

    def __init__(self, weight: np.ndarray, n_power_iterations: int, eps: float, dim: int) -> None:
        super().__init__()
        self.n_power_iterations, self.eps, self.dim = n_power_iterations, eps, dim
        matrix = np.moveaxis(weight, dim, 0).reshape(weight.shape[dim], -1)
        rng = np.random.default_rng(0)
        u, v = (_unit(rng.standard_normal(n), eps) for n in matrix.shape)
        for _ in range(FIRST):
            u = _unit(matrix @ v, eps)
            v = _unit(matrix.T @ u, eps)
        self.register_buffer("_u", u)
        self.register_buffer("_v", v)
        for name, array in (("_u", u), ("_v", v)):
            self._buffers[name] = np.ascontiguousarray(array, weight.dtype)

    def forward(self, w: Any) -> Any:
        axes = (self.dim, *(axis for axis in range(len(w.shape)) if axis != self.dim))
        matrix = w.permute(*axes).flatten(1) if self.dim else w.reshape(w.shape[0], -1)
        u, v = (derived.of(Held(self._buffers[name]), derived.computed_in()) for name in ("_u", "_v"))
        if self.training:
            fixed = derived.of(matrix, derived.computed_in()).detach()
            for _ in range(self.n_power_iterations):
                u = functional.normalize(fixed @ v, dim=0, eps=self.eps)
                v = functional.normalize(u @ fixed, dim=0, eps=self.eps)
            u, v = (derived.Derived(apply(Store(self._buffers[name]), x.value), x.shape)
                    for name, x in (("_u", u), ("_v", v)))
        return w / (u * (matrix @ v)).sum()


def register_parametrization(module: Module, tensor_name: str, parametrization: Module) -> Module:
    """Compute a Parameter of a layer by another module: in place of `layer.weight`, say, `parametrization(original)`.

        >>> class Symmetric(cnn.Module):
        ...     def forward(self, w):
        ...         return (w + w.T) / 2
        >>> layer = cnn.utils.register_parametrization(cnn.Linear(3, 3), "weight", Symmetric())
        >>> [name for name, _ in layer.named_parameters()]
        ['bias', 'parametrizations.weight.original']
        >>> bool((layer.weight.data == layer.weight.data.T).all())
        True

    module: a layer; tensor_name: of one of its Parameters; parametrization: a module whose `forward` computes from a
    Parameter what has its shape. Several are applied one after the other. Returns the layer. Raises TypeError or
    ValueError for anything else.
    """
    name = "register_parametrization"
    shapes.instance(name, "parametrization", parametrization, Module)
    if parametrization.in_numpy or parametrization is module:
        raise TypeError(f"{name}: parametrization must be another module, without a backward of its own, got "
                        f"{shapes.shown(parametrization)}")
    return _computed(name, module, tensor_name, lambda p: [p], parametrization)


def is_parametrized(module: Module, tensor_name: str | None = None) -> bool:
    """Whether a Parameter of a layer is computed; tensor_name: its name, None for any."""
    shapes.instance("is_parametrized", "module", module, Module)
    found = vars(module).get("parametrizations")
    return found is not None and (len(found) > 0 if tensor_name is None else tensor_name in found)


def remove_parametrizations(module: Module, tensor_name: str, leave_parametrized: bool = True) -> Module:
    """Make a Parameter of a layer one of its own again, with the numbers that were computed, or without
    leave_parametrized those of what it was computed from. Returns the layer. Raises ValueError where it is not
    computed, or was computed from several."""
    name = "remove_parametrizations"
    if not isinstance(tensor_name, str) or not is_parametrized(module, tensor_name):
        raise ValueError(f"{name}: tensor_name must be that of a Parameter that is computed, got "
                         f"{shapes.shown(tensor_name)}")
    originals = [p for _, p in _list_of(module, tensor_name).own_parameters()]
    if not leave_parametrized and len(originals) > 1:
        raise ValueError(f"{name}: leave_parametrized must be True where a Parameter is computed from several")
    kept, p = getattr(module, tensor_name).data if leave_parametrized else originals[0].data, originals[-1]
    p.data = kept.copy()
    _take_back(module, tensor_name, p)
    return module


def weight_norm(module: Module, name: str = "weight", dim: int | None = 0) -> Module:
    """Give a layer's weight a length and a direction of its own: w = g v / |v|, |v| being the lengths along all axes
    but `dim`, or of all elements if it is None or -1. Salimans & Kingma 2016.

    module: a layer; name: of the Parameter. Its g and v become `parametrizations.weight.original0` and `original1`, as
    in PyTorch. Returns the layer. Raises TypeError or ValueError for what does not fit.
    """
    dim = None if dim == -1 else dim

    def apart(p: Parameter) -> list[Parameter]:
        axis = dim if dim is None else shapes.integer("weight_norm", "dim", dim, -p.ndim, p.ndim - 1) % p.ndim
        length = np.sqrt((p.data.astype(np.float64) ** 2).sum(_others(axis, p.ndim), keepdims=axis is not None))
        return [Parameter(np.asarray(length, p.dtype), p._requires_grad), p]
    axes = _parameter_of("weight_norm", module, name).ndim
    return _computed("weight_norm", module, name, apart, WeightNorm(dim if dim is None else dim % axes), alone=True)


def spectral_norm(module: Module, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12,
                  dim: int | None = None) -> Module:
    """Divide a layer's weight by its largest singular value, as a matrix with the axis `dim` first: by default 0, of
    transposed convolutions 1. Miyato et al. 2018.

    module: a layer; name: of the Parameter. n_power_iterations: of each step in training mode, at least 1; eps: the
    least length that something is divided by, above 0. The weight becomes `parametrizations.weight.original`, the
    singular vectors are buffers, `parametrizations.weight.0._u` and `_v`, as in PyTorch. Returns the layer. Raises
    TypeError or ValueError for what does not fit.
    """
    who = "spectral_norm"
    count, eps = shapes.integer(who, "n_power_iterations", n_power_iterations, 1), shapes.number(
        who, "eps", eps, above=0)
    p = _parameter_of(who, module, name)
    if p.ndim < 2:
        raise ValueError(f"{who}: {name} must have two axes or more, got shape {p.shape}")
    usual = 1 if type(module).__name__.startswith("ConvTranspose") else 0
    axis = usual if dim is None else shapes.integer(who, "dim", dim, -p.ndim, p.ndim - 1) % p.ndim
    return register_parametrization(module, name, SpectralNorm(p.data, count, eps, axis))


def _others(dim: int | None, axes: int) -> tuple[int, ...]:
    return tuple(axis for axis in range(axes) if axis != dim)


def _unit(x: np.ndarray, eps: float) -> np.ndarray:
    return x / max(float(np.sqrt((x * x).sum())), eps)


def _all_of(module: Module) -> Any:
    return vars(module)["parametrizations"]


def _list_of(module: Module, name: str) -> Parametrizations:
    return _all_of(module)[name]


def _parameter_of(owner: str, module: Module, name: str) -> Parameter:
    shapes.instance(owner, "module", module, Module)
    p = getattr(module, name, None) if isinstance(name, str) else None
    if not isinstance(p, Parameter):
        raise ValueError(f"{owner}: the name must be that of a Parameter of the {type(module).__name__}, got "
                         f"{shapes.shown(name)}")
    return p


def _computed(owner: str, module: Module, name: str, originals: Any, parametrization: Module,
              alone: bool = False) -> Module:
    """Compute a Parameter of a module, or one thing more of it: of `originals` of it. Nothing is changed by what fails.
    alone: whether nothing else may compute it."""
    p, order = None, tuple(vars(module)) if isinstance(module, Module) else ()
    if alone or not is_parametrized(module, name):
        p = _parameter_of(owner, module, name)
        if isinstance(p, Computed):
            raise ValueError(f"{owner}: {name} must not be computed already")
        made = Parametrizations(originals(p))
        delattr(module, name)
        if "parametrizations" not in vars(module):
            module.parametrizations = ModuleDict()
        _all_of(module)[name] = made
        made._set_frozen(module._frozen)
    made = _list_of(module, name)
    made.add(parametrization)
    try:
        found, (_, original) = getattr(module, name), made.own_parameters()[-1]
        if found.shape != original.shape:
            raise ValueError(f"{owner}: what is computed for {name} must have shape {original.shape}, got "
                             f"{found.shape}")
    except BaseException as fault:
        if p is None:
            delattr(made, made.named_children()[-1][0])
        else:
            _take_back(module, name, p)
            for attribute in order:     # that of the Parameters
                vars(module)[attribute] = vars(module).pop(attribute)
        if isinstance(fault, RecursionError):
            raise ValueError(f"{owner}: what computes {name} must not read it from the layer") from None
        raise
    return module


def _take_back(module: Module, name: str, p: Parameter) -> None:
    """Give a module a Parameter again that was computed."""
    left = {key: value for key, value in _all_of(module).items() if key != name}
    if left:
        module.parametrizations = ModuleDict(left)
    else:
        del module.parametrizations     # type: ignore[attr-defined]
    setattr(module, name, p)
