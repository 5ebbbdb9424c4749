"""What a model is made of, layer by layer."""
import math
from dataclasses import dataclass

import numpy as np

from cnn import shapes
from cnn.engine.plan import Program
from cnn.layers.base import evaluation, watching
from cnn.layers.container import Sequential


@dataclass(frozen=True)
class Row:
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
    parameter that several layers share counted once. parameter_memory: bytes of the parameters.
    """

    def __init__(self, rows, parameters):
        self.rows = rows
        parameters = {id(p): p for p in parameters}.values()
        self.parameters = sum(p.size for p in parameters)
        self.trainable = sum(p.size for p in parameters if p.requires_grad)
        self.parameter_memory = sum(p.data.nbytes for p in parameters)
        self.multiply_adds = sum(row.multiply_adds for row in rows)
        self.memory = sum(row.memory for row in rows)

    def __len__(self):
        return len(self.rows)

    def __iter__(self):
        return iter(self.rows)

    def __getitem__(self, i):
        return self.rows[i]

    HEADER = ("layer", "output shape", "parameters", "multiply-adds", "memory")

    def cells(self):
        """The table as texts: one tuple for each row, below HEADER, and last that of the totals."""
        table = []
        for row in self.rows:
            indent = "  " * row.name.count(".")
            shape = "?" if row.output_shape is None else "×".join(map(str, row.output_shape))
            table.append((f"{indent}{row.name} {row.layer}" if row.name else row.layer, shape,
                          *(f"{n:,}" if n else "" for n in (row.parameters, row.multiply_adds)),
                          size(row.memory) if row.memory else ""))
        return [*table, ("total", "", f"{self.parameters:,}", f"{self.multiply_adds:,}", size(self.memory))]

    def __str__(self):
        lines = [self.HEADER, *self.cells()]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        texts = ["  ".join([*(cell.ljust(w) for cell, w in zip(line[:2], widths[:2], strict=True)),
                            *(cell.rjust(w) for cell, w in zip(line[2:], widths[2:], strict=True))]) for line in lines]
        rule = "-" * len(texts[0])
        frozen = f", {self.parameters - self.trainable:,} of them frozen" if self.trainable < self.parameters else ""
        return "\n".join([texts[0], rule, *texts[1:-1], rule, texts[-1],
                          f"{self.parameters:,} parameters{frozen}: {size(self.parameter_memory)}; multiply-adds and "
                          f"memory (of outputs) are those of one image, forward"])

    __repr__ = __str__


def size(count):
    """A number of bytes in words."""
    if count < 1024:
        return f"{count} B"
    power = min((count.bit_length() - 1) // 10, 4)
    return f"{count / 1024**power:,.1f} {('KiB', 'MiB', 'GiB', 'TiB')[power - 1]}"


def summarise(model, shape):
    """The Summary of a model for images of `shape`, (C, H, W) or (features,); see Layer.summary."""
    owner = f"{type(model).__name__}.summary"
    if not isinstance(shape, (tuple, list)) or len(shape) not in (1, 3):
        raise ValueError(f"{owner}: shape must be (C, H, W) or (features,), got {shape!r}")
    shape = tuple(shapes.integer(owner, "shape", side, 1) for side in shape)
    dtype = model.dtype or np.dtype(np.float32)
    calls, rows = _calls(model, np.zeros((1, *shape), dtype)), []

    def walk(name, layer):
        """Add the rows of a layer and those inside it; returns its output."""
        children, made = layer.children(), calls.get(id(layer), [])
        # a layer that stands in several places has a call for each
        x, y = made.pop(0) if len(made) > 1 else made[0] if made else (None, None)
        at = len(rows)
        outputs = [walk(f"{name}.{child_name}" if name else child_name, child) for child_name, child in children]
        handed_on = (y is None or _is_view(x, y) or any(y is output for output in outputs)
                     or (isinstance(layer, Sequential) and len(layer) > 0))
        row = Row(name, type(layer).__name__, None if y is None else _one(y),
                  sum(p.size for _, p in layer.own_parameters()),
                  layer.multiply_adds(_one(x), _one(y)) if made else 0,
                  0 if handed_on else math.prod(_one(y)) * dtype.itemsize)
        # a model that only runs its layers needs no row
        if name or not children or row.parameters or row.multiply_adds or row.memory:
            rows.insert(at, row)
        return y

    walk("", model)
    return Summary(rows, model.parameters())


def _calls(model, x):
    """Each layer's calls where the model gets x, in evaluation mode: {id(layer): [(x, y)]}, arrays or a program's
    tensors."""
    calls = {}

    def record(layer, x, y):
        calls.setdefault(id(layer), []).append((x, y))

    def write(layer, x):
        program = Program(x.dtype, 1, watch=record)
        program.write_layer(layer, program.input(*x.shape[1:], flat=x.ndim == 2))
        program.close()

    def call(layer, x):
        if layer.fused:
            write(layer, x)
            with watching(None):
                return layer.forward(x)
        y = layer.forward(x)
        record(layer, x, y)
        return y

    with evaluation(model), np.errstate(all="ignore"):
        if model.fused:
            write(model, model._checked("x", x))
        else:
            layers = list(model.modules())
            before = [dict(vars(layer)) for layer in layers]
            try:
                with watching(call):
                    model(x)
            finally:        # layers in NumPy may have noted x, where a backward pass is still to come
                for layer, attributes in zip(layers, before, strict=True):
                    vars(layer).clear()
                    vars(layer).update(attributes)
    return calls


def _one(x):
    """The shape of one image of an array or of a program's tensor."""
    return x.shape[1:] if isinstance(x, np.ndarray) else x.shape


def _is_view(x, y):
    if isinstance(y, np.ndarray):
        return np.may_share_memory(x, y)
    return y is x or y.source is not None
