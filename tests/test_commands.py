"""The command `cnn` and the files in scripts/: the same code under two names."""

import dataclasses
import importlib
import json
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from processes import run_python

import cnn
from cnn.commands import COMMANDS, Parser, main
from cnn.runs.settings import Settings, read_settings

ROOT = Path(__file__).parents[1]


def ends(code, *arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == code


def test_help_names_every_command_and_imports_none(capsys):
    code = """
        import sys
        from cnn.commands import main
        try:
            main(["--help"])
        finally:
            print([name for name in sys.modules if name.startswith("cnn.commands.") or name == "cnn.runs.run"])
    """
    said = run_python("-c", code).stdout
    assert said.endswith("\n[]\n") and all(f"\n  {name} " in said for name in COMMANDS)


def test_version(capsys):
    ends(0, "--version")
    assert capsys.readouterr().out == f"cnn {cnn.__version__}\n"
    assert f'\nversion = "{cnn.__version__}"\n' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize(("arguments", "words"), [
    ([], "COMMAND"), (["fly"], "invalid choice: 'fly'"), (["--fly"], "COMMAND"), (["", "train"], "invalid choice: ''"),
])
def test_wrong_commands(capsys, arguments, words):
    ends(2, *arguments)
    said = capsys.readouterr().err
    assert words in said and said.startswith("usage: cnn ")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_help_and_its_errors(capsys, command):
    ends(0, command, "--help")
    assert capsys.readouterr().out.startswith(f"usage: cnn {command} ")
    ends(2, command, "--no-such-option")
    assert f"cnn {command}: error: " in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_argument_has_its_help(command, monkeypatch):
    class Made(Exception):
        pass

    def stop(parser, arguments):
        raise Made(parser)

    monkeypatch.setattr(Parser, "parse_args", stop)
    with pytest.raises(Made) as caught:
        importlib.import_module(f"cnn.commands.{command}").main([])
    for action in caught.value.args[0]._actions:
        assert action.help, action.dest
        assert action.nargs == 0 or action.choices or action.metavar, f"{action.dest}: what stands for its value?"


def test_the_help_of_train_has_the_most_used_on_top_and_each_option_once(capsys):
    ends(0, "train", "--help")
    said = capsys.readouterr().out
    groups = dict(re.findall(r"^([a-z ]+):\n((?:  .*\n)+)", said, re.MULTILINE))
    options = {title: re.findall(r"^  (?:-h, )?(--[\w-]+)", text, re.MULTILINE) for title, text in groups.items()}
    assert list(options)[0] == "most used" and len(options["most used"]) == 10
    assert {"--dataset", "--model", "--epochs", "--lr", "--out", "--resume"} <= set(options["most used"])
    settings = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(Settings)}
    listed = [name for names in options.values() for name in names]
    assert settings <= set(listed) and len(listed) == len(set(listed))
    assert "other settings" not in options, "a setting belongs to a subject: cnn/commands/train.py"


@pytest.mark.parametrize(("option", "words"), [
    ("--patience", "default: 0 (off)"), ("--max-grad-norm", "default: 0 (off)"), ("--tta", "default: none (off)"),
    ("--shift", "default by data set: 2 (0 is off)"), ("--epochs", "default by data set: 30"),
    ("--batch-size", "default: 64"), ("--report", "default: off"), ("--decay-biases", "default: on"),
])
def test_the_help_of_train_says_the_defaults(capsys, option, words):
    ends(0, "train", "--help")
    said = capsys.readouterr().out
    paragraph = re.search(rf"^  {option}\b.*\n(?:    +.*\n)*", said, re.MULTILINE)[0]
    assert " ".join(paragraph.split()).endswith(words)


@pytest.mark.parametrize("path", sorted(ROOT.glob("scripts/*.py")), ids=lambda path: path.name)
def test_scripts_are_the_commands(capsys, monkeypatch, path):
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(path), run_name="__main__")
    assert caught.value.code == 0
    by_script = capsys.readouterr().out
    ends(0, path.stem, "--help")
    by_command = capsys.readouterr().out

    def options(said):  # lines break elsewhere after a longer name
        return re.findall(r"--?[\w-]+", said)

    assert by_script.startswith(f"usage: {path.name} ") and options(by_script) == options(by_command)


