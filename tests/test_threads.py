"""Any number of threads gives the same bits; and the kernels with Python's own threads and processes."""

import copy
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cases import assert_all_close, assert_close, assert_same_bits, by_layer, by_twin
from processes import run_python

import cnn
from cnn import functional, models, reference, runtime
from cnn.data import Dataset
from cnn.engine import program as program_module
from cnn.layers import BatchNorm2d, Conv2d, Dropout, Flatten, Linear, MaxPool2d, ReLU, Sequential

# ------------------------------------------------------------------------------------------ same bits


def with_dropout(seed=0):
    return Sequential(
        *(Conv2d(3, 8, 3, seed=seed), ReLU(), MaxPool2d(3, 2, 1), Dropout(0.3, seed=seed), Flatten()),
        *(Linear(128, 20, seed=seed), ReLU(), Dropout(0.5, seed=seed + 1), Linear(20, 10, seed=seed)),
    )


def with_batch_norm():
    return Sequential(Conv2d(1, 3, 3, seed=1), BatchNorm2d(3), ReLU(), Flatten(), Linear(48, 10, seed=2))


# model, side and channels of its images, images, batch size
TRAINING = {
    "lenet5": (lambda: models.lenet5(image_size=16), 16, 1, 150, 37),
    "cifar_quick": (lambda: models.cifar_quick(image_size=8), 8, 3, 150, 37),
    "dropout": (with_dropout, 10, 3, 150, 37),
    "more blocks than shards": (with_dropout, 10, 3, 600, 290),
    "one image at a time": (with_dropout, 10, 3, 3, 1),
    "batch norm, one block": (with_batch_norm, 6, 1, 300, 16),
}


def trained(name, optimizer="SGD", max_grad_norm=None):
    """All that a short training run computes: weights, losses, scores."""
    make, side, channels, images, batch_size = TRAINING[name]
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (images, channels, side, side), np.uint8)
    data = Dataset(pixels, np.arange(images) % 10, list("abcdefghij"), [0.5] * channels, [0.2] * channels)
    model = make()
    optimizer = getattr(cnn, optimizer)(model.parameters(), lr=0.01)
    trainer = cnn.Trainer(model, optimizer, max_grad_norm=max_grad_norm, progress=False)
    history = trainer.fit(data, 2, validation=data, batch_size=batch_size)
    losses = np.array([history.column("train_loss"), history.column("val_loss")])
    return [*model.state_dict().values(), losses, trainer.predict(data)]


@pytest.mark.parametrize("name", TRAINING)
def test_training_gives_the_same_bits_with_any_number_of_threads(name, set_threads):
    set_threads(1)
    wanted = trained(name)
    for count in (1, 2, 3, 4):
        set_threads(count)
        assert_same_bits(trained(name), wanted)


def test_clipping_gives_the_same_bits_with_any_number_of_threads(set_threads):
    results = []
    for count in (1, 2, 3, 4):
        set_threads(count)
        results.append(trained("dropout", "AdamW", max_grad_norm=0.1))
    for result in results[1:]:
        assert_same_bits(result, results[0])


def test_the_number_of_threads_may_change_while_training(set_threads):
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal((50, 1, 16, 16)).astype(np.float32), rng.integers(0, 10, 50)
    results = []
    for counts in ((1, 1, 1, 1), (2, 4, 1, 3)):
        model = models.lenet5(image_size=16)
        trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), lr=0.05, momentum=0.9), progress=False)
        for count in counts:
            set_threads(count)
            trainer.train_step(images, labels)
        results.append(list(model.state_dict().values()))
    assert_same_bits(*results)


def test_the_batch_beside_it_does_not_change_an_image():
    """One image gives the same scores in any batch of more than a few images, and in any lane."""
    model = models.lenet5(image_size=16).eval()
    x = np.random.default_rng(0).standard_normal((40, 1, 16, 16)).astype(np.float32)
    together = model(x)
    for i in (0, 7, 15, 16, 39):
        some = np.concatenate([x[i : i + 1], x[:9]])
        assert_same_bits([model(some)[0], model(x[::-1])[39 - i]], [together[i]] * 2)
        few = model(x[max(0, i - 5):i + 1])     # computed in another order: some roundings differ
        assert_same_bits([model(x[i : i + 1])[0]], [few[-1]])
        assert_all_close([few[-1]], [together[i]])


