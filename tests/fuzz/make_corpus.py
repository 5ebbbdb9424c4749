"""Writes the first inputs of every parser into tests/fuzz/corpus/: small files as they should be, and some that lie.

    PYTHONPATH=tests python tests/fuzz/make_corpus.py
"""

import gzip
import io
import json
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import parsers
import torch_files
from data_files import cifar_batch, idx_bytes, pickled_dict, pickled_labels

import cnn
from cnn.runs.settings import Settings, write_settings
from cnn.training import checkpoint

CORPUS = Path(__file__).parent / "corpus"


def write(parser, name, mode, data):
    path = CORPUS / parser / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes([mode]) + data)


def pair(first, *rest):
    """Parts, each behind its length."""
    return b"".join(struct.pack(">H", len(part)) + part for part in (first, *rest))


def half(first, rest):
    return struct.pack(">H", len(first)) + first + rest


def npy(array, version=(1, 0)):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array), version=version)
    return buffer.getvalue()


def idx():
    images, labels = np.arange(18, dtype=np.uint8).reshape(2, 3, 3), np.array([1, 9], np.uint8)
    good = idx_bytes(images)
    write("idx", "good", 0, good)
    write("idx", "packed", 1, good)
    write("idx", "packed-before", 0, gzip.compress(good, mtime=0))
    write("idx", "packed-cut-off", 0, gzip.compress(good, mtime=0)[:-9])
    write("idx", "md5", 6, good)
    write("idx", "wrong-md5", 2, good)
    write("idx", "shape", 8, good)
    write("idx", "other-shape", 8, idx_bytes(images[:1]))
    for code, kind in {9: "i1", 0xB: ">i2", 0xC: ">i4", 0xD: ">f4", 0xE: ">f8"}.items():
        header = struct.pack(">HBBI", 0, code, 1, 3)
        write("idx", f"type-{kind.strip('>')}", 0, header + np.arange(3).astype(kind).tobytes())
    write("idx", "pair", 16, half(good, idx_bytes(labels)))
    write("idx", "pair-of-one-kind", 16, half(good, good))
    write("idx", "pair-too-few-labels", 16, half(good, idx_bytes(labels[:1])))
    write("idx", "pair-large-label", 16, half(good, idx_bytes(labels + 5)))
    write("idx", "empty", 0, b"")
    write("idx", "no-magic", 0, b"\1\2\3\4")
    write("idx", "header-cut-off", 0, good[:9])
    write("idx", "cut-off", 0, good[:-1])
    write("idx", "too-long", 1, good + b"\0")
    write("idx", "promises-much", 0, struct.pack(">HBBIII", 0, 8, 3, 2**32 - 1, 2**32 - 1, 1))
    write("idx", "promises-much-packed", 1, struct.pack(">HBBII", 0, 14, 2, 2, 3000))
    write("idx", "impossible-shape", 0, struct.pack(">HBBIIII", 0, 8, 4, 0, 2**32 - 1, 2**32 - 1, 2**32 - 1))


