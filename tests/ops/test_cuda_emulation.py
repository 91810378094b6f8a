"""The emulation of CUDA that test_cuda_kernels.py relies on: it finds the faults it is there to find."""

import ctypes
from pathlib import Path

import numpy as np
import pytest
from cuda_library import COMPILE, EMULATION

from ppreplk.ops import compiler

COUNT = 48
TURN, RACE, MISSED_BARRIER, OTHER_BARRIER, BEHIND_THE_END, NEVER_WRITTEN = range(6)


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    command = compiler.find_compiler()
    if command is None or not Path(command[0]).name.startswith("g++"):
        pytest.skip("no g++")
    path = tmp_path_factory.mktemp("faults") / "libfaults.so"
    sources = [str(Path(__file__).parent / "cuda_faults.cu"), str(EMULATION / "cuda_emulation.cpp")]
    compiler.run([*command, *COMPILE, "-x", "c++", *sources, "-shared", "-o", str(path)])
    library = ctypes.CDLL(str(path))
    library.fault.restype = ctypes.c_char_p
    return library


def run(library, which, order=0, threads=COUNT, blocks=1):
    numbers = np.arange(1, COUNT + 1, dtype=np.float32)
    library.ppreplk_emulated_order(order)
    code = library.faulty(which, ctypes.c_void_p(numbers.ctypes.data), COUNT, threads, blocks)
    return code, numbers


@pytest.mark.parametrize("order", [0, 1, 2, 7])
def test_a_right_kernel_is_right_in_every_order(faults, order):
    code, numbers = run(faults, TURN, order)
    assert code == 0
    np.testing.assert_array_equal(numbers, np.arange(COUNT, 0, -1))
    code, numbers = run(faults, TURN, order, blocks=2)
    assert code == 0
    np.testing.assert_array_equal(numbers, np.arange(1, COUNT + 1))


def test_a_race_shows_between_two_orders(faults):
    results = [run(faults, RACE, order)[1] for order in (0, 1, 2)]
    assert not np.array_equal(results[0], results[1], equal_nan=True)
    assert not np.array_equal(results[0], results[2], equal_nan=True)


@pytest.mark.parametrize(
    "which,message",
    [
        (MISSED_BARRIER, "not at the same barrier"),
        (OTHER_BARRIER, "not at the same barrier"),
        (BEHIND_THE_END, f"wrote behind its {4 * COUNT} bytes"),
    ],
)
def test_faults_are_errors(faults, which, message):
    code, _ = run(faults, which)
    assert code == 1001 and message in faults.fault().decode()
    assert run(faults, TURN)[0] == 0, "and the next launch is as ever"


def test_shared_memory_is_not_a_number_at_first(faults):
    code, numbers = run(faults, NEVER_WRITTEN)
    assert code == 0 and np.isnan(numbers).all()


def test_launches_that_no_device_takes(faults):
    for threads, blocks, message in ((1025, 1, "1025 threads"), (0, 1, "0 threads"), (COUNT, 0, "a grid of 0")):
        code, _ = run(faults, TURN, threads=threads, blocks=blocks)
        assert code == 1001 and message in faults.fault().decode()
    faults.ppreplk_emulated_shared_bytes(4 * COUNT - 1)
    code, _ = run(faults, TURN)
    faults.ppreplk_emulated_shared_bytes(227 << 10)
    assert code == 1001 and "191" not in faults.fault().decode() and "bytes of shared memory" in faults.fault().decode()


def test_half_types_round_to_nearest(faults):
    rng = np.random.default_rng(0)
    values = (rng.standard_normal(20000) * 10.0 ** rng.integers(-9, 6, 20000)).astype(np.float32)
    ties = (np.arange(1, 257) * 2.0**-12 + 1).astype(np.float32)  # half of them lie between two numbers
    values = np.concatenate([values, ties, [0.0, -0.0, np.inf, -np.inf, np.nan]]).astype(np.float32)
    halves, bfloats = np.empty_like(values), np.empty_like(values)
    faults.through_half(*(ctypes.c_void_p(array.ctypes.data) for array in (values, halves, bfloats)), values.size)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(halves, values.astype(np.float16).astype(np.float32))
    finite = np.isfinite(values)
    # The candidates of bfloat16: cut off, and the next one away from zero; the nearer one, or of two the even one.
    bits = values[finite].view(np.uint32)
    low = (bits & 0xFFFF0000).view(np.float32).astype(np.float64)
    high = ((bits & 0xFFFF0000) + 0x10000).view(np.float32).astype(np.float64)
    exact = values[finite].astype(np.float64)
    to_low, to_high = np.abs(exact - low), np.abs(exact - high)
    even = (bits >> 16) % 2 == 0
    expected = np.where((to_low < to_high) | ((to_low == to_high) & even), low, high)
    np.testing.assert_array_equal(bfloats[finite], expected.astype(np.float32))
    np.testing.assert_array_equal(bfloats[~finite], values[~finite])


def test_division_by_a_known_number(faults):
    assert faults.wrong_quotients(300, 20000) == 0
