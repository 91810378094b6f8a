"""Reading checkpoints: the stored bits of every format and type, in place; mismatches counted."""

import json
import pickle
import zipfile
from collections import OrderedDict

import numpy as np
import paddle
import pytest
import safetensors.numpy
from helpers import GOLDEN, GOLDEN_CASES, refused, run_python, small_network
from torch_files import STORAGES, Storage, Tensor, tensors, write_old, write_zip

from ppreplk.checkpoints.safetensors_file import write_safetensors
from ppreplk.utils.errors import UserError
from ppreplk.weights import load_checkpoint, load_weights

FORMATS = {"zip": write_zip, "old": write_old}


@pytest.fixture(params=FORMATS)
def write(request):
    return FORMATS[request.param]


@pytest.mark.parametrize("name", GOLDEN_CASES)
def test_golden_checkpoints_are_read_bit_for_bit(name):
    """Against the raw storages in the archive, in the order the pickle names them."""
    state = load_checkpoint(GOLDEN / f"{name}.pth")
    with zipfile.ZipFile(GOLDEN / f"{name}.pth") as archive:
        raw = [archive.read(entry) for entry in archive.namelist() if "/data/" in entry]
    stored = sorted(data for data in raw if len(data) != 8)  # num_batches_tracked is one int64
    received = {key: value.T if key == "head.weight" else value for key, value in state.items()}
    assert sorted(np.ascontiguousarray(value).tobytes() for value in received.values()) == stored
    assert all(value.dtype == np.float32 for value in state.values())


@pytest.mark.parametrize("kind", STORAGES)
def test_every_type_of_pytorch(tmp_path, write, kind):
    values = np.array([[0, 1, 2], [3, 100, 5]]).astype(kind)
    write(tmp_path / "typed.pth", {"a": Tensor.of(values), "empty": Tensor.of(np.zeros((0, 3), kind))})
    state = load_checkpoint(tmp_path / "typed.pth")
    assert state["a"].dtype == values.dtype and (state["a"] == values).all()
    assert state["empty"].shape == (0, 3)


def halves(values: np.ndarray) -> np.ndarray:
    """bfloat16 as its bits, cut off."""
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def test_bfloat16_becomes_float32(tmp_path, write):
    values = np.array([1.0, -2.5, 3.14159, 1e30], np.float32)
    expected = (halves(values).astype(np.uint32) << 16).view(np.float32)
    write(tmp_path / "a.pth", {"a": Tensor.of(halves(values), "BFloat16Storage")})
    paddle.save({"a": paddle.to_tensor(values).astype("bfloat16")}, str(tmp_path / "a.pdparams"))
    header = json.dumps({"a": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + halves(values).tobytes())
    for suffix in ("pth", "pdparams", "safetensors"):
        state = load_checkpoint(tmp_path / f"a.{suffix}")
        assert state["a"].dtype == np.float32
        assert np.allclose(state["a"], expected, rtol=2**-7)  # Paddle rounds where we cut off
    assert (load_checkpoint(tmp_path / "a.pth")["a"] == expected).all()


def test_views_of_a_shared_storage(tmp_path, write):
    storage = Storage(np.arange(12, dtype=np.float32))
    views = {
        "columns": Tensor(storage, 1, (3, 2), (1, 4)),
        "all": Tensor(storage, 0, (12,), (1,)),
        "every other": Tensor(storage, 2, (2, 5), (5, 1)),
        "scalar": Tensor(storage, 7, (), ()),
        "one of any stride": Tensor(storage, 3, (1, 2), (1000, 1)),
    }
    write(tmp_path / "views.pth", {"model": OrderedDict(views)})
    state = load_checkpoint(tmp_path / "views.pth")
    assert (state["columns"] == [[1, 5], [2, 6], [3, 7]]).all()
    assert (state["all"] == np.arange(12)).all()
    assert (state["every other"] == [[2, 3, 4, 5, 6], [7, 8, 9, 10, 11]]).all()
    assert state["scalar"].shape == () and state["scalar"] == 7
    assert (state["one of any stride"] == [[3, 4]]).all()
    assert np.shares_memory(state["columns"], state["all"])


def test_paddle_checkpoints_round_trip_with_and_without_suffix(tmp_path):
    model = small_network()
    paddle.save(model.state_dict(), str(tmp_path / "weights.pdparams"))
    for path in (tmp_path / "weights", tmp_path / "weights.pdparams"):
        state = load_checkpoint(path)
        assert set(state) == set(model.state_dict())
        assert all((state[name] == value.numpy()).all() for name, value in model.state_dict().items())


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_numpy_arrays_in_every_protocol(tmp_path, protocol):
    arrays = {
        "c order": np.arange(600, dtype="f4").reshape(20, 30),
        "columns first": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big-endian": np.arange(3, dtype=">f4"),
        "flags": np.array([True, False]),
        "empty": np.zeros((0, 4), "f2"),
        "scalar": np.array(3, "i8"),
    }
    path = tmp_path / "arrays.pkl"
    path.write_bytes(pickle.dumps(arrays, protocol=protocol))
    state = load_checkpoint(path)
    for name, array in arrays.items():
        assert state[name].shape == array.shape and (state[name] == array).all(), name
        assert state[name].dtype == array.dtype.newbyteorder("=")


def test_safetensors_of_the_reference_library(tmp_path):
    kinds = ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?")
    arrays = {kind: np.array([[0, 1, 2], [3, 4, 5]]).astype(kind) for kind in kinds}
    safetensors.numpy.save_file(arrays, tmp_path / "theirs.safetensors", metadata={"format": "np"})
    state = load_checkpoint(tmp_path / "theirs.safetensors")
    assert all(state[name].dtype == a.dtype and (state[name] == a).all() for name, a in arrays.items())


def test_safetensors_for_the_reference_library(tmp_path):
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3).T, "b": np.zeros((0, 2), np.float32)}
    write_safetensors(arrays, tmp_path / "ours.safetensors")
    theirs = safetensors.numpy.load_file(tmp_path / "ours.safetensors")
    assert set(theirs) == set(arrays) and all((theirs[name] == a).all() for name, a in arrays.items())


