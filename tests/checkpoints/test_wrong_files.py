"""Files that are often taken for a checkpoint: each is said to be what it is, with what to use."""

import gzip
import io
import json
import pickle
import tarfile
import zipfile

import numpy as np
import paddle
import pytest
from helpers import refused, small_network
from torch_files import Name, TorchPickler, tensors, write_zip

from ppreplk.checkpoints.files import find_checkpoint
from ppreplk.weights import load_checkpoint


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """A folder with a program that Paddle has exported."""
    folder = tmp_path_factory.mktemp("program")
    spec = [paddle.static.InputSpec([1, 4], "float32")]
    paddle.jit.save(paddle.nn.Linear(4, 2), str(folder / "inference"), input_spec=spec)
    return folder


def test_parts_of_an_exported_program(program, tmp_path):
    parts = [path for path in program.iterdir() if path.is_file()]
    assert any(path.suffix == ".pdiparams" for path in parts)
    for path in parts:
        with refused("checkpoints.wrong-file", path.name, "an exported program", "--model-dir", ".pdparams"):
            load_checkpoint(path)
    with refused("checkpoints.wrong-file", "a folder with", "an exported program"):
        load_checkpoint(program)
    renamed = tmp_path / "weights.pdparams"
    renamed.write_bytes((program / "inference.pdiparams").read_bytes())
    with refused("checkpoints.wrong-file", "the parameters of an exported program"):
        load_checkpoint(renamed)
    with refused("checkpoints.no-file", "inference.pdiparams"):
        load_checkpoint(program / "inference")


@pytest.mark.parametrize("suffix, kind", [("pdopt", "an optimizer"), ("pdstates", "a training")])
def test_what_a_training_saves_beside_its_weights(tmp_path, suffix, kind):
    model = small_network()
    optimizer = paddle.optimizer.AdamW(parameters=model.parameters())
    paddle.save({**optimizer.state_dict(), "epoch": 3}, str(tmp_path / f"latest.{suffix}"))
    with refused("checkpoints.wrong-file", f"the state of {kind}", "name the .pdparams"):
        load_checkpoint(tmp_path / f"latest.{suffix}")
    paddle.save(model.state_dict(), str(tmp_path / "latest.pdparams"))
    with refused("checkpoints.wrong-file", f"the state of {kind}", str(tmp_path / "latest.pdparams")):
        load_checkpoint(tmp_path / f"latest.{suffix}")


def tar(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("weights.pth")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


INDEX = {"metadata": {"total_size": 8}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab\nsize 12345\n"
FILES = {
    "a Git LFS pointer": ("weights.pth", LFS, "git lfs pull"),
    "a web page": ("weights.pth", b"\r\n<!DOCTYPE html><html><title>Virus scan warning</title>", "download"),
    "a web page in XML": (
        "weights.pth",
        b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
        "a web page",
    ),
    "an answer in words": ("weights.pth", b"Invalid username or password.", "'Invalid username or password.'"),
    "several pieces, PyTorch": ("pytorch_model.bin.index.json", json.dumps(INDEX).encode(), "several pieces"),
    "several pieces, renamed": ("weights", json.dumps(INDEX, indent=2).encode(), "several pieces"),
    "ONNX by name": ("model.onnx", b"\x0a\x00", "an ONNX model"),
    "ONNX": ("model.pth", b"\x08\x07\x12\x07pytorch\x1a\x051.13.\x3a\x80\x01", "an ONNX model"),
    "ONNX of Paddle": ("model.pth", b"\x08\x08\x12\x0cPaddlePaddle\x3a\x80\x01", "an ONNX model"),
    "zeros": ("weights.pth", bytes(5000), "an interrupted download"),
    "gzip": ("weights.pth.gz", gzip.compress(b"weights"), "a gzip archive"),
    "tar": ("weights.pth.tar", tar(b"weights"), "a tar archive"),
    "a single array": ("weights.npy", npy(), "a single numpy array"),
    "Keras": ("weights.h5", b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file"),
}


@pytest.mark.parametrize("kind", FILES)
def test_other_files(tmp_path, kind):
    name, data, part = FILES[kind]
    (tmp_path / name).write_bytes(data)
    with refused("checkpoints.wrong-file", name, part):
        load_checkpoint(tmp_path / name)


ARCHIVES = {
    "TorchScript": (["model/data.pkl", "model/code/__torch__/net.py", "model/constants.pkl"], "torch.jit.load"),
    "a packed checkpoint": (["weights.pth", "readme.txt"], "'weights.pth' first"),
    "numpy": (["a.npy", "b.npy"], "numpy.load"),
    "nothing": ([], "an empty zip archive"),
}


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("kind", ARCHIVES)
def test_other_archives(tmp_path, kind, compression):
    names, part = ARCHIVES[kind]
    with zipfile.ZipFile(tmp_path / "weights.pth", "w", compression) as archive:
        for name in names:
            archive.writestr(name, b"content of some length " * 9)
    with refused("checkpoints.wrong-file", part):
        load_checkpoint(tmp_path / "weights.pth")


class Module:
    """A module of PyTorch, pickled whole."""

    def __init__(self, place: Name, **parts):
        self.place = place
        self.parts = parts


class ModelPickler(TorchPickler):
    dispatch = dict(TorchPickler.dispatch)

    def save_module(self, module):
        self.save(module.place)
        self.write(pickle.EMPTY_TUPLE + pickle.NEWOBJ)
        self.save({"training": False, "_modules": module.parts})
        self.write(pickle.BUILD)

    dispatch[Module] = save_module


@pytest.mark.parametrize("container", ["zip", "old", "pickle", "in a checkpoint"])
def test_a_whole_pickled_model(tmp_path, container):
    conv = Module(Name("torch.nn.modules.conv", "Conv2d"))
    model = Module(Name("replknet", "RepLKNet"), stem=conv)
    buffer = io.BytesIO()
    ModelPickler(buffer, old=container == "old").dump({"model": model} if container == "in a checkpoint" else model)
    path = tmp_path / "model.pth"
    if container in ("old", "pickle"):
        header = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
        path.write_bytes((header if container == "old" else b"") + buffer.getvalue())
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("model/data.pkl", buffer.getvalue())
    parts = ("a whole pickled model", "replknet.RepLKNet", "nothing of it ran", "state_dict()")
    with refused("checkpoints.wrong-file", *parts):
        load_checkpoint(path)


def test_a_folder_names_the_checkpoints_in_it(tmp_path):
    folder = tmp_path / "digits"
    folder.mkdir()
    with refused("checkpoints.wrong-file", "digits: a folder without a checkpoint"):
        load_checkpoint(folder)
    for n in range(7):
        write_zip(folder / f"epoch_{n}.pth", tensors({"a": np.zeros(3, np.float32)}))
    with refused("checkpoints.wrong-file", "a folder; name the file in it", str(folder / "epoch_0.pth"), "2 more"):
        load_checkpoint(folder)
    beside = tmp_path / "digits.pdparams"
    beside.write_bytes((folder / "epoch_0.pth").read_bytes())
    assert find_checkpoint(folder) == beside
