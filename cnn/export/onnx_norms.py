"""ONNX's normalisations by layers and by neighbouring channels: rows of TABLE in onnx_operators.py."""
from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from cnn.export.onnx_folding import axis_in
from cnn.export.onnx_reading import Refused
from cnn.export.onnx_values import Live

if TYPE_CHECKING:
    from cnn.export.onnx_importing import Importer
    from cnn.export.onnx_values import NodeView

LAST = [0, 2, 3, 1]     # to (N, H, W, C): ONNX normalises over last axes only


def layer_norm(i: Importer, node: NodeView) -> Live:
    """Over the last axes; of a transpose to (N, H, W, C) over the channels of each pixel."""
    x = node.live()
    axis = axis_in(node, node.integer("axis", -1), x.rank)
    if axis == 0:
        node.refuse("axis", axis, "another than 0, the images'")
    shape = x.dims[axis - 1:]
    turned = i.before(x, "permute", alone=False) if axis == x.rank - 1 == 3 else None
    node.only("stash_type", 1)
    things = {}
    for role, j in (("weight", 1), ("bias", 2)):
        if not node.has(j):
            continue
        known = node.known(j, role)
        if known.trained or not (known.array == (1, 0)[j - 1]).all():
            if known.array.ndim > len(shape):
                raise Refused(f"{role} must have shape {shape}, got {known.array.shape}")
            i.spend(math.prod(shape))
            array = np.broadcast_to(known.array, shape)
            things[role] = i.parameter(known, array, trained=known.trained)
    attributes = {"eps": node.number("epsilon", 1e-5)}
    if turned is not None and turned.attributes["dims"] == LAST:
        y = i.emit("layer_norm2d", [i.live[turned.inputs[0]]], x.rank, attributes, things)
        return i.emit("permute", [y], x.rank, {"dims": LAST})
    image = list(x.value.image)
    rows = len(shape) == 2 and x.rank == 3      # all of a sequence, which is an image of one row here
    x = i.emit("reshape", [x], x.rank, {"image": list(shape)}) if rows else x
    y = i.emit("layer_norm", [x], x.rank, {"normalized_shape": list(shape), **attributes}, things)
    return i.emit("reshape", [y], x.rank, {"image": image}) if rows else y


def local_response_norm(i: Importer, node: NodeView) -> Live:
    """ONNX has one channel less before than after in windows of an even size."""
    size = node.integer("size", 0)
    if size < 1:
        node.refuse("size", size, "from 1")
    attributes = {"size": size, "alpha": node.number("alpha", 1e-4), "beta": node.number("beta", 0.75),
                  "k": node.number("bias", 1.0), "before": (size - 1) // 2}
    x = node.live()
    if x.rank < 3:
        raise Refused(f"its input must have shape (N, C, H, W), got (N, {', '.join(map(str, x.dims))})")
    return i.emit("local_response_norm", [x], x.rank, attributes)