def npz():
    grey = np.arange(6 * 16, dtype=np.uint8).reshape(6, 4, 4)
    rgb = np.arange(6 * 75, dtype=np.uint8).reshape(6, 5, 5, 3)
    labels, classes = np.array([0, 1, 0, 1, 0, 1]), np.array(["cat", "Hündin"])
    good = npy(grey), npy(labels), npy(classes)
    write("npz", "good", 1, pair(*good))
    write("npz", "packed", 3, pair(*good))
    write("npz", "last", 3, pair(npy(rgb), *good[1:]))
    write("npz", "first", 1, pair(npy(rgb.transpose(0, 3, 1, 2)), *good[1:]))
    write("npz", "floats", 1, pair(npy(grey / 7), *good[1:]))
    write("npz", "nan", 1, pair(npy(np.where(grey == 7, np.nan, grey)), *good[1:]))
    write("npz", "infinite", 1, pair(npy(np.where(grey == 7, np.inf, grey)), *good[1:]))
    write("npz", "integers", 1, pair(npy(grey.astype(int)), *good[1:]))
    write("npz", "two-dimensions", 1, pair(npy(grey[0]), *good[1:]))
    write("npz", "ambiguous", 1, pair(npy(np.zeros((6, 3, 5, 3), np.uint8)), *good[1:]))
    write("npz", "fortran", 1, pair(npy(np.asfortranarray(grey)), *good[1:]))
    write("npz", "version-2", 1, pair(npy(grey, (2, 0)), *good[1:]))
    write("npz", "version-3", 1, pair(npy(grey, (3, 0)), *good[1:]))
    write("npz", "big-endian", 1, pair(npy((grey / 7).astype(">f8")), npy(labels.astype(">i4")), good[2]))
    write("npz", "no-classes", 1, pair(*good[:2]))
    write("npz", "no-labels", 1, pair(good[0]))
    write("npz", "float-labels", 1, pair(good[0], npy(labels * 0.5)))
    write("npz", "negative-label", 1, pair(good[0], npy(labels - 1)))
    write("npz", "huge-label", 1, pair(good[0], npy(labels * 2**40)))
    write("npz", "large-label", 1, pair(good[0], npy(labels * 10**7)))
    write("npz", "labels-too-few", 1, pair(good[0], npy(labels[:5])))
    write("npz", "one-class", 1, pair(good[0], npy(labels * 0)))
    write("npz", "empty-class", 1, pair(good[0], npy(labels * 2)))
    write("npz", "few-images", 1, pair(npy(grey[:2]), npy(labels[:2])))
    write("npz", "no-images", 1, pair(npy(grey[:0]), npy(labels[:0])))
    write("npz", "constant", 1, pair(npy(grey * 0), *good[1:]))
    write("npz", "classes-of-bytes", 1, pair(*good[:2], npy(np.array([b"a", b"b"]))))
    write("npz", "classes-escape", 1, pair(*good[:2], npy(np.array(["a", "\x1b[2J"]))))
    write("npz", "classes-surrogate", 1, pair(*good[:2], npy(np.array(["a", "b"])).replace(b"b\0\0\0", b"\0\xd8\0\0")))
    write("npz", "classes-too-few", 1, pair(*good[:2], npy(classes[:1])))
    for name, kind, shape in (
        ("objects", "|O", "(1,)"), ("promises-much", "|u1", "(999999999999,)"), ("negative", "|u1", "(-1, 4, 4)"),
        ("nested", "|u1", "(" * 200 + ")" * 200), ("huge-integer", "|u1", "(" + "9" * 4000 + ",)"),
    ):
        header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode() + b"\n"
        write("npz", name, 1, pair(b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header, *good[1:]))
    write("npz", "cut-off-array", 1, pair(good[0][:-1], *good[1:]))
    write("npz", "long-array", 1, pair(good[0] + b"\0", *good[1:]))
    write("npz", "no-array", 1, pair(b"hello", *good[1:]))
    write("npz", "empty", 0, b"")
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as file:
            for name, part in zip(("images", "labels", "classes"), good, strict=True):
                file.writestr(f"{name}.npy", part)
        write("npz", f"zip-{method}", 0, buffer.getvalue())
    write("npz", "zip-cut-off", 0, buffer.getvalue()[:-30])
    stored = bytearray((CORPUS / "npz" / "zip-0").read_bytes())
    stored[250] ^= 1
    write("npz", "zip-wrong-checksum", 0, bytes(stored[1:]))
    for images, truth, test in ((grey, labels, grey), (grey, labels, rgb)):     # parts for training and testing
        buffer = io.BytesIO()
        np.savez(buffer, train_images=images, train_labels=truth, test_images=test, test_labels=truth, classes=classes)
        write("npz", f"parts-{test.ndim}", 0, buffer.getvalue())


