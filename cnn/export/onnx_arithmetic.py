"""ONNX's arithmetic as our operations, and what is one operation here and several there: GELU, SiLU, the weights of a
group norm, the bias of a linear map.

GELU is x (1 + f) / 2, f being erf(x / sqrt(2)) or tanh(sqrt(2 / pi) (x + 0.044715 x^3)). Its steps are `Part`s:
"erf" and "tanh" are f, "gate" is factor (1 + f), times x where `times` says so; a cube is factor x^3.
"""
from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from cnn.export import onnx_batch
from cnn.export.onnx_reading import Refused
from cnn.export.onnx_values import CUBE, Known, Live, Part, number_of, shown

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from cnn.export.onnx_importing import Importer
    from cnn.export.onnx_values import NodeView

NONZERO = "a condition"     # a Part: true where `of` is not 0, which is a mask where `of` has ones and zeros only
NEAR = 1e-4     # how far constants of a formula may be off: some files have few digits


def _near(number: float | None, wanted: float) -> bool:
    return number is not None and math.isclose(number, wanted, rel_tol=NEAR)


def ones(i: Importer, condition: Part) -> Live:
    """A mask or a condition as ones and zeros."""
    x = condition.of
    if condition.kind == "mask":
        return x
    zero = i.constant(Known(np.zeros(1, i.dtype), f"{x.name}.zero"), x.rank)
    return i.emit("not_equal", [x, zero], x.rank)


def binary(kind: str) -> Callable:
    """Arithmetic of two inputs, of which one may be a constant."""
    def run(i: Importer, node: NodeView) -> Live | Part:
        a, b = (node.inputs[j] if j < len(node.inputs) else None for j in (0, 1))
        if a is None or b is None:
            raise Refused("it must have two inputs")
        if node.opset < 7:      # axis: where the second's first axis belongs, if not its last at the end
            repeats, axis = node.integer("broadcast", 0), node.get("axis")
            if repeats and axis is not None and isinstance(a, Live) and isinstance(b, Known):
                after = max(0, a.rank - axis % a.rank - b.array.ndim)
                b = Known(b.array.reshape((*b.array.shape, *(1,) * after)), b.name, b.trained, b.turned)
        return arithmetic(i, node, kind, a, b)
    return run


def arithmetic(i: Importer, node: NodeView, kind: str, a: Any, b: Any) -> Live | Part:
    """a + b and the like."""
    found = _gelu(i, kind, a, b) or onnx_batch.step(i, kind, a, b)
    if found is not None:
        return found
    both: list[Any] = [(step_of_gelu(i, x) or node.live(j)) if isinstance(x, Part) else x
                       for j, x in enumerate((a, b))]
    a, b = both
    for x, known in ((a, b), (b, a)):
        number = number_of(known)
        if number is not None and known.array.ndim <= x.rank:
            return _with_number(i, kind, x, number) if known is b else _from_number(i, kind, number, x)
        if isinstance(known, Known) and kind in ("add", "multiply"):
            joined = _joined(i, kind, x, known)
            if joined is not None:
                return joined
    if isinstance(a, Live) and isinstance(b, Live):
        if a.rank != b.rank:
            raise Refused(f"its inputs must have the same number of axes, got {a.rank} and {b.rank}")
        silu = _silu(i, a, b) if kind == "multiply" else None
        return silu or i.emit(kind, [a, b])
    if isinstance(b, Known):
        return i.emit(kind, [a, i.constant(b, a.rank)], a.rank)
    return i.emit(kind, [i.constant(a, b.rank), b], b.rank)


def _with_number(i, kind, x, n):
    if kind == "divide" and n == 0:
        raise Refused("a value must not be divided by 0")
    factor, summand = {"add": (1.0, n), "subtract": (1.0, -n), "multiply": (n, 0.0)}.get(kind) or (1 / n, 0.0)
    return i.emit("affine", [x], None, {"factor": factor, "summand": summand})


def _from_number(i, kind, n, x):
    if kind == "divide":
        return i.emit("reciprocal", [x], None, {"number": n})
    factor, summand = {"add": (1.0, n), "subtract": (-1.0, n), "multiply": (n, 0.0)}[kind]
    return i.emit("affine", [x], None, {"factor": factor, "summand": summand})


def _silu(i, a, b):
    """x sigmoid(x)."""
    for x, y in ((a, b), (b, a)):
        node = i.before(y, "sigmoid", alone=False)
        if node is not None and node.inputs == (x.name,):
            return i.emit("silu", [x])
    return None


def _joined(i, kind, x, known):
    """The bias of a linear map, or weight or bias of a group norm, or of a batch norm without running statistics, that
    is added or multiplied after it."""
    dims = known.array.shape
    if kind == "add" and x.rank == 2 and dims in (x.dims, (1, *x.dims)):
        node = i.before(x, "linear")
        if node is not None and "bias" not in node.parameters:
            return i.again(node, x.rank, {"bias": i.parameter(known, known.array.reshape(x.dims), trained=True)})
    channels = x.value.image[0]
    if known.array.size == channels and dims[-x.rank + 1:] == (channels, *(1,) * (x.rank - 2)):
        node = i.before(x, "group_norm", "batch_norm")
        role = {"multiply": "weight", "add": "bias"}[kind]
        there = {} if node is None else node.parameters
        if node is not None and not {role, "bias", "running_mean"} & set(there):
            return i.again(node, x.rank, {role: i.parameter(known, known.array.reshape(channels), trained=True)})
    return None


