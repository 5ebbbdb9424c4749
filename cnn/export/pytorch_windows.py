"""PyTorch's convolutions, linear maps, norms and pools as our operations: rows of the tables in pytorch_rows.py, and
what makes rows of modules of them."""
from __future__ import annotations

from cnn import functional
from cnn.export.pytorch_values import FOLLOWS, Moved, Refused, only, value_of
from cnn.graph import build


def conv2d(t, input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    return functional.conv2d(value_of(input), weight, bias, stride, padding, dilation, groups)


def conv1d(t, input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    return functional.conv1d(value_of(input), weight, bias, _one(stride), _one(padding), _one(dilation), groups)


def _one(size):
    """The number in (number,)."""
    return size[0] if isinstance(size, (tuple, list)) and len(size) == 1 else size


def conv_transpose2d(t, input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    return functional.conv_transpose2d(value_of(input), weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose1d(t, input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    return functional.conv_transpose1d(value_of(input), weight, bias, _one(stride), _one(padding), _one(output_padding),
                                       groups, _one(dilation))


def conv_module(row):
    def run(t, m, x):
        padding = m.padding
        if m.padding_mode != "zeros":
            only("padding_mode", m.padding_mode, "zeros", *(("reflect", "replicate") if row is conv2d else ()))
            x, padding = functional.pad(value_of(x), tuple(m._reversed_padding_repeated_twice), m.padding_mode), 0
        return row(t, x, t.parameter(m.weight), t.parameter(m.bias), m.stride, padding, m.dilation, m.groups)
    return run


def conv_transpose_module(row):
    return lambda t, m, x: row(t, x, t.parameter(m.weight), t.parameter(m.bias), m.stride, m.padding, m.output_padding,
                               m.groups, m.dilation)


def linear(t, input, weight, bias=None):
    return functional.linear(value_of(input), weight, bias)


def batch_norm(t, input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    if running_mean is None and running_var is None:
        only("training", training, True)
    elif training is not FOLLOWS and training is not False:
        raise Refused(f"training must be self.training or False, got {training}")
    things = {"weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var}
    return t.batch_norm(value_of(input), things, momentum, eps, training is False)


def batch_norm_module(t, m, x):
    x = value_of(x)
    image = x.image
    kinds = {"BatchNorm1d": (1, 2), "BatchNorm2d": (3,)}[type(m).__name__]
    if len(image) not in kinds:
        raise Refused(f"its input must have {' or '.join(str(n + 1) for n in kinds)} axes, got {len(image) + 1}")
    things = {name: t.parameter(getattr(m, name)) for name in (
        "weight", "bias", "running_mean", "running_var", "num_batches_tracked")}
    y = t.batch_norm(build.reshaped(x, (*image[:1], *(1,) * (3 - len(image)), *image[1:])), things, m.momentum, m.eps,
                     t.frozen(m))
    return build.reshaped(y, image)


def group_norm(t, input, num_groups, weight=None, bias=None, eps=1e-5):
    return functional.group_norm(value_of(input), num_groups, weight, bias, eps)


def layer_norm(t, input, normalized_shape, weight=None, bias=None, eps=1e-5):
    if isinstance(input, Moved) and input.has_channels_last and tuple(normalized_shape) == input.of.image[:1]:
        y = functional.layer_norm2d(input.of, weight, bias, eps)        # of each pixel
        return Moved(y).permuted((1, 2, 0))
    return functional.layer_norm(value_of(input), tuple(normalized_shape), weight, bias, eps)


def instance_norm(t, input, running_mean=None, running_var=None, weight=None, bias=None, use_input_stats=True,
                  momentum=0.1, eps=1e-5):
    only("running_mean", running_mean, None)
    only("running_var", running_var, None)
    return functional.instance_norm(value_of(input), weight=weight, bias=bias, eps=eps)


def instance_norm_module(t, m, x):
    only("track_running_stats", m.track_running_stats, False)
    return instance_norm(t, x, None, None, t.parameter(m.weight), t.parameter(m.bias), eps=m.eps)


def max_pool1d(t, input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    only("return_indices", return_indices, False)
    return functional.max_pool1d(value_of(input), _one(kernel_size), _one(stride) or None, _one(padding),
                                 _one(dilation), ceil_mode)


def avg_pool1d(t, input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
    return functional.avg_pool1d(value_of(input), _one(kernel_size), _one(stride) or None, _one(padding), ceil_mode,
                                 count_include_pad)


def max_pool2d(t, input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    only("return_indices", return_indices, False)
    return functional.max_pool2d(value_of(input), kernel_size, stride or None, padding, dilation, ceil_mode)


def avg_pool2d(t, input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True,
               divisor_override=None):
    return functional.avg_pool2d(value_of(input), kernel_size, stride or None, padding, ceil_mode, count_include_pad,
                                 divisor_override)


def adaptive(kind):
    def row(t, input, output_size, return_indices=False):
        only("return_indices", return_indices, False)
        x = value_of(input)
        if kind.endswith("1d"):
            return getattr(functional, kind)(x, _one(output_size))
        pair = output_size if isinstance(output_size, (tuple, list)) else (output_size, output_size)
        size = tuple(n if to is None else to for n, to in zip(x.image[-2:], pair, strict=True))
        return getattr(functional, kind)(x, size)
    return row
