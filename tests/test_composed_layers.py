"""Layers and losses that are made of functions: numbers and gradients by PyTorch's of the same name and arguments."""
import inspect

import numpy as np
import pytest
from cases import Function, assert_all_close, assert_close

import cnn
from cnn import functional as F
from cnn.engine import backend
from cnn.layers.graph_module import graph_module

IMAGE = 4, 3, 6
LAYERS = {
    "GLU": [((), IMAGE), ((1,), IMAGE), ((), (6,))], "SELU": [((), IMAGE)], "CELU": [((0.5,), IMAGE), ((), (5,))],
    "LogSigmoid": [((), IMAGE)], "Softsign": [((), IMAGE)], "Tanhshrink": [((), IMAGE)],
    "Hardshrink": [((), IMAGE), ((0.9,), (5,))], "Softshrink": [((), IMAGE), ((0.9,), (5,))],
    "Threshold": [((0.2, 3.0), IMAGE)], "Softmin": [((1,), IMAGE), ((-1,), (3, 5))], "Softmax2d": [((), IMAGE)],
    "Unflatten": [((1, (2, 2)), (4, 5)), ((-1, (3, -1)), (6,))],
    "Unfold": [((2,), IMAGE), (((3, 2), 1, (1, 0), 2), IMAGE)],
    "RMSNorm": [((6,), (5, 6)), (((3, 6),), IMAGE), ((6, 0.1, False), (6,))],
}


def both(torch, name, arguments, **options):
    """Ours and PyTorch's, in float64, with the same state."""
    ours, theirs = getattr(cnn, name)(*arguments, **options), getattr(torch.nn, name)(*arguments, **options).double()
    ours.to(np.float64)
    for p in ours.parameters():
        p.data = np.random.default_rng(7).standard_normal(p.shape)
    theirs.load_state_dict({name: torch.tensor(array) for name, array in ours.state_dict().items()})
    return ours, theirs


@pytest.mark.parametrize("images", [2, 17])
@pytest.mark.parametrize("name, arguments, image", [(name, *case) for name, cases in LAYERS.items() for case in cases])
def test_layers(name, arguments, image, images, torch):
    ours, theirs = both(torch, name, arguments)
    x = np.random.default_rng(0).standard_normal((images, *image))
    t = torch.tensor(x, requires_grad=True)
    y, z = ours(x), theirs(t)
    assert_close(y, z.detach().numpy(), 1e-12)
    dy = np.random.default_rng(1).standard_normal(y.shape)
    z.backward(torch.tensor(dy))
    assert_close(ours.backward(dy), t.grad.numpy(), 1e-12)
    for what, p in ours.named_parameters():
        assert_close(p.grad, dict(theirs.named_parameters())[what].grad.numpy(), 1e-12)
    assert_close(backend.using("reference", ours, x), y, 1e-12)
    assert_close(graph_module(ours, image)(x.astype(x.dtype if ours.dtype else np.float32)), y, 1e-4)
    assert type(theirs).__name__ in repr(ours)


