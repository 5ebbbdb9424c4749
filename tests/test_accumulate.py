"""Gradients of several batches make one step. The oracle is the large batch, to the bit; with batch norm, a loop
written out, and PyTorch's rule for gradients that add up."""

import numpy as np
import pytest
from cases import assert_same_bits
from interrupting import interrupted

import cnn
from cnn.training import checkpoint
from cnn.training.step import Batch


def data(n=100, dtype=np.uint8):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, 1, 8, 8)).astype(dtype)
    return cnn.data.Dataset(images / np.float32(255) if dtype == np.float32 else images, np.arange(n) % 4)


def plain():
    return cnn.Sequential(cnn.Conv2d(1, 5, 3, seed=1), cnn.ReLU(), cnn.MaxPool2d(2), cnn.Flatten(),
                          cnn.Dropout(0.3, seed=2), cnn.Linear(45, 4, seed=3))


def normed():
    return cnn.Sequential(cnn.Conv2d(1, 5, 3, bias=False, seed=1), cnn.BatchNorm2d(5), cnn.ReLU(), cnn.MaxPool2d(2),
                          cnn.Flatten(), cnn.Dropout(0.3, seed=2), cnn.Linear(45, 4, seed=3))


def fitted(make, batch, accumulate=1, n=100, epochs=2, dtype=np.uint8, loss=None, transform=True, optimizer=cnn.Adam,
           callbacks=(), state=None, loader=None, **options):
    model = make()
    trainer = cnn.Trainer(model, optimizer(model.parameters(), lr=0.01), loss, progress=False, accumulate=accumulate,
                          callbacks=callbacks, max_grad_norm=1.0, **options)
    changes = cnn.data.Compose(cnn.data.RandomCrop(2), cnn.data.RandomFlip()) if transform else None
    if loader is None:
        loader = cnn.data.DataLoader(data(n, dtype), batch, shuffle=True, seed=5, transform=changes)
    if state is not None:
        trainer.load_state_dict(state)
    trainer.fit(loader, epochs)
    return trainer


def bits(trainer):
    """All that a run computes, without what says how the data were batched."""
    state = trainer.state_dict()
    state["position"]["data"] = None
    return checkpoint.digest(state)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("batch", "accumulate", "n", "dtype"), [
    (16, 2, 100, np.uint8), (5, 7, 101, np.uint8), (20, 5, 100, np.float32), (33, 3, 70, np.float32),
    (2, 4, 21, np.uint8), (64, 3, 10, np.uint8)])
