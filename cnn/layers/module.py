"""The base class of all layers and networks."""
from __future__ import annotations

import math
from types import FunctionType
from typing import TYPE_CHECKING

from cnn import shapes
from cnn._ext.guard import Guard
from cnn.engine import parameter
from cnn.engine.parameter import Parameter
from cnn.engine.programs import Pool
from cnn.engine.watch import Stamp, WatchedDict, WatchedList
from cnn.graph.derived import Derived, awaited
from cnn.layers import in_numpy, running
from cnn.layers.parts import Parts, Signature, evaluates, image_shape, run_alone
from cnn.layers.spelled import Spelled
from cnn.layers.state import IncompatibleKeys, load_state

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any, Self

    import numpy as np
    from numpy.typing import ArrayLike, DTypeLike

    from cnn.graph import Graph
    from cnn.layers.summary import Summary

# Attributes that are no state; those, and what stands in a program's key itself, are changed without a new stamp.
_TRANSIENT = {"_stamp", "_known", "_programs", "_guard", "_last", "_pieces", "_keeps", "_seen_shapes"}
_UNWATCHED = _TRANSIENT | {"training", "_mode", "_training", "_frozen"}
# What cannot change without notice: a stamp tells, or nothing can.
_SETTLED = (int, float, str, bytes, type(None), type, FunctionType, Parameter, WatchedDict, WatchedList)


