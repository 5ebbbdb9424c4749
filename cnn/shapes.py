"""Size arithmetic and argument checks, written once for the whole package.

Every function takes `owner` first: the name of the class or function that the user called, which starts
each error message. A wrong kind of argument raises TypeError, a wrong value of the right kind ValueError:

    Conv2d: stride must be an integer of at least 1, got 0

Sizes are in pixels, ordered (height, width). The functions that compute sizes take pairs that `pair` has
checked: kernel, stride and dilation of at least 1, padding of at least 0.
"""
import contextlib
import contextvars
import math
import reprlib
from collections.abc import Iterable

import numpy as np

MAX_SIZE = 2**31 - 1  # no single size may be larger, so that the kernels' index arithmetic cannot overflow
MAX_ELEMENTS = 2**40  # no array may have more elements

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
Size = int | tuple[int, int]    # of something with rows and columns: (height, width), or one number for both
Padding = Size | tuple[tuple[int, int], tuple[int, int]]    # a Size, or ((top, bottom), (left, right))
Length = int | tuple[int]       # along a sequence
RowPadding = Length | tuple[int, int] | str     # of a sequence: at both ends, (left, right), "same" or "valid"


# ---------------------------------------------------------------------------------------------- numbers


def integer(owner, name, value, minimum=0, maximum=MAX_SIZE):
    """Return `value` as an int within [minimum, maximum]; Python and NumPy integers pass, bool does not. Raises
    TypeError for any other type and ValueError outside the range."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{owner}: {name} must be an integer, got {shown(value)}")
    value = int(value)
    if minimum <= value <= maximum:
        return value
    limits = f"from {minimum} to {maximum}"
    if maximum == MAX_SIZE and value < minimum:
        limits = f"of at least {minimum}"
    raise ValueError(f"{owner}: {name} must be an integer {limits}, got {shown(value)}")


def flag(owner, name, value):
    """Return `value`, True or False (or 1 or 0), as a bool; raises TypeError for anything else, such as a string."""
    if not isinstance(value, (bool, np.bool_, int, np.integer)) or value not in (0, 1):
        raise TypeError(f"{owner}: {name} must be True or False, got {shown(value)}")
    return bool(value)


def float_type(owner, dtype):
    """A dtype as numpy.dtype; raises TypeError unless it is float32 or float64."""
    if dtype not in FLOATS:
        found = dtype if isinstance(dtype, str) else np.dtype(dtype)    # "cpu", say, is no dtype
        raise TypeError(f"{owner}: dtype must be float32 or float64, got {found}")
    return np.dtype(dtype)


def number(owner, name, value, minimum=None, maximum=None, below=None, above=None):
    """Return `value` as a finite float within [minimum, maximum] and the open interval (above, below).

    Raises TypeError unless `value` is a Python or NumPy integer or float (bool is refused), ValueError for
    NaN, infinity and values outside the limits.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{owner}: {name} must be a number, got {shown(value)}")
    try:
        result = float(value)
    except OverflowError:  # an int beyond float64
        result = math.inf
    if math.isfinite(result) and (minimum is None or result >= minimum) and (maximum is None or result <= maximum) and (
            below is None or result < below) and (above is None or result > above):
        return result
    limits = (("of at least", minimum), ("above", above), ("of at most", maximum), ("below", below))
    wanted = " and ".join(f"{words} {limit}" for words, limit in limits if limit is not None)
    raise ValueError(f"{owner}: {name} must be a finite number {wanted}".rstrip() + f", got {shown(value)}")


def epsilon(owner, value):
    """Return eps, which keeps a divisor from 0, as a float that float32 can tell from 0, too."""
    smallest = float(np.finfo(np.float32).tiny)
    value = number(owner, "eps", value, above=0)
    if value < smallest:
        raise ValueError(f"{owner}: eps must be at least {smallest:.3g}, or it is 0 in float32, got {value:g}")
    return value


def divisor(owner, name, value, count):
    """Return `value` as an int of at least 1 that divides `count` evenly."""
    value = integer(owner, name, value, 1)
    if count % value:
        raise ValueError(f"{owner}: {name} must divide {count}, got {value}")
    return value


def pair(owner, name, value, minimum=0):
    """Return (height, width) as two ints from one integer or a tuple or list of two, each at least `minimum`. Raises
    TypeError for anything else and ValueError for the wrong length or range."""
    more = ", or, where each side has its own, ((top, bottom), (left, right))" if name == "padding" else ""
    several = isinstance(value, (tuple, list))
    if several and len(value) == 2:
        return integer(owner, name, value[0], minimum), integer(owner, name, value[1], minimum)
    if several or isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise (ValueError if several else TypeError)(
            f"{owner}: {name} must be an integer or a pair of integers{more}, got {shown(value)}")
    return (integer(owner, name, value, minimum),) * 2


