"""Models as a web page: one file that computes in the browser, without a network. A node is a step of
page_network.js.

A new operation is one row of TABLE, and one of STEPS in page_network.js.
"""
from __future__ import annotations

import base64
import hashlib
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cnn import files, shapes
from cnn.engine.parameter import Parameter
from cnn.export import told
from cnn.text import html

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence
    from typing import Any

    from cnn.graph import Graph, Node
    from cnn.layers import Module

MOST_SHOWN = 24         # layers whose outputs the page shows
MOST_EXAMPLES = 20
_HERE = Path(__file__).parent
_ACTIVATIONS = {"relu", "leaky_relu", "tanh", "sigmoid", "silu", "gelu", "gelu_tanh", "batch_norm", "group_norm",
                "layer_norm", "layer_norm2d", "local_response_norm"}


class _Writer:
    """Collects weights, float32. `add` returns where an array begins and how many elements it has."""

    def __init__(self) -> None:
        self.weights: list[np.ndarray] = []
        self._count = 0

    def add(self, array: Any) -> list[int]:
        array = np.ascontiguousarray(array.data if isinstance(array, Parameter) else array, "<f4").reshape(-1)
        self.weights.append(array)
        self._count += array.size
        return [self._count - array.size, array.size]

    def named(self, parameters: dict) -> dict[str, list[int]]:
        """The entries w and b of a step."""
        return {short: self.add(parameters[name]) for short, name in (("w", "weight"), ("b", "bias"))
                if parameters.get(name) is not None}


# ---------------------------------------------------------------- rows: the writer and a node

def _conv2d(w: _Writer, node: Node) -> dict:
    o = node.operation
    (top, _), (left, _) = o.geometry(node.inputs[0].image).padding
    return {"kind": "conv", "kernel": o.kernel, "stride": o.stride, "dilation": o.dilation, "groups": o.groups,
            "top": top, "left": left, **w.named(o.parameters)}


def _conv_transpose2d(w: _Writer, node: Node) -> dict:
    o = node.operation
    (top, _), (left, _) = shapes.sides(o.owner, o.padding)
    return {"kind": "conv_transpose", "kernel": o.kernel, "stride": o.stride, "dilation": o.dilation,
            "groups": o.groups, "top": top, "left": left, **w.named(o.parameters)}


def _batch_norm(w: _Writer, node: Node) -> dict:
    scale, shift = node.operation.scale_and_shift()
    return {"kind": "scale", "w": w.add(scale), "b": w.add(shift)}


def _pool(kind: str) -> Callable:
    def write(w: _Writer, node: Node) -> dict:
        found = node.operation.windows(node.inputs[0].image[1:])
        return {"kind": kind, "rows": found["rows"].tolist(), "columns": found["columns"].tolist(),
                "steps": [found["row_step"], found["column_step"]]}
    return write


def _plain(kind: str | None = None, *attributes: str) -> Callable:
    """A step with the node's attributes of these names. kind: default: the operation's name."""
    return lambda w, node: {"kind": kind or node.operation.name,
                            **{name: getattr(node.operation, name) for name in attributes}}


def _map(*names: str) -> Callable:
    """A function of each element with numbers, which have these names in the page; infinite ones are left out."""
    def write(w: _Writer, node: Node) -> dict:
        numbers = dict(zip(names, node.operation.numbers.values(), strict=True))
        kind = "clamp" if node.operation.name == "hardtanh" else node.operation.name
        return {"kind": kind, **{name: n for name, n in numbers.items() if math.isfinite(n)}}
    return write


def _pick(w: _Writer, node: Node) -> dict:
    o, axes = node.operation, len(node.output.image)
    tables = o.tables[o.plane:] if axes > 1 else o.tables[:1]
    return {"kind": "pick", "tables": [None if table is None else table.tolist() for table in tables],
            "value": o.value if math.isfinite(o.value) else str(o.value).replace("inf", "Infinity")}    # JSON has none


def _bilinear(w: _Writer, node: Node) -> dict:
    (rows, down), (columns, right) = node.operation.rows, node.operation.columns
    return {"kind": "bilinear", "rows": rows.tolist(), "down": down.tolist(), "columns": columns.tolist(),
            "right": right.tolist()}


def _cat(w: _Writer, node: Node) -> dict:
    return {"kind": "concat", "axis": getattr(node.operation, "axis", 0)}


