"""The table of layers that the tests run through, and the helpers that compare.

A new layer is one row in CASES (and, if it is a new operation, one entry in OPERATIONS): that row drives the
tests of shapes, dtypes, gradients, thread counts, the NumPy twin and PyTorch.
"""

from dataclasses import dataclass, field

import numpy as np

import cnn
from cnn import reference
from cnn.ops import twins

DTYPES = [np.float32, np.float64]

def torch_residual(nn, body, shortcut=None):
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.shortcut = body, shortcut

        def forward(self, x):
            return self.body(x) + (x if self.shortcut is None else self.shortcut(x))

    return Residual()


def torch_concat(nn, *branches):
    class Concat(nn.ModuleList):
        def forward(self, x):
            import torch

            return torch.cat([branch(x) for branch in self], 1)

    return Concat(branches)


def torch_layer_norm2d(nn, *args, **options):
    class LayerNorm2d(nn.LayerNorm):
        def forward(self, x):
            return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    return LayerNorm2d(*args, **options)


def torch_same(torch, kind):
    """A module of PyTorch that pads by TensorFlow's rule first: "SAME" in the documentation of tf.nn.convolution."""
    class Same(kind):
        def forward(self, x):
            pads = []
            for n, k, s, d in zip(x.shape[:1:-1], *(_pair(getattr(self, name, 1))[::-1] for name in (
                    "kernel_size", "stride", "dilation")), strict=True):
                last = (n - 1) // s * s + d * (k - 1)       # of the last window
                pads += [max(last + 1 - n, 0) // 2, -(-max(last + 1 - n, 0) // 2)]
            return super().forward(torch.nn.functional.pad(x, pads, value=-np.inf if "Max" in kind.__name__ else 0.0))
    return Same


def _pair(value):
    return value if isinstance(value, tuple) else (value, value)


# What PyTorch has under another name, or not at all: functions of torch.nn and the arguments that make it.
OTHER_NAMES = {
    "GlobalAvgPool2d": lambda nn: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    "Residual": torch_residual,
    "Concat": torch_concat,
    "LayerNorm2d": torch_layer_norm2d,
}


@dataclass(frozen=True)
class Case:
    layer: str  # the class's name in cnn and, but for OTHER_NAMES, in torch.nn
    args: tuple
    shape: tuple  # of one image
    out: tuple  # of one image's output, worked out by hand
    options: dict = field(default_factory=dict)

    def __str__(self):
        words = [*map(str, self.args), *(f"{name}={value}" for name, value in self.options.items())]
        shape = f" of {'x'.join(map(str, self.shape))}" if self.shape else ""
        return f"{self.layer}({', '.join(words)}){shape}"

    def make(self, dtype=np.float64):
        args = [arg.make(dtype) if isinstance(arg, Case) else arg for arg in self.args]
        return getattr(cnn, self.layer)(*args, **self.options).to(dtype)

    @property
    def torch_tolerance(self):
        """How far PyTorch may be off in float64, None for the usual: its 1/6 is that of float32."""
        return 1e-7 if self.layer in ("Hardswish", "Hardsigmoid") else None

    def torch_twin(self, torch, layer):
        """PyTorch's module with the weights of `layer`, in float64."""
        module = self.torch_module(torch).double()
        module.load_state_dict({name: torch.tensor(value) for name, value in layer.state_dict().items()})
        return module

    def torch_module(self, torch):
        args = [arg.torch_module(torch) if isinstance(arg, Case) else arg for arg in self.args]
        if self.layer in OTHER_NAMES:
            return OTHER_NAMES[self.layer](torch.nn, *args, **self.options)
        options = {name: value for name, value in self.options.items() if name != "unbiased"}
        scales = "Norm2d" in self.layer and not options.pop("bias", True)      # as newer versions of PyTorch spell it
        kind = getattr(torch.nn, self.layer)
        if options.get("padding") == "same" and max(_pair(options.get("stride", 1))) > 1:
            kind, options = torch_same(torch, kind), {**options, "padding": 0}
        module = kind(*args, **options)
        if scales:
            module.bias = None
        return module

    def arrays(self, n, dtype=np.float64, seed=0):
        """x and dy for n images; the values of x are all different and none is near 0, where kinks are."""
        rng = np.random.default_rng(seed)
        x = spread((n, *self.shape), rng).astype(dtype)
        return x, rng.standard_normal((n, *self.out)).astype(dtype)


def inner(layer, *args, **options):
    """A layer inside another one, whose row tells the shapes."""
    return Case(layer, args, (), (), options)


CONV, NORM = inner("Conv2d", 3, 3, 3, padding=1, bias=False), inner("BatchNorm2d", 3)
POOL = inner("MaxPool2d", 3, stride=1, padding=1)
RELU, FLATTEN, LINEAR = inner("ReLU"), inner("Flatten"), inner("Linear", 5, 5)

CASES = [
    Case("Conv2d", (3, 4, 3), (3, 6, 7), (4, 4, 5)),
    Case("Conv2d", (1, 6, 5), (1, 16, 16), (6, 12, 12)),
    Case("Conv2d", (2, 1, 1), (2, 3, 4), (1, 3, 4)),
    Case("Conv2d", (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    Case("Conv2d", (2, 7, (3, 2)), (2, 5, 6), (7, 3, 5), {"bias": False}),
    Case("Conv2d", (2, 3, 3), (2, 7, 8), (3, 3, 3), {"stride": 2}),
    Case("Conv2d", (2, 3, (1, 2)), (2, 7, 8), (3, 3, 2), {"stride": (3, 4)}),  # stride beyond the kernel
    Case("Conv2d", (2, 2, 3), (2, 4, 3), (2, 6, 3), {"padding": (2, 1)}),
    Case("Conv2d", (1, 2, 2), (1, 1, 2), (2, 6, 7), {"padding": 3}),  # padding beyond the kernel
    Case("Conv2d", (2, 5, (4, 3)), (2, 9, 1), (5, 12, 1), {"padding": (3, 1)}),  # no window is inside
    Case("Conv2d", (1, 7, (1, 3)), (1, 6, 3), (7, 4, 1), {"stride": 2, "padding": 1, "dilation": 2}),
    Case("Conv2d", (2, 5, (4, 3)), (2, 5, 6), (5, 5, 6), {"padding": "same", "dilation": (1, 2)}),
    Case("Conv2d", (2, 2, (2, 3)), (2, 4, 5), (2, 2, 2), {"padding": "valid", "stride": 2}),
    Case("Conv2d", (2, 3, (3, 2)), (2, 6, 5), (3, 3, 2), {"padding": "same", "stride": (2, 3)}),
    Case("Conv2d", (3, 3, 3), (3, 6, 7), (3, 3, 4), {"padding": "same", "stride": 2, "groups": 3}),
    Case("Conv2d", (1, 2, (3, 2)), (1, 8, 7), (2, 6, 6), {"padding": 1, "dilation": (2, 3)}),
    Case("Conv2d", (4, 6, (3, 2)), (4, 4, 4), (6, 4, 5), {"padding": 1, "groups": 2}),
    Case("Conv2d", (3, 6, 3), (3, 5, 5), (6, 3, 3), {"padding": 1, "stride": 2, "groups": 3}),  # depthwise
    # these have kernels of their own
    Case("Conv2d", (2, 2, 3), (2, 9, 7), (2, 9, 7), {"padding": 1, "groups": 2}),
    Case("Conv2d", (3, 3, 3), (3, 3, 5), (3, 1, 3), {"groups": 3, "bias": False}),
    Case("Conv2d", (2, 2, 3), (2, 4, 1), (2, 8, 3), {"padding": (3, 2), "groups": 2}),
    Case("Conv2d", (2, 2, 3), (2, 1, 2), (2, 3, 6), {"padding": (2, 3), "groups": 2}),
    Case("Conv2d", (2, 2, 3), (2, 9, 8), (2, 5, 4), {"padding": 1, "stride": 2, "groups": 2}),
    Case("Conv2d", (3, 3, 3), (3, 6, 9), (3, 2, 4), {"stride": 2, "groups": 3}),
    Case("Conv2d", (2, 2, 3), (2, 2, 3), (2, 2, 4), {"padding": (2, 3), "stride": 2, "groups": 2}),
    Case("Conv2d", (2, 2, 3), (2, 3, 4), (2, 1, 1), {"stride": 2, "groups": 2}),
    # and these have not
    Case("Conv2d", (2, 2, 3), (2, 7, 6), (2, 4, 6), {"padding": 1, "stride": (2, 1), "groups": 2}),
    Case("Conv2d", (2, 2, 3), (2, 7, 6), (2, 5, 4), {"padding": 1, "dilation": 2, "groups": 2}),
    Case("Conv2d", (2, 2, 5), (2, 6, 7), (2, 6, 7), {"padding": 2, "groups": 2}),
    Case(
        "Conv2d",
        (4, 4, (3, 2)),
        (4, 9, 8),
        (4, 4, 9),  # (9 + 2 - 5) // 2 + 1, (8 + 4 - 4) // 1 + 1
        {"stride": (2, 1), "padding": (1, 2), "dilation": (2, 3), "groups": 2},
    ),
    Case("Conv2d", (4, 6, 3), (4, 5, 6), (6, 3, 4), {"groups": 2}),
    Case("Conv2d", (2, 3, 2), (2, 6, 5), (3, 3, 3), {"dilation": (3, 2)}),
    Case("Conv2d", (17, 19, 2), (17, 3, 3), (19, 2, 2)),  # more channels than a tile
    Case("Conv2d", (16, 12, 1), (16, 5, 4), (12, 5, 4), {"bias": False}),
    Case("Conv2d", (48, 8, 1), (48, 3, 3), (8, 3, 3)),
    Case("Conv2d", (16, 8, 1), (16, 9, 8), (8, 9, 8)),  # more pixels than are brought together
    Case("Conv2d", (131, 3, 1), (131, 7, 9), (3, 7, 9)),
    # these have channels enough for Winograd's algorithm
    Case("Conv2d", (12, 13, 3), (12, 8, 5), (13, 8, 5), {"padding": 1}),  # tiles of 4 x 4, not all whole
    Case("Conv2d", (17, 12, 3), (17, 4, 4), (12, 4, 4), {"padding": 1}),  # one tile
    Case("Conv2d", (12, 16, 3), (12, 1, 2), (16, 3, 2), {"padding": (2, 1)}),  # tiles of 2 x 2
    Case("Conv2d", (14, 12, 3), (14, 6, 7), (12, 8, 5), {"padding": (2, 0), "bias": False}),
    Case("Conv2d", (13, 18, 5), (13, 9, 8), (18, 9, 8), {"padding": "same"}),
    Case("Conv2d", (12, 12, 5), (12, 7, 5), (12, 3, 1)),
    Case("Conv2d", (36, 40, 3), (36, 4, 3), (40, 4, 3), {"padding": 1}),  # its dw is made of the whole batch
    # pieces of rows by Winograd's algorithm
    Case("Conv2d", (6, 7, 5), (6, 9, 8), (7, 5, 4)),
    Case("Conv2d", (5, 9, 5), (5, 6, 7), (9, 6, 7), {"padding": 2}),
    Case("Conv2d", (5, 5, (7, 5)), (5, 3, 2), (5, 3, 4), {"padding": (3, 3), "bias": False}),  # wider than x
    Case("ConvTranspose2d", (4, 3, 2), (4, 3, 5), (3, 6, 10), {"stride": 2}),
    Case("ConvTranspose2d", (3, 2, 4), (3, 4, 3), (2, 8, 6), {"stride": 2, "padding": 1}),
    Case("ConvTranspose2d", (2, 5, 3), (2, 3, 2), (5, 6, 4), {"stride": 2, "padding": 1, "output_padding": 1}),
    Case("ConvTranspose2d", (2, 3, (3, 2)), (2, 4, 3), (3, 6, 4), {"bias": False}),
    Case("ConvTranspose2d", (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    Case("ConvTranspose2d", (2, 3, (1, 2)), (2, 2, 3), (3, 4, 11), {"stride": (3, 4), "output_padding": (0, 1)}),
    Case("ConvTranspose2d", (2, 3, 2), (2, 3, 2), (3, 8, 7), {"output_padding": (2, 1), "dilation": (3, 4)}),
    Case(
        "ConvTranspose2d",
        (4, 6, (3, 2)),
        (4, 3, 4),
        (6, 7, 7),  # 2 2 - 2 + 2 2 + 1, 3 1 - 0 + 3 1 + 1
        {"stride": (2, 1), "padding": (1, 0), "groups": 2, "dilation": (2, 3)},
    ),
    Case("ConvTranspose2d", (2, 3, 3), (2, 6, 5), (3, 2, 1), {"padding": (3, 3)}),  # padding beyond the kernel
    Case("ConvTranspose2d", (2, 2, 3), (2, 5, 4), (2, 5, 4), {"padding": 1, "groups": 2}),  # depthwise kernels
    Case("ConvTranspose2d", (3, 3, 3), (3, 4, 3), (3, 8, 6), {
        "stride": 2, "padding": 1, "output_padding": 1, "groups": 3}),
    Case("ConvTranspose2d", (2, 4, 2), (2, 3, 2), (4, 6, 4), {"stride": 2, "groups": 2}),
    Case("ConvTranspose2d", (17, 19, 2), (17, 2, 3), (19, 4, 6), {"stride": 2}),  # more channels than a tile
    Case("ConvTranspose2d", (8, 16, 1), (8, 3, 4), (16, 3, 4)),
    Case("ConvTranspose2d", (13, 12, 3), (13, 6, 5), (12, 6, 5), {"padding": 1}),  # Winograd's algorithm
    Case("ConvTranspose2d", (12, 13, 5), (12, 4, 5), (13, 8, 9)),
    Case("ConvTranspose2d", (7, 6, 5), (7, 5, 4), (6, 9, 8)),  # and by pieces of rows
    Case("ConvTranspose2d", (16, 32, 3), (16, 3, 2), (32, 5, 3), {"stride": 2, "padding": 1, "groups": 2}),
    Case(
        "Sequential",
        (inner("ConvTranspose2d", 3, 2, 2, stride=2), RELU, inner("ConvTranspose2d", 2, 3, 3)),
        (3, 2, 3),
        (3, 6, 8),
    ),
    Case("MaxPool2d", (2,), (2, 4, 6), (2, 2, 3)),
    Case("MaxPool2d", (2,), (1, 5, 7), (1, 2, 3)),  # the last row and column are dropped
    Case("MaxPool2d", (2,), (1, 5, 7), (1, 3, 4), {"ceil_mode": True}),
    Case("MaxPool2d", (3,), (2, 6, 7), (2, 2, 3), {"stride": 2}),
    Case("MaxPool2d", (3,), (1, 6, 7), (1, 3, 4), {"stride": 2, "padding": 1}),
    Case(
        "MaxPool2d", ((3, 4),), (2, 6, 7), (2, 3, 8), {"stride": (2, 1), "padding": (0, 2), "ceil_mode": True}
    ),
    Case("MaxPool2d", (2,), (2, 8, 9), (2, 3, 3), {"stride": (3, 4), "padding": (0, 1), "ceil_mode": True}),
    Case("MaxPool2d", ((3, 4),), (1, 3, 4), (1, 1, 1), {"stride": 1}),
    Case("MaxPool2d", (1,), (1, 3, 2), (1, 3, 2)),
    Case("MaxPool2d", (2,), (2, 6, 7), (2, 3, 4), {"stride": 2, "padding": 1, "dilation": (3, 2)}),
    Case("MaxPool2d", (2, 3), (2, 6, 7), (2, 2, 2), {"dilation": 2}),  # side by side, with pixels left out
    Case(
        "MaxPool2d",
        ((3, 2), (2, 1)),
        (17, 6, 5),
        (17, 3, 2),
        {"dilation": (2, 3), "ceil_mode": True, "padding": (1, 0)},
    ),
    Case("MaxPool2d", (3,), (2, 6, 7), (2, 3, 4), {"stride": 2, "padding": "same"}),
    Case("AvgPool2d", (2,), (2, 4, 6), (2, 2, 3)),
    Case("AvgPool2d", (2,), (1, 5, 7), (1, 2, 3)),
    Case("AvgPool2d", (2,), (1, 5, 7), (1, 3, 4), {"ceil_mode": True}),
    Case("AvgPool2d", (3,), (1, 6, 7), (1, 3, 4), {"stride": 2, "padding": 1}),
    Case("AvgPool2d", (3,), (1, 6, 7), (1, 3, 4), {"stride": 2, "padding": 1, "count_include_pad": False}),
    Case("AvgPool2d", (4,), (2, 6, 7), (2, 3, 3), {"stride": 3, "padding": 2, "ceil_mode": True}),  # off the padding
    Case(
        "AvgPool2d",
        ((3, 4),),
        (2, 6, 7),
        (2, 4, 3),  # 1 + ceil((6 + 2 - 3) / 2), 1 + ceil((7 + 2 - 4) / 3)
        {"stride": (2, 3), "padding": 1, "ceil_mode": True, "count_include_pad": False},
    ),
    Case("AvgPool2d", (2,), (2, 8, 9), (2, 3, 3), {"stride": (3, 4), "padding": (0, 1), "ceil_mode": True}),
    Case("AvgPool2d", (2,), (2, 5, 6), (2, 3, 3), {"ceil_mode": True, "divisor_override": 3}),
    Case("AvgPool2d", (3,), (2, 6, 7), (2, 3, 4), {"stride": 2, "padding": "same"}),
    Case("AdaptiveAvgPool2d", ((2, 3),), (2, 4, 6), (2, 2, 3)),
    Case("AdaptiveAvgPool2d", ((3, 5),), (2, 7, 8), (2, 3, 5)),  # overlaps
    Case("AdaptiveAvgPool2d", ((None, 3),), (2, 4, 6), (2, 4, 3)),
    Case("AdaptiveAvgPool2d", (4,), (1, 3, 5), (1, 4, 4)),  # more than there are pixels
    Case("GlobalAvgPool2d", (), (3, 4, 5), (3,)),
    Case("GlobalAvgPool2d", (), (17, 1, 1), (17,)),
    Case("AdaptiveMaxPool2d", ((2, 3),), (2, 4, 6), (2, 2, 3)),
    Case("AdaptiveMaxPool2d", ((3, 5),), (2, 7, 8), (2, 3, 5)),
    Case("AdaptiveMaxPool2d", ((2, None),), (2, 6, 3), (2, 2, 3)),
    Case("AdaptiveMaxPool2d", (4,), (1, 3, 5), (1, 4, 4)),
    # sequences
    Case("Conv1d", (3, 4, 3), (3, 7), (4, 5)),
    Case("Conv1d", (2, 6, 3), (2, 9), (6, 5), {"stride": 2, "padding": 2, "dilation": 2, "groups": 2, "bias": False}),
    Case("Conv1d", (17, 3, 2), (17, 5), (3, 5), {"padding": "same"}),
    Case("MaxPool1d", (3,), (2, 8), (2, 4), {"stride": 2, "padding": 1}),
    Case("MaxPool1d", (2, 3), (17, 9), (17, 3), {"dilation": 2, "ceil_mode": True}),
    Case("AvgPool1d", (3,), (2, 8), (2, 4), {"stride": 2, "padding": 1, "count_include_pad": False}),
    Case("AvgPool1d", (2,), (3, 5), (3, 3), {"ceil_mode": True}),
    Case("AdaptiveAvgPool1d", (2,), (2, 6), (2, 2)),
    Case("AdaptiveMaxPool1d", (3,), (2, 6), (2, 3)),
    Case("ConvTranspose1d", (4, 3, 2), (4, 5), (3, 10), {"stride": 2}),
    Case("ConvTranspose1d", (2, 4, 3), (2, 6), (4, 14), {  # 5 2 - 2 + 2 2 + 1 + 1
        "stride": 2, "padding": 1, "output_padding": 1, "groups": 2, "dilation": 2, "bias": False}),
    Case("ConvTranspose1d", (17, 2, 3), (17, 1), (2, 3)),
    Case("InstanceNorm1d", (5,), (5, 4), (5, 4)),
    Case("InstanceNorm1d", (17,), (17, 3), (17, 3), {"affine": True, "eps": 0.01}),
    Case("GroupNorm", (2, 6), (6, 5), (6, 5)),
    Case("GroupNorm", (3, 18), (18,), (18,), {"eps": 0.1}),
    Case("LocalResponseNorm", (3, 2.0, 0.5, 0.7), (17, 3), (17, 3)),
    Case("LayerNorm", ((3, 5),), (3, 5), (3, 5)),
    Case("LayerNorm", (5,), (3, 5), (3, 5)),
    Case("Dropout1d", (0.0,), (3, 5), (3, 5)),
    Case("Upsample", (), (2, 5), (2, 11), {"scale_factor": 2.3}),
    Case("Upsample", (7,), (17, 4), (17, 7), {"mode": "linear"}),
    Case("Upsample", (), (2, 4), (2, 5), {"scale_factor": 1.3, "mode": "linear"}),
    Case("Upsample", ((7,),), (2, 4), (2, 7), {"mode": "linear", "align_corners": True}),
    Case("ZeroPad1d", (1,), (3, 4), (3, 6)),
    Case("ConstantPad1d", ((2, -1), 0.5), (3, 4), (3, 5)),
    Case("ReflectionPad1d", ((2, 1),), (17, 3), (17, 6)),
    Case("ReplicationPad1d", (2,), (2, 1), (2, 5)),
    Case("BatchNorm1d", (3,), (3, 5), (3, 5)),
    Case("BatchNorm1d", (18,), (18, 2), (18, 2), {"momentum": None}),
    Case(
        "Sequential",
        (inner("Conv1d", 2, 3, 3, padding=1, bias=False), inner("BatchNorm1d", 3), RELU, inner("MaxPool1d", 2),
         FLATTEN),
        (2, 8),
        (12,),
    ),
    Case("Linear", (5, 3), (5,), (3,)),
    Case("Linear", (1, 1), (1,), (1,)),
    Case("Linear", (16, 17), (16,), (17,), {"bias": False}),
    Case("Linear", (33, 7), (33,), (7,)),
    Case("Linear", (5, 3), (4, 5), (4, 3)),
    Case("Linear", (6, 17), (2, 3, 6), (2, 3, 17), {"bias": False}),
    Case("Linear", (17, 2), (1, 17), (1, 2)),
    Case("BatchNorm2d", (3,), (3, 4, 5), (3, 4, 5)),
    Case("BatchNorm2d", (1,), (1, 1, 3), (1, 1, 3)),
    Case("BatchNorm2d", (2,), (2, 3, 9), (2, 3, 9), {"eps": 0.1, "affine": False}),
    Case("BatchNorm2d", (18,), (18, 2, 2), (18, 2, 2), {"momentum": None}),  # more channels than a task
    Case("Sequential", (CONV, NORM, RELU, POOL), (3, 4, 5), (3, 4, 5)),
    # normalised where it is read, in both directions or not
    Case("GroupNorm", (2, 6), (6, 3, 5), (6, 3, 5)),
    Case("GroupNorm", (1, 3), (3, 4, 4), (3, 4, 4), {"eps": 0.1, "affine": False}),
    Case("GroupNorm", (2, 4), (4, 3, 5), (4, 3, 5), {"bias": False}),
    Case("GroupNorm", (5, 5), (5, 1, 3), (5, 1, 3)),
    # sixteen channels hold whole groups, a group holds whole sixteens, or neither
    Case("GroupNorm", (10, 40), (40, 2, 3), (40, 2, 3)),
    Case("GroupNorm", (2, 64), (64, 1, 2), (64, 1, 2)),
    Case("GroupNorm", (4, 48), (48, 2, 2), (48, 2, 2), {"affine": False}),
    Case("GroupNorm", (2, 34), (34, 1, 3), (34, 1, 3)),
    Case("BatchNorm2d", (3,), (3, 4, 5), (3, 4, 5), {"bias": False, "unbiased": False}),
    Case("InstanceNorm2d", (5,), (5, 3, 4), (5, 3, 4)),
    Case("InstanceNorm2d", (17,), (17, 1, 3), (17, 1, 3), {"affine": True, "eps": 0.01}),
    Case("InstanceNorm2d", (3,), (3, 5, 2), (3, 5, 2), {"affine": True, "bias": False}),
    Case("LayerNorm", ((3, 4, 5),), (3, 4, 5), (3, 4, 5)),
    Case("LayerNorm", ((18, 2, 3),), (18, 2, 3), (18, 2, 3), {"bias": False, "eps": 0.1}),
    Case("LayerNorm", ([4, 5],), (3, 4, 5), (3, 4, 5)),
    Case("LayerNorm", ((1, 6),), (17, 1, 6), (17, 1, 6), {"elementwise_affine": False}),
    Case("LayerNorm", (7,), (5, 4, 7), (5, 4, 7)),
    Case("LayerNorm", (3,), (18, 2, 3), (18, 2, 3), {"bias": False}),
    Case("LayerNorm", (5,), (5,), (5,)),
    Case("LayerNorm", (150,), (150,), (150,), {"eps": 0.01}),  # sums of more than are added at once
    Case("LayerNorm2d", (6,), (6, 3, 5), (6, 3, 5)),
    Case("LayerNorm2d", (33,), (33, 1, 2), (33, 1, 2), {"eps": 0.1, "bias": False}),
    Case("LayerNorm2d", (16,), (16, 2, 9), (16, 2, 9), {"elementwise_affine": False}),
    Case("LocalResponseNorm", (5,), (9, 3, 4), (9, 3, 4), {"alpha": 0.5}),
    Case("LocalResponseNorm", (3, 2.0, 0.5, 0.7), (17, 2, 3), (17, 2, 3)),
    Case("LocalResponseNorm", (4, 1.5, 1.2, 2.0), (6, 2, 3), (6, 2, 3)),  # one more before than after
    Case("LocalResponseNorm", (9, 1.0), (4, 2, 2), (4, 2, 2)),  # more than there are
    Case("LocalResponseNorm", (6,), (40, 2, 2), (40, 2, 2), {"alpha": 0.5}),
    Case("LocalResponseNorm", (33,), (49, 1, 2), (49, 1, 2), {"alpha": 2.0}),
    Case("LocalResponseNorm", (36,), (49, 1, 2), (49, 1, 2), {"alpha": 2.0}),
    Case("Sequential", (inner("BatchNorm2d", 16), RELU, inner("Conv2d", 16, 8, 1)), (16, 3, 4), (8, 3, 4)),
    Case("Sequential", (inner("BatchNorm2d", 16), inner("Conv2d", 16, 12, 1, bias=False)), (16, 3, 4), (12, 3, 4)),
    Case("Sequential", (NORM, RELU, inner("Conv2d", 3, 5, 1)), (3, 4, 5), (5, 4, 5)),
    Case("Sequential", (NORM, RELU, inner("Conv2d", 3, 3, 3, groups=3, padding=1)), (3, 4, 5), (3, 4, 5)),
    Case("Residual", (CONV,), (3, 4, 5), (3, 4, 5)),
    Case("Residual", (LINEAR, RELU), (5,), (5,)),
    Case("Residual", (inner("Sequential"),), (2, 3, 4), (2, 3, 4)),  # x + x
    Case("Residual", (inner("Sequential"), RELU), (2, 3, 4), (2, 3, 4)),
    Case("Residual", (inner("Sequential"), NORM), (3, 4, 5), (3, 4, 5)),  # which writes over its dy alone
    Case("Residual", (NORM, inner("Sequential", CONV, RELU)), (3, 4, 5), (3, 4, 5)),
    Case("Residual", (inner("Sequential", RELU, FLATTEN), FLATTEN), (3, 2, 2), (12,)),
    Case(  # with a ReLU at the end, and inside another one
        "Residual",
        (inner("Sequential", inner("Residual", inner("Sequential", CONV, NORM), CONV), RELU),),
        (3, 3, 4),
        (3, 3, 4),
    ),
    # the same x and dy with and without borders
    Case(
        "Residual",
        (inner("Conv2d", 16, 16, 1), inner("Conv2d", 16, 16, 2, padding="same", dilation=2)),
        (16, 3, 4),
        (16, 3, 4),
    ),
    Case("Concat", (CONV,), (3, 4, 5), (3, 4, 5)),
    Case("Concat", (LINEAR, inner("Linear", 5, 2), RELU), (5,), (12,)),
    Case("Concat", (POOL, CONV, inner("Sequential"), inner("Conv2d", 3, 2, 1)), (3, 4, 5), (11, 4, 5)),
    Case(  # copies with borders on either side
        "Sequential",
        (inner("Concat", inner("Sequential", CONV, RELU), NORM), inner("Conv2d", 6, 2, 3, padding=1)),
        (3, 4, 5),
        (2, 4, 5),
    ),
    Case("ReLU", (), (3, 4, 5), (3, 4, 5)),
    Case("ReLU", (), (7,), (7,)),
    Case("LeakyReLU", (), (2, 3, 4), (2, 3, 4)),
    Case("LeakyReLU", (0.3,), (9,), (9,)),
    Case("Tanh", (), (2, 3, 5), (2, 3, 5)),
    Case("Tanh", (), (3,), (3,)),
    Case("Sigmoid", (), (2, 3, 5), (2, 3, 5)),
    Case("Sigmoid", (), (3,), (3,)),
    Case("SiLU", (), (2, 3, 5), (2, 3, 5)),
    Case("SiLU", (), (3,), (3,)),
    Case("GELU", (), (2, 3, 5), (2, 3, 5)),
    Case("GELU", ("tanh",), (2, 3, 5), (2, 3, 5)),
    Case("ReLU6", (), (2, 3, 5), (2, 3, 5)),
    Case("Hardtanh", (-0.51, 0.77), (2, 3, 5), (2, 3, 5)),
    Case("ELU", (), (2, 3, 5), (2, 3, 5)),
    Case("ELU", (0.3,), (17,), (17,)),
    Case("Hardswish", (), (2, 3, 5), (2, 3, 5)),
    Case("Hardsigmoid", (), (2, 3, 5), (2, 3, 5)),
    Case("Mish", (), (2, 3, 5), (2, 3, 5)),
    Case("Softplus", (), (2, 3, 5), (2, 3, 5)),
    Case("Softplus", (2.0, 1.5), (7,), (7,)),
    Case("PReLU", (), (2, 3, 5), (2, 3, 5)),
    Case("PReLU", (18, 0.1), (18, 3, 2), (18, 3, 2)),
    Case("PReLU", (7,), (7,), (7,)),
    Case("Softmax", (2,), (4, 3, 2), (4, 3, 2)),
    Case("LogSoftmax", (-1,), (17, 3, 2), (17, 3, 2)),
    Case("Softmax", (1,), (4, 3, 2), (4, 3, 2)),
    Case("Softmax", (1,), (5,), (5,)),
    Case("Softmax", (1,), (16, 2, 3), (16, 2, 3)),
    Case("Softmax", (1,), (40, 2, 1), (40, 2, 1)),
    Case("LogSoftmax", (1,), (4, 3, 2), (4, 3, 2)),
    Case("LogSoftmax", (1,), (5,), (5,)),
    Case("LogSoftmax", (1,), (1, 2, 3), (1, 2, 3)),
    Case("LogSoftmax", (1,), (33, 1, 2), (33, 1, 2)),
    Case("Dropout", (0.0,), (2, 3, 4), (2, 3, 4)),  # any other p: see test_dropout.py
    Case("Dropout2d", (0.0,), (2, 3, 4), (2, 3, 4)),
    Case("Flatten", (), (2, 3, 4), (24,)),
    Case("Flatten", (), (5,), (5,)),
    Case("Flatten", (2,), (3, 4, 5), (3, 20)),
    Case("Flatten", (1, -2), (3, 4, 5), (12, 5)),
    Case("Upsample", (), (2, 3, 4), (2, 6, 8), {"scale_factor": 2}),
    Case("Upsample", (), (2, 3, 4), (2, 6, 9), {"scale_factor": 2.3}),
    Case("Upsample", (), (2, 3, 4), (2, 3, 4), {"scale_factor": 1.1}),
    Case("Upsample", ((5, 3),), (17, 3, 4), (17, 5, 3), {"mode": "bilinear"}),
    Case("Upsample", (), (2, 3, 4), (2, 3, 5), {"scale_factor": 1.3, "mode": "bilinear"}),
    Case("Upsample", (), (2, 3, 4), (2, 6, 8), {"scale_factor": 2, "mode": "bilinear", "align_corners": True}),
    Case("PixelShuffle", (2,), (8, 2, 3), (2, 4, 6)),
    Case("PixelShuffle", (3,), (153, 1, 2), (17, 3, 6)),
    Case("PixelUnshuffle", (2,), (5, 4, 2), (20, 2, 1)),
    Case("ChannelShuffle", (3,), (6, 2, 3), (6, 2, 3)),
    Case("ChannelShuffle", (2,), (34, 1, 3), (34, 1, 3)),
    Case("ZeroPad2d", (1,), (3, 2, 3), (3, 4, 5)),
    Case("ConstantPad2d", ((1, 0, 2, -1), 0.5), (3, 2, 3), (3, 3, 4)),
    Case("ReflectionPad2d", ((2, 1, 0, 1),), (17, 3, 3), (17, 4, 6)),
    Case("ReplicationPad2d", (2,), (2, 1, 3), (2, 5, 7)),
]


def has_two_modes(case):
    """Whether it computes something else in evaluation mode."""
    return case.layer in ("BatchNorm1d", "BatchNorm2d") or any(
        isinstance(arg, Case) and has_two_modes(arg) for arg in case.args)


# One entry for each operation, which does not depend on who computes it: `m` is cnn.reference or
# cnn.functional. Returns y, dx, and a dict of the parameters' gradients by name.


def _conv2d(m, layer, x, dy):
    sizes = layer.stride, layer.padding, layer.dilation, layer.groups
    w, b = _weights(layer, x.dtype)
    dx, dw, db = m.conv2d_backward(dy, x, w, *sizes)
    return m.conv2d(x, w, b, *sizes), dx, {"weight": dw, "bias": db}


def _conv_transpose2d(m, layer, x, dy):
    sizes = layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation
    w, b = _weights(layer, x.dtype)
    dx, dw, db = m.conv_transpose2d_backward(dy, x, w, *sizes)
    return m.conv_transpose2d(x, w, b, *sizes), dx, {"weight": dw, "bias": db}


def _conv1d(m, layer, x, dy):
    sizes = layer.stride, layer.padding, layer.dilation, layer.groups
    w, b = _weights(layer, x.dtype)
    if m is reference:      # which has images of one row
        sizes = (1, layer.stride), layer.padding if isinstance(layer.padding, str) else (0, layer.padding), (
            1, layer.dilation), layer.groups
        x, w, dy = x[:, :, None], w[:, :, None], dy[:, :, None]
        dx, dw, db = m.conv2d_backward(dy, x, w, *sizes)
        return m.conv2d(x, w, b, *sizes)[:, :, 0], dx[:, :, 0], {"weight": dw[:, :, 0], "bias": db}
    dx, dw, db = m.conv1d_backward(dy, x, w, *sizes)
    return m.conv1d(x, w, b, *sizes), dx, {"weight": dw, "bias": db}


def _conv_transpose1d(m, layer, x, dy):
    sizes = layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation
    w, b = _weights(layer, x.dtype)
    if m is reference:
        x, w, dy = x[:, :, None], w[:, :, None], dy[:, :, None]
        sizes = ((1, layer.stride), (0, layer.padding), (0, layer.output_padding), layer.groups, (1, layer.dilation))
        dx, dw, db = m.conv_transpose2d_backward(dy, x, w, *sizes)
        return m.conv_transpose2d(x, w, b, *sizes)[:, :, 0], dx[:, :, 0], {"weight": dw[:, :, 0], "bias": db}
    dx, dw, db = m.conv_transpose1d_backward(dy, x, w, *sizes)
    return m.conv_transpose1d(x, w, b, *sizes), dx, {"weight": dw, "bias": db}


def _linear(m, layer, x, dy):
    w, b = _weights(layer, x.dtype)
    if m is reference and x.ndim > 2:
        y, dx, gradients = _linear(m, layer, x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1]))
        return y.reshape(dy.shape), dx.reshape(x.shape), gradients
    dx, dw, db = m.linear_backward(dy, x, w)
    return m.linear(x, w, b), dx, {"weight": dw, "bias": db}


def _of_images(operation):
    """The operation of (N, C, L) and (N, C), too: cnn.reference has it for images."""
    def call(m, layer, x, dy):
        if m is not reference or x.ndim == 4:
            return operation(m, layer, x, dy)
        image = (*x.shape[:2], 1, int(np.prod(x.shape[2:])))
        y, dx, gradients = operation(m, layer, x.reshape(image), dy.reshape(image))
        return y.reshape(x.shape), dx.reshape(x.shape), gradients
    return call


@_of_images
def _batch_norm(m, layer, x, dy):
    w, b = _weights(layer, x.dtype)
    dx, dw, db = m.batch_norm_backward(dy, x, w, layer.eps)
    y = m.batch_norm(x, None, None, w, b, training=True, eps=layer.eps)
    return y, dx, {"weight": dw, "bias": db}


@_of_images
def _group_norm(m, layer, x, dy):
    w, b = _weights(layer, x.dtype)
    dx, dw, db = m.group_norm_backward(dy, x, layer.num_groups, w, layer.eps)
    return m.group_norm(x, layer.num_groups, w, b, layer.eps), dx, {"weight": dw, "bias": db}


@_of_images
def _instance_norm(m, layer, x, dy):
    w, b = _weights(layer, x.dtype)
    groups = layer.num_features
    dx, dw, db = m.group_norm_backward(dy, x, groups, w, layer.eps)
    y = m.group_norm(x, groups, w, b, layer.eps) if m is reference else m.instance_norm(
        x, weight=w, bias=b, eps=layer.eps)
    return y, dx, {"weight": dw, "bias": db}


def _layer_norm(m, layer, x, dy):
    """cnn.functional has no backward passes of these, the layers have."""
    w, b = _weights(layer, x.dtype)
    name, axes = ("layer_norm2d", ()) if type(layer).__name__ == "LayerNorm2d" else (
        "layer_norm", (layer.normalized_shape,))
    y = getattr(m, name)(x, *axes, w, b, layer.eps)
    if m is not reference:
        layer.train()(x)
        return y, layer.backward(dy), {name: p.grad.copy() for name, p in layer.named_parameters()}
    dx, dw, db = getattr(m, f"{name}_backward")(dy, x, *axes, w, layer.eps)
    return y, dx, {"weight": dw, "bias": db}


@_of_images
def _local_response_norm(m, layer, x, dy):
    numbers = layer.size, layer.alpha, layer.beta, layer.k
    y = m.local_response_norm(x, *numbers)
    if m is not reference:
        layer.train()(x)
        return y, layer.backward(dy), {}
    return y, m.local_response_norm_backward(dy, x, *numbers), {}


def _weights(layer, dtype):
    state = layer.state_dict()
    return [state[name].astype(dtype) if name in state else None for name in ("weight", "bias")]


def _max_pool2d(m, layer, x, dy):
    y, indices = m.max_pool2d(x, layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.ceil_mode)
    return y, m.max_pool2d_backward(dy, indices, x.shape), {}


def _avg_pool2d(m, layer, x, dy):
    sizes = (layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode, layer.count_include_pad,
             layer.divisor_override)
    return m.avg_pool2d(x, *sizes), m.avg_pool2d_backward(dy, x.shape, *sizes), {}


def _max_pool1d(m, layer, x, dy):
    sizes = layer.kernel_size, layer.stride, layer.padding, layer.dilation
    if m is reference:
        sizes = [(0 if i == 2 else 1, n) for i, n in enumerate(sizes)]
        y, indices = m.max_pool2d(x[:, :, None], *sizes, layer.ceil_mode)
        return y[:, :, 0], m.max_pool2d_backward(dy[:, :, None], indices, x[:, :, None].shape)[:, :, 0], {}
    y, indices = m.max_pool1d(x, *sizes, layer.ceil_mode)
    return y, m.max_pool1d_backward(dy, indices, x.shape), {}


def _avg_pool1d(m, layer, x, dy):
    sizes, more = (layer.kernel_size, layer.stride, layer.padding), (layer.ceil_mode, layer.count_include_pad)
    if m is reference:
        sizes, x, dy = [(i < 2, n) for i, n in enumerate(sizes)], x[:, :, None], dy[:, :, None]
        sizes = [(int(one), n) for one, n in sizes]
        return m.avg_pool2d(x, *sizes, *more)[:, :, 0], m.avg_pool2d_backward(dy, x.shape, *sizes, *more)[:, :, 0], {}
    return m.avg_pool1d(x, *sizes, *more), m.avg_pool1d_backward(dy, x.shape, *sizes, *more), {}


def _adaptive_pool1d(name):
    def operation(m, layer, x, dy):
        size = layer.output_size
        if m is not reference:
            y = getattr(m, f"{name}1d")(x, size)
            layer.train()(x)
            return y[0] if isinstance(y, tuple) else y, layer.backward(dy), {}
        image, dy = x[:, :, None], dy[:, :, None]
        y = getattr(m, f"{name}2d")(image, (1, size))
        if "avg" in name:
            return y[:, :, 0], m.adaptive_avg_pool2d_backward(dy, image.shape)[:, :, 0], {}
        return y[0][:, :, 0], m.max_pool2d_backward(dy, y[1], image.shape)[:, :, 0], {}

    return operation


def _adaptive_avg_pool2d(m, layer, x, dy):
    y = m.adaptive_avg_pool2d(x, layer.output_size)
    return y.reshape(dy.shape), m.adaptive_avg_pool2d_backward(dy.reshape(y.shape), x.shape), {}


def _adaptive_max_pool2d(m, layer, x, dy):
    y, indices = m.adaptive_max_pool2d(x, layer.output_size)
    return y, m.max_pool2d_backward(dy, indices, x.shape), {}


def _leaky_relu(m, layer, x, dy):
    slope = layer.negative_slope
    return m.leaky_relu(x, slope), m.leaky_relu_backward(dy, x, slope), {}


def _from_output(name):
    def operation(m, layer, x, dy):
        y = getattr(m, name)(x)
        return y, getattr(m, f"{name}_backward")(dy, y), {}

    return operation


def _map(name, *attributes):
    """A function of each element; cnn.functional has no backward passes of these, the layers have."""
    def operation(m, layer, x, dy):
        numbers = [getattr(layer, attribute) for attribute in attributes]
        if m is not reference:
            y = getattr(m, name)(x, *numbers)
            layer.train()(x)
            return y, layer.backward(dy), {}
        return getattr(m, name)(x, *numbers), getattr(m, f"{name}_backward")(dy, x, *numbers), {}

    return operation


def _relu6(m, layer, x, dy):
    if m is not reference:
        return _map("relu6")(m, layer, x, dy)
    return m.hardtanh(x, 0, 6), m.hardtanh_backward(dy, x, 0, 6), {}


def _softmax(name):
    def operation(m, layer, x, dy):
        if m is not reference and layer.dim != 1:
            y = getattr(m, name)(x, layer.dim)
            layer.train()(x)
            return y, layer.backward(dy), {}
        y = getattr(m, name)(x, layer.dim)
        return y, getattr(m, f"{name}_backward")(dy, y, layer.dim), {}

    return operation


def _prelu(m, layer, x, dy):
    w, = layer.state_dict().values()
    if m is not reference:
        y = m.prelu(x, w.astype(x.dtype))
        layer.train()(x)
        return y, layer.backward(dy), {"weight": layer.weight.grad.copy()}
    y, dx, dw = m.prelu(x, w), *m.prelu_backward(dy, x, w)
    return y, dx, {"weight": dw}


def _silu(m, layer, x, dy):
    return m.silu(x), m.silu_backward(dy, x), {}


def _gelu(m, layer, x, dy):
    return m.gelu(x, layer.approximate), m.gelu_backward(dy, x, layer.approximate), {}


def _sequential(m, layer, x, dy):
    inputs, gradients = [], {}
    for part in layer:
        inputs.append(x)
        x = _forward(m, part, x)
    for i in reversed(range(len(inputs))):
        _, dy, own = OPERATIONS[type(layer[i]).__name__](m, layer[i], inputs[i], dy)
        gradients.update({f"{i}.{name}": value for name, value in own.items()})
    return x, dy, gradients


def _forward(m, layer, x):
    dy = np.zeros_like(layer(x.astype(layer.dtype or x.dtype)), dtype=x.dtype)  # of the right shape
    return OPERATIONS[type(layer).__name__](m, layer, x, dy)[0]


def _residual(m, layer, x, dy):
    return _branches(m, layer, x, [dy, dy], sum)


def _concat(m, layer, x, dy):
    ends = np.cumsum([_forward(m, branch, x).shape[1] for branch in layer.branches])
    return _branches(m, layer, x, np.split(dy, ends[:-1], 1), lambda ys: np.concatenate(list(ys), 1))


def _branches(m, layer, x, dys, together):
    """Each child's operation, and for a missing shortcut x itself."""
    ways = [OPERATIONS[type(child).__name__](m, child, x, dy)
            for (_, child), dy in zip(layer.named_children(), dys, strict=False)]
    ways += [(x, dy, {}) for dy in dys[len(ways):]]
    gradients = {f"{name}.{key}": value for (name, _), (_, _, own) in zip(layer.named_children(), ways, strict=False)
                 for key, value in own.items()}
    return together(y for y, _, _ in ways), sum(dx for _, dx, _ in ways), gradients


def _reshaped(m, layer, x, dy):
    return x.reshape(dy.shape), dy.reshape(x.shape), {}


MOVERS = {"ZeroPad1d": "pad", "ConstantPad1d": "pad", "ReflectionPad1d": "pad", "ReplicationPad1d": "pad",
          "Upsample": "interpolate", "PixelShuffle": "pixel_shuffle", "PixelUnshuffle": "pixel_unshuffle",
          "ChannelShuffle": "channel_shuffle", "ZeroPad2d": "pad", "ConstantPad2d": "pad", "ReflectionPad2d": "pad",
          "ReplicationPad2d": "pad"}      # the functions of layers that move elements


def _moved(m, layer, x, dy):
    """cnn.functional has a function of values and arrays, cnn.reference what the nodes of the layer's graph are."""
    if m is not reference:
        options = [value for key, value in vars(layer).items() if key in (
            "size", "scale_factor", "mode", "align_corners", "upscale_factor", "downscale_factor", "groups", "padding")]
        more = [layer.mode, layer.value] if "Pad" in type(layer).__name__ else []
        y = getattr(m, MOVERS[type(layer).__name__])(x, *options, *more)
        layer.train()(x)
        return y, layer.backward(dy), {}
    from cnn.layers.running import graph_of
    y, back = x, []
    for node in graph_of(layer, [x.shape[1:]], x.dtype):
        y, pull = twins.TWINS[node.operation.twin](node.operation, len(x), y)
        back.append(pull)
    for pull in reversed(back):
        (dy,), _ = pull(dy)
    return y, dy, {}


OPERATIONS = {
    "Conv2d": _conv2d,
    "ConvTranspose2d": _conv_transpose2d,
    "Conv1d": _conv1d,
    "ConvTranspose1d": _conv_transpose1d,
    "InstanceNorm1d": _instance_norm,
    "MaxPool1d": _max_pool1d,
    "AvgPool1d": _avg_pool1d,
    "AdaptiveAvgPool1d": _adaptive_pool1d("adaptive_avg_pool"),
    "AdaptiveMaxPool1d": _adaptive_pool1d("adaptive_max_pool"),
    "BatchNorm1d": _batch_norm,
    "MaxPool2d": _max_pool2d,
    "AvgPool2d": _avg_pool2d,
    "AdaptiveAvgPool2d": _adaptive_avg_pool2d,
    "GlobalAvgPool2d": _adaptive_avg_pool2d,
    "AdaptiveMaxPool2d": _adaptive_max_pool2d,
    "BatchNorm2d": _batch_norm,
    "GroupNorm": _group_norm,
    "InstanceNorm2d": _instance_norm,
    "LayerNorm": _layer_norm,
    "LayerNorm2d": _layer_norm,
    "LocalResponseNorm": _local_response_norm,
    "Sequential": _sequential,
    "Residual": _residual,
    "Concat": _concat,
    "Linear": _linear,
    "ReLU": _from_output("relu"),
    "LeakyReLU": _leaky_relu,
    "Tanh": _from_output("tanh"),
    "Sigmoid": _from_output("sigmoid"),
    "SiLU": _silu,
    "GELU": _gelu,
    "ReLU6": _relu6,
    "Hardtanh": _map("hardtanh", "min_val", "max_val"),
    "ELU": _map("elu", "alpha"),
    "Hardswish": _map("hardswish"),
    "Hardsigmoid": _map("hardsigmoid"),
    "Mish": _map("mish"),
    "Softplus": _map("softplus", "beta", "threshold"),
    "PReLU": _prelu,
    "Softmax": _softmax("softmax"),
    "LogSoftmax": _softmax("log_softmax"),
    "Dropout": _reshaped,
    "Dropout1d": _reshaped,
    "Dropout2d": _reshaped,
    "Flatten": _reshaped,
    **dict.fromkeys(MOVERS, _moved),
}


def by_function(module, layer, x, dy):
    """[y, dx, *parameter gradients] of the layer, computed by the functions of `module`."""
    y, dx, gradients = OPERATIONS[type(layer).__name__](module, layer, x, dy)
    return [y, dx, *(gradients[name] for name, _ in layer.named_parameters())]


def by_twin(layer, x, dy):
    """The same by NumPy in float64, whatever the arrays are."""
    return by_function(reference, layer, x.astype(np.float64), dy.astype(np.float64))


def by_layer(layer, x, dy):
    """The same by the layer (or model) itself."""
    y, dx = layer(x), layer.backward(dy)
    return [y, dx, *(p.grad.copy() for p in layer.parameters())]


def by_torch(torch, module, x, dy):
    x = torch.tensor(x, requires_grad=True)
    y = module(x)
    y.backward(torch.tensor(dy))
    return [a.detach().numpy() for a in (y, x.grad, *(p.grad for p in module.parameters()))]


# ------------------------------------------------------------------------------------------- comparing


def spread(shape, rng):
    """Values from -2 to 2 in random order, all equally far apart and none at 0."""
    count = int(np.prod(shape))
    return ((rng.permutation(count) + 0.5) / max(count, 1) * 4 - 2).reshape(shape)


class Function(cnn.Module):
    """A function of a value, or of several, as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *xs):
        return self.function(*xs)


def assert_close(got, wanted, tolerance=None):
    """Equal up to rounding, measured by the largest value; NaN and infinities at the same places."""
    got, wanted = np.asarray(got), np.asarray(wanted)
    assert got.shape == wanted.shape
    tolerance = tolerance or {"float64": 1e-10, "float32": 2e-5}[got.dtype.name]
    scale = np.abs(wanted[np.isfinite(wanted)]).max(initial=1)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * scale)


def assert_all_close(got, wanted, tolerance=None):
    for g, w in zip(got, wanted, strict=True):
        assert_close(g, w, tolerance)


def assert_same_bits(got, wanted):
    for g, w in zip(got, wanted, strict=True):
        assert g.dtype == w.dtype and g.shape == w.shape
        assert g.tobytes() == w.tobytes()


def central_difference(loss, x, h=1e-4):
    """dL/dx of the function loss(), one element of x at a time: (L(x + h) - L(x - h)) / 2h."""
    gradient = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        value = x[place]
        x[place] = value + h
        up = loss()
        x[place] = value - h
        gradient[place] = (up - loss()) / (2 * h)
        x[place] = value
    return gradient


def assert_gradient(got, loss, x):
    """`got` is dL/dx by central differences, with a relative error of at most 1e-6."""
    wanted = central_difference(loss, x)
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6 * np.abs(wanted).max(initial=0))
