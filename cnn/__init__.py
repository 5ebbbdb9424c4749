"""cnn: trains small convolutional networks on a CPU, fast.

    import cnn

    train, test = cnn.data.load("mnist-sample")
    model = cnn.models.lenet5(seed=0)
    optimizer = cnn.SGD(model.parameters(), lr=0.05, momentum=0.9)
    trainer = cnn.Trainer(model, optimizer)
    trainer.fit(train, epochs=5, validation=test)

What lives where, and what may import what: docs/architecture.md.
"""
from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING

from cnn import data, functional, hints, models, optim, schedules
from cnn.engine.debugging import debug
from cnn.engine.parameter import Parameter
from cnn.functional import cat
from cnn.graph import Value, no_grad
from cnn.layers import (
    CELU,
    ELU,
    GELU,
    GLU,
    SELU,
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AvgPool1d,
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    ChannelShuffle,
    Concat,
    ConstantPad1d,
    ConstantPad2d,
    Conv1d,
    Conv2d,
    ConvTranspose1d,
    ConvTranspose2d,
    CosineSimilarity,
    Dropout,
    Dropout1d,
    Dropout2d,
    Embedding,
    Flatten,
    GlobalAvgPool2d,
    GroupNorm,
    Hardshrink,
    Hardsigmoid,
    Hardswish,
    Hardtanh,
    Identity,
    InstanceNorm1d,
    InstanceNorm2d,
    Layer,
    LayerNorm,
    LayerNorm2d,
    LeakyReLU,
    Linear,
    LocalResponseNorm,
    LogSigmoid,
    LogSoftmax,
    MaxPool1d,
    MaxPool2d,
    Mish,
    Module,
    ModuleDict,
    ModuleList,
    MultiheadAttention,
    PairwiseDistance,
    ParameterDict,
    ParameterList,
    PixelShuffle,
    PixelUnshuffle,
    PReLU,
    ReflectionPad1d,
    ReflectionPad2d,
    ReLU,
    ReLU6,
    ReplicationPad1d,
    ReplicationPad2d,
    Residual,
    RMSNorm,
    Sequential,
    Sigmoid,
    SiLU,
    Softmax,
    Softmax2d,
    Softmin,
    Softplus,
    Softshrink,
    Softsign,
    Tanh,
    Tanhshrink,
    Threshold,
    TransformerEncoder,
    TransformerEncoderLayer,
    Unflatten,
    Unfold,
    Upsample,
    UpsamplingBilinear2d,
    UpsamplingNearest2d,
    ZeroPad1d,
    ZeroPad2d,
    init,
    losses,
)
from cnn.layers.head import replace_head
from cnn.layers.losses import (
    BCELoss,
    BCEWithLogitsLoss,
    CosineEmbeddingLoss,
    CrossEntropyLoss,
    GaussianNLLLoss,
    HingeEmbeddingLoss,
    HuberLoss,
    KLDivLoss,
    L1Loss,
    MarginRankingLoss,
    MSELoss,
    MultiLabelSoftMarginLoss,
    MultiMarginLoss,
    NLLLoss,
    PoissonNLLLoss,
    SmoothL1Loss,
    SoftMarginLoss,
    TripletMarginLoss,
)
from cnn.optim import SGD, Adam, AdamW, RMSprop, clip_grad_norm, named_groups, parameter_groups, split_biases
from cnn.reports import metrics
from cnn.runtime import get_num_threads, get_winograd, set_num_threads, set_winograd, show_config
from cnn.training import averaging, callbacks, checkpoint, history, trainer
from cnn.training.averaging import EMA, Lookahead
from cnn.training.callbacks import Callback
from cnn.training.callbacks.base import TrainingDiverged
from cnn.training.checkpoint import load_model, save_model
from cnn.training.trainer import Trainer

if TYPE_CHECKING:
    from typing import Any

    from cnn.differences import gradcheck
    from cnn.export.onnx_importing import load_onnx
    from cnn.export.pytorch_importing import from_torch
    from cnn.layers.compiled import CompiledModel, compile
    from cnn.prediction import Prediction, Predictor, load
    from cnn.training.features import features
    from cnn.training.lr_finder import find_lr
    from cnn.training.saving import save

__version__ = "0.1.0"

