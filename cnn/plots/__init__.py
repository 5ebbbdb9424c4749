"""Pictures of a run: curves, confusion matrix, worst mistakes, filters, feature maps, learning rates, heat maps.

Every function takes plain arrays (or a History, or a layer) and returns a matplotlib Figure, made without pyplot: no
window opens, and a notebook shows it once, as the value of its cell. `png` and `save` turn it into a file. The colours
are those of Okabe and Ito and of viridis: they stay apart for colour-blind eyes and printed in grey, and lines that
share a picture differ in dashes and marks too. Class names may hold anything; they are drawn as they are, cut where
long.

Needs matplotlib: every function raises ModuleNotFoundError naming the extra where it is missing.
"""
from cnn.plots.confusion import confusion_matrix
from cnn.plots.curves import curve, curves, learning_rate, lr_finder
from cnn.plots.files import png, save
from cnn.plots.heat import heat_maps, overlay
from cnn.plots.images import feature_map, feature_maps, filters, grid, mistakes, show_images
from cnn.plots.style import WIDTH, require

__all__ = ["WIDTH", "confusion_matrix", "curve", "curves", "feature_map", "feature_maps", "filters", "grid",
           "heat_maps", "learning_rate", "lr_finder", "mistakes", "overlay", "png", "require", "save", "show_images"]