FUNCTIONS = {
    "celu": (0.7,), "selu": (), "logsigmoid": (), "softsign": (), "tanhshrink": (), "hardshrink": (0.4,),
    "softshrink": (0.4,), "threshold": (0.1, -1.0), "softmin": (2,), "rms_norm": ((3, 6),), "unfold": (2, 1, 1, 2),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_arrays(name, torch):
    x = np.random.default_rng(0).standard_normal((3, *IMAGE))
    wanted = getattr(torch.nn.functional, name)(torch.tensor(x), *FUNCTIONS[name])
    assert_close(getattr(F, name)(x, *FUNCTIONS[name]), wanted.numpy(), 1e-12)


def test_rms_norm_of_weights(torch):
    x, w = np.random.default_rng(0).standard_normal((3, 5, 6)), np.random.default_rng(1).standard_normal(6)
    wanted = torch.nn.functional.rms_norm(torch.tensor(x), (6,), torch.tensor(w), 0.1)
    assert_close(F.rms_norm(x, 6, w, 0.1), wanted.numpy(), 1e-12)
    assert_close(F.rms_norm(x, 6, cnn.Parameter(w), 0.1), wanted.numpy(), 1e-12)


# ---------------------------------------------------------------- losses

N, K = 6, 4
RNG = np.random.default_rng(2)
SCORES, SIGNS, SHARES = RNG.standard_normal((N, K)), RNG.choice([-1.0, 1.0], (N, K)), RNG.random((N, K))
COUNTS, CLASSES, WEIGHT = RNG.poisson(2.0, (N, K)) * 1.0, RNG.integers(0, K, N), np.array([0.5, 1, 2, 3])
OF_TWO = {
    "SoftMarginLoss": [({}, SCORES, SIGNS)], "HingeEmbeddingLoss": [({"margin": 0.7}, SCORES, SIGNS)],
    "MultiLabelSoftMarginLoss": [({}, SCORES, SHARES), ({"weight": WEIGHT}, SCORES, SHARES)],
    "MultiMarginLoss": [({}, SCORES, CLASSES), ({"p": 2, "margin": 0.6, "weight": WEIGHT}, SCORES, CLASSES)],
    "PoissonNLLLoss": [({}, SCORES, COUNTS), ({"full": True}, SCORES, COUNTS),
                       ({"log_input": False, "eps": 1e-3}, SHARES, COUNTS)],
}
A, B, C = (RNG.standard_normal((N, 5)) for _ in range(3))
OF_THREE = {
    "TripletMarginLoss": [({}, A, B, C), ({"margin": 4.0, "p": 1.0, "swap": True}, A, B, C)],
    "MarginRankingLoss": [({"margin": 0.4}, SCORES, SCORES[::-1].copy(), SIGNS)],
    "CosineEmbeddingLoss": [({"margin": 0.1}, A, B, SIGNS[:, 0])],
    "GaussianNLLLoss": [({}, SCORES, COUNTS, SHARES + 0.1),
                        ({"full": True, "eps": 0.5}, SCORES, COUNTS, SHARES[:, :1])],
}


def tensors(torch, options):
    return {name: torch.tensor(x) if isinstance(x, np.ndarray) else x for name, x in options.items()}


@pytest.mark.filterwarnings("ignore:reduction")
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name, options, scores, targets", [(name, *case) for name, cases in OF_TWO.items()
                                                            for case in cases])
def test_losses_of_scores_and_targets(name, options, scores, targets, reduction, torch):
    loss = getattr(cnn, name)(**options, reduction=reduction)
    theirs = getattr(torch.nn, name)(**tensors(torch, options), reduction=reduction)
    x = torch.tensor(scores, requires_grad=True)
    wanted = theirs(x, torch.tensor(targets))
    wanted.sum().backward()
    y = loss(scores, targets)
    assert_close(np.asarray(y), wanted.detach().numpy(), 1e-12)
    assert_close(loss.backward(np.ones_like(y)) if reduction == "none" else loss.backward(), x.grad.numpy(), 1e-12)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name, options, given", [(name, case[0], case[1:]) for name, cases in OF_THREE.items()
                                                  for case in cases])
def test_losses_of_three(name, options, given, reduction, torch):
    loss = getattr(cnn, name)(**options, reduction=reduction)
    xs = [torch.tensor(x, requires_grad=True) for x in given]
    wanted = getattr(torch.nn, name)(**options, reduction=reduction)(*xs)
    wanted.sum().backward()
    assert_close(np.asarray(loss(*given)), wanted.detach().numpy(), 1e-12)
    model = Function(lambda *xs: loss(*xs))
    y = model(*given)       # of values one number per image, of which a Criterion takes the mean
    each = {"mean": np.mean, "sum": np.sum, "none": np.asarray}[reduction]
    assert_close(each(y), wanted.detach().numpy(), 1e-12)
    share = 1 / N if reduction == "mean" else 1.0
    gradients = model.backward(np.full(y.shape, share))
    assert_all_close(gradients[:2], [np.zeros(x.shape) if x.grad is None else x.grad.numpy() for x in xs[:2]], 1e-12)


def test_a_loss_of_three_trains():
    """In a loss of all outputs, as of a network with three of them."""
    class Net(cnn.Module):
        def __init__(self):
            super().__init__()
            self.body = cnn.Sequential(cnn.Flatten(), cnn.Linear(12, 4))

        def forward(self, x):
            return tuple(self.body(part) for part in x.chunk(3, 1))
    triplet, model = cnn.TripletMarginLoss(margin=2.0), Net()
    images = np.random.default_rng(0).random((40, 3, 3, 4), np.float32)
    images[:, 1] = images[:, 0] + 0.1 * images[:, 1]
    trainer = cnn.Trainer(model, cnn.Adam(model.parameters(), lr=0.01), lambda outputs, target: triplet(*outputs),
                          progress=False)
    trainer.fit(cnn.data.DataLoader(cnn.data.Dataset(images, np.zeros(40, int)), 20), 40)
    assert triplet(*model.eval()(images)) < 0.5 * triplet(*Net()(images))


