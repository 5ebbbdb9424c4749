"""Layers: forward and backward of one operation side by side."""
from cnn.layers.activation import (
    ELU,
    GELU,
    Dropout,
    Dropout2d,
    Hardsigmoid,
    Hardswish,
    Hardtanh,
    LeakyReLU,
    LogSoftmax,
    Mish,
    PReLU,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from cnn.layers.container import Concat, ModuleList, Residual, Sequential
from cnn.layers.conv import Conv2d
from cnn.layers.graph_module import GraphModule, OperationNode, graph_module
from cnn.layers.linear import Flatten, Linear
from cnn.layers.module import Module
from cnn.layers.norm import BatchNorm2d, GroupNorm
from cnn.layers.pool import AdaptiveAvgPool2d, AdaptiveMaxPool2d, AvgPool2d, GlobalAvgPool2d, MaxPool2d

Layer = Module      # its name before

__all__ = ["AdaptiveAvgPool2d", "AdaptiveMaxPool2d", "AvgPool2d", "BatchNorm2d", "Concat", "Conv2d", "Dropout",
           "Dropout2d", "ELU", "Flatten", "GELU", "GlobalAvgPool2d", "GraphModule", "GroupNorm", "Hardsigmoid",
           "Hardswish", "Hardtanh", "Layer", "LeakyReLU", "Linear", "LogSoftmax", "MaxPool2d", "Mish", "Module",
           "ModuleList", "OperationNode", "PReLU", "ReLU", "ReLU6", "Residual", "Sequential", "SiLU", "Sigmoid",
           "Softmax", "Softplus", "Tanh", "graph_module"]
