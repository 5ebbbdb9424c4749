"""Layers of sequences (N, C, L) and vectors (N, C): their values and gradients are PyTorch's; what PyTorch refuses is
refused."""
import numpy as np
import pytest
from cases import assert_close

import cnn
from cnn import functional
from cnn.layers import graph_module

L, V = (6, 5), (6,)     # a sequence, a vector
BOTH = [
    *((name, ()) for name in ("ReLU", "ReLU6", "Tanh", "Sigmoid", "SiLU", "GELU", "Mish", "ELU", "Softplus", "Hardtanh",
                              "LeakyReLU", "Hardswish", "Hardsigmoid", "PReLU", "Flatten")),
    ("PReLU", (6,)), ("Softmax", (1,)), ("LogSoftmax", (1,)), ("Softmax", (-1,)), ("LogSoftmax", (-1,)),
    ("GroupNorm", (3, 6)), ("GroupNorm", (1, 6)), ("BatchNorm1d", (6,)), ("Dropout", (0.0,)), ("Identity", ()),
]
ROWS = [
    ("Softmax", (2,)), ("LogSoftmax", (2,)), ("Softmax", (-2,)), ("LayerNorm", (5,)), ("LayerNorm", ((6, 5),)),
    ("InstanceNorm1d", (6,)), ("InstanceNorm1d", (6, 0.1, 0.1, True)), ("LocalResponseNorm", (3, 0.5)),
    ("Dropout1d", (0.0,)), ("Upsample", (7,)), ("Upsample", (None, 1.7)), ("Upsample", (3, None, "linear")),
    ("Upsample", (None, 2.5, "linear", True)), ("Upsample", (None, (1.3,), "linear", False)),
    ("Conv1d", (6, 4, 3)), ("ConvTranspose1d", (6, 4, 3)), ("ConvTranspose1d", (6, 4, 3, 2, 1, 1, 2, False, 2)),
    ("Linear", (5, 3)), ("Linear", (5, 3, False)),
    ("MaxPool1d", (2,)), ("AvgPool1d", (2,)), ("AdaptiveAvgPool1d", (2,)), ("AdaptiveMaxPool1d", (2,)),
    ("ZeroPad1d", (2,)), ("ConstantPad1d", ((1, 2), 0.5)), ("ReflectionPad1d", ((3, 1),)), ("ReplicationPad1d", (2,)),
]
CASES = [(name, args, shape) for name, args in BOTH for shape in (L, V)] + [(name, args, L) for name, args in ROWS] + [
    ("Linear", (5, 3), (2, 4, 5)), ("Linear", (5, 3), (1, 5)), ("Linear", (6, 3), V)]
named = pytest.mark.parametrize("name, args, shape", CASES, ids=lambda value: str(value))


def pair(torch, name, args):
    """Our layer, unless PyTorch alone has one, and PyTorch's with the same parameters, in float64."""
    theirs = getattr(torch.nn, name)(*args).double()
    for p in theirs.parameters():
        torch.nn.init.normal_(p, 0.3, generator=torch.Generator().manual_seed(p.numel()))
    if not hasattr(cnn, name):
        return None, theirs
    ours = getattr(cnn, name)(*args).to(np.float64)
    ours.load_state_dict({key: value.detach().numpy() for key, value in theirs.state_dict().items()})
    return ours, theirs


def compare(torch, layer, theirs, shape, tolerance):
    x = np.random.default_rng(0).standard_normal((4, *shape))
    given = torch.tensor(x, requires_grad=True)
    wanted = theirs.train()(given)
    dy = np.random.default_rng(1).standard_normal(wanted.shape)
    dx, *grads = torch.autograd.grad(wanted, [given, *theirs.parameters()], torch.tensor(dy))
    assert_close(layer.train()(x), wanted.detach().numpy(), tolerance)
    assert_close(layer.backward(dy), dx.numpy(), tolerance)
    for (_, p), grad in zip(layer.named_parameters(), grads, strict=True):
        assert_close(p.grad, grad.numpy(), tolerance)


