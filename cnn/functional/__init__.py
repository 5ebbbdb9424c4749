"""The operations as functions of NCHW arrays, without layers.

All arrays are float32 or float64 (one dtype in a call; nothing is up-cast), of any memory order and byte
order; results are new C-contiguous arrays. Sizes are an int or a pair (height, width). A batch may be
empty. TypeError is raised for a wrong dtype or kind of argument, ValueError for a wrong shape or value,
naming the function, the argument and what would be right.

In the `forward` of a module they take values, too, and return what PyTorch's functions do: `max_pool2d` of a value is
the pooled value alone. Weights are then Parameters, or arrays, whose numbers are looked at in each run. The `_backward`
of a function takes arrays only: what is done with values is differentiated by itself.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from cnn import hints
from cnn.functional.activations import (
    celu,
    hardshrink,
    logsigmoid,
    rms_norm,
    selu,
    softmin,
    softshrink,
    softsign,
    tanhshrink,
    threshold,
)
from cnn.functional.arithmetic import (
    abs,
    amax,
    amin,
    bmm,
    clamp,
    cos,
    elu,
    exp,
    hardsigmoid,
    hardswish,
    hardtanh,
    log,
    matmul,
    maximum,
    mean,
    minimum,
    mish,
    normalize,
    pow,
    prelu,
    relu6,
    sin,
    softplus,
    sqrt,
    sum,
    where,
)
from cnn.functional.composed import embedding, glu, logsumexp, scaled_dot_product_attention, unfold
from cnn.functional.conv import (
    conv2d,
    conv2d_backward,
    conv_transpose2d,
    conv_transpose2d_backward,
    linear,
    linear_backward,
)
from cnn.functional.criteria import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    huber_loss,
    kl_div,
    l1_loss,
    nll_loss,
    one_hot,
    smooth_l1_loss,
)
from cnn.functional.distances import cosine_similarity, pairwise_distance, triplet_margin_loss
from cnn.functional.layer_norm import instance_norm, layer_norm, layer_norm2d, local_response_norm
from cnn.functional.loss import cross_entropy, mse_loss
from cnn.functional.margins import (
    cosine_embedding_loss,
    gaussian_nll_loss,
    hinge_embedding_loss,
    margin_ranking_loss,
    multi_margin_loss,
    multilabel_soft_margin_loss,
    poisson_nll_loss,
    soft_margin_loss,
)
from cnn.functional.moving import (
    cat,
    channel_shuffle,
    chunk,
    flatten,
    full_like,
    interpolate,
    ones_like,
    pad,
    permute,
    pixel_shuffle,
    pixel_unshuffle,
    split,
    squeeze,
    stack,
    transpose,
    unsqueeze,
    upsample,
    zeros_like,
)
from cnn.functional.norm import batch_norm, batch_norm_backward, group_norm, group_norm_backward
from cnn.functional.pointwise import (
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
from cnn.functional.pool import (
    adaptive_avg_pool2d,
    adaptive_avg_pool2d_backward,
    adaptive_max_pool2d,
    avg_pool2d,
    avg_pool2d_backward,
    max_pool2d,
    max_pool2d_backward,
)
from cnn.functional.sequences import (
    adaptive_avg_pool1d,
    adaptive_max_pool1d,
    avg_pool1d,
    avg_pool1d_backward,
    conv1d,
    conv1d_backward,
    conv_transpose1d,
    conv_transpose1d_backward,
    max_pool1d,
    max_pool1d_backward,
)
from cnn.functional.sums import einsum

__all__ = ["abs", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool2d_backward", "adaptive_max_pool1d",
           "adaptive_max_pool2d", "amax", "amin", "avg_pool1d", "avg_pool1d_backward", "avg_pool2d",
           "avg_pool2d_backward", "batch_norm", "batch_norm_backward", "binary_cross_entropy",
           "binary_cross_entropy_with_logits", "bmm", "cat", "celu", "channel_shuffle", "chunk", "clamp", "conv1d",
           "conv1d_backward", "conv2d", "conv2d_backward", "conv_transpose1d", "conv_transpose1d_backward",
           "conv_transpose2d", "conv_transpose2d_backward", "cos", "cosine_embedding_loss", "cosine_similarity",
           "cross_entropy", "einsum", "elu", "embedding", "exp", "flatten", "full_like", "gaussian_nll_loss", "gelu",
           "gelu_backward", "glu", "group_norm", "group_norm_backward", "hardshrink", "hardsigmoid", "hardswish",
           "hardtanh", "hinge_embedding_loss", "huber_loss", "instance_norm", "interpolate", "kl_div", "l1_loss",
           "layer_norm", "layer_norm2d", "leaky_relu", "leaky_relu_backward", "linear", "linear_backward",
           "local_response_norm", "log", "log_softmax", "log_softmax_backward", "logsigmoid", "logsumexp",
           "margin_ranking_loss", "matmul", "max_pool1d", "max_pool1d_backward", "max_pool2d", "max_pool2d_backward",
           "maximum", "mean", "minimum", "mish", "mse_loss", "multi_margin_loss", "multilabel_soft_margin_loss",
           "nll_loss", "normalize", "one_hot", "ones_like", "pad", "pairwise_distance", "permute", "pixel_shuffle",
           "pixel_unshuffle", "poisson_nll_loss", "pow", "prelu", "relu", "relu6", "relu_backward", "rms_norm",
           "scaled_dot_product_attention", "selu", "sigmoid", "sigmoid_backward", "silu", "silu_backward", "sin",
           "smooth_l1_loss", "soft_margin_loss", "softmax", "softmax_backward", "softmin", "softplus", "softshrink",
           "softsign", "split", "sqrt", "squeeze", "stack", "sum", "tanh", "tanh_backward", "tanhshrink", "threshold",
           "transpose", "triplet_margin_loss", "unfold", "unsqueeze", "upsample", "where", "zeros_like"]


if not TYPE_CHECKING:
    def __getattr__(name: str) -> object:
        raise hints.missing("module 'cnn.functional'", name, hints.OF_PACKAGE)
