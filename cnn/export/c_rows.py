"""From our operations to C, in float32. A new operation is one row of TABLE.

Values lie with channels last, (H, W, C), whatever their order is in Python: the inner loop runs over channels, which
compilers turn into vectors. A row gets the `Function` to be written and the node; it writes the function's body.
"""
from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from cnn import shapes
from cnn.export import c_moves, c_norms
from cnn.export.c_function import (
    LONG,
    TAPS,
    Function,
    folded,
    indented,
    literal,
    literal_or_infinity,
    products,
    sizes,
    summed,
    total,
)
from cnn.export.c_moves import around
from cnn.ops.pool import side_by_side

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from cnn.graph.graph import Node

CLIPPED = "(a < {0} ? {0} : a) > {1} ? {1} : (a < {0} ? {0} : a)"
RELU = "{0} = {0} > 0.0f ? {0} : 0.0f;"


# ---------------------------------------------------------------- rows: the function and its node

def _conv2d(f: Function, node: Node) -> None:
    o: Any = node.operation
    height, width, channels = sizes(f.inputs[0])
    g = o.geometry(f.inputs[0])
    (out_h, out_w), outputs = g.out, o.outputs
    w, b = folded(o)
    f.array("bias", b)
    f.add(f"const float *bias = bias_{f.number}, *weight = weight_{f.number};")
    win = o.pool and o.pool.windows(g.out)
    square = win and side_by_side(win)
    (left, right), border = g.padding[1], 0
    if left or right:       # a row of the input with its border
        border = (left + width + right) * channels
        f.add(f"float *line = scratch;        /* a row of x between {left} and {right} zeros */",
              f"for (int n = 0; n < {border}; n++)", "    line[n] = 0.0f;")
    f.scratch = border
    lines = _conv_row(f, o, g, w, channels, width)
    turned = _by_pixels(o, g)
    place = f"k * {out_w} + j * {{}} + n" if turned else f"(j * {{}} + n) * {outputs} + k"
    if not win and turned:
        f.scratch += out_w * outputs
        number = f"row[k * {out_w} + j]"
        f.add(f"float *restrict row = scratch + {border};", f"for (int i = 0; i < {out_h}; i++) {{",
              *indented(lines, 1), f"    for (int j = 0; j < {out_w}; j++)",
              f"        for (int k = 0; k < {outputs}; k++)", f"            y[(i * {out_w} + j) * {outputs} + k] = "
              f"{number + ' > 0.0f ? ' + number + ' : 0.0f' if o.relu else number};", "}")
    elif not win:
        f.add(f"for (int i = 0; i < {out_h}; i++) {{", f"    float *restrict row = y + i * {out_w * outputs};",
              *indented(lines, 1))
        if o.relu:
            f.add(f"    for (int n = 0; n < {out_w * outputs}; n++)", f"        {RELU.format('row[n]')}")
        f.add("}")
    elif square:
        tall, wide = square
        f.scratch += out_w * outputs
        f.add(f"float *restrict row = scratch + {border};",
              f"for (int p = 0; p < {win['out_h']}; p++) {{",
              f"    float *restrict best = y + p * {win['out_w'] * outputs};",
              f"    for (int n = 0; n < {win['out_w'] * outputs}; n++)",
              f"        best[n] = {'0.0f' if o.relu else '-INFINITY'};",
              f"    for (int i = p * {tall}; i < p * {tall} + {tall}; i++) {{", *indented(lines, 2),
              f"        for (int j = 0; j < {win['out_w']}; j++)",
              f"            for (int n = 0; n < {wide}; n++)",
              f"                for (int k = 0; k < {outputs}; k++) {{",
              f"                    const float a = row[{place.format(wide)}], "
              f"m = best[j * {outputs} + k];",
              f"                    best[j * {outputs} + k] = a > m ? a : m;",
              "                }", "    }", "}")
    else:
        f.scratch += out_h * out_w * outputs
        f.add(f"float *restrict map = scratch + {border};", f"for (int i = 0; i < {out_h}; i++) {{",
              f"    float *restrict row = map + i * {out_w * outputs};", *indented(lines, 1), "}")
        _windows(f, win, outputs, "map", "max", o.relu)


