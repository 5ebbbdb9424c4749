"""A run as one HTML page with its pictures in it, that opens without a network."""
import base64
import html
import json
import math
from datetime import datetime
from pathlib import Path

import numpy as np

from cnn import files, plots, runtime, streams
from cnn.layers.running import observed
from cnn.reports import evaluation
from cnn.training import checkpoint
from cnn.training.history import History

_LARGEST_SUMMARY = 512      # pixels a side of an image that is passed through the network only to make a table
# what odd values in a run's files can raise on their way into a table or a picture
_ODD = OSError, ValueError, TypeError, LookupError, ArithmeticError, RecursionError, MemoryError

# the page may show what is inside it, and nothing else: no script, nothing from anywhere
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; }
th, td { padding: 0.15rem 0.8rem 0.15rem 0; text-align: right; border-bottom: 1px solid #eee; }
th { font-weight: 600; } th:first-child, td:first-child { text-align: left; white-space: pre; }
tr.total { font-weight: 600; } figure { margin: 1rem 0; } img { max-width: 100%; height: auto; }
figcaption { color: #555; font-size: 0.9rem; } pre { background: #f6f6f6; padding: 0.8rem; overflow-x: auto; }
.big { font-size: 1.2rem; } .note { color: #8a3b00; } .columns { display: flex; flex-wrap: wrap; gap: 0 3rem; }
@media print { h2 { break-after: avoid; } figure, table { break-inside: avoid; } }
"""


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
        self.model = self.description = self.measured = self.dataset = None

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
            try:
                self.dataset = evaluation.load_data(self.description, data_dir=data_dir)
                self.measured = evaluation.evaluate(self.model, self.dataset, f"{self.dataset.name}, test images",
                                                    self.description.get("tta"))
            except (ImportError, *_ODD) as error:
                self.missing.append(f"the test images: {error}")
        return any((self.run / name).is_file() for name in self.FILES)

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
        title = _text(f"Run {self.run.resolve().name}")
        headline, *parts = self._headline(), self._training(), self._classes(), self._network(), self._settings()
        missing = "".join(f'<p class="note">Not shown: {_text(reason)}</p>' for reason in self.missing)
        parts = [headline, missing, *parts]
        return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
                f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
                f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n'
                f"<body><h1>{title}</h1>\n" + "\n".join(filter(None, parts)) + "\n</body></html>\n")

    def _headline(self):
        stopped = self.summary.get("stopped")
        note = f'<p class="note">Stopped: {_text(stopped)}.</p>' if isinstance(stopped, str) else ""
        return note + self._result()

    def _result(self):
        if self.measured is not None:
            return f'<p class="big">{_text(self.measured.name)}: {_text(self.measured.headline())}.</p>'
        accuracy = self.summary.get("test_accuracy")
        if isinstance(accuracy, float) and math.isfinite(accuracy):
            return f'<p class="big">Accuracy {accuracy:.2%}, as the run measured it.</p>'
        return ""

    def _training(self):
        parts = []
        if self.history:
            caption = "Training figures are means over an epoch, each batch measured before its step."
            parts.append(self._picture("curves", lambda: plots.curves(self.history), "Loss and accuracy by epoch",
                                       caption))
        rates = self.steps or [(row["epoch"], row["lr"]) for row in self.history or () if "lr" in row]
        if rates:
            def draw():
                return plots.learning_rate([lr for _, lr in rates], "step" if self.steps else "epoch",
                                           [at for at, _ in rates])
            parts.append(self._picture("learning_rate", draw, "Learning rate"))
        return _section("Training", *parts)

    def _classes(self):
        m = self.measured
        if m is None:
            return ""
        rows = [(name, f"{n:,}", *map(_percent, figures)) for name, n, *figures in m.rows()]
        total = ("mean of the classes", f"{len(m.labels):,}", *map(_percent, m.macro().values()))
        return _section(
            "Classes", _table(("class", "images", "precision", "recall", "F1"), rows, total),
            self._picture("confusion_matrix", lambda: plots.confusion_matrix(m.matrix, m.classes), "Confusion matrix",
                          "How many images of each class (row) were taken for which (column)."),
            self._picture("mistakes",
                          lambda: plots.mistakes(self.dataset.images, m.labels, m.probabilities, m.classes),
                          "Worst mistakes", "Where the true class got the least probability."))

    def _network(self):
        if self.model is None:
            return ""
        wants = self.description["arguments"]
        parts = []
        try:
            if wants["image_size"] > _LARGEST_SUMMARY:
                raise ValueError(f"the images are larger than {_LARGEST_SUMMARY} pixels a side")
            summary = self.model.summary((wants["in_channels"], wants["image_size"], wants["image_size"]))
            *rows, total = summary.cells()
            parts.append(_table(summary.HEADER, rows, total) + "<p>Multiply-adds and memory (of outputs) are those of "
                                                               "one image, forward.</p>")
        except _ODD as error:
            parts.append(f'<p class="note">No table of layers: {_text(error)}</p>')
        weights = next((p.data for name, p in self.model.named_parameters() if p.data.ndim == 4), None)
        if weights is not None:
            parts.append(self._picture("filters", lambda: plots.filters(weights),
                                       "Filters of the first convolution"))
        if self.dataset is not None and len(self.dataset):
            maps = feature_maps(self.model, self.dataset.normalise(self.dataset.images[:1])[0])
            if maps:
                parts.append(self._picture("feature_maps", lambda: plots.feature_maps(self.dataset.images[0], maps),
                                           "Feature maps", "What the layers make of the first test image."))
        return _section("Network", *parts)

    def _settings(self):
        shown = {name: value for name, value in self.summary.items() if not isinstance(value, (dict, list))}
        settings = _table(("setting", "value"), [(name, str(value)) for name, value in shown.items()]) if shown else ""
        made = {"made": datetime.now().astimezone().isoformat(" ", "seconds"), **runtime.describe()}
        tables = f'<div class="columns">{settings}{_table(("this page", ""), list(made.items()))}</div>'
        toml = f"<h3>config.toml</h3><pre>{_text(self.config)}</pre>" if self.config else ""
        return _section("Configuration", tables, toml)

    def _picture(self, name, draw, title, caption=""):
        """Save the figure that `draw` returns as name.png in the run's folder; returns the HTML that has it inside."""
        try:
            content = plots.png(draw())
        except _ODD as error:
            self.missing.append(f"{title}: {error}")
            return ""
        files.write(self.run / f"{name}.png", content)
        data = base64.b64encode(content).decode()
        return (f'<figure><img alt="{_text(title)}" src="data:image/png;base64,{data}">'
                f"<figcaption><b>{_text(title)}.</b> {_text(caption)}</figcaption></figure>")


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


def _section(title, *parts):
    parts = [part for part in parts if part]
    return f"<h2>{_text(title)}</h2>\n" + "\n".join(parts) if parts else ""


def _table(header, rows, total=None):
    def cells(row, tag):
        return "".join(f"<{tag}>{_text(cell)}</{tag}>" for cell in row)
    body = "".join(f"<tr>{cells(row, 'td')}</tr>\n" for row in rows)
    last = f'<tr class="total">{cells(total, "td")}</tr>\n' if total else ""
    return f"<table>\n<thead><tr>{cells(header, 'th')}</tr></thead>\n<tbody>{body}{last}</tbody></table>"


def _percent(value):
    return "–" if math.isnan(value) else f"{value:.2%}"


def _text(value):
    return html.escape(streams.escaped(value))
