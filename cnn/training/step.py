"""A training step as one program: normalising, forward, loss, backward and update; and the same without learning."""
import math
from functools import lru_cache, partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from cnn import ranks
from cnn._ext import augment
from cnn.engine import backend, debugging
from cnn.engine.memory import LANES
from cnn.engine.program import Program
from cnn.engine.programs import circumstances, left_to_emit
from cnn.engine.shards import blocks_per_shard, shards_of
from cnn.engine.tensors import PER_ACTIVE_BLOCK, PER_ACTIVE_THREAD, Slot
from cnn.graph.lower import few, goes_by_channels, share, slot, write
from cnn.graph.passes import optimised
from cnn.layers.in_numpy import run_backward, run_forward
from cnn.layers.per_output import Parts, PerOutput, taken_apart
from cnn.layers.running import graph_of
from cnn.ops.operation import laid
from cnn.optim import clip_grad_norm
from cnn.training.exchange import exchange

# At most STEPS steps and SECONDS seconds per call of the kernels: between two calls Python takes a twentieth of a step
# of LeNet-5, but callbacks and signals wait until a call returns.
STEPS, SECONDS = 16, 0.02


IMAGES, CHANNELS = "images", "channels"     # what lies side by side, see docs/architecture.md


def layout_of(batch_size):
    """The layout of training in batches of so many images, which depends on that alone: also the last batch of an
    epoch, which may be shorter, has it. Sums are taken in another order in the other one."""
    return CHANNELS if few(batch_size, True) else IMAGES


def together(seconds_per_step):
    """How many steps to take in one call."""
    return max(1, min(STEPS, int(SECONDS / seconds_per_step)))


class Batch:
    """Images (n, C, H, W) and labels (n, ...); or places in a data set, (steps, n), for one or more batches.

    pixels: bytes to take the images from, and `labels` their labels, instead of the data set's; they are normalised
    like these. All `changes` are made to them before, by `numbers` drawn for each: see DataLoader.ready_batches.
    layout: how a step lays them out, see `layout_of`; by default as suits so many. each: images in a part that goes
    through the network by itself where that couples images; by default all.
    """

    __slots__ = ("changes", "dataset", "divisors", "each", "images", "labels", "layout", "numbers", "pixels")

    def __init__(self, labels, images, dataset=None, pixels=None, changes=(), numbers=(), layout=None, each=None):
        self.labels, self.images, self.dataset, self.changes, self.numbers = labels, images, dataset, changes, numbers
        self.pixels = dataset.images if dataset is not None and pixels is None else pixels
        self.layout, self.each = layout or layout_of(self.count), each or self.count
        self.divisors = None        # what a PerOutput divides by, where it is not the batch's own

    def parts(self):
        """A list of the batches of `each` images, or fewer, that a batch is made of."""
        result = []
        for first in range(0, self.count, self.each):
            part = slice(first, first + self.each)
            if self.dataset is None:
                result.append(Batch(self.labels[part], self.images[part], layout=self.layout))
            else:
                result.append(Batch(self.labels, self.images[:, part], self.dataset, self.pixels, self.changes,
                                    [numbers[:, part] for numbers in self.numbers], self.layout))
        return result

    @property
    def steps(self):
        return 1 if self.dataset is None else len(self.images)

    @property
    def count(self):
        """Images in each batch."""
        return len(self.images) if self.dataset is None else self.images.shape[1]

    @property
    def targets(self):
        """The labels of these images, (n, ...) or (steps, n, ...)."""
        return self.labels if self.dataset is None else self.labels[self.images]

    @property
    def form(self):
        """Batches of the same form, with the same data set, can use the same program."""
        labels = np.asarray(self.labels)
        return ((self.images if self.dataset is None else self.pixels).shape[1:], self.dataset is None, self.changes,
                labels.shape[1:], labels.dtype.kind if labels.dtype.names is None else labels.dtype)

    def more(self, names, dtype):
        """What the model gets after the images: arrays (n, ...), or (steps, n, ...), of these fields of the labels.
        Raises ValueError where there are none of this name."""
        labels = np.asarray(self.labels)
        if missing := [name for name in names if name not in (labels.dtype.names or ())]:
            raise ValueError(f"Trainer: the model's input {missing[0]!r} must be among the data set's labels, a dict, "
                             f"got {', '.join(labels.dtype.names or ['one array'])}")
        targets = self.targets if names else None
        return [np.ascontiguousarray(targets[name], dtype) for name in names]


