"""What PyTorch's programs have around attention and of weights alone, read by `from_torch`."""
import numpy as np
import pytest
from cases import assert_close

import cnn

torch = pytest.importorskip("torch")
nn, TF = torch.nn, torch.nn.functional


class Net(nn.Module):
    """A function of x, two weights and what `make` makes."""

    def __init__(self, function, make=None):
        super().__init__()
        torch.manual_seed(0)
        self.function, self.qkv = function, nn.Linear(12, 36)
        self.w, self.v = nn.Parameter(torch.rand(1, 12) + 0.5), nn.Parameter(torch.rand(3) + 0.5)
        self.register_buffer("b", torch.rand(12) + 0.5)
        self.register_buffer("mask", torch.full((6, 6), -1.5).triu(1))
        self.part = None if make is None else make()

    def forward(self, x):
        return self.function(self, x)


def by_permute(self, x):
    images, length, width = x.shape
    qkv = self.qkv(x).reshape(images, length, 3, 4, width // 4).permute(2, 0, 3, 1, 4)
    q, k, v = qkv[0], qkv[1], qkv[2]
    weights = (q @ k.transpose(-2, -1) * (width // 4) ** -0.5).softmax(dim=-1)
    return (weights @ v).transpose(1, 2).reshape(images, length, width)


def by_unbind(self, x):
    images, length, width = x.shape
    q, k, v = self.qkv(x).reshape(images, length, 3, 4, width // 4).permute(2, 0, 3, 1, 4).unbind(0)
    return TF.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(images, length, width)


def encoder_layer(**options):
    return nn.TransformerEncoderLayer(12, 4, 24, batch_first=True, **options)


CASES = {
    "permute": by_permute, "unbind": by_unbind,
    "causal": lambda self, x: TF.scaled_dot_product_attention(x, x, x, is_causal=True, scale=0.3),
    "std": lambda self, x: x.std(dim=(1, 2)),
    "var": lambda self, x: x.var(1, keepdim=True) * torch.var(x, dim=2, unbiased=False, keepdim=True),
    "norm": lambda self, x: x.norm(dim=1) + torch.norm(x, p=1, dim=1) + torch.norm(x, float("inf"), 1),
    "flip, roll": lambda self, x: x.flip(1) + torch.flip(x, [2]) + torch.roll(x, 2, 1) + x.roll((1, -1), (1, 2)),
    "parts": lambda self, x: x.narrow(1, 1, 3).sum(1) + x.select(1, 2) + x.unbind(1)[0] + torch.unbind(x, dim=1)[1],
    "repeats": lambda self, x: x.repeat(1, 2, 1) + x.repeat_interleave(2, dim=1),
    "masked_fill": lambda self, x: x.masked_fill(x > 0, 0.5) + torch.lerp(x, 2 * x, 0.3) * x.sign(),
    "logsumexp": lambda self, x: torch.logsumexp(x, 1) + x.logsumexp(dim=1), "glu": lambda self, x: TF.glu(x, -1),
    "gate": lambda self, x: x * torch.sigmoid(self.w) + (1 - self.w) * x, "exp": lambda self, x: x * self.w.exp(),
    "weights": lambda self, x: torch.softmax(self.v, 0)[0] * x + TF.relu(self.v)[1] / (self.v.sum() + 1e-4),
    "cosines": lambda self, x: TF.linear(TF.normalize(x, dim=-1), TF.normalize(self.w)),
    "product": lambda self, x: x @ self.w.t() + x @ self.w.T * self.v[0],
    "element": lambda self, x: x * self.w[0, 2] - self.w.view(-1).mean() * self.w.size(1),
    "buffer": lambda self, x: x * (self.b + 1) / self.b.sqrt() + (self.w * self.b).sum(),
    "where": lambda self, x: x.where(x > 0, 3 * x) + x.where(self.w > 1, 2 * x) * self.w.where(self.w > 1, 2 * self.w),
    "equal": lambda self, x: x * (self.w == self.w.amax()) + x * torch.ne(self.w, 1) + x @ x.mT @ x,
    "norms": lambda self, x: x * torch.norm(self.w, dim=1) + self.w.norm(),
    "mask of values": lambda self, x: TF.scaled_dot_product_attention(x, x, x, x @ x.transpose(1, 2) > 0),
    "token": lambda self, x: torch.cat([(self.w * 2)[None].expand(x.size(0), -1, -1), x], 1),
    "attention": (lambda self, x: self.part(x, x, x, need_weights=False)[0],
                  lambda: nn.MultiheadAttention(12, 4, batch_first=True)),
    "weights of attention": (lambda self, x: self.part(x, x, x),
                             lambda: nn.MultiheadAttention(12, 3, batch_first=True)),
    "mask of a buffer": (lambda self, x: self.part(x, x, x, attn_mask=self.mask)[0],
                         lambda: nn.MultiheadAttention(12, 3, batch_first=True)),
    "masked attention": (lambda self, x: self.part(x, x, x, attn_mask=torch.full((6, 6), -1.5).double().triu(1))[0],
                         lambda: nn.MultiheadAttention(12, 3, bias=False, batch_first=True)),
    "encoder layer": (lambda self, x: self.part(x), lambda: encoder_layer(dropout=0.0)),
    "encoder": (lambda self, x: self.part(x), lambda: nn.TransformerEncoder(
        encoder_layer(norm_first=True, activation=nn.GELU("tanh")), 2, nn.LayerNorm(12), enable_nested_tensor=False)),
}


@pytest.mark.parametrize("name", CASES)
def test_scores_and_gradients(name):
    theirs = Net(*(CASES[name] if isinstance(CASES[name], tuple) else (CASES[name],))).double().eval()
    x = torch.tensor(np.random.default_rng(0).standard_normal((3, 6, 12)), requires_grad=True)
    ours = cnn.from_torch(theirs, (6, 12))
    got, wanted = ours(x.detach().numpy()), theirs(x)
    pairs = list(zip(got, wanted, strict=True)) if isinstance(got, tuple) else [(got, wanted)]
    for y, z in pairs:
        assert_close(y, z.detach().numpy(), 1e-9)
    if isinstance(got, tuple) or name == "encoder":     # in evaluation mode PyTorch's encoder has no gradients
        return
    ours.train()
    y = ours(x.detach().numpy())
    if name == "encoder layer" or "dropout" not in [node.operation for node in ours.nodes]:
        dy = np.random.default_rng(1).standard_normal(y.shape)
        dx = ours.backward(dy)
        theirs.train()
        theirs(x).backward(torch.tensor(dy))
        assert_close(dx, x.grad.numpy(), 1e-9)
        gradients = {key: p.grad for key, p in ours.named_parameters()}
        for key, p in theirs.named_parameters():
            if p.grad is not None:
                assert_close(gradients[key], p.grad.numpy(), 1e-9)


def test_dropouts_of_a_layer_are_told_apart():
    theirs = Net(lambda self, x: self.part(x), lambda: encoder_layer(dropout=0.5)).train()
    ours = cnn.from_torch(theirs, (6, 12))
    assert sum(node.operation == "dropout" for node in ours.nodes) == 4
    x = np.random.default_rng(0).standard_normal((2, 6, 12)).astype(np.float32)
    assert not np.array_equal(ours(x), ours(x))
    assert_close(ours.eval()(x), theirs.eval()(torch.tensor(x)).detach().numpy(), 1e-5)


@pytest.mark.parametrize("case, words", [
    ((lambda self, x: self.part(x, x, x)[0], lambda: nn.MultiheadAttention(12, 4)), "batch_first must be True"),
    ((lambda self, x: self.part(x, 2 * x, x)[0], lambda: nn.MultiheadAttention(12, 4, batch_first=True)),
     r"part \(MultiheadAttention\): query, key and value must be one value"),
    ((lambda self, x: x.std(),), r"\(std\): dim must be given"),
    ((lambda self, x: x.norm(),), r"\(norm\): dim must be"),
    ((lambda self, x: x * self.w.cumsum(0),), r"\(cumsum\): it is not done here with weights alone"),
    ((lambda self, x: x + self.qkv(self.w).sum(),), r"qkv \(Linear\)"),
])
def test_what_is_refused(case, words):
    with pytest.raises(ValueError, match=words):
        cnn.from_torch(Net(*case).eval(), (6, 12))
