"""From our operations to C in int8, by LiteRT's conventions. A new operation is one row of TABLE.

Weights are symmetric, with a scale for each output channel; values have a scale and a zero each, from the least and
largest that calibration images make. A row gets a `Layer`; it writes the C function's body and returns the function
of cnn.reference.int8 that computes the same bits.
"""
from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cnn import shapes
from cnn.export.c_function import Function, folded, indented, products, sizes
from cnn.export.c_rows import TABLE as FLOATS
from cnn.ops.pool import side_by_side
from cnn.reference import int8

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from cnn.graph.graph import Node

PORTION = 64        # images that are computed together
KEEP = {"max_pool2d", "avg_pool2d", "relu", "reshape", "slice"}     # whose result has the scale of what they read
FLOAT = {"softmax", "log_softmax"}      # which may end a network, in float32

ROUNDING = """\
/* x m 2^(shift - 31), rounded as LiteRT's reference kernels do. No product overflows: the exporter has checked it. */
static int32_t multiplied(int32_t x, int32_t m, int32_t shift)
{
    const int64_t product = (int64_t)(x * (1 << (shift > 0 ? shift : 0))) * m;
    const int32_t high = (int32_t)((product + (product >= 0 ? 1 << 30 : 1 - (1 << 30))) / (1LL << 31));
    const int32_t right = shift < 0 ? -shift : 0, mask = (int32_t)((1u << right) - 1u);
    return (high >> right) + ((high & mask) > (mask >> 1) + (high < 0));
}

static int8_t clipped(int32_t q, int32_t low)
{
    return (int8_t)(q < low ? low : q > 127 ? 127 : q);
}"""


class Range(NamedTuple):
    """A value is scale (q - zero)."""

    scale: float
    zero: int


class Layer(Function):
    """A function in C. ranges: of the inputs; range: of the output; sums: int32 that it needs for itself."""

    sums = 0

    def __init__(self, number: int, inputs: list, output: tuple[int, ...], ranges: list[Range], own: Range) -> None:
        super().__init__(number, inputs, output)
        self.ranges, self.range = ranges, own

    def multipliers(self, factors: Any, bounds: Any) -> tuple[np.ndarray, np.ndarray]:
        """(m, shift), int64 each, for real factors. bounds: of what they are multiplied with. Raises ValueError where
        a product may overflow."""
        pairs = np.array([int8.multiplier(f) for f in np.ravel(factors)], np.int64).reshape(-1, 2)
        shifted = np.ravel(bounds).astype(float) * 2.0 ** np.maximum(pairs[:, 1], 0)
        if not (shifted < 2**31).all():
            raise ValueError(f"its sums may reach {shifted.max():.3g}, too many for int32")
        return pairs[:, 0], pairs[:, 1]


def range_of(low: float, high: float) -> Range:
    """The range of values from low to high; 0 has a q of its own."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = float(np.float32((high - low) / 255)) or 1.0
    return Range(scale, int(np.clip(round(-128 - low / scale), -128, 127)))


def _symmetric(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 weights and a scale for each output channel."""
    largest = np.abs(w).reshape(len(w), -1).max(1)
    scale = np.where(largest > 0, largest, 127) / 127
    return np.clip(np.rint(w / scale.reshape(-1, *(1,) * (w.ndim - 1))), -127, 127).astype(np.int8), scale


def _weighted(f: Layer, w: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, ...]:
    """Weights, biases, multipliers and shifts of a convolution or linear map. The array `bias` in C takes the zero of
    the input into account."""
    q, scale = _symmetric(w)
    (scale_x, zero_x), (scale_y, _) = f.ranges[0], f.range
    bias = np.rint(b / (scale_x * scale))
    whole = bias - zero_x * q.reshape(len(q), -1).astype(np.int64).sum(1)
    bounds = np.abs(whole) + np.abs(bias) + 128 * np.abs(q.reshape(len(q), -1).astype(np.int64)).sum(1)
    m, shift = f.multipliers(scale_x * scale / scale_y, bounds)
    f.array("bias", whole.astype(np.int64), "int32_t")
    f.array("factor", m, "int32_t")
    f.array("shift", shift, "int8_t")
    return q, bias.astype(np.int64), m, shift


