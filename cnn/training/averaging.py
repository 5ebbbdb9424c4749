"""Averages of a model's weights over its training steps, kept beside the model."""
from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import numpy as np

from cnn import shapes
from cnn.engine import backend
from cnn.engine.program import Program
from cnn.engine.programs import Pool, Use, circumstances, guards
from cnn.layers.module import Module
from cnn.training.callbacks import Callback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from typing import Any

    from cnn.training.trainer import Trainer


class EMA(Callback):
    """Exponential moving average of weights: average = decay * average + (1 - decay) * weights.

        ema = EMA(model, decay=0.999)
        trainer = Trainer(model, optimizer, callbacks=[ema])
        trainer.fit(train, epochs=5)
        with ema.applied():
            trainer.evaluate(test)

    As in Tarvainen & Valpola 2017. Buffers (running statistics) are averaged like weights. The average starts as what
    the model holds now. It goes on in a second `fit`, unless something else has changed the weights since the first:
    then it starts anew. In a loop of your own call `update` after each step.

    model: a Layer with parameters. decay: of one update, a number in [0, 1] or a function of the
    number of steps made, from 1. every: steps from one update to the next. warmup: have update number t, from
    0, use at most (1 + t) / (10 + t), which soon forgets the weights it started from (TensorFlow's rule).
    apply: have `fit` measure validation with the average, EarlyStopping and BestCheckpoint keep it, and the model
    hold it after `fit`; the callback must then come before these.

    Raises TypeError or ValueError for arguments that do not fit.
    """

    copy_back = False       # whether the model goes on from the average

    def __init__(self, model: Module, decay: float | Callable[[int], float] = 0.999, every: int = 1,
                 warmup: bool = True, apply: bool = False) -> None:
        name = type(self).__name__
        shapes.instance(name, "model", model, Module)
        self.model = model
        self.decay = decay if callable(decay) else shapes.number(name, "decay", decay, 0, 1)
        self.every = shapes.integer(name, "every", every, 1)
        self.warmup, self.apply = shapes.flag(name, "warmup", warmup), shapes.flag(name, "apply", apply)
        self._steps = np.zeros(1, np.int64)
        self._average = {key: array.copy() for key, array in self._arrays().items()}
        self._now = np.zeros(1)
        self._programs = Pool()
        self._known: bytes | None = self._digest()      # of the model's arrays when `fit` ended; None: any will do

    @property
    def steps(self) -> int:
        """Steps counted so far (int)."""
        return int(self._steps[0])

    def on_fit_start(self, trainer: Trainer) -> None:
        own = set(map(id, trainer.model.parameters()))
        if not all(id(p) in own for p in self.model.parameters()):
            raise ValueError(f"{type(self).__name__}: model must be the trainer's, or a part of it, got another one")
        if not trainer.resumes(self) and self._known not in (None, self._digest()):
            self._average = {key: array.copy() for key, array in self._arrays().items()}
            self._programs.clear()      # they know the arrays from before
            self._steps[0] = 0

    def on_step_end(self, trainer: Trainer) -> None:
        self.update()

    def on_fit_end(self, trainer: Trainer) -> None:
        if self.apply:
            self._copy_in(self._average)
        self._known = self._digest()

    def measuring(self) -> AbstractContextManager[None]:
        return self.applied() if self.apply else nullcontext()

    def update(self) -> None:
        """Count a step, and average if it is time to."""
        self._known = None
        name, steps = type(self).__name__, self.steps + 1
        if steps % self.every:
            self._steps[0] = steps
            return
        decay = shapes.number(name, "decay", self.decay(steps), 0, 1) if callable(self.decay) else self.decay
        if self.warmup:
            updates = steps // self.every - 1
            decay = min(decay, (1 + updates) / (10 + updates))
        self._now[0] = decay
        use = Use(name)
        try:
            use.take(guards(self.model.parameters()), alone=True)
            if backend.by_twins():
                self._average_by_twin(decay)
            else:
                self._programs.run((self.model.made_of(), circumstances()), self._written)
        finally:
            use.leave()

    def _average_by_twin(self, decay: float) -> None:
        from cnn import reference  # here, because most programs do without
        self._steps[0] += 1
        for key, array in self._arrays().items():
            reference.average_update(self._average[key], array, decay, self.copy_back)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model holds the averages meanwhile, in the same arrays, and what it held before afterwards; other threads
        cannot use it."""
        use = Use(type(self).__name__, whole=True)
        try:
            use.take(guards(self.model.parameters()), alone=True)
            before = {key: array.copy() for key, array in self._arrays().items()}
            try:
                self._copy_in(self._average)
                yield
            finally:
                self._copy_in(before)
        finally:
            use.leave()

    def _copy_in(self, values: dict[str, np.ndarray]) -> None:
        for key, array in self._arrays().items():
            array[...] = values[key]

    def _digest(self) -> bytes:
        """A hash of the model's arrays."""
        import hashlib  # here, to keep "import cnn" fast

        result = hashlib.blake2b(digest_size=16)
        for array in self._arrays().values():
            result.update(np.ascontiguousarray(array).data)
        return result.digest()

    def _arrays(self) -> dict[str, np.ndarray]:
        """All that is averaged, by name: the model's own arrays of floats."""
        arrays = {key: p.data for key, p in self.model.named_parameters()}
        arrays.update((key, array) for key, array in self.model.named_buffers() if array.dtype.kind == "f")
        kinds = {str(array.dtype) for array in arrays.values()}
        if len(kinds) != 1:
            raise ValueError(f"{type(self).__name__}: model must have parameters and buffers of one dtype, got "
                             f"{', '.join(sorted(kinds)) or 'none'}")
        return arrays

    def _written(self) -> Program:
        """The program of an update, a single pass over all arrays."""
        program, now, copy_back = Program(self.model.dtype, 1), self._now, self.copy_back
        program.count(self._steps)
        for key, array in self._arrays().items():
            self._average[key] = slow = self._average[key].astype(array.dtype, copy=False)
            program.before("average", lambda array=array, slow=slow: dict(
                slow=slow, w=array, decay=now, count=array.size, copy_back=copy_back),
                program.kernels.pack.chunks(array.size))
        program.compile()
        return program

    def state_dict(self) -> dict[str, Any]:
        """The number of "steps" (int), and by name, after "average.", a copy of every average."""
        return {"steps": self.steps, **{f"average.{key}": array.copy() for key, array in self._average.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned.

        Raises TypeError or ValueError, before anything is changed, where that is not of such a model.
        """
        owner, wanted = f"{type(self).__name__}.load_state_dict", {f"average.{key}" for key in self._average}
        if not isinstance(state, Mapping):
            raise TypeError(f"{owner}: state must be a dict, got {type(state).__name__}")
        if set(state) != {"steps", *wanted}:
            raise ValueError(f"{owner}: state has missing names {sorted({'steps', *wanted} - set(state))} and unknown "
                             f"names {sorted(set(state) - {'steps', *wanted})}")
        steps = shapes.integer(owner, "steps", state["steps"])
        values = {key: shapes.array(owner, f"average.{key}", state[f"average.{key}"], array.shape)
                  for key, array in self._average.items()}
        for key, array in self._average.items():
            array[...] = values[key]
        self._steps[0], self._known = steps, None


class Lookahead(EMA):
    """Every `every` steps the average moves towards the weights, and the weights go on from there.

    Zhang et al. 2019; their alpha is 1 - decay. Arguments as for EMA. After `fit` the model holds the average.
    """

    copy_back = True

    def __init__(self, model: Module, decay: float = 0.5, every: int = 5) -> None:
        super().__init__(model, decay, every, warmup=False)

    def on_fit_end(self, trainer: Trainer) -> None:
        self._copy_in(self._average)
        self._known = self._digest()
