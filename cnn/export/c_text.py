"""Texts of C files: names, strings, comments, sizes."""
from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import numpy as np

from cnn import shapes
from cnn.export.c_function import channels_last

if TYPE_CHECKING:
    from typing import Any

    from cnn.graph.graph import Graph, Node

BYTES = {"float": 4, "int": 4, "int32_t": 4, "int8_t": 1}


def identifier(text: str) -> str:
    """A name in C, made of any text: what is no ASCII letter, digit or _ becomes _."""
    if not isinstance(text, str) or not text:
        raise TypeError(f"export.c: name must be a text, got {shapes.shown(text)}")
    text = re.sub(r"[^A-Za-z0-9_]", "_", text).strip("_") or "model"
    return f"n{text}" if text[0].isdigit() else text


def quoted(text: str) -> str:
    """A string of C: the bytes of its UTF-8, those that are no plain ASCII in octal."""
    return '"' + "".join(chr(b) if 32 <= b < 127 and chr(b) not in '"\\?' else f"\\{b:03o}"
                         for b in text.encode("utf-8", "surrogatepass")) + '"'


def tidy(line: str) -> str:
    """Without factors of 1 and summands of 0."""
    line = re.sub(r" \* 1(?![\d.])", "", line)
    line = re.sub(r" [+-] 0(?: \* \d+)?(?![\d.])(?! [*/%])", "", line)
    return re.sub(r"(?<=[\[(])0 \+ ", "", line)


def commented(text: object) -> str:
    """Text that may stand in a comment of C."""
    plain = "".join(a if " " <= a <= "~" else "?" for a in str(text).replace("×", "x"))
    return plain.replace("*/", "* /").replace("/*", "/ *")


def described(node: Node) -> str:
    """A comment on a node: its operations, module and shapes."""
    o = node.operation
    shown = ", ".join(f"{key}={value}" for key, value in o.attributes().items())
    words = " + ".join([f"{o.name}({shown})" if shown else o.name, *o.fused])
    where = " ".join(dict.fromkeys(filter(None, node.modules)))
    sides = ", ".join(shapes.times(value.image) for value in node.inputs)
    return commented(f"{words}{f' [{where}]' if where else ''}: {sides} -> {shapes.times(node.output.image)}")


def moves(image: tuple[int, ...]) -> bool:
    """Whether channels last is another order than channels first."""
    return len(image) == 3 and image[0] > 1 and math.prod(image[1:]) > 1


def size_of(text: str) -> int:
    """Bytes of the constant arrays that are defined in a text of C."""
    found = re.findall(r"^static const (\w+) \w+\[(\d+)\]", text, re.M)
    return sum(BYTES[kind] * int(count) for kind, count in found)


def without_move(writer: Any, graph: Graph, node: Node) -> bool:
    """Whether a change of shape needs no function: nothing moves, or only linear maps read it, whose weights can be in
    any order."""
    value, image, new = node.inputs[0], node.inputs[0].image, node.output.image
    still = not moves(image) and not moves(new)
    if not still:
        reading = [reader for reader in graph if any(v is node.output for v in reader.inputs)]
        linear = all(reader.operation.name == "linear" for reader in reading)
        if len(new) != 1 or not linear or any(v is node.output for v in graph.outputs):
            return False
        writer.orders[id(node.output)] = channels_last(np.arange(math.prod(image)).reshape(image)).ravel()
    elif id(value) in writer.orders:
        writer.orders[id(node.output)] = writer.orders[id(value)]
    writer.values[id(node.output)] = writer.values[id(value)]
    return True
