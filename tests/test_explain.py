"""cnn.explain: Grad-CAM by hand and by PyTorch's hooks, occlusion by brute force, gradients by differences."""

import threading

import numpy as np
import pytest

import cnn
from cnn import (
    AvgPool2d,
    BatchNorm2d,
    Concat,
    Conv2d,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    Linear,
    MaxPool2d,
    Module,
    ReLU,
    Residual,
    Sequential,
    explain,
    functional,
)
from cnn.data import Dataset
from cnn.layers.graph_module import graph_module

BIG = {"in_channels": 3, "num_classes": 5, "image_size": 32}


class Branched(Module):
    """A network of one's own: a skip connection crosses the last convolution, a value is read twice."""

    def __init__(self, dtype=np.float64):
        super().__init__()
        more = {"dtype": dtype}
        self.first = Conv2d(2, 4, 3, padding=1, seed=1, **more)
        self.norm = BatchNorm2d(4, **more)
        self.second = Conv2d(4, 4, 3, padding=1, seed=2, **more)
        self.head = Linear(4, 3, seed=3, **more)
        rng = np.random.default_rng(4)
        self.norm._buffers["running_mean"][...] = rng.normal(size=4)
        self.norm._buffers["running_var"][...] = rng.uniform(0.5, 2, 4)

    def tail(self, a, skip):
        """From the second convolution's output on."""
        gate = functional.sigmoid(skip.mean((2, 3), keepdim=True))
        y = functional.tanh(a) * gate + skip
        return self.head((y * y).mean((2, 3)))

    def forward(self, x):
        skip = functional.relu(self.norm(self.first(x)))
        return self.tail(self.second(skip), skip)


class Tail(Module):
    """The rest of a Branched, a network of two inputs."""

    def __init__(self, whole):
        super().__init__()
        self.whole = whole

    def forward(self, a, skip):
        return self.whole.tail(a, skip)


class Scaled(Module):
    """A layer written in NumPy."""

    def __init__(self, dtype=np.float64):
        super().__init__()
        self.weight = cnn.Parameter(np.full(1, 1.5, dtype))

    def forward(self, x):
        self.x = x
        return np.tanh(x * self.weight.data)

    def backward(self, dy, need_dx=True):
        dz = dy * (1 - np.tanh(self.x * self.weight.data) ** 2)
        self.weight.grad = (dz * self.x).sum().reshape(1)
        return dz * self.weight.data


def plain(dtype=np.float64, last=3):
    return Sequential(Conv2d(2, 5, 3, seed=1, dtype=dtype), ReLU(), GlobalAvgPool2d(), Linear(5, last, seed=2,
                                                                                          dtype=dtype))


def images(n, shape=(2, 9, 7), seed=0, dtype=np.float64):
    return np.random.default_rng(seed).normal(size=(n, *shape)).astype(dtype)


def enlarged(raw, height, width):
    """Bilinear interpolation of (h, w), pixels being squares whose centres have the values."""
    h, w = raw.shape
    result = np.empty((height, width))
    for i in range(height):
        for j in range(width):
            y, x = max(0, (i + 0.5) * h / height - 0.5), max(0, (j + 0.5) * w / width - 0.5)
            top, left = int(y), int(x)
            down, right = min(top + 1, h - 1), min(left + 1, w - 1)
            a, b = y - top, x - left
            result[i, j] = ((1 - a) * ((1 - b) * raw[top, left] + b * raw[top, right])
                            + a * ((1 - b) * raw[down, left] + b * raw[down, right]))
    return result


def state(model):
    return ([part.training for part in model.modules()], {n: p.grad.copy() for n, p in model.named_parameters()},
            model.state_dict())


def same(a, b):
    return a[0] == b[0] and all(np.array_equal(a[k][n], b[k][n]) for k in (1, 2) for n in a[k])


# ------------------------------------------------------------------------------------------ Grad-CAM


