"""Random networks, one list of steps for both libraries; and a third opinion, a graph run by the twins in NumPy."""

import numpy as np

import cnn
from cnn import reference
from cnn.graph.differentiate import differentiate
from cnn.ops import twins

SIDE = 4
UNARY = {
    "affine": lambda v, a: 1.5 * v - a,
    "from": lambda v, a: a - v,
    "negative": lambda v, a: -v,
    "by": lambda v, a: v / (a + 1.5),
    "inverse": lambda v, a: a / (v * v + 1.5),
    "softly": lambda v, a: v / (v * v + a),
    "less": lambda v, a: v - v.mean((2, 3), keepdim=True),
    "norm": lambda v, a: v / ((v * v).sum((2, 3), keepdim=True) + a),
    "most": lambda v, a: v - v.amax((2, 3), keepdim=True) * a,
    "rows": lambda v, a: v.sum(2, keepdim=True) * v.mean(3, keepdim=True),
    "halves": lambda v, a: v * v[:, : max(1, v.shape[1] // 2)].mean((2, 3), keepdim=True)[:, :1],
    "turned": lambda v, a: v.reshape((-1, v.shape[1] * SIDE, SIDE, 1)).reshape((-1, v.shape[1], SIDE, SIDE)) * a,
    "relu": lambda v, a: v.relu(),
}
BINARY = {
    "add": lambda u, v: u + v, "subtract": lambda u, v: u - v, "multiply": lambda u, v: u * v,
    "divide": lambda u, v: u / (v * v + 1.0), "scale": lambda u, v: u * v.mean((2, 3), keepdim=True),
    "shift": lambda u, v: v.sum(3, keepdim=True) - u,
}
LAYERS = {
    "conv": lambda nn, c: nn.Conv2d(c, c, 3, padding=1), "conv1": lambda nn, c: nn.Conv2d(c, c, 1, bias=False),
    "depthwise": lambda nn, c: nn.Conv2d(c, c, 3, padding=1, groups=c), "norm": lambda nn, c: nn.BatchNorm2d(c),
    "pool": lambda nn, c: nn.MaxPool2d(3, 1, 1), "avg": lambda nn, c: nn.AvgPool2d(3, 1, 1),
    "relu": lambda nn, c: nn.ReLU(), "tanh": lambda nn, c: nn.Tanh(),
    "sigmoid": lambda nn, c: nn.Sigmoid(), "silu": lambda nn, c: nn.SiLU(),
}


def steps(seed):
    """A random list of (kind, name, operands, number or layer) on values of CHANNELS channels, and which are given
    back. Value 0 and 1 are the inputs."""
    rng = np.random.default_rng(seed)
    result, layers = [], []
    for i in range(int(rng.integers(3, 10))):
        count = 2 + i
        operands = [int(max(0, count - 1 - rng.geometric(0.5) + 1)), int(rng.integers(count))]
        kind = str(rng.choice(["layer", "layer", "unary", "binary", "cat", "parameter"]))
        if kind == "layer":
            known = [k for k, name in enumerate(layers) if name != "merge"]
            if known and rng.random() < 0.25:
                result.append((kind, None, operands[:1], int(rng.choice(known))))      # used again
            else:
                layers.append(str(rng.choice(list(LAYERS))))
                result.append((kind, None, operands[:1], len(layers) - 1))
        elif kind == "unary":
            result.append((kind, str(rng.choice(list(UNARY))), operands[:1], float(rng.uniform(0.5, 2))))
        elif kind == "binary":
            result.append((kind, str(rng.choice(list(BINARY))), operands, None))
        elif kind == "cat":
            layers.append("merge")
            result.append((kind, None, operands, len(layers) - 1))
        else:
            result.append((kind, str(rng.choice(["add", "multiply"])), operands[:1], int(rng.integers(3))))
    outputs = sorted({len(result) + 1, *(int(i) for i in rng.integers(1, len(result) + 2, int(rng.integers(0, 3))))})
    return result, layers, outputs


def network(seed, nn, cat, parameter, module_list, base, channels=3):
    """The network of these steps in one of the libraries."""
    listed, layers, outputs = steps(seed)
    rng = np.random.default_rng(seed)
    shapes = ((channels, 1, 1), (1, channels, SIDE, 1), (SIDE,))

    class Drawn(base):
        def __init__(self):
            super().__init__()
            self.p0, self.p1, self.p2 = (parameter(rng.uniform(0.5, 1.5, shape)) for shape in shapes)
            self.layers = module_list([nn.Conv2d(2 * channels, channels, 1) if name == "merge"
                                       else LAYERS[name](nn, channels) for name in layers])
            self.head = nn.Linear(channels, 2)

        def forward(self, x, x1):
            values = [x, x1]
            for kind, name, operands, more in listed:
                given = [values[i] for i in operands]
                if kind == "layer":
                    y = self.layers[more](*given)
                elif kind == "unary":
                    y = UNARY[name](*given, more)
                elif kind == "binary":
                    y = BINARY[name](*given)
                elif kind == "cat":
                    y = self.layers[more](cat(given, 1))
                else:
                    y = BINARY[name](given[0], (self.p0, self.p1, self.p2)[more])
                values.append(y)
            return tuple([self.head(values[-1].mean((2, 3))), *(values[i] for i in outputs)])

    return Drawn()


def ours(seed):
    model = network(seed, cnn, cnn.cat, cnn.Parameter, cnn.ModuleList, cnn.Module).to(np.float64)
    for layer in model.modules():
        if isinstance(layer, cnn.BatchNorm2d):
            layer.weight.data[...] = np.random.default_rng(seed).uniform(0.5, 1.5, layer.weight.shape)
    return model


def theirs(torch, seed, model):
    nn = torch.nn
    twin = network(seed, nn, torch.cat, lambda a: nn.Parameter(torch.tensor(a)), nn.ModuleList, nn.Module).double()
    twin.load_state_dict({name: torch.tensor(value) for name, value in model.state_dict().items()})
    return twin


def of_both(torch, model, twin, xs, dys=None, seed=0):
    """All outputs and gradients of both, two lists: outputs, those of the inputs and of the parameters."""
    single = len(xs) == 1
    ys = model(*xs)
    keys = None if isinstance(ys, (tuple, np.ndarray)) else list(ys)
    parts = [ys] if isinstance(ys, np.ndarray) else list(ys.values()) if keys else list(ys)
    rng = np.random.default_rng(seed)
    dys = dys or [rng.standard_normal(y.shape) for y in parts]
    dx = model.backward(dys[0] if isinstance(ys, np.ndarray) else dict(zip(keys, dys, strict=True)) if keys
                        else tuple(dys))
    inputs = [torch.tensor(x, requires_grad=True) for x in xs]
    outputs = twin(*inputs)
    outputs = [outputs] if isinstance(outputs, torch.Tensor) else [outputs[k] for k in keys] if keys else list(outputs)
    given = [(y, torch.tensor(dy)) for y, dy in zip(outputs, dys, strict=True) if dy is not None]
    twin.zero_grad()
    torch.autograd.backward([y for y, _ in given], [dy for _, dy in given])
    grads = dict(twin.named_parameters())
    got = [*parts, *([dx] if single else dx), *(p.grad.copy() for _, p in model.named_parameters())]
    zero = [p for _, p in model.named_parameters()]
    wanted = [*(y.detach().numpy() for y in outputs),
              *(np.zeros(x.shape) if t.grad is None else t.grad.numpy() for x, t in zip(xs, inputs, strict=True)),
              *(np.zeros(p.shape) if grads[name].grad is None else grads[name].grad.numpy()
                for (name, _), p in zip(model.named_parameters(), zero, strict=True))]
    return got, wanted


# ------------------------------------------------------------------------------------------ graphs by the twins


def _broadcast(name):
    return (lambda o, n, a, b: getattr(reference, name)(a, b),
            lambda o, dy, a, b: getattr(reference, f"{name}_backward")(dy, a, b))


def _activation(name, saved="y"):
    def forward(o, n, x):
        return getattr(reference, name)(x, *o.scalars.values())

    def backward(o, dy, x):
        kept = x if saved == "x" else forward(o, None, x)
        return [getattr(reference, f"{name}_backward")(dy, kept, *o.scalars.values())]
    return forward, backward


def _pool(kind):
    def which(o):
        return f"adaptive_{kind}_pool2d" if "output_size" in o.options else f"{kind}_pool2d"

    def forward(o, n, x):
        y = getattr(reference, which(o))(x, **o.options)
        y = y[0] if kind == "max" else y
        return y.reshape(len(x), -1) if getattr(o, "flat", False) else y

    def backward(o, dy, x):
        if kind == "max":
            return [reference.max_pool2d_backward(dy, getattr(reference, which(o))(x, **o.options)[1], x.shape)]
        more = {} if "output_size" in o.options else o.options
        return [getattr(reference, f"{which(o)}_backward")(dy.reshape(*dy.shape[:2], *_out(dy)), x.shape, **more)]
    return forward, backward


def _out(dy):
    return dy.shape[2:] if dy.ndim == 4 else (1, 1)


def _data(o, *names):
    return [o.parameters[name].data if name in o.parameters else None for name in names]


def _sizes(o):
    return o.stride, o.padding, o.dilation, o.groups


TWINS = {
    **{name: _broadcast(name) for name in ("add", "subtract", "multiply", "divide")},
    "affine": (lambda o, n, x: reference.affine(x, o.factor, o.summand),
               lambda o, dy, x: [reference.affine_backward(dy, o.factor)]),
    "reciprocal": (lambda o, n, x: reference.reciprocal(x, o.number),
                   lambda o, dy, x: [reference.reciprocal_backward(dy, x, o.number)]),
    "reduce_sum": (lambda o, n, x: reference.reduce_sum(x, [i + 1 for i in o.axes]),
                   lambda o, dy, x: [reference.reduce_sum_backward(dy, x.shape)]),
    "reshape": (lambda o, n, x: reference.reshape(x, o.image),
                lambda o, dy, x: [reference.reshape_backward(dy, x.shape)]),
    "cat": (lambda o, n, *xs: reference.cat(xs),
            lambda o, dy, *xs: reference.cat_backward(dy, [x.shape[1] for x in xs])),
    "slice_channels": (lambda o, n, x: reference.slice_channels(x, o.first, o.stop),
                       lambda o, dy, x: [reference.slice_channels_backward(dy, o.first, x.shape)]),
    "spread": (lambda o, n: reference.spread(*_data(o, "parameter"), n, o.image), lambda o, dy: []),
    "conv2d": (lambda o, n, x: reference.conv2d(x, *_data(o, "weight", "bias"), *_sizes(o)),
               lambda o, dy, x: reference.conv2d_backward(dy, x, *_data(o, "weight"), *_sizes(o))[:1]),
    "linear": (lambda o, n, x: reference.linear(x, *_data(o, "weight", "bias")),
               lambda o, dy, x: reference.linear_backward(dy, x, *_data(o, "weight"))[:1]),
    "batch_norm": (lambda o, n, x: reference.batch_norm(x, None, None, *_data(o, "weight", "bias"), True, eps=o.eps),
                   lambda o, dy, x: reference.batch_norm_backward(dy, x, *_data(o, "weight"), o.eps)[:1]),
    "max_pool2d": _pool("max"), "avg_pool2d": _pool("avg"),
    "relu": _activation("relu"), "tanh": _activation("tanh"), "sigmoid": _activation("sigmoid"),
    "silu": _activation("silu", "x"), "leaky_relu": _activation("leaky_relu", "x"), "gelu": _activation("gelu", "x"),
}


def by_twins(graph, xs, dys):
    """Outputs and gradients of the inputs of a graph as it is written, by cnn.reference."""
    values, backs = {id(v): x for v, x in zip(graph.inputs, xs, strict=True)}, {}
    for node in graph:
        given = [values[id(v)] for v in node.inputs]
        if node.operation.twin in TWINS:
            values[id(node.output)] = TWINS[node.operation.twin][0](node.operation, len(xs[0]), *given)
        else:       # as backend="reference" calls them
            values[id(node.output)], backs[id(node)] = twins.TWINS[node.operation.twin](
                node.operation, len(xs[0]), *given)
        assert values[id(node.output)].shape[1:] == node.output.image
        assert node.operation.twin == node.operation.name or hasattr(reference, node.operation.twin)

    def pull(node, dys, wants, held):
        if id(node) in backs:
            return backs[id(node)](dys[0])[0]
        return TWINS[node.operation.twin][1](node.operation, dys[0], *(values[id(v)] for v in node.inputs))

    ys = [values[id(v)] for v in graph.outputs]
    dxs = differentiate(graph.nodes, [(v, dy) for v, dy in zip(graph.outputs, dys, strict=True) if dy is not None],
                        graph.inputs, pull, lambda a, b, held: a + b)
    return [*ys, *(np.zeros(x.shape) if dx is None else dx for x, dx in zip(xs, dxs, strict=True))]
