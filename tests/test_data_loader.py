import numpy as np
import pytest
from data_files import random_images

from cnn.data import AlternatingFlip, Compose, Cutout, DataLoader, Dataset, RandomAffine, RandomCrop, RandomFlip


def numbered(n):
    """n images of one pixel: image i has the pixel i and the label i % 7."""
    images = np.arange(n).astype(np.float32).reshape(n, 1, 1, 1)
    return Dataset(images, np.arange(n) % 7, classes=[str(k) for k in range(7)])


def epoch_of(loader):
    """The numbers of the images of one epoch, batch by batch."""
    return [images.ravel().astype(int).tolist() for images, _ in loader]


# --- batches ---


def test_batches_in_order_with_what_is_left_over_last():
    loader = DataLoader(numbered(10), 4)
    assert epoch_of(loader) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert len(loader) == 3


def test_drop_last():
    loader = DataLoader(numbered(10), 4, drop_last=True)
    assert epoch_of(loader) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert len(loader) == 2
    assert len(DataLoader(numbered(8), 4, drop_last=True)) == len(DataLoader(numbered(8), 4)) == 2


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("drop_last", [False, True])
def test_no_images_no_batches(shuffle, drop_last):
    loader = DataLoader(numbered(0), 4, shuffle, drop_last=drop_last)
    assert len(loader) == 0 and list(loader) == [] and list(loader.batches()) == []
    assert loader.indices(0).shape == (0,)


def test_one_image_and_a_batch_larger_than_the_data():
    assert epoch_of(DataLoader(numbered(1), 1, shuffle=True)) == [[0]]
    assert epoch_of(DataLoader(numbered(3), 100)) == [[0, 1, 2]]
    assert epoch_of(DataLoader(numbered(3), 100, drop_last=True)) == []


def test_images_are_normalised_and_labels_belong_to_them():
    images = random_images(9, (3, 4, 5))
    data = Dataset(images, np.arange(9) % 4, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    loader = DataLoader(data, 4, shuffle=True, seed=3)
    order = loader.indices(0)
    start = 0
    for x, labels in loader:
        chosen = order[start : start + 4]
        expected = images[chosen] / 255.0
        expected = (expected - np.reshape(data.mean, (3, 1, 1))) / np.reshape(data.std, (3, 1, 1))
        assert x.dtype == np.float32 and x.flags.c_contiguous and np.allclose(x, expected, atol=1e-6)
        assert labels.dtype == np.int64 and labels.tolist() == (chosen % 4).tolist()
        start += 4
    assert start == 12


def test_takes_a_pair_of_arrays():
    loader = DataLoader((random_images(5, (4, 4)), [0, 1, 0, 1, 0]), 3)
    assert [(x.shape, labels.tolist()) for x, labels in loader] == [
        ((3, 1, 4, 4), [0, 1, 0]),
        ((2, 1, 4, 4), [1, 0]),
    ]


# --- order ---


@pytest.mark.parametrize("n", [1, 2, 10, 1000])
def test_an_epoch_has_every_image_once(n):
    loader = DataLoader(numbered(n), 7, shuffle=True)
    for epoch in range(3):
        assert loader.indices(epoch).dtype == np.int64
        assert sorted(loader.indices(epoch)) == list(range(n))
    assert sorted(sum(epoch_of(loader), [])) == list(range(n))


def test_order_depends_on_seed_and_epoch_only():
    first, second = (DataLoader(numbered(100), size, shuffle=True, seed=8) for size in (10, 33))
    list(first), list(first)  # what was done before changes nothing
    assert first.indices(5).tolist() == second.indices(5).tolist()
    orders = [first.indices(epoch).tolist() for epoch in range(4)]
    orders += [DataLoader(numbered(100), 10, shuffle=True, seed=s).indices(0).tolist() for s in (0, 1, 2**70)]
    assert len(set(map(tuple, orders))) == 7


def test_order_is_this_one():
    """Whoever changes the order changes everybody's results: this is the order promised so far."""
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(4, spawn_key=(0, 2))))
    expected = generator.permutation(20)
    assert DataLoader(numbered(20), 4, shuffle=True, seed=4).indices(2).tolist() == expected.tolist()


