"""The page that a model becomes: what its script computes, in Node.js and in a browser, is what the model computes."""

import base64
import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from cases import CASES
from html_page import Page

import cnn
from cnn.commands import export as command
from cnn.export.page_writing import TABLE, described, page
from cnn.layers.running import graph_of
from cnn.training import checkpoint

SCRIPT = Path(command.__file__).parents[1] / "export/page_network.js"
node = pytest.mark.skipif(not shutil.which("node"), reason="Node.js is missing")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
browser = pytest.mark.skipif(not BROWSER, reason="Chromium is missing")


def computed(models, tmp_path):
    """What Node.js computes of (graph, x) pairs: the last value of each, one image."""
    told = []
    for graph, x in models:
        steps, weights, _ = described(graph)
        told.append({"shape": graph.inputs[0].image, "steps": steps, "weights": base64.b64encode(weights).decode(),
                     "x": x.astype(np.float64).ravel().tolist()})
    path = tmp_path / "run.js"
    path.write_text(SCRIPT.read_text("utf-8") + f"""
const told = {json.dumps(told)};
console.log(JSON.stringify(told.map(one => Array.from(
  network(one, one.weights)(Float32Array.from(one.x)).at(-1).data))));""", "utf-8")
    done = subprocess.run(["node", path], capture_output=True, text=True, timeout=100, check=True)
    return [np.array(values, dtype=float) for values in json.loads(done.stdout)]


@node
def test_every_operation_computes_the_same(tmp_path):
    rng, models, wanted, names = np.random.default_rng(0), [], [], []
    for case in CASES:
        if not case.shape or 0 in case.shape or case.layer.startswith("Dropout"):
            continue
        model = case.make(np.float32).eval()
        graph = graph_of(model, [case.shape])
        unknown = {each.operation.name for each in graph} - set(TABLE)
        assert not unknown & {"conv2d", "linear", "batch_norm", "max_pool2d", "avg_pool2d", "relu", "add", "cat"}
        if unknown:
            with pytest.raises(ValueError, match="export.page: module .* a page cannot compute"):
                described(graph)
            continue
        for _ in range(2):
            x = rng.standard_normal(case.shape).astype(np.float32)
            models.append((graph, x))
            wanted.append(np.ravel(model(x[None])[0]))
            names.append(str(case))
    assert len(models) > 150
    for name, got, right in zip(names, computed(models, tmp_path), wanted, strict=True):
        assert np.abs(got - right).max() <= 2e-6 * max(1, np.abs(right).max()), name


class Several(cnn.Module):
    """Operations that no layer has."""

    def forward(self, x):
        F = cnn.functional
        y = F.where(x > 0.3, F.maximum(x, -2 * x), F.minimum(x, x * x) - 1)
        y = y + (x >= 0) * x - (x == x.amax(3, keepdim=True)) / 2 + (x != x.amin((1, 2), keepdim=True))
        y = cnn.cat([F.softmax(y, 2), y[:, :, ::2, :] ** 3, F.log(F.sqrt(F.abs(y) + 1)), F.clamp(F.exp(y), max=2.0)], 2)
        return cnn.cat([y.mean(2), F.log_softmax(y, 3).sum(2), F.clamp(y[:, 1:, 1, :], min=-1.0).flatten()[:, :4]
                        .reshape((-1, 2, 2)).mean(2, keepdim=True).mean((1, 2), keepdim=True) + y.mean(2)], 1)


@node
def test_operations_that_no_layer_has(tmp_path):
    model, shape = Several(), (3, 4, 5)
    graph = graph_of(model, [shape])
    x = np.random.default_rng(3).standard_normal((5, *shape)).astype(np.float32)
    found = computed([(graph, image) for image in x], tmp_path)
    assert np.abs(np.reshape(found, (5, -1)) - model(x).reshape(5, -1)).max() <= 2e-6 * np.abs(model(x)).max()


@node
def test_axes_in_another_order_compute_the_same(tmp_path):
    class Turned(cnn.Module):
        def forward(self, x):
            return x.permute(0, 3, 1, 2)[:, 1].transpose(1, 2)

    x = np.random.default_rng(4).standard_normal((2, 3, 4)).astype(np.float32)
    got, = computed([(graph_of(Turned().eval(), [x.shape]), x)], tmp_path)
    assert np.array_equal(got.reshape(3, 2), x[:, :, 1].T)


