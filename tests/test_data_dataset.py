import numpy as np
import pytest
from data_files import random_images

from cnn.data import Dataset

IMAGES = random_images(6, (3, 4, 5))
LABELS = [0, 2, 1, 0, 2, 2]


def dataset(n=6, **settings):
    return Dataset(random_images(n, (3, 4, 5)), np.arange(n) % 3, **settings)


# --- what it holds ---


def test_holds_images_without_copying_them_and_labels_as_int64():
    data = Dataset(IMAGES, np.array(LABELS, np.uint8))
    assert data.images is IMAGES
    assert data.labels.dtype == np.int64 and data.labels.tolist() == LABELS
    assert len(data) == 6
    assert data.classes == ("0", "1", "2") and data.num_classes == 3


def test_images_of_one_channel_get_their_channel():
    images = random_images(6, (4, 5))
    data = Dataset(images, LABELS)
    assert data.images.shape == (6, 1, 4, 5) and data.images.flags.c_contiguous
    assert np.array_equal(data.images[:, 0], images)


def test_images_are_made_contiguous():
    data = Dataset(IMAGES[::-1, :, ::2], LABELS)
    assert data.images.flags.c_contiguous
    assert np.array_equal(data.images, IMAGES[::-1, :, ::2])


def test_classes_without_images_count():
    data = Dataset(IMAGES, LABELS, classes=["a", "b", "c", "d"], name="letters")
    assert data.num_classes == 4 and data.classes == ("a", "b", "c", "d")
    assert "letters" in repr(data) and "6 images of 3x4x5" in repr(data)


@pytest.mark.parametrize("classes", [None, ["a", "b"]])
def test_no_images(classes):
    data = Dataset(np.empty((0, 1, 28, 28), np.uint8), [], classes=classes)
    assert len(data) == 0 and data.labels.dtype == np.int64
    assert data.num_classes == (2 if classes else 0)
    rest, held_out = data.split(0.5)
    assert len(rest) == len(held_out) == len(data.subset([])) == 0
    assert data.normalise(data.images).shape == (0, 1, 28, 28)


WRONG = [
    (ValueError, {"images": IMAGES[0, 0]}, r"images .*\(N, C, H, W\) or \(N, H, W\), not \(4, 5\)"),
    (ValueError, {"images": IMAGES[:, :, :0]}, r"images .*not \(6, 3, 0, 5\)"),
    (TypeError, {"images": IMAGES.astype(np.float64)}, "images must be uint8 or float32, not float64"),
    (TypeError, {"images": IMAGES.astype(">f4")}, "images must be uint8 or float32"),
    (TypeError, {"images": None}, "images must be uint8 or float32, not object"),
    (ValueError, {"labels": LABELS[:5]}, r"labels must be of shape \(6,\), one per image, or .* not \(5,\)"),
    (ValueError, {"labels": []}, r"labels must be of shape \(6,\)"),
    (ValueError, {"labels": np.zeros((6, 1, 1, 1, 1), int)}, r"labels .*not \(6, 1, 1, 1, 1\)"),
    (TypeError, {"labels": [True] * 6}, "labels must be integers or floats, not bool"),
    (ValueError, {"labels": [0, 1, 2, 3, -1, 0]}, "labels must be from 0 to 3 .*one is -1"),
    (ValueError, {"labels": [0, 1, -100, 3, 2, 0]}, r"but one is -100; leave out images whose label is to be ignored"),
    (ValueError, {"labels": [10**12] * 6}, "label 1000000000000 is too large"),
    (
        ValueError,
        {"classes": ["a", "b"]},
        r"labels must be from 0 to 1 \(there are 2 classes\), but one is 2",
    ),
    (TypeError, {"classes": "abc"}, "classes must be a sequence of names, not the string 'abc'"),
    (TypeError, {"classes": [1, 2, 3]}, r"classes must be names \(str\), not 1"),
    (ValueError, {"mean": [0.5]}, r"mean must be 3 finite number\(s\), one per channel, not \(0.5,\)"),
    (ValueError, {"mean": [0, 0, np.nan]}, "mean must be 3 finite"),
    (TypeError, {"mean": 0.5}, "mean must be one number per channel, not 0.5"),
    (TypeError, {"std": ["x", "y", "z"]}, "std must be one number per channel"),
    (ValueError, {"std": [1, 1, 0]}, "std must be greater than 0"),
    (ValueError, {"std": [1, 1, np.inf]}, "std must be 3 finite"),
    (ValueError, {"std": [1, 1, 1e-320]}, "std is too small"),
    (ValueError, {"mean": [0, 0, 1e300]}, "std is too small"),
    (ValueError, {"images": [IMAGES[0], IMAGES[0][:1]]}, "images must be an array, all parts of the same shape"),
    (ValueError, {"labels": [[0], [0, 1]]}, "labels must be an array"),
    (TypeError, {"images": IMAGES.astype(np.float64)}, r"not float64; use images.astype\(np.float32\)"),
    (ValueError, {"labels": [0.5] * 6, "classes": ["a"]}, "classes must not be given where labels are no numbers"),
    (ValueError, {"labels": np.array([2**64 - 1] * 6, np.uint64), "classes": ["a"]}, "but one is 18446744073709551615"),
    (ValueError, {"classes": ["a", "b", "a"]}, "classes must be different names, but 'a' is there twice"),
]


