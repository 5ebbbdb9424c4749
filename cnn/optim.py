"""Optimizers with PyTorch's defaults and update rules.

An optimizer lays its parameters side by side in one flat array and their gradients in another, group after
group, so that a step is a single pass over them. The rules stand in _ext/update.pyx; their NumPy twins in
reference/update.py.
"""
import weakref
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from cnn import shapes
from cnn.engine import parameter
from cnn.engine.memory import zeros
from cnn.engine.plan import Program, circumstances
from cnn.engine.programs import Pool, Use, guards
from cnn.engine.watch import Stamp

APART = 4096        # numbers: parameters side by side that are updated together


class Optimizer:
    """Base class.

    params: a list of distinct Parameters, or of PyTorch's parameter groups: dicts with such a list under
        "params" and the options in which the group differs from what the optimizer is given, "lr" among them.
    lr: the learning rate, which may be set at any time; a group with its own keeps its ratio to this one.

    Raises TypeError or ValueError for arguments that do not fit.
    """

    kernel = None       # the update's name in _ext/update.pyx

    def __init__(self, params, lr, **options):
        name = type(self).__name__
        self._norm = np.zeros(1)
        self.lr = lr
        defaults = self._checked(**options)
        self._groups = [self._group(entry, defaults) for entry in _entries(name, params)]
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

    def __getstate__(self):     # programs are no state, and a copy's parameters are laid side by side when needed
        own = {"_data", "_grad", "_programs", "_stamp"}
        return {name: value for name, value in vars(self).items() if name not in own}

    def __setstate__(self, state):
        vars(self).update(state, _data=None, _grad=None, _programs=Pool(), _stamp=Stamp())

    def _group(self, entry, defaults):
        """The group that a dict describes."""
        name = type(self).__name__
        known = {"params", "lr", *defaults}
        if "params" not in entry or set(entry) - known:
            raise ValueError(f"{name}: params: a group must have params and may have "
                             f"{', '.join(sorted(known - {'params'}))}, got {', '.join(map(str, entry))}")
        params = _parameters(name, entry["params"])
        lr = shapes.number(name, "lr", entry.get("lr", self.lr), 0)
        if lr != self.lr and self.lr == 0:
            raise ValueError(f"{name}: lr must be above 0 where a group has its own, got 0")
        options = {key: entry.get(key, value) for key, value in defaults.items()}
        return _Group(params, lr / self.lr if lr != self.lr else 1.0, self._checked(**options))

    @property
    def lr(self):
        return self._lr

    @lr.setter
    def lr(self, value):
        self._lr = float(shapes.number(type(self).__name__, "lr", value, 0))

    @property
    def steps(self):
        """Updates made so far (int)."""
        return int(self._steps[0])

    @property
    def param_groups(self):
        """A tuple of dicts, to read only: each group's "params", its "lr" as it is now, and its other options."""
        return tuple(MappingProxyType({"params": group.params, "lr": self.lr * group.lr_scale, **group.options})
                     for group in self._groups)

    @property
    def grad_norm(self):
        """Norm of all gradients before the last clipped step (float)."""
        return float(self._norm[0])

    def _checked(self, **options):
        """A group's options as they should be; raises TypeError or ValueError for wrong ones."""
        raise NotImplementedError

    def _buffers(self, options):
        """Names of the state arrays that such a group needs, in the kernel's words."""
        raise NotImplementedError

    def _arguments(self, options):
        """The kernel's sizes and scalars for such a group."""
        return options

    def step(self):
        """Update every parameter from its `grad`. Waits for other threads that are just using them."""
        use = Use(type(self).__name__)
        try:
            use.take(guards(self.params), alone=True)
            self.settle()
            use.take(guards(self.params), alone=True)       # they are others where the parameters have moved
            self._programs.run((self.key(), circumstances()), self._written)
        finally:
            use.leave()

    def _written(self):
        program = Program(self._data.dtype, 1)
        self.emit(program)
        program.compile()
        return program

    def key(self):
        """What a program with this optimizer's updates is made from, besides what is computed before them."""
        return self._stamp.number, *(p.requires_grad for p in self.params)

    def emit(self, program, max_norm=None):
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
        optimizer, number = weakref.ref(self), program.count(self._steps)

        def begin(step):
            now.array[step] = optimizer().lr, 1.0, number(step)     # no clipping, unless the program finds a factor
        program.on_run(begin)

    def _trainable(self):
        """Where in the flat arrays the parameters lie that require gradients: (group, first, last). Small ones are
        merged; large ones are not, because cut by itself each meets the threads that have computed its gradient."""
        ranges, at = [], 0
        for group in self._groups:
            for p in group.params:
                if (p.requires_grad and ranges and ranges[-1][0] is group and ranges[-1][2] == at
                        and at + p.size - ranges[-1][1] <= APART):
                    ranges[-1][2] = at + p.size
                elif p.requires_grad:
                    ranges.append([group, at, at + p.size])
                at += p.size
        return ranges

    def settle(self):
        """Lay the parameters side by side again where something else has moved them since."""
        at = 0 if self._data is None else self._data.ctypes.data
        for p in self.params:
            if p.data.ctypes.data != at or p.dtype != self._data.dtype:
                self._data, self._grad = parameter.flatten(self.params)
                self.state = {name: values.astype(self._data.dtype) for name, values in self.state.items()}
                self._stamp.new()
                return
            at += p.size * p.dtype.itemsize

    # ------------------------------------------------------------ state

    def _new_state(self, groups):
        names = dict.fromkeys(name for group in groups for name in self._buffers(group.options))
        return {name: zeros(self._data.size, self._data.dtype) for name in names}

    def state_dict(self):
        """What the next updates depend on besides parameters and gradients, exact to the bit.

        Returns a dict: "steps" (int), "lr" (float) and "param_groups" (a list with a dict of each group's options,
        its "lr_scale" and its parameters' "shapes"), which JSON can hold, and by name a copy of every state array,
        (total size of the parameters,), in the order of the groups.
        """
        groups = [{"shapes": _shapes(group.params), "lr_scale": group.lr_scale, **group.options}
                  for group in self._groups]
        return {"steps": self.steps, "lr": self.lr, "param_groups": groups,
                **{name: values.copy() for name, values in self.state.items()}}

    def load_state_dict(self, state):
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

    def _loaded(self, owner, group, entry):
        """The group with the options of an entry of `state_dict`."""
        keys = "shapes", "lr_scale", *group.options
        if set(entry) != set(keys):
            raise ValueError(f"{owner}: param_groups must have {', '.join(keys)}, got {', '.join(map(str, entry))}")
        if entry["shapes"] != _shapes(group.params):
            raise ValueError(f"{owner}: param_groups must have parameters of the shapes {_shapes(group.params)}, got "
                             f"{entry['shapes']}")
        options = self._checked(**{key: entry[key] for key in group.options})
        return _Group(group.params, shapes.number(owner, "lr_scale", entry["lr_scale"], 0), options)


