"""ONNX files that we read: what we wrote, to the bit; what PyTorch wrote, beside PyTorch; what others say, beside ONNX
Runtime and onnx's own cases."""

import os

import numpy as np
import onnx_cases
import pytest
from cases import CASES, assert_close, assert_same_bits, by_layer
from test_onnx_export import UNEVEN, UNWRITTEN, Arithmetic, ready, run

import cnn
from cnn.export import onnx as export_onnx

onnx = pytest.importorskip("onnx")


FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64


def file_of(path, nodes, shape, arrays=(), outputs=("y",), opset=20, inputs=(), kind=FLOAT):
    """Write a file with the input x of this shape; arrays: by name; inputs: (name, shape) of more inputs."""
    helper = onnx.helper
    told = [helper.make_tensor_value_info(name, kind, size) for name, size in (("x", shape), *inputs)]
    graph = helper.make_graph(
        nodes, "test", told, [helper.make_tensor_value_info(name, kind, None) for name in outputs],
        [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in dict(arrays).items()])
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]).SerializeToString())
    return path


def node(kind, *inputs, outputs=("y",), **attributes):
    return onnx.helper.make_node(kind, inputs, outputs, f"the {kind}", **attributes)


def rng_array(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# Layers that come back as other operations, of the same values but for rounding.
OTHERS = {"ReLU6", "Hardtanh", "Mish", "Softplus", "PReLU", "ChannelShuffle", "ZeroPad2d", "ConstantPad2d",
          "ReflectionPad2d", "ReplicationPad2d", "ZeroPad1d", "ConstantPad1d", "ReflectionPad1d", "ReplicationPad1d"}


def comes_back_otherwise(case):
    even = case.layer == "LocalResponseNorm" and case.args[0] % 2 == 0
    return case.layer in OTHERS or even or case.layer == "Upsample" and case.options.get("mode") != "bilinear"


# ------------------------------------------------------------------------------------------ there and back

@pytest.mark.parametrize("opset", [17, 20, 22])
def test_every_row_there_and_back(opset, tmp_path):
    for case in CASES:
        if str(case) in UNEVEN | UNWRITTEN or comes_back_otherwise(case) or (
                case.layer in ("Softmax", "LogSoftmax", "Flatten") and case.args not in ((), (1,))):
            continue
        if "divisor_override" in case.options:      # an average and a factor there
            continue
        model = ready(case.make(np.float32))
        export_onnx(model, tmp_path / "x.onnx", case.shape, opset=opset)
        back = cnn.load_onnx(tmp_path / "x.onnx")
        assert not back.training
        for n in (1, 17):
            x, _ = case.arrays(n, np.float32)
            assert_same_bits([back(x)], [model(x)])
        # one operation for one: what several nodes of the file say is fused again
        kinds = [n.operation.name for n in cnn.layers.running.graph_of(model, [case.shape])]
        found = [n.operation for n in back.nodes]
        if len(case.shape) == 2:        # sequences are images of one row throughout
            kinds, found = ([kind for kind in names if kind != "reshape"] for names in (kinds, found))
        assert found == kinds, case


@pytest.mark.parametrize("opset", [17, 20])
def test_rows_that_come_back_otherwise(opset, tmp_path):
    cases = [case for case in CASES if comes_back_otherwise(case) and str(case) not in UNEVEN | UNWRITTEN]
    assert {case.layer for case in cases} == OTHERS | {"Upsample", "LocalResponseNorm"}
    for case in cases:
        model = ready(case.make(np.float32))
        export_onnx(model, tmp_path / "x.onnx", case.shape, opset=opset)
        for n in (1, 17):
            x, _ = case.arrays(n, np.float32)
            assert_close(cnn.load_onnx(tmp_path / "x.onnx")(x), model(x))


class Chosen(cnn.Module):
    """Conditions that are comparisons, and ones that are other values."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(cnn.functional.where, x)


@pytest.mark.parametrize("opset", [17, 20])
@pytest.mark.parametrize("function", [
    lambda where, x: where(x > 0.2, x * 2, -x), lambda where, x: where(x <= 0.2, 1.5, x.relu()),
    lambda where, x: where(x[:, :1] > x[:, 1:2], x, x * 3), lambda where, x: where(x.relu(), x, 2 * x),
    lambda where, x: where((x > 0.2) * x, x, 3.0) + where(x != x.relu(), x.exp(), x), lambda where, x: (x > 0.2) * x])
def test_choices_there_and_back(function, opset, tmp_path):
    model, x = Chosen(function).eval(), rng_array(17, 3, 4, 5)
    export_onnx(model, tmp_path / "x.onnx", (3, 4, 5), opset=opset)
    back = cnn.load_onnx(tmp_path / "x.onnx")
    assert_same_bits([back(x), back(x[:1])], [model(x), model(x[:1])])
    kinds = [n.operation.name for n in cnn.layers.running.graph_of(model, [(3, 4, 5)])]
    found = [n.operation for n in back.nodes]
    assert sorted(set(found) - {"affine"}) == sorted(set(kinds) - {"not_equal", "affine"} | (
        {"equal"} if "not_equal" in kinds else set()))


@pytest.mark.parametrize("opset", [17, 20])
@pytest.mark.parametrize("layer, shape", [
    (lambda: cnn.BatchNorm2d(3, 1e-3, track_running_stats=False), (3, 4, 5)),
    (lambda: cnn.BatchNorm2d(3, affine=False, track_running_stats=False), (3, 4, 5)),
    (lambda: cnn.BatchNorm2d(3, bias=False, track_running_stats=False), (3, 4, 5)),
    (lambda: cnn.BatchNorm1d(3, track_running_stats=False), (3,)),
    (lambda: cnn.BatchNorm1d(3, track_running_stats=False), (3, 7))])
def test_batch_norm_by_the_batch_there_and_back(layer, shape, opset, tmp_path):
    model, x = ready(layer()), rng_array(17, *shape)
    export_onnx(model, tmp_path / "x.onnx", shape, opset=opset)
    back = cnn.load_onnx(tmp_path / "x.onnx")
    assert_same_bits([back(x)], [model(x)])
    assert set(back.state_dict()) == set(model.state_dict())
    dy = rng_array(17, *shape, seed=1)
    assert_same_bits(by_layer(back.train(), x, dy), by_layer(model.train(), x, dy))


@pytest.mark.parametrize("name", cnn.models.MODELS)
def test_every_model_there_and_back(name, tmp_path):
    model = ready(cnn.models.MODELS[name](in_channels=3, image_size=32, seed=1))
    export_onnx(model, tmp_path / "x.onnx", (3, 32, 32))
    back = cnn.load_onnx(tmp_path / "x.onnx")
    for n in (1, 16, 17):
        x = rng_array(n, 3, 32, 32)
        assert_same_bits([back(x)], [model(x)])
    wanted = {key: array for key, array in model.state_dict().items() if not key.endswith("num_batches_tracked")}
    got = back.state_dict()
    assert set(got) == set(wanted)
    assert_same_bits([got[key] for key in wanted], wanted.values())


def test_what_comes_back_trains_on_to_the_bit(tmp_path):
    model = ready(cnn.Sequential(
        cnn.Conv2d(1, 6, 3, stride=2, padding=1), cnn.BatchNorm2d(6), cnn.ReLU(), cnn.GroupNorm(2, 6),
        cnn.Residual(cnn.Conv2d(6, 6, 3, padding=1, bias=False)), cnn.SiLU(), cnn.MaxPool2d(3, 2, ceil_mode=True),
        cnn.AvgPool2d(2), cnn.Flatten(), cnn.Linear(54, 10)))
    path = tmp_path / "x.onnx"
    export_onnx(model, path, (1, 28, 28))
    back = cnn.load_onnx(path)
    train, _ = cnn.data.load("mnist-sample")
    for size in (4, 32):
        states = []
        for net in (model, back):
            net.train()
            trainer = cnn.Trainer(net, cnn.SGD(net.parameters(), lr=0.05, momentum=0.9), progress=False)
            for images, labels in list(cnn.data.DataLoader(train, size))[:4]:
                trainer.train_step(images, labels)
            states.append(net.state_dict())
        assert_same_bits([states[1][name] for name in states[1]], [states[0][name] for name in states[1]])
        assert len(states[1]) == len(states[0]) - 1     # num_batches_tracked is not ONNX's


def test_float64_there_and_back(tmp_path):
    double = {"dtype": np.float64}
    for layer, shape in ((cnn.Conv2d(2, 3, 3, **double), (2, 5, 5)), (cnn.Linear(4, 3, **double), (4,))):
        export_onnx(layer.eval(), tmp_path / "x.onnx", shape)
        back = cnn.load_onnx(tmp_path / "x.onnx")
        x = np.random.default_rng(0).standard_normal((3, *shape))
        assert back.dtype == np.float64
        assert_same_bits([back(x)], [layer(x)])


def test_arithmetic_there_and_back(tmp_path):
    model = Arithmetic().eval()
    export_onnx(model, tmp_path / "x.onnx", (4, 5, 6), (4, 5, 6))
    back = cnn.load_onnx(tmp_path / "x.onnx")
    for n in (1, 17):
        a, b = (np.random.default_rng(seed).uniform(1, 2, (n, 4, 5, 6)).astype(np.float32) for seed in (0, 1))
        got, wanted = back(a, b), model(a, b)
        assert list(got) == list(wanted)
        assert_same_bits(got.values(), wanted.values())
    assert {name: p.requires_grad for name, p in back.named_parameters() if p.requires_grad} == {"scale": True}


def test_normalising_and_metadata_come_back(tmp_path):
    model = ready(cnn.models.lenet5(num_classes=2))
    export_onnx(model, tmp_path / "x.onnx", (1, 28, 28), classes=["a", "b"], mean=[0.1], std=[0.3], normalise=True)
    back = cnn.load_onnx(tmp_path / "x.onnx")
    assert back.metadata["classes"] == '["a", "b"]'
    pixels = np.random.default_rng(0).integers(0, 256, (2, 1, 28, 28)).astype(np.float32)
    assert_close(back(pixels), model((pixels / 255 - np.float32(0.1)) / np.float32(0.3)))
    assert not any(name.startswith("normalise") and p.requires_grad for name, p in back.named_parameters())


# ------------------------------------------------------------------------------------------ what others write

def test_what_pytorch_writes(tmp_path):
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.groups = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.GroupNorm(4, 8)
            self.deep, self.head = nn.Conv2d(8, 8, 3, groups=8), nn.Linear(8 * 4, 5)
            self.prelu = nn.PReLU(8)

        def forward(self, x):
            x = nn.functional.silu(self.norm(self.conv(x)))
            x = nn.functional.gelu(self.groups(x)) + nn.functional.gelu(x, approximate="tanh")
            x = self.prelu(self.deep(nn.functional.max_pool2d(x, 2))) * 0.5 + 1
            a, b = torch.chunk(x, 2, 1)
            x = torch.cat([b, a / (b * b + 1)], 1)
            x = nn.functional.avg_pool2d(x, 2, padding=1, count_include_pad=False)
            return torch.log_softmax(self.head(x.view(x.size(0), -1)), 1)

    theirs = Net().eval()
    with torch.no_grad():
        theirs.norm.running_mean.uniform_(-1, 1)
        theirs.norm.running_var.uniform_(0.5, 2)
    x = torch.tensor(rng_array(3, 3, 11, 11))
    for opset in (9, 13, 17, 20):
        torch.onnx.export(theirs, (x,), str(tmp_path / "x.onnx"), opset_version=opset, dynamo=False,
                          training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False,
                          input_names=["x"], dynamic_axes={"x": {0: "n"}})
        ours = cnn.load_onnx(tmp_path / "x.onnx")
        assert_close(ours(x.numpy()), theirs(x).detach().numpy())
        assert {"silu", "gelu", "group_norm"} <= {n.operation for n in ours.nodes}
        assert {"conv.weight", "norm.running_mean", "head.bias"} <= set(ours.state_dict()) or opset < 13
        dy = rng_array(3, 5, seed=1)
        ours.train()
        x_ = x.clone().requires_grad_()
        y = theirs.train()(x_)
        y.backward(torch.tensor(dy))
        ours(x.numpy())
        assert_close(ours.backward(dy), x_.grad.numpy(), 1e-4)
        theirs.eval()


def test_shapes_that_a_graph_computes(tmp_path):
    """view(x.size(0), -1), as exporters write it."""
    nodes = [node("Shape", "x", outputs=["s"]), node("Gather", "s", "zero", outputs=["n"], axis=0),
             node("Unsqueeze", "n", "axes", outputs=["n1"]), node("Constant", outputs=["m"], value_ints=[-1]),
             node("Concat", "n1", "m", outputs=["target"], axis=0), node("Reshape", "x", "target")]
    path = file_of(tmp_path / "x.onnx", nodes, ["N", 2, 3, 4], {"zero": np.int64(0), "axes": np.int64([0])})
    x = rng_array(5, 2, 3, 4)
    assert_same_bits([cnn.load_onnx(path)(x)], [x.reshape(5, 24)])


def windows():
    """(node, shape of x, arrays) of windows with all kinds of padding."""
    w = rng_array(4, 3, 3, 2, seed=1)
    for auto in ("SAME_UPPER", "SAME_LOWER", "VALID"):
        for strides in ([1, 1], [2, 3]):
            yield node("Conv", "x", "w", auto_pad=auto, strides=strides), {"w": w}
            for kind in ("MaxPool", "AveragePool"):
                yield node(kind, "x", auto_pad=auto, strides=strides, kernel_shape=[3, 2]), {}
    for pads in ([0, 1, 2, 0], [1, 0, 0, 1], [2, 1, 2, 1]):
        yield node("Conv", "x", "w", pads=pads, strides=[2, 1], dilations=[1, 2]), {"w": w}
        yield node("MaxPool", "x", pads=pads, kernel_shape=[3, 2], strides=[2, 1]), {}
        yield node("MaxPool", "x", pads=pads, kernel_shape=[3, 2], strides=[2, 1], dilations=[2, 3]), {}
        for counts in (0, 1):
            yield node("AveragePool", "x", pads=pads, kernel_shape=[3, 2], strides=[2, 2], count_include_pad=counts), {}


def transposed():
    """(node, arrays) of transposed convolutions whose padding is told in all ways, on 6 channels of 5 by 4 pixels."""
    w, b = rng_array(6, 2, 3, 2, seed=1), rng_array(4, seed=2)
    for auto in ("SAME_UPPER", "SAME_LOWER", "VALID"):
        for strides in ([1, 1], [2, 2]):
            yield node("ConvTranspose", "x", "w", auto_pad=auto, strides=strides), {"w": w}
    yield node("ConvTranspose", "x", "w", "b", group=2, strides=[2, 2], pads=[1, 0, 1, 1], output_padding=[1, 0],
               kernel_shape=[3, 2]), {"w": w, "b": b}
    yield node("ConvTranspose", "x", "w", strides=[3, 2], pads=[2, 1, 0, 1], dilations=[2, 1]), {"w": w}
    for shape in ([9, 8], [12, 9], [10, 7]):        # less and more than without padding, odd and even
        for auto in ("NOTSET", "SAME_UPPER"):
            yield node("ConvTranspose", "x", "w", strides=[2, 2], output_shape=shape, auto_pad=auto), {"w": w}


@pytest.mark.parametrize("opset", [11, 20])
def test_transposed_convolutions_as_onnx_runtime_has_them(opset, tmp_path):
    x = rng_array(2, 6, 5, 4)
    for made, arrays in transposed():
        path = file_of(tmp_path / "x.onnx", [made], ["N", 6, 5, 4], arrays, opset=opset)
        assert_close(cnn.load_onnx(path)(x), run(path, x)[0])
    path = file_of(tmp_path / "x.onnx", [node("ConvTranspose", "x", "w", pads=[1, 0], strides=[2])], ["N", 2, 9],
                   {"w": rng_array(2, 3, 4, seed=1)}, opset=opset)
    x = rng_array(3, 2, 9)
    assert_close(cnn.load_onnx(path)(x), run(path, x)[0])


@pytest.mark.parametrize("opset", [11, 20])
def test_paddings_as_onnx_runtime_has_them(opset, tmp_path):
    x = rng_array(2, 3, 7, 8)
    for made, arrays in windows():
        path = file_of(tmp_path / "x.onnx", [made], ["N", 3, 7, 8], arrays, opset=opset)
        assert_close(cnn.load_onnx(path)(x), run(path, x)[0])


def test_a_pad_before_a_convolution_or_an_average_is_part_of_it(tmp_path):
    x = rng_array(2, 3, 6, 5)
    pads = {"p": np.int64([0, 0, 1, 0, 0, 0, 2, 1]), "w": rng_array(4, 3, 3, 3)}
    for after in (node("Conv", "z", "w", pads=[0, 1, 0, 0]), node("AveragePool", "z", kernel_shape=[3, 3])):
        path = file_of(tmp_path / "x.onnx", [node("Pad", "x", "p", outputs=["z"]), after], ["N", 3, 6, 5], pads)
        net = cnn.load_onnx(path)
        assert len(net.nodes) == 1
        assert_close(net(x), run(path, x)[0])


def test_weights_that_are_inputs_are_given(tmp_path):
    path = file_of(tmp_path / "x.onnx", [node("Gemm", "x", "w", "b", alpha=0.5, beta=2.0)], ["N", 4],
                   inputs=[("w", [4, 3]), ("b", [3])])
    w, b, x = rng_array(4, 3), rng_array(3), rng_array(5, 4)
    with pytest.raises(ValueError, match=r"node 'the Gemm' \(Gemm\): the matrix.*parameters=\{'w': array\}"):
        cnn.load_onnx(path)
    net = cnn.load_onnx(path, {"w": w, "b": b})
    assert_close(net(x), 0.5 * x @ w + 2 * b)
    assert all(p.requires_grad for p in net.parameters()) and len(net.parameters()) == 2
    with pytest.raises(TypeError, match=r"parameters\['w'\] must be an array, got list"):
        cnn.load_onnx(path, {"w": [1]})


def test_parameters_that_the_file_does_not_have(tmp_path):
    path = tmp_path / "x.onnx"
    cnn.export.onnx(cnn.Sequential(cnn.Flatten(), cnn.Linear(4, 2)), path, (1, 2, 2))
    with pytest.raises(ValueError, match="must be inputs or weights of the file, got '1.wieght'; it has 1.bias, 1.w"):
        cnn.load_onnx(path, {"1.wieght": np.zeros((2, 4), np.float32)})
    with pytest.raises(TypeError, match="load_onnx: parameters must be a dict of arrays, got int"):
        cnn.load_onnx(path, 5)


def test_a_matrix_that_is_used_twice_is_one_parameter(tmp_path):
    nodes = [node("MatMul", "x", "w", outputs=["h"]), node("Relu", "h", outputs=["r"]), node("MatMul", "r", "w")]
    path = file_of(tmp_path / "x.onnx", nodes, ["N", 3], {"w": rng_array(3, 3)})
    net = cnn.load_onnx(path)
    assert [(name, p.shape) for name, p in net.named_parameters()] == [("w", (3, 3))]
    x = rng_array(4, 3)
    assert_close(net(x), np.maximum(x @ rng_array(3, 3), 0) @ rng_array(3, 3))
    nodes[2] = node("Gemm", "r", "w", transB=1)
    path = file_of(tmp_path / "x.onnx", nodes, ["N", 3], {"w": rng_array(3, 3)})
    with pytest.raises(ValueError, match="'w' is used in two shapes"):
        cnn.load_onnx(path)


def test_names_of_the_file_do_not_meet_ours(tmp_path):
    nodes = [onnx.helper.make_node("Relu", ["v1"], ["v0"]), onnx.helper.make_node("Sub", ["v0", "x"], ["y"])]
    path = file_of(tmp_path / "x.onnx", nodes, ["N", 3], inputs=[("v1", ["N", 3])])
    x, v = rng_array(2, 3), rng_array(2, 3, seed=1)
    assert_same_bits([cnn.load_onnx(path)(x, v)], [np.maximum(v, 0) - x])


def test_what_is_imported_can_do_what_modules_can(tmp_path):
    export_onnx(cnn.models.lenet5(), tmp_path / "x.onnx", (1, 28, 28))
    net = cnn.load_onnx(tmp_path / "x.onnx")
    x = rng_array(2, 1, 28, 28)
    assert_same_bits([cnn.compile(net, (1, 28, 28))(x)], [net(x)])
    assert net.summary((1, 28, 28)).parameters == 61706
    export_onnx(net, tmp_path / "again.onnx", (1, 28, 28))
    assert_same_bits([cnn.load_onnx(tmp_path / "again.onnx")(x)], [net(x)])


def test_what_has_three_axes_has_a_row_here(tmp_path):
    path = file_of(tmp_path / "x.onnx", [node("Conv", "x", "w", "b", pads=[1, 0], strides=[2])], ["N", 2, 9],
                   {"w": rng_array(3, 2, 3), "b": rng_array(3)})
    x = rng_array(4, 2, 9)
    assert_close(cnn.load_onnx(path)(x), run(path, x)[0])


def test_open_sizes_need_a_shape(tmp_path):
    path = file_of(tmp_path / "x.onnx", [node("Relu", "x")], ["N", 3, "H", "W"])
    with pytest.raises(ValueError, match=r"leaves sizes open, \(N, 3, \?, \?\): give shape"):
        cnn.load_onnx(path)
    x = rng_array(2, 3, 4, 5)
    assert_same_bits([cnn.load_onnx(path, shape=(3, 4, 5))(x)], [np.maximum(x, 0)])
    with pytest.raises(ValueError, match="shape must have 3 sizes"):
        cnn.load_onnx(path, shape=(3,))


# ------------------------------------------------------------------------------------------ elements, places, axes

MAPS = {
    "maps": [("Abs", "x", "a"), ("Sqrt", "a", "b"), ("Elu", "b", "c"), ("HardSwish", "c", "d"), ("Exp", "d", "e"),
             ("Softplus", "e", "f"), ("Log", "f", "g"), ("Selu", "g", "h"), ("HardSigmoid", "h", "y")],
    "masks": [("Less", "x", "k", "a"), ("Greater", "x", "n", "b"), ("And", "a", "b", "c"), ("Not", "c", "d"),
              ("Where", "d", "x", "n", "e"), ("Max", "e", "k", "f"), ("Min", "f", "x", "g"),
              ("Clip", "g", "n", "k", "y")],
    "places": [("Pad", "x", "pads", "a"), ("Slice", "a", "from", "to", "axes", "steps", "b"),
               ("Gather", "b", "at", "y")],
    "powers": [("Abs", "x", "a"), ("Pow", "a", "k", "b"), ("Softmax", "b", "c"), ("ReduceMin", "c", "some", "y")],
    "pixels": [("DepthToSpace", "x", "a"), ("SpaceToDepth", "a", "b"), ("Concat", "b", "x", "y")],
}
OPTIONS = {"Gather": {"axis": 3}, "Softmax": {"axis": 2}, "DepthToSpace": {"blocksize": 2},
           "SpaceToDepth": {"blocksize": 2}, "Concat": {"axis": 2}}


@pytest.mark.parametrize("name", MAPS)
def test_functions_masks_and_places_as_onnx_runtime_has_them(name, tmp_path):
    arrays = {"k": np.float32(0.7), "n": np.float32(-0.4), "pads": np.int64([0, 1, 2, 0, 0, 0, -1, 3]),
              "from": np.int64([5, 0]), "to": np.int64([-9, 9]), "axes": np.int64([2, 3]), "steps": np.int64([-2, 1]),
              "at": np.int64([1, 1, -1]), "some": np.int64([1, 3])}
    nodes = [node(kind, *inputs, outputs=[output], **OPTIONS.get(kind, {})) for kind, *inputs, output in MAPS[name]]
    path = file_of(tmp_path / "x.onnx", nodes, ["N", 4, 6, 6], arrays)
    x = rng_array(3, 4, 6, 6)
    assert_close(cnn.load_onnx(path)(x), run(path, x)[0])


@pytest.mark.parametrize("mode", ["reflect", "edge"])
def test_pads_of_other_kinds(mode, tmp_path):
    path = file_of(tmp_path / "x.onnx", [node("Pad", "x", "p", mode=mode)], ["N", 4, 6, 5],
                   {"p": np.int64([0, 2, 0, 1, 0, 1, 3, 2])})
    x = rng_array(3, 4, 6, 5)
    assert_close(cnn.load_onnx(path)(x), run(path, x)[0])


@pytest.mark.parametrize("mode, how", [("nearest", "half_pixel"), ("nearest", "asymmetric"), ("linear", "half_pixel"),
                                       ("linear", "align_corners"), ("linear", "pytorch_half_pixel")])
def test_resizing(mode, how, tmp_path):
    x = rng_array(2, 3, 4, 5)
    for more in ({}, {"nearest_mode": "floor"}):
        for inputs, arrays in ((["x", "", "s"], {"s": np.float32([1, 1, 2, 3])}),
                               (["x", "", "", "z"], {"z": np.int64([2, 3, 3, 8])})):
            made = node("Resize", *inputs, mode=mode, coordinate_transformation_mode=how, **more)
            path = file_of(tmp_path / "x.onnx", [made], ["N", 3, 4, 5], arrays)
            assert_close(cnn.load_onnx(path)(x), run(path, x)[0])


@pytest.mark.parametrize("sizes, perm, dims", [
    ((3, 2, 2, 3, 2), (0, 1, 3, 5, 2, 4), (12, 2, 3)), ((3, 2, 2, 3, 2), (0, 3, 5, 1, 2, 4), (12, 2, 3)),
    ((3, 2, 2, 4, 6), (0, 1, 4, 2, 5, 3), (3, 8, 12)), ((2, 2, 3, 4, 6), (0, 3, 4, 1, 5, 2), (3, 8, 12)),
    ((4, 3, 4, 6), (0, 2, 1, 3, 4), (12, 4, 6)), ((4, 3, 4, 6), (0, 2, 1, 3, 4), (288,))])
def test_shuffles_by_reshapes(sizes, perm, dims, tmp_path):
    """Pixels and channels that are moved by a reshape, a transpose and a reshape, as NumPy moves them."""
    x = rng_array(3, 3 if perm[:2] in ((0, 1), (0, 3)) and dims[0] == 12 else 12, 4, 6)
    nodes = [node("Reshape", "x", "cut", outputs=["a"]), node("Transpose", "a", outputs=["b"], perm=perm),
             node("Reshape", "b", "joined")]
    path = file_of(tmp_path / "x.onnx", nodes, ["N", *x.shape[1:]],
                   {"cut": np.int64([0, *sizes]), "joined": np.int64([0, -1, *dims[1:]])})
    wanted = x.reshape(3, *sizes).transpose(perm).reshape(3, *dims)
    assert_same_bits([cnn.load_onnx(path)(x)], [wanted])


@pytest.mark.parametrize("perm", [(0, 1, 3, 2), (0, 2, 1, 3), (0, 2, 3, 1), (0, 3, 1, 2), (0, 3, 2, 1), (0, 2, 1)])
def test_axes_in_another_order(perm, tmp_path):
    """As NumPy has it; there and back; twice in a row is one operation, or none."""
    x = rng_array(3, *(18, 4, 5)[:len(perm) - 1])

    class Turned(cnn.Module):
        def forward(self, x):
            return x.permute(perm)

    export_onnx(Turned(), tmp_path / "x.onnx", x.shape[1:])
    assert_same_bits(run(tmp_path / "x.onnx", x), [x.transpose(perm)])
    back = cnn.load_onnx(tmp_path / "x.onnx")
    assert_same_bits([back(x), back(x[:1])], [x.transpose(perm), x[:1].transpose(perm)])
    for second, count in ((perm, 1), (tuple(np.argsort(perm).tolist()), 0)):
        nodes = [node("Transpose", "x", outputs=["a"], perm=perm), node("Relu", "x", outputs=["b"]),
                 node("Transpose", "a", outputs=["c"], perm=second), node("Mul", "c", "c")]
        back = cnn.load_onnx(file_of(tmp_path / "x.onnx", nodes, ["N", *x.shape[1:]]))
        wanted = x.transpose(perm).transpose(second)
        assert_same_bits([back(x)], [wanted * wanted])
        assert [n.operation for n in back.nodes].count("permute") == (count if wanted.shape != x.shape or (
            wanted != x).any() else 0)


@pytest.mark.parametrize("sizes, perm, dims", [
    ((9, 2, 2, 2, 5), (0, 2, 4, 3, 5, 1), None), ((6, 3, 2, 2, 5), (0, 4, 3, 5, 1, 2), None),
    ((2, 9, 4, 5), (0, 3, 4, 2, 1), (20, 9, 2)), ((9, 2, 4, 5), (0, 3, 4, 1, 2), (40, 9))])
def test_transposes_between_reshapes(sizes, perm, dims, tmp_path):
    """Axes of which some stay together: what is left is a transpose of three, or it is refused."""
    x = rng_array(3, 18, 4, 5)
    nodes = [node("Reshape", "x", "cut", outputs=["a"]), node("Transpose", "a", outputs=["b"], perm=perm),
             node("Reshape", "b", "joined")]
    path = file_of(tmp_path / "x.onnx", nodes, ["N", 18, 4, 5],
                   {"cut": np.int64([0, *sizes]), "joined": np.int64([0, *(dims or (360,))])})
    if dims is None:
        with pytest.raises(ValueError, match="or transpose three axes at most"):
            cnn.load_onnx(path)
    else:
        assert_same_bits([cnn.load_onnx(path)(x)], [x.reshape(3, *sizes).transpose(perm).reshape(3, *dims)])


def test_products_of_two_matrices_of_each_image(tmp_path):
    """Attention over pixels, by MatMul of two values."""
    x = rng_array(3, 4, 3, 5)
    nodes = [node("Reshape", "x", "flat", outputs=["q"]), node("Transpose", "q", outputs=["t"], perm=[0, 2, 1]),
             node("MatMul", "t", "q", outputs=["p"]), node("Softmax", "p", outputs=["s"], axis=-1),
             node("MatMul", "q", "s")]
    path = file_of(tmp_path / "x.onnx", nodes, ["N", 4, 3, 5], {"flat": np.int64([0, 4, 15])})
    q = x.reshape(3, 4, 15)
    shares = np.exp(q.swapaxes(1, 2) @ q)
    assert_close(cnn.load_onnx(path)(x), q @ (shares / shares.sum(-1, keepdims=True)))
    path = file_of(tmp_path / "h.onnx", [node("Transpose", "x", outputs=["t"], perm=[0, 1, 3, 2]),
                                         node("MatMul", "x", "t")], ["N", 4, 3, 5])
    assert_close(cnn.load_onnx(path)(x), x @ x.swapaxes(2, 3))
    nodes[2] = node("MatMul", "q", "q", outputs=["p"])
    with pytest.raises(ValueError, match=r"\(MatMul\): its inputs must have shapes .* got \(N, 4, 15\) and"):
        cnn.load_onnx(file_of(tmp_path / "x.onnx", nodes, ["N", 4, 3, 5], {"flat": np.int64([0, 4, 15])}))


def test_rows_by_a_matrix(tmp_path):
    """A Linear layer over tokens, as PyTorch writes it."""
    x, w, b = rng_array(3, 5, 4), rng_array(4, 6), rng_array(6)
    path = file_of(tmp_path / "x.onnx", [node("MatMul", "x", "w", outputs=["p"]), node("Add", "b", "p")], ["N", 5, 4],
                   {"w": w, "b": b})
    model = cnn.load_onnx(path)
    assert_close(model(x), x @ w + b)
    dy = rng_array(3, 5, 6)
    assert_close(model.train()(x), x @ w + b)
    assert_close(model.backward(dy), dy @ w.T)
    cnn.export.onnx(model, tmp_path / "again.onnx", (5, 4))
    assert_close(cnn.load_onnx(tmp_path / "again.onnx")(x), x @ w + b)


def test_one_side_resampled_by_a_matrix(tmp_path):
    """From the left or from the right alone, and both in the other order."""
    x = rng_array(2, 3, 4, 5)
    left = np.float32([[1, 0, 0, 0], [0.25, 0.75, 0, 0], [0, 0, 0.5, 0.5]])
    right = np.float32([[1, 0], [0, 0], [0, 0.125], [0, 0.875], [0, 0]])
    for steps, wanted in (("l", left @ x), ("r", x @ right), ("rl", left @ x @ right), ("lr", left @ x @ right)):
        nodes = [node("Constant", outputs=[name], value=onnx.numpy_helper.from_array(array))
                 for name, array in (("l", left), ("r", right))]
        now = "x"
        for j, side in enumerate(steps):
            inputs, now = ("l", now) if side == "l" else (now, "r"), "y" if j == len(steps) - 1 else f"y{j}"
            nodes.append(node("MatMul", *inputs, outputs=[now]))
        back = cnn.load_onnx(file_of(tmp_path / "x.onnx", nodes, ["N", 3, 4, 5]))
        assert_close(back(x), wanted)
        assert [n.operation for n in back.nodes] == ["bilinear"]


@pytest.mark.parametrize("matrix", [np.eye(4) * 2, np.eye(4) - 0.1, np.float64([[0.5, 0, 0.5, 0]]), np.zeros((2, 4)),
                                    np.full((1, 4), np.nan), np.eye(3), np.eye(4)[0], np.eye(4)[None]])
def test_matrices_that_do_not_interpolate(matrix, tmp_path):
    made = node("Constant", outputs=["m"], value=onnx.numpy_helper.from_array(matrix.astype(np.float32)))
    path = file_of(tmp_path / "x.onnx", [made, node("MatMul", "m", "x")], ["N", 3, 4, 5])
    with pytest.raises(ValueError, match=r"\(MatMul\): .*two neighbours at most, whose shares add up to 1"):
        cnn.load_onnx(path)
    path = file_of(tmp_path / "x.onnx", [node("MatMul", "m", "x")], ["N", 3, 4, 5], {"m": np.eye(4, dtype=np.float32)})
    with pytest.raises(ValueError, match="matrices of a Constant"):
        cnn.load_onnx(path)


@pytest.mark.parametrize("nodes, words", [
    ([("Reshape", "x", "cut", "a"), ("Relu", "a", "y")], "a reshape to more than 4 axes is understood as a part"),
    ([("Reshape", "x", "cut", "a"), ("Transpose", "a", "b"), ("Reshape", "b", "flat", "y")], "attribute perm must be"),
    ([("Reshape", "x", "cut", "a"), ("Transpose02143", "a", "b"), ("Reshape", "b", "flat", "y")],
     r"a transpose by \[0, 2, 1, 4, 3\] and this are understood where they shuffle pixels or channels, or transpose"),
    ([("ReduceMean023", "x", "a"), ("Relu", "a", "y")], "a mean over the images is understood as a part"),
    ([("ReduceMean023", "x", "a"), ("Sub", "x", "a", "b"), ("ReduceMean023", "b", "y")], "is understood as a part"),
    ([("ReduceMean023", "x", "a"), ("Sub", "x", "a", "b"), ("Mul", "b", "b", "c"), ("ReduceMean13", "c", "y")],
     "its square is understood as a part"),
])
def test_parts_that_stay_parts(nodes, words, tmp_path):
    more = {"Transpose02143": {"perm": [0, 2, 1, 4, 3]}, "ReduceMean023": {"axes": [0, 2, 3]},
            "ReduceMean13": {"axes": [1, 3]}}
    made = [node(kind.rstrip("01234"), *inputs, outputs=[output], **more.get(kind, {}))
            for kind, *inputs, output in nodes]
    path = file_of(tmp_path / "x.onnx", made, ["N", 4, 4, 6],
                   {"cut": np.int64([0, 2, 2, 4, 6]), "flat": np.int64([0, -1])}, opset=17)
    with pytest.raises(ValueError, match=words):
        cnn.load_onnx(path)


# ------------------------------------------------------------------------------------------ onnx's own cases

@pytest.mark.thorough
def test_onnx_s_own_cases(tmp_path):
    """Every case whose operators we have gives what it should, or is refused with a reason."""
    passed, refused, wrong = onnx_cases.outcomes(tmp_path / "x.onnx")
    assert not wrong, wrong
    assert all(refused.values())
    assert len(passed) >= 350
    page = onnx_cases.PAGE.read_text(encoding="utf-8")
    if f"onnx {onnx.__version__} " in page:     # those of another version may be others
        assert page == onnx_cases.page(refused)


# ------------------------------------------------------------------------------------------ refusals

@pytest.mark.parametrize("made, words", [
    (lambda: node("AveragePool", "x", kernel_shape=[2, 2], dilations=[2, 1]),
     r"node 'the AveragePool' \(AveragePool\): attribute dilations must be 1, got \[2, 1\]"),
    (lambda: node("Softmax", "x", axis=0), r"\(Softmax\): attribute axis must be another than the images', .*got 0"),
    (lambda: node("Softmax", "x", axis=9), r"attribute axis must be from -4 to 3, got 9"),
    (lambda: node("Relu", "x", strange=7), r"\(Relu\): attribute strange = 7 is not understood"),
    (lambda: node("LSTM", "x"), r"node 'the LSTM' \(LSTM\): there is no operation for it here"),
    (lambda: node("Relu", "x", domain="org.else"), r"its domain must be ONNX's own, got 'org.else'"),
    (lambda: node("Relu", "z"), "input 'z' is made by no node before it"),
    (lambda: node("Conv", "x", "x"), "the weight .input 1. must be a constant"),
    (lambda: node("Conv", "x", "w", strides=[0, 1]), r"attribute strides must be integers of at least 1, got \[0, 1\]"),
    (lambda: node("Conv", "x", "w", pads=[1]), r"attribute pads must be 4 integers, got \[1\]"),
    (lambda: node("Conv", "x", "w", group=2), r"\(Conv\): conv2d: x must have 6 channels, got 3"),
    (lambda: node("Conv", "x", "w", auto_pad="NO"), "attribute auto_pad must be NOTSET"),
    (lambda: node("ConvTranspose", "x", "w", strides=[9, 9], auto_pad="SAME_UPPER"),
     "auto_pad must be NOTSET or VALID where a stride is larger than its kernel"),
    (lambda: node("ConvTranspose", "x", "x"), "the weight .input 1. must be a constant"),
    (lambda: node("ConvTranspose", "x", "w"), r"\(ConvTranspose\): conv_transpose2d: x must have . channels, got 3"),
    (lambda: node("ConvTranspose", "x", "w", output_padding=[0, -1]), "output_padding must be integers of at least 0"),
    (lambda: node("ConvTranspose", "x", "w", output_shape=[0, 3]), "output_shape must be 2 integers of at least 1"),
    (lambda: node("Pad", "x", "p"), r"attribute pads must be 0 for the images' axis, got \[1, 0,"),
    (lambda: node("Pad", "x", "q", mode="reflect"), r"attribute pads must be such that .* less than the size 5, got"),
    (lambda: node("Resize", "x", "", "s", mode="cubic"), "attribute mode must be nearest or linear, got cubic"),
    (lambda: node("Greater", "x", "w"), "its inputs|mask|do not go together|constant"),
    (lambda: node("Transpose", "x", perm=[1, 0, 2, 3]), r"attribute perm must be an order of all axes, that of the"),
    (lambda: node("Transpose", "x", perm=[0, 1, 1, 3]), r"attribute perm must be an order of all axes, .* \[0, 1, 1"),
    (lambda: node("Transpose", "x", perm=[0, 1, 2]), "attribute perm must be 4 integers, got"),
    (lambda: node("Transpose", "x", perm=[0.0, 1.0, 3.0, 2.0]), "attribute perm must be 4 integers, got"),
    (lambda: node("Erf", "x"), "understood as a part of GELU only"),
    (lambda: node("Pow", "x", "x"), "exponent .input 1. must be a number"),
    (lambda: node("Shape", "x"), "output 'y' must depend on the graph's input"),
    (lambda: node("Cast", "x", to=10), "attribute to must be float32"),
    (lambda: node("Flatten", "x", axis=2), "attribute axis must be 1, got 2"),
    (lambda: node("Dropout", "x", "", "yes"), "training_mode"),
])
def test_refusals_name_node_operator_attribute_and_value(made, words, tmp_path):
    arrays = {"w": rng_array(4, 3, 3, 3), "p": np.int64([1, 0, 0, 0, 0, 0, 0, 0]),
              "q": np.int64([0, 0, 5, 0, 0, 0, 0, 0]), "s": np.float32([1, 1, 2, 2]), "yes": np.array(True)}
    path = file_of(tmp_path / "x.onnx", [made()], ["N", 3, 5, 5], arrays)
    with pytest.raises(ValueError, match=words) as caught:
        cnn.load_onnx(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such ONNX file"):
        cnn.load_onnx(tmp_path / "x.onnx")
    with pytest.raises(FileNotFoundError):
        cnn.load_onnx(tmp_path)
    (tmp_path / "x.onnx").write_bytes(b"hello")
    with pytest.raises(ValueError, match="x.onnx: not a readable ONNX file"):
        cnn.load_onnx(tmp_path / "x.onnx")
    path = file_of(tmp_path / "x.onnx", [node("Relu", "x")], ["N", 3], opset=5)
    with pytest.raises(ValueError, match="opset must be from 6 to 28, got 5"):
        cnn.load_onnx(path)
    path = file_of(tmp_path / "x.onnx", [node("Relu", "x")], ["N", 3], kind=INT64)
    with pytest.raises(ValueError, match="inputs must all be FLOAT or all DOUBLE, got INT64"):
        cnn.load_onnx(path)


def external(folder, location, shape=(2, 3), **more):
    """A file whose weight is told to be in another file."""
    path = file_of(folder / "x.onnx", [node("Gemm", "x", "w", transB=1)], ["N", 3], {"w": np.ones(shape, np.float32)})
    model = onnx.load(path)
    tensor, = model.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=str(value))
    path.write_bytes(model.SerializeToString())
    return path


def test_external_data_in_the_folder_are_read(tmp_path):
    w = rng_array(2, 3)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "w.bin").write_bytes(b"1234" + w.tobytes())
    path = external(tmp_path, "in/w.bin", offset=4, length=24)
    x = rng_array(4, 3)
    assert_close(cnn.load_onnx(path)(x), x @ w.T)


def test_large_external_data_are_read(tmp_path):
    w = rng_array(1100, 1000)
    (tmp_path / "w.bin").write_bytes(w.tobytes())
    path = file_of(tmp_path / "x.onnx", [node("Gemm", "x", "w")], ["N", 1100], {"w": w})
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    assert path.stat().st_size < 1000
    x = rng_array(2, 1100)
    assert_close(cnn.load_onnx(path)(x), x @ w)


def test_external_data_elsewhere_are_not_read(tmp_path):
    folder, secret = tmp_path / "folder", tmp_path / "secret"
    folder.mkdir()
    secret.write_bytes(bytes(24))
    (folder / "w.bin").write_bytes(bytes(24))
    (folder / "link").symlink_to(secret)
    (folder / "up").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe")
    assert cnn.load_onnx(external(folder, "w.bin")).parameters()
    for location, words in (
        (secret, "must be a file in the model's folder"), ("../secret", "must be a file in the model's folder"),
        ("in/../../secret", "must be a file in the model's folder"), ("", "must be a file"), ("..", "must be a file"),
        ("link", "is a link out of it"), ("up/secret", "is a link out of it"), ("pipe", "must be a file"),
        (".", "must be a file"), ("none", "cannot be read"), ("w\0.bin", "must be a file in"),
        ("..\\secret", "must be a file in"),
    ):
        path = external(folder, location)
        with pytest.raises(ValueError, match=words) as caught:
            cnn.load_onnx(path)
        assert str(caught.value).startswith(f"{path}: ") and str(caught.value).isprintable()
    for more, words in (({"offset": 8}, "has 24 bytes, but 24 from 8 on"), ({"length": 8}, "length must be 24 bytes"),
                        ({"offset": -1}, "offset must be a number"), ({"offset": "9" * 99}, "offset must be a number")):
        with pytest.raises(ValueError, match=words):
            cnn.load_onnx(external(folder, "w.bin", **more))
    with pytest.raises(ValueError, match="has 24 bytes"):
        cnn.load_onnx(external(folder, "w.bin", (3, 3)))


def test_arrays_that_lie_about_their_size(tmp_path):
    path = file_of(tmp_path / "x.onnx", [node("Gemm", "x", "w", transB=1)], ["N", 3], {"w": rng_array(2, 3)})
    for dims in ([2, 2**40], [2**62, 2**62], [-1, 3], [2, 4], [0, 3], [1] * 70):
        model = onnx.load(path)
        del model.graph.initializer[0].dims[:]
        model.graph.initializer[0].dims.extend(dims)
        (tmp_path / "lie.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(ValueError, match=r"lie.onnx: .*(an array|must|must not be empty)"):
            cnn.load_onnx(tmp_path / "lie.onnx")


@pytest.mark.parametrize("nodes, words", [
    ([("ConstantOfShape", ["big"])], "larger than 1048576 elements"),
    ([("Expand", ["one", "big"])], "larger than 1048576 elements"), ([("Tile", ["one", "big"])], "larger than"),
    ([("Range", ["a", "b", "a"])], "larger than"),
])
def test_constants_that_would_take_much_memory(nodes, words, tmp_path):
    arrays = {"big": np.int64([2**20, 2**20]), "one": np.ones((1, 1), np.float32), "a": np.int64(1),
              "b": np.int64(2**50)}
    made = [node(kind, *inputs, outputs=["c"]) for kind, inputs in nodes] + [node("Add", "x", "c")]
    path = file_of(tmp_path / "x.onnx", made, ["N", 3], arrays)
    with pytest.raises(ValueError, match=words):
        cnn.load_onnx(path)


def test_many_constants_of_one_are_bounded_together(tmp_path):
    made = [node("Constant", outputs=["s"], value_ints=[2**19])]
    made += [node("ConstantOfShape", "s", outputs=[f"c{i}"]) for i in range(50)] + [node("Relu", "x")]
    path = file_of(tmp_path / "x.onnx", made, ["N", 3])
    with pytest.raises(ValueError, match="more than the file's size bears out"):
        cnn.load_onnx(path)


@pytest.mark.parametrize("made, shape", [
    (lambda: node("MaxPool", "x", kernel_shape=[2**20, 2**20], pads=[2**20 - 1] * 4), [1, 1, 1]),
    (lambda: node("AveragePool", "x", kernel_shape=[2**40, 1]), [1, 1, 1]),
    (lambda: node("Relu", "x"), [1, 2**30, 1]), (lambda: node("Relu", "x"), [2**40, 1, 1]),
    (lambda: node("Conv", "x", "w", pads=[2**20] * 4), [1, 1, 1]),
])
def test_sizes_that_tables_would_be_made_for(made, shape, tmp_path):
    path = file_of(tmp_path / "x.onnx", [made()], ["N", *shape], {"w": rng_array(1, 1, 1, 1)})
    with pytest.raises(ValueError, match="x.onnx: "):
        cnn.load_onnx(path)


def test_a_gradient_through_an_imported_layer(tmp_path):
    """Beside the layer that it was."""
    layer = ready(cnn.Sequential(cnn.Conv2d(2, 3, 3), cnn.LeakyReLU(0.2), cnn.GELU("tanh")))
    export_onnx(layer, tmp_path / "x.onnx", (2, 6, 6), opset=17)
    back = cnn.load_onnx(tmp_path / "x.onnx")
    x, dy = rng_array(17, 2, 6, 6), rng_array(17, 3, 4, 4, seed=1)
    assert_same_bits(by_layer(back.train(), x, dy), by_layer(layer.train(), x, dy))
