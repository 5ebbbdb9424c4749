"""Products of matrices, each image's own: as NumPy has them, with gradients by the formula."""
import itertools
import re

import numpy as np
import pytest
from cases import assert_close, assert_same_bits

import cnn
from cnn import functional as F


class Product(cnn.Module):
    def __init__(self, matrix=None):
        super().__init__()
        self.matrix = None if matrix is None else cnn.Parameter(matrix)

    def forward(self, a, b=None):
        return a @ (self.matrix if b is None else b)


@pytest.mark.parametrize("n", [1, 3, 17])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_of_two_values(n, dtype):
    rng = np.random.default_rng(0)
    a, b, dy = (rng.standard_normal((n, *shape)).astype(dtype) for shape in ((2, 5), (5, 3), (2, 3)))
    model = Product()
    assert_close(model(a, b), a @ b)
    assert_close(F.matmul(a, b), a @ b)
    da, db = model.backward(dy)
    assert_close(da, dy @ b.transpose(0, 2, 1))
    assert_close(db, a.transpose(0, 2, 1) @ dy)


@pytest.mark.parametrize("n", [1, 18])
@pytest.mark.parametrize("heads", [(), (1,), (3,), (18,)])
def test_of_any_sizes(n, heads, set_threads):
    """Around what a register tile takes of rows and columns, with the same bits from any number of threads."""
    rng = np.random.default_rng(0)
    model = Product()
    for rows, inner, columns in [*itertools.product((1, 2, 4, 5), (1, 3), (1, 2, 4, 5)), (7, 9, 11), (3, 2, 8)]:
        a, b, dy = (rng.standard_normal((n, *heads, *shape)) for shape in (
            (rows, inner), (inner, columns), (rows, columns)))
        found = []
        for threads in (1, 2, 3):
            set_threads(threads)
            found.append([model(a, b), *model.backward(dy)])
            assert_same_bits(found[-1], found[0])
        for got, wanted in zip(found[0], (a @ b, dy @ b.swapaxes(-1, -2), a.swapaxes(-1, -2) @ dy), strict=True):
            assert_close(got, wanted)


@pytest.mark.parametrize("n", [1, 3, 17])
@pytest.mark.parametrize("shape", [(4, 5), (5,), (2, 4, 5)])
def test_with_a_parameter(n, shape):
    rng = np.random.default_rng(0)
    a, w = rng.standard_normal((n, *shape)), rng.standard_normal((5, 3))
    model = Product(w)
    assert_close(model(a), a @ w)
    dy = rng.standard_normal((n, *shape[:-1], 3))
    assert_close(model.backward(dy), dy @ w.T)
    assert_close(model.matrix.grad, a.reshape(-1, 5).T @ dy.reshape(-1, 3))


def test_what_couples_images_is_refused():
    x = np.ones((5, 3))
    with pytest.raises(ValueError, match="would couple the images of a batch. .* y @ y.T"):
        Product()(x, x)

    class Gram(cnn.Module):
        def forward(self, x):
            return x @ x.T
    with pytest.raises(TypeError, match="a value has no T: .* y @ y.T, and give the gradient to model.backward"):
        Gram()(x)
    with pytest.raises(TypeError, match="matmul: other must be a value"):
        Product()(np.ones((1, 2, 3)), 2.0)


@pytest.mark.parametrize("shapes", [((2, 3), (4, 5)), ((2, 3, 4), (6, 7)), ((3, 4), (2, 6, 7)), ((1, 3, 4), (3, 6, 7)),
                                    ((2, 3, 4), (3, 4, 5))])
def test_shapes_that_do_not_fit_are_told_as_they_were_given(shapes):
    told = " and ".join(f"(N, {', '.join(map(str, shape))})" for shape in shapes)
    with pytest.raises(ValueError, match=re.escape(f"a Parameter, (B, C), got {told}")):
        Product()(*(np.ones((1, *shape)) for shape in shapes))


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4)])
def test_a_matrix_that_does_not_fit_has_no_axis_of_images(shape):
    class Array(cnn.Module):
        def forward(self, x):
            return x @ np.ones((5, 6))
    for model in (Array(), Product(np.ones((5, 6)))):
        with pytest.raises(ValueError, match=re.escape(f"got (N, {', '.join(map(str, shape))}) and (5, 6)")):
            model(np.ones((1, *shape)))


@pytest.mark.parametrize("array", [np.array([["a"]]), np.array([[None]]), np.array([[1j]])])
def test_matrices_hold_numbers(array):
    class Left(cnn.Module):
        def forward(self, x):
            return array @ x
    with pytest.raises(TypeError, match=f"matmul: x, an array beside a value, must hold numbers, got {array.dtype}"):
        Left()(np.ones((1, 1, 2)))