def test_grad_cam_by_hand():
    """Convolution, ReLU, mean, linear: the gradient by each pixel of a map is the weight over the number of pixels."""
    model, x = plain(), images(4)
    weight, bias = model[0].weight.data, model[0].bias.data
    head = model[3].weight.data
    found = explain.grad_cam(model, x, [0, 1, 2, 1])
    for n, k in enumerate([0, 1, 2, 1]):
        maps = np.empty((5, 7, 5))
        for c, i, j in np.ndindex(maps.shape):
            maps[c, i, j] = max(0, (x[n, :, i:i + 3, j:j + 3] * weight[c]).sum() + bias[c])
        raw = np.maximum(0, sum(head[k, c] / 35 * maps[c] for c in range(5)))
        np.testing.assert_allclose(found.raw[n], raw, rtol=1e-10, atol=1e-12)
        wanted = enlarged(raw, 9, 7)
        np.testing.assert_allclose(found.maps[n], wanted / wanted.max() if wanted.max() else wanted, atol=1e-10)
        np.testing.assert_allclose(found.scores[n], head @ maps.mean((1, 2)) + model[3].bias.data, rtol=1e-10)
    assert found.maps.dtype == np.float64 and found.layer == "1" and found.names == ("0", "1", "2", "1")
    assert found.maps.max((1, 2)).tolist() == [float(raw.any()) for raw in found.raw] and found.maps.min() >= 0


def test_gradients_at_a_value_by_differences():
    """Where a skip connection crosses the cut: only the way through the value counts."""
    model, x = Branched().eval(), images(2)
    found = explain.grad_cam(model, x, 2, layer="second")
    skip = np.maximum(0, model.norm(model.first(x)))
    a, tail = model.second(skip), Tail(model).eval()
    slope = np.empty_like(a)
    for place in np.ndindex(a.shape):
        up, down = a.copy(), a.copy()
        up[place] += 1e-5
        down[place] -= 1e-5
        slope[place] = (tail(up, skip) - tail(down, skip))[place[0], 2] / 2e-5
    raw = np.maximum(0, (slope.mean((2, 3), keepdims=True) * a).sum(1))
    assert raw.any()
    np.testing.assert_allclose(found.raw, raw, atol=1e-9)
    np.testing.assert_allclose(found.scores, model(x), rtol=1e-10)


@pytest.mark.parametrize(("name", "layer"), [("lenet5", "3"), ("resnet20", "5"), ("mobilenet_small", "4"),
                                             ("vgg_small", "0")])
