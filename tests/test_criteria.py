"""Losses written with values: each against PyTorch, its twin and central differences; losses of one's own; training
with targets that are no classes of images."""

import copy

import numpy as np
import pytest
from cases import DTYPES, assert_close, assert_gradient, assert_same_bits

import cnn
from cnn import functional as F
from cnn import reference
from cnn.data import DataLoader, Dataset
from cnn.graph import lower

IMAGE, PIXELS = (3, 4, 5), (4, 5)
REDUCTIONS = ["mean", "sum", "none"]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def shares(*shape, seed=4):
    """Probabilities along axis 1, as targets."""
    p = np.exp(normal(*shape, seed=seed))
    return p / p.sum(1, keepdims=True)


def classes(*shape, count=3, seed=0):
    return np.random.default_rng(seed).integers(0, count, shape)


def log_softmax(x):
    return reference.log_softmax(x)


# by name: our loss, its options, scores, targets
N = 6
WEIGHT = np.array([0.5, 2.0, 1.25])
ignoring = np.where(normal(N, *PIXELS, seed=9) > 0.5, -100, classes(N, *PIXELS))
LOSSES = {
    "L1": ("L1Loss", {}, normal(N, *IMAGE), normal(N, *IMAGE, seed=1)),
    "L1 of vectors": ("L1Loss", {}, normal(N, 7), normal(N, 7, seed=1)),
    "L1 of numbers": ("L1Loss", {}, normal(N), normal(N, seed=1)),
    "MSE": ("MSELoss", {}, normal(N, *PIXELS), normal(N, *PIXELS, seed=1)),
    "smooth L1": ("SmoothL1Loss", {"beta": 0.7}, normal(N, *IMAGE), normal(N, *IMAGE, seed=1)),
    "smooth L1, beta 0": ("SmoothL1Loss", {"beta": 0}, normal(N, 5), normal(N, 5, seed=1)),
    "Huber": ("HuberLoss", {"delta": 0.6}, normal(N, *IMAGE), normal(N, *IMAGE, seed=1)),
    "BCE": ("BCEWithLogitsLoss", {}, 3 * normal(N, 1, *PIXELS), (normal(N, 1, *PIXELS, seed=1) > 0) * 1.0),
    "BCE of vectors": ("BCEWithLogitsLoss", {"weight": WEIGHT, "pos_weight": WEIGHT[::-1].copy()}, normal(N, 3),
                       shares(N, 3)),
    "BCE of images": ("BCEWithLogitsLoss", {"pos_weight": WEIGHT.reshape(3, 1, 1)}, normal(N, *IMAGE),
                      shares(N, *IMAGE)),
    "BCE of probabilities": ("BCELoss", {}, 0.1 + 0.8 * shares(N, *IMAGE, seed=4), shares(N, *IMAGE)),
    "BCE of probabilities, weighted": ("BCELoss", {"weight": WEIGHT}, 0.1 + 0.8 * shares(N, 3, seed=4), shares(N, 3)),
    "KL": ("KLDivLoss", {}, log_softmax(normal(N, *IMAGE)), shares(N, *IMAGE)),
    "KL with zeros": ("KLDivLoss", {}, log_softmax(normal(N, 4)), np.eye(4)[classes(N, count=4)]),
    "KL of logarithms": ("KLDivLoss", {"log_target": True}, log_softmax(normal(N, 4)), np.log(shares(N, 4, seed=3))),
    "NLL": ("NLLLoss", {}, log_softmax(normal(N, 3)), classes(N)),
    "NLL of pixels": ("NLLLoss", {"weight": WEIGHT}, log_softmax(normal(N, *IMAGE)), ignoring),
    "NLL without a class": ("NLLLoss", {"ignore_index": 1}, log_softmax(normal(N, *IMAGE)), classes(N, *PIXELS)),
    "cross entropy": ("CrossEntropyLoss", {"weight": WEIGHT, "label_smoothing": 0.1}, normal(N, 3), classes(N)),
    "cross entropy of pixels": ("CrossEntropyLoss", {}, normal(N, *IMAGE), classes(N, *PIXELS)),
    "cross entropy of sequences": ("CrossEntropyLoss", {"weight": WEIGHT, "ignore_index": -100}, normal(N, 3, 7),
                                   np.where(np.arange(7) % 3, classes(N, 7), -100)),
    "NLL of sequences": ("NLLLoss", {}, log_softmax(normal(N, 3, 7)), classes(N, 7)),
    "cross entropy, weighted": ("CrossEntropyLoss", {"weight": WEIGHT, "ignore_index": -100, "label_smoothing": 0.2},
                                normal(N, *IMAGE), ignoring),
    "cross entropy, smooth": ("CrossEntropyLoss", {"label_smoothing": 0.3}, normal(N, *IMAGE), classes(N, *PIXELS)),
    "cross entropy of shares": ("CrossEntropyLoss", {}, normal(N, 5), shares(N, 5)),
    "cross entropy of weighted shares": ("CrossEntropyLoss", {"weight": WEIGHT, "label_smoothing": 0.2},
                                         normal(N, *IMAGE), shares(N, *IMAGE)),
    "cross entropy without an image": ("CrossEntropyLoss", {"ignore_index": 2}, normal(N, 3), classes(N)),
}


