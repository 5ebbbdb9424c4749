import gzip
import struct
import tracemalloc

import numpy as np
import pytest
from data_files import idx_bytes, md5, packed, random_images
from hypothesis import given, settings
from hypothesis import strategies as st

from cnn.data import DataFileError, read_idx, read_idx_pair

IMAGES = random_images(5, (4, 3))
LABELS = np.array([0, 1, 2, 1, 0], np.uint8)


def write(folder, data, name="images-idx3-ubyte"):
    path = folder / name
    path.write_bytes(data)
    return path


def refused(path, *words):
    """Reading must fail with an error that names the file and says these things."""
    with pytest.raises(DataFileError) as caught:
        read_idx(path)
    for word in (str(path), *words):
        assert word in str(caught.value)


# --- good files ---


@pytest.mark.parametrize("pack", [bytes, packed])
@pytest.mark.parametrize("name", ["images-idx3-ubyte", "images-idx3-ubyte.gz"])
def test_reads_packed_and_unpacked_whatever_the_name(tmp_path, pack, name):
    path = write(tmp_path, pack(idx_bytes(IMAGES)), name)
    for given_path in (path, str(path)):
        array = read_idx(given_path)
        assert array.dtype == np.uint8
        assert np.array_equal(array, IMAGES)


@pytest.mark.parametrize(
    ("code", "stored", "dtype"),
    [(0x09, ">i1", "i1"), (0x0B, ">i2", "i2"), (0x0C, ">i4", "i4"), (0x0D, ">f4", "f4"), (0x0E, ">f8", "f8")],
)
def test_reads_every_type_of_number(tmp_path, code, stored, dtype):
    numbers = np.array([[-1, 2, 100], [0, 5, -128]])
    data = struct.pack(">HBBII", 0, code, 2, 2, 3) + numbers.astype(stored).tobytes()
    array = read_idx(write(tmp_path, data))
    assert array.dtype == np.dtype(dtype) and array.dtype.isnative
    assert np.array_equal(array, numbers)


def test_reads_a_file_of_no_images(tmp_path):
    array = read_idx(write(tmp_path, idx_bytes(np.zeros((0, 28, 28)))))
    assert array.shape == (0, 28, 28)


def test_reads_two_gzip_members_as_one_file(tmp_path):
    data = idx_bytes(IMAGES)
    path = write(tmp_path, packed(data[:20]) + packed(data[20:]))
    assert np.array_equal(read_idx(path), IMAGES)


def test_reads_a_pair(tmp_path):
    images_path = write(tmp_path, packed(idx_bytes(IMAGES)), "images")
    labels_path = write(tmp_path, idx_bytes(LABELS), "labels")
    images, labels = read_idx_pair(images_path, labels_path, num_classes=3)
    assert np.array_equal(images, IMAGES)
    assert labels.dtype == np.int64 and labels.tolist() == [0, 1, 2, 1, 0]


# --- damaged files ---


@pytest.mark.parametrize("pack", [bytes, packed])
def test_truncated(tmp_path, pack):
    refused(write(tmp_path, pack(idx_bytes(IMAGES)[:-1])), "5 x 4 x 3 numbers = 60 bytes")


@pytest.mark.parametrize("pack", [bytes, packed])
def test_trailing_bytes(tmp_path, pack):
    refused(write(tmp_path, pack(idx_bytes(IMAGES) + b"\0")), "more bytes follow", "60 bytes")


@pytest.mark.parametrize("pack", [bytes, packed])
@pytest.mark.parametrize("length", [4, 7, 15])
def test_ends_inside_the_header(tmp_path, pack, length):
    refused(write(tmp_path, pack(idx_bytes(IMAGES)[:length])), "16 bytes long")


@pytest.mark.parametrize(
    "start", ["01000803", "00010803", "00000703", "00000800", "000008ff", "0000", "504b0304"]
)
def test_wrong_magic(tmp_path, start):
    start = bytes.fromhex(start)
    refused(
        write(tmp_path, start + (idx_bytes(IMAGES)[4:] if len(start) == 4 else b"")),
        start.hex(" "),
        "00 00 08 03",
    )


@pytest.mark.parametrize("data", [b"", packed(b"")])
def test_empty(tmp_path, data):
    refused(write(tmp_path, data), "is empty")


