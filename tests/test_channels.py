"""Few images are computed one after the other, sixteen channels side by side; and compiled models. The oracle is the
other layout, whose kernels have their own tests against the twins, central differences and PyTorch."""

import copy
import pickle
import threading

import drawn
import numpy as np
import pytest
from cases import CASES, DTYPES, assert_close, assert_same_bits, spread

import cnn
from cnn.graph.lower import FEW

MANY = FEW + 9


def evaluated(case, dtype=np.float64):
    layer = case.make(dtype).eval()
    for i, (_, array) in enumerate(layer.named_buffers()):
        if array.dtype.kind == "f":
            array[...] = np.random.default_rng(i).uniform(0.5, 1.5, array.shape)
    return layer


def by_channels(model):
    """Whether its last forward went that way."""
    return model._programs.resting()[-1].by_channels


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_layer(case):
    layer = evaluated(case)
    x = spread((MANY, *case.shape), np.random.default_rng(0))
    many = layer(x)
    for n in (1, 3, FEW):
        few = layer(x[:n])
        assert_close(few, many[:n], 1e-12)
    net = cnn.compile(layer, case.shape)
    x = x.astype(net.dtype)     # without parameters it takes float32
    assert_close(net(x[:2]), many[:2].astype(net.dtype), 1e-12 if net.dtype == x.dtype == many.dtype else 1e-6)
    assert_same_bits([net(x)], [layer(x)])


@pytest.mark.parametrize("seed", range(40))
def test_drawn_networks(seed):
    model = drawn.ours(seed).eval()
    rng = np.random.default_rng(seed)
    xs = rng.standard_normal((2, MANY, 3, 4, 4))
    many = model(*xs)
    few = model(*xs[:, :3])
    net = cnn.compile(model, (3, 4, 4), (3, 4, 4))
    compiled = net(*xs[:, :3])
    parts = [(few, many, compiled)] if isinstance(many, np.ndarray) else list(
        zip(*(y.values() if isinstance(y, dict) else y for y in (few, many, compiled)), strict=True))
    for part, whole, snapshot in parts:
        assert_close(part, whole[:3], 1e-11)
        assert_close(snapshot, whole[:3], 1e-11)


def various(channels, dtype, groups=1):
    """Convolutions of all kinds, norms, branches, pools: with so many channels."""

    class Various(cnn.Module):
        def __init__(self):
            super().__init__()
            self.stem = cnn.Conv2d(2, channels, 3, padding=1, seed=0)
            self.norm = cnn.BatchNorm2d(channels)
            self.even = cnn.Conv2d(channels, channels, (3, 2), stride=(2, 1), padding=(1, 2), groups=groups, seed=1)
            self.apart = cnn.Conv2d(channels, channels, 2, stride=3, dilation=2, padding=2, bias=False, seed=2)
            self.each = cnn.Conv2d(channels, channels, 3, padding=1, stride=2, groups=channels, seed=3)
            self.groups = cnn.GroupNorm(1, channels)
            self.mix = cnn.Conv2d(channels, channels, 1, seed=4)
            self.head = cnn.Linear(channels + 5, 7, seed=5)

        def forward(self, x):
            x = cnn.functional.relu(self.norm(self.stem(x)))
            y = self.even(x)
            y = y + y.mean((2, 3)).reshape((-1, channels, 1, 1)) * 0.5
            z = self.groups(self.mix(self.each(x)) / (2 + cnn.functional.sigmoid(self.each(x))))
            first = cnn.cat([z[:, :1], z, z[:, :1]])
            parts = cnn.cat([self.apart(x).amax((2, 3)), y.mean((2, 3)), first.mean((2, 3))[:, :5]])
            return self.head(parts[:, channels:2 * channels + 5] + parts[:, :channels + 5])

    model = Various().to(dtype).eval()
    rng = np.random.default_rng(0)
    for p in model.parameters():
        p.data = rng.uniform(-1, 1, p.shape)
    for name, array in model.named_buffers():
        if array.dtype.kind == "f":
            array[...] = rng.uniform(0.5, 1.5, array.shape) if "var" in name else rng.uniform(-0.5, 0.5, array.shape)
    return model


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [5, 15, 16, 17, 32, 33, 50])
def test_any_number_of_channels(channels, dtype):
    model = various(channels, dtype)
    x = np.random.default_rng(1).standard_normal((MANY, 2, 9, 11)).astype(dtype)
    many = model(x)
    tolerance = 1e-12 if dtype == np.float64 else 1e-5
    for n in (1, 2, FEW):
        assert_close(model(x[:n]), many[:n], tolerance)
        assert by_channels(model)
    assert_close(cnn.compile(model, (2, 9, 11), threads=2)(x[:2]), many[:2], tolerance)


