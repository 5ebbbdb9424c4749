"""Training on several ranks: what the environment tells of them; and under MPI, where that is installed, the same bits
for any number of them, errors and signals that end all, and going on with another number."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from together import Board, Comm, on_ranks

from cnn import ranks

MPIEXEC = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
TRAIN = ("-m", "cnn", "train", "--epochs", "1", "--shift", "2", "--ema", "0.9", "--checkpoint-every", "10")


needs_mpi = pytest.mark.skipif(MPIEXEC is None or find_spec("mpi4py") is None,
                               reason="needs MPI and mpi4py: pip install 'cnn[mpi]'")  # fmt: skip


# Open MPI's: root may run it, as in a container, and more ranks than there are cores
ALLOWED = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
           "OMPI_MCA_rmaps_base_oversubscribe": "1",
           "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}  # fmt: skip


def started(count, *arguments, folder):
    return subprocess.Popen(
        [MPIEXEC, "-n", str(count), sys.executable, *map(str, arguments)], cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **ALLOWED}
    )


def run(count, *arguments, folder, code=0, timeout=240):
    process = started(count, *arguments, folder=folder)
    try:
        out, err = process.communicate(timeout=timeout)
    except BaseException:
        process.terminate()     # which ends the ranks, too
        raise
    assert (process.returncode == 0) == (code == 0), (process.returncode, out, err)
    return out, err


def said_by_all(code, folder):
    """What each of 1, 2 and 3 ranks prints in brackets, which is the same."""
    lines = set()
    for count in (1, 2, 3):
        found = re.findall(r"\[.*?\]", run(count, "-c", code, folder=folder)[0])
        assert len(found) == count
        lines.update(found)
    assert len(lines) == 1
    return lines.pop()


def digest(folder):
    return json.loads((folder / "summary.json").read_text())["digest"]


# ------------------------------------------------------------------------------------------ the environment


@pytest.fixture(autouse=True)
def asked_anew():
    """The environment is asked once in a process."""
    ranks.place.cache_clear()
    yield
    ranks.place.cache_clear()


@pytest.mark.parametrize("variables, place", [
    ({}, (1, 0, 1)),
    ({"PMI_SIZE": "4", "PMI_RANK": "3", "MPI_LOCALNRANKS": "2"}, (4, 3, 2)),
    ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}, (2, 1, 1)),
    ({"SLURM_NTASKS": "8", "PMIX_RANK": "0"}, (8, 0, 1)),
    ({"SLURM_NTASKS": "8"}, (1, 0, 1)),     # a batch job that has not started ranks
    ({"PMI_SIZE": "1", "PMI_RANK": "0"}, (1, 0, 1)),
    ({"PMI_SIZE": "4", "PMI_RANK": "x"}, (1, 0, 1)),
    ({"PMI_SIZE": "4", "PMI_RANK": "3", "CNN_MPI": "0"}, (1, 0, 1)),
])  # fmt: skip
def test_what_the_environment_tells(variables, place, monkeypatch):
    for names in ranks._ENVIRONMENT:
        for name in names:
            monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert ranks.place() == place
    assert ranks.leads() == (place[1] == 0)


def test_without_mpi4py_the_extra_is_named(monkeypatch):
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    monkeypatch.setattr(ranks, "_world", None)
    with pytest.raises(ModuleNotFoundError, match=r"2 ranks need mpi4py: pip install 'cnn\[mpi\]'"):
        ranks.world()


def test_each_rank_has_its_own_shards():
    for size in range(1, 9):
        for count in range(20):
            parts = [ranks.World(Comm(Board(size), rank)).shards(count) for rank in range(size)]
            assert [shard for first, n in parts for shard in range(first, first + n)] == list(range(count))


def test_ranks_that_differ_are_named():
    on_ranks(2, lambda world: world.same("Trainer.fit", {"cnn": "0.1.0", "images": 10}))
    with pytest.raises(ValueError, match="Trainer.fit: all ranks must have the same images, .*rank . is 1., .*1."):
        on_ranks(2, lambda world: world.same("Trainer.fit", {"cnn": "0.1.0", "images": 10 + world.rank}))


# ------------------------------------------------------------------------------------------ under MPI


@needs_mpi
def test_any_number_of_ranks_trains_to_the_same_bits(tmp_path):
    digests = {}
    for count in (1, 2, 3, 5, 8):
        out, err = run(count, *TRAIN, "--out", f"run{count}", folder=tmp_path)
        digests[count] = digest(tmp_path / f"run{count}")
        assert out.count("test accuracy") == 1
        assert err == ""
    assert len(set(digests.values())) == 1, digests


@needs_mpi
@pytest.mark.parametrize("more", [
    "--accumulate 3", "--accumulate 2 --model resnet20 --channels 4,4,8 --batch-size 300", "--mixup 0.4 --cutmix 1"])
def test_training_in_other_ways_has_the_same_bits(more, tmp_path):
    digests = set()
    for count in (1, 2, 3):
        run(count, *TRAIN, *more.split(), "--out", f"run{count}", folder=tmp_path)
        digests.add(digest(tmp_path / f"run{count}"))
    assert len(digests) == 1


@needs_mpi
def test_metrics_see_the_scores_of_all_images(tmp_path):
    code = """
