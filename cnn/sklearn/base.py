"""What both estimators share: from X and y to a Trainer, and from X to scores."""
from __future__ import annotations

import math
import numbers
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.model_selection import train_test_split
from sklearn.utils import check_array, check_random_state, check_X_y
from sklearn.utils.validation import check_is_fitted, validate_data

from cnn import models, schedules, shapes, streams
from cnn.data import DataLoader, Dataset
from cnn.layers import BatchNorm2d
from cnn.optim import SGD, Adam, AdamW, RMSprop
from cnn.sklearn import inputs
from cnn.sklearn.network import network
from cnn.training import evaluation
from cnn.training.callbacks import Callback
from cnn.training.rows import NumberedImages
from cnn.training.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from cnn.layers import Module
    from cnn.optim import Optimizer

LEAST = 16      # images at once: fewer would be computed in another layout, with other roundings
SOLVERS = "adam", "adamw", "rmsprop", "sgd"


class Estimator(BaseEstimator):
    """What a classifier and a regressor have in common; see CNNClassifier for the parameters."""

    def __init__(self, model: str | Callable[..., Module] = "auto", *, image_shape: tuple[int, ...] | None = None,
                 solver: str = "adam", weight_decay: float = 0.0, batch_size: int | str = "auto",
                 learning_rate: str = "constant", learning_rate_init: float = 0.001, max_iter: int = 20,
                 shuffle: bool = True, augment: Callable[..., np.ndarray] | None = None,
                 random_state: Any = None, tol: float = 1e-4, verbose: bool = False, warm_start: bool = False,
                 momentum: float = 0.9, nesterovs_momentum: bool = True, early_stopping: bool = False,
                 validation_fraction: float = 0.1, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-8,
                 n_iter_no_change: int = 10) -> None:
        self.model = model
        self.image_shape = image_shape
        self.solver = solver
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.augment = augment
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    # ------------------------------------------------------------ what the two differ in

    def _checked_y(self, y: Any, first: bool, classes: Any = None) -> np.ndarray:
        """The targets of y; `first` sets the attributes that later calls must agree with."""
        raise NotImplementedError

    def _outputs(self) -> int:
        """How many outputs the network has."""
        raise NotImplementedError

    def _loss(self, targets: np.ndarray, weights: np.ndarray | None) -> tuple[Any, Any]:
        """The loss, and the labels for a Dataset, or None for `NumberedImages`."""
        raise NotImplementedError

    def _quality(self, scores: np.ndarray, targets: np.ndarray, weights: np.ndarray | None) -> float:
        """What `early_stopping` watches: the more, the better."""
        raise NotImplementedError

    def _strata(self, targets: np.ndarray) -> np.ndarray | None:
        """What the parts of the images that `early_stopping` makes have in equal shares."""
        return None

    # ------------------------------------------------------------ fitting

    def _fit(self, X: Any, y: Any, sample_weight: Any, partial: bool, classes: Any = None) -> Self:
        owner = type(self).__name__
        self._check(owner, partial)
        known = hasattr(self, "model_") and (partial or self.warm_start)
        X, y = self._checked_X(X, y, first=not known)
        targets = self._checked_y(y, not known, classes)
        weights = None if sample_weight is None else self._checked_weights(owner, sample_weight, len(X))
        images = inputs.images_of(X, self.image_shape_, self._channels_last)
        if weights is not None and not weights.all():       # an image of weight 0 is none
            images, targets, weights = images[weights > 0], targets[weights > 0], weights[weights > 0]
        held_out = None
        if not known:
            self._seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        if self.early_stopping:
            images, targets, weights, held_out = self._parted(images, targets, weights)
        if not known:
            self._begin(owner, images)
        if not (partial and known):
            self._forget()
        loss, labels = self._loss(targets, weights)
        data = self._dataset(images, labels)
        batch, steps = self._batches(owner, len(data))
        loader = DataLoader(data, batch, shuffle=bool(self.shuffle), seed=self._seed, transform=self.augment,
                            drop_last=steps * batch < len(data))
        loader.epoch = self._epochs
        epochs = 1 if partial else self.max_iter
        schedule = None
        if self.learning_rate == "cosine" and not partial:
            schedule = schedules.Cosine(self.learning_rate_init, steps * epochs)
        self._optimizer.lr = self.learning_rate_init
        trainer = Trainer(self.model_, self._optimizer, loss, schedule, [_Watch(self, held_out, partial)],
                          progress=False)
        try:
            trainer.fit(loader, epochs)
        except KeyboardInterrupt:
            warnings.warn(f"{owner}: training was interrupted after {self.n_iter_} epochs", stacklevel=3)
        self._epochs = loader.epoch
        self.t_ += trainer.step * batch
        return self

    def _check(self, owner: str, partial: bool) -> None:
        """Refuse parameters that are no good."""
        shapes.integer(owner, "max_iter", self.max_iter, 1)
        shapes.integer(owner, "n_iter_no_change", self.n_iter_no_change, 1)
        shapes.number(owner, "learning_rate_init", self.learning_rate_init, above=0)
        if self.solver not in SOLVERS:
            raise ValueError(f"{owner}: solver must be {', '.join(map(repr, SOLVERS))}, got {self.solver!r}")
        if self.learning_rate not in ("constant", "cosine"):
            raise ValueError(f"{owner}: learning_rate must be 'constant' or 'cosine', got {self.learning_rate!r}")
        if self.batch_size != "auto":
            shapes.integer(owner, "batch_size", self.batch_size, 1)
        if self.early_stopping:
            if partial:
                raise ValueError(f"{owner}: partial_fit does not support early_stopping=True")
            fraction = shapes.number(owner, "validation_fraction", self.validation_fraction, above=0)
            if fraction >= 1:
                raise ValueError(f"{owner}: validation_fraction must be below 1, got {fraction}")
        if not isinstance(self.tol, numbers.Real):
            raise TypeError(f"{owner}: tol must be a number, got {self.tol!r}")

    def _checked_X(self, X: Any, y: Any, first: bool) -> Any:
        """X as an array that is checked, and y, unless that is "no_validation"; `first` sets what there is to know."""
        owner, with_y = type(self).__name__, not isinstance(y, str)
        options: dict[str, Any] = {"allow_nd": True, "dtype": "numeric"}
        if with_y:
            options.update(multi_output=True, y_numeric=self._numeric)
        several = (X.ndim if hasattr(X, "ndim") else np.asarray(X).ndim) > 2
        if several and not first:       # validate_data takes the second axis for that of features
            X, y = check_X_y(X, y, **options) if with_y else (check_array(X, **options), y)
        elif with_y:
            X, y = validate_data(self, X, y, reset=first, **options)
        else:
            X = validate_data(self, X, reset=first, **options)
        if first:
            self.image_shape_, self._channels_last = inputs.shape_of(owner, X, self.image_shape)
            self.n_features_in_ = math.prod(self.image_shape_)
        inputs.check_shape(owner, X, self.image_shape_, self._channels_last)
        return (X, y) if with_y else X

    _numeric = False        # whether y must hold numbers
    _epochs: int            # of all calls, for the order of the images
    t_: int

    def _checked_weights(self, owner: str, sample_weight: Any, count: int) -> np.ndarray:
        """Weights of images, float64 (count,)."""
        weights = check_array(sample_weight, ensure_2d=False, dtype=np.float64, input_name="sample_weight")
        if weights.shape != (count,):
            raise ValueError(f"{owner}: sample_weight must have shape ({count},), one per image, got {weights.shape}")
        if weights.min() < 0 or not weights.any():
            raise ValueError(f"{owner}: sample_weight must be at least 0, and above 0 for one image, got "
                             f"{'negative weights' if weights.any() else 'zeros'}")
        return weights

    def _parted(self, images: np.ndarray, targets: np.ndarray, weights: np.ndarray | None) -> tuple:
        """The images to learn from, and those that are held out."""
        learnt, held = train_test_split(np.arange(len(images)), test_size=self.validation_fraction,
                                        random_state=self._seed, stratify=self._strata(targets))
        if len(held) < 2:
            raise ValueError(f"{type(self).__name__}: validation_fraction must hold out 2 images at least, got "
                             f"{self.validation_fraction} of {len(images)}")
        learnt.sort()
        shares = (None, None) if weights is None else (weights[learnt], weights[held])
        return images[learnt], targets[learnt], shares[0], (images[held], targets[held], shares[1])

    def _begin(self, owner: str, images: np.ndarray) -> None:
        """A new network and optimizer."""
        self._mean, self._std = inputs.moments(images)
        self.model_ = network(owner, self.model, self.image_shape_, self._outputs(), self._seed)
        if isinstance(self.model, str) and self.model in models.WHITENED:
            models.whiten(self.model_, self._dataset(images[:5000]).normalise(images[:5000]))
        self._optimizer = self._made_optimizer()
        self._epochs, self.t_ = 0, 0

    def _forget(self) -> None:
        """No epoch of this `fit` is over yet."""
        self.n_iter_, self._no_better = 0, 0
        self.loss_curve_: list[float] = []
        self.best_loss_: Any = None if self.early_stopping else math.inf
        self.validation_scores_: Any = [] if self.early_stopping else None
        self.best_validation_score_: Any = -math.inf if self.early_stopping else None

    def _made_optimizer(self) -> Optimizer:
        params, rate, decay = self.model_.parameters(), self.learning_rate_init, self.weight_decay
        if self.solver == "sgd":
            return SGD(params, rate, self.momentum, weight_decay=decay,
                       nesterov=bool(self.nesterovs_momentum and self.momentum))
        if self.solver == "rmsprop":
            return RMSprop(params, rate, eps=self.epsilon, weight_decay=decay)
        kind = Adam if self.solver == "adam" else AdamW
        return kind(params, rate, (self.beta_1, self.beta_2), self.epsilon, decay)

    def _dataset(self, images: np.ndarray, labels: np.ndarray | None = None) -> Dataset:
        """A Dataset with the normalisation of the images of the first `fit`; without labels one of rows."""
        white = 255 if images.dtype == np.uint8 else 1
        mean, std = self._mean / white, self._std / white
        if labels is None:
            return NumberedImages(images, mean, std)
        return Dataset(images, labels, map(str, range(self._outputs())), mean, std)

    def _batches(self, owner: str, count: int) -> tuple[int, int]:
        """The batch size, and how many batches an epoch has."""
        size = self.batch_size
        if size == "auto":
            size = min(64, max(16, count // 256 * 16))
        size = min(int(size), count)
        alone = count % size == 1 and any(isinstance(module, BatchNorm2d) for module in self.model_.modules())
        return size, count // size if alone else -(-count // size)

    # ------------------------------------------------------------ an epoch

    def _after_epoch(self, trainer: Trainer, held_out: tuple | None, partial: bool) -> bool:
        """Note an epoch's results; returns whether it is the best so far. Asks the trainer to stop where nothing has
        improved by `tol` for `n_iter_no_change` epochs."""
        loss = float(trainer.history[-1]["train_loss"])
        self.n_iter_ += 1
        self.loss_curve_.append(loss)
        self.loss_ = loss
        said = f"Iteration {self.n_iter_}, loss = {loss:.8f}"
        if held_out is None:
            better, enough = loss < self.best_loss_, loss <= self.best_loss_ - self.tol
            self.best_loss_ = min(loss, self.best_loss_)
        else:
            images, targets, weights = held_out
            found = self._quality(self._scores(images), targets, weights)
            self.validation_scores_.append(found)
            better, enough = found > self.best_validation_score_, found >= self.best_validation_score_ + self.tol
            self.best_validation_score_ = max(found, self.best_validation_score_)
            said += f", validation score = {found:.6f}"
        if self.verbose:
            streams.say(said)
        self._no_better = 0 if enough else self._no_better + 1
        if self._no_better > self.n_iter_no_change and not partial:
            trainer.stop = f"nothing has improved by tol={self.tol} for {self.n_iter_no_change} epochs"
        return better

    # ------------------------------------------------------------ predicting

    def _scores(self, images: np.ndarray) -> np.ndarray:
        """What the network gives for images (n, C, H, W), float64 (n, outputs); the same for any n."""
        count = len(images)
        if count < LEAST:
            images = np.concatenate([images, np.repeat(images[-1:], LEAST - count, 0)])
        data = self._dataset(images, np.zeros(len(images), np.int64))
        return evaluation.predict(self.model_, data, None)[:count].astype(np.float64)

    def _scores_of(self, X: Any) -> np.ndarray:
        """`_scores` of X as a user gives it."""
        check_is_fitted(self, "model_")
        X = self._checked_X(X, "no_validation", first=False)
        return self._scores(inputs.images_of(X, self.image_shape_, self._channels_last))

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "model_")


class _Watch(Callback):
    """Tells the estimator of each epoch; with images held out, the model ends with its best weights."""

    every_step = False

    def __init__(self, estimator: Estimator, held_out: tuple | None, partial: bool) -> None:
        self.estimator, self.held_out, self.partial = estimator, held_out, partial
        self.best: dict[str, np.ndarray] | None = None

    def on_epoch_end(self, trainer: Trainer) -> None:
        better = self.estimator._after_epoch(trainer, self.held_out, self.partial)
        if better and self.held_out is not None:
            self.best = {name: array.copy() for name, array in trainer.model.state_dict().items()}

    def on_fit_end(self, trainer: Trainer) -> None:
        if self.best is not None:
            trainer.model.load_state_dict(self.best)
