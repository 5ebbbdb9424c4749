"""onnx's own backend cases (onnx.backend.test), run through cnn.load_onnx: what they say of the file, its inputs and
outputs is the oracle.

    PYTHONPATH=. python tests/onnx_cases.py         # writes docs/onnx-cases.md, the list of those that are refused
"""

import itertools
import re
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np

import cnn

KINDS = ("node", "simple", "pytorch-operator", "pytorch-converted")
PAGE = Path(__file__).parent.parent / "docs" / "onnx-cases.md"
INTRODUCTION = (
    "# onnx's cases that are refused\n\nOf the backend cases of onnx {version} whose operators all have a row in the "
    "[table](onnx.md#operators), these are refused by `cnn.load_onnx`, each with the reason; all others give what they "
    "should. N is the number of images. Where several inputs may depend on the images, the reason is that of the first "
    "way that was tried.\n")


def cases():
    """(kind, name, model, list of (inputs, outputs), rtol, atol) of every case of these kinds."""
    import onnx
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        from onnx.backend.test.loader import load_model_tests
        for kind in KINDS:
            for case in load_model_tests(kind=kind):
                if case.model is not None:
                    yield kind, case.name, case.model, case.data_sets, case.rtol, case.atol
                    continue
                model = onnx.load(Path(case.model_dir, "model.onnx"))
                sets = []
                for folder in sorted(Path(case.model_dir).glob("test_data_set_*")):
                    sets.append(tuple([_tensor(path) for path in sorted(
                        folder.glob(f"{which}_*.pb"), key=lambda path: int(path.stem.split("_")[1]))]
                        for which in ("input", "output")))
                yield kind, case.name, model, sets, case.rtol, case.atol


def _tensor(path):
    import onnx
    return onnx.numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes()))


def operators(model):
    """Names of the operators of a model, with their domain where it is not ONNX's own."""
    return {f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in model.graph.node}


def run(model, sets, rtol, atol, path):
    """None if all of a case's outputs are as wanted, else why the import refused. Raises AssertionError where they
    differ. path: of a file to write.

    What does not depend on the images (weights, shapes) is given as parameters: of several ways the first that the
    import takes."""
    path.write_bytes(model.SerializeToString())
    reasons = []
    inputs, outputs = sets[0]
    there = {tensor.name for tensor in model.graph.initializer}
    names = [value.name for value in model.graph.input if value.name not in there]
    pairs = dict(zip(names, inputs, strict=False))
    if any(not isinstance(x, np.ndarray) for x in (*inputs, *outputs)):
        return "its inputs or outputs are no arrays"
    for live in _ways(pairs):
        given = {name: x for name, x in pairs.items() if name not in live}
        try:
            net = cnn.load_onnx(path, given)
            got = net(*(_ours(pairs[name]) for name in live))
        except ValueError as error:
            reasons.append(str(error).replace(f"{path}: ", ""))
            continue
        got = list(got.values()) if isinstance(got, dict) else [got]
        for y, wanted in zip(got, outputs, strict=True):
            assert y.size == wanted.size and y.dtype == wanted.dtype, (y.shape, wanted.shape, y.dtype, wanted.dtype)
            np.testing.assert_allclose(y.reshape(wanted.shape), wanted, rtol, atol)
        return None
    return reasons[0] if reasons else "no input has an axis of images and floats"


def _ways(pairs):
    """Lists of names of inputs that may depend on images, to try one after the other."""
    able = [name for name, x in pairs.items() if x.dtype.kind == "f" and 1 <= x.ndim <= 4]
    for count in range(len(able), 0, -1):
        for live in itertools.combinations(able, count):
            if len({len(pairs[name]) for name in live}) == 1 and len(live) <= 4:
                yield live


def _ours(x):
    """(N, C, L) is (N, C, 1, L) here, (N,) is (N, 1)."""
    return x[:, :, None] if x.ndim == 3 else x[:, None] if x.ndim == 1 else x


def outcomes(path):
    """What became of the cases of whose operators each has a row: names of those that pass, the reasons of those that
    are refused by name, and what was wrong. path: of a file to write."""
    from cnn.export.onnx_folding import FOLDED
    from cnn.export.onnx_operators import TABLE
    passed, refused, wrong = [], {}, []
    for kind, name, model, sets, rtol, atol in cases():
        if operators(model) - set(TABLE) - set(FOLDED):
            continue
        try:
            reason = run(model, sets, rtol, atol, path)
        except AssertionError as error:
            wrong.append(f"{kind} {name}: {error}")
            continue
        if reason is None:
            passed.append(name)
        else:
            refused[name] = reason
    return passed, refused, wrong


def page(refused):
    """The page of refused cases, a list for each reason; refused: reasons by name."""
    import onnx
    by_reason = {}
    for name, reason in refused.items():
        reason = re.sub(r"^node '[^']*' \((\w+)\): ", r"\1: ", reason)
        by_reason.setdefault(reason, []).append(name.removeprefix("test_"))
    parts = [INTRODUCTION.format(version=onnx.__version__)]
    for reason, names in sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0])):
        shown = re.sub(r"[*_<>|`]", r"\\\g<0>", reason)
        parts.append(f"- **{shown}** ({len(names)}): {', '.join(f'`{name}`' for name in names)}\n")
    return parts[0] + "\n" + "".join(parts[1:])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        _, found, wrong = outcomes(Path(folder, "x.onnx"))
    if wrong:
        sys.exit("\n".join(wrong))
    PAGE.write_text(page(found), encoding="utf-8")
