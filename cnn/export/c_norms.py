"""From our normalisations to C, in float32: rows of the table in c_rows.py."""
import numpy as np

from cnn.export.c_function import centre, channels_last, indented, literal, sizes, total


def batch_norm(f, node):
    f.inplace = True
    scale, shift = node.operation.scale_and_shift()
    height, width, channels = sizes(f.output)
    f.array("scale", scale)
    f.array("shift", shift)
    f.add(f"for (int i = 0; i < {height * width}; i++)", f"    for (int k = 0; k < {channels}; k++) {{",
          f"        const float a = x[i * {channels} + k] * scale_{f.number}[k] + shift_{f.number}[k];",
          f"        y[i * {channels} + k] = {'a > 0.0f ? a : 0.0f' if node.operation.relu else 'a'};", "    }")


def group_norm(f, node):
    f.inplace = True
    o = node.operation
    height, width, channels = sizes(f.output)
    each, pixels = channels // o.groups, height * width
    scale, shift = (np.full(channels, fill) if p is None else p.data for p, fill in ((o.weight, 1.0), (o.bias, 0.0)))
    f.array("scale", scale)
    f.array("shift", shift)
    at = f"i * {channels} + g * {each} + k"
    inner = f"for (int k = 0; k < {each}; k++)"
    loops = [f"    for (int i = 0; i < {pixels}; i++)", f"        {inner}"]
    f.add(f"for (int g = 0; g < {o.groups}; g++) {{", "    float mean = 0.0f, var = 0.0f;",
          *indented(centre(at, pixels, each, inner), 1),
          *indented(total("var", f"(x[{at}] - mean) * (x[{at}] - mean)", pixels, inner), 1),
          f"    const float by = 1.0f / sqrtf(var / {each * pixels}.0f + {literal(o.eps)});", *loops,
          f"            y[{at}] = (x[{at}] - mean) * by * scale_{f.number}[g * {each} + k] + "
          f"shift_{f.number}[g * {each} + k];", "}")


def layer_norm(f, node):
    """Over the last axes in Python's order: sums over places in memory, scales in the order of these places."""
    f.inplace = True
    o = node.operation
    height, width, channels = sizes(f.output)
    shape = o.normalized_shape
    scale, shift = (np.full(shape, fill) if p is None else p.data for p, fill in ((o.weight, 1.0), (o.bias, 0.0)))
    f.array("scale", channels_last(scale) if len(shape) == 3 else scale)
    f.array("shift", channels_last(shift) if len(shape) == 3 else shift)
    count = int(np.prod(shape))
    if count == height * width * channels:
        _normalised(f, 1, count, "i", o.eps)
    elif len(shape) == 2:
        _normalised(f, channels, count, f"i * {channels} + g", o.eps)
    else:
        _normalised(f, height * channels, count, f"(g / {channels} * {width} + i) * {channels} + g % {channels}",
                    o.eps)


def layer_norm2d(f, node):
    f.inplace = True
    o = node.operation
    height, width, channels = sizes(f.output)
    for name, p, fill in (("scale", o.weight, 1.0), ("shift", o.bias, 0.0)):
        f.array(name, np.full(channels, fill) if p is None else p.data)
    _normalised(f, height * width, channels, f"g * {channels} + i", o.eps)


def _normalised(f, groups, count, at, eps):
    """Lines that normalise `groups` groups of `count` elements: element i of group g is x[at]."""
    loop = f"    for (int i = 0; i < {count}; i++)"
    f.add(f"for (int g = 0; g < {groups}; g++) {{", "    float mean = 0.0f, var = 0.0f;",
          *indented(centre(at, count), 1),
          *indented(total("var", f"(x[{at}] - mean) * (x[{at}] - mean)", count), 1),
          f"    const float by = 1.0f / sqrtf(var / {count}.0f + {literal(eps)});", loop,
          f"        y[{at}] = (x[{at}] - mean) * by * scale_{f.number}[i] + shift_{f.number}[i];", "}")


def local_response_norm(f, node):
    o = node.operation
    height, width, channels = sizes(f.output)
    f.add(f"for (int i = 0; i < {height * width}; i++)", f"    for (int k = 0; k < {channels}; k++) {{",
          f"        const float *a = x + i * {channels};", "        float sum = 0.0f;",
          f"        for (int j = k - {o.before}; j < k + {o.size - o.before}; j++)",
          f"            sum += j >= 0 && j < {channels} ? a[j] * a[j] : 0.0f;",
          f"        y[i * {channels} + k] = a[k] * powf({literal(o.k)} + {literal(o.alpha / o.size)} * sum, "
          f"{literal(-o.beta)});", "    }")
