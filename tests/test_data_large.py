"""Data that are read batch by batch: out of files that are mapped into memory, and out of objects that give batches."""

import os
import threading
import warnings

import numpy as np
import pytest
from data_files import random_images
from processes import run_python

import cnn
from cnn.data import (
    AlternatingFlip,
    BatchedDataset,
    Compose,
    DataFileError,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomCrop,
    mean_std,
)
from cnn.data.rows import Rows, mapped

N = 300
IMAGES, LABELS = random_images(N, (1, 8, 8)), np.arange(N) % 5


class Source:
    """A data set as others write it; counts how it is read."""

    def __init__(self, images=IMAGES, labels=LABELS):
        self.images, self.labels, self.calls, self.threads = images, labels, [], set()

    def __len__(self):
        return len(self.images)

    def __getitem__(self, indices):
        assert isinstance(indices, np.ndarray) and indices.dtype == np.int64 and indices.ndim == 1
        self.calls.append(len(indices))
        self.threads.add(threading.current_thread().name)
        return self.images[indices], self.labels[indices]


class Batches:
    """Batches of 37 images, of a number that it does not tell."""

    def __init__(self, images=IMAGES, labels=LABELS):
        self.images, self.labels = images, labels

    def __iter__(self):
        for start in range(0, len(self.images), 37):
            part = slice(start, start + 37)
            yield self.images[part], self.labels[part]


def in_file(folder, images=IMAGES):
    path = os.path.join(folder, "images.npy")
    np.save(path, images)
    return np.load(path, mmap_mode="r")


def mlp():
    return cnn.Sequential(cnn.Flatten(), cnn.Linear(64, 5, seed=0))


def trained(train, epochs=2, validation=None, **options):
    """(weights, last row of the history, what evaluate says of `train`) after a fit."""
    model = mlp()
    trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), lr=0.1, momentum=0.9), progress=False)
    history = trainer.fit(train, epochs, validation, **options)
    row = {name: value for name, value in history[-1].items() if name not in ("seconds", "images_per_second")}
    return [p.data.tobytes() for p in model.parameters()], row, trainer.evaluate(train)


def same(a, b):
    assert a[0] == b[0] and repr(a[1]) == repr(b[1])
    return a[2] == b[2]


# ------------------------------------------------------------------------------------------ the same bits


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("transform", [None, Compose(RandomCrop(1), AlternatingFlip()), lambda x, rng: x[..., ::-1]])
def test_the_same_bits_wherever_the_images_are(tmp_path, dtype, transform, monkeypatch):
    monkeypatch.setattr("cnn.data.loader._TOGETHER", 70 * 64)      # several groups in an epoch
    images = IMAGES.astype(dtype)

    def loader(data, **options):
        return DataLoader(data, 32, shuffle=True, seed=3, transform=transform, **options)

    wanted = trained(loader(Dataset(images, LABELS)), validation=Dataset(images[:50], LABELS[:50]))
    on_disk = Dataset(in_file(tmp_path, images), LABELS)
    validation = on_disk.subset(slice(0, 50))
    for data in (on_disk, BatchedDataset(Source(images), classes=5), Source(images)):
        for prefetch in (None, 0, 3):
            assert same(trained(loader(data, prefetch=prefetch), validation=validation), wanted)
    assert same(trained(loader(Dataset(images, LABELS), prefetch=1), validation=validation), wanted)


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("transform", [None, Compose(RandomCrop(1), AlternatingFlip()), lambda x, rng: x[..., ::-1]])
def test_a_pass_over_batches_has_the_bits_of_images_in_that_order(transform, drop_last, monkeypatch):
    monkeypatch.setattr("cnn.data.loader._TOGETHER", 70 * 64)
    wanted = trained(DataLoader((IMAGES, LABELS), 32, transform=transform, drop_last=drop_last))
    for data in (Batches(), IterableDataset(Batches(), classes=5), IterableDataset(lambda: iter(Batches()))):
        for prefetch in (None, 0):
            assert same(trained(DataLoader(data, 32, transform=transform, drop_last=drop_last, prefetch=prefetch)),
                        wanted)