def test_shuffling_moves_images_far():
    order = DataLoader(numbered(1000), 10, shuffle=True).indices(0)
    assert 250 < np.abs(order - np.arange(1000)).mean() < 420  # 333 on average
    assert np.corrcoef(order, np.arange(1000))[0, 1] < 0.15


def test_same_seed_same_batches_and_every_epoch_another():
    first, second = (DataLoader(numbered(50), 8, shuffle=True, seed=1) for _ in range(2))
    epochs = [epoch_of(first) for _ in range(3)]
    assert epochs == [epoch_of(second) for _ in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]


def test_epoch_counts_when_an_iteration_starts():
    loader = DataLoader(numbered(50), 8, shuffle=True)
    assert loader.epoch == 0
    batches = iter(loader)
    assert loader.epoch == 1
    next(batches)
    other = loader.batches()
    assert loader.epoch == 2
    assert next(other).tolist() == loader.indices(1)[:8].tolist()
    assert next(batches)[0].ravel().tolist() == loader.indices(0)[8:16].tolist()  # not disturbed


def test_setting_the_epoch_goes_on_where_another_run_stopped():
    whole = DataLoader(numbered(50), 8, shuffle=True, seed=1)
    epochs = [epoch_of(whole) for _ in range(4)]
    resumed = DataLoader(numbered(50), 8, shuffle=True, seed=1)
    resumed.epoch = 2
    assert [epoch_of(resumed), epoch_of(resumed)] == epochs[2:]
    assert resumed.epoch == 4


def test_batches_are_the_indices_of_the_same_batches():
    loader, other = (DataLoader(numbered(50), 8, shuffle=True, seed=1, drop_last=True) for _ in range(2))
    batches = list(loader.batches())
    assert all(b.dtype == np.int64 for b in batches)
    assert [b.tolist() for b in batches] == epoch_of(other)


# --- transforms ---


def test_transform_sees_raw_pixels_and_may_change_type_and_size():
    images = random_images(5, (1, 6, 6))
    seen = []

    def crop(batch, rng):
        seen.append(batch)
        return batch[:, :, 1:5, 2:5].astype(np.float32)

    loader = DataLoader(Dataset(images, [0] * 5, mean=[0.5], std=[0.1]), 2, transform=crop)
    x = np.concatenate([batch for batch, _ in loader])
    assert [s.dtype for s in seen] == [np.uint8] and [len(s) for s in seen] == [5]
    assert np.allclose(x, (images[:, :, 1:5, 2:5] / 255.0 - 0.5) / 0.1, atol=1e-5)


def test_transform_may_change_its_batch_but_not_the_data():
    images = random_images(5, (1, 6, 6))
    data = Dataset(images.copy(), [0] * 5)

    def blacken(batch, rng):
        batch[:] = 0
        return batch

    assert all((x == 0).all() for x, _ in DataLoader(data, 5, transform=blacken))
    assert np.array_equal(data.images, images)


