"""The kernels for AMX as they are compiled for it, instruction by instruction, on processors without AMX."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from helpers import require_channels_last_operators

from ppreplk.ops import onednn, training_layers
from ppreplk.ops.build import COMMON, CSRC, find_compiler

HERE = Path(__file__).parent
AMX, AVX512 = CSRC / "amx", CSRC / "avx512"
INSTRUCTIONS = ("ldtilecfg", "tilerelease", "tilezero", "tileloadd", "tilestored", "tdpbf16ps")
TERMS = {1: "bf16", 3: "fp32-bf16x3", 6: "fp32"}  # and the precision that our kernels compute so
CASES = [(14, 70, 40), (33, 32, 64), (300, 40, 33), (9, 1200, 35)]  # rows, channels in and out
BLOCKS = [(20, 40, 100), (280, 33, 64), (40, 64, 1400)]  # rows, channels, hidden
TRAINING = [(14, 70, 40), (530, 33, 48), (300, 17, 100)]  # rows, channels in and out

# Runs in a process of its own, where the signal of an unknown instruction is caught.
RUN = """
import ctypes, sys
import numpy as np

library, folder = ctypes.CDLL(sys.argv[1]), sys.argv[2]
library.bytes.restype, library.count.restype = ctypes.c_int64, ctypes.c_long
library.catch_instructions()
data = np.load(f"{folder}/in.npz")


def pointer(array):
    return None if array is None else array.ctypes.data_as(ctypes.c_void_p)


def sizes(*values):
    return [ctypes.c_int64(value) for value in values]


def packed(weight, terms):
    out, channels = sizes(*weight.shape)
    room = np.zeros(library.bytes(channels, out, terms) + 64, np.uint8)
    room = room[-room.ctypes.data % 64 :]
    library.packed(pointer(weight), channels, out, terms, pointer(room))
    return room


results = {}
for name in data["names"]:
    terms, threads = int(str(name).split()[1]), int(str(name).split()[2])
    of = {key: data[f"{name} {key}"] for key in ("x", "w", "b", "other", "b2")}
    if str(name).startswith("t"):
        shapes = of["other"].shape, of["x"].shape, of["w"].shape
        y, dx, dw = (np.zeros(shape, np.float32) for shape in shapes)
        pointers = [pointer(of["w"]), pointer(of["other"]), pointer(y), pointer(dx), pointer(dw)]
        library.train(pointer(of["x"]), *sizes(*of["x"].shape, of["w"].shape[0]), *pointers, threads)
        results[str(name)] = np.concatenate([array.ravel() for array in (y, dx, dw)])
        continue
    y = np.zeros((len(of["x"]), of["w"].shape[0] if str(name).startswith("c") else of["x"].shape[1]), of["x"].dtype)
    rows, channels, out = sizes(*of["x"].shape, of["w"].shape[0])
    x, w, b, target = pointer(of["x"]), packed(of["w"], terms), pointer(of["b"]), pointer(y)
    if str(name).startswith("c"):
        library.convolve(x, rows, channels, out, pointer(w), b, pointer(of["other"]), 1, target, threads)
    else:
        w2 = packed(of["other"], terms)
        library.feed(x, rows, channels, out, pointer(w), b, pointer(w2), pointer(of["b2"]), target, threads)
    results[str(name)] = y
results["counts"] = np.array([library.count(kind) for kind in range(6)])
np.savez(f"{folder}/out.npz", **results)
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """The kernels for AMX, with the handler."""
    require_channels_last_operators()
    if not onednn.choose_tiles_backend("emulated"):
        pytest.skip("no AVX-512 BF16")
    path = tmp_path_factory.mktemp("amx") / "library.so"
    sources = [
        AMX / "products.cpp",
        AMX / "training_products.cpp",
        AVX512 / "gelu.cpp",
        AMX / "kernels_hardware.cpp",
        HERE / "tile_instructions.cpp",
    ]
    flags = ["-std=c++17", "-O3", "-fPIC", "-fopenmp", "-w", f"-I{AMX}", f"-I{AVX512}", f"-I{COMMON}", "-c"]
    subprocess.run([*find_compiler(), *flags, *map(str, sources)], check=True, timeout=300, cwd=path.parent)
    openmp = Path(paddle.sysconfig.get_lib()) / "libiomp5.so"  # Clang may have none
    link = ["-shared", *map(str, path.parent.glob("*.o")), str(openmp), f"-Wl,-rpath,{openmp.parent}", "-o", str(path)]
    subprocess.run([*find_compiler(), *link], check=True, timeout=300)
    onednn.choose_form("tiles")
    yield path
    onednn.choose_form("automatic")
    onednn.choose_tiles_backend("none")


def bits(tensor):
    return tensor.view("int16").numpy().view(np.uint16) if tensor.dtype == paddle.bfloat16 else tensor.numpy()


def trained(x, weight, dy, products):
    """y and both gradients, one after the other."""
    x.stop_gradient = weight.stop_gradient = False
    y = training_layers.pointwise(x, weight, products)
    return np.concatenate([tensor.numpy().ravel() for tensor in (y, *paddle.grad([y], [x, weight], [dy]))])


def test_the_same_bits_as_the_emulated_registers(library, tmp_path):
    rng = np.random.default_rng(0)
    arrays, expected = {}, {}
    for terms, precision in TERMS.items():
        for threads in (1, 2):
            cases = [("c", *case) for case in CASES] + [("f", *case) for case in BLOCKS]
            cases += [("t", *case) for case in TRAINING] if precision == "fp32-bf16x3" else []
            for number, (kind, rows, channels, out) in enumerate(cases):
                name = f"{kind} {terms} {threads} {number}"
                shapes = {"x": (rows, channels), "w": (out, channels), "b": (out,), "b2": (channels,)}
                shapes["other"] = (channels, out) if kind == "f" else (rows, out)
                values = {key: rng.standard_normal(shape).astype("float32") for key, shape in shapes.items()}
                tensors = {key: paddle.to_tensor(value) for key, value in values.items()}
                narrow = ("x", "other") if kind == "c" else ("x",)
                for key in narrow if terms == 1 else ():
                    tensors[key] = tensors[key].astype("bfloat16")
                    values[key] = bits(tensors[key])
                arrays |= {f"{name} {key}": value for key, value in values.items()}
                if kind == "t":
                    expected[name] = trained(tensors["x"], tensors["w"], tensors["other"], precision)
                    continue
                x = tensors["x"].reshape([1, 1, rows, channels])
                packed = onednn.pack(tensors["w"].reshape([out, channels, 1, 1]), 1, rows, 1, 1, precision)
                if kind == "c":
                    residual = tensors["other"].reshape([1, 1, rows, out])
                    y = onednn.conv(x, packed, tensors["b"], residual, 1, 1, 1, "relu")
                else:
                    second = onednn.pack(tensors["other"].reshape([channels, out, 1, 1]), 1, rows, 1, 1, precision)
                    y = onednn.feed_forward(x, packed, tensors["b"], second, tensors["b2"])
                expected[name] = bits(y.reshape([rows, -1]))
    np.savez(tmp_path / "in.npz", names=list(expected), **arrays)
    command = [sys.executable, "-c", RUN, str(library), str(tmp_path)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": ""})
    assert process.returncode == 0, process.stderr
    received = np.load(tmp_path / "out.npz")
    for name, y in expected.items():
        np.testing.assert_array_equal(received[name], y, err_msg=name)
    caught = dict(zip(INSTRUCTIONS, received["counts"]))
    assert all(caught.values()) or "amx_tile" in Path("/proc/cpuinfo").read_text(), caught
