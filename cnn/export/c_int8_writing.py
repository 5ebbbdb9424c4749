"""The C file of a network in int8: calibration, the functions' calls, and the same network in NumPy."""
from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from cnn import shapes
from cnn.export.c_function import literal, sizes
from cnn.export.c_int8 import FLOAT, KEEP, PORTION, ROUNDING, TABLE, Layer, Range, range_of
from cnn.export.c_memory import Buffer, Step, place
from cnn.export.c_text import described, moves, size_of, tidy, without_move
from cnn.reference import int8, log_softmax, softmax

if TYPE_CHECKING:
    from collections.abc import Callable

    from cnn.graph.graph import Graph, Node

SHOWN = 64      # calibration images that the errors of layers are measured on


class Int8Network:
    """A network in int8, in NumPy: the same bits as its C file.

    layers: (text, relative error) of each layer: the root mean square of the difference from float32, by that of
    float32, on the first calibration images.
    """

    def __init__(self, graph: Graph, ranges: dict[int, Range]) -> None:
        self.graph, self.ranges = graph, ranges
        self.twins: list[tuple[Node, Callable]] = []
        self.layers: list[tuple[str, float]] = []
        self.last: Node | None = None       # a softmax in float32

    def values(self, x: np.ndarray) -> dict[int, np.ndarray]:
        """int8 values by the id of what they are in the graph. x: float32 images (N, C, H, W), normalised."""
        source = self.graph.inputs[0]
        found = {id(source): int8.quantise(x, *self.ranges[id(source)])}
        for node, twin in self.twins:
            found[id(node.output)] = twin(*(found[id(v)] for v in node.inputs))
        return found

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Scores, float32 (N, ...). x: float32 images (N, C, H, W), normalised."""
        value = self.graph.outputs[0] if self.last is None else self.last.inputs[0]
        parts = []
        for i in range(0, len(x), PORTION):
            y = int8.dequantise(self.values(x[i:i + PORTION])[id(value)], *self.ranges[id(value)])
            if self.last is not None:
                y = {"softmax": softmax, "log_softmax": log_softmax}[self.last.operation.name](y)
            parts.append(y)
        return np.concatenate(parts) if parts else np.empty((0, *value.image), np.float32)


def write_int8(head: Any, raw: Graph, graph: Graph, calibration: np.ndarray) -> dict[str, Any]:
    """Write the files of a graph in int8. raw: the graph as traced, graph: the one to write. Returns what
    `cnn.export.c` returns."""
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise ValueError(f"export.c: a network in int8 must have one input and one output, got {len(graph.inputs)} and "
                         f"{len(graph.outputs)}")
    image = graph.inputs[0].image
    x = np.asarray(calibration)
    if x.dtype != np.float32 or x.shape[1:] != image or not len(x):
        raise ValueError(f"export.c: calibration must be float32 images {shapes.batch(image)}, at least one, got "
                         f"{x.dtype} {x.shape}")
    nodes = list(graph)
    last = nodes[-1] if nodes and nodes[-1].operation.name in FLOAT and nodes[-1].output is graph.outputs[0] else None
    for node in nodes[:-1] if last else nodes:
        if _kind(node) not in TABLE or hasattr(node.operation, "layer"):
            raise ValueError(f"export.c: module {node.modules[0]!r}: there is no row for {node.operation.name} "
                             f"in int8")
    if last is not None and len(last.output.image) != 1:
        raise ValueError(f"export.c: module {last.modules[0]!r}: {last.operation.name} must be of a vector in int8, "
                         f"got {shapes.times(last.output.image)}")
    extremes, kept = _observed(raw, graph, x)
    network = Int8Network(graph, _ranges(graph, extremes))
    network.last = last
    writer = _Writer(graph, network)
    for node in nodes[:-1] if last else nodes:
        writer.add(node)
    found = network.values(x[:SHOWN])
    for node, _ in network.twins:
        wanted = kept[id(node.output)]
        error = int8.dequantise(found[id(node.output)], *network.ranges[id(node.output)]) - wanted
        size = float(np.sqrt(np.mean(np.square(wanted, dtype=np.float64))))
        network.layers.append((described(node), float(np.sqrt(np.mean(np.square(error, dtype=np.float64)))) / (
            size or 1.0)))
    held = writer.values[id(graph.inputs[0])]
    memory = max(place(writer.steps, held), held.offset + held.size)
    lines = [f"static int8_t memory[{memory}];", *([f"static int32_t sums[{writer.sums}];"] if writer.sums else []), "",
             ROUNDING, *(line for text in writer.functions for line in ("", text)), "", *_entries(head, writer, held)]
    used = "\n".join(lines[3:])
    if "multiplied(" not in used.replace(ROUNDING, ""):
        lines[lines.index(ROUNDING)] = ""
    head.write(graph, lines, memory + 4 * writer.sums)
    return {"memory": memory + 4 * writer.sums, "weights": sum(map(size_of, writer.functions)), "network": network,
            "layers": network.layers}


def _kind(node):
    return node.operation.name.split(" ")[-1]


def _observed(raw, graph, x):
    """Least and largest of every value of `graph`, by id, and the values of the first images."""
    from cnn.engine.programs import Pool
    from cnn.layers.pieces import Pieces
    whole = raw.like(raw.nodes)
    whole.outputs = list({id(v): v for v in (node.output for node in graph)}.values())
    pieces, pool = Pieces(whole, training=False), Pool()
    low, high, kept = {}, {}, {}
    for i in range(0, len(x), PORTION):
        ys, _ = pieces.forward(pool, None, [np.ascontiguousarray(x[i:i + PORTION])])
        for value, y in ((graph.inputs[0], x[i:i + PORTION]), *zip(whole.outputs, ys, strict=True)):
            key = id(value)
            if not np.isfinite(y).all():
                raise ValueError("export.c: calibration must give finite values in every layer, got NaN or infinity")
            low[key] = min(low.get(key, 0.0), float(y.min()))
            high[key] = max(high.get(key, 0.0), float(y.max()))
            kept.setdefault(key, y[:SHOWN].copy())
    return {key: (low[key], high[key]) for key in low}, kept


def _ranges(graph, extremes):
    found = {id(graph.inputs[0]): range_of(*extremes[id(graph.inputs[0])])}
    for node in graph:
        same = _kind(node) in KEEP
        found[id(node.output)] = found[id(node.inputs[0])] if same else range_of(*extremes[id(node.output)])
    return found


class _Writer:
    """Functions and their calls; `values`: where the value with this id lies; `orders`: as in c_writing."""

    def __init__(self, graph, network):
        self.graph, self.network, self.sums = graph, network, 0
        self.steps: list[Step] = []
        self.functions: list[str] = []
        self.values = {id(graph.inputs[0]): Buffer(math.prod(graph.inputs[0].image))}
        self.orders: dict[int, np.ndarray] = {}

    def add(self, node):
        o, kind, ranges = node.operation, _kind(node), self.network.ranges
        if any(len(value.image) == 2 for value in (*node.inputs, node.output)):
            raise ValueError(f"export.c: module {node.modules[0]!r}: {o.name}: images must have the shape (C, H, W) or "
                             f"(features,) in int8, got {node.output.image}")
        if kind == "reshape" and without_move(self, self.graph, node):
            image = node.output.image
            self.network.twins.append((node, lambda x: x.reshape(len(x), *image)))
            return
        inputs = [self.values[id(v)] for v in node.inputs]
        output = self.values[id(node.output)] = Buffer(math.prod(node.output.image))
        f = Layer(len(self.steps), [v.image for v in node.inputs], node.output.image,
                  [ranges[id(v)] for v in node.inputs], ranges[id(node.output)])
        f.order = self.orders.get(id(node.inputs[0]))
        try:
            twin = TABLE[kind](f, node)
        except ValueError as error:
            raise ValueError(f"export.c: module {node.modules[0]!r}: {o.name}: {error}") from None
        self.network.twins.append((node, twin))
        self.sums = max(self.sums, f.sums)
        name, restrict = f"{kind}_{f.number}", "" if f.inplace else "restrict "
        arguments = [f"const int8_t *{restrict}x{i or ''}" for i in range(len(inputs))]
        arguments += [f"int8_t *{restrict}y", *(["int8_t *restrict scratch"] if f.scratch else [])]
        told = f"{described(node)}; a value is {f.range.scale:.6g} (q - {f.range.zero})"
        self.functions.append("\n".join([*f.arrays, "", f"/* {told} */", f"STEP void {name}({', '.join(arguments)})",
                                         "{", *(f"    {tidy(line)}" for line in f.body), "}"]).lstrip())
        self.steps.append(Step(name, inputs, output, told, f.inplace, f.scratch))


def _entries(head, writer, held):
    """The public functions: to int8, the layers, back to float32."""
    graph, network, x = writer.graph, writer.network, writer.graph.inputs[0]
    run, predict = head.signatures(graph)
    height, width, channels = sizes(x.image)
    pixels = height * width
    calls = [f"    {step.name}({', '.join(map(str, [*step.inputs, step.output, *([step.own] if step.own else [])]))});"
             for step in writer.steps]
    value = graph.outputs[0] if network.last is None else network.last.inputs[0]
    out, (scale, zero) = writer.values[id(value)], network.ranges[id(value)]
    out_h, out_w, out_c = sizes(value.image)
    place_of = f"n % {out_h * out_w} * {out_c} + n / {out_h * out_w}" if moves(value.image) else "n"
    calls += [f"    const int8_t *y = {out};", f"    for (int n = 0; n < {out.size}; n++)",
              f"        scores[n] = (float)(y[{place_of}] - ({zero})) * {literal(scale)};"]
    if network.last is not None:
        logs = network.last.operation.name == "log_softmax"
        calls += ["    float most = scores[0], sum = 0.0f;", f"    for (int n = 1; n < {out.size}; n++)",
                  "        most = scores[n] > most ? scores[n] : most;", f"    for (int n = 0; n < {out.size}; n++)",
                  "        sum += expf(scores[n] - most);", f"    for (int n = 0; n < {out.size}; n++)",
                  f"        scores[n] = {'scores[n] - most - logf(sum)' if logs else 'expf(scores[n] - most) / sum'};"]
    scale, zero = network.ranges[id(x)]
    lines = ["static void network(float *scores)", "{", *calls, "}", "", run, "{",
             f"    int8_t *to = {held};", f"    for (int k = 0; k < {channels}; k++)",
             f"        for (int n = 0; n < {pixels}; n++) {{",
             f"            float q = roundf(x[k * {pixels} + n] / {literal(scale)}) + ({zero}.0f);",
             "            q = q < -128.0f ? -128.0f : q > 127.0f ? 127.0f : q;",
             f"            to[n * {channels} + k] = (int8_t)q;", "        }", "    network(scores);", "}"]
    if not predict:
        return lines
    levels = np.arange(256, dtype=np.float32)
    rows = [int8.quantise(levels * np.float32(1 / (head.unit * s)) + np.float32(-m / s), scale, zero).tolist()
            for m, s in zip(head.mean, head.std, strict=True)]
    table = [f"        {{{', '.join(map(str, row))}}}," for row in rows]
    return [*lines, "", predict, "{", f"    int8_t *to = {held};",
            f"    static const int8_t table[{channels}][256] = {{       /* of each pixel, normalised */", *table,
            "    };",
            f"    for (int k = 0; k < {channels}; k++)",
            f"        for (int n = 0; n < {pixels}; n++)",
            f"            to[n * {channels} + k] = table[k][pixels[k * {pixels} + n]];", "    network(scores);", "}"]
