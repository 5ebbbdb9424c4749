"""One object used by several Python threads: bit-equal to one after the other, or refused by name."""

import copy
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cases import assert_same_bits
from cnn._ext.guard import Guard, Holder

import cnn
from cnn import functional, models
from cnn.data import Dataset
from cnn.layers import BatchNorm2d, Conv2d, Dropout, Flatten, Layer, Linear, MaxPool2d, ReLU, Sequential
from cnn.training import callbacks

THREADS = 8


def at_once(function, count=THREADS):
    """Call function(i) in as many threads, all from one moment on; returns what they return."""
    barrier = threading.Barrier(count)

    def run(i):
        barrier.wait()
        return function(i)

    with ThreadPoolExecutor(count) as pool:
        return [future.result(120) for future in [pool.submit(run, i) for i in range(count)]]


def network():
    return Sequential(
        Conv2d(1, 4, 3, seed=1), BatchNorm2d(4), ReLU(), MaxPool2d(2), Dropout(0.5), Flatten(), Linear(36, 4, seed=2))


def data(n=60):
    rng = np.random.default_rng(0)
    return Dataset(rng.integers(0, 256, (n, 1, 8, 8), np.uint8), np.arange(n) % 4, list("abcd"), [0.5], [0.25])


def inputs(sizes, side=8):
    rng = np.random.default_rng(1)
    return [rng.standard_normal((n, 1, side, side)).astype(np.float32) for n in sizes]


SIZES = (1, 3, 16, 17, 40, 64, 100, 2)


@pytest.mark.parametrize("calls", [60, pytest.param(100_000 // THREADS, marks=pytest.mark.slow)])
def test_a_model_called_by_many_threads_with_many_sizes(calls):
    model, xs = models.lenet5(seed=0).eval(), inputs(SIZES, 28)
    wanted = [model(x) for x in xs]

    def work(i):
        wrong = 0
        for call in range(calls):
            k = (i + call) % len(xs)
            wrong += not np.array_equal(model(xs[k]), wanted[k])
        return wrong

    assert at_once(work) == [0] * THREADS


def test_a_model_in_training_mode_called_by_many_threads():
    """Without dropout, all calls give the same; the running statistics have seen every one."""
    model, x = network(), inputs([20])[0]
    model[4].p = 0
    wanted = model(x)
    assert all(at_once(lambda i: all(np.array_equal(model(x), wanted) for _ in range(20))))
    assert model[1].num_batches_tracked == 1 + 20 * THREADS


def test_dropout_draws_each_mask_once():
    layer, x = Dropout(0.5, seed=1), np.ones((4, 64), np.float32)
    masks = [mask.tobytes() for part in at_once(lambda i: [layer(x) for _ in range(10)]) for mask in part]
    again = Dropout(0.5, seed=1)
    assert sorted(masks) == sorted(again(x).tobytes() for _ in range(10 * THREADS))


def test_a_trainer_measures_in_many_threads():
    model, set_ = network(), data()
    trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), lr=0.1), progress=False)
    trainer.fit(set_, 1)
    for tta in (None, "flip"):
        wanted, scores = trainer.evaluate(set_, tta), trainer.predict(set_, tta)

        def work(i, tta=tta, wanted=wanted, scores=scores):
            return all(trainer.evaluate(set_, tta) == wanted and np.array_equal(trainer.predict(set_, tta), scores)
                       for _ in range(5))

        assert all(at_once(work))
    assert all(layer.training for layer in model.modules())


def test_evaluation_in_one_thread_leaves_the_modes_of_others():
    model, seen = network(), []

    class Watch(Layer):
        def forward(self, x):
            if len(x) != 3:     # a copy, which is asked for the shape of what it returns
                return x
            if self.training:
                seen.append("training")
            else:
                started.set()
                done.wait(60)
                seen.append("evaluation")
            return x

        def backward(self, dy):
            return dy

    started, done = threading.Event(), threading.Event()
    model.layers.insert(0, Watch())
    trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), lr=0.1), progress=False)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(trainer.predict, inputs([3])[0])
        started.wait(60)
        model(inputs([3])[0])
        done.set()
        future.result(60)
    assert seen == ["training", "evaluation"]


def test_steps_from_many_threads_are_taken_one_after_the_other():
    x, labels = inputs([20])[0], np.arange(20) % 4

    def made():
        model = network()
        return model, cnn.Trainer(model, cnn.Adam(model.parameters(), lr=0.01), progress=False)

    model, trainer = made()
    at_once(lambda i: [trainer.train_step(x, labels) for _ in range(5)])
    other, again = made()
    for _ in range(5 * THREADS):
        again.train_step(x, labels)
    assert trainer.optimizer.steps == 5 * THREADS
    assert_same_bits(list(model.state_dict().values()), list(other.state_dict().values()))


def test_an_optimizer_stepped_by_many_threads():
    def made():
        p = cnn.Parameter(np.ones(1000))
        p.grad = np.linspace(0, 1, 1000)
        return p, cnn.Adam([p], lr=0.01)

    (p, optimizer), (q, other) = made(), made()
    at_once(lambda i: [optimizer.step() for _ in range(10)])
    for _ in range(10 * THREADS):
        other.step()
    assert optimizer.steps == 10 * THREADS and np.array_equal(p.data, q.data)