def test_fit_takes_them_as_they_are(tmp_path):
    wanted = trained(Dataset(IMAGES, LABELS), seed=4)
    model = mlp()
    cnn.Trainer(model, cnn.SGD(model.parameters(), lr=0.1, momentum=0.9), progress=False).fit(
        (IMAGES, LABELS), 2, seed=4)
    assert [p.data.tobytes() for p in model.parameters()] == wanted[0]
    assert same(trained(Source(), seed=4), wanted) and same(trained(Dataset(in_file(tmp_path), LABELS), seed=4), wanted)
    assert same(trained(Batches(), seed=4), trained(DataLoader((IMAGES, LABELS), 64)))
    assert same(trained(Source(), validation=Batches()), trained(Source(), validation=Source()))


def test_predict_and_test_time_augmentation(tmp_path):
    trainer = cnn.Trainer(mlp(), None, progress=False)
    data = Dataset(IMAGES, LABELS)
    for tta in (None, "flip"):
        wanted = trainer.predict(data, tta)
        for other in (Dataset(in_file(tmp_path), LABELS), BatchedDataset(Source()), IterableDataset(Batches())):
            assert (trainer.predict(other, tta) == wanted).all()
            assert trainer.evaluate(other, tta) == trainer.evaluate(data, tta)


def test_the_numpy_back_end():
    def fit(data):
        model = mlp()
        trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), lr=0.1), progress=False, backend="reference")
        trainer.fit(DataLoader(data, 32, transform=RandomCrop(1)), 1)
        return [p.data.tobytes() for p in model.parameters()]

    assert fit(Source()) == fit(Batches()) == fit(Dataset(IMAGES, LABELS))


# ------------------------------------------------------------------------------------------ images in files


def test_images_in_a_file_are_never_copied(tmp_path):
    images = in_file(tmp_path)
    data = Dataset(images, LABELS)
    assert np.shares_memory(data.images, images) and not data.in_memory
    assert np.shares_memory(Dataset(images[:, 0], LABELS).images, images)
    rest, held_out = data.split(0.2, seed=1)
    there = Dataset(IMAGES, LABELS).split(0.2, seed=1)
    for part, wanted in ((rest, there[0]), (held_out, there[1]), (rest.subset([5, 3]), there[0].subset([5, 3]))):
        assert isinstance(part.images, Rows) and mapped(part.images) and part.images.base is data.images
        assert (np.asarray(part.images) == wanted.images).all() and (part.labels == wanted.labels).all()
        assert part.images.shape == wanted.images.shape and part[-1][0].tolist() == wanted[-1][0].tolist()
    assert np.shares_memory(data.subset(slice(10, 20)).images, images)
    assert same(trained(rest), trained(there[0]))
    last = np.load(tmp_path / "images.npy", mmap_mode="r").transpose(0, 2, 3, 1)     # in another order
    data = Dataset(last.transpose(0, 2, 1, 3), LABELS)
    assert isinstance(data.images, Rows)
    assert data.images[:3].flags.c_contiguous and (data.images[:3] == last[:3].transpose(0, 2, 1, 3)).all()


@pytest.mark.skipif("san" in os.environ.get("LD_PRELOAD", ""), reason="a sanitizer takes memory of its own")
def test_memory_is_bounded(tmp_path):
    """64 MB of images and a bound of 24 MB: a copy, or a float of each pixel, would not fit."""
    path = tmp_path / "images.npy"
    out = np.lib.format.open_memmap(path, "w+", np.uint8, (64_000, 1, 32, 32))
    out[:] = np.arange(32, dtype=np.uint8)
    out[0] = 77
    del out
    done = run_python("-c", """
        import sys, numpy as np, cnn
        def anonymous():
            return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))
        class Look(cnn.callbacks.Callback):
            most = 0
            def on_step_end(self, trainer):
                self.most = max(self.most, anonymous())
        def run(images):
            data = cnn.data.Dataset(images, np.arange(len(images)) % 3)
            rest, held_out = data.split(0.1)
            model = cnn.Sequential(cnn.Flatten(), cnn.Linear(1024, 3, seed=0))
            look = Look()
            trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), lr=0.1), progress=False, callbacks=[look])
            trainer.fit(rest, 1, held_out)
            return look.most
        images = np.load(sys.argv[1], mmap_mode="r")
        before = run(images[:2000])
        print(run(images) - before)
    """, str(path))
    if "StopIteration" in done.stderr or "/proc" in done.stderr:
        pytest.skip("the system does not tell")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 24_000


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_mean_and_std_in_pieces(tmp_path, dtype, monkeypatch):
    images = random_images(50, (3, 8, 8)).astype(dtype)
    images[:, 2] = 7
    labels = np.zeros(50, int)
    white = 255 if dtype == np.uint8 else 1
    pixels = images.astype(float) / white
    wanted = pixels.mean(axis=(0, 2, 3)), pixels.std(axis=(0, 2, 3))
    wanted[1][2] = 1
    monkeypatch.setattr("cnn.data.moments._PIXELS", 7 * 3 * 64)
    found = mean_std(Dataset(images, labels))
    assert all(np.allclose(a, b, rtol=1e-12) for a, b in zip(found, wanted, strict=True)) and found[1][2] == 1
    for data in (Dataset(in_file(tmp_path, images), labels), Source(images, labels), Batches(images, labels)):
        assert all((a == b).all() for a, b in zip(mean_std(data), found, strict=True))
    with pytest.raises(ValueError, match="mean_std: dataset must hold at least one image"):
        mean_std(Dataset(images[:0], labels[:0]))


