"""Networks as people write them, in PyTorch's names: scores and all gradients against PyTorch's, in float64."""

import numpy as np
import pytest

import cnn
from cnn import functional as F

torch = pytest.importorskip("torch", exc_type=ImportError)
D = {"dtype": np.float64}


def conv(inputs, outputs, kernel=3, **options):
    return cnn.Sequential(
        cnn.Conv2d(inputs, outputs, kernel, padding="same" if "stride" not in options else kernel // 2, bias=False, **D,
                   **options),
        cnn.BatchNorm2d(outputs, **D), cnn.ReLU())  # fmt: skip


class UNet(cnn.Module):
    """Ronneberger, Fischer, Brox 2015, with bilinear upsampling."""

    def __init__(self, widths=(8, 16, 24)):
        super().__init__()
        self.down = cnn.ModuleList(
            [cnn.Sequential(conv(a, b), conv(b, b)) for a, b in zip((2, *widths[:-1]), widths, strict=True)])
        self.up = cnn.ModuleList([conv(a + b, b) for a, b in zip(widths[:0:-1], widths[-2::-1], strict=True)])
        self.head = cnn.Conv2d(widths[0], 3, 1, **D)

    def forward(self, x):
        skips = []
        for i, level in enumerate(self.down):
            x = level(F.max_pool2d(x, 2) if i else x)
            skips.append(x)
        for level, skip in zip(self.up, skips[-2::-1], strict=True):
            x = level(cnn.cat([F.interpolate(x, scale_factor=2, mode="bilinear"), skip]))
        return self.head(x)


class TransposedUNet(UNet):
    """The same with transposed convolutions, as in the paper: of kernel and stride 2, and 4 and 2."""

    def __init__(self, widths=(8, 16, 24)):
        super().__init__(widths)
        self.larger = cnn.ModuleList([cnn.ConvTranspose2d(24, 24, 4, stride=2, padding=1, **D),
                                      cnn.ConvTranspose2d(16, 16, 2, stride=2, **D)])

    def forward(self, x):
        skips = []
        for i, level in enumerate(self.down):
            x = level(F.max_pool2d(x, 2) if i else x)
            skips.append(x)
        for level, larger, skip in zip(self.up, self.larger, skips[-2::-1], strict=True):
            x = level(cnn.cat([larger(x), skip]))
        return self.head(x)


class Inception(cnn.Module):
    """Szegedy et al. 2015."""

    def __init__(self):
        super().__init__()
        self.one, self.three, self.five, self.pooled = (
            conv(2, 6, 1), cnn.Sequential(conv(2, 4, 1), conv(4, 8)), cnn.Sequential(conv(2, 3, 1), conv(3, 5, 5)),
            conv(2, 4, 1))
        self.head = cnn.Linear(23, 5, **D)

    def forward(self, x):
        pooled = F.max_pool2d(x, 3, stride=1, padding=1)
        x = cnn.cat([self.one(x), self.three(x), self.five(x), self.pooled(pooled)])
        return self.head(x.mean((2, 3)))


class SqueezeExcitation(cnn.Module):
    """A residual block that weighs its channels, Hu, Shen, Sun 2018."""

    def __init__(self):
        super().__init__()
        self.stem, self.body = conv(2, 16), cnn.Sequential(conv(16, 16), conv(16, 16))
        self.squeeze, self.excite = cnn.Conv2d(16, 4, 1, **D), cnn.Conv2d(4, 16, 1, **D)
        self.head = cnn.Linear(16, 5, **D)

    def forward(self, x):
        x = self.stem(x)
        y = self.body(x)
        weights = F.sigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        return self.head(F.relu(x + y * weights).mean((2, 3)))


class Dense(cnn.Module):
    """Each layer reads all before it, Huang et al. 2017."""

    def __init__(self):
        super().__init__()
        self.layers = cnn.ModuleList([conv(2 + 5 * i, 5) for i in range(4)])
        self.head = cnn.Linear(22, 5, **D)

    def forward(self, x):
        for layer in self.layers:
            x = cnn.cat([x, layer(x)])
        return self.head(F.avg_pool2d(x, 2).mean((2, 3)))