class Step(NamedTuple):
    """What a step is made of. Without an optimizer it learns nothing and only measures; without `updates` it computes
    gradients, which the caller uses."""

    model: object
    criterion: object
    optimizer: object = None
    max_grad_norm: float | None = None
    layout: str | None = None       # of the batches that `batches` makes
    updates: bool = True
    scores: bool = False            # whether a program also gives the scores, see `execute`
    inputs: tuple[str, ...] = ()    # what of the labels the model gets after the images

    @property
    def fused(self):
        """Whether all of it can be one program."""
        parts = _losses(self.criterion) if self.optimizer is None else (*_losses(self.criterion), self.optimizer)
        return not (debugging.enabled() or backend.by_twins()) and self.model.fused and all(
            left_to_emit(type(part), "__call__", "backward", "step") for part in parts)

    def couples(self, shape, labels=None, dtype=None):
        """Whether what it makes of an image of this shape, with such labels, may depend on the others in the batch, in
        the present mode: where there is batch norm or a layer, or a loss, written in NumPy."""
        if not self.model.fused or not all(left_to_emit(type(loss), "__call__", "backward", "step")
                                           for loss in _losses(self.criterion)):
            return True
        return any(node.operation.couples for node in self.graph(shape, labels, dtype).nodes)

    def graph(self, shape, labels, dtype=None):
        """The graph of the model for images of this shape and such labels."""
        return graph_of(self.model, [shape, *(np.asarray(labels)[name].shape[1:] for name in self.inputs)], dtype)

    def fetches(self, dataset):
        """Whether the program itself can take the images from the data set."""
        return dataset.dtype == np.uint8 and self.fused

    def batches(self, loader, at_once):
        """The batches of an epoch; the kernels fetch, change and normalise bytes. at_once(): see `together`."""
        dataset, fused, each = loader.dataset, self.fused, loader.batch_size
        if loader.drawable and self.fetches(dataset) and not loader.mix:
            batch = None        # the same object again and again: what it is for is known after the first
            for _, changes, numbers, images, labels, where in loader.ready_batches(at_once):
                if batch is None or changes != batch.changes:
                    batch = Batch(labels, where, dataset, images, changes, layout=self.layout, each=each)
                batch.labels, batch.images, batch.pixels, batch.numbers = labels, where, images, numbers
                yield batch
            return
        mixed = loader.mixer()
        by_twins = backend.by_twins() and loader.drawable
        for images, labels in _changed_by_twins(loader) if by_twins else loader.raw_batches():
            if loader.mix:
                images, labels = mixed(normalised(dataset, images, self.model.dtype), labels)
                yield Batch(labels, images, layout=self.layout, each=each)
            elif fused and images.dtype == np.uint8:
                yield Batch(labels, np.arange(len(images))[None], dataset, images, layout=self.layout,
                            each=each)
            else:
                yield Batch(labels, normalised(dataset, images, self.model.dtype), layout=self.layout, each=each)

    def gradients(self, batch):
        """Compute the gradients of a batch without a program; returns what `execute` does, for this step."""
        scores = outputs(self.model, batch.images, batch.more(self.inputs, batch.images.dtype))
        loss = loss_of(self.criterion, scores, batch.labels, batch.divisors)
        run_backward(self.model, self.criterion.backward(), False, batch.images.shape)
        self.clip()
        return result(self.criterion, loss, scores, batch.labels)

    def clip(self):
        """Scale the gradients down where they are to be clipped."""
        if self.max_grad_norm is not None:
            clip_grad_norm(self.model.parameters(), self.max_grad_norm)

    def key(self, batch):
        """What a program for such batches is made from."""
        dataset, model = batch.dataset, self.model
        source = None if dataset is None else (dataset.scale.tobytes(), dataset.shift.tobytes())
        kind = ("evaluate",) if self.optimizer is None else (
            "step", batch.layout, self.optimizer.key(), self.max_grad_norm, self.updates)
        loss = getattr(self.criterion, "key", lambda: id(self.criterion))()
        if has_kernel := getattr(self.criterion, "has_kernel", None):       # which these targets decide
            loss = loss, has_kernel(batch.targets)
        return (*kind, self.scores, self.inputs, *batch.form, source, model.dtype or batch.images.dtype,
                model.made_of(), model.modes(), loss, circumstances())

    def written(self, batch, processes=None):
        """A program for such batches; `loss` is what its runs tell of the loss. processes: how many share it; default:
        the ranks."""
        dtype = batch.images.dtype if batch.dataset is None else self.model.dtype or np.dtype(np.float32)
        shape, learns = batch.form[0], self.optimizer is not None
        batch.more(self.inputs, dtype)      # raises where there is none of a name
        graph = optimised(self.graph(shape, batch.labels, dtype), learns)
        images, labels = [value.image for value in graph.outputs], np.asarray(batch.labels)
        arranged = self.criterion.arranged(graph.structure, images)
        loss = self.criterion.in_program(arranged, labels, dtype, learns)   # a graph, unless it has a kernel, or a dict
        graphs = [graph, *(loss.values() if isinstance(loss, dict) else [loss] if loss else [])]
        by_channels = learns and batch.layout == CHANNELS and all(map(goes_by_channels, graphs))
        program = Program(dtype, batch.count, steps=STEPS, gradients=learns, by_channels=by_channels,
                          processes=processes or ranks.place().size)
        share(program, graph)
        x = program.input(*shape, flat=len(shape) == 1) if batch.dataset is None else _fetch(program, shape, batch)
        more = [program.input(**laid(value.image), name=f"input {name}", per_step=batch.dataset is not None)
                for name, value in zip(self.inputs, graph.inputs[1:], strict=True)]
        found, backward = write(program, graph, [x, *more])
        scores = self.criterion.arranged(graph.structure, found)
        chosen = None if batch.dataset is None else Slot("chosen", True)
        classes = {name: self.criterion.of_classes(name) and are_classes(arranged[name], self.criterion.targets(
            name, labels), self.criterion.losses[name]) for name in self.criterion.weights} if isinstance(
                self.criterion, PerOutput) else are_classes(arranged, labels, self.criterion)
        program.loss = self.criterion.emit(program, scores, learns, chosen, loss, classes)
        if self.scores:
            for i, tensor in enumerate(found):
                program.output(tensor, slot("scores", i))
        if learns:
            backward(program.loss.gradients, [False] * len(graph.inputs))
            program.add_gradients()
            if self.updates:
                self.optimizer.emit(program, self.max_grad_norm)
        program.compile()
        program.inputs = self.inputs
        program.structure, program.scores = graph.structure, images
        program.made_from = self.key(batch)     # as writing has left the model
        return program


