import ast
import hashlib
import http.server
import os
import re
import shutil
import socket
import sys
import threading
import traceback

import numpy as np
import pytest
from data_files import cifar_batch, idx_bytes, md5, packed, random_images, tar_gz

import cnn.data
from cnn.data import NAMES, DataFileError, DataNotFoundError, Dataset, DataWarning, fetch, load
from cnn.data.sources import SHA256, SOURCES

TRUE_SOURCES = tuple(SOURCES.values())  # before they are shrunk
IDX_NAMES = [
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
]
TRAIN = random_images(6, (5, 4)), [0, 1, 2, 3, 9, 5]
TEST = random_images(3, (5, 4), seed=1), [7, 8, 9]
UNPACKED = dict(zip(IDX_NAMES, map(idx_bytes, (*TRAIN, *TEST)), strict=True))
PACKED = {f"{name}.gz": packed(data) for name, data in UNPACKED.items()}

CIFAR_TRAIN = random_images(10, (3, 32, 32)), list(range(10))
CIFAR_TEST = random_images(2, (3, 32, 32), seed=1), [4, 2]
BATCHES = {
    f"data_batch_{i + 1}": cifar_batch(CIFAR_TRAIN[0][2 * i : 2 * i + 2], CIFAR_TRAIN[1][2 * i : 2 * i + 2])
    for i in range(5)
} | {"test_batch": cifar_batch(*CIFAR_TEST)}
ARCHIVE = tar_gz([(f"cifar-10-batches-py/{name}", data) for name, data in BATCHES.items()])