class _Group:
    """Parameters that are updated alike: lr_scale times the optimizer's learning rate, with these options."""

    def __init__(self, params, lr_scale, options):
        self.params, self.lr_scale, self.options = params, lr_scale, options


def _entries(name, params):
    """The groups as dicts; a list of Parameters is one."""
    try:
        params = list(params)
    except TypeError:
        raise TypeError(f"{name}: params must be a list of Parameters, got {type(params).__name__}") from None
    if params and all(isinstance(entry, Mapping) for entry in params):
        return params
    return [{"params": params}]


def _parameters(name, params):
    try:
        params = list(params)
    except TypeError:
        raise TypeError(f"{name}: params must be a list of Parameters, got {type(params).__name__}") from None
    for p in params:
        if not isinstance(p, parameter.Parameter):
            raise TypeError(f"{name}: params must be Parameters, got {type(p).__name__}")
    return params


def _shapes(params):
    return [list(p.shape) for p in params]


def split_biases(params, **options):
    """Two parameter groups: the weights, and with these options what has one axis (biases, a norm's two arrays).

        SGD(split_biases(model.parameters(), weight_decay=0), lr=0.1, weight_decay=5e-4)

    params: Parameters, each of which keeps its place among those of its group. Raises TypeError for others.
    """
    params = _parameters("split_biases", params)
    return [{"params": [p for p in params if len(p.shape) > 1]},
            {"params": [p for p in params if len(p.shape) <= 1], **options}]


def parameter_groups(params, lr, weight_decay=0.0, bias_lr=1.0, decay_biases=True):
    """Parameter groups by what a parameter is: biases (and all else of one axis) apart, as is each `lr_scale`.

        SGD(parameter_groups(model.parameters(), lr=0.1, weight_decay=5e-4, bias_lr=2), lr=0.1)

    A parameter's learning rate is lr times its `lr_scale`, and for biases times bias_lr, above 0; its weight decay
    is divided by the same, so that what decay takes off in a step of SGD stays. decay_biases: false leaves biases
    without weight decay. Parameters that are alike keep their order. Raises TypeError or ValueError for arguments
    that do not fit.
    """
    name, groups = "parameter_groups", {}
    lr, weight_decay = shapes.number(name, "lr", lr, 0), shapes.number(name, "weight_decay", weight_decay, 0)
    bias_lr = shapes.number(name, "bias_lr", bias_lr, above=0)
    for p in _parameters(name, params):
        bias = len(p.shape) <= 1
        factor = p.lr_scale * bias_lr if bias else p.lr_scale
        decay = weight_decay / factor if decay_biases or not bias else 0.0
        groups.setdefault((factor, decay), []).append(p)
    return [{"params": alike, "lr": lr * factor, "weight_decay": decay} for (factor, decay), alike in groups.items()]


