"""Classes of images, as an estimator of scikit-learn."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

from cnn.layers.losses import CrossEntropyLoss
from cnn.reference import softmax
from cnn.sklearn.base import Estimator
from cnn.training.rows import RowLoss

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from numpy.typing import ArrayLike

    from cnn.layers import Module


class CNNClassifier(ClassifierMixin, Estimator):
    """A convolutional network for classes of images, with the methods of scikit-learn's MLPClassifier.

        >>> from cnn.sklearn import CNNClassifier
        >>> train, test = cnn.data.load("mnist-sample")
        >>> classifier = CNNClassifier(max_iter=5, random_state=0).fit(train.images, train.labels)
        >>> classifier.score(test.images, test.labels) > 0.9
        True

    model: "auto", a small network for images of any size; a name of cnn.models.MODELS, for square images; or a function
        `f(in_channels, num_classes, image_size, seed=...)` that makes a Module with scores (N, num_classes), where
        image_size is (H, W), or an int if both are the same.
    image_shape: what a row of features, X of shape (n, features), is: (H, W), (C, H, W), or (H, W, C) with C 1, 3 or
        4. None: a square, if there is one of so many pixels, else one row. Of X with more axes, which of them are
        channels, where the shape does not tell.
    class_weight: a weight for each label, as a dict, "balanced" for weights that make up for how often a label is
        there, or None.
    solver: "adam", "adamw", "rmsprop" or "sgd". weight_decay: a number of at least 0 (see cnn.Adam).
    batch_size: images per step. "auto": a sixteenth of them, in multiples of 16, from 16 to 64.
    learning_rate: "constant", or "cosine", which falls to 0 by the end. learning_rate_init: the rate, above 0.
    max_iter: epochs at most. shuffle: whether each epoch has another order.
    augment: changes images before each step, see cnn.data.transforms; or None.
    random_state: int, RandomState or None: of the first weights, the order and the images held out. The same int gives
        the same bits, on any number of threads.
    tol, n_iter_no_change: stop once nothing has improved by `tol` for more than `n_iter_no_change` epochs.
    verbose: whether to print a line for each epoch. warm_start: whether `fit` goes on from the last one.
    momentum, nesterovs_momentum: of "sgd". beta_1, beta_2, epsilon: of "adam" and "adamw"; epsilon also of "rmsprop".
    early_stopping: whether to hold out `validation_fraction` of the images, watch the accuracy there instead of the
        loss, and end with the best weights.

    X: (n, H, W), (n, C, H, W), (n, H, W, C) or (n, features), of numbers; uint8 takes a quarter of the memory. It is
    normalised to mean 0 and standard deviation 1 of each channel, by the first `fit`.
    y: (n,), labels of any kind.

    Attributes: `classes_`, the labels (K,); `model_`, the Module; `image_shape_`, (C, H, W); `n_features_in_`, their
    product; `n_iter_`, epochs of the last fit; `loss_curve_`, the mean loss of each; `loss_`, `best_loss_`,
    `validation_scores_`, `best_validation_score_` and `t_`, as MLPClassifier has them.

    Methods raise TypeError or ValueError for parameters, images or labels that do not fit.
    """

    def __init__(self, model: str | Callable[..., Module] = "auto", *, image_shape: tuple[int, ...] | None = None,
                 class_weight: dict | str | None = None, solver: str = "adam", weight_decay: float = 0.0,
                 batch_size: int | str = "auto", learning_rate: str = "constant", learning_rate_init: float = 0.001,
                 max_iter: int = 20, shuffle: bool = True, augment: Callable[..., np.ndarray] | None = None,
                 random_state: Any = None, tol: float = 1e-4, verbose: bool = False, warm_start: bool = False,
                 momentum: float = 0.9, nesterovs_momentum: bool = True, early_stopping: bool = False,
                 validation_fraction: float = 0.1, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-8,
                 n_iter_no_change: int = 10) -> None:
        super().__init__(
            model, image_shape=image_shape, solver=solver, weight_decay=weight_decay, batch_size=batch_size,
            learning_rate=learning_rate, learning_rate_init=learning_rate_init, max_iter=max_iter, shuffle=shuffle,
            augment=augment, random_state=random_state, tol=tol, verbose=verbose, warm_start=warm_start,
            momentum=momentum, nesterovs_momentum=nesterovs_momentum, early_stopping=early_stopping,
            validation_fraction=validation_fraction, beta_1=beta_1, beta_2=beta_2, epsilon=epsilon,
            n_iter_no_change=n_iter_no_change)
        self.class_weight = class_weight

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Train on images X (n, ...) with labels y (n,); sample_weight: (n,), of at least 0, how much each counts.

        A batch's loss is the mean with these weights; an image of weight 0 is left out. Returns the estimator.
        """
        return self._fit(X, y, sample_weight, partial=False)

    def partial_fit(self, X: ArrayLike, y: ArrayLike, classes: ArrayLike | None = None,
                    sample_weight: ArrayLike | None = None) -> Self:
        """Train for one epoch on images X (n, ...) with labels y (n,), from where the last call has ended.

        classes: all labels, in the first call; sample_weight: as for `fit`. Returns the estimator. The images are
        normalised as those of the first call. Raises ValueError without classes, and for class_weight="balanced".
        """
        if isinstance(self.class_weight, str):
            raise ValueError(f"CNNClassifier: partial_fit needs class_weight as a dict or None, got "
                             f"{self.class_weight!r}: sklearn.utils.class_weight.compute_class_weight makes one")
        if classes is None and not hasattr(self, "classes_"):
            raise ValueError("CNNClassifier: the first call to partial_fit needs classes, all labels")
        return self._fit(X, y, sample_weight, partial=True, classes=classes)

    def predict(self, X: ArrayLike) -> np.ndarray:
        """The most probable label (n,) of each image of X (n, ...)."""
        scores = self._scores_of(X)
        return self.classes_[scores.argmax(1)]

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """The probability of each label of `classes_`, float64 (n, K), for images X (n, ...)."""
        return softmax(self._scores_of(X))

    def predict_log_proba(self, X: ArrayLike) -> np.ndarray:
        """The logarithms of `predict_proba`, float64 (n, K), for images X (n, ...)."""
        scores = self._scores_of(X)
        scores -= scores.max(1, keepdims=True)
        return scores - np.log(np.exp(scores).sum(1, keepdims=True))

    def _checked_y(self, y: Any, first: bool, classes: Any = None) -> np.ndarray:
        y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        found = np.unique(y)
        if first:
            self.classes_ = found if classes is None else np.unique(np.asarray(classes))
        elif classes is not None and not np.array_equal(self.classes_, np.unique(np.asarray(classes))):
            raise ValueError(f"CNNClassifier: classes must be those of the first call, {self.classes_}, got {classes}")
        unknown = np.setdiff1d(found, self.classes_)
        if len(unknown):
            raise ValueError(f"CNNClassifier: y must hold labels of classes_, {self.classes_}, got {unknown}")
        return np.searchsorted(self.classes_, y)

    def _outputs(self) -> int:
        return len(self.classes_)

    def _loss(self, targets: np.ndarray, weights: np.ndarray | None) -> tuple[Any, Any]:
        by_class = None
        if self.class_weight is not None:
            there = np.unique(targets)      # a label that is not there has no frequency
            by_class = np.ones(len(self.classes_))
            given = self.class_weight
            if isinstance(given, dict):
                unknown = [label for label in given if label not in self.classes_]
                if unknown:
                    raise ValueError(f"CNNClassifier: class_weight must be of labels of y, got {unknown}")
                given = {label: weight for label, weight in given.items() if label in self.classes_[there]}
            by_class[there] = compute_class_weight(given, classes=self.classes_[there], y=self.classes_[targets])
        if weights is None:
            return CrossEntropyLoss(weight=by_class), targets
        return RowLoss(targets, weights if by_class is None else weights * by_class[targets]), None

    def _quality(self, scores: np.ndarray, targets: np.ndarray, weights: np.ndarray | None) -> float:
        return float(accuracy_score(targets, scores.argmax(1), sample_weight=weights))

    def _strata(self, targets: np.ndarray) -> np.ndarray | None:
        return targets