def of_torch(torch, name, options, scores, targets):
    """PyTorch's loss and gradient; of "none" that of the sum of all losses."""
    options = {what: torch.tensor(v, dtype=torch.float64) if isinstance(v, np.ndarray) else v
               for what, v in options.items()}
    x = torch.tensor(scores, requires_grad=True)
    y = getattr(torch.nn, name)(**options)(x, torch.tensor(targets))
    y.sum().backward()
    return y.detach().numpy(), x.grad.numpy()


@pytest.mark.filterwarnings("ignore:reduction")
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", LOSSES)
def test_agrees_with_pytorch(torch, name, reduction):
    kind, options, scores, targets = LOSSES[name]
    options = options | {"reduction": reduction}
    loss = getattr(cnn, kind)(**options)
    y = loss(scores, targets)
    dx = loss.backward(np.ones_like(y)) if reduction == "none" else loss.backward()
    wanted, gradient = of_torch(torch, kind, options, scores, targets)
    assert_close(np.asarray(y), wanted)
    assert_close(dx, gradient)


def test_batchmean_agrees_with_pytorch(torch):
    scores, targets = LOSSES["KL"][2:]
    loss = cnn.KLDivLoss(reduction="batchmean")
    y = loss(scores, targets)
    wanted, gradient = of_torch(torch, "KLDivLoss", {"reduction": "batchmean"}, scores, targets)
    assert_close(np.asarray(y), wanted)
    assert_close(loss.backward(), gradient)


@pytest.mark.parametrize("name", LOSSES)
def test_agrees_with_central_differences(name):
    kind, options, scores, targets = LOSSES[name]
    loss, x = getattr(cnn, kind)(**options), scores[:2].copy()
    loss(x, targets[:2])
    gradient = loss.backward().copy()
    assert_gradient(gradient, lambda: loss(x, targets[:2]), x)


# by name: what cnn.reference has for the class, and how it is called
TWINS = {
    "L1Loss": lambda x, t: reference.l1(x, t), "MSELoss": lambda x, t: reference.mse(x, t),
    "SmoothL1Loss": lambda x, t, beta: reference.smooth_l1(x, t, beta),
    "HuberLoss": lambda x, t, delta: reference.huber(x, t, delta),
    "BCEWithLogitsLoss": lambda x, t, weight=1.0, pos_weight=1.0: reference.bce_with_logits(x, t, weight, pos_weight),
    "BCELoss": lambda x, t, weight=1.0: reference.bce(x, t, weight),
    "KLDivLoss": lambda x, t, log_target=False: reference.kl_div(x, t, log_target),
    "NLLLoss": lambda x, t, weight=None, ignore_index=-100: reference.nll(x, t, weight, ignore_index),
    "CrossEntropyLoss": lambda x, t, **options: reference.cross_entropy(x, t, **options),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, N])
@pytest.mark.parametrize("name", LOSSES)
def test_agrees_with_the_twin(name, n, dtype):
    kind, options, scores, targets = LOSSES[name]
    loss = getattr(cnn, kind)(**options)
    y = loss(scores[:n].astype(dtype), targets[:n])
    wanted, gradient = TWINS[kind](scores[:n], targets[:n], **options)
    assert loss.backward().dtype == dtype
    assert_close(np.asarray(y), np.asarray(wanted), None if dtype == np.float64 else 1e-5)
    assert_close(loss.backward(), gradient.astype(dtype))


@pytest.mark.parametrize("name", LOSSES)
def test_functions_of_arrays_and_of_values_agree_with_the_classes(name):
    kind, options, scores, targets = LOSSES[name]
    function = {"L1Loss": F.l1_loss, "SmoothL1Loss": F.smooth_l1_loss, "HuberLoss": F.huber_loss, "KLDivLoss": F.kl_div,
                "BCEWithLogitsLoss": F.binary_cross_entropy_with_logits, "BCELoss": F.binary_cross_entropy,
                "NLLLoss": F.nll_loss,
                "CrossEntropyLoss": F.cross_entropy, "MSELoss": F.mse_loss}[kind]
    floats = targets.astype(float)
    if kind not in ("CrossEntropyLoss", "MSELoss"):
        assert F.__dict__[function.__name__] is function
        for reduction in REDUCTIONS:
            y = function(scores, floats, reduction=reduction, **options)
            wanted = getattr(cnn, kind)(reduction=reduction, **options)(scores, targets)
            assert_close(np.asarray(y), np.asarray(wanted))
    own = cnn.losses.Criterion(lambda x, t: function(x, t, reduction="sum", **options))
    assert_close(np.asarray(own(scores, floats)) * N,
                 np.asarray(getattr(cnn, kind)(reduction="sum", **options)(scores, targets)))


