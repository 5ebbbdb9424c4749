"""Models in files: weights as safetensors, with what is needed to use them in the file's metadata."""
import json
from pathlib import Path

from cnn import files, models

FORMAT = "cnn-model-1"


def save_model(path, model, description):
    """Write the weights of `model` and its description to a .safetensors file, whole or not at all.

    description: dict that JSON can hold. `load_model` needs its keys `model` (a name from
    cnn.models.MODELS) and `arguments` (of that function); `classes` (names), `mean` and `std` (one number a
    channel) travel along for whoever classifies images. Raises OSError naming the file.
    """
    from safetensors.numpy import save
    metadata = {"format": FORMAT, "description": json.dumps(description)}
    files.write(path, save(model.state_dict(), metadata))


def load_model(path):
    """Read a file that `save_model` wrote. Returns the model, in evaluation mode, and its description.

    Raises FileNotFoundError, and ValueError naming the file where it is damaged or no such file.
    """
    from safetensors import SafetensorError, safe_open
    path = Path(path)
    if path.is_dir():
        path = path / "model.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such model file")
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from None
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path}: a safetensors file, but not a model of this package "
                         f"(format {metadata.get('format')!r}, wanted {FORMAT!r})")
    try:
        description = json.loads(metadata["description"])
        make = models.MODELS[description["model"]]
        model = make(**description["arguments"])
        model.load_state_dict(state)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: its weights or its description do not fit a model ({error})") from None
    return model.eval(), description
