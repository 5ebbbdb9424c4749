"""C files: compiled by what is installed, and compared with the model in float64."""
import itertools
import shutil
import subprocess

import cases
import numpy as np
import pytest

import cnn
from cnn import export
from cnn.commands import export as command
from cnn.export import c_rows
from cnn.layers.graph_module import OPERATIONS

STRICT = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror"]
COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]
needs_gcc = pytest.mark.skipif("gcc" not in COMPILERS, reason="gcc is not installed")


def images(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def scores(folder, networks, compiler="gcc", options=("-O1",), predict=None):
    """The scores of several networks: (name, inputs of one image, sizes of the outputs) -> lists of arrays. All are
    compiled into one program."""
    lines = ["#include <stdio.h>", *(f'#include "{name}.h"' for name, *_ in networks), "int main(void)", "{"]
    data = b""
    for name, inputs, outputs in networks:
        lines += ["    {"]
        names = []
        for i, x in enumerate(inputs):
            lines += [f"        static float x{i}[{x.size}];",
                      f"        if (fread(x{i}, sizeof *x{i}, {x.size}, stdin) != {x.size}) return 1;"]
            names.append(f"x{i}")
            data += np.ascontiguousarray(x, np.float32).tobytes()
        lines += [f"        static float y{i}[{size}];" for i, size in enumerate(outputs)]
        names += [f"y{i}" for i in range(len(outputs))]
        lines += [f"        {name}_run({', '.join(names)});",
                  *(f"        fwrite(y{i}, sizeof *y{i}, {size}, stdout);" for i, size in enumerate(outputs)), "    }"]
    (folder / "main.c").write_text("\n".join([*lines, "    return 0;", "}", ""]))
    sources = ["main.c", *(f"{name}.c" for name, *_ in networks)]
    subprocess.run([compiler, *STRICT, *options, *sources, "-o", "main", "-lm"], cwd=folder, check=True,
                   timeout=300)
    out = subprocess.run([folder / "main"], input=data, capture_output=True, check=True, timeout=60).stdout
    found, at = [], np.frombuffer(out, np.float32)
    for _, _, outputs in networks:
        found.append([])
        for size in outputs:
            found[-1].append(at[:size])
            at = at[size:]
    assert not len(at)
    return found


def awake(model, seed=0):
    """The model with running statistics and norms that do something, in float32."""
    rng = np.random.default_rng(seed)
    for name, array in model.named_buffers():
        if name.endswith("running_mean"):
            array[:] = rng.normal(0, 0.3, array.shape)
        elif name.endswith("running_var"):
            array[:] = rng.uniform(0.5, 2, array.shape)
    for p in model.parameters():
        if len(p.shape) == 1:
            p.data[:] += rng.normal(0, 0.2, p.shape)
    return model.eval()


def exact(model, *xs):
    """What the model makes of one image in float64."""
    return model.to(np.float64)(*(x[None].astype(np.float64) for x in xs))


def assert_near(got, wanted, tolerance=1e-5):
    wanted = np.asarray(wanted)
    assert got.size == wanted.size
    np.testing.assert_allclose(got, wanted.ravel(), rtol=0, atol=tolerance * np.abs(wanted).max())


class Together(cnn.Module):
    """Each layer on an input of its own: many networks in one file."""

    def __init__(self, layers):
        super().__init__()
        self.layers = layers
        for i, layer in enumerate(layers):
            setattr(self, f"layer{i}", layer)

    def forward(self, *xs):
        return tuple(layer(x) for layer, x in zip(self.layers, xs, strict=True))


@pytest.mark.parametrize("compiler", ["gcc", pytest.param("clang", marks=pytest.mark.thorough)])
def test_every_case(tmp_path, compiler):
    if compiler not in COMPILERS:
        pytest.skip(f"{compiler} is not installed")
    together = Together([awake(case.make(np.float32)) for case in cases.CASES])
    xs = [case.arrays(1, np.float32)[0][0] for case in cases.CASES]
    export.c(together, tmp_path / "all.c", *(x.shape for x in xs))
    found, = scores(tmp_path, [("all", xs, [int(np.prod(case.out)) for case in cases.CASES])], compiler, ["-O0"])
    for case, layer, x, y in zip(cases.CASES, together.layers, xs, found, strict=True):
        try:
            assert_near(y, exact(layer, x))
        except AssertionError as error:
            raise AssertionError(f"{case}: {error}") from None


class Branches(cnn.Module):
    """Two inputs and two outputs, arithmetic that repeats, sums, slices and shapes."""

    def __init__(self):
        super().__init__()
        self.bias = cnn.Parameter(np.linspace(-1, 1, 6, dtype=np.float32).reshape(6, 1, 1))

    def forward(self, x, z):
        y = x * z - self.bias
        y = y / (1 + cnn.functional.sigmoid(z.mean(dim=(2, 3), keepdim=True)))
        y = cnn.functional.relu(y + 0.1) + 3 / (2 + cnn.functional.sigmoid(y))
        moved = y.reshape(-1, 3, 8, 5)
        return {"map": moved[:, 1:3], "sums": (2 - y).sum(dim=3, keepdim=True).flatten()}


def test_inputs_outputs_and_shapes(tmp_path):
    model = Branches()
    xs = [images((6, 4, 5)), images((6, 4, 5), 1)]
    export.c(model, tmp_path / "branches.c", *(x.shape for x in xs))
    wanted = exact(model, *xs)
    got, = scores(tmp_path, [("branches", xs, [80, 24])])
    assert_near(got[0], wanted["map"])
    assert_near(got[1], wanted["sums"])


class Turned(cnn.Module):
    def forward(self, x):
        plane = x.mean(dim=1)
        return {f"{order}": (x * 1).permute((0, *order)) for order in itertools.permutations((1, 2, 3))} | {
            "plane": plane.transpose(1, 2), "pairs": plane.transpose(1, 2) @ plane, "heads": x @ x.transpose(2, 3)}


def test_axes_in_another_order(tmp_path):
    x = images((3, 4, 5))
    export.c(Turned(), tmp_path / "turned.c", x.shape)
    plane = x.mean(0)
    wanted = [x.transpose([axis - 1 for axis in order]) for order in itertools.permutations((1, 2, 3))]
    wanted += [plane.T, plane.T @ plane, x @ x.swapaxes(1, 2)]
    got, = scores(tmp_path, [("turned", [x], [y.size for y in wanted])])
    for part, whole in zip(got, wanted, strict=True):
        assert_near(part, whole)


class Everything(cnn.Module):
    """What no layer of the cases does, on an image and on planes of it."""

    def __init__(self):
        super().__init__()
        self.scale = cnn.Parameter(np.linspace(0.5, 1.5, 4, dtype=np.float32))
        self.token = cnn.Parameter(np.linspace(-1, 1, 5, dtype=np.float32).reshape(1, 1, 5))

    def forward(self, x):
        F, (row, column, plane) = cnn.functional, (x[:, :, 1:2], x[:, :, :, 2:3], x[:, 1])
        attention = (plane @ plane.transpose(1, 2) / 2).softmax(-1) @ plane
        return {
            "maximum": F.maximum(x, row), "minimum": F.minimum(column, row), "greater": (x > row).float(),
            "less": (x <= column).float(), "equal": (x.relu() == 0).float(), "other": (x.relu() != 0).float(),
            "where": F.where(x > 0.2, row, column), "cube": x ** 3, "root": F.pow(x.abs(), 0.3),
            "turns": x.sin() * x.cos(), "amax": x.amax((2, 3)), "amin": x.amin(1), "rows": x.amax(2, keepdim=True),
            "low": plane.amin(1), **{f"softmax{d}": x.softmax(d) for d in (1, 2, 3)},
            **{f"logs{d}": x.log_softmax(d) for d in (2, 3)},
            "softmax of rows": plane.softmax(1), "softmax of columns": plane.log_softmax(2), "attention": attention,
            **{f"cat{d}": cnn.cat([x, x * 2], d) for d in (1, 2, 3)}, "stacked": F.stack([plane, -plane], 1),
            "cat of rows": cnn.cat([self.token.expand(x.size(0), -1, -1), plane], 1),
            "cat of columns": cnn.cat([plane, plane[:, :, 1:3]], 2), "steps": x[:, :, ::2, 1::3],
            "some rows": plane[:, 1:3], "some columns": plane[:, :, 1:4], "vector": x.mean((2, 3))[:, 1:3],
            "order": x[:, [2, 0, 3, 1]], "part": x[:, 1:3],
            "low border": F.pad(x, (1, 2, 0, 1), value=-np.inf).clamp(-3),
            "cut": F.pad(x, (-1, 1, 2, -1), mode="replicate"),
            "large": F.interpolate(x, (7, 9), mode="bilinear"), "near": F.interpolate(x, scale_factor=2),
            "learned": F.softmax(self.scale, 0)[0] * x + self.scale[:, None, None].exp(),
        }


def test_every_operation_has_a_row():
    left = {name for name in OPERATIONS if name not in c_rows.TABLE}
    assert left == {"detach", "dropout", "parameter", "store"}     # nothing in evaluation mode, and a constant


@needs_gcc
@pytest.mark.parametrize("compiler", COMPILERS)
def test_what_no_layer_does(tmp_path, compiler):
    x = images((4, 3, 5))
    model = Everything().eval()
    export.c(model, tmp_path / "all.c", x.shape)
    wanted = exact(model, x)
    got, = scores(tmp_path, [("all", [x], [y.size for y in wanted.values()])], compiler, ["-O2"])
    for (name, whole), part in zip(wanted.items(), got, strict=True):
        try:
            assert_near(part, whole)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None


class Repeated(cnn.Module):
    """Equal functions, called with other places in memory: gcc 12 at -O2 took one for the other."""

    def __init__(self):
        super().__init__()
        self.blocks = cnn.ModuleList([cnn.Linear(6, 18, seed=i) for i in range(2)])

    def forward(self, x):
        y = x
        for _ in range(3):
            y = y.transpose(2, 3).transpose(1, 3) * 0.5
        z = x[:, :, 0].repeat(1, 1, 2)[:, :, :6]
        for block in self.blocks:
            q, k, v = block(z).chunk(3, -1)
            q, k, v = (part.view(-1, 4, 2, 3).transpose(1, 2) for part in (q, k, v))
            z = z + cnn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, 4, 6)
        return {"turned": y, "attention": z}


