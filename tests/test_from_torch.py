"""PyTorch modules as ours, beside PyTorch: scores and gradients of well-known networks and of each row of cases.py."""

import numpy as np
import pytest
from cases import CASES, assert_close, assert_same_bits, by_layer

import cnn
from cnn.export import to_torch
from cnn.layers import graph_module

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch_nets import NETS, DenseNet121, at_random  # noqa: E402


def images(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def net_of(forward, **parts):
    """A module with this forward and these parts."""
    module = type("Net", (nn.Module,), {"forward": forward})()
    for name, part in parts.items():
        setattr(module, name, part)
    return module


def off(got, wanted):
    """The largest difference, as a share of the largest element."""
    return np.abs(got - wanted).max() / np.abs(wanted).max()


def compared(module, *shapes, n=3, dtype=torch.float64, most=1e-9):
    """Scores, gradients and buffers, in both modes, beside PyTorch; returns our module."""
    module = module.to(dtype)
    net = cnn.from_torch(module, *shapes)
    xs = [images(n, *shape, seed=i, dtype=str(dtype)[6:]) for i, shape in enumerate(shapes)]
    for mode in (True, False):
        net.train(mode)
        module.train(mode)
        tensors = [torch.tensor(x, requires_grad=True) for x in xs]
        wanted = module(*(x.clone() for x in tensors))
        y = net(*xs)
        assert off(y, wanted.detach().numpy()) <= most
        if not mode:
            continue
        dy = images(*y.shape, seed=9, dtype=y.dtype)
        dxs = net.backward(dy)
        gradients = torch.autograd.grad(wanted, [*tensors, *(p for p in module.parameters() if p.requires_grad)],
                                        torch.tensor(dy), allow_unused=True)
        names = [name for name, p in module.named_parameters() if p.requires_grad]
        own = dict(net.named_parameters())
        pairs = [*zip(dxs if len(xs) > 1 else [dxs], gradients, strict=False),
                 *((own[name].grad, gradient) for name, gradient in zip(names, gradients[len(xs):], strict=True)
                   if gradient is not None)]
        for got, right in pairs:
            largest = max(right.abs().max().item(), 1e-3)
            assert np.abs(got - right.numpy()).max() <= most * 10 * largest
        state = net.state_dict()
        for name, buffer in module.named_buffers():
            if "running" in name:
                assert_close(state[name], buffer.numpy())
    return net


# ------------------------------------------------------------------------------------------ well-known networks

@pytest.mark.thorough
@pytest.mark.parametrize("name", NETS)
def test_scores_are_those_of_pytorch(name):
    for dtype, most in ((torch.float32, 1e-4), (torch.float64, 1e-9)):
        module = at_random(NETS[name]()).to(dtype).eval()
        x = images(2, 3, 64, 64, dtype=str(dtype)[6:])
        net = cnn.from_torch(module, (3, 64, 64))
        with torch.no_grad():
            wanted = module(torch.tensor(x)).numpy()
        assert not net.training and net.dtype == x.dtype
        assert off(net(x), wanted) <= most
        assert set(net.state_dict()) == set(module.state_dict())
        assert [name for name, _ in net.named_parameters()] == [name for name, _ in module.named_parameters()]


@pytest.mark.thorough
@pytest.mark.parametrize("name", NETS)
def test_a_step_of_training_is_that_of_pytorch(name):
    """Gradients and running statistics; without dropout, whose masks are others."""
    module = at_random(NETS[name]()).double().train()
    for part in module.modules():
        part.p = 0.0
    net = cnn.from_torch(module, (3, 64, 64))
    x, labels = images(2, 3, 64, 64, dtype=np.float64), np.array([3, 70])
    loss = F.cross_entropy(module(torch.tensor(x)), torch.tensor(labels))
    loss.backward()
    ours = cnn.CrossEntropyLoss()
    assert abs(ours(net(x), labels) - loss.item()) <= 1e-9 * loss.item()
    net.backward(ours.backward())
    theirs, buffers = dict(module.named_parameters()), dict(module.named_buffers())
    largest = max(p.grad.abs().max().item() for p in theirs.values())      # some are 0 but for rounding
    for name, p in net.named_parameters():
        wanted = theirs[name].grad.numpy()
        assert np.abs(p.grad - wanted).max() <= 1e-9 * max(np.abs(wanted).max(), 1e-3 * largest), name
    for name, array in net.named_buffers():
        assert_close(array.astype(np.float64), buffers[name].double().numpy())


def pads_by_size(case):
    """Whether its padding depends on the size of the image, in Python."""
    return case.options.get("padding") == "same" and np.max(case.options.get("stride", 1)) > 1


@pytest.mark.parametrize("name", cnn.models.MODELS)
def test_there_and_back_are_the_same_bits(name):
    model = cnn.models.MODELS[name](in_channels=3, num_classes=10, image_size=32)
    back = cnn.from_torch(to_torch(model, (3, 32, 32)), (3, 32, 32))
    assert set(back.state_dict()) == set(model.state_dict())
    assert [p.requires_grad for p in back.parameters()] == [p.requires_grad for p in model.parameters()]
    for n in (2, 17):
        x, dy = images(n, 3, 32, 32), images(n, 10)
        assert_same_bits(by_layer(back, x, dy), by_layer(model, x, dy))
    wanted = model.state_dict()     # with the running statistics and their count moved
    assert all(array.tobytes() == wanted[name].tobytes() for name, array in back.state_dict().items())
    assert_same_bits([back.eval()(x)], [model.eval()(x)])


def test_every_row_of_cases():
    for case in CASES:
        if pads_by_size(case):
            continue
        layer = case.make()
        module = case.torch_twin(torch, layer)
        net = cnn.from_torch(module, case.shape)
        x, dy = case.arrays(3)
        tolerance = case.torch_tolerance or 1e-11
        with torch.no_grad():
            theirs = module.eval()(torch.tensor(x)).numpy()
        assert np.abs(net.eval()(x) - theirs).max() <= tolerance * max(1, np.abs(theirs).max()), case
        for a, b in zip(by_layer(net.train(), x, dy), by_layer(layer, x, dy), strict=True):
            assert np.abs(a - b).max(initial=0) <= tolerance * max(1, np.abs(b).max(initial=0)), case


def is_read_back(case):
    """Whether `to_torch` writes a case as from_torch can read it: with no forward that depends on its inputs' sizes, or
    on modes or parameters otherwise than PyTorch's own modules do."""
    return not (pads_by_size(case) or case.layer == "PReLU" or case.options.get("mode") in ("bilinear", "linear")
                or case.options.get("momentum", 0.1) is None or not case.options.get("unbiased", True))


def test_rows_there_and_back():
    for case in CASES:
        if not is_read_back(case):
            with pytest.raises(ValueError, match="from_torch: (forward of )?Network"):
                cnn.from_torch(to_torch(case.make(), case.shape), case.shape)
            continue
        layer = case.make()
        back = cnn.from_torch(to_torch(layer, case.shape), case.shape)
        x, dy = case.arrays(3)
        close = 1e-12 if back.dtype == x.dtype else 1e-6        # constants of layers without weights are float32
        found, wanted = by_layer(back, x.astype(back.dtype), dy.astype(back.dtype)), by_layer(layer, x, dy)
        assert len(found) - len(wanted) == sum(not p.requires_grad for p in back.parameters())      # constants
        for a, b in zip(found, wanted, strict=False):
            assert np.abs(a - b).max(initial=0) <= close * max(1, np.abs(b).max(initial=0)), case


# ------------------------------------------------------------------------------------------ functions and methods

class ShuffleUnit(nn.Module):
    """Channels in two halves, one of them convolved; shuffled by view and transpose."""

    def __init__(self, width):
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(width // 2, width // 2, 3, padding=1, groups=width // 2), nn.ReLU(True))

    def forward(self, x):
        left, right = x.chunk(2, dim=1)
        x = torch.cat((left, self.branch(right)), dim=1)
        n, channels, height, width = x.size()
        return x.view(n, 2, channels // 2, height, width).transpose(1, 2).contiguous().view(n, -1, height, width)


class SqueezeExcitation(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 2), nn.Linear(2, width)

    def forward(self, x):
        scale = torch.sigmoid(self.fc2(F.relu(self.fc1(x.mean([2, 3])))))
        return x * scale[:, :, None, None]


class Unet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(4, 6, 3, 2, 1), nn.Conv2d(6, 4, 1)

    def forward(self, x):
        y = F.leaky_relu(self.down(x), 0.2)
        y = F.interpolate(self.up(y), size=x.shape[-2:], mode="bilinear", align_corners=False)
        return torch.cat([x, y], dim=1)


def test_blocks_of_well_known_networks():
    compared(nn.Sequential(nn.Conv2d(3, 8, 1), ShuffleUnit(8)), (3, 6, 5))
    compared(nn.Sequential(SqueezeExcitation(4), Unet()), (4, 7, 6))
    attention = net_of(lambda self, x: x * torch.sigmoid(self.c(torch.cat(
        [torch.max(x, 1, keepdim=True)[0], x.mean(1, True)], 1))), c=nn.Conv2d(2, 1, 3, padding=1))
    compared(attention, (4, 5, 6))
    shortcut = net_of(lambda self, x: F.relu(self.c(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 2))),
                      c=nn.Conv2d(3, 6, 3, 2, 1))
    compared(shortcut, (3, 6, 8))
    normed = net_of(lambda self, x: self.n(self.l(x)) - self.l(x).tanh(), n=nn.BatchNorm1d(5), l=nn.Linear(4, 5))
    compared(normed, (4,), n=6)
    two = net_of(lambda self, x, y, flag=False: (self.l(x) if flag else self.l(y)) * x, l=nn.Linear(3, 3))
    compared(two, (3,), (3,))


def test_batch_norms_without_running_statistics():
    """They take the batch's in both modes."""
    compared(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)), (3, 4, 5))
    compared(nn.BatchNorm2d(3, eps=0.1, affine=False, track_running_stats=False), (3, 4, 5))
    compared(nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False)), (3, 6))
    functional = net_of(lambda self, x: F.batch_norm(x, None, None, self.n.weight, self.n.bias, True, eps=0.1),
                        n=nn.BatchNorm2d(3, track_running_stats=False))
    compared(functional, (3, 4, 5))
    module = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.Conv2d(3, 2, 1)).double()
    module[0].eval()        # which changes nothing
    x = np.random.default_rng(0).standard_normal((4, 3, 5, 5))
    wanted = module(torch.tensor(x)).detach().numpy()
    assert_close(cnn.from_torch(module, (3, 5, 5))(x), wanted)


