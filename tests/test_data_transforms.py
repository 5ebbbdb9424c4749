"""Random changes to images: the kernels against their NumPy twins and PyTorch, and what is drawn for them."""

import numpy as np
import pytest
from cases import assert_same_bits
from data_files import random_images
from processes import run_python

import cnn
from cnn import reference
from cnn.data import AlternatingFlip, Compose, Cutout, DataLoader, Dataset, RandomAffine, RandomCrop, RandomFlip
from cnn.data.transforms import Change, affine_matrix, fixed_point

SHAPES = [(1, 1, 1, 1), (3, 1, 1, 5), (2, 2, 5, 1), (5, 1, 28, 28), (2, 3, 32, 32), (33, 1, 7, 19), (2, 1, 3, 300)]
DTYPES = [np.uint8, np.float32]
EVERYTHING = RandomAffine(30, (0.2, 0.1), (0.8, 1.25), (-10, 10, -5, 5))


def images(shape=(50, 3, 8, 9), dtype=np.uint8):
    return random_images(shape[0], shape[1:]).astype(dtype)


def rng(seed=0):
    return np.random.default_rng(seed)


class Spy:
    """A Generator that keeps what it has drawn."""

    def __init__(self, seed=0):
        self.rng, self.drawn = rng(seed), []

    def __getattr__(self, name):
        def draw(*arguments, **options):
            self.drawn.append(getattr(self.rng, name)(*arguments, **options))
            return self.drawn[-1].copy()

        return draw


# --- crop ---


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("padding", [0, 1, 2, 40])
@pytest.mark.parametrize("mode", ["reflect", "zero"])
def test_crop_is_a_window_of_the_padded_image(shape, dtype, padding, mode):
    x, spy, transform = images(shape, dtype), Spy(), RandomCrop(padding, mode)
    if mode == "reflect" and padding >= min(shape[2:]):
        with pytest.raises(ValueError, match=f'RandomCrop: padding {padding} with mode "reflect" needs larger'):
            transform(x, spy)
        return
    y = transform(x, spy)
    top, left = spy.drawn[0]
    assert_same_bits([y], [reference.crop(x, top, left, mode == "reflect")])
    assert y.dtype == dtype and max(abs(top).max(), abs(left).max()) <= padding


def test_crop_without_padding_changes_nothing():
    for mode in ("reflect", "zero"):
        assert_same_bits([RandomCrop(0, mode)(images(), rng())], [images()])


def test_crop_by_hand():
    x = np.arange(1, 5, dtype=np.uint8).reshape(1, 1, 1, 4).repeat(200, axis=0)
    rows = {tuple(y) for y in RandomCrop(2, "zero")(x, rng())[:, 0, 0].tolist()}
    moved = {(0, 0, 1, 2), (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 0), (3, 4, 0, 0)}
    assert rows == moved | {(0, 0, 0, 0)}  # moved out of the row, up or down
    x = np.tile(x, (1, 1, 3, 1))
    rows = {tuple(y) for y in RandomCrop(2)(x, rng())[:, 0, 1].tolist()}
    assert rows == {(3, 2, 1, 2), (2, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 3), (3, 4, 3, 2)}


# --- flips ---


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_flip_mirrors_the_images_drawn(shape, dtype):
    x, spy = images(shape, dtype), Spy()
    y = RandomFlip()(x, spy)
    assert_same_bits([y], [np.where(spy.drawn[0].astype(bool)[:, None, None, None], x[..., ::-1], x)])


def test_half_of_the_images_are_flipped():
    x = np.tile(np.arange(3, dtype=np.uint8), (4000, 1, 1, 1))
    for y in (RandomFlip()(x, rng()), AlternatingFlip()(x, None, np.arange(4000), 0)):
        assert 1850 < (y[:, 0, 0, 0] == 2).sum() < 2150