@needs_gcc
@pytest.mark.parametrize("level", ["-O0", "-O1", "-O2", "-O3", "-Os"])
@pytest.mark.parametrize("compiler", COMPILERS)
def test_equal_functions_are_told_apart(tmp_path, compiler, level):
    x = images((4, 4, 4))
    model = Repeated().eval()
    export.c(model, tmp_path / "all.c", x.shape)
    wanted = exact(model, x)
    got, = scores(tmp_path, [("all", [x], [y.size for y in wanted.values()])], compiler, [level])
    for whole, part in zip(wanted.values(), got, strict=True):
        assert_near(part, whole)


class LongSums(cnn.Module):
    def forward(self, x):
        F = cnn.functional
        return {"mean": x.mean((2, 3)), "sum": x.sum((1, 2, 3)), "rows": x.sum(3), "columns": x.mean(2),
                "channels": x.sum(1), "pool": F.adaptive_avg_pool2d(x, 1), "vector": F.normalize(x.flatten(1)),
                **{f"groups{n}": F.group_norm(x, n) for n in (1, 2)}, "layer": F.layer_norm(x, tuple(x.shape[1:])),
                "turned": x.clamp(1, -1)}


@needs_gcc
@pytest.mark.parametrize("x", [np.full((2, 224, 224), 0.7, np.float32), 10 + images((2, 224, 224))])
def test_long_sums_are_precise(tmp_path, x):
    """100,000 numbers added one after the other in float32 were wrong by 5e-4, and a norm of equal ones by 0.1."""
    model = LongSums().eval()
    export.c(model, tmp_path / "all.c", x.shape)
    wanted = exact(model, x)
    got, = scores(tmp_path, [("all", [x], [y.size for y in wanted.values()])], "gcc", ["-O1"])
    for (name, whole), part in zip(wanted.items(), got, strict=True):
        error = np.abs(part - whole.ravel()).max()
        assert error <= 1e-5 * max(np.abs(whole).max(), 0.1), (name, error)


