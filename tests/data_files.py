"""Data files made on the spot, byte by byte after the formats' descriptions, for the tests of cnn.data."""

import gzip
import hashlib
import io
import struct
import tarfile

import numpy as np


def idx_bytes(array):
    """An array of uint8 as an IDX file."""
    array = np.asarray(array, np.uint8)
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def packed(data):
    return gzip.compress(data, mtime=0)


def md5(data):
    return hashlib.md5(data).hexdigest()


def short_string(text):
    """A str of Python 2, as its pickles hold it."""
    assert len(text) < 256
    return b"U" + bytes([len(text)]) + text


def pickled_array(data, shape, type_name=b"u1"):
    """What cPickle of Python 2 writes for a NumPy array of two dimensions."""
    sizes = b"".join(b"J" + struct.pack("<i", n) for n in shape)
    dtype = b"cnumpy\ndtype\n" + short_string(type_name) + b"K\x00K\x01\x87R"
    dtype += b"(K\x03" + short_string(b"|") + b"NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\x00tb"
    start = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + short_string(b"b") + b"\x87R"
    )
    numbers = b"T" + struct.pack("<i", len(data)) + data
    return start + b"q\x05(K\x01" + sizes + b"\x86" + dtype + b"\x89" + numbers + b"tb"


def pickled_dict(items):
    """A dict of already pickled values."""
    return b"\x80\x02}q\x01(" + b"".join(short_string(k) + v for k, v in items.items()) + b"u."


def pickled_labels(labels):
    return b"]q\x02(" + b"".join(b"K" + bytes([n]) for n in labels) + b"e"


def cifar_batch(images, labels, label_key=b"labels"):
    """A CIFAR batch as published: images uint8 (n, 3, 32, 32), labels a list of n ints under 256."""
    return pickled_dict(
        {
            b"batch_label": short_string(b"training batch 1 of 5"),
            label_key: pickled_labels(labels),
            b"data": pickled_array(images.tobytes(), (len(images), 3072)),
            b"filenames": b"]q\x03(" + short_string(b"leptodactylus_pentadactylus_s_000004.png") + b"e",
        }
    )


def tar_gz(members):
    """A .tar.gz of a list of (name, bytes), or of (TarInfo, bytes) for members that are not plain files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def random_images(n, shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), np.uint8)


# --- pictures ---


def picture(path, value=0, size=(8, 8), mode="L", **options):
    """A picture of one colour; size is (width, height)."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path, **options)
    return path


def folder(path, counts, size=(8, 8), mode="L"):
    """counts: {class: number of pictures}. Every picture's pixels say which it is."""
    shade = 0
    for name, count in counts.items():
        (path / name).mkdir(parents=True)
        for i in range(count):
            shade += 1
            picture(path / name / f"{i}.png", shade if mode == "L" else (shade, 0, 0), size, mode)
    return path


def shades(dataset):
    """{class: shades of its pictures}, as `folder` numbers them."""
    pixels = dataset.images[:, 0, 0, 0]
    return {name: pixels[dataset.labels == k].tolist() for k, name in enumerate(dataset.classes)}
