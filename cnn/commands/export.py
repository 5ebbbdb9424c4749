"""Write a saved model in the format of others.

onnx: for ONNX Runtime, OpenVINO, TensorRT and the like (pip install 'cnn[onnx]'). See docs/onnx.md.
html: a web page that classifies what one draws, a picture or what the camera sees. See docs/page.md.
"""
from argparse import RawDescriptionHelpFormatter
from pathlib import Path

from cnn import export
from cnn.commands import Parser, command, path, running
from cnn.data import load
from cnn.streams import say
from cnn.training import checkpoint


def _shape(description, given):
    """Of one image."""
    arguments = description["arguments"]
    shape = arguments.get("in_channels"), arguments.get("image_size"), arguments.get("image_size")
    if None in shape:
        raise ValueError(f"{given.model}: the model's file does not tell the size of its images")
    return shape


def _onnx(model, description, out, given):
    export.onnx(model, out, _shape(description, given), opset=given.opset, classes=description.get("classes"),
                mean=description.get("mean"), std=description.get("std"), pixels=description.get("pixels") or "uint8",
                normalise=given.normalise)


def _page(model, description, out, given):
    name, dataset = description["model"], description.get("dataset")
    about = f"{name}, trained on {Path(dataset).name}" if dataset else name
    if "test_accuracy" in description:
        about += f"; {description['test_accuracy']:.1%} of the test images are right"
    examples = load(dataset)[1].images[:12] if dataset == "mnist-sample" else None      # it ships with the package
    export.page(model, out, _shape(description, given), classes=description.get("classes"),
                mean=description.get("mean"), std=description.get("std"), about=about, examples=examples)


FORMATS = {"html": _page, "onnx": _onnx}       # of each the function that writes it; its name is the suffix of the file


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
    given = p.parse_args(arguments)
    with running(p, None):
        model, description = checkpoint.load_model(given.model)
        model_file = Path(given.model, "model.safetensors") if Path(given.model).is_dir() else Path(given.model)
        out = given.out or model_file.with_suffix(f".{given.to}")
        FORMATS[given.to](model, description, out, given)
        say(f"wrote {out}")
