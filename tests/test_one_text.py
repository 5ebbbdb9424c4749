"""Programs of one text for PyTorch and for us, where only the names of the libraries differ: scores and gradients."""
import math
from types import SimpleNamespace

import numpy as np
import pytest
from cases import assert_close

import cnn

torch = pytest.importorskip("torch", exc_type=ImportError)
OURS = SimpleNamespace(nn=cnn, F=cnn.functional, cat=cnn.cat, array=np.asarray, parameter=cnn.Parameter)
THEIRS = SimpleNamespace(nn=torch.nn, F=torch.nn.functional, cat=torch.cat, array=torch.tensor,
                         parameter=lambda array: torch.nn.Parameter(torch.tensor(array)))


def diffusion(lib):
    """A U-Net of Ho, Jain & Abbeel 2020 that is told the time by sines and cosines."""
    nn, F = lib.nn, lib.F

    class Block(nn.Module):
        def __init__(self, inputs, outputs, width):
            super().__init__()
            self.first, self.norm = nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(4, outputs)
            self.time, self.second = nn.Linear(width, outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
            self.short = nn.Conv2d(inputs, outputs, 1)

        def forward(self, x, e):
            h = F.silu(self.norm(self.first(x))) + self.time(e)[:, :, None, None]
            return self.second(F.silu(h)) + self.short(x)

    class Net(nn.Module):
        shapes = ((1, 8, 8), (1,))

        def __init__(self, width=16):
            super().__init__()
            self.register_buffer("rates", lib.array(np.exp(-math.log(1e4) * np.arange(width // 2) / (width // 2))))
            self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            self.down, self.low, self.up = Block(1, 8, width), Block(8, 16, width), Block(24, 8, width)
            self.out = nn.Conv2d(8, 1, 1)

        def forward(self, x, t):
            e = 100 * t * self.rates
            e = self.time(lib.cat([e.sin(), e.cos()], dim=1))
            x = self.down(x, e)
            y = F.interpolate(self.low(F.max_pool2d(x, 2), e), scale_factor=2, mode="nearest")
            return self.out(self.up(lib.cat([x, y], dim=1), e))
    return Net()


def transformer(lib):
    """A vision transformer (Dosovitskiy et al. 2021) with LayerScale (Touvron et al. 2021)."""
    nn, F = lib.nn, lib.F

    class Block(nn.Module):
        def __init__(self, width, heads):
            super().__init__()
            self.heads, self.norm1, self.norm2 = heads, nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
            self.gamma = lib.parameter(np.full(width, 0.1))

        def attend(self, x):
            images, length, width = x.shape
            q, k, v = self.qkv(x).reshape(images, length, 3, self.heads, width // self.heads).permute(
                2, 0, 3, 1, 4).unbind(0)
            return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(images, length, width))

        def forward(self, x):
            x = x + self.gamma * self.attend(self.norm1(x))
            return x + self.mlp(self.norm2(x))

    class Net(nn.Module):
        shapes = (1, 8, 8),

        def __init__(self, width=12):
            super().__init__()
            rng = np.random.default_rng(0)
            self.patches = nn.Conv2d(1, width, 4, stride=4)
            self.token = lib.parameter(rng.standard_normal((1, 1, width)))
            self.places = lib.parameter(rng.standard_normal((1, 5, width)))
            self.blocks, self.norm = nn.Sequential(Block(width, 3), Block(width, 4)), nn.LayerNorm(width)
            self.head = nn.Linear(width, 10)

        def forward(self, x):
            x = self.patches(x).flatten(2).transpose(1, 2)
            x = lib.cat([self.token.expand(x.size(0), -1, -1), x], dim=1) + self.places
            return self.head(self.norm(self.blocks(x))[:, 0])
    return Net()


def metric(lib):
    """Scores by cosines with a temperature that is learnt, of a learnt mean of two levels (Tan et al. 2020)."""
    nn, F = lib.nn, lib.F

    class Net(nn.Module):
        shapes = (1, 8, 8),

        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
            self.weight = lib.parameter(np.random.default_rng(0).standard_normal((4, 6)))
            self.mix, self.scale = lib.parameter(np.array([0.7, 0.2])), lib.parameter(np.array(1.5))
            self.register_buffer("mean", lib.array(np.linspace(0, 1, 6).reshape(1, 6, 1, 1)))

        def forward(self, x):
            x = F.relu(self.first(x)) - self.mean
            y = F.relu(self.second(x))
            w = F.relu(self.mix)
            z = (w[0] * x + w[1] * y) / (w.sum() + 1e-4)
            z = (z.std((2, 3)) + z.norm(dim=(2, 3))).flatten(1)
            return self.scale.exp() * F.linear(F.normalize(z), F.normalize(self.weight))
    return Net()


@pytest.mark.parametrize("images", [1, 3, 17])
@pytest.mark.parametrize("make", [diffusion, transformer, metric])
def test_scores_and_gradients(make, images):
    ours, theirs = make(OURS).to(np.float64), make(THEIRS).double()
    ours.load_state_dict({name: array.numpy() for name, array in theirs.state_dict().items()})
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    rng = np.random.default_rng(1)
    xs = [rng.standard_normal((images, *shape)) for shape in ours.shapes]
    given = [torch.tensor(x, requires_grad=True) for x in xs]
    y, wanted = ours(*xs), theirs(*given)
    assert_close(y, wanted.detach().numpy(), 1e-10)
    dy = rng.standard_normal(y.shape)
    dxs = ours.backward(dy)
    wanted.backward(torch.tensor(dy))
    for dx, x in zip(dxs if isinstance(dxs, tuple) else (dxs,), given, strict=True):
        assert_close(dx, x.grad.numpy(), 1e-10)
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert_close(p.grad, q.grad.numpy(), 1e-10), name