# ---------------------------------------------------------------- tables of rows, numbers as inputs

@pytest.mark.parametrize("shape", [(5,), (5, 3), (17, 3)])
@pytest.mark.parametrize("padding_idx", [None, -3])
def test_embedding(shape, padding_idx, torch):
    ours, theirs = both(torch, "Embedding", (7, 4, padding_idx))
    x = np.random.default_rng(0).integers(0, 7, shape)
    x.flat[0] = 4
    y, z = ours(x), theirs(torch.tensor(x))
    assert_close(y, z.detach().numpy(), 1e-12)
    z.backward(torch.ones_like(z))
    ours.backward(np.ones_like(y))
    assert_close(ours.weight.grad, theirs.weight.grad.numpy(), 1e-12)
    assert_close(F.embedding(x, ours.weight), y, 1e-12)
    assert_close(Function(lambda x: F.embedding(x, ours.weight))(x.astype(float)), y, 1e-12)


@pytest.mark.parametrize("shape", [(), [()], None])
def test_a_network_of_numbers_is_saved(shape, tmp_path):
    model, x = cnn.Sequential(cnn.Embedding(7, 4, seed=0), cnn.Linear(4, 2)), np.array([0, 6, 3])
    y = model.eval()(x)
    cnn.save(model, tmp_path / "net.safetensors", shape)
    np.testing.assert_array_equal(cnn.load_model(tmp_path / "net.safetensors")[0](x), y)


class Placed(cnn.Module):
    """Places by their numbers, which are the same for every image."""

    def __init__(self, numbers):
        super().__init__()
        self.table, self.numbers = cnn.Embedding(6, 4), numbers

    def forward(self, x):
        return x * self.table(self.numbers)


@pytest.mark.parametrize("shape", [(5,), (3, 5)])
def test_rows_of_places(shape):
    numbers = np.random.default_rng(0).integers(0, 6, shape)
    model, x = Placed(numbers).to(np.float64), np.random.default_rng(1).standard_normal((17, *shape, 4))
    assert_close(model(x), x * model.table.weight.data[numbers], 1e-12)
    model.backward(np.ones_like(x))
    want = np.zeros((6, 4))
    np.add.at(want, numbers, x.sum(0))
    assert_close(model.table.weight.grad, want, 1e-12)
    for wrong in (numbers + 1.5, numbers - 6, numbers + 6, numbers[:0]):
        with pytest.raises(ValueError, match="Embedding: an array must hold one or two axes of integers from 0 to 5"):
            Placed(wrong)(x.astype(np.float32))


class Conditional(cnn.Module):
    """A network that is told a class and a time of each image, as integers and as a bool."""

    def __init__(self):
        super().__init__()
        self.conv, self.table, self.head = cnn.Conv2d(1, 4, 3), cnn.Embedding(10, 4), cnn.Linear(4, 2)

    def forward(self, x, digit, time, flag):
        y = self.conv(x) + self.table(digit)[:, :, None, None] * time.reshape(-1, 1, 1, 1)
        return self.head(y.mean((2, 3))) * (1 + flag.unsqueeze(1))


def test_numbers_of_each_image_are_inputs(tmp_path):
    model, rng = Conditional(), np.random.default_rng(0)
    x, digit = rng.random((5, 1, 6, 6), np.float32), rng.integers(0, 10, 5)
    time, flag = rng.random(5, np.float32), rng.random(5) > 0.5
    y = model(x, digit, time, flag)
    floats = [array.astype(np.float32) for array in (digit, time, flag)]
    np.testing.assert_array_equal(model(x, *floats), y)
    for i in range(5):
        assert_close(model(x[i:i + 1], digit[i:i + 1], time[i:i + 1], flag[i:i + 1]), y[i:i + 1], 1e-5)
    model(x, digit, time, flag)
    dx, *others = model.backward(np.ones_like(y))
    assert dx.shape == x.shape and all(other.shape == (5,) for other in others)
    sizes = (1, 6, 6), (), (), ()
    cnn.save(model, tmp_path / "net.safetensors", sizes)
    assert_close(cnn.load_model(tmp_path / "net.safetensors")[0](x, *floats), y, 1e-6)
    compiled = cnn.compile(model.eval(), *sizes)
    assert_close(compiled(x, digit, time, flag), y, 1e-5)
    with pytest.raises(ValueError, match="must hold 5 images"):
        model(x, digit[:4], time, flag)
    with pytest.raises(TypeError, match="Conv2d: x must be float32, got uint8"):
        model.conv((255 * x).astype(np.uint8))


