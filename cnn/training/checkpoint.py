"""Models and checkpoints in files: safetensors, with a digest by which any damage is noticed."""
from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cnn import files, models, shapes, streams
from cnn.layers.state import freeze_names, frozen_names
from cnn.text import printable

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from typing import Any

    from cnn.layers import Module
    from cnn.training.trainer import Trainer

FORMAT = "cnn-model-1"
CHECKPOINT_FORMAT = "cnn-checkpoint-1"
FROZEN = "frozen_parts"     # names in a description, of layers and parameters; load_model takes them out
MAX_IMAGE_SIZE = 4096   # pixels a side: more is a claim that no data set of this package bears out

# what odd values can raise on their way into a model or a trainer
_NOT_AS_WRITTEN = TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError, MemoryError


# ---------------------------------------------------------------- models

def save_model(path: str | os.PathLike, model: Module, description: dict) -> None:
    """Write the weights of `model` and its description to a .safetensors file, whole or not at all.

    path: the file. description: dict that JSON can hold, NumPy's numbers and arrays included. `load_model` needs its
    keys `model` (a name from cnn.models.MODELS, to which functions of your own may be added) and `arguments` (of that
    function). `cnn.load` also needs `in_channels` and `image_size` among the arguments, `classes` (names), `mean` and
    `std` (one number a channel), and takes `pixels` (dtype of the training images: "uint8", the default, or "float32")
    and `tta` (see Trainer.predict). What is frozen stays so in the model that `load_model` makes.

    Raises TypeError or ValueError, before anything is written, for a description of which `load_model` could not make
    this model, OSError naming the file.
    """
    if isinstance(description, dict) and "network" in description:      # what `cnn.save` has written once
        from cnn.layers.described import describe  # here, to keep "import cnn" fast
        check_description(description)
        found, arrays = describe(model, description["network"]["image_shapes"])
        return write_model(path, arrays, {**description, "network": found})
    description, made = described("save_model", description)
    check_shapes("save_model", model, made)
    frozen = frozen_names(model)
    _write(path, FORMAT, model.state_dict(), description | ({FROZEN: frozen} if frozen else {}))


def write_model(path: str | os.PathLike, arrays: dict[str, np.ndarray], description: dict) -> None:
    """Write what cnn.layers.described.describe has returned to a file, for `cnn.save`.

    path: the file. arrays: parameters and buffers by name, of shapes such as (C,). description: as of `save_model`,
    with what JSON can hold as `network`. Raises TypeError where JSON cannot hold the description, OSError naming the
    file.
    """
    _write(path, FORMAT, arrays, {name: _plain(f"save: {name}", value) for name, value in description.items()})


def described(owner: str, description: dict) -> tuple[dict, dict[str, tuple[int, ...]]]:
    """The description of a model as JSON can hold it, and the shapes, by name, of the weights of what it describes.

    owner: who speaks in an error. Raises TypeError or ValueError, naming the key, where JSON can't hold it or
    `load_model` could make no model of it.
    """
    if not isinstance(description, dict):
        raise TypeError(f"{owner}: description must be a dict, got {type(description).__name__}")
    description = {name: _plain(f"{owner}: description: {name}", value) for name, value in description.items()}
    name, arguments = description.get("model"), description.get("arguments")
    if not isinstance(name, str) or name not in models.MODELS or not isinstance(arguments, dict):
        raise ValueError(f"{owner}: description must have model, a name from cnn.models.MODELS, and arguments, a dict, "
                         f"or load_model could not make the network again, got {name!r} and {arguments!r}; add the "
                         f"function that makes a network of your own to MODELS")
    _no_weights_of_a_package(f"{owner}: description: ", arguments)
    try:
        model = models.MODELS[name](**arguments)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{owner}: description: load_model could not make {name} with these arguments ({error})"
                         ) from None
    return description, _shapes(model)


def check_shapes(owner: str, model: Module, wanted: dict[str, tuple[int, ...]]) -> None:
    """Raise ValueError, in the name of `owner`, for a model whose weights are not those that `described` has returned
    as `wanted`."""
    found = _shapes(model)
    for name in [*wanted, *found]:
        if found.get(name) != wanted.get(name):
            raise ValueError(f"{owner}: the description does not fit the model: {name} has shape "
                             f"{wanted.get(name, 'none')} by the description, {found.get(name, 'none')} in the model")


def _shapes(model: Module) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in model._state()}


