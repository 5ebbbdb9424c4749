"""What the functions of a C file are made of: constants, sizes, sums of products."""
from __future__ import annotations

import math
from typing import Any

import numpy as np

LONG = 256          # terms of a sum that are added one after the other
TAPS = range(8, 3, -1)      # products that are added at once, if they divide all: so many floats stay in registers


class Function:
    """A function in C that computes one node: `body`, its lines; `arrays`, its constants.

    scratch: floats that it needs for itself (int). inplace: whether its output may be its input. order: the place in
    Python's order of each element of a flattened image, None where both are the same.
    """

    inplace = False
    order: np.ndarray | None = None

    def __init__(self, number: int, inputs: list[tuple[int, ...]], output: tuple[int, ...]) -> None:
        self.number, self.inputs, self.output = number, inputs, output
        self.scratch = 0
        self.body: list[str] = []
        self.arrays: list[str] = []

    def array(self, name: str, numbers: Any, kind: str = "float") -> str:
        """Add a constant array. Returns its name in C. Raises ValueError where it has NaN or infinity."""
        numbers = np.asarray(numbers)
        name = f"{name}_{self.number}"
        self.arrays.append(constant(name, numbers, kind))
        return name

    def add(self, *lines: str) -> None:
        self.body += lines


def literal(number: float) -> str:
    """A float32 in C, exactly. Raises ValueError for NaN and infinity."""
    with np.errstate(over="ignore"):
        finite = np.isfinite(np.float32(number))
    if not finite:
        raise ValueError(f"its constants must be finite in float32, got {number}")
    text = f"{np.float32(number):.9g}"
    return f"{text}f" if "e" in text or "." in text else f"{text}.0f"


def literal_or_infinity(number: float) -> str:
    """A float32 in C, which may be infinite. Raises ValueError for NaN, and for what is infinite in float32 alone."""
    return ("-" if number < 0 else "") + "INFINITY" if math.isinf(number) else literal(number)


def constant(name: str, numbers: np.ndarray, kind: str) -> str:
    """The definition of a constant array in C. Raises ValueError where a float has no finite float32."""
    flat = numbers.ravel()
    if kind == "float":
        with np.errstate(over="ignore"):
            flat = flat.astype(np.float32)
        if not np.isfinite(flat).all():
            raise ValueError(f"its constants must be finite in float32, got {numbers.ravel()[~np.isfinite(flat)][0]}")
        texts = [f"{n:.9g}" for n in flat.tolist()]
        texts = [f"{text}f" if "." in text or "e" in text else f"{text}.0f" for text in texts]
    else:
        texts = list(map(str, flat.tolist()))
    row = 8 if kind == "float" else 16
    lines = [f"    {', '.join(texts[i:i + row])}," for i in range(0, len(texts), row)]
    return f"static const {kind} {name}[{len(texts)}] = {{\n" + "\n".join(lines) + "\n};"


def sizes(image: tuple[int, ...]) -> tuple[int, int, int]:
    """Height, width and channels of a shape of one image; (H, W) is one channel."""
    return (*image[1:], image[0]) if len(image) == 3 else (*image, 1) if len(image) == 2 else (1, 1, image[0])


def channels_last(array: np.ndarray) -> np.ndarray:
    """(C, H, W) to (H, W, C); vectors as they are."""
    return array.transpose(1, 2, 0) if array.ndim == 3 else array


def indented(lines: list[str], depth: int) -> list[str]:
    return ["    " * depth + line for line in lines]


def products(row: str, inputs: str, weights: str, taps: int, outputs: int, pixels: int = 1, step: int = 0,
             gap: int = 0) -> list[str]:
    """Lines that add products to `pixels` rows of `outputs` sums: row[k] += sum over q of inputs[q] weights[q][k].

    step: inputs from one pixel to the next; gap: sums from one pixel to the next, as many as outputs if 0.
    """
    block = next((n for n in TAPS if taps % n == 0), min(4, taps))
    lines = []
    for first, count, n in ((0, taps // block, block), (taps // block * block, 1, taps % block)):
        if not n or not count:
            continue
        q, at, to = "q" if count > 1 else str(first), "", ""
        if pixels > 1:
            at, to = f" + j * {step}", f" + j * {gap or outputs}"
        inner = [f"const float *restrict a = {inputs}{at} + {q};", f"float *restrict sum = {row}{to};",
                 "const float " + ", ".join(f"a{i} = a[{i}]" for i in range(n)) + ";",
                 f"for (int k = 0; k < {outputs}; k++)",
                 *summed("k", [f"a{i} * v[{i * outputs} + k]" for i in range(n)])]
        if pixels > 1:
            inner = [f"for (int j = 0; j < {pixels}; j++) {{", *indented(inner, 1), "}"]
        lines += [f"for (int q = 0; q < {count * n}; q += {n}) {{" if count > 1 else "{",
                  f"    const float *restrict v = {weights} + {q} * {outputs};", *indented(inner, 1), "}"]
    return lines


def summed(place: str, terms: list[str]) -> list[str]:
    """Lines that add terms to the sum at a place, four a line."""
    lines = [" + ".join(terms[i:i + 4]) for i in range(0, len(terms), 4)]
    whole = [f"    sum[{place}] = sum[{place}] + {lines[0]}", *(f"        + {line}" for line in lines[1:])]
    return [*whole[:-1], f"{whole[-1]};"]


def total(name: str, term: str, count: int, *inner: str, index: str = "i") -> list[str]:
    """Lines that add a term for each `index` below `count` to `name`. A long sum is made of blocks, so that float32
    stays precise. inner: loops inside that over the index."""
    def nested(first: str, to: str) -> list[str]:
        loops = [first, *inner, f"{to} += {term};"]
        return ["    " * depth + line for depth, line in enumerate(loops)]
    if count <= LONG:
        return nested(f"for (int {index} = 0; {index} < {count}; {index}++)", name)
    block = math.isqrt(count - 1) + 1
    end = f" && {index} < {count}" if count % block else ""
    return [f"for (int b = 0; b < {count}; b += {block}) {{", "    float part = 0.0f;",
            *indented(nested(f"for (int {index} = b; {index} < b + {block}{end}; {index}++)", "part"), 1),
            f"    {name} += part;", "}"]


def centre(at: str, count: int, each: int = 1, *inner: str) -> list[str]:
    """Lines that make `mean` that of x at these places, for each i below `count`, and of `each` numbers for each i: to
    the last digit, by a second sum of what is left, because a norm divides by next to nothing where all are equal."""
    return [*total("mean", f"x[{at}]", count, *inner), f"mean /= {count * each}.0f;", "float rest = 0.0f;",
            *total("rest", f"x[{at}] - mean", count, *inner), f"mean += rest / {count * each}.0f;"]


def folded(o: Any) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias of a convolution in float64, with the batch norm after it, if there is one."""
    w = o.weights(o.weight.data).astype(np.float64)
    b = np.zeros(len(w)) if o.bias is None else o.bias.data.astype(np.float64)
    if o.norm is None:
        return w, b
    scale, shift = o.norm.scale_and_shift()
    return w * scale[:, None, None, None], b * scale + shift
