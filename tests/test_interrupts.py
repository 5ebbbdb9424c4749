"""Ctrl-C at any line of the package: afterwards everything is as before, or done, and can be used."""

import numpy as np
import pytest
from cases import assert_same_bits
from interrupting import interrupted

import cnn
from cnn.layers import BatchNorm2d, Conv2d, Dropout, Flatten, Linear, MaxPool2d, ReLU, Residual, Sequential

ALL = [pytest.param(1, marks=pytest.mark.slow), 97]  # every line, or every 97th


def lines(function, every):
    """Interrupt function(make_anew()) at more and more lines, until it is through; yields after each."""
    line = every
    while interrupted(function, line):
        yield line
        line += every
    assert line > 5 * every, "nothing was interrupted"


def network():
    return Sequential(
        Conv2d(1, 3, 3, seed=1), BatchNorm2d(3), ReLU(), MaxPool2d(2), Residual(Conv2d(3, 3, 3, padding=1, seed=2)),
        Dropout(0.5, seed=3), Flatten(), Linear(27, 4, seed=4))


def batch():
    rng = np.random.default_rng(0)
    return rng.standard_normal((18, 1, 8, 8)).astype(np.float32), rng.integers(0, 4, 18)


class Trained:
    """A model in training, and all that a step changes."""

    def __init__(self):
        self.model = network()
        self.optimizer = cnn.Adam(self.model.parameters(), lr=0.01)
        self.trainer = cnn.Trainer(self.model, self.optimizer, progress=False)

    def step(self):
        self.trainer.train_step(*batch())

    def state(self):
        optimizer = self.optimizer.state_dict()
        counts = [optimizer["steps"], self.model[5].step]
        return [*self.model.state_dict().values(), optimizer["m"], optimizer["v"], np.array(counts)]


def same(a, b):
    return all(x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True))


@pytest.mark.thorough
@pytest.mark.parametrize("every", ALL)
@pytest.mark.parametrize("first", [True, False])
def test_a_step_is_taken_or_not(first, every):
    """Weights, moments, running statistics and counts all agree on it, and the next step is right."""
    reference, states = Trained(), []
    for _ in range(4):
        states.append(reference.state())
        reference.step()

    def make():
        trained = Trained()
        if not first:
            trained.step()
        return trained

    def step():
        trained.step()

    trained = make()
    for _ in lines(step, every if first else max(1, every // 10)):
        taken = next(i for i in range(4) if same(trained.state(), states[i]))
        assert taken - (not first) in (0, 1)
        trained.step()
        assert same(trained.state(), states[taken + 1])
        trained = make()


@pytest.mark.parametrize("every", ALL)
def test_a_first_backward_that_is_cut_short(every):
    (x, _), dy = batch(), np.random.default_rng(1).standard_normal((18, 4)).astype(np.float32)
    model = network()
    model(x)
    wanted = [model.backward(dy), *(p.grad.copy() for p in model.parameters())]
    model = network()
    model(x)

    def backward():
        model.backward(dy)

    for _ in lines(backward, every):
        assert_same_bits([model.backward(dy), *(p.grad for p in model.parameters())], wanted)
        model = network()
        model(x)


@pytest.mark.thorough
@pytest.mark.parametrize("every", ALL)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("used", [True, False])
def test_a_forward_that_is_cut_short(used, training, every):
    model = network()
    model[5].p = 0
    model.train(training)
    x, other = batch()[0], batch()[0][::-1] * 3

    def make():
        fresh = cnn.layers.Sequential(*(layer for layer in network()))
        fresh[5].p = 0
        fresh.train(training)
        if used:
            fresh(other)
        return fresh

    wanted = model(x)
    model = make()

    def forward():
        model(x)

    for _ in lines(forward, every if not used else max(1, every // 10)):
        assert_same_bits([model(x)], [wanted])
        model = make()


@pytest.mark.thorough
@pytest.mark.parametrize("every", ALL)
def test_an_optimizer_and_an_average(every):
    """They count what they have done."""
    def make():
        model = network()
        for p in model.parameters():
            p.grad = np.full(p.shape, 0.5)
        return model, cnn.RMSprop(model.parameters(), lr=0.1, momentum=0.9), cnn.EMA(model, decay=0.5, warmup=False)

    def state():
        moments = [values.copy() for values in optimizer.state.values()]
        return [*model.state_dict().values(), *ema.state_dict().values(), *moments], optimizer.steps, ema.steps

    def step():
        optimizer.step()
        ema.update()

    model, optimizer, ema = make()
    states = [state()]
    for act in (optimizer.step, ema.update):
        act()
        states.append(state())
    model, optimizer, ema = make()
    for _ in lines(step, max(1, every // 10)):
        now = state()
        assert any(all(np.array_equal(a, b) for a, b in zip(now[0], s[0], strict=True)) and now[1:] == s[1:]
                   for s in states)
        model, optimizer, ema = make()


@pytest.mark.parametrize("file", ["trace.py", "meanwhile.py", "backend.py", "parts.py", "in_numpy.py"])
def test_what_holds_meanwhile_holds_no_longer(file):
    """Tracing, evaluation mode and the back end end with what they were for, at whichever line it ends."""
    class Halves(cnn.Module):
        def forward(self, x):
            self.x = x
            return x / 2

        def backward(self, dy, need_dx=True):
            return dy / 2

    data, labels = batch()
    x = np.ones((1, 1, 8, 8), np.float32)
    line = 1
    while True:
        model = Sequential(Conv2d(1, 1, 3, seed=0), Halves(), Flatten(), Linear(36, 4, seed=1))
        trainer = cnn.Trainer(model, cnn.SGD(model.parameters()), progress=False, backend="reference")

        def run(model=model, trainer=trainer):
            trainer.train_step(data, labels)
            trainer.predict(x)
            model.summary((1, 8, 8))
        stopped = interrupted(run, line, lambda code: code.co_filename.endswith(file))
        assert model.training and isinstance(model[0].weight.data, np.ndarray)
        fresh = Sequential(Conv2d(1, 1, 3, seed=0), ReLU())
        assert (fresh(x) == cnn.functional.relu(fresh[0](x))).all() and fresh.backward(np.ones_like(fresh(x))).any()
        if not stopped:
            break
        line += 1 + line // 10
    assert line > 5
