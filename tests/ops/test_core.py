"""The core: its C functions, eager mode through it, and what a wheel says of it."""

import ctypes
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import paddle
import pytest
from core_library import built_core
from depthwise_cases import SHAPES, check_output_and_gradients, operands, reference, with_gradients
from helpers import ROOT, refused, require_depthwise_operators

import ppreplk
from ppreplk.deploy.lowering import check_lowering
from ppreplk.ops import compiler, core, cpu, depthwise, loading
from ppreplk.ops.build import LIBRARY, _source_key
from ppreplk.utils.cores import available_cores
from ppreplk.utils.device import set_threads


@pytest.fixture(scope="module")
def library():
    """A core of its own, which works without OpenMP until a test gives it some."""
    return built_core()


@pytest.fixture
def c(library):
    return core.load(library)


@pytest.fixture
def prebuilt(library, monkeypatch):
    """As where the wheel brings the core, and nothing was compiled for this Paddle."""
    monkeypatch.setattr(compiler, "PREBUILT", library.parent)
    monkeypatch.setattr(loading, "available", lambda library: False)
    core._library.cache_clear()
    yield
    core._library.cache_clear()


def pointers(*arrays):
    return [None if array is None else array.ctypes.data for array in arrays]


def problem(x, kernel):
    return core._PROBLEM(*x.shape, kernel)


def test_it_names_nothing_of_paddle_or_openmp(library):
    content = library.read_bytes()
    for name in (b"paddle", b"GOMP", b"omp_get", b"libgomp", b"kmpc"):
        assert name not in content, name
    header = (compiler.CORE_SOURCES / "core.h").read_text()
    functions = set(re.findall(r"\b(ppreplk_\w+)\(", header)) - {"ppreplk_error", "ppreplk_max_threads"}
    called = {*core.ARGUMENTS, "ppreplk_abi", "ppreplk_use_openmp", "ppreplk_instruction_set"}
    assert functions == called | {"ppreplk_use_instruction_set"}
    assert f"PPREPLK_ABI = {core.ABI} " in header


@pytest.mark.parametrize("number", range(0, len(SHAPES), 3))
def test_output_and_gradients(prebuilt, number):
    check_output_and_gradients("cpu", number, SHAPES[number])


@pytest.mark.parametrize("name", ["avx2", "portable"])
def test_other_instruction_sets(prebuilt, name):
    best = cpu.instruction_set()
    assert best in ("avx512", "avx2", "portable")
    if core.handle().ppreplk_use_instruction_set(name.encode()):
        pytest.skip(f"no {name} on this processor")
    try:
        for number in (4, 6, 7):
            check_output_and_gradients("cpu", number, SHAPES[number])
    finally:
        cpu.use_instruction_set(best)
    with refused("ops.unknown-instruction-set", "cannot use 'sse9'"):
        cpu.use_instruction_set("sse9")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", [(2, 19, 15, 17, 9), (3, 40, 7, 7, 13), (1, 5, 50, 50, 5), (4, 16, 28, 28, 29)])
def test_the_same_bits_as_the_operators(library, monkeypatch, shape, dtype):
    require_depthwise_operators()
    x, weight, bias, gradient = (paddle.to_tensor(value).astype(dtype) for value in operands(*shape))

    def run(convolve):
        tensors = [value.detach().clone() for value in (x, weight, bias)]
        for tensor in tensors:
            tensor.stop_gradient = False
        y = convolve(*tensors)
        y.backward(gradient)
        packed = cpu.pack(weight, *shape[2:4])
        maps = cpu.packed_conv2d(x, weight, packed, bias, True)
        pixels = cpu.packed_conv2d_nhwc(x.transpose([0, 2, 3, 1]), weight, packed, None, False)
        results = [y, *(tensor.grad for tensor in tensors), packed, maps, pixels]
        assert y.dtype == x.dtype and all(tensor.grad.dtype == x.dtype for tensor in tensors)
        return [value.astype("float32").numpy() for value in results]

    expected = run(cpu.conv2d)
    monkeypatch.setattr(compiler, "PREBUILT", library.parent)
    monkeypatch.setattr(loading, "available", lambda library: False)
    core._library.cache_clear()
    received = run(cpu.conv2d)
    core._library.cache_clear()
    for one, other in zip(expected, received):
        np.testing.assert_array_equal(one.view(np.int32), other.view(np.int32))


