"""cnn.gradcheck: right gradients pass, and of wrong ones the worst element is named with both numbers."""

import re

import numpy as np
import pytest
from cases import CASES
from processes import run_python

import cnn


@pytest.mark.thorough
@pytest.mark.parametrize("case", [case for case in CASES if np.prod(case.shape) <= 150], ids=str)
def test_every_layer_passes(case):
    layer = case.make(np.float32)
    state = layer.state_dict()
    found = cnn.gradcheck(layer, (3, *case.shape), seed=1)
    assert found.elements == 3 * np.prod(case.shape) + sum(p.numel() for p in layer.parameters())
    assert found.error < 1e-6
    for name, array in layer.state_dict().items():      # it works on a copy
        assert array.dtype == state[name].dtype and (array == state[name]).all()


@pytest.mark.thorough
def test_networks_pass():
    model = cnn.Sequential(
        cnn.Conv2d(1, 3, 3, seed=0), cnn.BatchNorm2d(3), cnn.Dropout(0.4), cnn.GELU(), cnn.MaxPool2d(2), cnn.Flatten(),
        cnn.Dropout(0.1), cnn.Linear(12, 4), cnn.LogSoftmax())
    found = cnn.gradcheck(model, (5, 1, 6, 6))
    assert found.elements == 5 * 36 + 30 + 6 + 52 and found.error < 1e-6
    assert model[2].step == 0 and not any(p.grad.any() for p in model.parameters())


class TwoInTwoOut(cnn.Module):
    def forward(self, image, vector):
        return {"product": image * vector.reshape(-1, 2, 1, 1), "relu": vector.relu()}


def test_several_inputs_and_outputs():
    assert cnn.gradcheck(TwoInTwoOut(), (3, 2, 2, 2), (3, 2)).elements == 30


