"""C files on a Cortex-M3: compiled by arm-none-eabi-gcc, run by qemu (board mps2-an385)."""
import re
import shutil
import subprocess

import numpy as np
import pytest
from test_c_export import STRICT, exact, images

import cnn
from cnn import export

COMPILER, SIZE, QEMU = "arm-none-eabi-gcc", "arm-none-eabi-size", "qemu-system-arm"
FLAGS = [*STRICT, "-mcpu=cortex-m3", "-mthumb", "-Os"]
needs_compiler = pytest.mark.skipif(not shutil.which(COMPILER), reason=f"{COMPILER} is not installed")
needs_qemu = pytest.mark.skipif(not shutil.which(QEMU), reason=f"{QEMU} is not installed")

LINKING = """
MEMORY { flash (rx) : ORIGIN = 0, LENGTH = 4M  ram (rwx) : ORIGIN = 0x20000000, LENGTH = 4M }
SECTIONS {
    .text : { KEEP(*(.vectors)) *(.text*) *(.rodata*) *(.ARM.exidx*) } > flash
    .data : { *(.data*) } > ram
    .bss : { *(.bss*) *(COMMON) } > ram
}
"""
# prints the bits of the scores by semihosting: bkpt 0xAB with 4 (write a string) or 0x18 (exit) in r0
MAIN = """
#include "net.h"

static int semihost(int what, const void *with)
{
    register int r0 __asm__("r0") = what;
    register const void *r1 __asm__("r1") = with;
    __asm__ volatile ("bkpt 0xAB" : "+r" (r0) : "r" (r1) : "memory");
    return r0;
}

static const float x[COUNT][EACH] = {
#include "x.h"
};

void reset(void)
{
    static float y[10];
    for (int i = 0; i < COUNT; i++) {
        net_run(x[i], y);
        for (int k = 0; k < 10; k++) {
            union { float number; uint32_t bits; } as = { y[k] };
            char text[10] = "";
            for (int n = 0; n < 8; n++)
                text[n] = "0123456789abcdef"[as.bits >> (28 - 4 * n) & 15];
            text[8] = '\\n';
            semihost(4, text);
        }
    }
    semihost(0x18, (const void *)0x20026);
    for (;;) { }
}

__attribute__((section(".vectors"), used)) static void (*const vectors[])(void) = {
    (void (*)(void))0x20400000, reset, reset, reset,
};
"""


def on_arm(folder, x):
    """The scores that net.c gives for images (n, ...) on a Cortex-M3."""
    (folder / "main.c").write_text(MAIN)
    (folder / "net.ld").write_text(LINKING)
    rows = (", ".join(f"{n:.9e}f" for n in row) for row in x.reshape(len(x), -1).tolist())
    (folder / "x.h").write_text(",\n".join(f"{{{row}}}" for row in rows) + "\n")
    flags = [flag for flag in FLAGS if flag not in ("-pedantic", "-std=c99")]
    subprocess.run([COMPILER, *FLAGS, "-c", "net.c"], cwd=folder, check=True, timeout=120)
    subprocess.run([COMPILER, *flags, "-std=gnu99", f"-DCOUNT={len(x)}", f"-DEACH={x[0].size}", "main.c", "net.o", "-o",
                    "main.elf", "-nostartfiles", "--specs=nano.specs", "--specs=nosys.specs", "-T", "net.ld", "-lm"],
                   cwd=folder, check=True, timeout=120)
    run = subprocess.run([QEMU, "-M", "mps2-an385", "-nographic", "-semihosting-config", "enable=on,target=native",
                          "-kernel", "main.elf"], cwd=folder, capture_output=True, stdin=subprocess.DEVNULL,
                         timeout=120)
    bits = [int(word, 16) for word in re.findall(rb"^[0-9a-f]{8}$", run.stdout + run.stderr, re.M)]
    return np.array(bits, np.uint32).view(np.float32).reshape(len(x), 10)


@needs_compiler
@needs_qemu
def test_int8_has_the_twins_bits(tmp_path):
    model, x = cnn.models.resnet20(channels=(4, 6, 8), image_size=16, blocks=1), images((4, 3, 16, 16))
    network = export.c(model, tmp_path / "net.c", (3, 16, 16), calibration=x)["network"]
    x = np.concatenate([x, 4 * images((2, 3, 16, 16), 1)])
    assert on_arm(tmp_path, x).tobytes() == network(x).tobytes()


@needs_compiler
@needs_qemu
def test_float32_is_near_python(tmp_path):
    model, x = cnn.models.lenet5(), images((2, 1, 28, 28))
    export.c(model, tmp_path / "net.c", (1, 28, 28))
    wanted = np.stack([exact(model, image)[0] for image in x])
    np.testing.assert_allclose(on_arm(tmp_path, x), wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@needs_compiler
@pytest.mark.parametrize("calibrated", [False, True])
def test_lenet5_is_small(tmp_path, calibrated):
    calibration = images((4, 1, 28, 28)) if calibrated else None
    told = export.c(cnn.models.lenet5(), tmp_path / "net.c", (1, 28, 28), mean=[0.13], std=[0.31],
                    calibration=calibration)
    subprocess.run([COMPILER, *FLAGS, "-c", "net.c"], cwd=tmp_path, check=True, timeout=120)
    table = subprocess.run([SIZE, "-A", "net.o"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    found = {name: int(size) for name, size in re.findall(r"^\.(\w+)\s+(\d+)", table, re.M)}
    assert found["text"] <= 8000 and found["bss"] <= 16000
    assert 0 <= found["bss"] - told["memory"] <= 8
    assert 0 <= found["rodata"] - told["weights"] <= 400         # constants within functions: the table of pixels
