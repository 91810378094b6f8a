"""Exported programs on disk, and running them with Paddle Inference."""

from __future__ import annotations

import functools
import json
import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np
import paddle
import paddle.inference

from ..ops import cpu, load_ops
from ..ops import onednn as onednn_ops
from ..utils.cores import default_threads
from ..utils.errors import UserError
from ..utils.paddle_errors import PADDLE_ERRORS, paddle_reason

logger = logging.getLogger(__name__)

FP32, BF16X3, BF16, INT8 = PRECISIONS = onednn_ops.PRECISIONS
# Files by precision: inference.json, ...
PROGRAMS = {FP32: "inference", BF16X3: "inference_bf16x3", BF16: "inference_bf16", INT8: "inference_int8"}
LEGACY_FILE = f"{PROGRAMS[FP32]}.pdmodel"  # the float32 program as Paddle 2 has it
WEIGHTS = f"{PROGRAMS[FP32]}.pdiparams"  # of all of them
ONNX_FILE = f"{PROGRAMS[FP32]}.onnx"  # program and weights, for other readers
DEVICES = ("cpu", "gpu")
NO_BFLOAT16 = "this processor has no bfloat16 arithmetic (AVX-512 BF16 or AMX)"
NO_INT8 = "this processor does not multiply 8-bit integers (AVX-512 VNNI or AVX-VNNI)"
NO_TILES = "this processor has no AMX"


def program_files(folder: str | Path, precision: str = FP32) -> tuple[Path, Path]:
    """Program and weights in a folder that ``tools/export.py`` wrote.

    The program is the JSON one, or ``LEGACY_FILE`` where that is not there.

    Raises:
        UserError: there is no such program, or precision; or they cannot be read.
    """
    if precision not in tuple(PROGRAMS):  # a file may hold what cannot be hashed
        raise UserError(
            f"unknown precision {precision!r}; the precisions are {', '.join(PROGRAMS)}", code="deploy.precision"
        )
    program, weights = Path(folder) / f"{PROGRAMS[precision]}.json", Path(folder) / WEIGHTS
    if precision == FP32 and not os.path.isfile(program) and os.path.isfile(Path(folder) / LEGACY_FILE):
        program = Path(folder) / LEGACY_FILE
    missing = [str(path) for path in (program, weights) if not os.path.isfile(path)]
    if missing and precision != FP32 and program_files(folder):
        raise UserError(
            f"{missing[0]} missing; use --precision {FP32}, or run tools/export.py --precision {precision} "
            "-o Global.export_runtime=channels_last",
            code="deploy.no-program",
        )
    if len(missing) == 2 and os.path.isfile(Path(folder) / ONNX_FILE):
        raise UserError(
            f"{folder} has only {ONNX_FILE}, which ONNX Runtime and OpenVINO read; to run it here too, export with "
            '-o "Global.export_format=[paddle,onnx]"',
            code="deploy.no-program",
        )
    if missing:
        raise UserError(
            f"no exported program in {folder}: {' and '.join(missing)} missing; run tools/export.py",
            code="deploy.no-program",
        )
    for path in (program, weights):
        try:
            open(path, "rb").close()
        except OSError as error:
            raise UserError(f"cannot be read ({error.strerror})", code="deploy.no-program", where=str(path)) from error
    return program, weights


def check_place(folder: str | Path, where: str | None = None) -> None:
    """Check that Paddle can write and read programs in a folder.

    Raises:
        UserError: its path has bytes that are no text, which Paddle's C++ does not take.
    """
    path = str(Path(folder).absolute())
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{path} is not UTF-8, and Paddle keeps no program in such a folder; name another one",
            code="deploy.bad-folder-name",
            where=where,
        ) from error


def load_operators(program: Path, device: str) -> bool:
    """Load the operators of this package that a program holds. Returns whether it is a channels-last one.

    Raises:
        UserError: they are not for this device, or cannot be built or loaded.
    """
    content = program.read_text(encoding="utf-8", errors="replace")
    is_channels_last = any(prefix in content for prefix in onednn_ops.OPERATOR_PREFIXES)
    if is_channels_last or cpu.OPERATOR_PREFIX in content:
        if device != "cpu":
            raise UserError(
                f"holds operators for cpu, the device is {device}; export it without them",
                code="deploy.device",
                where=str(program),
            )
        try:
            load_ops("depthwise", *(["channels_last"] if is_channels_last else []))
        except UserError as error:
            raise error.at(f"{program} holds operators in C++") from error
    return is_channels_last


def missing_arithmetic(precision: str) -> str | None:
    """Why channels-last programs of a precision are computed in float32, with the same rounding, on this processor."""
    if precision == BF16 and not onednn_ops.has_bfloat16():
        return NO_BFLOAT16
    return NO_INT8 if precision == INT8 and not onednn_ops.has_int8() else None


