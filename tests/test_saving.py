"""Networks in files without their code: the same bits come back, damage and lies are refused by name."""

import copy
import json
import pickle

import numpy as np
import pytest
from cases import CASES, assert_same_bits, by_layer
from processes import run_python
from test_graph_module import Everything

import cnn
from cnn.data import Dataset
from cnn.training import checkpoint


def there_and_back(model, path, data):
    cnn.save(model, path, data)
    return cnn.load_model(path)[0]


def step(model, x, wanted):
    """The state after a training step towards the given outputs."""
    optimizer = cnn.SGD(model.parameters(), lr=0.1, momentum=0.9) if model.parameters() else None
    model.train()
    model.backward(model(x) - wanted)
    if optimizer:
        optimizer.step()
    return model.state_dict()


@pytest.mark.parametrize("dtype", [pytest.param(np.float32, marks=pytest.mark.thorough), np.float64])
def test_every_row_comes_back_with_the_same_bits(tmp_path, dtype):
    """Forward and backward in both modes, names of the state, and the state after a training step."""
    for i, case in enumerate(CASES):
        model = case.make(dtype)
        back = there_and_back(model, tmp_path / f"{i}.safetensors", case.shape)
        assert not back.training and model.training, case
        before, after = model.state_dict(), back.state_dict()
        assert sorted(before) == sorted(after) and [n for n, _ in model.named_parameters()] == [
            n for n, _ in back.named_parameters()], case
        assert all(before[name].tobytes() == after[name].tobytes() for name in before), case
        x, dy = case.arrays(3, dtype)
        assert_same_bits([back(x)], [model.eval()(x)])
        assert_same_bits(by_layer(back.train(), x, dy), by_layer(model.train(), x, dy))
        wanted, found = step(model, x, dy), step(back, x, dy)
        assert all(wanted[name].tobytes() == found[name].tobytes() for name in wanted), case
        again = there_and_back(back, tmp_path / f"{i}.safetensors", case.shape)
        assert_same_bits([again(x)], [model.eval()(x)])


def test_several_outputs_arithmetic_and_dropout(tmp_path):
    """Also on the way: the masks of dropout go on where they were."""
    model = Everything()
    x = np.random.default_rng(0).standard_normal((3, 2, 6, 5)).astype(np.float32)
    model(x)
    back = there_and_back(model, tmp_path / "x", (2, 6, 5)).train()
    for _ in range(2):
        got, wanted = back(x), model(x)
        assert list(got) == list(wanted)
        assert_same_bits(got.values(), wanted.values())
    again = there_and_back(back, tmp_path / "y", (2, 6, 5)).train()
    assert_same_bits(again(x).values(), model(x).values())