@named
def test_values_and_gradients_are_those_of_pytorch(name, args, shape, torch):
    tolerance = 1e-7 if name in ("Hardswish", "Hardsigmoid") else None     # PyTorch's 1/6 is that of float32
    layer, theirs = pair(torch, name, args)
    if layer is not None:
        compare(torch, layer, theirs, shape, tolerance)
        assert_close(graph_module(layer.eval(), shape)(np.ones((2, *shape))), layer(np.ones((2, *shape))))
    compare(torch, cnn.from_torch(theirs.train(), shape), theirs, shape, tolerance)


@pytest.mark.parametrize("call", [
    lambda F, x, w: F.conv_transpose1d(x, w, None, 2, 1, 1), lambda F, x, w: F.group_norm(x, 2),
    lambda F, x, w: F.instance_norm(x), lambda F, x, w: F.local_response_norm(x, 3),
    lambda F, x, w: F.interpolate(x, 9), lambda F, x, w: F.interpolate(x, mode="linear", scale_factor=1.5),
    lambda F, x, w: F.batch_norm(x, None, None, training=True), lambda F, x, w: F.pad(x, (2, 1), "reflect"),
    lambda F, x, w: F.log_softmax(x, 2)])
def test_functions_of_arrays_are_those_of_pytorch(call, torch):
    x, w = np.random.default_rng(0).standard_normal((3, 6, 5)), np.random.default_rng(1).standard_normal((6, 2, 3))
    wanted = call(torch.nn.functional, torch.tensor(x), torch.tensor(w))
    assert_close(call(functional, x, w), wanted.numpy())


@pytest.mark.parametrize("shape", [(3, 5), (3, 4, 5), (3, 2, 4, 5), (0, 4, 5)])
def test_linear_of_arrays_goes_over_the_last_axis(shape, torch):
    x, w, b, dy = (np.random.default_rng(i).standard_normal(s) for i, s in enumerate((
        shape, (6, 5), 6, (*shape[:-1], 6))))
    given = [torch.tensor(a, requires_grad=True) for a in (x, w, b)]
    wanted = torch.nn.functional.linear(*given)
    wanted.backward(torch.tensor(dy))
    for got, tensor in zip((functional.linear(x, w, b), *functional.linear_backward(dy, x, w)), (
            wanted.detach(), *(a.grad for a in given)), strict=True):
        assert_close(got, tensor.numpy())


def test_linear_of_rows_learns_in_a_network_as_in_pytorch(torch):
    """Two of them with an activation between, as in a block over patches."""
    def net(m, **options):
        return m.Sequential(m.Linear(5, 7, **options), m.GELU(), m.Linear(7, 5, **options), m.LayerNorm(5))
    layer, theirs = net(cnn).to(np.float64), net(torch.nn).double()
    layer.load_state_dict({key: value.detach().numpy() for key, value in theirs.state_dict().items()})
    compare(torch, layer, theirs, (6, 5), None)
    compare(torch, layer, cnn.export.to_torch(layer, (6, 5)), (6, 5), None)


def test_linear_names_the_last_axis_and_the_flattened_size():
    words = r"Linear: x must have shape \(N, 9\) or \(N, ..., 9\), got \(N, 2, 3, 4\), whose last axis has 4; " \
            r"Flatten\(\) before it makes \(N, 24\) of it"
    with pytest.raises(ValueError, match=words):
        cnn.Linear(9, 2)(np.ones((1, 2, 3, 4), np.float32))


