"""PyTorch's modules of attention: rows of the table in pytorch_rows.py."""
from __future__ import annotations

from typing import Any

from cnn import functional
from cnn.export.pytorch_values import Refused, only, settled, value_of
from cnn.export.pytorch_windows import layer_norm, linear
from cnn.graph import Value
from cnn.layers.attention import attended


def _linear(t: Any, part: Any, x: Value) -> Value:
    return linear(t, x, t.parameter(part.weight), t.parameter(part.bias))


def _norm(t: Any, part: Any, x: Value) -> Value:
    return layer_norm(t, x, part.normalized_shape, t.parameter(part.weight), t.parameter(part.bias), part.eps)


def multihead_attention(t: Any, m: Any, query: Any, key: Any, value: Any, key_padding_mask: Any = None,
                        need_weights: bool = True, attn_mask: Any = None, average_attn_weights: bool = True,
                        is_causal: bool = False) -> tuple:
    """torch.nn.MultiheadAttention of one value with itself, and the weights, where they are asked for."""
    only("batch_first", m.batch_first, True)
    for name in ("bias_k", "bias_v"):
        only(name, getattr(m, name), None)
    only("add_zero_attn", m.add_zero_attn, False)
    only("key_padding_mask", key_padding_mask, None)
    if not (query is key is value) or m.in_proj_weight is None:
        raise Refused("query, key and value must be one value: of several, a Linear for each and "
                      "scaled_dot_product_attention are understood")
    x = value_of(query)
    if len(x.image) != 2:
        raise Refused(f"query must have shape (N, L, E), got (N, {', '.join(map(str, x.image))})")
    q, k, v = linear(t, x, t.parameter(m.in_proj_weight), t.parameter(m.in_proj_bias)).chunk(3, -1)
    masks = [] if attn_mask is None else [settled(attn_mask)]
    y, weights = attended(q, k, v, m.num_heads, masks, lambda x: t.dropout(x, m.dropout, False, not t.frozen(m)))
    y = _linear(t, m.out_proj, y)
    if not need_weights:
        return y, None
    return y, weights.mean(1) if average_attn_weights else weights


def encoder_layer(t: Any, m: Any, src: Any, src_mask: Any = None, src_key_padding_mask: Any = None,
                  is_causal: bool = False) -> Value:
    """torch.nn.TransformerEncoderLayer."""
    only("src_key_padding_mask", src_key_padding_mask, None)
    name = getattr(m.activation, "__name__", type(m.activation).__name__).lower()
    if name not in ("relu", "gelu", "silu"):
        raise Refused(f"activation must be relu, gelu or silu, got {name}")

    def activate(x: Value) -> Value:
        if name == "gelu":
            return functional.gelu(x, getattr(m.activation, "approximate", "none"))
        return getattr(functional, name)(x)

    def dropped(part: Any, x: Value) -> Value:
        return t.dropout(x, part.p, False, not t.frozen(part))

    def attend(x: Value) -> Value:
        return dropped(m.dropout1, multihead_attention(t, m.self_attn, x, x, x, None, False, src_mask)[0])

    def feed(x: Value) -> Value:
        return dropped(m.dropout2, _linear(t, m.linear2, dropped(m.dropout, activate(_linear(t, m.linear1, x)))))
    x = value_of(src)
    if m.norm_first:
        x = x + attend(_norm(t, m.norm1, x))
        return x + feed(_norm(t, m.norm2, x))
    x = _norm(t, m.norm1, x + attend(x))
    return _norm(t, m.norm2, x + feed(x))


def encoder(t: Any, m: Any, src: Any, mask: Any = None, src_key_padding_mask: Any = None,
            is_causal: Any = None) -> Value:
    """torch.nn.TransformerEncoder."""
    for layer in m.layers:
        src = encoder_layer(t, layer, src, mask, src_key_padding_mask)
    return src if m.norm is None else _norm(t, m.norm, value_of(src))
