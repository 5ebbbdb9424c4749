"""Pictures of a run: curves, confusion matrix, worst mistakes, filters, feature maps, learning rates.

Every function takes plain arrays (or a History) and returns a matplotlib Figure, made without pyplot, so that no
window opens and nothing is remembered. `png` and `save` turn it into a file. The colours are those of Okabe and
Ito, of cividis and of viridis: they stay apart for colour-blind eyes and printed in grey, and lines that share a
picture differ in dashes and marks too. Class names may hold anything; they are drawn as they are, cut where long.

Needs matplotlib: every function raises ModuleNotFoundError naming the extra where it is missing.
"""
import io
import math
import unicodedata
import warnings

import numpy as np

from cnn import files, shapes

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"     # Okabe and Ito 2008, and a grey
_SERIES = {"train": (BLUE, "-", "o"), "val": (ORANGE, "--", "s")}
_LABELS = {"train": "training", "val": "validation"}
_DPI = 130
_COLUMNS, _MOST_MAPS, _MOST_FILTERS = 8, 16, 64


def require():
    """Raise ModuleNotFoundError, naming the extra to install, where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ModuleNotFoundError(f"pictures need matplotlib: pip install 'cnn[plot]' ({error})") from None


def png(figure):
    """A figure as the bytes of a PNG file."""
    file = io.BytesIO()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.filterwarnings("ignore", r"Glyph .* missing", UserWarning)     # a class name in a rare script
        figure.savefig(file, format="png", dpi=_DPI, facecolor="white", bbox_inches="tight", pad_inches=0.08)
    return file.getvalue()


def save(figure, path):
    """Write a figure to a PNG file, whole or not at all. Raises OSError naming the file."""
    files.write(path, png(figure))


# ------------------------------------------------------------------------------------------ curves


def curves(history):
    """Loss and accuracy by epoch, of training and validation images.

    history: a History, or rows (dicts) with `epoch` and any of train_loss, val_loss, train_accuracy,
    val_accuracy; NaN and infinite values are left out, and counted below the curve.
    """
    figure = _figure(10, 4)
    epochs = [row["epoch"] for row in history]
    for ax, what in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        _tidy(ax, f"{what} by epoch", "epoch")
        lost = 0
        for part, (colour, dashes, mark) in _SERIES.items():
            values = _finite([row.get(f"{part}_{what}", math.nan) for row in history])
            if np.isnan(values).all():
                continue
            lost += int(np.isnan(values).sum())
            ax.plot(epochs, values, dashes, color=colour, label=_LABELS[part], lw=1.8, ms=4.5,
                    marker=mark if len(values) <= 40 or _alone(values) else None)
            best = int(np.nanargmax(values) if what == "accuracy" else np.nanargmin(values))
            if part == "val" and len(values) > 1:
                ax.plot(epochs[best], values[best], "*", color=GREEN, ms=14, mec="white",
                        label=f"best: {_value(values[best], what)} (epoch {epochs[best]})")
        if what == "accuracy":
            _percent(ax.yaxis)
        _whole_numbers(ax.xaxis)
        if epochs:
            ax.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5) if len(epochs) < 20 else ax.margins(x=0.02)
        _legend_or_nothing(ax)
        if lost:
            ax.text(0.5, -0.22, f"{lost} value{'s' if lost > 1 else ''} not finite, left out",
                    transform=ax.transAxes, ha="center", va="top", color=GREY, size=9)
    return figure


def learning_rate(lr, unit="step", at=None):
    """The learning rate of each step (or epoch: `unit` is what the axis is called).

    lr: float (n,). at: the numbers of the steps, (n,); default 1, 2, ... Raises ValueError for another length.
    """
    lr = _finite(lr)
    at = np.arange(1, len(lr) + 1) if at is None else _finite(at)
    if at.shape != lr.shape:
        raise ValueError(f"learning_rate: at must have as many values as lr, {len(lr)}, got {len(at)}")
    figure = _figure(7, 3.6)
    ax = figure.subplots()
    _tidy(ax, f"learning rate by {unit}", unit, "learning rate")
    if not np.isnan(lr).all():
        ax.plot(at, lr, color=BLUE, lw=1.8, marker="o" if len(lr) <= 40 or _alone(lr) else None,
                ms=4.5)
        ax.set_ylim(bottom=min(0, np.nanmin(lr)))
        _whole_numbers(ax.xaxis)
        ax.ticklabel_format(axis="y", scilimits=(-3, 3))
    else:
        _nothing(ax)
    return figure


def lr_finder(lr, loss, suggestion=None):
    """The loss against a learning rate that was raised step by step, the latter on a logarithmic axis.

    lr, loss: float (n,), lr above 0. suggestion: a learning rate to mark (None or NaN: none). The thick line is the
    mean of each loss and those around it (a fortieth of them); what lies far above the first losses is cut off.
    Raises ValueError for arrays of different lengths.
    """
    lr, loss = _finite(lr), _finite(loss)
    if lr.shape != loss.shape:
        raise ValueError(f"lr_finder: loss must have as many values as lr, {len(lr)}, got {len(loss)}")
    figure = _figure(7, 4)
    ax = figure.subplots()
    _tidy(ax, "loss by learning rate", "learning rate", "loss")
    fine = ~np.isnan(loss) & (lr > 0)
    lr, loss = lr[fine], loss[fine]
    if not len(lr):
        _nothing(ax)
        return figure
    reach = max(1, len(loss) // 80)
    smooth = np.array([loss[max(0, i - reach):i + reach + 1].mean() for i in range(len(loss))])
    ax.plot(lr, loss, color=GREY, lw=0.8, alpha=0.6, label="each step", marker="." if len(lr) <= 40 else None)
    ax.plot(lr, smooth, color=BLUE, lw=2.2, label="smoothed")
    ax.set_xscale("log")
    low, start = smooth.min(), smooth[:max(1, len(smooth) // 10)].mean()
    room = max(start - low, 1e-3 * abs(start), 1e-12)
    ax.set_ylim(low - 0.15 * room, start + 0.6 * room)
    if suggestion is not None and math.isfinite(suggestion):
        ax.axvline(suggestion, color=ORANGE, ls="--", lw=1.8, label=f"suggested: {suggestion:.2g}")
    ax.legend(frameon=False, loc="best")
    return figure


# ------------------------------------------------------------------------------------------ mistakes


def confusion_matrix(matrix, classes):
    """A confusion matrix with a colour for the share of each true class, and counts where there is room.

    matrix: integers (K, K), rows true, columns predicted (metrics.confusion_matrix). classes: K names.
    Raises ValueError where they do not fit.
    """
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or matrix.shape != (len(classes), len(classes)) or not len(classes):
        raise ValueError(f"confusion_matrix: matrix must have shape ({len(classes)}, {len(classes)}), as there are so "
                         f"many classes, got {matrix.shape}")
    k = len(matrix)
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    names = [_name(name, 16) for name in classes]
    side = float(np.clip(0.46 * k, 3.4, 12))
    cell, letters = side / k, max(map(len, names))
    size = float(np.clip(60 * cell, 4.5, 10))
    margin = 0.0085 * size * letters + 0.6
    figure = _figure(side + margin + 1.2, side + margin + 0.4)
    ax = figure.subplots()
    # by the square root, or the few mistakes of a good model would have no colour; where there are none, white
    image = ax.imshow(np.ma.masked_where(matrix == 0, share), cmap="cividis_r", norm=_square_root(),
                      interpolation="nearest")
    flat = letters * 0.0085 * size < cell
    ax.set_xticks(range(k), names, rotation=0 if flat else 90, fontsize=size, parse_math=False)
    ax.set_yticks(range(k), names, fontsize=size, parse_math=False)
    ax.tick_params(length=0)
    ax.set_xticks(np.arange(k + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(k + 1) - 0.5, minor=True)
    ax.grid(which="minor", color="#dddddd", lw=0.8 if k <= 30 else 0.3)
    ax.tick_params(which="minor", length=0)
    digits = len(str(matrix.max()))
    room = min(size + 1, 100 * cell / max(digits, 2))
    if room >= 5.5:
        for i, j in zip(*np.nonzero(matrix), strict=True):
            dark = share[i, j] > 0.2
            ax.text(j, i, f"{matrix[i, j]}", ha="center", va="center", size=room, color="white" if dark else "black")
    ax.set_xlabel("predicted class")
    ax.set_ylabel("true class")
    total = int(matrix.sum())
    right = f", {np.trace(matrix) / total:.2%} right" if total else ""
    ax.set_title(f"{total:,} images{right}", fontsize=11, loc="left")
    bar = figure.colorbar(image, ax=ax, fraction=0.04, pad=0.02, aspect=30,
                          ticks=[0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1])
    _percent(bar.ax.yaxis)
    bar.set_label("share of the true class")
    bar.outline.set_visible(False)
    return figure


def mistakes(images, labels, probabilities, classes, count=16):
    """The images that were classified wrongly with the least probability for the truth, worst first.

    images: uint8 or float (N, C, H, W); of other than 1 or 3 channels the mean is shown. labels: integers (N,).
    probabilities: (N, K). classes: K names. count: how many to show at most. Raises ValueError for what does not fit.
    """
    images, labels, probabilities = np.asarray(images), np.asarray(labels), np.asarray(probabilities)
    count = shapes.integer("mistakes", "count", count, 1, 400)
    if images.ndim != 4 or labels.shape != images.shape[:1] or probabilities.shape != (len(images), len(classes)):
        raise ValueError(f"mistakes: images must have shape (N, C, H, W), labels (N,) and probabilities "
                         f"(N, {len(classes)}), got {images.shape}, {labels.shape} and {probabilities.shape}")
    if len(labels) and labels.dtype.kind not in "iu":
        raise TypeError(f"mistakes: labels must be integers, got {labels.dtype}")
    labels = labels.astype(np.int64)
    said = probabilities.argmax(axis=1) if len(images) else labels
    wrong = np.flatnonzero(said != labels)
    truth = np.nan_to_num(probabilities[wrong, labels[wrong]])
    worst = wrong[np.argsort(truth, kind="stable")][:count]
    columns = min(6, max(3, len(worst)))
    rows = max(1, math.ceil(len(worst) / columns))
    figure = _figure(columns * 1.7, rows * 2.1 + 0.4)
    if not len(worst):
        figure.text(0.5, 0.5, f"no mistake among {len(images):,} images", ha="center", va="center", size=13)
        return figure
    figure.suptitle(f"{len(wrong):,} of {len(images):,} images wrong"
                    + (f", the {len(worst)} worst" if len(worst) < len(wrong) else ""), size=12)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes:
        ax.set_axis_off()
    for ax, i in zip(axes, worst, strict=False):
        ax.imshow(_pixels(images[i]), cmap="gray", interpolation="nearest")
        ax.set_title("\n".join(f"{word} {_name(classes[k], 14)} ({_share(probabilities[i, k])})"
                               for word, k in (("said", said[i]), ("true", labels[i]))), size=9, parse_math=False)
    return figure


# ------------------------------------------------------------------------------------------ inside the network


def filters(weight):
    """The weights of a first convolution, one small picture for each output channel.

    weight: float (K, C, R, S). One input channel: all in one scale of greys, in which 0 is the middle. Three: in
    colours, each filter in its own scale around the middle grey. Others: a row for each output channel, a column
    for each input channel. At most 64 output and 16 input channels. Raises ValueError for another shape.
    """
    weight = np.asarray(weight, float)
    if weight.ndim != 4 or 0 in weight.shape:
        raise ValueError(f"filters: weight must have shape (K, C, R, S) without 0, got {weight.shape}")
    k, c = weight.shape[:2]
    kept = weight[:_MOST_FILTERS]
    title = f"{k} filters of {c}×{weight.shape[2]}×{weight.shape[3]}" + (
        f", the first {_MOST_FILTERS}" if k > _MOST_FILTERS else "")
    if c == 3:
        most = np.abs(np.nan_to_num(kept)).max(axis=(1, 2, 3), keepdims=True)
        tiles = np.nan_to_num(0.5 + 0.5 * kept / np.where(most > 0, most, 1), nan=0.5).transpose(0, 2, 3, 1)
    elif c == 1:
        tiles = kept[:, 0]
    else:
        kept = weight[:16, :16]
        title = f"{k} filters of {c}×{weight.shape[2]}×{weight.shape[3]}: a row for each output channel"
        if kept.shape[:2] != (k, c):
            title += f", the first {len(kept)}×{kept.shape[1]}"
        tiles = kept.reshape(-1, *kept.shape[2:])
    columns = kept.shape[1] if c not in (1, 3) else min(_COLUMNS, len(tiles))
    mosaic = _mosaic(tiles, columns)
    width = float(np.clip(0.9 * columns, 3, 8))
    figure = _figure(width + 1.4, width * mosaic.shape[0] / mosaic.shape[1] + 0.6)
    ax = figure.subplots()
    ax.set_axis_off()
    ax.set_title(title, size=11, loc="left")
    most = float(np.abs(tiles[np.isfinite(tiles)]).max(initial=0)) or 1.0
    image = ax.imshow(mosaic, cmap="gray", vmin=-most, vmax=most, interpolation="nearest")
    if c != 3:
        bar = figure.colorbar(image, ax=ax, fraction=0.05, pad=0.02)
        bar.set_label("weight")
    return figure


def feature_maps(image, maps):
    """What the layers make of one image: up to 16 channels of each, in one scale of colours for each layer.

    image: uint8 or float (C, H, W). maps: list of (name of the layer, float (channels, H, W)).
    Raises ValueError for other shapes.
    """
    image = np.asarray(image)
    maps = [(name, np.asarray(values, float)) for name, values in maps]
    for name, values in [("the image", image), *maps]:
        if values.ndim != 3 or 0 in values.shape:
            raise ValueError(f"feature_maps: {name} must have shape (C, H, W) without 0, got {values.shape}")
    mosaics = [_mosaic(values[:_MOST_MAPS], _COLUMNS) for _, values in maps]
    width = 8.0
    heights = [1.4, *(width * m.shape[0] / m.shape[1] for m in mosaics)]
    figure = _figure(width + 1.2, sum(heights) + 0.42 * len(heights))
    axes = np.atleast_1d(figure.subplots(len(heights), 1, height_ratios=heights))
    axes[0].imshow(_pixels(image), cmap="gray", interpolation="nearest")
    axes[0].set_title(f"image {'×'.join(map(str, image.shape))}", size=10, loc="left")
    axes[0].set_anchor("W")
    for ax, (name, values), mosaic in zip(axes[1:], maps, mosaics, strict=True):
        count, h, w = values.shape
        more = f", the first {_MOST_MAPS}" if count > _MOST_MAPS else ""
        ax.set_title(f"{_name(name, 40)}: {count} of {h}×{w}{more}", size=10, loc="left", parse_math=False)
        shown = ax.imshow(mosaic, cmap="viridis", interpolation="nearest")
        ax.set_anchor("W")
        bar = figure.colorbar(shown, ax=ax, fraction=0.03, pad=0.02, aspect=12)
        bar.ax.tick_params(labelsize=8)
        bar.outline.set_visible(False)
    for ax in axes:
        ax.set_axis_off()
    return figure


# ------------------------------------------------------------------------------------------ parts


def _figure(width, height):
    require()
    from matplotlib.figure import Figure
    return Figure(figsize=(width, height), layout="constrained")


def _square_root():
    from matplotlib.colors import PowerNorm
    return PowerNorm(0.5, 0, 1)


def _tidy(ax, title, xlabel, ylabel=""):
    ax.set_title(title, size=11, loc="left")
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.grid(color="#dddddd", lw=0.7)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def _percent(axis):
    from matplotlib.ticker import PercentFormatter
    axis.set_major_formatter(PercentFormatter(1, symbol=" %"))


def _whole_numbers(axis):
    from matplotlib.ticker import MaxNLocator
    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _legend_or_nothing(ax):
    if ax.lines:
        ax.legend(frameon=False, loc="best")
    else:
        _nothing(ax)


def _nothing(ax):
    ax.text(0.5, 0.5, "no values", transform=ax.transAxes, ha="center", va="center", color=GREY)


def _finite(values):
    values = np.atleast_1d(np.asarray(values, float)).copy()
    values[~np.isfinite(values)] = np.nan
    return values


def _alone(values):
    """Whether some value has no neighbour to draw a line to."""
    there = np.pad(~np.isnan(values), 1)
    return bool((there[1:-1] & ~there[:-2] & ~there[2:]).any())


def _value(value, what):
    return f"{value:.2%}" if what == "accuracy" else f"{value:.4f}"


def _share(p):
    return f"{p:.0%}" if p >= 0.095 or np.isnan(p) else f"{p:.1%}"


def _name(text, most):
    """A name on one line, of at most so many letters."""
    text = "".join(" " if unicodedata.category(c).startswith("C") else c for c in str(text))
    return text if len(text) <= most else text[:most - 1] + "…"


def _pixels(image):
    """(C, H, W) as imshow wants it, from 0 to 1: (H, W), or (H, W, 3) for three channels."""
    if image.dtype == np.uint8:
        image = image / 255
    else:
        low, high = np.nanmin(image), np.nanmax(image)
        image = (image - low) / (high - low if high > low else 1)
    return image.transpose(1, 2, 0) if len(image) == 3 else image.mean(axis=0)


def _mosaic(tiles, columns):
    """Tiles (n, H, W) or (n, H, W, 3) side by side, with gaps of one NaN (white where in colours)."""
    rows = -(-len(tiles) // columns)
    h, w = tiles.shape[1:3]
    gap = max(1, round(0.06 * max(h, w)))
    mosaic = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap, *tiles.shape[3:]),
                     1.0 if tiles.ndim == 4 else np.nan)
    for i, tile in enumerate(tiles):
        top, left = i // columns * (h + gap), i % columns * (w + gap)
        mosaic[top:top + h, left:left + w] = tile
    return mosaic
