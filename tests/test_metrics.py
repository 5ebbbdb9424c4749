"""Metrics against plain counting, and against scikit-learn where it is installed."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnn.reports import metrics

NAN = float("nan")


def counted(targets, predictions, k):
    """Precision, recall, F1 and support of each class, one image after the other."""
    rows = []
    for c in range(k):
        pairs = list(zip(targets, predictions, strict=True))
        tp = sum(t == c and p == c for t, p in pairs)
        fp = sum(t != c and p == c for t, p in pairs)
        fn = sum(t == c and p != c for t, p in pairs)
        precision = tp / (tp + fp) if tp + fp else NAN
        recall = tp / (tp + fn) if tp + fn else NAN
        f1 = 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else NAN
        rows.append((precision, recall, f1, tp + fn))
    return rows


def pairs_of_labels(k):
    label = st.integers(0, k - 1)
    return st.lists(st.tuples(label, label), max_size=30)


@given(pairs=pairs_of_labels(4))
def test_against_a_plain_count(pairs):
    targets, predictions = [t for t, _ in pairs], [p for _, p in pairs]
    matrix = metrics.confusion_matrix(targets, predictions, 4)
    assert matrix.dtype == np.int64 and matrix.tolist() == [[pairs.count((i, j)) for j in range(4)] for i in range(4)]
    got, wanted = metrics.per_class(matrix), np.array(counted(targets, predictions, 4)).T
    np.testing.assert_allclose([got.precision, got.recall, got.f1, got.support], wanted, rtol=1e-15)
    right = sum(t == p for t, p in pairs)
    np.testing.assert_equal(metrics.accuracy(matrix), right / len(pairs) if pairs else NAN)


@given(pairs=pairs_of_labels(3).filter(bool))
def test_against_scikit_learn(pairs):
    sklearn = pytest.importorskip("sklearn.metrics")
    targets, predictions = zip(*pairs, strict=True)
    matrix = metrics.confusion_matrix(targets, predictions, 3)
    assert np.array_equal(matrix, sklearn.confusion_matrix(targets, predictions, labels=range(3)))
    wanted = sklearn.precision_recall_fscore_support(targets, predictions, labels=range(3), zero_division=np.nan)
    got = metrics.per_class(matrix)
    np.testing.assert_allclose([got.precision, got.recall, got.f1, got.support], wanted)
    for zero_division in (0, 1, np.nan):
        macro = sklearn.precision_recall_fscore_support(targets, predictions, average="macro",
                                                        zero_division=zero_division)[:3]
        np.testing.assert_allclose(list(got.macro(zero_division).values()), macro)
    with warnings.catch_warnings(record=True) as theirs:
        warnings.simplefilter("always")
        macro = sklearn.precision_recall_fscore_support(targets, predictions, average="macro")[:3]
    with warnings.catch_warnings(record=True) as ours:
        warnings.simplefilter("always")
        np.testing.assert_allclose(list(got.macro().values()), macro)
    assert len(ours) == len(theirs) and {each.category for each in ours} <= {metrics.UndefinedMetricWarning}


def test_nothing_to_say_is_nan():
    # class 1 occurs but is never named; 2 is named but never occurs; 3 neither
    got = metrics.per_class(metrics.confusion_matrix([0, 0, 1], [0, 2, 0], 4))
    np.testing.assert_array_equal(got.precision, [0.5, NAN, 0, NAN])
    np.testing.assert_array_equal(got.recall, [0.5, 0, NAN, NAN])
    np.testing.assert_array_equal(got.f1, [0.5, 0, 0, NAN])
    assert got.never_predicted().tolist() == [1]


def test_what_is_undefined_counts_as_0_in_the_means():
    """Class 3 does not count at all; class 1, never predicted, and class 2, without images, count as 0."""
    got = metrics.per_class(metrics.confusion_matrix([0, 0, 1], [0, 2, 0], 4))
    with pytest.warns(metrics.UndefinedMetricWarning) as caught:
        assert got.macro() == pytest.approx({"precision": 0.5 / 3, "recall": 0.5 / 3, "f1": 0.5 / 3})
    assert [str(each.message) for each in caught] == [
        "macro: precision is 0/0 and counts as 0 for class 1 (never predicted)",
        "macro: recall is 0/0 and counts as 0 for class 2 (no images)"]
    assert got.macro(0) == got.macro(zero_division=0.0) == pytest.approx(dict.fromkeys(got.macro(0), 0.5 / 3))
    assert got.macro(1) == pytest.approx({"precision": 1.5 / 3, "recall": 1.5 / 3, "f1": 0.5 / 3})
    assert got.macro(NAN) == pytest.approx({"precision": 0.25, "recall": 0.25, "f1": 0.5 / 3})
    for wrong in (0.5, "0", None, True, "raise"):
        with pytest.raises(ValueError, match="macro: zero_division must be 0, 1, NaN or 'warn', got"):
            got.macro(wrong)


def test_two_classes_that_are_never_predicted():
    """All ten images are taken for class 0, of which there are six: precision 0.6, recall 1, F1 0.75."""
    got = metrics.per_class(metrics.confusion_matrix([0] * 6 + [1] * 3 + [2], [0] * 10))
    assert got.macro(0) == pytest.approx({"precision": 0.2, "recall": 1 / 3, "f1": 0.25})
    assert got.never_predicted().tolist() == [1, 2]


def test_no_images_at_all():
    matrix = metrics.confusion_matrix([], [], 3)
    assert matrix.tolist() == [[0] * 3] * 3
    assert np.isnan(metrics.accuracy(matrix)) and np.isnan(list(metrics.per_class(matrix).macro().values())).all()
    assert metrics.confusion_matrix([], []).shape == (0, 0)
    assert np.isnan(metrics.top_k_accuracy(np.zeros((0, 3)), np.zeros(0, int)))


@given(st.lists(st.tuples(st.lists(st.integers(0, 3), min_size=5, max_size=5), st.integers(0, 4)), min_size=1))
def test_top_k_against_sorting(rows):
    scores, targets = np.array([row for row, _ in rows], np.float32), np.array([t for _, t in rows])
    order = [sorted(range(5), key=lambda c, row=row: (-row[c], c)) for row, _ in rows]
    for k in range(1, 7):
        wanted = np.mean([t in best[:k] for best, t in zip(order, targets, strict=True)])
        assert metrics.top_k_accuracy(scores, targets, k) == pytest.approx(wanted)
    assert metrics.top_k_accuracy(scores, targets, 1) == pytest.approx(np.mean(scores.argmax(1) == targets))


def test_top_k_of_nan_is_wrong():
    scores = np.array([[NAN, 1, 2], [3, NAN, 0], [3, 2, 0]])
    assert metrics.top_k_accuracy(scores, [0, 0, 0], 3) == pytest.approx(1 / 3)


@given(pairs=pairs_of_labels(4))
def test_iou_of_sets(pairs):
    targets, predictions = [t for t, _ in pairs], [p for _, p in pairs]
    wanted = []
    for c in range(4):
        there = {i for i, t in enumerate(targets) if t == c}
        named = {i for i, p in enumerate(predictions) if p == c}
        wanted.append(len(there & named) / len(there | named) if there | named else NAN)
    np.testing.assert_allclose(metrics.iou(metrics.confusion_matrix(targets, predictions, 4)), wanted, rtol=1e-15)


ranked = st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=20)


@given(rows=ranked, missed=st.integers(0, 3))
def test_average_precision_by_thresholds(rows, missed):
    """One threshold after the other, each a count of what lies above."""
    scores, targets = np.array([s for s, _ in rows], np.float32), np.array([t for _, t in rows], bool)
    positives, area, before = int(targets.sum()) + missed, 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        found = [t for s, t in zip(scores, targets, strict=True) if s >= threshold]
        recall = sum(found) / positives if positives else NAN
        area, before = area + (recall - before) * sum(found) / len(found), recall
    got = metrics.average_precision(scores, targets, positives)
    np.testing.assert_allclose(got, area if positives else NAN)
    if not missed:
        np.testing.assert_equal(metrics.average_precision(scores, targets.astype(int)), got)
        both = metrics.average_precision(np.stack([scores, -scores], 1), np.stack([targets, ~targets], 1))
        assert both.shape == (2,)
        np.testing.assert_equal(both[0], got)


@given(rows=ranked.filter(lambda rows: any(t for _, t in rows)))
def test_average_precision_against_scikit_learn(rows):
    sklearn = pytest.importorskip("sklearn.metrics")
    scores, targets = np.array([s for s, _ in rows], float), np.array([t for _, t in rows])
    assert metrics.average_precision(scores, targets) == pytest.approx(sklearn.average_precision_score(targets, scores))


def test_average_precision_by_hand():
    # found at ranks 1 and 3 of what is to be found 3 times: (1 + 2/3) / 3
    assert metrics.average_precision(np.array([0.9, 0.8, 0.7]), [1, 0, 1], positives=3) == pytest.approx(5 / 9)
    assert metrics.average_precision(np.array([]), np.array([]), positives=2) == 0
    assert np.isnan(metrics.average_precision(np.array([0.5]), [0]))
    assert metrics.average_precision(np.zeros((0, 3)), np.zeros((0, 3))).shape == (3,)


@pytest.mark.parametrize(("error", "call", "words"), [
    (TypeError, lambda: metrics.iou(np.eye(2)), "iou: matrix must hold integers"),
    (TypeError, lambda: metrics.average_precision([1], [1]), "average_precision: scores must be floats, got int64"),
    (ValueError, lambda: metrics.average_precision([0.5], [[1]]), r"must both have shape .* got \(1,\) and \(1, 1\)"),
    (ValueError, lambda: metrics.average_precision([NAN], [1]), "scores must be numbers, got NaN"),
    (ValueError, lambda: metrics.average_precision([0.5], [2]), "targets must be 0 or 1"),
    (ValueError, lambda: metrics.average_precision([0.5], [1], 0), "positives must be an integer of at least 1"),
    (ValueError, lambda: metrics.average_precision([[0.5]], [[1]], 1), "positives must be None"),
    (TypeError, lambda: metrics.confusion_matrix([0.5], [0]), "confusion_matrix: targets must be integers"),
    (TypeError, lambda: metrics.confusion_matrix([0], [True]), "confusion_matrix: predictions must be integers"),
    (ValueError, lambda: metrics.confusion_matrix([[0]], [0]), r"targets must have shape \(N,\), got \(1, 1\)"),
    (ValueError, lambda: metrics.confusion_matrix([0, 1], [0]), r"predictions must have shape \(2,\)"),
    (ValueError, lambda: metrics.confusion_matrix([0, 3], [0, 0], 3), r"targets must lie in \[0, 3\), got 3"),
    (ValueError, lambda: metrics.confusion_matrix([0], [-1]), "predictions must lie in .* got -1"),
    (ValueError, lambda: metrics.confusion_matrix([0], [2**31]), "too large"),
    (ValueError, lambda: metrics.confusion_matrix([], [], 0), "num_classes"),
    (TypeError, lambda: metrics.per_class(np.eye(2)), "per_class: matrix must hold integers"),
    (ValueError, lambda: metrics.accuracy(np.ones((2, 3), int)), r"accuracy: matrix must have shape \(K, K\)"),
    (TypeError, lambda: metrics.top_k_accuracy([[1.0]], [0]), "top_k_accuracy: scores"),
    (ValueError, lambda: metrics.top_k_accuracy(np.ones((1, 2)), [2]), r"targets must lie in \[0, 2\), got 2"),
    (ValueError, lambda: metrics.top_k_accuracy(np.ones((1, 2)), [0, 1]), r"targets must have shape \(1,\)"),
    (ValueError, lambda: metrics.top_k_accuracy(np.ones((1, 2)), [0], 0), "k must be an integer of at least 1"),
])
def test_what_does_not_fit(error, call, words):
    with pytest.raises(error, match=words):
        call()
