"""Models and checkpoints in files: safetensors, with a digest by which any damage is noticed."""
import hashlib
import json
from pathlib import Path

import numpy as np

from cnn import files, models

FORMAT = "cnn-model-1"
CHECKPOINT_FORMAT = "cnn-checkpoint-1"


# ---------------------------------------------------------------- models

def save_model(path, model, description):
    """Write the weights of `model` and its description to a .safetensors file, whole or not at all.

    description: dict that JSON can hold. `load_model` needs its keys `model` (a name from
    cnn.models.MODELS) and `arguments` (of that function); `classes` (names), `mean` and `std` (one number a
    channel) travel along for whoever classifies images. Raises OSError naming the file.
    """
    _write(path, FORMAT, model.state_dict(), description)


def load_model(path):
    """Read a file that `save_model` wrote. Returns the model, in evaluation mode, and its description.

    path: the file, or a folder with a model.safetensors. Raises FileNotFoundError, and ValueError naming the
    file where it is damaged or no such file.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "model.safetensors"
    state, description = _read(path, FORMAT, "model")
    try:
        make = models.MODELS[description["model"]]
        model = make(**description["arguments"])
        model.load_state_dict(state)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: its weights or its description do not fit a model ({error})") from None
    return model.eval(), description


# ---------------------------------------------------------------- checkpoints

def save(path, state):
    """Write a state such as `Trainer.state_dict` returns to a .safetensors file, whole or not at all.

    state: dicts within a dict, of arrays and what JSON can hold; names are texts without "/".
    Raises OSError naming the file.
    """
    arrays = {}
    _write(path, CHECKPOINT_FORMAT, arrays, _take_arrays(state, arrays))


def load(path):
    """Read the state that `save` wrote. Raises FileNotFoundError, and ValueError naming a damaged file."""
    path = Path(path)
    arrays, state = _read(path, CHECKPOINT_FORMAT, "checkpoint")
    try:
        for name, value in arrays.items():
            *place, last = name.split("/")
            inside = state
            for step in place:
                inside = inside[step]
            inside[last] = value
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: its arrays do not fit its description ({error})") from None
    return state


def resume(folder, trainer, say=print):
    """Load the newest checkpoint of a folder into a trainer, so that `fit` goes on there.

    A damaged one is named by `say(text)` and the one before is taken. Returns the path of the checkpoint, None
    where there is none. Raises ValueError naming the file where it does not fit the trainer, or where all are
    damaged.
    """
    paths = checkpoints(folder)
    for path in reversed(paths):
        try:
            state = load(path)
        except (OSError, ValueError) as error:
            say(f"{error}; trying the checkpoint before it")
            continue
        try:
            trainer.load_state_dict(state)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: does not fit this run ({error})") from None
        return path
    if paths:
        raise ValueError(f"{folder}: none of its {len(paths)} checkpoints can be read")
    return None


def checkpoints(folder):
    """Paths of the checkpoints in a folder, the oldest first."""
    return sorted(Path(folder).glob("step-*.safetensors"), key=step_of)


def path_of(folder, step):
    """Where the checkpoint after so many steps belongs."""
    return Path(folder, f"step-{step:08d}.safetensors")


def step_of(path):
    """After how many steps a checkpoint was taken, by its name; -1 where that is no number."""
    number = path.stem.removeprefix("step-")
    return int(number) if number.isascii() and number.isdigit() else -1


def digest(state):
    """One hash (64 hexadecimal digits) of a state without its timing.

    Two runs that computed the same have the same: weights, optimizer, position and history to the last bit.
    """
    arrays = {}
    plain = _take_arrays({name: state[name] for name in state if name != "timing"}, arrays)
    result = hashlib.blake2b(json.dumps(plain, sort_keys=True).encode(), digest_size=32)
    for name in sorted(arrays):
        result.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape}".encode())
        result.update(np.ascontiguousarray(arrays[name]).tobytes())
    return result.hexdigest()


def _take_arrays(tree, arrays, path=""):
    """A copy of the tree without its arrays, which go to `arrays` under names such as "model/0.weight"."""
    rest = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            rest[name] = _take_arrays(value, arrays, f"{path}{name}/")
        elif isinstance(value, np.ndarray):
            arrays[path + name] = value
        else:
            rest[name] = value
    return rest


# ---------------------------------------------------------------- files

def _write(path, form, arrays, description):
    from safetensors.numpy import save
    header, data = _split(save(arrays, {"format": form, "description": json.dumps(description)}))
    files.write(path, _sealed(header, data))


def _read(path, form, kind):
    from safetensors import SafetensorError
    from safetensors.numpy import load
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such {kind} file")
    try:
        content = path.read_bytes()
        arrays = load(content)
        header, data = _split(content)
        metadata = header.get("__metadata__") or {}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from None
    if metadata.get("format") != form:
        raise ValueError(f"{path}: a safetensors file, but not a {kind} of this package "
                         f"(format {metadata.get('format')!r}, wanted {form!r})")
    if content != _sealed(header, data):
        raise ValueError(f"{path}: damaged: its digest is not that of its content")
    try:
        description = json.loads(metadata["description"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: its description cannot be read ({error})") from None
    return arrays, description


def _split(content):
    """The header of a safetensors file as a dict, and the bytes that follow it."""
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def _sealed(header, data):
    """The bytes of a safetensors file whose metadata hold a digest of all the rest.

    The format itself notices a wrong length, but no wrong number. The header is written in one way only, so that
    equal models make equal files, and no other bytes mean the same.
    """
    metadata = {name: text for name, text in header["__metadata__"].items() if name != "digest"}
    header = {**header, "__metadata__": metadata}
    hashed = hashlib.blake2b(_compact(header), digest_size=32)
    hashed.update(data)
    metadata["digest"] = hashed.hexdigest()
    text = _compact(header)
    text += b" " * (-len(text) % 8)     # the data begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + data


def _compact(header):
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
