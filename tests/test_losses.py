"""Losses: values and gradients against the NumPy twins, central differences and PyTorch."""

import math
import warnings

import numpy as np
import pytest
from cases import assert_close, assert_gradient
from hypothesis import given, settings
from hypothesis import strategies as st

from cnn import CrossEntropyLoss, MSELoss, functional, reference

DTYPES = [np.float32, np.float64]


def drawn(n, classes, dtype=np.float64, seed=0):
    """Scores, targets and class weights."""
    rng = np.random.default_rng(seed)
    scores = 3 * rng.standard_normal((n, classes)).astype(dtype)
    return scores, rng.integers(0, classes, n), rng.uniform(0.1, 3, classes)


# ------------------------------------------------------------------------------------------ cross-entropy


def test_cross_entropy_by_hand():
    scores = np.log([[1.0, 3.0, 4.0], [2.0, 2.0, 4.0]])
    loss, gradient = functional.cross_entropy(scores, np.array([1, 2]))
    assert loss == pytest.approx(-(math.log(3 / 8) + math.log(1 / 2)) / 2)
    assert_close(gradient, np.array([[1 / 8, -5 / 8, 4 / 8], [1 / 4, 1 / 4, -1 / 2]]) / 2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weighted", [False, True])
@settings(max_examples=30)
@given(
    n=st.sampled_from([1, 15, 16, 17, 40]), classes=st.integers(1, 20), smoothing=st.sampled_from([0, 0.1, 1])
)
def test_drawn_cross_entropy_agrees_with_the_twin(dtype, weighted, n, classes, smoothing):
    scores, targets, weight = drawn(n, classes, dtype)
    weight = weight if weighted else None
    loss, gradient = functional.cross_entropy(scores, targets, weight, label_smoothing=smoothing)
    wanted = reference.cross_entropy(scores.astype(np.float64), targets, smoothing, weight)
    assert isinstance(loss, float) and loss == pytest.approx(
        wanted[0], rel=1e-5 if dtype == np.float32 else 1e-12
    )
    assert gradient.dtype == dtype
    assert_close(gradient, wanted[1], 1e-6 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n", [1, 17, 275])
def test_cross_entropy_agrees_with_pytorch(torch, n, weighted, smoothing):
    scores, targets, weight = drawn(n, 7)
    t = torch.tensor(scores, requires_grad=True)
    wanted = torch.nn.functional.cross_entropy(
        t, torch.tensor(targets), torch.tensor(weight) if weighted else None, label_smoothing=smoothing
    )
    wanted.backward()
    criterion = CrossEntropyLoss(weight if weighted else None, label_smoothing=smoothing)
    assert criterion(scores, targets) == pytest.approx(wanted.item(), rel=1e-10)
    assert_close(criterion.backward(), t.grad.numpy())


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_cross_entropy_gradient_by_central_differences(smoothing, weighted):
    scores, targets, weight = drawn(5, 4)
    more = {"label_smoothing": smoothing, "weight": weight if weighted else None}
    _, gradient = functional.cross_entropy(scores, targets, **more)
    assert_gradient(gradient, lambda: functional.cross_entropy(scores, targets, **more)[0], scores)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_scores_of_1e4_give_no_nan(dtype, smoothing):
    scores = np.array([[1e4, -1e4, 0], [-1e4, 1e4, 1e4], [1e4, 1e4, 1e4]], dtype)
    targets = np.array([0, 0, 2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss, gradient = functional.cross_entropy(scores, targets, label_smoothing=smoothing)
    wanted = reference.cross_entropy(scores.astype(np.float64), targets, smoothing)
    assert loss == pytest.approx(wanted[0], rel=1e-6)
    assert_close(gradient, wanted[1], 1e-6)


def test_a_score_of_minus_infinity_rules_a_class_out():
    scores = np.array([[1.0, -np.inf, 2.0]])
    loss, gradient = functional.cross_entropy(scores, np.array([2]))
    alone, two = functional.cross_entropy(scores[:, [0, 2]], np.array([1]))
    assert loss == pytest.approx(alone)
    assert_close(gradient[:, [0, 2]], two)
    assert gradient[0, 1] == 0


def test_nan_stays_in_its_row():
    scores, targets, _ = drawn(18, 4)
    scores[3, 2] = np.nan
    loss, gradient = functional.cross_entropy(scores, targets)
    assert math.isnan(loss)
    assert np.isnan(gradient[3]).all() and np.isfinite(np.delete(gradient, 3, axis=0)).all()


@pytest.mark.parametrize("weighted", [False, True])
def test_an_image_more_changes_nothing_but_the_mean(weighted):
    """17 images fill one lane of a second block; the fifteen lanes beside it count for nothing."""
    scores, targets, weight = drawn(17, 5)
    weight = weight if weighted else np.ones(5)
    sums = []
    for part in (slice(0, 17), slice(0, 16), slice(16, 17)):
        loss, gradient = functional.cross_entropy(scores[part], targets[part], weight, label_smoothing=0.1)
        total = weight[targets[part]].sum()
        sums.append((loss * total, gradient * total))
    assert sums[0][0] == pytest.approx(sums[1][0] + sums[2][0], rel=1e-12)
    assert_close(sums[0][1], np.concatenate([sums[1][1], sums[2][1]]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_batch_whose_labels_all_have_weight_0_has_no_mean_and_no_gradient(dtype, smoothing):
    scores, targets, weight = drawn(20, 4, dtype)
    targets[:], weight[2] = 2, 0
    criterion = CrossEntropyLoss(weight, label_smoothing=smoothing)
    assert math.isnan(criterion(scores, targets)) and criterion.total == 0
    assert not criterion.backward().any() and criterion.backward().dtype == dtype
    wanted = reference.cross_entropy(scores, targets, smoothing, weight)
    assert math.isnan(wanted[0]) and not wanted[1].any()
    targets[7] = 1      # and one that counts is all that does
    loss, gradient = functional.cross_entropy(scores, targets, weight)
    alone = functional.cross_entropy(scores[7:8], targets[7:8])
    assert loss == pytest.approx(alone[0], rel=1e-6)
    assert_close(gradient[7:8], alone[1], 1e-6)
    assert not np.delete(gradient, 7, axis=0).any()


def test_an_empty_batch_has_no_mean():
    loss, gradient = functional.cross_entropy(np.zeros((0, 3)), np.zeros(0, int))
    assert math.isnan(loss) and gradient.shape == (0, 3)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int32, np.uint64, ">i8"])
def test_targets_of_any_integer_type(dtype):
    scores, targets, _ = drawn(18, 5)
    wanted = functional.cross_entropy(scores, targets)
    got = functional.cross_entropy(scores, np.repeat(targets.astype(dtype), 2)[::2])
    assert got[0] == wanted[0] and np.array_equal(got[1], wanted[1])
    assert functional.cross_entropy(scores, list(map(int, targets)))[0] == wanted[0]


def test_gradients_of_an_earlier_call_stay():
    criterion, (scores, targets, _) = CrossEntropyLoss(), drawn(18, 5)
    criterion(scores, targets)
    first = criterion.backward()
    kept = first.copy()
    criterion(-scores, targets)
    assert np.array_equal(first, kept)
    assert not np.array_equal(criterion.backward(), kept)


# ------------------------------------------------------------------------------------------ squared error


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (17, 5), (16, 2, 3, 4), (275, 3), (40, 1, 1, 2)])
def test_mse_agrees_with_the_twin_and_pytorch(torch, shape, dtype):
    rng = np.random.default_rng(0)
    y, t = rng.standard_normal(shape).astype(dtype), rng.standard_normal(shape).astype(dtype)
    criterion = MSELoss()
    loss, wanted = criterion(y, t), reference.mse(y.astype(np.float64), t.astype(np.float64))
    assert loss == pytest.approx(wanted[0], rel=1e-6 if dtype == np.float32 else 1e-12)
    assert_close(criterion.backward(), wanted[1].astype(dtype), 1e-6 if dtype == np.float32 else 1e-12)
    p = torch.tensor(y, requires_grad=True)
    torch.nn.functional.mse_loss(p, torch.tensor(t)).backward()
    assert_close(criterion.backward(), p.grad.numpy(), 1e-6 if dtype == np.float32 else 1e-12)


def test_mse_gradient_by_central_differences():
    rng = np.random.default_rng(0)
    y, t = rng.standard_normal((3, 4)), rng.standard_normal((3, 4))
    assert_gradient(functional.mse_loss(y, t)[1], lambda: functional.mse_loss(y, t)[0], y)


def test_mse_of_an_empty_batch():
    loss, gradient = functional.mse_loss(np.zeros((0, 3)), np.zeros((0, 3)))
    assert math.isnan(loss) and gradient.shape == (0, 3)


@pytest.mark.parametrize("criterion", [CrossEntropyLoss(), MSELoss()])
def test_backward_needs_a_call(criterion):
    with pytest.raises(RuntimeError, match=f"{type(criterion).__name__}: backward needs a call"):
        criterion.backward()
