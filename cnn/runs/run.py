"""A training run from settings to files: what `scripts/train.py` does once it has read its arguments."""
import math
import time
from dataclasses import replace
from pathlib import Path

from cnn import data, files, plots, ranks, runtime, shapes, streams
from cnn.reports import metrics
from cnn.runs import choosing
from cnn.runs.folder import read_summary, run_folder, write_summary
from cnn.runs.parts import counts, load, make, make_averages, make_callbacks, steps_of, watched
from cnn.runs.settings import FREE, Settings, check, check_each, checkpoint_every, read_config, write_settings
from cnn.text import printable
from cnn.training import checkpoint, lr_finder
from cnn.training.callbacks import (
    Checkpoint,
    EarlyStopping,
    EpochLog,
    Progress,
    StopOnSignal,
    TimeLimit,
    TrainingDiverged,
)
from cnn.training.checks import OtherData
from cnn.training.features import features
from cnn.training.trainer import Trainer


def find_lr(settings, out=None, quiet=False, given=None):
    """The learning-rate range test (cnn.find_lr) of what the settings describe; returns its LRCurve.

    given: as for `train`. Writes lr.csv and, where Matplotlib is installed, lr.png to `out`, by default a new folder
    below runs/.
    Raises what `train` raises.
    """
    settings, (train_set, _, _) = _chosen(settings, given, quiet)
    trainer, loader, *_ = make(settings, train_set, lambda text: _say(quiet, text))
    _say_what_is_odd(replace(settings, epochs=1), loader, quiet)
    curve = lr_finder.find_lr(trainer, loader)
    with run_folder(out, replace(settings, dataset=train_set.name, model=f"{settings.model}-lr")) as folder:
        curve.save(folder / "lr.csv")
        try:
            curve.plot(folder / "lr.png")
            written = "lr.csv and lr.png"
        except ModuleNotFoundError as error:
            written = f"lr.csv, but no lr.png ({error}),"
    _say(quiet, "the loss falls at none of these learning rates" if math.isnan(curve.suggestion) else
         f"suggested: --lr {curve.suggestion:.2g}; the loss is lowest at {curve.rise:.2g} and rises beyond")
    _say(quiet, f"wrote {written} to {folder}")
    return curve


def train(settings, out=None, quiet=False, target=None, given=None, callbacks=()):
    """Train as the settings say, and write what there is to know about it into a folder (docs/runs.md).

    out: the folder, default a new one below runs/. quiet: print nothing. target: a test accuracy, to say whether
    it was met. given: None, or the names of the settings to keep; those of the others that depend on the data are then
    chosen where `dataset` is a path (see choosing.choose), and printed. callbacks: further ones. Returns the summary (a
    dict).

    Raises FileNotFoundError (data), FileExistsError (the folder holds a run), ValueError or TypeError (settings),
    OSError naming the file that could not be written, TrainingDiverged; Interrupted where a signal stopped it.
    """
    start = time.perf_counter()
    settings, sets = _chosen(settings, given, quiet)
    made = make(settings, sets[0], lambda text: _say(quiet, text))
    with run_folder(out, replace(settings, dataset=sets[0].name)) as folder:
        write_settings(folder / "config.toml", settings, target, counts(sets))
        return _go(settings, sets, made, folder, quiet, start, target=target, callbacks=callbacks)


def resume(folder, quiet=False, callbacks=(), epochs=None, **free):
    """Go on with the run in a folder after its newest checkpoint, to the same bits; returns the summary.

    epochs: of the whole run, where it is to have another number than it began with: more than are done. A schedule
    goes on as that of a run of so many epochs. free: other values for settings that the result does not depend on,
    those in FREE; a time limit must be set anew. A run that is complete is left as it is. Raises what `train` raises.
    """
    start, folder = time.perf_counter(), Path(folder)
    fixed = set(free) - FREE
    if fixed:
        raise ValueError(f"resume: {', '.join(sorted(fixed))} cannot be changed in the middle of a run")
    if not folder.is_dir():
        reason = "a run is resumed by its folder, this is a file" if folder.exists() else "there is no such folder"
        raise FileNotFoundError(f"{folder}: {reason}")
    with files.locked(folder):
        values, made_with = read_config(folder)
        settings = Settings(**{**values, "max_minutes": 0.0, **free})
        files.clean(folder)
        summary = read_summary(folder / "summary.json", lambda text: _say(quiet, text))
        if epochs is not None:
            settings, made_with = _lengthened(folder, settings, made_with, epochs, summary)
        check(settings)
        if summary.get("complete") and summary.get("epochs", settings.epochs) == settings.epochs:
            _say(quiet, f"{folder} is complete: test accuracy {summary['test_accuracy']:.2%} after "
                        f"{summary['steps']:,} steps")
            return summary
        sets = load(settings)
        for name, value in {**runtime.versions(), "images": counts(sets)}.items():
            if made_with.get(name, value) != value:
                _say(quiet, f"begun with {name} {made_with[name]}, gone on with {value}: the bits may differ")
        fresh = not checkpoint.checkpoints(folder / "checkpoints")
        made = make(settings, sets[0], lambda text: _say(quiet, text), fresh)
        return _go(settings, sets, made, folder, quiet, start, made_with.get("target"), resuming=True,
                   callbacks=callbacks)


