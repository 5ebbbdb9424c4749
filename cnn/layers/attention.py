"""Attention of several heads, and the encoder layers of transformers that are made of it. Vaswani et al. 2017."""
from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from cnn import functional, shapes
from cnn.engine.parameter import Parameter
from cnn.functional.composed import NEVER
from cnn.graph import Value, build
from cnn.graph.derived import OWN
from cnn.layers import init
from cnn.layers.activation import Dropout
from cnn.layers.container import ModuleList
from cnn.layers.linear import Linear
from cnn.layers.module import Module
from cnn.layers.norm import LayerNorm

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import DTypeLike

ACTIVATIONS = ("relu", "gelu", "silu")


def attended(query: Value, key: Value, value: Value, heads: int, masks: Sequence[Any] = (),
             drop: Callable[[Value], Value] | None = None) -> tuple[Value, Value]:
    """softmax(q k^T / sqrt(E / heads) + masks) v of each head, and its weights.

    query: (N, L, E); key: (N, S, E); value: (N, S, V). masks: arrays or values that are broadcast to (N, heads, L, S);
    of bools, or of a comparison, what may not be attended to; else what is added. drop: of the weights. Returns y: (N,
    L, V) and the weights before `drop`: (N, heads, L, S).
    """
    def apart(x: Value) -> Value:
        length, width = x.image
        return x.view(-1, length, heads, width // heads).transpose(1, 2)
    q, k, v = apart(query), apart(key), apart(value)
    scores = q @ k.transpose(-2, -1) * (1 / math.sqrt(q.image[-1]))
    for mask in masks:
        hides = mask.dtype == bool if isinstance(mask, np.ndarray) else isinstance(mask, Value) and build.is_mask(mask)
        if hides:
            scores = scores.masked_fill(mask, NEVER)
        else:
            scores = scores + (np.maximum(mask, NEVER) if isinstance(mask, np.ndarray) else mask)
    weights = scores.softmax(-1)
    y = (weights if drop is None else drop(weights)) @ v
    return y.transpose(1, 2).reshape(-1, query.image[0], value.image[1]), weights


class MultiheadAttention(Module):
    """Attention of several heads, with a linear map before and after it.

    query: (N, L, embed_dim); key: (N, S, kdim), value: (N, S, vdim), by default of embed_dim, too. Called with these it
    returns y: (N, L, embed_dim), and the weights, the mean of the heads, (N, L, S), or with average_attn_weights=False
    (N, num_heads, L, S); with need_weights=False None. key_padding_mask: (N, S), a value that is not 0 where a key is
    not attended to, or None. attn_mask: (L, S), an array: of bools what may not be attended to, else what is added.
    is_causal: nothing, as long as attn_mask is given.

    embed_dim: a multiple of num_heads. dropout: of the weights, while training. bias: whether the maps have one.
    batch_first must be given as True: (L, N, E), which PyTorch takes without it, is not read. add_bias_kv,
    add_zero_attn: must be false. seed: int, or a numpy Generator; dtype: float32 or float64. The names of the
    parameters are PyTorch's. Raises TypeError or ValueError for what does not fit.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0, bias: bool = True,
                 add_bias_kv: bool = False, add_zero_attn: bool = False, kdim: int | None = None,
                 vdim: int | None = None, batch_first: bool = False, *, seed: int | np.random.Generator = 0,
                 dtype: DTypeLike = np.float32) -> None:
        super().__init__()
        name, rng = "MultiheadAttention", np.random.default_rng(seed)
        self.embed_dim = shapes.integer(name, "embed_dim", embed_dim, 1)
        self.num_heads = shapes.integer(name, "num_heads", num_heads, 1)
        self.kdim, self.vdim = (shapes.integer(name, what, embed_dim if n is None else n, 1)
                                for what, n in (("kdim", kdim), ("vdim", vdim)))
        if embed_dim % num_heads:
            raise ValueError(f"{name}: embed_dim must be a multiple of num_heads, got {embed_dim} and {num_heads}")
        check_order(name, batch_first)
        for what, flag in (("add_bias_kv", add_bias_kv), ("add_zero_attn", add_zero_attn)):
            if shapes.flag(name, what, flag):
                raise ValueError(f"{name}: {what} must be False, got True")
        self.drop = Dropout(dropout)

        def drawn(*shape: int) -> Parameter:
            return Parameter(init.glorot_uniform(shape, rng, dtype))
        if self.kdim == self.vdim == embed_dim:
            self.in_proj_weight: Any = drawn(3 * embed_dim, embed_dim)
        else:
            self.in_proj_weight = None
            self.q_proj_weight, self.k_proj_weight, self.v_proj_weight = (
                drawn(embed_dim, n) for n in (embed_dim, self.kdim, self.vdim))
        self.in_proj_bias = Parameter(np.zeros(3 * embed_dim, shapes.float_type(name, dtype))) if shapes.flag(
            name, "bias", bias) else None
        self.out_proj = Linear(embed_dim, embed_dim, bias, seed=rng, dtype=dtype)
        if self.out_proj.bias is not None:
            self.out_proj.bias.data[...] = 0

    def forward(self, query: Value, key: Value | None = None, value: Value | None = None,
                key_padding_mask: Value | None = None, need_weights: bool = True, attn_mask: Any = None,
                average_attn_weights: bool = True, is_causal: bool = False) -> Any:
        """y, and the weights where they are asked for; see the class. Without key and value they are the query."""
        name = type(self).__name__
        key = query if key is None else key
        value = key if value is None else value
        given = next((x for x in (query, key, value) if isinstance(x, Value)), None)
        if given is not None:       # what is learnt is the same for every image
            query, key, value = (build.value_of(name, x, given) if isinstance(x, OWN) else x for x in (
                query, key, value))
        for what, x, width in (("query", query, self.embed_dim), ("key", key, self.kdim), ("value", value, self.vdim)):
            if not isinstance(x, Value) or len(x.image) != 2 or x.image[1] != width:
                raise ValueError(f"{name}: {what} must have shape (N, L, {width}), got "
                                 f"{shapes.batch(x.image) if isinstance(x, Value) else type(x).__name__}")
        if is_causal and attn_mask is None:
            raise ValueError(f"{name}: attn_mask must be given with is_causal, got None")
        masks = [] if attn_mask is None else [attn_mask]
        if key_padding_mask is not None:
            masks.append(key_padding_mask.reshape(-1, 1, 1, key.image[0]) != 0)
        q, k, v = self._maps(query, key, value)
        y, weights = attended(q, k, v, self.num_heads, masks, self.drop)
        y = self.out_proj(y)
        if not need_weights:
            return y, None
        return y, weights.mean(1) if average_attn_weights else weights

    def _maps(self, query: Value, key: Value, value: Value) -> list[Value]:
        if query is key is value and self.in_proj_weight is not None:
            return list(functional.linear(query, self.in_proj_weight, self.in_proj_bias).chunk(3, -1))
        parts = [slice(i * self.embed_dim, (i + 1) * self.embed_dim) for i in range(3)]
        weights = [self.q_proj_weight, self.k_proj_weight, self.v_proj_weight] if self.in_proj_weight is None else [
            self.in_proj_weight[part] for part in parts]
        biases: list[Any] = [None if self.in_proj_bias is None else self.in_proj_bias[part] for part in parts]
        return [functional.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True)]

    def extra_repr(self) -> str:
        return f"{self.embed_dim}, {self.num_heads}"


class TransformerEncoderLayer(Module):
    """Attention of (N, L, d_model) with itself and two linear maps, each with dropout, a sum with what it gets and
    layer norm, before it with norm_first.

    nhead: heads; dim_feedforward: features between the two maps; dropout: of all; activation: "relu", "gelu" or "silu",
    or a function of values; layer_norm_eps: of the norms. batch_first must be true: (L, N, E) is not read. bias:
    whether maps and norms have one. seed: int, or a numpy Generator; dtype: float32 or float64. The names of the
    parameters are PyTorch's. Raises TypeError or ValueError for what does not fit.
    """

    def __init__(self, d_model: int, nhead: int, dim_feedforward: int = 2048, dropout: float = 0.1,
                 activation: str | Callable[[Value], Value] = "relu", layer_norm_eps: float = 1e-5,
                 batch_first: bool = False, norm_first: bool = False, bias: bool = True, *,
                 seed: int | np.random.Generator = 0, dtype: DTypeLike = np.float32) -> None:
        super().__init__()
        name, rng = "TransformerEncoderLayer", np.random.default_rng(seed)
        check_order(name, batch_first)
        if not callable(activation) and activation not in ACTIVATIONS:
            raise ValueError(f"{name}: activation must be a function or {', '.join(map(repr, ACTIVATIONS))}, got "
                             f"{activation!r}")
        width = shapes.integer(name, "dim_feedforward", dim_feedforward, 1)
        self.self_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=True, seed=rng, dtype=dtype)
        self.linear1 = Linear(d_model, width, bias, seed=rng, dtype=dtype)
        self.linear2 = Linear(width, d_model, bias, seed=rng, dtype=dtype)
        self.norm1, self.norm2 = (LayerNorm(d_model, layer_norm_eps, bias=bias, dtype=dtype) for _ in range(2))
        self.dropout, self.dropout1, self.dropout2 = (Dropout(dropout) for _ in range(3))
        self.norm_first, self.activation = shapes.flag(name, "norm_first", norm_first), activation

    def forward(self, src: Value, src_mask: Any = None, src_key_padding_mask: Value | None = None,
                is_causal: bool = False) -> Value:
        """y, like src, (N, L, d_model); src_mask: (L, L), src_key_padding_mask: (N, L), is_causal: as in
        MultiheadAttention."""
        def attend(x: Value) -> Value:
            return self.dropout1(self.self_attn(x, x, x, src_key_padding_mask, False, src_mask, is_causal=is_causal)[0])

        def feed(x: Value) -> Value:
            activate = self.activation if callable(self.activation) else getattr(functional, self.activation)
            return self.dropout2(self.linear2(self.dropout(activate(self.linear1(x)))))
        if self.norm_first:
            src = src + attend(self.norm1(src))
            return src + feed(self.norm2(src))
        src = self.norm1(src + attend(src))
        return self.norm2(src + feed(src))


class TransformerEncoder(Module):
    """num_layers copies of an encoder layer, one after the other, then perhaps a norm. encoder_layer: a module, which
    is copied, with the same weights in each copy; norm: a module or None. Raises TypeError or ValueError for others."""

    def __init__(self, encoder_layer: Module, num_layers: int, norm: Module | None = None) -> None:
        super().__init__()
        shapes.instance("TransformerEncoder", "encoder_layer", encoder_layer, Module)
        count = shapes.integer("TransformerEncoder", "num_layers", num_layers, 1)
        self.layers, self.norm = ModuleList([copy.deepcopy(encoder_layer) for _ in range(count)]), norm

    def forward(self, src: Value, mask: Any = None, src_key_padding_mask: Value | None = None,
                is_causal: bool = False) -> Value:
        """y, like src, (N, L, d_model); mask: (L, L), src_key_padding_mask: (N, L), is_causal: as in
        MultiheadAttention."""
        for layer in self.layers:
            src = layer(src, mask, src_key_padding_mask, is_causal)
        return src if self.norm is None else self.norm(src)


def check_order(owner: str, batch_first: bool) -> None:
    """Refuse batches that are not first."""
    if not shapes.flag(owner, "batch_first", batch_first):
        raise ValueError(f"{owner}: batch_first must be True, got False, PyTorch's default: images are the first axis")