def test_groups_of_whole_sixteens_and_others():
    x = np.random.default_rng(1).standard_normal((MANY, 2, 9, 11))
    for channels, groups, few in ((64, 2, True), (96, 3, True), (32, 4, False)):
        model = various(channels, np.float64, groups)
        assert_close(model(x[:2]), model(x)[:2], 1e-12)
        model(x[:2])
        assert by_channels(model) == few     # the others would read channels of other groups: 0 times infinity


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 6, 7, 8, 12, 13, 15, 16, 24, 25, 29, 40])
def test_rows_of_any_width(width):
    """Every tile of pixels, with strides 1, 2 and 3, for one sixteen of outputs and for several."""
    rng = np.random.default_rng(0)
    for dtype, tolerance in ((np.float64, 1e-12), (np.float32, 2e-6)):
        for stride in (1, 2, 3):
            for outputs in (3, 16, 40, 100):
                layer = cnn.Conv2d(3, outputs, 3, stride=stride, padding=1, seed=0).to(dtype).eval()
                x = rng.standard_normal((MANY, 3, 4, width)).astype(dtype)
                assert_close(layer(x[:1]), layer(x)[:1], tolerance)


def test_nan_and_infinity_stay_in_their_channels():
    model = various(17, np.float64)
    x = np.random.default_rng(1).standard_normal((MANY, 2, 9, 11))
    for bad in (np.nan, np.inf):
        for layer in (cnn.Conv2d(2, 20, 1, seed=0), cnn.Conv2d(2, 2, 3, groups=2, seed=0), cnn.BatchNorm2d(2),
                      cnn.ReLU(), cnn.MaxPool2d(2), cnn.AvgPool2d(3, 2, 1), cnn.Sigmoid()):
            layer.to(np.float64).eval()
            x[0, 1, 3, 4] = bad
            assert_close(layer(x[:1]), layer(x)[:1], 1e-12)
    model.norm.running_var[3] = np.inf
    x[0] = 1
    assert_close(model(x[:1]), model(x)[:1], 1e-12)


def test_weights_are_read_as_they_are():
    """Also where an array was written in place; a compiled model is a snapshot."""
    model = various(17, np.float64)
    x = np.random.default_rng(1).standard_normal((MANY, 2, 9, 11))
    net, before = cnn.compile(model, (2, 9, 11)), model(x[:3])
    arrays = [*((name, p.data) for name, p in model.named_parameters()),
              *((name, a) for name, a in model.named_buffers() if a.dtype.kind == "f")]
    for name, array in arrays:
        was = model(x[:2])
        array *= 1.25
        now = model(x[:2])
        assert (now != was).any() or name.startswith("groups"), name
        assert_close(now, model(x)[:2], 1e-12)
    assert_close(net(x[:3]), before, 1e-12)
    for _, array in arrays:
        array /= 1.25
    assert_close(cnn.compile(model, (2, 9, 11))(x[:3]), before, 1e-12)