def test_a_folder_of_arrays(tmp_path):
    labels = LABELS[:, None].astype(np.uint8)
    np.save(tmp_path / "train_images.npy", IMAGES[:200].transpose(0, 2, 3, 1))
    np.save(tmp_path / "train_labels.npy", labels[:200])
    np.save(tmp_path / "classes.npy", list("abcde"))
    np.save(tmp_path / "x_test.npy", IMAGES[200:].transpose(0, 2, 3, 1))
    np.save(tmp_path / "y_test.npy", labels[200:])
    np.savez(tmp_path / "same.npz", train_images=IMAGES[:200], train_labels=LABELS[:200], x_test=IMAGES[200:],
             y_test=LABELS[200:], classes=list("abcde"))
    for part, wanted in zip(cnn.data.load(tmp_path), cnn.data.load(tmp_path / "same.npz"), strict=True):
        assert (np.asarray(part.images) == wanted.images).all() and (part.labels == wanted.labels).all()
        assert mapped(part.images) and part.classes == wanted.classes
        assert (part.mean, part.std) == (wanted.mean, wanted.std)
    np.save(tmp_path / "odd.npy", 3)
    os.remove(tmp_path / "x_test.npy")
    os.remove(tmp_path / "y_test.npy")
    with pytest.warns(cnn.data.DataWarning, match=r"passed over the array\(s\) odd"):
        train, validation, test = cnn.data.load_parts(tmp_path)
    assert validation is None and (len(train), len(test)) == (160, 40) and mapped(test.images)


@pytest.mark.parametrize(("spoil", "words"), [
    (lambda path: np.save(path, IMAGES.astype(np.float64)), r"train_images.npy: must be uint8 or float32, not float64"),
    (lambda path: np.save(path, IMAGES[0, 0]), r"train_images must be of shape"),
    (lambda path: np.save(path, IMAGES[:7]), r"labels must be of shape \(7,\)"),
    (lambda path: np.save(path, np.array([{}])), r"train_images.npy: not a readable .npy file"),
    (lambda path: path.write_bytes(path.read_bytes()[:-1]), r"train_images.npy: not a readable .npy file"),
    (lambda path: path.write_bytes(b""), r"train_images.npy: not a readable .npy file"),
    (lambda path: path.write_bytes(b"\x93NUMPY\x01\x00\xff\xff{"), r"train_images.npy: not a readable .npy file"),
    (lambda path: np.save(path.with_name("train_labels.npy"), LABELS + 0.5),
     r"train_labels.npy: labels must be integers, not float64"),
    (lambda path: path.with_name("train_labels.npy").unlink(), "there is no array 'train_labels'"),
])
def test_arrays_that_will_not_do(tmp_path, spoil, words):
    np.save(tmp_path / "train_images.npy", IMAGES)
    np.save(tmp_path / "train_labels.npy", LABELS)
    spoil(tmp_path / "train_images.npy")
    with pytest.raises(DataFileError, match=words):
        cnn.data.load(tmp_path)


