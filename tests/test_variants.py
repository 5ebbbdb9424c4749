"""Every build of the kernels that this processor can run passes the tests of the numbers."""

import warnings
from pathlib import Path

import pytest
from processes import run_python

from cnn import _ext

HERE = Path(__file__).parent
NUMBERS = ("test_elementary.py", "test_functional.py", "test_layers.py", "test_dropout.py", "test_losses.py",
           "test_optim.py", "test_data_transforms.py", "test_channels.py")


@pytest.mark.thorough
@pytest.mark.parametrize("variant", sorted(set(_ext.VARIANTS) - {_ext.VARIANT}))  # that one runs all tests
def test_other_variants(variant):
    files = [str(HERE / name) for name in NUMBERS]
    # the same numbers against the twins; what PyTorch says of them need not be asked again
    words = "not pytorch and not threads and not central"
    result = run_python(
        *("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", words, *files), CNN_KERNELS=variant,
        timeout=3600
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-1000:]


@pytest.mark.parametrize("variant", _ext.VARIANTS)
def test_the_environment_forces_a_variant(variant):
    result = run_python("-c", "import cnn; print(cnn._ext.VARIANT); cnn.show_config()", CNN_KERNELS=variant)
    assert result.stdout.splitlines()[0] == variant
    assert f"{variant}, forced by CNN_KERNELS" in result.stdout


def test_an_unknown_variant_is_an_import_error():
    result = run_python("-c", "import cnn", CNN_KERNELS="nonsense")
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: CNN_KERNELS=nonsense") and all(
        name in last for name in _ext.VARIANTS
    )


def test_the_first_variant_is_the_default():
    # an empty name is none
    result = run_python("-c", "import cnn; print(cnn._ext.VARIANT == cnn._ext.VARIANTS[0])", CNN_KERNELS="")
    assert result.stdout == "True\n"


def test_an_installation_from_a_better_processor_warns(monkeypatch):
    monkeypatch.delenv("CNN_KERNELS", raising=False)
    monkeypatch.setattr(_ext, "_built", lambda isa: isa == "baseline")
    monkeypatch.setattr(_ext.cpu, "supported", lambda: ["avx2", "baseline"])
    with pytest.warns(RuntimeWarning, match="no avx2 kernels.*Install cnn again"):
        assert _ext._choose() == ("baseline", ("baseline",))
    monkeypatch.setattr(_ext.cpu, "supported", lambda: ["baseline"])
    with warnings.catch_warnings(action="error"):
        assert _ext._choose() == ("baseline", ("baseline",))


def test_no_variant_at_all_says_what_to_do(monkeypatch):
    monkeypatch.setattr(_ext, "_built", lambda isa: False)
    for forced in ("", "baseline"):
        monkeypatch.setenv("CNN_KERNELS", forced)
        with pytest.raises(ImportError, match="found no kernels in .*_ext.*build here with 'pip install -e .'"):
            _ext._choose()
