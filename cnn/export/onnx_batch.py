"""A batch norm by the batch's statistics, which ONNX has for inference as arithmetic only.

y = (x - m) / sqrt(v + eps), where m is the mean of x over images and pixels, and v that of (x - m)^2. Its steps are
`Part`s of x; weight and bias are joined to it as to a group norm.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from cnn.export.onnx_values import Live, Part, number_of

if TYPE_CHECKING:
    from typing import Any

    from cnn.export.onnx_importing import Importer
    from cnn.export.onnx_values import NodeView

MEAN, CENTRED, SQUARES = "a mean over the images", "what is left without a mean over the images", "its square"
VARIANCE, SUM, DEVIATION = "a variance over the images", "such a variance and a number", "a deviation over the images"


def _is(x: Any, kind: str) -> bool:
    return isinstance(x, Part) and x.kind == kind


def squares(x: Any) -> Live | None:
    """What it began with, if it is the square whose mean is the variance."""
    return x.of if _is(x, SQUARES) else None


def mean(node: NodeView, x: Live, axes: list[int], keep: bool) -> Part | None:
    """A mean, or the variance, over images and pixels; None for another mean."""
    if x.rank != 4 or sorted(axes) != [0, 2, 3] or not keep:
        return None
    return Part(VARIANCE if _is(node.inputs[0], SQUARES) else MEAN, x)


def step(i: Importer, kind: str, a: Any, b: Any) -> Live | Part | None:
    """The next step, or the batch norm, where inputs are steps; else None."""
    if kind == "subtract" and isinstance(a, Live) and _is(b, MEAN) and a.name == b.of.name:
        return Part(CENTRED, a)
    if kind == "multiply" and _is(a, CENTRED) and _is(b, CENTRED) and a.of.name == b.of.name:
        return Part(SQUARES, a.of)
    for part, other in ((a, b), (b, a)):
        if kind == "add" and _is(part, VARIANCE) and number_of(other) is not None:
            return Part(SUM, part.of, {"eps": number_of(other)})
    if kind == "divide" and _is(a, CENTRED) and _is(b, DEVIATION) and a.of.name == b.of.name:
        return i.emit("batch_norm", [a.of], None, dict(b.more))
    return None


def sqrt(i: Importer, node: NodeView) -> Live | Part:
    """The square root, which may be a step."""
    x = node.inputs[0]
    return Part(DEVIATION, x.of, x.more) if _is(x, SUM) else i.emit("sqrt", [node.live()])
