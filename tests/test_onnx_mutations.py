"""ONNX files that were good until someone changed them: each gives a module or an error that names the file.

    PYTHONPATH=tests python tests/test_onnx_mutations.py 10000      so many, from another seed each time
"""

import contextlib
import sys
from pathlib import Path

import numpy as np
import pytest

FUZZ = Path(__file__).parent / "fuzz"
sys.path.insert(0, str(FUZZ))

import parsers  # noqa: E402

onnx = pytest.importorskip("onnx")
NUMBERS = [0, 1, -1, 2, 3, 7, 255, 2**15, 2**20, 2**31 - 1, 2**31, 2**40, 2**62, -(2**31), -(2**62)]


def flipped(data, rng):
    """With some bytes changed, taken out, put in or repeated."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 6)):
        at, size = int(rng.integers(0, max(1, len(data)))), int(rng.integers(1, 9))
        kind = rng.integers(0, 5)
        if kind == 0:
            data[at:at + 1] = bytes([rng.integers(0, 256)])
        elif kind == 1:
            del data[at:at + size]
        elif kind == 2:
            data[at:at] = rng.bytes(size)
        elif kind == 3:
            data[at:at] = data[at:at + 4 * size]
        else:
            data[at:at + 1] = bytes([data[at] ^ (1 << rng.integers(0, 8))]) if data else b""
    return bytes(data[:int(rng.integers(0, len(data) + 1))] if rng.random() < 0.1 else data)


def changed(data, rng):
    """With fields of the message changed: it stays one that protobuf reads."""
    model = onnx.ModelProto.FromString(data)
    for _ in range(rng.integers(1, 5)):
        _change(model, rng)
    return model.SerializeToString()


def _change(message, rng):
    """Change one field somewhere inside, each as likely as the others beside it."""
    told = message.ListFields()
    if not told:
        return
    field, value = told[rng.integers(0, len(told))]
    repeated = not isinstance(value, (int, float, str, bytes)) and hasattr(value, "__len__")
    if repeated and len(value):
        i = int(rng.integers(0, len(value)))
        if rng.random() < 0.15:
            del value[i]
        elif rng.random() < 0.1:
            value.append(value[i])
        elif field.message_type is not None:
            _change(value[i], rng)
        else:
            with contextlib.suppress(ValueError, TypeError):     # a number that the field cannot hold
                value[i] = _other(value[i], rng)
    elif field.message_type is not None:
        _change(value, rng)
    elif rng.random() < 0.1:
        message.ClearField(field.name)
    elif not repeated:
        with contextlib.suppress(ValueError, TypeError):
            setattr(message, field.name, _other(value, rng))


def _other(value, rng):
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return int(NUMBERS[rng.integers(0, len(NUMBERS))])
    if isinstance(value, float):
        return float(rng.choice([0.0, -1.0, 1e30, np.inf, np.nan, 1e-30]))
    if isinstance(value, str):
        return str(rng.choice(["", "x", "y", "w", "Conv", "Relu", "a\x1b[2J", "é" * 300, "../x", "Reshape", "Add"]))
    return bytes(value)[: int(rng.integers(0, len(value) + 1))]


def mutate(count, seed):
    """Findings among so many mutations of the corpus, and how many were still read."""
    rng = np.random.default_rng(seed)
    corpus = [path.read_bytes() for path in sorted((FUZZ / "corpus" / "onnx").iterdir())]
    good = [data for data in corpus if data[1:2] == b"\x08"]
    found, read, parser = [], 0, parsers.PARSERS["onnx"]

    def counting(*arguments):
        nonlocal read
        parser(*arguments)
        read += 1

    parsers.PARSERS["onnx"] = counting
    try:
        with parsers.folder() as folder, parsers.limited_memory():
            for i in range(count):
                data = good[rng.integers(0, len(good))]
                mode, body = data[:1], data[1:]
                body = (flipped if rng.random() < 0.4 else changed)(body, rng)
                try:
                    parsers.parse("onnx", mode + body, folder)
                except parsers.Finding as finding:
                    found.append((i, finding, mode + body))
    finally:
        parsers.PARSERS["onnx"] = parser
    return found, read


def test_mutations_are_read_or_refused_by_name():
    found, read = mutate(400, seed=0)
    assert not found, found[0][:2]
    assert 20 <= read <= 300        # some changes matter, some do not


if __name__ == "__main__":
    findings, good = mutate(int(sys.argv[1]), None)
    for i, finding, data in findings:
        (FUZZ.parents[1] / "build" / f"onnx-{i}").write_bytes(data)
        print(f"{i}: {finding}")
    sys.exit(f"{len(findings)} findings, {good} of {sys.argv[1]} were read") if findings else print(
        f"0 findings, {good} of {sys.argv[1]} were read")