@pytest.mark.parametrize("name", ["L1Loss", "SmoothL1Loss", "HuberLoss"])
def test_the_slope_at_infinity_is_that_of_the_line(name):
    loss = getattr(cnn, name)(reduction="sum")
    assert loss(np.array([[np.inf, 0.5, -np.inf]]), np.zeros((1, 3))) == np.inf
    np.testing.assert_equal(loss.backward(), [[1, 1 if name == "L1Loss" else 0.5, -1]])


def test_slopes_of_binary_cross_entropy_near_its_ends(torch):
    """They are limited as PyTorch limits them, to 1e12, a number of float32."""
    p = np.array([1 - 1e-16, 1e-40, 0, 1, 0, 1, 1e-13, 1 - 1e-13, 0.3, 0.5])
    t = np.array([0.0, 1, 1, 0, 0, 1, 0, 0.5, 1, 0.3])
    loss, q = cnn.BCELoss(), torch.tensor(p, requires_grad=True)
    wanted = torch.nn.functional.binary_cross_entropy(q, torch.tensor(t))
    wanted.backward()
    np.testing.assert_allclose(loss(p, t), wanted.item(), rtol=1e-14)
    np.testing.assert_allclose(loss.backward(), q.grad.numpy(), rtol=1e-8)


def test_the_ends_of_binary_cross_entropy(torch):
    p, t = np.array([[0, 1, 0, 1, 1e-300, np.nan, 0.5]]), np.array([[0, 1, 1, 0, 1, 0.5, np.nan]])
    loss = cnn.BCELoss(reduction="none")
    wanted = -(t * np.array([0, 0, -100, 0, -100, np.nan, 0]) + (1 - t) * np.array([0, 0, 0, -100, 0, np.nan, 0]))
    np.testing.assert_allclose(loss(p, t), wanted)
    np.testing.assert_allclose(loss(p[:, :5], t[:, :5]), torch.nn.functional.binary_cross_entropy(
        torch.tensor(p[:, :5]), torch.tensor(t[:, :5]), reduction="none"))
    assert np.isfinite(loss.backward(np.ones((1, 5)))).all()


@pytest.mark.parametrize("x, t, wanted", [
    (-1.0, 0.0, 0.0), (-1.0, -0.5, np.nan), (-1.0, np.nan, np.nan), (np.nan, 0.0, np.nan), (np.nan, 0.5, np.nan)])
def test_kl_div_hides_no_nan(x, t, wanted):
    """Of a negative target neither: its logarithm is NaN, and the gradient by x is -t all the same, as PyTorch's."""
    loss = cnn.losses.KLDivLoss(reduction="sum")
    np.testing.assert_equal(loss(np.array([[x]]), np.array([[t]])), wanted)
    np.testing.assert_equal(loss.backward(), [[-t]])


def test_one_image_of_the_batch_where_all_is_ignored():
    loss = cnn.CrossEntropyLoss(ignore_index=-100)
    assert np.isnan(loss(normal(2, *IMAGE), np.full((2, *PIXELS), -100)))
    assert not loss.backward().any()


# ------------------------------------------------------------------------------------------ losses of one's own


def focal(scores, target):
    p = (scores.softmax(1) * F.one_hot(target, 2)).sum(1)
    return -((1 - p) ** 2 * p.log())


def dice(scores, mask):
    p = F.sigmoid(scores)
    return 1 - (2 * (p * mask).sum() + 1) / (p.sum() + mask.sum() + 1)


def contrastive(pairs, alike):
    """Of two embeddings in each image's output, (N, 2 * 4): near where they are alike, else apart."""
    a, b = F.normalize(pairs[:, :4]), F.normalize(pairs[:, 4:])
    far = ((a - b) ** 2).sum()
    return F.where(alike, far, F.maximum(0.0, 1 - far))


def torch_of_own(torch, loss):
    def compute(x, t):
        if loss is focal:
            p = (x.softmax(1) * torch.nn.functional.one_hot(t.long(), 2)).sum(1)
            return (-((1 - p) ** 2 * p.log())).mean()
        if loss is dice:
            p = x.sigmoid()
            axes = tuple(range(1, x.ndim))
            return (1 - (2 * (p * t).sum(axes) + 1) / (p.sum(axes) + t.sum(axes) + 1)).mean()
        a, b = torch.nn.functional.normalize(x[:, :4]), torch.nn.functional.normalize(x[:, 4:])
        far = ((a - b) ** 2).sum(1)
        return torch.where(t != 0, far, torch.clamp(1 - far, min=0)).mean()
    return compute


OWN = {
    focal: (normal(N, 2), classes(N, count=2)), dice: (normal(N, 1, 4, 5), (normal(N, 1, 4, 5, seed=2) > 0) * 1.0),
    contrastive: (normal(N, 8), classes(N, count=2)),
}