def row(owner, name, value, minimum=0):
    """Return (1, value) for a sequence, which is an image of one row, from an integer or a tuple or list of one.

    Raises TypeError for anything else and ValueError for the wrong length or range.
    """
    if isinstance(value, (tuple, list)):
        if len(value) != 1:
            raise ValueError(f"{owner}: {name} must be one integer, got {shown(value)}")
        value, = value
    return 1, integer(owner, name, value, minimum)


def row_padding(owner, value, words=True):
    """Return the padding of an image of one row from that of a sequence: an integer, (left, right), or a word. Raises
    TypeError or ValueError for anything else."""
    if words and isinstance(value, str):
        return check_padding(owner, value)
    if isinstance(value, (tuple, list)) and len(value) == 2:
        return (0, 0), pair(owner, "padding", value)
    return 0, row(owner, "padding", value)[1]


def element_count(owner, *sizes):
    """Return the product of `sizes` (an int); raises ValueError above 2**40 elements, or what `at_most` leaves."""
    count = math.prod(int(size) for size in sizes)
    if count > MAX_ELEMENTS:
        raise ValueError(f"{owner}: an array of {times(sizes)} elements is too large, the limit is 2**40")
    left = _left.get()
    if left is not None:
        left[:2] = left[0] - 1, left[1] - count
        if min(left[:2]) < 0:
            raise ValueError(f"{owner}: an array of {times(sizes)} elements is more than {left[2]}")
    return count


_left = contextvars.ContextVar("_left", default=None)   # what `at_most` leaves


@contextlib.contextmanager
def at_most(arrays, elements, words):
    """Within the block, `element_count` lets pass so many arrays, and so many elements of them all, at most.

    words: what it says of an array beyond that, "an array of ... elements is more than `words`".
    """
    token = _left.set([arrays, elements, words])
    try:
        yield
    finally:
        _left.reset(token)


def block(owner, what, *sizes):
    """Raise ValueError unless sixteen images of so many numbers each stay below 2**31, the kernels' limit."""
    if math.prod(int(size) for size in sizes) * 16 >= 2**31:
        raise ValueError(f"{owner}: the {what} {times(sizes)} is too large, sixteen of them must stay below 2**31")


# ----------------------------------------------------------------------------------------- output sizes