@pytest.fixture(autouse=True)
def small_sources(monkeypatch, tmp_path):
    """The data sets shrunk to the files above, an empty cache, and nothing in the environment."""
    for name in ("mnist", "fashion-mnist", "kmnist"):
        unpacked = dict.fromkeys(UNPACKED) if name == "kmnist" else {n: md5(d) for n, d in UNPACKED.items()}
        small = SOURCES[name]._replace(
            downloads={n: md5(d) for n, d in PACKED.items()},
            contents=unpacked,
            train_size=6,
            test_size=3,
            image_shape=(5, 4),
        )
        monkeypatch.setitem(SOURCES, name, small)
    small = SOURCES["cifar10"]._replace(
        downloads={"cifar-10-python.tar.gz": md5(ARCHIVE)},
        contents={n: md5(d) for n, d in BATCHES.items()},
        train_size=10,
        test_size=2,
    )
    monkeypatch.setitem(SOURCES, "cifar10", small)
    monkeypatch.setattr(fetch, "cache_folder", lambda: str(tmp_path / "cache"))
    monkeypatch.delenv("CNN_DATA_DIR", raising=False)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No test reaches beyond this machine: whoever tries gets the error of a machine without a network."""
    connect = socket.socket.connect

    def refuse(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] != "127.0.0.1":
            raise OSError("no network in tests")
        return connect(self, address)

    def no_names(host, *args, **kwargs):
        if host == "127.0.0.1":
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, args[0]))]
        raise socket.gaierror("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", no_names)
    for variable in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.upper(), raising=False)


def put(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def check_idx(pair, name="mnist"):
    for data, (images, labels) in zip(pair, (TRAIN, TEST), strict=True):
        assert isinstance(data, Dataset)
        assert np.array_equal(data.images, images[:, None]) and data.images.dtype == np.uint8
        assert data.labels.tolist() == labels
        assert data.name == name and data.classes == SOURCES[name].classes
        assert data.mean == SOURCES[name].mean and data.std == SOURCES[name].std


def check_cifar(pair):
    for data, (images, labels) in zip(pair, (CIFAR_TRAIN, CIFAR_TEST), strict=True):
        assert np.array_equal(data.images, images)
        assert data.labels.tolist() == labels
        assert data.classes[3] == "cat" and len(data.mean) == 3


# --- the table ---


def test_names():
    assert NAMES == ("mnist-sample", "mnist", "fashion-mnist", "kmnist", "cifar10", "cifar100")


def test_table_is_complete():
    for name, source in SOURCES.items():
        assert source.name == name
        assert len(source.classes) == len(set(source.classes)) == (100 if name == "cifar100" else 10)
        assert len(source.mean) == len(source.std) == (3 if "cifar" in name else 1)
        assert all(len(h) == 32 for h in source.downloads.values())
        assert bool(source.mirrors) != bool(source.bundled)
        assert all(m.startswith("http") and m.endswith("/") for m in source.mirrors)
        secure = [m.startswith("https:") for m in source.mirrors]
        assert secure == sorted(secure, reverse=True) and (all(secure[:1]) or source.bundled)
    md5s = {md5 for source in TRUE_SOURCES for md5 in (*source.downloads.values(), *source.contents.values())}
    assert SHA256.keys() <= md5s and all(re.fullmatch("[0-9a-f]{64}", digest) for digest in SHA256.values())
    assert len(set(SHA256.values())) == len(SHA256)
    assert all(md5 in SHA256 for source in TRUE_SOURCES for md5 in source.downloads.values() if not source.bundled)
    classes = SOURCES["cifar100"].classes
    assert list(classes) == sorted(classes) and (classes[0], classes[99]) == ("apple", "worm")


@pytest.mark.parametrize("name", ["MNIST", "", None, 3, ["mnist"]])
def test_unknown_name(name):
    with pytest.raises(ValueError) as caught:
        load(name)
    assert repr(name) in str(caught.value)
    assert all(known in str(caught.value) for known in NAMES)


def test_wrong_data_dir():
    with pytest.raises(TypeError, match="data_dir must be a folder or None, not 5"):
        load("mnist", 5)


# --- found on this machine ---


@pytest.mark.parametrize("files", [PACKED, UNPACKED], ids=["gz", "unpacked"])
@pytest.mark.parametrize("inside", ["", "mnist", "MNIST/raw"])
def test_found_in_data_dir(tmp_path, files, inside):
    put(tmp_path / "data" / inside, files)
    check_idx(load("mnist", tmp_path / "data"))
    check_idx(load("mnist", str(tmp_path / "data")))


def test_found_when_some_files_are_packed_and_some_are_not(tmp_path):
    mixed = dict(list(PACKED.items())[:2] + list(UNPACKED.items())[2:])
    check_idx(load("mnist", put(tmp_path / "data", mixed)))


def test_packed_anew_is_as_good(tmp_path):
    again = {
        name: packed(UNPACKED[name[:-3]] + b"")[:9] + b"\0" + packed(UNPACKED[name[:-3]])[10:]
        for name in PACKED
    }
    assert md5(again["train-images-idx3-ubyte.gz"]) != md5(PACKED["train-images-idx3-ubyte.gz"])
    check_idx(load("mnist", put(tmp_path / "data", again)))


def test_looks_on_in_the_environment_and_the_cache(tmp_path, monkeypatch):
    put(tmp_path / "cache" / "mnist", PACKED)
    check_idx(load("mnist"))
    check_idx(load("mnist", tmp_path / "nothing"))
    put(tmp_path / "env" / "fashion-mnist", PACKED)
    monkeypatch.setenv("CNN_DATA_DIR", str(tmp_path / "env"))
    check_idx(load("fashion-mnist"), "fashion-mnist")
    check_idx(load("fashion-mnist", tmp_path / "nothing"), "fashion-mnist")
    check_idx(load("mnist"))


def test_data_dir_comes_before_the_environment_and_that_before_the_cache(tmp_path, monkeypatch):
    wrong = {name: b"wrong" for name in PACKED}
    put(tmp_path / "env", PACKED)
    put(tmp_path / "cache" / "mnist", wrong)
    monkeypatch.setenv("CNN_DATA_DIR", str(tmp_path / "env"))
    check_idx(load("mnist"))
    put(tmp_path / "env", wrong)
    check_idx(load("mnist", put(tmp_path / "data", PACKED)))
    with pytest.raises(DataFileError):
        load("mnist")


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
@pytest.mark.parametrize("files", [PACKED, UNPACKED], ids=["gz", "unpacked"])
def test_names_with_a_dot_are_found(tmp_path, files, name):
    """Archive tools and Kaggle call the files so."""
    dotted = {file.replace("-idx", ".idx"): content for file, content in files.items()}
    assert "train-images.idx3-ubyte" in {file.removesuffix(".gz") for file in dotted}
    check_idx(load(name, put(tmp_path / "data", dotted)), name)
    put(tmp_path / "mixed", dict(list(files.items())[:2] + list(dotted.items())[2:]))
    check_idx(load(name, tmp_path / "mixed"), name)
    put(tmp_path / "data", dict.fromkeys(files, b"wrong"))  # the published names go first
    with pytest.raises(DataFileError, match="train-images-idx3-ubyte"):
        load(name, tmp_path / "data")


def test_kmnist_with_dots_is_checked_as_published(tmp_path):
    put(tmp_path / "data", {file.replace("-idx", ".idx"): content for file, content in PACKED.items()})
    check_idx(load("kmnist", tmp_path / "data"), "kmnist")


def test_a_folder_that_lacks_a_file_is_passed_over(tmp_path):
    put(tmp_path / "data", dict(list(PACKED.items())[:3]))
    put(tmp_path / "cache" / "mnist", PACKED)
    check_idx(load("mnist", tmp_path / "data"))


def test_home_is_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    put(tmp_path / "mine", PACKED)
    check_idx(load("mnist", "~/mine"))


def test_a_folder_that_is_not_there_is_named(tmp_path, monkeypatch):
    put(tmp_path / "cache" / "mnist", PACKED)
    with pytest.warns(DataWarning, match="data_dir .*nothing: no such folder; trying the other places"):
        check_idx(load("mnist", tmp_path / "nothing"))
    monkeypatch.setenv("CNN_DATA_DIR", str(tmp_path / "void"))
    with pytest.warns(DataWarning, match="CNN_DATA_DIR .*void: no such folder; trying the other places"):
        check_idx(load("mnist"))


def test_homes_of_unknown_users(monkeypatch):
    with pytest.raises(DataNotFoundError, match="^data_dir ~nosuchuser/x: there is no user 'nosuchuser'$"):
        load("mnist", "~nosuchuser/x")
    monkeypatch.setenv("CNN_DATA_DIR", "~nosuchuser")
    with pytest.raises(DataNotFoundError, match="^CNN_DATA_DIR ~nosuchuser: there is no user 'nosuchuser'$"):
        load("mnist")
    assert len(load("mnist-sample")[0]) == 4000  # comes with the package


def test_a_folder_may_be_called_like_a_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "~nosuchuser", PACKED)
    check_idx(load("mnist", "~nosuchuser"))


@pytest.mark.parametrize("pooch", ["with pooch", "without"])
def test_without_a_home(tmp_path, monkeypatch, pooch):
    """No HOME, and a user that the system does not know: nothing is made in a folder called ~."""
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    for variable in ("HOME", "XDG_CACHE_HOME", "CNN_DATA_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda number: {}[number])
    if pooch == "without":
        monkeypatch.setitem(sys.modules, "pooch", None)
    assert fetch.cache_folder() is None
    with pytest.raises(DataNotFoundError) as caught:
        load("mnist")
    assert "tried: nothing, for there is no home folder to download into (HOME is not set)" in str(caught.value)
    assert "Put the files into any folder that you give as data_dir= or $CNN_DATA_DIR." in str(caught.value)
    with pytest.raises(DataNotFoundError, match=r"~/x: there is no home folder \(HOME is not set\)"):
        load("mnist", "~/x")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", IDX_NAMES)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_file_that_is_not_the_published_one_is_refused(tmp_path, name, suffix):
    put(tmp_path / "data", PACKED)
    changed = bytearray(UNPACKED[name])
    changed[-1] ^= 1
    path = tmp_path / "data" / (name + suffix)
    path.write_bytes(packed(bytes(changed)) if suffix else bytes(changed))
    with pytest.raises(DataFileError) as caught:
        load("mnist", tmp_path / "data")
    assert str(path) in str(caught.value) and md5(UNPACKED[name]) in str(caught.value)


def test_a_file_of_another_size_is_refused_with_the_right_md5_named(tmp_path):
    put(
        tmp_path / "data",
        PACKED | {"train-images-idx3-ubyte.gz": packed(idx_bytes(random_images(7, (5, 4))))},
    )
    with pytest.raises(
        DataFileError, match=r"\(7, 5, 4\), expected \(6, 5, 4\).*" + md5(idx_bytes(TRAIN[0]))
    ):
        load("mnist", tmp_path / "data")


def test_kmnist_is_checked_as_published(tmp_path):
    check_idx(load("kmnist", put(tmp_path / "data", PACKED)), "kmnist")
    put(tmp_path / "data", {"t10k-labels-idx1-ubyte.gz": packed(idx_bytes([7, 8, 8]))})
    with pytest.raises(
        DataFileError, match="t10k-labels-idx1-ubyte.gz.*" + md5(PACKED["t10k-labels-idx1-ubyte.gz"])
    ):
        load("kmnist", tmp_path / "data")


def test_kmnist_unpacked_cannot_be_checked_so_it_is_passed_over(tmp_path):
    put(tmp_path / "data", UNPACKED)
    with pytest.raises(DataNotFoundError):
        load("kmnist", tmp_path / "data")
    put(tmp_path / "data", PACKED)
    check_idx(load("kmnist", tmp_path / "data"), "kmnist")


@pytest.mark.parametrize("inside", ["", "cifar10", "cifar10/cifar-10-batches-py", "cifar-10-batches-py"])
def test_cifar_unpacked(tmp_path, inside):
    put(tmp_path / "data" / inside, BATCHES)
    check_cifar(load("cifar10", tmp_path / "data"))


@pytest.mark.parametrize("inside", ["", "cifar10"])
def test_cifar_archive(tmp_path, inside):
    put(tmp_path / "data" / inside, {"cifar-10-python.tar.gz": ARCHIVE})
    check_cifar(load("cifar10", tmp_path / "data"))


def test_cifar_archive_packed_anew(tmp_path):
    again = tar_gz([(f"./elsewhere/{name}", data) for name, data in reversed(BATCHES.items())])
    assert md5(again) != md5(ARCHIVE)
    check_cifar(load("cifar10", put(tmp_path / "data", {"cifar-10-python.tar.gz": again})))


def test_cifar_folder_that_lacks_a_batch_is_passed_over_for_the_archive(tmp_path):
    put(tmp_path / "data", {"data_batch_1": b"", "cifar-10-python.tar.gz": ARCHIVE})
    check_cifar(load("cifar10", tmp_path / "data"))


def test_cifar_batch_that_is_not_the_published_one(tmp_path):
    put(tmp_path / "data", BATCHES | {"data_batch_3": BATCHES["data_batch_2"]})
    with pytest.raises(DataFileError, match="data_batch_3.*" + md5(BATCHES["data_batch_3"])):
        load("cifar10", tmp_path / "data")


# --- downloaded ---


@pytest.fixture
def web(monkeypatch):
    """Files served on this machine: web.files[path] is the bytes; web.asked is what was asked for."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            server.asked.append(self.path)
            data = server.files.get(self.path)
            self.send_response(200 if data is not None else 404)
            self.send_header("Content-Length", str(len(data or b"")))
            self.end_headers()
            self.wfile.write((data or b"")[: server.breaks_off_after])

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.asked, server.breaks_off_after = {}, [], None
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    root = f"http://127.0.0.1:{server.server_port}"
    for name in ("mnist", "kmnist", "cifar10"):
        mirrors = (f"{root}/first/", f"{root}/second/")
        monkeypatch.setitem(SOURCES, name, SOURCES[name]._replace(mirrors=mirrors))
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def serve(web, mirror, files):
    web.files |= {f"/{mirror}/{name}": data for name, data in files.items()}