@needs_gcc
def test_norms_of_equal_numbers_are_nothing(tmp_path):
    """A mean that is off by a last digit gave 1e-4."""
    x = np.full((3, 3, 7), 0.3, np.float32) * np.float32([[[1]], [[7]], [[1 / 9]]])
    model = Normed().eval()
    export.c(model, tmp_path / "all.c", x.shape)
    got, = scores(tmp_path, [("all", [x], [y.size for y in exact(model, x).values()])])
    assert not any(part.any() for part in got)


class Normed(cnn.Module):
    def forward(self, x):
        return {"channels": cnn.functional.group_norm(x, 3), "rows": cnn.functional.layer_norm(x, (7,)),
                "images": cnn.functional.instance_norm(x)}


@needs_gcc
def test_a_kernel_that_reaches_nothing_leaves_the_bias(tmp_path):
    model = cnn.Sequential(cnn.ConvTranspose2d(5, 2, (1, 2), stride=(2, 3), padding=1, dilation=2))
    model[0].bias.data = [1, 2]
    x = images((5, 3, 1))
    export.c(model.eval(), tmp_path / "all.c", x.shape)
    wanted = exact(model, x)
    got, = scores(tmp_path, [("all", [x], [wanted.size])])
    assert_near(got[0], wanted)


MODELS = {
    "lenet5": {}, "cifar_quick": {}, "vgg_small": {"channels": (8, 12)}, "resnet9": {"channels": (8, 12, 16, 20)},
    "resnet20": {"channels": (4, 6, 8), "blocks": 1}, "mobilenet_small": {"channels": (8, 12, 16)},
    "cifar_net": {"channels": (8, 12, 16)}, "efficientnet_lite0": {"num_classes": 10, "image_size": 32},
}