def _losses(criterion):
    """All losses of which one consists."""
    parts = getattr(criterion, "parts", None)
    return (criterion, *parts()) if parts else (criterion,)


def outputs(model, images, more=()):
    """What a model makes of images, and of what it gets besides: an array, or a tuple or dict of several."""
    if model.in_numpy and more:
        raise ValueError(f"Trainer: inputs need a model that is written with values, got {type(model).__name__}, whose "
                         f"forward and backward are of arrays")
    return run_forward(model, images) if model.in_numpy else model(images, *more)


def loss_of(criterion, scores, labels, divisors=None):
    """The loss of what `outputs` returned. divisors: see Batch."""
    return criterion.call(scores, labels, divisors) if isinstance(criterion, PerOutput) else criterion(scores, labels)


def normalised(dataset, images, dtype):
    """Images of a data set, (n, C, H, W), as a model of this number type (None: any) takes them."""
    if dtype == np.float64 and images.dtype == np.uint8:    # the kernels do not round to float32 on the way, either
        scale, shift = (a.astype(dtype)[:, None, None] for a in (dataset.scale, dataset.shift))
        return images * scale + shift
    images = dataset.normalise(images)
    return images.astype(dtype or images.dtype, copy=False)


def _changed_by_twins(loader):
    """What loader.raw_batches() yields, with the same random values, by the twins of what kernels do to images."""
    from cnn.training.by_twins import changed  # here, because most programs do without
    for _, changes, numbers, images, labels, (where,) in loader.ready_batches():
        images = images[where]
        for change, (values,) in zip(changes, numbers, strict=True):
            images = changed(change, images, values)
        yield images, labels[where]