@node
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4)])
def test_products_of_matrices(shape, tmp_path):
    class Product(cnn.Module):
        def forward(self, x):
            return x.transpose(-1, -2) @ x @ x.transpose(-1, -2)[..., :2]

    x = np.random.default_rng(4).standard_normal(shape).astype(np.float32)
    got, = computed([(graph_of(Product().eval(), [x.shape]), x)], tmp_path)
    turned = x.swapaxes(-1, -2)
    wanted = turned @ x @ turned[..., :2]
    assert np.abs(got - wanted.ravel()).max() <= 2e-6 * np.abs(wanted).max()


@node
@pytest.mark.parametrize("name", [
    name if name in ("lenet5", "resnet20", "mobilenet_small") else pytest.param(name, marks=pytest.mark.thorough)
    for name in cnn.models.MODELS])
def test_models_compute_the_same(name, tmp_path):
    rng, shape = np.random.default_rng(1), (1, 28, 28) if name == "lenet5" else (3, 32, 32)
    model = cnn.models.MODELS[name](seed=2)
    for _, array in model.named_buffers():
        if array.dtype.kind == "f":
            array[...] = rng.uniform(0.5, 2, array.shape)
    model.eval()
    x = rng.standard_normal(shape).astype(np.float32)
    got, = computed([(graph_of(model, [shape]), x)], tmp_path)
    right = model(x[None])[0]
    assert np.abs(got - right).max() <= 1e-4 * np.abs(right).max()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A page with examples, its model, data and path; not to be changed."""
    train, test = cnn.data.load("mnist-sample")
    model = cnn.models.lenet5(seed=0)
    cnn.Trainer(model, cnn.Adam(model.parameters(), lr=2e-3), progress=False).fit(train, 1, batch_size=64)
    path = tmp_path_factory.mktemp("page") / "digits.html"
    page(model.eval(), path, (1, 28, 28), mean=train.mean, std=train.std, title="Which <digit> & why?",
         classes=["</script>", *map(str, range(1, 10))], examples=test.images[:12])
    return path, model, test


def shown(path, tmp_path, script, *options):
    """What a script in the page puts into `told`."""
    source = path.read_text("utf-8")
    policy = re.search(r'<meta http-equiv="Content-Security-Policy"[^>]*>', source).group()
    changed = tmp_path / "changed.html"     # the page's policy lets no other script run
    changed.write_text(source.replace(policy, "") + f"<pre id=told></pre><script>{script}</script>", "utf-8")
    done = subprocess.run([BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000",
                           f"--user-data-dir={tmp_path / 'profile'}", *options, "--dump-dom", changed.as_uri()],
                          capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return json.loads(html.unescape(re.search(r'<pre id="told">(.*?)</pre>', done.stdout, re.S).group(1)))


@pytest.mark.thorough
@browser
def test_a_browser_gives_the_scores_of_python(trained, tmp_path):
    path, model, test = trained
    script = f"""
const pixels = Uint8Array.from(atob("{base64.b64encode(test.images[:100].tobytes()).decode()}"), c => c.charCodeAt(0));
const scores = [];
for (let i = 0; i < 100; i++) {{
  const rgba = new Uint8ClampedArray(4 * 784).map((_, p) => p % 4 === 3 ? 255 : pixels[784 * i + (p >> 2)]);
  scores.push(Array.from(run(normalised(model, rgba)).at(-1).data));
}}
at("told").textContent = JSON.stringify(scores);"""
    got, right = np.array(shown(path, tmp_path, script)), model(test.normalise(test.images[:100]))
    assert np.abs(got - right).max() <= 1e-4 * np.abs(right).max()


@pytest.mark.thorough
@browser
def test_drawing_examples_and_keys(trained, tmp_path):
    """An example is classified as the model does; a stroke by keys is the same as by hand; all has a name to read."""
    path, model, test = trained
    labels = model(test.normalise(test.images[:12])).argmax(1)
    script = """