@pytest.mark.parametrize("own", OWN, ids=lambda own: own.__name__)
def test_own_losses_agree_with_pytorch(torch, own):
    scores, targets = OWN[own]
    loss = cnn.losses.Criterion(own)
    x = torch.tensor(scores, requires_grad=True)
    wanted = torch_of_own(torch, own)(x, torch.tensor(targets))
    wanted.backward()
    assert_close(np.asarray(loss(scores, targets)), wanted.detach().numpy())
    assert_close(loss.backward(), x.grad.numpy())


class Net(cnn.Module):
    """Makes of images (N, 1, 6, 6) what the loss wants."""

    def __init__(self, outputs, pixels):
        super().__init__()
        self.conv = cnn.Conv2d(1, 6, 3, padding=1, seed=0)
        self.last = cnn.Conv2d(6, outputs, 3, padding=1, seed=1) if pixels else cnn.Linear(6, outputs, seed=1)
        self.pixels = pixels

    def forward(self, x):
        x = self.conv(x).relu()
        return self.last(x if self.pixels else x.mean((2, 3)))


def pictures(n=19):
    return np.random.default_rng(5).integers(0, 256, (n, 1, 6, 6)).astype(np.uint8)


def data_for(images):
    """By name: a loss, the network's outputs and whether these are pixels, targets."""
    bright = images[:, 0] > 128
    return {
        "focal": (focal, 2, False, (images.mean((1, 2, 3)) > 127).astype(np.int64)),
        "dice": (dice, 1, True, bright[:, None].astype(np.float32)),
        "contrastive": (contrastive, 8, False, (images.mean((1, 2, 3)) > 127).astype(np.float32)),
        "pixels": (cnn.CrossEntropyLoss(weight=WEIGHT, ignore_index=0), 3, True, bright.astype(np.int64) + (
            images[:, 0] > 200)),
        "smoothed": (cnn.CrossEntropyLoss(label_smoothing=0.1, reduction="sum"), 2, False,
                     bright[:, 0, 0].astype(np.int64)),
        "shares": (cnn.CrossEntropyLoss(), 2, False, np.stack([bright.mean((1, 2)), 1 - bright.mean((1, 2))], 1)),
        "regression": (cnn.SmoothL1Loss(), 1, False, images.mean((1, 2, 3))[:, None] / 255),
        "mse": (cnn.MSELoss(), 1, True, images / np.float32(255)),
        "binary": (cnn.BCEWithLogitsLoss(pos_weight=np.array([2.0])), 1, False, bright[:, :1, 0].astype(np.float32)),
    }


def trained(name, images, batch_size, *, dtype=np.float64, backend="kernels", threads=None, pieces=False, copies=1):
    loss, outputs, pixels, targets = data_for(images)[name]
    model = Net(outputs, pixels).to(dtype)
    if pieces:      # an optimizer of one's own: not one program
        class Plain(cnn.SGD):
            def step(self):
                super().step()
        optimizer = Plain(model.parameters(), lr=0.05)
    else:
        optimizer = cnn.SGD(model.parameters(), lr=0.05)
    trainer = cnn.Trainer(model, optimizer, criterion=copy.deepcopy(loss), progress=False, backend=backend)
    data = Dataset(images, targets, mean=(0.5,), std=(0.3,))
    history = trainer.fit(DataLoader(data, batch_size, shuffle=True), 2, validation=data)
    return [history[-1]["train_loss"], history[-1]["val_loss"], history[-1]["train_accuracy"],
            *(p.data.copy() for p in model.parameters())]


@pytest.mark.parametrize("batch_size", [4, 16])
@pytest.mark.parametrize("name", data_for(pictures()))
def test_training_is_the_same_in_one_program_in_pieces_and_by_twins(name, batch_size):
    images = pictures()
    wanted = trained(name, images, batch_size)
    for other in ({"pieces": True}, {"backend": "reference"}):
        for got, want in zip(trained(name, images, batch_size, **other), wanted, strict=True):
            assert_close(np.asarray(got), np.asarray(want), 1e-9)
    assert np.isnan(wanted[2]) == (name not in ("focal", "smoothed", "shares"))


@pytest.mark.parametrize("name", ["dice", "pixels", "focal"])
def test_training_gives_the_same_bits_on_any_number_of_threads(name, set_threads):
    images, results = pictures(67), []
    for threads in (1, 2, 4):
        set_threads(threads)
        results.append([np.asarray(a) for a in trained(name, images, 32, dtype=np.float32)])
    for other in results[1:]:
        assert_same_bits(other, results[0])


def test_both_layouts_agree(monkeypatch):
    for name in data_for(pictures()):
        wanted = trained(name, pictures(), 4)
        monkeypatch.setattr(lower, "FEW_LEARN", -1)
        for got, want in zip(trained(name, pictures(), 4), wanted, strict=True):
            assert_close(np.asarray(got), np.asarray(want), 1e-9)
        monkeypatch.undo()


