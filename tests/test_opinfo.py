"""PyTorch's own samples (OpInfo, of torch.testing) of each operation that we have, forward and backward in float64.

Tensors without an axis of images get one of a single image. A sample that does not apply is left out, with a reason;
tests count them.
"""
import functools
import warnings

import numpy as np
import pytest

import cnn
from cnn import functional as F

torch = pytest.importorskip("torch")
pytest.importorskip("expecttest")      # which the samples' module imports
MOST_LEFT_OUT = 50
TOLERANCE = 1e-9


class LeftOut(Exception):
    """Why a sample does not apply."""


class Net(cnn.Module):
    """A function of values and Parameters as a module."""

    def __init__(self, function, tensors):
        super().__init__()
        self.function = function
        self.tensors = [cnn.Parameter(t.detach().numpy().copy()) for t in tensors]

    def forward(self, *xs):
        return self.function(xs, self.tensors)


@functools.lru_cache(None)
def op_db():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal import common_methods_invocations as found
    return {(op.name, op.variant_test_name): op for op in found.op_db}


def samples(name, variant=""):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(op_db()[name, variant].sample_inputs("cpu", torch.float64, requires_grad=True))


# ------------------------------------------------------------------------ adaptors: of a sample, what our module gets
# Each returns (function of values and Parameters, [(tensor, shape that it gets here)], [tensors that are Parameters]).

def only(kwargs, **usual):
    """Refuse options that we do not have, unless they are as usual."""
    for name, value in kwargs.items():
        if name not in usual or value != usual[name]:
            raise LeftOut(f"option {name}={value!r}")


class OfVolumes(LeftOut):
    """A sample of images with a depth, (D, H, W), which nothing here takes."""


def image(shape, rank=3):
    """A shape as that of one image, or of none."""
    if len(shape) > rank:
        raise LeftOut(f"{len(shape)} axes")
    if shape[:1] == (0,):
        return shape
    return (1, *(1,) * (rank - len(shape)), *shape)


def elementwise(function, *names, **renamed):
    """A function of each element, whose options have these names."""
    def adapt(x, *args, **kwargs):
        kwargs = dict(zip(names, args, strict=False)) | kwargs
        only({k: v for k, v in kwargs.items() if k not in names}, inplace=False, memory_format=torch.preserve_format)
        more = {renamed.get(k, k): float(v) if torch.is_tensor(v) else v for k, v in kwargs.items() if k in names}
        return lambda xs, ps: function(xs[0], **more), [(x, (1, x.numel()) if x.numel() else (0, 1))], []
    return adapt


def operands(function, count=2):
    def adapt(*args, **kwargs):
        given, rest = args[:count], args[count:]
        alpha = kwargs.pop("alpha", 1)
        only(kwargs, rounding_mode=None)
        if rest:
            raise LeftOut(f"arguments {rest}")
        tensors = [(t, image(tuple(t.shape))) for t in given if torch.is_tensor(t)]

        def call(xs, ps):
            xs = iter(xs)
            values = [next(xs) if torch.is_tensor(t) else t for t in given]
            if alpha != 1:
                values[1] = values[1] * alpha
            return function(*values)
        return call, tensors, []
    return adapt


def over_axes(function, one=False):
    """A function over axes; one: over exactly one."""
    def adapt(x, dim=None, keepdim=False, **kwargs):
        only({k: v for k, v in kwargs.items() if v is not None}, dtype=torch.float64)
        rank = max(x.ndim, 1)
        dims = () if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
        dims = tuple(d % rank for d in dims) or tuple(range(rank))
        shape = tuple(x.shape) or (1,)
        if rank == 4 and 0 not in dims:     # the first are the images
            dims = tuple(d - 1 for d in dims)
        else:
            while len(shape) > 3:       # neighbours of which both are reduced, or none, are one axis
                i = next((i for i in range(len(shape) - 1) if (i in dims) == (i + 1 in dims)), None)
                if i is None:
                    raise LeftOut("over alternating ones of four axes")
                shape = (*shape[:i], shape[i] * shape[i + 1], *shape[i + 2:])
                dims = tuple(sorted({d - (d > i) for d in dims}))
            shape = (1, *shape)
        dims = tuple(d + 1 for d in dims)
        more = () if one else (keepdim,)
        return lambda xs, ps: function(xs[0], dims[0] if one else dims, *more), [(x, shape)], []
    return adapt


