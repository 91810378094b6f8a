"""The CUDA device code without a GPU: compiled for this processor, its threads as fibers, against float64.

What this cannot see: races within a warp, how many blocks fit on a multiprocessor, and speed.
"""

import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cuda_library
import numpy as np
import pytest
from cuda_library import BFLOAT16, FLOAT16, FLOAT32, Kernels, read, stored
from depthwise_cases import CORNERS, operands, reference, sampled_shapes
from helpers import ROOT

from ppreplk.ops import compiler

TURING, LARGEST = 64 << 10, 227 << 10  # bytes of shared memory of a block, sm_75 and sm_90
ALGORITHMS = {
    "direct": [(3, 2, 14, 15, 5), (2, 3, 9, 33, 3), (1, 1, 70, 65, 11), (2, 2, 1, 130, 7), (9, 1, 8, 8, 1)],
    "small": [(3, 2, 7, 7, 13), (2, 3, 5, 8, 31), (35, 1, 8, 3, 9), (1, 3, 1, 1, 127)],
    "spectral": [
        *[(3, 1, length - 6, length // 2, 13) for length in (16, 24, 28, 32, 40, 42, 48, 56, 64, 72)],
        *[(2, 1, length - 15, 9, 31) for length in (80, 96, 112, 128)],
        (9, 2, 9, 10, 13),  # groups of several pairs, the last of them not full
        (1, 1, 130, 40, 31),  # tiles
        (1, 1, 130, 129, 127),  # tiles, and windows of taps
        (2, 1, 1, 130, 13),
    ],
}
# Only where there are more groups than kManyBlocks of kernels.h: three of each channel here, and two for a block.
MANY_GROUPS = [(65, 768, 2, 8, 3), (65, 768, 2, 2, 9), (17, 768, 9, 2, 13)]
CASES = [(algorithm, shape) for algorithm, shapes in ALGORITHMS.items() for shape in shapes]


@pytest.fixture(scope="module")
def library():
    return cuda_library.load(cuda_library.emulated_library())


@pytest.fixture(autouse=True)
def as_found(request):
    yield
    if "library" in request.fixturenames:
        emulated = request.getfixturevalue("library")
        emulated.ppreplk_emulated_order(cuda_library.ASCENDING)
        emulated.ppreplk_emulated_shared_bytes(LARGEST)


def arrays(shape, dtype=FLOAT32, seed=0):
    x, weight, bias, dy = operands(*shape, seed=seed)
    return stored(x, dtype), stored(weight, dtype), bias, stored(dy, dtype)


def exact(x, weight, bias, dy, dtype):
    """y, dx, dweight, dx, dweight in float64, of the numbers as they are stored."""
    y, dx, dweight, _ = reference(*(read(value, dtype) for value in (x, weight)), bias, read(dy, dtype))
    return [y, dx, dweight, dx, dweight]


def check(library, shape, dtype=FLOAT32, seed=0):
    x, weight, bias, dy = arrays(shape, dtype, seed)
    received = Kernels(library, shape, dtype).everything(x, weight, bias, dy)
    for what, ours, expected in zip(
        ("y", "dx", "dweight", "dx of both", "dweight of both"), received, exact(x, weight, bias, dy, dtype)
    ):
        error, scale = np.abs(read(ours, dtype) - expected), np.abs(expected).max()
        if dtype == FLOAT32:
            assert error.max() <= 1e-5 * scale, (what, error.max() / scale)
        else:
            # The rounding to the dtype of the right result, and what float32 sums may add to it.
            rounding = np.abs(read(stored(expected, dtype), dtype) - expected)
            assert error.max() <= 2 * rounding.max() and error.mean() <= 1.1 * rounding.mean() + 1e-6 * scale, what


@pytest.mark.parametrize("algorithm,shape", CASES)
def test_output_and_gradients(library, algorithm, shape):
    assert library.ppreplk_cuda_algorithm(Kernels(library, shape).problem).decode() == algorithm
    check(library, shape)


@pytest.mark.parametrize("shape", MANY_GROUPS)
def test_blocks_that_take_several_groups(library, shape):
    """Of the batch, one after the other; the last block takes fewer."""
    check(library, shape)


@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16])
@pytest.mark.parametrize("shape", [shapes[0] for shapes in ALGORITHMS.values()] + [(1, 1, 130, 50, 127)])
def test_half_types(library, shape, dtype):
    check(library, shape, dtype)