@needs_gcc
@pytest.mark.parametrize("large", [pytest.param(large, marks=pytest.mark.thorough) for large in (False, True)])
def test_every_model(large, tmp_path):
    assert set(MODELS) == set(cnn.models.MODELS)
    networks, models = [], []
    for name, options in MODELS.items():
        if (name == "efficientnet_lite0") != large:     # 60 MB of C
            continue
        model = awake(cnn.models.MODELS[name](**options))
        shape = (1, 28, 28) if name == "lenet5" else (3, 32, 32)
        export.c(model, tmp_path / f"{name}.c", shape)
        networks.append((name, [images(shape)], [10]))
        models.append(model)
    found = scores(tmp_path, networks, options=["-O0"])
    for model, (_, xs, _), (y,) in zip(models, networks, found, strict=True):
        assert_near(y, exact(model, *xs))


class Shapeless(cnn.Module):
    """Outputs that are inputs, twice the same value, read again, and of no input."""

    def __init__(self):
        super().__init__()
        self.bias = cnn.Parameter(np.arange(6, dtype=np.float32).reshape(2, 3, 1))

    def forward(self, x, unread):
        y = cnn.functional.relu(x)
        flat = y.flatten()
        return {"x": x, "y": y, "again": y, "later": y + x * self.bias, "flat": flat, "more": cnn.functional.tanh(flat)}


@needs_gcc
def test_outputs_that_are_other_values(tmp_path):
    model, xs = Shapeless(), [images((2, 3, 4)), images((5,), 1)]
    export.c(model, tmp_path / "net.c", *(x.shape for x in xs))
    found, = scores(tmp_path, [("net", xs, [24] * 6)])
    for y, wanted in zip(found, exact(model, *xs).values(), strict=True):
        assert_near(y, wanted)


PREDICT = """#include <stdio.h>
#include "two words.h"
int main(void)
{
    static uint8_t pixels[3 * 6 * 5];
    float y[2];
    if (fread(pixels, 1, sizeof pixels, stdin) != sizeof pixels) return 1;
    two_words_predict(pixels, y);
    fwrite(y, sizeof *y, 2, stdout);
    for (int k = 0; k < TWO_WORDS_CLASSES; k++)
        puts(two_words_classes[k]);
    return 0;
}
"""


@needs_gcc
@pytest.mark.parametrize("unit", ["uint8", "float32"])
@pytest.mark.parametrize("calibrated", [False, True])
def test_predict_takes_pixels(tmp_path, unit, calibrated):
    net = cnn.Sequential(cnn.Conv2d(3, 4, 3, seed=0), cnn.ReLU(), cnn.Flatten(), cnn.Linear(48, 2, seed=1)).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 6, 5), dtype=np.uint8)
    mean, std = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.25, 0.3])
    if unit == "float32":
        mean, std = 255 * mean, 255 * std
    whole = pixels / 255 if unit == "uint8" else pixels.astype(float)
    x = ((whole - mean.reshape(3, 1, 1)) / std.reshape(3, 1, 1)).astype(np.float32)
    names = ['a "cat"\n??/', "Bär*/\\"]
    found = export.c(net, tmp_path / "two words.c", (3, 6, 5), classes=names, mean=mean, std=std, pixels=unit,
                     calibration=x[None] if calibrated else None)
    (tmp_path / "main.c").write_text(PREDICT)
    subprocess.run(["gcc", *STRICT, "main.c", "two words.c", "-o", "main", "-lm"], cwd=tmp_path, check=True)
    out = subprocess.run([tmp_path / "main"], input=pixels.tobytes(), capture_output=True, check=True).stdout
    assert out[8:].decode() == "".join(f"{name}\n" for name in names)
    y = np.frombuffer(out[:8], np.float32)
    assert_near(y, exact(net, x), 0.05 if calibrated else 1e-5)
    if calibrated:
        net.to(np.float32)
        assert y.tobytes() == found["network"](x[None]).tobytes()


