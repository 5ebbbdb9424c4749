"""The base class of optimizers.

An optimizer lays its parameters side by side in one flat array and their gradients in another, group after
group, so that a step is a single pass over them. The rules stand in _ext/update.pyx; their NumPy twins in
reference/update.py.
"""
from __future__ import annotations

import weakref
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from cnn import hints, shapes
from cnn.engine import backend, parameter
from cnn.engine.memory import zeros
from cnn.engine.program import Program
from cnn.engine.programs import Pool, Use, circumstances, guards
from cnn.engine.watch import Stamp
from cnn.optim.groups import Group, checked_parameters, entries, shapes_of

if TYPE_CHECKING:
    from typing import Any

    from cnn.optim.groups import Params

APART = 4096        # numbers: parameters side by side that are updated together


class Optimizer:
    """Base class.

    params: a list of distinct Parameters, or of (name, Parameter) pairs, or of PyTorch's parameter groups: dicts with
        such a list under "params" and the options in which the group differs from what the optimizer is given, "lr"
        among them. `named_groups` makes them from names.
    lr: the learning rate, which may be set at any time; a group with its own keeps its ratio to this one.

    Raises TypeError or ValueError for arguments that do not fit.
    """

    kernel = ""         # the update's name in _ext/update.pyx
    added: Mapping[str, Any] = MappingProxyType({})     # options that states of earlier versions lack, and their values

    def __init__(self, params: Params, lr: float, **options: Any) -> None:
        name = type(self).__name__
        self._norm = np.zeros(1)
        self.lr = lr
        defaults = self._checked(**options)
        self._groups = [self._group(entry, defaults) for entry in entries(name, params)]
        self.params = [p for group in self._groups for p in group.params]
        if not self.params:
            raise ValueError(f"{name}: params must hold at least one Parameter, got an empty list")
        if len({id(p) for p in self.params}) != len(self.params):
            raise ValueError(f"{name}: params has the same Parameter more than once")
        if len({p.dtype for p in self.params}) > 1:
            raise ValueError(f"{name}: params must share one dtype, got "
                             f"{', '.join(sorted({str(p.dtype) for p in self.params}))}")
        self._steps = np.zeros(1, np.int64)
        self._stamp, self._programs = Stamp(), Pool()
        self._data, self._grad = parameter.flatten(self.params)
        self.state = self._new_state(self._groups)

    if not TYPE_CHECKING:
        def __getattr__(self, name: str) -> Any:
            raise hints.missing(f"{type(self).__name__!r} object", name, hints.OF_OPTIMIZERS)

    # programs are no state, and a copy's parameters are laid side by side when needed
    def __getstate__(self) -> dict:
        own = {"_data", "_grad", "_programs", "_stamp"}
        return {name: value for name, value in vars(self).items() if name not in own}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state, _data=None, _grad=None, _programs=Pool(), _stamp=Stamp())

    def _group(self, entry: Mapping, defaults: dict) -> Group:
        """The group that a dict describes."""
        name = type(self).__name__
        known = {"params", "lr", *defaults}
        if "params" not in entry or set(entry) - known:
            raise ValueError(f"{name}: params: a group must have params and may have "
                             f"{', '.join(sorted(known - {'params'}))}, got {', '.join(map(str, entry))}")
        params = checked_parameters(name, entry["params"])
        lr = shapes.number(name, "lr", entry.get("lr", self.lr), 0)
        if lr != self.lr and self.lr == 0:
            raise ValueError(f"{name}: lr must be above 0 where a group has its own, got 0")
        options = {key: entry.get(key, value) for key, value in defaults.items()}
        return Group(params, lr / self.lr if lr != self.lr else 1.0, self._checked(**options))

    @property
    def lr(self) -> float:
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr = float(shapes.number(type(self).__name__, "lr", value, 0))

    @property
    def steps(self) -> int:
        """Updates made so far (int)."""
        return int(self._steps[0])

    @property
    def param_groups(self) -> tuple[Mapping[str, Any], ...]:
        """A tuple of dicts, to read only: each group's "params", its "lr" as it is now, and its other options."""
        return tuple(MappingProxyType({"params": group.params, "lr": self.lr * group.lr_scale, **group.options})
                     for group in self._groups)

    @property
    def grad_norm(self) -> float:
        """Norm of all gradients before the last clipped step (float)."""
        return float(self._norm[0])

    def _checked(self, *none: Any, **options: Any) -> dict:
        """A group's options as they should be; raises TypeError or ValueError for wrong ones."""
        raise NotImplementedError

    def _buffers(self, options: dict) -> list[str]:
        """Names of the state arrays that such a group needs, in the kernel's words."""
        raise NotImplementedError

    def _arguments(self, options: dict) -> dict:
        """The kernel's sizes and scalars for such a group."""
        return options

    def step(self) -> None:
        """Update every parameter from its `grad`. Waits for other threads that are just using them."""
        use = Use(type(self).__name__)
        try:
            use.take(guards(self.params), alone=True)
            self.settle()
            use.take(guards(self.params), alone=True)       # they are others where the parameters have moved
            if backend.by_twins():
                from cnn.optim import by_twin  # here, because most programs do without
                by_twin.step(self)
                return
            self._programs.run((self.key(), circumstances()), self._written)
        finally:
            use.leave()

    def _written(self) -> Program:
        program = Program(self._data.dtype, 1)
        self.emit(program)
        program.compile()
        return program

    def key(self) -> tuple:
        """What a program with this optimizer's updates is made from, besides what is computed before them."""
        return self._stamp.number, *(p.requires_grad for p in self.params)

    def emit(self, program: Program, max_norm: float | None = None) -> None:
        """Add the update to a program, after everything that it holds so far; `settle` comes before.

        max_norm: scale all gradients down where their norm, taken together, is larger.
        """
        chunks, now, data, grad = program.kernels.pack.chunks, program.per_step(3), self._data, self._grad
        ranges = [(group, slice(first, last), chunks(last - first)) for group, first, last in self._trainable()]
        if max_norm is not None:
            parts, first = np.zeros(max(1, sum(tasks for _, _, tasks in ranges))), 0
            program.cut()
            for _, span, tasks in ranges:
                part = parts[first:first + tasks]
                program.before("square_sum", lambda span=span, part=part: dict(
                    g=grad[span], part=part, count=span.stop - span.start), tasks)
                first += tasks
            program.cut()
            norm = self._norm
            program.before("clip_factor", lambda: dict(part=parts, now=now, norm=norm, count=len(parts),
                                                       max_norm=max_norm), 1)
        program.cut()
        for group, span, tasks in ranges:
            arguments = dict(w=data[span], g=grad[span], now=now, count=span.stop - span.start,
                             lr_scale=group.lr_scale, **self._arguments(group.options),
                             **{name: self.state[name][span] for name in self._buffers(group.options)})
            program.before(self.kernel, lambda arguments=arguments: arguments, tasks)
        # a program that referred to its optimizer would make a circle
        optimizer, number = weakref.proxy(self), program.count(self._steps)

        def begin(step: int) -> None:
            now.array[step] = optimizer.lr, 1.0, number(step)     # no clipping, unless the program finds a factor
        program.on_run(begin)

    def _trainable(self) -> list:
        """Where in the flat arrays the parameters lie that require gradients: (group, first, last). Small ones are
        merged; large ones are not, because cut by itself each meets the threads that have computed its gradient."""
        ranges: list[list] = []
        at = 0
        for group in self._groups:
            for p in group.params:
                if (p.requires_grad and ranges and ranges[-1][0] is group and ranges[-1][2] == at
                        and at + p.numel() - ranges[-1][1] <= APART):
                    ranges[-1][2] = at + p.numel()
                elif p.requires_grad:
                    ranges.append([group, at, at + p.numel()])
                at += p.numel()
        return ranges

    def settle(self) -> None:
        """Lay the parameters side by side again where something else has moved them since."""
        at = 0 if self._data is None else self._data.ctypes.data
        for p in self.params:
            if p.data.ctypes.data != at or p.dtype != self._data.dtype:
                self._data, self._grad = parameter.flatten(self.params)
                self.state = {name: values.astype(self._data.dtype) for name, values in self.state.items()}
                self._stamp.new()
                return
            at += p.numel() * p.dtype.itemsize

    # ------------------------------------------------------------ state

    def _new_state(self, groups: list[Group]) -> dict[str, np.ndarray]:
        names = dict.fromkeys(name for group in groups for name in self._buffers(group.options))
        return {name: zeros(self._data.size, self._data.dtype) for name in names}

    def state_dict(self) -> dict[str, Any]:
        """What the next updates depend on besides parameters and gradients, exact to the bit.

        Returns a dict: "steps" (int), "lr" (float) and "param_groups" (a list with a dict of each group's options,
        its "lr_scale" and its parameters' "shapes"), which JSON can hold, and by name a copy of every state array,
        (total size of the parameters,), in the order of the groups.
        """
        groups = [{"shapes": shapes_of(group.params), "lr_scale": group.lr_scale, **group.options}
                  for group in self._groups]
        return {"steps": self.steps, "lr": self.lr, "param_groups": groups,
                **{name: values.copy() for name, values in self.state.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned; as in PyTorch the options are taken over too.

        Raises TypeError or ValueError, before anything is changed, for what is no state of such an optimizer
        with groups of parameters of the same shapes.
        """
        owner, numbers = f"{type(self).__name__}.load_state_dict", ("steps", "lr", "param_groups")
        if not isinstance(state, Mapping):
            raise TypeError(f"{owner}: state must be a dict, got {type(state).__name__}")
        if not set(numbers) <= set(state):
            raise ValueError(f"{owner}: state must have {', '.join(numbers)}, got {', '.join(map(str, state))}")
        steps = shapes.integer(owner, "steps", state["steps"])
        lr = shapes.number(owner, "lr", state["lr"], 0)
        saved = state["param_groups"]
        if not isinstance(saved, (list, tuple)) or not all(isinstance(entry, Mapping) for entry in saved):
            raise TypeError(f"{owner}: param_groups must be a list of dicts, got {type(saved).__name__}")
        if len(saved) != len(self._groups):
            raise ValueError(f"{owner}: param_groups must be {len(self._groups)} groups, got {len(saved)}")
        groups = [self._loaded(owner, group, entry) for group, entry in zip(self._groups, saved, strict=True)]
        self.settle()
        arrays = self._new_state(groups)
        if set(state) != {*numbers, *arrays}:
            raise ValueError(f"{owner}: state must have {', '.join((*numbers, *arrays))}, "
                             f"got {', '.join(map(str, state))}")
        for name, array in arrays.items():
            array[...] = shapes.array(owner, name, state[name], array.shape)
        self.lr, self._groups, self.state = lr, groups, arrays
        self._steps[0] = steps
        self._stamp.new()       # programs know the options and the arrays from before

    def _loaded(self, owner: str, group: Group, entry: Mapping) -> Group:
        """The group with the options of an entry of `state_dict`."""
        keys, entry = ("shapes", "lr_scale", *group.options), {**self.added, **entry}
        if set(entry) != set(keys):
            raise ValueError(f"{owner}: param_groups must have {', '.join(keys)}, got {', '.join(map(str, entry))}")
        if entry["shapes"] != shapes_of(group.params):
            raise ValueError(f"{owner}: param_groups must have parameters of the shapes {shapes_of(group.params)}, got "
                             f"{entry['shapes']}")
        options = self._checked(**{key: entry[key] for key in group.options})
        return Group(group.params, shapes.number(owner, "lr_scale", entry["lr_scale"], 0), options)