def neg(i: Importer, node: NodeView) -> Live:
    """-x"""
    return i.emit("affine", [node.live()], None, {"factor": -1.0})


def reciprocal(i: Importer, node: NodeView) -> Live:
    """1 / x"""
    return i.emit("reciprocal", [node.live()])


def variadic(divisor: float | None) -> Callable:
    """The sum of any number of inputs, or their mean where `divisor` is None."""
    def run(i: Importer, node: NodeView) -> Live | Part:
        total: Any
        total, *rest = node.inputs
        for value in rest:
            total = arithmetic(i, node, "add", total, value)
        if divisor is None and rest:
            total = i.emit("affine", [total], None, {"factor": 1 / len(node.inputs)})
        return total
    return run


# ---------------------------------------------------------------- GELU

def _factor(i, x):
    """(what is multiplied by a number, that number) for the value of such a multiplication."""
    node = i.made.get(x.name) if isinstance(x, Live) else None
    if node is None or node.operation != "affine" or node.attributes.get("summand"):
        return None, None
    return i.live[node.inputs[0]], node.attributes["factor"]


def erf(i: Importer, node: NodeView) -> Part:
    """erf(x / sqrt(2)), which only GELU has here."""
    x, factor = _factor(i, node.live())
    if not _near(factor, math.sqrt(0.5)):
        raise Refused(f"it is understood as a part of GELU only, of x / sqrt(2), got {factor} x")
    return Part("erf", x, {"kind": "gelu"})


def power(i: Importer, node: NodeView) -> Live | Part:
    """x to the power of a number; x^3 may become a part of GELU."""
    x = node.live()
    exponent = number_of(node.inputs[1]) if node.has(1) else None
    if exponent == 1:
        return x
    if exponent == 2:
        return i.emit("multiply", [x, x])
    if exponent == 0.5:
        return i.emit("sqrt", [x])
    if exponent is not None and exponent != 3:
        return i.emit("power", [x], None, {"exponent": exponent})
    if exponent != 3:
        raise Refused(f"exponent (input 1) must be a number, got "
                      f"{shown(node.inputs[1].array) if isinstance(node.inputs[1], Known) else 'no constant'}")
    return Part(CUBE, x, {"factor": 1.0})


def step_of_gelu(i: Importer, part: Part) -> Any:
    """The Live that a step of GELU is by itself, where no GELU is made of it; None where it takes erf, which is no
    operation, and for other Parts."""
    x, more = part.of, part.more
    if part.kind == CUBE:
        y, factor = i.emit("power", [x], None, {"exponent": 3.0}), more["factor"]
        return y if factor == 1 else i.emit("affine", [y], None, {"factor": factor})
    if part.kind == "gelu's sum":
        cube = step_of_gelu(i, Part(CUBE, x, {"factor": 0.044715}))
        return i.emit("add", [x, cube])
    if part.kind == "gelu's tanh":
        total = step_of_gelu(i, Part("gelu's sum", x))
        return i.emit("affine", [total], None, {"factor": math.sqrt(2 / math.pi)})
    if part.kind == "tanh":
        return i.emit("tanh", [step_of_gelu(i, Part("gelu's tanh", x))])
    if part.kind == "gate" and more["kind"] == "gelu_tanh":
        y = i.emit("affine", [step_of_gelu(i, Part("tanh", x))], None, {
            "factor": more["factor"], "summand": more["factor"]})
        return i.emit("multiply", [y, x]) if more["times"] else y
    return None


def _same(i, a, b):
    return isinstance(a, Live) and isinstance(b, Live) and a.name == b.name


def _gelu(i, kind, a, b):
    """The next step of GELU, or GELU, where an input is a step; else None."""
    for part, other in ((a, b), (b, a)):
        if not isinstance(part, Part) or part.kind == "Pad":
            continue
        number, more = number_of(other), part.more
        if part.kind == CUBE:
            if kind == "multiply" and number is not None:
                return Part(part.kind, part.of, {"factor": more["factor"] * number})
            if kind == "add" and _near(more["factor"], 0.044715) and _same(i, part.of, other):
                return Part("gelu's sum", part.of)
        elif part.kind == "gelu's sum" and kind == "multiply" and _near(number, math.sqrt(2 / math.pi)):
            return Part("gelu's tanh", part.of)
        elif part.kind in ("erf", "tanh") and kind == "add" and number == 1:
            return Part("gate", part.of, {"kind": more["kind"], "factor": 1.0, "times": False})
        elif part.kind == "gate":
            whole = dict(more)
            if kind == "multiply" and number is not None:
                whole["factor"] *= number
            elif kind == "divide" and part is a and number:
                whole["factor"] /= number
            elif kind == "multiply" and not more["times"] and isinstance(other, Live):
                x, factor = (other, 1.0) if _same(i, other, part.of) else _factor(i, other)
                if x is None or not _same(i, x, part.of):
                    continue
                whole["factor"], whole["times"] = whole["factor"] * factor, True
            else:
                continue
            if whole["times"] and _near(whole["factor"], 0.5):
                return i.emit(more["kind"], [part.of])
            return Part("gate", part.of, whole)
    return None