def test_a_run_on_arrays(tmp_path, capsys):
    images = np.zeros((120, 16, 16), np.uint8)
    images[::2, :8], images[1::2, 8:] = 200, 200
    images += random_images(120, (16, 16)) // 8
    np.save(tmp_path / "train_images.npy", images)
    np.save(tmp_path / "train_labels.npy", np.arange(120) % 2)
    arguments = ["--dataset", str(tmp_path), "--model", "lenet5", "--epochs", "4", "--lr", "0.01"]
    from cnn.commands.train import main
    main([*arguments, "--out", str(tmp_path / "run")])
    printed = capsys.readouterr()
    assert "test accuracy" in printed.out
    np.savez(tmp_path / "same.npz", images=images, labels=np.arange(120) % 2)
    main([*arguments[:1], str(tmp_path / "same.npz"), *arguments[2:], "--out", str(tmp_path / "other"), "--quiet"])
    from cnn.training import checkpoint
    one, other = (checkpoint.load_model(tmp_path / name / "model.safetensors")[0] for name in ("run", "other"))
    assert all((a.data == b.data).all() for a, b in zip(one.parameters(), other.parameters(), strict=True))


# ------------------------------------------------------------------------------------------ wrong objects


def giving(result):
    """A data set and a pass over batches that give it."""
    class Giving:
        def __len__(self):
            return 8

        def __getitem__(self, indices):
            return result(len(indices))

    def batches():
        yield result(8)

    return Giving(), batches


X, Y = np.zeros((8, 1, 4, 4), np.uint8), np.zeros(8, int)


@pytest.mark.parametrize(("result", "error", "words"), [
    (lambda n: X[:n], TypeError, r"must give a pair \(images, labels\), got a ndarray"),
    (lambda n: (X[:n],), TypeError, "got a tuple of 1"),
    (lambda n: None, TypeError, "got a NoneType"),
    (lambda n: (X[:n].tolist(), Y[:n]), TypeError, "must give images as a NumPy array, got list"),
    (lambda n: (X[:n].astype(float), Y[:n]), TypeError, "images must be uint8 or float32, not float64; use"),
    (lambda n: (X[:n, :, 0, 0], Y[:n]), ValueError, r"must give images of shape \(n, C, H, W\) or .*got \(\d, 1\)"),
    (lambda n: (X[:n], Y[:n] + 0.5), ValueError, "must give numbers of classes, .* got float64"),
    (lambda n: (X[:n], Y[:n].astype(str)), TypeError, "labels must be integers or floats, not <U"),
    (lambda n: (X[:n], Y[: n - 1]), ValueError, r"must give labels of shape \(\d,\), one per image, or .*got \(\d"),
    (lambda n: (X[:n], Y[:n] - 1), ValueError, "must give labels from 0 to 1, got -1; leave out images"),
    (lambda n: (X[:n], Y[:n] + 2), ValueError, "must give labels from 0 to 1, got 2"),
    (lambda n: (np.full((n, 1, 4, 4), np.nan, np.float32), Y[:n]), ValueError, "finite images, but (number|image) 0 "),
    (lambda n: 1 / 0, RuntimeError, "raised ZeroDivisionError.*division by zero"),
])
def test_what_a_source_may_give(result, error, words):
    batched, iterable = giving(result)
    with pytest.raises(error, match=r"BatchedDataset: source\[indices\]:? " + ".*" + words):
        BatchedDataset(batched, classes=2)
    with pytest.raises(error, match="IterableDataset: source:? .*" + words):
        IterableDataset(iterable, classes=2)


@pytest.mark.parametrize(("later", "error", "words"), [
    ((X[:3], Y[:3]), ValueError, r"BatchedDataset: source\[indices\] must give 8 images for 8 indices, got 3"),
    ((X[:, :, :2], Y), ValueError, r"images of \(1, 4, 4\) uint8, as at first, got \(1, 2, 4\) uint8"),
    ((X.astype(np.float32), Y), ValueError, r"as at first, got \(1, 4, 4\) float32"),
    ((X, Y + 9), ValueError, r"targets must lie in \[0, 2\), got 9 to 9"),
])
@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_source_that_changes_its_mind(later, error, words, prefetch):
    batched, _ = giving(lambda n: (X[:n], Y[:n]) if n == 1 else later)
    model = cnn.Sequential(cnn.Flatten(), cnn.Linear(16, 2, seed=0))
    trainer = cnn.Trainer(model, cnn.SGD(model.parameters()), progress=False)
    before = model.state_dict()
    with pytest.raises(error, match=words):
        trainer.fit(DataLoader(batched, 4, prefetch=prefetch), 1)
    assert all((before[name] == value).all() for name, value in model.state_dict().items())
    assert not reading()


