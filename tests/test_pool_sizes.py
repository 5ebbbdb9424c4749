"""Poolings beside PyTorch for many small sizes: which windows there are, with ceil_mode and padding; gradients."""
import itertools

import numpy as np
import pytest
from cases import assert_close

from cnn import functional

SIZES, KERNELS, STRIDES = (1, 2, 3, 4, 6, 9), range(1, 5), range(1, 5)


def by_torch(torch, kind, x, k, s, p, d, ceil):
    """(y, dx), or None where PyTorch refuses."""
    F, given = torch.nn.functional, torch.tensor(x, requires_grad=True)
    try:
        y = F.max_pool1d(given, k, s, p, d, ceil) if kind == "max" else F.avg_pool1d(
            given, k, s, p, ceil, kind == "all")
    except RuntimeError:
        return None
    dx, = torch.autograd.grad(y, given, torch.arange(1.0, y.numel() + 1, dtype=torch.float64).reshape(y.shape))
    return y.detach().numpy(), dx.numpy()


def by_us(kind, x, k, s, p, d, ceil):
    if kind == "max":
        y, indices = functional.max_pool1d(x, k, s, p, d, ceil)
        return y, functional.max_pool1d_backward(np.arange(1.0, y.size + 1).reshape(y.shape), indices, x.shape)
    more = ceil, kind == "all"
    y = functional.avg_pool1d(x, k, s, p, *more)
    return y, functional.avg_pool1d_backward(np.arange(1.0, y.size + 1).reshape(y.shape), x.shape, k, s, p, *more)


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("kind", ["max", "all", "inside"])
def test_windows_are_those_of_pytorch(kind, ceil, torch):
    """kind: max pooling, or an average over all pixels or those inside."""
    counts = {True: 0, False: 0}
    for size, k, s, d in itertools.product(SIZES, KERNELS, STRIDES, (1, 2) if kind == "max" else (1,)):
        x = np.random.default_rng(size).permutation(size).reshape(1, 1, size) + 0.5
        for p in range(k // 2 + 1):
            wanted = by_torch(torch, kind, x, k, s, p, d, ceil)
            if wanted is None or np.isinf(wanted[0]).any():      # of a window that sees padding alone
                words = "larger than the padded input" if wanted is None else "its maximum would be -inf"
                with pytest.raises(ValueError, match=words):
                    by_us(kind, x, k, s, p, d, ceil)
            else:
                for got, right in zip(by_us(kind, x, k, s, p, d, ceil), wanted, strict=True):
                    assert_close(got, right)
            counts[wanted is None] += 1
    assert counts[True] > 10 and counts[False] > 100
