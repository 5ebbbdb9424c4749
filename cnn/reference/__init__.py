"""Every operation in plain NumPy: the formulas to read first, and the twins that the fast kernels must match.

Each forward pass has its backward pass as a neighbour. `dy` always means dL/dy, the gradient of the loss L
with respect to the operation's output y; the backward pass turns it into dx = dL/dx (and dw, db for weights w
and bias b) by the chain rule.

Arrays are of any float dtype, the same for all arrays of a call. Images are NCHW (image, channel, row,
column), convolution weights OIHW (output channel, input channel, kernel row, kernel column), Linear weights
(out, in). Sizes are an int or a pair (height, width), in pixels. Nothing is changed in place, except
running statistics and what the optimizers update. Shapes that do not fit together raise ValueError.
"""

from cnn.reference.augment import affine, crop, cutout
from cnn.reference.conv import conv2d, conv2d_backward
from cnn.reference.linear import linear, linear_backward
from cnn.reference.loss import cross_entropy, mse
from cnn.reference.norm import batch_norm, batch_norm_backward, group_norm, group_norm_backward
from cnn.reference.pointwise import (
    dropout,
    dropout2d,
    gelu,
    gelu_backward,
    leaky_relu,
    leaky_relu_backward,
    log_softmax,
    log_softmax_backward,
    relu,
    relu_backward,
    sigmoid,
    sigmoid_backward,
    silu,
    silu_backward,
    softmax,
    softmax_backward,
    tanh,
    tanh_backward,
)
from cnn.reference.pool import (
    adaptive_avg_pool2d,
    adaptive_avg_pool2d_backward,
    adaptive_max_pool2d,
    avg_pool2d,
    avg_pool2d_backward,
    max_pool2d,
    max_pool2d_backward,
)
from cnn.reference.update import adam_update, average_update, rmsprop_update, sgd_update
from cnn.reference.winograd import winograd_conv2d, winograd_matrices, winograd_rows_conv2d

__all__ = [
    "adam_update",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool2d_backward",
    "adaptive_max_pool2d",
    "affine",
    "average_update",
    "avg_pool2d",
    "avg_pool2d_backward",
    "batch_norm",
    "batch_norm_backward",
    "conv2d",
    "conv2d_backward",
    "crop",
    "cross_entropy",
    "cutout",
    "dropout",
    "dropout2d",
    "gelu",
    "gelu_backward",
    "group_norm",
    "group_norm_backward",
    "leaky_relu",
    "leaky_relu_backward",
    "linear",
    "linear_backward",
    "log_softmax",
    "log_softmax_backward",
    "max_pool2d",
    "max_pool2d_backward",
    "mse",
    "relu",
    "relu_backward",
    "rmsprop_update",
    "sgd_update",
    "sigmoid",
    "sigmoid_backward",
    "silu",
    "silu_backward",
    "softmax",
    "softmax_backward",
    "tanh",
    "tanh_backward",
    "winograd_conv2d",
    "winograd_matrices",
    "winograd_rows_conv2d",
]
