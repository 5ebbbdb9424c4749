"""ONNX files that we write: onnx's checker passes them, and ONNX Runtime computes what the model does."""

import json

import numpy as np
import pytest
from cases import CASES, Function, assert_close, inner

import cnn
from cnn.commands import export as command
from cnn.export import onnx as export_onnx

onnx = pytest.importorskip("onnx")
UNWRITTEN = {"ConvTranspose2d(2, 3, 2, output_padding=(2, 1), dilation=(3, 4)) of 2x3x2"}
UNEVEN = {"AdaptiveAvgPool2d((3, 5)) of 2x7x8", "AdaptiveAvgPool2d(4) of 1x3x5",
          "AdaptiveMaxPool2d((3, 5)) of 2x7x8", "AdaptiveMaxPool2d(4) of 1x3x5"}


def ready(model, seed=0):
    """A model in evaluation mode whose norms do something."""
    rng = np.random.default_rng(seed)
    for name, array in model.named_buffers():
        if array.dtype.kind == "f":
            array[...] = rng.uniform(0.5, 1.5, array.shape) - (0.7 if name.endswith("mean") else 0)
    for p in model.parameters():
        if p.data.ndim == 1:
            p.data = rng.uniform(0.5, 1.5, p.shape)
    return model.eval()


def checked(path):
    """A file, as onnx reads it, that its checker has passed."""
    file = onnx.load(path)
    onnx.checker.check_model(file, full_check=True)
    return file


def run(path, *xs):
    """What ONNX Runtime makes of a file, a list of arrays."""
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {given.name: x for given, x in zip(session.get_inputs(), xs, strict=True)})


@pytest.mark.parametrize("opset", [17, 20, 22])
def test_every_row_as_onnx_runtime_has_it(opset, tmp_path):
    path, refused = tmp_path / "x.onnx", set()
    for case in CASES:
        model = ready(case.make(np.float32))
        try:
            export_onnx(model, path, case.shape, opset=opset)
        except ValueError as error:
            assert "output_size must divide the input" in str(error) and "pool2d" in str(error) \
                or "conv_transpose2d: output_padding must be less than stride 1×1 in ONNX, got 2×1" in str(error)
            refused.add(str(case))
            continue
        file = checked(path)
        assert file.opset_import[0].version == opset
        assert file.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
        for n in (1, 17):
            x, _ = case.arrays(n, np.float32)
            y, = run(path, x)
            assert_close(y, model(x))
    assert refused == UNEVEN | UNWRITTEN


@pytest.mark.parametrize("name", cnn.models.MODELS)
def test_every_model_as_onnx_runtime_has_it(name, tmp_path):
    model = ready(cnn.models.MODELS[name](in_channels=3, image_size=32, seed=1))
    path = tmp_path / "x.onnx"
    export_onnx(model, path, (3, 32, 32))
    checked(path)
    x = np.random.default_rng(0).standard_normal((5, 3, 32, 32)).astype(np.float32)
    wanted, = run(path, x)
    assert_close(model(x), wanted, 1e-4)
    before = cnn.get_winograd()
    cnn.set_winograd(False)
    try:
        assert_close(model(x), wanted, 1e-5)
    finally:
        cnn.set_winograd(before)


class Arithmetic(cnn.Module):
    """Two inputs, a dict of outputs, constants of all kinds."""

    def __init__(self):
        super().__init__()
        self.scale = cnn.Parameter(np.linspace(0.5, 1.5, 4, dtype=np.float32).reshape(4, 1, 1))

    def forward(self, a, b):
        x = a * self.scale - np.arange(4).reshape(4, 1, 1) / b
        x = (2 - x) / 3 + 1 / (b * b + 1.5)
        y = -x[:, 1:3] / (b * 4)[:, :1]
        every = cnn.cat([x, y])
        return {"sum": every.sum(3, keepdim=True), "mean": y.mean((2, 3)), "most": every.amax((2, 3)),
                "flat": x.reshape(-1, 2, 10, 6).flatten(), "constants": 3 / b}


def test_arithmetic_several_inputs_and_outputs(tmp_path):
    model, path = Arithmetic().eval(), tmp_path / "x.onnx"
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((3, 4, 5, 6)).astype(np.float32), rng.uniform(1, 2, (3, 4, 5, 6)).astype(np.float32)
    export_onnx(model, path, (4, 5, 6), (4, 5, 6))
    file = checked(path)
    assert [value.name for value in file.graph.output] == ["sum", "mean", "most", "flat", "constants"]
    assert [array.name for array in file.graph.initializer] == ["scale"]
    for got, wanted in zip(run(path, a, b), model(a, b).values(), strict=True):
        assert_close(got, wanted)