FUNCTIONS = {
    "arithmetic": lambda self, x: (2 - x / (x * x + 3) + 1 / (1 + x * x)) * torch.add(x, x, alpha=0.5) - (-x),
    "methods": lambda self, x: x.abs().add(0.5).log().exp().sqrt().clamp(max=3).pow(3).mul(x).div(2).sub(1),
    "elements": lambda self, x: F.selu(x) + F.silu(x) + F.gelu(x, approximate="tanh") + F.mish(x) + F.logsigmoid(x),
    "comparisons": lambda self, x: torch.where(x > 0.1, torch.maximum(x, x * x), torch.minimum(x, x + 1)),
    "reductions": lambda self, x: x.sum((1, 3), keepdim=True) * x.amax(2, True) + x.amin(dim=-1, keepdim=True),
    "softmax": lambda self, x: F.softmax(x, dim=1) + x.log_softmax(-1) + torch.softmax(x, 2),
    "slices": lambda self, x: torch.cat([x[:, 1:], x[:, :1, :, :]], 1) + x[..., 0:1] + x[:, 2].unsqueeze(1),
    "transposes": lambda self, x: x.transpose(2, 3) * 2 + x.permute(0, 2, 3, 1)[:, :4].permute(0, 3, 1, 2)[:, :, :1],
    "permuted at last": lambda self, x: x.permute(0, 3, 1, 2),
    "boxes": lambda self, x: x.permute(0, 2, 3, 1).reshape(x.size(0), -1, 2).softmax(-1) * 2,
    "axes that stay together": lambda self, x: x.view(-1, 4, 2, 3, 6).permute(0, 4, 2, 3, 1).reshape(-1, 36, 4) * 2,
    "heads": lambda self, x: x.flatten(2).transpose(1, 2).view(-1, 36, 2, 2).transpose(1, 2) * 2,
    "products": lambda self, x: torch.bmm(x.flatten(2).transpose(1, 2), x.flatten(2)) @ x[:, 0].reshape(-1, 36, 1),
    "heads' products": lambda self, x: (x @ x.transpose(2, 3)).softmax(-1).matmul(x) * 2,
    "lists": lambda self, x: x[:, [2, 0, -1]] * x[..., [5, 5, 0, 1, 2, 3]][:, 1:] + x[:, torch.tensor([3, 3, 0])],
    "new axes": lambda self, x: x[:, 0, None] + x[:, :1, ..., [0, 0, 1, 2, 3, 3]][:, 0][:, None],
    "reshapes": lambda self, x: torch.flatten(x, 2).view(x.size(0), -1).unflatten(1, (4, -1)).squeeze(-1),
    "vectors": lambda self, x: x.view(-1, 4 * 6 * 6)[:, 3:9] * 2,
    "splits": lambda self, x: torch.stack([torch.split(x, [1, 3], 1)[1].mean(1), x.split(2, dim=1)[0][:, 1]], dim=1),
    "sizes": lambda self, x: x.reshape(x.shape[0], x.shape[1] * x.size(2), -1) * (x.shape[-1] // 2) / x.dim(),
    "pooling": lambda self, x: F.max_pool2d(x, 3, 2, 1) + F.avg_pool2d(x, 2) + F.adaptive_max_pool2d(x, (3, None))[
        :, :, :, ::2],
    "resampling": lambda self, x: F.interpolate(x, scale_factor=2)[:, :, :6, :6] + F.interpolate(
        x, scale_factor=0.5, mode="bilinear", recompute_scale_factor=True).mean((2, 3), keepdim=True),
    "padding": lambda self, x: F.pad(x, (1, 2, 0, 1), "reflect")[:, :, :6, 2:8] + F.pad(x, [1, -1]),
    "pixels": lambda self, x: F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2) * x,
    "pixels by view": lambda self, x: x.view(x.size(0), 1, 2, 2, 6, 6).permute(0, 1, 4, 2, 5, 3).reshape(-1, 1, 12, 12),
    "normalised": lambda self, x: F.normalize(x, dim=1) + torch.rsqrt(x * x + 1) + x.square() + torch.reciprocal(x + 9),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_and_methods(name):
    function = FUNCTIONS[name]
    compared(net_of(lambda self, x: function(self, self.c(x)), c=nn.Conv2d(4, 4, 1)), (4, 6, 6))


class Attention(nn.Module):
    """Each pixel looks at all others (Wang et al. 2018, Zhang et al. 2019)."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = nn.Conv2d(6, 3, 1), nn.Conv2d(6, 3, 1), nn.Conv2d(6, 6, 1)
        self.gain = nn.Parameter(torch.full((1,), 0.7))

    def forward(self, x):
        q, k, v = self.q(x).flatten(2), self.k(x).flatten(2), self.v(x).flatten(2)
        share = (q.transpose(1, 2) @ k * 3**-0.5).softmax(-1)
        return x + self.gain * (v @ share.transpose(1, 2)).view(x.size())


def test_attention():
    module = Attention()
    net = compared(module, (6, 4, 5))
    x = images(3, 6, 4, 5, dtype="float64")
    assert off(to_torch(net, (6, 4, 5))(torch.tensor(x)).detach().numpy(), net(x)) <= 1e-9


def test_transposed_outputs():
    x = images(2, 3, 4, 5)
    for outputs in (lambda self, x: (x, x.transpose(1, 2)), lambda self, x: {"x": x, "y": x.transpose(1, 2)}):
        y = cnn.from_torch(net_of(outputs), (3, 4, 5))(x)
        np.testing.assert_array_equal((y["y"] if isinstance(y, dict) else y[1]), x.swapaxes(1, 2))


def test_weights_and_buffers_that_are_computed_with():
    module = net_of(lambda self, x: (x - self.mean) / self.std * self.scale, scale=nn.Parameter(torch.ones(3, 1, 1)))
    module.register_buffer("mean", torch.rand(1, 3, 1, 1))
    module.register_buffer("std", torch.rand(3, 1, 1) + 1)
    net = compared(module, (3, 4, 5))
    assert set(net.state_dict()) == {"scale", "mean", "std"}
    assert {name: p.requires_grad for name, p in net.named_parameters()} == {
        "scale": True, "mean": False, "std": False}
    compared(net_of(lambda self, x: self.c(x) * torch.tensor([1.0, 2, 3]).view(3, 1, 1).double() + torch.tensor(2.0),
                    c=nn.Conv2d(3, 3, 1)), (3, 2, 2))


def test_what_is_changed_in_place_is_read_changed():
    """PyTorch's ReLU(inplace=True), +=, add_ and the like change what others read."""
    def shared(self, x):
        y = self.c(x)
        z = self.relu(y)
        return y + 2 * z
    compared(net_of(shared, c=nn.Conv2d(3, 3, 1), relu=nn.ReLU(inplace=True)), (3, 4, 4))

    def added(self, x):
        y = self.c(x)
        z = y
        y += 1
        y.mul_(2).clamp_(-1, 1)
        F.leaky_relu_(y, 0.3)
        return z * y
    compared(net_of(added, c=nn.Conv2d(3, 3, 1)), (3, 4, 4))

    def part(self, x):
        y = self.c(x)
        z = y.flatten(1)
        y += 1
        return z
    with pytest.raises(ValueError, match=r"from_torch: Net \(iadd\): it changes a value in place, of which a part"):
        cnn.from_torch(net_of(part, c=nn.Conv2d(3, 3, 1)), (3, 4, 4))


def test_shared_and_frozen_parameters_stay_so():
    layer, head = nn.Linear(4, 4), nn.Linear(4, 4)
    head.weight = layer.weight
    layer.bias.requires_grad = False
    net = compared(net_of(lambda self, x: self.b(self.a(self.a(x)).relu()), a=layer, b=head), (4,))
    assert [name for name, _ in net.named_parameters()] == ["a.weight", "a.bias", "b.bias"]
    assert [p.requires_grad for p in net.parameters()] == [True, False, True]
    x, dy = images(3, 4, dtype=np.float64), images(3, 4, dtype=np.float64)
    net.train()(x)
    net.backward(dy)
    assert not dict(net.named_parameters())["a.bias"].grad.any()


# ------------------------------------------------------------------------------------------ modes

def test_modes_are_kept_and_the_module_is_left_as_it_is():
    module = at_random(DenseNet121(blocks=(1, 1), drop_rate=0.5))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    for mode in (True, False):
        net = cnn.from_torch(module.train(mode), (3, 32, 32))
        assert net.training == mode and all(part.training == mode for part in module.modules())
        drops = [node for node in net.nodes if node.operation == "dropout"]
        assert [node.attributes["p"] for node in drops] == [0.5, 0.5]
        x = images(2, 3, 32, 32)
        with torch.no_grad():
            wanted = module.eval()(torch.tensor(x)).numpy()
        assert off(net.eval()(x), wanted) <= 1e-4
        assert off(net.train()(x), wanted) > 1e-2
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert set(vars(module)) == set(vars(DenseNet121(blocks=(1, 1))))


def test_what_is_in_evaluation_mode_in_training_stays_in_it():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.BatchNorm2d(4))
    at_random(module).double().train()
    module[1].eval()
    module[2].eval()
    net = cnn.from_torch(module, (3, 6, 6))
    before = net.state_dict()
    x = images(3, 3, 6, 6, dtype=np.float64)
    assert off(net(x), module(torch.tensor(x)).detach().numpy()) <= 1e-12
    again = graph_module(net, (3, 6, 6))
    assert_same_bits([again(x)], [net(x)])
    state = net.state_dict()
    assert state["1.running_mean"].tobytes() == before["1.running_mean"].tobytes()
    assert state["3.running_mean"].tobytes() != before["3.running_mean"].tobytes()
    module.eval()
    module[1].train()
    with pytest.raises(ValueError, match="from_torch: 1 must be in evaluation mode, as the whole module is"):
        cnn.from_torch(module, (3, 6, 6))