def test_transforms_random_numbers_depend_on_seed_epoch_and_call(monkeypatch):
    monkeypatch.setattr("cnn.data.loader._TOGETHER", 2 * 5 * 4)  # two batches of 5 images of 4 bytes
    drawn = []

    def draw(batch, rng):
        drawn.append(rng.integers(2**60))
        return batch

    def run(seed, first_epoch=0):
        drawn.clear()
        loader = DataLoader(numbered(33), 5, shuffle=True, seed=seed, transform=draw)
        loader.epoch = first_epoch
        list(loader), list(loader)
        return list(drawn)

    numbers = run(0)
    assert len(set(numbers)) == 8  # 2 epochs of 4 calls
    assert run(0) == numbers
    assert run(0, first_epoch=1)[:4] == numbers[4:]
    assert not set(run(1)) & set(numbers)


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("together", [1, 24, 60, 2**20])
def test_a_transform_gets_whole_batches(monkeypatch, together, drop_last):
    monkeypatch.setattr("cnn.data.loader._TOGETHER", together)
    seen = []

    def note(batch, rng):
        seen.append(len(batch))
        return batch

    plain, loader = (
        DataLoader(numbered(17), 3, shuffle=True, transform=t, drop_last=drop_last) for t in (None, note)
    )
    assert epoch_of(loader) == epoch_of(plain) and len(epoch_of(plain)) == 6 - drop_last
    n = 17 - 2 * drop_last
    size = {1: 3, 24: 6, 60: 15, 2**20: n}[together]
    assert seen == [size] * (n // size) + [n % size] * (n % size > 0)


def test_a_transform_may_ask_for_the_images_numbers_and_the_epoch():
    seen = []

    class Note:
        needs_indices = True

        def __call__(self, images, rng, indices, epoch):
            seen.append((indices.tolist(), epoch))
            assert images.ravel().tolist() == indices.tolist()
            return images

    loader = DataLoader(numbered(10), 4, shuffle=True, transform=Note())
    list(loader), list(loader)
    assert seen == [(loader.indices(epoch).tolist(), epoch) for epoch in (0, 1)]


def test_raw_batches_are_the_batches_before_normalising():
    data = Dataset(random_images(9, (2, 4, 5)), [0] * 9, mean=(0.1, 0.2), std=(0.5, 0.6))

    def turned(batch, rng):
        return batch.swapaxes(2, 3)

    raw, loader = (DataLoader(data, 4, shuffle=True, transform=turned) for _ in range(2))
    batches = raw.raw_batches()
    assert raw.epoch == 1
    for (x, labels), (y, wanted) in zip(batches, loader, strict=True):
        assert x.dtype == np.uint8 and x.shape[1:] == (2, 5, 4) and x.flags.c_contiguous
        assert np.array_equal(data.normalise(x), y) and labels.tolist() == wanted.tolist()


def test_a_transform_does_not_change_the_order():
    order = [labels.tolist() for _, labels in DataLoader(numbered(20), 5, shuffle=True)]
    loader = DataLoader(numbered(20), 5, shuffle=True, transform=lambda x, rng: x + np.float32(rng.normal()))
    assert [labels.tolist() for _, labels in loader] == order


@pytest.mark.parametrize(
    ("error", "result", "message"),
    [
        (TypeError, lambda x: None, "must return a uint8 or float32 array, not NoneType"),
        (TypeError, lambda x: x.astype(float), "not float64 array"),
        (ValueError, lambda x: x[:-1], r"must return images of shape \(4, 1, h, w\), not \(3, 1, 1, 1\)"),
        (ValueError, lambda x: x[:, 0], r"not \(4, 1, 1\)"),
        (ValueError, lambda x: np.concatenate([x, x], axis=1), r"not \(4, 2, 1, 1\)"),
        (ValueError, lambda x: x[..., :0], r"not \(4, 1, 1, 0\)"),
        (TypeError, lambda x: x.tolist(), "not list"),
        (TypeError, lambda x: x.astype(np.int16), "not int16 array"),
    ],
)
def test_transform_that_returns_something_else(error, result, message):
    with pytest.raises(error, match="DataLoader: transform .*" + message):
        list(DataLoader(numbered(4), 4, transform=lambda x, rng: result(x)))


# --- wrong arguments ---


@pytest.mark.parametrize(
    ("error", "wrong", "message"),
    [
        (
            TypeError,
            {"dataset": 12},
            "dataset must be a Dataset, .*got int",
        ),
        (TypeError, {"dataset": (numbered(2), numbered(2))}, "dataset .*got tuple"),
        (TypeError, {"dataset": random_images(2, (4, 4))}, "dataset .*got ndarray"),
        (ValueError, {"batch_size": 0}, "batch_size must be at least 1, not 0"),
        (TypeError, {"batch_size": 2.0}, "batch_size must be a whole number, not 2.0"),
        (TypeError, {"batch_size": True}, "batch_size must be a whole number, not True"),
        (TypeError, {"shuffle": "no"}, "shuffle must be True or False, not 'no'"),
        (TypeError, {"drop_last": None}, "drop_last must be True or False, not None"),
        (ValueError, {"seed": -1}, "seed must be at least 0, not -1"),
        (TypeError, {"seed": None}, "seed must be a whole number, not None"),
        (TypeError, {"transform": 3}, "transform must be a function or None, not 3"),
    ],
)
def test_wrong_arguments(error, wrong, message):
    with pytest.raises(error, match="DataLoader: " + message):
        DataLoader(**({"dataset": numbered(3), "batch_size": 2} | wrong))


def test_wrong_epochs():
    loader = DataLoader(numbered(3), np.int32(2))
    with pytest.raises(ValueError, match="DataLoader: epoch must be at least 0, not -1"):
        loader.epoch = -1
    with pytest.raises(TypeError, match="DataLoader: epoch must be a whole number, not 0.5"):
        loader.indices(0.5)


def test_repr_says_what_it_is():
    assert repr(DataLoader(numbered(10), 4)).startswith("<DataLoader 3 batches of 4 from <Dataset 10 images")


def brighter(images, rng):
    return images + rng.integers(0, 9, (len(images), 1, 1, 1), np.uint8)


@pytest.mark.parametrize("transform", [None, brighter])
def test_start_leaves_out_the_first_batches_of_one_epoch(transform):
    def loader():
        return DataLoader(
            (np.zeros((10, 1, 2, 2), np.uint8), np.arange(10)), 3, shuffle=True, seed=1, transform=transform
        )

    whole, part = loader(), loader()
    first, second = list(whole), list(whole)
    for start in range(6):
        part.epoch, part.start = 0, start
        for got, wanted in ((list(part), first[start:]), (list(part), second)):
            assert len(got) == len(wanted)
            for a, b in zip(got, wanted, strict=True):
                assert np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1])
    part.epoch, part.start = 0, 2
    assert np.array_equal(np.concatenate(list(part.batches())), part.indices(0)[6:])
    assert part.start == 0
    for value, error in ((-1, ValueError), (1.0, TypeError), (None, TypeError)):
        with pytest.raises(error, match="DataLoader: start"):
            part.start = value


