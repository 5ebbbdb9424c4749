"""Residual and Concat beyond the table of cases: shapes that do not fit, NumPy layers inside, training."""

import numpy as np
import pytest
from cases import assert_all_close, assert_same_bits, by_layer

import cnn
from cnn.data import Dataset
from cnn.layers import (
    BatchNorm2d,
    Concat,
    Conv2d,
    Dropout,
    Flatten,
    Layer,
    LeakyReLU,
    Linear,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


class Identity(Layer):
    """Written in NumPy, so that what it is in is not one program."""

    def forward(self, x):
        return x

    def backward(self, dy, need_dx=True):
        return dy if need_dx else None


def convolution(channels=3, outputs=3, seed=0):
    return Sequential(Conv2d(channels, outputs, 3, padding=1, bias=False, seed=seed), BatchNorm2d(outputs))


def test_shapes_that_differ_are_told():
    x = np.zeros((2, 3, 4, 4), np.float32)
    words = r"Residual: the body gives \(N, 3, 2, 2\), but the shortcut \(N, 3, 4, 4\)"
    for body in (MaxPool2d(2), Sequential(MaxPool2d(2), Identity())):
        with pytest.raises(ValueError, match=words):
            Residual(body)(x)
    with pytest.raises(ValueError, match=r"Residual: the body gives \(N, 48\)"):
        Residual(Flatten())(x)
    words = r"Concat: the branches give \(N, 3, 4, 4\), \(N, 3, 2, 2\)"
    for other in (ReLU(), Identity()):
        with pytest.raises(ValueError, match=words):
            Concat(other, MaxPool2d(2))(x)
    with pytest.raises(ValueError, match="Concat: the branches give"):
        Concat(ReLU(), Flatten())(x)
    with pytest.raises(ValueError, match=r"Concat: the branches give .* they may differ along axis 2 only"):
        Concat(ReLU(), MaxPool2d((1, 2)), dim=2)(x)
    with pytest.raises(ValueError, match="Concat: dim must be an integer from -2 to 1, got 2"):
        Concat(ReLU(), ReLU(), dim=2)(x[:, :, 0, 0])
    with pytest.raises(ValueError, match="Concat: dim must not be that of the images, 0, got -4"):
        Concat(ReLU(), ReLU(), dim=-4)(x)


@pytest.mark.parametrize("dim", [1, 2, 3, -1, -2, -3])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 4), (3, 6)], ids=len)
def test_outputs_joined_along_any_axis(dim, shape):
    """ReLU and a leaky one, whose gradients tell where dy was cut."""
    x = normal(*shape)
    if not -len(shape) < dim < len(shape):
        return
    layer = Concat(ReLU(), LeakyReLU(0.25), ReLU(), dim=dim)
    positive, parts = x > 0, [np.where(x > 0, x, slope * x) for slope in (0, 0.25, 0)]
    assert_all_close([layer(x)], [np.concatenate(parts, dim)])
    dys = [normal(*shape, seed=seed) for seed in (1, 2, 3)]
    wanted = sum(np.where(positive, dy, slope * dy) for dy, slope in zip(dys, (0, 0.25, 0), strict=True))
    assert_all_close([layer.backward(np.concatenate(dys, dim))], [wanted])


def test_outputs_that_differ_along_their_axis():
    x = normal(2, 3, 4, 6)
    wanted = np.concatenate([np.maximum(x, 0), x.reshape(2, 3, 4, 3, 2).max(-1)], 3)
    for dim in (3, -1):
        assert_same_bits([Concat(ReLU(), MaxPool2d((1, 2)), dim=dim)(x)], [wanted])


def test_what_is_no_layer():
    with pytest.raises(TypeError, match="Residual: body must be a layer, got int"):
        Residual(3)
    with pytest.raises(TypeError, match="Residual: body must be a layer, got NoneType"):
        Residual(None)
    with pytest.raises(TypeError, match="Residual: shortcut must be a layer, got str"):
        Residual(ReLU(), "x")
    with pytest.raises(TypeError, match="Concat: argument 1 must be a layer, got list"):
        Concat(ReLU(), [])
    with pytest.raises(ValueError, match="Concat: branches must be at least one layer"):
        Concat()
    with pytest.raises(ValueError, match="Concat: dim must not be that of the images, 0, got 0"):
        Concat(ReLU(), dim=0)
    with pytest.raises(TypeError, match="Concat: dim must be an integer, got '1'"):
        Concat(ReLU(), dim="1")


# A net of branches, with room for one more layer in every place.
NETS = {
    "body": lambda more: Residual(Sequential(*convolution(), ReLU(), *more)),
    "shortcut": lambda more: Residual(convolution(seed=1), Sequential(*more, *convolution(seed=2))),
    "first branch": lambda more: Concat(Sequential(*more), convolution(3, 2)),
    "last branch": lambda more: Concat(Conv2d(3, 2, 1), Sequential(ReLU(), *more)),
    "both": lambda more: Residual(Concat(Conv2d(3, 2, 1), Sequential(Conv2d(3, 1, 1), *more)), Sequential(*more)),
}


@pytest.mark.parametrize("place", NETS)
def test_a_numpy_layer_inside(place):
    x, dy = normal(18, 3, 4, 5), None
    results = []
    for more in ([], [Identity()]):
        net = NETS[place](more)
        model = Sequential(Conv2d(3, 3, 1), net, ReLU()).to(np.float64)
        assert model.fused != bool(more)
        dy = normal(*model(x).shape, seed=1)
        results.append(by_layer(model, x, dy))
        for p in model.parameters():
            p.grad = np.zeros(p.shape)
        model.backward(dy, need_dx=False)
        results.append([*results[-1][:2], *(p.grad for p in model.parameters())])
    for result in results[1:]:
        assert_all_close(result, results[0])


