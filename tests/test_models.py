"""The ready-made networks."""

import numpy as np
import pytest
from cases import assert_all_close, assert_close, assert_same_bits, by_layer, by_torch

import cnn
from cnn import models
from cnn.layers import Conv2d, Linear

# what doesn't depend on the images: 3x3 convolutions without bias, and scales and shifts of batch norm
VGG = 9 * (64 * 64 + 64 * 128 + 128 * 128 + 128 * 256 + 256 * 256) + 2 * 2 * (64 + 128 + 256)
RESNET9 = 9 * (64 * 128 + 2 * 128**2 + 128 * 256 + 256 * 512 + 2 * 512**2) + 10 * 513
RESNET9 += 2 * (64 + 3 * 128 + 256 + 3 * 512)
RESNET20 = 9 * (6 * 16**2 + 16 * 32 + 5 * 32**2 + 32 * 64 + 5 * 64**2) + 16 * 32 + 32 * 64 + 10 * 65
RESNET20 += 2 * (7 * 16 + 7 * 32 + 7 * 64)
WIDTHS = [8, 16, 16, 32, 32, 64, 64, 128, 128]
MOBILENET = sum((9 + 2) * a + (a + 2) * b for a, b in zip(WIDTHS[:-1], WIDTHS[1:], strict=True))
MOBILENET += 2 * 8 + 10 * 129

CIFAR_NET = 9 * (64 * 64 + 64 * 256 + 3 * 256 * 256) + 2 * 2 * (64 + 256 + 256) + 10 * 256

# name, channels, side of the images, parameters by hand: weights and biases layer by layer
SIZES = [
    ("lenet5", 1, 28, 6 * 26 + 16 * 151 + 120 * 401 + 84 * 121 + 10 * 85),
    ("lenet5", 1, 32, 6 * 26 + 16 * 151 + 120 * 401 + 84 * 121 + 10 * 85),
    ("lenet5", 3, 16, 6 * 76 + 16 * 151 + 120 * 17 + 84 * 121 + 10 * 85),
    ("cifar_quick", 3, 32, 32 * 76 + 32 * 801 + 64 * 801 + 64 * 1025 + 10 * 65),
    ("cifar_quick", 1, 8, 32 * 26 + 32 * 801 + 64 * 801 + 64 * 65 + 10 * 65),
    ("cifar_quick", 3, 13, 32 * 76 + 32 * 801 + 64 * 801 + 64 * 65 + 10 * 65),
    ("vgg_small", 3, 32, VGG + 64 * 27 + 10 * 4097),
    ("vgg_small", 1, 8, VGG + 64 * 9 + 10 * 257),
    ("resnet9", 3, 32, RESNET9 + 64 * 27),
    ("resnet9", 1, 8, RESNET9 + 64 * 9),
    ("resnet20", 3, 32, RESNET20 + 16 * 27),
    ("resnet20", 1, 4, RESNET20 + 16 * 9),
    ("mobilenet_small", 3, 32, MOBILENET + 8 * 27),
    ("mobilenet_small", 1, 9, MOBILENET + 8 * 9),
    ("cifar_net", 3, 32, CIFAR_NET + 24 * 13 + 9 * 24 * 64),
    ("cifar_net", 1, 28, CIFAR_NET + 8 * 5 + 9 * 8 * 64),
    ("cifar_net", 1, 9, CIFAR_NET + 8 * 5 + 9 * 8 * 64),
]


@pytest.mark.thorough
@pytest.mark.parametrize("name, channels, side, count", SIZES)
def test_sizes(name, channels, side, count):
    model = models.MODELS[name](channels, image_size=side)
    assert sum(p.numel() for p in model.parameters()) == count
    y = model(np.zeros((3, channels, side, side), np.float32))
    assert y.shape == (3, 10) and y.dtype == np.float32
    y = models.MODELS[name](channels, 7, side).eval()(np.zeros((1, channels, side, side), np.float32))
    assert y.shape == (1, 7)