def cifar():
    image = np.arange(3072).astype(np.uint8).reshape(1, 3, 32, 32)
    good = cifar_batch(image, [3])

    def tar(*members, kind=tarfile.REGTYPE, at="cifar-10-batches-py/"):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as file:
            for name, content in members:
                info = tarfile.TarInfo(at + name)
                info.size, info.type, info.linkname = len(content), kind, "/etc/passwd"
                file.addfile(info, io.BytesIO(content))
        return buffer.getvalue()

    write("cifar", "good", 0, good)
    write("cifar", "two", 2, half(good, cifar_batch(image, [9])))
    write("cifar", "large-label", 0, cifar_batch(image, [10]))
    write("cifar", "two-labels", 0, cifar_batch(image, [1, 2]))
    write("cifar", "two-images", 0, cifar_batch(np.concatenate([image, image])[:, :, :31], [1, 2]))
    write("cifar", "no-data", 0, pickled_dict({b"labels": pickled_labels([1])}))
    write("cifar", "no-dict", 0, b"\x80\x02].")
    write("cifar", "cut-off", 0, good[:-5])
    write("cifar", "too-long", 0, good + good)
    write("cifar", "calls", 0, b"cos\nsystem\n(U\x02idtR.")
    write("cifar", "text", 0, b"hello")
    write("cifar", "many-objects", 0, b"\x80\x02]" + b"(" * 5000 + b".")
    write("cifar", "lists-within-lists", 0, b"\x80\x02" + b"]" * 2000 + b"a" * 1999 + b".")
    write("cifar", "list-in-itself", 0, b"\x80\x02]q\x00h\x00a.")
    write("cifar", "unhashable-key", 0, b"\x80\x02}]K\x01s.")
    write("cifar", "build-nothing", 0, b"\x80\x02]Nb.")
    write("cifar", "opcode", 0, b"\x80\x02F1.5\n.")
    both = tar(("data_batch_1", good), ("test_batch", good), ("readme.html", b"hello"))
    write("cifar", "tar", 3, both)
    write("cifar", "tar-packed", 1, gzip.compress(both, mtime=0))
    write("cifar", "tar-packed-cut-off", 1, gzip.compress(both, mtime=0)[:-20])
    write("cifar", "tar-wrong-crc", 1, gzip.compress(both, mtime=0)[:-8] + bytes(8))
    write("cifar", "tar-no-test", 3, tar(("data_batch_1", good)))
    write("cifar", "tar-link", 3, tar(("data_batch_1", b""), kind=tarfile.SYMTYPE))
    write("cifar", "tar-outside", 3, tar(("data_batch_1", good), at="../"))
    write("cifar", "tar-absolute", 3, tar(("data_batch_1", good), at="/"))
    write("cifar", "tar-long-member", 3, tar(("data_batch_1", good + bytes(8000))))
    write("cifar", "tar-bomb", 3, tar(("x", bytes(2 << 20)))[:600] + bytes(1000))
    write("cifar", "tar-pax", 3, tar(("ä" * 150, b"hello"), ("data_batch_1", good)))
    write("cifar", "no-tar", 3, b"hello")
    write("cifar", "file-too-long", 0, good + bytes(8000))


def sealed(form, description, tensors=()):
    """A header and data for the mode in which the digest is added."""
    header, data = {"__metadata__": {"format": form, "description": description}}, b""
    for name, array in dict(tensors).items():
        kind = {"f4": "F32", "f8": "F64", "i8": "I64", "u1": "U8"}[array.dtype.str[1:]]
        place = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": place}
        data += array.tobytes()
    return half(json.dumps(header).encode(), data)