def test_download_into_the_cache_once(tmp_path, web, capfd):
    serve(web, "first", PACKED)
    check_idx(load("mnist", tmp_path / "nothing"))
    assert sorted(os.listdir(tmp_path / "cache" / "mnist")) == sorted(PACKED)
    assert "100%" in capfd.readouterr().err  # the progress bar
    assert len(web.asked) == 4
    check_idx(load("mnist"))
    assert len(web.asked) == 4
    assert not (tmp_path / "nothing").exists()


def test_download_of_an_archive(tmp_path, web):
    serve(web, "first", {"cifar-10-python.tar.gz": ARCHIVE})
    check_cifar(load("cifar10"))
    assert os.listdir(tmp_path / "cache" / "cifar10") == ["cifar-10-python.tar.gz"]


def test_only_what_is_missing_is_downloaded(tmp_path, web):
    put(tmp_path / "cache" / "mnist", dict(list(PACKED.items())[:3]))
    serve(web, "first", PACKED)
    check_idx(load("mnist"))
    assert web.asked == ["/first/t10k-labels-idx1-ubyte.gz"]


def test_mirrors_are_tried_in_turn(web):
    serve(web, "second", PACKED)
    check_idx(load("mnist"))
    assert web.asked[:2] == ["/first/train-images-idx3-ubyte.gz", "/second/train-images-idx3-ubyte.gz"]


