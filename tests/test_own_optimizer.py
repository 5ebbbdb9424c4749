"""Optimizers that are classes of a user's own, as docs/optimizers.md says what they need."""

import numpy as np
import pytest
from cnn.callbacks import Checkpoint

import cnn


class Momentum:
    """v = 0.9 v + g, w -= lr v; as little as a trainer needs."""

    def __init__(self, params, lr):
        self.own, self.lr = list(params), lr
        self.velocity = [np.zeros_like(p.data) for p in self.own]

    def step(self):
        for p, v in zip(self.own, self.velocity, strict=True):
            if p.requires_grad:
                v[...] = 0.9 * v + p.grad
                p.data -= self.lr * v


class Saved(Momentum):
    """With all that a trainer can use."""

    def __init__(self, params, lr):
        super().__init__(params, lr)
        self.params, self.steps = self.own, 0

    def step(self):
        super().step()
        self.steps += 1

    def state_dict(self):
        return {"lr": self.lr, "steps": self.steps, **{str(i): v.copy() for i, v in enumerate(self.velocity)}}

    def load_state_dict(self, state):
        self.lr, self.steps = state["lr"], state["steps"]
        for i, v in enumerate(self.velocity):
            v[...] = state[str(i)]


@pytest.fixture(scope="module")
def digits():
    train, test = cnn.data.load("mnist-sample")
    return train.subset(slice(200)), test.subset(slice(100))


def trainer_of(optimizer, backend="kernels", callbacks=()):
    model = cnn.Sequential(cnn.Conv2d(1, 4, 5, stride=2, seed=0), cnn.BatchNorm2d(4), cnn.ReLU(), cnn.Dropout(0.2),
                           cnn.Flatten(), cnn.Linear(576, 10, seed=1)).to(np.float64)
    model[0].freeze()
    return cnn.Trainer(model, optimizer(model.parameters()), schedule=lambda step: 0.1 / (1 + step), max_grad_norm=0.5,
                       progress=False, backend=backend, callbacks=callbacks)


@pytest.mark.parametrize("backend", ["kernels", "reference"])
@pytest.mark.parametrize("kind", [Momentum, Saved])
def test_it_trains_as_the_one_in_the_kernels(digits, kind, backend):
    wanted = trainer_of(lambda params: cnn.SGD(params, lr=0.1, momentum=0.9))
    got = trainer_of(lambda params: kind(params, 0.1), backend)
    for trainer in (got, wanted):
        trainer.fit(digits[0], 2, batch_size=32, validation=digits[1])
    for column in ("lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy"):
        np.testing.assert_allclose(got.history.column(column), wanted.history.column(column), rtol=1e-9)
    assert got.history[-1]["train_loss"] < got.history[0]["train_loss"] - 0.2
    for name, array in wanted.model.state_dict().items():
        np.testing.assert_allclose(got.model.state_dict()[name], array, rtol=0, atol=1e-9)


def test_its_state_is_in_checkpoints(digits, tmp_path):
    def made(callbacks=()):
        return trainer_of(lambda params: Saved(params, 0.1), callbacks=callbacks)

    whole, first, second = made(), made([Checkpoint(tmp_path, every=5)]), made()
    whole.fit(digits[0], 2, batch_size=32)
    first.fit(digits[0], 1, batch_size=32)
    cnn.checkpoint.resume(tmp_path, second)
    assert second.optimizer.steps == 7
    second.fit(digits[0], 2, batch_size=32)
    assert second.optimizer.steps == whole.optimizer.steps == 14
    for name, array in whole.model.state_dict().items():
        assert second.model.state_dict()[name].tobytes() == array.tobytes(), name


def test_parameters_of_another_model_are_refused():
    with pytest.raises(ValueError, match="the optimizer must update parameters of the model"):
        cnn.Trainer(cnn.Linear(2, 3), Saved(cnn.Linear(2, 3).parameters(), 0.1))