def model():
    arguments = {"in_channels": 1, "num_classes": 2, "image_size": 8, "blocks": 1, "channels": [1, 1, 1]}
    net = cnn.models.MODELS["resnet20"](**arguments, seed=0)
    good = {"model": "resnet20", "arguments": arguments, "classes": ["a", "b"], "mean": [0.5], "std": [0.5],
            "dataset": "mnist-sample", "seed": 0, "tta": None}
    weights = net.state_dict()
    with parsers.folder() as folder:
        checkpoint.save(folder / "x", {"model": weights})
        write("model", "a-checkpoint", 0, (folder / "x").read_bytes())
        checkpoint.save_model(folder / "x", net, good)
        write("model", "file", 0, (folder / "x").read_bytes())
        write("model", "file-in-folder", 2, (folder / "x").read_bytes())
        net = cnn.Sequential(cnn.Conv2d(1, 2, 3), cnn.BatchNorm2d(2), cnn.Dropout(0.5), cnn.Flatten(), cnn.Linear(8, 2))
        cnn.save(net, folder / "x", cnn.data.Dataset(np.zeros((2, 1, 4, 4), np.uint8), [0, 1]))
        write("model", "network", 0, (folder / "x").read_bytes())
        arrays, described = checkpoint._read(folder / "x", checkpoint.FORMAT, "model")
        write("model", "network-sealed", 1, sealed(checkpoint.FORMAT, json.dumps(described), arrays))
        for name, change in {"operation": {"operation": "eval"}, "attributes": {"attributes": {"padding": 2**30}},
                             "role": {"parameters": {"weight": "1.running_var"}}}.items():
            nodes = [{**described["network"]["nodes"][0], **change}, *described["network"]["nodes"][1:]]
            lie = {**described, "network": {**described["network"], "nodes": nodes}}
            write("model", f"network-{name}", 1, sealed(checkpoint.FORMAT, json.dumps(lie), arrays))
    write("model", "good", 1, sealed(checkpoint.FORMAT, json.dumps(good), weights))
    write("model", "weight-missing", 1, sealed(checkpoint.FORMAT, json.dumps(good), dict(list(weights.items())[1:])))
    write("model", "empty", 0, b"")
    write("model", "header-list", 0, struct.pack("<Q", 2) + b"[]")
    write("model", "no-metadata", 0, struct.pack("<Q", 2) + b"{}")

    def changed(**change):
        return {"arguments": {**arguments, **change}}

    one = {"0.weight": np.ones((2, 2), np.float32)}
    for name, change in {
        "small": {}, "no-model": {"model": None}, "unknown-model": {"model": "resnet21"}, "list": {"model": []},
        "no-arguments": {"arguments": None}, "text": {"arguments": "x"}, "unknown-argument": changed(x=1),
        "many-classes": changed(num_classes=12_000_000), "huge-classes": changed(num_classes=2**31 - 1),
        "huge-image": changed(image_size=10**9), "huge-integer": changed(num_classes=10**400),
        "float": changed(num_classes=1e308), "deep": changed(blocks=10**7), "wide": changed(channels=[10**6] * 3),
        "channels-text": changed(channels="x"), "channels-negative": changed(channels=[-1, 1, 1]),
        "class-escape": {"classes": ["\x1b[2J", "b"]}, "class-number": {"classes": [1]},
        "classes-text": {"classes": "ab"},
        "mean-text": {"mean": ["x"]}, "mean-text-alone": {"mean": "x"}, "std-zero": {"std": [0.0]},
        "mean-huge": {"mean": [10**400]}, "dataset": {"dataset": 5}, "tta": {"tta": "x"}, "seed": {"seed": -1},
        "seed-text": {"seed": "x"}, "model-escape": {"model": "\x1b[2J"},
    }.items():
        write("model", name, 1, sealed(checkpoint.FORMAT, json.dumps({**good, **change}), one))
    for name in ("model", "arguments"):
        rest = {key: value for key, value in good.items() if key != name}
        write("model", f"without-{name}", 1, sealed(checkpoint.FORMAT, json.dumps(rest), one))
    for name, text in {"no-json": "{", "no-dict": "[]", "nan": '{"mean": [NaN]}', "surrogate": '{"model": "\\ud800"}',
                       "nested": "[" * 2000, "long-integer": '{"model": ' + "9" * 5000 + "}", "empty": "{}"}.items():
        write("model", f"description-{name}", 1, sealed(checkpoint.FORMAT, text, one))


def state():
    trainer = parsers._trainer()
    trainer.train_step(np.ones((3, 2), np.float32), np.array([0, 1, 0]))
    return trainer.state_dict()


