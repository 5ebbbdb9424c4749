"""Builds the kernels: every module of cnn/_ext, for each instruction set and each number type.

Cython turns each .pyx into C once. That C is then compiled several times, with other flags, into
cnn/_ext/<instruction set>_<number type>/, and cnn/_ext/__init__.py chooses when it is imported.

    CNN_VARIANTS   a comma-separated choice of baseline,avx2,avx512, or "all"; default: the baseline, and the best that
                   this machine can run. Packages for other machines need "all".
    CNN_NATIVE=1   also tune for the processor at hand (the build then fits no other)
    CNN_DEBUG=1    turn on Cython's bounds checks
    CNN_SANITIZE   a comma-separated choice of address,undefined,thread: sanitizers, or delays: threads that lose their
                   cores at bad moments; see scripts/sanitize.sh
    CNN_WIDE=1     give all instruction sets the vectors and register tiles of AVX-512, to test these anywhere
"""
import hashlib
import os
import platform
import re
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import Cython
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# The files of kernels, by the module that they are compiled into. Python's part of a module takes the compiler 0.2 s,
# once for each instruction set and number type.
MODULES = {
    "direct": ("correlate", "scatter", "conv_dw", "linear_dw", "matmul"),
    "channelwise": ("conv_channels", "winograd_channels", "depthwise", "conv1x1", "conv1x1_dw"),
    "winograd": ("winograd", "winograd_dw", "winograd_rows"),
    "norms": ("norm", "group_norm", "layer_norm", "layer_norm2d", "local_norm"),
    "values": ("pool", "pointwise", "softmax", "arithmetic", "moving", "loss", "pack", "update", "channels"),
    "maps": ("maps",),
    "augment": ("augment",),
}
TILE_MODULES = ("direct", "channelwise", "winograd")    # they are made of register tiles
UNTYPED_MODULES = ("augment",)      # they are compiled once, as those of float32
SOURCES = Path("cnn/_ext")
GENERATED = Path("build/cython")

# What a field of a kernel's struct may be, by its type in C; pointers are arrays.
FIELDS = {"Image": "image", "Indices": "image", "Py_ssize_t": "size", "double": "number"}

X86 = platform.machine().lower() in ("x86_64", "amd64")
INSTRUCTION_SETS = {"baseline": []}
if X86:
    INSTRUCTION_SETS["avx2"] = ["-mavx2", "-mfma", "-mprfchw"]
    INSTRUCTION_SETS["avx512"] = ["-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mfma", "-mprfchw"]
COMPILER = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
NUMBER_TYPES = {"float32": ("float", "32"), "float64": ("double", "64")}

# The baseline is a way out where a better build cannot run: it need not take long to compile, not even to unroll PROOF.
WAY_OUT = ["-O1", "-fno-peel-loops"]
# No -ffast-math: NaN and Inf keep their meaning, and a library linked with it makes the whole
# process flush denormals (GCC before 13).
FLAGS = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-fno-strict-aliasing", "-g0"]
if os.environ.get("CNN_NATIVE") == "1":
    FLAGS.append("-march=native" if X86 else "-mcpu=native")
if os.environ.get("CNN_WIDE") == "1":
    FLAGS += ["-DCNN_WIDE", "-Wno-psabi"]
# Python compiles extensions with -fwrapv, which would hide signed overflow.
SANITIZERS = {"address": ["-fsanitize=address"], "thread": ["-fsanitize=thread"], "delays": ["-DCNN_DELAYS"],
              "undefined": ["-fsanitize=undefined,float-cast-overflow", "-fno-sanitize-recover=all", "-fno-wrapv"]}
if "CNN_SANITIZE" in os.environ:
    wanted = os.environ["CNN_SANITIZE"].split(",")
    if set(wanted) - set(SANITIZERS):
        sys.exit(f"CNN_SANITIZE: there are {', '.join(SANITIZERS)}, got {os.environ['CNN_SANITIZE']}")
    # the run-time libraries are not linked: they have to be loaded before Python
    FLAGS += [*(flag for name in wanted for flag in SANITIZERS[name]), "-O1", "-g1", "-fno-omit-frame-pointer"]
# A register tile has up to 24 accumulators, and is one only where the loops over them are unrolled wholly.
# By themselves GCC stops at 16 rounds and Clang earlier (LeNet-5, AVX-512: 21,000 instead of 81,000 images/s).
UNROLL_GCC = ["--param", "max-completely-peel-times=64", "--param", "max-completely-peeled-insns=4000"]
UNROLL_CLANG = ["-mllvm", "-unroll-threshold=10000", "-mllvm", "-unroll-full-max-count=64"]
# Tiles are vectors already. What else the compiler makes into vectors may round otherwise, and so give an instruction
# set bits of its own.
AS_WRITTEN = ["-fno-tree-vectorize"]
# float64 is there to prove and to check: half the time to compile it is worth a fifth of its speed. GCC's -O1 alone
# would not unroll the tiles.
PROOF = ["-O1", "-fno-ivopts", "-fno-tree-dominator-opts", "-fpeel-loops"]
# Elsewhere loops over at most eight vectors are unrolled; those over sixteen numbers need not be (the norms then take
# 2.4 s to compile instead of 4.1).
ROLLED = ["--param", "max-completely-peel-times=8"]
# Takes a row's vectors side by side: each is a long chain of operations, in which one waits for another.
INTERLEAVE = ["-fschedule-insns"]