def test_a_module_is_a_criterion():
    class Scaled(cnn.Module):
        def __init__(self):
            super().__init__()
            self.factor = 2.0

        def forward(self, scores, target):
            return (scores - target).abs().mean() * self.factor

    module, x, t = Scaled(), normal(3, 4), normal(3, 4, seed=1)
    loss = cnn.losses.Criterion(module)
    assert_close(np.asarray(loss(x, t)), 2 * np.abs(x - t).mean())
    module.factor = 3.0         # compiled again
    assert_close(np.asarray(loss(x, t)), 3 * np.abs(x - t).mean())
    model = cnn.Sequential(cnn.Flatten(), cnn.Linear(36, 4, seed=0))
    trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), lr=0.01), criterion=module, progress=False)
    trainer.fit(Dataset(pictures(8), normal(8, 4).astype(np.float32)), 1)
    first = trainer.loss
    module.factor = 0.0
    assert trainer.train_step(normal(2, 1, 6, 6).astype(np.float32), normal(2, 4)) == 0 < first


# ------------------------------------------------------------------------------ classes in losses of one's own


OF_CLASSES = {
    "cross_entropy": F.cross_entropy, "nll_loss": lambda x, t, **options: F.nll_loss(F.log_softmax(x), t, **options),
    "CrossEntropyLoss": lambda x, t, **options: cnn.CrossEntropyLoss(**options)(x, t),
    "NLLLoss": lambda x, t, **options: cnn.NLLLoss(**options)(F.log_softmax(x), t)}
SCORES = {"images": (normal(N, 3), classes(N)), "pixels": (normal(N, *IMAGE), classes(N, *PIXELS)),
          "sequences": (normal(N, 3, 7), classes(N, 7))}


@pytest.mark.parametrize("options", [
    {}, {"weight": WEIGHT}, {"ignore_index": 1}, {"weight": WEIGHT, "ignore_index": 1}, {"label_smoothing": 0.2}])
@pytest.mark.parametrize("shape", SCORES)
@pytest.mark.parametrize("name", OF_CLASSES)
def test_inside_a_loss_it_is_that_of_pytorch(torch, name, shape, options):
    """Beside another term, with the mean divided by the weights of the batch."""
    function, (scores, targets) = OF_CLASSES[name], SCORES[shape]
    if "label_smoothing" in options and "nll" in name.lower():
        pytest.skip("NLLLoss has none")
    if "ignore_index" not in options:
        targets = np.where(np.arange(targets.size).reshape(targets.shape) % 3, targets, -100)
    for reduction in ("mean", "sum", "none"):
        loss = cnn.losses.Criterion(lambda x, t, r=reduction: function(
            x, t, reduction=r, **options).sum() + 0.5 * (x * x).mean())
        torchs = {what: torch.tensor(v, dtype=torch.float64) if isinstance(v, np.ndarray) else v
                  for what, v in options.items()}
        x = torch.tensor(scores, requires_grad=True)
        wanted = torch.nn.CrossEntropyLoss(reduction="mean" if reduction == "mean" else "sum", **torchs)(
            x, torch.tensor(targets))
        wanted = (wanted if reduction == "mean" else wanted / N) + 0.5 * (x * x).mean()
        wanted.backward()
        assert_close(np.asarray(loss(scores, targets)), wanted.detach().numpy())
        assert_close(loss.backward(), x.grad.numpy())


def test_a_weighted_mean_of_values_that_are_no_targets_is_refused():
    """The weights of an image would cancel in its own mean."""
    scores, targets = SCORES["images"]
    for options, what in (({"weight": WEIGHT}, "weight must be None"), ({"ignore_index": 1}, "ignore_index must be")):
        with pytest.raises(ValueError, match=f"^cross_entropy: {what}.* no targets of a loss.*take reduction='sum'"):
            cnn.losses.Criterion(lambda x, t, o=options: F.cross_entropy(x, t * 1, **o))(scores, targets)