def test_crews_wait_for_their_own_members_only(set_threads, monkeypatch):
    """A step of 64 images is four blocks. Eight threads that shared one after the other would wait after every
    operation of each."""
    set_threads(8)
    model = models.lenet5()
    trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), lr=0.01), progress=False)
    x, labels = np.zeros((64, 1, 28, 28), np.float32), np.arange(64) % 10
    trainer.train_step(x, labels)
    program, = trainer._programs.resting()
    waits, run = [], program_module.executor.run

    def counted(*arguments):
        waits.append(run(*arguments))
        return waits[-1]
    monkeypatch.setattr(program_module.executor, "run", counted)
    trainer.train_step(x, labels)
    segments = program.phase("forward").table
    before = sum(1 if segment["tasks"] else 4 * segment["count"] for segment in segments)
    assert 0 < waits[0] <= before / 3


@pytest.mark.parametrize("images, per_block", [(40, 16), (3, 1)])
def test_same_bits_with_crews_of_any_size(images, per_block, set_threads):
    """Three shards: crews of one, two, three and many threads; some hold more than others."""
    model = models.resnet20(channels=(4, 8, 12))
    x = np.random.default_rng(0).standard_normal((images, 3, 16, 16)).astype(np.float32)
    results = []
    for threads in (1, 2, 3, 5, 6, 7, 8, 16, 64):
        set_threads(threads)
        copied = copy.deepcopy(model)
        if per_block == 1:
            results.append([copied.eval()(x)])
            continue
        trainer = cnn.Trainer(copied, cnn.SGD(copied.parameters(), lr=0.1), progress=False)
        for _ in range(2):
            trainer.train_step(x, np.arange(images) % 10)
        results.append(list(copied.state_dict().values()))
    for result in results[1:]:
        assert_same_bits(result, results[0])


# ------------------------------------------------------------------------------------------ how many threads


def test_set_and_get(set_threads):
    for count in (1, 3, np.int64(2), 1024):
        set_threads(count)
        assert cnn.get_num_threads() == count and type(cnn.get_num_threads()) is int


def test_the_default_is_what_this_process_may_use():
    assert 1 <= runtime.default_num_threads() <= os.cpu_count()


THREADS = "import cnn; print(cnn.get_num_threads())"


@pytest.mark.thorough
def test_the_environment_sets_the_default():
    assert run_python("-W", "ignore", "-c", THREADS, CNN_NUM_THREADS="3").stdout == "3\n"
    for wrong in ("0", "-1", "1025", "2.0", "two", " ", "٣", "9" * 5000):
        result = run_python("-c", THREADS, CNN_NUM_THREADS=wrong)
        assert (
            result.returncode == 1 and "ValueError: CNN_NUM_THREADS must be a whole number" in result.stderr
        )


@pytest.mark.parametrize(("ours", "omp", "wanted"), [
    ("", "1", 1), ("", "1,4", 1), ("", " 1 ", 1), ("1", "2", 1), ("", "", None), ("", "x", None), ("", "0", None),
    ("", "-1", None), ("", "100000", None), ("", "9" * 5000, None), ("", ",1", None),
])  # fmt: skip
def test_openmp_s_variable_is_the_default_where_ours_is_not_set(monkeypatch, ours, omp, wanted):
    monkeypatch.setattr(runtime, "cores", lambda: 3)
    monkeypatch.setenv("CNN_NUM_THREADS", ours)
    monkeypatch.setenv("OMP_NUM_THREADS", omp)
    assert runtime.default_num_threads() == (wanted or 3)


def test_openmp_s_variable_in_a_process_of_its_own():
    assert run_python("-c", THREADS, CNN_NUM_THREADS="", OMP_NUM_THREADS="1").stdout == "1\n"