def test_as_a_module():
    found = run_python("-m", "cnn", "config")
    assert found.returncode == 0 and f"cnn            {cnn.__version__}\n" in found.stdout
    assert run_python("-m", "cnn").returncode == 2


def test_all_packages_are_installed():
    """What pyproject.toml lists is what there is, and the command is in it."""
    text = (ROOT / "pyproject.toml").read_text()
    listed = re.search(r"^packages = \[(.*?)\]", text, re.MULTILINE | re.DOTALL)[1]
    there = {".".join(path.parent.relative_to(ROOT).parts) for path in ROOT.glob("cnn/**/__init__.py")}
    assert set(re.findall(r'"(.+?)"', listed)) == there
    assert '[project.scripts]\ncnn = "cnn.commands:main"\n' in text


def test_train_on_own_data_and_predict(tmp_path, capsys, monkeypatch):
    """Bright and dark pictures are told apart, by name; what is broken is named, and nothing else is said of it."""
    image = pytest.importorskip("PIL.Image")
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, low in (("dark days", 0), ("bright nights", 128)):
        (tmp_path / "sky" / name).mkdir(parents=True)
        for i in range(20):
            pixels = rng.integers(low, low + 128, (18, 30, 3), np.uint8)
            image.fromarray(pixels).save(tmp_path / "sky" / name / f"{i}.png")
    (tmp_path / "sky" / "dark days" / "broken.png").write_bytes(b"hello")
    options = "--image-size 16 --epochs 8 --batch-size 16 --seed 3 --shift 0"
    main(["train", "--dataset", "sky", *options.split()])
    said = capsys.readouterr()
    assert "32 training, 8 test images of 3x16x16" in said.out and "100.00%" in said.out
    assert said.err.startswith("warning: sky: left out 1 file(s) that can't be read:\n  sky/dark days/broken.png: ")
    assert "own.py" not in said.err
    model, description = cnn.load_model("runs/sky-cifar_net-1")
    assert description["classes"] == ["bright nights", "dark days"]
    assert description["arguments"] == {"in_channels": 3, "num_classes": 2, "image_size": 16, "channels": [32, 64, 64]}
    for number, name in enumerate(description["classes"]):
        image.open(tmp_path / "sky" / name / "0.png").save(f"{number}.png")
        main(["predict", "runs/sky-cifar_net-1", f"{number}.png"])
        assert name in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "words"), [
    ("--dataset nowhere", "name must be one of mnist-sample, mnist, "),
    ("--dataset ./nowhere", "nowhere: there is no such folder"),
    ("--dataset .", "a sub-folder of pictures for each of two classes"),
    ("--dataset small.npz --model lenet5", "lenet5: image_size must be an integer of at least 16, got 8"),
    ("--dataset wide.npz", "square images, those of wide.npz are 20x24"),
    ("--dataset small.npz --image-size 9", "image_size 9"),
])
def test_data_that_no_run_can_use(tmp_path, capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    for name, size in (("small", (8, 8)), ("wide", (20, 24))):
        images = np.arange(12 * size[0] * size[1]).reshape(12, *size).astype(np.uint8)
        np.savez(f"{name}.npz", images=images, labels=np.arange(12) % 2)
    ends(1, "train", *arguments.split())
    said = capsys.readouterr().err
    assert said.startswith("cnn train: ") and words in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.thorough
@pytest.mark.parametrize("options, wanted", [
    (["--no-torch", "--batch", "20"], {"batch": 20, "threads": 2}),
    (["--scaling", "--batch", "20"], {"batch": 20, "rounds": 2}),
    (["--inference", "--no-torch", "--batch", "20"], {"threads": 2}),
    (["--kernels", "--batch", "20"], {"batch": 20}),
    (["--busy", "1", "--batch", "20"], {"busy": 1, "rounds": 2}),
    (["--ranks", "1,2", "--batch", "40", "--latency", "5", "--bandwidth", "8"],
     {"batch": 40, "latency_seconds": 5e-6, "bytes_per_second": 1e9}),
])
def test_bench_prints_and_writes_its_figures(options, wanted, tmp_path, capsys, set_threads):
    set_threads(2)
    main(["bench", *options, "--rounds", "2", "--seconds", "0.001", "--json", str(tmp_path / "figures.json")])
    said, figures = capsys.readouterr().out, json.loads((tmp_path / "figures.json").read_text())
    assert "lenet5" in said
    if "--inference" in options:
        assert set(figures["1"]["microseconds"]) == set(figures["20"]["microseconds"]) == {"compiled", "model(x)"}
    assert figures == {**figures, "net": "lenet5", **wanted}
    if "--scaling" in options:
        rates = figures["images_per_second"]
        assert list(rates) == ["1", "2"] and cnn.get_num_threads() == 2
        assert figures["ratio"]["low"] <= figures["ratio"]["median"] <= figures["ratio"]["high"]
        assert all(0 < rate["low"] <= rate["median"] <= rate["high"] for rate in rates.values())


@pytest.mark.thorough
def test_bench_of_several_batch_sizes(tmp_path):
    main(["bench", "--no-torch", "--batch", "3,20", "--rounds", "1", "--seconds", "0.001", "--json",
          str(tmp_path / "figures.json")])
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [row["batch"] for row in figures["batches"]] == [3, 20]


def test_bench_refuses_what_it_cannot_time(capsys):
    for wrong in ("0", "1,0", "a", "3,"):
        ends(2, "bench", "--batch", wrong)
        assert f"with commas between them, got {wrong!r}" in capsys.readouterr().err
    ends(1, "bench", "--rounds", "0")
    assert "--rounds must be at least 1, got 0" in capsys.readouterr().err
    ends(1, "bench", "--ranks", "2", "--bandwidth", "0")
    assert "--bandwidth must be a finite number above 0, got 0" in capsys.readouterr().err
    ends(1, "bench", "--busy", "-1")
    assert "--busy must be at least 1, got -1" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "words"), [
    ("train --epoks 3", "unrecognized arguments: --epoks 3; did you mean --epochs?"),
    ("train --epochs x", "argument --epochs: invalid int value: 'x'"),
    ("train --out ~no.such.user/x", "~no.such.user/x: there is no user 'no.such.user'"),
    ("evaluate ~no.such.user", "~no.such.user: there is no user 'no.such.user'"),
    ("train --resume a --out b", "--resume and --out"),
])
def test_errors_of_usage_are_one_line_and_a_hint(capsys, arguments, words):
    ends(2, *arguments.split())
    command = arguments.split()[0]
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith(f"cnn {command}: error: ") and words in error
    assert hint == f"(see cnn {command} --help)"