def _integer(lines: list[str]) -> list[str]:
    """Lines in float32, in int8 with sums in int32."""
    return [line.replace("const float a", "const int32_t a").replace("const float *restrict", "const int8_t *restrict")
            .replace("float *restrict sum", "int32_t *restrict sum") for line in lines]


def _scaled(f, place, at, low):
    return f"{place} = clipped(multiplied({at}, factor_{f.number}[k], shift_{f.number}[k]) + {f.range.zero}, {low});"


# ---------------------------------------------------------------- rows: the layer and its node; return the twin

def _conv2d(f: Layer, node: Node) -> Callable:
    o: Any = node.operation
    height, width, channels = sizes(f.inputs[0])
    g = o.geometry(f.inputs[0])
    (out_h, out_w), outputs, groups = g.out, o.outputs, o.groups
    (rows, columns), inner, each = o.kernel, channels // groups, outputs // groups
    q, bias, m, shift = _weighted(f, *folded(o))
    win = o.pool and o.pool.windows(g.out)
    square = win and side_by_side(win)
    zero, low = f.ranges[0].zero, f.range.zero if o.relu else -128
    (top, bottom), (left, right) = g.padding
    padded = any((top, bottom, left, right))
    border = (left + width + right) * channels if padded else 0
    f.scratch, f.sums = border, out_w * outputs
    reading = [f"const int8_t *line = x + h * {width * channels};"]
    if padded:
        f.add("int8_t *line = scratch;        /* a row of x with its border */", f"memset(line, {zero}, {border});")
        reading = [f"if (h < 0 || h >= {height})", f"    memset(line, {zero}, {border});", "else",
                   f"    memcpy(line + {left * channels}, x + h * {width * channels}, {width * channels});"]
    whole = groups == 1 and o.dilation[1] == 1
    at = f"s * {o.dilation[1] * channels}"
    if whole:
        f.array("weight", q.transpose(2, 3, 1, 0), "int8_t")
        taps = columns * channels
        body = products("row", "line", f"weight + r * {taps * outputs}", taps, outputs, out_w, o.stride[1] * channels)
    elif inner == each == 1:
        f.array("weight", q.transpose(2, 3, 1, 0), "int8_t")
        body = [f"for (int s = 0; s < {columns}; s++)", f"    for (int j = 0; j < {out_w}; j++) {{",
                f"        const float *restrict a = line + j * {o.stride[1] * channels} + {at};",
                f"        const float *restrict v = weight + (r * {columns} + s) * {channels};",
                f"        float *restrict sum = row + j * {channels};", f"        for (int k = 0; k < {channels}; k++)",
                "            sum[k] += a[k] * v[k];", "    }"]
    else:
        f.array("weight", q.reshape(groups, each, inner, rows, columns).transpose(3, 4, 0, 2, 1), "int8_t")
        inside = products(f"row + g * {each}", f"line + {at} + g * {inner}",
                          f"weight + ((r * {columns} + s) * {groups} + g) * {inner * each}", inner, each, out_w,
                          o.stride[1] * channels, outputs)
        body = [f"for (int s = 0; s < {columns}; s++)", f"    for (int g = 0; g < {groups}; g++) {{",
                *indented(inside, 2), "    }"]
    lines = [f"for (int j = 0; j < {out_w}; j++)", f"    memcpy(row + j * {outputs}, bias_{f.number}, {outputs} * "
             "sizeof *row);", f"for (int r = 0; r < {rows}; r++) {{",
             f"    const int h = i * {o.stride[0]} + r * {o.dilation[0]} - {top};",
             *indented(reading, 1), *indented(_integer(body), 1), "}"]
    f.add(f"const int8_t *weight = weight_{f.number};", "int32_t *restrict row = sums;")
    target = "y"
    if win and not square:
        f.scratch += out_h * out_w * outputs
        target = f"(scratch + {border})"
    tall, wide = square or (1, 1)
    if square:
        out_h, out_w = win["out_h"], win["out_w"]
        f.add(f"memset(y, {low}, {math.prod(f.output)});")
    inside = [f"for (int j = 0; j < {out_w}; j++)", f"    for (int n = 0; n < {wide}; n++)",
              f"        for (int k = 0; k < {outputs}; k++) {{",
              f"            int8_t *to = {target} + (p * {out_w} + j) * {outputs} + k;",
              f"            const int8_t a = {_scaled(f, '', f'row[(j * {wide} + n) * {outputs} + k]', low)[3:]}",
              "            *to = a > *to ? a : *to;" if square else "            *to = a;", "        }"]
    f.add(f"for (int p = 0; p < {out_h}; p++)", f"    for (int i = p * {tall}; i < p * {tall} + {tall}; i++) {{",
          *indented(lines, 2), *indented(inside, 2), "    }")
    if win and not square:
        _windows(f, win, outputs, target, low)

    def twin(x):
        y = int8.conv2d_int8(x, q, bias, zero, m, shift, f.range.zero, low, o.stride, g.padding, o.dilation, groups)
        return _max_pool_int8(y, win, low) if win else y
    return twin


