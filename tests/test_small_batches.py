"""Small batches are trained on with sixteen channels side by side. The oracle is the other layout, whose kernels have
their own tests against the twins, central differences and PyTorch; tests/test_layers.py runs both against these."""

import contextlib

import drawn
import numpy as np
import pytest
from cases import CASES, DTYPES, assert_all_close, assert_close, assert_same_bits

import cnn
from cnn.graph import lower
from cnn.training import checkpoint

FEW = lower.FEW_LEARN


@contextlib.contextmanager
def images_side_by_side():
    before, lower.FEW_LEARN = lower.FEW_LEARN, -1
    try:
        yield
    finally:
        lower.FEW_LEARN = before


def passes(model, xs, seed=0):
    """All results of a forward and a backward pass, and whether it went by channels."""
    ys = model(*xs)
    by_channels = model._last.programs[0].by_channels
    rng = np.random.default_rng(seed)
    if isinstance(ys, np.ndarray):
        dxs = [model.backward(rng.standard_normal(ys.shape).astype(ys.dtype))]
        ys = [ys]
    else:
        dys = {k: rng.standard_normal(y.shape) for k, y in ys.items()} if isinstance(ys, dict) else tuple(
            rng.standard_normal(y.shape) for y in ys)
        dxs = model.backward(dys)
        ys = list(ys.values()) if isinstance(ys, dict) else list(ys)
    return [*ys, *dxs, *(p.grad.copy() for p in model.parameters() if p.requires_grad)], by_channels


def agree(make, *xs, tolerance=1e-12, goes=True):
    with images_side_by_side():
        wanted, by_channels = passes(make(), xs)
        assert not by_channels
    got, by_channels = passes(make(), xs)
    assert by_channels == goes
    assert_all_close(got, wanted, tolerance)


# ------------------------------------------------------------------------------------------ gradients


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("n", [2, FEW])
def test_every_layer(case, n):
    x, _ = case.arrays(n)
    groups = case.options.get("groups", 1)
    goes = groups == 1 or case.args[0] == case.args[1] == groups
    agree(case.make, x, tolerance=1e-11, goes=goes)


@pytest.mark.parametrize("seed", range(40))
def test_drawn_networks(seed):
    xs = np.random.default_rng(seed).standard_normal((2, 3, 3, 4, 4))
    agree(lambda: drawn.ours(seed), *xs, tolerance=1e-9)


@pytest.mark.parametrize("channels", [5, 16, 17, 32, 50])
@pytest.mark.parametrize("groups", [1, 0])
def test_any_number_of_channels(channels, groups):
    """In and out, with strides, dilation, borders, and a kernel for each channel."""
    rng = np.random.default_rng(0)
    for options in ({"padding": 1}, {"stride": 2}, {"stride": (3, 2), "padding": (0, 2)}, {"dilation": (2, 1)},
                    {"stride": 2, "dilation": 2, "padding": 3}, {"stride": 2, "dilation": 3, "padding": 1}):
        for inputs, kernel in ((channels, (3, 2)), (16, (1, 1)), (3, (5, 5))):
            if groups:
                def make(inputs=inputs, kernel=kernel, options=options):
                    return cnn.Conv2d(inputs, channels, kernel, **options, seed=0).to(np.float64)
            else:
                inputs = channels

                def make(kernel=kernel, options=options):
                    return cnn.Conv2d(channels, channels, kernel, **options, groups=channels, seed=0).to(np.float64)
            agree(make, rng.standard_normal((2, inputs, 15, 13)))


