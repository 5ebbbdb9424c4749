"""Tables of offsets: where a convolution's pixels and taps lie in the blocks.

One kernel, `correlate` in _ext/correlate.pyx, computes y[k, p] = b[k] + sum_t w[k, t] x[pixel[p] + tap[t]].
This module makes its tables for the forward pass and for the input gradient, and those of the weight
gradient. Offsets count numbers (not bytes) from pixel (0, 0) of channel 0; one pixel is 16 numbers.

Taps are ordered (kernel row, kernel column, channel), and a run of pixels visits only the kernel rows that
its windows need, so that rows of padding cost nothing. Columns of padding are a border of zeros left and
right of x, unless the kernel takes its pixels one by one: then they cost nothing either.
"""
from dataclasses import dataclass

import numpy as np

LANES = 16


@dataclass(frozen=True)
class Geometry:
    """The sizes of one convolution; pairs are (height, width)."""

    size: tuple         # H, W of the input
    out: tuple          # of the output
    kernel: tuple
    stride: tuple
    dilation: tuple
    padding: tuple      # ((top, bottom), (left, right))
    channels: int       # input channels of one group
    outputs: int        # output channels of one group
    groups: int

    @property
    def taps(self):
        return self.channels * self.kernel[0] * self.kernel[1]

    def side_border(self):
        """Columns of zeros that the forward pass reads left and right of x."""
        left = self.padding[1][0]
        last = (self.out[1] - 1) * self.stride[1] + (self.kernel[1] - 1) * self.dilation[1] - left
        return left, max(0, last - (self.size[1] - 1))

    def gradient_border(self):
        """Columns of zeros that the input gradient reads left and right of dy."""
        left = right = 0
        for b in self._residues(1):
            steps = [shift for _, shift in self._residue(1, b)]
            columns = [column for _, column in self._positions(1, b)]
            if steps and columns:
                left = max(left, max(steps) - min(columns))
                right = max(right, max(columns) - min(steps) - (self.out[1] - 1))
        return left, right

    def _residues(self, axis):
        """The residues by the stride that input positions have (a stride may be larger than the input)."""
        s, before = self.stride[axis], self.padding[axis][0]
        return sorted({(u + before) % s for u in range(min(s, self.size[axis]))})

    def residues(self):
        """The pairs of residues by the stride that input pixels have: so many correlations make up dx."""
        return [(a, b) for a in self._residues(0) for b in self._residues(1)]

    def _residue(self, axis, residue):
        """Kernel rows (axis 0) or columns (1) r that meet input positions of this residue by the stride,
        each with the number of output pixels that it shifts by."""
        s, d = self.stride[axis], self.dilation[axis]
        return [(r, (r * d - residue) // s) for r in range(self.kernel[axis]) if (r * d) % s == residue]

    def _positions(self, axis, residue):
        """Input positions u of this residue, each with the output position that tap 0 would take it to."""
        s, before = self.stride[axis], self.padding[axis][0]
        first = (residue - before) % s
        return [(u, (u + before - residue) // s) for u in range(first, self.size[axis], s)]


@dataclass(frozen=True)
class Tables:
    """What `correlate` needs besides its arrays: int32 offsets and the order of the packed weights."""

    pixel: np.ndarray   # (pixels,)
    out: np.ndarray     # (pixels,)
    tap: np.ndarray     # (taps,)
    run: np.ndarray     # (runs, 6) first pixel, pixels, first tap, segments of taps, taps of each, skip
    weights: np.ndarray     # (groups, taps, outputs) positions in the flat weight array


def _grid(rows, columns):
    return np.add.outer(np.asarray(rows, np.int64), np.asarray(columns, np.int64)).ravel()


def _runs(tile, row_spans, column_spans, columns, taps):
    """Pixels (i, j) in order, (pixels, 2), and the table of runs: neighbours that visit the same taps.

    tile: the most pixels that the kernel takes at a time. If it is one, a pixel visits just what it needs;
    else the whole kernel rows that its row needs. row_spans, column_spans: for each row (column) of pixels
    the kernel rows (columns) [low, high) that it needs. columns: of the kernel. taps: of one kernel row and
    column.
    """
    pixels, runs = np.stack(np.mgrid[:len(row_spans), :len(column_spans)], -1).reshape(-1, 2), []
    step = 1 if tile == 1 else len(column_spans)
    for first in range(0, len(pixels), step):
        i, j = pixels[first]
        r0, r1 = row_spans[i]
        s0, s1 = column_spans[j] if tile == 1 else (0, columns)
        if s1 - s0 == columns:
            need = [r0 * columns * taps, 1, (r1 - r0) * columns * taps, 0]
        else:
            need = [(r0 * columns + s0) * taps, r1 - r0, (s1 - s0) * taps, (columns - (s1 - s0)) * taps]
        if runs and runs[-1][2:] == need:
            runs[-1][1] += step
        else:
            runs.append([first, step, *need])
    return pixels, np.array(runs)


def _span(flags):
    """[low, high) of the true flags, which are contiguous; (0, 0) where there is none."""
    true = np.flatnonzero(flags)
    return (int(true[0]), int(true[-1]) + 1) if len(true) else (0, 0)


def _tables(pixel, out, tap, run, weights):
    int32 = [np.ascontiguousarray(a, np.int32) for a in (pixel, out, tap, run)]
    return Tables(*int32, np.ascontiguousarray(weights, np.int64))


def forward_tables(g, x, y, tile):
    """Tables of the forward pass for tensors x and y (their `row` and `plane` are numbers apart), in tiles
    of `tile` pixels."""
    (R, S), (sh, sw), (dh, dw) = g.kernel, g.stride, g.dilation
    (top, _), (left, _) = g.padding
    i, j = np.arange(g.out[0]), np.arange(g.out[1])
    r, c, s = np.arange(R), np.arange(g.channels), np.arange(S)
    tap = _grid(_grid((r * dh - top) * x.row, (s * dw - left) * LANES), c * x.plane)
    u, v = i[:, None] * sh + r * dh - top, j[:, None] * sw + s * dw - left
    pixels, run = _runs(tile, [_span(row) for row in (u >= 0) & (u < g.size[0])],
                        [_span(row) for row in (v >= 0) & (v < g.size[1])], S, g.channels)
    i, j = pixels.T
    k = np.arange(g.groups * g.outputs).reshape(g.groups, 1, g.outputs)
    within = (r[:, None, None] * S + s[:, None] + c * R * S).reshape(1, -1, 1)
    return _tables(i * sh * x.row + j * sw * LANES, i * y.row + j * LANES, tap, run, k * g.taps + within)


def gradient_tables(g, dy, dx, tile, residue):
    """Tables of the input gradient, dx[c, u, v] = sum of dy[k, i, j] w[k, c, r, s] over all (i, j, r, s)
    with i*stride + r*dilation - padding = u, and likewise v, for the (u, v) of one residue by the stride."""
    S, (a, b) = g.kernel[1], residue
    rows, ups = g._positions(0, a), g._residue(0, a)
    columns, lefts = g._positions(1, b), g._residue(1, b)
    k, c = np.arange(g.outputs), np.arange(g.channels)
    r, up = np.array(ups, np.int64).reshape(-1, 2).T
    s, left = np.array(lefts, np.int64).reshape(-1, 2).T
    u, i = np.array(rows).T
    v, j = np.array(columns).T
    tap = _grid(_grid(-up * dy.row, -left * LANES), k * dy.plane)
    ii, jj = i[:, None] - up, j[:, None] - left
    pixels, run = _runs(tile, [_span(row) for row in (ii >= 0) & (ii < g.out[0])],
                        [_span(row) for row in (jj >= 0) & (jj < g.out[1])], len(s), g.outputs)
    within = _grid(_grid(r * S, s), k * g.taps)
    weights = (np.arange(g.groups)[:, None, None] * g.outputs * g.taps + within[:, None]
               + c * g.kernel[0] * S)
    m, n = pixels.T
    return _tables(i[m] * dy.row + j[n] * LANES, u[m] * dx.row + v[n] * LANES, tap, run, weights)


def scatter_weights(g):
    """Order of the weights for `scatter`: (groups * taps, outputs, channels) positions in the flat array."""
    position = np.arange(g.groups * g.outputs * g.taps).reshape(g.groups, g.outputs, g.channels, -1)
    return position.transpose(0, 3, 1, 2).reshape(-1, g.outputs, g.channels)


def scatter_tables(g, dy, dx):
    """Tables of the input gradient tap by tap, without padding; the arguments of `scatter` by name."""
    r, s, i, j = (np.arange(n) for n in (*g.kernel, *g.out))
    tables = {
        "pixel": _grid(i * dy.row, j * LANES),
        "out": _grid(i * g.stride[0] * dx.row, j * g.stride[1] * LANES),
        "shift": _grid(r * g.dilation[0] * dx.row, s * g.dilation[1] * LANES),
        "tap": np.arange(g.outputs) * dy.plane,
    }
    return {name: np.ascontiguousarray(table, np.int32) for name, table in tables.items()}


def weight_tables(g, x, dy):
    """Tables of the weight gradient, the arguments of `conv_dw` by name."""
    (R, S), (sh, sw), (dh, dw) = g.kernel, g.stride, g.dilation
    (top, _), (left, _) = g.padding
    r, c, s, i, j = (np.arange(n) for n in (R, g.channels, S, *g.out))
    inside = (r[:, None] * dh + i * sh - top >= 0) & (r[:, None] * dh + i * sh - top < g.size[0])
    spans = np.array([_span(row) for row in inside]) * g.out[1]
    if len(np.unique(spans, axis=0)) == 1:      # all taps at once: they fill tiles better
        spans = spans[:1]
    tables = {
        "tap": _grid(_grid((r * dh - top) * x.row, c * x.plane), (s * dw - left) * LANES),
        "to": _grid(_grid(r * S, c * R * S), s),
        "span": spans,
        "x_at": _grid(i * sh * x.row, j * sw * LANES),
        "dy_at": _grid(i * dy.row, j * LANES),
    }
    return {name: np.ascontiguousarray(table, np.int32) for name, table in tables.items()} | {"spans": len(spans)}


def packed_order(weights, tiles):
    """Positions of the packed weights (int32): for each group and tile of outputs, (taps, kt) in a row."""
    sizes = [len(part) for part in np.array_split(np.arange(weights.shape[2]), tiles)]
    bounds = np.cumsum([0, *sizes])
    parts = [group[:, a:b].ravel() for group in weights
             for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
    return np.concatenate(parts).astype(np.int32) if parts else np.zeros(0, np.int32)