def test_a_mirror_with_the_wrong_file_is_passed_over(tmp_path, web):
    serve(web, "first", dict.fromkeys(PACKED, b"<html>Please log in</html>"))
    serve(web, "second", PACKED)
    check_idx(load("mnist"))
    for name, data in PACKED.items():
        assert (tmp_path / "cache" / "mnist" / name).read_bytes() == data


def refused_download(*words, data_dir=None, there=True):
    with pytest.raises(DataNotFoundError) as caught:
        load("mnist", data_dir)
    for word in words:
        assert (word in str(caught.value)) == there


def files_below(folder):
    return [name for _, _, names in os.walk(folder) for name in names]


def test_wrong_files_everywhere_are_refused_and_nothing_stays_behind(tmp_path, web):
    for mirror in ("first", "second"):
        serve(web, mirror, dict.fromkeys(PACKED, packed(b"wrong")))
    refused_download("/first/", "/second/", "has not the right MD5")
    assert files_below(tmp_path) == []


def test_a_download_that_breaks_off_leaves_nothing_behind(tmp_path, web):
    serve(web, "first", PACKED)
    web.breaks_off_after = 20
    refused_download(
        "/first/train-images-idx3-ubyte.gz", "/second/train-images-idx3-ubyte.gz (HTTP status 404)"
    )
    assert files_below(tmp_path) == []
    web.breaks_off_after = None
    check_idx(load("mnist"))  # and does not stand in the way of the next


