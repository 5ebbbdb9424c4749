"""ONNX's shuffles of pixels and channels, and what says the same by a reshape, a transpose and a reshape: rows of TABLE
in onnx_operators.py."""
from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from cnn.export.onnx_reading import Refused
from cnn.export.onnx_values import Part
from cnn.graph import moving

if TYPE_CHECKING:
    from typing import Any

    from cnn.export.onnx_importing import Importer
    from cnn.export.onnx_values import Live, NodeView

AXES = "a reshape to more than 4 axes"      # a Part. cut: its sizes; perm: how they were transposed, None; dims: now


def depth_to_space(i: Importer, node: NodeView) -> Live:
    x, r, mode = node.live(), node.integer("blocksize", 0), node.get("mode", "DCR")
    if x.rank != 4 or r < 1 or x.dims[0] % (r * r):
        node.refuse("blocksize", r, f"a number whose square divides the channels of (N, C, H, W), got {x.dims}")
    if mode not in ("DCR", "CRD"):
        node.refuse("mode", mode, "DCR or CRD")
    return _to_space(i, x, r, mode == "DCR")


def _to_space(i, x, r, depth_last):
    """depth_last: whether a channel's number is that of a place in the block, times the channels there will be, plus
    that of one of these: ONNX's DCR. Here it is the other way round, CRD."""
    if depth_last:
        order = np.arange(x.dims[0]).reshape(r * r, -1).T.ravel().tolist()
        x = i.emit("permute_channels", [x], None, {"tables": [order, None, None]})
    return i.emit("pixel_shuffle", [x], None, {"factor": r})


def space_to_depth(i: Importer, node: NodeView) -> Live:
    x, r = node.live(), node.integer("blocksize", 0)
    node.only("mode", "DCR")
    if x.rank != 4 or r < 1 or x.dims[1] % r or x.dims[2] % r:
        node.refuse("blocksize", r, f"a divisor of height and width of (N, C, H, W), got {x.dims}")
    return _to_depth(i, x, r, True)


def _to_depth(i, x, r, depth_last):
    y = i.emit("pixel_unshuffle", [x], None, {"factor": r})
    if not depth_last:
        return y
    order = np.arange(y.dims[0]).reshape(-1, r * r).T.ravel().tolist()
    return i.emit("permute_channels", [y], None, {"tables": [order, None, None]})


# ---------------------------------------------------------------- a reshape, a transpose, a reshape

def is_cut(x: Any) -> bool:
    """Whether it is a value with more axes than values have here."""
    return isinstance(x, Part) and x.kind == AXES


def cut(x: Live, dims: list[int]) -> Part:
    """An image (C, H, W) with other sizes, more than three."""
    return Part(AXES, x, {"cut": tuple(dims), "perm": None, "dims": tuple(dims)})


def transposed(node: NodeView, part: Part) -> Part:
    """The axes of such a value in another order."""
    sizes = (None, *part.more["dims"])
    perm = node.integers("perm", list(range(len(sizes)))[::-1])
    if sorted(perm) != list(range(len(sizes))) or perm[0] != 0 or part.more["perm"] is not None:
        node.refuse("perm", perm, "one that leaves the images' axis first, after a reshape")
    return Part(AXES, part.of, {**part.more, "perm": tuple(perm), "dims": tuple(sizes[j] for j in perm[1:])})


def joined(i: Importer, part: Part, dims: list[int]) -> Live:
    """Such a value with three sizes or fewer again."""
    sizes, perm = part.more["cut"], part.more["perm"]
    y = part.of if perm is None else _shuffled(i, part.of, sizes, perm) or _permuted(i, part.of, sizes, perm)
    if y is None:
        raise Refused(f"a reshape to (N, {', '.join(map(str, sizes))}), a transpose by {list(perm)} and this are "
                      f"understood where they shuffle pixels or channels, or transpose three axes at most")
    return i.reshaped(y, dims)


def _permuted(i, x, sizes, perm):
    """A transpose of axes of which some stay together, so that three or fewer change places; None for others."""
    i.spend(math.prod(sizes))
    found = moving.transpose_of(np.arange(math.prod(sizes)).reshape(sizes).transpose([j - 1 for j in perm[1:]]))
    if found is None:
        return None
    shape, axes = found
    more = 3 - len(shape)
    x = i.emit("reshape", [x], 4, {"image": [1] * more + shape})
    return i.emit("permute", [x], 4, {"dims": [*range(1 + more), *(1 + more + axis for axis in axes)]})


def _shuffled(i, x, sizes, perm):
    """What a transpose of an image, cut to these sizes, is here; None where there is no operation for it."""
    channels, height, width = x.dims
    if perm in ((0, 1, 3, 5, 2, 4), (0, 3, 5, 1, 2, 4)):
        r = sizes[2]
        if sizes == (channels, height // r, r, width // r, r):
            return _to_depth(i, x, r, perm[1] == 3)
    if perm in ((0, 1, 4, 2, 5, 3), (0, 3, 4, 1, 5, 2)):
        r, depth_last = sizes[1], perm[1] == 3
        block = channels // (r * r)
        if sizes == ((r, r, block) if depth_last else (block, r, r)) + (height, width):
            return _to_space(i, x, r, depth_last)
    if perm == (0, 2, 1, 3, 4) and sizes[2:] == (height, width):
        order = np.arange(channels).reshape(sizes[:2]).T.ravel().tolist()
        return i.emit("permute_channels", [x], None, {"tables": [order, None, None]})
    return None