def checkpoints():
    form, good = checkpoint.CHECKPOINT_FORMAT, state()
    with parsers.folder() as folder:
        checkpoint.save(folder / "x", good)
        file = (folder / "x").read_bytes()
    write("checkpoint", "file", 0, file)
    write("checkpoint", "file-to-trainer", 2, file)
    write("checkpoint", "file-cut-off", 2, file[:-1])
    damaged = bytearray(file)
    damaged[-3] ^= 1
    write("checkpoint", "file-damaged", 0, bytes(damaged))
    write("checkpoint", "empty", 0, b"")
    write("checkpoint", "huge-header", 0, b"\xff" * 8 + b"{}")
    write("checkpoint", "other-format", 1, sealed("cnn-model-1", "{}"))
    write("checkpoint", "no-format", 0, struct.pack("<Q", 2) + b"{}")
    write("checkpoint", "format-number", 0, struct.pack("<Q", 32) + b'{"__metadata__":{"format":"5"}}'.ljust(32))
    arrays = {}
    text = json.dumps(checkpoint._take_arrays(good, arrays))
    arrays = {name: np.asarray(value, value.dtype.newbyteorder("<")) for name, value in arrays.items()}
    write("checkpoint", "sealed", 3, sealed(form, text, arrays))
    write("checkpoint", "array-nowhere", 1, sealed(form, "{}", {"x/y": np.ones(2)}))
    write("checkpoint", "array-in-list", 1, sealed(form, '{"x": []}', {"x/y": np.ones(2)}))
    write("checkpoint", "list", 1, sealed(form, "[]"))
    write("checkpoint", "description-no-json", 1, sealed(form, "{"))
    write("checkpoint", "description-none", 1, half(json.dumps({"__metadata__": {"format": form}}).encode(), b""))
    write("checkpoint", "nested", 1, sealed(form, "[" * 2000))
    write("checkpoint", "trainer-empty", 3, sealed(form, "{}"))
    plain = json.loads(text)
    for key in plain:
        for name, value in {"huge": 10**400, "text": "\ud800", "none": None, "list": [[1]], "nan": float("nan"),
                            "negative": -1}.items():
            write("checkpoint", f"trainer-{key}-{name}", 3, sealed(form, json.dumps({**plain, key: value}), arrays))
        write("checkpoint", f"trainer-without-{key}", 3, sealed(
            form, json.dumps({k: v for k, v in plain.items() if k != key}),
            {k: v for k, v in arrays.items() if not k.startswith(key)}))
    for name, array in arrays.items():
        for word, other in {"small": np.ones(1, np.float32), "type": array.astype(np.uint8)}.items():
            path = f"array-{word}-{name.replace('/', '-')}"
            write("checkpoint", path, 3, sealed(form, text, {**arrays, name: other}))


def config():
    with parsers.folder() as folder:
        write_settings(folder / "config.toml", Settings(epochs=3))
        good = (folder / "config.toml").read_bytes()
    write("config", "good", 0, good)
    write("config", "folder", 1, good)
    write("config", "bom", 0, b"\xef\xbb\xbf" + good)
    write("config", "utf16", 0, good.decode().encode("utf-16"))
    write("config", "crlf", 0, good.replace(b"\n", b"\r\n"))
    write("config", "latin1", 0, 'dataset = "Käse"'.encode("latin-1"))
    write("config", "empty", 0, b"")
    for i, text in enumerate((
        "no_such = 1", "epochs = -1", "epochs = 1.5", "epochs = true", f"epochs = {'9' * 400}", "lr = nan",
        "lr = inf", "lr = 1e400", f"lr = {'9' * 400}", "model = 'x'", "model = []", "dataset = 5",
        "dataset = \"\\u0000\"", "dataset = \"\\u001b[2J\"", "channels = '1,2'", "channels = '0,0'",
        f"channels = '{'9' * 5000}'", "model = {a = 1}", "checkpoint_every = '0'", "checkpoint_every = '²'",
        f"checkpoint_every = '{'9' * 5000}'", "seed = 99999999999999999999", "made_with = 1",
        "[made_with]\ntarget = 'x'", "[made_with]\ntarget = 0.5", "report = true", "report = 1", "patience = 3",
        "patience = 3\nvalidation_fraction = 0.1", "epochs = " + "[" * 500, "epochs = 1979-05-27T07:32:00Z",
        "\"\\u001b[2J\" = 1", "ema = 1.0", "data_dir = '~nosuchuser'", "a.b.c = 1", "epochs = 1\nepochs = 2",
        "threads = 5", "image_size = 5000", "tta = 'flip'", "cutout = 100000", "bias_lr = 0.0",
    )):
        write("config", f"line-{i:02}", 0, text.encode())


