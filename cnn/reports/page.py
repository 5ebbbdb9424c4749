"""A run as one HTML page with its pictures in it, that opens without a network."""
import base64
import json
import math
from datetime import datetime
from pathlib import Path

import numpy as np

from cnn import files, plots, runtime
from cnn.layers.running import observed
from cnn.plots.images import image_png, said, worst
from cnn.reports import evaluation, explained, svg, theme, verdict
from cnn.text import html, html_table
from cnn.training import checkpoint
from cnn.training.history import History

_LARGEST_SUMMARY = 512      # pixels a side of an image that is passed through the network only to make a table
_LARGEST_IMAGE = 112        # pixels a side of an image on the page, to keep the page small
_MOST_TRAINING = 10_000     # training images to measure
_LONG_NAME = 8              # letters of a class from which on five columns do not fit on a phone
_MOST_ROWS, _MOST_ERRORS, _MOST_MISTAKES, _MOST_EXPLAINED = 20, 10, 16, 6
# what odd values in a run's files can raise on their way into a table or a picture
_ODD = OSError, ValueError, TypeError, LookupError, ArithmeticError, RecursionError, MemoryError

_MATRIX = ("Rows: true classes, columns: predicted. Orange: errors, by the square root of their share of the row, "
           "strongest from 25% on. Pale blue: right.")


def write(run, data_dir=None):
    """Draw a run's pictures into its folder and write report.html beside them; returns the page's path.

    run: folder with any of model.safetensors, history.csv, summary.json, config.toml and steps.jsonl; what is not
    there, or damaged, is left out and named on the page, and so is the data set where it can't be had.
    data_dir: where to look for the data set first. Earlier pictures and pages are replaced, each file whole.

    Raises FileNotFoundError, NotADirectoryError or ValueError for what is no run, OSError naming a file that can't
    be written, ModuleNotFoundError where matplotlib is missing.
    """
    plots.require()
    run = Path(run)
    if not run.exists():
        raise FileNotFoundError(f"{run}: there is no such folder")
    if not run.is_dir():
        raise NotADirectoryError(f"{run}: a report is made of a run's folder, this is a file")
    page = _Page(run)
    if not page.read(data_dir):
        raise ValueError(f"{run}: holds no run: there is none of {', '.join(_Page.FILES)}")
    path = run / "report.html"
    with np.errstate(all="ignore"):     # odd values are drawn as far as they can be
        files.write(path, page.html().encode())
    return path