def test_it_has_the_bits_of_the_large_batch(batch, accumulate, n, dtype, threads):
    before = cnn.get_num_threads()
    try:
        cnn.set_num_threads(threads)
        parts = fitted(plain, batch, accumulate, n, dtype=dtype)
        whole = fitted(plain, batch * accumulate, n=n, dtype=dtype)
    finally:
        cnn.set_num_threads(before)
    assert parts.step == 2 * -(-n // (batch * accumulate))
    assert bits(parts) == bits(whole)


@pytest.mark.parametrize("loss", [cnn.CrossEntropyLoss(weight=[1, 2, 3, 4]), cnn.CrossEntropyLoss(reduction="sum"),
                                  None])
@pytest.mark.parametrize(("batch", "accumulate", "n"), [(16, 2, 80), (10, 3, 47)])
def test_with_batch_norm_each_batch_has_its_own_statistics(batch, accumulate, n, loss):
    """Beside a loop written out: the mean over all images, gradients of batches weighted by their targets' weights."""
    found = fitted(normed, batch, accumulate, n, dtype=np.float32, loss=loss, transform=False, epochs=1)
    model, made = normed(), data(n, np.float32)
    optimizer, loss = cnn.Adam(model.parameters(), lr=0.01), loss or cnn.CrossEntropyLoss()
    order = cnn.data.DataLoader(made, batch, shuffle=True, seed=5).indices(0)
    model.train()
    for first in range(0, n, batch * accumulate):
        chosen = order[first:first + batch * accumulate]
        sums, weight = [np.zeros_like(p.data) for p in model.parameters()], 0.0
        for at in range(0, len(chosen), batch):
            part = chosen[at:at + batch]
            loss(model(made.normalise(made.images[part])), made.labels[part])
            model.backward(loss.backward())
            share = 1.0 if loss.reduction == "sum" else loss.total
            weight = 1.0 if loss.reduction == "sum" else weight + share
            for array, p in zip(sums, model.parameters(), strict=True):
                array += share * p.grad
        for array, p in zip(sums, model.parameters(), strict=True):
            p.grad[...] = array / weight
        cnn.clip_grad_norm(model.parameters(), 1.0)
        optimizer.step()
    for (name, array), wanted in zip(found.model.state_dict().items(), model.state_dict().values(), strict=True):
        np.testing.assert_allclose(array, wanted, rtol=2e-4, atol=2e-6, err_msg=name)
    assert int(found.model[1].num_batches_tracked) == -(-n // batch)


def test_with_batch_norm_any_number_of_threads_has_the_same_bits():
    before, found = cnn.get_num_threads(), set()
    try:
        for threads in (1, 2, 3):
            cnn.set_num_threads(threads)
            found.add(bits(fitted(normed, 20, 3)))
    finally:
        cnn.set_num_threads(before)
    assert len(found) == 1


def test_by_twins_and_in_numpy():
    """The reference back end, and a layer in NumPy, which may couple images, take batch by batch as well."""
    wanted = fitted(normed, 20, 3, epochs=1).model.state_dict()
    found = fitted(normed, 20, 3, epochs=1, backend="reference").model.state_dict()
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-3, atol=1e-4, err_msg=name)

    seen = []

    class Noted(cnn.Layer):
        def forward(self, x):
            seen.append(len(x))
            return x

        def backward(self, dy):
            return dy

    fitted(lambda: cnn.Sequential(Noted(), cnn.Flatten(), cnn.Linear(64, 4, seed=0)), 20, 2, n=50, epochs=1)
    assert [n for n in seen if n > 1] == [20, 20, 10]


@pytest.mark.parametrize("make", [plain, normed])
def test_activations_do_not_grow_with_the_number_of_batches(make):
    sizes = []
    for count in (1, 4):
        model = cnn.Sequential(cnn.Conv2d(1, 32, 3, padding=1, seed=0), *(
            (cnn.BatchNorm2d(32),) if make is normed else ()), cnn.ReLU(), cnn.Conv2d(32, 32, 3, padding=1, seed=0),
            cnn.ReLU(), cnn.GlobalAvgPool2d(), cnn.Flatten(), cnn.Linear(32, 4, seed=0))
        trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), lr=0.1), progress=False)
        images = np.zeros((64 * count, 1, 32, 32), np.float32)
        trainer._train_step(images, np.zeros(64 * count, np.int64), 64)
        sizes.append(sum(program.nbytes for program in trainer._programs.resting()))
    assert sizes[1] < 1.25 * sizes[0]      # copies of the weight gradients


def test_drop_last_leaves_out_no_more_than_a_batch():
    trainer = fitted(plain, 0, 3, epochs=1, loader=cnn.data.DataLoader(data(107), 10, drop_last=True))
    assert (trainer.step, trainer.seen) == (4, 100)
    grouped = cnn.data.DataLoader(data(107), 10, drop_last=True).grouped(3)
    assert [len(labels) for _, labels in grouped] == [30, 30, 30, 10]
    assert [len(chosen) for chosen in grouped.batches()] == [30, 30, 30, 10] and len(grouped) == 4
    assert [len(labels) for _, labels in cnn.data.DataLoader(data(107), 10).grouped(3)] == [30, 30, 30, 17]


def test_an_iterable_of_batches():
    def batches():
        made = data(50)
        for first in range(0, 50, 7):
            yield made.images[first:first + 7], made.labels[first:first + 7]

    def loader(size):
        return cnn.data.DataLoader(cnn.data.IterableDataset(batches, classes=4), size)

    parts = fitted(plain, 0, 3, loader=loader(6))
    assert parts.step == 6 and bits(parts) == bits(fitted(plain, 0, loader=loader(18)))


class StopAt(cnn.Callback):
    def __init__(self, step):
        self.at = step

    def on_step_end(self, trainer):
        trainer.stop = trainer.stop or trainer.step == self.at


@pytest.mark.parametrize("make", [plain, normed])
def test_a_run_goes_on_to_the_same_bits(make):
    wanted = checkpoint.digest(fitted(make, 12, 3).state_dict())
    for step in range(1, 6):
        state = fitted(make, 12, 3, callbacks=[StopAt(step)]).state_dict()
        assert checkpoint.digest(fitted(make, 12, 3, state=state).state_dict()) == wanted


