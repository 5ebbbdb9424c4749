"""Checks of gradients by central differences: `cnn.gradcheck`."""
from __future__ import annotations

import copy
import inspect
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cnn import shapes
from cnn.layers import Module
from cnn.layers.criterion import Criterion

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

ROUNDING = 64 * np.finfo(np.float64).eps    # of each number that the loss is summed from


class Checked(NamedTuple):
    """What `gradcheck` has found.

    elements: how many it has compared (int). error: the largest difference between the two, divided by the largest
    number of the same gradient (float). kinks: how many elements lie at a kink, where any value between the slopes on
    both sides is right (int).
    """

    elements: int
    error: float
    kinks: int


def gradcheck(function: Any, *inputs: Sequence[int] | np.ndarray, eps: float = 1e-5, tolerance: float = 1e-6,
              seed: int = 0) -> Checked:
    """Compare a backward pass with central differences (L(x + eps) - L(x - eps)) / 2 eps, in float64.

        cnn.gradcheck(cnn.Conv2d(1, 6, 5, stride=2), (2, 1, 12, 12))
        cnn.gradcheck((linear, linear_backward), (4, 3), (2, 3), (2,))

    L is the sum of all outputs, each times a random number from 0.5 to 1.5.

    function: a Module, of which all inputs and Parameters are checked, in the mode that it is in, on a copy (dropout
        draws the same masks each time); or a pair of functions forward(*inputs), which returns y or a tuple, and
        backward(dy, *inputs), which returns the gradient of each array of floats among the inputs, in their order; or
        an object that has forward(*inputs), or is called, and then backward(dy), or backward() for a loss. Outputs that
        are integers get no dy.
    inputs: for each an array, or a shape (a tuple of ints), whose elements are then drawn from a normal distribution.
        Arrays of integers (labels), numbers (a stride), words and None are passed on as they are and not checked.
    eps: what is added to an element. tolerance: the largest difference, divided by the largest number of the same
        gradient, beyond what rounding can do. seed: of what is drawn.

    An element that fails is looked at again with smaller eps. If it lies at a kink (ReLU at 0, equal maxima), the
    slopes on both sides differ however small eps is: anything between them passes, and is counted.

    Returns a Checked. Raises AssertionError naming the argument, the index and both numbers of the worst element;
    TypeError or ValueError for arguments that do not fit. Source: Griewank and Walther 2008, chapter 3.
    """
    owner = "gradcheck"
    eps, tolerance = shapes.number(owner, "eps", eps, above=0), shapes.number(owner, "tolerance", tolerance, above=0)
    rng = np.random.default_rng(shapes.integer(owner, "seed", seed, 0, 2**63 - 1))
    arrays = [_input(i, given, rng) for i, given in enumerate(inputs)]
    if not any(map(_holds_floats, arrays)):
        raise TypeError(f"gradcheck: inputs must have an array of floats, or a shape, got {len(arrays)} inputs without "
                        f"one")
    subject = _subject(function, arrays)
    y = subject.forward()
    weights = [rng.uniform(0.5, 1.5, part.shape) for part in y]     # all above 0, or slopes at a kink might cancel
    if isinstance(subject, _Object) and subject.takes_nothing:
        weights = [np.ones(part.shape) for part in y]

    def loss() -> float:
        return sum(float((part * w).sum()) for part, w in zip(subject.forward(), weights, strict=True))

    noise = ROUNDING * sum(float(np.abs(part * w).sum()) for part, w in zip(y, weights, strict=True))
    gradients = [(name, array, _gradient(name, gradient, array)) for name, array, gradient in subject.backward(weights)]
    here, result = loss(), Checked(0, 0.0, 0)
    for name, array, gradient in gradients:
        line = _Line(array, loss, here, noise)
        error, kinks = _compare(subject.name, name, line, gradient, eps, tolerance)
        result = Checked(result.elements + array.size, max(result.error, error), result.kinks + kinks)
    return result


def _input(i: int, given: Any, rng: np.random.Generator) -> Any:
    if isinstance(given, np.ndarray) and given.dtype.kind == "f":
        return np.array(given, np.float64)
    if given is None or isinstance(given, (int, float, str)) or (
            isinstance(given, np.ndarray) and given.dtype.kind in "iub"):
        return given
    if isinstance(given, (tuple, list)):
        return rng.standard_normal(tuple(shapes.integer("gradcheck", f"shape of input {i}", side, 0) for side in given))
    raise TypeError(f"gradcheck: input {i} must be a shape or an array of numbers, got {type(given).__name__}"
                    f"{f' of {given.dtype}' if isinstance(given, np.ndarray) else ''}")


# ------------------------------------------------------------------------------------------ what can be checked