import cnn, json, sys
train, test = cnn.data.load("mnist-sample")
model = cnn.models.lenet5(seed=0)
metrics = {"mean": lambda scores, targets: scores[range(len(scores)), targets].mean(),
           "all": cnn.metrics.OverAll(lambda scores, targets: scores.max() - (targets * scores[:, 3]).sum())}
trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), lr=0.05), progress=False, metrics=metrics)
trainer.fit(train, 1, test.subset(slice(0, 777)))
row = trainer.history[-1]
print(json.dumps([row[name] for name in ("val_loss", "val_accuracy", "val_mean", "val_all")]))
"""
    assert "NaN" not in said_by_all(code, tmp_path)


@needs_mpi
def test_a_loss_divides_by_the_weights_of_all_ranks(tmp_path):
    code = """
import cnn, hashlib
train, _ = cnn.data.load("mnist-sample")
model = cnn.models.lenet5(seed=0)
weighted = cnn.CrossEntropyLoss(weight=[1.0, 9, 1, 1, 1, 0.1, 1, 1, 3, 1], ignore_index=4)
trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), lr=0.05), lambda scores, target: weighted(
    scores, target) + 1e-3 * (scores * scores).mean(), progress=False)
trainer.fit(train.subset(slice(0, 777)), 1)
bits = b"".join(array.tobytes() for array in model.state_dict().values())
print(f"[{hashlib.sha256(bits).hexdigest()} {trainer.history[-1]['train_loss']}]")
"""
    assert "nan" not in said_by_all(code, tmp_path)


@needs_mpi
def test_the_first_rank_finds_a_folder_for_all(tmp_path):
    run(2, *TRAIN, folder=tmp_path)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["mnist-sample-lenet5-1"]


DYING = """
import os, signal, sys
import cnn
from cnn.commands import train

class Dying(cnn.Callback):
    def on_step_end(self, trainer):
        if trainer.step >= 25 and cnn.ranks.place().rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)

make = cnn.Trainer.__init__
def made(self, *arguments, **options):
    make(self, *arguments, **options)
    fit = self.fit
    def dying(*rest):
        self.callbacks.append(Dying())
        return fit(*rest)
    self.fit = dying
cnn.Trainer.__init__ = made
train.main(sys.argv[1:])
"""


@needs_mpi
def test_a_rank_is_killed_and_another_number_goes_on(tmp_path):
    run(1, *TRAIN, "--out", "alone", folder=tmp_path)
    begun = time.monotonic()
    run(2, "-c", DYING, *TRAIN[3:], "--out", "killed", folder=tmp_path, code=1)
    assert time.monotonic() - begun < 120
    assert not (tmp_path / "killed" / "summary.json").exists()
    run(3, "-m", "cnn", "train", "--resume", "killed", folder=tmp_path)
    assert digest(tmp_path / "killed") == digest(tmp_path / "alone")


@needs_mpi
@pytest.mark.parametrize("before", ["cnn.ranks.world()", ""], ids=["after MPI is loaded", "before"])
def test_an_error_on_one_rank_ends_all(before, tmp_path):
    code = f"""
import cnn
{before}
if cnn.ranks.place().rank == 1:
    raise RuntimeError("only here")
cnn.ranks.world().wait()
"""
    _, err = run(2, "-c", code, folder=tmp_path, code=1, timeout=60)
    assert err.count("RuntimeError: only here") == 1


@needs_mpi
def test_ranks_with_other_data_are_refused(tmp_path):
    code = """
import cnn
train, _ = cnn.data.load("mnist-sample")
if cnn.ranks.place().rank == 1:
    train = cnn.data.Dataset(train.images, (train.labels + 1) % 10, train.classes, train.mean, train.std)
model = cnn.models.lenet5()
cnn.Trainer(model, cnn.SGD(model.parameters(), lr=0.1)).fit(train, 1)
"""
    _, err = run(2, "-c", code, folder=tmp_path, code=1, timeout=60)
    assert "ValueError: Trainer.fit: all ranks must have the same labels" in err
    assert err.count("Traceback") == 1


@needs_mpi
def test_a_signal_to_one_rank_saves_once(tmp_path):
    """SIGTERM to the second rank: all finish the step, the first writes a checkpoint, and the run can be resumed."""
    code = """
import os, signal, sys
import cnn
from cnn.commands import train
from cnn.training import epoch
step = epoch._record
def record(self, *rest):
    result = step(self, *rest)
    if cnn.ranks.place().rank == 1 and self.step >= 30 and not hasattr(self, "sent"):
        self.sent = True
        os.kill(os.getpid(), signal.SIGTERM)
    return result
epoch._record = record
train.main(sys.argv[1:])
"""
    run(1, *TRAIN, "--out", "alone", folder=tmp_path)
    out, err = run(2, "-c", code, *TRAIN[3:], "--out", "stopped", folder=tmp_path, code=1)
    assert "resume" in out + err
    assert signal.Signals.SIGTERM.name in out + err
    run(2, "-m", "cnn", "train", "--resume", "stopped", folder=tmp_path)
    assert digest(tmp_path / "stopped") == digest(tmp_path / "alone")
