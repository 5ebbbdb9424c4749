"""What a run comes to, in a few words: is it good, what does it get wrong, did it overfit?"""
from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cnn.reports import metrics

if TYPE_CHECKING:
    from cnn.reports.evaluation import Evaluation


def accuracy(measured: Evaluation) -> tuple[str, str]:
    """(the accuracy, how sure it is and what it compares with), in words."""
    count = len(measured.labels)
    if not count:
        return "not measured", "There are no test images."
    right = round(measured.accuracy * count)
    low, high = metrics.accuracy_interval(right, count)
    most = int(measured.per_class.support.argmax())
    words = (f"{right:,} of {count:,} test images are right. On other images like these, expect {low:.1%} to "
             f"{high:.1%} (95% interval for so many images). Always answering {measured.classes[most]} would get "
             f"{measured.per_class.support[most] / count:.1%}. Loss {measured.loss:.4f}")
    top5 = "" if measured.top5 is None else f", top 5 {measured.top5:.2%}"
    guess = ", no better than a guess" if low <= measured.per_class.support[most] / count else ""
    return f"{measured.accuracy:.2%} right{guess}", f"{words}{top5}."


def confusions(measured: Evaluation, count: int = 2) -> list[str]:
    """The `count` most frequent errors, each in words."""
    images = dict(zip(measured.classes, measured.per_class.support.tolist(), strict=True))
    return [f"{true} taken for {said}: {n:,} of {images[true]:,}" for true, said, n in measured.confusions()[:count]]


def errors(measured: Evaluation) -> str:
    """What `confusions` are, in words."""
    count = int(measured.matrix.sum() - measured.matrix.trace())
    if not count:
        return "No test image is wrong." if len(measured.labels) else "There are no test images."
    return (f"{count:,} test image{'s are' if count > 1 else ' is'} wrong. " +
            ("Above: the most frequent confusions." if len(measured.confusions()) > 1 else ""))


def overfitting(measured: Evaluation, training: Evaluation) -> tuple[str, str]:
    """(whether it overfits, the two accuracies and how sure their difference is), in words.

    The difference of two shares p, q of m, n images has a standard error of sqrt(p (1 - p) / m + q (1 - q) / n), and
    lies within 1.96 of them in 95 % of cases (normal approximation; Altman et al. 2000, "Statistics with Confidence",
    chapter 6).
    """
    if not len(measured.labels) or not len(training.labels):
        return "not measured", "There are no images to compare."
    gap = training.accuracy - measured.accuracy
    error = 1.96 * math.sqrt(sum(e.accuracy * (1 - e.accuracy) / len(e.labels) for e in (training, measured)))
    words = (f"Training images: {training.accuracy:.2%} right, test images: {measured.accuracy:.2%}, by the same final "
             f"model. The gap is {100 * gap:.1f} ± {100 * error:.1f} points").replace("-", "−")
    if gap <= error:
        return "No sign of it", f"{words}: no more than chance explains."
    times = (1 - measured.accuracy) / (1 - training.accuracy) if training.accuracy < 1 else math.inf
    more = f"{times:.1f} times as often" if math.isfinite(times) else "though never on training images"
    return f"{100 * gap:.1f} points worse on new images", f"{words}. It errs on test images {more}."