def test_published_numbers_of_parameters():
    assert (
        sum(p.numel() for p in models.lenet5().parameters()) == 61_706
    )  # LeCun et al. 1998, fully connected C3
    assert sum(p.numel() for p in models.cifar_quick().parameters()) == 145_578  # Caffe's cifar10_quick


def drawn(model):
    """The numbers that are drawn: not those of batch norm, and not the zeros and ones of an identity."""
    layers = [layer for layer in model.modules() if isinstance(layer, (Conv2d, Linear))]
    values = [p.data[(p.data != 0) & (p.data != 1)] for layer in layers for p in layer.parameters()]
    return [value for value in values if value.size]


@pytest.mark.parametrize("name", models.MODELS)
def test_the_seed_decides(name):
    make = models.MODELS[name]
    first, again, other = (drawn(make(seed=seed)) for seed in (1, 1, 2))
    assert_same_bits(first, again)
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    double = make(seed=1, dtype=np.float64)
    assert_same_bits(first, [value.astype(np.float32) for value in drawn(double)])
    assert all(value.dtype == np.float64 for _, value in double.named_buffers() if value.ndim)
    assert all(p.dtype == np.float64 for p in double.parameters())


@pytest.mark.parametrize("name", models.MODELS)
def test_layers_start_with_different_weights(name):
    values = [value.ravel()[:5] for value in drawn(models.MODELS[name]())]
    assert len({v.tobytes() for v in values}) == len(values)