class Overlap(cnn.Module):
    """Dice's loss beside a weighted cross entropy, as segmentation is often trained."""

    def __init__(self, **options):
        super().__init__()
        self.pixels = cnn.CrossEntropyLoss(**options)

    def forward(self, scores, target):
        p, hot = scores.softmax(1), F.one_hot(target, 3).movedim(-1, 1)
        return self.pixels(scores, target) + 1 - 2 * (p * hot).sum() / (p.sum() + hot.sum())


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("labels", [lambda t: t, lambda t: t[:, None], lambda t: {"map": t, "other": t[:, :1, 0]}])
def test_a_batch_s_weights_count_in_training(torch, labels, accumulate):
    """Steps of a data set whose images differ in how many pixels count, by PyTorch's own."""
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((24, 2, 4, 5)).astype(np.float32), rng.integers(0, 3, (24, 4, 5))
    t[rng.random(t.shape) < 0.3] = 255
    t[5] = 255
    options = {"weight": np.array([1.0, 2, 0.5]), "ignore_index": 255}
    model = cnn.Sequential(cnn.Conv2d(2, 3, 3, padding=1))
    twin = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3, padding=1))
    twin.load_state_dict({name: torch.tensor(array) for name, array in model.state_dict().items()})
    overlap = Overlap(**options)

    def criterion(scores, target):
        target = target["map"] if isinstance(target, dict) else target
        return overlap(scores, target.squeeze(1) if len(target.shape) == 4 else target)
    data = cnn.data.Dataset(x, labels(t))
    trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), lr=0.1), criterion, progress=False, accumulate=accumulate)
    losses = trainer.fit(cnn.data.DataLoader(data, 6 // accumulate), 2)
    ce, optimizer = torch.nn.CrossEntropyLoss(weight=torch.tensor(options["weight"]).float(), ignore_index=255), \
        torch.optim.SGD(twin.parameters(), lr=0.1)
    for _ in range(2):
        means = []
        for i in range(0, 24, 6):
            scores, target = twin(torch.tensor(x[i:i + 6])), torch.tensor(t[i:i + 6])
            p = scores.softmax(1)
            hot = torch.stack([target == k for k in range(3)], 1).float()
            axes = (1, 2, 3)
            loss = ce(scores, target) + (1 - 2 * (p * hot).sum(axes) / (p.sum(axes) + hot.sum(axes))).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            means.append(loss.item())
    assert_close(np.float32(losses[-1]["train_loss"]), np.float32(np.mean(means)))
    for name, array in model.state_dict().items():
        assert_close(array, twin.state_dict()[name].numpy())


@pytest.mark.parametrize("shape", SCORES)
@pytest.mark.parametrize("name", OF_CLASSES)
def test_the_mean_over_images_is_that_of_pytorch_without_weights(torch, name, shape):
    function, (scores, targets) = OF_CLASSES[name], SCORES[shape]
    wanted, gradient = of_torch(torch, "CrossEntropyLoss", {}, scores, targets)
    for usual in ({}, {"ignore_index": -100}):
        loss = cnn.losses.Criterion(lambda x, t, usual=usual: function(x, t, **usual))
        assert_close(np.asarray(loss(scores, targets)), wanted)
        assert_close(loss.backward(), gradient)


@pytest.mark.parametrize("shape", SCORES)
@pytest.mark.parametrize("name", OF_CLASSES)
def test_what_is_ignored_does_not_count_in_the_mean(torch, name, shape):
    function, (scores, targets) = OF_CLASSES[name], SCORES[shape]
    targets = targets.copy()
    targets[0] = -100
    if shape == "pixels":
        targets[1, 0] = -100
    loss = cnn.losses.Criterion(lambda x, t: function(x, t))
    wanted, gradient = of_torch(torch, "CrossEntropyLoss", {}, scores, targets)
    assert_close(np.asarray(loss(scores, targets)), wanted)
    assert_close(loss.backward(), gradient)
    assert loss(scores, np.full_like(targets, -100)) == 0 and not loss.backward().any()
    targets[0] = 3                  # what is no class at all is not passed over
    assert np.isnan(loss(scores, targets))


@pytest.mark.parametrize("options", [
    {}, {"weight": np.array([1.0, 0.0, 2.0])}, {"ignore_index": 2}, {"ignore_index": -7}])
@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
def test_a_target_that_is_no_class_has_no_loss(name, options):
    """Of values, whose numbers nobody has looked at: NaN, neither 0 nor that of another class."""
    scores, targets = normal(7, 3), np.array([0, -1, 1, 3, 2, 1.5, np.nan])
    loss = cnn.losses.Criterion(lambda x, t: getattr(F, name)(x, t, reduction="sum", **options))
    loss.reduction = "none"
    assert np.isnan(loss(scores, targets)).ravel().tolist() == [False, True, False, True, False, True, True]


def test_weights_go_with_distributions_over_the_classes(torch):
    """The mean of these divides by their number, in PyTorch, too."""
    scores, targets = normal(N, *IMAGE), shares(N, *IMAGE)
    wanted, gradient = of_torch(torch, "CrossEntropyLoss", {"weight": WEIGHT}, scores, targets)
    for function in (F.cross_entropy, OF_CLASSES["CrossEntropyLoss"]):
        loss = cnn.losses.Criterion(lambda x, t, f=function: f(x, t, weight=WEIGHT))
        assert_close(np.asarray(loss(scores, targets)), wanted)
        assert_close(loss.backward(), gradient)


# ------------------------------------------------------------------------------------------ targets of -100


@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize("shape", SCORES)
def test_cross_entropy_passes_over_targets_of_minus_100(torch, shape, weight):
    scores, targets = SCORES[shape]
    targets = targets.copy()
    targets[1] = targets[4] = -100
    options = {} if weight is None else {"weight": weight}
    wanted, gradient = of_torch(torch, "CrossEntropyLoss", options, scores, targets)
    loss = cnn.CrossEntropyLoss(**options)
    assert_close(np.asarray(loss(scores, targets)), wanted)
    assert_close(loss.backward(), gradient)
    if shape == "images":
        for ignored in ({}, {"ignore_index": -100}):
            value, dx = F.cross_entropy(scores, targets, weight, **ignored)
            assert_close(np.asarray(value), wanted)
            assert_close(dx, gradient)
        value, dx = F.cross_entropy(scores, np.full(N, 2), weight, ignore_index=2)
        assert np.isnan(value) and not dx.any()
        with pytest.raises(ValueError, match=r"cross_entropy: target must lie in \[0, 3\), got -100"):
            F.cross_entropy(scores, targets, ignore_index=2)
    for wrong in (-1, -99, 3):
        targets[2] = wrong
        with pytest.raises(ValueError, match=rf"CrossEntropyLoss: target must lie in \[0, 3\), got {min(wrong, 0)}"):
            loss(scores, targets)
    targets[2] = 0
    with pytest.raises(ValueError, match=r"target must lie in \[0, 3\), got -100"):
        cnn.CrossEntropyLoss(ignore_index=None)(scores, targets)


@pytest.mark.parametrize("pieces", [False, True])
def test_training_passes_over_targets_of_minus_100(torch, pieces):
    """Batches with and without such targets in turn, with the same trainer."""
    class Plain(cnn.SGD):
        def step(self):
            super().step()

    x, targets = normal(3, N, 7), classes(3, N)
    targets[0, 2] = targets[2, :2] = -100
    model = cnn.Linear(7, 3, seed=0).to(np.float64)
    theirs = torch.nn.Linear(7, 3, dtype=torch.float64)
    for own, their in zip(model.parameters(), theirs.parameters(), strict=True):
        their.data = torch.tensor(own.data)
    optimizer = (Plain if pieces else cnn.SGD)(model.parameters(), lr=0.1)
    trainer = cnn.Trainer(model, optimizer, progress=False)
    sgd = torch.optim.SGD(theirs.parameters(), lr=0.1)
    for step in range(6):
        images, labels = x[step % 3], targets[step % 3]
        loss = torch.nn.functional.cross_entropy(theirs(torch.tensor(images)), torch.tensor(labels))
        assert trainer.train_step(images, labels) == pytest.approx(loss.item())
        sgd.zero_grad()
        loss.backward()
        sgd.step()
    for own, their in zip(model.parameters(), theirs.parameters(), strict=True):
        assert_close(own.data, their.detach().numpy())
    targets[0, 0] = -1
    with pytest.raises(ValueError, match=r"CrossEntropyLoss: target must lie in \[0, 3\), got -1"):
        trainer.train_step(x[0], targets[0])


# ------------------------------------------------------------------------------------------ errors and data


@pytest.mark.parametrize("make, scores, targets, error, words", [
    (lambda: cnn.losses.Criterion(3), None, None, TypeError, "function must be a function"),
    (lambda: cnn.losses.Criterion(lambda x, t: x), normal(2, 3), normal(2, 3), ValueError, "one number per image"),
    (lambda: cnn.L1Loss(reduction="median"), None, None, ValueError, "L1Loss: reduction must be"),
    (lambda: cnn.L1Loss(), normal(2, 3), normal(2, 4), ValueError, "L1Loss: target must have the shape"),
    (lambda: cnn.L1Loss(), normal(2, 3), normal(3, 3), ValueError, "L1Loss: target must have shape"),
    (lambda: cnn.L1Loss(), normal(2, 3), np.array(["a", "b"]), TypeError, "L1Loss: target must be numbers"),
    (lambda: cnn.L1Loss(), [[1.0]], normal(1, 1), TypeError, "L1Loss: scores must be a NumPy array"),
    (lambda: cnn.HuberLoss(delta=0), None, None, ValueError, "HuberLoss: delta must be a finite number above 0"),
    (lambda: cnn.SmoothL1Loss(beta=-1), None, None, ValueError, "SmoothL1Loss: beta"),
    (lambda: cnn.BCELoss("x"), None, None, TypeError, "BCELoss: weight"),
    (lambda: cnn.BCEWithLogitsLoss(pos_weight="x"), None, None, TypeError, "BCEWithLogitsLoss: pos_weight"),
    (lambda: cnn.BCEWithLogitsLoss(pos_weight=np.ones(4)), normal(2, 3), normal(2, 3), ValueError,
     "BCEWithLogitsLoss: pos_weight must have a shape that is broadcast to that of an image, (3,), got (4,)"),
    (lambda: cnn.NLLLoss(), normal(2, 3), np.array([0, 3]), ValueError, "NLLLoss: target must lie in [0, 3)"),
    (lambda: cnn.NLLLoss(), normal(2, 3), np.array([0.0, 1]), TypeError, "NLLLoss: target must be integers"),
    (lambda: cnn.NLLLoss(), normal(2, *IMAGE), classes(2, 4, 4), ValueError, "NLLLoss: scores must have shape (N, K)"),
    (lambda: cnn.NLLLoss(weight=np.ones(2)), normal(2, 3), classes(2), ValueError, "NLLLoss: weight must have shape"),
    (lambda: cnn.NLLLoss(ignore_index=1.5), None, None, TypeError, "NLLLoss: ignore_index"),
    (lambda: cnn.CrossEntropyLoss(), normal(2, *IMAGE), np.full((2, 4, 5), 3), ValueError, "must lie in [0, 3)"),
    (lambda: cnn.CrossEntropyLoss(), normal(2, 3), shares(2, 4), ValueError, "or floats of shape (N, 3)"),
    (lambda: cnn.KLDivLoss(reduction="all"), None, None, ValueError, "KLDivLoss: reduction must be"),
])
def test_wrong_arguments(make, scores, targets, error, words):
    with pytest.raises(error) as caught:
        loss = make()
        loss(scores, targets)
    assert words in str(caught.value)


def test_wrong_arguments_of_functions():
    x, other = normal(2, 3), normal(2, 4)
    for name in ("l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy_with_logits",
                 "binary_cross_entropy", "kl_div"):
        function = getattr(F, name)
        for call, error, words in ((lambda f=function: f(x, other), ValueError, "target must have the shape of x"),
                                   (lambda f=function: f(x, x, reduction="all"), ValueError, "reduction must be"),
                                   (lambda f=function: f(x, 1.0), TypeError, "must be a value"),
                                   (lambda f=function: f(x, "a"), TypeError, "target must be a NumPy array")):
            with pytest.raises(error, match=words):
                call()
    for call, error, words in (
            (lambda: F.nll_loss(x, other), ValueError, "nll_loss: target must have shape"),
            (lambda: F.nll_loss(x, np.zeros(2), reduction="x"), ValueError, "nll_loss: reduction"),
            (lambda: F.nll_loss(x, np.zeros(2), ignore_index=0.5), TypeError, "nll_loss: ignore_index"),
            (lambda: F.nll_loss(x, np.zeros(2), ignore_index=None), TypeError, "nll_loss: ignore_index"),
            (lambda: F.cross_entropy(x, np.zeros(2, int), ignore_index=None), TypeError, "cross_entropy: ignore_index"),
            (lambda: F.one_hot(np.zeros((2, 1, 2, 3)), 3), ValueError, "one_hot: target must have shape"),
            (lambda: F.one_hot(np.zeros(2), 0), ValueError, "one_hot: num_classes"),
            (lambda: F.cross_entropy(x, np.zeros(2, int), reduction="none"), ValueError, "cross_entropy: of arrays"),
            (lambda: F.cross_entropy(x, np.zeros(2, int), ignore_index=0.5), TypeError, "cross_entropy: ignore_index"),
            (lambda: F.mse_loss(x, x, reduction="sum"), ValueError, "mse_loss: of arrays")):
        with pytest.raises(error, match=words):
            call()


def test_what_a_trainer_refuses():
    model = cnn.Sequential(cnn.Flatten(), cnn.Linear(36, 4, seed=0))
    sgd = cnn.SGD(model.parameters(), lr=0.1)
    with pytest.raises(TypeError, match="criterion and loss are the same"):
        cnn.Trainer(model, sgd, cnn.L1Loss(), loss=cnn.L1Loss())
    for criterion, targets, error, words in (
            (cnn.L1Loss(reduction="none"), normal(8, 4), ValueError, "reduction must be 'mean' or 'sum' to train with"),
            (lambda x, t: x, normal(8, 4), ValueError, "one number per image"),
            (lambda x, t: t.sum(), normal(8, 4), ValueError, "must depend on the scores"),
            (cnn.L1Loss(), normal(8, 5), ValueError, "L1Loss: target must have the shape of the scores"),
            (cnn.NLLLoss(), normal(8, 4), TypeError, "NLLLoss: target must be integers"),
            (cnn.NLLLoss(), np.arange(8), ValueError, r"NLLLoss: target must lie in \[0, 4\)")):
        trainer = cnn.Trainer(model, sgd, criterion, progress=False)
        with pytest.raises(error, match=words):
            trainer.fit(Dataset(pictures(8), targets), 1)


def test_data_sets_of_targets():
    images, masks = pictures(10), normal(10, 1, 6, 6)
    data = Dataset(images, masks)
    assert data.num_classes == 0 and data.labels.dtype == np.float64 and "targets float64 (10, 1, 6, 6)" in repr(data)
    assert data[3][1].shape == (1, 6, 6)
    rest, held = data.split(0.3, seed=1)
    assert (len(rest), len(held)) == (7, 3)
    np.testing.assert_array_equal(np.sort(np.concatenate([rest.labels, held.labels]).ravel()), np.sort(masks.ravel()))
    found = [labels for _, labels in DataLoader(data, 4)]
    np.testing.assert_array_equal(np.concatenate(found), masks)
    assert Dataset(images, classes(10, 6, 6)).labels.dtype == np.int64
    with pytest.raises(ValueError, match="classes must not be given"):
        Dataset(images, masks, ["a"])
    with pytest.raises(ValueError, match="labels must be of shape"):
        Dataset(images, masks[:9])
    with pytest.raises(TypeError, match="labels must be integers or floats"):
        Dataset(images, masks.astype(complex))