def test_memory_is_shared_by_values_that_do_not_live_together(tmp_path):
    layers = [cnn.Linear(100, 100, seed=0), cnn.Tanh()] * 5
    assert export.c(cnn.Sequential(*layers, cnn.Linear(100, 3)), tmp_path / "net.c", (100,))["memory"] == 2 * 400
    wide = cnn.Sequential(cnn.Conv2d(1, 8, 1), cnn.Residual(cnn.Sequential(cnn.Conv2d(8, 8, 1), cnn.ReLU())),
                          cnn.GlobalAvgPool2d())
    told = export.c(wide, tmp_path / "net.c", (1, 10, 10))
    assert told["memory"] == 2 * 8 * 100 * 4        # the sum is written over one of its summands


def test_same_file_for_the_same_model(tmp_path):
    for name in ("a", "b"):
        export.c(cnn.models.resnet20(channels=(2, 3, 4)), tmp_path / f"{name}.c", (3, 32, 32), name="net")
    a, b = ((tmp_path / f"{name}.c").read_text().replace('"b.h"', '"a.h"') for name in ("a", "b"))
    assert a == b and max(map(len, a.splitlines())) < 200


class Doubled(cnn.Module):
    """A layer in NumPy."""

    def forward(self, x):
        return 2 * x

    def backward(self, dy):
        return 2 * dy


def test_refusals(tmp_path):
    net, path = cnn.Sequential(cnn.Conv2d(1, 2, 3)), tmp_path / "net.c"
    with pytest.raises(TypeError, match="image_shapes must be one"):
        export.c(net, path)
    with pytest.raises(ValueError, match="x must have shape"):
        export.c(net, path, (1, 2))
    with pytest.raises(ValueError, match=r"path must not end with \.h"):
        export.c(net, tmp_path / "net.h", (1, 5, 5))
    with pytest.raises(TypeError, match="classes must be a list of texts"):
        export.c(net, path, (1, 5, 5), classes="ab")
    with pytest.raises(ValueError, match="classes must have 10 names, one for each output, got 1"):
        export.c(cnn.models.lenet5(), path, (1, 28, 28), classes=["a"])
    with pytest.raises(ValueError, match="mean and std must be given together"):
        export.c(net, path, (1, 5, 5), mean=[0.5])
    with pytest.raises(ValueError, match="std must have 1 numbers"):
        export.c(net, path, (1, 5, 5), mean=[0.5], std=[1, 2])
    with pytest.raises(ValueError, match="pixels must be"):
        export.c(net, path, (1, 5, 5), pixels="int")
    with pytest.raises(TypeError, match="name must be a text"):
        export.c(net, path, (1, 5, 5), name=3)
    with pytest.raises(ValueError, match="module '1': there is no row for Doubled in C"):
        export.c(cnn.Sequential(cnn.ReLU(), Doubled()), path, (1, 5, 5))
    net[0].weight.data[0, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="module '0': conv2d: its constants must be finite in float32, got nan"):
        export.c(net, path, (1, 5, 5))
    assert not list(tmp_path.iterdir())


@pytest.mark.thorough
def test_the_command(tmp_path, capsys):
    arguments = {"in_channels": 1, "num_classes": 10, "image_size": 28}
    model = cnn.models.lenet5(**arguments)
    cnn.save_model(tmp_path / "model.safetensors", model, {
        "model": "lenet5", "arguments": arguments, "classes": list("0123456789"), "mean": [0.13], "std": [0.31],
        "dataset": "mnist-sample"})
    assert command.main([str(tmp_path), "--to", "c"]) is None
    assert "246.8 kB of weights, 8.6 kB of memory" in capsys.readouterr().out
    assert "void model_predict(" in (tmp_path / "model.h").read_text()
    assert command.main([str(tmp_path), "--to", "c", "--int8", "--calibration", "64", "--split", "test"]) is None
    out = capsys.readouterr().out
    assert "relative error of each layer in int8:" in out and "% in float32, " in out and "test images" in out
    assert "static int8_t memory[" in (tmp_path / "model.c").read_text()
    with pytest.raises(SystemExit):
        command.main([str(tmp_path), "--to", "html", "--int8"])
    assert "--int8 goes with --to c only" in capsys.readouterr().err