def _fetch(program, shape, batch):
    """A tensor of the images of such a batch, changed and normalised."""
    y, x, chosen = program.tensor(*shape), Slot("images"), Slot("chosen", per_step=True)
    spare = [program.copies(LANES * math.prod(shape), PER_ACTIVE_BLOCK, np.uint8) for _ in batch.changes[:2]]
    for i, (change, numbers) in enumerate(zip(batch.changes, batch.numbers, strict=True)):
        kind = augment.KINDS[change.kind]
        given = dict(x=x, chosen=chosen, numbers=Slot(f"numbers{i}", per_step=True),
                     fill=np.array(change.fill, np.uint8),
                     room=program.copies(augment.room(kind, *shape[1:]), PER_ACTIVE_THREAD, np.uint8),
                     y=spare[i % 2], kind=kind, option=change.option, columns=numbers.shape[-1],
                     images=program.per_block, **y.size)
        program.add("change", lambda given=given: given)
        x, chosen = spare[i % 2], None
    scale, shift = (a.astype(program.dtype) for a in (batch.dataset.scale, batch.dataset.shift))
    program.add("pack_bytes_channels" if program.by_channels else "pack_bytes", lambda: dict(
        x=x, chosen=chosen, scale=scale, shift=shift, y=y, **y.size))
    return y


def execute(program, batch, before=None, world=None, scores=()):
    """Run a program that `Step.written` returned: for each step the sum of its losses, what to divide it by, and how
    many images were right, NaN where there are no classes. `before(step)`: see Program.run. world: the ranks that share
    it; default: all there are. scores: arrays (n, ...) to fill with those of one step, for a program that gives
    them."""
    steps, count, fused = batch.steps, batch.count, program.loss
    shared = _shared(program, batch.count, world or ranks.world())
    given = fused.given(batch) | {slot("scores", i): array for i, array in enumerate(scores)}
    given |= {f"input {name}": array for name, array in zip(
        program.inputs, batch.more(program.inputs, program.dtype), strict=True)}
    if batch.dataset is None:
        program.run(count, before=before, **shared, x=batch.images, **given)
    else:
        numbers = {f"numbers{i}": numbers for i, numbers in enumerate(batch.numbers)}
        program.run(count, steps=steps, before=before, **shared, images=batch.pixels, chosen=batch.images, **given,
                    **numbers)
    if shared and scores:
        _gather(world or ranks.world(), scores, program.per_block)
    results = fused.results(steps)
    if not all(math.isfinite(loss) for loss, _, _ in results):      # are the labels to blame?
        fused.blame(batch)
    return results


def _shared(program, count, world):
    """How a run on batches of so many images is shared with other ranks, if there are any: arguments of Program.run."""
    if world is None:
        return {}
    shards = shards_of(count, program.per_block)
    return {"share": (*world.shards(shards), world.rank), "at_seam": _at_seam(world, shards)}


@lru_cache(64)
def _at_seam(world, shards):
    """The same for the same, as Program.run wants it."""
    return partial(exchange, world, shards)


def _gather(world, scores, per_block):
    """Fill in the scores that other ranks have computed."""
    count = len(scores[0])
    cuts, each = world.cuts(shards_of(count, per_block)), per_block * blocks_per_shard(count, per_block)
    world.gather([[array[first * each:stop * each] for array in scores] if first < stop else []
                  for first, stop in pairwise(cuts)])


def result(criterion, loss, scores, labels):
    """What `execute` returns for each step, of a step that was no program."""
    if isinstance(criterion, PerOutput):
        found = criterion.arranged(*taken_apart(scores))
        parts = {name: result(criterion.losses[name], value, found[name], criterion.targets(name, labels))
                 for name, value in criterion.values.items()}
        parts = {name: (part[0], criterion.totals[name], part[2] if criterion.of_classes(name) else math.nan)
                 for name, part in parts.items()}
        return Parts.of(criterion, parts, len(next(iter(found.values()))))
    total = getattr(criterion, "total", len(taken_apart(scores)[1][0]))
    labels = np.asarray(labels)
    right = math.nan
    if arranged := getattr(criterion, "arranged", None):
        scores = arranged(*taken_apart(scores))
    if isinstance(scores, np.ndarray) and are_classes(scores.shape[1:], labels, criterion):
        right = int((scores.argmax(1) == (labels if labels.ndim == 1 else labels.argmax(1))).sum())
    return loss * total if total else 0.0, total, right


def are_classes(image, labels, criterion=None):
    """Whether labels are the classes of scores (N, K), such that some are right; or distributions over them, for a loss
    that takes these: right is then the class with the largest share."""
    if not isinstance(image, tuple):        # several outputs
        return False
    if labels.dtype.kind == "f":
        return len(image) == 1 and labels.ndim == 2 and getattr(criterion, "soft", False)
    return len(image) == 1 and labels.ndim == 1 and labels.dtype.kind in "iu"
