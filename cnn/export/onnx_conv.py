"""ONNX's convolutions as ours, and what all operators with windows have in common."""
from __future__ import annotations

from typing import TYPE_CHECKING

from cnn.export.onnx_reading import Refused
from cnn.export.onnx_values import Live, Part

if TYPE_CHECKING:
    from cnn.export.onnx_importing import Importer
    from cnn.export.onnx_values import NodeView

MOST = 2**20        # pixels of padding, and of a kernel's or a stride's side


def flat_or_not(node: NodeView, x: Live) -> bool:
    """Whether windows have one axis, because values are (N, C, L). Raises Refused for vectors."""
    if x.rank < 3:
        raise Refused(f"its input must have shape (N, C, H, W), got (N, {', '.join(map(str, x.dims))})")
    return x.rank == 3


def sizes(node: NodeView, x: Live, name: str, default: int) -> tuple[int, int]:
    """A pair (height, width) from an attribute, of which (N, C, L) has one number."""
    flat = flat_or_not(node, x)
    values = node.integers(name, [default] * (1 if flat else 2), MOST)
    if min(values) < 1:
        node.refuse(name, values, "integers of at least 1")
    return (1, values[0]) if flat else (values[0], values[1])


def window(node: NodeView, x: Live, kernel: tuple[int, int], stride: tuple[int, int],
            dilation: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """((top, bottom), (left, right)) padding, by pads or auto_pad, and by a Pad before."""
    auto, flat = node.get("auto_pad", "NOTSET"), flat_or_not(node, x)
    pads = node.integers("pads", [0] * (2 if flat else 4), MOST)
    if min(pads) < 0:
        node.refuse("pads", pads, "integers of at least 0")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        sides = []
        for side, k, s, d in zip(x.value.image[1:], kernel, stride, dilation, strict=True):
            total = max((-(-side // s) - 1) * s + (k - 1) * d + 1 - side, 0)
            less, more = total // 2, total - total // 2
            sides.append((less, more) if auto == "SAME_UPPER" else (more, less))
        return sides[0], sides[1]
    if auto not in ("NOTSET", "VALID"):
        node.refuse("auto_pad", auto, "NOTSET, VALID, SAME_UPPER or SAME_LOWER")
    if auto == "VALID":
        return (0, 0), (0, 0)
    return ((0, 0), (pads[0], pads[1])) if flat else ((pads[0], pads[2]), (pads[1], pads[3]))


def padded(node: NodeView) -> tuple[Live, tuple | None]:
    """The first input, and how far a Pad before it has padded it with zeros."""
    if isinstance(node.inputs[0], Part) and node.inputs[0].kind == "Pad":
        return node.inputs[0].of, node.inputs[0].more["sides"]
    return node.live(), None


def told(sides, kernel=None):
    """Padding as our operations print it: a pair where it is the same on both sides."""
    (top, bottom), (left, right) = sides
    plain = top == bottom and left == right and (kernel is None or (2 * top <= kernel[0] and 2 * left <= kernel[1]))
    return [top, left] if plain else [[top, bottom], [left, right]]


def _weights(i: Importer, node: NodeView, x: Live) -> tuple[tuple[int, int], dict]:
    """The kernel's size, and the parameters weight and bias of a convolution."""
    known = node.known(1, "the weight")
    flat = flat_or_not(node, x)
    w = known.array
    if w.ndim != x.rank:
        raise Refused(f"the weight must have {x.rank} axes, as the input has, got shape {w.shape}")
    found = (1, w.shape[2]) if flat else (w.shape[2], w.shape[3])
    kernel = sizes(node, x, "kernel_shape", 1) if node.get("kernel_shape") is not None else found
    if kernel != found:
        node.refuse("kernel_shape", list(kernel), f"the weight's, {list(found)}")
    things = {"weight": i.parameter(known, w, trained=True)}
    if node.has(2):
        bias = node.known(2, "the bias")
        things["bias"] = i.parameter(bias, bias.array, trained=True)
    return kernel, things


def conv(i: Importer, node: NodeView) -> Live:
    x, pad = padded(node)
    kernel, things = _weights(i, node, x)
    stride, dilation = sizes(node, x, "strides", 1), sizes(node, x, "dilations", 1)
    sides = window(node, x, kernel, stride, dilation)
    if pad is not None:
        sides = tuple((a + c, b + d) for (a, b), (c, d) in zip(sides, pad, strict=True))
    return i.emit("conv2d", [x], x.rank, {
        "stride": list(stride), "padding": told(sides), "dilation": list(dilation), "groups": node.integer("group", 1)
    }, things)


def conv_transpose(i: Importer, node: NodeView) -> Live:
    """Its padding is told by pads, or by the output's size: output_shape, or by auto_pad the input's times the
    stride."""
    x = node.live()
    kernel, things = _weights(i, node, x)
    flat = flat_or_not(node, x)
    stride, dilation = sizes(node, x, "strides", 1), sizes(node, x, "dilations", 1)
    more = node.integers("output_padding", [0] * (1 if flat else 2), MOST)
    if min(more) < 0:
        node.refuse("output_padding", more, "integers of at least 0")
    more = [0, *more] if flat else more
    auto, wanted = node.get("auto_pad", "NOTSET"), node.get("output_shape")
    if wanted is not None:      # some files have all axes in it
        if not isinstance(wanted, list) or len(wanted) not in (x.rank - 2, x.rank) or not all(
                isinstance(n, int) and 1 <= n <= MOST for n in wanted):
            node.refuse("output_shape", wanted, f"{x.rank - 2} integers of at least 1")
        wanted = ([1] if flat else []) + wanted[2 - x.rank:]
    elif auto in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [side * s for side, s in zip(x.value.image[1:], stride, strict=True)]
    sides: list[tuple[int, int]] = []
    if wanted is None:
        sides += window(node, x, kernel, stride, dilation)
    else:
        node.get("pads")    # which count for nothing then
        for axis, (side, k, s, d, out) in enumerate(zip(x.value.image[1:], kernel, stride, dilation, wanted,
                                                        strict=True)):
            total = (side - 1) * s + more[axis] + (k - 1) * d + 1 - out
            if total < 0 and node.get("output_shape") is None:      # the standard and ONNX Runtime differ
                node.refuse("auto_pad", auto, "NOTSET or VALID where a stride is larger than its kernel")
            more[axis] += max(-total, 0)        # rows that no tap reaches
            less, half = max(total, 0) // 2, -(-max(total, 0) // 2)
            sides.append((less, half) if auto == "SAME_UPPER" else (half, less))
    return i.emit("conv_transpose2d", [x], x.rank, {
        "stride": list(stride), "padding": told(sides), "output_padding": list(more),
        "groups": node.integer("group", 1), "dilation": list(dilation)}, things)
