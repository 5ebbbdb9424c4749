"""Docstrings of the public interface are complete, by rules that a machine can check.

What is public: the names in `__all__` of the modules below or, without one, all that they define without a leading
underscore; of classes also the public methods and properties that they define themselves.
"""

import doctest
import importlib
import inspect
import re

import numpy as np
import pytest

import cnn

MODULES = ["cnn", *(f"cnn.{name}" for name in (
    "averaging", "callbacks", "checkpoint", "data", "explain", "export", "functional", "history", "init", "losses",
    "metrics", "models", "optim", "schedules"))]
# how a docstring says what an array looks like
SHAPE = re.compile(r"\((N|n|C|K|out|in|total|classes|steps|num_features|\w+_channels)\b|any shape|"
                   r"of (one|that|the same|x's|y's) shape")
CHECKS = re.compile(r"raise (TypeError|ValueError)|\b(shapes\.\w+|_checked|whole_number)\(")


def public():
    """(title, object, the docstrings that count besides its own) of everything public, each object once."""
    seen = {}
    for name in MODULES:
        module = importlib.import_module(name)
        names = getattr(module, "__all__", None) or [n for n, thing in vars(module).items() if n[0] != "_" and (
            inspect.isclass(thing) or inspect.isfunction(thing)) and thing.__module__ == module.__name__]
        for n in names:
            thing = getattr(module, n)
            if not (inspect.isclass(thing) or inspect.isfunction(thing)) or id(thing) in seen:
                continue
            above = [module.__doc__ or "", inspect.getmodule(thing).__doc__ or ""]
            seen[id(thing)] = f"{name}.{n}", thing, above
    for title, thing, above in list(seen.values()):
        if not inspect.isclass(thing):
            continue
        above = [*above, *(cls.__doc__ or "" for cls in thing.__mro__ if cls.__module__.startswith("cnn."))]
        for n, member in vars(thing).items():
            member = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
            if n[0] != "_" and (inspect.isfunction(member) or isinstance(member, property)):
                seen[id(member), title] = f"{title}.{n}", getattr(thing, n), above
    return list(seen.values())


PUBLIC = public()
everything = pytest.mark.parametrize("title, thing, above", PUBLIC, ids=[title for title, *_ in PUBLIC])
callables = [row for row in PUBLIC if not isinstance(row[1], property)]
every_callable = pytest.mark.parametrize("title, thing, above", callables, ids=[title for title, *_ in callables])


def words(thing):
    """The docstring of something, its own or inherited; of a class those of all its bases."""
    if inspect.isclass(thing):
        return "\n".join(cls.__doc__ or "" for cls in thing.__mro__ if cls.__module__.startswith("cnn."))
    return inspect.getdoc(thing) or ""


def made_by(thing):
    """A function itself; of a class the constructor, or None where that is Python's."""
    function = thing.__init__ if inspect.isclass(thing) else thing
    return function if inspect.isfunction(function) else None