def _linear(f: Layer, node: Node) -> Callable:
    o: Any = node.operation
    outputs, inputs = o.weight.shape
    q, bias, m, shift = _weighted(f, o.weight.data.astype(np.float64),
                                  np.zeros(outputs) if o.bias is None else o.bias.data.astype(np.float64))
    f.array("weight", (q if f.order is None else q[:, f.order]).T, "int8_t")
    zero, low, f.sums = f.ranges[0].zero, f.range.zero if o.relu else -128, outputs
    f.add(f"const int8_t *weight = weight_{f.number};", f"memcpy(sums, bias_{f.number}, {outputs} * sizeof *sums);",
          *_integer(products("sums", "x", "weight", inputs, outputs)), f"for (int k = 0; k < {outputs}; k++)",
          f"    {_scaled(f, 'y[k]', 'sums[k]', low)}")
    return lambda x: int8.linear_int8(x, q, bias, zero, m, shift, f.range.zero, low)


def _windows(f, win, channels, x, low):
    f.array("rows", win["rows"], "int")         # first, one past the last, divisor
    f.array("columns", win["columns"], "int")
    f.add(f"for (int i = 0; i < {win['out_h']}; i++)", f"    for (int j = 0; j < {win['out_w']}; j++)",
          f"        for (int k = 0; k < {channels}; k++) {{",
          f"            const int *down = rows_{f.number} + 3 * i, *across = columns_{f.number} + 3 * j;")
    if low is None:
        zero = f.range.zero
        f.add("            const int32_t count = down[2] * across[2], half = count / 2;",
              f"            int32_t sum = {zero} * (count - (down[1] - down[0]) * (across[1] - across[0]));")
        work = "sum += a;"
        last = "clipped(sum > 0 ? (sum + half) / count : -((half - sum) / count), -128)"
    else:
        f.add(f"            int8_t most = {low};")
        work, last = "most = a > most ? a : most;", "most"
    f.add(f"            for (int h = down[0]; h < down[1]; h += {win['row_step']})",
          f"                for (int u = across[0]; u < across[1]; u += {win['column_step']}) {{",
          f"                    const int8_t a = {x}[(h * {win['width']} + u) * {channels} + k];",
          f"                    {work}", "                }",
          f"            y[(i * {win['out_w']} + j) * {channels} + k] = {last};", "        }")


def _max_pool2d(f: Layer, node: Node) -> Callable:
    o: Any = node.operation
    win, low = o.windows(f.inputs[0][1:]), f.range.zero if o.relu else -128
    _windows(f, win, f.inputs[0][0], "x", low)
    return lambda x: _max_pool_int8(x, win, low)