# The tiles' constants reach the compiler by inlining, so inlining must not be left to its taste.
ALWAYS_INLINE = ("CYTHON_INLINE", "inline __attribute__((always_inline))")


class BuildKernels(build_ext):
    """build_ext that finds out what the compiler can do, and compiles on all cores."""

    def finalize_options(self):
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def build_extensions(self):
        if not compiles(["-O1"], "#ifndef __GNUC__\n#error\n#endif\n"):
            sys.exit(f"cnn: {COMPILER[0]} cannot build the kernels: they need GCC or Clang, and a C "
                     f"compiler that works (Debian: apt install gcc python3-dev)")
        clang = compiles(["-O1"], "#ifndef __clang__\n#error\n#endif\n")
        unroll = UNROLL_CLANG if clang else UNROLL_GCC
        if not compiles(unroll):
            unroll = []
        for ext in self.extensions:
            # only where it is needed: with it, GCC 12 compiles some other loops wrongly
            name = ext.name.rpartition(".")[2]
            flags = unroll + AS_WRITTEN if name in TILE_MODULES else [] if clang else ROLLED
            if name == "maps" and not clang:
                flags = [*flags, *INTERLEAVE]
            if "_float64." in ext.name and not clang:
                flags = [*flags, *PROOF]
            ext.extra_compile_args[:0] = [*FLAGS, *flags, "-pthread"]
            ext.extra_link_args += ["-pthread"]
        super().build_extensions()

    def copy_extensions_to_source(self):
        for ext in self.extensions:
            Path(*ext.name.split(".")[:-1]).mkdir(exist_ok=True)
        super().copy_extensions_to_source()


def program(flags, body):
    """What a small program returns, compiled with these flags; None where it does not compile."""
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder, "try.c"), Path(folder, "try")
        source.write_text(body)
        try:
            subprocess.run([*COMPILER, *flags, str(source), "-o", str(result)], capture_output=True, check=True)
            return subprocess.run([str(result)]).returncode
        except (OSError, subprocess.CalledProcessError):
            return None


def compiles(flags, body=""):
    return program(flags, body + "int main(void) { return 0; }\n") is not None


def chosen():
    """The instruction sets to build for, by name with their flags."""
    wanted = os.environ.get("CNN_VARIANTS")
    if wanted is None:
        header = (SOURCES / "cpu.h").read_text()
        best = program([], header + "int main(void) { return has_avx512() ? 2 : has_avx2(); }\n")
        return {"baseline": WAY_OUT, **dict([list(INSTRUCTION_SETS.items())[best]])} if best else {"baseline": []}
    names = list(INSTRUCTION_SETS) if wanted == "all" else wanted.split(",")
    unknown = set(names) - set(INSTRUCTION_SETS)
    if unknown:
        sys.exit(f"CNN_VARIANTS: no such build here: {', '.join(sorted(unknown))}; "
                 f"there are {', '.join(INSTRUCTION_SETS)}")
    return {name: INSTRUCTION_SETS[name] for name in names}


def structs(text):
    """The fields of each struct in a Cython source, as lines of text."""
    return {name: [line.partition("#")[0].strip() for line in body.splitlines()]
            for name, body in re.findall(r"^ctypedef struct (\w+):.*\n((?: {4}.*\n|\n)+)", text, re.MULTILINE)}


def fields(struct, known):
    """(name, kind) of all fields of a kernel's struct, in their order; a struct in it stands for its fields."""
    for line in filter(None, known[struct]):
        match = re.fullmatch(r"(?:const )?(\w+)(\*{0,2}) (\w+(?:, \w+)*)", line)
        c_type, stars, names = match.groups() if match else (None, "", "")
        for name in names.split(", "):
            if stars and names == name:
                yield name, "array"
            elif c_type in FIELDS and not stars:
                yield name, FIELDS[c_type]
            elif c_type in known and not stars:
                yield from fields(c_type, known)
            else:
                sys.exit(f"{struct}: a kernel's struct can't have the field {line!r}")


def write_table(name, shared):
    """Write what a file of kernels includes at its end: its entry in FILES, which holds what Python may use of it, and
    KERNELS; return the fields of its kernels' structs by their names. shared: structs of all files."""
    text = (SOURCES / f"{name}.pyx").read_text()
    known = shared | structs(text)
    kernels = re.findall(r"^cdef void ([a-z]\w*)\(const (\w+)\* a, const Place\* place\) noexcept nogil:", text,
                         re.MULTILINE)
    rows = [f'    "{kernel}": (<size_t>&{kernel}, sizeof({struct}) // 8),\n' for kernel, struct in kernels]
    used = re.findall(r"^(?:def (?=\w+\()|(?=[A-Z_]+ = ))(\w+)", text, re.MULTILINE)
    functions = ", ".join(f'"{one}": {one}' for one in used)
    write(GENERATED / "kernels" / f"{name}.pxi",
          f'FILES["{name}"] = {{{functions}}}\nFILES["{name}"]["KERNELS"] = {{\n{"".join(rows)}}}\n')
    return {kernel: " ".join(f"{field}:{kind}" for field, kind in fields(struct, known)) for kernel, struct in kernels}


