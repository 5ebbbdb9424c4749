"""Models compiled for few images: snapshots that any number of threads may call."""
from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cnn import shapes
from cnn._ext import executor
from cnn.engine.shards import blocks_per_shard
from cnn.graph.lower import FEW, slot, written
from cnn.graph.passes import optimised
from cnn.graph.trace import pack
from cnn.layers import running
from cnn.layers.in_numpy import Opaque
from cnn.layers.module import Module
from cnn.layers.parts import as_floats, image_shape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnn.engine.program import Program
    from cnn.graph import Graph


class Context(NamedTuple):
    """What one call at a time may use: a program with memory of its own, and what the executor wants to know of it."""

    program: Program
    addresses: tuple[int, int, int]
    places: list    # of the inputs' and outputs' addresses
    threads: list[int]      # by the number of images, up to FEW; or for all

    def run(self, images: int, arrays: tuple[np.ndarray, ...]) -> None:
        """Fill the outputs' arrays, which stand behind the inputs'."""
        slots, threads = tuple(zip(self.places, arrays, strict=True)), self.threads
        if images < len(threads):
            executor.run(*self.addresses, images, 1, threads[images], 0, 1, slots, (), None, 1)
        else:
            executor.run(*self.addresses, images, blocks_per_shard(images), threads[0], 0, 1, slots)


class CompiledModel:
    """What `cnn.compile` returns: call it with images, `net(x)`.

    It computes what the model would in evaluation mode, with the weights, running statistics and attributes that the
    model had when it was compiled, whatever becomes of the model. Any number of Python threads may call it at the same
    time: each call has memory of its own, which is kept for the next, and lets the others run meanwhile. Up to 8
    images are computed one after the other, more of them sixteen at a time: scores of one image may differ by rounding
    between the two.

    graph: of the model in evaluation mode, a copy of its own. dtype: of the model. threads: as in `compile`, which
    checks all of them and raises TypeError or ValueError. shape: of one image, (C, H, W) or (features,); for several
    inputs a tuple of shapes.
    """

    def __init__(self, graph: Graph, dtype: np.dtype, threads: int) -> None:
        self._owner, self._graph, self._threads, self.dtype = f"compiled {graph.title}", graph, threads, dtype
        self._inputs = tuple(value.image for value in graph.inputs)
        self._outputs, self._structure = [value.image for value in graph.outputs], graph.structure
        self.shape = self._inputs[0] if len(self._inputs) == 1 else self._inputs
        self._packed: list = []         # weights, which all programs share
        self._few: list[Context] = [self._context(1)]   # at rest
        self._many: list[Context] = []

    @property
    def nbytes(self) -> int:
        """Memory that it holds now, in bytes."""
        parameters = {id(p): p for node in self._graph for p in node.operation.parameters.values()}
        arrays = [*(array for arrays in self._packed for array in arrays), *(p.data for p in parameters.values())]
        return sum(array.nbytes for array in arrays) + sum(c.program.nbytes for c in (*self._few, *self._many))

    def __call__(self, *xs: np.ndarray, out: np.ndarray | None = None) -> Any:
        """The output y for x, (N, C, H, W), (N, C, L) or (N, features); several of both as the model has them.

        out: an array of y's shape and the model's dtype, apart from x, which is filled and returned, if there is one
        output; then nothing is allocated. N may be 0. Raises TypeError or ValueError for arrays that do not fit.
        """
        if len(xs) != len(self._inputs):
            raise TypeError(f"{self._owner}: it takes {len(self._inputs)} arrays, got {len(xs)}")
        dtype, images = self.dtype, xs[0].shape[0] if type(xs[0]) is np.ndarray and xs[0].ndim else 0
        for x, image in zip(xs, self._inputs, strict=True):
            if type(x) is not np.ndarray or x.dtype != dtype or x.shape != (images, *image) or not _readable(x):
                xs = self._checked(xs)
                images = len(xs[0])
                break
        if out is None:
            ys = [np.empty((images, *image), dtype) for image in self._outputs]
        else:
            ys = [self._target(out, images, xs)]
        if images:
            resting = self._few if images <= FEW else self._many
            context = self._taken(resting, images)
            try:
                context.run(images, (*xs, *ys))
            finally:
                resting.append(context)
        return ys[0] if self._structure is None else pack(self._structure, ys)

    def _taken(self, resting: list[Context], images: int) -> Context:
        """A context for so many images that no other call uses."""
        while True:
            try:
                context = resting.pop()     # two threads never get the same
            except IndexError:
                return self._context(images)
            if context.program.images >= images:
                return context
            context.program.close()

    def _context(self, images: int) -> Context:
        """A new one for so many images. The first packs the weights."""
        few = images <= FEW
        program = written(self._graph, self.dtype, images, False, threads=self._threads,
                          **({"snapshot": self._packed} if few else {}))
        compiled = program.phase("forward")
        names = [slot("x", i) for i in range(len(self._inputs))] + [slot("y", i) for i in range(len(self._outputs))]
        threads = [compiled.threads]
        if program.by_channels:
            threads = [program.threads_for(n, compiled.threads) for n in range(FEW + 1)]
        return Context(program, compiled.addresses, [compiled.slots[name] for name in names], threads)

    def __reduce__(self) -> tuple:
        return CompiledModel, (self._graph, self.dtype, self._threads)

    def __del__(self) -> None:
        for context in (*getattr(self, "_few", ()), *getattr(self, "_many", ())):
            context.program.close()

    def _checked(self, xs: Sequence[Any]) -> list[np.ndarray]:
        """Arrays that the kernels can read, or an error that says what does not fit."""
        result: list[np.ndarray] = []
        xs = as_floats(xs, True, self.dtype)
        for i, (x, image) in enumerate(zip(xs, self._inputs, strict=True)):
            x = shapes.images(self._owner, slot("x", i), x, self.dtype, numbers=True)
            if x.shape[1:] != image or len(x) != len(result[0] if result else x):
                wanted = shapes.batch(image) if not result else f"({len(result[0])}, {', '.join(map(str, image))})"
                raise ValueError(f"{self._owner}: {slot('x', i)} must have shape {wanted}, got {x.shape}")
            result.append(x)
        return result

    def _target(self, out: np.ndarray, images: int, xs: Sequence[np.ndarray]) -> np.ndarray:
        if len(self._outputs) > 1 or self._structure is not None:
            raise TypeError(f"{self._owner}: out is for models with one output")
        wanted = (images, *self._outputs[0])
        if not (isinstance(out, np.ndarray) and out.dtype == self.dtype and out.shape == wanted
                and _readable(out) and out.flags.writeable):
            got = f"{out.dtype} {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
            raise ValueError(f"{self._owner}: out must be a contiguous, writable array of {self.dtype} {wanted}, got "
                             f"{got}")
        if any(np.may_share_memory(out, x) for x in xs):
            raise ValueError(f"{self._owner}: out must not overlap x")
        return out

    def __repr__(self) -> str:
        return f"<{self._owner} for {' and '.join(map(shapes.batch, self._inputs))} {self.dtype}>"


