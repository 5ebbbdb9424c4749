"""One image without an axis of images, as PyTorch's layers and losses take it."""
import numpy as np
import pytest

import cnn
from cnn import functional as F

LAYERS = [
    (cnn.Conv2d(2, 3, 3, padding=1, dtype=np.float64), (2, 5, 4)), (cnn.MaxPool2d(2), (2, 5, 4)),
    (cnn.AvgPool2d(2), (2, 5, 4)), (cnn.AdaptiveAvgPool2d(2), (2, 5, 4)), (cnn.AdaptiveMaxPool2d(2), (2, 5, 4)),
    (cnn.AdaptiveAvgPool2d((None, 2)), (2, 5, 4)), (cnn.ConvTranspose2d(2, 3, 3, dtype=np.float64), (2, 5, 4)),
    (cnn.InstanceNorm2d(2, dtype=np.float64), (2, 5, 4)),
    (cnn.PixelShuffle(2), (8, 3, 2)), (cnn.PixelUnshuffle(2), (3, 4, 6)),
    (cnn.Conv1d(2, 3, 3, dtype=np.float64), (2, 6)), (cnn.MaxPool1d(2), (2, 6)), (cnn.AvgPool1d(2), (2, 6)),
    (cnn.AdaptiveAvgPool1d(2), (2, 6)), (cnn.AdaptiveMaxPool1d(2), (2, 6)),
    (cnn.ZeroPad1d(2), (2, 6)), (cnn.ReflectionPad1d(2), (2, 6)),
    (cnn.ConvTranspose1d(2, 3, 3, dtype=np.float64), (2, 6)), (cnn.InstanceNorm1d(2, dtype=np.float64), (2, 6)),
    (cnn.Linear(4, 3, dtype=np.float64), (4,)),
    (cnn.Sequential(cnn.Conv2d(1, 2, 3), cnn.ReLU(), cnn.Flatten(), cnn.Linear(12, 3)).to(np.float64), (1, 5, 4)),
]


@pytest.mark.parametrize("layer, shape", LAYERS, ids=lambda value: type(value).__name__)
def test_one_image_is_a_batch_of_one(layer, shape):
    x = np.random.default_rng(0).permutation(np.prod(shape)).reshape(shape) + 0.5
    wanted = layer.eval()(x[np.newaxis])[0]
    assert layer(x).tobytes() == wanted.tobytes() and layer(x).shape == wanted.shape
    y = layer.train()(x)
    dy = np.random.default_rng(1).standard_normal(y.shape)
    dx, grads = layer.backward(dy), [p.grad.copy() for p in layer.parameters()]
    layer(x[np.newaxis])
    assert dx.shape == x.shape and np.array_equal(dx, layer.backward(dy[np.newaxis])[0])
    assert all(np.array_equal(p.grad, g) for p, g in zip(layer.parameters(), grads, strict=True))


@pytest.mark.parametrize("function", ["pixel_shuffle", "pixel_unshuffle"])
def test_functions_take_one_image(function, torch):
    x = np.random.default_rng(0).standard_normal((8, 4, 6))
    wanted = getattr(torch.nn.functional, function)(torch.tensor(x), 2)
    assert np.array_equal(getattr(cnn.functional, function)(x, 2), wanted)


@pytest.mark.parametrize("layer", [cnn.ReLU(), cnn.BatchNorm2d(2, dtype=np.float64), cnn.GroupNorm(
    1, 2, dtype=np.float64)], ids=lambda layer: type(layer).__name__)
def test_elsewhere_the_first_axis_is_that_of_the_images(layer):
    x = np.ones((3, 2, 4))
    if not isinstance(layer, cnn.BatchNorm2d):
        assert layer(x).shape == x.shape
    else:
        with pytest.raises(ValueError, match=r"x must have shape \(N, C, H, W\), got \(N, 2, 4\)"):
            layer(x)


# ------------------------------------------------------------------------------------------ losses

SCORES = np.random.default_rng(2).standard_normal(3)
LOG_P, SHARES = SCORES - np.log(np.exp(SCORES).sum()), np.array([0.25, 0.75, 0])
WEIGHT = np.array([0.5, 2, 3])
NAMES = {"L1Loss": "l1_loss", "MSELoss": "mse_loss", "SmoothL1Loss": "smooth_l1_loss", "HuberLoss": "huber_loss",
         "KLDivLoss": "kl_div", "BCEWithLogitsLoss": "binary_cross_entropy_with_logits", "NLLLoss": "nll_loss",
         "BCELoss": "binary_cross_entropy",
         "CrossEntropyLoss": "cross_entropy"}