def test_more_threads_than_cores(monkeypatch, recwarn, set_threads):
    """Up to four times the cores with a warning, where a command or a variable asks for them; in Python any number."""
    monkeypatch.setattr(runtime, "cores", lambda: 2)
    monkeypatch.setenv("CNN_NUM_THREADS", "2")
    assert runtime.default_num_threads() == 2 and not recwarn
    for name in ("CNN_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.setenv("CNN_NUM_THREADS", "")
        monkeypatch.setenv(name, "8")
        with pytest.warns(RuntimeWarning, match=f"{name} asks for 8 threads on 2 cores"):
            assert runtime.default_num_threads() == 8
    monkeypatch.setenv("CNN_NUM_THREADS", "9")
    with pytest.raises(ValueError, match="CNN_NUM_THREADS must be at most 8, four times the cores .*, got 9"):
        runtime.default_num_threads()
    with pytest.raises(ValueError, match="--threads must be at most 8, .* got 500"):
        runtime.use("--threads", 500)
    with pytest.warns(RuntimeWarning, match="set_num_threads asks for 9 threads on 2 cores"):
        set_threads(9)
    assert cnn.get_num_threads() == 9


def test_the_environment_of_children_is_left_alone():
    """What is set for OpenMP while it is loaded is gone afterwards; what the user has set stays."""
    code = "import os; before = dict(os.environ); import cnn; assert os.environ == before; print('same')"
    for environment in ({}, {"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "passive"}):
        assert run_python("-c", code, **environment).stdout == "same\n"


# ------------------------------------------------------------------------------------------ Python's threads


def convolution(seed):
    """Arrays of a convolution, and what its twin makes of them."""
    rng = np.random.default_rng(seed)
    x, w, dy = (rng.standard_normal(s) for s in ((40, 2, 6, 7), (3, 2, 3, 2), (40, 3, 4, 6)))
    return x, w, dy, [reference.conv2d(x, w), *reference.conv2d_backward(dy, x, w)]


def test_in_another_python_thread():
    x, w, dy, wanted = convolution(0)
    with ThreadPoolExecutor(1) as pool:
        got = pool.submit(lambda: [functional.conv2d(x, w), *functional.conv2d_backward(dy, x, w)]).result()
    assert_all_close(got, wanted)


def test_a_model_moves_between_python_threads():
    layer = Conv2d(2, 3, (3, 2)).to(np.float64)
    x, _, dy, _ = convolution(0)
    wanted = by_twin(layer, x, dy)
    assert_all_close(by_layer(layer, x, dy), wanted)
    with ThreadPoolExecutor(1) as pool:
        assert_all_close(pool.submit(by_layer, layer, x, dy).result(), wanted)
    assert_all_close(by_layer(layer, x, dy), wanted)


def test_many_python_threads_at_once():
    """Each with its own numbers but the same sizes, so that one array for two would mix them up."""
    work = [convolution(seed) for seed in range(4)]
    barrier = threading.Barrier(4)

    def check(x, w, dy, wanted):
        barrier.wait()
        for _ in range(50):
            assert_all_close([functional.conv2d(x, w), *functional.conv2d_backward(dy, x, w)], wanted)
            assert_close(functional.tanh(x), np.tanh(x))

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(check, *arrays) for arrays in work]:
            future.result()


def test_a_model_in_each_python_thread():
    def train():
        return trained("dropout")

    wanted = train()
    with ThreadPoolExecutor(3) as pool:
        for future in [pool.submit(train) for _ in range(3)]:
            assert_same_bits(future.result(), wanted)


OWN_THREADS = """
    import os, signal, threading, time
    import numpy as np
    import cnn
    from cnn import functional
    first = threading.Thread(target=int)  # with the first of all, ThreadSanitizer begins one of its own
    first.start(), first.join()
    tasks = lambda: set(os.listdir("/proc/self/task"))
    def wait_for(condition):  # threads take a moment to begin and to end
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline
    def is_blocked(task, name):
        status = open(f"/proc/self/task/{task}/status").read()
        return int(status.split("SigBlk:")[1].split()[0], 16) >> (name - 1) & 1
    wait_for(lambda: str(first.native_id) not in tasks())
    before, x = tasks(), np.zeros((100, 1, 8, 8))
    cnn.set_num_threads(3)
    functional.relu(x)
    own = tasks() - before
    assert len(own) == 2, own
    for task in own:
        assert is_blocked(task, signal.SIGINT) and is_blocked(task, signal.SIGALRM)
        wait_for(lambda: not is_blocked(task, signal.SIGSEGV))
    functional.relu(x)
    assert tasks() - before == own, "the same threads again"
    cnn.set_num_threads(1)
    functional.relu(x)
    wait_for(lambda: tasks() == before)
    print("done")
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="Linux tells which threads there are")
def test_threads_come_and_go_and_leave_signals_to_python():
    result = run_python("-c", OWN_THREADS)
    assert result.stdout == "done\n", result.stderr


MANY_RUNS = """
    import time
    import numpy as np
    import cnn
    cnn.set_num_threads(3)
    model = cnn.Sequential(cnn.Conv2d(1, 4, 3), cnn.ReLU(), cnn.Flatten(), cnn.Linear(64, 3))
    x, dy, end = np.ones((48, 1, 6, 6), np.float32), np.ones((48, 3), np.float32), time.monotonic() + 2
    while time.monotonic() < end:
        model(x)
        model.backward(dy)
    print("done")
"""


def test_a_run_may_begin_while_a_thread_still_ends_the_one_before():
    """It may lose its core while it does. `scripts/sanitize.sh delays` lets that happen all the time."""
    result = run_python("-W", "ignore", "-c", MANY_RUNS, timeout=60)
    assert result.stdout == "done\n", result.stderr


NO_MORE_THREADS = """
    import resource
    import numpy as np
    import cnn
    from cnn import functional, models
    model, x = models.lenet5(image_size=16), np.random.default_rng(0).standard_normal((100, 1, 16, 16), np.float32)
    def results():
        y = model(x)
        model.backward(y)
        return [y, *(p.grad for p in model.parameters())]
    cnn.set_num_threads(1)
    wanted = results()
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    stack = resource.getrlimit(resource.RLIMIT_STACK)[0]
    if stack < 0 or stack > 1 << 30:
        stack = 2 << 20
    resource.setrlimit(resource.RLIMIT_AS, (used + stack // 2, -1))  # too little for one stack
    import threading
    try:
        threading.Thread(target=print).start()
        raise SystemExit("a thread began all the same")
    except RuntimeError:
        pass
    cnn.set_num_threads(4)
    assert all(np.array_equal(a, b) for a, b in zip(results(), wanted, strict=True))
    print("done")
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="limits of memory as Linux has them")
def test_whoever_is_there_does_the_work_of_threads_that_never_come():
    result = run_python("-c", NO_MORE_THREADS)
    assert result.stdout == "done\n", result.stdout + result.stderr


def test_importing_it_leaves_the_environment_alone():
    code = "import os; before = dict(os.environ); import cnn; print(dict(os.environ) == before)"
    assert run_python("-c", code).stdout == "True\n"


FORK = """
    import os, signal
    import numpy as np
    import cnn
    from cnn import functional, reference
    cnn.set_num_threads({threads})
    x, w = np.random.default_rng(0).standard_normal((100, 1, 8, 8)), np.ones((2, 1, 3, 3))
    wanted = reference.conv2d(x, w)
    right = lambda: np.allclose(functional.conv2d(x, w), wanted)
    assert right()
    child = os.fork()
    if child == 0:
        signal.alarm(10)  # ends it where it hangs
        os._exit(0 if right() else 1)
    assert os.waitpid(child, 0)[1] == 0 and right()
    print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("count", [1, 2])
def test_after_a_fork(count):
    result = run_python("-c", FORK.format(threads=count), timeout=60)
    assert result.stdout == "done\n", result.stderr