def test_functions_called_by_many_threads():
    xs = inputs(SIZES)
    w = np.random.default_rng(2).standard_normal((3, 1, 3, 3)).astype(np.float32)
    scores = [x.reshape(len(x), -1)[:, :5] for x in xs]
    wanted = [(functional.conv2d(x, w), functional.cross_entropy(s, np.zeros(len(s), int))[0])
              for x, s in zip(xs, scores, strict=True)]

    def work(i):
        for call in range(40):
            k = (i + call) % len(xs)
            y, loss = functional.conv2d(xs[k], w), functional.cross_entropy(scores[k], np.zeros(len(xs[k]), int))[0]
            if not np.array_equal(y, wanted[k][0]) or loss != wanted[k][1]:
                return False
        return True

    assert all(at_once(work))


# ------------------------------------------------------------------------------------------ what is refused


class Pause(callbacks.Callback):
    """Stops a fit until it may go on."""

    def __init__(self):
        self.reached, self.go_on = threading.Event(), threading.Event()

    def on_step_end(self, trainer):
        self.reached.set()
        assert self.go_on.wait(60)


def test_a_model_is_not_used_while_another_thread_trains_it():
    model, pause = network(), Pause()
    optimizer = cnn.SGD(model.parameters(), lr=0.1)
    trainer = cnn.Trainer(model, optimizer, callbacks=[pause], progress=False)
    kept, x = copy.deepcopy(model).eval(), inputs([3])[0]
    wanted = kept(x)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(trainer.fit, data(), 1)
        pause.reached.wait(60)
        other = cnn.Trainer(model, optimizer, progress=False)
        for name, use in {
            "Sequential": lambda: model(x), "Linear": lambda: model[-1](np.ones((1, 36), np.float32)),
            "Trainer.evaluate": lambda: other.evaluate(data()), "SGD": optimizer.step,
            "Trainer.fit": lambda: other.fit(data(), 1), "EMA": lambda: cnn.EMA(model).update(),
            "Trainer.train_step": lambda: other.train_step(x, np.zeros(3, int)),
        }.items():
            with pytest.raises(RuntimeError, match=f"{name}: another thread is training this model .*deepcopy"):
                use()
        assert np.array_equal(kept(x), wanted)
        pause.go_on.set()
        future.result(60)
    assert len(model(x)) == 3 and optimizer.steps == 1


def test_a_fit_waits_for_a_prediction_that_is_under_way():
    guard, reading, training = Guard(), Holder(1), Holder(2, whole=True)
    assert guard.take(reading, False) is None and guard.take(Holder(3), False) is None
    assert guard.take(training, True) is reading
    guard.leave(reading)
    assert guard.take(training, True) is None, "the holder that nobody refers to any more is gone"
    assert guard.take(reading, False) is training
    assert guard.take(Holder(2), True) is None, "a thread is not in its own way"
    del training
    assert guard.take(reading, False) is None


def test_a_forward_that_another_thread_has_overtaken():
    model, x = network(), inputs([3])[0]
    dy = np.ones((3, 4), np.float32)
    model(x)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(model, x).result(60)
        with pytest.raises(RuntimeError, match="Sequential: another thread has called forward"):
            model.backward(dy)
        assert pool.submit(model.backward, dy).result(60).shape == x.shape
    model(x)
    assert model.backward(dy).shape == x.shape


def test_two_threads_that_train_models_of_their_own():
    """Neither a pending backward nor a fit of one is disturbed by what the other makes, moves or freezes."""
    def train(i):
        model = network()
        model[4].number = 0
        trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), lr=0.1), progress=False)
        trainer.fit(data(), 1)
        for _ in range(5):
            model(inputs([5])[0])
            model[0].weight.requires_grad = not model[0].weight.requires_grad
            model(inputs([5])[0])
            cnn.SGD(network().parameters(), lr=0.1)
            model.backward(np.ones((5, 4), np.float32))
            trainer.optimizer.step()
        return list(model.state_dict().values())

    wanted = train(0)
    for result in at_once(train, 4):
        assert_same_bits(result, wanted)


def test_threads_share_the_kernels(set_threads):
    """Two threads run at the same time: neither waits until the other's call is over."""
    set_threads(1)
    model, x = Sequential(*(Conv2d(8, 8, 3, padding=1) for _ in range(6))).eval(), None
    x = np.zeros((16, 8, 32, 32), np.float32)
    model(x)
    most, running = [0], [0]
    lock = threading.Lock()
    run = cnn.engine.program.executor.run

    class Counting:
        @staticmethod
        def run(*arguments):
            with lock:
                running[0] += 1
                most[0] = max(most[0], running[0])
            try:
                time.sleep(0.002)
                return run(*arguments)
            finally:
                with lock:
                    running[0] -= 1

    cnn.engine.program.executor, kept = Counting, cnn.engine.program.executor
    try:
        at_once(lambda i: [model(x) for _ in range(10)], 2)
    finally:
        cnn.engine.program.executor = kept
    assert most[0] == 2