def test_group_norm_takes_vectors_and_has_their_gradient(torch):
    x, w, dy = (np.random.default_rng(i).standard_normal(shape) for i, shape in enumerate(((3, 6), (6,), (3, 6))))
    given, weight = (torch.tensor(a, requires_grad=True) for a in (x, w))
    torch.nn.functional.group_norm(given, 2, weight).backward(torch.tensor(dy))
    dx, dw, db = functional.group_norm_backward(dy, x, 2, w)
    for got, wanted in ((dx, given.grad.numpy()), (dw, weight.grad.numpy()), (db, dy.sum(0))):
        assert_close(got, wanted)


@pytest.mark.parametrize("call, words", [
    (lambda x: functional.interpolate(x, 7, mode="bilinear"),
     r"interpolate: mode must be 'nearest' or 'linear' for sequences \(N, C, L\), got 'bilinear'"),
    (lambda x: functional.interpolate(x[..., None], 7, mode="linear"),
     r"interpolate: mode must be 'nearest' or 'bilinear' for images \(N, C, H, W\), got 'linear'"),
    (lambda x: functional.interpolate(x, (7, 3)), r"interpolate: size must be one integer, got \(7, 3\)"),
    (lambda x: functional.interpolate(x, scale_factor=(2, 3)),
     r"interpolate: scale_factor must be a number, got \(2, 3\)"),
    (lambda x: cnn.ReflectionPad1d(1)(x[..., None]), r"ReflectionPad1d: x must have shape \(N, C, L\), got"),
    (lambda x: cnn.ConstantPad1d((1, 2, 3, 4), 0.0), "ConstantPad1d: padding must be an integer or two, got"),
    (lambda x: cnn.InstanceNorm1d(6).to(np.float64)(x[:, :, :1]), "InstanceNorm1d: images must have more than one"),
    (lambda x: cnn.InstanceNorm1d(6).to(np.float64)(x[..., None]), r"InstanceNorm1d: x must have shape \(N, C, L\)"),
    (lambda x: cnn.LocalResponseNorm(3)(x[..., 0]), r"LocalResponseNorm: x must have shape \(N, C, H, W\)"),
    (lambda x: cnn.GroupNorm(2, 4).to(np.float64)(x), "GroupNorm: x must have 4 channels, got 6"),
    (lambda x: cnn.ConvTranspose1d(6, 2, 3, output_padding=1), "ConvTranspose1d: output_padding must be less than"),
    (lambda x: cnn.ConvTranspose1d(6, 2, 3, dtype=np.float64)(x[..., None]), r"ConvTranspose1d: x must have shape"),
    (lambda x: functional.conv_transpose1d(x, x[0]), r"conv_transpose1d: weight must have shape \(C, K/groups, R\)")])
def test_other_shapes_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call(np.random.default_rng(0).standard_normal((3, 6, 5)))


@pytest.mark.parametrize("padding", ["same", None, 1.5])
def test_padding_of_a_transposed_convolution_is_a_number(padding):
    with pytest.raises(TypeError, match="ConvTranspose1d: padding must be an integer"):
        cnn.ConvTranspose1d(2, 2, 3, padding=padding)


def test_sequences_of_a_data_set_are_images_of_one_channel():
    class Net(cnn.Module):
        def __init__(self, squeezed):
            super().__init__()
            self.conv, self.squeezed = cnn.Conv1d(2, 3, 5), squeezed

        def forward(self, x):
            return self.conv(x.squeeze(1) if self.squeezed else x).mean(2)
    x = np.random.default_rng(0).standard_normal((8, 2, 9)).astype(np.float32)
    data = cnn.data.Dataset(x, np.arange(8) % 3)

    def fit(model):
        return cnn.Trainer(model, cnn.SGD(model.parameters(), 0.1), progress=False).fit(data, 1)
    with pytest.raises(ValueError, match=r"Conv1d: x must have shape \(N, C, L\), got .* begins with x.squeeze\(1\)"):
        fit(Net(False))
    model = Net(True)
    wanted = cnn.CrossEntropyLoss()(Net(False)(x), data.labels)
    assert fit(model)[0]["train_loss"] == pytest.approx(wanted, rel=1e-5)
