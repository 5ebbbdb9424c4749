"""Many runs with settings that Optuna draws, and the processes that work through them."""
import json
import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import time
from contextlib import nullcontext, suppress
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from cnn import files, runtime, shapes, streams
from cnn.reports import sweep as page
from cnn.runs import run
from cnn.runs.parts import load
from cnn.runs.ranges import read
from cnn.runs.settings import read_settings
from cnn.text import printable
from cnn.training.callbacks import Interrupted, OptunaPruning, TrainingDiverged, pruning

_LOOK = 1.0             # seconds from one look at the study to the next


# ---------------------------------------------------------------- the study


def require():
    """The module optuna, which keeps quiet. Raises ModuleNotFoundError, naming the extra to install, where it is
    missing."""
    optuna = pruning.require()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _opened(sweep, folder):
    """The study of a sweep in this folder, made where there is none."""
    optuna = require()
    url = sweep.storage or f"sqlite:///{(folder / 'study.db').resolve()}"
    options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite:") else {}    # others may be writing
    pruner = {"median": lambda: optuna.pruners.MedianPruner(n_warmup_steps=sweep.warmup),
              "halving": optuna.pruners.SuccessiveHalvingPruner, "none": optuna.pruners.NopPruner}[sweep.pruner]()
    try:
        storage = optuna.storages.RDBStorage(url, engine_kwargs=options)
        study = optuna.create_study(study_name=folder.resolve().name, storage=storage, direction=sweep.direction,
                                    pruner=pruner, load_if_exists=True)
        known = study.user_attrs.get("sweep")
        if known is None:
            study.set_user_attr("sweep", _definition(sweep))
    except Exception as error:      # of any of the databases; it may show a password
        where = "storage" if sweep.storage else str(folder / "study.db")
        first = printable(error).split("\n")[0].replace(sweep.storage or "\n", "its URL")
        raise ValueError(f"{where}: not a study that can be opened ({first})") from None
    _refuse_another("the study of this name in storage", known, sweep)
    return study


def _definition(sweep):
    """What must stay as it is while a sweep goes on, as JSON has it."""
    return json.loads(json.dumps({**asdict(sweep), "trials": None, "storage": None}))


def _refuse_another(where, known, sweep):
    """Raise ValueError where a known definition is not this sweep's."""
    if known is not None:
        differing = [name for name, value in _definition(sweep).items()
                     if not isinstance(known, dict) or known.get(name) != value]
        if differing:
            raise ValueError(f"{where} is another sweep, which differs in {', '.join(differing)}: choose another "
                             f"folder with --out")


def _drawn(sweep, trial):
    """The Settings of a trial. Each setting has a generator of its own, so that a trial of which a break has kept some
    draws the others as it would have; with tpe they also depend on the trials that are finished."""
    samplers = require().samplers
    kind = samplers.RandomSampler if sweep.sampler == "random" else samplers.TPESampler
    values = {}
    for place, name in enumerate(sweep.ranges):
        seed = np.random.SeedSequence([sweep.seed, trial.number, place]).generate_state(1)[0]
        trial.study.sampler = kind(seed=int(seed))
        values[name] = sweep.suggest(trial, name)
    return replace(sweep.shared, **values)


def rows(study):
    """What there is to say of each trial: a dict with number, state, value or None, epoch (of its last value), seconds
    or None, and params."""
    found = []
    for trial in study.get_trials(deepcopy=False):
        steps = trial.intermediate_values
        value = trial.value if trial.value is not None else steps[max(steps)] if steps else None
        seconds = None if trial.duration is None else trial.duration.total_seconds()
        found.append({"number": trial.number, "state": trial.state.name.lower(), "value": value,
                      "epoch": max(steps, default=0), "seconds": seconds, "params": dict(trial.params)})
    return found


def best(rows, direction):
    """The row of the best trial that is complete, or None."""
    complete = [row for row in rows if row["state"] == "complete" and math.isfinite(row["value"])]
    sign = -1 if direction == "maximize" else 1
    return min(complete, key=lambda row: (sign * row["value"], row["number"]), default=None)


# ---------------------------------------------------------------- working through it