@functools.cache
def _announce_emulation(reason: str, precision: str) -> None:
    """Say once per process that programs of a precision are no faster here."""
    logger.info("%s: the %s program runs with the same rounding in float32 arithmetic, no faster", reason, precision)


@functools.cache
def _announce_float32() -> None:
    """Say once per process that programs of split products compute in float32 here."""
    logger.info("%s: the %s program computes in float32, no less exact and no faster than %s", NO_TILES, BF16X3, FP32)


def input_shape(program: Path) -> Optional[list[int]]:
    """The shape [N, C, H, W] of what a program reads, -1 where any number will do; None where that is not found."""
    try:
        operators = json.loads(program.read_text(encoding="utf-8"))["program"]["regions"][0]["blocks"][0]["ops"]
        (data,) = [operator for operator in operators if operator["#"] == "1.data"]
        attributes = {attribute["N"]: attribute["AT"]["D"] for attribute in data["A"]}
        return [int(side) for side in attributes["shape"]]
    except (ValueError, TypeError, LookupError):  # no JSON, or of another version of Paddle
        return None


def as_images(images: Any, expected: Optional[Sequence[int]] = None) -> np.ndarray:
    """Images (N, C, H, W) of any type of number, as float32 in one piece of memory. Values are not scaled.

    Args:
        images: an array, a tensor or nested lists.
        expected: the shape that the program names, see :func:`input_shape`.

    Raises:
        UserError: no numbers, complex ones, another number of axes or channels, or no images at all.

    >>> as_images([[[[0, 255]]]], [-1, 1, 8, 8])
    array([[[[  0., 255.]]]], dtype=float32)
    """
    if isinstance(images, paddle.Tensor) and images.dtype == paddle.bfloat16:
        images = images.astype("float32")  # NumPy has no such type and shows its bits
    wanted = "(N, C, H, W)" if expected is None else f"(N, {', '.join(map(str, expected[1:]))})"
    try:
        array = np.asarray(images)
    except ValueError as error:
        raise _bad_images(f"expected one array of shape {wanted}, got images of several shapes ({error})") from error
    if array.dtype.kind not in "buif":
        raise _bad_images(f"expected numbers, best float32, of shape {wanted}, got {array.dtype}")
    channels = -1 if expected is None else expected[1]
    if array.ndim != 4 or channels not in (-1, array.shape[1]):
        raise _bad_images(f"expected shape {wanted}, got {array.shape}{_shape_hint(array.shape, channels)}")
    if 0 in array.shape:
        raise _bad_images(f"expected at least one image of shape {wanted}, got {array.shape}, which is empty")
    with np.errstate(over="ignore"):  # float64 beyond float32 is infinite, which is said of the images
        return np.ascontiguousarray(array, np.float32)


def _bad_images(message: str) -> UserError:
    return UserError(message, code="deploy.bad-images", where="images")


def _shape_hint(shape: tuple[int, ...], channels: int) -> str:
    if len(shape) == 3:
        return "; one image is images[None]" if channels in (-1, shape[0]) else ""
    if len(shape) == 4 and shape[3] == channels:
        return "; channels come first: images.transpose(0, 3, 1, 2)"
    return ""


def inference_config(
    program: Path, weights: Path, device: str, threads: int | None, onednn: bool = True
) -> paddle.inference.Config:
    """How Paddle Inference runs a program: on the first card, or on CPU threads.

    Args:
        program, weights: the files.
        device: one of ``DEVICES``.
        threads: math threads on a CPU; :func:`ppreplk.utils.cores.default_threads` unless given.
        onednn: whether oneDNN computes on a CPU.
    """
    config = paddle.inference.Config(str(program), str(weights))
    config.disable_glog_info()
    if device == "gpu":
        config.enable_use_gpu(256, 0)  # MB to begin with, on the first card
    else:
        config.disable_gpu()
        if onednn:
            config.enable_mkldnn()
        else:
            config.disable_mkldnn()
        config.set_cpu_math_library_num_threads(threads or default_threads())
    return config


def not_finite(images: np.ndarray) -> list[int]:
    """Indices of the images that hold NaN or infinite values."""
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(images.sum()):  # as a rule; needs no memory
            return []
    return [index for index, image in enumerate(images) if not np.isfinite(image).all()]


def _check_legacy_program(program: Path) -> None:
    """Check that a file is a message with a first field, as a program is: on others Paddle 3.3 ends the process.

    Raises:
        UserError: it is not, such as a page of a server or a pointer of Git LFS.
    """
    with open(program, "rb") as file:
        if file.read(1) != b"\n":
            raise UserError("is no program of Paddle; export it again", code="deploy.bad-program", where=str(program))