def _plain(where: str, value: object) -> object:
    """A value as JSON can hold it: NumPy's numbers and arrays as Python's. Raises TypeError naming the place."""
    if isinstance(value, (np.generic, np.ndarray)) and value.dtype.kind in "biufU":
        return value.tolist()
    if isinstance(value, dict):
        for name in value:
            if not isinstance(name, str):
                raise TypeError(f"{where}: its keys must be texts, got {name!r}")
        return {name: _plain(f"{where}.{name}", inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(f"{where}[{i}]", inner) for i, inner in enumerate(value)]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{where} must be a value that JSON can hold, got {type(value).__name__}")


def load_model(path: str | os.PathLike) -> tuple[Module, dict]:
    """Read a file that `save_model` wrote. Returns the model, in evaluation mode, and its description.

    To predict with it, `cnn.load` does more: it brings pictures to what the model takes.

    path: the file that `save_model` or `cnn.save` wrote, or a folder with a model.safetensors. The file may come from
    anyone: nothing in it is run, and no more memory taken than a small multiple of its size. Raises
    FileNotFoundError, and ValueError naming the file where it is damaged, no such file, or needs more memory than there
    is.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "model.safetensors"
    state, description = _read(path, FORMAT, "model")
    try:
        check_description(description)
        # the sizes are only claims until they are compared with the weights
        weights = sum(value.nbytes for value in state.values()) // 4
        with shapes.at_most(len(state), weights, "the file has weights for"):
            if "network" in description:
                from cnn.layers.described import network  # here, to keep "import cnn" fast
                model: Module = network(description["network"], state)
            else:
                model = models.MODELS[description["model"]](**description["arguments"])
                model.load_state_dict(state)
                freeze_names(model, description.pop(FROZEN, []))
    except _NOT_AS_WRITTEN as error:
        raise ValueError(f"{path}: its weights or its description do not fit a model ({_words(error)})") from None
    return model.eval(), description


def check_description(description: Any) -> None:
    """Raise KeyError, TypeError or ValueError for what no model's description can be."""
    def require(right: bool, name: str, words: str) -> None:
        if not right:
            raise ValueError(f"{name} must be {words}, got {shapes.shown(description.get(name))}")

    if not isinstance(description, dict):
        raise TypeError(f"it must be a dict, got {type(description).__name__}")
    for name in ("model", "arguments"):
        if name not in description:
            raise KeyError(name)
    get: Callable[[str], Any] = description.get
    require(isinstance(get("model"), str) and ("network" in description or get("model") in models.MODELS), "model",
            f"of {', '.join(models.MODELS)}")
    require(isinstance(get("arguments"), dict), "arguments", "a dict")
    _no_weights_of_a_package("", get("arguments"))
    side = get("arguments").get("image_size")
    require(not isinstance(side, int) or side <= MAX_IMAGE_SIZE, "arguments", f"for images of up to {MAX_IMAGE_SIZE}")
    if get("classes") is not None:
        require(isinstance(get("classes"), list) and all(isinstance(name, str) for name in get("classes")),
                "classes", "a list of texts")
    for name in ("mean", "std"):
        if get(name) is not None:
            require(isinstance(get(name), list), name, "a list of numbers")
            for value in get(name):
                shapes.number("model", name, value, above=0 if name == "std" else None)
    if FROZEN in description:
        require(isinstance(get(FROZEN), list) and all(isinstance(name, str) for name in get(FROZEN)), FROZEN,
                "a list of texts")
    require(isinstance(get("dataset"), (str, type(None))), "dataset", "a text")
    require(get("tta") in (None, "flip", "flip+shift"), "tta", "flip or flip+shift")
    shapes.integer("model", "seed", 0 if get("seed") is None else get("seed"), 0, 2**63 - 1)


def _no_weights_of_a_package(where: str, arguments: dict) -> None:
    """A file has weights of its own: whoever loads it needs no package, and a file cannot make one be read."""
    if arguments.get("pretrained"):
        raise ValueError(f"{where}arguments must be without pretrained, because the file holds the weights, got "
                         f"{shapes.shown(arguments['pretrained'])}")


# ---------------------------------------------------------------- checkpoints

def save(path: str | os.PathLike, state: dict) -> None:
    """Write a state such as `Trainer.state_dict` returns to a .safetensors file, whole or not at all.

    path: the file. state: dicts within a dict, of arrays and what JSON can hold; names are texts without "/".
    Raises OSError naming the file.
    """
    arrays: dict[str, np.ndarray] = {}
    _write(path, CHECKPOINT_FORMAT, arrays, _take_arrays(state, arrays))


def load(path: str | os.PathLike) -> dict[str, Any]:
    """Read the state that `save` wrote to the file `path`.

    Raises FileNotFoundError, and ValueError naming the file where it is damaged, no such file, or needs more memory
    than there is.
    """
    path = Path(path)
    arrays, state = _read(path, CHECKPOINT_FORMAT, "checkpoint")
    try:
        for name, value in arrays.items():
            *place, last = name.split("/")
            inside = state
            for step in place:
                inside = inside[step]
            inside[last] = value
    except _NOT_AS_WRITTEN as error:
        raise ValueError(f"{path}: its arrays do not fit its description ({_words(error)})") from None
    if not isinstance(state, dict):
        raise ValueError(f"{path}: it must hold a dict, not {type(state).__name__}")
    return state


def resume(folder: str | os.PathLike, trainer: Trainer, say: Callable[[str], object] = streams.say) -> Path | None:
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
            say(f"{error}{'' if path is paths[0] else '; trying the checkpoint before it'}")
            continue
        try:
            trainer.load_state_dict(state)
        except _NOT_AS_WRITTEN as error:
            raise ValueError(f"{path}: does not fit this run ({_words(error)})") from None
        return path
    if paths:
        raise ValueError(f"{folder}: none of its {len(paths)} checkpoints can be read; without them, once they are "
                         f"deleted, the run goes on from the beginning")
    return None


def checkpoints(folder: str | os.PathLike) -> list[Path]:
    """Paths of the checkpoints in a folder, the oldest first."""
    return sorted(Path(folder).glob("step-*.safetensors"), key=step_of)


def path_of(folder: str | os.PathLike, step: int) -> Path:
    """Where the checkpoint after `step` steps belongs in a folder."""
    return Path(folder, f"step-{step:08d}.safetensors")


def step_of(path: Path) -> int:
    """After how many steps the checkpoint at `path` was taken, by its name; -1 where that is no number."""
    number = path.stem.removeprefix("step-")
    return int(number) if number.isascii() and number.isdigit() else -1


def digest(state: dict) -> str:
    """One hash (64 hexadecimal digits) of a state without its timing.

    Two runs that computed the same have the same: weights, optimizer, position and history to the last bit.
    """
    import hashlib  # here, to keep "import cnn" fast

    arrays: dict[str, np.ndarray] = {}
    plain = _take_arrays({name: state[name] for name in state if name != "timing"}, arrays)
    result = hashlib.blake2b(json.dumps(plain, sort_keys=True).encode(), digest_size=32)
    for name in sorted(arrays):
        result.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape}".encode())
        result.update(np.ascontiguousarray(arrays[name]).tobytes())
    return result.hexdigest()


