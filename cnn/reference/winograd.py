"""Winograd's algorithms, which convolve with fewer multiplications."""

import numpy as np

from cnn.reference.windows import conv_windows


def winograd_conv2d(x, weight, m=2, padding=0):
    """Convolution (stride 1) tile by tile with Winograd's F(m x m, r x r): as `conv2d`, with fewer multiplications.

        y = A^T [ sum_c (G w G^T) * (B^T x B) ] A    for every tile of m x m outputs and n x n inputs, n = m + r - 1

    where * is element by element. In one dimension, correlating n numbers with r gives m: the transposed of
    multiplying a polynomial of m coefficients by one of r, which n of their values determine. A and G evaluate
    at n - 1 points and infinity (the leading coefficient), B^T is the transposed of the interpolation. G is scaled by
    what B^T then need not divide by.

    x: (N, C, H, W). weight: w, (K, C, r, r). Returns y: (N, K, out_h, out_w). Source: Lavin and Gray, 2016.
    """
    r = weight.shape[2]
    at, g, bt = winograd_matrices(m, r)
    pads, out, _ = conv_windows(x, weight, 1, padding, 1, 1)
    rows, columns = -(-out[0] // m), -(-out[1] // m)
    n = m + r - 1
    (top, _), (left, _) = pads
    whole = np.zeros((*x.shape[:2], rows * m + r - 1, columns * m + r - 1), x.dtype)
    height, width = min(x.shape[2], whole.shape[2] - top), min(x.shape[3], whole.shape[3] - left)
    whole[:, :, top : top + height, left : left + width] = x[:, :, :height, :width]
    u = g @ weight @ g.T  # (K, C, n, n)
    y = np.zeros((len(x), len(weight), rows * m, columns * m), x.dtype)
    for i in range(0, rows * m, m):
        for j in range(0, columns * m, m):
            v = bt @ whole[:, :, i : i + n, j : j + n] @ bt.T  # (N, C, n, n)
            y[:, :, i : i + m, j : j + m] = at @ np.einsum("kcij,ncij->nkij", u, v) @ at.T
    return y[:, :, : out[0], : out[1]]


def winograd_rows_conv2d(x, weight, m=2, padding=0):
    """Convolution (stride 1) with Winograd's F(m, s) along the rows alone: as `conv2d`, with fewer multiplications.

        y[k, i] = A^T [ sum_{c, r} (G w[k, c, r]) * (B^T x[c, i + r]) ]    for every piece of m outputs of a row

    x: (N, C, H, W). weight: w, (K, C, R, S). Returns y: (N, K, out_h, out_w).
    """
    r, s = weight.shape[2:]
    at, g, bt = winograd_matrices(m, s)
    pads, out, _ = conv_windows(x, weight, 1, padding, 1, 1)
    columns = -(-out[1] // m) * m
    (top, _), (left, _) = pads
    whole = np.zeros((*x.shape[:2], out[0] + r - 1, columns + s - 1), x.dtype)
    height, width = min(x.shape[2], whole.shape[2] - top), min(x.shape[3], whole.shape[3] - left)
    whole[:, :, top : top + height, left : left + width] = x[:, :, :height, :width]
    u = weight @ g.T  # (K, C, R, n)
    y = np.zeros((len(x), len(weight), out[0], columns), x.dtype)
    for j in range(0, columns, m):
        v = whole[..., j : j + m + s - 1] @ bt.T  # (N, C, H, n)
        for i in range(out[0]):
            y[:, :, i, j : j + m] = np.einsum("kcrf,ncrf->nkf", u, v[:, :, i : i + r]) @ at.T
    return y[..., : out[1]]


def winograd_matrices(m, r, points=None):
    """A^T (m, n), G (n, r) and B^T (n, n) of `winograd_conv2d`, float64, from their definition.

    points: n - 1 different numbers; by default those of the kernels, with the smallest rounding errors.
    """
    n = m + r - 1
    points = np.array(points or ([0, 1, -1] if n <= 4 else [0, 5 / 8, -5 / 8, 3 / 2, -3 / 2])[: n - 1], float)
    powers = points[:, None] ** np.arange(n)
    infinity = np.eye(n)[-1:]
    at = np.vstack([powers[:, :m], infinity[:, n - m :]]).T
    g = np.vstack([powers[:, :r], infinity[:, n - r :]])
    # the values at n points determine the product of two polynomials: its coefficients are V^-1 times them
    bt = np.linalg.inv(np.vstack([powers, infinity])).T
    scale = np.array([np.prod(p - np.delete(points, i)) for i, p in enumerate(points)] + [1.0])
    return at, g / scale[:, None], bt * scale[:, None]
