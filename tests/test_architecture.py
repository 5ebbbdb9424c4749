"""The house: which file may import which, what `import cnn` costs, and that no kernel is idle."""

import ast
import re
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from cases import CASES, by_function, by_layer
from processes import run_python
from test_graph import Dividing

import cnn
from cnn import _ext, functional
from cnn.data import DataLoader, Dataset, RandomFlip
from cnn.engine import compiling
from cnn.layers import BatchNorm2d, Conv2d, Dropout, Flatten, Linear, MaxPool2d, ReLU, Sequential
from cnn.optim import SGD
from cnn.training.rows import NumberedImages, RowLoss
from cnn.training.trainer import Trainer

ROOT = Path(cnn.__file__).parent

TABLE = Path(__file__).parents[1] / "docs" / "architecture.md"


def table():
    """What each part may import, as the documentation says."""
    rows = re.findall(r"^\| `(\w+)` \|.*\|([^|]*)\|$", TABLE.read_text(), re.MULTILINE)
    return {part: {name.strip().replace("\\", "") for name in names.split(",")} - {""} for part, names in rows}


def place(path):
    """The name under which a file has its floor."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path):
    """Names, as `place` gives them, of what a file imports from cnn, anywhere in it; and other packages."""
    own, others = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                package = ("cnn", *path.relative_to(ROOT).parent.parts)
                module = ".".join([*package[: len(package) - node.level + 1], *filter(None, [module])])
            modules = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        for module in modules:
            first, *rest = module.split(".")
            if first != "cnn":
                others.add(first)
            elif rest and ((ROOT / rest[0]).is_dir() or (ROOT / f"{rest[0]}.py").is_file()):
                own.add(rest[0])
            else:
                own.add("__init__")
    return own, others


FILES = sorted(path for path in ROOT.rglob("*.py") if "__pycache__" not in path.parts)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_are_those_of_the_table(path):
    here = place(path)
    allowed = table()[here] | {here}
    # `from cnn import __version__` inside a function is the one thing that the roof has to give
    wrong = imported(path)[0] - allowed - ({"__init__"} if here == "runtime" else set())
    assert not wrong, f"cnn/{here} imports {sorted(wrong)}"


def test_the_table_has_every_part_and_no_more():
    used = {}
    for path in FILES:
        used.setdefault(place(path), set()).update(imported(path)[0] - {place(path)})
    used["runtime"].discard("__init__")
    assert table() == used


def test_the_table_has_no_circle():
    """Each part imports only from rows above its own."""
    above = set()
    for part, names in table().items():
        assert names <= above, f"{part} imports {sorted(names - above)}"
        above.add(part)


def test_the_check_of_imports_sees_them():
    assert imported(ROOT / "training" / "step.py")[0] >= {"engine", "graph", "layers"}
    assert imported(ROOT / "data" / "__init__.py")[0] == {"data"}
    assert imported(ROOT / "runtime.py")[0] == {"shapes", "_ext", "ranks", "streams", "__init__"}


LONGEST, LONGEST_KERNEL, MOST = 400, 500, 14     # lines of a file, files beside the folders


def test_files_are_short():
    """What is longer has parts, and each of them has a name."""
    kernels = [*ROOT.glob("_ext/*.pyx"), *ROOT.glob("_ext/*.pxd")]
    for path, most in (*((path, LONGEST) for path in FILES), *((path, LONGEST_KERNEL) for path in kernels)):
        assert len(path.read_text().splitlines()) <= most, path


def test_few_files_stand_beside_the_folders():
    assert len(list(ROOT.glob("*.py"))) <= MOST


def test_models_and_trainers_of_others_are_not_imported():
    for path in FILES:
        # these measure PyTorch, write its modules, and are estimators of scikit-learn
        if place(path) in ("bench", "sklearn") or path.name in ("bench.py", "pytorch.py", "pytorch_importing.py"):
            continue
        assert not imported(path)[1] & {"torch", "tensorflow", "keras", "scipy", "sklearn"}, path


def test_kernels_need_no_numpy_and_nothing_from_above():
    for path in [*ROOT.glob("_ext/*.pyx"), *ROOT.glob("_ext/*.pxd")]:
        code = path.read_text()
        for module in re.findall(r"^\s*(?:from\s+(\S+)\s+c?import|c?import\s+(\S+))", code, re.MULTILINE):
            allowed = ("cnn._ext.", "libc.", "cython", "cpython.", "weakref")
            assert "".join(module).startswith(allowed), f"{path}: {module}"


def test_what_is_imported_late_is_there():
    names = "evaluation", "export", "find_lr", "gradcheck", "load", "plots", "reference", "Predictor"
    for name in names:      # each alone: another may import it besides
        result = run_python("-c", f"import cnn; cnn.{name}")
        assert result.returncode == 0, result.stderr


def test_import_is_light():
    """Beyond NumPy, `import cnn` takes no other package, and little of the standard library: what takes long to import,
    or is seldom used, is imported where it is used."""
    code = """import sys, numpy