def test_threads_of_its_own_and_of_openmp_give_the_same_bits(library, c):
    x, weight, bias, dy = operands(3, 40, 14, 14, 27)

    def run(threads):
        y, dx, dweight = np.empty_like(x), np.empty_like(x), np.empty_like(weight)
        assert not c.ppreplk_depthwise_forward(
            problem(x, 27), 0, 0, *pointers(x, weight, bias), 0, *pointers(y), threads
        )
        assert not c.ppreplk_depthwise_backward(problem(x, 27), 0, *pointers(x, weight, dy, dx, dweight), threads)
        return y, dx, dweight

    results = [run(threads) for threads in (1, 2, 3, 8)]
    functions = core._openmp()
    assert functions, "this Paddle has the OpenMP runtime"
    c.ppreplk_use_openmp(None, None, None, None)
    try:
        assert c.ppreplk_max_threads() >= 1
        results += [run(threads) for threads in (0, 1, 2, 3, 64)]
    finally:
        c.ppreplk_use_openmp(*functions)
    for result in results[1:]:
        for one, other in zip(results[0], result):
            np.testing.assert_array_equal(one, other)


def test_it_has_the_threads_of_paddle(prebuilt):
    try:
        for threads in (1, 2, 3):
            set_threads(threads)
            assert core.handle().ppreplk_max_threads() == threads
    finally:
        set_threads(available_cores())


def test_wrong_arguments_are_errors_with_a_code(c):
    x, weight, *_ = operands(1, 2, 5, 5, 3)
    y, floats = np.empty_like(x), ctypes.c_int64()

    def forward(sizes, dtype=0, layout=0):
        return c.ppreplk_depthwise_forward(sizes, dtype, layout, *pointers(x, weight, None), 0, *pointers(y), 1)

    for status, message in (
        (lambda: forward(core._PROBLEM(1, 2, 5, 5, 4)), b"kernel must be odd and at most 127, not 4"),
        (lambda: forward(core._PROBLEM(1, 2, 0, 5, 3)), b"height must be 1 to 2^20, not 0"),
        (lambda: forward(problem(x, 3), dtype=7), b"no dtype 7"),
        (lambda: forward(problem(x, 3), layout=2), b"no layout 2"),
    ):
        assert status() == 1 and message in c.ppreplk_error(), message
    assert c.ppreplk_depthwise_packed_floats(core._PROBLEM(1, 2**40, 99, 99, 31), ctypes.byref(floats)) == 0
    errors = []
    threading.Thread(target=lambda: errors.append(c.ppreplk_error())).start()
    assert forward(problem(x, 3)) == 0 and errors in ([b""], []), "errors are of one thread"


def test_tensors_that_do_not_fit(prebuilt):
    x, weight, *_ = (paddle.to_tensor(value) for value in operands(1, 2, 5, 5, 3))
    for wrong in (paddle.rand([3, 1, 3, 3]), paddle.rand([2, 1, 3, 5]), paddle.rand([2, 2, 3, 3])):
        with refused("ops.bad-shape", "do not fit together"):
            cpu.conv2d(x, wrong, None)
    with refused("ops.bad-shape", "packs weight"):
        cpu.pack(paddle.rand([2, 2, 3, 3]), 5, 5)
    with refused("ops.bad-shape", "kernel must be odd"):
        cpu.pack(paddle.rand([2, 1, 4, 4]), 5, 5)
    packed = cpu.pack(weight, 9, 9)
    same = cpu.packed_conv2d(x, weight, cpu.pack(weight, 5, 5), None, False)
    np.testing.assert_array_equal(cpu.packed_conv2d(x, weight, packed, None, False).numpy(), same.numpy())
    assert list(cpu.conv2d(x[:0], weight, None).shape) == [0, 2, 5, 5]