def _lengthened(folder, settings, made_with, epochs, summary):
    """The settings of a run with another number of epochs, and what it is made with, written to its folder."""
    epochs = shapes.integer("resume", "epochs", epochs, 1)
    done = _epochs_done(folder / "checkpoints")
    if epochs <= done:
        raise ValueError(f"resume: epochs must be more than the {done} that {folder} has trained, got {epochs}")
    if summary.get("complete") and summary.get("stopped"):
        raise ValueError(f"resume: {folder} ended by itself ({printable(summary['stopped'])}): more epochs would not "
                         f"change it; begin another with --from {folder}")
    if epochs != settings.epochs:
        made_with = {**made_with, "epochs": [*made_with.get("epochs", []), f"{settings.epochs} at first, {epochs} "
                                             f"after epoch {done}"]}
        settings = replace(settings, epochs=epochs)
        check_each(settings)
        write_settings(folder / "config.toml", settings, made_with=made_with)
    return settings, made_with


def _epochs_done(folder):
    """How many epochs are complete by the newest checkpoint in a folder that can be read."""
    for path in reversed(checkpoint.checkpoints(folder)):
        try:
            return shapes.integer("resume", "epoch of the checkpoint", checkpoint.load(path)["position"]["epoch"])
        except (OSError, ValueError, TypeError, KeyError):
            continue        # `resume` says so
    return 0


def _chosen(settings, given, quiet):
    """The settings, with what is not given chosen where that is wanted, and the data sets; says what was chosen."""
    if given is None or not choosing.chooses(settings, given):
        check(settings)
        return settings, load(settings)
    check_each(settings)        # not yet together
    settings, sets, lines = choosing.choose(settings, given)
    check(settings)
    for line in lines:
        _say(quiet, line)
    return settings, sets


def _never_predicted(trainer, dataset, tta):
    """Names of the classes of a data set that have images in it, but are predicted for none of all."""
    predictions = trainer.predict(dataset, tta).argmax(axis=1)
    matrix = metrics.confusion_matrix(dataset.labels, predictions, dataset.num_classes)
    return [dataset.classes[k] for k in metrics.per_class(matrix).never_predicted()]


def _say(quiet, text):
    if not quiet:
        streams.say(text)


def _say_what_is_odd(settings, loader, quiet):
    """Settings that are no mistake, but may be one."""
    images = len(loader.dataset)
    if not settings.epochs:
        _say(quiet, "epochs is 0: nothing is trained, the model is measured as it is made")
    elif settings.batch_size > images:
        _say(quiet, f"a batch of {settings.batch_size:,} is larger than the {images:,} training images: every step "
                    f"takes all of them")


