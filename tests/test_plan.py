"""Programs: tensors with borders and views, operations that are written wrongly, batches of any size."""

import numpy as np
import pytest

from cnn import AdaptiveMaxPool2d, Conv2d, Flatten, Linear, MaxPool2d, Sequential
from cnn.engine import memory
from cnn.engine.program import Program
from cnn.graph.lower import write


def run(program, x, shape):
    y = np.empty((len(x), *shape))
    program.run(len(x), x=x, y=y)
    return y


def images(n=18, *shape):
    return np.random.default_rng(0).standard_normal((n, *(shape or (2, 3, 4))))


@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 18])
def test_pack_and_unpack(n):
    program = Program(np.float64, 18)
    program.output(program.input(2, 3, 4))
    assert np.array_equal(run(program, images(n), (2, 3, 4)), images(n))


def test_sixteen_images_lie_side_by_side():
    program = Program(np.float64, 18, keep=True)
    t = program.input(2, 3, 4)
    program.output(t)
    run(program, images(), (2, 3, 4))
    assert t.plane == 3 * 4 * 16 + 16  # an odd number of rows of sixteen
    blocks = t.array.reshape(2, -1)[:, : 2 * t.plane].reshape(2, 2, t.plane)[..., :-16].reshape(2, 2, 3, 4, 16)
    assert np.array_equal(blocks[0], images()[:16].transpose(1, 2, 3, 0))
    assert np.array_equal(blocks[1, ..., :2], images()[16:].transpose(1, 2, 3, 0))
    assert not blocks[1, ..., 2:].any()  # lanes without an image


def test_a_border_is_made_of_zeros():
    program = Program(np.float64, 16, keep=True)
    t = program.bordered(program.bordered(program.input(2, 3, 4), 1, 0), 0, 2)
    program.output(t)
    assert np.array_equal(run(program, images(16), (2, 3, 4)), images(16))
    assert (t.left, t.right, t.row, t.plane) == (1, 2, 7 * 16, 3 * 7 * 16)
    rows = t.array[0, : 2 * t.plane].reshape(2, 3, 7, 16)
    assert np.array_equal(rows[:, :, 1:5], images(16).transpose(1, 2, 3, 0))
    assert not rows[:, :, 0].any() and not rows[:, :, 5:].any()


def test_a_view_is_the_same_numbers_in_another_shape():
    program = Program(np.float64, 18)
    program.output(program.view(program.view(program.input(2, 3, 4), 24, flat=True), 4, 3, 2))
    assert np.array_equal(run(program, images(), (4, 3, 2)), images().reshape(18, 4, 3, 2))


def test_views_and_borders_together():
    """What has a border is copied before it is viewed, and what is viewed before it gets a border."""
    for first in ("border", "view"):
        program = Program(np.float64, 18)
        t = program.input(2, 3, 4)
        if first == "border":
            t = program.view(program.bordered(t, 1, 1), 4, 3, 2)
        else:
            t = program.bordered(program.view(t, 4, 3, 2), 1, 1)
        program.output(t)
        assert np.array_equal(run(program, images(), (4, 3, 2)), images().reshape(18, 4, 3, 2))


def test_a_border_after_the_program_has_run():
    program = Program(np.float64, 18, keep=True)
    t = program.input(2, 3, 4)
    program.output(t)
    run(program, images(), (2, 3, 4))
    program.begin("later")
    bordered = program.bordered(t, 1, 1)
    assert bordered is not t
    program.output(bordered, "again")
    again = np.empty((18, 2, 3, 4))
    program.run(18, "later", again=again)
    assert np.array_equal(again, images())


def test_phases_run_one_by_one():
    program = Program(np.float64, 18, keep=True)
    x = program.input(2, 3, 4)
    program.begin("second")
    program.output(x)
    assert not program.has("second")
    program.compile("second")
    assert program.has("second") and not program.has("third")
    y = np.zeros((18, 2, 3, 4))
    program.run(18, x=images())
    assert not y.any()
    program.run(18, "second", y=y)
    assert np.array_equal(y, images())


def test_what_is_used_on_both_sides_of_a_cut_outlives_it(set_threads):
    """Every block has its own copy then, also where it is only seen through a view; all others are a thread's."""
    set_threads(1)
    program = Program(np.float64, 50)
    x = program.input(2, 3, 4)
    inside, across = program.view(x, 24, flat=True), program.like(x)
    program.add("relu", lambda: dict(x=inside, y=program.view(across, 24, flat=True), **inside.pixels))
    program.cut()
    program.output(across)
    assert np.array_equal(run(program, images(50), (2, 3, 4)), np.maximum(images(50), 0))
    assert (len(x.array), len(across.array)) == (1, 4)


