"""Files and folders that are often taken for a checkpoint: what they are, and what to use instead."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from ..utils.errors import UserError
from .unpickle import shown

CHECKPOINTS = (".pdparams", ".pth", ".pt", ".bin", ".ckpt", ".safetensors", ".pkl", ".pth.tar")
MAX_LISTED = 5  # files in a message

PROGRAM = (
    "part of an exported program; predict with the program (tools/infer.py --model-dir FOLDER), or take the .pdparams "
    "that it was exported from"
)
INDEX = "an index of weights in several pieces; put the pieces together in one file and name that"
UNPACK = "unpack it, and name the checkpoint in it"
PICKLED = "save its weights alone, torch.save(model.state_dict(), PATH), where the model's code is"
ONNX = "an ONNX model; take the checkpoint that it was exported from"
SCRIPT = (
    "a TorchScript archive; save its weights alone, torch.save(torch.jit.load(PATH).state_dict(), OTHER), in PyTorch"
)
WEB_PAGE = "a web page was saved in its place; download the file itself"
LFS = "a Git LFS pointer, which stands for a file that was not fetched; run git lfs pull where it was cloned"

SUFFIXES = {
    ".pdiparams": f"the parameters of an exported program, without their names, {PROGRAM}",
    ".pdiparams.info": PROGRAM,
    ".pdmodel": PROGRAM,
    ".pdopt": "the state of an optimizer",
    ".pdstates": "the state of a training",
    ".index.json": INDEX,
    ".onnx": ONNX,
}
STARTS = {
    b"version https://git-lfs": LFS,
    b"\x1f\x8b": f"a gzip archive; {UNPACK}",
    b"BZh": f"a bzip2 archive; {UNPACK}",
    b"\xfd7zXZ\x00": f"an xz archive; {UNPACK}",
    b"\x28\xb5\x2f\xfd": f"a zstd archive; {UNPACK}",
    b"7z\xbc\xaf\x27\x1c": f"a 7z archive; {UNPACK}",
    b"PK\x05\x06": "an empty zip archive; download it again",
    b"Rar!": f"a rar archive; {UNPACK}",
    b"\x89HDF\r\n": "an HDF5 file, of Keras perhaps, which is not read",
    b"\x93NUMPY": "a single numpy array; save all weights under their names",
    b"GGUF": "a GGUF file, whose weights are quantized; take the original ones",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"%PDF": "a PDF document",
}
NETWORKS = (b"torch.nn.modules", b"torch.nn.parallel", b"paddle.nn.layer", b"megengine.module")  # in pickled models


def _wrong(message: str) -> UserError:
    return UserError(message, code="checkpoints.wrong-file")


def check_name(path: Path) -> None:
    """Refuse what a file's name says to be something else.

    Raises:
        UserError: with the kind of file, and what to use.
    """
    for suffix, kind in SUFFIXES.items():
        if not path.name.endswith(suffix):
            continue
        if suffix in (".pdopt", ".pdstates"):
            weights = Path(str(path)[: -len(suffix)] + ".pdparams")
            kind += f"; its weights lie beside, {weights}" if weights.is_file() else "; name the .pdparams beside it"
        raise _wrong(kind)


def check_start(head: bytes) -> None:
    """Refuse what a file's first bytes, of no checkpoint known here, say to be something else.

    Raises:
        UserError: with the kind of file, and what to use.
    """
    for start, kind in STARTS.items():
        if head.startswith(start):
            raise _wrong(kind)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise _wrong(WEB_PAGE)
    if not any(head):
        raise _wrong("begins with zeros alone, as an interrupted download leaves it; download it again")
    if not any(head[:16]) and head[20:21] == b"\x08":  # versions and levels of detail, then Paddle's type of a tensor
        raise _wrong(SUFFIXES[".pdiparams"])
    if head[257:262] == b"ustar":
        raise _wrong(f"a tar archive; {UNPACK}")
    if len(head) > 2 and head[0] == 8 and 0 < head[1] < 32 and head[2] in b"\x12\x1a\x22\x28\x32\x3a\x42":
        raise _wrong(ONNX)  # its fields: version, then one of the next seven
    if text.startswith(b"{") and b'"weight_map"' in text:
        raise _wrong(INDEX)
    if text.startswith(b"{") and b'"pir"' in text:
        raise _wrong(PROGRAM)
    if text and all(byte >= 32 or byte in b"\t\r\n" for byte in head) and b"\x7f" not in head:
        line = head.decode("utf-8", errors="replace").split("\n")[0]
        raise _wrong(f"a text ({shown(line)!r}), no weights; download the file itself")


def check_archive(names: Sequence[str]) -> None:
    """Refuse zip archives that are none of PyTorch's checkpoints.

    Raises:
        UserError: with the kind of archive, and what to use.
    """
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        raise _wrong(SCRIPT)
    if any(name.endswith("/data.pkl") for name in names):
        return
    if names and all(name.endswith(".npy") for name in names):
        raise _wrong("a numpy archive; save its arrays with paddle.save(dict(numpy.load(PATH)), OTHER)")
    first = f"{shown(names[0])!r} first" if names else "none at all"
    raise _wrong(f"a zip archive of other files, {first}, without the data.pkl of a PyTorch checkpoint; {UNPACK}")


def check_pickle(start: bytes, refusal: UserError) -> None:
    """Say where a pickle is refused because it is a whole model, not a table of weights.

    Args:
        start: the first bytes of the file, a megabyte or so.
        refusal: why the pickle is refused.

    Raises:
        UserError: the refusal, and what to use.
    """
    if any(name in start for name in NETWORKS):
        raise _wrong(f"a whole pickled model ({refusal}); {PICKLED}") from refusal


def folder_error(folder: Path) -> UserError:
    """The error for a folder where a file is expected: it names the checkpoints in it."""
    names = sorted(entry.name for entry in folder.iterdir())
    found = [str(folder / name) for name in names if name.endswith(CHECKPOINTS)]
    if found:
        more = f" and {len(found) - MAX_LISTED} more" if len(found) > MAX_LISTED else ""
        return _wrong(f"a folder; name the file in it: {', '.join(found[:MAX_LISTED])}{more}")
    if any(name.endswith(".pdiparams") for name in names):
        return _wrong(f"a folder with {PROGRAM}")
    return _wrong("a folder without a checkpoint in it")


def beside(path: Path) -> Optional[str]:
    """Files that have the name of ``path`` and another suffix, for a message; None where there are none."""
    if not path.parent.is_dir():
        return None
    found = sorted(str(entry) for entry in path.parent.iterdir() if entry.stem == path.name and entry.is_file())
    return ", ".join(found[:MAX_LISTED]) or None
