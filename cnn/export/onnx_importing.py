"""ONNX files as modules. What each operator becomes stands in onnx_operators.py."""
from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from cnn import shapes
from cnn.engine.parameter import Parameter
from cnn.export.onnx_arithmetic import step_of_gelu
from cnn.export.onnx_extra import require_onnx
from cnn.export.onnx_folding import KEEP, SPARE, fold, shape_of
from cnn.export.onnx_reading import File, Refused, words
from cnn.export.onnx_values import Known, Live, N, NodeView, Part, image_of
from cnn.graph.trace import trace
from cnn.layers.graph_module import OPERATIONS, GraphModule, OperationNode

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from typing import Any

    from cnn.graph import Value

LONGEST = 2**20     # pixels a side: tables are made for them

_NOT_AS_WRITTEN = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RecursionError)


class _Tracing:
    """Stands for the module that is being made, where operations are applied for their shapes' sake."""

    training = False
    _dropouts: Mapping = defaultdict(lambda: lambda value: value)


class Importer:
    """Turns a file's nodes into those of a GraphModule, whose values are traced meanwhile, so that each operation
    checks its shapes.

    values: what is known of each name. made: the OperationNode that makes a value, by its name. readers: how many read
    a name of the file.
    """

    def __init__(self, file: File, given: Mapping[str, np.ndarray], dtype: np.dtype) -> None:
        self.file, self.dtype = file, dtype
        self.values: dict[str, Known | Live | Part] = {}
        self.nodes: list[OperationNode] = []
        self.made: dict[str, OperationNode] = {}
        self.live: dict[str, Live] = {}
        self.parameters: dict[str, Parameter] = {}
        self.buffers: dict[str, np.ndarray] = {}
        self.layouts: dict[str, tuple] = {}
        self.readers = Counter(name for node in file.graph.node for name in node.input)
        self.readers.update(value.name for value in file.graph.output)
        self.node: NodeView | None = None
        self.inputs: list[str] = []     # names in the GraphModule
        self.told: list[str] = []       # and in the file
        self.ranks: list[int] = []
        self.outputs: dict[str, Live] = {}
        for tensor in file.graph.initializer:
            if tensor.name not in given:
                self.values[tensor.name] = Known(file.array(tensor), tensor.name, trained=True)
        for name, array in given.items():
            self.values[name] = Known(array, name, trained=True)
        self.left = SPARE + file.size       # elements that constants may yet have

    # ------------------------------------------------------------ adding operations

    def emit(self, operation: str, inputs: Sequence[Live], rank: int | None = None, attributes: dict | None = None,
             things: dict | None = None) -> Live:
        """Add an operation; returns its value. rank: of the result in the file, without which it is that of the first
        input; things: names of parameters and buffers, by what the operation calls them."""
        output = f"v{len(self.made)}"
        node = OperationNode(operation, tuple(x.name for x in inputs), output, attributes or {}, things or {},
                             self.node.name if self.node else "")
        found = {role: self.parameters[name] if name in self.parameters else self.buffers[name]
                 for role, name in node.parameters.items()}
        value = OPERATIONS[operation].apply(_Tracing(), node, [x.value for x in inputs], found, **node.attributes)
        return self.add(node, value, rank or inputs[0].rank)

    def add(self, node: OperationNode, value: Value, rank: int) -> Live:
        """A node and its value, checked."""
        if max(value.image[1:], default=0) > LONGEST:
            raise Refused(f"a side of {shapes.times(value.image)} is larger than {LONGEST} pixels")
        shapes.block("load_onnx", "value", *value.image)
        self.nodes.append(node)
        self.made[node.output] = node
        self.live[node.output] = Live(value, node.output, rank)
        return self.live[node.output]

    def before(self, x: Live, *operations: str, alone: bool = True) -> OperationNode | None:
        """The node that makes a value, if it is one of these and, with `alone`, nothing else in the file reads it."""
        node = self.made.get(x.name)
        if node is None or node.operation not in operations:
            return None
        if not alone:
            return node
        names = [name for name, value in self.values.items() if isinstance(value, Live) and value.name == x.name]
        # each other name of it has one of these reads
        return node if sum(self.readers[name] for name in names) - (len(names) - 1) == 1 else None

    def again(self, node: OperationNode, rank: int, things: dict) -> Live:
        """The same operation with more parameters, in place of one that nothing else reads."""
        inputs = [self.live[name] for name in node.inputs]
        return self.emit(node.operation, inputs, rank, dict(node.attributes), {**node.parameters, **things})

    def parameter(self, known: Known, array: np.ndarray, turned: bool = False, trained: bool | None = None) -> str:
        """The name of a Parameter with these elements: those of `known`, in another shape perhaps, or turned. One that
        is used several times is the same each time. Raises Refused where it is used in several shapes."""
        name = self._named(known, array, turned)
        if name in self.buffers:
            raise Refused(f"{words(name)!r} is used as a parameter and as a running statistic")
        if name not in self.parameters:
            if array.dtype.kind != "f":
                raise Refused(f"{words(name)!r} must hold floats, got {array.dtype}")
            self.spend(array.size)
            self.parameters[name] = Parameter(np.ascontiguousarray(array, self.dtype),
                                              known.trained if trained is None else trained)
        return name

    def buffer(self, known: Known, shape: tuple[int, ...]) -> str:
        """The name of a buffer with these elements."""
        name = self._named(known, known.array, False)
        if name in self.parameters:
            raise Refused(f"{words(name)!r} is used as a parameter and as a running statistic")
        if known.array.shape != shape or known.array.dtype.kind != "f":
            raise Refused(f"{words(name)!r} must hold floats of shape {shape}, got {known.array.dtype} of "
                          f"{known.array.shape}")
        self.buffers[name] = np.ascontiguousarray(known.array, self.dtype).copy()
        return name

    def _named(self, known: Known, array: np.ndarray, turned: bool) -> str:
        layout = array.shape, turned != known.turned
        name = known.name
        if self.layouts.setdefault(name, layout) != layout:
            raise Refused(f"{words(name)!r} is used in two shapes, {self.layouts[name][0]} and {array.shape}: a "
                          f"parameter has one")
        return name

    def spend(self, elements: int) -> None:
        """Count elements that are made beyond the file's. Raises Refused beyond what its size bears out."""
        self.left -= elements
        if self.left < 0:
            raise Refused(f"its constants take more than {SPARE + self.file.size} elements, more than the file's size "
                          f"bears out")

    def constant(self, known: Known, rank: int) -> Live:
        """An array as a value beside one of this rank: the same for every image."""
        dims = known.array.shape
        if len(dims) > rank or (len(dims) == rank and dims[0] != 1):
            raise Refused(f"a constant of shape {dims} must be the same for every image, beside a value of {rank} axes")
        dims = dims[1:] if len(dims) == rank else dims
        image = image_of((1,) * (rank - 1 - len(dims)) + tuple(dims))
        array = known.array if known.trained or known.array.ndim else known.array.reshape(1)
        layout = self.layouts.get(known.name)
        if layout is not None and math.prod(layout[0]) == array.size and not layout[1] and not known.turned:
            array = array.reshape(layout[0])        # it is there already, in another shape of the same elements
        like = self.live[self.inputs[0]]
        return self.emit("parameter", [like], rank, {"image": list(image)},
                         {"parameter": self.parameter(known, array, trained=known.trained)})

    def reshaped(self, x: Live, dims: Sequence[int]) -> Live:
        """A value with other sizes of an image, as the file has them."""
        image = image_of(tuple(dims))
        if image == tuple(x.value.image):
            return Live(x.value, x.name, 1 + len(dims))
        pool = self.before(x, "avg_pool2d") if len(image) == 1 else None
        if pool and pool.attributes.get("output_size") == [1, 1]:      # one operation, as GlobalAvgPool2d is
            return self.emit("avg_pool2d", [self.live[pool.inputs[0]]], 1 + len(dims),
                             {"output_size": [1, 1], "flat": True})
        return self.emit("reshape", [x], 1 + len(dims), {"image": list(image)})

    # ------------------------------------------------------------ the whole graph

    def run(self, table: Mapping, *values: Value) -> tuple[Value, ...]:
        """Go through all nodes; returns the outputs' values."""
        for told, name, value, rank in zip(self.told, self.inputs, values, self.ranks, strict=True):
            self.values[told] = self.live[name] = Live(value, name, rank)
            if rank == 3:       # sequences are images of one row inside
                self.values[told] = self.emit("reshape", [self.live[name]], 3, {"image": list(_inside(value.image))})
        for node in self.file.graph.node:
            self._node(node, table)
        outputs = []
        for told in self.file.graph.output:
            self._made(told.name)
            found = self.values.get(told.name)
            if not isinstance(found, Live):
                raise Refused(f"output {words(told.name)!r} must depend on the graph's input, and " + (
                    "no node makes it" if found is None else
                    f"is {found.kind}, a part of other operations only" if isinstance(found, Part) else "does not"))
            if found.rank in (1, 3):        # a number of each image has an axis inside
                found = self.emit("reshape", [found], found.rank, {"image": list(found.dims)})
            outputs.append(found)
        if not outputs:
            raise Refused("the graph has no output")
        self.outputs = {told.name: found for told, found in zip(self.file.graph.output, outputs, strict=True)}
        return tuple(found.value for found in outputs)

    def _node(self, node: Any, table: Mapping) -> None:
        view = self.node = NodeView(node, self.file, [])
        try:
            if node.domain not in ("", "ai.onnx"):
                raise Refused(f"its domain must be ONNX's own, got {words(node.domain)!r}")
            for name in node.input:
                if name and name not in self.values:
                    raise Refused(f"input {words(name)!r} is made by no node before it")
                if name:
                    self._made(name, view.op not in ("Add", "Sub", "Mul", "Div", "Tanh"),
                               view.op not in ("Conv", "AveragePool"))
                view.inputs.append(self.values[name] if name else None)
            results = self._results(view, table)
            if view.unused():
                raise Refused(f"attribute {view.unused()[0]} = {words(view.get(view.unused()[0]))} is not understood")
            for name, result in zip(node.output, results, strict=False):
                if name:
                    self.values[name] = result
            for name in list(node.output)[len(results):]:
                if name and self.readers[name]:
                    raise Refused(f"its output {words(name)!r} is read, and not computed here")
        except Refused as error:
            raise Refused(f"node {view.name!r} ({view.op}): {error}") from None
        except _NOT_AS_WRITTEN as error:
            raise Refused(f"node {view.name!r} ({view.op}): {words(error, 400) or type(error).__name__}") from None

    def _made(self, name: str, steps: bool = True, pads: bool = True) -> None:
        """Where a value is a padding that no window takes into itself, pad it. steps: also compute a step of GELU, of
        which no GELU will be made."""
        part = self.values.get(name)
        if steps and isinstance(part, Part):
            self.values[name] = step_of_gelu(self, part) or part
        if pads and isinstance(part, Part) and part.kind == "Pad":
            tables: list[list[int] | None] = [None]
            for (before, after), n in zip(part.more["sides"], part.of.value.image[1:], strict=True):
                tables.append([j if 0 <= j < n else -1 for j in range(-before, n + after)])
            self.spend(sum(len(table) for table in tables if table))
            self.values[name] = self.emit("pad", [part.of], None, {"tables": tables})

    def _results(self, view: NodeView, table: Mapping) -> list:
        """What a node computes."""
        there = [value for value in view.inputs if value is not None]
        spread = view.op == "Expand" and len(there) == 2 and isinstance(there[1], Known) and any(
            n is N for n in there[1].array.flat)       # a constant, for every image
        if all(isinstance(value, Known) for value in there) and not spread:
            array = fold(view, [value and value.array for value in view.inputs])
            first = there[0] if there else None
            output = view.outputs[0] if view.outputs else ""
            if isinstance(first, Known) and view.op in KEEP:
                return [Known(array, first.name, first.trained, first.turned)]
            if isinstance(first, Known) and view.op == "Transpose" and array.ndim == 2 and first.array.ndim == 2:
                same = array.shape == first.array.shape and view.get("perm") == [0, 1]
                return [Known(array, first.name, first.trained, first.turned != (not same))]
            self.spend(array.size)
            return [Known(array, output)]
        if view.op == "Shape" and isinstance(view.inputs[0], Live):
            return [Known(shape_of(view, [N, *view.inputs[0].dims]), view.outputs[0])]
        if view.op not in table:
            raise Refused(f"there is no operation for it here; those known are {', '.join(sorted(table))}")
        found = table[view.op](self, view)
        return found if isinstance(found, list) else [found]

    def module(self) -> GraphModule:
        """The module of all nodes on which an output depends."""
        needed, kept = {found.name for found in self.outputs.values()}, []
        for node in reversed(self.nodes):
            if node.output in needed:
                needed.update(node.inputs)
                kept.append(node)
        used = {name for node in kept for name in node.parameters.values()}
        outputs: Any = {name: found.name for name, found in self.outputs.items()}
        if len(outputs) == 1:
            outputs, = outputs.values()
        order = {tensor.name: i for i, tensor in enumerate(self.file.graph.initializer)}
        parameters = {name: p for name, p in self.parameters.items() if name in used}
        made = GraphModule(self.inputs, kept[::-1], outputs,
                           dict(sorted(parameters.items(), key=lambda item: order.get(item[0], len(order)))),
                           {name: array for name, array in self.buffers.items() if name in used})
        made.metadata = dict(self.file.metadata)
        return made.eval()


