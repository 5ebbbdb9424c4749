"""From pictures to labels: saved models at work, in Python and as a server."""

from .predictor import Prediction, Predictor, load

__all__ = ["Prediction", "Predictor", "load"]