def spatial(axes):
    """The shape of a batch of images or sequences, of which one may come alone."""
    def shape(x):
        return tuple(x.shape) if x.ndim == axes + 2 else (1, *x.shape)
    return shape


def windows(function, axes, *names):
    shape = spatial(axes)

    def adapt(x, *args, **kwargs):
        more = dict(zip(names, args, strict=False)) | kwargs
        only({k: v for k, v in more.items() if k not in (*names, "return_indices")})
        more = {k: v for k, v in more.items() if not (k == "stride" and v == ())}      # as if there were none
        more = {k: list(v) if isinstance(v, torch.Size) else v for k, v in more.items() if k in names}
        more = {k: (v[0] if axes == 2 and isinstance(v, (tuple, list)) and len(v) == 1 else v) for k, v in more.items()}
        if "output_size" in more:
            size, sides = more["output_size"], x.shape[-axes:]
            size = (size,) * axes if isinstance(size, int) or size is None else tuple(size)
            more["output_size"] = tuple(n if s is None else s for s, n in zip(size, sides, strict=True))
        return lambda xs, ps: function(xs[0], **more), [(x, shape(x))], []
    return adapt


def convolution(function, axes, *names):
    def adapt(x, w, b=None, *args, **kwargs):
        more = dict(zip(names, args, strict=False)) | kwargs
        if axes == 2:
            more = {k: v[0] if isinstance(v, tuple) and len(v) == 1 else v for k, v in more.items()}
        ps = [t for t in (w, b) if t is not None]
        return (lambda xs, ps: function(xs[0], ps[0], ps[1] if len(ps) > 1 else None, **more),
                [(x, spatial(axes)(x))], ps)
    return adapt