__all__ = [
    "Adam", "AdamW", "AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveMaxPool1d", "AdaptiveMaxPool2d", "AvgPool1d",
    "AvgPool2d", "BCELoss", "BCEWithLogitsLoss", "BatchNorm1d", "BatchNorm2d", "CELU", "Callback", "ChannelShuffle",
    "CompiledModel", "Concat", "ConstantPad1d", "ConstantPad2d", "Conv1d", "Conv2d", "ConvTranspose1d",
    "ConvTranspose2d", "CosineEmbeddingLoss", "CosineSimilarity", "CrossEntropyLoss", "Dropout", "Dropout1d",
    "Dropout2d", "ELU", "EMA", "Embedding", "Flatten", "GELU", "GLU", "GaussianNLLLoss", "GlobalAvgPool2d",
    "GroupNorm", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "HingeEmbeddingLoss", "HuberLoss", "Identity",
    "InstanceNorm1d", "InstanceNorm2d", "KLDivLoss", "L1Loss", "Layer", "LayerNorm", "LayerNorm2d", "LeakyReLU",
    "Linear", "LocalResponseNorm", "LogSigmoid", "LogSoftmax", "Lookahead", "MSELoss", "MarginRankingLoss",
    "MaxPool1d", "MaxPool2d", "Mish", "Module", "ModuleDict", "ModuleList", "MultiLabelSoftMarginLoss",
    "MultiMarginLoss", "MultiheadAttention", "NLLLoss", "PReLU", "PairwiseDistance", "Parameter", "ParameterDict",
    "ParameterList", "PixelShuffle", "PixelUnshuffle", "PoissonNLLLoss", "Prediction", "Predictor", "RMSNorm",
    "RMSprop", "ReLU", "ReLU6", "ReflectionPad1d", "ReflectionPad2d", "ReplicationPad1d", "ReplicationPad2d",
    "Residual", "SELU", "SGD", "Sequential", "SiLU", "Sigmoid", "SmoothL1Loss", "SoftMarginLoss", "Softmax",
    "Softmax2d", "Softmin", "Softplus", "Softshrink", "Softsign", "Tanh", "Tanhshrink", "Threshold", "Trainer",
    "TrainingDiverged", "TransformerEncoder", "TransformerEncoderLayer", "TripletMarginLoss", "Unflatten", "Unfold",
    "Upsample", "UpsamplingBilinear2d", "UpsamplingNearest2d", "Value", "ZeroPad1d", "ZeroPad2d", "cat",
    "clip_grad_norm", "compile", "data", "debug", "features", "find_lr", "from_torch", "functional", "get_num_threads",
    "get_winograd", "gradcheck", "load", "load_model", "load_onnx", "metrics", "models", "named_groups", "no_grad",
    "optim", "parameter_groups", "replace_head", "save", "save_model", "schedules", "set_num_threads", "set_winograd",
    "show_config", "split_biases",
]

# Modules that users name, by their short names: `from cnn.callbacks import EarlyStopping`.
for _module in (averaging, callbacks, checkpoint, history, init, losses, metrics, trainer):
    sys.modules[f"cnn.{_module.__name__.rpartition('.')[2]}"] = _module


# What is imported when it is first used, to keep `import cnn` fast: the module, and the name in it or "" for itself.
_LATER = {
    "compile": ("cnn.layers.compiled", "compile"), "CompiledModel": ("cnn.layers.compiled", "CompiledModel"),
    "evaluation": ("cnn.reports.evaluation", ""), "explain": ("cnn.explain", ""), "export": ("cnn.export", ""),
    "plots": ("cnn.plots", ""), "reference": ("cnn.reference", ""), "sklearn": ("cnn.sklearn", ""),
    "find_lr": ("cnn.training.lr_finder", "find_lr"), "gradcheck": ("cnn.differences", "gradcheck"),
    "load": ("cnn.prediction", "load"), "load_onnx": ("cnn.export.onnx_importing", "load_onnx"),
    "from_torch": ("cnn.export.pytorch_importing", "from_torch"),
    "Prediction": ("cnn.prediction", "Prediction"), "Predictor": ("cnn.prediction", "Predictor"),
    "utils": ("cnn.utils", ""), "features": ("cnn.training.features", "features"),
    "save": ("cnn.training.saving", "save"),
}


def __getattr__(name: str) -> Any:
    if name in functional.__all__:      # PyTorch has them in both, torch.exp say
        return getattr(functional, name)
    if name not in _LATER:
        raise hints.missing("module 'cnn'", name, hints.OF_PACKAGE)
    module, attribute = _LATER[name]
    return getattr(import_module(module), attribute) if attribute else import_module(module)
