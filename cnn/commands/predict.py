"""Classify PNG pictures, or the images of an IDX file, with a model that train.py saved."""
import argparse

import numpy as np

from cnn import checkpoint, data, images, threads
from cnn.reference import softmax
from cnn.trainer import Trainer


def parser(prog=None):
    p = argparse.ArgumentParser(prog=prog, description=__doc__)
    p.add_argument("model", metavar="MODEL", help="model.safetensors, or the folder of a run")
    p.add_argument("images", metavar="IMAGE", nargs="+", help="PNG (or other picture) or IDX file")
    p.add_argument("--invert", action="store_true", help="for dark digits on light paper")
    p.add_argument("--threads", type=int, metavar="N", help="default: all cores this process may use")
    return p


def main(arguments=None, prog=None):
    p = parser(prog)
    given = p.parse_args(arguments)
    try:
        if given.threads is not None:
            threads.set_num_threads(given.threads)
        model, description = checkpoint.load_model(given.model)
        wants = description["arguments"]
        predictor = Trainer(model, None, progress=False)
        for path in given.images:
            pixels = images.read(path, wants["in_channels"], wants["image_size"], given.invert)
            batch = data.Dataset(pixels, np.zeros(len(pixels), np.int64), description["classes"],
                                 description["mean"], description["std"])
            for i, p_class in enumerate(softmax(predictor.predict(batch))):
                name = path if len(pixels) == 1 else f"{path}[{i}]"
                best = int(p_class.argmax())
                print(f"{name}: {description['classes'][best]}  {p_class[best]:.1%}")
    except (OSError, ValueError, TypeError, ImportError) as error:
        p.exit(1, f"{p.prog}: {error}\n")
    except KeyboardInterrupt:
        p.exit(130, "\n")
