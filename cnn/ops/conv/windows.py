"""Tables of offsets: where a convolution's pixels and taps lie in the blocks.

One kernel, `correlate` in _ext/correlate.pyx, computes y[k, p] = b[k] + sum_t w[k, t] x[pixel[p] + tap[t]].
This module makes its tables for the forward pass and for the input gradient, and those of the weight
gradient. Offsets count numbers (not bytes) from pixel (0, 0) of channel 0; one pixel is 16 numbers.

Taps are ordered (kernel row, kernel column, channel), and a run of pixels visits only the kernel rows that
its windows need, so that rows of padding cost nothing. Columns of padding are a border of zeros left and
right of x, unless the kernel takes its pixels one by one: then they cost nothing either.
"""
import math
from typing import NamedTuple

import numpy as np

from cnn.engine.memory import LANES


class Geometry(NamedTuple):
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

    def of_gradient(self):
        """The convolution of dy, with the kernel turned around, that makes dx; None where it takes several or none."""
        reach = [(k - 1) * d for k, d in zip(self.kernel, self.dilation, strict=True)]
        padding = tuple((r - before, r - after) for r, (before, after) in zip(reach, self.padding, strict=True))
        if self.stride != (1, 1) or min(map(min, padding)) < 0:
            return None
        return Geometry(self.out, self.size, self.kernel, (1, 1), self.dilation, padding, self.outputs, self.channels,
                        self.groups)

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


    def turned(self, axis, residue):
        """The convolution of dy that makes dx at the positions of this residue, along one axis."""
        s, d = self.stride[axis], self.dilation[axis]
        taps, shifts = np.array(self._residue(axis, residue)[::-1], np.int64).reshape(-1, 2).T
        positions = self._positions(axis, residue)
        (first, start), most = positions[0], shifts[0] if len(shifts) else 0
        return Turned(taps, d // math.gcd(s, d), int(most - start), first, len(positions))


class Turned(NamedTuple):
    """One axis of the input gradient, see Geometry.turned."""

    taps: np.ndarray    # rows or columns of the kernel, in the order in which they meet dy
    step: int           # positions of dy from one to the next
    before: int         # padding
    first: int          # the first position in dx; those that follow are a stride apart
    number: int         # of positions


class Tables(NamedTuple):
    """What `correlate` needs besides its arrays: int32 offsets."""

    pixel: np.ndarray   # (pixels,)
    out: np.ndarray     # (pixels,)
    tap: np.ndarray     # (taps,)
    run: np.ndarray     # (runs, 6) first pixel, pixels, first tap, segments of taps, taps of each, skip


def _grid(rows, columns):
    return np.add.outer(np.asarray(rows, np.int64), np.asarray(columns, np.int64)).ravel()


def _runs(tile, row_spans, column_spans, columns, taps):
    """Rows i and columns j of all pixels, in order, and the table of runs: neighbours that visit the same taps.

    tile: the most pixels that the kernel takes at a time. If it is one, a pixel visits just what it needs;
    else the whole kernel rows that its row needs. row_spans, column_spans: for each row (column) of pixels
    the kernel rows (columns) [low, high) that it needs. columns: of the kernel. taps: of one kernel row and
    column.
    """
    i, j = np.indices((len(row_spans), len(column_spans))).reshape(2, -1)
    if tile > 1:
        column_spans = np.broadcast_to((0, columns), (len(column_spans), 2))
    (r0, r1), (s0, s1) = row_spans[i].T, column_spans[j].T
    whole = s1 - s0 == columns
    need = np.stack([(r0 * columns + s0) * taps, np.where(whole, 1, r1 - r0),
                     np.where(whole, (r1 - r0) * columns, s1 - s0) * taps, (columns - (s1 - s0)) * taps], 1)
    first = np.flatnonzero(np.append(True, (need[1:] != need[:-1]).any(1)))
    return i, j, np.column_stack([first, np.diff(first, append=len(need)), need[first]])


def _spans(flags):
    """[low, high) of the true flags of each row, which are contiguous, (rows, 2); (0, 0) where there is none."""
    count = flags.sum(1)
    low = np.where(count, (flags.cumsum(1) == 0).sum(1), 0)
    return np.stack([low, low + count], 1)


def _tables(*tables):
    return Tables(*(np.ascontiguousarray(table, np.int32) for table in tables))


def forward_tables(g, x, y, tile):
    """Tables of the forward pass for tensors x and y (their `row` and `plane` are numbers apart), in tiles
    of `tile` pixels."""
    (R, S), (sh, sw), (dh, dw) = g.kernel, g.stride, g.dilation
    (top, _), (left, _) = g.padding
    i, j = np.arange(g.out[0]), np.arange(g.out[1])
    r, c, s = np.arange(R), np.arange(g.channels), np.arange(S)
    tap = _grid(_grid((r * dh - top) * x.row, (s * dw - left) * LANES), c * x.plane)
    u, v = i[:, None] * sh + r * dh - top, j[:, None] * sw + s * dw - left
    i, j, run = _runs(tile, _spans((u >= 0) & (u < g.size[0])), _spans((v >= 0) & (v < g.size[1])), S, g.channels)
    return _tables(i * sh * x.row + j * sw * LANES, i * y.row + j * LANES, tap, run)


def forward_weights(g):
    """Order of the weights for the forward pass: (groups, taps, outputs) positions in the flat array."""
    r, s, c = np.arange(g.kernel[0]), np.arange(g.kernel[1]), np.arange(g.channels)
    within = _grid(_grid(r * g.kernel[1], s), c * g.kernel[0] * g.kernel[1])
    return np.arange(g.groups * g.outputs).reshape(g.groups, 1, g.outputs) * g.taps + within[:, None]


def gradient_tables(g, dy, dx, tile):
    """Tables of the input gradient, dx[c, u, v] = sum of dy[k, i, j] w[k, c, r, s] over all (i, j, r, s)
    with i*stride + r*dilation - padding = u, and likewise v: one residue of (u, v) by the stride after the other."""
    parts = [_residue_tables(g, dy, dx, tile, residue) for residue in g.residues()]
    pixels, taps = (np.cumsum([0, *(len(getattr(part, name)) for part in parts)]) for name in ("pixel", "tap"))
    runs = [part.run + [pixels[i], 0, taps[i], 0, 0, 0] for i, part in enumerate(parts)]
    return _tables(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("pixel", "out", "tap")),
                   np.concatenate(runs))