class _Module:
    """A copy of a module, which computes the same each time it is called."""

    def __init__(self, module: Module, arrays: list[np.ndarray]) -> None:
        self.name, self.arrays = type(module).__name__, arrays
        self.module = copy.deepcopy(module).to(np.float64)
        self.random = [layer for layer in self.module.modules() if isinstance(getattr(layer, "step", None), int)]
        self.steps: list[Any] = [layer.step for layer in self.random]       # type: ignore[attr-defined]
        self.buffers = [(array, array.copy()) for _, array in self.module.named_buffers()]

    def forward(self) -> list[np.ndarray]:
        for layer, step in zip(self.random, self.steps, strict=True):
            layer.step = step
        for array, before in self.buffers:
            array[...] = before
        y = self.module(*_copies(self.arrays))
        self.keys = tuple(y) if isinstance(y, dict) else None
        return _outputs(tuple(y.values()) if isinstance(y, dict) else y)

    def backward(self, dys: list[np.ndarray]) -> list[tuple[str, np.ndarray, Any]]:
        for p in self.module.parameters():
            p.grad = np.full(p.shape, math.nan)     # of one that backward forgets
        dy = dict(zip(self.keys, dys, strict=True)) if self.keys else dys[0] if len(dys) == 1 else tuple(dys)
        dxs = _parts(self.module.backward(dy))
        names = _names(type(self.module).forward, skip=1)
        return [*_each(self.name, names, self.arrays, dxs),
                *((name, p.data, p.grad.copy()) for name, p in self.module.named_parameters() if p.requires_grad)]


class _Pair:
    """Two functions, forward and backward."""

    def __init__(self, pair: Sequence[Callable], arrays: list[np.ndarray]) -> None:
        (self.run, self.back), self.arrays = pair, arrays
        names = [getattr(function, "__name__", type(function).__name__) for function in pair]
        self.name = f"the backward pass of {names[0]}" if names[1] == "<lambda>" else names[1]

    def forward(self) -> list[np.ndarray]:
        return _outputs(self.run(*_copies(self.arrays)))

    def backward(self, dys: list[np.ndarray]) -> list[tuple[str, np.ndarray, Any]]:
        dys = [dy if dy.ndim else float(dy) for dy in dys]
        return _each(self.name, _names(self.run), self.arrays, _parts(
            self.back(dys[0] if len(dys) == 1 else tuple(dys), *_copies(self.arrays))))


class _Object(_Pair):
    """An object that remembers in `forward` what `backward` needs."""

    def __init__(self, thing: Any, arrays: list[np.ndarray]) -> None:
        forward = thing if isinstance(thing, Criterion) else getattr(thing, "forward", thing)
        super().__init__((forward, thing.backward), arrays)
        self.name = f"{type(thing).__name__}.backward"
        try:
            given = inspect.signature(thing.backward).parameters.values()
            self.takes_nothing = all(parameter.default is not parameter.empty for parameter in given)
        except (TypeError, ValueError):
            self.takes_nothing = False

    def backward(self, dys: list[np.ndarray]) -> list[tuple[str, np.ndarray, Any]]:
        self.forward()
        made = self.back() if self.takes_nothing else self.back(dys[0] if len(dys) == 1 else tuple(dys))
        return _each(self.name, _names(self.run), self.arrays, _parts(made))


def _subject(function: Any, arrays: list[np.ndarray]) -> _Module | _Pair:
    if isinstance(function, Module):
        return _Module(function, arrays)
    if isinstance(function, (tuple, list)) and len(function) == 2 and all(map(callable, function)):
        return _Pair(function, arrays)
    if not isinstance(function, type) and callable(getattr(function, "backward", None)) and (
            callable(function) or callable(getattr(function, "forward", None))):
        return _Object(function, arrays)
    raise TypeError("gradcheck: function must be a Module, a pair (forward, backward) or an object with both, got "
                    f"{f'the class {function.__name__}' if isinstance(function, type) else type(function).__name__}")


def _parts(y: Any) -> list:
    return list(y) if isinstance(y, (tuple, list)) else [y]


def _outputs(y: Any) -> list[np.ndarray]:
    """Copies of the outputs that are floats."""
    parts = [np.array(part) for part in _parts(y)]
    return [part.astype(np.float64) for part in parts if part.dtype.kind == "f"]


def _holds_floats(thing: Any) -> bool:
    return isinstance(thing, np.ndarray) and thing.dtype.kind == "f"


def _copies(inputs: list) -> list:
    """So that what a function changes in place is no concern of the next call."""
    return [thing.copy() if isinstance(thing, np.ndarray) else thing for thing in inputs]