class Two(cnn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.unused = cnn.Linear(4, 3), cnn.Linear(2, 3, seed=1), cnn.Linear(2, 2)

    def forward(self, x, y):
        return self.left(x) * self.right(y), x


def test_several_inputs_and_what_is_not_used(tmp_path):
    model, rng = Two(), np.random.default_rng(0)
    model.right.weight.requires_grad, model.left.bias.lr_scale = False, 0.25
    back = there_and_back(model.freeze(), tmp_path / "x", [(4,), (2,)])
    assert not any(p.requires_grad for p in back.parameters())
    model.unfreeze()
    back.unfreeze()
    assert list(back.state_dict()) == list(model.state_dict())
    inputs = [rng.standard_normal((2, n)).astype(np.float32) for n in (4, 2)]
    assert_same_bits(back(*inputs), model.eval()(*inputs))
    for (_, p), (_, q) in zip(back.named_parameters(), model.named_parameters(), strict=True):
        assert (p.requires_grad, p.lr_scale) == (q.requires_grad, q.lr_scale)


def made_up(n=30):
    rng = np.random.default_rng(0)
    return Dataset(rng.integers(0, 256, (n, 1, 8, 8), np.uint8), np.arange(n) % 3, list("abc"), [0.4], [0.2])


class Own(cnn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.drop = cnn.Conv2d(1, 4, 3), cnn.BatchNorm2d(4), cnn.Dropout(0.4, seed=9)
        self.head = cnn.Linear(4, 3)

    def forward(self, x):
        x = cnn.functional.relu(self.norm(self.conv(x)))
        return self.head(self.drop(x.mean((2, 3))))


def trained(model, epochs=1):
    trainer = cnn.Trainer(model, cnn.Adam(model.parameters(), lr=0.01), progress=False)
    trainer.fit(made_up(), epochs, batch_size=8)
    return model


def test_a_network_of_ones_own_predicts_and_trains_on(tmp_path):
    """In a process that does not have the class, too."""
    model, path = trained(Own()), tmp_path / "own.safetensors"
    cnn.save(model, path, made_up(), tta="flip")
    predictor = cnn.load(path)
    assert predictor.classes == ("a", "b", "c") and predictor.shape == (1, 8, 8) and predictor.tta == "flip"
    assert (predictor.mean, predictor.std, predictor.pixels) == ((0.4,), (0.2,), "uint8")
    x = made_up().images
    wanted = cnn.Trainer(model, None, progress=False).predict(made_up(), "flip")
    assert np.array_equal(predictor.predict_proba(x), cnn.reference.softmax(wanted))
    wanted, found = trained(model).state_dict(), trained(predictor.model).state_dict()
    assert all(np.array_equal(wanted[name], found[name]) for name in wanted)
    cnn.save_model(tmp_path / "again", predictor.model, predictor.description)
    again = cnn.load_model(tmp_path / "again")[0].state_dict()
    assert all(np.array_equal(again[name], found[name]) for name in found)
    code = f"import cnn, numpy as np\nprint(cnn.load({str(path)!r}).predict(np.zeros((8, 8), np.uint8)))"
    said = run_python("-c", code)
    assert "Prediction(label=" in said.stdout, said.stderr


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_diverged_network_comes_back_as_it_is(tmp_path, value):
    """As in PyTorch: whoever trained it may want to look at it."""
    model = cnn.Sequential(cnn.Conv2d(1, 2, 3, seed=0), cnn.BatchNorm2d(2), cnn.Flatten(), cnn.Linear(18, 3, seed=1))
    for array in (*(p.data for p in model.parameters()), model[1].running_mean, model[1].running_var):
        array.flat[0] = value
    data = Dataset(np.zeros((3, 1, 5, 5), np.uint8), np.arange(3), ("a", "b", "c"))
    wanted = model.state_dict()
    cnn.save(model, tmp_path / "net", data)
    for back in (cnn.load_model(tmp_path / "net")[0], cnn.load(tmp_path / "net").model):
        found = back.state_dict()
        assert sorted(found) == sorted(wanted)
        assert all(found[name].tobytes() == wanted[name].tobytes() for name in wanted)
    description = {"model": "lenet5", "arguments": {"in_channels": 1, "image_size": 28, "num_classes": 10}}
    model = cnn.models.lenet5(in_channels=1, image_size=28, num_classes=10)
    model.parameters()[0].data.flat[0] = value
    checkpoint.save_model(tmp_path / "lenet", model, description)
    back = cnn.load_model(tmp_path / "lenet")[0]
    assert back.parameters()[0].data.tobytes() == model.parameters()[0].data.tobytes()


def test_what_cannot_be_saved(tmp_path):
    class Square(cnn.Module):
        def forward(self, x):
            return x * x

        def backward(self, dy, need_dx=True):
            return dy

    class Twice(cnn.Module):
        def __init__(self):
            super().__init__()
            self.drop = cnn.Dropout(0.5)

        def forward(self, x):
            return self.drop(self.drop(x))

    bad = [
        (cnn.Sequential(Square()), (3,), ValueError, "module '0'. is a layer written in NumPy"),
        (Twice(), (3,), ValueError, "the dropout 'drop' must be a layer that is called once"),
        (cnn.Linear(3, 2), (4,), ValueError, "Linear"),
        (cnn.Linear(3, 2), 3, TypeError, "data must be a Dataset"),
        (cnn.Linear(3, 2), (3, 1, 1, 1), ValueError, r"data must be shapes \(C, H, W\)"),
        (cnn.Linear(3, 2), (0,), ValueError, "data must be an integer of at least 1"),
        ("model", (3,), TypeError, "model must be a Module"),
    ]
    for model, data, error, words in bad:
        with pytest.raises(error, match=words):
            cnn.save(model, tmp_path / "x", data)
    with pytest.raises(ValueError, match="tta must be flip"):
        cnn.save(cnn.Linear(3, 2), tmp_path / "x", (3,), tta="turn")
    assert not list(tmp_path.iterdir())
    cnn.save(cnn.Linear(3, 2), tmp_path / "x", (3,))
    with pytest.raises(ValueError, match=r"takes images \(N, C, H, W\) and nothing else, this one takes "
                                         r"\(N, 3\); cnn.load_model does without"):
        cnn.load(tmp_path / "x")


def test_saving_leaves_a_frozen_model_as_it_is(tmp_path):
    model = Own().train()
    model.conv.freeze()
    model.drop.freeze()
    modes = [(m._frozen, m.training) for m in model.modules()]
    back = there_and_back(model, tmp_path / "x", (1, 8, 8))
    assert modes == [(m._frozen, m.training) for m in model.modules()] and (True, False) in modes
    assert [node.operation for node in back.nodes].count("dropout") == 1


def flags(model):
    return {name: p.requires_grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("parts", [("norm",), ("conv", "norm"), ("drop",), ("head",), ("conv", "norm", "drop"), ()])
def test_what_is_frozen_stays_so_until_it_is_unfrozen(tmp_path, parts):
    """The same bits as the model itself: trained on as it is, and unfrozen. Also after a second file, and a copy; and
    as a part of another network."""
    model, x = Own(), np.random.default_rng(0).standard_normal((4, 1, 8, 8)).astype(np.float32)
    for name in parts:
        getattr(model, name).freeze()
    if not parts:
        model.freeze()
    back = there_and_back(model, tmp_path / "x", (1, 8, 8))
    backs = [back, there_and_back(back, tmp_path / "y", (1, 8, 8)), copy.deepcopy(back),
             pickle.loads(pickle.dumps(back)), there_and_back(cnn.Sequential(back), tmp_path / "z", (1, 8, 8)),
             cnn.layers.graph_module(cnn.Sequential(back), (1, 8, 8))]

    def after(one, unfrozen):
        """The state after a step, or a call where all is frozen and there is none."""
        if unfrozen:
            one.unfreeze()
        if unfrozen or parts:
            return step(one, x, np.ones((4, 3), np.float32))
        one.train()(x)
        return one.state_dict()

    for unfrozen in (False, True):
        wanted = after(model, unfrozen)
        for one in backs:
            found = after(one, unfrozen)
            assert list(flags(one).values()) == list(flags(model).values())
            assert {name.removeprefix("0."): array.tobytes() for name, array in found.items()} == {
                name: array.tobytes() for name, array in wanted.items()}
        assert [one.training for one in backs[:4]] == [model.training] * 4
        assert (wanted["norm.running_mean"] != 0).any() == (unfrozen or bool(parts and "norm" not in parts))


def test_a_frozen_model_of_a_known_function_stays_frozen(tmp_path):
    """In the file of `save_model`, whose description comes back as it was given."""
    model = cnn.models.resnet9(in_channels=1, image_size=32, channels=(4, 4, 4, 4))
    for layer in model.modules():
        if isinstance(layer, cnn.BatchNorm2d):
            layer.freeze()
    described = {"model": "resnet9", "arguments": {"in_channels": 1, "image_size": 32, "channels": [4, 4, 4, 4]}}
    cnn.save_model(tmp_path / "x", model, described)
    back, found = cnn.load_model(tmp_path / "x")
    assert found == described
    assert flags(back) == flags(model) and False in flags(back).values() and True in flags(back).values()
    assert [m.training for m in back.train().modules()] == [m.training for m in model.train().modules()]
    arrays, written = checkpoint._read(tmp_path / "x", checkpoint.FORMAT, "model")
    for lie in (3, [3], ["nobody"]):
        checkpoint._write(tmp_path / "lie", checkpoint.FORMAT, arrays, {**written, checkpoint.FROZEN: lie})
        with pytest.raises(ValueError, match=f"{tmp_path / 'lie'}: "):
            cnn.load_model(tmp_path / "lie")
    cnn.save_model(tmp_path / "x", model.unfreeze(), described)
    assert all(flags(cnn.load_model(tmp_path / "x")[0]).values())
    assert checkpoint.FROZEN not in checkpoint._read(tmp_path / "x", checkpoint.FORMAT, "model")[1]


def test_the_shape_of_the_calls_is_taken_where_none_is_given(tmp_path):
    def saved(model):
        cnn.save(model, tmp_path / "x")
        return cnn.load_model(tmp_path / "x")[1]["network"]["image_shapes"]

    model = cnn.Sequential(cnn.Conv2d(1, 2, 3))
    with pytest.raises(ValueError, match=r"save: data must be the shape of one image, .* because this Sequential has "
                                         r"not been called: give the shape, or call the model once"):
        saved(model)
    with pytest.raises(ValueError, match="Conv2d"):
        model(np.zeros((2, 3, 8, 8), np.float32))       # a call that failed tells nothing
    model(np.zeros((2, 1, 8, 8), np.float32))
    model.eval()(np.zeros((9, 1, 8, 8), np.float32))
    assert saved(model) == [[1, 8, 8]]
    assert saved(cnn.load_model(tmp_path / "x")[0]) == [[1, 8, 8]]
    model(np.zeros((2, 1, 9, 8), np.float32))
    with pytest.raises(ValueError, match="was called with images of several shapes: give one"):
        saved(model)
    assert saved(trained(Own())) == [[1, 8, 8]]
    model = Two()
    model(y=np.zeros((1, 2), np.float32), x=np.zeros((1, 4), np.float32))
    assert saved(model) == [[4], [2]]
    with pytest.raises(ValueError, match="give the shape, or call the model once"):
        saved(copy.deepcopy(model))


class WithNumbers(cnn.Module):
    def __init__(self):
        super().__init__()
        self.image, self.numbers = cnn.Linear(64, 3), cnn.Linear(2, 3, seed=1)

    def forward(self, image, numbers):
        return self.image(image.flatten()) + self.numbers(numbers)


def test_the_inputs_keep_their_names(tmp_path):
    model, rng = WithNumbers(), np.random.default_rng(0)
    image, numbers = (rng.standard_normal((2, *shape)).astype(np.float32) for shape in ((1, 8, 8), (2,)))
    back = there_and_back(model, tmp_path / "x", [(1, 8, 8), (2,)])
    assert back.inputs == ("image", "numbers")
    for found in (back(image, numbers), back(image=image, numbers=numbers), back(numbers=numbers, image=image),
                  back(image, numbers=numbers)):
        assert_same_bits([found], [model(image, numbers)])
    for given, names in (((image,), {}), ((image, numbers, numbers), {}), ((image,), {"image": image}),
                         ((image,), {"number": numbers})):
        with pytest.raises(TypeError, match="GraphModule: it takes 2 inputs, image, numbers, got"):
            back(*given, **names)
    again = there_and_back(back, tmp_path / "y", [(1, 8, 8), (2,)])
    assert_same_bits([again(image=image, numbers=numbers)], [model(image, numbers)])


def test_names_of_inputs_that_values_have_are_not_taken(tmp_path):
    class Odd(cnn.Module):
        def forward(self, v1, v0):
            return v1 * 2 + v0

    x, y = np.full((1, 3), 5, np.float32), np.full((1, 3), 7, np.float32)
    assert (there_and_back(Odd(), tmp_path / "x", [(3,), (3,)])(x, y) == 17).all()


def test_a_data_set_for_several_inputs(tmp_path):
    images, labels = np.zeros((6, 1, 8, 8), np.uint8), {"numbers": np.ones((6, 2), np.float32), "y": np.arange(6) % 3}
    data = Dataset(images, labels, mean=[0.5], std=[0.25])
    cnn.save(WithNumbers(), tmp_path / "x", data)
    back, described = cnn.load_model(tmp_path / "x")
    assert described["network"]["image_shapes"] == [[1, 8, 8], [2]] and described["mean"] == [0.5]
    with pytest.raises(ValueError, match=r"takes images \(N, C, H, W\) and nothing else, this one takes "
                                         r"\(N, 1, 8, 8\) and \(N, 2\); cnn.load_model does without"):
        cnn.load(tmp_path / "x")
    other = Dataset(images, {"facts": labels["numbers"], "y": labels["y"]})
    words = (r"save: data must be a list of shapes, one for each input, such as \[\(1, 8, 8\), \(5,\)\], for a "
             r"WithNumbers that takes 'numbers' besides images, which is not among the Dataset's labels")
    for wrong in (other, made_up()):
        with pytest.raises(ValueError, match=words):
            cnn.save(WithNumbers(), tmp_path / "y", wrong)
    model = WithNumbers()
    cnn.Trainer(model, cnn.SGD(model.parameters(), lr=0.1), {"y": cnn.CrossEntropyLoss()}, progress=False,
                inputs=("facts",)).fit(other, 1, batch_size=3)
    cnn.save(model, tmp_path / "y", other)      # it knows what it was trained on
    assert cnn.load_model(tmp_path / "y")[1]["network"]["image_shapes"] == [[1, 8, 8], [2]]


def test_a_network_without_classes_gives_scores(tmp_path):
    """Numbers, and the class of each pixel; of images that are no squares; of bytes and of floats."""
    rng = np.random.default_rng(0)
    numbers = cnn.Sequential(cnn.Conv2d(1, 2, 3), cnn.Flatten(), cnn.Linear(2 * 6 * 4, 3))
    pixels = cnn.Sequential(cnn.Conv2d(1, 4, 3, padding=1))
    for model, labels in ((numbers, np.ones((5, 3), np.float32)), (pixels, np.zeros((5, 8, 6), np.int64))):
        for images in (rng.integers(0, 256, (5, 1, 8, 6), np.uint8), rng.standard_normal((5, 1, 8, 6), np.float32)):
            data = Dataset(images, labels, mean=[0.4], std=[0.2])
            cnn.save(model, tmp_path / "x", data)
            predictor = cnn.load(tmp_path / "x")
            white = 255 if images.dtype == np.uint8 else 1
            wanted = model.eval()(((images / white - 0.4) / 0.2).astype(np.float32))
            assert predictor.classes == () and predictor.shape == (1, 8, 6) and "no classes" in repr(predictor)
            for found in (predictor.predict(images), predictor.scores(images), predictor.scores(list(images))):
                np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(predictor.predict(images[3:4])[0], wanted[3], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(predictor.predict(images[3, 0]), wanted[3], rtol=1e-4, atol=1e-5)
            with pytest.raises(ValueError, match="Predictor.predict_proba: the model must have classes"):
                predictor.predict_proba(images)
    with pytest.raises(TypeError, match="x must be float32 for this model"):
        predictor.predict(np.zeros((8, 6), np.uint8))


def test_a_network_that_was_saved_for_a_shape_takes_what_the_model_takes(tmp_path):
    model, x = Own().eval(), np.random.default_rng(0).standard_normal((4, 1, 8, 8)).astype(np.float32)
    cnn.save(model, tmp_path / "x", (1, 8, 8))
    predictor = cnn.load(tmp_path / "x")
    assert (predictor.pixels, predictor.classes) == ("float32", ())
    np.testing.assert_array_equal(predictor.predict(x), model(x))
    with pytest.raises(ValueError, match="invert must be False"):
        cnn.load(tmp_path / "x", invert=True)


def test_what_needs_classes_or_pictures_says_so(tmp_path):
    pytest.importorskip("PIL")
    for side in (8, 6):
        data = Dataset(np.zeros((5, 1, 8, side), np.uint8), np.ones((5, 3), np.float32))
        cnn.save(cnn.Sequential(cnn.Flatten(), cnn.Linear(8 * side, 3)), tmp_path / f"{side}", data)
    square, narrow = cnn.load(tmp_path / "8"), cnn.load(tmp_path / "6")
    from cnn.prediction import server
    from cnn.reports import evaluation
    for call in (lambda: list(evaluation.classify(square.model, square.description, ["x"])),
                 lambda: evaluation.as_trained(made_up(), square.description),
                 lambda: evaluation.load_data(square.description, "mnist-sample"),
                 lambda: server.Server(square, port=0)):
        with pytest.raises(ValueError, match="lacks 'classes'|the model must have classes"):
            call()
    from PIL import Image
    assert square.predict(Image.new("L", (20, 20))).shape == (3,)
    with pytest.raises(ValueError, match="takes images of 1×8×6, and pictures are only brought to squares"):
        narrow.predict(Image.new("L", (20, 20)))


def test_nothing_is_frozen_in_a_file_that_does_not_say_so(file, tmp_path):
    arrays, described = checkpoint._read(file, checkpoint.FORMAT, "model")
    assert "frozen" not in described["network"]
    assert all(flags(cnn.load_model(file)[0]).values())


# ------------------------------------------------------------------------------------------ hostile files


def changed(change):
    """A description of a network, with one thing about it changed."""
    def make(described):
        change(described["network"])
        return described
    return make


def at(n, **values):
    return changed(lambda d: d["nodes"][n].update(values))


LIES = {
    "no nodes": changed(lambda d: d.pop("nodes")), "a number": lambda d: {**d, "network": 3},
    "null": lambda d: {**d, "network": None}, "nodes text": changed(lambda d: d.update(nodes="abc")),
    "operation": at(0, operation="eval"), "operation list": at(0, operation=[]), "inputs": at(0, inputs=["nobody"]),
    "inputs number": at(0, inputs=[1]), "attributes list": at(0, attributes=[]),
    "attribute unknown": at(0, attributes={"device": "gpu"}), "attribute module": at(0, attributes={"module": 1}),
    "a buffer as weight": at(0, parameters={"weight": "norm.running_var"}),
    "a weight as buffer": at(1, parameters={"running_mean": "conv.bias", "running_var": "norm.running_var"}),
    "huge padding": at(0, attributes={"padding": 2500}), "huge groups": at(0, attributes={"groups": 10**30}),
    "stride text": at(0, attributes={"stride": "1"}), "weight": at(0, parameters={"weight": "none"}),
    "role": at(0, parameters={"gain": "conv.weight"}), "no weight": at(0, parameters={}),
    "outputs": changed(lambda d: d.update(outputs="nobody")), "outputs null": changed(lambda d: d.update(outputs=None)),
    "outputs nested": changed(lambda d: d.update(outputs=[["v1"]])),
    "image": changed(lambda d: d.update(image_shapes=[[1, 2**20, 2**20]])),
    "image of three": changed(lambda d: d.update(image_shapes=[[3, 8, 8]])),
    "image text": changed(lambda d: d.update(image_shapes=["abc"])),
    "images": changed(lambda d: d.update(image_shapes=[])),
    "lr scale": changed(lambda d: d["parameters"]["head.bias"].update(lr_scale=-1.0)),
    "parameter missing": changed(lambda d: d["parameters"].pop("head.bias")),
    "parameters list": changed(lambda d: d.update(parameters=[])),
    "buffer missing": changed(lambda d: d["buffers"].pop()),
    "buffer twice": changed(lambda d: d["buffers"].append("head.bias")),
    "dropout": changed(lambda d: d["dropouts"].update(nobody={"number": 1, "step": 1})),
    "dropout step": changed(lambda d: next(iter(d["dropouts"].values())).update(step=-1)),
    "frozen text": changed(lambda d: d.update(frozen="conv.weight")),
    "frozen nobody": changed(lambda d: d.update(frozen=["nobody"])),
    "frozen number": changed(lambda d: d.update(frozen=[3])),
    "dropout p": at(4, attributes={"p": 2.0}), "classes": lambda d: {**d, "classes": 3},
    "image size": lambda d: {**d, "arguments": {"in_channels": 1, "image_size": 10**9}},
}  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "own.safetensors"
    cnn.save(Own(), path, made_up())
    return path


@pytest.mark.parametrize("lie", LIES)
def test_a_file_that_lies_is_refused_by_name(file, tmp_path, lie):
    """With a digest that is right."""
    arrays, described = checkpoint._read(file, checkpoint.FORMAT, "model")
    path = tmp_path / "lie.safetensors"
    checkpoint._write(path, checkpoint.FORMAT, arrays, LIES[lie](json.loads(json.dumps(described))))
    with pytest.raises(ValueError, match=f"{path}: "):
        cnn.load_model(path)


def test_arrays_that_lie_are_refused_by_name(file, tmp_path):
    arrays, described = checkpoint._read(file, checkpoint.FORMAT, "model")
    for name, value in {"head.weight": np.zeros((3, 5), np.float32), "conv.weight": np.zeros((4, 1, 3, 3), np.int64),
                        "norm.running_mean": np.zeros(3, np.float32), "conv.bias": np.zeros(4, np.float64),
                        "norm.num_batches_tracked": np.zeros(2, np.int64)}.items():
        path = tmp_path / "lie.safetensors"
        checkpoint._write(path, checkpoint.FORMAT, {**arrays, name: value}, described)
        with pytest.raises(ValueError, match=f"{path}: "):
            cnn.load_model(path)


def test_a_damaged_file_is_refused_by_name(file, tmp_path):
    content, path = file.read_bytes(), tmp_path / "damaged"
    rng = np.random.default_rng(0)
    for cut in rng.integers(0, len(content), 40):
        path.write_bytes(content[:cut])
        with pytest.raises(ValueError, match=f"{path}: "):
            cnn.load_model(path)
    for place in rng.integers(0, len(content), 200):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << int(rng.integers(8))]) + content[place + 1:])
        with pytest.raises(ValueError, match=f"{path}: "):
            cnn.load_model(path)


def test_classes_that_are_not_as_many_as_the_scores(tmp_path):
    train, _ = cnn.data.load("mnist-sample")
    with pytest.raises(ValueError, match="a class for each output of the model, 3, got 10 classes"):
        cnn.save(cnn.models.lenet5(num_classes=3), tmp_path / "x.safetensors", train)
    assert not (tmp_path / "x.safetensors").exists()


class Beside(cnn.Module):
    """Computes with a buffer and with a constant."""

    def __init__(self):
        super().__init__()
        self.head, self.scale = cnn.Linear(4, 3, seed=0), np.arange(4, dtype=np.float32)
        self.register_buffer("shift", np.ones(4, np.float32))

    def forward(self, x):
        return self.head(x.mean((2, 3)) * self.scale + self.shift)


@pytest.mark.parametrize("make", [Beside, lambda: cnn.utils.weight_norm(cnn.Conv2d(4, 3, 3, seed=0))])
def test_buffers_stay_buffers_and_constants_are_no_part_of_the_state(tmp_path, make):
    model = make()
    cnn.save(model, tmp_path / "net.safetensors", (4, 8, 8))
    loaded, _ = cnn.load_model(tmp_path / "net.safetensors")
    assert [name for name, _ in loaded.named_parameters()] == [name for name, _ in model.named_parameters()]
    assert [name for name, _ in loaded.named_buffers()] == [name for name, _ in model.named_buffers()]
    other = make()
    other.load_state_dict(loaded.state_dict())
    x = np.random.default_rng(0).standard_normal((5, 4, 8, 8)).astype(np.float32)
    assert_same_bits([loaded(x), other(x)], [model(x)] * 2)
    for net in (model, loaded):
        for array in net.buffers():
            array[...] = 3
    assert_same_bits([loaded(x)], [model(x)])
    assert_same_bits([loaded.to(np.float64)(x.astype(float))], [model.to(np.float64)(x.astype(float))])
    cnn.save(loaded, tmp_path / "again.safetensors", (4, 8, 8))
    again, _ = cnn.load_model(tmp_path / "again.safetensors")
    assert set(again.state_dict()) == set(model.state_dict())
    assert_same_bits([again(x.astype(float))], [model(x.astype(float))])