def test_names_and_parts():
    net = Residual(Sequential(Conv2d(1, 2, 1)), Concat(Conv2d(1, 1, 1), Conv2d(1, 1, 1, bias=False)))
    names = ["body.0.weight", "body.0.bias", "shortcut.0.weight", "shortcut.0.bias", "shortcut.1.weight"]
    assert list(net.state_dict()) == names
    assert "(shortcut): Concat(" in repr(net) and "(body): Sequential(" in repr(net)
    assert repr(Concat(ReLU(), dim=2)) == "Concat(\n  dim=2\n  (0): ReLU()\n)"
    dropouts = [Dropout(), Dropout()]
    Sequential(Residual(dropouts[0]), dropouts[1])
    assert dropouts[0].number != dropouts[1].number  # they draw different masks
    assert not any(layer.training for layer in net.eval().modules())


def test_a_gradient_that_two_ways_read_is_not_written_over():
    """Every layer whose backward pass works in place, below a shortcut that reads the same dy."""
    x, dy = normal(18, 3, 4, 4), normal(18, 3, 4, 4, seed=1)
    for body in (
        Sequential(Conv2d(3, 3, 1), ReLU()),
        Sequential(Conv2d(3, 3, 1), BatchNorm2d(3)),
        Sequential(BatchNorm2d(3), ReLU()),
        Residual(Conv2d(3, 3, 1), BatchNorm2d(3)),
    ):
        body = body.to(np.float64)
        y, dx, *gradients = by_layer(body, x, dy)
        assert_all_close(by_layer(Residual(body), x, dy), [y + x, dx + dy, *gradients])
        twice = Residual(Residual(body)).to(np.float64)
        assert_all_close(by_layer(twice, x, dy), [y + 2 * x, dx + 2 * dy, *gradients])
        assert_all_close(by_layer(Residual(body, body), x, dy), [2 * y, 2 * dx, *(2 * g for g in gradients)])


def trained(set_threads, threads, *more):
    set_threads(threads)
    rng = np.random.default_rng(0)
    data = Dataset(rng.integers(0, 256, (150, 2, 8, 8), np.uint8), np.arange(150) % 10, list("abcdefghij"))
    model = Sequential(
        *convolution(2, 4), ReLU(), MaxPool2d(2), Residual(convolution(4, 4, 1), convolution(4, 4, 2)), ReLU(),
        *(Residual(Sequential(*convolution(4, 4, 3), ReLU(), *convolution(4, 4, 4))), *more, ReLU(), MaxPool2d(2)),
        *(Concat(Conv2d(4, 2, 1), MaxPool2d(1)), Flatten(), Linear(24, 10)),
    )
    trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), lr=0.05, momentum=0.9), progress=False)
    trainer.fit(data, 1, validation=data, batch_size=50)
    return [*model.state_dict().values(), trainer.predict(data)]


def test_training_gives_the_same_bits_with_any_number_of_threads(set_threads):
    wanted = trained(set_threads, 1)
    for threads in (2, 3, 4):
        assert_same_bits(trained(set_threads, threads), wanted)


def test_a_fused_step_is_what_its_parts_are(set_threads):
    fused, parts = trained(set_threads, 2), trained(set_threads, 2, Identity())
    assert_all_close([a.astype(np.float64) for a in fused], [a.astype(np.float64) for a in parts], 1e-4)


# ------------------------------------------------------------------------------------------ layers in NumPy in place


class InPlace(cnn.Module):
    """A ReLU that writes over what it gets, forward and backward."""

    def forward(self, x):
        self.positive = x > 0
        return np.maximum(x, 0, out=x)

    def backward(self, dy):
        dy *= self.positive
        return dy


class KeepingY(cnn.Module):
    def forward(self, x):
        self.y = 1 / (1 + np.exp(-x))
        return self.y

    def backward(self, dy):
        return dy * self.y * (1 - self.y)


def test_layers_in_numpy_may_work_in_place(torch):
    """Without others who read the same value seeing it; and all results are the caller's own."""
    class Net(cnn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.d = InPlace(), InPlace(), KeepingY(), InPlace()

        def forward(self, x):
            u, v = self.a(x), x * 2
            return u + x, self.b(v) + v + self.d(self.c(v)), x, x, u

    x = np.random.default_rng(0).standard_normal((5, 3, 4, 4))
    model, kept = Net(), x.copy()
    ys = model(x)
    dys = [np.random.default_rng(i).standard_normal(y.shape) for i, y in enumerate(ys)]
    given = [dy.copy() for dy in dys]
    dx = model.backward(tuple(given))
    t = torch.tensor(kept, requires_grad=True)
    u, v = t.relu(), t * 2
    wanted = u + t, v.relu() + v + v.sigmoid().relu(), t + 0, t + 0, u + 0
    torch.autograd.backward(wanted, [torch.tensor(dy) for dy in dys])
    assert_all_close([*ys, dx], [*(y.detach().numpy() for y in wanted), t.grad.numpy()])
    assert_same_bits([x, *given], [kept, *dys])
    arrays = [x, *ys]
    assert not any(np.may_share_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])
