"""Functions that are made of several others, of values and of arrays."""
from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from cnn import shapes
from cnn.functional import moving
from cnn.functional.common import computed
from cnn.functional.criteria import one_hot
from cnn.graph import Value, build, views
from cnn.graph.derived import OWN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnn.engine.parameter import Parameter
    from cnn.functional.common import Images
    from cnn.shapes import Size

NEVER = -1e30       # a score whose softmax is 0


def logsumexp(x: Images, dim: int | Sequence[int], keepdim: bool = False) -> Images:
    """log of the sum of exp(x) over axes, without overflows. x: a value or an array, (N, C, H, W), (N, H, W) or
    (N, features); dim: an axis or several, 1 and up or negative; keepdim: whether they stay, with size 1."""
    dims, kept = build.dims_of("logsumexp", dim, 1), shapes.flag("logsumexp", "keepdim", keepdim)
    return computed("logsumexp", lambda x: x.logsumexp(dims, kept), {"x": x}, (dims, kept))


def glu(x: Images, dim: int = -1) -> Images:
    """a sigmoid(b), a and b being the halves of x along the axis `dim`, 1 and up or negative. x: a value or an array,
    (N, C, H, W), (N, H, W) or (N, features). Dauphin et al. 2017."""
    dim = shapes.integer("glu", "dim", dim, -2**31)

    def of_value(x: Value) -> Value:
        axis, = build.axes_of("glu", x, dim)
        if x.image[axis] % 2:
            raise ValueError(f"glu: x must have an even size along the axis {dim}, got {shapes.batch(x.image)}")
        a, b = x.chunk(2, dim)
        return a * b.sigmoid()
    return computed("glu", of_value, {"x": x}, (dim,))


def scaled_dot_product_attention(query: Images, key: Images, value: Images, attn_mask: np.ndarray | Value | None = None,
                                 dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None) -> Images:
    """softmax(query key^T scale + attn_mask) value, for each head. Vaswani et al. 2017.

    query: (N, heads, L, E) or (N, L, E), a value or an array; key: (N, heads, S, E) or (N, S, E); value: (N, heads, S,
    V) or (N, S, V). attn_mask: None, or what is added to the scores, or of bools what may be attended to: an array of
    (L, S), the same for every image, or a value: of a comparison it is one of bools. is_causal: whether l attends to s
    <= l only. scale: 1 / sqrt(E) by default. dropout_p: must be 0; a Dropout layer drops. Returns (N, heads, L, V) or
    (N, L, V).

    Raises TypeError or ValueError for shapes and arguments that do not fit.
    """
    name = "scaled_dot_product_attention"
    if shapes.number(name, "dropout_p", dropout_p, 0, 1):
        raise ValueError(f"{name}: dropout_p must be 0, got {dropout_p}: a Dropout layer does it, by the mode")
    causal = shapes.flag(name, "is_causal", is_causal)
    factor = None if scale is None else shapes.number(name, "scale", scale)
    if attn_mask is not None and not isinstance(attn_mask, (np.ndarray, Value, *OWN)):
        raise TypeError(f"{name}: attn_mask must be an array or a value, got {type(attn_mask).__name__}")
    if isinstance(attn_mask, np.ndarray) and attn_mask.dtype.kind not in "fiub":
        raise TypeError(f"{name}: attn_mask must hold bools or numbers, got {attn_mask.dtype}")
    if causal and attn_mask is not None:
        raise ValueError(f"{name}: attn_mask must be None with is_causal")

    def of_values(query: Value, key: Value, value: Value) -> Value:
        for what, x in (("query", query), ("key", key), ("value", value)):
            if not isinstance(x, Value):
                raise TypeError(f"{name}: {what} must be a value or an array, got {type(x).__name__}")
            if len(x.image) not in (2, 3):
                raise ValueError(f"{name}: {what} must have shape (N, heads, L, E) or (N, L, E), got "
                                 f"{shapes.batch(x.image)}")
        by = 1 / math.sqrt(query.image[-1]) if factor is None else factor
        scores = build.matmul(query, key.transpose(-2, -1)) * by
        mask = np.tri(*scores.image[-2:]) > 0 if causal else attn_mask
        if isinstance(mask, np.ndarray) and mask.dtype == bool or isinstance(mask, Value) and build.is_mask(mask):
            weights = build.where(mask, scores, NEVER).softmax(-1)
            return build.matmul(weights if causal else weights * mask, value)       # nothing where all is hidden
        return build.matmul((scores if mask is None else scores + mask).softmax(-1), value)
    known = (attn_mask.shape, attn_mask.tobytes()) if isinstance(attn_mask, np.ndarray) else attn_mask
    return computed(name, of_values, {"query": query, "key": key, "value": value}, (known, causal, factor))


def embedding(x: Images, weight: np.ndarray | Parameter) -> Images:
    """The row of `weight` of each number in x: (N,) gives (N, D), (N, L) gives (N, L, D). By a product with `one_hot`,
    so for tables of some hundred rows.

    x: a value, or an array, of whole numbers from 0, as floats or integers; another number gives zeros. weight: (K, D).
    """
    if len(getattr(weight, "shape", ())) != 2:
        raise ValueError(f"embedding: weight must have shape (K, D), got {getattr(weight, 'shape', weight)}")
    if isinstance(x, Value):
        return one_hot(x, weight.shape[0]) @ weight
    array = getattr(weight, "data", weight) if not isinstance(weight, np.ndarray) else weight
    numbers = shapes.as_array("embedding", "x", x)
    if numbers.dtype.kind not in "iuf":
        raise TypeError(f"embedding: x must hold numbers, got {numbers.dtype}")
    return (numbers[..., None] == np.arange(len(array))).astype(array.dtype) @ array


def unfold(x: Images, kernel_size: Size, dilation: Size = 1, padding: Size = 0, stride: Size = 1) -> Images:
    """The windows of a convolution as columns: (N, C, H, W) gives (N, C R S, OH OW), each window's elements in the
    order of (C, R, S). x: a value or an array; kernel_size (R, S), dilation, padding, stride: int or pair."""
    kernel, spread, edge, step = (shapes.pair("unfold", what, size, least) for what, size, least in (
        ("kernel_size", kernel_size, 1), ("dilation", dilation, 1), ("padding", padding, 0), ("stride", stride, 1)))

    def of_value(x: Value) -> Value:
        if len(x.image) != 3:
            raise ValueError(f"unfold: x must have shape (N, C, H, W), got {shapes.batch(x.image)}")
        sides = tuple((n, n) for n in edge)
        out = shapes.conv_output("unfold", x.image[1:], kernel, step, sides, spread)
        padded = moving.pad(x, (edge[1], edge[1], edge[0], edge[0])) if any(edge) else x
        channels, height, width = padded.image
        at = [np.arange(n) * s + np.arange(k)[:, None] * d
              for n, s, k, d in zip(out, step, kernel, spread, strict=True)]
        planes = np.arange(channels)[:, None, None, None, None] * height * width
        index = planes + at[0][:, None, :, None] * width + at[1][:, None, :]       # (C, R, S, OH, OW)
        return views.settled(views.View(padded, index.reshape(1, channels * math.prod(kernel), math.prod(out))))
    return computed("unfold", of_value, {"x": x}, (kernel, spread, edge, step))