def _residue_tables(g, dy, dx, tile, residue):
    (_, up), (_, left) = _kernel_rows(g, 0, residue[0]), _kernel_rows(g, 1, residue[1])
    (u, i), (v, j) = (np.array(g._positions(axis, residue[axis])).T for axis in (0, 1))
    tap = _grid(_grid(-up * dy.row, -left * LANES), np.arange(g.outputs) * dy.plane)
    ii, jj = i[:, None] - up, j[:, None] - left
    m, n, run = _runs(tile, _spans((ii >= 0) & (ii < g.out[0])), _spans((jj >= 0) & (jj < g.out[1])), len(left),
                      g.outputs)
    return _tables(i[m] * dy.row + j[n] * LANES, u[m] * dx.row + v[n] * LANES, tap, run)


def gradient_weights(g):
    """Order of the weights for the input gradient: (groups, taps, channels) positions in the flat array, one residue
    after the other."""
    return np.concatenate([_residue_weights(g, residue) for residue in g.residues()], axis=1)


def _residue_weights(g, residue):
    (r, _), (s, _) = _kernel_rows(g, 0, residue[0]), _kernel_rows(g, 1, residue[1])
    within = _grid(_grid(r * g.kernel[1], s), np.arange(g.outputs) * g.taps)
    return (np.arange(g.groups)[:, None, None] * g.outputs * g.taps + within[:, None]
            + np.arange(g.channels) * g.kernel[0] * g.kernel[1])


def _kernel_rows(g, axis, residue):
    """What `_residue` returns, as two arrays."""
    return np.array(g._residue(axis, residue), np.int64).reshape(-1, 2).T


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
    spans = _spans(inside) * g.out[1]
    if (spans == spans[0]).all():       # all taps at once: they fill tiles better
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
    parts = [part.reshape(len(weights), -1) for part in np.array_split(weights, tiles, axis=2)]
    return np.concatenate(parts, axis=1, dtype=np.int32, casting="same_kind").ravel()