def _inside(image: tuple[int, ...]) -> tuple[int, int, int]:
    return image[0], 1, image[1]


def load_onnx(path: str | os.PathLike, parameters: Mapping[str, np.ndarray] | None = None,
              shape: Sequence[int] | None = None) -> GraphModule:
    """The network of an ONNX file (opset 6 to 28) as a module in evaluation mode, which can be trained further.

        net = cnn.load_onnx("model.onnx")
        scores = net(images)

    path: the file. parameters: arrays by name, for weights that the file declares as inputs, or in place of those in
    it. shape: of one image, (C, H, W) or (features,), for files that leave sizes open. Initializers become Parameters
    under their names, running statistics buffers. What the file has as (N,) is (N, 1) here.
    Several inputs are arguments in the file's order, several outputs a dict by their names. `metadata` of the module:
    the file's, a dict of texts.

    The file may come from anyone: nothing in it is run, no file outside of its folder is read, and no more memory taken
    than a small multiple of its size. Raises ModuleNotFoundError without the package onnx, FileNotFoundError, and
    ValueError naming the file where it is damaged, or the node, operator, attribute and value of what cannot be
    expressed here; TypeError for parameters that are no arrays.
    """
    from cnn.export.onnx_operators import TABLE
    file = File(path, require_onnx("load_onnx"))
    given = {}
    if parameters is not None and not isinstance(parameters, Mapping):
        raise TypeError(f"load_onnx: parameters must be a dict of arrays, got {type(parameters).__name__}")
    known = {thing.name for thing in (*file.graph.input, *file.graph.initializer)}
    for name, array in (parameters or {}).items():
        if name not in known:
            raise ValueError(f"load_onnx: parameters must be inputs or weights of the file, got {name!r}; it has "
                             f"{', '.join(sorted(known))}")
        if not isinstance(array, np.ndarray):
            raise TypeError(f"load_onnx: parameters[{name!r}] must be an array, got {type(array).__name__}")
        given[name] = array
        file.size += array.nbytes
    try:
        return _loaded(file, given, None if shape is None else tuple(shape), TABLE)
    except Refused as error:
        raise ValueError(f"{path}: {error}") from None
    except _NOT_AS_WRITTEN as error:
        raise ValueError(f"{path}: not an ONNX file that can be read ({words(error)})") from None