def test_training_with_numbers_of_each_image():
    model, rng = Conditional(), np.random.default_rng(0)
    labels = {"digit": rng.integers(0, 10, 40), "time": rng.random(40), "flag": rng.integers(0, 2, 40),
              "y": rng.integers(0, 2, 40)}
    data = cnn.data.Dataset(rng.random((40, 1, 6, 6), np.float32), labels)
    trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), lr=0.1), {"y": cnn.CrossEntropyLoss()}, progress=False,
                          inputs=["digit", "time", "flag"])
    before = model.table.weight.data.copy()
    trainer.fit(cnn.data.DataLoader(data, 20), 2)
    assert (model.table.weight.data != before).any(1).sum() == len(set(labels["digit"].tolist()))


# ---------------------------------------------------------------- lists of Parameters

class Mixed(cnn.Module):
    """Operations weighed by what is learnt (Liu, Simonyan & Yang 2019), and scaled by name."""

    def __init__(self):
        super().__init__()
        self.alphas = cnn.ParameterList([cnn.Parameter(np.full(2, float(i))) for i in range(2)])
        self.scales = cnn.ParameterDict({"a": np.array([2.0])})
        self.scales["b"] = cnn.Parameter(np.array([3.0]))

    def forward(self, x):
        for alpha in self.alphas:
            w = F.softmax(alpha, 0)
            x = w[0] * x + w[1] * x ** 2
        return x * self.scales["a"] + sum(self.scales.values())


def test_lists_of_parameters():
    model, x = Mixed(), np.random.default_rng(0).random((3, 4))
    assert [name for name, _ in model.named_parameters()] == ["alphas.0", "alphas.1", "scales.a", "scales.b"]
    y = (x + x * x) / 2
    assert_close(model(x), 2 * ((y + y * y) / 2) + 5, 1e-12)
    model.backward(np.ones((3, 4)))
    assert_close(model.scales["b"].grad, np.array([12.0]), 1e-12)
    model.alphas[1] = np.array([0.0, -1e3])
    assert_close(model(x), 2 * y + 5, 1e-12)
    model.alphas.append(np.array([-1e3, 0.0]))
    assert_close(model(x), 2 * y * y + 5, 1e-12)
    assert len(model.alphas) == 3 and len(model.alphas[1:]) == 2 and "b" in model.scales
    assert dict(model.scales.items()) == dict(zip(model.scales, model.scales.values(), strict=True))
    assert repr(model.alphas) == "ParameterList((2,), (2,), (2,))"
    copied = Mixed()
    copied.alphas.extend([np.zeros(2)])
    copied.load_state_dict(model.state_dict())
    assert_close(copied(x), model(x), 1e-12)


@pytest.mark.parametrize("make, error, words", [
    (lambda: cnn.ParameterList([3]), TypeError, "it holds Parameters and arrays, got int"),
    (lambda: cnn.ParameterList(3), TypeError, "values must be a list of Parameters"),
    (lambda: cnn.ParameterDict({"a.b": np.ones(2)}), ValueError, "a name must be a text without a dot, got 'a.b'"),
    (lambda: cnn.ParameterDict({"forward": np.ones(2)}), ValueError, "a name must be no attribute of modules"),
    (lambda: cnn.ParameterDict({"a": "b"}), TypeError, "it holds Parameters and arrays, got str"),
])
def test_what_is_no_list_of_parameters(make, error, words):
    with pytest.raises(error, match=words):
        make()


# ---------------------------------------------------------------- attention

def far(mask):
    return np.where(mask, -np.inf, 0.0)


CAUSAL = np.triu(np.ones((5, 5)), 1) > 0
PADDED = np.arange(5) >= np.array([5, 3, 4])[:, None]