def _names(function: Callable, skip: int = 0) -> list[str]:
    """Names of a function's arguments, as far as it has names for them."""
    try:
        parameters = list(inspect.signature(function).parameters.values())[skip:]
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def _each(owner: str, names: list[str], arrays: list[np.ndarray],
          gradients: list) -> list[tuple[str, np.ndarray, Any]]:
    """(name, array, gradient) of each input that holds floats."""
    named = [(names[i] if i < len(names) else f"input {i}", array) for i, array in enumerate(arrays)]
    floats = [(name, array) for name, array in named if _holds_floats(array)]
    if len(gradients) == len(named):        # one for each input, None perhaps for integers
        gradients = [g for g, (_, array) in zip(gradients, named, strict=True) if _holds_floats(array)]
    if len(gradients) != len(floats):
        raise ValueError(f"gradcheck: {owner} must return one gradient for each of {', '.join(n for n, _ in floats)}, "
                         f"got {len(gradients)}")
    return [(name, array, gradient) for (name, array), gradient in zip(floats, gradients, strict=True)]


def _gradient(name: str, gradient: Any, array: np.ndarray) -> np.ndarray:
    gradient = np.array(math.nan if gradient is None else gradient, np.float64)
    if gradient.shape != array.shape:
        raise AssertionError(f"gradcheck: the gradient of {name} must have its shape {array.shape}, got "
                             f"{gradient.shape}")
    return gradient


# ------------------------------------------------------------------------------------------ comparing


class _Line(NamedTuple):
    """A loss as a function of the elements of an array, one at a time. here: its value; noise: of that, by rounding."""

    array: np.ndarray
    loss: Callable[[], float]
    here: float
    noise: float

    def slopes(self, place: tuple, eps: float) -> tuple[float, float, float]:
        """Below an element, across it and above it."""
        array, value = self.array, self.array[place]
        try:
            array[place] = high = value + eps
            up = self.loss()
            array[place] = low = value - eps
            down = self.loss()
        finally:
            array[place] = value
        return (self.here - down) / (value - low), (up - down) / (high - low), (up - self.here) / (high - value)


def _compare(owner: str, name: str, line: _Line, gradient: np.ndarray, eps: float,
             tolerance: float) -> tuple[float, int]:
    """The largest relative error of a gradient, and how many of its elements are at kinks; raises where one fails."""
    central = np.array([line.slopes(place, eps)[1] for place in np.ndindex(gradient.shape)]).reshape(gradient.shape)
    if np.isnan(gradient).all() and not central.any():      # of a parameter that is not used
        return 0.0, 0
    largest = float(max(np.abs(values).max(initial=0, where=np.isfinite(values)) for values in (gradient, central)))
    difference, noise = np.abs(gradient - central), line.noise / eps
    failing = ~(difference <= tolerance * largest + noise)      # NaN fails, too
    kinks = 0
    order = np.argsort(-np.where(np.isnan(difference), np.inf, difference), axis=None)
    for flat in order[: int(failing.sum())]:
        place = tuple(map(int, np.unravel_index(flat, gradient.shape)))
        right, kink = _looked_at_again(line, place, eps, float(gradient[place]), tolerance * largest)
        if not right:
            hint = ("; the slopes on both sides differ: does it lie at a kink? Choose other inputs" if kink else
                    _hint(gradient, central))
            raise AssertionError(
                f"gradcheck: {owner}: the gradient of {name} is wrong at {place}: backward gives "
                f"{gradient[place]:.10g}, central differences {central[place]:.10g} "
                f"({int(failing.sum())} of {gradient.size} elements differ){hint}")
        kinks += kink
    return float(difference[~failing].max(initial=0) / (largest + noise or 1)), kinks


def _looked_at_again(line: _Line, place: tuple, eps: float, gradient: float, allowed: float) -> tuple[bool, bool]:
    """Whether a gradient that differs from the central difference is right, and whether the element lies at a kink."""
    before = math.inf
    for h in (eps, eps / 10, eps / 100):
        below, central, above = line.slopes(place, h)
        room, jump = allowed + line.noise / h, abs(above - below)
        if abs(gradient - central) <= room:     # a kink was near
            return True, False
        # where a function is smooth, its slopes come together as h shrinks; where it has a step, they part
        if 0.5 * before < jump < 2 * before and jump > room:
            return min(below, above) - room <= gradient <= max(below, above) + room, True
        before = jump
    return False, False


def _hint(gradient: np.ndarray, central: np.ndarray) -> str:
    """A factor that all elements share says what has been forgotten."""
    if np.isnan(gradient).all():
        return "; backward has computed none of them"
    counts = np.abs(central) > 1e-3 * np.abs(central).max(initial=0)
    if not counts.any() or not np.isfinite(gradient).all():
        return ""
    ratios = gradient[counts] / central[counts]
    factor = float(np.median(ratios))
    if counts.sum() < 2 or not np.allclose(gradient, factor * central, rtol=1e-4, atol=1e-6 * np.abs(central).max()):
        return ""
    return f"; all are {factor:.6g} times what they should be"
