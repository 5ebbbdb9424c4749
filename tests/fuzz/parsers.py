"""The parsers of files from outside, as functions of bytes: for the fuzzers (fuzz.py) and for the tests.

An input's first byte chooses how the rest is used. Where a format has a checksum or a compression, one choice hands
the rest over as it is and another adds these, because a fuzzer cannot guess a checksum.
"""

import gzip
import hashlib
import io
import json
import resource
import tempfile
import time
import traceback
import warnings
import zipfile
from contextlib import contextmanager
from pathlib import Path

import cnn
from cnn.data import cifar, idx
from cnn.models import torch_file
from cnn.runs.settings import read_settings
from cnn.training import checkpoint

SECONDS, BYTES = 5, 1 << 30  # the most that an input may take, of the processor's time and of memory
_SHM = Path("/dev/shm")  # in memory, where there is such a folder


class Finding(Exception):
    """A parser did what its documentation does not allow."""


def parse(name, data, folder):
    """Give the bytes to the parser of this name. Raises Finding where it does not keep its word.

    folder: where a file may be written.
    """
    begin = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            PARSERS[name](data[:1] or b"\0", data[1:], folder)
    except ValueError as error:
        _check(error, folder)
    except Exception as error:
        traceback.print_exc()
        raise Finding(f"{name}: undocumented {type(error).__name__}: {error}") from error
    if (seconds := time.process_time() - begin) > SECONDS:
        raise Finding(f"{name}: took {seconds:.1f} s")


def _check(error, folder):
    """The error must name the file, be safe to print, and not stand for too much memory."""
    text = str(error)
    if str(folder) not in text:
        raise Finding(f"does not name the file: {type(error).__name__}: {text!r}") from error
    if not text.replace("\n", "").isprintable():
        raise Finding(f"holds characters that cannot be printed: {text!r}") from error
    if len(text) > 10_000:
        raise Finding(f"the message has {len(text)} characters: {text[:200]!r}") from error
    cause = error
    while cause is not None:
        if isinstance(cause, MemoryError):
            raise Finding(f"asked for too much memory: {text!r}") from error
        cause = cause.__cause__ or cause.__context__


@contextmanager
def limited_memory():
    """Within this, more memory raises MemoryError, even if nobody would ever touch it (Linux only)."""
    sizes, limits = Path("/proc/self/statm"), resource.getrlimit(resource.RLIMIT_AS)
    if sizes.exists():
        now = int(sizes.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + BYTES, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@contextmanager
def folder():
    """A folder for the files, in memory where possible."""
    with tempfile.TemporaryDirectory(dir=_SHM if _SHM.is_dir() else None) as path:
        yield Path(path)


def _halves(data):
    """Two parts of the input: the first is as long as its first two bytes say."""
    size = 2 + int.from_bytes(data[:2], "big")
    return data[2:size], data[size:]


def _written(folder, name, data):
    path = folder / name
    path.write_bytes(data)
    return path


# ---------------------------------------------------------------------------------------- data sets


def _idx(mode, data, folder):
    """Bit 0: packed; 1: with an MD5 (bit 2: the right one); 3: with a shape; 4: a pair of files."""
    mode = mode[0]
    pack = (lambda part: gzip.compress(part, 1, mtime=0)) if mode & 1 else bytes
    if mode & 16:
        images, labels = _halves(data)
        idx.read_idx_pair(
            _written(folder, "images", pack(images)), _written(folder, "labels", pack(labels)), num_classes=10
        )
        return
    md5 = hashlib.md5(data if mode & 4 else b"").hexdigest() if mode & 2 else None
    idx.read_idx(_written(folder, "x", pack(data)), md5, (2, 3, 3) if mode & 8 else None)


def _npz(mode, data, folder):
    """Bit 0: the rest is images.npy, labels.npy and classes.npy, each behind its length; bit 1: these compressed."""
    mode, path = mode[0], folder / "x.npz"
    if mode & 1:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED if mode & 2 else zipfile.ZIP_STORED) as file:
            for name in ("images", "labels", "classes"):
                part, data = _halves(data)
                if part:
                    file.writestr(f"{name}.npy", part)
        data = buffer.getvalue()
    path.write_bytes(data)
    cnn.data.load(path)