@pytest.mark.parametrize("options", [
    {}, {"attn_mask": CAUSAL}, {"attn_mask": far(CAUSAL)}, {"key_padding_mask": PADDED},
    {"average_attn_weights": False}, {"need_weights": False}])
@pytest.mark.parametrize("made", [{}, {"bias": False}, {"kdim": 3, "vdim": 7}])
def test_attention_of_several_heads(made, options, torch):
    ours, theirs = both(torch, "MultiheadAttention", (8, 2), **made, batch_first=True)
    rng = np.random.default_rng(0)
    given = [rng.standard_normal((3, 5, width)) for width in (8, made.get("kdim", 8), made.get("vdim", 8))]
    xs = [torch.tensor(x, requires_grad=True) for x in given]
    z, weights = theirs(*xs, **tensors(torch, options))
    mask = options.get("key_padding_mask")
    rest = {name: x for name, x in options.items() if name != "key_padding_mask"}

    class Net(cnn.Module):
        def __init__(self):
            super().__init__()
            self.attention = ours

        def forward(self, q, k, v, mask=None):
            found = self.attention(q, k, v, mask, **rest)
            return found[0] if found[1] is None else found
    model = Net()
    found = model(*given, *([] if mask is None else [mask]))
    y = found if weights is None else found[0]
    assert_close(y, z.detach().numpy(), 1e-12)
    if weights is not None:
        assert_close(found[1], weights.detach().numpy(), 1e-12)
    dy = rng.standard_normal(y.shape)
    z.backward(torch.tensor(dy))
    dxs = model.backward(dy if weights is None else (dy, None))
    assert_all_close(dxs[:3], [x.grad.numpy() for x in xs], 1e-12)
    for name, p in ours.named_parameters():
        assert_close(p.grad, theirs.get_parameter(name).grad.numpy(), 1e-11)


def test_attention_of_one_value_with_itself(torch):
    ours, theirs = both(torch, "MultiheadAttention", (8, 2), batch_first=True)
    x = np.random.default_rng(0).standard_normal((3, 5, 8))
    t = torch.tensor(x)
    model = Function(lambda x: ours(x)[0])
    assert_close(model(x), theirs(t, t, t)[0].detach().numpy(), 1e-12)


@pytest.mark.parametrize("asked", [
    lambda q, x: q.expand(x.size(0), -1, -1), lambda q, x: q.repeat(x.size(0), 1, 1),
    lambda q, x: q[0].unsqueeze(0).expand(x.size(0), -1, -1), lambda q, x: q])
def test_queries_that_are_learnt(asked, torch):
    """As of a pooling by attention (Lee et al. 2019)."""
    ours, theirs = both(torch, "MultiheadAttention", (8, 2), bias=False, batch_first=True)

    class Net(cnn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.q = ours, cnn.Parameter(np.random.default_rng(3).standard_normal((1, 4, 8)))

        def forward(self, x):
            return self.attention(asked(self.q, x), x, x)[0]
    model, x = Net(), np.random.default_rng(0).standard_normal((3, 5, 8))
    q, t = torch.tensor(model.q.data, requires_grad=True), torch.tensor(x)
    z, y = theirs(q.expand(3, -1, -1), t, t)[0], model(x)
    assert_close(y, z.detach().numpy(), 1e-12)
    z.backward(torch.ones_like(z))
    model.backward(np.ones_like(y))
    assert_close(model.q.grad, q.grad.numpy(), 1e-12)


@pytest.mark.parametrize("options", [{}, {"norm_first": True, "activation": "gelu"}, {"bias": False}])
def test_transformers(options, torch):
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, **options)
    theirs = torch.nn.TransformerEncoder(layer, 2, torch.nn.LayerNorm(8), enable_nested_tensor=False).double()
    one = cnn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, **options)
    ours = cnn.TransformerEncoder(one, 2, cnn.LayerNorm(8))
    ours.to(np.float64).load_state_dict({name: tensor.numpy() for name, tensor in theirs.state_dict().items()})
    x = np.random.default_rng(0).standard_normal((3, 5, 8))
    t = torch.tensor(x, requires_grad=True)
    model = Function(lambda x: ours(x, CAUSAL))
    z, y = theirs(t, torch.tensor(CAUSAL)), model(x)
    assert_close(y, z.detach().numpy(), 1e-11)
    dy = np.random.default_rng(1).standard_normal(y.shape)
    z.backward(torch.tensor(dy))
    assert_close(model.backward(dy), t.grad.numpy(), 1e-11)
    for name, p in ours.named_parameters():
        assert_close(p.grad, theirs.get_parameter(name).grad.numpy(), 1e-10)


