"""The formats that an export writes. A new format is one file in this room and one entry in ``FORMATS``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from paddle import nn

from ..config import Config
from . import legacy_file, onnx_export, program_file
from .programs import LEGACY_FILE, ONNX_FILE, PROGRAMS, WEIGHTS
from .verify import Runtime


@dataclass(frozen=True)
class Format:
    """A kind of exported file.

    Args:
        files: all names of files that it may write.
        check: raises a :class:`~ppreplk.utils.errors.UserError` where it cannot be made here. Its arguments are the
            configuration and the precisions.
        write: writes a network, in train or merged form and in eval mode, to a folder. Its arguments are the network,
            the configuration, the folder and the precisions.
        runtimes: what is installed here and runs it, at least one. Its arguments are the folder, the configuration and
            the precisions.
    """

    files: Sequence[str]
    check: Callable[[Config, Sequence[str]], None]
    write: Callable[[nn.Layer, Config, Path, Sequence[str]], None]
    runtimes: Callable[[Path, Config, Sequence[str]], Sequence[Runtime]]


PROGRAM = "paddle"
FORMATS: dict[str, Format] = {
    PROGRAM: Format(
        (*(f"{program}.json" for program in PROGRAMS.values()), WEIGHTS),
        program_file.check,
        program_file.write,
        program_file.runtimes,
    ),
    "pdmodel": Format((LEGACY_FILE, WEIGHTS), legacy_file.check, legacy_file.write, legacy_file.runtimes),
    "onnx": Format((ONNX_FILE,), onnx_export.check, onnx_export.write, onnx_export.runtimes),
}