class _Page:
    FILES = ("model.safetensors", "history.csv", "summary.json", "config.toml", "steps.jsonl")

    def __init__(self, run):
        self.run = run
        self.missing = []       # what can't be shown, and why
        self.model = self.description = self.measured = self.dataset = self.training = None

    # -------------------------------------------------------------- reading

    def read(self, data_dir):
        """Read what there is; returns whether there was anything."""
        self.summary = self._file("summary.json", lambda path: _object(json.loads(files.read_text(path))), {})
        self.config = self._file("config.toml", files.read_text)
        self.history = self._lines("history.csv", History.load)
        self.steps = self._lines("steps.jsonl", _step_lines, optional=True)
        loaded = self._file("model.safetensors", checkpoint.load_model)
        if loaded is not None:
            self.model, self.description = loaded
            self._measure(data_dir)
        return any((self.run / name).is_file() for name in self.FILES)

    def _measure(self, data_dir):
        """Measure the model on the test images and, to compare, on training images without augmentation."""
        what, tta = "test", self.description.get("tta")
        try:
            train, test = evaluation.load_parts(self.description, data_dir=data_dir)
            self.dataset = evaluation.as_trained(test, self.description)
            self.measured = evaluation.evaluate(self.model, self.dataset, f"{test.name}, test images", tta)
            what = "training"
            fraction = self.summary.get("validation_fraction")
            if isinstance(fraction, float) and 0 < fraction < 1:     # these were not trained on
                train = train.split(fraction, self.description.get("seed") or 0)[0]
            count = min(len(train), _MOST_TRAINING)
            train = train.subset(np.arange(count) * len(train) // max(count, 1))
            self.training = evaluation.evaluate(self.model, evaluation.as_trained(train, self.description), tta=tta)
        except (ImportError, *_ODD) as error:
            self.missing.append(f"the {what} images: {error}")

    def _lines(self, name, read, optional=False):
        """What `read(path, skipped)` returns; the lines that it appends to `skipped` are named on the page."""
        skipped = []
        result = self._file(name, lambda path: read(path, skipped), optional=optional)
        if skipped:
            more = f" and {len(skipped) - 1} more" if len(skipped) > 1 else ""
            self.missing.append(f"{self.run / name}: damaged lines: {skipped[0]}{more}")
        return result

    def _file(self, name, read, default=None, optional=False):
        path = self.run / name
        if not path.is_file():
            if not optional:
                self.missing.append(f"{name}: it is not in the folder")
            return default
        try:
            return read(path)
        except _ODD as error:
            self.missing.append(str(error) if str(path) in str(error) else f"{path}: {error}")
            return default

    # -------------------------------------------------------------- writing

    def html(self):
        facts, banner, *parts = (self._facts(), self._banner(), self._headline(), self._training(), self._classes(),
                                 self._network())
        missing = "".join(f'<p class="note">Not shown: {html(reason)}</p>' for reason in self.missing)
        parts = [facts, banner, *parts[:1], missing, *parts[1:], self._settings()]
        return theme.document(f"Run {self.run.resolve().name}", parts)

    def _facts(self):
        """One line on what this is a run of."""
        given = self.summary
        words = [html(f"{given['model']} on {given['dataset']}")] if {"model", "dataset"} <= given.keys() else []
        if self.history:
            words.append(f"{len(self.history):,} epoch{'s' if len(self.history) > 1 else ''}")
        if isinstance(given.get("seconds"), float):
            words.append(f"{given['seconds']:,.1f} s")
        return f'<p class="muted">{", ".join(words)}</p>' if words else ""

    def _banner(self):
        """That the run did not come to its end, where it did not."""
        stopped = self.summary.get("stopped")
        if self.summary.get("diverged") is True:
            reason = f" Stopped: {html(stopped)}." if isinstance(stopped, str) else ""
            return f'<p class="banner"><b>This run diverged.</b>{reason}</p>'
        return f'<p class="banner">Stopped: {html(stopped)}.</p>' if isinstance(stopped, str) else ""

    def _headline(self):
        m = self.measured
        if m is None:
            accuracy = self.summary.get("test_accuracy")
            if isinstance(accuracy, float) and math.isfinite(accuracy):
                return theme.cards(theme.card("Is it good?", "as the run measured it", f"{accuracy:.2%} right"))
            return ""
        cards = [theme.card("Is it good?", *reversed(verdict.accuracy(m))),
                 theme.card("What does it get wrong?", verdict.errors(m), *verdict.confusions(m))]
        if self.training is not None:
            cards.append(theme.card("Did it overfit?", *reversed(verdict.overfitting(m, self.training))))
        return theme.cards(*cards, kind="cards headline")

    def _training(self):
        figures = []
        if self.history:
            figures += self._figures("curves", "Loss and accuracy by epoch", lambda: plots.curves(self.history), [
                (lambda what=what: plots.curve(self.history, what), self._curve_words(what))
                for what in ("loss", "accuracy")])
        rates = self.steps or [(row["epoch"], row["lr"]) for row in self.history or () if "lr" in row]
        if rates:
            def draw():
                return plots.learning_rate([lr for _, lr in rates], "step" if self.steps else "epoch",
                                           [at for at, _ in rates])
            figures += self._figures("learning_rate", "Learning rate", draw, [(draw, "")])
        return theme.section("Training", theme.cards(*figures))

    def _curve_words(self, what):
        if what == "loss":
            smoothing = self.summary.get("label_smoothing")
            return ("Training figures are means over an epoch, each batch measured before its step, with augmentation "
                    "and dropout." + (" Label smoothing is a part of the loss." if smoothing else ""))
        measured_on = self.summary.get("held_out")
        return f"Held out: {measured_on}, measured after each epoch." if isinstance(measured_on, str) else ""

    def _classes(self):
        m = self.measured
        if m is None:
            return ""
        rows = [(name, f"{n:,}", *map(_percent, figures)) for name, n, *figures in m.rows()]
        total = ("mean", f"{len(m.labels):,}", *map(_percent, m.macro().values()))
        table = html_table(("class", "images", "precision", "recall", "F1"), rows, total)
        stack = " stack" if max(map(len, m.classes)) > _LONG_NAME else ""
        if len(rows) > _MOST_ROWS:
            table = f"<details><summary>All {len(rows)} classes</summary>{table}</details>"
        images = dict(zip(m.classes, m.per_class.support.tolist(), strict=True))
        errors = [(f"{true} → {said}", f"{n:,}", _percent(n / images[true]))
                  for true, said, n in m.confusions()[:_MOST_ERRORS]]

        def matrix():
            return plots.confusion_matrix(m.matrix, m.classes)
        return theme.section(
            "Classes",
            theme.cards(*self._figures("confusion_matrix", "Confusion matrix", matrix, [(matrix, _MATRIX)]),
                   f'<div class="card"><h3>Most frequent errors</h3>'
                   f'{html_table(("true → predicted", "images", "of the class"), errors)}</div>' if errors else "",
                   f'<div class="card{stack}">{table}</div>', self._mistakes(), *self._looks()))

    def _mistakes(self):
        """The worst mistakes, each with its words in the page's own type."""
        m, images = self.measured, self.dataset.images
        try:
            chosen, wrong = worst(m.labels, m.probabilities, _MOST_MISTAKES)
            if not wrong:
                return ""
            self._save("mistakes", plots.mistakes(images, m.labels, m.probabilities, m.classes, _MOST_MISTAKES))
            words = ["<br>".join(map(html, said(m.labels, m.probabilities, m.classes, i))) for i in chosen]
            tiles = "".join(f"<figure>{_image(images[i])}<figcaption>{text}</figcaption></figure>"
                            for i, text in zip(chosen, words, strict=True))
        except _ODD as error:
            self.missing.append(f"Worst mistakes: {error}")
            return ""
        which = f"The {len(chosen)} of {wrong:,} wrong images" if len(chosen) < wrong else "The wrong images, those"
        return (f'<div class="card wide"><h3>Worst mistakes</h3><p>{which} with the least probability for the true '
                f'class{"" if len(chosen) < wrong else " first"}.</p><div class="tiles">{tiles}</div></div>')

    def _looks(self):
        """Where the network looks, in wrong and right images: a card for each."""
        if self.model is None or not len(self.measured.labels):
            return []
        cards = []
        try:
            for name, which, words, shown in zip(
                    ("wrong", "right"), ("Where it looks when it is wrong", "Where it looks when it is right"),
                    ("The most confidently wrong images, with what speaks for the predicted class and what speaks for "
                     "the true one", "Right images of different classes, with what speaks for the class"),
                    explained.examples(self.model, self.dataset, self.measured, _MOST_EXPLAINED), strict=True):
                if not shown:
                    continue
                self._save(f"grad_cam_{name}", explained.figure(self.dataset, shown))
                tiles = "".join(
                    f'<figure><div class="row">{_image(self.dataset.images[one.number])}'
                    + "".join(_image(picture) for _, picture in one.maps)
                    + f'</div><figcaption>{", ".join(map(html, one.words))}</figcaption></figure>' for one in shown)
                kind = "rows" if name == "wrong" else "rows pairs"
                cards.append(f'<div class="card wide"><h3>{which}</h3><p>{words}, by Grad-CAM: nothing in violet, the '
                             f'most of the image in yellow.</p><div class="{kind}">{tiles}</div></div>')
        except _ODD as error:
            self.missing.append(f"Grad-CAM: {error}")
        return cards

    def _network(self):
        if self.model is None:
            return ""
        wants, cards = self.description["arguments"], []
        try:
            if wants["image_size"] > _LARGEST_SUMMARY:
                raise ValueError(f"the images are larger than {_LARGEST_SUMMARY} pixels a side")
            summary = self.model.summary((wants["in_channels"], wants["image_size"], wants["image_size"]))
            *rows, total = summary.cells()
            cards.append(f'<div class="card wide stack">{html_table(summary.HEADER, rows, total)}<p class="muted">'
                         "Multiply-adds and memory (of outputs) are those of one image, forward.</p></div>")
        except _ODD as error:
            cards.append(f'<p class="note">No table of layers: {html(error)}</p>')
        weights = next((p.data for name, p in self.model.named_parameters() if p.data.ndim == 4), None)
        if weights is not None:
            def draw():
                return plots.filters(weights)
            cards += self._figures("filters", "Filters of the first convolution", draw, [(draw, "")])
        if self.dataset is not None and len(self.dataset):
            image = self.dataset.images[0]
            maps = feature_maps(self.model, self.dataset.normalise(self.dataset.images[:1])[0])
            if maps:
                size = "×".join(map(str, image.shape))
                cards.append(f'<figure class="card">{_image(image, "one")}<figcaption><b>The first test image</b>, '
                             f"{size}. What the layers make of it follows, each in its own scale."
                             "</figcaption></figure>")
                cards += self._figures("feature_maps", "Feature maps", lambda: plots.feature_maps(image, maps), [
                    (lambda name=name, values=values: plots.feature_map(name, values), "") for name, values in maps])
        return theme.section("Network", theme.cards(*cards))

    def _settings(self):
        shown = {name: value for name, value in self.summary.items() if not isinstance(value, (dict, list))}
        made = {"made": datetime.now().astimezone().isoformat(" ", "seconds"), **runtime.describe()}
        tables = [html_table(header, list(values.items())) for header, values in (
            (("setting", "value"), shown), (("this page", "value"), made)) if values]
        toml = f"<h3>config.toml</h3><pre>{html(self.config)}</pre>" if self.config else ""
        inside = theme.cards(*(f'<div class="plain">{table}</div>' for table in tables))
        return f"<details><summary>Settings and versions</summary>{inside}{toml}</details>"

    def _figures(self, name, title, whole, parts):
        """Save the figure that `whole` returns as name.png in the run's folder; returns the cards of the page.

        parts: (draws a figure, what to say below its title) for each card.
        """
        try:
            self._save(name, whole())
            cards = []
            for i, (draw, words) in enumerate(parts):
                figure = draw()
                own = svg.title(figure)
                caption = f"<b>{html(own[:1].upper() + own[1:])}.</b> {html(words)}".strip()
                wide = " wide" if figure.get_figwidth() > 1.1 * plots.WIDTH else ""
                cards.append(f'<figure class="card{wide}">{svg.inline(figure, f"{name}{i}", f"{title}: {own}")}'
                             f"<figcaption>{caption}</figcaption></figure>")
            return cards
        except _ODD as error:
            self.missing.append(f"{title}: {error}")
            return []

    def _save(self, name, figure):
        files.write(self.run / f"{name}.png", plots.png(figure))


def feature_maps(model, image):
    """What the parts of a model make of one image (C, H, W), normalised: (name, array (channels, H, W)) pairs.

    Of neighbouring parts whose outputs have the same shape (a convolution and its activation) the last one; of
    more than three only the first and the last are named.
    """
    x = image[None].astype(model.dtype or image.dtype, copy=False)
    maps, names = [], []
    for name, part, y in observed(model, x):
        if not name or "." in name or y.ndim != 4:
            continue
        if maps and y.shape[1:] == maps[-1].shape:
            maps[-1], names[-1] = y[0], (name, [*names[-1][1], type(part).__name__])
        else:
            maps.append(y[0])
            names.append((name, [f"{name} {type(part).__name__}"]))
    names = [" + ".join(words) if len(words) <= 3 else f"{words[0]} … {last} {words[-1]}" for last, words in names]
    return list(zip(names, maps, strict=True))


# ------------------------------------------------------------------------------------------ parts


def _object(value):
    if not isinstance(value, dict):
        raise ValueError(f"it must hold a JSON object, not {type(value).__name__}")
    return value


def _step_lines(path, skipped):
    """(step, learning rate) of each line; a last line that was cut off does not count, damaged ones are `skipped`."""
    result = []
    for number, line in enumerate(files.read_text(path).split("\n")[:-1], 1):
        try:
            row = json.loads(line)
            step, rate = row["step"], float(row["lr"])
            if type(step) is not int or not 0 <= step < 2**53:
                raise ValueError("step must be a number from 0 to 2**53")
            result.append((step, rate))
        except _ODD as error:
            skipped.append(f"line {number}: {error}")
    return result


def _image(image, kind=""):
    """An image (C, H, W), of at most about _LARGEST_IMAGE pixels a side."""
    step = max(1, max(image.shape[1:]) // _LARGEST_IMAGE)
    data = base64.b64encode(image_png(image[:, ::step, ::step])).decode()
    return f'<img alt=""{f" class={kind}" if kind else ""} src="data:image/png;base64,{data}">'


def _percent(value):
    return "–" if math.isnan(value) else f"{value:.1%}"
