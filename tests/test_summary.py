"""model.summary: shapes, parameters, multiply-adds and memory of every layer, for any mixture of layers."""

import numpy as np
import pytest
from cases import CASES, assert_same_bits

import cnn
from cnn.layers import Conv2d, Dropout, Flatten, Layer, Linear, MaxPool2d, ReLU, Sequential


class Square(Layer):
    def forward(self, x):
        self.x = x
        return x * x

    def backward(self, dy, need_dx=True):
        return 2 * self.x * dy


class Twice(Layer):
    """A container of another kind: x + inner(x)."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def named_children(self):
        return [("inner", self.inner)]

    def forward(self, x):
        return x + self.inner(x)

    def backward(self, dy, need_dx=True):
        return dy + self.inner.backward(dy)


class Scaled(Layer):
    """A layer with a weight, whose multiplications it counts itself."""

    def __init__(self):
        super().__init__()
        self.weight = cnn.Parameter(np.ones((2, 2), np.float32))

    def forward(self, x):
        return x

    def multiply_adds(self, x_shape, y_shape):
        return 7


def nested():
    return Sequential(
        Sequential(Conv2d(1, 2, 3), ReLU(), Sequential(Square())),
        Twice(Sequential(Conv2d(2, 2, 1), ReLU())), Flatten(), Linear(8, 3))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_layer_of_the_table(case, torch):
    from torch.utils.flop_counter import FlopCounterMode

    layer = case.make()
    rows = layer.summary(case.shape)
    module = case.torch_twin(torch, layer).eval()
    assert rows.parameters == sum(p.numel() for p in module.parameters())
    numbers = []  # of each output that is an array of its own
    for part in module.modules():
        handed_on = type(part).__name__ == "Concat" and len(part) == 1
        if type(part).__name__ not in ("Sequential", "Flatten", "Dropout", "Dropout2d") and not handed_on:
            part.register_forward_hook(lambda part, x, y: numbers.append(y.numel()))
    with FlopCounterMode(display=False) as counter:  # a multiply-add counts as two
        module(torch.zeros(1, *case.shape, dtype=torch.float64))
    assert rows.multiply_adds == counter.get_total_flops() // 2
    assert rows.memory == (layer.dtype or np.dtype(np.float32)).itemsize * sum(numbers)
    if case.layer == "Sequential" or case.layer == "Concat" and len(case.args) == 1:    # which only hand on
        assert [row for row in rows if "." not in row.name][-1].output_shape == case.out
    else:
        assert (rows[0].name, rows[0].layer, rows[0].output_shape) == ("", case.layer, case.out)


def test_lenet_by_hand():
    rows = cnn.models.lenet5().summary((1, 28, 28))
    assert len(rows) == 12 and [row.name for row in rows] == [str(i) for i in range(12)]
    assert rows[0].output_shape == rows[1].output_shape == (6, 28, 28)
    assert [row.multiply_adds for row in rows if row.multiply_adds] == [
        28 * 28 * 6 * 25, 10 * 10 * 16 * 6 * 25, 400 * 120, 120 * 84, 84 * 10]
    assert rows[3].parameters == 16 * 6 * 25 + 16
    assert rows[0].memory == 4 * 6 * 28 * 28 and rows[6].memory == 0
    assert (rows.parameters, rows.trainable, rows.parameter_memory) == (61_706, 61_706, 4 * 61_706)
    assert rows.multiply_adds == sum(row.multiply_adds for row in rows)
    assert rows.memory == sum(row.memory for row in rows)


def test_layers_inside_layers_and_layers_in_numpy():
    rows = {row.name: row for row in nested().summary((1, 4, 4))}
    assert list(rows) == ["0", "0.0", "0.1", "0.2", "0.2.0", "1", "1.inner", "1.inner.0", "1.inner.1", "2", "3"]
    assert [row.layer for row in rows.values()][4:7] == ["Square", "Twice", "Sequential"]
    assert all(row.output_shape == (2, 2, 2) for name, row in rows.items() if name < "2")
    assert rows["1.inner.0"].multiply_adds == 4 * 2 * 2 and rows["0"].multiply_adds == 0
    assert rows["1"].memory == 4 * 8, "a sum is an array of its own"
    assert rows["0"].memory == rows["1.inner"].memory == 0 and rows["0.1"].memory == rows["0.2.0"].memory == 4 * 8


def test_a_sequence_has_no_output_of_its_own():
    """Not either where it mixes layers in NumPy with those of the kernels."""
    assert [row.memory for row in Sequential(Sequential(Square(), Conv2d(1, 2, 3))).summary((1, 3, 3))] == [0, 36, 8]


def test_fused_containers_inside_one_another():
    model = Sequential(Sequential(Conv2d(1, 2, 3), ReLU(), Sequential(MaxPool2d(2), Dropout())), Flatten())
    assert [row.output_shape for row in model.summary((1, 6, 6))] == [
        (2, 2, 2), (2, 4, 4), (2, 4, 4), (2, 2, 2), (2, 2, 2), (2, 2, 2), (8,)]


def test_a_layer_in_two_places_counts_its_parameters_once():
    shared = Linear(3, 3)
    rows = Sequential(shared, ReLU(), shared).summary((3,))
    assert (rows.parameters, rows.multiply_adds) == (12, 18)


def test_frozen_parameters():
    layer = Linear(3, 2)
    layer.weight.requires_grad = False
    rows = layer.summary([3])
    assert (rows.parameters, rows.trainable) == (8, 2) and "6 of them frozen" in str(rows)


def test_layers_count_their_own_multiplications():
    assert Scaled().summary((2,)).multiply_adds == 7


def test_the_table_says_it_all():
    text = str(nested().to(np.float64).summary((1, 4, 4)))
    lines = text.splitlines()
    assert lines[0].split() == ["layer", "output", "shape", "parameters", "multiply-adds", "memory"]
    conv = next(line for line in lines if "0.0 Conv2d" in line)
    assert conv.split() == ["0.0", "Conv2d", "2×2×2", "20", "72", "64", "B"]
    assert lines[-2].split()[:3] == ["total", "53", "112"]
    assert repr(Sequential().summary((3,))).splitlines()[-2].split() == ["total", "0", "0", "0", "B"]


def test_nothing_is_left_behind():
    """A summary in the middle of training changes neither the step that is under way nor what follows."""

    def attributes(model):
        return [{name: id(value) for name, value in vars(layer).items() if name != "_known"}
                for layer in model.modules()]

    def train(with_summary):
        model = Sequential(nested(), Dropout(0.5, seed=3))
        x, dy = np.linspace(-1, 1, 32, dtype=np.float32).reshape(2, 1, 4, 4), np.ones((2, 3), np.float32)
        outputs = []
        for _ in range(2):
            outputs.append(model(x))
            if with_summary:
                before = attributes(model)
                model.summary((1, 4, 4))
                assert attributes(model) == before
            outputs.append(model.backward(dy))
        return [*outputs, *(p.grad for p in model.parameters())]

    assert_same_bits(train(True), train(False))


def test_nothing_is_left_behind_by_an_error():
    model = cnn.models.lenet5()
    with pytest.raises(ValueError, match="Conv2d: x must have 1 channels, got 3"):
        model.summary((3, 28, 28))
    assert all("emit" not in vars(layer) and layer.training for layer in model.modules())


@pytest.mark.parametrize("shape", [28, (1, 1, 28, 28), None, "abc", np.ones(3)])
def test_shapes_that_are_none(shape):
    with pytest.raises(ValueError, match=r"Linear.summary: shape must be \(C, H, W\), \(C, L\) or \(features,\)"):
        Linear(3, 2).summary(shape)


def test_sizes_that_are_none():
    with pytest.raises(ValueError, match="Linear.summary: shape must be an integer of at least 1, got 0"):
        Linear(3, 2).summary((0,))
    with pytest.raises(TypeError, match="Linear.summary: shape"):
        Linear(3, 2).summary((3.0,))