class Module(Spelled):
    """A differentiable function with parameters: a layer, or a network made of others.

    A subclass defines `forward`, which calls other modules and functions of `cnn.functional`:

        >>> class Net(cnn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.conv, self.head = cnn.Conv2d(1, 8, 3, padding=1), cnn.Linear(8, 10)
        ...
        ...     def forward(self, x):
        ...         x = cnn.functional.relu(self.conv(x)) + x
        ...         return self.head(x.mean((2, 3)))
        >>> model = Net()
        >>> model(np.zeros((5, 1, 28, 28), np.float32)).shape
        (5, 10)

    `forward` is traced once per shape and mode, on values (cnn.Value), which have a shape and no elements. The trace
    becomes a program of the kernels, with its gradients. `forward` may take several inputs and return several outputs,
    as a tuple or a dict. The module notices changes of its attributes at the next call, also of lists, dicts and
    objects among them. It does not notice a changed global variable, or changed elements of an array of more than 16.

    A layer written in NumPy defines `forward(x)` and `backward(dy, need_dx=True)`, both on arrays.

    Attributes that are modules or Parameters belong to the module: they are trained and saved. So are those in lists;
    a ModuleList is best. Keys are PyTorch's.

    Attributes: `training` (see `train`, `eval` and `freeze`). Other state, which is saved with the parameters, is
    registered by `register_buffer`.

    Any number of threads may call a module in evaluation mode at once, with the results of one thread. Calls in
    training mode wait for each other.
    """

    in_numpy = False        # whether it has a backward of its own, on arrays
    _stamp: Stamp           # changes with every change of an attribute
    _known: Parts | None    # see _parts
    _programs: Pool
    _frozen: bool
    _buffers: dict[str, np.ndarray]

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        cls.in_numpy = cls.backward is not Module.backward
        for name in ("forward", "__call__"):
            method = getattr(cls, name)     # which may come from a base class that is no module
            if method is not getattr(Module, name) and not hasattr(method, "runs"):
                if not cls.in_numpy:
                    setattr(cls, name, running.also_on_arrays(method))
                elif name == "__call__":
                    setattr(cls, name, running.also_on_values(method))

    __signature__ = Signature()

    def __new__(cls, *arguments: Any, **more: Any) -> Self:
        module = super().__new__(cls)
        vars(module).update(_stamp=Stamp(), _known=None, _programs=Pool(), _guard=Guard(), _last=None, _pieces={},
                            _keeps=False, _seen_shapes=set())      # before any attribute is set
        module._mode, module._training, module._frozen, module._buffers = True, True, False, {}
        return module

    def __init__(self) -> None:
        pass        # whoever forgets to call it has lost nothing

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, WatchedDict(self._stamp, value) if name == "_buffers" else value)
        if name not in _UNWATCHED:
            self._stamp.new()

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        self._stamp.new()

    def __getstate__(self) -> dict:
        return {name: value for name, value in tuple(vars(self).items()) if name not in _TRANSIENT}

    def __setstate__(self, state: dict) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    # ------------------------------------------------------------ running

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """The output y for the input x, (N, C, H, W), (N, C, L) or (N, features).

        Arrays must have the dtype of the parameters, float32 or float64; the outputs are then arrays, too. N may be 0.
        If a layer of the model is in training mode, the model keeps what `backward` needs.

        Raises TypeError or ValueError where dtype or shape do not fit, RuntimeError where another thread is training
        the model (Trainer.fit).
        """
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        value = running.traced(inputs, options)
        if value is not None:
            return running.add_call(self, inputs, options, value)
        if in_numpy.seen.get() is not None and inputs:
            return in_numpy.noted(self, inputs[0])
        if not self.in_numpy:
            return self.forward(*inputs, **options)
        return run_alone(self, inputs, options)

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        """Set every parameter's `grad` and return dx, for the last `forward` in training mode.

        dy: the gradient of the loss by y, of y's shape and dtype; where forward returns several outputs, a tuple or
        dict like it, with None for those that the loss does not depend on. Returns dx of x's shape, a tuple if
        there are several inputs, or None without `need_dx`. The gradient of a parameter that is used several times
        is the sum over its uses. Raises RuntimeError without such a `forward`, or if the model has changed since.
        """
        return running.backward(self, dy, need_dx)

    def graph(self, *image_shapes: Sequence[int]) -> Graph:
        """The graph of the module for inputs of these shapes of one image, (C, H, W) or (features,), as it is compiled
        in its present mode: print it for a table of nodes, their shapes and parameters, and what is done in one.

        Raises TypeError or ValueError for shapes that do not fit.
        """
        return running.compiled_graph(self, [image_shape(type(self).__name__, shape) for shape in image_shapes])

    def image_axes(self) -> int | None:
        """How many axes an image has, where the module takes one without the axis of images, as PyTorch's layers do;
        else None."""
        return None

    def _checked(self, name: str, x: np.ndarray, dtype: DTypeLike | None = None, numbers: bool = False) -> np.ndarray:
        """x as a contiguous array that the kernels can read."""
        owner = type(self).__name__
        x = shapes.images(owner, name, x, dtype or self.dtype, numbers)
        if 0 in x.shape[1:]:
            raise ValueError(f"{owner}: every image of {name} must have pixels, got shape {x.shape}")
        shapes.element_count(owner, *x.shape)
        return x

    # ------------------------------------------------------------ parts

    @property
    def fused(self) -> bool:
        """Whether all of it can be one program: no layer in it is written in NumPy."""
        return self._parts().fused

    @property
    def dtype(self) -> np.dtype | None:
        """The dtype of the parameters and buffers; None if the module has none, and takes any dtype."""
        return self._parts().dtype

    def _parts(self) -> Parts:
        """All modules and parameters inside, looked up anew only where something has changed."""
        parts = self._known
        if parts is None or not parts.current():
            parts = self._known = Parts(self)
        return parts

    def _is_watched(self) -> bool:
        """Whether a change of the modules and parameters inside changes its stamp."""
        return type(self).named_children.__module__.startswith("cnn.layers.") and not (
            type(self).named_children is Module.named_children and any(
                type(value) in (list, tuple) and any(isinstance(v, (Module, Parameter)) for v in value)
                for value in tuple(vars(self).values())))

    def _unwatched(self) -> list[tuple[str, Any]]:
        """(name, value) of attributes that may change without notice and that its `forward` may look at."""
        if self.in_numpy or type(self).__module__.startswith("cnn."):
            return []
        return [(name, value) for name, value in tuple(vars(self).items())
                if not isinstance(value, (Module, *_SETTLED)) and name not in _TRANSIENT]

    def made_of(self) -> tuple:
        """A tuple that compares equal as long as no layer or parameter inside is replaced, moved or set otherwise."""
        return self._parts().key

    def modes(self) -> tuple[bool, ...]:
        """Which of `modules` are in training mode, in this thread: a tuple of bools."""
        return self._parts().modes(self)

    def named_children(self) -> list[tuple[str, Module]]:
        """(name, layer) of the layers directly inside this one: its attributes, and what lists among them hold."""
        return self._held(Module)

    def modules(self) -> Iterator[Module]:
        """This layer and all layers inside it."""
        yield self
        for _, child in self.named_children():
            yield from child.modules()

    def own_parameters(self) -> list[tuple[str, Parameter]]:
        """(name, Parameter) of this layer itself: its attributes, and what lists among them hold."""
        held = self._held(Parameter)
        return [*(pair for pair in held if "." not in pair[0]), *(pair for pair in held if "." in pair[0])]

    def _held(self, kind: type) -> list[tuple[str, Any]]:
        """(name, value) of attributes of a kind, and of what is of that kind in lists and tuples among them."""
        result: list[tuple[str, Any]] = []
        for name, value in tuple(vars(self).items()):
            if isinstance(value, kind):
                result.append((name, value))
            elif isinstance(value, (list, tuple)):
                result += [(f"{name}.{i}", v) for i, v in enumerate(value) if isinstance(v, kind)]
        return result

    def named_parameters(self, prefix: str = "") -> list[tuple[str, Parameter]]:
        """List of (name, Parameter), named as PyTorch does: "0.weight", "3.bias"; one that several layers share is
        listed once. prefix: what all names begin with."""
        result: dict[int, tuple[str, Parameter]] = {}
        for name, p in self._named(prefix):
            result.setdefault(id(p), (name, p))
        return list(result.values())

    def _named(self, prefix: str) -> list[tuple[str, Parameter]]:
        """As `named_parameters`, shared ones under each of their names."""
        result = [(prefix + name, p) for name, p in self.own_parameters()]
        for name, child in self.named_children():
            result += child._named(f"{prefix}{name}.")
        return result

    def parameters(self) -> list[Parameter]:
        """List of all Parameters."""
        return [p for _, p in self.named_parameters()]

    def named_buffers(self, prefix: str = "") -> list[tuple[str, np.ndarray]]:
        """List of (name, array) of what is saved with the parameters but not learnt: running statistics. prefix: what
        all names begin with."""
        result = [(prefix + name, array) for name, array in self._buffers.items()]
        for name, child in self.named_children():
            result += child.named_buffers(f"{prefix}{name}.")
        return result

    # ------------------------------------------------------------ state

    def train(self, mode: bool = True) -> Self:
        """Training mode (dropout drops), but for frozen layers; returns the layer. Raises TypeError for no bool."""
        for layer in self.modules():
            layer.training = shapes.flag(type(self).__name__, "mode", mode)
        return self

    def eval(self) -> Self:
        """Switch to evaluation mode; returns the layer."""
        return self.train(False)

    @property
    def training(self) -> bool:
        """Whether the layer is in training mode; in this thread, where a Trainer is measuring in it."""
        return self._training and not evaluates(self)

    @training.setter
    def training(self, value: bool) -> None:
        self._mode = bool(value)
        self._training = self._mode and not self._frozen

    def freeze(self) -> Self:
        """Keep this layer and all inside as they are until `unfreeze`, whatever `train` says; returns the layer.

        It stays in evaluation mode (norms use their running statistics and leave them alone, dropout does nothing)
        and its parameters get no gradients and no updates.
        """
        return self._set_frozen(True)

    def unfreeze(self) -> Self:
        """Undo `freeze`: mode and `requires_grad` are what they would be without it; returns the layer."""
        return self._set_frozen(False)

    def _set_frozen(self, frozen: bool) -> Self:
        for layer in self.modules():
            layer._frozen = frozen
            layer.training = layer._mode
            for _, p in layer.own_parameters():
                p._frozen = frozen
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Set `requires_grad` of all parameters inside; returns the layer. Norms and dropout do as before: see
        `freeze`."""
        for p in self.parameters():
            p.requires_grad = requires_grad
        return self

    def to(self, dtype: DTypeLike) -> Self:
        """Change all parameters and buffers to dtype, float32 or float64, in place; returns the layer. "cpu" is where
        they are. Raises TypeError for another."""
        for p in self.parameters() if str(dtype) != "cpu" else ():
            p.to(dtype)
        for layer in self.modules() if str(dtype) != "cpu" else ():
            layer._buffers = parameter.converted(layer._buffers, dtype)
        self._programs.clear()
        self._last = None
        return self

    def _own_state(self) -> list[tuple[str, np.ndarray]]:
        """(name, array) of this layer's own parameters and buffers."""
        return [*((name, p._data) for name, p in self.own_parameters()), *self._buffers.items()]

    def _state(self, prefix: str = "") -> list[tuple[str, np.ndarray]]:
        """List of (name, array) of all parameters and buffers, in PyTorch's order."""
        result = [(prefix + name, array) for name, array in self._own_state()]
        for name, child in self.named_children():
            result += child._state(f"{prefix}{name}.")
        return result

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all parameters and buffers by name."""
        return {name: array.copy() for name, array in self._state()}

    def load_state_dict(self, state: Mapping[str, ArrayLike], strict: bool = True) -> IncompatibleKeys:
        """Take over parameters and buffers from a dict such as `state_dict` returns (a PyTorch model's, as arrays,
        fits). Returns what was left out, cnn.layers.state.IncompatibleKeys; with strict that is nothing.

        strict: false takes what fits by name and shape, and leaves the rest. Raises, before anything is changed,
        ValueError where names are missing or unknown or a shape differs (not strict: where nothing fits), TypeError
        where something holds no numbers, or no integers or bools where it has those.
        """
        return load_state(self, state, strict)

    # ------------------------------------------------------------ words

    def summary(self, shape: Sequence[int], batch_size: int | None = None) -> Summary:
        """What it is made of, as a table to print or to read (cnn.layers.summary.Summary): each layer's output
        shape, parameters, multiply-adds and memory for one image of `shape`, (C, H, W) or (features,); totals; and,
        with `batch_size`, the memory that training takes with batches of so many images.

        Raises TypeError or ValueError for a shape that does not fit the model.
        """
        from cnn.layers.summary import summarise  # here, because it is seldom needed
        return summarise(self, shape, batch_size)

    def multiply_adds(self, x_shape: tuple[int, ...], y_shape: tuple[int, ...]) -> int:
        """Multiplications with this layer's own weights in the forward pass of one image (int), padding included.

        x_shape, y_shape: of one image, (C, H, W) or (features,). Every weight of two axes or more counts once
        for each pixel of y, as is right for convolutions and linear layers; others define it anew.
        """
        weights = sum(p.numel() for _, p in self.own_parameters() if p.data.ndim > 1)
        return weights * math.prod(y_shape[1:])

    def extra_repr(self) -> str:
        """What stands between the brackets of `repr`."""
        return ""

    def __repr__(self) -> str:
        inside = [f"  ({name}): " + repr(child).replace("\n", "\n  ") for name, child in self.named_children()]
        if inside:
            return "\n".join([f"{type(self).__name__}(", *(f"  {s}" for s in [self.extra_repr()] if s), *inside, ")"])
        return f"{type(self).__name__}({self.extra_repr()})"

    def _repr_html_(self) -> str:
        from cnn.layers.summary import html_of  # here, because it is seldom needed
        return html_of(self)

    def _owned(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        """The Parameter of that name, or None where there is none; raises where it does not fit the layer."""
        p, owner = getattr(self, name), type(self).__name__
        if p is not None and not isinstance(p, (Parameter, Derived)):
            raise TypeError(f"{owner}: {name} must be a Parameter or None, got {type(p).__name__}")
        if p is not None and (p.shape != shape or p.dtype != dtype):
            raise ValueError(f"{owner}: {name} must have shape {shape} and dtype {dtype}, got {p.shape} and {p.dtype}")
        return awaited(p) if isinstance(p, Derived) else p

    def _weight(self, dtype: np.dtype, shape: tuple[int, ...], outputs: int) -> tuple[Any, Any]:
        """The Parameters `weight`, of this shape, and `bias` or None, which may be computed."""
        w = self._owned("weight", shape, dtype)
        if w is None:
            raise TypeError(f"{type(self).__name__}: weight must be a Parameter, got None")
        return w, self._owned("bias", (outputs,), w.dtype)