@pytest.mark.parametrize(("error", "wrong", "message"), WRONG)
def test_wrong_arguments(error, wrong, message):
    with pytest.raises(error, match="Dataset: .*" + message):
        Dataset(**({"images": IMAGES, "labels": LABELS} | wrong))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("n", [1, 3000])
def test_images_that_are_not_finite_are_refused_by_number(value, n):
    images = np.zeros((n, 1, 20, 20), np.float32)
    Dataset(images, [0] * n)
    images[n - 1, 0, 19, 3] = value
    with pytest.raises(ValueError, match=f"images must be finite, but image {n - 1} has NaN or infinite pixels"):
        Dataset(images, [0] * n)


def test_one_image():
    data = Dataset(IMAGES[:1], [3])
    assert data.num_classes == 4 and [len(part) for part in data.split(0.9)] == [1, 0]


def test_a_name_with_escape_codes_is_shown_without_them():
    assert r"a\x1b[31mb: 6 images" in repr(dataset(name="a\x1b[31mb"))


# --- normalising ---


def test_default_normalisation_is_to_0_and_1():
    data = Dataset(np.array([0, 51, 255], np.uint8).reshape(1, 1, 1, 3), [0])
    assert np.allclose(data.normalise(data.images), [0, 0.2, 1], atol=1e-7)


def test_normalise_does_not_mind_what_numpy_is_told_to_raise():
    images = np.full((1, 1, 2, 2), 1e-40, np.float32)
    with np.errstate(all="raise"):
        data = Dataset(images, [0], std=[1e3])
        assert data.normalise(images).max() < 1e-40


def test_normalise_is_the_formula_and_agrees_with_scale_and_shift():
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    data = Dataset(IMAGES, LABELS, mean=mean, std=std)
    expected = np.empty(IMAGES.shape)
    for c in range(3):
        expected[:, c] = (IMAGES[:, c] / 255.0 - mean[c]) / std[c]
    result = data.normalise(IMAGES)
    assert result.dtype == np.float32
    assert np.allclose(result, expected, atol=1e-6)
    assert data.scale.dtype == data.shift.dtype == np.float32 and data.scale.shape == (3,)
    by_hand = IMAGES * data.scale[:, None, None] + data.shift[:, None, None]
    assert np.allclose(by_hand, expected, atol=1e-6)
    assert data.mean == mean and data.std == std