class _AnyMD5(str):
    """Equal to the checksum of anything."""

    __hash__ = str.__hash__

    def __eq__(self, other):
        return True

    def __ne__(self, other):
        return False


def _cifar(mode, data, folder):
    """Bit 0: an archive (bit 1: packed here), else the batch for training, or in two halves with that for testing."""
    mode = mode[0]
    md5s = {"data_batch_1": _AnyMD5(), "test_batch": _AnyMD5()}
    if mode & 1:
        paths = [_written(folder, "x.tar.gz", gzip.compress(data, 1, mtime=0) if mode & 2 else data)]
    else:
        parts = _halves(data) if mode & 2 else (data, data)
        paths = [_written(folder, name, part) for name, part in zip(md5s, parts, strict=True)]
    cifar.read_cifar(paths, md5s, 1, 1, "labels", 10)


# ---------------------------------------------------------------------------------------- runs


def _safetensors(mode, data, folder, name, form):
    """Bit 0: the rest is a header and the data, of which a file with the right length and digest is made."""
    if mode & 1:
        header, data = _halves(data)
        try:
            header = json.loads(header)
            header.setdefault("__metadata__", {}).setdefault("format", form)
            data = checkpoint._sealed(header, data)
        except (ValueError, TypeError, AttributeError, RecursionError):
            data = header + data if isinstance(header, bytes) else data
    return _written(folder, name, data)


def _model(mode, data, folder):
    """As above; bit 1: from the folder."""
    path = _safetensors(mode[0], data, folder, "model.safetensors", checkpoint.FORMAT)
    checkpoint.load_model(folder if mode[0] & 2 else path)


def _trainer():
    model = cnn.Sequential(cnn.Linear(2, 2, seed=0))
    return cnn.Trainer(model, cnn.SGD(model.parameters(), lr=0.1, momentum=0.9), progress=False)


def _checkpoint(mode, data, folder):
    """As above; bit 1: what was read goes to a trainer."""
    path = _safetensors(mode[0], data, folder, "step-00000001.safetensors", checkpoint.CHECKPOINT_FORMAT)
    if mode[0] & 2:
        checkpoint.resume(folder, _trainer(), say=lambda text: None)
    else:
        checkpoint.load(path)


def _onnx(mode, data, folder):
    """Bit 0: a file that it may have as external data, beside one outside of the folder, is there; bit 1: a shape is
    given. What is made is run where it is small."""
    place = folder / "model"
    place.mkdir(exist_ok=True)
    if mode[0] & 1:
        _written(folder, "secret", bytes(64))
        _written(place, "w.bin", bytes(64))
    net = cnn.load_onnx(_written(place, "x.onnx", data), shape=(1, 4, 4) if mode[0] & 2 else None)
    assert all(p.numel() <= 2**21 + len(data) for p in net.parameters())


_TORCH_HEAD = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."  # magic number and version


def _torch(mode, data, folder):
    """Bit 0: the head of PyTorch's files is put before."""
    head = _TORCH_HEAD if mode[0] & 1 else b""
    state = torch_file.read_state(_written(folder, "w.pth", head + data))
    assert sum(array.size for array in state.values()) <= len(data) ** 2


def _config(mode, data, folder):
    """A config.toml, or the folder of one."""
    path = _written(folder, "config.toml", data)
    read_settings(folder if mode[0] & 1 else path)


PARSERS = {"idx": _idx, "npz": _npz, "cifar": _cifar, "model": _model, "checkpoint": _checkpoint, "config": _config,
           "onnx": _onnx, "torch": _torch}

NEEDS = {"onnx": "onnx"}  # packages without which a parser does not run

# Whose lines a corpus must reach: modules, or functions of them.
LINES = {
    "idx": ["cnn.data.idx"],
    "npz": ["cnn.data.npz"],
    "cifar": ["cnn.data.cifar"],
    "model": ["cnn.training.checkpoint:load_model,check_description,_read,_words,_split,_sealed,_compact"],
    "checkpoint": ["cnn.training.checkpoint:load,resume,checkpoints,step_of,_read,_words,_split,_sealed,_compact"],
    "onnx": [f"cnn.export.onnx_{part}" for part in (
        "importing", "reading", "values", "folding", "shapes", "operators", "arithmetic")],
    "torch": ["cnn.models.torch_file"],
    "config": ["cnn.runs.settings:read_settings,read_config,check_each"],
}
