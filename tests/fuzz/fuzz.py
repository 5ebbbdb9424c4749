"""A coverage-guided fuzzer of one parser (CONTRIBUTING.md): needs `pip install atheris`.

    python tests/fuzz/fuzz.py PARSER [libFuzzer's options, e.g. -runs=1000000]
    python tests/fuzz/fuzz.py PARSER --coverage     how much of the parser the corpus reaches (`pip install coverage`)

It begins with the corpus in tests/fuzz/corpus/PARSER and adds what it finds to build/fuzz/PARSER; an input that breaks
the parser is written to build/fuzz/. Copy that to the corpus once the parser is mended.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOUND = HERE.parents[1] / "build" / "fuzz"
NAMES = ("idx", "npz", "cifar", "model", "checkpoint", "config", "onnx", "torch")


def fuzz(name, options):
    import atheris

    with atheris.instrument_imports(include=["cnn", "gzip", "zipfile", "tarfile", "pickle", "tomllib", "json"]):
        import parsers
    (FOUND / name).mkdir(parents=True, exist_ok=True)
    # the time by the clock is for endless loops only, because the machine may be busy: parsers.py measures
    limits = ["-timeout=120", "-rss_limit_mb=1024", "-max_len=8192"]
    folders = [str(FOUND / name), str(HERE / "corpus" / name)]
    with parsers.folder() as folder, parsers.limited_memory():
        atheris.Setup([sys.argv[0], *folders, *limits, f"-artifact_prefix={FOUND}/{name}-", *options],
                      lambda data: parsers.parse(name, data, folder))  # fmt: skip
        atheris.Fuzz()


def coverage(name):
    """Print the share of the parser's lines that the corpus reaches, and the lines that it does not."""
    import ast
    import importlib

    from coverage import Coverage

    cover = Coverage(data_file=None, source_pkgs=["cnn"])
    cover.start()
    import parsers

    for path in sorted((HERE / "corpus" / name).iterdir()):
        with parsers.folder() as folder:
            try:
                parsers.parse(name, path.read_bytes(), folder)
            except parsers.Finding as finding:
                print(f"{path}: {finding}")
    cover.stop()
    total = missing = 0
    for place in parsers.LINES[name]:
        module, _, functions = place.partition(":")
        file = importlib.import_module(module).__file__
        tree = ast.parse(Path(file).read_text())
        nodes = [node for node in tree.body if not functions or getattr(node, "name", None) in functions.split(",")]
        wanted = {line for node in nodes for line in range(node.lineno, node.end_lineno + 1)}
        _, lines, _, without, _ = cover.analysis2(file)
        total += len(wanted & set(lines))
        missing += len(wanted & set(without))
        print(f"{file}: not reached: {', '.join(map(str, sorted(wanted & set(without)))) or 'none'}")
    print(f"{name}: {1 - missing / total:.1%} of {total} lines")
    if missing > 0.1 * total:
        sys.exit(f"{name}: the corpus must reach 90 % of the parser's lines")


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in NAMES:
        sys.exit(__doc__)
    if sys.argv[2:] == ["--coverage"]:
        coverage(sys.argv[1])
    else:
        fuzz(sys.argv[1], sys.argv[2:])