def test_gzip_cut_off(tmp_path):
    data = packed(idx_bytes(random_images(50, (8, 8))))
    for length in (12, len(data) // 2, len(data) - 1):
        refused(write(tmp_path, data[:length]), "gzip")


def test_gzip_with_a_flipped_bit_in_its_checksum(tmp_path):
    data = bytearray(packed(idx_bytes(IMAGES)))
    data[-8] ^= 1
    refused(write(tmp_path, bytes(data)), "gzip", "CRC")


def test_gzip_followed_by_garbage(tmp_path):
    refused(write(tmp_path, packed(idx_bytes(IMAGES)) + b"garbage"), "gzip")


def peak_memory(call):
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("pack", [bytes, packed])
@pytest.mark.parametrize("count", [6, 2**20, 2**32 - 1])
def test_count_beyond_the_file_takes_no_memory(tmp_path, pack, count):
    header = struct.pack(">IIII", 0x803, count, 4, 3)
    path = write(tmp_path, pack(header + IMAGES.tobytes()))
    assert peak_memory(lambda: refused(path, f"{count} x 4 x 3")) < 1_000_000


def test_impossible_shape(tmp_path):
    header = struct.pack(">HBB5I", 0, 8, 5, 0, *[2**32 - 1] * 4)
    try:
        assert read_idx(write(tmp_path, header)).size == 0  # NumPy may be able to hold it
    except DataFileError as error:
        assert "impossible shape" in str(error)


def test_gzip_bomb_is_not_unpacked(tmp_path):
    bomb = gzip.compress(idx_bytes(IMAGES) + bytes(50_000_000), compresslevel=1)
    assert len(bomb) < 300_000
    path = write(tmp_path, bomb)
    assert peak_memory(lambda: refused(path, "more bytes follow")) < 2_000_000


def test_gzip_bomb_that_its_header_owns_up_to_is_refused_for_its_shape(tmp_path):
    path = write(tmp_path, gzip.compress(struct.pack(">IIII", 0x803, 5000, 100, 100) + bytes(50_000_000)))

    def read():
        with pytest.raises(DataFileError, match=r"\(5000, 100, 100\), expected \(60000, 28, 28\)"):
            read_idx(path, shape=(60000, 28, 28))

    assert peak_memory(read) < 2_000_000


def test_md5(tmp_path):
    data = idx_bytes(IMAGES)
    path = write(tmp_path, packed(data))
    assert np.array_equal(read_idx(path, md5=md5(data)), IMAGES)
    with pytest.raises(DataFileError) as caught:
        read_idx(path, md5="0" * 32)
    assert str(path) in str(caught.value)
    assert md5(data) in str(caught.value) and "0" * 32 in str(caught.value)


def test_md5_is_named_whatever_is_wrong(tmp_path):
    path = write(tmp_path, idx_bytes(IMAGES)[:-1])
    with pytest.raises(DataFileError, match="60 bytes.*" + "0" * 32):
        read_idx(path, md5="0" * 32)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_idx(tmp_path / "nothing")


# --- pairs that do not belong together ---


def pair_refused(folder, images, labels, message, num_classes=3):
    images_path = write(folder, images, "images")
    labels_path = write(folder, labels, "labels")
    with pytest.raises(DataFileError, match=message) as caught:
        read_idx_pair(images_path, labels_path, num_classes)
    assert str(folder) in str(caught.value)


def test_labels_out_of_range(tmp_path):
    labels = LABELS.copy()
    labels[3] = 3
    pair_refused(tmp_path, idx_bytes(IMAGES), idx_bytes(labels), "label 3 at position 3; .* from 0 to 2")


def test_another_number_of_labels(tmp_path):
    pair_refused(tmp_path, idx_bytes(IMAGES), idx_bytes(LABELS[:4]), "4 labels.* 5 images")


def test_labels_and_images_swapped(tmp_path):
    pair_refused(tmp_path, idx_bytes(LABELS), idx_bytes(IMAGES), "uint8 in 1 .*images.*0x00000803")
    pair_refused(tmp_path, idx_bytes(IMAGES), idx_bytes(IMAGES), "uint8 in 3 .*labels.*0x00000801")


# --- anything at all ---


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_damage_is_refused_or_harmless(tmp_path_factory, data):
    whole = bytearray(idx_bytes(IMAGES))
    if data.draw(st.booleans()):
        whole = bytearray(packed(whole))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    whole = whole[: data.draw(st.integers(0, len(whole)))]
    path = write(tmp_path_factory.getbasetemp(), bytes(whole), "fuzzed")
    try:
        array = read_idx(path)
    except DataFileError as error:
        assert str(path) in str(error)
    else:
        assert array.nbytes <= 60
