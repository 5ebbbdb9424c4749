"""What to write instead of names of PyTorch that are not here: words for AttributeErrors."""
from __future__ import annotations

import sys

LARGEST = "{}(dim): the elements alone, without their indices"
ARRAYS = "numpy.{}(...): arrays are NumPy's, float32 unless the model is float64"
DTYPE = "nothing: a value has its model's dtype, which model.to(numpy.float64) changes"
CPU = "nothing: it computes on the CPU"
ADD_UP = "nothing: backward sets gradients. Trainer(accumulate=K) adds up those of K batches"
RUNS_ONCE = ("model.eval() where no gradients are needed, freeze() for what shall keep its weights; nothing stops "
             "gradients inside a network")

# method of a tensor: what to do with a value x
OF_VALUES = {
    "max": LARGEST.format("x.amax"), "min": LARGEST.format("x.amin"), "norm": "(x * x).sum(dim).sqrt()",
    "argmax": "y = model(x), an array, and y.argmax(1)", "numel": "math.prod(x.shape[1:]), the elements of one image",
    "var": "((x - x.mean(dim, keepdim=True)) ** 2).mean(dim), that of correction=0",
    "std": "((x - x.mean(dim, keepdim=True)) ** 2).mean(dim).sqrt(), that of correction=0",
    "scatter_": "cnn.functional.one_hot(index, classes)", "masked_fill": "cnn.functional.where(mask, number, x)",
    "repeat": "x.expand(sizes), or cnn.cat([x] * n, dim)", "repeat_interleave": "cnn.functional.interpolate",
    "t": "x.transpose(1, 2)", "swapaxes": "x.transpose(dim0, dim1)", "clone": "x: values do not change",
    "unbind": "[x[:, i] for i in range(x.size(1))]", "flip": "x[..., list(range(x.size(-1) - 1, -1, -1))]",
    "square": "x * x", "add": "x + y", "sub": "x - y", "mul": "x * y", "div": "x / y", "detach": RUNS_ONCE,
    **dict.fromkeys(("double", "half", "long", "int", "bool", "to", "type", "type_as"), DTYPE),
    **dict.fromkeys(("cpu", "cuda"), CPU),
}
# name in `torch`, `torch.nn` or `torch.nn.functional`: what to write
OF_PACKAGE = {
    "max": f"{LARGEST.format('cnn.functional.amax')}; cnn.functional.maximum(x, y) of two",
    "min": f"{LARGEST.format('cnn.functional.amin')}; cnn.functional.minimum(x, y) of two",
    **{name: OF_VALUES[name] for name in ("add", "sub", "mul", "div", "var")},
    "logsigmoid": "-cnn.functional.softplus(-x)", "roll": "cnn.cat([x[..., -n:], x[..., :-n]], -1)",
    "logsumexp": "x.amax(dim, keepdim=True) + (x - x.amax(dim, keepdim=True)).exp().sum(dim, keepdim=True).log()",
    "norm": "(x * x).sum(dim).sqrt()", "no_grad": RUNS_ONCE, "manual_seed": "seed= of layers and of Trainer.fit",
    "dropout": "cnn.Dropout(p), a layer, which model.eval() switches off",
    "scaled_dot_product_attention": "(q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))).softmax(-1) @ v",
    "MultiheadAttention": "cnn.Linear for q, k and v, q.view(-1, L, heads, F).transpose(1, 2), and "
                          "(q @ k.transpose(-2, -1) / math.sqrt(F)).softmax(-1) @ v",
    "gather": "x.gather(dim, index)",
    "device": CPU, "einsum": "products, sums and cnn.functional.matmul", "randn_like": "an input of the model, noise",
    **{name: ARRAYS.format(name) for name in (
        "zeros", "ones", "full", "arange", "linspace", "eye", "zeros_like", "ones_like", "full_like")},
    **dict.fromkeys(("tensor", "as_tensor", "from_numpy", "Tensor"), ARRAYS.format("array")),
    **dict.fromkeys(("rand", "randn"), "numpy.random.default_rng(seed)"),
    **{name: "cnn.Parameter(array)" for name in ("ParameterList", "ParameterDict")},
}
INITIAL = "weight.data = cnn.init.{}(weight.shape, numpy.random.default_rng(seed))"
# name in `torch.nn.init`: what to write
OF_INIT = {
    "kaiming_normal_": INITIAL.format("he_normal"), "kaiming_uniform_": INITIAL.format("he_uniform"),
    "xavier_normal_": INITIAL.format("glorot_normal"), "xavier_uniform_": INITIAL.format("glorot_uniform"),
    "normal_": "weight.data = numpy.random.default_rng(seed).normal(mean, std, weight.shape)",
    "uniform_": "weight.data = numpy.random.default_rng(seed).uniform(a, b, weight.shape)",
    **{f"{name}_": f"weight.data = numpy.{name}(weight.shape)" for name in ("zeros", "ones")},
    "constant_": "weight.data = numpy.full(weight.shape, value)",
}
# method of a module: what to do with a module
OF_MODULES = {
    "zero_grad": ADD_UP, "cuda": CPU, "cpu": CPU, "double": "model.to(numpy.float64)",
    "float": "model.to(numpy.float32)", "half": "model.to(numpy.float32)",
    "register_forward_hook": "forward that returns more values, or cnn.features",
}


def missing(owner: str, name: str, hints: dict[str, str]) -> AttributeError:
    """The AttributeError for a name that is not there, with what to write instead. owner: who has no such name."""
    hint = hints.get(name)
    if hint is None and not name.startswith("_"):
        functions = sys.modules["cnn.functional"].__all__       # imports values, which import this
        own = name.removesuffix("_")
        if own in functions and hints is not OF_MODULES:
            hint = f"cnn.functional.{own}"
        elif own != name and hints is OF_VALUES:
            hint = "y = ... and y from there on: values do not change"
    return AttributeError(f"{owner} has no attribute {name!r}" + (f": write {hint}" if hint else ""))