def linear(x, w, b=None):
    if w.ndim == 1:
        raise LeftOut("a weight of one axis")
    ps = [t for t in (w, b) if t is not None]
    return (lambda xs, ps: F.linear(xs[0], *ps)), [(x, (x.numel() // max(1, x.shape[-1]), x.shape[-1]))], ps


def layer_norm(x, normalized_shape, weight=None, bias=None, eps=1e-5):
    if eps < 0:
        raise LeftOut("eps below 0")
    given = {n: t for n, t in (("weight", weight), ("bias", bias)) if t is not None}
    shape = (int(np.prod(x.shape[:x.ndim - len(normalized_shape)])), *normalized_shape)
    return (lambda xs, ps: F.layer_norm(xs[0], tuple(normalized_shape), eps=eps, **dict(zip(given, ps, strict=True))),
            [(x, shape)], list(given.values()))


def instance_norm(x, running_mean=None, running_var=None, weight=None, bias=None, use_input_stats=True, momentum=0.1,
                  eps=1e-5):
    if not use_input_stats:         # else nothing that is compared depends on running statistics
        raise LeftOut("instance norm by running statistics")
    if eps < 0:
        raise LeftOut("eps below 0")
    given = {n: t for n, t in (("weight", weight), ("bias", bias)) if t is not None}
    shape = (*x.shape[:2], 1, int(np.prod(x.shape[2:])))
    return (lambda xs, ps: F.instance_norm(xs[0], eps=eps, **dict(zip(given, ps, strict=True))), [(x, shape)],
            list(given.values()))


def local_response_norm(x, size, alpha=1e-4, beta=0.75, k=1.0):
    shape = (*x.shape[:2], 1, int(np.prod(x.shape[2:])))
    return lambda xs, ps: F.local_response_norm(xs[0], size, alpha, beta, k), [(x, shape)], []


def group_norm(x, groups, weight=None, bias=None, eps=1e-5):
    if eps < 0:
        raise LeftOut("eps below 0")
    ps = [t for t in (weight, bias) if t is not None]
    names = [n for n, t in (("weight", weight), ("bias", bias)) if t is not None]
    shape = (*x.shape[:2], 1, int(np.prod(x.shape[2:])))
    return (lambda xs, ps: F.group_norm(xs[0], groups, eps=eps, **dict(zip(names, ps, strict=True)))), [(x, shape)], ps


def batch_norm(x, mean, var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    ps = [t for t in (weight, bias) if t is not None]
    names = [n for n, t in (("weight", weight), ("bias", bias)) if t is not None]
    if x.ndim < 2 or any(t.numel() == 0 for t in (x, mean, var) if t is not None):
        raise LeftOut("no channels")
    momentum = momentum if 0 <= momentum <= 1 else 0.1      # nothing that is compared depends on it
    stats = [None if t is None else t.detach().numpy().copy() for t in (mean, var)]
    shape = (*x.shape[:2], 1, int(np.prod(x.shape[2:])))

    def call(xs, ps):
        return F.batch_norm(xs[0], *stats, training=training, momentum=momentum, eps=eps,
                            **dict(zip(names, ps, strict=True)))
    return call, [(x, shape)], ps


def padded(x, pad, mode="constant", value=None):
    shape = tuple(x.shape)
    if len(pad) > 4:
        raise OfVolumes("padding of three axes")
    count = 1 if mode == "constant" else {2: 1, 4: 2}[len(pad)]
    whole = shape if mode != "constant" and len(shape) == count + 2 else (1, *shape) if len(shape) < 4 else shape
    if shape and not shape[0] and 2 * len(shape) > len(pad) + 1:        # no images
        whole = shape
    if len(whole) > 4:      # all axes before the last three are the images'
        whole = (int(np.prod(shape[:-3])), *shape[-3:])
    return lambda xs, ps: F.pad(xs[0], tuple(pad), mode, 0.0 if value is None else float(value)), [(x, whole)], []


def loss(function, *names):
    """A loss of elements."""
    def adapt(x, target, *args, **kwargs):
        only({k: v for k, v in kwargs.items() if k not in (*names, "reduction")}, size_average=None, reduce=None)
        x, target = torch.broadcast_tensors(x, target) if x.shape != target.shape else (x, target)
        shape = (1, max(1, x.numel()))
        more = {k: torch.broadcast_to(v, x.shape).detach().numpy().reshape(-1) if torch.is_tensor(v) else v
                for k, v in kwargs.items() if k in (*names, "reduction")}
        return lambda xs, ps: function(*xs, **more), [(x, shape), (target, shape)], []
    return adapt


def batchmean(function):
    """kl_div, whose "batchmean" divides by the first axis."""
    plain = loss(function, "log_target")

    def adapt(x, target, **kwargs):
        if kwargs.get("reduction") != "batchmean":
            return plain(x, target, **kwargs)
        call, xs, ps = plain(x, target, **kwargs)
        n = x.shape[0] if x.ndim else 1
        return (lambda xs, ps: call(xs, ps) / n), xs, ps
    return adapt


def sequence(function):
    """Of a list of tensors."""
    def adapt(tensors, dim=0, **kwargs):
        only(kwargs)
        tensors = [t for t in tensors if t.shape != (0,)] or tensors
        rank = tensors[0].ndim
        along = dim % (rank + (function is F.stack))
        if rank + (function is F.stack) > 3:
            if rank + (function is F.stack) > 4 or not along:
                raise LeftOut(f"{rank} axes")
            return lambda xs, ps: function(list(xs), along), [(t, tuple(t.shape)) for t in tensors], []
        along += 1
        return lambda xs, ps: function(list(xs), along), [(t, (1, *t.shape)) for t in tensors], []
    return adapt


def whole_images(function, *names):
    """Of (N, C, H, W), or what stands before the last three axes as images."""
    def adapt(x, *args, **kwargs):
        more = dict(zip(names, args, strict=False)) | kwargs
        if x.ndim < 3:
            raise LeftOut(f"{x.ndim} axes")
        return lambda xs, ps: function(xs[0], **more), [(x, (int(np.prod(x.shape[:-3])), *x.shape[-3:]))], []
    return adapt


def interpolate(x, size=None, scale_factor=None, mode="nearest", align_corners=None, recompute_scale_factor=None):
    if x.ndim == 5:
        raise OfVolumes(f"mode {mode}")
    shape = tuple(x.shape)
    if recompute_scale_factor:      # the size alone counts then
        scales = [scale_factor] * (x.ndim - 2) if isinstance(scale_factor, float) else scale_factor
        size, scale_factor = [int(n * f) for n, f in zip(shape[2:], scales, strict=True)], None
    if x.ndim == 3:         # rows of one height
        shape, mode = (*shape[:2], 1, shape[2]), {"linear": "bilinear"}.get(mode, mode)
        size = None if size is None else (1, size if isinstance(size, int) else size[0])
        scale_factor = scale_factor and (1.0, scale_factor if isinstance(scale_factor, float) else scale_factor[0])
    if size is not None and not isinstance(size, int):
        size = tuple(size)
    return (lambda xs, ps: F.interpolate(xs[0], size, scale_factor, mode, align_corners)), [(x, shape)], []


def where(x, condition, other):
    tensors = [(t, image(tuple(t.shape))) for t in (x, other) if torch.is_tensor(t)]
    chosen = np.ascontiguousarray(condition.numpy(), np.float64).reshape(image(tuple(condition.shape)))
    return (lambda xs, ps: F.where(xs[-1] != 0, *(next(values) if torch.is_tensor(t) else t for values in [iter(xs)]
                                                  for t in (x, other)))), [*tensors, (torch.tensor(chosen),
                                                                                      chosen.shape)], []


def part_of(method, *names):
    """A method that returns several values, which are laid side by side."""
    def adapt(x, *args, **kwargs):
        more = dict(zip(names, args, strict=False)) | kwargs
        rank = max(x.ndim, 1)
        if rank > 3:
            raise LeftOut(f"{rank} axes")
        dim = more.pop("dim", 0) % rank + 1

        def call(xs, ps):
            return F.cat([part.reshape((-1, part.image and int(np.prod(part.image)) or 1))
                          for part in getattr(xs[0], method)(*more.values(), dim)])
        return call, [(x, (1, *(x.shape or (1,))))], []
    return adapt


def reshaped(x, shape):
    if len(shape) > 3:
        raise LeftOut(f"{len(shape)} axes")
    shape = tuple(int(n) for n in torch.empty(x.shape).reshape(shape).shape)
    return (lambda xs, ps: xs[0].reshape((-1, *(shape or (1,))))), [(x, image(tuple(x.shape)))], []


def product(x, other):
    """What has three axes or more has images, as the other; the rest is a Parameter, the same for all."""
    if 0 in (*x.shape, *other.shape):
        raise LeftOut("matrices without elements")
    shapes = [(1,) * (t.ndim < 2) + tuple(t.shape) if t is x else tuple(t.shape) + (1,) * (t.ndim < 2)
              for t in (x, other)]
    if max(map(len, shapes)) == 2:
        return lambda xs, ps: F.matmul(*xs), [(t, (1, *shape)) for t, shape in zip((x, other), shapes, strict=True)], []
    values = [(t, shape) for t, shape in zip((x, other), shapes, strict=True) if len(shape) > 2]
    same = [t.reshape(shape) for t, shape in zip((x, other), shapes, strict=True) if len(shape) == 2]
    if len({shape[0] for _, shape in values}) > 1:
        raise LeftOut("another number of images each")

    def call(xs, ps):
        return F.matmul(*(next(kind) for kinds in [(iter(xs), iter(ps))]
                          for kind in (kinds[len(shape) == 2] for shape in shapes)))
    return call, values, same


def moved(method, *names):
    """A method that moves elements, by axes: of one image, or where there are too many axes, of images."""
    def adapt(x, *args, **kwargs):
        more = dict(zip(names, args, strict=False)) | kwargs
        new = method == "unsqueeze"
        of_one = max(x.ndim, 1) <= 3 - new      # an axis of images comes before the others
        axes = max(x.ndim, 1 - new) + new

        def behind(dim):
            if isinstance(dim, (tuple, list)):
                return tuple(map(behind, dim))
            if not of_one and dim % axes == 0:
                raise LeftOut("over the images")
            return dim % axes + of_one
        dims = [behind(dim) for dim in more.values()]
        if method == "permute":
            dims = [(0, *(dims[0] or (1,)))]
        return (lambda xs, ps: getattr(xs[0], method)(*dims)), [(x, (1,) * of_one + tuple(x.shape or (1,)))], []
    return adapt


def prelu(x, weight):
    shape = tuple(x.shape) if x.ndim > 1 else (1, *(tuple(x.shape) or (1,)))
    if len(shape) == 4 or len(shape) <= 3:
        if weight.numel() > 1 and x.ndim < 2:
            raise LeftOut("a slope for each element of one axis")
        return lambda xs, ps: F.prelu(xs[0], ps[0]), [(x, shape)], [weight.reshape(-1)]
    raise LeftOut(f"{x.ndim} axes")


def normalize(x, p=2.0, dim=1, eps=1e-12, out=None):
    if p <= 0:
        raise LeftOut("p of 0 or less")
    rank = max(x.ndim, 1)
    if rank > 3 and not dim % rank:
        raise LeftOut("over the images")
    shape = (1, *(x.shape or (1,))) if rank <= 3 else tuple(x.shape)
    return lambda xs, ps: F.normalize(xs[0], p, dim % rank + (rank <= 3), eps), [(x, shape)], []


ADAPTORS = {
    **{f"nn.functional.conv{n}d": convolution(getattr(F, f"conv{n}d"), n, "stride", "padding", "dilation", "groups")
       for n in (1, 2)},
    "nn.functional.conv_transpose2d": convolution(F.conv_transpose2d, 2, "stride", "padding", "output_padding",
                                                  "groups", "dilation"),
    "nn.functional.layer_norm": layer_norm, "nn.functional.instance_norm": instance_norm,
    "nn.functional.local_response_norm": local_response_norm,
    **{f"nn.functional.max_pool{n}d": windows(getattr(F, f"max_pool{n}d"), n, "kernel_size", "stride", "padding",
                                              "dilation", "ceil_mode") for n in (1, 2)},
    **{f"nn.functional.avg_pool{n}d": windows(getattr(F, f"avg_pool{n}d"), n, "kernel_size", "stride", "padding",
                                              "ceil_mode", "count_include_pad", "divisor_override") for n in (1, 2)},
    **{f"nn.functional.adaptive_{kind}_pool{n}d": windows(getattr(F, f"adaptive_{kind}_pool{n}d"), n, "output_size")
       for n in (1, 2) for kind in ("avg", "max")},
    "nn.functional.linear": linear, "nn.functional.group_norm": group_norm, "nn.functional.batch_norm": batch_norm,
    **{f"nn.functional.{name}": elementwise(getattr(F, name)) for name in (
        "relu", "relu6", "silu", "mish", "hardswish", "hardsigmoid")},
    "nn.functional.leaky_relu": elementwise(F.leaky_relu, "negative_slope"),
    "nn.functional.elu": elementwise(F.elu, "alpha"), "nn.functional.gelu": elementwise(F.gelu, "approximate"),
    "nn.functional.hardtanh": elementwise(F.hardtanh, "min_val", "max_val"),
    "nn.functional.softplus": elementwise(F.softplus, "beta", "threshold"), "nn.functional.prelu": prelu,
    **{name: elementwise(getattr(F, name)) for name in ("tanh", "sigmoid", "abs", "exp", "log", "sqrt", "sin", "cos")},
    **dict.fromkeys(("softmax", "log_softmax"), None),
    **{name: operands(function) for name, function in (
        ("add", lambda a, b: a + b), ("sub", lambda a, b: a - b), ("mul", lambda a, b: a * b),
        ("div", lambda a, b: a / b), ("maximum", F.maximum), ("minimum", F.minimum), ("gt", lambda a, b: a > b),
        ("ge", lambda a, b: a >= b), ("lt", lambda a, b: a < b), ("le", lambda a, b: a <= b),
        ("eq", lambda a, b: a == b), ("ne", lambda a, b: a != b))},
    **{name: elementwise(function) for name, function in (
        ("neg", lambda x: -x), ("reciprocal", lambda x: 1 / x), ("rsqrt", lambda x: 1 / F.sqrt(x)),
        ("square", lambda x: x * x), ("nn.functional.logsigmoid", lambda x: -F.softplus(-x)))},
    **{name: over_axes(getattr(F, name)) for name in ("sum", "mean", "amax", "amin")},
    "nn.functional.pad": padded, "nn.functional.interpolate": interpolate, "nn.functional.normalize": normalize,
    "nn.functional.pixel_shuffle": whole_images(F.pixel_shuffle, "upscale_factor"),
    "nn.functional.pixel_unshuffle": whole_images(F.pixel_unshuffle, "downscale_factor"),
    "nn.functional.channel_shuffle": whole_images(F.channel_shuffle, "groups"),
    "nn.functional.mse_loss": loss(F.mse_loss), "nn.functional.l1_loss": loss(F.l1_loss),
    "nn.functional.smooth_l1_loss": loss(F.smooth_l1_loss, "beta"),
    "nn.functional.huber_loss": loss(F.huber_loss, "delta"), "nn.functional.kl_div": batchmean(F.kl_div),
    "nn.functional.binary_cross_entropy": loss(F.binary_cross_entropy, "weight"),
    "nn.functional.binary_cross_entropy_with_logits": loss(
        F.binary_cross_entropy_with_logits, "weight", "pos_weight"),
    "matmul": product, "bmm": product, "permute": moved("permute", "dims"),
    "transpose": moved("transpose", "dim0", "dim1"), "unsqueeze": moved("unsqueeze", "dim"),
    "squeeze": moved("squeeze"), "flatten": moved("flatten", "start_dim", "end_dim"),
    "cat": sequence(F.cat), "stack": sequence(F.stack), "where": where, "reshape": reshaped,
    "split": part_of("split", "split_size", "dim"), "chunk": part_of("chunk", "chunks", "dim"),
}
ADAPTORS |= {name: over_axes(getattr(F, name), one=True) for name in ("softmax", "log_softmax")}


def check(sample, op, adapt, tolerance=TOLERANCE):
    """Compare one sample; raises LeftOut where it does not apply, AssertionError where the results differ."""
    xs, ps = [], []
    tensors = [t for t in (sample.input, *sample.args, *sample.kwargs.values()) if torch.is_tensor(t)]
    if isinstance(sample.input, (tuple, list)):
        tensors += list(sample.input)
    if any(t.dtype not in (torch.float64, torch.int64) and not (t.dtype == torch.bool and adapt is where)
           for t in tensors):
        raise LeftOut("another dtype")
    function, xs, ps = adapt(sample.input, *sample.args, **sample.kwargs)
    theirs = op(sample.input, *sample.args, **sample.kwargs)
    if not torch.is_tensor(theirs) and theirs[-1].is_floating_point():      # parts, side by side
        theirs = torch.cat([part.reshape(-1) for part in theirs])
    if not torch.is_tensor(theirs):         # with the winners' indices
        theirs, indices = theirs
        _, ours = function([t.detach().numpy().reshape(shape) for t, shape in xs], ps)
        assert np.array_equal(ours.reshape(indices.shape), indices.numpy())
    empty = any(0 in shape[1:] for _, shape in xs) or any(not p.numel() for p in ps)
    if empty or not theirs.numel() and all(shape[0] for _, shape in xs):
        raise LeftOut("images or weights without elements")
    net = Net(function, ps)
    y = net(*(np.ascontiguousarray(t.detach().numpy()).reshape(shape) for t, shape in xs))
    wanted = theirs.detach().numpy()
    assert y.size == wanted.size, (y.shape, wanted.shape)
    close(y.reshape(wanted.shape), wanted, tolerance)
    dy = np.random.default_rng(0).standard_normal(wanted.shape)
    every = [t for t, _ in xs] + ps
    learnt = [t for t in every if t.requires_grad]
    if not theirs.requires_grad or not learnt:
        return
    gradients = torch.autograd.grad(theirs, learnt, torch.tensor(dy), allow_unused=True)
    dxs = net.backward(dy.reshape(y.shape))
    dxs = dxs if isinstance(dxs, tuple) else (dxs,)
    got = dict(zip(map(id, every), [*dxs, *(p.grad for p in net.tensors)], strict=True))
    for t, gradient in zip(learnt, gradients, strict=True):
        if gradient is not None:
            close(got[id(t)].reshape(t.shape), gradient.numpy(), tolerance)


def close(got, wanted, tolerance):
    scale = np.abs(wanted[np.isfinite(wanted)]).max(initial=1)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * scale)


@functools.lru_cache(None)
def outcome(name):
    """(agree, {reason: count of those left out})"""
    agree, left = 0, {}
    for variant in [variant for found, variant in op_db() if found == name and variant not in OTHER_VARIANTS]:
        op = op_db()[name, variant]
        for i, sample in enumerate(samples(name, variant)):
            try:
                check(sample, op.op, ADAPTORS[name], COARSE.get(name, TOLERANCE))
                agree += 1
            except OfVolumes:
                continue
            except LeftOut as reason:
                left[str(reason)] = left.get(str(reason), 0) + 1
            except Exception as error:
                raise AssertionError(f"{name} {variant} sample {i}: {sample}: {error}") from error
    return agree, left


SLOW = {"nn.functional.max_pool2d", "nn.functional.max_pool1d"}
COARSE = dict.fromkeys(("nn.functional.hardsigmoid", "nn.functional.hardswish"), 1e-7)    # its 1/6 is that of float32
# other operations under the name of one of ours
OTHER_VARIANTS = {"trunc_rounding", "floor_rounding", "circular", "nearest-exact", "bicubic", "trilinear", "area"}


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.thorough) if name in SLOW else name for name in ADAPTORS])
def test_samples_agree(name):
    agree, _ = outcome(name)
    assert agree > 0


@pytest.mark.thorough
def test_few_are_left_out():
    """Of all, with reasons: print them by `pytest -s`."""
    reasons = {name: outcome(name)[1] for name in ADAPTORS}
    for name, left in reasons.items():
        print(name, left)
    assert sum(count for left in reasons.values() for count in left.values()) <= MOST_LEFT_OUT