def test_constants_that_others_read_are_spread_over_the_images(tmp_path):
    Node = cnn.layers.OperationNode
    model = cnn.layers.GraphModule(
        ["x"], [Node("parameter", ("x",), "c", {"image": [2, 1, 3]}, {"parameter": "c"}),
                Node("cat", ("x", "c"), "both"), Node("multiply", ("c", "c"), "square"),
                Node("cat", ("both", "square"), "y")], "y", {"c": np.arange(6, dtype=np.float32)}).eval()
    export_onnx(model, tmp_path / "x.onnx", (1, 1, 3))
    checked(tmp_path / "x.onnx")
    x = np.ones((4, 1, 1, 3), np.float32)
    assert_close(run(tmp_path / "x.onnx", x)[0], model(x))
    assert_close(cnn.load_onnx(tmp_path / "x.onnx")(x), model(x))


@pytest.mark.parametrize("function", [
    lambda w, x: w @ x, lambda w, x: w @ x[:, :1], lambda w, x: w @ x[:, 0], lambda w, x: x[:, :1, 2] @ (w @ x)[:, 0]])
def test_products_of_a_parameter_and_heads(function, rng, tmp_path):
    class Left(cnn.Module):
        def __init__(self):
            super().__init__()
            self.weight = cnn.Parameter(rng.standard_normal((5, 3), np.float32))

        def forward(self, x):
            return function(self.weight, x)

    model, path, x = Left().eval(), tmp_path / "x.onnx", rng.standard_normal((4, 2, 3, 5), np.float32)
    export_onnx(model, path, (2, 3, 5))
    checked(path)
    for images in (x, x[:1]):
        assert_close(run(path, images)[0], model(images))
    assert_close(cnn.load_onnx(path)(x), model(x))


def test_what_is_made_of_constants_alone(rng, tmp_path):
    """By an operator that has read it with an axis of images, which then is there already."""
    Node = cnn.layers.OperationNode
    model = cnn.layers.GraphModule(
        ["x"], [Node("parameter", ("x",), "c", {"image": [2, 1, 3]}, {"parameter": "c"}), Node("relu", ("c",), "most"),
                Node("multiply", ("x", "most"), "y")], "y", {"c": rng.standard_normal(6, np.float32)}).eval()
    export_onnx(model, tmp_path / "x.onnx", (2, 1, 3))
    x = rng.standard_normal((4, 2, 1, 3), np.float32)
    assert_close(run(tmp_path / "x.onnx", x)[0], model(x))


def test_a_model_in_training_mode_is_written_as_in_evaluation_mode(tmp_path):
    model = cnn.Sequential(cnn.Conv2d(1, 2, 3), cnn.BatchNorm2d(2), cnn.Dropout(0.5))
    export_onnx(model, tmp_path / "x.onnx", (1, 5, 5))
    assert model.training and model[1].training
    kinds = [node.op_type for node in checked(tmp_path / "x.onnx").graph.node]
    assert kinds == ["Conv", "BatchNormalization", "Identity"]
    x = np.ones((2, 1, 5, 5), np.float32)
    assert_close(run(tmp_path / "x.onnx", x)[0], model.eval()(x))


def test_parameters_have_the_names_of_the_state(tmp_path):
    model = cnn.models.resnet20(blocks=1)
    export_onnx(model, tmp_path / "x.onnx", (3, 32, 32))
    names = {array.name for array in checked(tmp_path / "x.onnx").graph.initializer}
    assert names == {name for name in model.state_dict() if not name.endswith("num_batches_tracked")}


def test_metadata_and_normalising(tmp_path):
    model, path = ready(cnn.models.lenet5(in_channels=3, num_classes=2)), tmp_path / "x.onnx"
    told = {"classes": ["cat", "Hündin"], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.25]}
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 28, 28)).astype(np.float32)
    mean, std = (np.float32(told[name]).reshape(3, 1, 1) for name in ("mean", "std"))
    for kind, scale in (("uint8", 255), ("float32", 1)):
        wanted = model((pixels / np.float32(scale) - mean) / std)
        export_onnx(model, path, (3, 28, 28), **told, pixels=kind)
        metadata = {p.key: p.value for p in checked(path).metadata_props}
        assert {name: json.loads(metadata[name]) for name in told} == told and "mean) / std" in metadata["input"]
        assert_close(run(path, (pixels / np.float32(scale) - mean) / std)[0], wanted)
        export_onnx(model, path, (3, 28, 28), **told, pixels=kind, normalise=True)
        assert "the graph normalises" in {p.key: p.value for p in checked(path).metadata_props}["input"]
        assert_close(run(path, pixels)[0], wanted)