MEASURE = """
import sys
from helpers import peak_memory
from ppreplk.weights import load_checkpoint
load_checkpoint(sys.argv[2])  # what the first file costs once
before = peak_memory()
state = load_checkpoint(sys.argv[1])
total = sum(float(array.sum()) for array in state.values())  # touches every value
print((peak_memory() - before) / sum(array.nbytes for array in state.values()))
"""


@pytest.mark.parametrize("kind", ["zip", "old", "pdparams", "safetensors", "bfloat16"])
def test_reading_takes_the_memory_of_the_tensors(tmp_path, kind):
    """At most 10% more, measured in a process of its own; the optimizer's tensors are not read."""
    arrays = {f"{n}.weight": np.full((8, 1 << 19), n, np.float32) for n in range(8)}  # 16 MiB each
    big, small = tmp_path / "big", tmp_path / "small"
    if kind in FORMATS:
        content = {"model": tensors(arrays), "optimizer": tensors(arrays)}
        FORMATS[kind](big, content)
    elif kind == "bfloat16":
        write_zip(big, {name: Tensor.of(halves(array), "BFloat16Storage") for name, array in arrays.items()})
    elif kind == "pdparams":
        big.write_bytes(pickle.dumps(arrays, protocol=4))
    else:
        write_safetensors(arrays, big)
    write_zip(small, tensors({"a": np.zeros(3, np.float32)}))
    output = run_python(MEASURE, big, small)
    print(f"{kind}: {float(output):.3f} of the tensors' size")
    assert 0.9 < float(output) < 1.1


def write_pickled(path, arrays) -> None:
    path.write_bytes(pickle.dumps(arrays, protocol=4))


OWNING = {
    "zip": lambda path, arrays: write_zip(path, {"model": tensors(arrays)}),
    "old": lambda path, arrays: write_old(path, {"model": tensors(arrays)}),
    "bfloat16": lambda path, arrays: write_zip(
        path, {n: Tensor.of(halves(a), "BFloat16Storage") for n, a in arrays.items()}
    ),
    "pickle": write_pickled,
    "protocol 2": lambda path, arrays: path.write_bytes(pickle.dumps(arrays, protocol=2)),
    "safetensors": lambda path, arrays: write_safetensors(arrays, path),
}
CHANGES = {
    "saved over with its own arrays": lambda path, state: write_pickled(path, {n: a * 1 for n, a in state.items()}),
    "another file copied over it": lambda path, state: path.write_bytes(b"x" * path.stat().st_size),
    "emptied": lambda path, state: path.write_bytes(b""),
    "removed": lambda path, state: path.unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", OWNING)
def test_what_happens_to_a_file_does_not_reach_its_arrays(tmp_path, kind, change):
    path = tmp_path / "weights"
    arrays = {f"{n}.weight": np.full((8, 4096), n, np.float32) for n in range(4)}
    OWNING[kind](path, arrays)
    state = load_checkpoint(path)
    CHANGES[change](path, state)
    assert list(state) == list(arrays)
    assert all((state[name] == array).all() and state[name].dtype == array.dtype for name, array in arrays.items())


def test_files_and_folders_that_are_closed_to_us(tmp_path, monkeypatch):
    def closed(*_, **__):
        raise PermissionError(13, "Permission denied")

    write_pickled(tmp_path / "weights", {"a": np.zeros(3)})
    monkeypatch.setattr("builtins.open", closed)
    with refused("checkpoints.not-readable", "weights: cannot be read (Permission denied)"):
        load_checkpoint(tmp_path / "weights")


def test_mismatch_is_counted_and_changes_nothing():
    model = small_network()
    before = {name: value.numpy() for name, value in model.state_dict().items()}
    state = {name: value + 1 for name, value in before.items()}
    del state["head.bias"]
    state["extra"] = np.zeros(1)
    state["head.weight"] = np.zeros((2, 2))
    count = len(before)
    with pytest.raises(UserError, match=f"{count - 2} matched, 1 missing, 1 unexpected, 1 mis-shaped; head.weight"):
        load_weights(model, state, "some file")
    assert all((value.numpy() == before[name]).all() for name, value in model.state_dict().items())


def test_other_dtypes_go_into_a_network():
    model = small_network()
    expected = {name: value.numpy() + 1 for name, value in model.state_dict().items()}
    for dtype in ("float16", "float64"):
        load_weights(model, {name: value.astype(dtype) for name, value in expected.items()}, "file")
        assert all(value.dtype == paddle.float32 for value in model.state_dict().values())
        assert all(np.allclose(value, expected[name], rtol=2e-3) for name, value in model.state_dict().items())


def test_missing_file_names_both_candidates(tmp_path):
    with refused("checkpoints.no-file", "nothing nor at", "nothing.pdparams"):
        load_checkpoint(tmp_path / "nothing")
    (tmp_path / "nothing.pth").touch()
    with refused("checkpoints.no-file", "there is", "nothing.pth"):
        load_checkpoint(tmp_path / "nothing")
    for name in ("x" * 300, "weights/\0"):
        with pytest.raises(UserError, match="checkpoint at|cannot be read"):
            load_checkpoint(tmp_path / name)
