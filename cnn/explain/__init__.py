"""Which parts of an image decide on its class: Grad-CAM, occlusion, saliency.

    found = cnn.explain.grad_cam(model, images)         # also of a Predictor, for pictures
    cnn.plots.save(found.plot(), "why.png")

Each function takes a Module with scores (N, K) or a Predictor, and leaves it as it was: its mode, gradients and running
statistics. They say where a network looks, not whether it is right to.
"""
from cnn.explain.gradients import NoFeatureMap, grad_cam, saliency
from cnn.explain.occluding import occlusion
from cnn.explain.result import Explanation

__all__ = ["Explanation", "NoFeatureMap", "grad_cam", "occlusion", "saliency"]
