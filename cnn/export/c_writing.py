"""Models as C: one file in C99 and its header, without malloc, which need <math.h>, <stdint.h> and <string.h> only.

In float32 a new operation is one row of `TABLE` in c_rows.py, in int8 one in c_int8.py.
"""
from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cnn import files, shapes
from cnn.export import told
from cnn.export.c_function import Function, channels_last, constant, literal, sizes
from cnn.export.c_memory import Buffer, Step, place
from cnn.export.c_rows import TABLE
from cnn.export.c_text import commented, described, identifier, moves, quoted, size_of, tidy, without_move

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from typing import Any

    from cnn.graph import Graph, Value
    from cnn.graph.graph import Node
    from cnn.layers import Module

class Writer:
    """Functions and their calls, node by node. values: where the value with this id lies."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.functions: list[str] = []
        self.values: dict[int, Buffer] = {}
        self.orders: dict[int, np.ndarray] = {}     # of values that lie in another order than their shape says

    def call(self, name: str, images: list[tuple[int, ...]], inputs: list[Buffer], node: Any, output: Buffer,
             write: Any, comment: str) -> None:
        """Add a function that `write` writes, and a call of it."""
        f = Function(len(self.steps), images, node.output.image if node else images[0])
        f.order = self.orders.get(id(node.inputs[0])) if node else None
        write(f, node)
        name = f"{name}_{f.number}"
        restrict = "" if f.inplace else "restrict "
        arguments = [f"const float *{restrict}x{i or ''}" for i in range(len(inputs))]
        arguments += [f"float *{restrict}y", *(["float *restrict scratch"] if f.scratch else [])]
        head = f"STEP void {name}({', '.join(arguments)})"
        self.functions.append("\n".join([*f.arrays, "", f"/* {comment} */", head, "{",
                                         *(f"    {tidy(line)}" for line in f.body), "}"]).lstrip())
        self.steps.append(Step(name, inputs, output, comment, f.inplace, f.scratch))


# gcc 12 at -O2 takes one function of two equal ones and the places in memory that the other is called with
STEP = ["#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 8", "#define STEP static __attribute__((noipa))",
        "#elif defined(__GNUC__) && !defined(__clang__)", "#define STEP static __attribute__((noinline, noclone))",
        "#else", "#define STEP static", "#endif"]


def _traced(model, images):
    """The graph of a model in evaluation mode, as it is written."""
    from cnn.layers.parts import in_evaluation
    from cnn.layers.running import graph_of
    if not images:
        raise TypeError("export.c: image_shapes must be one (C, H, W) or (features,) for each input, got none")
    return in_evaluation(model, graph_of, model, images)


def c(model: Module, path: str | os.PathLike, *image_shapes: Sequence[int], name: str | None = None,
      classes: Sequence[str] | None = None, mean: Sequence[float] | None = None, std: Sequence[float] | None = None,
      pixels: str = "uint8", calibration: np.ndarray | None = None) -> dict[str, Any]:
    """Write a model, as it is in evaluation mode, to a C99 file and, beside it, a header with the suffix .h.

    path: the C file. image_shapes: of one image of each input, (C, H, W) or (features,). name: what the functions'
    names begin with, the file's name without suffix if None. classes: names of the classes. mean, std: one number a
    channel, in units of pixel / 255 with pixels="uint8", in pixels with "float32". With both, a model of one input gets
    `name_predict`, which takes pixels. calibration: float32 images (N, C, H, W), normalised, at least one; the network
    is then computed in int8, see docs/c.md.

    The file has `void name_run(const float *x, float *scores)`: x in the order (C, H, W), one image. More inputs are
    x1, x2, ..., more outputs scores1, ...; and `void name_predict(const uint8_t *pixels, float *scores)`.

    Returns what the file takes, in bytes: {"memory": of static arrays that are written, "weights": of constants}; in
    int8 also "network", the same network in NumPy (float32 images to float32 scores), and "layers", a list of (layer,
    relative error).

    Raises TypeError or ValueError for wrong arguments and, naming module, operation and attribute, for what has no row
    in C; OSError naming the file.
    """
    from cnn.layers.parts import image_shape
    images = [image_shape("export.c", shape) for shape in image_shapes]
    path = Path(path)
    name = identifier(path.stem if name is None else name)
    head = _Head(path, name, images, classes, mean, std, pixels)
    from cnn.graph.passes import optimised
    raw = _traced(model, images)
    told.check_count("export.c", head.classes, raw)
    graph = optimised(raw, gradients=False)     # batch norm is folded; ReLU and max pooling are joined
    if calibration is not None:
        from cnn.export.c_int8_writing import write_int8
        return write_int8(head, raw, graph, calibration)
    writer = Writer()
    inputs, outputs = _inputs(writer, head, graph), []
    for node in graph:
        _add(writer, graph, node)
    for i, value in enumerate(graph.outputs):
        outputs.append(_output(writer, value, f"scores{i or ''}"))
    count = place(writer.steps, inputs[0])
    calls = []
    for step in writer.steps:
        arguments = [*step.inputs, step.output, *([step.own] if step.own else [])]
        calls.append(f"    {step.name}({', '.join(map(str, arguments))});")
    lines = [*([f"static float memory[{count}];"] if count else []), *_blank(writer.functions)]
    run, predict = _float_entries(head, graph, inputs, count)
    network = ", ".join([*(f"const float *x{i or ''}" for i in range(len(images))),
                         *(f"float *{b}" for b in outputs)])
    read = {id(buffer) for step in writer.steps for buffer in step.inputs}
    calls = [f"    (void){buffer};" for buffer in inputs if id(buffer) not in read] + calls
    lines += ["", f"static void network({network})", "{", *calls, "}", "", *run, *predict]
    head.write(graph, lines, count * 4)
    weights = sum(map(size_of, writer.functions))
    return {"memory": count * 4, "weights": weights}


class _Head:
    """Arguments of `c` that do not depend on the graph, checked, and the parts of both files that they make."""

    def __init__(self, path, name, images, classes, mean, std, pixels):
        self.path, self.name, self.images = path, name, images
        if path.suffix == ".h":
            raise ValueError(f"export.c: path must not end with .h, which is the header's name, got {path}")
        self.classes = None if classes is None else told.class_names("export.c", classes)
        self.unit = told.white("export.c", pixels)
        if (mean is None) != (std is None):
            raise ValueError("export.c: mean and std must be given together, got one of them")
        self.predicts = mean is not None and len(images) == 1 and len(images[0]) == 3
        if not self.predicts:
            return
        self.mean, self.std = (told.per_channel("export.c", what, numbers, images[0][0])
                               for what, numbers in (("mean", mean), ("std", std)))

    def signatures(self, graph):
        """Of both functions; the second is None where there is none."""
        scores = ", ".join(f"float *scores{i or ''}" for i in range(len(graph.outputs)))
        x = ", ".join(f"const float *x{i or ''}" for i in range(len(self.images)))
        run = f"void {self.name}_run({x}, {scores})"
        return run, f"void {self.name}_predict(const uint8_t *pixels, {scores})" if self.predicts else None

    def write(self, graph, lines, memory, includes=("math", "stdint", "string")):
        run, predict = self.signatures(graph)
        guard, header = f"{self.name.upper()}_H", self.path.with_suffix(".h")
        told = [f"x{i or ''}: {commented(shapes.times(image))} floats" for i, image in enumerate(self.images)]
        told += [f"scores{i or ''}: {commented(shapes.times(value.image))} floats"
                 for i, value in enumerate(graph.outputs)]
        names = [] if self.classes is None else [f"#define {self.name.upper()}_CLASSES {len(self.classes)}",
                                                 f"extern const char *const {self.name}_classes[];", ""]
        above = [f"/* Made by cnn, of a {commented(graph.title or 'model')}. {memory} bytes of static memory, so one "
                 f"call at a time.", *(f"   {text}, channels, then rows, then columns." for text in told[:-1]),
                 f"   {told[-1]}. All numbers must be finite. */"]
        h = [*above, f"#ifndef {guard}", f"#define {guard}", "#include <stdint.h>", "", "#ifdef __cplusplus",
             'extern "C" {', "#endif", "", *names, "/* x: an image, normalised. */", f"{run};"]
        if predict:
            h += ["/* pixels: an image of 0 to 255, in the order of x; normalised here. */", f"{predict};"]
        h += ["", "#ifdef __cplusplus", "}", "#endif", "#endif", ""]
        body = [*above, *(f"#include <{text}.h>" for text in includes), f'#include "{header.name}"', "", *STEP, ""]
        if self.classes is not None:
            body += [f"const char *const {self.name}_classes[] = {{",
                     *(f"    {quoted(text)}," for text in self.classes), "};", ""]
        files.write(header, "\n".join(h).encode())
        files.write(self.path, "\n".join([*body, *lines, ""]).encode())


def _blank(functions):
    return [line for text in functions for line in ("", text)]


def _inputs(writer, head, graph):
    """Where the inputs lie: in the array, channels last, those of several channels or, for predict, pixels."""
    found = []
    for i, (value, image) in enumerate(zip(graph.inputs, head.images, strict=True)):
        inside = i == 0 and (head.predicts or moves(image))
        buffer = Buffer(math.prod(image), "" if inside else f"x{i or ''}", f"x{i or ''}")
        found.append(buffer)
        writer.values[id(value)] = buffer
        if i and moves(image):
            last = Buffer(math.prod(image))
            writer.call("channels_last", [image], [buffer], None, last, _to_channels_last, "another input")
            writer.values[id(value)] = last
    return found


def _to_channels_last(f, node):
    channels, height, width = f.inputs[0]
    f.add(f"for (int k = 0; k < {channels}; k++)", f"    for (int n = 0; n < {height * width}; n++)",
          f"        y[n * {channels} + k] = *x++;")


def _to_channels_first(f, node):
    channels, height, width = f.inputs[0]
    f.add(f"for (int k = 0; k < {channels}; k++)", f"    for (int n = 0; n < {height * width}; n++)",
          f"        *y++ = x[n * {channels} + k];")


def _copy(f, node):
    f.add(f"memcpy(y, x, {math.prod(f.inputs[0])} * sizeof *y);")


def _add(writer: Writer, graph: Graph, node: Node) -> None:
    o: Any = node.operation
    kind, where = o.name.split(" ")[-1], f"export.c: module {node.modules[0]!r}: {o.name}"
    if kind == "parameter":
        number = len(writer.functions)
        data = channels_last(o.parameters["parameter"].data.reshape(o.image))
        try:
            writer.functions.append(constant(f"parameter_{number}", data.ravel(), "float"))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        writer.values[id(node.output)] = Buffer(data.size, f"parameter_{number}")
        return
    if kind not in TABLE or hasattr(o, "layer"):
        raise ValueError(f"export.c: module {node.modules[0]!r}: there is no row for {o.name} in C")
    if kind == "reshape" and without_move(writer, graph, node):
        return
    inputs, images = [writer.values[id(value)] for value in node.inputs], [value.image for value in node.inputs]
    output = writer.values[id(node.output)] = Buffer(math.prod(node.output.image))
    try:
        writer.call(kind, images, inputs, node, output, TABLE[kind], described(node))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _output(writer: Writer, value: Value, name: str) -> Buffer:
    """An output where the caller wants it: computed there, or moved there."""
    made = writer.values[id(value)]
    output = Buffer(made.size, name)
    last = next((step for step in writer.steps if step.output is made), None)
    if not moves(value.image) and last is not None and not made.fixed and all(
            made not in step.inputs for step in writer.steps):
        made.fixed = name
        return made
    write = _to_channels_first if moves(value.image) else _copy
    writer.call("output", [value.image], [made], None, output, write, "as the caller wants it")
    return output


def _float_entries(head: Any, graph: Graph, inputs: list[Buffer], count: int) -> tuple[list[str], list[str]]:
    """The public functions."""
    run, predict = head.signatures(graph)
    scores = ", ".join(f"scores{i or ''}" for i in range(len(graph.outputs)))
    more = "".join(f", {b}" for b in inputs[1:])
    image, first = head.images[0], f"memory + {inputs[0].offset}"
    height, width, channels = sizes(image)
    body, arrays = [], []
    if moves(image):
        body = [f"    for (int k = 0; k < {channels}; k++)", f"        for (int n = 0; n < {height * width}; n++)",
                f"            ({first})[n * {channels} + k] = x[k * {height * width} + n];"]
        x = first
    else:
        x = "x"
    lines = [run, "{", *body, f"    network({x}{more}, {scores});", "}"]
    if not predict:
        return lines, []
    factor = [1 / (head.unit * s) for s in head.std]
    summand = [-m / s for m, s in zip(head.mean, head.std, strict=True)]
    arrays = [f"    static const float {what}[{channels}] = {{{', '.join(map(literal, numbers))}}};"
              for what, numbers in (("factor", factor), ("summand", summand))]
    return lines, ["", predict, "{", *arrays, f"    for (int k = 0; k < {channels}; k++)",
                   f"        for (int n = 0; n < {height * width}; n++)",
                   f"            ({first})[n * {channels} + k] = pixels[k * {height * width} + n] * factor[k] "
                   f"+ summand[k];", f"    network({first}, {scores});", "}"]