def test_grad_cam_is_pytorchs_with_hooks(torch, name, layer):
    model = cnn.models.MODELS[name](**BIG, seed=3, dtype=np.float64).eval()
    x = images(3, (3, 32, 32))
    found = explain.grad_cam(model, x, [4, 0, 2], layer)
    twin = cnn.export.to_torch(model, (3, 32, 32)).double().eval()
    graph = twin._kept[1]
    module = dict(cnn.layers.parts.named_modules(model))[layer]
    inner = {n for n, part in cnn.layers.parts.named_modules(model) if any(part is p for p in module.modules())}
    cut = [node for node in graph if node.modules[0] in inner][-1].output
    values = {}
    own = dict(cnn.export.pytorch.TABLE)

    def noting(kind):
        def run(F, operation, p, *xs):
            y = own[kind](F, operation, p, *xs)
            if operation is next(node.operation for node in graph if node.output is cut):
                y.retain_grad()
                values["a"] = y
            return y
        return run
    table = cnn.export.pytorch.TABLE
    try:
        table.update({kind: noting(kind) for kind in own})
        scores = twin(torch.tensor(x, requires_grad=True))
    finally:
        table.update(own)
    scores[torch.arange(3), torch.tensor([4, 0, 2])].sum().backward()
    a, slope = values["a"].detach(), values["a"].grad
    raw = torch.relu((slope.mean((2, 3), keepdim=True) * a).sum(1))
    large = torch.nn.functional.interpolate(raw[:, None], (32, 32), mode="bilinear", align_corners=False)[:, 0]
    large = large / large.amax((1, 2), keepdim=True).clamp_min(1e-300)
    assert raw.any()
    np.testing.assert_allclose(found.raw, raw.numpy(), rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(found.maps, large.numpy(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("n", [0, 1, 8, 9, 17, 150])
def test_any_number_of_images(n):
    model, x = Branched().eval(), images(n)
    for function in (explain.grad_cam, explain.saliency, explain.occlusion):
        found = function(model, x)
        assert found.maps.shape == (n, 9, 7) and found.scores.shape == (n, 3) and found.target.shape == (n,)
        assert len(found.names) == n
        for i in range(0, n, 40):
            one = function(model, x[i:i + 1])
            np.testing.assert_allclose(found.raw[i:i + 1], one.raw, rtol=1e-8, atol=1e-10)
            assert found.target[i] == one.target[0] == found.scores[i].argmax()


@pytest.mark.parametrize("make", [Branched, lambda: cnn.models.resnet20(2, 3, 9, seed=1, dtype=np.float64),
                                  lambda: Sequential(Conv2d(2, 3, 3, dtype=np.float64), Scaled(), Dropout(0.5),
                                                     Flatten(), Linear(105, 3, dtype=np.float64))])
@pytest.mark.parametrize("training", [True, False])
def test_the_model_stays_as_it_was(make, training):
    model, x = make().train(training), images(3)
    dy = np.random.default_rng(1).normal(size=(3, 3))
    model.train()
    model(x)
    model.backward(dy)
    model.train(training)
    before = state(model)
    assert any(grad.any() for grad in before[1].values())
    wanted = [function(model.eval(), x).raw for function in (explain.grad_cam, explain.saliency, explain.occlusion)]
    model.train(training)
    for function, raw in zip((explain.grad_cam, explain.saliency, explain.occlusion), wanted, strict=True):
        np.testing.assert_array_equal(function(model, x).raw, raw)      # in evaluation mode, whatever its own is
        assert same(state(model), before)


def test_a_backward_pass_may_be_under_way():
    model, x, dy = Branched().train(), images(20), np.ones((20, 3))
    model(x)
    wanted = model.backward(dy)
    model(x)
    explain.grad_cam(model, images(20, seed=5))
    np.testing.assert_array_equal(model.backward(dy), wanted)


def test_parameters_that_are_used_twice_or_frozen():
    shared = Conv2d(2, 2, 3, padding=1, dtype=np.float64)
    model = Sequential(shared, ReLU(), shared, Flatten(), Linear(126, 3, dtype=np.float64))
    wanted = explain.grad_cam(model, images(2)).raw
    model.freeze()
    np.testing.assert_array_equal(explain.grad_cam(model, images(2)).raw, wanted)
    assert not any(p.grad.any() for p in model.parameters())


def test_a_layer_in_numpy_may_stand_anywhere():
    conv, head = Conv2d(2, 3, 3, seed=1, dtype=np.float64), Linear(3, 3, seed=2, dtype=np.float64)

    class Same(Module):
        def __init__(self):
            super().__init__()
            self.weight = cnn.Parameter(np.full(1, 1.5))

        def forward(self, x):
            return functional.tanh(x * self.weight)
    pairs = [[Sequential(*(layer() if layer in (Scaled, Same) else layer for layer in part)) for part in (
        (conv, kind, GlobalAvgPool2d(), head), (kind, conv, ReLU(), GlobalAvgPool2d(), head))]
        for kind in (Scaled, Same)]
    for ours, twin in zip(*pairs, strict=True):
        wanted = explain.grad_cam(twin, images(3), 1)
        found = explain.grad_cam(ours, images(3), 1)
        assert wanted.raw.any() and found.layer == wanted.layer
        np.testing.assert_allclose(found.raw, wanted.raw, rtol=1e-10, atol=1e-14)
        np.testing.assert_allclose(explain.saliency(ours, images(3)).raw, explain.saliency(twin, images(3)).raw,
                                   rtol=1e-8, atol=1e-14)


def test_the_layer_that_is_looked_at():
    make = cnn.models.MODELS
    layers = {name: explain.grad_cam(make[name](**BIG, seed=0), images(1, (3, 32, 32), dtype=np.float32))
              for name in make}
    sides = {name: found.raw.shape[1:] for name, found in layers.items()}
    assert sides["lenet5"] == (10, 10) and layers["lenet5"].layer == "4"        # before it is pooled
    assert sides["resnet20"] == (8, 8) and sides["mobilenet_small"] == (4, 4)
    for name, model in {
            "5": Sequential(Conv2d(3, 4, 3), ReLU(), MaxPool2d(2), Residual(Conv2d(4, 4, 3, padding=1)), BatchNorm2d(4),
                            ReLU(), AvgPool2d(2), Conv2d(4, 8, 3), Flatten(), Linear(8, 2)),
            "1": Sequential(Conv2d(3, 4, 3), Concat(Conv2d(4, 2, 3, padding=1), Conv2d(4, 3, 1)), GlobalAvgPool2d(),
                            Linear(5, 2)),
            "2": Sequential(Conv2d(3, 4, 3), ReLU(), Conv2d(4, 6, 1), GlobalAvgPool2d())}.items():
        assert explain.grad_cam(model, images(2, (3, 16, 16), dtype=np.float32)).layer == name
    nested = Sequential(Sequential(Conv2d(3, 4, 3), ReLU()), Flatten(), Linear(36, 2))
    x = images(2, (3, 5, 5), dtype=np.float32)
    by_name = explain.grad_cam(nested, x, layer="0.0")
    assert by_name.layer == "0.0" and explain.grad_cam(nested, x, layer=nested[0][0]).layer == "0.0"
    np.testing.assert_array_equal(by_name.raw, explain.grad_cam(nested, x, layer=nested[0][0]).raw)


def test_a_network_from_a_file_of_nodes():
    model = Branched()
    listed = graph_module(model, (2, 9, 7)).eval()
    x = images(2)
    np.testing.assert_allclose(explain.grad_cam(listed, x, 1, "second").raw,
                               explain.grad_cam(model, x, 1, "second").raw, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(explain.grad_cam(listed, x).raw, explain.grad_cam(model, x).raw, rtol=1e-10, atol=1e-14)


def test_nothing_speaks_for_a_class():
    model = plain()
    model[3].weight.data = -np.abs(model[3].weight.data)
    found = explain.grad_cam(model, images(3))
    assert not found.raw.any() and not found.maps.any()


def test_any_number_of_threads_gives_the_same_bits(set_threads):
    model, x = cnn.models.resnet20(seed=1), images(70, (3, 32, 32), dtype=np.float32)
    results = []
    for threads in (1, 2, 3):
        set_threads(threads)
        results.append([explain.grad_cam(model, x[:n]).raw for n in (1, 70)] + [explain.saliency(model, x[:9]).raw]
                       + [explain.occlusion(model, x[:1], size=16).raw])
    for other in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_threads_may_explain_at_once():
    model, x = Branched().eval(), images(30)
    wanted, found = explain.grad_cam(model, x).raw, []
    threads = [threading.Thread(target=lambda: found.append(explain.grad_cam(model, x).raw)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and all(np.array_equal(raw, wanted) for raw in found)


# ------------------------------------------------------------------------------------------ occlusion


@pytest.mark.parametrize(("size", "stride", "fill"), [
    (3, 1, "mean"), (2, 2, 0.5), ((4, 3), (3, 2), [1, -2]), ((9, 7), 1, "mean"), (None, None, "mean")])
def test_occlusion_by_brute_force(size, stride, fill):
    model, x = Branched().eval(), images(3)
    found = explain.occlusion(model, x, [2, 0, 1], size, stride, fill)
    height, width = (2, 1) if size is None else (size, size) if isinstance(size, int) else size
    down, right = (1, 1) if stride is None else (stride, stride) if isinstance(stride, int) else stride
    for n, k in enumerate([2, 0, 1]):
        total, count = np.zeros((9, 7)), np.zeros((9, 7))
        for top in sorted({*range(0, 9 - height + 1, down), 9 - height}):
            for left in sorted({*range(0, 7 - width + 1, right), 7 - width}):
                covered = x[n:n + 1].copy()
                for c in range(2):
                    covered[0, c, top:top + height, left:left + width] = (
                        x[n, c].mean() if fill == "mean" else np.broadcast_to(fill, 2)[c])
                total[top:top + height, left:left + width] += model(x[n:n + 1])[0, k] - model(covered)[0, k]
                count[top:top + height, left:left + width] += 1
        assert count.all()
        np.testing.assert_allclose(found.raw[n], total / count, atol=1e-10)
        positive = np.maximum(0, total / count)
        np.testing.assert_allclose(found.maps[n], positive / positive.max() if positive.any() else positive, atol=1e-8)


def test_windows_that_change_nothing():
    x = np.full((2, 2, 9, 7), 0.3, np.float32)
    found = explain.occlusion(plain(np.float32), x, fill=0.3)
    assert not found.raw.any() and not found.maps.any()


# ------------------------------------------------------------------------------------------ saliency


def test_saliency_by_differences():
    model, x = Branched().eval(), images(2, (2, 5, 4))
    found = explain.saliency(model, x, [1, 2])
    for n, k in enumerate([1, 2]):
        slope = np.empty_like(x[n])
        for place in np.ndindex(slope.shape):
            up, down = x[n:n + 1].copy(), x[n:n + 1].copy()
            up[(0, *place)] += 1e-6
            down[(0, *place)] -= 1e-6
            slope[place] = (model(up) - model(down))[0, k] / 2e-6
        np.testing.assert_allclose(found.raw[n], slope, atol=1e-7)
        np.testing.assert_allclose(found.maps[n], np.abs(slope).max(0) / np.abs(slope).max(), atol=1e-5)


def test_smooth_grad_is_the_mean_under_noise():
    model, x = Branched().eval(), images(3)
    found = explain.saliency(model, x, samples=5, noise=0.2, seed=7)
    rng, total = np.random.default_rng(7), 0
    spread = 0.2 * (x.max((1, 2, 3)) - x.min((1, 2, 3)))
    for _ in range(5):
        noise = rng.standard_normal((2, 9, 7))
        noisy = np.stack([image + s * noise for image, s in zip(x, spread, strict=True)])
        total = total + explain.saliency(model, noisy, found.target).raw
    np.testing.assert_allclose(found.raw, total / 5, rtol=1e-10, atol=1e-14)
    assert np.array_equal(found.target, model(x).argmax(1))     # of the image without noise
    np.testing.assert_array_equal(found.raw, explain.saliency(model, x, samples=5, noise=0.2, seed=7).raw)
    assert not np.array_equal(found.raw, explain.saliency(model, x, samples=5, noise=0.2, seed=8).raw)


# ------------------------------------------------------------------------------------------ predictors, targets, errors

SAVED = {"model": "lenet5", "arguments": {"in_channels": 1, "num_classes": 3, "image_size": 28},
         "classes": ["ant", "bee", "cat"], "mean": [0.3], "std": [0.4]}


def predictor(**more):
    return cnn.Predictor(cnn.models.lenet5(1, 3, seed=1), SAVED, **more)


def test_a_predictor_explains_pictures():
    ours, pixels = predictor(), np.random.default_rng(0).integers(0, 256, (4, 1, 28, 28), np.uint8)
    x = ((pixels / 255 - 0.3) / 0.4).astype(np.float32)
    for function in (explain.grad_cam, explain.occlusion, explain.saliency):
        found = function(ours, pixels, ["cat", "ant", "bee", "cat"])
        wanted = function(ours.model, x, [2, 0, 1, 2])
        np.testing.assert_allclose(found.raw, wanted.raw, rtol=1e-3, atol=1e-5)
        assert found.names == ("cat", "ant", "bee", "cat") and found.target.tolist() == [2, 0, 1, 2]
        assert np.array_equal(found.images, pixels) and found.images.dtype == np.uint8
        one = function(ours, pixels[1, 0], "ant")
        assert one.maps.shape == (1, 28, 28) and one.names == ("ant",)
        np.testing.assert_allclose(one.raw[0], found.raw[1], rtol=1e-3, atol=1e-5)
    found = explain.grad_cam(ours, list(pixels[:, 0]))
    assert [*found.names] == [p.label for p in ours.predict(pixels)]
    # colours are those of the picture
    np.testing.assert_allclose(explain.occlusion(ours, pixels, 1, fill=51).raw,
                               explain.occlusion(ours.model, x, 1, fill=(0.2 - 0.3) / 0.4).raw, rtol=1e-3, atol=1e-5)
    inverted = explain.occlusion(predictor(invert=True), 255 - pixels, 1, fill=255 - 51)
    np.testing.assert_allclose(inverted.raw, explain.occlusion(ours, pixels, 1, fill=51).raw, rtol=1e-3, atol=1e-5)
    assert np.array_equal(inverted.images, pixels)
    assert explain.grad_cam(ours, np.empty((0, 1, 28, 28), np.uint8), "bee").maps.shape == (0, 28, 28)


def test_targets():
    model, x = plain(), images(3)
    by_list = explain.grad_cam(model, x, [0, 1, 2]).raw
    for target in ((0, 1, 2), np.array([0, 1, 2]), np.array([0, 1, 2], np.uint8), [np.int64(0), 1, 2]):
        np.testing.assert_array_equal(explain.grad_cam(model, x, target).raw, by_list)
    for target in (1, np.int32(1), np.array(1)):
        assert explain.grad_cam(model, x, target).target.tolist() == [1, 1, 1]


@pytest.mark.parametrize("function", [explain.grad_cam, explain.occlusion, explain.saliency])
@pytest.mark.parametrize(("target", "error", "words"), [
    (3, ValueError, r"target must be a class from 0 to 2, got 3"), (-1, ValueError, "target must be an integer of at"),
    ([0, 1], ValueError, "target must be one class, or one for each of 3 images, got 2"),
    ([0, 1, 7], ValueError, "from 0 to 2, got 7"), (1.0, TypeError, "target must be an integer, got 1.0"),
    (True, TypeError, "target"), ("cat", TypeError, "names need a Predictor"),
    (np.zeros((3, 1), int), TypeError, "target"), (np.zeros(3), TypeError, "target"),
    ([0, None, 1], TypeError, "target")])
def test_wrong_targets(function, target, error, words):
    with pytest.raises(error, match=f"{function.__name__}: .*{words}"):
        function(plain(), images(3), target)


@pytest.mark.parametrize("function", [explain.grad_cam, explain.occlusion, explain.saliency])
def test_wrong_models_and_images(function):
    name, x = function.__name__, images(3)
    for model, given, error, words in [
            (plain, x, TypeError, "model must be a Module or a Predictor, got function"),
            (plain(), x.astype(np.float32), TypeError, "images must be float64, got float32"),
            (plain(), x.astype(np.uint8), TypeError, "got uint8; give .uint8 / 255 - mean"),
            (plain(), x.tolist(), TypeError, "images must be an array .*, got list; pictures need a Predictor"),
            (plain(), x[0], ValueError, r"images must have shape \(N, C, H, W\)"),
            (plain(), np.zeros((1, 2, 0, 7)), ValueError, "pixels"),
            (Sequential(Conv2d(2, 3, 3, dtype=np.float64)), x, ValueError, r"one array of scores \(N, K\), got "
             r"\(N, 3, 7, 5\)")]:
        with pytest.raises(error, match=f"{name}: .*{words}"):
            function(model, given)
    with pytest.raises(ValueError, match="x must have 2 channels, got 3"):
        function(plain(), images(2, (3, 9, 9)))
    with pytest.raises(ValueError, match=f"{name}: target must be one of ant, bee, cat, got 'dog'"):
        function(predictor(), np.zeros((28, 28), np.uint8), "dog")
    broken = plain()
    broken[3].bias.data = np.full(3, np.nan)
    with pytest.raises(FloatingPointError, match=f"{name}: the model's scores are NaN or infinite"):
        function(broken, x)


def test_no_such_layer():
    more, x = {"dtype": np.float64}, images(2)
    model = Sequential(Conv2d(2, 3, 3, **more), ReLU(), Flatten(), Linear(105, 4, **more))
    for layer in ("2", "3", "9", ""):
        with pytest.raises(ValueError, match=f"layer must be one whose output is .*: 0, 1; got '{layer}'"):
            explain.grad_cam(model, x, layer=layer)
    with pytest.raises(ValueError, match="layer must be a layer of the model, got one of another"):
        explain.grad_cam(model, x, layer=Conv2d(2, 3, 3))
    with pytest.raises(TypeError, match="layer must be a name or a Module, got int"):
        explain.grad_cam(model, x, layer=0)
    for flat in (Sequential(Flatten(), Linear(126, 4, dtype=np.float64)),
                 Sequential(Conv2d(2, 3, (9, 7), dtype=np.float64), Flatten(), Linear(3, 4, dtype=np.float64))):
        with pytest.raises(explain.NoFeatureMap, match="no convolution whose output is larger than a pixel"):
            explain.grad_cam(flat, x)
        assert explain.occlusion(flat, x).maps.shape == explain.saliency(flat, x).maps.shape == (2, 9, 7)


@pytest.mark.parametrize(("options", "error", "words"), [
    ({"size": 10}, ValueError, "size must be at most the image's, 9×7, got 10×10"),
    ({"size": (3, 8)}, ValueError, "size must be at most"), ({"size": 0}, ValueError, "size"),
    ({"size": 2.5}, TypeError, "size"), ({"size": 2, "stride": 3}, ValueError, "stride must be at most the window's"),
    ({"stride": 0}, ValueError, "stride"), ({"fill": "black"}, ValueError, 'fill must be "mean", a number'),
    ({"fill": [1, 2, 3]}, ValueError, "one for each of 2 channels, got 3"), ({"fill": np.nan}, ValueError, "fill"),
    ({"fill": None}, TypeError, "fill")])
def test_wrong_windows(options, error, words):
    with pytest.raises(error, match=f"occlusion: .*{words}"):
        explain.occlusion(plain(), images(1), **options)


@pytest.mark.parametrize(("options", "error"), [
    ({"samples": -1}, ValueError), ({"samples": 1.5}, TypeError), ({"noise": -0.1}, ValueError),
    ({"seed": -1}, ValueError), ({"seed": None}, TypeError)])
def test_wrong_samples(options, error):
    with pytest.raises(error, match=f"saliency: {next(iter(options))} must be"):
        explain.saliency(plain(), images(1), **options)


def test_a_model_that_is_being_trained_is_refused():
    """By the same guard as predictions."""
    model = plain(np.float32)
    started, go_on, said = threading.Event(), threading.Event(), []

    class Waits(cnn.Callback):
        def on_epoch_end(self, *given, **more):
            started.set()
            go_on.wait(20)
    data = Dataset(np.zeros((8, 2, 9, 7), np.uint8), np.arange(8) % 3)
    trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), 0.1), callbacks=[Waits()], progress=False)
    thread = threading.Thread(target=lambda: trainer.fit(data, epochs=1))
    thread.start()
    try:
        assert started.wait(20)
        for function in (explain.grad_cam, explain.saliency, explain.occlusion):
            with pytest.raises(RuntimeError, match="another thread is training this model") as caught:
                function(model, images(2, dtype=np.float32))
            said.append(caught)
    finally:
        go_on.set()
        thread.join()
    assert len(said) == 3