@pytest.mark.parametrize("count", [0, 2, 8])
@pytest.mark.parametrize("labels", [0, 1, 8])
def test_more_or_fewer_images_than_indices(count, labels):
    """That is what is said, whatever the labels are."""
    batched, _ = giving(lambda n: (X[:count], Y[:labels]))
    with pytest.raises(ValueError, match=f"must give 1 images for 1 indices, got {count}"):
        BatchedDataset(batched)


@pytest.mark.parametrize(("make", "error", "words"), [
    (lambda: BatchedDataset(3), TypeError, "BatchedDataset: source must have __len__ and __getitem__, got int"),
    (lambda: BatchedDataset(Source), TypeError, "got the class Source"),
    (lambda: BatchedDataset(Source(IMAGES[:0])), ValueError, "source must hold at least one image"),
    (lambda: BatchedDataset(Source(), classes=0), ValueError, "classes must be at least 1, not 0"),
    (lambda: BatchedDataset(Source(), classes="ab"), TypeError, "BatchedDataset: classes must be a sequence of names"),
    (lambda: BatchedDataset(Source(), mean=[1, 2]), ValueError, r"BatchedDataset: mean must be 1 finite number"),
    (lambda: BatchedDataset(Source(), std=[0]), ValueError, "std must be greater than 0"),
    (lambda: IterableDataset(iter(Batches())), TypeError, "must begin anew in each epoch, got generator"),
    (lambda: IterableDataset(3), TypeError, "IterableDataset: source must be an iterable of .*got int"),
    (lambda: IterableDataset([]), ValueError, "source must give at least one batch"),
    (lambda: DataLoader(Batches(), 4, shuffle=True), ValueError, "shuffle must be False for an iterable of batches"),
    (lambda: DataLoader(Batches(), 4).indices(0), TypeError, "an iterable of batches has no indices"),
    (lambda: len(DataLoader(Batches(), 4)), TypeError, "an iterable of batches has no length"),
    (lambda: DataLoader(Source(), 4, window=3), ValueError, "window must be None without shuffle=True, not 3"),
    (lambda: DataLoader(Source(), 4, True, window=0), ValueError, "window must be at least 1"),
    (lambda: DataLoader(Source(), 4, prefetch=-1), ValueError, "prefetch must be at least 0"),
    (lambda: DataLoader("mnist", 4), TypeError, "DataLoader: dataset must be a Dataset, .*got str"),
    (lambda: trained({}), TypeError, "Trainer.fit: train must be a Dataset, .*got dict"),
    (lambda: trained(Source(), validation=3), TypeError, "Trainer.fit: validation must be .*got int"),
    (lambda: trained(DataLoader(Batches(), 1000, drop_last=True)), ValueError, "no batch to train on"),
])
def test_what_is_refused(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_classes_in_another_order():
    train, other = Dataset(IMAGES, LABELS, list("abcde")), BatchedDataset(Source(), classes=list("edcba"))
    with pytest.raises(ValueError, match="validation must have its classes in the order of the training data"):
        trained(train, validation=other)
    wanted = trained(train, validation=BatchedDataset(Source(), classes=list("abcde")))
    assert same(trained(train, validation=Source()), wanted)        # classes that nobody has named


def test_constants_of_the_training_data_are_used():
    train = Dataset(IMAGES, LABELS, mean=[0.4], std=[0.3])
    wanted = trained(train, validation=Dataset(IMAGES, LABELS))
    for other in (Source(), Batches()):
        assert same(trained(train, validation=other), wanted)


def test_a_source_whose_second_pass_is_empty():
    iterator = iter(Batches())
    data = IterableDataset(lambda: iterator)
    with pytest.raises(ValueError, match="source must give at least one image in every pass, got none"):
        trained(data)


# ------------------------------------------------------------------------------------------ reading ahead


def reading():
    return [thread for thread in threading.enumerate() if "cnn-read-ahead" in thread.name]


def test_reading_ahead_is_in_one_thread_and_bounded(monkeypatch):
    monkeypatch.setattr("cnn.data.loader._TOGETHER", 64 * 10)
    source = Source()
    loader = DataLoader(source, 10, prefetch=2)
    source.calls.clear()
    batches = iter(loader)
    next(batches)
    assert len(reading()) == 1
    assert len(source.calls) <= 3
    rest = list(batches)
    assert len(rest) == 29 and source.calls == [10] * 30 and not reading()
    assert len(source.threads - {"MainThread"}) == 1
    source = Source()
    list(DataLoader(source, 10, prefetch=0))
    assert source.threads == {"MainThread"}


def test_the_thread_ends_with_the_iteration(monkeypatch):
    monkeypatch.setattr("cnn.data.loader._TOGETHER", 64 * 10)
    for data in (Source(), Batches()):
        batches = iter(DataLoader(data, 10))
        next(batches)
        assert reading()
        del batches
        assert not reading()


def test_the_thread_ends_where_fit_ends(monkeypatch):
    monkeypatch.setattr("cnn.data.loader._TOGETHER", 64 * 64)
    class Stop(cnn.callbacks.Callback):
        every_step = True

        def on_step_end(self, trainer):
            assert reading()
            raise KeyboardInterrupt

    for data in (Source(), Batches()):
        model = mlp()
        trainer = cnn.Trainer(model, cnn.SGD(model.parameters()), progress=False, callbacks=[Stop()])
        with pytest.raises(KeyboardInterrupt) as held:
            trainer.fit(data, 1)
        assert held.traceback and not reading()     # though the error still holds all that was there


def test_a_generator_is_closed_with_the_iteration(monkeypatch):
    monkeypatch.setattr("cnn.data.loader._TOGETHER", 64 * 10)
    closed = []

    def batches():
        try:
            yield from Batches()
        finally:
            closed.append(True)

    data = IterableDataset(batches)
    assert len(closed) == 1     # the first look
    pass_ = iter(DataLoader(data, 10))
    next(pass_)
    del pass_
    assert len(closed) == 2


def test_an_error_comes_where_its_batch_would(monkeypatch):
    monkeypatch.setattr("cnn.data.loader._TOGETHER", 64 * 10)

    class Failing(Source):
        def __getitem__(self, indices):
            if 55 in indices:
                raise OSError("the disk is gone")
            return super().__getitem__(indices)

    batches = iter(DataLoader(Failing(), 10))
    assert [len(next(batches)[1]) for _ in range(5)] == [10] * 5
    with pytest.raises(RuntimeError, match=r"source\[indices\] raised OSError for the 10 indices 50, 51, .*disk is "
                                           "gone") as found:
        next(batches)
    assert isinstance(found.value.__cause__, OSError) and not reading()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_fork_goes_on_reading():
    done = run_python("-W", "ignore", "-c", """
        import os, sys, threading
        import numpy as np
        from cnn.data import DataLoader, IterableDataset
        import cnn.data.loader
        cnn.data.loader._TOGETHER = 64 * 10
        from test_data_large import Batches, Source
        known, passing = iter(DataLoader(Source(), 10)), iter(DataLoader(Batches(), 10))
        first = [next(known), next(passing)]
        pid = os.fork()
        rest = list(known)
        assert len(rest) == 29
        wanted = list(DataLoader(Source(), 10, prefetch=0))[1:]
        assert all((a == b).all() for one, other in zip(rest, wanted) for a, b in zip(one, other))
        if pid == 0:
            try:
                list(passing)
            except RuntimeError as error:
                assert "before a fork" in str(error), error
            else:
                raise AssertionError
            sys.exit(7)
        assert len(list(passing)) == 29
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """, timeout=60)
    assert done.stdout == "7\n", done.stderr


# ------------------------------------------------------------------------------------------ order and going on


def test_windows():
    loader = DataLoader(Source(), 10, shuffle=True, seed=5, window=64)
    first, second = loader.indices(0), loader.indices(1)
    assert sorted(first) == sorted(second) == list(range(N)) and first.dtype == np.int64
    assert (first != second).any() and (first == DataLoader(Source(), 7, True, 5, window=64).indices(0)).all()
    assert (first != DataLoader(Source(), 10, True, 6, window=64).indices(0)).any()
    for order in (first, second):
        windows = order // 64
        assert np.count_nonzero(np.diff(windows)) == 4      # one after the other, each once
        assert all((np.diff(order[windows == k]) < 0).any() for k in range(5))
    orders = {tuple(dict.fromkeys((loader.indices(epoch) // 64).tolist())) for epoch in range(20)}
    assert len(orders) > 5
    assert sorted(DataLoader(Source(), 10, True, window=1).indices(0)) == list(range(N))
    one = DataLoader(Source(), 10, True, window=10**9).indices(0)
    assert sorted(one) == list(range(N)) and (np.diff(one) < 0).any()


def resumed(make, stop_at):
    """Weights of a training that stops after so many steps and goes on in another trainer, and those without."""
    class Stop(cnn.callbacks.Callback):
        every_step = True

        def on_step_end(self, trainer):
            trainer.stop = trainer.step == stop_at

    def trainer(*callbacks):
        model = mlp()
        return cnn.Trainer(model, cnn.SGD(model.parameters(), lr=0.1, momentum=0.9), progress=False,
                           callbacks=callbacks)

    whole, first, second = trainer(), trainer(Stop()), trainer()
    whole.fit(make(), 2)
    first.fit(make(), 2)
    second.load_state_dict(first.state_dict())
    second.fit(make(), 2)
    assert whole.history.results() == second.history.results()
    return [[p.data.tobytes() for p in t.model.parameters()] for t in (whole, second)]


@pytest.mark.parametrize("stop_at", [1, 4, 9, 10, 11, 19])
def test_training_is_resumed_to_the_same_bits(stop_at, tmp_path, monkeypatch):
    monkeypatch.setattr("cnn.data.loader._TOGETHER", 70 * 64)
    images = in_file(tmp_path)
    for make in (lambda: DataLoader(Dataset(images, LABELS), 32, True, transform=RandomCrop(1)),
                 lambda: DataLoader(Source(), 32, True, window=50, transform=RandomCrop(1)),
                 lambda: DataLoader(Batches(), 32, transform=RandomCrop(1))):
        whole, again = resumed(make, stop_at)
        assert whole == again


def test_another_window_is_refused():
    model = mlp()
    trainer = cnn.Trainer(model, cnn.SGD(model.parameters()), progress=False)
    trainer.fit(DataLoader(Source(), 32, True, window=50), 1)
    trainer.load_state_dict(trainer.state_dict())
    with pytest.raises(ValueError, match="data with window 50, got 60"):
        trainer.fit(DataLoader(Source(), 32, True, window=60), 2)


def test_callbacks_see_a_pass_of_unknown_length(tmp_path, capsys):
    class See(cnn.callbacks.Callback):
        seen = ()

        def on_epoch_end(self, trainer):
            self.seen = (trainer.epoch_images, trainer.seen, trainer.position)

    model, see = mlp(), See()
    keeper = cnn.callbacks.Checkpoint(tmp_path, "epoch")
    trainer = cnn.Trainer(model, cnn.SGD(model.parameters()), callbacks=[see, keeper])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer.fit(Batches(), 2, validation=Batches())
    assert see.seen == (0, N, (2, 0)) and len(trainer.history) == 2


def test_rows_index_as_an_array_or_refuse():
    images = np.arange(5 * 2 * 3 * 4, dtype=np.uint8).reshape(5, 2, 3, 4)
    rows, plain = Rows(images, np.array([4, 0, 2, 2])), images[[4, 0, 2, 2]]
    for index in (1, slice(1, 3), [3, 0], np.array([True, False, True, True]), (slice(None), 1), ([0, 2], 1), (2, 0, 1),
                  (..., 2), (1, [0, 1]), ([1, 2], slice(None), 2, slice(0, 2))):
        assert np.array_equal(rows[index], plain[index]), index
    for index in (([0, 1], 0, [0, 1]), ([0], [0], [0], [0]), plain > 3):
        with pytest.raises(TypeError, match="Rows: "):
            rows[index]