def test_tensors_that_are_not_in_one_piece(prebuilt):
    x, weight, bias, gradient = operands(2, 6, 9, 9, 5)
    expected = reference(x, weight, bias, gradient)

    def convolve(images, kernel, shift):
        turned = paddle.transpose(paddle.transpose(images, [0, 1, 3, 2]).contiguous(), [0, 1, 3, 2])
        return cpu.conv2d(turned, kernel, shift).transpose([0, 1, 3, 2]).transpose([0, 1, 3, 2])

    for one, other in zip(with_gradients(convolve, x, weight, bias, gradient), expected):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_a_part_of_the_gradients(prebuilt):
    x, weight, bias, gradient = operands(2, 3, 9, 8, 5)
    expected = reference(x, weight, bias, gradient)[1:]
    for stops in ((True, False, True), (False, True, True), (True, True, False)):
        tensors = [paddle.to_tensor(value, stop_gradient=stop) for value, stop in zip((x, weight, bias), stops)]
        ppreplk.depthwise_conv2d(*tensors, impl="cpu").backward(paddle.to_tensor(gradient))
        for tensor, stop, exact in zip(tensors, stops, expected):
            assert tensor.grad is None if stop else np.allclose(tensor.grad.numpy(), exact, atol=1e-4)


def test_threads_of_python_do_not_disturb_each_other(prebuilt):
    cases = [operands(*shape) for shape in ((1, 20, 14, 14, 27), (2, 16, 7, 7, 13), (1, 8, 56, 56, 5))]

    def run(case):
        return with_gradients(cpu.conv2d, *case)

    expected = [run(case) for case in cases]
    with ThreadPoolExecutor(3) as pool:
        for _ in range(10):
            for received, exact in zip(pool.map(run, cases), expected):
                for one, other in zip(received, exact):
                    np.testing.assert_array_equal(one, other)


def test_memory_stays_flat(prebuilt):
    shapes = [(batch, 32, side, side, 13) for batch in (1, 4, 16) for side in (14, 28)]
    cases = [[paddle.to_tensor(value, stop_gradient=False) for value in operands(*shape)[:3]] for shape in shapes]

    def rounds(count):
        for _ in range(count):
            for tensors in cases:
                cpu.conv2d(*tensors).sum().backward()
                for tensor in tensors:
                    tensor.clear_gradient()
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    before = rounds(5)
    assert rounds(40) - before < 8, "megabytes"


FORK = """
import os, sys
import numpy as np, paddle
from pathlib import Path
from ppreplk.ops import compiler, core, cpu, loading
from ppreplk.utils.device import set_threads
compiler.PREBUILT = Path(sys.argv[1])
loading.available = lambda library: False
set_threads(2)
x, weight = paddle.rand([2, 40, 14, 14]), paddle.rand([40, 1, 27, 27])
expected = cpu.conv2d(x, weight, None).numpy()
for _ in range(3):
    child = os.fork()
    if not child:
        os._exit(0 if (cpu.conv2d(x, weight, None).numpy() == expected).all() else 1)
    assert os.waitpid(child, 0)[1] == 0
assert (cpu.conv2d(x, weight, None).numpy() == expected).all()
"""