def test_alternating_flip_shows_both_sides_in_two_epochs():
    x, numbers = images((4, 1, 2, 6)).repeat(100, axis=0), np.arange(1000, 1400)
    epochs = [AlternatingFlip(3)(x, None, numbers, epoch) for epoch in range(4)]
    assert_same_bits(epochs[:2], epochs[2:])
    assert_same_bits([epochs[0]], [epochs[1][..., ::-1]])
    order = rng().permutation(400)  # it depends on an image's number, not on its place
    assert_same_bits([AlternatingFlip(3)(x[order], None, numbers[order], 2)], [epochs[0][order]])
    assert (AlternatingFlip(4)(x, None, numbers, 0) != epochs[0]).any()


def test_alternating_flip_in_a_loader():
    x = np.tile(np.arange(2, dtype=np.float32), (300, 1, 1, 1))
    transform = Compose(RandomCrop(0), Compose(AlternatingFlip()))
    loader = DataLoader(Dataset(x, np.arange(300)), 64, shuffle=True, transform=transform)
    epochs = [{label: image[0, 0, 0] for b, labels in loader for image, label in zip(b, labels.tolist(), strict=True)}
              for _ in range(3)]  # fmt: skip
    assert len(epochs[0]) == 300 and set(epochs[0].values()) == {0, 1}
    assert all(epochs[1][k] == 1 - epochs[0][k] and epochs[2][k] == epochs[0][k] for k in range(300))


# --- cutout ---


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_cutout_fills_a_square(shape, dtype, size):
    x, spy = images(shape, dtype), Spy()
    fill = tuple(range(9, 9 + shape[1]))
    y = Cutout(size, fill)(x, spy)
    top, left = spy.drawn[0] - size // 2
    assert_same_bits([y], [reference.cutout(x, top, left, size, fill)])


def test_cutout_has_its_centre_in_the_image():
    x = np.full((500, 2, 5, 6), 7, np.uint8)
    holes = [tuple(np.argwhere(y[0] == 0)[0]) for y in Cutout(1)(x, rng())]
    assert len(set(holes)) == 30  # every pixel
    sizes = {(y[0] == 0).sum() for y in Cutout(3)(x, rng())}
    assert sizes == {4, 6, 9}
    assert (Cutout(13)(x, rng()) == 0).all()


# --- affine ---


def matrices(n, seed=0):
    """Wild maps: some within the image, some far away, some that blow up a pixel, some of size 0."""
    r = rng(seed)
    m = r.normal(0, 1, (n, 6)) * 10.0 ** r.integers(-3, 3, (n, 6))
    m[:, [2, 5]] *= 5
    m[r.random((n, 6)) < 0.1] = 0
    m[::3, [0, 4]] = 1 + r.normal(0, 0.05, (len(m[::3]), 2))
    m[::3, [1, 2, 3, 5]] = r.normal(0, 0.1, (len(m[::3]), 4))
    m[::17] *= 1e12
    return m


@pytest.mark.thorough
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_affine_is_its_twin(shape, threads, set_threads):
    set_threads(threads)
    for seed in range(4):
        for dtype in DTYPES:
            x = np.repeat(images(shape, dtype), 20, axis=0)
            m, fill = matrices(len(x), seed), tuple(range(40, 40 + shape[1]))
            y = Change("affine", fill=fill)(x, fixed_point(m))
            wanted = reference.affine_map(x, m, fill)
            if dtype == np.uint8:
                assert_same_bits([y], [wanted])
            else:
                np.testing.assert_allclose(y, wanted, rtol=0, atol=2e-4)  # of 255; fused multiply-adds


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_affine_draws_its_matrix(shape, dtype):
    x, spy = images(shape, dtype), Spy()
    y = EVERYTHING(x, spy)
    low, high = np.array([(-30, 30), (-0.2, 0.2), (-0.1, 0.1), (0.8, 1.25), (-10, 10), (-5, 5)]).T
    wanted = reference.affine_map(x, affine_matrix(low + (high - low) * spy.drawn[0], *shape[2:]), [0] * shape[1])
    np.testing.assert_allclose(y, wanted, rtol=0, atol=0 if dtype == np.uint8 else 2e-4)