@pytest.mark.parametrize("make", [lambda: various(40, np.float32), lambda: cnn.models.resnet20().eval()])
def test_same_bits_with_any_number_of_threads(make, set_threads):
    model = make()
    shape = (2, 9, 11) if type(model).__name__ == "Various" else (3, 32, 32)
    x = np.random.default_rng(1).standard_normal((FEW, *shape)).astype(np.float32)
    results = []
    for threads in (1, 2, 3, 4, 8):
        set_threads(threads)
        net = cnn.compile(model, shape, threads=threads)
        results += [np.concatenate([f(x[:n]) for n in (1, 2, 3, FEW)]) for f in (model, net)]
    assert_same_bits(results[1:], results[:-1])
    alone = np.concatenate([model(x[i:i + 1]) for i in range(FEW)])
    assert_same_bits([alone], [model(x)])     # an image does not depend on those beside it


# ------------------------------------------------------------------------------------------ compiled models


def lenet():
    model = cnn.models.lenet5(seed=3)
    return model, np.random.default_rng(0).standard_normal((40, 1, 28, 28)).astype(np.float32)


def test_a_compiled_model_is_the_model_in_evaluation_mode():
    model = cnn.models.resnet20()
    x = np.random.default_rng(0).standard_normal((40, 3, 32, 32)).astype(np.float32)
    model(x[:20])       # statistics that are not 0 and 1
    net = cnn.compile(model, (3, 32, 32))
    assert model.training and net.dtype == np.float32 and net.shape == (3, 32, 32)
    wanted = {n: model.eval()(x[:n]) for n in (0, 1, 2, FEW, FEW + 1, 40)}
    for n, y in wanted.items():
        assert_close(net(x[:n]), y)
        out = np.full((n, 10), 9, np.float32)
        assert net(x[:n], out=out) is out
        assert_same_bits([out], [net(x[:n])])
    trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), lr=0.1), progress=False)
    trainer.train_step(x[:20], np.arange(20) % 10)
    assert_close(net(x[:3]), wanted[40][:3])
    assert not np.allclose(model.eval()(x[:3]), wanted[40][:3])
    weights = sum(p.data.nbytes for p in model.parameters())
    assert weights < cnn.compile(model, (3, 32, 32)).nbytes < weights + (8 << 20)