def _readable(x: np.ndarray) -> bool:
    """Whether the kernels can read an array as it is."""
    flags = x.flags
    return flags.c_contiguous and flags.aligned


def compile(model: Module, *image_shapes: Sequence[int], threads: int = 1) -> CompiledModel:
    """A snapshot of a model for images of these shapes, (C, H, W) or (features,), one for each input, to be called from
    any number of threads.

        net = cnn.compile(model, (1, 28, 28))
        scores = net(x)                     # x: (N, 1, 28, 28), as the model takes them

    threads: by how many threads one call is computed, 1 or more: 1 for a server that answers many requests at the same
        time, as many as there are cores where one call is to be fast.

    Batch normalisation becomes a part of the convolution before it, and so do additions and ReLU after it. Raises
    TypeError for a layer written in NumPy, or one that stays in training mode (dropout that is on in evaluation mode);
    ValueError for shapes that do not fit or a wrong number of threads.
    """
    if not image_shapes:
        raise ValueError("compile: the shape of an image is missing: (C, H, W) or (features,)")
    threads = shapes.integer("compile", "threads", threads, 1)
    shapes.instance("compile", "model", model, Module)
    model = copy.deepcopy(model).eval()
    graph = optimised(running.graph_of(model, [image_shape("compile", shape) for shape in image_shapes]), False)
    for node in graph:
        if isinstance(node.operation, Opaque):
            raise TypeError(f"compile: {node.operation.name} is a layer written in NumPy, which cannot be compiled: "
                            f"call the model itself")
        if node.operation.effects:
            raise TypeError(f"compile: {node.operation.name} (module {node.modules[0]}) is in training mode after "
                            f"model.eval(): what it draws or counts cannot be compiled: call the model itself")
    # a copy, because parameters and arrays may belong to something besides the model
    return CompiledModel(copy.deepcopy(graph), model.dtype or np.dtype(np.float32), threads)