def _by_pixels(o, g):
    """Whether a row of sums is (K, out_w) and the inner loop runs over pixels: gcc does worse on few channels."""
    return (o.channels == o.groups == o.stride[1] == o.dilation[1] == 1 and o.outputs <= 16 and g.out[1] >= 8
            and (o.pool is None or side_by_side(o.pool.windows(g.out)) is not None))


def _conv_row(f, o, g, w, channels, width):
    """Lines that make row i of a convolution: (out_w, outputs) sums from `row` on."""
    height, (rows, columns), groups, outputs = g.size[0], o.kernel, o.groups, o.outputs
    out_w, inner = g.out[1], channels // o.groups
    (top, _), (left, right) = g.padding
    reading = [f"const float *line = x + h * {width * channels};"]
    if left or right:
        reading = [f"memcpy(line + {left * channels}, x + h * {width * channels}, {width * channels} * sizeof *line);"]
    start = [f"for (int j = 0; j < {out_w}; j++)", f"    for (int k = 0; k < {outputs}; k++)",
             f"        row[j * {outputs} + k] = bias[k];"]
    depthwise, whole = inner == 1 and outputs == groups, groups == 1 and o.dilation[1] == 1
    if _by_pixels(o, g):        # (R, K, S)
        f.array("weight", w.transpose(2, 0, 1, 3))
        start = [f"for (int k = 0; k < {outputs}; k++)", f"    for (int j = 0; j < {out_w}; j++)",
                 f"        row[k * {out_w} + j] = bias[k];"]
        body = [f"for (int k = 0; k < {outputs}; k++) {{", f"    float *restrict sum = row + k * {out_w};",
                f"    const float *restrict v = weight + (r * {outputs} + k) * {columns};"]
        for s in range(0, columns, TAPS[0]):
            n = min(TAPS[0], columns - s)
            body += [f"    for (int j = 0; j < {out_w}; j++)",
                     *indented(summed("j", [f"v[{i}] * line[j + {i}]" for i in range(s, s + n)]), 1)]
        body.append("}")
    elif depthwise:     # (R, S, C)
        f.array("weight", w.transpose(2, 3, 1, 0))
        body = [f"for (int s = 0; s < {columns}; s++)", f"    for (int j = 0; j < {out_w}; j++) {{",
                f"        const float *restrict a = line + (j * {o.stride[1]} + s * {o.dilation[1]}) * {channels};",
                f"        const float *restrict v = weight + (r * {columns} + s) * {channels};",
                f"        float *restrict sum = row + j * {channels};", f"        for (int k = 0; k < {channels}; k++)",
                "            sum[k] += a[k] * v[k];", "    }"]
    elif whole:         # (R, S, C, K): the taps of a kernel's row lie side by side in x, too
        f.array("weight", w.transpose(2, 3, 1, 0))
        taps = columns * channels
        body = products("row", "line", f"weight + r * {taps * outputs}", taps, outputs, out_w, o.stride[1] * channels)
    else:               # (R, S, groups, C / groups, K / groups)
        each = outputs // groups
        f.array("weight", w.reshape(groups, each, inner, rows, columns).transpose(3, 4, 0, 2, 1))
        inside = products(f"row + g * {each}", f"line + s * {o.dilation[1] * channels} + g * {inner}",
                          f"weight + ((r * {columns} + s) * {groups} + g) * {inner * each}", inner, each, out_w,
                          o.stride[1] * channels, outputs)
        body = [f"for (int s = 0; s < {columns}; s++)", f"    for (int g = 0; g < {groups}; g++) {{",
                *indented(inside, 2), "    }"]
    return [*start, f"for (int r = 0; r < {rows}; r++) {{",
            f"    const int h = i * {o.stride[0]} + r * {o.dilation[0]} - {top};",
            *([f"    if (h < 0 || h >= {height})", "        continue;"] if any(g.padding[0]) else []),
            *indented(reading, 1), *indented(body, 1), "}"]