# from the names of our operations: a function of the writer and the node that returns the step
TABLE: dict[str, Callable] = {
    "conv2d": _conv2d, "conv_transpose2d": _conv_transpose2d, "batch_norm": _batch_norm,
    "max_pool2d": _pool("max"), "avg_pool2d": _pool("average"),
    "linear": lambda w, node: {"kind": "linear", **w.named(node.operation.parameters)},
    "group_norm": lambda w, node: {"kind": "group_norm", "groups": node.operation.groups, "eps": node.operation.eps,
                                   **w.named(node.operation.parameters)},
    "layer_norm": lambda w, node: {"kind": "layer_norm", "each": math.prod(node.operation.normalized_shape),
                                   "eps": node.operation.eps, **w.named(node.operation.parameters)},
    "layer_norm2d": lambda w, node: {"kind": "layer_norm2d", "eps": node.operation.eps,
                                     **w.named(node.operation.parameters)},
    "local_response_norm": _plain(None, "size", "alpha", "beta", "k", "before"),
    "leaky_relu": lambda w, node: {"kind": "leaky_relu", "slope": node.operation.scalars["slope"]},
    **{name: _plain() for name in (
        "relu", "tanh", "sigmoid", "silu", "gelu", "gelu_tanh", "hardswish", "hardsigmoid", "mish", "absolute", "exp",
        "log", "sqrt", "sin", "cos", "add", "subtract", "multiply", "divide", "maximum", "minimum", "greater",
        "greater_equal", "equal", "not_equal", "where", "reshape", "matmul")},
    "clamp": _map("low", "high"), "hardtanh": _map("low", "high"), "elu": _map("alpha"),
    "softplus": _map("beta", "threshold"), "power": _map("exponent"),
    **{f"{name}{over}": _plain(name, "axis") for name in ("softmax", "log_softmax") for over in ("", "_over")},
    **dict.fromkeys(("strided_slice", "pad", "interpolate", "permute_channels"), _pick), "bilinear": _bilinear,
    "permute": _plain(None, "axes"), "pixel_shuffle": _plain(None, "factor"), "pixel_unshuffle": _plain(None, "factor"),
    "affine": _plain("affine", "factor", "summand"), "reciprocal": _plain("reciprocal", "number"),
    **{name: _plain(None, "axes") for name in ("sum", "mean", "amax", "amin")},
    "slice": _plain("slice", "first", "stop"), "cat": _cat, "cat_along": _cat,
    "parameter": lambda w, node: {"kind": "constant", "w": w.add(node.operation.parameters["parameter"])},
}


def page(model: Module, path: str | os.PathLike, shape: Sequence[int], *, classes: Sequence[str] | None = None,
         mean: Sequence[float] | None = None, std: Sequence[float] | None = None, pixels: str = "uint8",
         title: str = "What is it?", about: str = "", examples: np.ndarray | None = None) -> None:
    """Write a model, as it is in evaluation mode, as a web page: whole or not at all.

    The page classifies what one draws, a picture or what the camera sees, and shows the outputs of each layer. It needs
    no network and sends nothing.

    path: the file. shape: of one image, (C, H, W), C being 1 or 3. classes: names; default: "0", "1", ... mean, std:
    one number a channel, in units of pixel / 255, as in Dataset; default: 0 and 1. pixels: what the model was trained
    on; a browser has "uint8" only. title, about: plain text.
    examples: uint8 (n, C, H, W), up to 20 images to choose from.

    Raises TypeError or ValueError for wrong arguments and, naming module and operation, for what the page cannot
    compute; OSError naming the file.
    """
    from cnn.graph.once import once
    from cnn.graph.passes import prune, without_detached
    from cnn.layers.parts import image_shape, in_evaluation
    from cnn.layers.running import graph_of
    image = image_shape("export.page", shape)
    if len(image) != 3 or image[0] not in (1, 3):
        raise ValueError(f"export.page: shape must be (1 or 3, height, width), got {tuple(shape)}")
    if pixels != "uint8":
        raise ValueError('export.page: pixels must be "uint8", which pictures in a browser have: mean and std of a '
                         f"model trained on {pixels} are in another unit")
    graph = without_detached(in_evaluation(model, graph_of, model, [image]))
    graph = prune(once(graph, weights_only=True))
    if len(graph.outputs) != 1 or len(graph.outputs[0].image) != 1:
        raise ValueError("export.page: the model must return one output, (N, classes), got "
                         + ", ".join(shapes.batch(value.image) for value in graph.outputs))
    names = told.class_names("export.page", map(str, range(graph.outputs[0].image[0])) if classes is None else classes)
    told.check_count("export.page", names, graph)
    steps, weights, numbers = described(graph)
    if not steps or numbers[id(graph.outputs[0])] != len(steps):
        raise ValueError("export.page: the model's output must be what it computes last")
    mean, std = (told.per_channel("export.page", name, [fill] * image[0] if given is None else given, image[0])
                 for name, given, fill in (("mean", mean, 0.0), ("std", std, 1.0)))
    content = {"shape": image, "classes": names, "about": about, "steps": steps, "shown": _shown(graph, numbers),
               "mean": mean, "std": std, "question": "Draw something" if image[0] == 1 else "Choose a picture",
               "end": graph.nodes[-1].operation.name, **_examples(examples, image)}
    files.write(path, _document(title, content, weights).encode())