def write_module(module):
    """Write the Cython file that is compiled as that module: all of its files, one after the other."""
    bodies = {}
    for path in [*SOURCES.glob("*.pxd"), *(SOURCES / f"{name}.pyx" for name in MODULES[module])]:
        for macro, body in re.findall(r"^ *#define (\w+)(.*?)(?:/\*.*)?$", path.read_text(), re.MULTILINE):
            if bodies.setdefault(macro, body.strip()) != body.strip() and path.suffix == ".pyx":
                sys.exit(f"{path}: another file of its module gives {macro} another meaning")   # GCC would only warn
    write(GENERATED / f"{module}.pyx", "FILES = {}\n" + "".join(f'include "{SOURCES}/{name}.pyx"\n'
                                                               for name in MODULES[module]))


def write(path, text):
    """Write a file, unless it says that already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def c_file(ext):
    return (GENERATED / ext.sources[0]).with_suffix(".c")


def translate(modules, directives):
    """Turn modules into C with Cython, but for those whose sources are what they were: pip does this in a new
    environment each time, where Cython takes its own files for new and would translate all again."""
    common = [Cython.__version__, str(directives), *(path.read_text() for path in sorted(SOURCES.glob("*.pxd")))]
    stamps, stale = {}, []
    for ext in modules:
        name = ext.name.rpartition(".")[2]
        own = [Path(ext.sources[0]), *(SOURCES / f"{file}.pyx" for file in MODULES.get(name, ())),
               *(GENERATED / "kernels" / f"{file}.pxi" for file in MODULES.get(name, ())),
               *([GENERATED / "kernels" / "modules.pxi"] if name == "executor" else [])]
        digest = hashlib.sha256("\0".join([*common, *(path.read_text() for path in own)]).encode()).hexdigest()
        stamp = c_file(ext).with_suffix(".stamp")
        if not (c_file(ext).exists() and stamp.exists() and stamp.read_text() == digest):
            stale.append(ext)
            stamps[stamp] = digest
    if stale:
        cythonize(stale, build_dir=str(GENERATED), include_path=[".", str(GENERATED)], force=True,
                  nthreads=os.cpu_count() or 1, compiler_directives=directives)
    for stamp, digest in stamps.items():
        write(stamp, digest)


def extensions():
    shared = structs("".join(path.read_text() for path in SOURCES.glob("*.pxd")))
    module_of = {file: module for module, files in MODULES.items() for file in files}
    kernels = {file: write_table(file, shared) for file in module_of}
    tables = {"UNTYPED": UNTYPED_MODULES, "MODULE_OF": module_of,
              "FILE_OF": {kernel: file for file, names in kernels.items() for kernel in names},
              "FIELDS_OF": {kernel: fields for names in kernels.values() for kernel, fields in names.items()}}
    write(GENERATED / "kernels" / "modules.pxi", "".join(f"{name} = {value}\n" for name, value in tables.items()))
    debug = os.environ.get("CNN_DEBUG") == "1"
    directives = {"language_level": 3, "boundscheck": debug, "wraparound": debug, "cdivision": not debug,
                  "initializedcheck": debug, "embedsignature": True}
    for module in MODULES:
        write_module(module)
    alone = ("cpu", "executor", "guard")
    modules = [*(Extension(f"cnn._ext.{name}", [str(SOURCES / f"{name}.pyx")]) for name in alone),
               *(Extension(f"cnn._ext.{name}", [str(GENERATED / f"{name}.pyx")]) for name in MODULES)]
    translate(modules, directives)
    generated = {ext.name.rpartition(".")[2]: c_file(ext) for ext in modules}
    result = [Extension(f"cnn._ext.{name}", [str(path)], include_dirs=[str(SOURCES)])
              for name, path in generated.items() if name not in MODULES]
    variants = chosen()
    for name in MODULES:
        for isa, flags in variants.items():
            for number, (c_type, bits) in NUMBER_TYPES.items():
                if name in UNTYPED_MODULES and number != "float32":
                    continue
                # one file each that includes the generated C, so that the object files differ
                source = GENERATED / f"{isa}_{number}" / f"{name}.c"
                write(source, f"#define CNN_REAL {c_type}\n#define CNN_REAL_BITS {bits}\n"
                              f"#include \"../{generated[name].relative_to(GENERATED)}\"\n")
                result.append(Extension(
                    f"cnn._ext.{isa}_{number}.{name}", [str(source)], depends=[str(generated[name])],
                    define_macros=[ALWAYS_INLINE], extra_compile_args=list(flags)))
    return result


if __name__ == "__main__":      # Cython's own processes may import this file
    setup(ext_modules=extensions(), cmdclass={"build_ext": BuildKernels})