def test_batch_norm_and_dropout_as_functions():
    class Own(nn.BatchNorm2d):
        def forward(self, x):
            if self.training:
                self.num_batches_tracked.add_(1)
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training,
                                self.momentum, self.eps)
    module = nn.Sequential(at_random(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))[0], Own(4))
    net = compared(module, (3, 4, 5))
    assert net.state_dict()["1.num_batches_tracked"] == module[1].num_batches_tracked == 1
    fixed = net_of(lambda self, x: F.batch_norm(x, self.n.running_mean, self.n.running_var), n=nn.BatchNorm2d(3))
    compared(fixed, (3, 4, 5))
    for forward, words in (
        (lambda self, x: F.dropout(x, 0.5), r"\(dropout\): training must be self.training or False, got True"),
        (lambda self, x: F.batch_norm(x, self.n.running_mean, self.n.running_var, training=True),
         r"training must be self.training or False"),
        (lambda self, x: x * 2 if self.training else x, r"must do the same in both modes.*at mul"),
        (lambda self, x: x * (2 if self.training else 3), r"an argument is 2 in training mode, and 3 in evaluation"),
    ):
        with pytest.raises(ValueError, match=words):
            cnn.from_torch(net_of(forward, n=nn.BatchNorm2d(3)), (3, 4, 5))