def in_torch(torch, name, side):
    nn = torch.nn
    if name == "lenet5":
        return nn.Sequential(
            *(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
        )
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


@pytest.mark.parametrize("name, side", [("lenet5", 28), ("cifar_quick", 8)])
def test_forward_and_backward_are_pytorchs(torch, name, side):
    ours, theirs = (
        models.MODELS[name](1, image_size=side, dtype=np.float64),
        in_torch(torch, name, side).double(),
    )
    theirs.load_state_dict({key: torch.tensor(value) for key, value in ours.state_dict().items()})
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((19, 1, side, side)), rng.standard_normal((19, 10))
    assert_all_close(by_layer(ours, x, dy), by_torch(torch, theirs, x, dy))


# name, widths, side of the images
WITH_NORM = [
    ("vgg_small", (3, 5), 8),
    ("resnet9", (3, 4, 5, 6), 17),
    ("resnet20", (3, 3, 5), 7),
    ("mobilenet_small", (3, 4, 5), 9),
    ("cifar_net", (3, 5, 4), 26),
]


def vgg_in_torch(nn, side):
    def pair(inputs, outputs):
        return [
            *(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()),
            *(nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()),
            nn.MaxPool2d(2),
        ]

    return nn.Sequential(*pair(2, 3), *pair(3, 5), nn.Flatten(), nn.Linear(5 * (side // 4) ** 2, 10))


def resnet9_in_torch(nn, side):
    def block(inputs, outputs):
        return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()

    class Residual(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.body = nn.Sequential(*block(width, width), *block(width, width))

        def forward(self, x):
            return x + self.body(x)

    return nn.Sequential(
        *(*block(2, 3), *block(3, 4), nn.MaxPool2d(2), Residual(4), *block(4, 5), nn.MaxPool2d(2)),
        *(*block(5, 6), nn.MaxPool2d(2), Residual(6), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(6, 10)),
    )


def resnet20_in_torch(nn, side):
    class Residual(nn.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
                nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs),
            )
            if stride > 1:
                convolution = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
                self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(outputs))

        def forward(self, x):
            return self.body(x) + (self.shortcut(x) if hasattr(self, "shortcut") else x)

    layers = [nn.Conv2d(2, 3, 3, 1, 1, bias=False), nn.BatchNorm2d(3), nn.ReLU()]
    for inputs, outputs, stride in [(3, 3, 1)] * 3 + [(3, 3, 2)] + [(3, 3, 1)] * 2 + [(3, 5, 2)] + [(5, 5, 1)] * 2:
        layers += [Residual(inputs, outputs, stride), nn.ReLU()]
    # the number of a layer without parameters is free: one for both
    return nn.Sequential(*layers, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(5, 10))


def mobilenet_in_torch(nn, side):
    layers = [nn.Conv2d(2, 3, 3, 1, 1, bias=False), nn.BatchNorm2d(3), nn.ReLU()]
    for inputs, outputs, stride in [(3, 4, 1), (4, 4, 1), (4, 5, 2), (5, 5, 1)]:
        layers += [nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False), nn.BatchNorm2d(inputs)]
        layers += [nn.ReLU(), nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(5, 10))


def cifar_net_in_torch(nn, side):
    layers, inputs = [nn.Conv2d(2, 16, 2), nn.GELU()], 16
    for width in (3, 5, 4):
        layers += [nn.Conv2d(inputs, width, 3, 1, 1, bias=False), nn.MaxPool2d(2)]
        layers += [nn.BatchNorm2d(width, momentum=0.4), nn.GELU(), nn.Conv2d(width, width, 3, 1, 1, bias=False)]
        layers += [nn.BatchNorm2d(width, momentum=0.4), nn.GELU()]
        inputs = width
    return nn.Sequential(*layers, nn.MaxPool2d(3), nn.Flatten(), nn.Linear(4, 10, bias=False))


IN_TORCH = {
    "vgg_small": vgg_in_torch,
    "resnet9": resnet9_in_torch,
    "resnet20": resnet20_in_torch,
    "mobilenet_small": mobilenet_in_torch,
    "cifar_net": cifar_net_in_torch,
}


@pytest.mark.parametrize("name, widths, side", WITH_NORM)
def test_nets_with_batch_norm_are_pytorchs(torch, name, widths, side):
    """In training, and then in evaluation with the statistics that training has left."""
    ours = models.MODELS[name](2, image_size=side, channels=widths, dtype=np.float64)
    for p in ours.parameters():
        p.requires_grad = True
    theirs = IN_TORCH[name](torch.nn, side).double()
    theirs.load_state_dict({key: torch.tensor(value) for key, value in ours.state_dict().items()})
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((19, 2, side, side)), rng.standard_normal((19, 10))
    assert_all_close(by_layer(ours, x, dy), by_torch(torch, theirs, x, dy))
    assert_close(ours.eval()(x), theirs.eval()(torch.tensor(x)).detach().numpy())


@pytest.mark.parametrize("name, widths, side", WITH_NORM)
def test_widths_are_refused(name, widths, side):
    for wrong, error in ((64, TypeError), ((), ValueError), ((*widths[:-1], 0), ValueError), ("64", TypeError)):
        with pytest.raises(error, match=f"{name}: channels"):
            models.MODELS[name](channels=wrong)
    with pytest.raises(ValueError, match="resnet9: channels must be 4 integers"):
        models.resnet9(channels=(1, 2, 3))


def test_other_depths_of_resnet20():
    layers = [layer for layer in models.resnet20(blocks=5).modules() if isinstance(layer, (Conv2d, Linear))]
    assert len(layers) == 32 + 2  # and two convolutions in shortcuts
    with pytest.raises(ValueError, match="resnet20: blocks must be an integer of at least 1, got 0"):
        models.resnet20(blocks=0)


@pytest.mark.thorough
def test_cifar_net_trains_as_in_the_paper(torch):
    """There the scores are divided by nine, and biases learn faster; here the last layer's lr_scale stands for it."""
    rng, lr, weight_decay = np.random.default_rng(0), 0.03, 0.02
    ours = models.cifar_net(2, image_size=26, channels=(3, 5, 4), dtype=np.float64)
    theirs = cifar_net_in_torch(torch.nn, 26).double()
    state = {key: torch.tensor(value) for key, value in ours.state_dict().items()}
    state["25.weight"] *= 9
    theirs.load_state_dict(state)
    biases, weights = [], []
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        q.requires_grad = name != "0.weight" and not (name.endswith("weight") and q.ndim == 1)
        assert p.requires_grad == q.requires_grad
        if q.requires_grad:
            (biases if q.ndim == 1 else weights).append(q)
    start = ours.state_dict()
    groups = cnn.parameter_groups(ours.parameters(), lr, weight_decay, bias_lr=8)
    optimizer = cnn.SGD(groups, lr, momentum=0.85, nesterov=True)
    bias_group = {"params": biases, "lr": 8 * lr, "weight_decay": weight_decay / 8}
    other = torch.optim.SGD([{"params": weights}, bias_group], lr, 0.85, weight_decay=weight_decay, nesterov=True)
    trainer = cnn.Trainer(ours, optimizer, cnn.CrossEntropyLoss(label_smoothing=0.2), progress=False)
    for _ in range(5):
        x, labels = rng.standard_normal((18, 2, 26, 26)), rng.integers(0, 10, 18)
        loss = torch.nn.functional.cross_entropy(theirs(torch.tensor(x)) / 9, torch.tensor(labels), label_smoothing=0.2)
        other.zero_grad()
        loss.backward()
        other.step()
        assert trainer.train_step(x, labels) == pytest.approx(loss.item(), rel=1e-10)
    wanted = {name: value.numpy() for name, value in theirs.state_dict().items()}
    wanted["25.weight"] /= 9
    for name, value in ours.state_dict().items():
        assert_close(np.float64(value), np.float64(wanted[name]), 1e-10)
        frozen = name == "0.weight" or (name.endswith("weight") and value.ndim == 1)
        assert np.array_equal(value, start[name]) == frozen


def test_convolutions_of_cifar_net_begin_as_the_identity():
    model, x = models.cifar_net(channels=(24, 40, 7)), np.random.default_rng(0).standard_normal((2, 40, 9, 9))
    convolutions = [layer for layer in model if isinstance(layer, Conv2d)][1:]
    for layer in convolutions:
        same = min(layer.in_channels, layer.out_channels)
        images = x[:, :layer.in_channels].astype(np.float32)
        assert_close(layer(images)[:, :same], images[:, :same])
    assert convolutions[2].weight.data[24:].all()


@pytest.mark.parametrize("channels, eps", [(3, 0), (1, 0.3)])
def test_whitened_outputs_are_uncorrelated(channels, eps):
    """The second moments of the outputs are 1, or e / (e + eps) where those of the patches have the eigenvalue e."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((300, channels, 12, 12))
    images = images + 0.7 * np.roll(images, 1, 2) + 0.4 * np.roll(images, 1, 3) + 0.2 * images.sum(1, keepdims=True)
    model = models.cifar_net(channels, image_size=12, dtype=np.float64)
    models.whiten(model, images, eps)
    y = model[0](images)
    n = y.shape[1] // 2
    assert_same_bits([y[:, n:].copy()], [-y[:, :n]])
    moments = np.einsum("nihw,njhw->ij", y[:, :n], y[:, :n]) / (len(y) * 11 * 11)
    patches = [images[:, c, i:i + 11, j:j + 11].ravel() for c in range(channels) for i in (0, 1) for j in (0, 1)]
    values = np.linalg.svd(np.array(patches), compute_uv=False) ** 2 / len(patches[0])
    assert_close(moments, np.diag(values / (values + eps)), 1e-9)


def test_images_to_whiten_by_are_refused():
    model = models.cifar_net()
    for shape in ((2, 1, 8, 8), (0, 3, 8, 8), (3, 8, 8), (2, 3, 8, 1)):
        with pytest.raises(ValueError, match=r"whiten: images must have shape \(N, 3, H, W\)"):
            models.whiten(model, np.zeros(shape))
    with pytest.raises(ValueError, match="whiten: images must be finite"):
        models.whiten(model, np.full((1, 3, 8, 8), np.nan))
    models.whiten(model, np.zeros((1, 3, 8, 8)))
    assert np.isfinite(model[0].weight.data).all()


SMALLEST = {"lenet5": 16, "cifar_quick": 8, "vgg_small": 8, "resnet9": 8, "resnet20": 4, "mobilenet_small": 8,
            "cifar_net": 9}


@pytest.mark.parametrize("name, smallest", SMALLEST.items())
def test_too_small_an_image_is_refused(name, smallest):
    for size in (smallest - 1, 0, -28):
        with pytest.raises(ValueError, match=f"{name}: image_size .*{smallest}.*{size}"):
            models.MODELS[name](image_size=size)
