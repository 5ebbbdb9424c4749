"""Elements in other places, forward and backward."""

import numpy as np


def _take(x, tables, value):
    """x[:, c, i, j] by a table for each axis but the first, None: all of it; -1 stands for `value`."""
    for axis, table in enumerate(tables, 1):
        if table is not None:
            x = np.take(x, np.maximum(table, 0), axis)
            outside = np.reshape(np.asarray(table) < 0, (-1, *(1,) * (x.ndim - axis - 1)))
            x = np.where(outside, value, x)
    return x


def pick(x, tables, value=0.0):
    """y[c, i, j] = x[tables[0][c], tables[1][i], tables[2][j]], or `value` where an entry is -1. x: (N, ...), with a
    table, or None, for each axis but the first."""
    return _take(x, tables, np.asarray(value, x.dtype))


def pick_backward(dy, x_shape, tables):
    """dx: each place gets the sum of dy over all places of y that were taken from it."""
    for axis in range(len(tables), 0, -1):
        table = tables[axis - 1]
        if table is not None:
            shape = (*dy.shape[:axis], x_shape[axis], *dy.shape[axis + 1:])
            dx, inside = np.zeros(shape, dy.dtype), np.flatnonzero(np.asarray(table) >= 0)
            np.add.at(np.moveaxis(dx, axis, 0), np.asarray(table)[inside], np.moveaxis(dy, axis, 0)[inside])
            dy = dx
    return dy


def permute(x, axes):
    """The axes of each image in another order: axis k of y's images is axis axes[k] of x's. x: (N, ...)."""
    return x.transpose(0, *(axis + 1 for axis in axes))


def permute_backward(dy, axes):
    """dx: the inverse order."""
    return permute(dy, np.argsort(axes))


def cat_along(arrays, axis):
    """All arrays one after the other along an axis."""
    return np.concatenate(arrays, axis)


def cat_along_backward(dy, sizes, axis):
    """The share of each array, of which `sizes` says how long it is."""
    return np.split(dy, np.cumsum(sizes)[:-1], axis)


def bilinear(x, rows, columns):
    """y = W_rows x W_columnsᵀ for each channel, where W has two entries in each row: 1 - share and share.

    x: (N, C, H, W). rows, columns: (table (n, 2) of the pixels before and after, shares (n,) of the ones after).
    """
    return _matrix(x.shape[2], *rows).astype(x.dtype) @ x @ _matrix(x.shape[3], *columns).astype(x.dtype).T


def bilinear_backward(dy, x_shape, rows, columns):
    """dx = W_rowsᵀ dy W_columns."""
    return _matrix(x_shape[2], *rows).T.astype(dy.dtype) @ dy @ _matrix(x_shape[3], *columns).astype(dy.dtype)


def _matrix(size, table, share):
    matrix = np.zeros((len(table), size))
    np.add.at(matrix, (np.arange(len(table)), table[:, 0]), 1 - share)
    np.add.at(matrix, (np.arange(len(table)), table[:, 1]), share)
    return matrix


def pixel_shuffle(x, factor):
    """y[c, i r + m, j r + n] = x[c r² + m r + n, i, j] (Shi et al. 2016). Its gradient is `pixel_unshuffle` of dy."""
    n, channels, height, width = x.shape
    x = x.reshape(n, channels // factor**2, factor, factor, height, width)
    return x.transpose(0, 1, 4, 2, 5, 3).reshape(n, channels // factor**2, height * factor, width * factor)


def pixel_unshuffle(x, factor):
    """The inverse of `pixel_shuffle`, which is its gradient."""
    n, channels, height, width = x.shape
    x = x.reshape(n, channels, height // factor, factor, width // factor, factor)
    return x.transpose(0, 1, 3, 5, 2, 4).reshape(n, channels * factor**2, height // factor, width // factor)