def test_a_compiled_model_in_many_threads():
    model, x = lenet()
    net = cnn.compile(model, (1, 28, 28))
    wanted = {n: net(x[:n]) for n in (1, 2, 5, FEW, 17, 40)}
    wrong = []

    def calls(seed):
        rng = np.random.default_rng(seed)
        for _ in range(150):
            n = int(rng.choice(list(wanted)))
            if net(x[:n]).tobytes() != wanted[n].tobytes():
                wrong.append(n)
    threads = [threading.Thread(target=calls, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(net._few) <= 8


def test_copies_and_pickles():
    model, x = lenet()
    net = cnn.compile(model, (1, 28, 28))
    for other in (copy.copy(net), copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert_same_bits([other(x[:2]), other(x)], [net(x[:2]), net(x)])
    assert repr(net) == "<compiled Sequential for (N, 1, 28, 28) float32>"


def test_wrong_arguments():
    model, x = lenet()
    net = cnn.compile(model, (1, 28, 28))
    for wrong, error, words in (
            (x[:, :, 1:], ValueError, r"compiled Sequential: x must have shape \(N, 1, 28, 28\), got \(40, 1, 27"),
            (x.astype(np.float64), TypeError, "compiled Sequential: x must be float32, got float64"),
            ("x", TypeError, "compiled Sequential: x must be a NumPy array")):
        with pytest.raises(error, match=words):
            net(wrong)
    with pytest.raises(TypeError, match="it takes 1 arrays, got 2"):
        net(x, x)
    for out in (np.zeros((3, 10), np.float32), np.zeros((40, 10)), np.zeros((40, 20), np.float32)[:, ::2], 3):
        with pytest.raises(ValueError, match="compiled Sequential: out must be a contiguous, writable array of"):
            net(x, out=out)
    assert_same_bits([net(x[::-1][:2])], [net(x[::-1][:2].copy())])      # not contiguous
    with pytest.raises(ValueError, match="compile: the shape of an image is missing"):
        cnn.compile(model)
    with pytest.raises(ValueError, match="compile: threads must be"):
        cnn.compile(model, (1, 28, 28), threads=0)
    with pytest.raises(ValueError, match="Linear: x must have shape"):
        cnn.compile(model, (1, 40, 28))

    class Half(cnn.Module):
        def forward(self, x):
            return x / 2

        def backward(self, dy, need_dx=True):
            return dy / 2
    with pytest.raises(TypeError, match="compile: Half is a layer written in NumPy, which cannot be compiled"):
        cnn.compile(cnn.Sequential(cnn.Flatten(), Half()), (1, 28, 28))


class Sums(cnn.Module):
    """Additions of all kinds after convolutions."""

    def __init__(self):
        super().__init__()
        self.a, self.b = (cnn.Conv2d(2, 2, 3, padding=1, seed=i) for i in range(2))

    def forward(self, x):
        a, b = self.a(x), self.b(x)
        twice = self.a(x) + x + x.relu()        # two summands of one convolution
        both = a + b
        return (twice + both).relu() + self.b(both), a + a, self.a(x) + self.b(x) + self.a(b)


def test_sums_of_convolutions():
    model = Sums().to(np.float64).eval()
    x = np.random.default_rng(0).standard_normal((MANY, 2, 5, 5))
    for few, many, compiled in zip(model(x[:2]), model(x), cnn.compile(model, (2, 5, 5))(x[:2]), strict=True):
        assert_close(few, many[:2], 1e-12)
        assert_close(compiled, many[:2], 1e-12)


def test_a_snapshot_of_what_is_not_the_models_own():
    """A parameter and an array from outside of the module, in every context that calls use."""
    factor, summand = cnn.Parameter(np.ones((3, 1, 1), np.float32)), np.ones((3, 1, 1), np.float32)

    class Outside(cnn.Module):
        def __init__(self):
            super().__init__()
            self.conv = cnn.Conv2d(3, 3, 3, padding=1, seed=0)

        def forward(self, x):
            return self.conv(x) * factor + summand

    net, x = cnn.compile(Outside(), (3, 5, 5)), np.ones((20, 3, 5, 5), np.float32)
    before = net(x[:2])
    factor.data[...], summand[...] = 7, 9
    assert_same_bits([net(x[:2])], [before])
    assert_close(net(x)[:2], before)
    net._few.clear()        # as where several threads call
    assert_same_bits([net(x[:2])], [before])


def test_what_stays_in_training_mode_is_refused():
    class Drawing(cnn.Module):
        def __init__(self):
            super().__init__()
            self.drop = cnn.Dropout(0.5, seed=1)

        def train(self, mode=True):
            super().train(mode)
            if hasattr(self, "drop"):
                self.drop.train(True)
            return self

        def forward(self, x):
            return self.drop(x)

    with pytest.raises(TypeError, match=r"compile: dropout \(module drop\) is in training mode after model.eval"):
        cnn.compile(Drawing(), (3, 5, 5))


def test_more_wrong_arguments():
    with pytest.raises(TypeError, match="compile: model must be a Module, got int"):
        cnn.compile(3, (3, 5, 5))
    net = cnn.compile(cnn.Sequential(cnn.Conv2d(3, 3, 1, seed=0)), (3, 5, 5))
    memory = np.zeros((4, 3, 5, 5), np.float32)
    for out in (memory[1:], memory[:3]):
        with pytest.raises(ValueError, match="compiled Sequential: out must not overlap x"):
            net(memory[:3], out=out)
    with pytest.raises(ValueError, match="compiled Sequential: x must have shape"):
        net(np.zeros((), np.float32))