def onnx_files():
    """Files that we write, that PyTorch's exporter would, and that lie."""
    import onnx

    def told(nodes, shape, arrays=(), opset=20, inputs=()):
        helper = onnx.helper
        graph = helper.make_graph(
            nodes, "g", [helper.make_tensor_value_info(name, 1, size) for name, size in (("x", shape), *inputs)],
            [helper.make_tensor_value_info("y", 1, None)],
            [onnx.numpy_helper.from_array(np.asarray(a), name) for name, a in dict(arrays).items()])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])

    def node(kind, *inputs, outputs=("y",), **attributes):
        return onnx.helper.make_node(kind, inputs, outputs, kind, **attributes)

    def put(name, model, mode=0):
        write("onnx", name, mode, model.SerializeToString())

    square, image = {"w": np.ones((2, 1, 3, 3), np.float32), "b": np.ones(2, np.float32)}, ["N", 1, 4, 4]
    put("good", told([node("Conv", "x", "w", "b", pads=[1, 1, 1, 0])], image, square))
    norms = {name: np.ones(2, np.float32) for name in "abcd"}
    put("old", told([node("BatchNormalization", "x", *"abcd", is_test=1)], ["N", 2, 3, 3], norms, 6))
    put("vectors", told([node("BatchNormalization", "x", *"abcd")], ["N", 2], norms))
    put("one-in-two-roles", told([node("BatchNormalization", "x", *"abab")], ["N", 2, 3, 3], norms))
    put("old-sum", told([node("Add", "x", "a", axis=1, broadcast=1)], ["N", 2, 3, 3], norms, 6))
    put("old-softmax", told([node("Softmax", "x")], ["N", 2, 3, 3], opset=9))
    put("last-axis", told([node("Softmax", "x", axis=3)], ["N", 1, 1, 3]))
    put("reflect", told([node("Pad", "x", mode="reflect", pads=[0, 0, 1, 1] * 2)], image, opset=9))
    put("neighbours", told([node("ReduceMean", "x", axes=[1, 2], keepdims=0)], ["N", 2, 3, 3], opset=13))
    put("old-slice", told([node("Slice", "x", axes=[1], starts=[0], ends=[1])], ["N", 2, 3, 3], opset=9))
    put("old-split", told([node("Split", "x", outputs=["y", "z"], axis=1, split=[1, 1])], ["N", 2, 3, 3], opset=9))
    put("flat-rows", told([node("Concat", "x", "x", axis=2)], ["N", 1, 3, 3]))
    put("open-sizes", told([node("Relu", "x")], ["N", 1, "H", "W"]), 2)
    with parsers.folder() as folder:
        net = cnn.Sequential(
            cnn.Conv2d(1, 4, 3), cnn.BatchNorm2d(4), cnn.SiLU(), cnn.GroupNorm(2, 4), cnn.GELU(), cnn.GELU("tanh"),
            cnn.MaxPool2d(2, ceil_mode=True), cnn.AvgPool2d(2, padding=1, ceil_mode=True),
            cnn.Residual(cnn.LeakyReLU()), cnn.Concat(cnn.Tanh(), cnn.Sigmoid()), cnn.Softmax(1),
            cnn.GlobalAvgPool2d(), cnn.Linear(8, 2), cnn.LogSoftmax(1))
        for opset in (17, 20):
            cnn.export.onnx(net, folder / "x", (1, 9, 9), opset=opset, mean=[0.5], std=[0.5], normalise=True)
            write("onnx", f"ours-{opset}", 0, (folder / "x").read_bytes())
    ints = {"zero": np.int64(0), "one": np.int64([1]), "axes": np.int64([2, 3]), "pads": np.int64([0, 0, 1, 1] * 2),
            "two": np.float32([[2]]), "square": np.float32(2), "far": np.int64([3]), "none": np.int64(0),
            "big": np.int64([2**20, 2**20]), "half": np.float32(0.5)}
    put("shapes", told([
        node("Shape", "x", outputs=["s"]), node("Gather", "s", "zero", outputs=["n"]),
        node("Unsqueeze", "n", "zero", outputs=["n1"]), node("Constant", outputs=["m"], value_ints=[-1]),
        node("Concat", "n1", "m", outputs=["t"], axis=0), node("Reshape", "x", "t", outputs=["f"]),
        node("Unsqueeze", "f", "axes", outputs=["u"]), node("Squeeze", "u", "axes", outputs=["q"]),
        node("Transpose", "q", outputs=["p"], perm=[0, 1]),
        node("Split", "p", outputs=["a", "c"], axis=1, num_outputs=2), node("Sub", "c", "a", outputs=["d"]),
        node("Mul", "d", "half", outputs=["e"]), node("Div", "e", "two", outputs=["g"]),
        node("Slice", "g", "one", "far", "one", outputs=["h"]), node("Flatten", "h", outputs=["i"]),
        node("Cast", "i", outputs=["j"], to=1), node("Neg", "j", outputs=["k"]), node("Reciprocal", "k", outputs=["l"]),
        node("Mean", "l", "l", outputs=["o"]), node("Dropout", "o")], image, ints))
    put("sums", told([
        node("Pad", "x", "pads", outputs=["a"]), node("AveragePool", "a", outputs=["b"], kernel_shape=[2, 2]),
        node("ReduceSum", "b", "axes", outputs=["c"]), node("ReduceMean", "c", "one", outputs=["d"]),
        node("ReduceMax", "d", "axes", outputs=["e"], keepdims=0), node("PRelu", "e", "half", outputs=["f"]),
        node("Pow", "f", "square")], image, ints))
    put("folds", told([
        node("Range", "none", "far0", "one0", outputs=["a"]), node("Slice", "a", "one", "far", outputs=["b"]),
        node("Squeeze", "one", outputs=["c"]), node("Concat", "b", "one", outputs=["d"], axis=0),
        node("Reshape", "d", "minus", outputs=["e"]), node("Flatten", "e", outputs=["f"]),
        node("Tile", "one", "one", outputs=["g"]), node("Expand", "g", "far", outputs=["h"]),
        node("Div", "h", "one", outputs=["i"]), node("Size", "i", outputs=["j"]),
        node("ConstantOfShape", "one", outputs=["k"]), node("Equal", "k", "k", outputs=["l"]),
        node("Transpose", "f", outputs=["m"]), node("Max", "j", "c", outputs=["n"]),
        node("Cast", "n", outputs=["o"], to=1),
        node("Sqrt", "o", outputs=["p"]), node("Mul", "x", "p")], image,
        {**ints, "far0": np.int64(3), "one0": np.int64(1), "minus": np.int64([-1])}))
    put("linear", told([
        node("Transpose", "w", outputs=["v"]), node("MatMul", "x", "v", outputs=["a"]),
        node("Add", "a", "b", outputs=["c"]), node("Gemm", "c", "w", "b", alpha=0.5, beta=2.0)],
        ["N", 2], {"w": np.eye(2, dtype=np.float32), "b": square["b"]}))
    put("rows", told([
        node("Conv", "x", "w", outputs=["a"], auto_pad="SAME_UPPER"), node("InstanceNormalization", "a", "b", "b")],
        ["N", 1, 9], {"w": np.ones((2, 1, 3), np.float32), "b": square["b"]}))
    put("groups", told([node("GroupNormalization", "x", "b", "b", num_groups=2)], ["N", 4, 2, 2], square))
    put("weights-as-inputs", told([node("Conv", "x", "w")], image, inputs=[("w", [2, 1, 3, 3])]))
    put("expand", told([
        node("Shape", "x", outputs=["s"]), node("Expand", "half", "s", outputs=["a"]), node("Add", "x", "a")],
        image, ints))
    for kind, inputs in (("ConstantOfShape", ["big"]), ("Expand", ["two", "big"]), ("Tile", ["two", "big"]),
                         ("Range", ["zero", "zero", "zero"]), ("Where", ["one", "half", "two"]), ("Exp", ["half"])):
        put(f"constant-{kind}", told([node(kind, *inputs, outputs=["c"]), node("Add", "x", "c")], image, ints))
    lies = {"kernel": node("MaxPool", "x", kernel_shape=[2**20] * 2, pads=[2**20 - 1] * 4),
            "axis": node("Softmax", "x"), "unknown": node("LSTM", "x"),
            "domain": node("Relu", "x", domain="else"), "no-input": node("Relu", "z"),
            "attribute": node("Relu", "x", no=1), "control": node("Rélu\x1b[2J", "x"), "erf": node("Erf", "x")}
    for name, made in lies.items():
        put(f"refused-{name}", told([made], image))
    put("cycle", told([node("Add", "y", "x")], image))
    put("no-output", told([node("Relu", "x", outputs=["z"])], image))
    put("ranks", told([node("Relu", "x")], ["N", 1, 2, 3, 4]))
    put("no-nodes", told([], image))
    put("large-input", told([node("Relu", "x")], ["N", 2**40, 2**20, 1]))
    put("opset", told([node("Relu", "x")], image, opset=3))
    for name, dims in {"huge": [2**62, 2**62], "negative": [-1], "other": [2, 1, 3], "none": []}.items():
        model = told([node("Conv", "x", "w")], image, square)
        del model.graph.initializer[0].dims[:]
        model.graph.initializer[0].dims.extend(dims)
        put(f"dims-{name}", model)
    for name, place in {"beside": "w.bin", "above": "../secret", "absolute": "/etc/passwd", "none": ""}.items():
        model = told([node("Gemm", "x", "w", transB=1)], ["N", 4], {"w": np.ones((4, 4), np.float32)})
        model.graph.initializer[0].ClearField("raw_data")
        model.graph.initializer[0].data_location = 1
        model.graph.initializer[0].external_data.add(key="location", value=place)
        put(f"external-{name}", model, 1)
    model = told([node("Gemm", "x", "w", transB=1)], ["N", 4], {"w": np.ones((2, 4), np.float32)})
    fields = {1: "float_data", 11: "double_data", 10: "int32_data", 7: "int64_data", 8: "string_data"}
    for kind, name in fields.items():
        tensor = model.graph.initializer[0]
        for field in ("raw_data", *fields.values()):
            tensor.ClearField(field)
        tensor.data_type = kind
        getattr(tensor, name).extend([b"1"] * 8 if kind == 8 else [1] * 8)
        put(f"type-{kind}", model)
    write("onnx", "empty", 0, b"")
    write("onnx", "text", 0, b"hello")
    write("onnx", "nested", 0, b"\x3a\x7f" * 2000)