def _conv_transpose2d(f: Function, node: Node) -> None:
    """Row i of y is made of the rows h of x with h stride + r dilation - top = i."""
    o: Any = node.operation
    height, width, channels = sizes(f.inputs[0])
    out_h, out_w, outputs = sizes(f.output)
    (top, _), (left, _) = shapes.sides(o.owner, o.padding)
    (rows, columns), (down, across), each = o.kernel, o.stride, outputs // o.groups
    inner = channels // o.groups
    f.array("bias", np.zeros(outputs) if o.bias is None else o.bias.data)
    body = []
    for s in range(columns):        # pixels first to stop - 1 of a row of x fall into y
        at = s * o.dilation[1] - left
        first, stop = max(0, -(at // across)), min(width, (out_w - 1 - at) // across + 1)
        if first >= stop:
            continue
        body += [f"for (int g = 0; g < {o.groups}; g++) {{", *indented(products(
            f"row + {(first * across + at) * outputs} + g * {each}", f"line + {first * channels} + g * {inner}",
            f"weight + ((r * {columns} + {s}) * {o.groups} + g) * {inner * each}", inner, each, stop - first, channels,
            across * outputs), 1), "}"]
    f.add(f"for (int i = 0; i < {out_h}; i++) {{",
          f"    float *restrict row = y + i * {out_w * outputs};", f"    for (int j = 0; j < {out_w}; j++)",
          f"        memcpy(row + j * {outputs}, bias_{f.number}, {outputs} * sizeof *row);")
    if not body:
        f.add("    (void)x;         /* no column of a kernel reaches y */")
    else:               # (R, S, groups, C / groups, K / groups)
        f.array("weight", o.weight.data.reshape(o.groups, inner, each, rows, columns).transpose(3, 4, 0, 1, 2))
        f.add(f"    for (int r = 0; r < {rows}; r++) {{", f"        const int h = i + {top} - r * {o.dilation[0]};",
              f"        if (h < 0 || h % {down} || h / {down} >= {height})", "            continue;",
              f"        const float *weight = weight_{f.number}, *line = x + h / {down} * {width * channels};",
              *indented(body, 2), "    }")
    if o.relu:
        f.add(f"    for (int n = 0; n < {out_w * outputs}; n++)", f"        {RELU.format('row[n]')}")
    f.add("}")


def _linear(f: Function, node: Node) -> None:
    o: Any = node.operation
    outputs, inputs = o.weight.shape
    w = o.weight.data if f.order is None else o.weight.data[:, f.order]
    f.array("weight", w.T)
    f.array("bias", np.zeros(outputs) if o.bias is None else o.bias.data)
    f.add(f"const float *weight = weight_{f.number};", f"memcpy(y, bias_{f.number}, {outputs} * sizeof *y);",
          *products("y", "x", "weight", inputs, outputs))
    if o.relu:
        f.add(f"for (int k = 0; k < {outputs}; k++)", f"    {RELU.format('y[k]')}")


def _pool(kind: str) -> Callable:
    def write(f, node):
        o = node.operation
        _windows(f, o.windows(f.inputs[0][1:]), f.inputs[0][0], "x", kind, getattr(o, "relu", False))
    return write


def _windows(f, win, channels, x, kind, relu):
    """The maximum or the mean of each window."""
    width = win["width"]
    f.array("rows", win["rows"], "int")         # first, one past the last, divisor
    f.array("columns", win["columns"], "int")
    start = "0.0f" if kind == "mean" or relu else "-INFINITY"
    work = "sum[k] += a[k];" if kind == "mean" else "sum[k] = a[k] > sum[k] ? a[k] : sum[k];"
    sides = [max((last - first) // step for first, last, _ in np.asarray(win[name]).reshape(-1, 3))
             for name, step in (("rows", win["row_step"]), ("columns", win["column_step"]))]
    each = f"for (int k = 0; k < {channels}; k++)"
    before, after = [], []
    if kind == "mean" and math.prod(sides) > LONG:      # by rows, so that float32 stays precise
        f.scratch, work = channels, "scratch[k] += a[k];"
        before = [f"            {each}", "                scratch[k] = 0.0f;"]
        after = [f"            {each}", "                sum[k] += scratch[k];"]
    f.add(f"for (int i = 0; i < {win['out_h']}; i++)", f"    for (int j = 0; j < {win['out_w']}; j++) {{",
          f"        const int *down = rows_{f.number} + 3 * i, *across = columns_{f.number} + 3 * j;",
          f"        float *restrict sum = y + (i * {win['out_w']} + j) * {channels};",
          f"        for (int k = 0; k < {channels}; k++)", f"            sum[k] = {start};",
          f"        for (int h = down[0]; h < down[1]; h += {win['row_step']}) {{", *before,
          f"            for (int u = across[0]; u < across[1]; u += {win['column_step']}) {{",
          f"                const float *restrict a = {x} + (h * {width} + u) * {channels};",
          f"                {each}", f"                    {work}", "            }", *after, "        }")
    if kind == "mean":
        f.add("        const float divisor = (float)(down[2] * across[2]);",
              f"        for (int k = 0; k < {channels}; k++)", "            sum[k] /= divisor;")
    f.add("    }")


def elementwise(formula: str) -> Callable:
    """y = formula, in which a is an element, {name} an attribute and {0} the first of the operation's numbers."""
    def write(f, node):
        f.inplace = True
        o = node.operation
        numbers = {name: literal(n) for name, n in (vars(o) | getattr(o, "scalars", {})).items()
                   if isinstance(n, (int, float))}
        more = map(literal_or_infinity, getattr(o, "numbers", {}).values())
        f.add(f"for (int n = 0; n < {math.prod(f.output)}; n++) {{", "    const float a = x[n];",
              f"    y[n] = {formula.format(*more, **numbers)};", "}")
    return write


def _softmax(logs: bool) -> Callable:
    """Along the channels, or along the axis that the operation names."""
    def write(f, node):
        f.inplace = True
        axis = getattr(node.operation, "axis", 0)
        (runs, step), n = around(f.output, axis), f.output[axis]
        at = f"k * {step}"
        last = f"a[{at}] - most - logf(sum)" if logs else f"b[{at}] / sum"
        f.add(f"for (int i = 0; i < {runs}; i++)", f"    for (int j = 0; j < {step}; j++) {{",
              f"        const float *a = x + i * {n * step} + j;", f"        float *b = y + i * {n * step} + j;",
              "        float most = a[0], sum = 0.0f;", f"        for (int k = 1; k < {n}; k++)",
              f"            most = a[{at}] > most ? a[{at}] : most;", f"        for (int k = 0; k < {n}; k++)",
              f"            sum += expf(a[{at}] - most);" if logs else
              f"            sum += b[{at}] = expf(a[{at}] - most);",
              f"        for (int k = 0; k < {n}; k++)", f"            b[{at}] = {last};", "    }")
    return write


def _arithmetic(formula: str) -> Callable:
    """y = formula, in which {0}, {1} and {2} are elements of the inputs; the formula may name each twice."""
    def write(f, node):
        relu, size = getattr(node.operation, "relu", False), math.prod(f.output)
        if len(set(f.inputs)) == 1:
            f.inplace = True
            names = [f"x{i or ''}[n]" for i in range(len(f.inputs))]
            f.add(f"for (int n = 0; n < {size}; n++) {{", f"    const float a = {formula.format(*names)};",
                  f"    y[n] = {'a > 0.0f ? a : 0.0f' if relu else 'a'};", "}")
            return
        whole = sizes(f.output)
        names = []
        for i, image in enumerate(f.inputs):      # what has one row, column or channel is repeated
            (height, width, channels) = sizes(image)
            terms = [term for term, n in ((f"i * {width * channels}", height), (f"j * {channels}", width),
                                          ("k", channels)) if n > 1]
            names.append(f"x{i or ''}[{' + '.join(terms) or '0'}]")
        f.add(f"for (int i = 0; i < {whole[0]}; i++)", f"    for (int j = 0; j < {whole[1]}; j++)",
              f"        for (int k = 0; k < {whole[2]}; k++)",
              f"            y[(i * {whole[1]} + j) * {whole[2]} + k] = {formula.format(*names)};")
    return write


def _comparison(sign: str) -> Callable:
    return _arithmetic(f"{{0}} {sign} {{1}} ? 1.0f : 0.0f")


def _matmul(f, node):
    """Channels are heads, rows and columns those of the matrices."""
    (height, width, channels), inner = sizes(f.output), f.inputs[0][-1]
    f.add(f"for (int i = 0; i < {height}; i++)", f"    for (int j = 0; j < {width}; j++)",
          f"        for (int k = 0; k < {channels}; k++) {{", "            float sum = 0.0f;",
          f"            for (int n = 0; n < {inner}; n++)",
          f"                sum += x[(i * {inner} + n) * {channels} + k] * x1[(n * {width} + j) * {channels} + k];",
          f"            y[(i * {width} + j) * {channels} + k] = sum;", "        }")


def _reduced(kind: str) -> Callable:
    """The sum, mean, largest or smallest elements over the axes of which y has one row, column or channel."""
    def write(f, node):
        (height, width, channels), (out_h, out_w, channels_out) = sizes(f.inputs[0]), sizes(f.output)
        place = " + ".join(term for term, n in ((f"i * {out_w * channels_out}", out_h), (f"j * {channels_out}", out_w),
                                                ("k", channels_out)) if n > 1) or "0"
        element, size = f"x[(i * {width} + j) * {channels} + k]", math.prod(f.output)
        if kind in ("amax", "amin"):
            start, sign = ("-INFINITY", ">") if kind == "amax" else ("INFINITY", "<")
            f.add(f"for (int n = 0; n < {size}; n++)", f"    y[n] = {start};",
                  f"for (int i = 0; i < {height}; i++)", f"    for (int j = 0; j < {width}; j++)",
                  f"        for (int k = 0; k < {channels}; k++) {{", f"            const float a = {element};",
                  f"            if (a {sign} y[{place}]) y[{place}] = a;", "        }")
            return
        # sums of a pixel's channels, of a row's pixels, of rows: a long sum in float32 is less precise
        f.scratch = part = out_w * channels_out
        within = " + ".join(term for term, n in ((f"j * {channels_out}", out_w), ("k", channels_out)) if n > 1) or "0"
        f.add(f"for (int n = 0; n < {size}; n++)", "    y[n] = 0.0f;", f"for (int i = 0; i < {height}; i++) {{",
              f"    for (int n = 0; n < {part}; n++)", "        scratch[n] = 0.0f;",
              f"    for (int j = 0; j < {width}; j++) {{")
        if channels_out < channels:
            f.add("        float a = 0.0f;", *indented(total("a", element, channels, index="k"), 2),
                  f"        scratch[{within}] += a;")
        else:
            f.add(f"        for (int k = 0; k < {channels}; k++)", f"            scratch[{within}] += {element};")
        f.add("    }", f"    for (int n = 0; n < {part}; n++)",
              f"        y[{f'i * {part} + n' if out_h > 1 else 'n'}] += scratch[n];", "}")
        if kind == "mean":
            f.add(f"for (int n = 0; n < {math.prod(f.output)}; n++)",
                  f"    y[n] /= {math.prod(f.inputs[0]) // math.prod(f.output)}.0f;")
    return write


# from the names of our operations: a function of the C function to be written and the node
TABLE: dict[str, Callable] = {
    "conv2d": _conv2d, "conv_transpose2d": _conv_transpose2d, "linear": _linear, "batch_norm": c_norms.batch_norm,
    "group_norm": c_norms.group_norm, "layer_norm": c_norms.layer_norm, "layer_norm2d": c_norms.layer_norm2d,
    "local_response_norm": c_norms.local_response_norm,
    "max_pool2d": _pool("max"), "avg_pool2d": _pool("mean"),
    "relu": elementwise("a > 0.0f ? a : 0.0f"), "leaky_relu": elementwise("a > 0.0f ? a : {slope} * a"),
    "tanh": elementwise("tanhf(a)"), "sigmoid": elementwise("1.0f / (1.0f + expf(-a))"),
    "silu": elementwise("a / (1.0f + expf(-a))"), "gelu": elementwise("0.5f * a * (1.0f + erff(a * 0.707106781f))"),
    "gelu_tanh": elementwise("0.5f * a * (1.0f + tanhf(0.797884561f * (a + 0.044715f * a * a * a)))"),
    "clamp": elementwise(CLIPPED), "hardtanh": elementwise(CLIPPED), "absolute": elementwise("fabsf(a)"),
    "elu": elementwise("a > 0.0f ? a : {0} * expm1f(a)"), "exp": elementwise("expf(a)"), "log": elementwise("logf(a)"),
    "sqrt": elementwise("sqrtf(a)"), "sin": elementwise("sinf(a)"), "cos": elementwise("cosf(a)"),
    "hardswish": elementwise("a * fminf(fmaxf(a + 3.0f, 0.0f), 6.0f) / 6.0f"),
    "hardsigmoid": elementwise("fminf(fmaxf(a + 3.0f, 0.0f), 6.0f) / 6.0f"),
    "mish": elementwise("a * tanhf(fmaxf(a, 0.0f) + log1pf(expf(-fabsf(a))))"),
    "softplus": elementwise("{0} * a > {1} ? a : (fmaxf({0} * a, 0.0f) + log1pf(expf(-fabsf({0} * a)))) / {0}"),
    "softmax": _softmax(False), "log_softmax": _softmax(True),
    "softmax_over": _softmax(False), "log_softmax_over": _softmax(True),
    "add": _arithmetic("{0} + {1}"), "subtract": _arithmetic("{0} - {1}"), "multiply": _arithmetic("{0} * {1}"),
    "divide": _arithmetic("{0} / {1}"), "maximum": _arithmetic("{0} > {1} || {0} != {0} ? {0} : {1}"),
    "minimum": _arithmetic("{0} < {1} || {0} != {0} ? {0} : {1}"),
    "greater": _comparison(">"), "greater_equal": _comparison(">="), "equal": _comparison("=="),
    "not_equal": _comparison("!="), "where": _arithmetic("{0} != 0.0f ? {1} : {2}"),
    "power": elementwise("powf(a, {0})"),
    "affine": elementwise("{factor} * a + {summand}"), "reciprocal": elementwise("{number} / a"),
    **{kind: _reduced(kind) for kind in ("sum", "mean", "amax", "amin")}, "matmul": _matmul,
    "reshape": c_moves.reshape, "permute": c_moves.permute, "slice": c_moves.cut, "cat": c_moves.cat,
    "cat_along": c_moves.cat, "bilinear": c_moves.bilinear, "pixel_shuffle": c_moves.pixel_shuffle(back=False),
    "pixel_unshuffle": c_moves.pixel_shuffle(back=True),
    **dict.fromkeys(("strided_slice", "pad", "interpolate", "permute_channels"), c_moves.pick),
}