def test_tensors_that_are_never_in_use_at_once_share_an_array():
    program = Program(np.float64, 50)
    chain = [program.input(2, 3, 4)]
    for _ in range(4):
        chain.append(program.like(chain[-1]))
        program.add("tanh", lambda x=chain[-2], y=chain[-1]: dict(x=x, y=y, **x.pixels))
    with_border = program.bordered(program.like(chain[-1]), 1, 0)
    program.add("add", lambda: dict(a=chain[0], b=chain[-1], y=with_border, relu=False, **with_border.pixels))
    program.output(with_border)
    wanted = np.tanh(np.tanh(np.tanh(np.tanh(images(50)))))
    assert np.allclose(run(program, images(50), (2, 3, 4)), wanted + images(50), rtol=1e-12)
    arrays = [t.array for t in chain]
    assert arrays[1] is arrays[3] and arrays[2] is arrays[4]
    assert len({id(a) for a in [*arrays, with_border.array]}) == 4  # the first is read again at the end


@pytest.mark.parametrize("n", [1, 17, 300, 5000])
def test_shard_sums_add_up_every_block(n):
    """Sums over all images and pixels of each channel, whatever the number of blocks in a shard."""
    program, sums = Program(np.float64, n), np.full(2, 7.0)
    x = program.input(2, 3, 4)
    parts = program.shard_sum(sums, 2)
    program.add("bias_grad", lambda: dict(dy=x, db=parts, outputs=2, out_h=3, out_w=4))
    program.run(n, x=images(n))
    np.testing.assert_allclose(sums, images(n).sum(axis=(0, 2, 3)), rtol=1e-12, atol=1e-10)
    program.run(0, x=images(0))
    assert not sums.any()


def test_what_an_operation_lacks_or_does_not_know_is_named():
    for arguments in ({"channels": 1, "height": 1}, {"channels": 1, "height": 1, "width": 1, "depth": 1}):
        program = Program(np.float64, 1)
        x = program.tensor(1)
        program.add("relu", lambda: dict(x=x, y=x, **arguments))  # noqa: B023 (run at once)
        with pytest.raises(TypeError, match="relu: .*(width|depth)"):
            program.run(1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("pool", [(), [MaxPool2d(2)]])
def test_one_convolution_asks_for_all_that_threads_exchange(pool, dtype, set_threads):
    for threads in (1, 2):
        set_threads(threads)
        model = Sequential(Conv2d(1, 4, 3), *pool, Conv2d(4, 4, 3), AdaptiveMaxPool2d(3), Flatten(), Linear(36, 20),
                           Linear(20, 3)).to(dtype)
        program = Program(dtype, 40, gradients=True)
        (y,), backward = write(program, model.graph((1, 10, 10)), [program.input(1, 10, 10)])
        backward([program.like(y)], [False])
        program.run(40, x=np.zeros((40, 1, 10, 10), dtype))
        written = [(kernel, arguments()) for segment in program._compiled["forward"].phase.segments
                   for kernel, arguments, _ in segment.ops]
        asked = [values["ahead"].array for _, values in written if values.get("ahead") is not None]
        assert len(asked) == threads - 1
        rows = [values["y"].array for kernel, values in written if kernel == "to_rows"]
        assert len(rows) == 4
        for table in asked:
            for block in range(3):
                lines = [set(range(a[block].ctypes.data, a[block].ctypes.data + a[block].nbytes, 64)) for a in rows]
                assert sorted(table[block].tolist()) == sorted(set().union(*lines))


def test_an_activation_too_large_for_the_offsets():
    program = Program(np.float64, 1)
    program.output(program.input(2**10, 2**9, 2**8))
    with pytest.raises(ValueError, match="1024×512×256 is too large"):
        program.run(0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
@pytest.mark.parametrize("shape", [(), 0, 1, (3, 5), (2, 0, 7)])
def test_zeros_start_on_a_cache_line(shape, dtype):
    for _ in range(4):
        array = memory.zeros(shape, dtype)
        assert array.shape == np.zeros(shape).shape and array.dtype == dtype and not array.any()
        assert array.ctypes.data % 64 == 0 or array.size == 0
        assert array.flags.c_contiguous and array.flags.writeable


@pytest.mark.parametrize("size", [16, 64, 100])     # the last is no multiple of a page
def test_arrays_begin_at_places_of_their_pages_that_are_far_apart(size):
    """Else what is loaded from one seems to be what has just been stored to another."""
    program = Program(np.float32, 16)
    chain = [program.input(size, 8, 8)]
    for _ in range(7):
        chain.append(program.like(chain[-1]))
        program.add("tanh", lambda x=chain[-2], y=chain[-1]: dict(x=x, y=y, **x.pixels))
    for x in chain[:-1]:        # all are in use until here
        program.add("add", lambda x=x, y=chain[-1]: dict(a=x, b=y, y=y, relu=False, **y.pixels))
    program.run(0, x=np.zeros((0, size, 8, 8), np.float32))
    places = sorted(x.array.ctypes.data // memory.CACHE_LINE % 64 for x in chain)
    assert len({x.array.ctypes.data for x in chain}) == 8
    assert min((b - a) % 64 for a, b in zip(places, places[1:] + places[:1], strict=True)) >= 8