class SGD(Optimizer):
    """v = momentum v + g, w -= lr v; with Nesterov w -= lr (g + momentum v); g includes weight_decay * w.

    Sutskever et al. 2013, in PyTorch's form.
    """

    kernel = "sgd"

    def __init__(self, params, lr=0.001, momentum=0.0, nesterov=False, weight_decay=0.0):
        super().__init__(params, lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)

    def _checked(self, momentum, nesterov, weight_decay):
        momentum = shapes.number("SGD", "momentum", momentum, 0)
        if nesterov and momentum == 0:
            raise ValueError("SGD: nesterov needs a momentum above 0, got 0")
        return {"momentum": momentum, "nesterov": bool(nesterov),
                "weight_decay": shapes.number("SGD", "weight_decay", weight_decay, 0)}

    def _buffers(self, options):
        return ["velocity"] if options["momentum"] else []


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015); weight_decay * w is a part of the gradient."""

    kernel, decoupled = "adam", False

    def __init__(self, params, lr=0.001, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
        super().__init__(params, lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def _checked(self, betas, eps, weight_decay):
        name = type(self).__name__
        try:
            beta1, beta2 = betas
        except (TypeError, ValueError):
            raise ValueError(f"{name}: betas must be two numbers, got {betas!r}") from None
        return {"betas": tuple(shapes.number(name, "betas", b, 0, below=1) for b in (beta1, beta2)),
                "eps": shapes.epsilon(name, eps),
                "weight_decay": shapes.number(name, "weight_decay", weight_decay, 0)}

    def _buffers(self, options):
        return ["m", "v"]

    def _arguments(self, options):
        beta1, beta2 = options["betas"]
        return {"decoupled": self.decoupled, "beta1": beta1, "beta2": beta2, "eps": options["eps"],
                "weight_decay": options["weight_decay"]}


class AdamW(Adam):
    """Adam with decoupled weight decay, w -= lr weight_decay w (Loshchilov & Hutter 2019)."""

    decoupled = True

    def __init__(self, params, lr=0.001, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
        super().__init__(params, lr, betas, eps, weight_decay)


class RMSprop(Optimizer):
    """w -= lr g / (sqrt(s) + eps), s the running mean of g^2 (Tieleman & Hinton 2012).

    centered takes the running mean of g off under the root (Graves 2013); momentum as in SGD.
    """

    kernel = "rmsprop"

    def __init__(self, params, lr=0.01, alpha=0.99, eps=1e-8, weight_decay=0.0, momentum=0.0, centered=False):
        super().__init__(params, lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum,
                         centered=centered)

    def _checked(self, alpha, eps, weight_decay, momentum, centered):
        return {"alpha": shapes.number("RMSprop", "alpha", alpha, 0, 1),
                "eps": shapes.epsilon("RMSprop", eps),
                "weight_decay": shapes.number("RMSprop", "weight_decay", weight_decay, 0),
                "momentum": shapes.number("RMSprop", "momentum", momentum, 0), "centered": bool(centered)}

    def _buffers(self, options):
        return ["square", *(["mean"] if options["centered"] else []), *(["velocity"] if options["momentum"] else [])]

    def _arguments(self, options):
        return {name: options[name] for name in ("alpha", "eps", "weight_decay", "momentum")}


OPTIMIZERS = {"sgd": SGD, "adam": Adam, "adamw": AdamW, "rmsprop": RMSprop}


def clip_grad_norm(params, max_norm):
    """Scale the gradients of `params` so that their norm, taken together, is at most max_norm.

    Returns the norm before (float), computed in float64. PyTorch's rule: the factor is
    max_norm / (norm + 1e-6), at most 1.
    """
    max_norm = shapes.number("clip_grad_norm", "max_norm", max_norm, 0)
    params = [p for p in params if p.requires_grad]
    norm = float(np.sqrt(sum(float(np.square(p.grad, dtype=np.float64).sum()) for p in params)))
    factor = max_norm / (norm + 1e-6)
    if factor < 1:
        for p in params:
            p.grad *= p.dtype.type(factor)
    return norm