# (class, options, scores of one image, target)
LOSSES = [
    *(("CrossEntropyLoss", options, SCORES, target) for target in (1, np.int32(2), np.array(0), -100)
      for options in ({}, {"weight": WEIGHT}, {"label_smoothing": 0.2})),
    ("CrossEntropyLoss", {"ignore_index": 1}, SCORES, 1),
    *(("CrossEntropyLoss", options, SCORES, SHARES) for options in ({}, {"weight": WEIGHT}, {"label_smoothing": 0.2})),
    *(("NLLLoss", options, LOG_P, target) for target in (1, np.array(2, np.uint8), -100)
      for options in ({}, {"weight": WEIGHT})),
    *((name, {}, scores, target) for name in ("L1Loss", "MSELoss", "SmoothL1Loss", "HuberLoss", "BCEWithLogitsLoss")
      for scores, target in ((SCORES, SHARES), (SCORES[0, ...], SHARES[0, ...]))),
    ("KLDivLoss", {}, LOG_P, SHARES), ("KLDivLoss", {}, LOG_P[1, ...], SHARES[1, ...]),
    ("BCELoss", {}, SHARES * 0.9 + 0.05, SHARES), ("BCELoss", {"weight": WEIGHT}, SHARES * 0.9 + 0.05, SHARES),
    ("BCEWithLogitsLoss", {"weight": WEIGHT}, SCORES, SHARES),
    ("BCEWithLogitsLoss", {"pos_weight": WEIGHT}, SCORES, SHARES),
]


def of_torch(torch, name, options, scores, target, dy=1.0):
    """The loss of PyTorch, and its gradient by the scores."""
    options = {what: torch.tensor(given) if isinstance(given, np.ndarray) else given for what, given in options.items()}
    x, t = torch.tensor(scores, requires_grad=True), np.asarray(target)
    y = getattr(torch.nn, name)(**options)(x, torch.tensor(t.astype(np.int64) if t.dtype.kind in "iu" else t))
    (y * torch.tensor(dy)).sum().backward()
    return y.detach().numpy(), x.grad.numpy()


@pytest.mark.filterwarnings("ignore:reduction")
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name, options, scores, target", LOSSES)
def test_losses_of_one_image(torch, name, options, scores, target, reduction):
    options = options | {"reduction": reduction}
    loss = getattr(cnn, name)(**options)
    wanted, gradient = of_torch(torch, name, options, scores, target)
    if reduction == "none":
        y = loss(scores, target)
        dy = np.random.default_rng(3).standard_normal(y.shape)
        wanted, gradient = of_torch(torch, name, options, scores, target, dy)
        assert isinstance(y, np.ndarray) and y.dtype == scores.dtype
        dx = loss.backward(dy if y.ndim else np.array(dy))
    else:
        y = loss(scores, target)
        assert isinstance(y, float)
        dx = loss.backward()
    np.testing.assert_allclose(y, wanted, rtol=1e-12, atol=1e-15)
    assert np.shape(y) == wanted.shape and dx.shape == scores.shape
    ignored = np.isnan(wanted).any()        # the gradient is then 0 here
    np.testing.assert_allclose(dx, 0 * scores if ignored else gradient, rtol=1e-12, atol=1e-15)
    batch = np.stack([scores, scores])      # what came before changes nothing
    y = loss(batch, np.stack([target, target]))
    assert loss.backward(np.ones_like(y) if reduction == "none" else None).shape == batch.shape


