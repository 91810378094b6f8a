"""Memory of large outputs: kept for the next run, bounded, never shared, safe in threads and after a fork."""

import os
import resource
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import paddle
import pytest
from helpers import require_channels_last_operators

from ppreplk.ops import onednn

MAX_KEPT = 512 << 20  # kMaxKept in outputs.h
SIDE = 320  # a map of 13 MB with 32 channels


@pytest.fixture(autouse=True)
def operators():
    require_channels_last_operators()
    onednn.release()
    yield
    onednn.release()


def images(batch=1, fill=None):
    """(N, SIDE, SIDE, 32) of an operator's, in memory that is kept: random numbers, or all the same."""
    shape = [batch, 32, SIDE, SIDE]
    return onednn.images(paddle.randn(shape) if fill is None else paddle.full(shape, fill), bfloat16=False)


def page_faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def test_memory_is_used_again():
    x = paddle.randn([1, 32, SIDE, SIDE])
    first = onednn.images(x, False)
    where = first.data_ptr()
    assert onednn.kept_bytes() == 0
    del first
    assert onednn.kept_bytes() == SIDE * SIDE * 32 * 4
    before = page_faults()
    second = onednn.images(x, False)
    pages = SIDE * SIDE * 32 * 4 // resource.getpagesize()
    assert second.data_ptr() == where and onednn.kept_bytes() == 0
    assert page_faults() - before < pages / 4
    assert np.array_equal(second.numpy(), x.numpy().transpose(0, 2, 3, 1))


def test_tensors_that_live_share_nothing():
    kept = [images(fill=float(number)) for number in range(6)]
    del kept[::2]
    more = [images(fill=float(number)) for number in range(10, 14)]
    assert len({tensor.data_ptr() for tensor in kept + more}) == 7
    values = [float(tensor.min()) for tensor in kept + more] + [float(tensor.max()) for tensor in kept + more]
    assert values == [1, 3, 5, 10, 11, 12, 13] * 2


def test_other_sizes_do_not_take_much_more_than_they_need():
    large = images(batch=3)
    del large
    kept = onednn.kept_bytes()
    small = images()
    assert onednn.kept_bytes() == kept, "memory of three images would not do for one"
    two = images(batch=2, fill=2.0)
    assert onednn.kept_bytes() == 0 and (float(two.min()), float(two.max())) == (2, 2)
    del small, two
    assert onednn.kept_bytes() == kept + kept // 3


def test_what_is_kept_is_bounded():
    tensors = [images(batch=2) for _ in range(22)]  # 577 MB
    last = tensors[-1].data_ptr()
    while tensors:
        del tensors[0]
        assert onednn.kept_bytes() <= MAX_KEPT
    assert onednn.kept_bytes() > MAX_KEPT * 3 // 4
    again = [images(batch=2) for _ in range(20)]  # all that is kept: what was freed last is among it
    assert onednn.kept_bytes() == 0 and last in [tensor.data_ptr() for tensor in again]
    del again
    huge = onednn.images(paddle.zeros([42, 32, SIDE, SIDE]), False)  # 551 MB
    del huge
    assert onednn.kept_bytes() <= MAX_KEPT
    onednn.release()
    assert onednn.kept_bytes() == 0


def test_small_outputs_are_not_kept():
    small = onednn.images(paddle.randn([1, 3, 32, 32]), False)
    del small
    assert onednn.kept_bytes() == 0


def test_threads():
    def repeat(number):
        for turn in range(30):
            tensors = [images(fill=float(number * 100 + turn + part)) for part in range(2)]
            values = [float(tensor.min()) for tensor in tensors] + [float(tensor.max()) for tensor in tensors]
            assert values == [number * 100 + turn, number * 100 + turn + 1] * 2
        return number

    with ThreadPoolExecutor(3) as pool:
        assert sum(pool.map(repeat, range(3), timeout=120)) == 3
    assert 0 < onednn.kept_bytes() <= MAX_KEPT


def test_forks():
    """A child that forked while another thread took and gave memory takes and gives it itself."""
    stop = False

    def give_and_take():
        while not stop:
            images(fill=1.0)

    x = paddle.full([1, 32, SIDE, SIDE], 2.0)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(give_and_take)
        try:
            for _ in range(5):
                child = os.fork()
                if child == 0:
                    code = 1
                    try:
                        tensors = [onednn.images(x, False) for _ in range(2)]
                        code = 0 if all(float(tensor.numpy().max()) == 2 for tensor in tensors) else 3
                    finally:
                        os._exit(code)
                _, status = os.waitpid(child, 0)
                assert os.waitstatus_to_exitcode(status) == 0
        finally:
            stop = True
        other.result(timeout=60)