@pytest.mark.parametrize(("before", "after"), [(3, 1), (1, 3), (3, 2)])
def test_a_state_of_another_number_of_batches_is_refused(before, after):
    state = fitted(plain, 12, before, callbacks=[StopAt(1)]).state_dict()
    with pytest.raises(ValueError, match=f"data with accumulate {before}, got {after}"):
        fitted(plain, 12, after, state=state)


@pytest.mark.thorough
@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 61])
def test_an_interruption_leaves_a_step_taken_or_not(every):
    """With batch norm, between the batches of a step as well: running statistics and masks are those of whole steps."""
    def state(trainer):
        return [*trainer.model.state_dict().values(), np.array([trainer.optimizer.steps, trainer.model[5].step])]

    def make():
        model = normed()
        trainer = cnn.Trainer(model, cnn.Adam(model.parameters(), lr=0.01), progress=False)
        step(trainer)
        return trainer

    def step(trainer):
        trainer._train_step(images, labels, 8)

    made = data(20, np.float32)
    images, labels = made.images, made.labels
    trainer = make()
    states = [state(trainer)]
    for _ in range(2):
        step(trainer)
        states.append(state(trainer))
    line, found = every, set()
    trainer = make()
    while interrupted(lambda: step(trainer), line):     # noqa: B023
        taken = trainer.optimizer.steps - 1
        found.add(taken)
        assert_same_bits(state(trainer), states[taken])
        step(trainer)
        assert_same_bits(state(trainer), states[taken + 1])
        trainer, line = make(), line + every
    assert 0 in found


def test_epochs_of_a_loader_are_counted():
    loader = cnn.data.DataLoader(data(), 10, shuffle=True)
    fitted(plain, 0, 3, epochs=3, loader=loader)
    assert loader.epoch == 3 and loader.accumulate == 1 and len(loader) == 10


def test_the_learning_rate_test_takes_as_many_images():
    model = plain()
    trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), lr=0.1), progress=False, accumulate=4)
    found = cnn.find_lr(trainer, cnn.data.DataLoader(data(), 8, shuffle=True), steps=5)
    trainer.accumulate = 1
    wanted = cnn.find_lr(trainer, cnn.data.DataLoader(data(), 32, shuffle=True), steps=5)
    assert found.losses == wanted.losses


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("2", TypeError)])
def test_wrong_numbers_of_batches(value, error):
    model = plain()
    with pytest.raises(error, match="accumulate"):
        cnn.Trainer(model, cnn.SGD(model.parameters(), lr=0.1), accumulate=value)
    with pytest.raises(error, match=r"DataLoader\.grouped: count"):
        cnn.data.DataLoader(data(), 8).grouped(value)


def test_a_last_batch_of_one_image_is_refused_where_batch_norm_needs_more():
    """Also where the last group has more images."""
    def make():
        return cnn.Sequential(cnn.Conv2d(1, 4, 8, seed=0), cnn.BatchNorm2d(4), cnn.Flatten())
    with pytest.raises(ValueError, match="the last batch of an epoch has one image"):
        fitted(make, 8, 4, n=25, epochs=1)
    assert fitted(make, 8, 4, n=26, epochs=1).step == 1


def test_parts_of_a_batch():
    batch = Batch(np.arange(7), np.zeros((7, 1, 2, 2), np.float32), each=3)
    assert [part.labels.tolist() for part in batch.parts()] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [part.layout for part in batch.parts()] == [batch.layout] * 3


class Scaled(cnn.Module):
    """A Parameter of one number, whatever its axes, behind a batch norm."""

    def __init__(self, shape):
        super().__init__()
        self.norm, self.head = cnn.BatchNorm2d(1), cnn.Linear(16, 3, seed=0)
        self.scale = cnn.Parameter(np.ones(shape, np.float32))

    def forward(self, x):
        return self.head(self.norm(x).flatten(1)) * self.scale


def test_a_parameter_without_axes_gets_the_gradients_of_all_batches():
    found = []
    for shape in ((), (1,)):
        rng = np.random.default_rng(0)
        data = cnn.data.Dataset(rng.random((24, 1, 4, 4), np.float32), rng.integers(0, 3, 24))
        model = Scaled(shape)
        trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), lr=1.0), accumulate=3, progress=False)
        trainer.fit(cnn.data.DataLoader(data, 4), 2)
        found.append(model.scale.data.item())
    assert found[0] == found[1] != 1