def test_groups_of_whole_sixteens_and_others():
    x = np.random.default_rng(1).standard_normal((3, 96, 6, 5))
    for groups, goes in ((2, True), (3, True), (6, True), (4, False), (12, False)):
        for stride in (1, 2):
            agree(lambda groups=groups, stride=stride: cnn.Conv2d(
                96, 192, 3, padding=1, stride=stride, groups=groups, seed=0).to(np.float64), x, goes=goes)


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 6, 7, 8, 12, 13, 16, 25, 40])
def test_rows_of_any_width(width):
    """Every tile of pixels and of numbers, and kernels wider than what is summed at a time."""
    rng = np.random.default_rng(0)
    for dtype, tolerance in ((np.float64, 1e-12), (np.float32, 5e-6)):
        for inputs, outputs, kernel in ((1, 3, (3, 7)), (2, 40, 3), (3, 16, (1, 9)), (20, 100, (2, 17)), (6, 5, 5)):
            layer = cnn.Conv2d(inputs, outputs, kernel, padding=(2, 8), seed=0).to(dtype)
            agree(lambda layer=layer: layer, rng.standard_normal((2, inputs, 4, width)).astype(dtype),
                  tolerance=tolerance)


@pytest.mark.parametrize("height", [1, 30, 300])
def test_bands_of_any_height(height):
    layer = cnn.Conv2d(20, 17, 3, padding=1, seed=0).to(np.float64)
    agree(lambda: layer, np.random.default_rng(0).standard_normal((FEW, 20, height, 3)))


class Twice(cnn.Module):
    """Weights used several times, gradients that meet, tensors that several read, parameters as values."""

    def __init__(self):
        super().__init__()
        self.conv = cnn.Conv2d(20, 20, 3, padding=1, seed=0)
        self.norm = cnn.BatchNorm2d(20)
        self.still = cnn.BatchNorm2d(20).eval()
        self.groups = cnn.GroupNorm(5, 20)
        self.each = cnn.Parameter(np.linspace(0.5, 1, 20).reshape(20, 1, 1))
        self.map = cnn.Parameter(np.linspace(0.5, 1, 20 * 5 * 4).reshape(20, 5, 4))
        self.one = cnn.Parameter(np.linspace(0.5, 1, 4).reshape(1, 1, 4))
        self.head = cnn.Linear(21, 4, seed=1)
        self.to(np.float64)

    def forward(self, x):
        y = x + self.conv(x)
        y = cnn.functional.relu(y + self.norm(self.conv(y)))
        y = self.groups(y) + self.still(y) * y
        y = y * self.each + self.map / (1 + y * y) - self.one
        softly = cnn.functional.softmax(y) * cnn.functional.log_softmax(y)
        y = cnn.cat([softly[:, 3:19], y, softly[:, :1]])[:, 2:22] + x.amax((2, 3), keepdim=True)
        y = y.reshape((-1, 10, 8, 5)).reshape((-1, 20, 5, 4))
        return self.head(cnn.cat([y.mean((2, 3)), (y[:, :1] * y).sum((2, 3))[:, 1:2]]))


def test_gradients_that_meet():
    def make():
        model = Twice()
        model.still.eval()
        return model
    for n in (1, 2, 5):
        agree(make, np.random.default_rng(n).standard_normal((n, 20, 5, 4)), tolerance=1e-11)


def test_frozen_layers_and_no_dx():
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8))
    dy = np.random.default_rng(1).standard_normal((2, 4))
    grads = []
    for context in (contextlib.nullcontext, images_side_by_side):
        model = cnn.Sequential(cnn.Conv2d(3, 8, 3), cnn.BatchNorm2d(8), cnn.ReLU(), cnn.Conv2d(8, 6, 3), cnn.ReLU(),
                               cnn.MaxPool2d(2), cnn.Flatten(), cnn.Linear(24, 4)).to(np.float64)
        for p, q in zip(model.parameters(), cnn.Sequential(*model).parameters(), strict=True):
            p.data[...] = np.random.default_rng(p.numel()).standard_normal(q.shape)
        model[3].requires_grad_(False)
        model[7].bias.requires_grad = False
        with context():
            model(x)
            assert model.backward(dy, need_dx=False) is None
        grads.append([p.grad.copy() for p in model.parameters() if p.requires_grad])
    assert_all_close(*grads, 1e-12)


