"""What to write instead of names of PyTorch that are not here: words for AttributeErrors."""
from __future__ import annotations

import sys

ARRAYS = "numpy.{}(...): arrays are NumPy's, float32 unless the model is float64"
DTYPE = "nothing: a value has its model's dtype, which model.to(numpy.float64) changes"
CPU = "nothing: it computes on the CPU"
ADD_UP = "nothing: backward sets gradients. Trainer(accumulate=K) adds up those of K batches"

# method of a tensor: what to do with a value x
OF_VALUES = {
    "max": "x.amax(dim)", "min": "x.amin(dim)", "numel": "math.prod(x.shape[1:]), the elements of one image",
    "scatter_": "cnn.functional.one_hot(index, classes)",
    "t": "x.transpose(1, 2) of matrices; a product x @ y.t() of vectors would couple the images",
    "prod": "x.log().sum(dim).exp(), of numbers above 0", "sort": "what loss and metrics get, arrays",
    **dict.fromkeys(("double", "half", "long", "int", "bool", "type"), DTYPE),
    **dict.fromkeys(("cuda", "get_device"), CPU), "unfold": "cnn.functional.unfold, of windows in two axes",
}
# name in `torch`, `torch.nn` or `torch.nn.functional`: what to write
OF_PACKAGE = {
    "max": "x.max(dim), of which [0] are the elements; cnn.functional.maximum(x, y) of two",
    "min": "x.min(dim), of which [0] are the elements; cnn.functional.minimum(x, y) of two",
    "inference_mode": "cnn.no_grad()", "enable_grad": "nothing: gradients are computed, but in cnn.no_grad()",
    "manual_seed": "seed= of layers and of Trainer.fit",
    "dropout": "cnn.Dropout(p), a layer, which model.eval() switches off",
    "gather": "x.gather(dim, index)",
    "device": CPU, "randn_like": "an input of the model, noise",
    **{name: ARRAYS.format(name) for name in (
        "zeros", "ones", "full", "arange", "linspace", "eye", "tril", "triu", "meshgrid", "outer")},
    "argmax": "x.argmax(1), of values and arrays",
    **dict.fromkeys(("tensor", "as_tensor", "from_numpy", "Tensor"), ARRAYS.format("array")),
    **dict.fromkeys(("rand", "randn"), "numpy.random.default_rng(seed)"),
}
# name in `torch.nn.init`: what to write
OF_INIT = {
    "dirac_": "weight.data = array", "eye_": "weight.data = numpy.eye(*weight.shape)", "sparse_": "weight.data = array",
}# method of an optimizer
OF_OPTIMIZERS = {"zero_grad": ADD_UP}
# method of a module: what to do with a module
OF_MODULES = {
    "zero_grad": ADD_UP, "cuda": CPU, "double": "model.to(numpy.float64)",
    "float": "model.to(numpy.float32)", "half": "model.to(numpy.float32)",
    "register_forward_hook": "forward that returns more values, or cnn.features",
}


def missing(owner: str, name: str, hints: dict[str, str]) -> AttributeError:
    """The AttributeError for a name that is not there, with what to write instead. owner: who has no such name."""
    hint = hints.get(name)
    if hint is None and not name.startswith("_"):
        functions = sys.modules["cnn.functional"].__all__       # imports values, which import this
        own = name.removesuffix("_")
        if own in functions and hints not in (OF_MODULES, OF_OPTIMIZERS):
            hint = f"cnn.functional.{own}"
        elif hints is OF_PACKAGE and hasattr(sys.modules["cnn.graph"].Value, own):
            hint = f"x.{own}(...)"
        elif own != name and hints is OF_VALUES:
            hint = "y = ... and y from there on: values do not change"
    return AttributeError(f"{owner} has no attribute {name!r}" + (f": write {hint}" if hint else ""))
