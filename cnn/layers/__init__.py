"""Layers: forward and backward of one operation side by side."""
from cnn.layers.activation import GELU, Dropout, Dropout2d, LeakyReLU, LogSoftmax, ReLU, Sigmoid, SiLU, Softmax, Tanh
from cnn.layers.container import Concat, ModuleList, Residual, Sequential
from cnn.layers.conv import Conv2d
from cnn.layers.graph_module import GraphModule, OperationNode, graph_module
from cnn.layers.linear import Flatten, Linear
from cnn.layers.module import Module
from cnn.layers.norm import BatchNorm2d, GroupNorm
from cnn.layers.pool import AdaptiveAvgPool2d, AdaptiveMaxPool2d, AvgPool2d, GlobalAvgPool2d, MaxPool2d

Layer = Module      # its name before

__all__ = ["AdaptiveAvgPool2d", "AdaptiveMaxPool2d", "AvgPool2d", "BatchNorm2d", "Concat", "Conv2d", "Dropout",
           "Dropout2d", "Flatten", "GELU", "GlobalAvgPool2d", "GraphModule", "GroupNorm", "Layer", "LeakyReLU",
           "Linear", "LogSoftmax", "MaxPool2d", "Module", "ModuleList", "OperationNode", "ReLU", "Residual",
           "Sequential", "SiLU", "Sigmoid", "Softmax", "Tanh", "graph_module"]
