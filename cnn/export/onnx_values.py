"""What an import of ONNX knows of each name in a graph."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from cnn.export.onnx_reading import Refused, words

if TYPE_CHECKING:
    from typing import Any

    from cnn.graph import Value


class _Images:
    """The number of images, in shapes that a graph computes."""

    def __repr__(self) -> str:
        return "N"


N = _Images()


@dataclass
class Known:
    """An array: of the file, or computed from others. name: what its Parameter is called, if it becomes one. trained:
    whether it is an initializer or was given, and not a constant. turned: whether it is the transpose of that."""

    array: np.ndarray
    name: str
    trained: bool = False
    turned: bool = False


@dataclass
class Live:
    """A value that the images are part of. name: in the GraphModule. rank: number of axes in the file, the images'
    among them; 2 for (N, features), 4 for (N, C, H, W), 3 for (N, C, L), which here is (N, C, 1, L), and 1 for (N,),
    which here is (N, 1)."""

    value: Value
    name: str
    rank: int

    @property
    def dims(self) -> tuple[int, ...]:
        """Sizes in the file, without the images."""
        image = tuple(self.value.image)
        return () if self.rank == 1 else (image[0], image[2]) if self.rank == 3 else image


CUBE = "a cube"     # a Part: a factor times x^3, which may become a GELU


@dataclass
class Part:
    """A step of something that is one operation here and several in the file. kind: which; of: what it began with."""

    kind: str
    of: Live
    more: dict = field(default_factory=dict)


def image_of(dims: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of one image for sizes in a file, without the images. Raises Refused for what has no place here."""
    if len(dims) > 3:
        raise Refused(f"values must have 1 to 4 axes, the images' among them, got {1 + len(dims)}: (N, "
                      f"{', '.join(map(str, dims))})")
    return (dims[0], 1, dims[1]) if len(dims) == 2 else tuple(dims) or (1,)


class NodeView:
    """A node of a file, as rows of the table of operators see it: `op`, `name`, `inputs` (Known, Live, Part or None),
    `outputs` (names), `opset`."""

    def __init__(self, node: Any, file: Any, inputs: list) -> None:
        self.op, self.inputs, self.outputs = words(node.op_type), inputs, list(node.output)
        self.names = list(node.input)
        self.name = words(node.name or (node.output[0] if node.output else ""))
        self.file, self.opset = file, file.opset
        self._attributes = {attribute.name: attribute for attribute in node.attribute}
        self.used: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute: int, float, str, array, or list of them; default where there is none. Raises Refused."""
        self.used.add(name)
        if name not in self._attributes:
            return default
        attribute = self._attributes[name]
        kinds = self.file.onnx.AttributeProto
        if attribute.type == kinds.FLOAT:
            return shortest(attribute.f)
        if attribute.type == kinds.INT:
            return attribute.i
        if attribute.type == kinds.STRING:
            return attribute.s.decode("utf-8", "replace")
        if attribute.type == kinds.INTS:
            return list(attribute.ints)
        if attribute.type == kinds.FLOATS:
            return [shortest(f) for f in attribute.floats]
        if attribute.type == kinds.TENSOR:
            return self.file.array(attribute.t)
        raise Refused(f"attribute {words(name)} is of a kind that is not known here")

    def integer(self, name: str, default: int) -> int:
        """An attribute that must be an integer."""
        value = self.get(name, default)
        if not isinstance(value, int):
            self.refuse(name, value, "an integer")
        return value

    def integers(self, name: str, default: list[int], most: int = 2**20) -> list[int]:
        """An attribute that must be a list of as many integers as the default has, none of them larger than `most`."""
        value = self.get(name, None)
        if value is None:
            return list(default)
        if not isinstance(value, list) or len(value) != len(default) or not all(
                isinstance(n, int) and abs(n) <= most for n in value):
            self.refuse(name, value, f"{len(default)} integers")
        return value

    def number(self, name: str, default: float) -> float:
        """An attribute that must be a number."""
        value = self.get(name, default)
        if not isinstance(value, (int, float)):
            self.refuse(name, value, "a number")
        return float(value)

    def only(self, name: str, *allowed: Any) -> None:
        """Refuse an attribute that is none of these; the first is its default."""
        value = self.get(name, allowed[0])
        if not any(np.array_equal(value, one) for one in allowed):
            self.refuse(name, value, " or ".join(map(str, allowed)))

    def refuse(self, name: str, value: Any, wanted: str) -> None:
        """Raise Refused for an attribute."""
        raise Refused(f"attribute {name} must be {wanted}, got {words(value)}")

    def unused(self) -> list[str]:
        """Names of attributes that no one has asked for."""
        return [words(name) for name in self._attributes if name not in self.used]

    def live(self, i: int = 0) -> Live:
        """The i-th input, which must depend on the images."""
        value = self.inputs[i] if i < len(self.inputs) else None
        if isinstance(value, Live):
            return value
        if isinstance(value, Part):
            raise Refused(f"{value.kind} is understood as a part of other operations only, and {self.op} reads it")
        raise Refused(f"input {i} must depend on the graph's input, " + (
            "and is missing" if value is None else "and is a constant"))

    def known(self, i: int, what: str) -> Known:
        """The i-th input, which must not depend on the images."""
        value = self.inputs[i] if i < len(self.inputs) else None
        if isinstance(value, Known):
            return value
        if value is None:
            raise Refused(f"{what} (input {i}) is missing")
        raise Refused(f"{what} (input {i}) must be a constant; an input of the file that holds weights is given as "
                      f"parameters={{{words(self.names[i])!r}: array}}")

    def has(self, i: int) -> bool:
        """Whether there is an i-th input."""
        return i < len(self.inputs) and self.inputs[i] is not None

    def ints(self, i: int, what: str) -> list[int]:
        """The i-th input as a list of integers."""
        array = self.known(i, what).array
        if array.dtype.kind not in "iu" or array.ndim > 1:
            raise Refused(f"{what} (input {i}) must be a list of integers, got {shown(array)}")
        return [int(n) for n in array.reshape(-1)]


def shown(array: np.ndarray) -> str:
    """An array in a message: its elements if they are few, else its shape."""
    if array.size <= 8:
        return words(array.tolist())
    return f"{array.dtype} of shape {array.shape}"


def shortest(number: float) -> float:
    """The shortest decimal number that is this float32: 1e-05 for 9.99999974e-06, as whoever wrote it meant."""
    return float(str(np.float32(number)))


def number_of(value: Any) -> float | None:
    """The number that a constant is, None where it is something else."""
    if not isinstance(value, Known) or value.array.size != 1 or (value.trained and value.array.ndim):
        return None
    if value.array.dtype.kind not in "fiu":
        return None
    found = value.array.reshape(-1)[0]
    return shortest(found) if found.dtype == "float32" else float(found)