@pytest.mark.parametrize(("transform", "message"), [
    (RandomCrop(6), 'RandomCrop: padding 6 with mode "reflect" needs larger images, not 6x6'),
    (Compose(RandomFlip(), Cutout(2, (1, 2))), r"Cutout: fill must be one number or one per channel \(1\)"),
    (RandomAffine(1, fill=300), "RandomAffine: fill must be whole numbers from 0 to 255"),
])
def test_transforms_that_do_not_fit_the_images_are_refused_at_once(transform, message):
    data = Dataset(random_images(3, (1, 6, 6)), [0] * 3)
    with pytest.raises(ValueError, match=message):
        DataLoader(data, 2, transform=transform)


def test_looking_whether_transforms_fit_draws_nothing_of_an_epoch():
    data = Dataset(random_images(7, (1, 6, 6)), range(7))
    everything = Compose(RandomAffine(9), RandomCrop(2), AlternatingFlip(), RandomFlip(), Cutout(2))
    loader = DataLoader(data, 3, shuffle=True, transform=everything)
    by_hand = DataLoader(data, 3, shuffle=True)
    by_hand.transform = everything
    for (x, _), (y, _) in zip(loader, by_hand, strict=True):
        assert np.array_equal(x, y)
    assert list(DataLoader(data.subset(slice(0, 0)), 3, transform=everything)) == []


def test_a_batch_larger_than_the_data_holds_it_all():
    (images, labels), = DataLoader(numbered(3), 2**40)
    assert images.ravel().tolist() == labels.tolist() == [0, 1, 2]


def test_one_image():
    data = Dataset(random_images(1, (1, 6, 6)), [0])
    loader = DataLoader(data, 4, shuffle=True, transform=Compose(RandomCrop(2), RandomFlip(), Cutout(2)))
    assert [images.shape for images, _ in loader] == [(1, 1, 6, 6)]
