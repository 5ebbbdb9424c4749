"""Layers: forward and backward of one operation side by side."""
from cnn.layers.activation import Dropout, LeakyReLU, ReLU, Sigmoid, Tanh
from cnn.layers.base import Layer
from cnn.layers.container import Sequential
from cnn.layers.conv import Conv2d
from cnn.layers.linear import Flatten, Linear
from cnn.layers.pool import MaxPool2d

__all__ = ["Conv2d", "Dropout", "Flatten", "Layer", "LeakyReLU", "Linear", "MaxPool2d", "ReLU", "Sequential",
           "Sigmoid", "Tanh"]
