"""What a model is made of, layer by layer."""
from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cnn import shapes
from cnn.engine.program import Program
from cnn.graph.lower import write
from cnn.graph.passes import optimised
from cnn.graph.trace import unpack
from cnn.layers import running
from cnn.layers.in_numpy import Opaque
from cnn.layers.module import Module
from cnn.layers.parts import image_shape, in_evaluation
from cnn.ops.operation import laid
from cnn.ops.reshaping import Reshape
from cnn.text import html, html_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from cnn.engine.parameter import Parameter
    from cnn.graph import Graph, Node


class Row(NamedTuple):
    """One layer of a summary.

    name: as in the names of its parameters, "0" or "3.body.1"; "" for the model itself. layer: its class.
    output_shape: of one image, (C, H, W) or (features,); None where nothing ran it. parameters: numbers that
    are its own; layers inside it have rows of their own, which follow. multiply_adds: of one image, forward.
    memory: bytes of the output of one image; 0 where it is the input seen in another shape, or that of a layer inside.
    """

    name: str
    layer: str
    output_shape: tuple | None
    parameters: int
    multiply_adds: int
    memory: int


class Summary:
    """The rows of a model, to print or to read: `rows`, iteration, `len` and `[i]` give each `Row`.

    parameters, trainable (those an optimizer may change), multiply_adds, memory: totals of the rows, a
    parameter that several layers share counted once. parameter_memory: bytes of the parameters. training_memory: bytes
    that a training step takes with batches of batch_size images, by the threads that there are (the optimizer's own
    arrays come on top); None where that was not asked for, or a layer is written in NumPy.
    """

    def __init__(self, rows: list[Row], parameters: Iterable[Parameter], batch_size: int | None = None,
                 training_memory: int | None = None) -> None:
        self.rows, self.batch_size, self.training_memory = rows, batch_size, training_memory
        parameters = {id(p): p for p in parameters}.values()
        self.parameters = sum(p.numel() for p in parameters)
        self.trainable = sum(p.numel() for p in parameters if p.requires_grad)
        self.parameter_memory = sum(p.data.nbytes for p in parameters)
        self.multiply_adds = sum(row.multiply_adds for row in rows)
        self.memory = sum(row.memory for row in rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __getitem__(self, i: int) -> Row:
        return self.rows[i]

    HEADER = ("layer", "output shape", "parameters", "multiply-adds", "memory")

    def cells(self) -> list[tuple[str, ...]]:
        """The table as texts: one tuple for each row, below HEADER, and last that of the totals."""
        table = []
        for row in self.rows:
            indent = "  " * row.name.count(".")
            shape = "?" if row.output_shape is None else "×".join(map(str, row.output_shape))
            table.append((f"{indent}{row.name} {row.layer}" if row.name else row.layer, shape,
                          *(f"{n:,}" if n else "" for n in (row.parameters, row.multiply_adds)),
                          size(row.memory) if row.memory else ""))
        return [*table, ("total", "", f"{self.parameters:,}", f"{self.multiply_adds:,}", size(self.memory))]

    def __str__(self) -> str:
        lines = [self.HEADER, *self.cells()]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        texts = ["  ".join([*(cell.ljust(w) for cell, w in zip(line[:2], widths[:2], strict=True)),
                            *(cell.rjust(w) for cell, w in zip(line[2:], widths[2:], strict=True))]) for line in lines]
        rule = "-" * len(texts[0])
        return "\n".join([texts[0], rule, *texts[1:-1], rule, texts[-1], self._notes()])

    def _notes(self) -> str:
        """What stands below the table."""
        frozen = f", {self.parameters - self.trainable:,} of them frozen" if self.trainable < self.parameters else ""
        training = ("" if self.training_memory is None else
                    f"\ntraining with batches of {self.batch_size} takes {size(self.training_memory)}")
        return (f"{self.parameters:,} parameters{frozen}: {size(self.parameter_memory)}; multiply-adds and memory (of "
                f"outputs) are those of one image, forward{training}")

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """The table that a notebook shows."""
        *rows, total = self.cells()
        return f"{html_table(self.HEADER, rows, total)}<p>{html(self._notes())}</p>"


def size(count: int) -> str:
    """A number of bytes in words."""
    if count < 1024:
        return f"{count} B"
    power = min((count.bit_length() - 1) // 10, 4)
    return f"{count / 1024**power:,.1f} {('KiB', 'MiB', 'GiB', 'TiB')[power - 1]}"


def summarise(model: Module, shape: Sequence[int], batch_size: int | None = None) -> Summary:
    """The Summary of a model for images of `shape`, (C, H, W) or (features,); see Module.summary."""
    owner = f"{type(model).__name__}.summary"
    shape = image_shape(owner, shape)
    dtype = model.dtype or np.dtype(np.float32)
    calls: dict = {}
    made: dict = {}
    kept: list = []
    in_evaluation(model, _collect, model, shape, dtype, calls, made, kept)
    rows: list[Row] = []

    def walk(name: str, module: Module) -> list:
        """Add the rows of a module and those inside it; returns its outputs."""
        # a module that stands in several places has a call for each
        own = calls.get(id(module), [])
        graph, inputs, result, first, stop = own.pop(0) if len(own) > 1 else own[0] if own else (None, (), None, 0, 0)
        at = len(rows)
        inside = [y for child_name, child in module.named_children()
                  for y in walk(f"{name}.{child_name}" if name else child_name, child)]
        outputs = [] if not own else unpack(result, owner)[1]
        handed_on = {id(y) for y in (*inside, *inputs, *(y for y in outputs if _is_view(made.get(id(y)), inputs)))}
        row = Row(name, type(module).__name__, outputs[0].image if outputs else None,
                  sum(p.numel() for _, p in module.own_parameters()),
                  _macs(module, graph, inputs, outputs, first, stop),
                  sum(math.prod(y.image) * dtype.itemsize for y in outputs if id(y) not in handed_on))
        # a model that only runs its modules needs no row
        if name or not module.named_children() or row.parameters or row.multiply_adds or row.memory:
            rows.insert(at, row)
        return outputs

    walk("", model)
    walk = None     # type: ignore[assignment]  # a function that refers to itself is a circle, which keeps the model
    memory = None if batch_size is None else _training_memory(
        model, shape, dtype, shapes.integer(owner, "batch_size", batch_size, 1))
    return Summary(rows, model.parameters(), batch_size, memory)


def html_of(model: Module) -> str:
    """The table of a model that a notebook shows: each layer, its arguments and parameters."""
    rows, total = [], f"{sum(p.numel() for p in model.parameters()):,}"

    def walk(name: str, module: Module) -> None:
        own = sum(p.numel() for _, p in module.own_parameters())
        kind = type(module).__name__
        rows.append(("  " * name.count(".") + f"{name} {kind}" if name else kind, module.extra_repr(),
                     f"{own:,}" if own else ""))
        for child_name, child in module.named_children():
            walk(f"{name}.{child_name}" if name else child_name, child)

    walk("", model)
    return html_table(("layer", "arguments", "parameters"), rows, ("total", "", total))


def _is_view(node: Node | None, inputs: tuple) -> bool:
    """Whether a node only shows one of these values in another shape."""
    return node is not None and isinstance(node.operation, Reshape) and any(node.inputs[0] is x for x in inputs)


def _collect(model: Module, shape: tuple[int, ...], dtype: np.dtype, calls: dict, made: dict, kept: list) -> None:
    """Note the calls of all modules inside, by id, and the nodes that make their values; `kept` keeps graphs alive."""
    graph = running.graph_of(model, [shape], dtype, record=True)
    kept.append(graph)
    for module, *call in graph.calls:
        calls.setdefault(id(module), []).append((graph, *call))
    for node in graph.nodes:
        made[id(node.output)] = node
        if isinstance(node.operation, Opaque):
            for module, image in node.operation.calls(node.inputs[0].image):
                _collect(module, image, dtype, calls, made, kept)


def _macs(module: Module, graph: Graph | None, inputs: tuple, outputs: list, first: int, stop: int) -> int:
    """Multiply-adds of what a module itself does in nodes of its call."""
    if graph is None:
        return 0
    if type(module).multiply_adds is not Module.multiply_adds:
        return module.multiply_adds(inputs[0].image, outputs[0].image)
    nodes = [node for node in graph.nodes[first:stop] if node.modules[0] == graph.modules.get(id(module))]
    return sum(node.operation.macs(*(value.image for value in node.inputs)) for node in nodes)


def _training_memory(model: Module, shape: tuple[int, ...], dtype: np.dtype, batch_size: int) -> int | None:
    """Bytes of a training step: of its activations and scratch, parameters and gradients."""
    graph = optimised(running.graph_of(model, [shape], dtype), True)
    if not model.fused:
        return None
    program = Program(dtype, batch_size, gradients=True)
    outputs, backward = write(program, graph, [program.input(**laid(shape))])
    backward([program.like(y) for y in outputs], [False])
    program.add_gradients()
    program.compile()
    total = program.nbytes + sum(p.data.nbytes + p.grad.nbytes for p in model.parameters())
    program.close()
    return total