def test_affine_matrix_is_the_inverse_of_torchvisions():
    """y = T C S R Y X C^-1 x with X and Y the shears, R rotation, S scale, C from the centre, T translation."""
    r = rng()
    drawn = r.uniform([-180, -1, -1, 0.3, -80, -80], [180, 1, 1, 3, 80, 80], (50, 6))
    height, width = 11, 18

    def matrix(a, b, c, d, e, f):
        return np.array([(a, b, c), (d, e, f), (0, 0, 1)])

    for row, got in zip(drawn, affine_matrix(drawn, height, width), strict=True):
        angle, x, y = np.radians(row[[0, 4, 5]])
        t = matrix(1, 0, row[1] * width, 0, 1, row[2] * height)
        c = matrix(1, 0, (width - 1) / 2, 0, 1, (height - 1) / 2)
        turn = matrix(np.cos(angle), -np.sin(angle), 0, np.sin(angle), np.cos(angle), 0)
        shear = matrix(1, 0, 0, -np.tan(y), 1, 0) @ matrix(1, -np.tan(x), 0, 0, 1, 0)
        wanted = np.linalg.inv(t @ c @ np.diag([row[3], row[3], 1]) @ turn @ shear @ np.linalg.inv(c))
        np.testing.assert_allclose(got, wanted[:2].ravel(), rtol=1e-9, atol=1e-9)


def test_affine_agrees_with_pytorch():
    torch = pytest.importorskip("torch")
    x, spy = images((40, 2, 28, 20)), Spy()
    y, floats = EVERYTHING(x, spy), EVERYTHING(x.astype(np.float32), rng())
    low, high = np.array([(-30, 30), (-0.2, 0.2), (-0.1, 0.1), (0.8, 1.25), (-10, 10), (-5, 5)]).T
    m = affine_matrix(low + (high - low) * spy.drawn[0], 28, 20).reshape(-1, 2, 3)
    i, j = np.mgrid[:28, :20]
    places = np.einsum("nkl,lij->nijk", m, np.stack([j, i, np.ones_like(i)]))
    grid = torch.tensor((2 * places + 1) / (20, 28) - 1)
    theirs = torch.nn.functional.grid_sample(torch.tensor(x).double(), grid, align_corners=False).numpy()
    off = 255 * 2 * (28 + 20 + 1) / 2 / 65536  # by the rounded matrix, in both directions
    assert np.abs(floats - theirs).max() < off
    assert np.abs(y - theirs).max() < off + 0.5 + 2 * 255 / 256  # rounded, and weights cut off to 8 bits


def test_affine_rotates_clockwise_and_moves_right_and_down():
    x = np.zeros((1, 1, 5, 5), np.uint8)
    x[0, 0, 0, 2] = 200
    y = RandomAffine((90, 90))(x, rng())
    assert np.argwhere(y[0, 0]).tolist() == [[2, 4]] and y.max() == 200
    y = RandomAffine(0, (1, 0))(x, type("", (), {"random": lambda self, size: np.full(size, 0.7)})())
    assert np.argwhere(y[0, 0]).tolist() == [[0, 4]]  # by 0.4 of the width


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_affine_of_nothing_is_the_identity(shape, dtype):
    x = images(shape, dtype)
    for transform in (RandomAffine(0), RandomAffine((0, 0), (0, 0), (1, 1), 0, fill=[5] * shape[1])):
        assert_same_bits([transform(x, rng())], [x])


@pytest.mark.parametrize("dtype", DTYPES)
def test_affine_fills_with_its_number(dtype):
    x = np.full((30, 2, 6, 7), 9, dtype)
    x[:, 1] = 200
    for smallest in (1e-300, 1e-9, 0.5):
        y = RandomAffine(180, (1, 1), (smallest, 4), 89.9, fill=(9, 200))(x, rng())
        assert_same_bits([y], [x])


# --- all of them ---

ALL = {
    "crop": RandomCrop(3),
    "zero": RandomCrop(3, mode="zero"),
    "flip": RandomFlip(),
    "cutout": Cutout(4),
    "affine": EVERYTHING,
    "several": Compose(EVERYTHING, RandomCrop(2), RandomFlip(), Cutout(3)),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ALL)