# ------------------------------------------------------------------------------------------ what it becomes

def test_it_is_a_module_like_any_other(tmp_path):
    module = at_random(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(True), nn.MaxPool2d(2),
                                     nn.Dropout(0.1), nn.Flatten(), nn.Linear(676, 10)))
    net = cnn.from_torch(module, (1, 28, 28))
    train, _ = cnn.data.load("mnist-sample")
    trainer = cnn.Trainer(net, cnn.SGD(net.parameters(), lr=0.05), progress=False)
    trainer.fit(train, 1)
    again = cnn.from_torch(module, (1, 28, 28))
    again.load_state_dict(net.state_dict())
    x = images(3, 1, 28, 28)
    assert_same_bits([again.eval()(x)], [net.eval()(x)])
    module.load_state_dict({name: torch.tensor(array) for name, array in net.state_dict().items()})
    with torch.no_grad():
        assert off(module.eval()(torch.tensor(x)).numpy(), net(x)) <= 1e-5
    assert [node.name for node in net.nodes] == ["0", "1", "2", "3", "4", "5", "6"]


# ------------------------------------------------------------------------------------------ refusals

class Hooked(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(3, 3))
        self[0].register_forward_hook(lambda module, inputs, output: output * 2)


@pytest.mark.parametrize("make, shape, words", [
    (lambda: nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.LSTM(3, 3))), (3,),
     r"from_torch: 1.0 \(LSTM\): there is no module for it here; those known are AdaptiveAvgPool1d"),
    (lambda: net_of(lambda self, x: torch.fft.fft(x)), (3,), r"from_torch: Net \(fft_fft\): there is no operation"),
    (lambda: net_of(lambda self, x: x.cumprod(1)), (3,), r"from_torch: Net \(cumprod\): there is no operation for it"),
    (lambda: nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular")), (3, 5, 5),
     r"padding_mode must be zeros or reflect or replicate, got circular"),
    (lambda: net_of(lambda self, x: F.batch_norm(x, None, None, training=self.training)), (3, 5, 5),
     r"training must be True, got"),
    (lambda: net_of(lambda self, x: F.batch_norm(x, self.n.running_mean, None), n=nn.BatchNorm2d(3)), (3, 5, 5),
     "running_mean and running_var must both be buffers of a module, or none of them"),
    (lambda: nn.Sequential(nn.Conv2d(4, 3, 3)), (3, 5, 5), r"0 \(Conv2d\): conv2d: x must have 4 channels, got 3"),
    (lambda: net_of(lambda self, x: x.view(-1, 5)), (3, 5, 5), r"shape must keep the 75 elements of each image"),
    (lambda: net_of(lambda self, x: x * x.size(0)), (3,), r"\(mul\): it takes values, weights and numbers, got"),
    (lambda: net_of(lambda self, x: x.view(x.size(0) * 2, -1)), (4,), r"\(mul\): the number of images is open"),
    (lambda: net_of(lambda self, x: x.mean()), (3,), "dim must be given: without it the images are averaged"),
    (lambda: net_of(lambda self, x: x.mean(0)), (3,), "dim must not be that of the images, 0, got 0"),
    (lambda: net_of(lambda self, x: x.view(-1, 3, 2, 2, 5).transpose(2, 3) * 2), (3, 4, 5), "at most 4 axes here, got"),
    (lambda: net_of(lambda self, x: x.view(-1, 3, 2, 2, 5).permute(0, 4, 3, 2, 1).reshape(-1, 60) * 2), (3, 4, 5),
     r"Net \(mul\): its input has been permuted or viewed as no operation does it here: only transposes of at most"),
    (lambda: net_of(lambda self, x: x.view(-1, 3, 2, 2, 5).permute(0, 4, 3, 2, 1)), (3, 4, 5),
     r"Net \(output\): its input must have at most 4 axes here, got \(N, 5, 2, 2, 3\)"),
    (lambda: net_of(lambda self, x: x[:, torch.tensor([True, False, True])]), (3,), r"lists of integers.*got "),
    (lambda: net_of(lambda self, x: x[:, [True, False, True]]), (3,), "a mask goes into"),
    (lambda: net_of(lambda self, x: x[:, [0], [1]]), (3, 4, 5), "must be cut by one list of integers"),
    (lambda: net_of(lambda self, x: x.flatten()), (3, 4, 5), "dim must be an axis of the images' elements"),
    (lambda: net_of(lambda self, x: x.sinh()), (3,), r"\(sinh\): there is no operation"),
    (lambda: net_of(lambda self, x: x * self.w.cumsum(0), w=nn.Parameter(torch.ones(3))), (3,),
     r"\(cumsum\): it is not done here with weights alone"),
    (lambda: net_of(lambda self, x: x if x.sum() > 0 else -x), (3,), "forward of Net cannot be listed by torch.fx"),
    (lambda: net_of(lambda self, x: 1.0), (3,), "forward must return what it computes, or a tuple or dict of it, got"),
    (Hooked, (3,), r"0 \(Linear\): it must have no hooks"),
    (lambda: nn.Sequential(nn.Linear(3, 3)).half(), (3,), r"0.weight must be float32 or float64, got torch.float16"),
    (lambda: nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3).double()), (3,), "all parameters must have one dtype"),
    (lambda: nn.Sequential(nn.LazyLinear(3)), (3,), "0.weight must have elements: run the module once"),
    (lambda: net_of(lambda self, x: x.to("cpu")), (3,), r"\(to\): there is no operation"),
])
def test_refusals_name_the_place_the_type_and_the_value(make, shape, words):
    with pytest.raises(ValueError, match=words):
        cnn.from_torch(make(), shape)


def test_wrong_arguments():
    with pytest.raises(TypeError, match="module must be a torch.nn.Module, got Sequential"):
        cnn.from_torch(cnn.Sequential(), (3,))
    with pytest.raises(TypeError, match="image_shapes must be one .* for each input, got none"):
        cnn.from_torch(nn.Linear(3, 3))
    with pytest.raises(ValueError, match=r"shape must be .* or \(\) of numbers, got \(3, 3, 3, 3\)"):
        cnn.from_torch(nn.Linear(3, 3), (3, 3, 3, 3))
    two = net_of(lambda self, x, y: x + y)
    with pytest.raises(TypeError, match="image_shapes must be one for each input, got 1; forward of Net takes x, y"):
        cnn.from_torch(two, (3,))
    with pytest.raises(TypeError, match="image_shapes must be one for each input, got 3"):
        cnn.from_torch(two, (3,), (3,), (3,))