class Program:
    """An exported program, run by Paddle Inference. (N, C, H, W) -> (N, class_num) float32.

    Args:
        folder: what ``tools/export.py`` wrote.
        device: ``cpu`` or ``gpu``.
        threads: math threads on a CPU; :func:`ppreplk.utils.cores.default_threads` unless given.
        precision: one of :data:`PRECISIONS`: which of the programs in the folder.
        onednn: whether oneDNN computes on a CPU.

    Threads may share a program. Its runs come one after the other, which costs nothing: Paddle keeps Python's global
    lock while a program computes, so that clones of it would not run side by side either (measured with 3.3.1).

    Raises:
        UserError: there is no such program in the folder, or it cannot be loaded; or it holds operators of this
            package, and they cannot be built or are not for this device.
    """

    def __init__(
        self,
        folder: str | Path,
        device: str = "cpu",
        threads: int | None = None,
        precision: str = FP32,
        onednn: bool = True,
    ):
        program, weights = program_files(folder, precision)
        check_place(folder)
        if program.name == LEGACY_FILE:
            _check_legacy_program(program)
        is_channels_last = load_operators(program, device)
        if is_channels_last and (missing := missing_arithmetic(precision)):
            _announce_emulation(missing, precision)
        if precision == BF16X3 and is_channels_last and onednn_ops.tiles_backend() == "none":
            _announce_float32()
        if device not in DEVICES:
            raise UserError(
                f"programs run on {' or '.join(DEVICES)} here, the device is {device!r}: -o Global.device=cpu",
                code="deploy.device",
            )
        if device == "gpu" and paddle.device.cuda.device_count() == 0:  # Paddle would compute on the CPU
            raise UserError("no GPU, or a Paddle without CUDA; use the device cpu", code="deploy.device")
        try:
            config = inference_config(program, weights, device, threads, onednn)
            self._predictor = paddle.inference.create_predictor(config)
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"{program} or {weights} cannot be loaded ({paddle_reason(error)}); export them again",
                code="deploy.bad-program",
            ) from error
        self._running = threading.Lock()
        self._program = program
        self._place = paddle.CPUPlace() if device == "cpu" else None
        self.input_shape = input_shape(program)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Outputs (N, class_num), float32, for images (N, C, H, W), which are float32 or become it.

        Images that hold NaN or infinite values are named in a warning: their outputs may look like any others, since
        a ReLU turns NaN into zero.

        Raises:
            UserError: images of another shape, or no numbers; or the program does not run on them.
        """
        batch = as_images(images, self.input_shape)
        if found := not_finite(batch):
            logger.warning(
                "images with NaN or infinite values, whose outputs mean nothing: %s of %d", found, len(batch)
            )
        try:
            with self._running:
                (outputs,) = self._predictor.run([paddle.to_tensor(batch, place=self._place)])
                return outputs.numpy()
        except PADDLE_ERRORS as error:
            shape = "" if self.input_shape is None else f", it was exported for {self.input_shape[1:]}"
            raise UserError(
                f"does not run on images of shape {list(batch.shape)}{shape} ({paddle_reason(error)})",
                code="deploy.bad-images",
                where=str(self._program),
            ) from error


def input_ranges(program: Path) -> list[tuple[float, float]]:
    """The ranges that an int8 program holds, in the order of its convolutions: the least and the largest input of each.

    >>> input_ranges(Path("no program"))
    []
    """
    try:
        blocks = json.loads(program.read_text(encoding="utf-8"))["program"]["regions"][0]["blocks"]
    except (OSError, ValueError, LookupError):
        return []
    found = []
    for operator in blocks[0]["ops"]:
        if operator["#"].endswith(f"{onednn_ops.OPERATOR_PREFIX}pack_int8"):
            attributes = {attribute["N"]: attribute["AT"]["D"] for attribute in operator["A"]}
            found.append((attributes["low"], attributes["high"]))
    return found


def choose_precision(folder: str, device: str, exported: str, requested: str | None) -> str:
    """The precision to predict in: the requested one, else what was exported for, if the processor has it.

    ``"fp32-bf16x3"`` without AMX becomes ``"fp32"``, with a line in the log, even if requested: nothing is lost.

    Raises:
        UserError: there is no such program or it is not for this device; or bfloat16 or 8-bit integers were requested,
            and the processor does not multiply them.
    """
    precision = requested or exported
    program, _ = program_files(folder, precision)
    if precision in (BF16, INT8) and load_operators(program, device) and (missing := missing_arithmetic(precision)):
        if requested:
            raise UserError(f"precision {precision}: {missing}; use {FP32}", code="deploy.precision")
        logger.info("%s: predicting in %s", missing, FP32)
        return FP32
    if precision == BF16X3 and load_operators(program, device) and onednn_ops.tiles_backend() == "none":
        logger.info("%s: predicting in %s", NO_TILES, FP32)
        return FP32
    return precision