def _go(settings, sets, made, folder, quiet, start, target=None, resuming=False, callbacks=()):
    """Train, measure and write; `start` is when the run began, by time.perf_counter."""
    (train_set, validation, test_set), (trainer, loader, description, model) = sets, made
    held_out, held_out_words = watched(validation, test_set)
    seen = features(model, held_out) if settings.freeze_body else held_out
    keeper = Checkpoint(folder / "checkpoints", checkpoint_every(settings), settings.keep)
    stopper = StopOnSignal(keeper)
    limit = TimeLimit(settings.max_minutes) if settings.max_minutes else None
    trainer.callbacks = [*make_averages(settings, trainer.model, steps_of(settings, loader)),
                         *([] if quiet else [Progress(), EpochLog("test" if validation is None else "validation")]),
                         *make_callbacks(settings, folder, validation, description, model),
                         *callbacks, *([limit] if limit else []), keeper, stopper]
    sizes = "x".join(map(str, train_set.images.shape[1:]))
    checked = ""
    if validation is not None:
        which = "held out" if settings.validation_fraction else validation.name
        checked = f"{len(validation):,} validation ({which}), "
    learning = f", of which {_size(trainer.model):,} are trained," if settings.freeze_body else ""
    _say(quiet, f"{settings.model} with {_size(model):,} parameters{learning} on {settings.dataset}: "
                f"{len(train_set):,} training, {checked}{len(test_set):,} test images of {sizes}, "
                f"{runtime.get_num_threads()} threads")
    _say_what_is_odd(settings, loader, quiet)
    if resuming:
        _go_back(trainer, folder, quiet)
    try:
        with stopper:
            history = trainer.fit(loader, settings.epochs, seen)
    except OtherData as error:
        raise ValueError(f"{folder}: the training images are no longer those that the run began with "
                         f"({str(error).removeprefix('Trainer.fit: ')}); put those back, or begin another run with its "
                         f"weights, by --from {folder}") from None
    except TrainingDiverged as error:
        raise TrainingDiverged(_diverged(error, settings, trainer, description, model, folder, start)) from None
    # the loss reported is without smoothing
    judge = Trainer(model, None, progress=False, backend=settings.backend)
    measured = judge.evaluate(test_set, description["tta"])
    never = {}
    if settings.dataset not in data.NAMES:
        never["never_predicted"] = _never_predicted(judge, test_set if validation is None else validation,
                                                    description["tta"])
    training = sum(history.column("seconds"))
    checkpoint.save_model(folder / "model.safetensors", model,
                          {**description, "test_accuracy": measured["accuracy"]})
    summary = write_summary(
        folder, settings, start, test_accuracy=measured["accuracy"], test_loss=measured["loss"], steps=trainer.step,
        held_out=held_out_words, complete=not (limit and limit.reached), stopped=trainer.stop or None,
        digest=checkpoint.digest(trainer.state_dict()),
        images_per_second=round(sum(row["seconds"] * row["images_per_second"] for row in history) / training)
        if training else None, **never)

    if trainer.stop:
        _say(quiet, f"stopped after step {trainer.step:,}: {trainer.stop}")
    _say(quiet, f"test accuracy {measured['accuracy']:.2%} (loss {measured['loss']:.4f}) after {len(history)} "
                f"epochs")
    if any(never.values()):
        _say(quiet, f"warning: never predicted for any {'test' if validation is None else 'validation'} image: "
                    f"{', '.join(map(printable, never['never_predicted']))}; more images of them, more --epochs or "
                    f"--class-weights balanced may help")
    if target is not None:
        _say(quiet, f"target {target:.1%}: {'met' if measured['accuracy'] >= target else 'missed'}")
    if history:
        _say(quiet, f"{summary['images_per_second']:,} images/s while training, {summary['seconds']:.1f} s in all")
    _say(quiet, f"wrote model.safetensors, history.csv and summary.json to {folder}")
    if settings.report and ranks.leads():
        _say(quiet, f"drew {_drawer().write(folder, settings.data_dir or None)}")
    return summary


def _size(model):
    return sum(p.numel() for p in model.parameters())


def _diverged(error, settings, trainer, description, model, folder, start):
    """Write what is left of a run that diverged, and return what there is to say about it."""
    good = checkpoint.checkpoints(folder / "checkpoints")
    words = f"{error}; " + (f"the last good checkpoint is {good[-1]}" if good else "there was no checkpoint yet")
    stopping = next((c for c in trainer.callbacks if isinstance(c, EarlyStopping) and c.best is not None), None)
    if stopping is not None:        # it has restored the best weights
        checkpoint.save_model(folder / "model.safetensors", model, {
            **description, "epoch": stopping.best_epoch, stopping.monitor: stopping.best})
        words += f"; model.safetensors has the weights of epoch {stopping.best_epoch}, the best"
    write_summary(folder, settings, start, steps=trainer.step, complete=False, stopped=words, diverged=True)
    if settings.report and ranks.leads():
        _drawer().write(folder, settings.data_dir or None)
    return words


def _drawer():
    """The module that draws a run; imported late, because most runs do without. Raises ModuleNotFoundError without
    matplotlib."""
    from cnn.reports import page as report
    plots.require()
    return report


def _go_back(trainer, folder, quiet):
    """Load the newest checkpoint of a run; without one, clear away what came before the first."""
    path = checkpoint.resume(folder / "checkpoints", trainer, lambda text: _say(quiet, text))
    if path is not None:
        _say(quiet, f"going on after step {trainer.step:,}, from {path}")
        return
    _say(quiet, "there is no checkpoint yet: going on from the beginning")
    for name in ("history.csv", "steps.jsonl", "best.safetensors") if ranks.leads() else ():
        (folder / name).unlink(missing_ok=True)
