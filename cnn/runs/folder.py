"""The folder of a run, and the summary in it."""
import json
import time
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from cnn import files, ranks, runtime, shapes


def new_folder(dataset, model, parent="runs"):
    """Make and return the first folder runs/<dataset>-<model>-<n> that does not exist."""
    n = 1
    while True:
        folder = Path(parent, f"{dataset}-{model}-{n}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            n += 1


@contextmanager
def run_folder(out, settings):
    """The folder of a run, made before it starts and locked while it goes on; one that holds a run already is refused.

    One that nothing came to be in is removed again. Raises FileExistsError naming the folder.
    """
    made = ranks.leads() and out is None
    folder = Path(ranks.told(new_folder(settings.dataset, settings.model) if made else out))
    if not ranks.leads():
        yield folder
        return
    with files.locked(folder, make=True):
        for name in ("config.toml", "model.safetensors", "history.csv", "summary.json", "checkpoints"):
            if (folder / name).exists():
                raise FileExistsError(f"{folder} holds a run already ({name}); choose another folder, or --resume it")
        files.clean(folder)
        try:
            yield folder
        finally:
            if not any(folder.iterdir()):
                folder.rmdir()


def read_summary(path, say):
    """What a run has said of itself so far; {} where that cannot be read, which `say(text)` tells: it can be measured
    anew."""
    if not path.exists():
        return {}
    try:
        summary = json.loads(files.read_text(path))
        if not isinstance(summary, dict):
            raise ValueError(f"must hold a JSON object, not {type(summary).__name__}")
        if summary.get("complete"):
            shapes.number("complete", "test_accuracy", summary.get("test_accuracy"))
            shapes.integer("complete", "steps", summary.get("steps"), 0, 2**63 - 1)
        return summary
    except (OSError, ValueError, TypeError, RecursionError) as error:
        say(f"{path}: damaged, and made anew ({error})")
        return {}


def write_summary(folder, settings, start, **results):
    """Write summary.json, and return what is in it."""
    summary = {**asdict(settings), **results, "seconds": round(time.perf_counter() - start, 3),
               "threads": runtime.get_num_threads()}
    files.write(folder / "summary.json", (json.dumps(summary, indent=2) + "\n").encode())
    return summary