def test_the_shapes_of_the_cpu_operator(library):
    for seed, (batch, channels, *sizes) in enumerate(CORNERS):
        check(library, (batch, min(channels, 3), *sizes), seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize("shared_bytes", [TURING, 99 << 10, LARGEST])
def test_sampled_shapes(library, shared_bytes):
    """python -m pytest -m slow tests/ops/test_cuda_kernels.py -k sampled"""
    library.ppreplk_emulated_shared_bytes(shared_bytes)
    rng = np.random.default_rng(shared_bytes)
    for number, (batch, _, height, width, kernel) in enumerate(sampled_shapes(120, seed=shared_bytes)):
        kernel = kernel if number % 3 else 2 * int(rng.integers(64)) + 1
        check(library, (batch, 1, height, width, kernel), dtype=number % 4 % 3, seed=number)


@pytest.mark.parametrize("shape", [shape for _, shape in CASES])
def test_the_order_of_threads_changes_nothing(library, shape):
    """Between barriers no thread touches what another writes."""
    values, kernels = arrays(shape), Kernels(library, shape)
    expected = kernels.everything(*values)
    for order in (cuda_library.DESCENDING, 2, 7):
        library.ppreplk_emulated_order(order)
        for ours, first in zip(kernels.everything(*values), expected):
            np.testing.assert_array_equal(ours, first)


@pytest.mark.parametrize("shape", [(2, 1, 100, 90, 51), (1, 1, 130, 40, 127)])
def test_devices_with_less_shared_memory(library, shape):
    library.ppreplk_emulated_shared_bytes(TURING)
    check(library, shape)


@pytest.mark.parametrize("shape", [shapes[0] for shapes in ALGORITHMS.values()])
def test_bias_relu_and_other_types_of_weights(library, shape):
    x, weight, bias, dy = arrays(shape)
    y = reference(x, weight, bias, dy)[0]
    kernels = Kernels(library, shape)
    for with_bias, relu in ((bias, True), (None, True), (None, False)):
        expected = y if with_bias is not None else y - bias[:, None, None]
        expected = np.maximum(expected, 0) if relu else expected
        received = kernels.forward(x, weight, with_bias, relu)
        np.testing.assert_allclose(received, expected, rtol=0, atol=1e-5 * np.abs(y).max())
        assert not relu or (received >= 0).all()
    mixed = Kernels(library, shape, FLOAT16, FLOAT32)
    half = stored(x, FLOAT16)
    np.testing.assert_array_equal(
        mixed.forward(half, read(stored(weight, FLOAT16), FLOAT16)),
        Kernels(library, shape, FLOAT16).forward(half, stored(weight, FLOAT16)),
    )
    dweight = mixed.gradient_weight(half, stored(dy, FLOAT16))
    assert dweight.dtype == np.float32


def test_values_that_are_no_numbers(library):
    for shape in (ALGORITHMS["direct"][0], ALGORITHMS["small"][0], ALGORITHMS["spectral"][0]):
        x, weight, bias, _ = arrays(shape)
        x[0, 0] = np.nan
        y = Kernels(library, shape).forward(x, weight, bias, relu=True)
        assert np.isnan(y[0, 0]).all() and np.isfinite(y[:, 1:]).all() and np.isfinite(y[2:]).all()


def test_an_empty_batch(library):
    for kernel in (3, 13):
        x, weight, bias, dy = arrays((0, 2, 5, 20, kernel))
        y, dx, dweight, _, both = Kernels(library, (0, 2, 5, 20, kernel)).everything(x, weight, bias, dy)
        assert y.shape == dx.shape == x.shape
        assert not dweight.any() and not both.any()


def test_wrong_arguments(library):
    size = ctypes.c_int64()
    text = library.ppreplk_cuda_error_text
    for problem, dtype, operation, message in (
        ((1, 2, 5, 5, 4), 0, 0, b"kernel must be odd and at most 127, not 4"),
        ((1, 2, 5, 5, 129), 0, 0, b"kernel must be odd and at most 127, not 129"),
        ((1, 2, 0, 5, 3), 0, 0, b"height must be 1 to 32768, not 0"),
        ((-1, 2, 5, 5, 3), 0, 0, b"batch must be 0 to 1048576, not -1"),
        ((2**20, 2**20, 5, 5, 3), 0, 0, b"more than 2^36 numbers"),
        ((2**20, 1, 1, 2**15, 13), 0, 0, b"a channel has more than 2^30 tiles"),
        ((1, 2, 5, 5, 3), 3, 0, b"there is no dtype 3"),
        ((1, 2, 5, 5, 3), 0, 4, b"there is no operation 4"),
    ):
        code = library.ppreplk_cuda_workspace(cuda_library.PROBLEM(*problem), dtype, operation, ctypes.byref(size))
        assert code == 1 and message in text(code), message
    shape = (1, 2, 20, 20, 13)
    x, weight, _, _ = arrays(shape)
    y = np.zeros_like(x)
    sizes = cuda_library.PROBLEM(*shape)
    pointers = [x.ctypes.data, weight.ctypes.data, None, 0, y.ctypes.data]
    code = library.ppreplk_cuda_forward(sizes, 0, 0, *pointers, None, 0, None)
    assert code == 2 and b"workspace" in text(code)
    assert text(0) == b"no error" and text(3) == b"an unknown error"
    assert library.ppreplk_cuda_algorithm(cuda_library.PROBLEM(1, 1, 1, 1, 2)) is None


def test_the_header_is_plain_c_and_all_of_it_is_there(library, tmp_path):
    header = (cuda_library.SOURCES / "depthwise.h").read_text()
    for name in set(re.findall(r"\b(ppreplk_cuda_\w+)\(", header)):
        assert getattr(library, name), name
    assert library.ppreplk_cuda_abi() == int(re.findall(r"PPREPLK_CUDA_ABI = (\d+)", header)[0])
    if shutil.which("gcc"):
        source = tmp_path / "use.c"
        source.write_text('#include "depthwise.h"\n')
        flags = ["-std=c99", "-pedantic", "-Wall", "-Werror", f"-I{cuda_library.SOURCES}"]
        compiler.run(["gcc", *flags, "-c", str(source), "-o", str(tmp_path / "use.o")])


def test_the_device_code_knows_no_framework():
    for path in cuda_library.SOURCES.iterdir():
        for name in re.findall(r"#include [<\"](.+)[>\"]", path.read_text()):
            known = {"cuda_runtime.h", "cuda_fp16.h", "cuda_emulation.h", "algorithm", "cmath", "cstddef", "cstdint"}
            assert name in known | {"cstdio", "stdint.h"} or (cuda_library.SOURCES / name).is_file(), (path.name, name)


SANITIZED = """
import os, sys
import numpy as np
import cuda_library
from pathlib import Path
library = cuda_library.load(Path(sys.argv[1]))
rng = np.random.default_rng(0)
for shape in eval(sys.argv[2]):
    n, c, h, w, k = shape
    sizes = (n, c, h, w), (c, 1, k, k), (c,), (n, c, h, w)
    kernels = cuda_library.Kernels(library, shape, cuda_library.FLOAT16)
    values = [cuda_library.stored(rng.standard_normal(size, np.float32), kernels.dtype) for size in sizes]
    values[2] = values[2].astype(np.float32)
    if len(sys.argv) > 3:
        values[0] = values[0].reshape(-1)[:-1].copy()
    assert all(np.isfinite(result).all() for result in kernels.everything(*values))
os._exit(0)
"""


def run_sanitized(*arguments):
    path = cuda_library.emulated_library("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    sanitizer = Path(compiler.run(["g++", "-print-file-name=libasan.so"]).strip())
    options = "detect_leaks=0:alloc_dealloc_mismatch=0"  # paddle's own
    environment = {**os.environ, "LD_PRELOAD": str(sanitizer), "ASAN_OPTIONS": options}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "ops"), str(ROOT / "tests")])
    command = [sys.executable, "-c", SANITIZED, str(path), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)


@pytest.mark.slow
def test_no_address_is_outside():
    """python -m pytest -m slow tests/ops/test_cuda_kernels.py -k address"""
    process = run_sanitized(repr([shape for _, shape in CASES]))
    assert process.returncode == 0, process.stderr[-3000:]
    for shapes in ALGORITHMS.values():
        process = run_sanitized(repr([(3, 40, *shapes[0][2:])]), "with an x that lacks its last number")
        assert process.returncode != 0 and "heap-buffer-overflow" in process.stderr
