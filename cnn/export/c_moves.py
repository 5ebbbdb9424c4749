"""Rows of C for what moves elements: see c_rows.py. Images are (H, W, C), those of two axes (H, W, 1)."""
from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from cnn.export.c_function import Function, literal_or_infinity, sizes

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from cnn.graph.graph import Node


def around(image: tuple[int, ...], axis: int) -> tuple[int, int]:
    """(how many runs along an axis there are one after the other, elements from one of a run to the next) of an image
    in the order (H, W, C). axis: in Python's order, from 0."""
    height, width, channels = sizes(image)
    place = {1: 2, 2: axis, 3: (2, 0, 1)[axis]}[len(image)]      # of (H, W, C)
    return math.prod((height, width, channels)[:place]), math.prod((height, width, channels)[place + 1:])


def cat(f: Function, node: Node) -> None:
    """Runs of each input one after the other."""
    axis = getattr(node.operation, "axis", 0)
    runs, step = around(f.output, axis)
    whole, first = f.output[axis] * step, 0
    for i, image in enumerate(f.inputs):
        part = image[axis] * step
        f.add(f"for (int i = 0; i < {runs}; i++)",
              f"    memcpy(y + i * {whole} + {first}, x{i or ''} + i * {part}, {part} * sizeof *y);")
        first += part


def cut(f: Function, node: Node) -> None:
    """Some channels, or rows of an image of two axes."""
    o: Any = node.operation
    runs, step = around(f.output, 0)
    part = f.output[0] * step
    f.add(f"for (int i = 0; i < {runs}; i++)",
          f"    memcpy(y + i * {part}, x + i * {f.inputs[0][0] * step} + {o.first * step}, {part} * sizeof *y);")


def reshape(f, node):
    """Moves elements: their order is by channels, rows, columns in both shapes."""
    height, width, channels = sizes(f.inputs[0])
    out_h, out_w, channels_out = sizes(f.output)
    pixels = out_h * out_w
    f.add("int n = 0;", f"for (int k = 0; k < {channels}; k++)",
          f"    for (int i = 0; i < {height * width}; i++, n++)",
          f"        y[n % {pixels} * {channels_out} + n / {pixels}] = x[i * {channels} + k];")


def _elements(f: Function, row: str, column: str, channel: str, chosen: str = "") -> None:
    """y at row i, column j and channel k is x at these places, each an expression in i, j and k. chosen: what comes
    before it."""
    (height, width, channels), (_, in_w, channels_in) = sizes(f.output), sizes(f.inputs[0])
    f.add(f"for (int i = 0; i < {height}; i++)", f"    for (int j = 0; j < {width}; j++)",
          f"        for (int k = 0; k < {channels}; k++)", f"            y[(i * {width} + j) * {channels} + k] = "
          f"{chosen}x[({row} * {in_w} + {column}) * {channels_in} + {channel}];")


def permute(f, node):
    """Loops over y by its rows i, columns j and channels k, which are x's in another order."""
    axes = node.operation.axes if len(f.output) == 3 else (0, *(axis + 1 for axis in node.operation.axes))
    channel, row, column = ("kij"[axes.index(axis)] for axis in range(3))
    _elements(f, row, column, channel)


def pick(f: Function, node: Node) -> None:
    """Elements by a table for each axis, of which -1 stands for a number."""
    o: Any = node.operation
    names, outside = [], []
    for name, loop, table in zip(("channels", "rows", "columns"), "kij", o.tables, strict=True):
        names.append(loop if table is None else f"{f.array(name, table, 'int')}[{loop}]")
        if table is not None and table.min() < 0:
            outside.append(f"{names[-1]} < 0")
    channel, row, column = names
    chosen = f"{' || '.join(outside)} ? {literal_or_infinity(o.value)} : " if outside else ""
    _elements(f, row, column, channel, chosen)


def bilinear(f: Function, node: Node) -> None:
    """Between two rows and two columns, with shares of the second ones."""
    o: Any = node.operation
    (height, width, channels), (_, in_w, _) = sizes(f.output), sizes(f.inputs[0])
    for name, (table, share) in (("rows", o.rows), ("columns", o.columns)):
        f.array(name, table, "int")
        f.array(f"{name}_share", np.asarray(share))
    f.add(f"for (int i = 0; i < {height}; i++) {{",
          f"    const float *above = x + rows_{f.number}[2 * i] * {in_w * channels};",
          f"    const float *below = x + rows_{f.number}[2 * i + 1] * {in_w * channels};",
          f"    const float down = rows_share_{f.number}[i];", f"    for (int j = 0; j < {width}; j++) {{",
          f"        const int left = columns_{f.number}[2 * j] * {channels};",
          f"        const int next = columns_{f.number}[2 * j + 1] * {channels};",
          f"        const float right = columns_share_{f.number}[j];",
          f"        for (int k = 0; k < {channels}; k++) {{",
          "            const float a = (1.0f - down) * above[left + k] + down * below[left + k];",
          "            const float b = (1.0f - down) * above[next + k] + down * below[next + k];",
          f"            y[(i * {width} + j) * {channels} + k] = (1.0f - right) * a + right * b;",
          "        }", "    }", "}")


def pixel_shuffle(back: bool) -> Callable:
    """Channels to pixels, or back."""
    def write(f: Function, node: Node) -> None:
        o: Any = node.operation
        r = o.factor
        row, column, channel = (
            (f"(i * {r} + k / {r} % {r})", f"j * {r} + k % {r}", f"k / {r * r}") if back else
            (f"i / {r}", f"j / {r}", f"k * {r * r} + i % {r} * {r} + j % {r}"))
        _elements(f, row, column, channel)
    return write
