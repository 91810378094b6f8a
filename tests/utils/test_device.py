"""The device, its math threads and its memory; seeds."""

import platform
import subprocess
import sys

import paddle
import pytest
import threadpoolctl
from helpers import ROOT, refused

from ppreplk.utils.cores import default_threads
from ppreplk.utils.device import set_threads, set_up_device
from ppreplk.utils.seeds import choose_seed, seed_step


@pytest.fixture(autouse=True)
def threads_as_before():
    yield
    set_threads(default_threads())


def threads() -> set[int]:
    return {pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "openmp"}


@pytest.mark.parametrize("count, text", [(1, "device cpu with 1 math thread"), (2, "device cpu with 2 math threads")])
def test_threads_are_those_of_the_setting(count, text):
    assert set_up_device("cpu", count) == text
    assert threads() == {count}


def test_threads_without_a_setting():
    assert f"{default_threads()} math thread" in set_up_device("cpu")
    assert threads() == {default_threads()}


@pytest.mark.skipif(paddle.is_compiled_with_cuda(), reason="this Paddle has the device")
def test_a_device_that_is_not_there():
    with refused("utils.no-device", "Global.device: this Paddle cannot use 'gpu'", "-o Global.device=cpu"):
        set_up_device("gpu")


def test_seeds():
    assert choose_seed(7) == 7 and choose_seed(None) != choose_seed(None)
    draws = []
    for step in ((0, 1, 2), (0, 1, 2), (0, 1, 3), (0, 2, 2), (1, 1, 2)):
        seed_step(*step)
        draws.append(paddle.rand([4]).numpy().tobytes())
    assert draws[0] == draws[1] and len(set(draws)) == 4


NEW_PAGES = """
import resource, numpy as np
from ppreplk.utils.device import keep_freed_memory

kept = keep_freed_memory()
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arrays = [np.empty(2**22) for _ in range(4)]  # 32 MB each
    for array in arrays:
        array.fill(1.0)
    del array, arrays
    pages = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(kept, pages)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_memory_that_was_freed_is_used_again_without_new_pages():
    command = [sys.executable, "-c", NEW_PAGES]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    kept, pages = process.stdout.split()
    assert kept == "True" and int(pages) < 1000  # of 32768