class Unused(cnn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = (cnn.Parameter(np.ones((2, 1, 1), np.float32)) for _ in range(2))

    def forward(self, x):
        return x * self.used


def test_parameters_that_are_frozen_or_not_used():
    assert cnn.gradcheck(Unused(), (2, 2, 1, 3)).elements == 12 + 4
    model = Unused()
    model.requires_grad_(False)
    assert cnn.gradcheck(model, (2, 2, 1, 3)).elements == 12


# ------------------------------------------------------------------------------------------ wrong backward passes


class Square(cnn.Module):
    """y = w x^2, and dw, dx with factors that may be wrong; `wrong` is an element of dx that is off by 0.5."""

    def __init__(self, dw=1.0, dx=1.0, wrong=None):
        super().__init__()
        self.w = cnn.Parameter(np.full(1, 3.0, np.float32))
        self.dw, self.dx, self.wrong = dw, dx, wrong

    def forward(self, x):
        self.x = x
        return self.w.data * x * x

    def backward(self, dy, need_dx=True):
        self.w.grad = np.array([self.dw * (dy * self.x * self.x).sum()])
        dx = self.dx * 2 * self.w.data * dy * self.x
        if self.wrong:
            dx[self.wrong] += 0.5
        return dx


def message(*arguments, **options):
    with pytest.raises(AssertionError) as error:
        cnn.gradcheck(*arguments, **options)
    return str(error.value)


def numbers(text):
    """The index and the two numbers that a message names."""
    found = re.search(r"wrong at \(([\d, ]*)\): backward gives (\S+), central differences (\S+) \(", text)
    return tuple(int(i) for i in found[1].split(",") if i.strip()), float(found[2]), float(found[3])


def test_a_layer_in_numpy():
    assert cnn.gradcheck(Square(), (4, 3)).elements == 13
    text = message(Square(wrong=(2, 1)), (4, 3))
    assert "gradcheck: Square: the gradient of x is wrong at (2, 1)" in text and "(1 of 12 elements differ)" in text
    place, mine, central = numbers(text)
    assert place == (2, 1) and mine - central == pytest.approx(0.5, abs=1e-6)
    x = np.array([[1.0, 2.0]])
    place, mine, central = numbers(message(Square(dw=-1), x))
    assert place == (0,) and mine == pytest.approx(-central) and 2.5 < central < 7.5     # weights from 0.5 to 1.5
    assert "the gradient of w" in message(Square(dw=0), x)


def test_the_worst_element_is_named():
    def backward(dy, x):
        dx = dy.copy()
        dx[1], dx[3] = dx[1] + 1, dx[3] - 5
        return dx
    place, mine, central = numbers(message((lambda x: x, backward), (6,)))
    assert place == (3,) and central - mine == pytest.approx(5)
    assert numbers(message((lambda x: x, lambda dy, x: np.append(backward(dy, x)[:5], np.inf)), (6,)))[0] == (5,)


def test_a_common_factor_is_named():
    assert message(Square(dx=0.25), (4, 3)).endswith("; all are 0.25 times what they should be")
    assert "times" not in message(Square(wrong=(0, 0)), (4, 3))
    assert message((np.tanh, lambda dy, x: np.full(x.shape, np.nan)), (3,)).endswith("has computed none of them")


def test_small_gradients_are_not_overlooked():
    assert cnn.gradcheck((lambda x: 1e-9 * x, lambda dy, x: 1e-9 * dy), (5,)).elements == 5
    assert "0.5 times" in message((lambda x: 1e-9 * x, lambda dy, x: 0.5e-9 * dy), (5,))


def test_the_tolerance():
    pair = np.sin, lambda dy, x: 1.001 * dy * np.cos(x)
    assert cnn.gradcheck(pair, (5,), tolerance=0.01).error == pytest.approx(0.001, rel=0.01)
    message(pair, (5,))
    assert "wrong" in message((np.exp, lambda dy, x: dy * np.exp(x)), (5,), eps=1)      # too coarse


# ------------------------------------------------------------------------------------------ functions and objects


def linear(x, w, b):
    return x @ w.T + b


def linear_backward(dy, x, w, b):
    return dy @ w, dy.T @ x, dy.sum(0)


def test_pairs_of_functions():
    assert cnn.gradcheck((linear, linear_backward), (4, 3), (2, 3), (2,)).elements == 20
    text = message((linear, lambda dy, x, w, b: (dy @ w, dy.T @ x, dy.mean(0))), (4, 3), (2, 3), (2,))
    assert "the backward pass of linear: the gradient of b" in text and "all are 0.25 times" in text
    assert "linear_backward: the gradient of a" in message((lambda a, w, b: linear(2 * a, w, b), linear_backward),
                                                           (4, 3), (2, 3), (2,))


def log_loss(scores, labels):
    p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    return -np.log(p[np.arange(len(p)), labels]).mean()


def log_loss_backward(dy, scores, labels):
    p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    p[np.arange(len(p)), labels] -= 1
    return dy * p / len(p)


def test_losses_and_what_is_not_checked():
    labels = np.array([0, 2, 1, 0])
    assert cnn.gradcheck((log_loss, log_loss_backward), (4, 3), labels).elements == 12
    assert "all are 4 times" in message((log_loss, lambda *a: 4 * log_loss_backward(*a)), (4, 3), labels)
    assert cnn.gradcheck(cnn.CrossEntropyLoss(label_smoothing=0.1), (4, 3), labels).elements == 12
    assert "WithoutMean.backward" in message(WithoutMean(), (4, 3), labels)


class WithoutMean(cnn.CrossEntropyLoss):
    def backward(self):
        return super().backward() * self.total


def test_numbers_and_integer_outputs():
    def top(x, k):
        order = np.argsort(-x)[:k]
        return x[order], order

    def top_backward(dy, x, k):
        dx = np.zeros_like(x)
        dx[np.argsort(-x)[:k]] = dy
        return dx
    assert cnn.gradcheck((top, top_backward), (6,), 2).elements == 6


def test_objects():
    class Cube:
        def forward(self, x):
            self.x = x
            return x**3

        def backward(self, dy):
            return 3 * dy * self.x**2

    class Wrong(Cube):
        def backward(self, dy):
            return 2 * dy * self.x**2

    assert cnn.gradcheck(Cube(), (2, 3)).elements == 6
    assert "Wrong.backward: the gradient of x" in message(Wrong(), (2, 3))


def test_functions_that_work_in_place():
    def shifted(x):
        x -= x.max()
        return np.exp(x)

    def backward(dy, x):
        y = np.exp(x - x.max())
        dx = dy * y
        dx[x.argmax()] -= (dy * y).sum()
        return dx
    x = np.array([0.3, -1.2, 2.0])
    assert cnn.gradcheck((shifted, backward), x).elements == 3
    assert x.tolist() == [0.3, -1.2, 2.0]


# ------------------------------------------------------------------------------------------ kinks


def test_kinks():
    """At 0 the slopes of ReLU are 0 and 1: anything between them passes, nothing else does."""
    x = np.array([[-1.0, 0, 2, 0]])
    assert cnn.gradcheck(cnn.ReLU(), x).kinks == 2
    for slope in (0, 0.5, 1):
        pair = lambda x: np.maximum(x, 0), lambda dy, x, slope=slope: dy * np.where(x == 0, slope, x > 0)
        assert cnn.gradcheck(pair, x).kinks == (2 if slope != 0.5 else 0)       # 0.5 is the central difference
    for slope in (-0.5, 2):
        pair = lambda x: np.maximum(x, 0), lambda dy, x, slope=slope: dy * np.where(x == 0, slope, x > 0)
        text = message(pair, x)
        assert numbers(text)[0] in ((0, 1), (0, 3)) and "kink" in text
    assert "(0, 2)" in message((lambda x: np.maximum(x, 0), lambda dy, x: dy * (x > 3)), x)


def test_a_kink_nearby_is_no_kink():
    pair = lambda x: np.maximum(x, 0), lambda dy, x: dy * (x > 0)
    assert cnn.gradcheck(pair, np.array([3e-6, -3e-6, 1.0])) == (3, pytest.approx(0, abs=1e-9), 0)
    assert "wrong at (0,)" in message((pair[0], lambda dy, x: dy * (x > 0.1)), np.array([3e-6, 1.0]))


def test_equal_maxima():
    assert cnn.gradcheck(cnn.MaxPool2d(3, 2), np.ones((2, 1, 7, 7))).kinks == 98
    x = np.random.default_rng(0).integers(0, 3, (2, 2, 6, 6)).astype(float)
    assert 0 < cnn.gradcheck(cnn.MaxPool2d(2, 1), x).kinks < 144


def test_steps_are_no_kinks():
    text = message((np.round, lambda dy, x: dy), np.array([0.5, 1.2]))
    assert "wrong at (0,)" in text and "kink" not in text


# ------------------------------------------------------------------------------------------ what is refused


def test_gradients_of_other_shapes():
    text = message((linear, lambda dy, x, w, b: (dy @ w, x.T @ dy, dy.sum(0))), (4, 3), (2, 3), (2,))
    assert text == "gradcheck: the gradient of w must have its shape (2, 3), got (3, 2)"
    with pytest.raises(ValueError, match="must return one gradient for each of x, w, b, got 2"):
        cnn.gradcheck((linear, lambda dy, x, w, b: (dy @ w, dy.T @ x)), (4, 3), (2, 3), (2,))


@pytest.mark.parametrize("wrong, error, words", [
    (lambda: cnn.gradcheck(cnn.ReLU, (2, 3)), TypeError, "function must be .* got the class ReLU"),
    (lambda: cnn.gradcheck(np.sin, (2, 3)), TypeError, "function must be .* got ufunc"),
    (lambda: cnn.gradcheck((np.sin, 3), (2, 3)), TypeError, "function must be .* got tuple"),
    (lambda: cnn.gradcheck(cnn.ReLU()), TypeError, "inputs must have an array of floats"),
    (lambda: cnn.gradcheck(cnn.ReLU(), np.arange(3)), TypeError, "inputs must have an array of floats"),
    (lambda: cnn.gradcheck(cnn.ReLU(), np.ones(3, complex)), TypeError, "input 0 must be .* got ndarray of complex128"),
    (lambda: cnn.gradcheck(cnn.ReLU(), (2, -3)), ValueError, "shape of input 0"),
    (lambda: cnn.gradcheck(cnn.ReLU(), (2, 3), eps=0), ValueError, "eps must be"),
    (lambda: cnn.gradcheck(cnn.ReLU(), (2, 3), tolerance=-1), ValueError, "tolerance must be"),
    (lambda: cnn.gradcheck(cnn.ReLU(), (2, 3), seed=0.5), TypeError, "seed must be"),
    (lambda: cnn.gradcheck(cnn.Linear(4, 3), (2, 3)), ValueError, r"Linear: x must have shape \(N, 4\)"),
    (lambda: cnn.gradcheck(cnn.Linear(3, 3).eval(), (2, 3)), RuntimeError, "forward in training mode"),
])
def test_wrong_arguments(wrong, error, words):
    with pytest.raises(error, match=words):
        wrong()


def test_it_is_imported_when_it_is_used():
    code = "import sys, cnn; before = 'cnn.differences' in sys.modules; cnn.gradcheck; cnn.reference.conv2d; " \
           "print(before, 'cnn.differences' in sys.modules, callable(cnn.gradcheck))"
    assert run_python("-c", code).stdout.split() == ["False", "True", "True"]