def torch():
    arrays = {"w": np.ones((2, 3), np.float32), "n": np.array(3), "d": np.ones(2), "h": np.float16([1])}
    good = torch_files.weights(arrays)
    write("torch", "good", 0, good)
    write("torch", "headless", 1, good[21:])
    write("torch", "cut-off", 0, good[:-1])
    write("torch", "too-long", 0, good + b"\0")
    write("torch", "empty", 0, b"")
    write("torch", "zip", 0, b"PK\3\4")
    six, elements = torch_files.storage(b"Float", "1", 6), torch_files.data(np.zeros(6, np.float32))
    lies = {
        "call": torch_files.tensor(six, rebuild=b"cos\nsystem\n"), "other-call": torch_files.text("x") + b")R",
        "no-tensor": b"N", "beyond": torch_files.tensor(six, 1, (6,), (1,)), "build": b"]}b", "list": b"]Na](NNe",
        "opcode": b"I1\n", "tuple-keys": b"}(()Nu", "reference": torch_files.storage(b"Float", "1", 6, b"module"),
        "many-of-one": torch_files.tensor(six, 0, (2**30,) * 3, (0,) * 3), "memo": b"]q\0h\0r\0\0\0\0j\0\0\0\0",
        "tuples": b"N\x85N\x86N\x87K\1M\1\2J\1\2\3\4"}
    for name, value in lies.items():
        write("torch", f"lies-{name}", 0, torch_files.file(torch_files.items([("w", value)]), "1", [elements]))
    whole = torch_files.items([("w", torch_files.tensor(six, 0, (6,), (1,)))])
    write("torch", "big-endian", 0, torch_files.file(whole, "1", [elements], endian=b"\x89"))
    write("torch", "no-keys", 0, torch_files.file(whole, "", [elements]))
    write("torch", "other-count", 0, torch_files.file(whole, "1", [b"\5" + elements[1:]]))
    two = [("v", torch_files.tensor(six)), ("w", torch_files.tensor(torch_files.storage(b"Float", "1", 5)))]
    write("torch", "two-lengths", 0, torch_files.file(torch_files.items(two), "1", [elements]))
    write("torch", "deep", 0, torch_files.file(b")" + b"\x85" * 5000, "", []))


if __name__ == "__main__":
    for make in (idx, npz, cifar, model, checkpoints, config, onnx_files, torch):
        make()
