import gzip
import os
import pickle
import struct
import tarfile
import tracemalloc
import warnings

import numpy as np
import pytest
from data_files import (
    cifar_batch,
    md5,
    pickled_array,
    pickled_dict,
    pickled_labels,
    random_images,
    short_string,
    tar_gz,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from cnn.data import DataFileError
from cnn.data.cifar import read_batch, read_cifar

IMAGES = random_images(4, (3, 32, 32))
LABELS = [3, 0, 9, 1]
BATCH = cifar_batch(IMAGES, LABELS)


def decode(raw, size=4, label_key="labels", num_classes=10):
    return read_batch(raw, "some/file", size, label_key, num_classes)


def refused(raw, *words, **settings):
    with pytest.raises(DataFileError) as caught:
        decode(raw, **settings)
    for word in ("some/file", *words):
        assert word in str(caught.value)


# --- batches ---


def test_the_test_files_are_pickles_as_python_reads_them():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy.core is numpy._core now
        batch = pickle.loads(BATCH, encoding="bytes")
    assert np.array_equal(batch[b"data"], IMAGES.reshape(4, 3072))
    assert batch[b"labels"] == LABELS


def test_reads_a_batch():
    images, labels = decode(BATCH)
    assert images.dtype == np.uint8 and np.array_equal(images, IMAGES)
    assert labels.dtype == np.int64 and labels.tolist() == LABELS


def test_reads_fine_labels():
    raw = cifar_batch(IMAGES, [99, 0, 5, 7], b"fine_labels")
    _, labels = decode(raw, label_key="fine_labels", num_classes=100)
    assert labels.tolist() == [99, 0, 5, 7]


class Trap:
    """Pickled, it is a call: the way in which a pickle runs code."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_forbidden_call_does_not_happen(tmp_path, protocol):
    harm = tmp_path / "harm"
    raw = pickle.dumps({"labels": Trap(os.mkdir, str(harm))}, protocol=protocol)
    refused(raw)
    assert not harm.exists()
    pickle.loads(raw)  # the trap is a real one
    assert harm.exists()


@pytest.mark.parametrize(
    ("trap", "named"),
    [
        (b"\x80\x02cposix\nsystem\n" + short_string(b"true") + b"\x85R.", "posix.system"),
        (b"\x80\x02c__builtin__\neval\n" + short_string(b"1") + b"\x85R.", "__builtin__.eval"),
        (b"\x80\x02cnumpy\nload\n" + short_string(b"/") + b"\x85R.", "numpy.load"),
        (b"\x80\x02cnumpy.core.multiarray\nfromfile\n.", "numpy.core.multiarray.fromfile"),
        (b"\x80\x02(ios\nsystem\n.", "INST"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x02)Q.", "BINPERSID"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "SHORT_BINUNICODE"),
        (b"\x80\x02\xff.", "0xff"),
    ],
)
def test_what_is_refused_is_named(trap, named):
    refused(trap, named)


def test_a_call_of_an_admitted_name_is_only_written_down():
    # numpy.ndarray((2**40,)) would ask for a terabyte, numpy.dtype("O") would make a pointer of the bytes
    huge = b"cnumpy\nndarray\nJ\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86\x85R"
    refused(
        pickled_dict({b"labels": pickled_labels(LABELS), b"data": huge}), "'data' is not an array of uint8"
    )


@pytest.mark.parametrize(
    "data",
    [
        pickled_array(bytes(4 * 3072), (4, 3072), b"O8"),
        pickled_array(bytes(4 * 3072), (4, 3072), b"f4"),
        pickled_array(bytes(4 * 3072 - 1), (4, 3072)),
        pickled_array(bytes(4 * 3072), (3072, 4)),
        pickled_array(b"", (2**31 - 1, 3072)),
        pickled_array(bytes(3 * 3072), (3, 3072)),
        short_string(b"not an array"),
        b"N",
    ],
)
def test_wrong_arrays(data):
    refused(pickled_dict({b"labels": pickled_labels(LABELS), b"data": data}), "'data' is not", "(4, 3072)")


@pytest.mark.parametrize(
    "labels", [b"N", pickled_labels([1, 2, 3]), b"](K\x01K\x02K\x03U\x00e", b"](K\x01K\x02K\x03\x88e"]
)
def test_labels_that_are_no_list_of_numbers(labels):
    data = pickled_array(IMAGES.tobytes(), (4, 3072))
    refused(pickled_dict({b"labels": labels, b"data": data}), "'labels' is not a list of 4 integers")


@pytest.mark.parametrize("wrong", [b"K\x0a", b"J\xff\xff\xff\xff"])
def test_label_out_of_range(wrong):
    data = pickled_array(IMAGES.tobytes(), (4, 3072))
    labels = b"](K\x01K\x02K\x03" + wrong + b"e"
    number = "10" if wrong[0:1] == b"K" else "-1"
    refused(pickled_dict({b"labels": labels, b"data": data}), f"label {number}", "from 0 to 9")


def test_missing_keys_and_other_objects():
    refused(pickled_dict({b"data": pickled_array(IMAGES.tobytes(), (4, 3072))}), "'labels'")
    refused(pickled_dict({b"labels": pickled_labels(LABELS)}), "'data'")
    refused(b"\x80\x02].", "a list")


def test_hostile_sizes_take_no_memory():
    memo = b"\x80\x02]r\xff\xff\xff\xff."  # put into slot 2**32 - 1 of the memo
    string = b"\x80\x02T\xff\xff\xff\x7fabc."  # a string of 2**31 - 1 bytes
    lists = b"\x80\x02(" + b"]" * 200_000 + b"l."  # 56 bytes for each
    tracemalloc.start()
    try:
        refused(memo, "a list")
        refused(string)
        refused(lists, "more objects")
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()


def test_a_very_long_name_makes_no_long_message():
    with pytest.raises(DataFileError) as caught:
        decode(b"\x80\x02c" + b"x" * 100_000 + b"\nname\n.")
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("length", [0, 1, 2, 30, 5000, len(BATCH) - 1])
def test_truncated(length):
    refused(BATCH[:length])


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_damage_is_refused_or_harmless(data):
    raw = bytearray(BATCH)
    edges = st.one_of(st.integers(0, 400), st.integers(len(raw) - 100, len(raw) - 1))  # around the pixels
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(edges)] = data.draw(st.integers(0, 255))
    try:
        images, labels = decode(bytes(raw))
    except DataFileError:
        return
    assert images.shape == (4, 3, 32, 32) and labels.shape == (4,)
    assert labels.min() >= 0 and labels.max() < 10


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from([bytes([n]) for n in b"}](.KUNR\x85\x86\x87\x88)aesutbqhrj0\x80\x02"]), max_size=40
    )
)
def test_any_order_of_opcodes_is_refused(opcodes):  # all those that the reader knows, and POP
    refused(b"\x80\x02" + b"".join(opcodes))


# --- whole sets: three batches of four images, in an archive or a folder ---

TRAIN = random_images(8, (3, 32, 32), seed=1), [0, 1, 2, 3, 4, 5, 6, 7]
TEST = random_images(4, (3, 32, 32), seed=2), [9, 8, 9, 8]
BATCHES = {
    "data_batch_1": cifar_batch(TRAIN[0][:4], TRAIN[1][:4]),
    "data_batch_2": cifar_batch(TRAIN[0][4:], TRAIN[1][4:]),
    "test_batch": cifar_batch(*TEST),
}
MD5S = {name: md5(data) for name, data in BATCHES.items()}
META = pickled_dict({b"num_vis": b"M\x00\x0c"})


def read(*paths, md5s=MD5S):
    return read_cifar(paths, md5s, 8, 4, "labels", 10)


def archive(folder, members):
    path = folder / "cifar-10-python.tar.gz"
    path.write_bytes(tar_gz(members))
    return path


def members(prefix="cifar-10-batches-py/"):
    return [(prefix + name, data) for name, data in BATCHES.items()]


def check(result):
    train_images, train_labels, test_images, test_labels = result
    assert np.array_equal(train_images, TRAIN[0]) and train_labels.tolist() == TRAIN[1]
    assert np.array_equal(test_images, TEST[0]) and test_labels.tolist() == TEST[1]


def archive_refused(path, *words, md5s=MD5S):
    with pytest.raises(DataFileError) as caught:
        read(path, md5s=md5s)
    for word in (str(path), *words):
        assert word in str(caught.value)


@pytest.mark.parametrize("prefix", ["cifar-10-batches-py/", "./cifar-10-batches-py/", ""])
def test_archive_in_any_order(tmp_path, prefix):
    others = [(prefix + "batches.meta", META), (prefix + "readme.html", b"hello")]
    check(read(archive(tmp_path, others + members(prefix)[::-1])))


def test_folder(tmp_path):
    for name, data in BATCHES.items():
        (tmp_path / name).write_bytes(data)
    check(read(*(tmp_path / name for name in BATCHES)))


def test_file_in_a_folder_that_is_too_long(tmp_path):
    for name, data in BATCHES.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "test_batch").write_bytes(bytes(50_000))
    with pytest.raises(DataFileError, match="test_batch.*50000 bytes"):
        read(*(tmp_path / name for name in BATCHES))


def test_wrong_md5_is_named_before_the_pickle_is_looked_at(tmp_path):
    archive_refused(
        archive(tmp_path, members()), "test_batch", "f" * 32, md5s=MD5S | {"test_batch": "f" * 32}
    )


def test_missing_batch(tmp_path):
    archive_refused(archive(tmp_path, members()[:-1]), "does not hold test_batch")


@pytest.mark.parametrize("prefix", ["../", "cifar-10-batches-py/../../", "/", "/etc/"])
def test_member_that_leads_out_of_the_archive(tmp_path, prefix):
    found = archive(tmp_path, members(prefix))
    archive_refused(found, "refused", prefix + "data_batch_1")


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
)
def test_member_that_is_no_regular_file(tmp_path, kind):
    link = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
    link.type = kind
    link.linkname = "/etc/passwd"
    found = archive(tmp_path, [(link, b""), *members()])
    archive_refused(found, "refused", "'cifar-10-batches-py/data_batch_1'", "no regular file")


def peak_memory(call):
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_member_of_a_huge_size(tmp_path):
    found = archive(tmp_path, [("x/test_batch", bytes(30_000_000))])
    assert (
        peak_memory(lambda: archive_refused(found, "refused", "'x/test_batch'", "30000000 bytes")) < 3_000_000
    )


def test_member_that_only_says_it_is_huge(tmp_path):
    header = tarfile.TarInfo("x/test_batch")
    header.size = 2**40
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(gzip.compress(header.tobuf() + bytes(1024)))
    assert peak_memory(lambda: archive_refused(path, "refused", "1099511627776 bytes")) < 3_000_000


def test_archive_bomb_in_a_member_nobody_asked_for(tmp_path):
    found = archive(tmp_path, [("padding", bytes(30_000_000)), *members()])
    assert found.stat().st_size < 400_000
    assert peak_memory(lambda: archive_refused(found, "refused", "unpacks to more than")) < 3_000_000


def test_archive_bomb_in_a_long_name(tmp_path):
    header = tarfile.TarInfo("././@LongLink")
    header.type = tarfile.GNUTYPE_LONGNAME
    found = archive(tmp_path, [(header, b"x" * 30_000_000), *members()])
    assert peak_memory(lambda: archive_refused(found, "refused", "unpacks to more than")) < 6_000_000


def test_damaged_archives(tmp_path):
    path = archive(tmp_path, members())
    whole = path.read_bytes()
    for damaged in (
        b"",
        b"no gzip at all",
        whole[:1000],
        whole[: len(whole) // 2],
        whole[:2000] + bytes(100) + whole[2100:],
    ):
        path.write_bytes(damaged)
        archive_refused(path)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 511), st.binary(min_size=1, max_size=8))
def test_any_damage_to_a_header_is_refused_or_harmless(tmp_path_factory, position, noise):
    data = BATCHES["data_batch_1"]
    header = bytearray(tarfile.TarInfo("x/data_batch_1").tobuf())
    header[124:136] = b"%011o\0" % len(data)
    header[position : position + len(noise)] = noise
    header = header[:512]
    header[148:156] = b" " * 8
    header[148:156] = struct.pack("8s", b"%06o\0 " % sum(header))  # a checksum that fits
    raw = bytes(header) + data + bytes(-len(data) % 512 + 1024)
    path = tmp_path_factory.getbasetemp() / "fuzzed.tar.gz"
    path.write_bytes(gzip.compress(raw, compresslevel=1))
    archive_refused(path)  # two batches are missing, if nothing else is wrong
