"""Where the windows of convolutions and poolings lie in their inputs."""

from cnn import shapes


def conv_windows(x, w, stride, padding, dilation, groups):
    """Check the sizes; return ((top, bottom), (left, right)) padding, (out_h, out_w) and the list of taps."""
    kernel = w.shape[2:]
    stride = shapes.pair("conv2d", "stride", stride, minimum=1)
    dilation = shapes.pair("conv2d", "dilation", dilation, minimum=1)
    groups = shapes.integer("conv2d", "groups", groups, minimum=1)
    if x.shape[1] != groups * w.shape[1] or len(w) % groups:
        raise ValueError(f"conv2d: x {x.shape} and w {w.shape} do not fit together in {groups} groups")
    pads = shapes.padding("conv2d", padding, kernel, stride, dilation, x.shape[2:])
    out = shapes.conv_output("conv2d", x.shape[2:], kernel, stride, pads, dilation)
    return pads, out, taps(kernel, out, stride, dilation)


def transposed_windows(x, w, stride, padding, output_padding, groups, dilation):
    """Check the sizes of a transposed convolution; return ((top, bottom), (left, right)) padding of its output,
    (out_h, out_w) and the list of taps: where in the padded output each tap puts the pixels of x."""
    owner, kernel = "conv_transpose2d", w.shape[2:]
    stride = shapes.pair(owner, "stride", stride, minimum=1)
    dilation = shapes.pair(owner, "dilation", dilation, minimum=1)
    groups = shapes.integer(owner, "groups", groups, minimum=1)
    if x.shape[1] != len(w) or len(w) % groups:
        raise ValueError(f"{owner}: x {x.shape} and w {w.shape} do not fit together in {groups} groups")
    more = shapes.output_padding(owner, output_padding, stride, dilation)
    pads = shapes.sides(owner, padding)
    out = shapes.conv_transpose_output(owner, x.shape[2:], kernel, stride, pads, more, dilation)
    return pads, out, taps(kernel, x.shape[2:], stride, dilation)


def pool_windows(owner, size, kernel_size, stride, padding, ceil_mode, dilation=1):
    """Check the sizes of a pooling; return how far to pad, ((top, bottom), (left, right)), up to the end of
    the last window, what of it is the padding that was asked for, (out_h, out_w) and the list of taps."""
    kernel = shapes.pair(owner, "kernel_size", kernel_size, minimum=1)
    stride = kernel if stride is None else shapes.pair(owner, "stride", stride, minimum=1)
    dilation = shapes.pair(owner, "dilation", dilation, minimum=1)
    pad = shapes.pool_padding(owner, padding)
    out = shapes.pool_output(owner, size, kernel, stride, pad, ceil_mode, dilation)
    ends = [(o - 1) * s + d * (k - 1) + 1 for o, s, k, d in zip(out, stride, kernel, dilation, strict=True)]
    wanted = shapes.padding(owner, pad, kernel, stride, dilation, size)
    pads = [(p, max(end - p - side, 0)) for end, (p, _), side in zip(ends, wanted, size, strict=True)]
    asked = [(p, min(far, after)) for (p, far), (_, after) in zip(wanted, pads, strict=True)]
    return pads, asked, out, taps(kernel, out, stride, dilation)


def taps(kernel, out, stride, dilation):
    """List (r, s, rows, columns) for each kernel tap, in row-major order.

    The slices rows and columns pick from the padded input the pixel under tap (r, s) of every window.
    """

    def under(tap, axis):
        first = tap * dilation[axis]
        return slice(first, first + (out[axis] - 1) * stride[axis] + 1, stride[axis])

    return [(r, s, under(r, 0), under(s, 1)) for r in range(kernel[0]) for s in range(kernel[1])]
