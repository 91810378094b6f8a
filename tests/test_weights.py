"""Reading checkpoints: the stored bits, nothing executed, mismatches counted."""

import io
import pickle
import struct
import zipfile

import numpy as np
import paddle
import pytest
from conftest import GOLDEN, GOLDEN_CASES, GoldenCase, small_network

from ppreplk.errors import UserError
from ppreplk.weights import load_checkpoint, load_weights


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


def test_paddle_checkpoints_round_trip_with_and_without_suffix(tmp_path):
    model = small_network()
    paddle.save(model.state_dict(), str(tmp_path / "weights.pdparams"))
    for path in (tmp_path / "weights", tmp_path / "weights.pdparams"):
        state = load_checkpoint(path)
        assert set(state) == set(model.state_dict())
        assert all((state[name] == value.numpy()).all() for name, value in model.state_dict().items())


class Evil:
    def __init__(self, function, *arguments):
        self.reduction = (function, arguments)

    def __reduce__(self):
        return self.reduction


def torch_zip(path, data: bytes, storages=()):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        for key, raw in storages:
            archive.writestr(f"archive/data/{key}", raw)


@pytest.mark.parametrize("wrap", ["pdparams", "pth"])
@pytest.mark.parametrize("call", ["os.system", "builtins.eval", "nested"])
def test_a_checkpoint_that_calls_something_is_refused_by_name_and_not_run(tmp_path, wrap, call):
    import os

    witness = tmp_path / "witness"
    payload = {
        "os.system": Evil(os.system, f"touch {witness}"),
        "builtins.eval": Evil(eval, f"open({str(witness)!r}, 'w')"),
        "nested": {"a": [Evil(os.system, f"touch {witness}")]},
    }[call]
    path = tmp_path / f"evil.{wrap}"
    data = pickle.dumps({"model": payload}, protocol=2)
    torch_zip(path, data) if wrap == "pth" else path.write_bytes(data)
    with pytest.raises(UserError, match=r"refused, it names (posix|os|builtins|__builtin__)\.(system|eval)"):
        load_checkpoint(path)
    assert not witness.exists()


def test_object_arrays_are_refused(tmp_path):
    path = tmp_path / "objects.pdparams"
    path.write_bytes(pickle.dumps({"a": np.array([{}], dtype=object)}, protocol=4))
    with pytest.raises(UserError, match="dtype"):
        load_checkpoint(path)


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x80\x04.", b"PK\x03\x04 truncated", pickle.dumps([1, 2])])
def test_broken_files_are_refused(tmp_path, content):
    path = tmp_path / "broken.pdparams"
    path.write_bytes(content)
    with pytest.raises(UserError, match="broken.pdparams"):
        load_checkpoint(path)


def test_truncated_zip_is_refused(tmp_path):
    path = tmp_path / "cut.pth"
    path.write_bytes((GOLDEN / "tiny_reparam5.pth").read_bytes()[:-2000])
    with pytest.raises(UserError, match="cut.pth"):
        load_checkpoint(path)


def rebuilt_tensor(count, offset, shape, strides) -> bytes:
    """A pickle of one torch tensor, written by hand: persistent id, then _rebuild_tensor_v2."""

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    def numbers(values) -> bytes:
        return b"(" + b"".join(b"J" + struct.pack("<i", value) for value in values) + b"t"

    pid = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu")
    pid += b"J" + struct.pack("<i", count) + b"tQ"
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + pid + b"J" + struct.pack("<i", offset)
    call += numbers(shape) + numbers(strides) + b"\x89}tR"
    return b"\x80\x02}" + text("a.weight") + call + b"s."


def test_views_of_a_shared_storage(tmp_path):
    storage = np.arange(12, dtype=np.float32)
    path = tmp_path / "view.pth"
    torch_zip(path, rebuilt_tensor(12, 1, (3, 2), (1, 4)), [("0", storage.tobytes())])
    assert (load_checkpoint(path)["a.weight"] == [[1, 5], [2, 6], [3, 7]]).all()


@pytest.mark.parametrize(
    "count, offset, shape, strides",
    [
        (12, 0, (4, 4), (4, 1)),
        (12, 11, (2,), (1,)),
        (13, 0, (2,), (1,)),
        (12, -1, (2,), (1,)),
        (12, 0, (2,), (-1,)),
        (12, 0, (4000, 4000), (0, 0)),
    ],
    ids=["shape", "offset", "count", "negative offset", "negative stride", "repeated without end"],
)
def test_tensors_outside_their_storage_are_refused(tmp_path, count, offset, shape, strides):
    path = tmp_path / "outside.pth"
    torch_zip(path, rebuilt_tensor(count, offset, shape, strides), [("0", bytes(48))])
    with pytest.raises(UserError, match="outside.pth"):
        load_checkpoint(path)


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


def test_byte_order_is_kept(tmp_path):
    path = tmp_path / "big.pdparams"
    path.write_bytes(pickle.dumps({"a": np.arange(3, dtype=">f4")}, protocol=2))
    assert (load_checkpoint(path)["a"] == [0, 1, 2]).all()


@pytest.mark.parametrize("name", ["numpy\ndtype", "_codecs\nencode"])
def test_a_pickle_cannot_change_the_functions_it_may_call(tmp_path, name):
    path = tmp_path / "build.pdparams"
    path.write_bytes(b"c" + name.encode() + b"\nN}X\x0c\x00\x00\x00__defaults__(tNstb.")
    with pytest.raises(UserError, match="build.pdparams"):
        load_checkpoint(path)
    path.write_bytes(b"c" + name.encode() + b"\n}b.")
    with pytest.raises(UserError, match="sets the state of a function"):
        load_checkpoint(path)


def test_archives_that_would_inflate_are_refused_before_reading(tmp_path):
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", rebuilt_tensor(12, 0, (2,), (1,)))
        archive.writestr("archive/data/0", bytes(50_000_000))
    with pytest.raises(UserError, match="data.pkl is compressed or encrypted"):
        load_checkpoint(path)


def test_missing_file_names_both_candidates(tmp_path):
    with pytest.raises(UserError, match=r"nothing nor at .*nothing\.pdparams"):
        load_checkpoint(tmp_path / "nothing")


def test_persistent_ids_in_paddle_files_are_refused(tmp_path):
    class Writer(pickle.Pickler):
        def persistent_id(self, value):
            return "elsewhere" if value == 7 else None

    buffer = io.BytesIO()
    Writer(buffer, protocol=2).dump({"a": 7})
    path = tmp_path / "persistent.pdparams"
    path.write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match="outside the file"):
        load_checkpoint(path)


def test_no_torch_is_needed():
    import sys

    GoldenCase("tiny_reparam5")
    assert "torch" not in sys.modules