def work_through(path, out=None, jobs=1, threads=None, quiet=False):
    """Run the trials that a SWEEP.toml asks for, or go on with them; returns the row of the best one, or None.

    path: of the file. out: the folder of the sweep, by default sweeps/<name of the file>; every trial is a run in a
    folder below it. jobs: how many trials at a time, each a process with its share of the machine's threads, or with
    `threads`.

    Raises ValueError, TypeError or OSError for what no sweep can be made of, ValueError also where the folder holds
    another sweep; ModuleNotFoundError without Optuna; KeyboardInterrupt when interrupted, after every trial has written
    a checkpoint.
    """
    sweep = read(path)
    require()
    jobs = shapes.integer("sweep", "jobs", jobs, 1, 1024)
    if threads is None:
        threads = max(1, runtime.cores() // jobs)
    folder = Path(out or default_folder(path))
    _, validation, _ = load(sweep.shared)
    if validation is None:
        raise ValueError(f"{path}: there are no validation images to choose by: set validation_fraction")
    with files.locked(folder, make=True) if not sweep.storage else nullcontext():
        folder.mkdir(parents=True, exist_ok=True)
        _same(sweep, folder)
        study = _opened(sweep, folder)
        before = rows(study)
        if before and not quiet:
            streams.say(f"going on with {folder}: {sum(row['state'] != 'running' for row in before)} of {sweep.trials} "
                        f"trials are finished")
        _work(sweep, folder, study, jobs, threads, quiet)
    return best(rows(study), sweep.direction)


def default_folder(path):
    """Where the sweep of this file is kept unless it is said."""
    return Path("sweeps", Path(path).stem)


def _same(sweep, folder):
    """Refuse to go on with another sweep; note this one."""
    note = folder / "sweep.json"
    if note.exists():
        try:
            known = json.loads(files.read_text(note))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{note}: damaged ({printable(error)})") from None
        _refuse_another(f"what {folder} holds", known, sweep)
    files.write(note, (json.dumps(_definition(sweep), indent=2) + "\n").encode())


def _work(sweep, folder, study, jobs, threads, quiet):
    """Have processes work until all trials are finished, and draw the page whenever one is."""
    context = multiprocessing.get_context("spawn")
    turn = context.Lock()
    workers = [context.Process(target=_worker, args=(sweep, folder, threads, quiet, turn, os.getpid()))
               for _ in range(jobs)]
    stopped, told, drawn = [], set(), None

    def stop(number, frame):
        stopped.append(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for worker in workers:
            worker.start()
        while any(worker.is_alive() for worker in workers):
            if stopped:
                for worker in workers:      # who may have had the signal, too: each finishes its step
                    if worker.is_alive() and worker.pid not in told:
                        told.add(worker.pid)
                        with suppress(ProcessLookupError):
                            os.kill(worker.pid, signal.SIGTERM)
            multiprocessing.connection.wait([worker.sentinel for worker in workers if worker.is_alive()], _LOOK)
            drawn = _draw(sweep, folder, study, drawn)
        for worker in workers:
            worker.join()
        _draw(sweep, folder, study, drawn)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if stopped:
        if not quiet:
            streams.say("stopped; the same command goes on")
        if stopped[0] == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt
    codes = [worker.exitcode for worker in workers if worker.exitcode]
    if codes:
        how = f"was ended by {signal.Signals(-codes[0]).name}" if codes[0] < 0 else "ended by an error"
        raise ValueError(f"sweep: a process {how}; the same command goes on with what is left")


def _draw(sweep, folder, study, drawn):
    """Write the page where something has changed since the one of the rows `drawn`; returns the rows now."""
    found = rows(study)
    if found != drawn:
        ranges = {name: r.log for name, r in sweep.ranges.items()}
        words = {"sampler": sweep.sampler, "pruner": sweep.pruner, "trials": sweep.trials}
        files.write(folder / "sweep.html",
                    page.html(folder.resolve().name, found, best(found, sweep.direction), sweep.monitor, ranges,
                              words).encode())
    return found


def _worker(sweep, folder, threads, quiet, turn, parent):
    """Go on with trials that nobody works on, then draw new ones, until there are as many as wanted."""
    streams.prepare()
    signal.signal(signal.SIGINT, signal.SIG_IGN)        # the parent tells of it
    runtime.use("--threads", threads)
    study = _opened(sweep, folder)
    running = require().trial.TrialState.RUNNING,
    try:
        for frozen in study.get_trials(states=running):
            with turn:      # or two would draw what is not drawn yet
                if frozen.number not in {trial.number for trial in study.get_trials(deepcopy=False, states=running)}:
                    continue        # another process has finished it meanwhile
                trial = require().trial.Trial(study, frozen._trial_id)
                settings = _drawn(sweep, trial)
            _run(sweep, folder, study, trial, settings, quiet, frozen)
        while os.getppid() == parent:
            with turn:
                if len(study.get_trials(deepcopy=False)) >= sweep.trials:
                    return
                trial = study.ask()
                settings = _drawn(sweep, trial)
            _run(sweep, folder, study, trial, settings, quiet)
    except Interrupted as stop:
        raise SystemExit(0 if stop.number == signal.SIGTERM else 128 + stop.number) from None
    except (OSError, ValueError, TypeError) as error:
        streams.complain(f"sweep: {printable(error)}")
        raise SystemExit(1) from None


class _Reports:
    """A trial to report to, that has heard of some epochs already."""

    def __init__(self, trial, known):
        self.trial, self.known = trial, known

    def report(self, value, step):
        if step not in self.known:
            self.trial.report(value, step)

    def should_prune(self):
        return self.trial.should_prune()


def _run(sweep, folder, study, trial, settings, quiet, begun=None):
    """Run a trial, or go on with it; begun: what is known of it. Nothing is done where another process works on it."""
    optuna = require()
    states, begin = optuna.trial.TrialState, time.monotonic()
    place = folder / f"trial-{trial.number:04d}"
    watch = OptunaPruning(_Reports(trial, begun.intermediate_values if begun else ()), sweep.monitor)
    try:
        if (place / "config.toml").exists():
            _refuse_other_settings(place, settings, [*sweep.settings, *sweep.ranges])
            run.resume(place, quiet=True, callbacks=[watch])
        else:
            run.train(settings, place, quiet=True, given=[*sweep.settings, *sweep.ranges], callbacks=[watch])
        value, state = _result(place, settings, sweep.monitor), states.COMPLETE
    except files.Locked:
        return
    except optuna.exceptions.UpdateFinishedTrialError:      # another process was faster
        return
    except optuna.TrialPruned:
        value, state = None, states.PRUNED
    except TrainingDiverged:
        value, state = None, states.FAIL
    except _Other:
        raise
    except (ValueError, TypeError, MemoryError) as error:      # these settings do not go together
        value, state = None, states.FAIL
        streams.complain(f"sweep: trial {trial.number}: {printable(error)}")
    with suppress(ValueError, optuna.exceptions.UpdateFinishedTrialError):      # another process was faster
        study.tell(trial, value, state)
    if not quiet:
        last = next(row for row in rows(study) if row["number"] == trial.number)
        streams.say(f"trial {trial.number}: {page.said(last, sweep.monitor)}; {page.shown(last['params'])} "
                    f"({time.monotonic() - begin:.1f} s)")


class _Other(ValueError):
    """The folder of a trial holds another run."""


def _refuse_other_settings(place, settings, names):
    """Raise ValueError unless the run in a folder has these of the settings."""
    there = read_settings(place)
    differing = [name for name in names if there.get(name, getattr(settings, name)) != getattr(settings, name)]
    if differing:
        raise _Other(f"{place} holds a run with another {', '.join(differing)} than the trial: remove the folder, or "
                     f"choose another with --out")


def _result(place, settings, monitor):
    """The monitored value of the epoch whose weights a run has kept: with patience the best, else the last."""
    from cnn.training.history import History  # here, to keep a sweep's import of training small
    column = History.load(place / "history.csv").column(monitor)
    choose = max if "accuracy" in monitor else min
    return float(choose(column) if settings.patience and settings.monitor == monitor else column[-1])
