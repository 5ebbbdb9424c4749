"""What the first step costs beyond the second: writing its program, and memory that nothing has touched yet."""

import itertools

import numpy as np
from processes import run_python

from cnn import BatchNorm2d, Conv2d, Flatten, GlobalAvgPool2d, Linear, ReLU, Sequential
from cnn.engine.program import Program
from cnn.engine.tensors import Copies, Part, Tensor
from cnn.graph.lower import write

SIDE, CHANNELS, IMAGES = 16, 16, 64


def written(layers, dtype=np.float32):
    """A compiled training program of so many convolutions, each with a norm, and its operations' arguments."""
    parts = [Conv2d(3, CHANNELS, 3, padding=1, bias=False)]
    for _ in range(layers):
        parts += [BatchNorm2d(CHANNELS), ReLU(), Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False)]
    model = Sequential(*parts, GlobalAvgPool2d(), Flatten(), Linear(CHANNELS, 10)).to(dtype).train()
    program = Program(dtype, IMAGES, gradients=True)
    (y,), backward = write(program, model.graph((3, SIDE, SIDE)), [program.input(3, SIDE, SIDE)])
    backward([program.like(y)], [False])
    program.compile()
    segments = program._compiled["forward"].phase.segments
    return program, [[(op[0], op[1]()) for op in segment.ops] for segment in segments]


def arrays(values):
    return [array.array for array in {v.root: 0 for v in values.values() if isinstance(v, (Tensor, Part, Copies))}]


def test_each_operation_is_asked_for_its_arguments_once(monkeypatch):
    asked = []

    def counted(method):
        def add(self, kernel, arguments, *tasks):
            calls = []
            asked.append(calls)

            def once():
                calls.append(kernel)
                return arguments()
            method(self, kernel, once, *tasks)
        return add
    with monkeypatch.context() as patch:
        for name in ("add", "before", "after"):
            patch.setattr(Program, name, counted(getattr(Program, name)))
        model = Sequential(Conv2d(3, 16, 3), BatchNorm2d(16), ReLU(), Conv2d(16, 16, 1), Flatten(), Linear(16 * 36, 3))
        program = Program(np.float32, 16, gradients=True)
        (y,), backward = write(program, model.train().graph((3, 8, 8)), [program.input(3, 8, 8)])
        backward([program.like(y)], [False])
        program.compile()
    assert len(asked) > 20 and all(len(calls) == 1 for calls in asked)


def test_a_layer_more_takes_no_more_memory_than_its_activations():
    """A convolution's and a norm's output are kept for the backward pass; scratch, packed weights and the parts of
    gradients are those of the other layers."""
    few, many = (written(layers)[0].nbytes for layers in (3, 9))
    kept = 2 * CHANNELS * (SIDE + 3) * SIDE * IMAGES * 4     # with borders
    assert (many - few) / 6 < 1.1 * kept


def test_arrays_share_memory_only_when_they_are_not_in_use_at_once():
    for dtype in (np.float32, np.float64):
        _, segments = written(3, dtype)
        for _, values in itertools.chain(*segments):
            for a, b in itertools.combinations(arrays(values), 2):
                assert not np.may_share_memory(a, b)
        packed = [values["u"].array for kernel, values in itertools.chain(*segments) if kernel == "winograd"]
        assert len(packed) == 3 and any(np.may_share_memory(a, b) for a, b in itertools.combinations(packed, 2))


def test_what_two_segments_use_is_apart_from_all_else_that_they_use():
    """Packed weights are read by every block, and parts of sums only after the last one."""
    _, segments = written(3)
    for one, two in itertools.pairwise([a for _, values in segment for a in arrays(values)] for segment in segments):
        across = [a for a in one if any(a is b for b in two)]
        assert all(a is b or not np.may_share_memory(a, b) for a in across for b in one + two)


def test_the_first_step_loads_no_module_that_takes_time():
    code = """
import sys, numpy as np
from cnn import Conv2d, Flatten, Linear, Sequential, SGD, Trainer
model = Sequential(Conv2d(1, 4, 3), Flatten(), Linear(144, 3))
Trainer(model, SGD(model.parameters()), progress=False).train_step(np.zeros((4, 1, 8, 8), np.float32), [0, 1, 2, 0])
print("numpy.ma" in sys.modules)
"""
    assert run_python("-c", code).stdout.strip() == "False"
