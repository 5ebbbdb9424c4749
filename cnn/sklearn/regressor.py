"""Numbers from images, as an estimator of scikit-learn."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score

from cnn.sklearn.base import Estimator
from cnn.training.rows import RowLoss

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import ArrayLike


class CNNRegressor(RegressorMixin, Estimator):
    """A convolutional network for numbers from images, with the methods of scikit-learn's MLPRegressor.

    It minimises the mean squared error, and takes the parameters of CNNClassifier except class_weight: model,
    image_shape, solver, weight_decay, batch_size, learning_rate, learning_rate_init, max_iter, shuffle, augment,
    random_state, tol, verbose, warm_start, momentum, nesterovs_momentum, early_stopping (by the coefficient of
    determination R²), validation_fraction, beta_1, beta_2, epsilon and n_iter_no_change.

    X: (n, H, W), (n, C, H, W), (n, H, W, C) or (n, features), as for CNNClassifier. y: numbers (n,) or (n, outputs).
    The network learns them shifted and scaled to mean 0 and standard deviation 1, by the first `fit`; `loss_curve_` is
    of these. Attributes as of CNNClassifier, with `n_outputs_` in place of `classes_`.

    Methods raise TypeError or ValueError for parameters, images or numbers that do not fit.
    """

    _numeric = True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Train on images X (n, ...) with numbers y, (n,) or (n, outputs); sample_weight: (n,), of at least 0, how much
        each counts.

        A batch's loss is the mean with these weights; an image of weight 0 is left out. Returns the estimator.
        """
        return self._fit(X, y, sample_weight, partial=False)

    def partial_fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Train for one epoch on images X (n, ...) with numbers y, (n,) or (n, outputs), from where the last call has
        ended; sample_weight: as for `fit`. Returns the estimator. Images and numbers are scaled as in the first call.
        """
        return self._fit(X, y, sample_weight, partial=True)

    def predict(self, X: ArrayLike) -> np.ndarray:
        """The numbers, float64 (n,) or (n, outputs) as y had, for images X (n, ...)."""
        found = self._scores_of(X) * self._y_std + self._y_mean
        return found[:, 0] if self._one else found

    def _checked_y(self, y: Any, first: bool, classes: Any = None) -> np.ndarray:
        y = np.asarray(y, np.float64)
        one, table = y.ndim == 1, y.reshape(len(y), -1)
        if first:
            self.n_outputs_, self._one = table.shape[1], one
            self._y_mean, std = table.mean(0), table.std(0)
            self._y_std = np.where(std > 1e-12 * np.abs(self._y_mean), std, 1.0)
        elif table.shape[1] != self.n_outputs_:
            raise ValueError(f"CNNRegressor: y must have {self.n_outputs_} numbers per image, as in the first call, "
                             f"got {table.shape[1]}")
        return (table - self._y_mean) / self._y_std

    def _outputs(self) -> int:
        return self.n_outputs_

    def _loss(self, targets: np.ndarray, weights: np.ndarray | None) -> tuple[Any, Any]:
        return RowLoss(targets, weights), None

    def _quality(self, scores: np.ndarray, targets: np.ndarray, weights: np.ndarray | None) -> float:
        return float(r2_score(targets, scores, sample_weight=weights))
