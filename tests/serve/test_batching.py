"""Batches across requests: what is computed together, in which order, and what happens to errors."""

import threading
import time
from concurrent.futures import CancelledError, wait

import numpy as np
import pytest

from ppreplk.serve.batching import Batcher, QueueFull


class Recorder:
    """A program that returns each image's first value, and remembers its batches."""

    def __init__(self):
        self.batches: list[list[int]] = []
        self.topk: list[int] = []
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self, images, topk):
        self.go_on.wait(10)
        values = [int(image.flat[0]) for image in images]
        assert len({image.shape for image in images}) == 1
        self.batches.append(values)
        self.topk.append(topk)
        if 13 in values:
            raise ArithmeticError("thirteen")
        return values


def image(value: int, side: int = 2) -> np.ndarray:
    return np.full((3, side, side), value, np.float32)


def submit(batcher, *images, topk=1):
    with batcher.announce(len(images)):
        return batcher.submit(images, topk)


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def batcher(recorder):
    batcher = Batcher(recorder, max_batch=4, max_wait=0.2, limit=12)
    yield batcher
    recorder.go_on.set()
    batcher.close()
    assert not batcher.is_alive


def hold(batcher, recorder):
    """Let the program be busy with image 0."""
    recorder.go_on.clear()
    future = submit(batcher, image(0))[0]
    while batcher.waiting:
        time.sleep(0.001)
    return future


def test_images_that_come_while_the_program_runs_are_computed_together(batcher, recorder):
    futures = [hold(batcher, recorder)]
    for value in range(1, 7):
        futures += submit(batcher, image(value), topk=value)
    recorder.go_on.set()
    assert [future.result(5) for future in futures] == list(range(7))
    assert recorder.batches == [[0], [1, 2, 3, 4], [5, 6]]
    assert recorder.topk == [1, 4, 6]


def test_one_shape_at_a_time_oldest_first(batcher, recorder):
    futures = [hold(batcher, recorder)]
    for value, side in enumerate((5, 2, 5, 2, 3), 1):
        futures += submit(batcher, image(value, side))
    recorder.go_on.set()
    assert [future.result(5) for future in futures] == list(range(6))
    assert recorder.batches == [[0], [1, 3], [2, 4], [5]]


def test_a_single_image_does_not_wait(batcher, recorder):
    start = time.perf_counter()
    submit(batcher, image(1))[0].result(5)
    assert time.perf_counter() - start < 0.15


def test_an_image_waits_for_those_that_are_announced(batcher, recorder):
    with batcher.announce(1):
        first = submit(batcher, image(1))
        time.sleep(0.05)
        second = batcher.submit([image(2)], 1)
    wait([*first, *second], 5)
    assert recorder.batches == [[1, 2]]


def test_it_waits_no_longer_than_it_may(batcher, recorder):
    start = time.perf_counter()
    with batcher.announce(1):
        submit(batcher, image(1))[0].result(5)
        assert 0.15 < time.perf_counter() - start < 2


def test_a_full_queue(batcher, recorder):
    hold(batcher, recorder)
    futures = submit(batcher, *map(image, range(1, 11)))
    with pytest.raises(QueueFull):
        submit(batcher, *map(image, range(3)))
    with batcher.announce(2), pytest.raises(QueueFull):
        submit(batcher, image(1))
    futures += submit(batcher, image(11))
    recorder.go_on.set()
    assert [future.result(5) for future in futures] == list(range(1, 12))


def test_errors_reach_those_who_wait_and_the_thread_lives(batcher, recorder):
    first = hold(batcher, recorder)
    futures = submit(batcher, image(13), image(1))
    recorder.go_on.set()
    for future in futures:
        with pytest.raises(ArithmeticError):
            future.result(5)
    assert first.result(5) == 0
    assert submit(batcher, image(5))[0].result(5) == 5


def test_what_is_cancelled_is_not_computed(batcher, recorder):
    hold(batcher, recorder)
    futures = submit(batcher, image(1), image(2), image(3))
    assert futures[1].cancel()
    recorder.go_on.set()
    assert futures[2].result(5) == 3
    assert recorder.batches == [[0], [1, 3]]
    with pytest.raises(CancelledError):
        futures[1].result(5)


def test_closing_computes_what_is_queued(recorder):
    batcher = Batcher(recorder, 4, 0.2, 12)
    futures = [hold(batcher, recorder), *submit(batcher, image(1), image(2))]
    threading.Timer(0.1, recorder.go_on.set).start()
    batcher.close()
    assert [future.result(0) for future in futures] == [0, 1, 2]
    with pytest.raises(RuntimeError):
        submit(batcher, image(1))
