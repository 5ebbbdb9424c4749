"""Write a saved model in the format of others.

onnx: for ONNX Runtime, OpenVINO, TensorRT and the like (pip install 'cnn[onnx]'). See docs/onnx.md.
html: a web page that classifies what one draws, a picture or what the camera sees. See docs/page.md.
c:    one file in C99 and its header, for a microcontroller or another program. See docs/c.md.
"""
from argparse import RawDescriptionHelpFormatter
from pathlib import Path

import numpy as np

from cnn import export, shapes
from cnn.commands import Parser, command, path, running
from cnn.data import load
from cnn.reports import evaluation
from cnn.streams import say
from cnn.training import checkpoint

MEASURED = 2000     # images that float32 and int8 are compared on


def _shape(description, given):
    """(C, H, W) of the model's images."""
    arguments = description["arguments"]
    shape = arguments.get("in_channels"), arguments.get("image_size"), arguments.get("image_size")
    if None in shape:
        raise ValueError(f"{given.model}: the model's file does not tell the size of its images")
    return shape


def _told(description):
    """What a description tells of the data, as the functions of `export` take it."""
    return {**{name: description.get(name) for name in ("classes", "mean", "std")},
            "pixels": description.get("pixels") or "uint8"}


def _onnx(model, description, out, given):
    export.onnx(model, out, _shape(description, given), opset=given.opset, normalise=given.normalise,
                **_told(description))


def _page(model, description, out, given):
    name, dataset = description["model"], description.get("dataset")
    about = f"{name}, trained on {Path(dataset).name}" if dataset else name
    if "test_accuracy" in description:
        about += f"; {description['test_accuracy']:.1%} of the test images are right"
    examples = load(dataset)[1].images[:12] if dataset == "mnist-sample" else None      # it ships with the package
    export.page(model, out, _shape(description, given), about=about, examples=examples, **_told(description))


def _calibration(description, given):
    """Training images for calibration; a data set to measure on, and what it is."""
    train = evaluation.load_data(description, given.dataset, given.data_dir, "train")
    count = min(shapes.integer("export", "calibration", given.calibration, 1), len(train))
    if not len(train):
        raise ValueError("export: int8 needs training images for calibration, got none")
    chosen = np.arange(count) * len(train) // count     # evenly spread
    rest = np.setdiff1d(np.arange(len(train)), chosen)[:MEASURED]
    measured, what = train.subset(rest), "training images that were not used for calibration"
    if given.split == "test":
        measured, what = evaluation.load_data(description, given.dataset, given.data_dir, "test"), "test images"
        measured = measured.subset(np.arange(min(MEASURED, len(measured))))
    return train.normalise(train.images[chosen]), measured, what


def _say_errors(model, found, measured, what):
    """Each layer's error, and the accuracy in float32 and int8."""
    say("relative error of each layer in int8:")
    for layer, error in found["layers"]:
        say(f"  {error:7.2%}  {layer}")
    if len(measured):
        x = measured.normalise(measured.images)
        right = [np.mean(scores.argmax(1) == measured.labels) for scores in (model(x), found["network"](x))]
        say(f"accuracy on {len(x):,} {what}: {right[0]:.2%} in float32, {right[1]:.2%} in int8")


def _c(model, description, out, given):
    calibration = _calibration(description, given) if given.int8 else None
    found = export.c(model, out, _shape(description, given), calibration=calibration[0] if calibration else None,
                     **_told(description))
    if calibration:
        _say_errors(model, found, *calibration[1:])
    say(f"{found['weights'] / 1000:.1f} kB of weights, {found['memory'] / 1000:.1f} kB of memory")


FORMATS = {"html": _page, "onnx": _onnx, "c": _c}       # of each the function that writes it; its name is the suffix


@command
def main(arguments=None, prog=None):
    p = Parser(prog=prog, description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    p.add_argument("model", type=path, metavar="RUN|MODEL", help="folder of a run, or a model file")
    p.add_argument("--to", choices=FORMATS, required=True, help="the format")
    p.add_argument("--out", type=path, metavar="FILE", help="default: beside the model, with the format as its suffix")
    p.add_argument("--opset", type=int, default=20, metavar="N", help="version of ONNX's operators, from 17; default: "
                   "%(default)s")
    p.add_argument("--normalise", action="store_true", help="let the file take pixels from 0 to 255: mean and standard "
                   "deviation become part of it")
    p.add_argument("--int8", action="store_true", help="c: compute in int8; needs the training images")
    p.add_argument("--calibration", type=int, default=512, metavar="N", help="int8: training images that the ranges of "
                   "values are taken from; default: %(default)s")
    p.add_argument("--dataset", type=path, metavar="NAME|PATH", help="int8: default: the one it was trained on")
    p.add_argument("--data-dir", type=path, metavar="DIR", help="int8: folder to search for the data set first")
    p.add_argument("--split", choices=evaluation.SPLITS, default="train", help="int8: images to compare the accuracy "
                   f"on, at most {MEASURED:,}; default: %(default)s, without those of the calibration")
    given = p.parse_args(arguments)
    if given.int8 and given.to != "c":
        p.error("--int8 goes with --to c only")
    with running(p, None):
        model, description = checkpoint.load_model(given.model)
        model_file = Path(given.model, "model.safetensors") if Path(given.model).is_dir() else Path(given.model)
        out = given.out or model_file.with_suffix(f".{given.to}")
        if Path(out).exists() and Path(out).samefile(model_file):
            raise ValueError(f"--out must not be the model's own file, {model_file}")
        FORMATS[given.to](model, description, out, given)
        say(f"wrote {out}")
