"""Looking at single operations of a program."""
import math

import numpy as np

from cnn._ext import executor
from cnn.engine.compiling import SEGMENT
from cnn.engine.memory import LANES
from cnn.engine.shards import blocks_per_shard
from cnn.engine.tensors import Tensor


def operations(program, phase):
    """What a phase that has been run consists of: a list of dicts with the kernel's name, the shape that
    it works on (a text), the multiply-adds that its formula takes for one image (by the plain sum, for
    Winograd's algorithm too), the bytes of these tensors in sixteen images, and what `run_operation` wants."""
    compiled = program._compiled[phase]
    ops, table = compiled.ops, compiled.table
    written = [op for s in compiled.phase.in_order() for op in s.ops]
    result = []
    for segment in table:
        for i in range(segment["first"], segment["first"] + segment["count"]):
            kernel, arguments, _ = written[i]
            values = arguments()
            tensors = [v for v in values.values() if isinstance(v, Tensor)]
            result.append({"kernel": kernel, "shape": ", ".join("×".join(map(str, t.shape)) for t in tensors),
                           "macs": _macs(kernel, values),
                           "bytes": sum(math.prod(t.shape) * LANES * t.dtype.itemsize for t in tensors),
                           "index": i, "tasks": int(ops[i]["tasks"]) if segment["tasks"] else 0,
                           "phase": phase})
    return result


def run_operation(program, operation, images, /, **arrays):
    """Run one of `operations` alone, on one thread; arrays: as for `run`."""
    segment = np.array([(operation["index"], 1, operation["tasks"])], SEGMENT)
    compiled = program._compiled[operation["phase"]]
    slots = [(places, arrays[name]) for name, places in compiled.slots.items()]
    executor.run(compiled.addresses[0], segment.ctypes.data, 1, images, blocks_per_shard(images), 1, 0, 1, slots)


def _macs(kernel, values):
    """Multiply-adds of an operation on one image."""
    if kernel in ("correlate", "correlate_pool"):
        run = values["run"].astype(np.int64)
        return int((run[:, 1] * run[:, 3] * run[:, 4]).sum()) * values["outputs"] * values.get("groups", 1)
    if kernel == "scatter":
        return math.prod(values[name] for name in ("channels", "outputs", "groups", "taps", "pixels"))
    if kernel == "conv_dw":
        pixels = int(np.diff(values["span"], axis=1).sum())
        return pixels * values["taps"] // values["spans"] * values["outputs"] * values["groups"]
    if kernel == "depthwise_dx":
        return 9 * math.prod(values["dy"].shape)
    if kernel in ("depthwise", "depthwise_dw"):
        return 9 * values["channels"] * values["out_h"] * values["out_w"]
    if kernel in ("conv1x1", "pointwise_dw"):
        return values["outputs"] * values["channels"] * values["height"] * values["width"]
    if kernel == "linear_dw":
        return values["outputs"] * values["inputs"]
    if kernel in ("winograd", "winograd_dx", "winograd_dw"):
        width = values["dx" if kernel == "winograd_dx" else "x"].width
        meets = [sum(0 <= i + r - before < size for i in range(out) for r in range(values["kernel"]))
                 for out, size, before in ((values["out_h"], values["height"], values["top"]),
                                           (values["out_w"], width, values["left"]))]
        return math.prod(meets) * values["channels"] * values["outputs"]
    return 0