def test_same_seed_same_bits_on_any_number_of_threads(name, dtype):
    x = images(dtype=dtype)
    x.flags.writeable = False
    before, results = cnn.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            cnn.set_num_threads(threads)
            results.append(ALL[name](x, rng(7)))
    finally:
        cnn.set_num_threads(before)
    assert_same_bits(results[:1] * 2, results[1:])
    assert results[0].shape == x.shape and results[0].dtype == dtype and results[0].flags.writeable
    assert (ALL[name](x, rng(8)) != results[0]).any()
    turned = x[:, :, ::-1].swapaxes(2, 3)  # not contiguous
    assert_same_bits([ALL[name](turned, rng(7))], [ALL[name](turned.copy(), rng(7))])


@pytest.mark.parametrize("name", ALL)
def test_no_images_no_changes(name):
    assert ALL[name](images((0, 2, 5, 6)), rng()).shape == (0, 2, 5, 6)


def test_compose_calls_one_after_the_other():
    x, r = images(), rng()
    assert_same_bits([Compose(EVERYTHING, RandomFlip())(x, rng())], [RandomFlip()(EVERYTHING(x, r), r)])
    assert_same_bits([Compose()(x, rng())], [x])
    assert not Compose(RandomFlip()).needs_indices and Compose(RandomFlip(), AlternatingFlip()).needs_indices


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ALL)
def test_batches_drawn_and_changed_by_hand_are_raw_batches(name, dtype, monkeypatch):
    monkeypatch.setattr("cnn.data.loader._TOGETHER", 20 * images(dtype=dtype)[0].nbytes)
    transform = Compose(Compose(), ALL[name], AlternatingFlip())
    loader = DataLoader(Dataset(images(dtype=dtype), np.zeros(50, int)), 7, shuffle=True, transform=transform)
    for start in (0, 3):
        loader.epoch, loader.start = 2, start
        raw = list(loader.raw_batches())
        loader.epoch, loader.start = 2, start
        wishes = iter([1, 2, 3, 5, 1, 1, 1, 1, 1])
        groups = list(loader.drawn_batches(wishes.__next__))
        # twenty images are drawn at a time, two whole batches; the last batch is a single image
        assert [len(chosen) for chosen, _, _ in groups] == ([1, 1, 2, 2, 1, 1] if start == 0 else [1, 2, 1, 1])
        batches = [(chosen[i], changes, [drawn[i] for drawn in numbers])
                   for chosen, changes, numbers in groups for i in range(len(chosen))]
        assert loader.epoch == 3 and len(raw) == len(batches) == 8 - start
        for (wanted, _), (chosen, changes, numbers) in zip(raw, batches, strict=True):
            x = loader.dataset.images[chosen]
            for change, drawn in zip(changes, numbers, strict=True):
                x = change(x, drawn)
            assert_same_bits([x], [wanted])


def test_what_can_be_drawn():
    class Mine(RandomFlip):
        def __call__(self, images, rng):
            return images[..., :1]

    data = Dataset(images(), np.zeros(50, int))
    for transform in (Mine(), Compose(RandomFlip(), Mine()), lambda images, rng: images[..., :1]):
        loader = DataLoader(data, 7, transform=transform)
        assert not loader.drawable and next(loader.raw_batches())[0].shape == (7, 3, 8, 1)
    for transform in (None, RandomFlip(), Compose(), Compose(EVERYTHING, Compose(AlternatingFlip()))):
        assert DataLoader(data, 7, transform=transform).drawable


def test_transforms_work_in_a_fork():
    done = run_python(
        "-c",
        """
        import os, numpy as np, cnn
        cnn.set_num_threads(2)
        x = np.random.default_rng(0).integers(0, 256, (200, 1, 28, 28), np.uint8)
        transform = cnn.data.RandomAffine(20)
        before = transform(x, np.random.default_rng(1))
        child = os.fork()
        after = transform(x, np.random.default_rng(1))
        same = bool((before == after).all())
        if child == 0:
            os._exit(0 if same else 1)
        print(same and os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0)
        """,
        timeout=60,
    )
    assert done.stdout == "True\n", done.stderr


