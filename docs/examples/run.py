"""Runs the code of a page of this folder, in a folder for its pictures:

    python docs/examples/run.py segmentation --data-dir ~/mnist --out pictures
    python docs/examples/run.py segmentation --validate --set EPOCHS=4
    python docs/examples/run.py segmentation --set 'DATA="mnist-sample"' --set SCENES=200 --set EPOCHS=1
"""
import argparse
import contextlib
import io
import os
import re
import sys
import time
from pathlib import Path

# a block of code, and right below it, in a block of text, what it prints
BLOCK = re.compile(r"^```python\n(.*?)^```$(?:\n```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)


def changed(text, settings):
    """The page with other values of its settings, lines `NAME = value`, each of which is there once."""
    for name, value in settings.items():
        lines = re.findall(rf"^{name} = [^#\n]*", text, re.MULTILINE)
        if len(lines) != 1:
            raise ValueError(f"{name} must be set once on the page, got {len(lines)} times")
        text = text.replace(lines[0], f"{name} = {value}" + "    " * lines[0].endswith(" "))
    return text


def run(text, name="page", told=print):
    """Run all blocks of a page in one namespace: that, and what each block has printed. told(output) is called after
    each block."""
    namespace, outputs = {"__name__": "__main__"}, []
    for block in BLOCK.finditer(text):
        printed = io.StringIO()
        line = text.count("\n", 0, block.start(1))
        with contextlib.redirect_stdout(printed):
            exec(compile("\n" * line + block[1], name, "exec"), namespace)
        outputs.append(printed.getvalue())
        told(outputs[-1])
    return namespace, outputs


def written(text, outputs):
    """The page with these outputs in its blocks of text."""
    left = iter(outputs)

    def anew(block):
        output = next(left)
        return block[0] if block[2] is None else f"```python\n{block[1]}```\n```text\n{output.rstrip()}\n```"
    return BLOCK.sub(anew, text)


def main():
    parser = argparse.ArgumentParser(description="Run the code of a page of this folder.")
    parser.add_argument("page", choices=sorted(path.stem for path in Path(__file__).parent.glob("*.md")
                                               if path.stem != "index"))
    parser.add_argument("--data-dir", help="where the data set's files are; default: as cnn.data.load finds them")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder for the pictures; default: this one")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="another setting of the page")
    parser.add_argument("--validate", action="store_true", help="take a sixth of the training images for the test "
                        "images, to choose settings by")
    parser.add_argument("--write", action="store_true", help="write what is printed into the page")
    given = parser.parse_args()
    if given.data_dir:
        os.environ["CNN_DATA_DIR"] = str(Path(given.data_dir).resolve())
    path = Path(__file__).with_name(f"{given.page}.md").resolve()
    text = path.read_text()
    given.out.mkdir(parents=True, exist_ok=True)
    os.chdir(given.out)
    begun = time.perf_counter(), time.process_time()
    text = changed(text, dict(pair.split("=", 1) for pair in given.set))
    if given.validate:
        text = text.replace("cnn.data.load(DATA)", "cnn.data.load(DATA)[0].split(1 / 6, seed=0)")
    _, outputs = run(text, path.name,
                     lambda output: print(output, end="", flush=True))
    print(f"{time.perf_counter() - begun[0]:.0f} s, {time.process_time() - begun[1]:.0f} s of processors",
          file=sys.stderr)
    if given.write:
        path.write_text(written(path.read_text(), outputs))


if __name__ == "__main__":
    main()
