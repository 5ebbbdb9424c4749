"""Files as `torch.save` wrote them before PyTorch 1.6, put together by hand: good ones, and ones that lie."""

import struct

import numpy as np

MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
VERSION = b"\x80\x02M\xe9\x03."
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
DICT = b"ccollections\nOrderedDict\n)R"
KINDS = {"<f4": b"Float", "<f8": b"Double", "<f2": b"Half", "<i8": b"Long"}


def text(value):
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def numbers(values):
    return b"(" + b"".join(b"J" + struct.pack("<i", n) for n in values) + b"t"


def storage(kind, key, size, name=b"storage", view=b"N"):
    return b"(" + text(name.decode()) + b"ctorch\n" + kind + b"Storage\n" + text(key) + text("cpu") + (
        b"J" + struct.pack("<i", size) + view + b"tQ")


def tensor(of, offset=0, shape=(), strides=(), learns=b"\x89", rebuild=REBUILD):
    return rebuild + b"(" + of + b"J" + struct.pack("<i", offset) + numbers(shape) + numbers(strides) + learns + (
        DICT + b"tR")


def items(pairs):
    """The pickle of an OrderedDict, with versions of modules, as a `state_dict` has them."""
    return DICT + b"(" + b"".join(text(name) + value for name, value in pairs) + b"u}" + text("_metadata") + (
        DICT + b"sb")


def file(state, keys, data, magic=MAGIC, version=VERSION, endian=b"\x88"):
    """state: the pickle of the state, without head and end; keys: texts; data: bytes of each."""
    system = b"\x80\x02}(" + text("protocol_version") + b"M\xe9\x03" + text("little_endian") + endian + b"u."
    listed = b"\x80\x02](" + b"".join(map(text, keys)) + b"e."
    return magic + version + system + b"\x80\x02" + state + b"." + listed + b"".join(data)


def data(array):
    return struct.pack("<q", array.size) + array.tobytes()


def weights(arrays):
    """The file of a state: {name: array of one of KINDS}."""
    arrays = {name: np.array(array, order="C") for name, array in arrays.items()}
    keys = [str(100 + i) for i in range(len(arrays))]
    pairs = [(name, tensor(storage(KINDS[array.dtype.str], key, array.size), 0, array.shape,
                           [stride // array.itemsize for stride in array.strides]))
             for key, (name, array) in zip(keys, arrays.items(), strict=True)]
    return file(items(pairs), keys, [data(array) for array in arrays.values()])
