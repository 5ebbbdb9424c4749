"""Images changed at random."""

import numpy as np


def crop(x, top, left, reflect):
    """y[n, c, i, j] = x[n, c, i + top[n], j + left[n]]; outside is zero, or x reflected at its edges.

    x: (N, C, H, W) of any type. top, left: integers (N,); with reflect between -(side - 1) and side - 1.
    """
    height, width = x.shape[2:]
    if not reflect:     # further out there is nothing new
        top, left = np.clip(top, -height, height), np.clip(left, -width, width)
    pads = (0, 0), (height - reflect,) * 2, (width - reflect,) * 2
    y = np.empty_like(x)
    for n, image in enumerate(x):
        padded = np.pad(image, pads, "reflect" if reflect else "constant")
        i, j = pads[1][0] + top[n], pads[2][0] + left[n]
        y[n] = padded[:, i : i + height, j : j + width]
    return y


def flip(x, mirrored):
    """y[n, c, i, j] = x[n, c, i, W - 1 - j] where mirrored[n], else x[n, c, i, j].

    x: (N, C, H, W) of any type. mirrored: integers or bools (N,).
    """
    return np.where(np.reshape(mirrored, (-1, 1, 1, 1)), x[..., ::-1], x)


def cutout(x, top, left, size, fill):
    """x with fill[c] in rows top[n] to top[n] + size - 1 and columns left[n] to left[n] + size - 1 of image n.

    x: (N, C, H, W) of any type. top, left: integers (N,). fill: (C,).
    """
    y = x.copy()
    for n, image in enumerate(y):
        rows, columns = (slice(max(0, first), max(0, first + size)) for first in (top[n], left[n]))
        image[:, rows, columns] = np.reshape(fill, (-1, 1, 1))
    return y


def affine_map(x, matrix, fill):
    """y[n, c, i, j] = x[n, c] at column m0·j + m1·i + m2, row m3·j + m4·i + m5, where m = matrix[n] is rounded to
    1/65536. Between pixels p the bilinear mean, where fill[c] stands for pixels outside:

        y = (1 - b) ((1 - a) p[r, s] + a p[r, s+1]) + b ((1 - a) p[r+1, s] + a p[r+1, s+1])

    for row r + b, column s + a. Bytes use the first 8 bits of a and b behind the point, and y is rounded.

    x: (N, C, H, W), uint8 or float. matrix: float64 (N, 6). fill: (C,).
    """
    height, width = x.shape[2:]
    i, j = np.mgrid[:height, :width]
    y = np.empty_like(x)
    whole = x.dtype == np.uint8
    one = 256 if whole else x.dtype.type(1)
    for n, image in enumerate(x):
        m = np.rint(np.clip(matrix[n] * 65536, -(2.0**40), 2.0**40)).astype(np.int64)
        columns, rows = m[0] * j + m[1] * i + m[2], m[3] * j + m[4] * i + m[5]
        a, b = ((at & 65535) // 256 if whole else (at & 65535).astype(x.dtype) / 65536 for at in (columns, rows))

        def pixel(r, s, image=image):
            outside = (r < 0) | (r >= height) | (s < 0) | (s >= width)
            inside = image[:, np.clip(r, 0, height - 1), np.clip(s, 0, width - 1)].astype(int if whole else x.dtype)
            return np.where(outside, np.reshape(fill, (-1, 1, 1)), inside)

        r, s = rows >> 16, columns >> 16
        upper = (one - a) * pixel(r, s) + a * pixel(r, s + 1)
        lower = (one - a) * pixel(r + 1, s) + a * pixel(r + 1, s + 1)
        mean = (one - b) * upper + b * lower
        y[n] = (mean + 32768) // 65536 if whole else mean
    return y