def arguments(thing):
    """The parameters of a function, or of a class's constructor, that a caller gives."""
    function = made_by(thing)
    if function is None:
        return []
    return [p for i, p in enumerate(inspect.signature(function).parameters.values())
            if not (i == 0 and p.name in ("self", "cls")) and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def source(thing):
    function = made_by(thing)
    return "" if function is None or function.__code__.co_filename == "<string>" else inspect.getsource(function)


def test_the_lists_are_not_empty():
    assert len(PUBLIC) > 200 and len(callables) > 150


@everything
def test_everything_has_a_docstring(title, thing, above):
    described = any(re.search(rf"\b{title.rpartition('.')[2]}\b", text) for text in above[2:])
    assert (inspect.getdoc(thing) or "").strip() or (isinstance(thing, property) and described)


@every_callable
def test_docstrings_name_every_argument(title, thing, above):
    text = words(thing) if inspect.isclass(thing) else "\n".join([words(thing), *above])
    missing = [p.name for p in arguments(thing) if not re.search(rf"(?<![\w.]){p.name.strip('_')}(?!\w)", text)]
    assert not missing, f"{title}: {missing}"


@every_callable
def test_docstrings_say_shapes_where_arrays_come_in(title, thing, above):
    arrays = [p.name for p in arguments(thing) if "ndarray" in str(p.annotation) or "Images" in str(p.annotation)]
    if arrays:
        assert SHAPE.search("\n".join([words(thing), *above])), f"{title}: what shape have {arrays}?"


@every_callable
def test_docstrings_say_what_is_raised(title, thing, above):
    if CHECKS.search(source(thing)):
        text = "\n".join([words(thing), *above])
        assert re.search(r"(?i)\braises?\b|(Type|Value)Error", text), f"{title}: what does it raise?"


@every_callable
def test_public_functions_have_type_hints(title, thing, above):
    function = made_by(thing)
    missing = [p.name for p in arguments(thing) if p.annotation is p.empty]
    if function is not None and inspect.signature(function).return_annotation is inspect.Signature.empty:
        missing.append("return")
    assert not missing, f"{title}: {missing}"


# Where the formula of these comes from: a paper or, for what is in every textbook, docs/gradients.md.
SOURCES = [cnn.CrossEntropyLoss, cnn.MSELoss, cnn.SGD, cnn.Adam, cnn.AdamW, cnn.RMSprop, cnn.BatchNorm2d, cnn.GroupNorm,
           cnn.InstanceNorm2d, cnn.LayerNorm, cnn.LayerNorm2d, cnn.LocalResponseNorm,
           cnn.Dropout, cnn.Dropout2d, cnn.GELU, cnn.SiLU, cnn.EMA, cnn.Lookahead, cnn.find_lr, cnn.clip_grad_norm,
           cnn.functional.batch_norm, cnn.functional.group_norm, cnn.functional.layer_norm, cnn.functional.layer_norm2d,
           cnn.functional.instance_norm, cnn.functional.local_response_norm,
           cnn.functional.cross_entropy, cnn.functional.mse_loss,
           *(cnn.init.INITIALISERS[name] for name in cnn.init.INITIALISERS if name not in ("zeros", "ones")),
           cnn.schedules.Step, cnn.schedules.Cosine, cnn.schedules.Linear, cnn.schedules.OneCycle,
           cnn.schedules.MultiStep, cnn.schedules.Exponential, cnn.schedules.Polynomial, cnn.schedules.Cyclic,
           cnn.schedules.CosineWarmRestarts, cnn.schedules.ReduceLROnPlateau, cnn.schedules.Sequential,
           *cnn.models.MODELS.values()]


@pytest.mark.parametrize("thing", SOURCES, ids=lambda thing: f"{thing.__module__}.{thing.__name__}")
def test_formulas_have_a_source(thing):
    text = words(thing)
    assert re.search(r"\b(18|19|20)\d\d\b|docs/gradients\.md|PyTorch's|paper as", text), thing


def test_the_rules_see_what_is_missing():
    def bare(x: np.ndarray, factor: float) -> np.ndarray:
        """Scale x."""
        if factor < 0:
            raise ValueError("bare")
        return x

    for test in (test_docstrings_name_every_argument, test_docstrings_say_shapes_where_arrays_come_in,
                 test_docstrings_say_what_is_raised):
        with pytest.raises(AssertionError, match="bare"):
            test("bare", bare, [])


# ------------------------------------------------------------------------------------------ examples

EXAMPLES = [(title, thing) for title, thing, _ in [*PUBLIC, ("cnn.data", cnn.data, [])]
            if ">>>" in (thing.__doc__ or "")]


@pytest.mark.parametrize("title, thing", EXAMPLES, ids=[title for title, _ in EXAMPLES])
def test_examples_show_what_they_print(title, thing):
    test = doctest.DocTestParser().get_doctest(inspect.getdoc(thing), {"cnn": cnn, "np": np}, title, None, 0)
    said = []
    results = doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert results.attempted and not results.failed, "".join(said)


def test_the_most_used_have_examples():
    assert {thing for _, thing in EXAMPLES} >= {
        cnn.Module, cnn.Conv2d, cnn.Trainer, cnn.CrossEntropyLoss, cnn.data.Dataset, cnn.data.DataLoader,
        cnn.functional.conv2d}
