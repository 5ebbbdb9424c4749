"""Layers: forward and backward of one operation side by side."""
from cnn.layers.activation import (
    ELU,
    GELU,
    Dropout,
    Dropout1d,
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
from cnn.layers.attention import MultiheadAttention, TransformerEncoder, TransformerEncoderLayer
from cnn.layers.composed import (
    CELU,
    GLU,
    SELU,
    CosineSimilarity,
    Embedding,
    Hardshrink,
    LogSigmoid,
    PairwiseDistance,
    RMSNorm,
    Softmax2d,
    Softmin,
    Softshrink,
    Softsign,
    Tanhshrink,
    Threshold,
    Unflatten,
    Unfold,
)
from cnn.layers.container import Concat, Identity, ModuleDict, ModuleList, Residual, Sequential
from cnn.layers.conv import Conv2d, ConvTranspose2d
from cnn.layers.graph_module import GraphModule, OperationNode, graph_module
from cnn.layers.linear import Flatten, Linear
from cnn.layers.module import Module
from cnn.layers.norm import BatchNorm2d, GroupNorm, InstanceNorm2d, LayerNorm, LayerNorm2d, LocalResponseNorm
from cnn.layers.parameter_lists import ParameterDict, ParameterList
from cnn.layers.pool import AdaptiveAvgPool2d, AdaptiveMaxPool2d, AvgPool2d, GlobalAvgPool2d, MaxPool2d
from cnn.layers.reshape import (
    ChannelShuffle,
    ConstantPad1d,
    ConstantPad2d,
    PixelShuffle,
    PixelUnshuffle,
    ReflectionPad1d,
    ReflectionPad2d,
    ReplicationPad1d,
    ReplicationPad2d,
    Upsample,
    UpsamplingBilinear2d,
    UpsamplingNearest2d,
    ZeroPad1d,
    ZeroPad2d,
)
from cnn.layers.sequences import (
    AdaptiveAvgPool1d,
    AdaptiveMaxPool1d,
    AvgPool1d,
    BatchNorm1d,
    Conv1d,
    ConvTranspose1d,
    InstanceNorm1d,
    MaxPool1d,
)

Layer = Module      # its name before

__all__ = ["AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveMaxPool1d", "AdaptiveMaxPool2d", "AvgPool1d",
           "AvgPool2d", "BatchNorm1d", "BatchNorm2d", "CELU", "ChannelShuffle", "Concat", "ConstantPad1d",
           "ConstantPad2d", "Conv1d", "Conv2d", "ConvTranspose1d", "ConvTranspose2d", "CosineSimilarity", "Dropout",
           "Dropout1d", "Dropout2d", "ELU", "Embedding", "Flatten", "GELU", "GLU", "GlobalAvgPool2d", "GraphModule",
           "GroupNorm", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "Identity", "InstanceNorm1d",
           "InstanceNorm2d", "Layer", "LayerNorm", "LayerNorm2d", "LeakyReLU", "Linear", "LocalResponseNorm",
           "LogSigmoid", "LogSoftmax", "MaxPool1d", "MaxPool2d", "Mish", "Module", "ModuleDict", "ModuleList",
           "MultiheadAttention", "OperationNode", "PReLU", "PairwiseDistance", "ParameterDict", "ParameterList",
           "PixelShuffle", "PixelUnshuffle", "RMSNorm", "ReLU", "ReLU6", "ReflectionPad1d", "ReflectionPad2d",
           "ReplicationPad1d", "ReplicationPad2d", "Residual", "SELU", "Sequential", "SiLU", "Sigmoid", "Softmax",
           "Softmax2d", "Softmin", "Softplus", "Softshrink", "Softsign", "Tanh", "Tanhshrink", "Threshold",
           "TransformerEncoder", "TransformerEncoderLayer", "Unflatten", "Unfold", "Upsample", "UpsamplingBilinear2d",
           "UpsamplingNearest2d", "ZeroPad1d", "ZeroPad2d", "graph_module"]
