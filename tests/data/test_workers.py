"""Loader processes: what they leave behind, and how they end."""

import multiprocessing.context
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import refused

from ppreplk.data import ImageNetDataset, Loader
from ppreplk.data.workers import FORK_IS_SAFE, PREFETCH_FACTOR, WorkerPool
from ppreplk.utils.errors import UserError

pytestmark = pytest.mark.skipif(not FORK_IS_SAFE, reason="loader processes need Linux")


def children(pid: int) -> set[int]:
    """The processes that ``pid`` started and that have not ended."""
    found = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        found |= {int(child) for child in (task / "children").read_text().split()}
    return {child for child in found if alive(child)}


def alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
    threads = re.search(r"^Threads:\s+(\d+)", status, re.MULTILINE)
    others = threads is not None and int(threads[1]) > 1  # threads that still end: the process cannot be waited for yet
    return others or not re.search(r"^State:\s+[ZX]", status, re.MULTILINE)


def wait_for_the_end(pids, seconds=10.0) -> None:
    deadline = time.monotonic() + seconds
    while any(map(alive, pids)):
        assert time.monotonic() < deadline, f"still alive after {seconds} s: {pids}"
        time.sleep(0.01)


def shared_files(*pids: int) -> list[str]:
    """What these processes have mapped from /dev/shm. (The folder itself has files of other programs, too.)"""
    return [line for pid in pids for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if "/dev/shm/" in line]


def held() -> tuple[set[int], list[str], int, int]:
    """What this process holds: children, files in shared memory, descriptors, memory mappings without a file."""
    buffers = Path("/proc/self/maps").read_text().count("/dev/zero (deleted)")
    return children(os.getpid()), shared_files(os.getpid()), len(os.listdir("/proc/self/fd")), buffers


class Numbers(ImageNetDataset):
    """Image ``i`` is full of ``i``."""

    slow = None  # the index of an image that takes for ever

    def __init__(self, count):
        self.count, self.source, self.seed, self.epoch = count, "numbers", 0, 0

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index == self.slow:
            time.sleep(1000)
        return np.full((3, 8, 8), index, np.float32), index % 5, index


def loader(count=23, batch_size=4, workers=2, shared=True) -> Loader:
    return Loader(Numbers(count), batch_size, False, False, num_workers=workers, use_shared_memory=shared)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("workers", [1, 2, 3, 9])
def test_batches_come_in_order_and_are_copies(workers, shared):
    batches = list(loader(workers=workers, shared=shared))  # all kept, so buffers have been used again since
    images = np.concatenate([images.numpy()[:, 0, 0, 0] for images, _ in batches])
    labels = np.concatenate([labels.numpy() for _, labels in batches])
    assert images.tolist() == list(range(23)) and labels.tolist() == [index % 5 for index in range(23)]
    assert len(batches) == 6 and batches[-1][0].shape == [3, 3, 8, 8]


def test_a_batch_that_is_larger_than_the_first_image_promises():
    class Growing(Numbers):
        def __getitem__(self, index):
            return np.full((3, 8 + index, 8), index, np.float32), 0, index

    images = [images for images, _ in Loader(Growing(7), 1, False, False, num_workers=2)]
    assert [image.shape for image in images] == [[1, 3, 8 + index, 8] for index in range(7)]
    assert all((image.numpy() == index).all() for index, image in enumerate(images))


@pytest.mark.parametrize("taken", [0, 1, 3, None])
def test_nothing_is_left_after_an_epoch_finished_or_not(taken):
    batches = loader()
    list(batches)
    before = held()
    for epoch in range(6):
        batches.set_epoch(epoch)
        for number, _ in enumerate(batches):
            workers = children(os.getpid()) - before[0]
            files = {line.split()[5] for line in shared_files(os.getpid(), *workers)}
            assert len(workers) == 2 and files == {line.split()[5] for line in before[1]}
            if taken is not None and number + 1 >= taken:
                break
        assert held() == before, f"after epoch {epoch}"


def test_an_iterator_that_is_dropped_ends_its_processes_although_they_are_busy():
    before = held()
    batches = loader()
    batches.dataset.slow = 6  # of the second batch
    iterator = iter(batches)
    next(iterator)
    pids = children(os.getpid()) - before[0]
    assert len(pids) == 2
    del iterator
    assert held() == before


def test_an_error_ends_the_processes():
    class Failing(Numbers):
        def __getitem__(self, index):
            if index == 9:
                raise UserError("broken", code="data.of-a-test")
            return super().__getitem__(index)

    before = held()
    with refused("data.of-a-test", "broken"):
        list(Loader(Failing(23), 4, False, False, num_workers=2))
    assert held() == before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV])
def test_a_killed_worker_is_one_line(number):
    before = held()
    iterator = iter(loader(count=200))
    next(iterator), next(iterator)  # both workers are at work
    victim = max(children(os.getpid()) - before[0])
    os.kill(victim, number)
    with refused("data.worker-died", number.name, "loader.num_workers"):
        list(iterator)
    assert held() == before