@pytest.mark.filterwarnings("ignore:reduction")
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name, options, scores, target", LOSSES)
def test_functions_of_losses_of_one_image(torch, name, options, scores, target, reduction):
    function, options = getattr(F, NAMES[name]), options | {"reduction": reduction}
    both = name in ("CrossEntropyLoss", "MSELoss")      # these give the gradient, too
    if both and reduction != "mean" or name == "CrossEntropyLoss" and np.ndim(target):
        with pytest.raises((TypeError, ValueError), match="must (be|have)"):
            function(scores, target, **options)
        return
    wanted, gradient = of_torch(torch, name, options, scores, target)
    y = function(scores, target, **options)
    if both:
        y, dx = y
        assert dx.shape == scores.shape
        np.testing.assert_allclose(dx, 0 * scores if np.isnan(wanted) else gradient, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(y, wanted, rtol=1e-12, atol=1e-15)
    assert np.shape(y) == wanted.shape


@pytest.mark.parametrize("at", [slice(None), 0])
def test_batchmean_divides_by_the_first_axis_if_there_is_one(torch, at):
    scores, target = LOG_P[at, ...], SHARES[at, ...]
    wanted, gradient = of_torch(torch, "KLDivLoss", {"reduction": "batchmean"}, scores, target)
    loss = cnn.KLDivLoss(reduction="batchmean")
    for y in (loss(scores, target), F.kl_div(scores, target, reduction="batchmean")):
        assert y == pytest.approx(float(wanted))
    np.testing.assert_allclose(loss.backward(), gradient, rtol=1e-12)


def test_the_mean_of_squares_of_one_image(torch):
    x, t = np.random.default_rng(4).standard_normal((2, 3, 4, 5))
    wanted, gradient = of_torch(torch, "MSELoss", {}, x, t)
    y, dx = F.mse_loss(x, t)
    assert y == pytest.approx(float(wanted))
    np.testing.assert_allclose(dx, gradient, rtol=1e-12)
    y, dx = F.mse_loss(x[:0], t[:0])
    assert np.isnan(y) and dx.shape == (0, 4, 5)


@pytest.mark.parametrize("call, error, words", [
    (lambda: cnn.CrossEntropyLoss()(SCORES, 3), ValueError, r"CrossEntropyLoss: target must lie in \[0, 3\), got 3"),
    (lambda: cnn.CrossEntropyLoss()(SCORES, -1), ValueError, r"CrossEntropyLoss: target must lie in \[0, 3\), got -1"),
    (lambda: cnn.CrossEntropyLoss()(SCORES, 1.0), TypeError, "CrossEntropyLoss: target must be integers, or floats"),
    (lambda: cnn.CrossEntropyLoss()(SCORES, None), TypeError, "CrossEntropyLoss: target must be integers, got object"),
    (lambda: cnn.CrossEntropyLoss()(SCORES, np.array([0, 1, 2])), ValueError, r"scores must have shape \(N, K\)"),
    (lambda: cnn.CrossEntropyLoss()(SCORES, SHARES[:2]), ValueError, r"target must have shape \(3, ...\)"),
    (lambda: cnn.CrossEntropyLoss(weight=[1, 2])(SCORES, 1), ValueError, r"weight must have shape \(3,\), got \(2,\)"),
    (lambda: cnn.CrossEntropyLoss()([1.0, 2], 1), TypeError, "CrossEntropyLoss: scores must be a NumPy array"),
    (lambda: cnn.CrossEntropyLoss()(np.array([1, 2]), 1), TypeError, "CrossEntropyLoss: scores must be float32"),
    (lambda: cnn.NLLLoss()(SCORES, 0.0), TypeError, "NLLLoss: target must be integers"),
    (lambda: cnn.NLLLoss()(SCORES, SHARES), TypeError, "NLLLoss: target must be integers"),
    (lambda: cnn.MSELoss()(SCORES, 1.0), ValueError, r"MSELoss: target must have shape \(3, ...\)"),
    (lambda: F.cross_entropy(SCORES, 3), ValueError, r"cross_entropy: target must lie in \[0, 3\), got 3"),
    (lambda: F.cross_entropy(SCORES, 1.0), TypeError, "cross_entropy: target must be integers"),
    (lambda: F.l1_loss(SCORES, np.array(1.0)), ValueError, "l1_loss: target must have shape"),
])
def test_wrong_losses_of_one_image(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("loss", [cnn.CrossEntropyLoss(reduction="none"), cnn.NLLLoss(reduction="none")])
def test_the_gradient_by_a_loss_of_one_image_must_fit(loss):
    loss(SCORES, 1)
    with pytest.raises(ValueError, match="target must lie in"):     # which leaves the last call in force
        loss(np.stack([SCORES, SCORES]), np.array([1, 3]))
    with pytest.raises(ValueError, match=r"dy must have shape \(1,\)"):
        loss.backward(np.ones(3))
    assert np.array_equal(loss.backward(2.0), 2 * loss.backward(np.array(1.0)))


@pytest.mark.parametrize("layer", [cnn.ReLU(), cnn.Hardswish(), cnn.SELU(), cnn.GELU(), cnn.Softplus()])
def test_layers_of_each_element_take_a_vector(layer):
    x = np.array([-2.0, 0.5, 3.0])
    y = layer(x)
    assert y.shape == (3,)
    np.testing.assert_array_equal(y, layer(x[:, None])[:, 0])
    layer(x)
    assert layer.backward(np.ones(3)).shape == (3,)