def described(graph: Graph) -> tuple[list[dict], bytes, dict[int, int]]:
    """The steps of page_network.js, their weights, float32, and by id of a value its number: the input has 0, what step
    i makes has i + 1."""
    writer = _Writer()
    numbers, steps = {id(graph.inputs[0]): 0}, []
    for node in graph:
        name = node.operation.name
        if name not in TABLE or hasattr(node.operation, "layer"):
            raise ValueError(f"export.page: module {node.modules[0]!r}: a page cannot compute {name}")
        try:
            step = TABLE[name](writer, node)
        except ValueError as error:
            raise ValueError(f"export.page: module {node.modules[0]!r}: {name}: {error}") from None
        steps.append({**step, "from": [numbers[id(value)] for value in node.inputs],
                      "shape": node.output.image})
        numbers[id(node.output)] = len(steps)
    return steps, np.concatenate([np.empty(0, "<f4"), *writer.weights]).tobytes(), numbers


def _shown(graph: Graph, numbers: dict[int, int]) -> list[dict]:
    """Of which values the page shows what: those that no activation or norm alone reads."""
    readers = graph.readers()
    shown: list[dict] = []
    words: dict[int, str] = {}
    for node in graph:
        name = node.operation.name
        if name in ("reshape", "parameter", "dropout"):
            continue
        kernel = getattr(node.operation, "kernel", None)
        called = name.replace("_", " ") + (f" {shapes.times(kernel)}" if isinstance(kernel, tuple) else "")
        if name in _ACTIVATIONS and id(node.inputs[0]) in words:
            called = f"{words[id(node.inputs[0])]}, {called}"
        after = readers.get(id(node.output), [])
        if len(after) == 1 and after[0].operation.name in _ACTIVATIONS:
            words[id(node.output)] = called
            continue
        shown.append({"value": numbers[id(node.output)], "title": called, "shape": node.output.image})
    if len(shown) > MOST_SHOWN:     # spread over all
        shown = [shown[i * (len(shown) - 1) // (MOST_SHOWN - 1)] for i in range(MOST_SHOWN)]
    return shown


def _examples(examples: np.ndarray | None, image: Sequence[int]) -> dict:
    if examples is None:
        return {}
    if not isinstance(examples, np.ndarray) or examples.dtype != np.uint8 or examples.shape[1:] != tuple(image) \
            or not 0 < len(examples) <= MOST_EXAMPLES:
        raise ValueError(f"export.page: examples must be a uint8 array (1 to {MOST_EXAMPLES}, "
                         f"{', '.join(map(str, image))}), got {shapes.shown(examples)}")
    return {"examples": [base64.b64encode(one.tobytes()).decode() for one in examples]}


def _document(title: str, content: dict, weights: bytes) -> str:
    script = "".join((_HERE / name).read_text("utf-8") for name in ("page_network.js", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # what a page may do: run this script, show its own pictures, and nothing else: it cannot reach any other machine
    policy = f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    parts = {"POLICY": policy, "TITLE": html(title),
             "MODEL": json.dumps(content, allow_nan=False).replace("<", "\\u003c"),
             "WEIGHTS": base64.b64encode(weights).decode(), "SCRIPT": script}
    pieces: list[str] = []
    rest = (_HERE / "page.html").read_text("utf-8")
    while found := [(rest.index(word), word) for word in parts if word in rest]:    # not in what has been put in
        at, word = min(found)
        pieces += rest[:at], parts[word]
        rest = rest[at + len(word):]
    return "".join(pieces) + rest