def _loaded(file: File, given: dict[str, np.ndarray], shape: tuple | None, table: Mapping) -> GraphModule:
    there = {tensor.name for tensor in file.graph.initializer} | set(given)
    inputs = [value for value in file.graph.input if value.name not in there]
    if not inputs:
        raise Refused("the graph has no input")
    told = [(value, *file.value_shape(value)) for value in inputs]
    kinds = {kind for _, kind, _ in told}
    if kinds != {"FLOAT"} and kinds != {"DOUBLE"}:
        raise Refused(f"inputs must all be FLOAT or all DOUBLE, got {', '.join(sorted(kinds))}")
    if len({value.name for value in inputs}) < len(inputs):
        raise Refused("two inputs have the same name")
    images, ranks = [], []
    for i, (value, _, dims) in enumerate(told):
        if len(dims) < 1:
            raise Refused(f"input {words(value.name)!r}: it must have 1 to 4 axes, the images' first, got none")
        if i == 0 and shape is not None:
            wanted = tuple(shapes.integer("load_onnx", "shape", n, 1) for n in shape)
            if len(wanted) != len(dims) - 1:
                raise Refused(f"input {words(value.name)!r}: shape must have {len(dims) - 1} sizes, got {wanted}")
            dims = [None, *wanted]
        if None in dims[1:]:
            raise Refused(f"input {words(value.name)!r}: the file leaves sizes open, "
                          f"(N, {', '.join('?' if n is None else str(n) for n in dims[1:])}): give shape=(C, H, W)")
        sizes = tuple(n for n in dims[1:] if n is not None)
        image = image_of(sizes)
        if max(image[1:], default=0) > LONGEST:
            raise Refused(f"input {words(value.name)!r}: a side of {shapes.times(image)} is larger than {LONGEST}")
        shapes.block("load_onnx", f"input {words(value.name)!r}", *image)
        images.append(sizes if len(sizes) == 2 else image)
        ranks.append(len(dims))
    importer = Importer(file, given, np.dtype(np.float32 if kinds == {"FLOAT"} else np.float64))
    importer.inputs = [f"x{i or ''}" for i in range(len(inputs))]
    importer.told, importer.ranks = [value.name for value in inputs], ranks
    trace(lambda *values: importer.run(table, *values), images, importer.dtype)
    return importer.module()