# --- wrong arguments ---


@pytest.mark.parametrize(
    ("error", "make", "message"),
    [
        (TypeError, lambda: RandomCrop(1.5), "RandomCrop: padding must be a whole number, not 1.5"),
        (ValueError, lambda: RandomCrop(-1), "RandomCrop: padding must be at least 0, not -1"),
        (ValueError, lambda: RandomCrop(2**15), "RandomCrop: padding must be at most 32767, not 32768"),
        (ValueError, lambda: RandomCrop(1, "edge"), """RandomCrop: mode must be "reflect" or "zero", not 'edge'"""),
        (ValueError, lambda: AlternatingFlip(-1), "AlternatingFlip: seed must be at least 0, not -1"),
        (ValueError, lambda: Cutout(0), "Cutout: size must be at least 1, not 0"),
        (TypeError, lambda: Cutout(None), "Cutout: size must be a whole number, not None"),
        (TypeError, lambda: Cutout(3, "0"), "Cutout: fill must be a number or a sequence of numbers, not '0'"),
        (ValueError, lambda: Cutout(3, ()), r"Cutout: fill must be finite number\(s\), not \(\)"),
        (ValueError, lambda: Cutout(3, 10**400), "Cutout: fill must be finite"),
        (TypeError, lambda: RandomAffine(None), "RandomAffine: degrees must be a number or a seq.*, not None"),
        (ValueError, lambda: RandomAffine(float("nan")), "RandomAffine: degrees must be finite .*, not nan"),
        (ValueError, lambda: RandomAffine(-5), "RandomAffine: degrees must go from the lower to the higher"),
        (ValueError, lambda: RandomAffine((1, 2, 3)), r"degrees must be 2 numbers, not \(1, 2, 3\)"),
        (ValueError, lambda: RandomAffine(0, 0.1), r"translate must be two numbers from 0 to 1, not \(0.1,\)"),
        (ValueError, lambda: RandomAffine(0, (0, 1.5)), r"translate must .*, not \(0.0, 1.5\)"),
        (ValueError, lambda: RandomAffine(0, scale=2), "scale must be 2 numbers, not 2"),
        (ValueError, lambda: RandomAffine(0, scale=(0, 1)), r"scale must be above 0, not \(0.0, 1.0\)"),
        (ValueError, lambda: RandomAffine(0, shear=90), "shear must be between -90 and 90 degrees, not"),
        (ValueError, lambda: RandomAffine(0, shear=(1, 2, 3)), "shear must be 2 or 4 numbers"),
        (ValueError, lambda: Cutout(3, (1, 2))(images(), rng()), r"one number or one per channel \(3\), not"),
        (ValueError, lambda: Cutout(3, 256)(images(), rng()), "fill must be whole numbers from 0 to 255 for uint8"),
        (ValueError, lambda: RandomAffine(3, fill=0.5)(images(), rng()), "RandomAffine: fill must be whole numbers"),
        (TypeError, lambda: RandomFlip()(images(dtype=float), rng()), "RandomFlip: images must be .*, not float64"),
        (TypeError, lambda: Cutout(1)([1], rng()), "Cutout: images must be a uint8 or float32 array, not list"),
        (ValueError, lambda: RandomCrop(1)(images()[0], rng()), r"RandomCrop: images must be of shape .*\(3, 8, 9\)"),
        (ValueError, lambda: RandomAffine(1)(np.zeros((1, 1, 1, 2**15), np.uint8), rng()), "at most 32767 pixels"),
        (ValueError, lambda: Cutout(3, 1e39)(images(dtype=np.float32), rng()), "fill must be numbers that float32 can"),
        (TypeError, lambda: AlternatingFlip()(images(), rng()), "AlternatingFlip: must be told the images' numbers"),
        (TypeError, lambda: Compose(RandomFlip(), None), "Compose: transforms must be functions, not None"),
        (TypeError, lambda: Compose([RandomFlip()]), r"Compose: .* not \[.*\]; give them one by one, not in a list"),
    ],
)
def test_wrong_arguments(error, make, message):
    with pytest.raises(error, match=message):
        make()