def test_a_worker_killed_while_the_main_process_waits_for_it():
    before = held()
    batches = loader(workers=1)
    batches.dataset.slow = 4
    iterator = iter(batches)
    next(iterator)
    (victim,) = children(os.getpid()) - before[0]
    killer = subprocess.Popen([sys.executable, "-c", f"import os, time; time.sleep(0.5); os.kill({victim}, 9)"])
    with refused("data.worker-died", "SIGKILL", "memory"):
        next(iterator)
    killer.wait()
    assert held() == before


def test_a_killed_worker_is_noticed_although_its_batches_have_all_been_made():
    before = held()
    iterator = iter(loader(count=16))
    next(iterator)
    time.sleep(0.3)
    victim = max(children(os.getpid()) - before[0])
    os.kill(victim, signal.SIGKILL)
    wait_for_the_end([victim])
    with refused("data.worker-died", "SIGKILL"):
        list(iterator)


def test_an_interrupt_while_an_iterator_is_disposed_of_is_not_lost(monkeypatch):
    before = held()
    iterator = iter(loader(count=60))
    next(iterator)
    kill = multiprocessing.context.ForkProcess.kill

    def interrupted_kill(process):
        os.kill(os.getpid(), signal.SIGINT)
        kill(process)

    monkeypatch.setattr(multiprocessing.context.ForkProcess, "kill", interrupted_kill)
    with pytest.raises(KeyboardInterrupt):
        del iterator
        assert held()[0] == before[0]
        time.sleep(5)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_interrupt_while_processes_start_ends_them(monkeypatch, moment):
    before = held()
    start = multiprocessing.context.ForkProcess.start

    def interrupted_start(process):
        if moment == "after":
            start(process)
        os.kill(os.getpid(), signal.SIGINT)
        if moment == "before":
            start(process)

    monkeypatch.setattr(multiprocessing.context.ForkProcess, "start", interrupted_start)
    with pytest.raises(KeyboardInterrupt):
        for _ in loader(count=60):
            time.sleep(0.1)
    assert held()[:2] == before[:2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_workers_ignore_signals_to_all_processes_of_a_job(number):
    """The main process, which gets them too, ends them or lets them finish."""
    before = held()
    iterator = iter(loader(count=60))
    next(iterator)
    for pid in children(os.getpid()) - before[0]:
        os.kill(pid, number)
    assert len(list(iterator)) == 14
    assert held() == before


def test_processes_that_cannot_be_started_are_one_line(monkeypatch):
    def refuse(process):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    before = held()
    monkeypatch.setattr("multiprocessing.context.ForkProcess.start", refuse)
    with refused("data.no-worker", "2 loader processes", "Resource temporarily unavailable"):
        list(loader())
    assert held() == before


def test_there_are_no_more_processes_than_batches():
    before = held()
    with WorkerPool(lambda indices: (np.zeros(1), np.zeros(1)), [[0], [1]], num_workers=8, buffer_size=64) as pool:
        assert len(pool.workers) == len(children(os.getpid()) - before[0]) == 2
        assert len(pool.workers[0].buffers) == PREFETCH_FACTOR


PROGRAM = """
import os, sys, time
from test_workers import Numbers, children
from ppreplk.data import Loader

slow = Numbers(400)
slow.slow = 5
train, evaluation = (Loader(data, 4, False, False, num_workers=2) for data in (slow, Numbers(400)))
first, second = iter(train), iter(evaluation)
next(first), next(second)  # a worker of the first goes on to the image that takes for ever
try:
    print(*sorted(children(os.getpid())), flush=True)
    if sys.argv[1] == "sleep":
        time.sleep(100)
    for _ in first:
        pass
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def start(argument: str) -> tuple[subprocess.Popen, set[int]]:
    """A program in a session of its own that loads from two data sets, and its loader processes."""
    paths = [str(Path(__file__).parent), str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, argument]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    pids = {int(pid) for pid in process.stdout.readline().split()}
    assert len(pids) == 4, process.stderr.read() if process.poll() is not None else pids
    return process, pids


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_when_the_main_process_is_killed_its_loader_processes_end(number):
    process, pids = start("sleep")
    with process:
        assert shared_files(process.pid, *pids) == []
        os.kill(process.pid, number)
        process.communicate()  # ends although the loader processes have inherited the pipes: they have ended
        assert process.returncode == -number
        wait_for_the_end(pids)


def test_an_interrupt_to_all_of_them_ends_all_of_them_without_a_traceback():
    process, pids = start("wait")
    with process:
        os.killpg(process.pid, signal.SIGINT)
        output, errors = process.communicate()
    assert output == "interrupted\n" and errors == "" and process.returncode == 0
    wait_for_the_end(pids)
