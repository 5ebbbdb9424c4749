"""What objects show of themselves in a notebook, and that none of it costs anything before."""

import io
import math
import sys
import types
from html.parser import HTMLParser

import numpy as np
import pytest
from cnn.history import History
from processes import run_python

import cnn
from cnn import text


class Tables(HTMLParser):
    """The texts of a table's cells, row by row."""

    def __init__(self, source):
        super().__init__()
        self.rows, self.tags = [], []
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip("\n")


def rows(thing):
    return Tables(thing._repr_html_()).rows


def small():
    return cnn.Sequential(cnn.Conv2d(1, 2, 3), cnn.Sequential(cnn.ReLU(), cnn.Flatten()), cnn.Linear(8, 3))


def test_tables_escape_what_is_in_them():
    table = text.html_table(("<a>", "b&"), [("  <script>", "\x1b[2J"), ("", 3)], ("total", '"'))
    assert Tables(table).rows == [["<a>", "b&"], ["\xa0\xa0<script>", "\\x1b[2J"], ["", "3"], ["total", '"']]
    assert "script" not in Tables(table).tags and 'data-label="b&amp;"' in table
    with pytest.raises(ValueError, match="zip"):
        text.html_table(("a", "b"), [("c",)])


def test_a_history_is_a_table():
    nan = math.nan
    history = History([{"epoch": 1, "lr": 0.05, "train_loss": 2.34567, "train_accuracy": 0.5, "val_loss": nan,
                        "val_accuracy": nan, "seconds": 1.234, "images_per_second": 12345.6}])
    assert rows(history) == [["epoch", "lr", "train loss", "train accuracy", "seconds", "images per second"],
                             ["1", "0.05", "2.346", "50.00%", "1.23", "12,346"]]
    assert rows(History()) == [[]]


def test_a_history_draws_itself():
    pytest.importorskip("matplotlib.figure", exc_type=ImportError)
    figure = History([{"epoch": 1, "train_loss": 2.0}, {"epoch": 2, "train_loss": 1.0}]).plot()
    assert figure.axes[0].lines[0].get_xydata().tolist() == [[1, 2], [2, 1]]


def test_a_model_is_a_table():
    assert rows(small()) == [
        ["layer", "arguments", "parameters"], ["Sequential", "", ""], ["0 Conv2d", "1, 2, kernel_size=(3, 3)", "20"],
        ["1 Sequential", "", ""], ["\xa0\xa01.0 ReLU", "", ""], ["\xa0\xa01.1 Flatten", "", ""],
        ["2 Linear", "8, 3", "27"], ["total", "", "47"]]


def test_a_summary_is_a_table():
    summary = small().summary((1, 4, 4))
    header, *body = rows(summary)
    assert header == list(summary.HEADER) and body[0] == ["0 Conv2d", "2×2×2", "20", "72", "32 B"]
    assert body[-1][2] == "47" and "47 parameters: 188 B; multiply-adds and memory" in summary._repr_html_()


# ------------------------------------------------------------------------------------------ data sets


def test_a_data_set_gives_images_with_their_labels(rng):
    images = rng.integers(0, 256, (5, 3, 4, 4), dtype=np.uint8)
    data = cnn.data.Dataset(images, [0, 1, 2, 1, 0])
    image, label = data[1]
    np.testing.assert_array_equal(image, images[1])
    assert label == 1 and type(label) is int and data[np.int8(-1)][1] == 0
    assert [k for _, k in data] == [0, 1, 2, 1, 0]
    for i in (5, -6):
        with pytest.raises(IndexError, match=f"Dataset: there are 5 images, got index {i}"):
            data[i]
    for i in (slice(2), 1.0, [1]):
        with pytest.raises(TypeError, match="Dataset: an index must be an integer, got .*; subset takes several"):
            data[i]


def test_a_data_set_shows_itself(rng):
    pytest.importorskip("matplotlib.figure", exc_type=ImportError)
    images = rng.integers(0, 256, (20, 1, 4, 4), dtype=np.uint8)
    data = cnn.data.Dataset(images, np.arange(20) % 3, ["cat", "$dog$", "a very long name of a class"])
    shown = [ax for ax in data.show().figure.axes if ax.images]
    assert [ax.get_title() for ax in shown] == (["cat", "$dog$", "a very long nam…"] * 6)[:16]
    np.testing.assert_allclose(shown[7].images[0].get_array(), images[7, 0] / 255)
    assert len([ax for ax in data.show(3).axes if ax.images]) == 3
    assert [t.get_text() for t in data.subset([]).show().texts] == ["no images"]
    with pytest.raises(ValueError, match="Dataset.show: count must be at least 1, not 0"):
        data.show(0)


# ------------------------------------------------------------------------------------------ progress


class Kernel(types.ModuleType):
    """IPython, as it is in a notebook's process."""

    def get_ipython(self):
        return types.SimpleNamespace(kernel=object(), config={})


@pytest.mark.parametrize(("notebook", "own_file", "shown"), [(True, False, True), (True, True, False),
                                                             (False, False, False)])
def test_a_notebook_has_a_progress_bar(monkeypatch, notebook, own_file, shown):
    bars = []

    class Bar:
        def __init__(self, **options):
            bars.append(options)

        def set_postfix_str(self, text, refresh):
            assert text.startswith("loss ")

        def refresh(self):
            pass

        close = refresh

    monkeypatch.setitem(sys.modules, "tqdm.auto", types.SimpleNamespace(tqdm=Bar))
    if notebook:
        monkeypatch.setitem(sys.modules, "IPython", Kernel("IPython"))
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    model = cnn.Sequential(cnn.Flatten(), cnn.Linear(4, 2))
    progress = cnn.callbacks.Progress(io.StringIO()) if own_file else cnn.callbacks.Progress()
    trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), lr=0.1), callbacks=[progress], progress=False)
    trainer.fit(cnn.data.Dataset(np.zeros((6, 1, 2, 2), np.uint8), np.arange(6) % 2), 2)
    assert len(bars) == (2 if shown else 0)
    assert all(bar["total"] == 6 and bar["file"] is None for bar in bars)   # None: where tqdm's notebook bar belongs
    assert sys.stderr.getvalue() == ""


def test_tables_load_nothing_heavy():
    code = """import sys, cnn
model = cnn.Sequential(cnn.Flatten(), cnn.Linear(4, 2))
for thing in (model, model.summary((1, 2, 2)), cnn.history.History()):
    thing._repr_html_()
cnn.data.load("mnist-sample")[1][0]
print({"matplotlib", "IPython", "tqdm", "PIL"} & set(sys.modules))"""
    assert run_python("-c", code).stdout.strip() == "set()"