def test_the_message_when_all_fails(tmp_path, monkeypatch, web):
    monkeypatch.setenv("CNN_DATA_DIR", str(tmp_path / "env"))
    with pytest.raises(FileNotFoundError) as caught:
        load("mnist", tmp_path / "data")
    message = str(caught.value)
    for word in (
        *PACKED,
        str(tmp_path / "data"),
        str(tmp_path / "env"),
        str(tmp_path / "cache"),
        "HTTP status 404",
    ):
        assert word in message
    assert f"Put the files into {tmp_path / 'cache' / 'mnist'}" in message and "data_dir=" in message


def test_the_message_names_what_a_folder_lacks(tmp_path, web):
    put(tmp_path / "data", dict(list(PACKED.items())[:3]))
    put(tmp_path / "env" / "cifar10", dict(list(BATCHES.items())[1:]))
    refused_download(f"  {tmp_path / 'cache'} lacks", data_dir=None, there=False)
    refused_download(f"  {tmp_path / 'data'} lacks t10k-labels-idx1-ubyte\n", data_dir=tmp_path / "data")
    with pytest.raises(DataNotFoundError, match=r"cifar10 lacks data_batch_1\n"):
        load("cifar10", tmp_path / "env")


def test_a_download_with_the_right_md5_and_the_wrong_sha256_is_refused(tmp_path, web, monkeypatch):
    serve(web, "first", PACKED)
    for content in PACKED.values():
        monkeypatch.setitem(SHA256, md5(content), hashlib.sha256(content).hexdigest())
    check_idx(load("mnist"))
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setitem(SHA256, md5(PACKED["t10k-labels-idx1-ubyte.gz"]), "0" * 64)
    refused_download("t10k-labels-idx1-ubyte.gz (what it sent has not the right SHA-256)")


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "kmnist", "cifar10", "cifar100"])
def test_without_a_network_there_is_one_short_error(name):
    with pytest.raises(DataNotFoundError) as caught:
        load(name)
    for word in (name, "ConnectionError", *SOURCES[name].downloads, *SOURCES[name].mirrors):
        assert word in str(caught.value)
    text = "".join(traceback.format_exception(caught.value))
    assert "requests" not in text and "urllib3" not in text and "Max retries" not in text


