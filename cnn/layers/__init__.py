"""Layers: forward and backward of one operation side by side."""
from cnn.layers.activation import GELU, Dropout, Dropout2d, LeakyReLU, LogSoftmax, ReLU, Sigmoid, SiLU, Softmax, Tanh
from cnn.layers.base import Layer
from cnn.layers.branch import Concat, Residual
from cnn.layers.container import Sequential
from cnn.layers.conv import Conv2d
from cnn.layers.linear import Flatten, Linear
from cnn.layers.norm import BatchNorm2d
from cnn.layers.pool import AdaptiveAvgPool2d, AdaptiveMaxPool2d, AvgPool2d, GlobalAvgPool2d, MaxPool2d

__all__ = ["AdaptiveAvgPool2d", "AdaptiveMaxPool2d", "AvgPool2d", "BatchNorm2d", "Concat", "Conv2d", "Dropout",
           "Dropout2d", "Flatten", "GELU", "GlobalAvgPool2d", "Layer", "LeakyReLU", "Linear", "LogSoftmax",
           "MaxPool2d", "ReLU", "Residual", "Sequential", "SiLU", "Sigmoid", "Softmax", "Tanh"]
