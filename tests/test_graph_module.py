"""Networks as lists of operations: the same bits as the module that they were made from, in every mode."""

import copy
import json
import pickle

import numpy as np
import pytest
from cases import CASES, assert_same_bits, by_layer

import cnn
from cnn import functional as F
from cnn.layers import GraphModule, OperationNode, graph_module
from cnn.layers.graph_module import OPERATIONS


class Everything(cnn.Module):
    """What the rows of the table have not: arithmetic, slices, reductions, several outputs, constants."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = cnn.Conv2d(2, 4, 3, padding=((1, 0), (0, 2))), cnn.BatchNorm2d(4, momentum=None)
        self.scale = cnn.Parameter(np.linspace(0.5, 1.5, 4, dtype=np.float32).reshape(4, 1, 1))
        self.drop = cnn.Dropout(0.3)

    def forward(self, x):
        x = self.norm(self.conv(x)) * self.scale + np.arange(4).reshape(4, 1, 1)
        a, b = x[:, :2], x[:, 2:]
        y = 2 - a / (b * b + 3) + 1 / (1 + a * a)
        y = cnn.cat([y, self.drop(a - b), x.sum(2, keepdim=True) * a.reshape(-1, 2, 5, 5)[:, :1]])
        z = (abs(a) + 0.5).log().sin().cos().exp().sqrt().clamp(max=3) ** 3
        z = F.where(z > a, F.maximum(z, b), F.minimum(a, 0.5)) + (a >= b) * z - (a == b) * a + (a != 2) * b
        z = z.mean(1, keepdim=True) + z.amin((1, 3), keepdim=True) * z.softmax(3) + z[:, 1:, ::2, 1:2].amax(2, True)
        z = cnn.cat([z, z.log_softmax(2)[:, :, 1:]], 2)
        z = z @ z.transpose(2, 3) @ z + z
        y = y * y.permute(0, 3, 1, 2)[:, :, :1].amax((2, 3)).reshape(-1, 1, 5, 1)
        y = y + z.sum((1, 2, 3)).reshape(-1, 1, 1, 1)
        return {"mean": y.mean((2, 3)), "largest": y.amax((2, 3), keepdim=True), "y": y}


@pytest.mark.thorough
def test_every_row_has_the_same_bits_as_its_module():
    for case in CASES:
        for n in (2, 17):
            model = case.make(np.float32)
            made = graph_module(model, case.shape)
            assert list(made.state_dict()) == [*(name for name, _ in model.named_parameters()),
                                               *(name for name, _ in model.named_buffers())], case
            x, dy = case.arrays(n, np.float32)
            assert_same_bits(by_layer(made, x, dy), by_layer(model, x, dy))
            wanted = model.state_dict()     # with the running statistics moved
            assert all(made.state_dict()[name].tobytes() == wanted[name].tobytes() for name in wanted)
            assert_same_bits([made.eval()(x)], [model.eval()(x)])


@pytest.mark.parametrize("n", [3, 20])
def test_arithmetic_and_several_outputs(n):
    model = Everything()
    made = graph_module(model, (2, 6, 5))
    x = np.random.default_rng(0).standard_normal((n, 2, 6, 5)).astype(np.float32)
    for _ in range(2):      # the masks of dropout move on
        got, wanted = made(x), model(x)
        assert list(got) == list(wanted)
        assert_same_bits(got.values(), wanted.values())
        dy = {name: np.ones_like(y) for name, y in wanted.items()}
        assert_same_bits([made.backward(dy)], [model.backward(dy)])
        for name, p in model.named_parameters():
            assert_same_bits([dict(made.named_parameters())[name].grad], [p.grad])
    assert_same_bits(made.eval()(x).values(), model.eval()(x).values())


def test_its_nodes_are_what_json_can_hold():
    for make in cnn.models.MODELS.values():
        model = make(in_channels=1, image_size=32)
        made = graph_module(model, (1, 32, 32))
        nodes = json.loads(json.dumps([node._asdict() for node in made.nodes], default=dict))
        again = GraphModule(made.inputs, [OperationNode(**node) for node in nodes], made.outputs,
                            dict(made.named_parameters()), dict(made.named_buffers()))
        x = np.random.default_rng(1).standard_normal((2, 1, 32, 32)).astype(np.float32)
        assert_same_bits([again.eval()(x)], [model.eval()(x)])


def test_it_trains_and_is_copied_as_any_module():
    model = cnn.models.lenet5(seed=3)
    made = graph_module(model, (1, 28, 28))
    train, _ = cnn.data.load("mnist-sample")
    weights = []
    for net in (model, made, copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        trainer = cnn.Trainer(net, cnn.SGD(net.parameters(), lr=0.05, momentum=0.9), progress=False)
        for images, labels in list(cnn.data.DataLoader(train, 64))[:3]:
            trainer.train_step(images, labels)
        weights.append(net.state_dict())
    for state in weights[1:]:
        assert list(state) == list(weights[0])
        assert_same_bits(state.values(), weights[0].values())
    made.load_state_dict(weights[1])
    assert repr(made) == "GraphModule(12 operations)"


def test_arrays_get_names_that_no_parameter_or_buffer_has():
    class Named(cnn.Module):
        def __init__(self):
            super().__init__()
            self.constant1 = cnn.Parameter(np.full((1, 2), 5.0))
            self._buffers = {"constant0": np.full((1, 2), 7.0)}

        def forward(self, x):
            return x * np.full((1, 2), 2.0) + x * np.full((1, 2), 3.0) + self.constant1 * x

    x, model = np.ones((3, 1, 2)), Named()
    made = graph_module(model, (1, 2))
    assert list(dict(made.named_parameters())) == ["constant1"]
    assert list(made._constants) == ["constant2", "constant3"]
    assert_same_bits([made(x)], [model(x)])
    assert (made(x) == 10).all()


def test_the_nodes_are_named_in_the_graph():
    made = graph_module(cnn.models.lenet5(), (1, 28, 28))
    assert [node.modules[0] for node in cnn.layers.running.graph_of(made, [(1, 28, 28)])][:3] == ["0", "1", "2"]


def test_frozen_parameters_and_modes_stay():
    model = cnn.Sequential(cnn.Linear(3, 2), cnn.Dropout(0.5)).eval()
    model[0].bias.requires_grad = False
    made = graph_module(model, (3,))
    assert not model.training and not made.training
    assert [p.requires_grad for p in made.parameters()] == [True, False]


ONE = {"w": np.ones((2, 3), np.float32)}


@pytest.mark.parametrize("inputs, nodes, outputs, words", [
    (["x"], [("relu", ("z",), "y")], "y", "no node before it makes 'z'"),
    (["x"], [("relu", ("x",), "x")], "x", "made twice"),
    (["x"], [("lstm", ("x",), "y")], "y", "operation must be one of conv2d, conv_transpose2d, linear"),
    (["x"], [("linear", ("x",), "y")], "y", "must have a parameter 'weight'"),
    (["x"], [("linear", ("x",), "y", {}, {"weight": "v"})], "y", "no parameter 'v'"),
    (["x"], [("linear", ("x",), "y", {}, {"gain": "w"})], "y", "linear has no parameter 'gain'"),
    (["x"], [("relu", ("x",), "y")], "z", "no node makes the output 'z'"),
    (["x", "x"], [], "x", "must be different names"),
    ([], [], "x", "at least one"),
])
def test_lists_that_do_not_fit_are_refused(inputs, nodes, outputs, words):
    with pytest.raises(ValueError, match=words):
        GraphModule(inputs, [OperationNode(*node) for node in nodes], outputs, ONE)


@pytest.mark.parametrize("node, error, words", [
    (("linear", ("x",), "y", {}, {"weight": "w"}), ValueError, "x must have shape"),
    (("reshape", ("x",), "y", {"image": [7]}), ValueError, "has 8 elements"),
    (("reshape", ("x",), "y", {"image": 7}), ValueError, "image must be"),
    (("affine", ("x",), "y", {"factor": "2"}), TypeError, "factor must be a number"),
    (("max_pool2d", ("x",), "y", {"kernel_size": 0}), ValueError, "kernel_size must be"),
    (("batch_norm", ("x",), "y", {}, {"running_mean": "m", "running_var": "m"}), ValueError, "running_mean must have"),
    (("slice", ("x",), "y", {"first": 1, "stop": 1}), ValueError, "there must be something left"),
    (("pad", ("x",), "y", {"tables": [None, [0, 2], None]}), ValueError, "a table must hold numbers from -1 to 1"),
    (("pad", ("x",), "y", {"tables": [[-1], None, None]}), ValueError, "a table must hold numbers from 0 to 1"),
    (("pad", ("x",), "y", {"tables": [[], None, None]}), TypeError, "a table must be a list of integers"),
    (("pad", ("x",), "y", {"tables": [[0]]}), ValueError, "tables must be three lists"),
    (("permute", ("x",), "y", {"dims": [1, 0, 2, 3]}), ValueError, "permute: dims must be all axes"),
    (("permute", ("x",), "y", {"dims": [0, 1]}), ValueError, "permute: dims must be all axes"),
    (("permute", ("x",), "y", {"dims": 1}), TypeError, "permute: dims must be"),
    (("bilinear", ("x",), "y", {"rows": [[[0, 2]], [0.5]], "columns": [[[0, 1]], [0.5]]}), ValueError, "pairs of num"),
    (("bilinear", ("x",), "y", {"rows": [[[0, 1]], [0.5, 0]], "columns": [[[0, 1]], [0.5]]}), ValueError, "as many"),
])
def test_attributes_that_do_not_fit_are_refused(node, error, words):
    made = GraphModule(["x"], [OperationNode(*node)], "y", ONE, {"m": np.zeros(3, np.float32)})
    with pytest.raises(error, match=words):
        made(np.zeros((1, 2, 2, 2), np.float32))


def test_every_operation_of_the_table_is_tested():
    seen = {node.operation for case in CASES for node in graph_module(case.make(), case.shape).nodes}
    seen |= {node.operation for node in graph_module(Everything(), (2, 6, 5)).nodes}
    assert seen | {"detach", "store"} == set(OPERATIONS)    # tests/test_methods.py and test_parametrize.py have them


def test_layers_in_numpy_are_refused():
    class Square(cnn.Module):
        def forward(self, x):
            return x * x

        def backward(self, dy, need_dx=True):
            return dy

    with pytest.raises(ValueError, match="is a layer written in NumPy"):
        graph_module(cnn.Sequential(Square()), (3,))