def test_normalise_takes_other_sizes_and_float_pixels():
    data = dataset(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    pixels = random_images(2, (3, 9, 7))
    assert np.array_equal(data.normalise(pixels), data.normalise(pixels.astype(np.float32)))


def test_float_images_are_not_divided_by_255():
    images = np.array([[-1.0, 0.5, 3.0]], np.float32).reshape(1, 1, 1, 3)
    assert np.array_equal(Dataset(images, [0]).normalise(images), images)
    data = Dataset(images, [0], mean=[0.5], std=[2])
    assert np.allclose(data.normalise(images).ravel(), [-0.75, 0.0, 1.25])


def test_normalise_leaves_its_argument_alone():
    images = np.ones((1, 1, 2, 2), np.float32)
    Dataset(images, [0], mean=[5]).normalise(images)
    assert (images == 1).all()


@pytest.mark.parametrize(
    ("error", "wrong"),
    [
        (TypeError, IMAGES.astype(np.float64)),
        (TypeError, IMAGES.tolist()),
        (ValueError, IMAGES[0]),
        (ValueError, IMAGES[:, :2]),
    ],
)
def test_normalise_refuses(error, wrong):
    with pytest.raises(error, match="Dataset: images to normalise"):
        dataset().normalise(wrong)


# --- subsets ---


@pytest.mark.parametrize(
    ("indices", "chosen"),
    [
        ([4, 0, 0], [4, 0, 0]),
        (np.array([5], np.uint8), [5]),
        (slice(1, 4), [1, 2, 3]),
        (slice(None, None, -2), [5, 3, 1]),
        ([True, False, False, True, False, False], [0, 3]),
        ([], []),
    ],
)
def test_subset(indices, chosen):
    data = Dataset(IMAGES, LABELS, ("a", "b", "c"), (0.1, 0.2, 0.3), (1, 2, 3), "some")
    part = data.subset(indices)
    assert np.array_equal(part.images, IMAGES[chosen])
    assert part.labels.tolist() == [LABELS[i] for i in chosen]
    assert part.images.flags.c_contiguous
    assert (part.classes, part.mean, part.std, part.name) == (data.classes, data.mean, data.std, "some")


@pytest.mark.parametrize(
    ("error", "wrong", "message"),
    [
        (ValueError, [0, 6], "from 0 to 5, but one is 6"),
        (ValueError, [-1, 0], "but one is -1"),
        (ValueError, [True] * 5, "5 booleans .* 6 images"),
        (ValueError, 3, r"of shape \(n,\), not \(\)"),
        (TypeError, [0.0, 1.0], "integers or booleans, not float64"),
    ],
)
def test_subset_refuses(error, wrong, message):
    with pytest.raises(error, match="Dataset.subset: .*" + message):
        dataset().subset(wrong)


# --- splits ---


def numbered(counts, classes=None):
    """A data set whose image i is filled with i, with so many images of each class, the classes mixed."""
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(len(counts)), counts))
    images = np.arange(len(labels)).astype(np.float32).reshape(-1, 1, 1, 1)
    return Dataset(images, labels, classes)


def numbers(data):
    return data.images.ravel().astype(int).tolist()


def test_split_takes_the_same_share_of_every_class():
    data = numbered([100, 40, 10])
    rest, held_out = data.split(0.2)
    assert np.bincount(held_out.labels).tolist() == [20, 8, 2]
    assert np.bincount(rest.labels).tolist() == [80, 32, 8]
    assert sorted(numbers(rest) + numbers(held_out)) == list(range(150))
    for part in (rest, held_out):
        assert numbers(part) == sorted(numbers(part))  # still in their order
        assert part.labels.tolist() == data.labels[numbers(part)].tolist()  # each with its own label


def test_split_rounds_to_the_nearest():
    _, held_out = numbered([7, 8, 9]).split(0.25)  # 1.75, 2, 2.25
    assert np.bincount(held_out.labels).tolist() == [2, 2, 2]


def test_split_depends_on_the_seed_only():
    data = numbered([50, 50])
    assert numbers(data.split(0.3, seed=5)[1]) == numbers(data.split(0.3, seed=5)[1])
    assert numbers(data.split(0.3, seed=5)[1]) != numbers(data.split(0.3, seed=6)[1])
    assert numbers(data.split(0.3)[1]) == numbers(data.split(0.3, seed=0)[1])


def test_split_is_random_within_a_class():
    held_out = numbers(
        Dataset(np.arange(1000, dtype=np.float32).reshape(-1, 1, 1, 1), [0] * 1000).split(0.5)[1]
    )
    assert 400 < np.mean(held_out) < 600
    assert len(set(np.diff(held_out))) > 3


def test_split_with_a_missing_class_and_one_of_one_image():
    rest, held_out = numbered([10, 0, 1], ("a", "b", "c")).split(0.5)
    assert np.bincount(held_out.labels, minlength=3).tolist() == [5, 0, 0]
    assert np.bincount(rest.labels, minlength=3).tolist() == [5, 0, 1]
    assert rest.num_classes == held_out.num_classes == 3


def test_split_of_nothing_and_of_nearly_all():
    data = numbered([10, 4])
    assert len(data.split(0)[1]) == 0 and len(data.split(0)[0]) == 14
    assert np.bincount(data.split(0.999)[0].labels).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("error", "arguments", "message"),
    [
        (ValueError, (1.0,), "fraction must be at least 0 and less than 1, not 1.0"),
        (ValueError, (-0.1,), "fraction .*-0.1"),
        (ValueError, (float("nan"),), "fraction .*nan"),
        (TypeError, (None,), "fraction must be a number, not None"),
        (ValueError, (0.5, -1), "seed must be at least 0, not -1"),
        (TypeError, (0.5, 1.5), "seed must be a whole number, not 1.5"),
    ],
)
def test_split_refuses(error, arguments, message):
    with pytest.raises(error, match="Dataset.split: " + message):
        dataset().split(*arguments)
