"""Estimators of scikit-learn: `CNNClassifier` and `CNNRegressor` (docs/sklearn.md). They need the extra `sklearn`."""
from importlib.util import find_spec

if find_spec("sklearn") is None:
    raise ModuleNotFoundError("cnn.sklearn needs the package scikit-learn: pip install 'cnn[sklearn]'", name="sklearn")

from cnn.sklearn.classifier import CNNClassifier
from cnn.sklearn.regressor import CNNRegressor

__all__ = ["CNNClassifier", "CNNRegressor"]
