"""Classifying files and folders of pictures, and IDX files: what `cnn predict` does."""
import json
import warnings
from collections import Counter
from pathlib import Path

from cnn import shapes, streams
from cnn.data import DataWarning, images, pictures
from cnn.prediction.predictor import load
from cnn.text import printable


def picture_files(paths):
    """The files among `paths`, and the pictures in folders among them (see cnn.data.pictures.find).

    A list of (Path, None), and (Path, reason) for a folder without any, or that can't be read. Other files in the
    folders are counted in a DataWarning.
    """
    result = []
    for path in map(Path, paths):
        if not path.is_dir():
            result.append((path, None))
            continue
        passed_over = Counter()
        try:
            found = [(Path(p), None) for p in pictures.find(path, passed_over)]
        except OSError as error:
            found = [(path, str(error))]
        other = pictures.kinds(passed_over)
        if found and other:
            warnings.warn(DataWarning(f"{path}: passed over {other}"), stacklevel=2)
        result += found or [(path, f"{path}: no picture is in this folder{f', but {other}' if other else ''}")]
    return result


def classify(predictor, paths, top=1):
    """Classify picture and IDX files; yields a dict for each image, as soon as it is done.

    predictor: a Predictor. paths: files and folders. top: how many classes to name. The dict has `image` (str) and
    either `top`, a list of {"class", "probability"} with the most probable first, or `error`, where the file could
    not be read.

    Raises ValueError for `top` and for a model without classes, that was trained on floats, or whose images are no
    squares, and ModuleNotFoundError where Pillow is needed and missing.
    """
    top = shapes.integer("classify", "top", top, 1)
    if predictor.pixels != "uint8":
        raise ValueError(f"the model was trained on images of {predictor.pixels}, those of files are uint8, which is "
                         f"another unit")
    predictor._wanted.check_classes()
    channels, size = predictor.shape[0], predictor._wanted.side
    for path, error in picture_files(paths):
        if error is None:
            try:
                pixels = images.read(path, channels, size)
            except (OSError, ValueError) as reason:
                error = str(reason)
        if error is not None:
            yield {"image": str(path), "error": error}
            continue
        for i, prediction in enumerate(predictor.predict(pixels, top)):
            yield {"image": str(path) if len(pixels) == 1 else f"{path}[{i}]", "top": classes_of(prediction)}


def classes_of(prediction):
    """The classes of a Prediction, the most probable first, as a list that JSON can hold."""
    return [{"class": name, "probability": probability} for name, probability in prediction.top]


def predict(model_path, paths, top=1, invert=False, as_json=False, out=streams.say, complain=streams.say):
    """Classify as `classify` does with a saved model and say it through `out`, line by line or as one JSON list.

    invert: see Predictor. Files that can't be read are named through `complain`. Returns how many there were.
    """
    predictor = load(model_path, invert)
    results, failed = [], 0
    for result in classify(predictor, paths, top):
        results.append(result)
        if "error" in result:
            failed += 1
            complain(result["error"])
        elif not as_json:
            out(printable(f"{result['image']}: ")
                + ", ".join(f"{printable(t['class'])}  {t['probability']:.1%}" for t in result["top"]))
    if as_json:
        out(json.dumps(results, indent=2))
    return failed
