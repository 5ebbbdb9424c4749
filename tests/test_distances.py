"""Distances, similarities and the loss of triplets: as PyTorch has them, with gradients."""
import numpy as np
import pytest
from cases import Function, assert_all_close, assert_close

import cnn
from cnn import functional as F

CASES = [
    ("pairwise_distance", {}, 2, (5,)), ("pairwise_distance", {"p": 1, "eps": 0.1, "keepdim": True}, 2, (5,)),
    ("pairwise_distance", {"p": 3.0}, 2, (4, 5)), ("cosine_similarity", {}, 2, (5,)),
    ("cosine_similarity", {"dim": -1, "eps": 0.5}, 2, (3, 4, 5)),
    ("cosine_similarity", {"dim": 2}, 2, (4, 5)),
    ("triplet_margin_loss", {"margin": 4.0}, 3, (5,)),
    ("triplet_margin_loss", {"reduction": "sum", "margin": 3}, 3, (5,)),
    ("triplet_margin_loss", {"reduction": "none", "swap": True, "p": 1.0, "eps": 1e-3, "margin": 2.0}, 3, (5,)),
]


@pytest.mark.parametrize("name, options, count, image", CASES)
@pytest.mark.parametrize("n", [1, 6])
def test_distances(name, options, count, image, n, torch):
    xs = [np.random.default_rng(i).standard_normal((n, *image)) for i in range(count)]
    tensors = [torch.tensor(x, requires_grad=True) for x in xs]
    wanted = getattr(torch.nn.functional, name)(*tensors, **options)
    y = getattr(F, name)(*xs, **options)
    assert_close(np.asarray(y), wanted.detach().numpy())
    model = Function(lambda *values: getattr(F, name)(*values, **options))
    y = model(*xs)      # a loss of values is one number per image
    loss = options.get("reduction", "mean") if name == "triplet_margin_loss" else "none"
    assert_close({"mean": np.mean, "sum": np.sum, "none": np.asarray}[loss](y), wanted.detach().numpy())
    dy = np.full(y.shape, 1 / n if loss == "mean" else 1.0)
    (wanted.sum() if loss == "none" else wanted).backward()
    gradients = model.backward(dy)
    assert_all_close(gradients, [tensor.grad.numpy() for tensor in tensors])
    assert any(np.abs(gradient).max() > 1e-3 for gradient in gradients)


@pytest.mark.parametrize("dim", [1, 2, -1])
def test_gather(dim, torch):
    x = np.random.default_rng(0).standard_normal((4, 3, 5))
    one = [4, 3, 5]
    one[dim] = 1
    index = np.random.default_rng(1).integers(0, x.shape[dim], one)
    model = Function(lambda x, i: x.gather(dim, i))
    t = torch.tensor(x, requires_grad=True)
    wanted = t.gather(dim, torch.tensor(index))
    y = model(x, index.astype(float))
    np.testing.assert_array_equal(y, wanted.detach().numpy())
    dy = np.random.default_rng(2).standard_normal(y.shape)
    wanted.backward(torch.tensor(dy))
    np.testing.assert_array_equal(model.backward(dy)[0], t.grad.numpy())
    assert np.isnan(model(x, index + 5.0)).all()


def test_a_loss_with_gather(torch):
    """Label smoothing as timm has it."""
    def loss(x, target):
        log_p = x.log_softmax(-1)
        picked = -log_p.gather(-1, target.unsqueeze(1)).squeeze(1)
        return (0.9 * picked - 0.1 * log_p.mean(-1)).mean()
    x, target = np.random.default_rng(0).standard_normal((6, 4)), np.array([0, 3, 1, 2, 2, 0])
    criterion = cnn.losses.Criterion(loss)
    t = torch.tensor(x, requires_grad=True)
    wanted = loss(t, torch.tensor(target))
    wanted.backward()
    assert criterion(x, target) == pytest.approx(wanted.item(), rel=1e-12)
    assert_close(criterion.backward(), t.grad.numpy())


X = np.ones((2, 3))


@pytest.mark.parametrize("call, error, words", [
    (lambda: F.pairwise_distance(X, X, 0), ValueError, "pairwise_distance: p must be"),
    (lambda: F.pairwise_distance(X, X, keepdim="x"), TypeError, "pairwise_distance: keepdim must be True or False"),
    (lambda: F.pairwise_distance(X, None), TypeError, "pairwise_distance: x2 must be a NumPy array"),
    (lambda: F.cosine_similarity(X, X, 0), ValueError, "cosine_similarity: dim must not be that of the images"),
    (lambda: F.cosine_similarity(X, X, eps=0), ValueError, "cosine_similarity: eps must be"),
    (lambda: F.triplet_margin_loss(X, X, X, -1), ValueError, "triplet_margin_loss: margin must be"),
    (lambda: F.triplet_margin_loss(X, X, X, swap=2), TypeError, "triplet_margin_loss: swap must be True or False"),
    (lambda: F.triplet_margin_loss(X, X, X, reduction="all"), ValueError, "triplet_margin_loss: reduction must be"),
    (lambda: F.triplet_margin_loss(X, X, X[:1]), ValueError, "triplet_margin_loss: negative must hold 2 images"),
])
def test_wrong_arguments(call, error, words):
    with pytest.raises(error, match=words):
        call()