const told = {found: []};
const best = () => document.querySelector("li.first span").textContent;
const press = key => board.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
(async () => {
  for (const button of document.querySelectorAll(".example")) { button.click(); compute(); told.found.push(best()); }
  at("draw").click();
  press(" "); for (let i = 0; i < 9; i++) press("ArrowDown"); press(" ");
  compute(); told.keys = Array.from(look()); told.stroke = best();
  clear();
  line([224, 224], [224, 368]);
  told.hand = Array.from(look());
  press("Delete"); compute();
  told.empty = look().every((value, i) => i % 4 === 3 || value === 0) && document.querySelector("li.first") === null;
  told.wide = document.scrollingElement.scrollWidth - innerWidth;
  told.nameless = [...document.querySelectorAll("canvas:not(button canvas), button")].filter(
    one => !one.getAttribute("aria-label") && !one.textContent.trim()).length;
  told.label = board.getAttribute("aria-label");
  at("told").textContent = JSON.stringify(told);
})();"""
    told = shown(path, tmp_path, script, "--window-size=500,900")       # as narrow as a window gets
    assert told["found"] == [["</script>", *map(str, range(1, 10))][label] for label in labels]
    assert np.abs(np.subtract(told["keys"], told["hand"])).max() <= 8       # many short lines, or one
    assert max(told["keys"][::4]) == 255 and told["stroke"] == "1"
    assert told["empty"] and told["wide"] <= 0 and told["nameless"] == 0 and told["label"] == "Board to draw on"


def test_the_page_is_small_and_reaches_nothing(trained):
    path, _, _ = trained
    found = Page(path)
    assert path.stat().st_size <= 700_000
    assert "default-src 'none'" in found.source and not re.search(r"https?:", found.source)
    assert [value for name, value in found.attributes if name in ("src", "href")] == ["data:,"]
    assert found.source.count("</script>") == 3 and "<h1>Which &lt;digit&gt; &amp; why?</h1>" in found.source


def test_the_command_writes_a_page_beside_the_model(tmp_path):
    checkpoint.save_model(tmp_path / "model.safetensors", cnn.models.lenet5(seed=0), {
        "model": "lenet5", "arguments": {"num_classes": 10, "in_channels": 1, "image_size": 28},
        "classes": list("abcdefghij"), "mean": [0.1], "std": [0.3]})
    command.main([str(tmp_path / "model.safetensors"), "--to", "html"])
    source = (tmp_path / "model.html").read_text("utf-8")
    assert '"classes": ["a", "b"' in source and '"mean": [0.1]' in source
    weights = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(SystemExit):
        command.main([str(tmp_path), "--to", "html", "--out", str(tmp_path / "model.safetensors")])
    assert (tmp_path / "model.safetensors").read_bytes() == weights


class Square(cnn.Layer):
    def forward(self, x):
        return x * x

    def backward(self, dy):
        return dy


@pytest.mark.parametrize(("model", "shape", "options", "words"), [
    (lambda: cnn.models.lenet5(), (28, 28), {}, "shape must be"),
    (lambda: cnn.models.lenet5(), (2, 28, 28), {}, r"shape must be \(1 or 3, height, width\), got \(2, 28, 28\)"),
    (lambda: cnn.models.lenet5(), (1, 28, 28), {"classes": ["a"]}, "classes must have 10 names"),
    (lambda: cnn.models.lenet5(), (1, 28, 28), {"mean": [0.1, 0.2]}, "mean must have 1 numbers"),
    (lambda: cnn.models.lenet5(), (1, 28, 28), {"std": [0]}, "std must be"),
    (lambda: cnn.models.lenet5(), (1, 28, 28), {"pixels": "float32"}, 'pixels must be "uint8"'),
    (lambda: cnn.models.lenet5(), (1, 28, 28), {"examples": np.zeros((1, 28, 28), np.uint8)}, "examples must be a"),
    (lambda: cnn.Conv2d(1, 2, 3), (1, 8, 8), {}, r"one output, \(N, classes\), got \(N, 2, 6, 6\)"),
    (lambda: cnn.Sequential(cnn.Flatten(), Square()), (1, 2, 2), {}, "a page cannot compute"),
])
def test_what_a_page_cannot_be_is_refused(model, shape, options, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        page(model(), tmp_path / "x.html", shape, **options)
    assert not (tmp_path / "x.html").exists()