def padding(owner, value, kernel, stride, dilation, size):
    """Return the padding of a convolution or a pooling as ((top, bottom), (left, right)).

    value: an integer, a pair (height, width), ((top, bottom), (left, right)), "valid" (none) or "same": the output has
    ceil(size / stride) rows and columns; when the total is odd the extra row or column goes to the bottom or right
    (TensorFlow's rule; PyTorch's, which has stride 1 only, is the same).
    kernel, stride, dilation: pairs; size: (H, W) of the input. Raises TypeError or ValueError for anything else.
    """
    if not isinstance(value, str):
        return sides(owner, value)
    if check_padding(owner, value) == "valid":
        return (0, 0), (0, 0)
    totals = [max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
              for n, k, s, d in zip(size, kernel, stride, dilation, strict=True)]
    top, left = (total // 2 for total in totals)
    return (top, totals[0] - top), (left, totals[1] - left)


def check_padding(owner, value):
    """Return `value`; raises TypeError or ValueError unless it is what `padding` takes."""
    if not isinstance(value, str):
        sides(owner, value)
    elif value not in ("same", "valid"):
        raise ValueError(f'{owner}: padding must be an integer, a pair, "same" or "valid", got {shown(value)}')
    return value


def sides(owner, value):
    """Return ((top, bottom), (left, right)) padding from an integer, a pair (height, width) or four numbers so nested.
    Raises TypeError or ValueError for anything else."""
    if not (isinstance(value, (tuple, list)) and any(isinstance(side, (tuple, list)) for side in value)):
        height, width = pair(owner, "padding", value)
        return (height, height), (width, width)
    if len(value) != 2 or not all(isinstance(side, (tuple, list)) and len(side) == 2 for side in value):
        raise ValueError(f"{owner}: padding must be an integer, a pair or ((top, bottom), (left, right)), got "
                         f"{shown(value)}")
    return pair(owner, "padding", value[0]), pair(owner, "padding", value[1])


def pool_padding(owner, value):
    """Return a pooling's padding, checked: a pair (height, width), or as it is given: ((top, bottom), (left, right)),
    "same" or "valid"."""
    if isinstance(value, str):
        return check_padding(owner, value)
    height, width = sides(owner, value)
    nested = isinstance(value, (tuple, list)) and isinstance(value[0], (tuple, list))
    return (height, width) if nested else (height[0], width[0])


def conv_output(owner, size, kernel, stride, padding, dilation):
    """Return a convolution's (out_h, out_w): floor((padded - (dilation·(kernel - 1) + 1)) / stride) + 1.

    size: (H, W) of the input. kernel, stride, dilation: pairs. padding: as `padding` returns it.
    Raises ValueError for an empty input, a kernel larger than the padded input, or sizes beyond 2**31 - 1.
    """
    padded = _padded(owner, size, padding)
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    if spans[0] > padded[0] or spans[1] > padded[1]:
        what = f"kernel_size {times(kernel)} is"
        if tuple(dilation) != (1, 1):
            what = f"kernel_size {times(kernel)} with dilation {times(dilation)} spans {times(spans)},"
        raise ValueError(f"{owner}: {what} larger than the padded input {times(padded)}")
    out_h, out_w = ((p - e) // s + 1 for p, e, s in zip(padded, spans, stride, strict=True))
    return out_h, out_w


def output_padding(owner, value, stride, dilation):
    """Return a transposed convolution's output padding as (height, width), checked by PyTorch's rule.

    value: an integer or a pair, less than the stride or less than the dilation on each axis. stride, dilation: pairs.
    """
    checked = pair(owner, "output_padding", value)
    if any(more >= max(s, d) for more, s, d in zip(checked, stride, dilation, strict=True)):
        raise ValueError(f"{owner}: output_padding must be less than stride {times(stride)} or dilation "
                         f"{times(dilation)}, got {times(checked)}")
    return checked


def conv_transpose_output(owner, size, kernel, stride, padding, output_padding, dilation):
    """Return a transposed convolution's (out_h, out_w):
    (size - 1)·stride - padding + dilation·(kernel - 1) + output_padding + 1.

    size: (H, W) of the input. kernel, stride, dilation, output_padding: pairs. padding: as `sides` returns it.
    Raises ValueError for an empty input, where nothing is left of the output, or for sizes beyond 2**31 - 1.
    """
    if min(size) < 1:
        raise ValueError(f"{owner}: the input must not be empty, got {times(size)}")
    whole = [(side - 1) * s + d * (k - 1) + 1 + more for side, s, d, k, more in zip(
        size, stride, dilation, kernel, output_padding, strict=True)]
    if max(whole) > MAX_SIZE:
        raise ValueError(f"{owner}: a side of the output {times(whole)} is larger than {MAX_SIZE}")
    out_h, out_w = (side - sum(pads) for side, pads in zip(whole, padding, strict=True))
    if min(out_h, out_w) < 1:
        raise ValueError(f"{owner}: padding leaves nothing of the output: both sides take away "
                         f"{times(map(sum, padding))} of {times(whole)}")
    return out_h, out_w


def pool_output(owner, size, kernel, stride, pads, ceil_mode, dilation=(1, 1)):
    """Return a pooling layer's (out_h, out_w) by PyTorch's rule.

    size: (H, W) of the input. kernel, stride, dilation: pairs. pads: as `pool_padding` returns it. With ceil_mode a
    last window that hangs over the far edge counts too, provided that it starts inside the input or the near padding.
    A window spans dilation * (kernel - 1) + 1 pixels. Raises ValueError for an empty input, a padding of more than half
    of that, or, where each side has its own, of all of it or more, a kernel that leaves no output, or sizes beyond
    2**31 - 1.
    """
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    what = f"kernel_size {times(kernel)}"
    if tuple(dilation) != (1, 1):
        what += f" with dilation {times(dilation)}, which spans {times(spans)}"
    if not isinstance(pads, str):
        if not isinstance(pads[0], tuple) and any(2 * p > k for p, k in zip(pads, spans, strict=True)):
            raise ValueError(f"{owner}: padding must be at most half of {what}, got {times(pads)}")
        if isinstance(pads[0], tuple) and any(max(sides) >= k for sides, k in zip(pads, spans, strict=True)):
            raise ValueError(f"{owner}: padding must be less than {what}, got {pads}")
    pads = padding(owner, pads, kernel, stride, dilation, size)
    padded = _padded(owner, size, pads)
    out = []
    for extent, side, k, s, (p, _) in zip(padded, size, spans, stride, pads, strict=True):
        spare = extent - k + (s - 1 if ceil_mode else 0)
        count = spare // s + 1
        if ceil_mode and (count - 1) * s >= side + p:
            count -= 1
        out.append(count)
    if min(out) < 1:
        verb = "is" if tuple(dilation) == (1, 1) else "and is"
        raise ValueError(f"{owner}: {what} {verb} larger than the padded input {times(padded)}")
    return out[0], out[1]


def _padded(owner, size, padding):
    if min(size) < 1:
        raise ValueError(f"{owner}: the input must not be empty, got {times(size)}")
    padded = [side + sum(pads) for side, pads in zip(size, padding, strict=True)]
    if max(padded) > MAX_SIZE:
        raise ValueError(f"{owner}: a side of the padded input {times(padded)} is larger than {MAX_SIZE}")
    return padded


# ----------------------------------------------------------------------------------------------- arrays


def array(owner, name, value, shape=None, dtype=None, allow_empty=True):
    """Return `value`, a NumPy array, as an aligned, C-contiguous array of native byte order.

    The result shares memory with `value` when that already is such an array, and may be read-only.

    shape: tuple with an int for a fixed axis and a name such as "N" (or None) for a free one; None means any.
    dtype: the dtype it must have; None means float32 or float64. Only the byte order is ever converted.
    allow_empty: whether an axis may have length 0.

    Raises TypeError unless `value` is an ndarray of that dtype, ValueError for another shape.
    """
    wanted = FLOATS if dtype is None else (np.dtype(dtype),)
    if type(value) is np.ndarray and value.dtype in wanted and shape is None and (value.size or allow_empty):
        flags = value.flags
        if flags.c_contiguous and flags.aligned:    # nearly all
            return value
    names = " or ".join(kind.name for kind in wanted)
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{owner}: {name} must be a NumPy array of {names}, got {type(value).__name__}")
    getattr(value, "noted", lambda: None)()     # a buffer: what is computed of it now, a program keeps
    native = next((kind for kind in wanted if np.can_cast(value.dtype, kind, "equiv")), None)
    if native is None:
        raise TypeError(f"{owner}: {name} must be {names}, got {value.dtype}")
    if shape is not None and not _matches(value.shape, shape):
        raise ValueError(f"{owner}: {name} must have shape {_axes(shape)}, got {_axes(value.shape)}")
    if value.size == 0 and not allow_empty:
        raise ValueError(f"{owner}: {name} must not be empty, got shape {_axes(value.shape)}")
    return np.require(value, native, ["C_CONTIGUOUS", "ALIGNED", "ENSUREARRAY"])


def as_array(owner, name, value):
    """What NumPy makes of an argument; raises ValueError that names it for parts of several shapes."""
    try:
        return np.asarray(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{owner}: {name} must be an array, all parts of the same shape ({error})") from None


def images(owner, name, value, dtype=None, numbers=False):
    """`array` for a batch of images (N, C, H, W), (N, C, L) or (N, features), or of numbers (N,) if there may be."""
    value = array(owner, name, value, dtype=dtype)
    if value.ndim not in (2, 3, 4) and not (numbers and value.ndim == 1):
        raise ValueError(f"{owner}: {name} must have shape (N, C, H, W), (N, C, L) or (N, features), got {value.shape}")
    return value


def _matches(shape, wanted):
    return len(shape) == len(wanted) and all(not isinstance(w, (int, np.integer)) or n == w
                                             for n, w in zip(shape, wanted, strict=True))


# ----------------------------------------------------------------------------------- words for messages


def _axes(shape):
    return f"({', '.join('any' if axis is None else str(axis) for axis in shape)}{',' * (len(shape) == 1)})"


def instance(owner, name, value, kind):
    """Refuse what is no instance of a class, `kind`, by TypeError."""
    if not isinstance(value, kind):
        raise TypeError(f"{owner}: {name} must be a {kind.__name__}, got {type(value).__name__}")


def listed(owner, name, value, what):
    """What can be iterated over, as a list. what: of its members, in words, for the TypeError about anything else."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise TypeError(f"{owner}: {name} must be a list of {what}, got {shown(value)}")
    return list(value)


def shown(value):
    """A value as an error message shows it: its repr, cut short."""
    try:
        return reprlib.repr(value)  # cuts long lists and strings short
    except ValueError:  # Python refuses to print an int of thousands of digits
        return "a huge integer"


def batch(shape):
    """The shape of one image in words, as that of a batch: "(N, 3, 32, 32)"."""
    return f"(N, {', '.join(map(str, shape))})" if shape else "(N,)"


def times(shape):
    """Sizes in words: "3×32×32"."""
    return "×".join(map(str, shape))
