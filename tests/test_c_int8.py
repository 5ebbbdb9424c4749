"""Networks in int8: the C files and their twin in NumPy give the same bits, which are near float32."""
import subprocess
from fractions import Fraction

import numpy as np
import pytest
from test_c_export import COMPILERS, STRICT, awake, images

import cnn
from cnn import export
from cnn.reference import int8

needs_gcc = pytest.mark.skipif("gcc" not in COMPILERS, reason="gcc is not installed")


def rounded(x, m, shift):
    """x m 2^(shift - 31) by fractions, as gemmlowp rounds."""
    product = Fraction(x * 2**max(shift, 0) * m, 2**31)
    high = int(product + Fraction(1, 2)) if product >= 0 else -int(-product + Fraction(1, 2) - Fraction(1, 2**31))
    right = max(-shift, 0)
    away = int(abs(Fraction(high, 2**right)) + Fraction(1, 2))
    return away if high >= 0 else -away


def test_multiplied_rounds_as_gemmlowp():
    rng = np.random.default_rng(0)
    cases = [(int(x), int(m), int(s)) for x, m, s in zip(
        rng.integers(-2**23, 2**23, 300), rng.integers(2**30, 2**31, 300), rng.integers(-31, 7, 300), strict=True)]
    cases += [(x, 2**30, s) for x in range(-9, 10) for s in (-3, -2, -1, 0, 1)]       # halves
    for x, m, shift in cases:
        assert int8.multiplied(x, m, shift) == rounded(x, m, shift), (x, m, shift)


def test_multiplier():
    for factor in (1.0, 0.75, 3.2e-5, 1 - 2**-40, 17.3):
        m, shift = int8.multiplier(factor)
        assert 2**30 <= m < 2**31 and abs(m * 2.0**(shift - 31) / factor - 1) < 2**-30
    assert int8.multiplier(0.0) == int8.multiplier(1e-30) == (0, 0)


def test_quantise_rounds_and_clips():
    x = np.array([-1e30, -1.5, -0.5, 0.5, 1.49, 2.5, 1e30], np.float32)
    assert int8.quantise(x, 1.0, 3).tolist() == [-128, 1, 2, 4, 4, 6, 127]
    assert int8.dequantise(np.array([-128, 3], np.int8), 0.5, 3).tolist() == [-65.5, 0.0]


def various():
    """A network with every operation that int8 has."""
    net = cnn.Sequential(
        cnn.Conv2d(3, 8, 3, padding=1, seed=1), cnn.BatchNorm2d(8), cnn.ReLU(), cnn.MaxPool2d(2),
        cnn.Residual(cnn.Sequential(cnn.Conv2d(8, 8, 3, padding=1, groups=8, seed=2), cnn.ReLU(),
                                    cnn.Conv2d(8, 8, 1, seed=3)), cnn.ReLU()),
        cnn.Concat(cnn.Conv2d(8, 6, 3, padding=2, dilation=2, groups=2, seed=4), cnn.MaxPool2d(3, 1, 1),
                   cnn.Sequential(cnn.AvgPool2d(3, 1, 1), cnn.ReLU())),
        cnn.Conv2d(22, 9, (3, 2), stride=(2, 1), dilation=(1, 2), seed=5), cnn.MaxPool2d(3, 2, 1),
        Halves(), cnn.Flatten(), cnn.Linear(18, 20, seed=6), cnn.ReLU(), cnn.Linear(20, 7, seed=7), cnn.Softmax(1))
    return awake(net)


class Halves(cnn.Module):
    """Channels in another order, and a shape that moves them."""

    def forward(self, x):
        x = cnn.functional.cat([x[:, 4:], x[:, :4]])
        return x.reshape(-1, x.shape[2], x.shape[1], x.shape[3])


MAIN = """#include <stdio.h>
#include "net.h"
int main(void)
{
    static float x[SIZE], y[OUT];
    while (fread(x, sizeof *x, SIZE, stdin) == SIZE) {
        net_run(x, y);
        fwrite(y, sizeof *y, OUT, stdout);
    }
    return 0;
}
"""


def run(folder, x, out, compiler, *options):
    (folder / "main.c").write_text(MAIN)
    sizes = [f"-DSIZE={x[0].size}", f"-DOUT={out}"]
    subprocess.run([compiler, *STRICT, *options, *sizes, "main.c", "net.c", "-o", "main", "-lm"], cwd=folder,
                   check=True, timeout=300)
    y = subprocess.run([folder / "main"], input=x.tobytes(), capture_output=True, check=True, timeout=60).stdout
    return np.frombuffer(y, np.float32).reshape(len(x), out)


@pytest.mark.parametrize(("compiler", "options"), [
    ("gcc", ["-O3", "-march=native"]), pytest.param("clang", ["-O2"], marks=pytest.mark.thorough), pytest.param(
        "gcc", ["-O1", "-fsanitize=undefined", "-fno-sanitize-recover=all"], marks=pytest.mark.thorough)])
def test_every_operation_has_its_twins_bits(tmp_path, compiler, options):
    if compiler not in COMPILERS:
        pytest.skip(f"{compiler} is not installed")
    net, x = various(), images((21, 3, 12, 10))
    found = export.c(net, tmp_path / "net.c", (3, 12, 10), calibration=x)
    x = np.concatenate([x, 3 * images((9, 3, 12, 10), 1)])      # beyond what was calibrated
    y = run(tmp_path, x, 7, compiler, *options)
    wanted = found["network"](x)
    np.testing.assert_allclose(y, wanted, rtol=1e-5)        # expf differs between libraries, nothing else does
    np.testing.assert_allclose(y[:21], net(x[:21]), atol=0.05)
    assert all(error < 0.05 for _, error in found["layers"])


@needs_gcc
def test_scores_have_the_same_bits(tmp_path):
    net, x = cnn.Sequential(*list(various())[:-1]).eval(), images((5, 3, 12, 10))
    network = export.c(net, tmp_path / "net.c", (3, 12, 10), calibration=x)["network"]
    x = np.concatenate([x, 3 * images((9, 3, 12, 10), 1)])
    assert run(tmp_path, x, 7, "gcc", "-O2").tobytes() == network(x).tobytes()


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_small", "vgg_small"])
@needs_gcc
def test_models_have_the_same_bits(tmp_path, name):
    net = awake(cnn.models.MODELS[name](channels=(4, 6, 8), image_size=16))
    x = images((3, 3, 16, 16))
    network = export.c(net, tmp_path / "net.c", (3, 16, 16), calibration=x)["network"]
    assert run(tmp_path, x, 10, "gcc", "-O1").tobytes() == network(x).tobytes()


def test_refusals(tmp_path):
    x = images((2, 3, 8, 8))
    with pytest.raises(ValueError, match="module '1': there is no row for gelu in int8"):
        export.c(cnn.Sequential(cnn.Conv2d(3, 4, 3), cnn.GELU()), tmp_path / "net.c", (3, 8, 8), calibration=x)
    net = cnn.Sequential(cnn.Conv2d(3, 4, 3))
    for wrong in (x.astype(np.float64), x[:0], x[:, :2]):
        with pytest.raises(ValueError, match="calibration must be float32 images"):
            export.c(net, tmp_path / "net.c", (3, 8, 8), calibration=wrong)
    net[0].bias.data[:] = 1e30
    with pytest.raises(ValueError, match="module '0': conv2d: its sums may reach"):
        export.c(net, tmp_path / "net.c", (3, 8, 8), calibration=x * 1e-9)
    assert not list(tmp_path.iterdir())