@pytest.mark.parametrize(("arguments", "words"), [
    ("train --threads 5000", "--threads must be a whole number from 1 to 1024, got 5000"),
    ("train --lr nan", "lr must be a finite number of at least 0, got nan"),
    ("train --config nowhere", "nowhere: there is no such configuration"),
    ("train --resume nowhere", "nowhere: there is no such folder"),
    ("train --resume file", "file: a run is resumed by its folder, this is a file"),
    ("train --out file", "file: must be a folder, but there is a file of that name"),
    ("evaluate file", "file: not a readable safetensors file ("),
    ("evaluate nowhere --json no/where", "[Errno 2] could not write: No such file or directory: 'no/where'"),
    ("bench --json no/where", "[Errno 2] could not write: No such file or directory: 'no/where'"),
    ("bench --seconds nan", "--seconds must be a finite number above 0, got nan"),
    ("report file", "file: a report is made of a run's folder, this is a file"),
])
def test_errors_are_one_line(tmp_path, capsys, monkeypatch, arguments, words):
    """Before anything is computed, and without the command's name twice."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    ends(1, *arguments.split())
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"cnn {arguments.split()[0]}: {words}")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["CNN_NUM_THREADS", "CNN_WINOGRAD"])
def test_a_wrong_environment_is_named_in_one_line(name):
    for command in (("config",), ("evaluate", "nowhere")):
        result = run_python("-m", "cnn", *command, **{name: "abc"})
        assert result.returncode == 1 and len(result.stderr.splitlines()) == 1
        assert result.stderr.startswith(f"cnn {command[0]}: {name} must be ") and "'abc'" in result.stderr


def test_marks_and_line_ends_of_windows(tmp_path):
    text = "epochs = 1\r\nlr = 0.01\r\n"
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / "c.toml").write_bytes(text.encode(encoding))
        assert read_settings(tmp_path / "c.toml") == {"epochs": 1, "lr": 0.01}
    (tmp_path / "c.toml").write_bytes(text.encode("utf-16"))
    with pytest.raises(ValueError, match="c.toml: must be UTF-8 text, this is UTF-16"):
        read_settings(tmp_path / "c.toml")