@pytest.mark.parametrize("shapes, options, error, words", [
    ([(1, 28, 28)], {"opset": 16}, ValueError, "opset must be an integer from 17 to 23, got 16"),
    ([(1, 28, 28)], {"opset": 24}, ValueError, "got 24"),
    ([], {}, TypeError, "image_shapes must be one"),
    ([(28, 28)], {}, ValueError, "x must have shape"),
    ([(1, 28, 28)], {"classes": "ab"}, TypeError, "classes must be a list of texts"),
    ([(1, 28, 28)], {"mean": [0, 0]}, ValueError, "mean must have 1 numbers"),
    ([(1, 28, 28)], {"std": [0]}, ValueError, "std must be a finite number above 0"),
    ([(1, 28, 28)], {"normalise": True}, ValueError, "normalise needs mean and std"),
    ([(1, 28, 28)], {"pixels": "int8"}, ValueError, "pixels must be"),
])
def test_wrong_arguments_write_nothing(shapes, options, error, words, tmp_path):
    with pytest.raises(error, match=words):
        export_onnx(cnn.models.lenet5(), tmp_path / "x.onnx", *shapes, **options)
    assert not list(tmp_path.iterdir())


def test_what_onnx_cannot_express_is_named(tmp_path):
    class Square(cnn.Module):
        def forward(self, x):
            return x * x

        def backward(self, dy, need_dx=True):
            return dy

    with pytest.raises(ValueError, match="export.onnx: module '1': ONNX has no Square"):
        export_onnx(cnn.Sequential(cnn.ReLU(), Square()), tmp_path / "x.onnx", (3,))
    case = next(case for case in CASES if str(case) in UNEVEN)
    with pytest.raises(ValueError, match="module '0': avg_pool2d: output_size must divide the input 7×8.*got 3×5"):
        export_onnx(cnn.Sequential(inner(case.layer, *case.args).make(np.float32)), tmp_path / "x.onnx", case.shape)


def test_the_command(tmp_path, capsys):
    model = ready(cnn.models.lenet5(num_classes=2))
    arguments = {"in_channels": 1, "num_classes": 2, "image_size": 28}
    description = {"model": "lenet5", "arguments": arguments, "classes": ["a", "b"], "mean": [0.1], "std": [0.3]}
    cnn.save_model(tmp_path / "model.safetensors", model, description)
    assert command.main([str(tmp_path), "--to", "onnx", "--normalise", "--opset", "18"]) is None
    assert f"wrote {tmp_path / 'model.onnx'}" in capsys.readouterr().out
    file = checked(tmp_path / "model.onnx")
    assert file.opset_import[0].version == 18
    pixels = np.random.default_rng(0).integers(0, 256, (2, 1, 28, 28)).astype(np.float32)
    assert_close(run(tmp_path / "model.onnx", pixels)[0], model((pixels / 255 - np.float32(0.1)) / np.float32(0.3)))
    with pytest.raises(SystemExit):
        command.main([str(tmp_path), "--to", "onnx", "--out", str(tmp_path / "no" / "x.onnx")])
    assert "could not write" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main([str(tmp_path / "nothing"), "--to", "onnx"])
    assert "nothing: there is no such model file" in capsys.readouterr().err


@pytest.mark.parametrize("function", [
    lambda x: x ** 3, lambda x: x ** 3 + x, lambda x: 0.044715 * x ** 3, lambda x: (2 * x ** 3).relu() - x,
    lambda x: x ** 3 * x, lambda x: x ** 3 / x, lambda x: cnn.cat([x ** 3 - 1, x]), lambda x: (x ** 3).mean(1),
    lambda x: cnn.functional.gelu(x, "tanh") + x ** 3, lambda x: x + 0.044715 * x ** 3,
    lambda x: 0.79788456 * (x + 0.044715 * x ** 3), lambda x: (0.79788456 * (x + 0.044715 * x ** 3)).tanh(),
    lambda x: (x ** 3).tanh(), lambda x: ((0.79788456 * (x + 0.044715 * x ** 3)).tanh() + 1) * x,
    lambda x: ((0.79788456 * (x + 0.044715 * x ** 3)).tanh() + 1) / 3 + x,
    lambda x: cnn.functional.avg_pool2d((0.5 * x ** 3).view(-1, 1, 2, 2), 2, padding=1)])
def test_cubes_that_are_no_gelu_come_back(function, tmp_path):
    model, x = Function(function).eval(), np.random.default_rng(0).uniform(0.5, 2, (3, 4)).astype(np.float32)
    export_onnx(model, tmp_path / "x.onnx", (4,))
    want = model(x)
    assert_close(run(tmp_path / "x.onnx", x)[0], want, 1e-4)
    assert_close(cnn.load_onnx(tmp_path / "x.onnx").eval()(x), want, 1e-4)