@pytest.mark.parametrize("kind", [cnn.Dropout, cnn.Dropout2d])
def test_dropout_draws_the_same_masks(kind):
    x = np.random.default_rng(0).standard_normal((FEW, 19, 5, 3))
    got, _ = passes(kind(0.4, seed=3).to(np.float64), [x])
    with images_side_by_side():
        wanted, _ = passes(kind(0.4, seed=3).to(np.float64), [x])
    assert_same_bits(got, wanted)


# ------------------------------------------------------------------------------------------ training


def small(dtype=np.float32):
    return cnn.Sequential(
        cnn.Conv2d(3, 20, 3, padding=1, seed=0), cnn.BatchNorm2d(20), cnn.ReLU(), cnn.MaxPool2d(2),
        cnn.Residual(cnn.Sequential(cnn.Conv2d(20, 20, 3, padding=1, groups=20, seed=1), cnn.GELU())),
        cnn.Conv2d(20, 32, 3, stride=2, padding=1, seed=2), cnn.GroupNorm(4, 32), cnn.Dropout(0.2, seed=3),
        cnn.GlobalAvgPool2d(), cnn.Linear(32, 5, seed=4)).to(dtype)  # fmt: skip


def data(n=11):
    rng = np.random.default_rng(0)
    return cnn.data.Dataset(rng.integers(0, 256, (n, 3, 12, 12), np.uint8), rng.integers(0, 5, n))


def trainer_of(model, loss=None, optimizer=cnn.SGD, **options):
    return cnn.Trainer(model, optimizer(model.parameters(), lr=0.01), loss, progress=False, **options)


WEIGHT = [1, 2, 0, 0.5, 3]
LOSSES = {"plain": None, "smoothed": cnn.CrossEntropyLoss(label_smoothing=0.1),
          "weighted": cnn.CrossEntropyLoss(weight=WEIGHT),
          "both": cnn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.3)}


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("optimizer", [cnn.SGD, cnn.Adam])
def test_steps(kind, optimizer):
    results = []
    for context in (contextlib.nullcontext, images_side_by_side):
        with context():
            model = small(np.float64)
            trainer = trainer_of(model, LOSSES[kind], optimizer, max_grad_norm=1)
            losses = [trainer.train_step(np.random.default_rng(i).standard_normal((n, 3, 12, 12)),
                                         np.random.default_rng(i).integers(0, 5, n))
                      for i, n in enumerate((3, 1, FEW, 2))]
            assert trainer._programs.resting()[-1].by_channels == (context is contextlib.nullcontext)
            results.append([np.array(losses), *(a for _, a in model.state_dict().items())])
    assert_all_close(*results, 1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_bytes_are_fetched_and_changed(seed):
    transform = [None, cnn.data.RandomFlip(), cnn.data.Compose(cnn.data.RandomCrop(2), cnn.data.Cutout(3)),
                 cnn.data.Compose(cnn.data.RandomAffine(degrees=10), cnn.data.RandomFlip())][seed]
    results = []
    for context in (contextlib.nullcontext, images_side_by_side):
        with context():
            model = small(np.float64)
            trainer = trainer_of(model)
            trainer.fit(cnn.data.DataLoader(data(), 4, shuffle=True, seed=seed, transform=transform), 2)
            results.append([np.array(trainer.history.column("train_loss")), *model.state_dict().values()])
    assert_all_close(*results, 1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_with_any_number_of_threads(dtype, set_threads):
    digests = set()
    for threads in (1, 2, 3, 4, 8, 16):
        set_threads(threads)
        trainer = trainer_of(small(dtype))
        trainer.fit(cnn.data.DataLoader(data(), 4, shuffle=True, transform=cnn.data.RandomFlip()), 2)
        digests.add(checkpoint.digest(trainer.state_dict()))
    assert len(digests) == 1


def test_weights_are_packed_again_for_each_step():
    """Also those that a user wrote in place."""
    model, rng = small(np.float64), np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 12, 12))
    model(x)
    for p in model.parameters():
        p.data *= 1.25
    model[7].p = 0.0
    again = small(np.float64)
    again.load_state_dict(model.state_dict())
    again[7].p = 0.0
    got, wanted = passes(model, [x])[0], passes(again, [x])[0]
    assert_same_bits(got, wanted)