before = set(sys.modules)
import cnn
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))"""
    imported = set(run_python("-c", code).stdout.split()) - {"cnn", "numpy"}
    others = {name for name in imported - sys.stdlib_module_names if not re.match("_?cython", name)}
    assert not others, others
    assert not imported & {"csv", "dataclasses", "gzip", "hashlib", "tempfile", "unicodedata"}


# ------------------------------------------------------------------------------------------ kernels


def test_structs_have_the_same_size_on_both_sides():
    sizes = {name: getattr(compiling, name.upper()).itemsize for name in ("Op", "Address", "Segment")}
    assert sizes == _ext.executor.SIZES


class Turned(cnn.Module):
    def forward(self, x):
        return x.permute(0, 2, 3, 1).matmul(x.permute(0, 2, 1, 3))


class OneForAll(cnn.Module):
    def forward(self, x):
        return cnn.functional.where(x > 0, x, x[:, :1]) * x[:, :1]


def all_that_the_package_does():
    """Every row of the table as function and as layer, arithmetic of values, every optimizer, and training in all its
    variants."""
    for case in CASES:
        x, dy = case.arrays(17)
        by_function(functional, case.make(), x, dy)
        by_layer(case.make(), x, dy)
        by_layer(case.make(), x[:2], dy[:2])
        case.make().eval()(x[:1])
    x, dy = np.zeros((17, 1, 4, 4)), np.zeros((17, 32))
    # dy must be copied for its border
    by_layer(Sequential(Conv2d(1, 2, 3, padding=1), Flatten()).to(np.float64), x, dy)
    for inputs, outputs in ((1, 2), (5, 6)):
        x, dy = np.zeros((17, inputs, 6, 6)), np.zeros((17, outputs, 1, 1))
        by_layer(Sequential(Conv2d(inputs, outputs, 5), MaxPool2d(2)).to(np.float64), x, dy)
    for n in (2, 17):
        by_layer(Dividing().to(np.float64), np.ones((n, 3, 4, 4)), np.zeros((n, 2)))
    Sequential(Conv2d(1, 2, 3), BatchNorm2d(2)).to(np.float64).eval()(np.zeros((17, 1, 4, 4)))
    by_layer(OneForAll(), np.ones((3, 3, 4, 4)), np.ones((3, 3, 4, 4)))
    by_layer(Turned(), np.ones((3, 3, 4, 5)), np.ones((3, 4, 5, 5)))
    OneForAll().eval()(np.ones((3, 3, 4, 4)))
    shared = Linear(3, 3)
    by_layer(Sequential(shared, shared).to(np.float64), np.zeros((17, 3)), np.zeros((17, 3)))
    functional.cross_entropy(np.zeros((2, 3)), np.array([0, 1]))
    functional.mse_loss(np.zeros((2, 3)), np.zeros((2, 3)))
    linear = Sequential(Flatten(), Linear(4, 3))
    Trainer(linear, SGD(linear.parameters()), RowLoss(np.zeros((2, 3))), progress=False).fit(
        NumberedImages(np.zeros((2, 1, 2, 2), np.float32), [0], [1]), 1, batch_size=2)
    data = Dataset(np.zeros((5, 1, 4, 4), np.uint8), np.arange(5))
    for optimizer in cnn.optim.OPTIMIZERS.values():
        model = Sequential(Conv2d(1, 2, 3), Flatten(), Linear(8, 5), ReLU(), Dropout()).to(np.float64)
        trainer = cnn.Trainer(model, optimizer(model.parameters(), lr=0.01), max_grad_norm=1, progress=False)
        for batch in (5, 16):
            trainer.fit(DataLoader(data, batch, transform=RandomFlip()), 1, validation=data)
    cnn.EMA(model).update()
    cnn.Trainer(model, optimizer(model.parameters(), lr=0.01), cnn.NLLLoss(), progress=False).fit(data, 1)


def test_every_kernel_is_used(monkeypatch):
    used = set()
    write = compiling.Compiler._write

    def recording(compiler, row, kernel, *rest):
        used.add(kernel)
        return write(compiler, row, kernel, *rest)

    monkeypatch.setattr(compiling.Compiler, "_write", recording)
    thread = threading.Thread(target=all_that_the_package_does)  # a new thread has no programs compiled yet
    thread.start()
    thread.join()
    kernels = _ext.kernels(np.dtype(np.float64))
    unused = {"fma_peak"}  # what the processor could do at best, for benchmarks
    if kernels.correlate.tile_pixels(1) == 1:
        unused.add("scatter")  # only where tiles have several pixels
    assert used == set(_ext.executor.FILE_OF) - unused


def test_both_number_types_have_the_same_kernels():
    single, double = (_ext.kernels(np.dtype(dtype)) for dtype in (np.float32, np.float64))
    for name in _ext.executor.FILE_OF:
        fields = single.find(name).fields
        assert double.find(name)[1:] == single.find(name)[1:]
        kinds = list(fields.values())
        assert len(kinds) + 2 * kinds.count("image") <= compiling.OP["words"].shape[0]
        assert kinds.count("image") + kinds.count("array") <= compiling.OP["addresses"].shape[0]


# how the struct of a kernel may declare a field
KINDS = {r"(const )?\w+\*+ \w+": "array", r"(Image|Indices) \w+": "image", r"Py_ssize_t \w+(, \w+)*": "size",
         r"double \w+(, \w+)*": "number"}


def declared(struct, code):
    """(name, kind) of each field of a struct in the text of Cython files."""
    body = code.split(f"\nctypedef struct {struct}:", 1)[1].split("\n\n")[0].splitlines()[1:]
    for line in (line.split("#")[0].strip() for line in body):
        names = line.split(maxsplit=2 if line.startswith("const ") else 1)[-1].split(", ")
        kinds = [kind for pattern, kind in KINDS.items() if re.fullmatch(pattern, line)]
        if kinds:
            yield from ((name, kinds[0]) for name in names)
        else:
            yield from declared(line.split()[0], code)


def test_the_tables_of_kernels_say_what_their_structs_do():
    """Field for field, in their order: these are how Python writes into the structs."""
    shared, found = "".join(path.read_text() for path in ROOT.glob("_ext/*.pxd")), {}
    for path in ROOT.glob("_ext/*.pyx"):
        code = path.read_text()
        for kernel, struct in re.findall(r"\ncdef void ([^_]\w*)\(const (\w+)\* a, const Place\* place\)", code):
            found[kernel] = list(declared(struct, code + shared))
    find = _ext.kernels(np.dtype(np.float32)).find
    assert found == {kernel: list(find(kernel).fields.items()) for kernel in _ext.executor.FILE_OF}
    assert {kind for fields in found.values() for _, kind in fields} == {"array", "image", "size", "number"}