def test_processes_that_fork(library):
    process = subprocess.run(
        [sys.executable, "-c", FORK, library.parent], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert process.returncode == 0, process.stderr


def test_auto_takes_it_before_fft(prebuilt, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr("ppreplk.ops.loading.build_library", lambda library: pytest.fail("built"))
    depthwise._announce.cache_clear()
    depthwise.prepare("auto")
    assert depthwise.choose(paddle.float32, 31, "cpu") == "cpu"
    assert depthwise.choose(paddle.float64, 31, "cpu") == "fft"
    ppreplk.depthwise_conv2d(paddle.rand([1, 2, 9, 9]), paddle.rand([2, 1, 9, 9]))
    assert f"large depthwise convolutions run as cpu ({cpu.instruction_set()}, prebuilt)" in caplog.text
    monkeypatch.setattr(compiler, "PREBUILT", ROOT)
    core._library.cache_clear()
    assert depthwise.choose(paddle.float32, 31, "cpu") == "fft"
    depthwise._announce.cache_clear()


def test_a_program_needs_operators(prebuilt, monkeypatch):
    """They are compiled as without the core; where that is impossible, that is said."""
    monkeypatch.setattr("ppreplk.ops.build.find_compiler", lambda: None)
    with refused("ops.no-compiler", "no C++ compiler was found"):
        ppreplk.load_ops()
    paddle.enable_static()
    try:
        with refused("ops.no-compiler", "'cpu' cannot run: no C++ compiler was found"):
            depthwise.check_implementation("cpu")
    finally:
        paddle.disable_static()
    assert depthwise.check_implementation("cpu") == "cpu"
    with refused("ops.no-compiler", "Global.export_depthwise=cpu: no C++ compiler was found"):
        check_lowering("native", "fp32", "cpu")


def test_tracing_builds_the_operators(prebuilt, monkeypatch):
    """Paddle rewrites the functions that it traces; not those that build."""
    monkeypatch.setattr("ppreplk.ops.build.find_compiler", lambda: None)

    def layer(x):
        return ppreplk.depthwise_conv2d(x, x.reshape([2, 1, 9, 9]), impl="cpu")

    with pytest.raises(Exception, match="'cpu' cannot run: no C\\+\\+ compiler was found"):
        paddle.jit.to_static(layer, full_graph=True)(paddle.ones([1, 2, 9, 9]))


def test_a_core_that_does_not_load(tmp_path, monkeypatch, caplog, library):
    caplog.set_level("INFO")
    path = tmp_path / compiler.CORE
    path.write_text("not a library")
    monkeypatch.setattr(compiler, "PREBUILT", tmp_path)
    core._library.cache_clear()
    assert not core.available() and not core.available()
    core._library.cache_clear()
    assert caplog.text.count(f"the core in {path} cannot be loaded") == 1
    monkeypatch.setattr(core, "ABI", 99)
    with refused("ops.not-loadable", "has interface 1, needed is 99"):
        core.load(library)


def test_operators_that_came_with_the_wheel(tmp_path, monkeypatch):
    """They are taken if they are of these sources and for this Paddle."""
    monkeypatch.setattr("ppreplk.ops.build.PREBUILT", tmp_path)
    registered = []
    monkeypatch.setattr(loading, "_register", lambda library, path: registered.append(path))
    monkeypatch.setattr(loading, "find_library", lambda library: None)
    monkeypatch.setattr(loading, "_loaded", {})
    depthwise_library = loading.DEPTHWISE
    other = tmp_path / "0123456789abcdef" / LIBRARY
    other.parent.mkdir()
    other.touch()
    loading._load_built.cache_clear()
    assert not loading.available(depthwise_library)
    path = tmp_path / _source_key(depthwise_library) / LIBRARY
    path.parent.mkdir()
    path.touch()
    loading._load_built.cache_clear()
    assert loading.available(depthwise_library) and registered == [path]
    loading._load_built.cache_clear()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the tags of Linux")
def test_the_tag_says_what_the_code_needs(tmp_path, library):
    file = tmp_path / "library"
    for content, tag in (
        (b"\0GLIBC_2.14\0", "manylinux_2_17_x86_64"),
        (b"\0GLIBC_2.14\0GLIBCXX_3.4.22\0CXXABI_1.3.11\0", "manylinux_2_27_x86_64"),
        (b"\0GLIBC_2.34\0GLIBCXX_3.4.9\0", "manylinux_2_34_x86_64"),
        (b"\0GLIBC_2.9\0CXXABI_1.3.13\0", "manylinux_2_34_x86_64"),
    ):
        file.write_bytes(content)
        assert compiler.platform_tag([file], "linux-x86_64") == tag
    assert re.fullmatch(r"manylinux_2_\d+_x86_64", compiler.platform_tag([library], "linux-x86_64"))


def test_the_compiler_is_asked_without_paddle():
    code = "import sys; from ppreplk.ops import compiler; assert not {'paddle', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
