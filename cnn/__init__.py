"""cnn: trains small convolutional networks on a CPU, fast.

    import cnn

    train, test = cnn.data.load("mnist-sample")
    model = cnn.models.lenet5(seed=0)
    optimizer = cnn.SGD(model.parameters(), lr=0.05, momentum=0.9)
    trainer = cnn.Trainer(model, optimizer)
    trainer.fit(train, epochs=5, validation=test)

The floors of the house, from the ground: _ext and reference (kernels and their NumPy twins), text; shapes,
init, windows, files, streams, watch, plan, programs, parameter, ops, functional; layers, losses; models, optim,
schedules, data; checkpoint, checks, callbacks, averaging, trainer, run; commands. A file imports only from the
floors below it.
"""
from cnn import data, functional, metrics, models, optim, schedules
from cnn.averaging import EMA, Lookahead
from cnn.callbacks import Callback
from cnn.checkpoint import load_model, save_model
from cnn.config import show_config
from cnn.layers import (
    GELU,
    AdaptiveAvgPool2d,
    AdaptiveMaxPool2d,
    AvgPool2d,
    BatchNorm2d,
    Concat,
    Conv2d,
    Dropout,
    Dropout2d,
    Flatten,
    GlobalAvgPool2d,
    Layer,
    LeakyReLU,
    Linear,
    LogSoftmax,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
)
from cnn.losses import CrossEntropyLoss, MSELoss
from cnn.lr_finder import find_lr
from cnn.optim import SGD, Adam, AdamW, RMSprop, clip_grad_norm, parameter_groups, split_biases
from cnn.parameter import Parameter
from cnn.threads import get_num_threads, set_num_threads
from cnn.trainer import Trainer, TrainingDiverged
from cnn.winograd import get_winograd, set_winograd

__version__ = "0.1.0"

__all__ = [
    "Adam", "AdamW", "AdaptiveAvgPool2d", "AdaptiveMaxPool2d", "AvgPool2d", "BatchNorm2d", "Callback", "Concat",
    "Conv2d", "CrossEntropyLoss", "Dropout", "Dropout2d", "EMA", "Flatten", "GELU", "GlobalAvgPool2d", "Layer",
    "LeakyReLU", "Linear", "LogSoftmax", "Lookahead", "MSELoss", "MaxPool2d", "Parameter", "RMSprop", "ReLU",
    "Residual", "SGD", "Sequential", "SiLU", "Sigmoid", "Softmax", "Tanh", "Trainer", "TrainingDiverged",
    "clip_grad_norm", "data", "find_lr", "functional", "get_num_threads", "get_winograd", "load_model", "metrics",
    "models", "optim", "parameter_groups", "save_model", "schedules", "set_num_threads", "set_winograd",
    "show_config", "split_biases",
]
