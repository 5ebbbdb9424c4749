"""Networks of one's own in files, without the code that made them."""
from __future__ import annotations

from typing import TYPE_CHECKING

from cnn import shapes
from cnn.data import Dataset
from cnn.layers.described import describe
from cnn.layers.module import Module
from cnn.layers.parts import in_evaluation, input_names
from cnn.layers.running import graph_of, seen_shapes
from cnn.training import checkpoint

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from typing import Any


def save(model: Module, path: str | os.PathLike,
         data: Dataset | Sequence[int] | Sequence[Sequence[int]] | None = None, tta: str | None = None) -> None:
    """Write a network, its operations and its weights, to a .safetensors file, whole or not at all.

        cnn.save(model, "net.safetensors", train)
        cnn.load("net.safetensors").predict("digit.png")        # or, to train on, .model

    The file holds no code: `cnn.load` and `cnn.load_model` need no class of yours, and run nothing that is in it. They
    return a GraphModule, which has the same names of inputs, parameters and buffers, predicts and trains on to the same
    bits.

    model: any Module whose layers are not written in NumPy. path: the file. data: the Dataset that the model was
    trained on, whose image shape, classes, mean, std and dtype the file then records, for `cnn.load` and
    `cnn evaluate`; inputs besides the images are those of its labels that have their names. Or the shape of one image,
    (C, H, W), (C, L), (features,) or () of numbers, or a list, one for each input: then `cnn.load_model` reads the
    file, which returns the model and its description, and `cnn.load` predicts from images (N, C, H, W) as the model
    takes them. Default: the shape of the images that the model was called with, or trained on, if it has been and they
    all had one. tta: see Trainer.predict.

    What is frozen stays so, until `unfreeze`. A Parameter that several layers share is saved under its first name. No
    other thread may use the model meanwhile.

    Raises TypeError or ValueError for what does not fit, ValueError naming it for a layer that is written in NumPy,
    OSError naming the file.
    """
    shapes.instance("save", "model", model, Module)
    description: dict[str, Any] = {"model": type(model).__name__, "arguments": {}}
    if isinstance(data, Dataset):
        image_shapes = _of_dataset(model, data)
        description |= {"classes": list(data.classes), "mean": list(data.mean), "std": list(data.std),
                        "pixels": str(data.images.dtype), "dataset": data.name or None}
    else:
        image_shapes = _known(model) if data is None else _shapes(data)
    if len(image_shapes) == 1 and len(image_shapes[0]) == 3:
        channels, height, width = image_shapes[0]
        description["arguments"] = {"in_channels": channels, **({"image_size": height} if height == width else {})}
    if tta is not None:
        description["tta"] = tta
    checkpoint.check_description({**description, "network": None})
    description["network"], arrays = describe(model, image_shapes)
    _check_classes(model, image_shapes, description.get("classes"))
    checkpoint.write_model(path, arrays, description)


def _check_classes(model: Module, image_shapes: list[Any], classes: Any) -> None:
    """Raise ValueError for names of classes that are not as many as the scores: `cnn.load` could not use the file."""
    outputs = in_evaluation(model, graph_of, model, image_shapes).outputs
    if classes and len(outputs) == 1 and len(outputs[0].image) == 1 and len(classes) != outputs[0].image[0]:
        raise ValueError(f"save: data must have a class for each output of the model, {outputs[0].image[0]}, got "
                         f"{len(classes)} classes")


def _of_dataset(model: Module, data: Dataset) -> list[Any]:
    """The shapes of one image of each input of a model that was trained on a Dataset: those that it was called with,
    or those of the labels by the names of the inputs."""
    seen = [list(found) for found in seen_shapes(model) if found[0] == data.image_shape]
    if len(seen) == 1:
        return seen[0]
    labels, names = data.example_labels, input_names(model)[1:]
    if missing := [name for name in names if name not in (labels.dtype.names or ())]:
        raise ValueError(f"save: data must be a list of shapes, one for each input, such as [{data.image_shape}, "
                         f"(5,)], for a {type(model).__name__} that takes {missing[0]!r} besides images, which is not "
                         f"among the Dataset's labels ({', '.join(labels.dtype.names or ['one array'])})")
    return [data.image_shape, *(_shapes([labels[name].shape[1:] for name in names]) if names else [])]


def _known(model: Module) -> list[Any]:
    """The shapes of one image of each input that a model was called with."""
    if len(seen := seen_shapes(model)) != 1:
        found = ("was called with images of several shapes: give one" if seen else
                 "has not been called: give the shape, or call the model once")
        raise ValueError(f"save: data must be the shape of one image, such as (3, 32, 32), or the Dataset that the "
                         f"model was trained on, because this {type(model).__name__} {found}")
    return list(seen[0])


def _shapes(data: Any) -> list[Any]:
    """The shapes of one image of each input."""
    if not isinstance(data, (list, tuple)) or isinstance(data, list) and not data:
        raise TypeError(f"save: data must be a Dataset, the shape of one image or a list of them, got "
                        f"{shapes.shown(data)}")
    given = list(data) if data and isinstance(data[0], (list, tuple)) else [data]
    for shape in given:
        if not isinstance(shape, (list, tuple)) or len(shape) > 3:
            raise ValueError(f"save: data must be shapes (C, H, W), (C, L), (features,) or (), got "
                             f"{shapes.shown(shape)}")
    return [tuple(shapes.integer("save", "data", n, 1) for n in shape) for shape in given]
