"""What a SWEEP.toml may say."""
import json
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from cnn import files, shapes
from cnn.runs.settings import MONITORS, Settings, check_each, defaults
from cnn.text import printable

SAMPLERS, PRUNERS = ("tpe", "random"), ("median", "halving", "none")


@dataclass(frozen=True)
class Range:
    """What one setting is drawn from: `choices`, or the numbers from `low` to `high`, all alike, or with `log` all
    magnitudes alike; whole numbers where the setting is one."""

    low: float = 0
    high: float = 0
    log: bool = False
    choices: tuple = ()

    def suggest(self, trial, name, whole):
        """A value for the setting of this name, from an optuna.Trial."""
        if self.choices:
            return trial.suggest_categorical(name, self.choices)
        draw = trial.suggest_int if whole else trial.suggest_float
        return draw(name, self.low, self.high, log=self.log)


@dataclass(frozen=True)
class Sweep:
    """What a SWEEP.toml says.

    trials: how many runs. monitor: what to look for the best of, a measure of the validation images. sampler: how
    values are drawn, pruner: which runs are ended early, both one of Optuna's. seed: of the drawing. storage: the URL
    of a database that Optuna knows, for several machines; by default a file of SQLite in the folder. settings: those
    that all runs share. ranges: a Range for each setting that is drawn.
    """

    trials: int = 16
    monitor: str = "val_accuracy"
    sampler: str = "tpe"
    pruner: str = "median"
    seed: int = 0
    storage: str = ""
    settings: dict = field(default_factory=dict)
    ranges: dict = field(default_factory=dict)

    @property
    def direction(self):
        return "maximize" if "accuracy" in self.monitor else "minimize"

    @property
    def shared(self):
        """The Settings of all trials, before anything is drawn."""
        return replace(defaults(self.settings.get("dataset", "mnist-sample")), **self.settings)

    @property
    def warmup(self):
        """Epochs that every trial may take before it is compared: a quarter of those that there are at least."""
        drawn = self.ranges.get("epochs")
        return (min(drawn.choices or (drawn.low,)) if drawn else self.shared.epochs) // 4

    def suggest(self, trial, name):
        """A value for the setting of this name, from an optuna.Trial."""
        return self.ranges[name].suggest(trial, name, {f.name: f.type for f in fields(Settings)}[name] is int)


def read(path):
    """The Sweep that a TOML file describes. Raises OSError, and ValueError naming the file for one that no sweep could
    be made of."""
    import tomllib  # here, because most runs read no configuration
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    try:
        values = tomllib.loads(files.read_text(path))
        return _checked(values)
    except (TypeError, ValueError, RecursionError) as error:
        words = printable(error).removeprefix(f"{path}: ").removeprefix("train: ").removeprefix("sweep: ")
        raise ValueError(f"{path}: {words}") from None


def _checked(values):
    names = {f.name for f in fields(Sweep)}
    if set(values) - names:
        raise ValueError(f"there is no {', '.join(sorted(set(values) - names))}, only {', '.join(sorted(names))}")
    for name in ("settings", "ranges"):
        if not isinstance(values.get(name, {}), dict):
            raise TypeError(f"{name} must be a table, [{name}]")
    own = {f.name: f for f in fields(Settings)}
    unknown = {*values.get("settings", {}), *values.get("ranges", {})} - set(own)
    if unknown:
        raise ValueError(f"there are no such settings: {', '.join(sorted(unknown))}")
    twice = values.get("settings", {}).keys() & values.get("ranges", {}).keys()
    if twice:
        raise ValueError(f"{', '.join(sorted(twice))} stands below [settings] and below [ranges]")
    if not values.get("ranges"):
        raise ValueError("there must be a setting to draw below [ranges], such as lr = {low = 0.001, high = 1.0, "
                         "log = true}")
    ranges = {name: _range(name, given, own[name].type) for name, given in values["ranges"].items()}
    sweep = Sweep(**{**values, "settings": dict(values.get("settings", {})), "ranges": ranges})
    shapes.integer("sweep", "trials", sweep.trials, 1)
    shapes.integer("sweep", "seed", sweep.seed, 0, 2**31 - 1)
    for name, known in (("monitor", [m for m in MONITORS if m.startswith("val_")]), ("sampler", SAMPLERS),
                        ("pruner", PRUNERS)):
        if getattr(sweep, name) not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(sweep, name)!r}")
    if not isinstance(sweep.storage, str):
        raise TypeError(f"storage must be the URL of a database, got {sweep.storage!r}")
    given = {"validation_fraction": 0.2, **sweep.settings}
    if "validation_fraction" in ranges or "dataset" in ranges:
        raise ValueError("what trials are measured on must be the same for all: validation_fraction and dataset belong "
                         "below [settings]")
    if "max_minutes" in given or "max_minutes" in ranges:
        raise ValueError("max_minutes: a trial that goes on after a break would have them anew; limit epochs")
    for value in (given.get("epochs", 1), *(ranges["epochs"].choices or (ranges["epochs"].low,)
                                            if "epochs" in ranges else ())):
        shapes.integer("sweep", "epochs", value, 1)
    sweep = replace(sweep, settings=given)
    check_each(replace(Settings(), **given))
    for name, r in ranges.items():
        for value in r.choices or (r.low, r.high):
            check_each(replace(Settings(), **{name: value}))
    return sweep


def _range(name, given, kind):
    """A Range, checked, for a setting of this type."""
    if not isinstance(given, dict) or set(given) - {"low", "high", "log", "choices"} or not given:
        raise ValueError(f"{name}: a range is {{low = ..., high = ...}}, perhaps with log = true, or {{choices = "
                         f"[...]}}, got {given!r}")
    if "choices" in given:
        choices = given["choices"]
        if len(given) > 1 or not isinstance(choices, list) or not choices:
            raise ValueError(f"{name}: choices must be a list of values, alone, got {given!r}")
        if not all(isinstance(value, (bool, int, float, str)) for value in choices):
            raise TypeError(f"{name}: choices must be numbers, texts, true or false, got {choices!r}")
        if len({json.dumps(value) for value in choices}) < len(choices):
            raise ValueError(f"{name}: choices must differ, got {choices!r}")
        return Range(choices=tuple(choices))
    if kind not in (int, float):
        raise ValueError(f"{name}: it is no number, so give {{choices = [...]}}, got {given!r}")
    log = given.get("log", False)
    if not isinstance(log, bool):
        raise TypeError(f"{name}: log must be true or false, got {log!r}")
    check = shapes.integer if kind is int else shapes.number
    low, high = (check(name, end, given.get(end)) for end in ("low", "high"))
    if not low < high:
        raise ValueError(f"{name}: low must be below high, got {low} and {high}")
    if log and low <= 0:
        raise ValueError(f"{name}: with log, low must be above 0, got {low}")
    return Range(low, high, log)