def _max_pool_int8(x, win, low):
    return int8.max_pool2d_int8(x, win["rows"], win["columns"], low, (win["row_step"], win["column_step"]))


def _avg_pool2d(f: Layer, node: Node) -> Callable:
    o: Any = node.operation
    win = o.windows(f.inputs[0][1:])
    if o.options.get("divisor_override", 1) < 1:
        raise ValueError(f"divisor_override must be at least 1, got {o.options['divisor_override']}")
    _windows(f, win, f.inputs[0][0], "x", None)

    def twin(x):
        y = int8.avg_pool2d_int8(x, win["rows"], win["columns"], f.range.zero)
        return y.reshape(len(y), -1) if o.flat else y
    return twin


def _relu(f: Layer, node: Node) -> Callable:
    f.inplace, zero = True, f.range.zero
    f.add(f"for (int n = 0; n < {math.prod(f.output)}; n++)", f"    y[n] = x[n] > {zero} ? x[n] : {zero};")
    return lambda x: np.maximum(x, np.int8(zero))


def _add(f: Layer, node: Node) -> Callable:
    if f.inputs[0] != f.inputs[1]:
        raise ValueError(f"its inputs must have one shape, got {' and '.join(map(shapes.times, f.inputs))}")
    f.inplace = True
    low = f.range.zero if getattr(node.operation, "relu", False) else -128
    most = 2 * max(r.scale for r in f.ranges)
    factors = [*(r.scale / most for r in f.ranges), most / (2**20 * f.range.scale)]
    m, shift = f.multipliers(factors, [255 << 20, 255 << 20, 255 << 20])
    terms = [f"multiplied((x{i or ''}[n] - ({r.zero})) * (1 << 20), {m[i]}, {shift[i]})"
             for i, r in enumerate(f.ranges)]
    f.add(f"for (int n = 0; n < {math.prod(f.output)}; n++) {{", f"    const int32_t sum = {terms[0]}",
          f"        + {terms[1]};", f"    y[n] = clipped(multiplied(sum, {m[2]}, {shift[2]}) + {f.range.zero}, {low});",
          "}")
    zeros, zero = [r.zero for r in f.ranges], f.range.zero
    return lambda a, b: int8.add_int8(a, b, zeros, m, shift, zero, low)


def _cat(f: Layer, node: Node) -> Callable:
    height, width, channels = sizes(f.output)
    m, shift = f.multipliers([r.scale / f.range.scale for r in f.ranges], [255] * len(f.ranges))
    first, zero = 0, f.range.zero
    for i, (image, r) in enumerate(zip(f.inputs, f.ranges, strict=True)):
        f.add(f"for (int i = 0; i < {height * width}; i++)", f"    for (int k = 0; k < {image[0]}; k++)",
              f"        y[i * {channels} + {first} + k] = clipped(multiplied(x{i or ''}[i * {image[0]} + k] - "
              f"({r.zero}), {m[i]}, {shift[i]}) + {zero}, -128);")
        first += image[0]
    ranges = f.ranges
    return lambda *xs: np.concatenate([int8.requantised(x.astype(np.int64) - r.zero, m[i], shift[i], zero)
                                       for i, (x, r) in enumerate(zip(xs, ranges, strict=True))], 1)


def _reshape(f: Layer, node: Node) -> Callable:
    FLOATS["reshape"](f, node)
    image = f.output
    return lambda x: x.reshape(len(x), *image)


def _slice(f: Layer, node: Node) -> Callable:
    FLOATS["slice"](f, node)
    o: Any = node.operation
    return lambda x: x[:, o.first:o.stop]


# from the names of our operations: a function of the layer and the node, which returns the layer's twin
TABLE: dict[str, Callable] = {"conv2d": _conv2d, "linear": _linear, "max_pool2d": _max_pool2d,
                              "avg_pool2d": _avg_pool2d, "relu": _relu, "add": _add, "cat": _cat,
                              "reshape": _reshape, "slice": _slice}