# ------------------------------------------------------------------------------------------ which layout


def layout(trainer):
    return trainer.state_dict()["position"]["data"]["layout"]


def by_channels(trainer):
    return trainer._programs.resting()[-1].by_channels


@pytest.mark.parametrize(("batch", "few"), [(1, True), (FEW, True), (FEW + 1, False), (16, False)])
def test_it_follows_from_the_batch_size_alone(batch, few):
    """Not from a last batch of less, nor from how many images there are."""
    for n in (batch * 2 + 1, 3):
        trainer = trainer_of(small())
        trainer.fit(cnn.data.DataLoader(data(n), batch), 1)
        assert layout(trainer) == ("channels" if few else "images")
        assert by_channels(trainer) == few


@pytest.mark.parametrize("batch", [4, 9])
def test_a_run_goes_on_in_its_layout(batch, monkeypatch):
    """Stopped before any batch, the last and shorter ones, too; and where the bound has been moved meanwhile."""
    def loader():
        return cnn.data.DataLoader(data(21), batch, shuffle=True)

    whole = trainer_of(small())
    whole.fit(loader(), 3)
    wanted = checkpoint.digest(whole.state_dict())

    class StopAt(cnn.Callback):
        def __init__(self, step):
            self.step = step

        def on_step_end(self, trainer):
            trainer.stop = trainer.stop or trainer.step == self.step

    for step in range(1, 7):
        trainer = trainer_of(small(), callbacks=[StopAt(step)])
        trainer.fit(loader(), 3)
        assert trainer.step == step
        state = trainer.state_dict()
        for bound in (FEW, 0, 100):
            monkeypatch.setattr(lower, "FEW_LEARN", bound)
            again = trainer_of(small())
            again.load_state_dict(state)
            again.fit(loader(), 3)
            assert checkpoint.digest(again.state_dict()) == wanted
        monkeypatch.setattr(lower, "FEW_LEARN", FEW)


def test_a_state_of_before_there_was_a_choice():
    trainer = trainer_of(small())
    trainer.fit(cnn.data.DataLoader(data(), 4), 1)
    state = trainer.state_dict()
    del state["position"]["data"]["layout"]
    again = trainer_of(small())
    again.load_state_dict(state)
    again.fit(cnn.data.DataLoader(data(), 4), 2)
    assert layout(again) == "images" and not by_channels(again)


def test_layers_in_numpy_stand_between():
    class Doubled(cnn.Layer):
        def forward(self, x):
            return 2 * x

        def backward(self, dy):
            return 2 * dy

    x = np.random.default_rng(0).standard_normal((3, 3, 8, 8))
    dy = np.random.default_rng(1).standard_normal((3, 6, 4, 4))
    grads = []
    for context in (contextlib.nullcontext, images_side_by_side):
        model = cnn.Sequential(cnn.Conv2d(3, 8, 3, seed=0), Doubled(), cnn.Conv2d(8, 6, 3, seed=1)).to(np.float64)
        with context():
            y = model(x)
            grads.append([y, model.backward(dy), *(p.grad.copy() for p in model.parameters())])
    assert_all_close(*grads, 1e-12)


def test_evaluation_does_not_depend_on_what_was_measured_before():
    model, few = small(), data(3)
    trainer = trainer_of(model)
    before = trainer.evaluate(few)
    trainer.evaluate(data(40))
    assert trainer.evaluate(few) == before


def test_it_differs_by_rounding_only():
    """In float32, from the same in float64."""
    x = np.random.default_rng(0).standard_normal((4, 3, 12, 12))
    single, double = small(), small(np.float64)
    for model in (single, double):
        model[7].p = 0.0
    got, wanted = passes(single, [x.astype(np.float32)])[0], passes(double, [x])[0]
    for a, b in zip(got, wanted, strict=True):
        assert_close(a, b, 2e-5)
