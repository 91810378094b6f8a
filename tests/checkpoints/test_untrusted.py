"""Files from strangers: refused with one line, nothing of them run, memory bounded."""

import argparse
import faulthandler
import io
import json
import os
import pickle
import struct
import subprocess
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from helpers import GOLDEN, assert_one_line_and_exit_2, peak_memory, refused, run_python, run_tool
from torch_files import Name, Storage, Tensor, TorchPickler, tensors, write_old, write_zip

from ppreplk.utils.errors import UserError
from ppreplk.weights import load_checkpoint

MEBIBYTE = 2**20


class Evil:
    def __init__(self, function, *arguments):
        self.reduction = (function, arguments)

    def __reduce__(self):
        return self.reduction


def raw_zip(path: Path, data: bytes, entries=(), compression=zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", data)
        for name, raw in entries:
            archive.writestr(name, raw)


def old_header() -> bytes:
    parts = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    return b"".join(pickle.dumps(part, protocol=2) for part in parts)


CONTAINERS = {
    "pth": lambda path, data: raw_zip(path, data),
    "old pth": lambda path, data: path.write_bytes(old_header() + data),
    "pdparams": lambda path, data: path.write_bytes(data),
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("call", ["os.system", "builtins.eval", "nested", "build", "getattr", "in the arguments"])
def test_a_checkpoint_that_calls_something_is_refused_by_name_and_not_run(tmp_path, container, protocol, call):
    witness = tmp_path / "witness"
    system = Evil(os.system, f"touch {witness}")
    payload = {
        "os.system": system,
        "builtins.eval": Evil(eval, f"open({str(witness)!r}, 'w')"),
        "nested": {"a": [(1, {"b": Evil(list, [system])})]},
        "build": Evil(subprocess.Popen, ["touch", str(witness)]),
        "getattr": Evil(getattr, os, "system") if protocol == 9 else Evil(getattr, "text", "upper"),
        "in the arguments": argparse.Namespace(run=system),
    }[call]
    path = tmp_path / "evil.bin"
    CONTAINERS[container](path, pickle.dumps({"model": payload}, protocol=protocol))
    with refused("checkpoints.refused", "evil.bin: refused, it names" if protocol else "evil.bin: refused"):
        load_checkpoint(path)
    assert not witness.exists()


@pytest.mark.parametrize("pid", ["elsewhere", ("module", "os", "system"), ("storage", "<f4", ["0"], "cpu", 4), 7])
@pytest.mark.parametrize("container", CONTAINERS)
def test_persistent_ids_that_are_no_storage_are_refused(tmp_path, container, pid):
    class Writer(pickle.Pickler):
        def persistent_id(self, value):
            return pid if value == "trick" else None

    buffer = io.BytesIO()
    Writer(buffer, protocol=2).dump({"a": "trick"})
    path = tmp_path / "persistent.bin"
    CONTAINERS[container](path, buffer.getvalue())
    with refused("checkpoints.refused", "storage"):
        load_checkpoint(path)


@pytest.mark.parametrize("name", ["numpy\ndtype", "_codecs\nencode", "collections\nOrderedDict", "argparse\nNamespace"])
def test_a_pickle_cannot_change_what_it_may_call(tmp_path, name):
    for state in (b"(N}X\x0c\x00\x00\x00__defaults__)st", b"}"):
        path = tmp_path / "build.pdparams"
        path.write_bytes(b"\x80\x02c" + name.encode() + b"\n" + state + b"b.")
        with refused("checkpoints.refused", "build.pdparams: refused, it sets the state of"):
            load_checkpoint(path)


def test_object_arrays_are_refused(tmp_path):
    path = tmp_path / "objects.pdparams"
    path.write_bytes(pickle.dumps({"a": np.array([{}], dtype=object)}, protocol=4))
    with refused("checkpoints.refused", "an array of dtype O8"):
        load_checkpoint(path)


def test_a_dtype_cannot_be_given_flags(tmp_path):
    """numpy trusts the flags in a pickled dtype; with them numbers can pass for Python objects."""
    data = pickle.dumps({"a": np.arange(4, dtype="f4")}, protocol=4)
    marked = b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t"
    assert marked in data
    path = tmp_path / "flags.pdparams"
    path.write_bytes(data.replace(marked, b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x3ft"))
    assert (load_checkpoint(path)["a"] == np.arange(4)).all()


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<u2", ">f2"])
def test_one_array_under_many_names_takes_its_memory_once(tmp_path, dtype):
    array = np.zeros(1 << 20, dtype)
    path = tmp_path / "repeated.pdparams"
    path.write_bytes(pickle.dumps({f"{n}.weight": array for n in range(2000)}, protocol=4))
    before = peak_memory()
    assert len(load_checkpoint(path)) == 2000
    assert peak_memory() - before < 20 * MEBIBYTE


class Array:
    """An array in numpy's own words, of bytes that others may have too."""

    def __init__(self, raw, dtype):
        self.state = (1, (len(raw) // 4,), np.dtype(dtype), False, raw)

    def __reduce__(self):
        return np.core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), self.state


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_the_same_bytes_in_many_arrays_take_their_memory_once(tmp_path, protocol):
    path = tmp_path / "repeated.pdparams"
    raw = bytes(4 << 20)
    path.write_bytes(pickle.dumps({f"{n}.weight": Array(raw, ">f4") for n in range(500)}, protocol=protocol))
    before = peak_memory()
    assert len(load_checkpoint(path)) == 500
    assert peak_memory() - before < 20 * MEBIBYTE


def test_the_same_bytes_as_two_types_are_refused(tmp_path):
    path = tmp_path / "two.pdparams"
    raw = bytes(4000)
    path.write_bytes(pickle.dumps({"a": Array(raw, "<f4"), "b": Array(raw, "<i4")}, protocol=4))
    with refused("checkpoints.refused", "two.pdparams: b: ", "two types"):
        load_checkpoint(path)


def header_only(entry) -> bytes:
    text = json.dumps({"a": entry}).encode()
    return len(text).to_bytes(8, "little") + text + bytes(16)


BROKEN = {
    "empty": ("not-readable", b""),
    "garbage": ("wrong-file", b"garbage"),
    "random": ("not-readable", np.random.default_rng(0).bytes(5000)),
    "pickle without content": ("broken", b"\x80\x04."),
    "pickle of a list": ("no-weights", pickle.dumps([1, 2])),
    "zip, cut": ("broken", b"PK\x03\x04 truncated"),
    "old format, cut": ("broken", old_header()),
    "a long text announced": ("broken", b"\x80\x04\x8d" + (2**62).to_bytes(8, "little") + b"a."),
    "a far memo": ("no-weights", b"\x80\x02}r\xff\xff\xff\xff."),
    "deep": ("no-weights", b"\x80\x02" + b"(" * 100_000 + b"l" * 100_000 + b"."),
    "without end": ("refused", b"\x80\x02" + b"]" * 3_000_000),
    "keys that hash for ever": ("refused", b"\x80\x04})" + b"\x94h\x00h\x00\x86" * 60 + b"Ns."),
    "header of 4 EB": ("not-readable", (2**62).to_bytes(8, "little") + b"{" + bytes(50)),
    "header of other text": ("broken", (3).to_bytes(8, "little") + b"{,}" + bytes(8)),
    "deep header": ("broken", (100_000).to_bytes(8, "little") + b'{"a":' + b"[" * 99_995),
    "header of 17 MB": ("refused", (17 << 20).to_bytes(8, "little") + b"{" + bytes(17 << 20)),
    "a tensor without its end": ("broken", header_only({"dtype": "F32", "shape": [6], "data_offsets": [0, 24]})),
    "bytes of no tensor": ("broken", header_only({"dtype": "F32", "shape": [2], "data_offsets": [0, 8]})),
    "a tensor of another size": ("broken", header_only({"dtype": "F32", "shape": [9], "data_offsets": [0, 16]})),
    "a tensor outside": ("broken", header_only({"dtype": "F32", "shape": [8], "data_offsets": [0, 32]})),
    "a tensor of negative size": ("broken", header_only({"dtype": "F32", "shape": [-4], "data_offsets": [16, 0]})),
    "a tensor of another type": ("broken", header_only({"dtype": "F4", "shape": [4], "data_offsets": [0, 16]})),
    "a web page": ("wrong-file", b"<!DOCTYPE html><html>Virus scan warning</html>"),
}


@pytest.fixture
def watched():
    """A file that keeps the reader busy for ever ends the process, even in the middle of C code."""
    faulthandler.dump_traceback_later(600, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files_are_refused_in_one_line(tmp_path, watched, kind):
    path = tmp_path / "broken.pdparams"
    code, data = BROKEN[kind]
    path.write_bytes(data)
    before = peak_memory()
    with refused(f"checkpoints.{code}", "broken.pdparams"):
        load_checkpoint(path)
    assert peak_memory() - before < 400 * MEBIBYTE


def test_truncated_archives_are_refused(tmp_path):
    whole = (GOLDEN / "tiny_reparam5.pth").read_bytes()
    for length in (len(whole) - 2000, len(whole) // 2, 100):
        (tmp_path / "cut.pth").write_bytes(whole[:length])
        with refused("checkpoints.broken", "cut.pth", "zip archive"):
            load_checkpoint(tmp_path / "cut.pth")


def test_a_damaged_tensor_is_noticed(tmp_path):
    whole = bytearray((GOLDEN / "tiny_reparam5.pth").read_bytes())
    with zipfile.ZipFile(GOLDEN / "tiny_reparam5.pth") as archive:
        place = archive.getinfo("tiny_reparam5/data/0").header_offset
    whole[place + 200] ^= 1
    (tmp_path / "damaged.pth").write_bytes(whole)
    with refused("checkpoints.broken", "damaged.pth", "checksum"):
        load_checkpoint(tmp_path / "damaged.pth")


def one_tensor(count: int) -> bytes:
    buffer = io.BytesIO()
    TorchPickler(buffer, old=False).dump({"a": Tensor.of(np.zeros(count, np.float32))})
    return buffer.getvalue()


@pytest.mark.parametrize("kind, code", [("compressed", "refused"), ("overlapping", "refused"), ("announced", "broken")])
def test_archives_that_would_inflate_are_refused_before_reading(tmp_path, kind, code):
    path = tmp_path / "bomb.pth"
    count = 25_000_000
    if kind == "compressed":
        raw_zip(path, one_tensor(count), [("archive/data/0", bytes(4 * count))], zipfile.ZIP_DEFLATED)
    else:
        raw_zip(path, one_tensor(count), [("archive/data/0", bytes(48))])
        if kind == "overlapping":  # the directory claims that the entry has the bytes of the whole file, and more
            data, size = bytearray(path.read_bytes()), struct.pack("<II", 4 * count, 4 * count)
            central = data.rindex(b"PK\x01\x02")
            data[central + 20 : central + 28] = size
            path.write_bytes(data)
    before = peak_memory()
    with refused(f"checkpoints.{code}", "bomb.pth"):
        load_checkpoint(path)
    assert peak_memory() - before < 20 * MEBIBYTE


@pytest.mark.parametrize("name", ["../../data/0", "/etc/passwd", "archive/../../0", "C:/data", "..\\0"])
def test_archives_with_entries_outside_are_refused(tmp_path, name):
    raw_zip(tmp_path / "outside.pth", one_tensor(4), [("archive/data/0", bytes(16)), (name, b"x")])
    with refused("checkpoints.refused", "outside the archive"):
        load_checkpoint(tmp_path / "outside.pth")


def test_other_archives_are_refused(tmp_path):
    path = tmp_path / "other.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with refused("checkpoints.wrong-file", "other.pth", "'readme.txt' first", "data.pkl"):
        load_checkpoint(path)
    raw_zip(path, one_tensor(4))
    with refused("checkpoints.broken", "storage 0 is missing"):
        load_checkpoint(path)
    raw_zip(path, one_tensor(4), [("archive/data/0", bytes(16)), ("archive/byteorder", b"big")])
    with refused("checkpoints.unsupported", "big-endian"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "code, offset, shape, strides",
    [
        ("broken", 0, (4, 4), (4, 1)),
        ("broken", 11, (2,), (1,)),
        ("refused", -1, (2,), (1,)),
        ("refused", 0, (2,), (-1,)),
        ("refused", 0, (-2,), (1,)),
        ("broken", 0, (4000, 4000), (0, 0)),
        ("refused", 0, (2,), (2**60,)),
        ("refused", 0, (2, 2), (1,)),
        ("refused", 0, (1,) * 40, (1,) * 40),
        ("refused", 0, ("2",), (1,)),
        ("refused", 0.5, (2,), (1,)),
    ],
)
@pytest.mark.parametrize("write", [write_zip, write_old])
def test_tensors_outside_their_storage_are_refused(tmp_path, write, code, offset, shape, strides):
    path = tmp_path / "outside.pth"
    write(path, {"a": Tensor(Storage(np.zeros(12, np.float32)), offset, shape, strides)})
    with refused(f"checkpoints.{code}", "outside.pth"):
        load_checkpoint(path)


class Rebuilt:
    """A tensor of another kind: calls ``torch._utils.NAME``."""

    def __init__(self, name):
        self.name = name


class OtherPickler(TorchPickler):
    dispatch = dict(TorchPickler.dispatch)

    def save_rebuilt(self, value):
        self.save(Name("torch._utils", value.name))
        self.save(())
        self.write(pickle.REDUCE)

    dispatch[Rebuilt] = save_rebuilt


@pytest.mark.parametrize("name, word", [("_rebuild_sparse_tensor", "sparse"), ("_rebuild_qtensor", "quantized")])
def test_sparse_and_quantized_tensors_are_refused_with_the_reason(tmp_path, name, word):
    buffer = io.BytesIO()
    OtherPickler(buffer, old=False).dump({"a": Rebuilt(name)})
    raw_zip(tmp_path / "other.pth", buffer.getvalue())
    with refused("checkpoints.unsupported", f"torch._utils.{name}: {word} tensors are not read"):
        load_checkpoint(tmp_path / "other.pth")


def training_checkpoint() -> dict:
    """What the official training saves around the weights, and then some."""
    import datetime

    weights = tensors({"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3)})
    state = {0: {"step": 3, "exp_avg": Tensor.of(np.zeros(1000, np.float32))}}
    arguments = argparse.Namespace(lr=4e-3, output_dir=Path("somewhere"), tags={"a", "b"}, size=(1, 2))
    return {
        "model": weights,
        "optimizer": {"state": state, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999)}]},
        "epoch": 3,
        "scaler": {},
        "args": arguments,
        "date": datetime.datetime(2022, 4, 1),
        "best": np.float64(83.5),
        ("a", "strange", "key"): frozenset([1]),
    }


@pytest.mark.parametrize("write", [write_zip, write_old])
def test_what_lies_around_the_weights_is_skipped(tmp_path, write):
    write(tmp_path / "training.pth", training_checkpoint())
    state = load_checkpoint(tmp_path / "training.pth")
    assert list(state) == ["a.weight"] and (state["a.weight"] == [[0, 1, 2], [3, 4, 5]]).all()


def test_placeholders_are_no_weights(tmp_path):
    write_zip(tmp_path / "mixed.pth", {"model": OrderedDict(a=Tensor.of(np.zeros(2)), b=argparse.Namespace(c=1))})
    with refused("checkpoints.no-weights", "1 entries", "'b'"):
        load_checkpoint(tmp_path / "mixed.pth")


def originals(folder: Path) -> list[bytes]:
    """Small files of every format."""
    weights = {f"{n}.weight": np.arange(n + 4, dtype=np.float32) for n in range(3)}
    write_zip(folder / "a", {**training_checkpoint(), "model": tensors(weights)})
    write_old(folder / "b", {"model": tensors(weights), "args": argparse.Namespace(lr=1)})
    (folder / "c").write_bytes(pickle.dumps(weights, protocol=4))
    (folder / "d").write_bytes(pickle.dumps(weights, protocol=2))
    (folder / "e").write_bytes(pickle.dumps(weights, protocol=5))
    from ppreplk.checkpoints.safetensors_file import write_safetensors

    write_safetensors(weights, folder / "f")
    return [(folder / name).read_bytes() for name in "abcdef"]


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """A file with some bytes changed, repeated, removed, or cut off."""
    changed = bytearray(data)
    for _ in range(rng.integers(1, 6)):
        if not changed:
            break
        place, length = int(rng.integers(len(changed))), int(rng.integers(1, 40))
        kind = rng.integers(6)
        if kind == 0:
            changed[place] = int(rng.integers(256))
        elif kind == 1:
            changed[place] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            del changed[place : place + length]
        elif kind == 3:
            changed[place:place] = changed[place : place + length]
        elif kind == 4:
            changed[place : place + 8] = b"\xff" * 8
        else:
            del changed[place:]
    return bytes(changed)


FUZZ = 5000  # files; seeded


def test_mutated_files_do_no_harm(tmp_path, watched):
    """Each is read or refused: no other exception, no hang, no memory; what is read is arrays."""
    rng = np.random.default_rng(0)
    sources = originals(tmp_path)
    path = tmp_path / "mutated"
    before, count = peak_memory(), 0
    for index in range(FUZZ):
        path.write_bytes(mutated(sources[index % len(sources)], rng))
        try:
            state = load_checkpoint(path)
            assert all(isinstance(array, np.ndarray) for array in state.values())
            assert sum(array.nbytes for array in state.values()) < MEBIBYTE
        except UserError as error:
            count += 1
            assert "\n" not in str(error) and "mutated" in str(error) and error.code.startswith("checkpoints.")
    assert count > FUZZ // 4
    assert peak_memory() - before < 50 * MEBIBYTE


def test_the_tool_refuses_in_one_line_and_writes_nothing(tmp_path):
    raw_zip(tmp_path / "evil.pth", pickle.dumps({"model": Evil(os.system, f"touch {tmp_path}/witness")}, protocol=2))
    process = run_tool("convert", "evil.pth", "out.pdparams", cwd=tmp_path)
    assert_one_line_and_exit_2(process, "error: evil.pth: refused, it names posix.system", code="checkpoints.refused")
    assert [path.name for path in tmp_path.iterdir()] == ["evil.pth"]


def test_no_torch_is_imported():
    code = "import sys; from ppreplk.weights import load_checkpoint; load_checkpoint(sys.argv[1])"
    assert run_python(f"{code}; print('torch' in sys.modules)", GOLDEN / "tiny_reparam5.pth") == "False\n"