def test_a_transformer_trains_and_drops():
    class Net(cnn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = cnn.Conv2d(1, 16, 4, stride=4), cnn.Linear(16, 10)
            self.places = cnn.Parameter(np.random.default_rng(0).standard_normal((1, 49, 16), np.float32))
            layer = cnn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True)
            self.encoder = cnn.TransformerEncoder(layer, 2)

        def forward(self, x):
            x = self.embed(x).flatten(2).transpose(1, 2) + self.places
            return self.head(self.encoder(x).mean(1))
    train, _ = cnn.data.load("mnist-sample")
    train = train.subset(np.arange(600))
    model = Net()
    x = train.normalise(train.images[:8])
    assert not np.array_equal(model(x), model(x))
    trainer = cnn.Trainer(model, cnn.Adam(model.parameters(), lr=3e-3), progress=False)
    trainer.fit(cnn.data.DataLoader(train, 32, shuffle=True), 8)
    assert trainer.evaluate(train)["accuracy"] > 0.5
    assert np.array_equal(model.eval()(x), model(x))


def attention():
    return cnn.MultiheadAttention(8, 2, batch_first=True)


@pytest.mark.parametrize("make, error, words", [
    (lambda: cnn.GLU(9), ValueError, "GLU: dim"), (lambda: cnn.CELU(0), ValueError, "CELU: alpha"),
    (lambda: cnn.Hardshrink(-1), ValueError, "Hardshrink: lambd"),
    (lambda: cnn.Unflatten(1, 3), TypeError, "Unflatten"),
    (lambda: cnn.Embedding(3, 2, 3), ValueError, "Embedding: padding_idx"),
    (lambda: cnn.RMSNorm(4)(np.ones((2, 3), np.float32)), ValueError, "rms_norm: the last axes of x must be"),
    (lambda: F.rms_norm(np.ones((2, 3)), 3, np.ones(2)), ValueError, "rms_norm: weight must have shape"),
    (lambda: cnn.Softmax2d()(np.ones((2, 3), np.float32)), ValueError, "Softmax2d: x must have shape"),
    (lambda: cnn.MultiheadAttention(7, 2), ValueError, "embed_dim must be a multiple of num_heads, got 7 and 2"),
    (lambda: cnn.MultiheadAttention(8, 2), ValueError, "batch_first must be True"),
    (lambda: attention()(np.ones((2, 5, 7), np.float32)), ValueError, "query must have shape"),
    (lambda: attention()(np.ones((2, 5, 8), np.float32), is_causal=True), ValueError, "attn_mask"),
    (lambda: cnn.TransformerEncoderLayer(8, 2, activation="abs", batch_first=True), ValueError, "activation must be a"),
    (lambda: cnn.TransformerEncoder(3, 2), TypeError, "encoder_layer must be a Module"),
    (lambda: cnn.TripletMarginLoss(0), ValueError, "TripletMarginLoss: margin"),
    (lambda: cnn.CosineEmbeddingLoss(reduction="max"), ValueError, "CosineEmbeddingLoss: reduction"),
    (lambda: cnn.CosineEmbeddingLoss()(A, B, SIGNS), ValueError, r"input1 must have shape \(N, features\) and target"),
    (lambda: cnn.GaussianNLLLoss()(SCORES, COUNTS, SHARES[:, :2]), ValueError, "var must have the shape of x"),
    (lambda: cnn.MultiMarginLoss()(SCORES, CLASSES + K), ValueError, "MultiMarginLoss: target"),
    (lambda: cnn.MultiMarginLoss()(SCORES, SIGNS), ValueError, r"scores must have shape \(N, K\)"),
    (lambda: F.embedding(np.ones(3, int), np.ones(3)), ValueError, r"weight must have shape \(K, D\)"),
    (lambda: F.unfold(np.ones((1, 1, 2, 2)), 3), ValueError, "unfold"),
])
def test_what_does_not_fit(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_each_has_a_word_in_print():
    for name in LAYERS:
        arguments = LAYERS[name][0][0]
        assert repr(getattr(cnn, name)(*arguments)).startswith(f"{name}(")
        assert inspect.getdoc(getattr(cnn, name))