@pytest.mark.parametrize(
    "error", [TimeoutError(110, "timed out"), PermissionError(13, "Permission denied", "/x")]
)
def test_other_errors_of_the_machine_are_told(monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("pooch.retrieve", fail)
    with pytest.raises(DataNotFoundError) as caught:
        load("mnist")
    assert str(error) in str(caught.value)


def test_without_pooch_the_error_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(DataNotFoundError, match="pooch, which downloads, is not installed"):
        load("mnist")


def test_without_tqdm_there_is_no_progress_bar(monkeypatch, web, capfd):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    serve(web, "first", PACKED)
    check_idx(load("mnist"))
    assert "100%" not in capfd.readouterr().err


# --- the rest ---


def test_cache_folder_is_pooch_s(monkeypatch):
    import pooch

    monkeypatch.undo()  # the real cache_folder
    assert fetch.cache_folder() == str(pooch.os_cache("cnn"))


def imports(tree):
    """(level, module) of every import statement in a syntax tree; level 1 is the package itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module


def test_the_package_needs_nothing_but_numpy_the_standard_library_and_kernels():
    at_hand = {*sys.stdlib_module_names, "numpy"}
    kernels = ("cnn._ext", "cnn.runtime", "cnn.text", "cnn.ranks", "cnn.files", "cnn.pickles")
    folder = os.path.dirname(cnn.data.__file__)
    files = [name for name in os.listdir(folder) if name.endswith(".py")]
    assert len(files) > 5
    for name in files:
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            tree = ast.parse(file.read())
        for level, module in imports(tree):
            if module in kernels:
                continue
            # only inside functions, see below, or as a type
            later = module in ("pooch", "tqdm", "PIL", "cnn.plots", "matplotlib.figure")
            assert level == 1 or (level == 0 and (module.partition(".")[0] in at_hand or later)), (
                name,
                module,
            )
        at_once = [node for node in tree.body if not isinstance(node, ast.FunctionDef) and not (
            isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")]
        for level, module in imports(ast.Module(at_once, [])):
            assert level == 1 or module in kernels or module.partition(".")[0] in at_hand, (name, module)
