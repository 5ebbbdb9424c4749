"""What is the same for all images: a program's operations on it run once, not for every block."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cnn.engine.phases import Segment
from cnn.engine.program import Program
from cnn.engine.tensors import ONCE, PER_ACTIVE_THREAD, Copies, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from cnn.engine.parameter import Parameter

PARTS = 16      # into how many an operation is cut, at most: threads that share it


class Once(Program):
    """A part of another program, written as if it were a program for one image that has its channels side by side.

    Its operations run one after the other, as tasks: those of the forward pass before all others of that phase, those
    of the backward pass at the end of that of the other program, see Program.pulled. segments: where to add them.
    """

    def __init__(self, program: Program) -> None:
        # not that of Program: all but the arrays of activations and the order of operations is the other's
        self.program, self.dtype, self.kernels = program, program.dtype, program.kernels
        self.images = self.blocks = self.shards = self.per_block = self.steps = self.processes = 1
        self.by_channels, self.keep = True, program.keep
        self.gradients, self.learns = program.gradients, program.learns
        self.threads = self.sharing = program.threads
        self._snapshot = self._packing = None
        self.segments = program.once


    def tensor(self, *size: Any, **options: Any) -> Tensor:
        made = super().tensor(*size, **options)
        made.per = ONCE
        return made

    def copies(self, size: int, per: int, dtype: Any = None) -> Copies:
        return super().copies(size, per if per == PER_ACTIVE_THREAD else ONCE, dtype)

    def overwritable(self, tensor: Tensor) -> Tensor:
        return self.like(tensor)

    def add(self, kernel: str, arguments: Callable[[], dict]) -> None:
        self._task(kernel, arguments, PARTS if self.kernels.find(kernel).splits else 1)

    def first(self, kernel: str, arguments: Callable[[], dict], tasks: int) -> None:
        self._task(kernel, arguments, tasks)

    def before(self, kernel: str, arguments: Callable[[], dict], tasks: int) -> None:
        self._task(kernel, arguments, tasks)

    def _task(self, kernel: str, arguments: Callable[[], dict], tasks: int) -> None:
        segment = Segment(False)
        segment.ops.append((kernel, arguments, tasks))
        self.segments.append(segment)

    def on_run(self, function: Callable[[int], None]) -> None:
        self.program.on_run(function)

    def zeros(self, count: int) -> np.ndarray:
        return self.program.zeros(count)

    def gradient(self, parameter: Parameter | None) -> np.ndarray | None:
        return self.program.gradient(parameter)

    def given(self, array: np.ndarray, size: dict[str, Any]) -> Tensor:
        """A tensor of this size, arguments of `tensor`, with an array's elements."""
        y = self.tensor(**size)
        self.add("pack_channels", lambda: dict(x=array, y=y, size=0, **y.size))
        return y

    def result(self, tensor: Tensor, array: np.ndarray) -> None:
        """Have an array filled with a tensor's elements."""
        self.add("unpack_channels", lambda: dict(x=tensor, y=array, **tensor.size))

    def summed(self, tensor: Tensor, target: np.ndarray) -> None:
        """The sum over all images, of which there is one here."""
        self.result(tensor, target)