class Shuffle(cnn.Module):
    """Grouped convolutions and a permutation of channels, Zhang et al. 2018."""

    def __init__(self):
        super().__init__()
        self.stem, self.first, self.depth = conv(2, 12), conv(12, 12, 1, groups=3), conv(12, 12, groups=12, stride=2)
        self.last, self.head = conv(12, 12, 1, groups=3), cnn.Linear(24, 5, **D)

    def forward(self, x):
        x = self.stem(x)
        y = self.last(self.depth(F.channel_shuffle(self.first(x), 3)))
        return self.head(cnn.cat([F.avg_pool2d(x, 3, stride=2, padding=1), y]).amax((2, 3)))


class ConvNeXt(cnn.Module):
    """Liu et al. 2022: blocks of a depthwise 7 x 7 convolution, a norm of each pixel, and two 1 x 1 convolutions."""

    def __init__(self, channels=6):
        super().__init__()
        self.stem = cnn.Sequential(cnn.Conv2d(2, channels, 2, stride=2, **D), cnn.LayerNorm2d(channels, 1e-6, **D))
        self.depth = cnn.ModuleList([cnn.Conv2d(channels, channels, 7, padding=3, groups=channels, **D) for _ in "ab"])
        self.norm = cnn.ModuleList([cnn.LayerNorm2d(channels, 1e-6, **D) for _ in "ab"])
        self.expand = cnn.ModuleList([cnn.Conv2d(channels, 4 * channels, 1, **D) for _ in "ab"])
        self.project = cnn.ModuleList([cnn.Conv2d(4 * channels, channels, 1, **D) for _ in "ab"])
        self.scale = cnn.Parameter(np.full((channels, 1, 1), 0.1))
        self.last, self.head = cnn.LayerNorm(channels, 1e-6, **D), cnn.Linear(channels, 5, **D)

    def forward(self, x):
        x = self.stem(x)
        for depth, norm, expand, project in zip(self.depth, self.norm, self.expand, self.project, strict=True):
            x = x + self.scale * project(F.gelu(expand(norm(depth(x)))))
        return self.head(self.last(x.mean((2, 3))))


class Siamese(cnn.Module):
    """One body for both channels, compared by absolute differences, Koch et al. 2015."""

    def __init__(self):
        super().__init__()
        self.body = cnn.Sequential(conv(1, 6), cnn.MaxPool2d(2), conv(6, 8), cnn.MaxPool2d(2), cnn.Flatten(),
                                   cnn.Linear(128, 10, **D))
        self.head = cnn.Linear(10, 1, **D)

    def forward(self, x):
        return self.head(F.abs(self.body(x[:, :1]) - self.body(x[:, 1:])))


class Contrastive(cnn.Module):
    """The distance of both in the body's space, Hadsell, Chopra, LeCun 2006."""

    def __init__(self):
        super().__init__()
        self.body = cnn.Sequential(conv(1, 6), cnn.InstanceNorm2d(6, affine=True, **D), cnn.AvgPool2d(4), cnn.Flatten(),
                                   cnn.Linear(96, 7, **D))

    def forward(self, x):
        difference = self.body(x[:, :1]) - self.body(x[:, 1:])
        return F.sqrt((difference ** 2).sum(1) + 1e-3)


@pytest.mark.parametrize("images", [3, 17])     # channels side by side, and images
@pytest.mark.parametrize("net", [UNet, TransposedUNet, Inception, SqueezeExcitation, Dense, Shuffle, ConvNeXt, Siamese,
                                 Contrastive])
def test_scores_and_gradients_are_those_of_pytorch(net, images):
    rng, model = np.random.default_rng(0), net()
    twin = cnn.export.to_torch(model, (2, 16, 16)).double().train()
    x = rng.standard_normal((images, 2, 16, 16))
    y = model(x)
    dy = rng.standard_normal(y.shape)
    dx = model.backward(dy)
    x = torch.tensor(x, requires_grad=True)
    wanted = twin(x)
    wanted.backward(torch.tensor(dy))
    gradients = dict(twin.named_parameters())
    pairs = [(y, wanted.detach()), (dx, x.grad), *((p.grad, gradients[name].grad) for name, p in
                                                   model.named_parameters())]
    for got, right in pairs:
        assert np.abs(got - right.numpy()).max() <= 1e-10 * np.abs(right.numpy()).max()