def _take_arrays(tree: dict, arrays: dict[str, np.ndarray], path: str = "") -> dict:
    """A copy of the tree without its arrays, which go to `arrays` under names such as "model/0.weight"."""
    rest: dict[str, Any] = {}
    for name, value in tree.items():
        if not isinstance(name, str):
            raise TypeError(f"state: {path.rstrip('/')}: its keys must be texts, got {name!r}")
        if isinstance(value, dict):
            rest[name] = _take_arrays(value, arrays, f"{path}{name}/")
        elif isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
            arrays[path + name] = value
        else:
            rest[name] = _plain(f"state: {path}{name}", value)
    return rest


# ---------------------------------------------------------------- files

def _write(path: str | os.PathLike, form: str, arrays: dict[str, np.ndarray], description: dict) -> None:
    from safetensors.numpy import save
    header, data = _split(save(arrays, {"format": form, "description": json.dumps(description)}))
    files.write(path, _sealed(header, data))


def _read(path: Path, form: str, kind: str) -> tuple[dict[str, np.ndarray], Any]:
    from safetensors import SafetensorError
    from safetensors.numpy import load
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such {kind} file")
    try:
        content = path.read_bytes()
        arrays = load(content)
        header, data = _split(content)
        metadata = header.get("__metadata__") or {}
    except (SafetensorError, OSError, *_NOT_AS_WRITTEN) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({_words(error)})") from None
    if not isinstance(metadata, dict) or metadata.get("format") != form:
        raise ValueError(f"{path}: a safetensors file, but not a {kind} of this package "
                         f"(its metadata must name the format {form!r})")
    if content != _sealed(header, data):
        raise ValueError(f"{path}: damaged: its digest is not that of its content")
    try:
        description = json.loads(metadata["description"])
    except _NOT_AS_WRITTEN as error:
        raise ValueError(f"{path}: its description cannot be read ({_words(error)})") from None
    return arrays, description


def _words(error: BaseException) -> str:
    """What is wrong, by an error of Python's."""
    text = f"there is no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
    text = printable(text)      # it may hold names from the file, and any number of them
    return text if len(text) <= 500 else text[:500] + "..."


def _split(content: bytes) -> tuple[dict, bytes]:
    """The header of a safetensors file as a dict, and the bytes that follow it."""
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def _sealed(header: dict, data: bytes) -> bytes:
    """The bytes of a safetensors file whose metadata hold a digest of all the rest.

    The format itself notices a wrong length, but no wrong number. The header is written in one way only, so that
    equal models make equal files, and no other bytes mean the same.
    """
    import hashlib  # here, to keep "import cnn" fast

    metadata = {name: text for name, text in header["__metadata__"].items() if name != "digest"}
    header = {**header, "__metadata__": metadata}
    hashed = hashlib.blake2b(_compact(header), digest_size=32)
    hashed.update(data)
    metadata["digest"] = hashed.hexdigest()
    text = _compact(header)
    text += b" " * (-len(text) % 8)     # the data begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + data


def _compact(header: dict) -> bytes:
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
