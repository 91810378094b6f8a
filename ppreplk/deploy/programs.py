"""Exported programs on disk, and running them with Paddle Inference."""

from __future__ import annotations

import functools
import logging
from pathlib import Path

import numpy as np
import paddle
import paddle.inference

from ..ops import cpu, load_ops, onednn
from ..utils.cores import default_threads
from ..utils.errors import UserError

logger = logging.getLogger(__name__)

FP32, BF16 = PRECISIONS = ("fp32", "bf16")
PROGRAMS = {FP32: "inference", BF16: "inference_bf16"}  # files by precision: inference.json, ...
INFERENCE_YAML = "inference.yml"
NO_BFLOAT16 = "this processor has no bfloat16 arithmetic (AVX-512 BF16 or AMX)"


def program_files(folder: str | Path, precision: str = FP32) -> tuple[Path, Path]:
    """Program and weights in a folder that ``tools/export.py`` wrote.

    Raises:
        UserError: there is no such program, or precision.
    """
    if precision not in tuple(PROGRAMS):  # a file may hold what cannot be hashed
        raise UserError(
            f"unknown precision {precision!r}; the precisions are {', '.join(PROGRAMS)}", code="deploy.precision"
        )
    program, weights = Path(folder) / f"{PROGRAMS[precision]}.json", Path(folder) / f"{PROGRAMS[FP32]}.pdiparams"
    missing = [str(path) for path in (program, weights) if not path.is_file()]
    if missing and precision != FP32 and program_files(folder):
        raise UserError(
            f"{missing[0]} missing; use --precision {FP32}, or run tools/export.py --precision {precision} "
            "-o Global.export_runtime=channels_last",
            code="deploy.no-program",
        )
    if missing:
        raise UserError(
            f"no exported program in {folder}: {' and '.join(missing)} missing; run tools/export.py",
            code="deploy.no-program",
        )
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


def _load_operators(program: Path, device: str) -> bool:
    """Load the operators of this package that a program holds. Returns whether it is a channels-last one.

    Raises:
        UserError: they are not for this device, or cannot be built or loaded.
    """
    content = program.read_text(encoding="utf-8", errors="replace")
    is_channels_last = any(prefix in content for prefix in onednn.OPERATOR_PREFIXES)
    if is_channels_last or cpu.OPERATOR_PREFIX in content:
        if device != "cpu":
            raise UserError(
                f"holds operators for cpu, the device is {device}; export it without them",
                code="deploy.device",
                where=str(program),
            )
        load_ops("depthwise", *(["channels_last"] if is_channels_last else []))
    return is_channels_last


@functools.cache
def _announce_emulation() -> None:
    """Say once per process that bfloat16 programs are no faster here."""
    logger.info("%s: the %s program runs with the same rounding in float32 arithmetic, no faster", NO_BFLOAT16, BF16)


class Predictor:
    """An exported program, run by Paddle Inference. (N, C, H, W) float32 -> (N, class_num) float32.

    Args:
        folder: what ``tools/export.py`` wrote.
        device: ``cpu`` or ``gpu``.
        threads: math threads on a CPU; :func:`ppreplk.utils.cores.default_threads` unless given.
        precision: ``"fp32"`` or ``"bf16"``: which of the programs in the folder.

    Raises:
        UserError: there is no such program in the folder, or it cannot be loaded; or it holds operators of this
            package, and they cannot be built or are not for this device.
    """

    def __init__(self, folder: str | Path, device: str = "cpu", threads: int | None = None, precision: str = FP32):
        program, weights = program_files(folder, precision)
        check_place(folder)
        is_channels_last = _load_operators(program, device)
        if precision == BF16 and is_channels_last and not onednn.has_bfloat16():
            _announce_emulation()
        config = paddle.inference.Config(str(program), str(weights))
        config.disable_glog_info()
        if device == "gpu":
            config.enable_use_gpu(256, 0)  # MB to begin with, on the first card
        else:
            config.disable_gpu()
            config.enable_mkldnn()
            config.set_cpu_math_library_num_threads(threads or default_threads())
        try:
            self._predictor = paddle.inference.create_predictor(config)
        except (RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[-1]
            raise UserError(
                f"{program} or {weights} cannot be loaded ({reason}); export them again", code="deploy.bad-program"
            ) from error

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Outputs (N, class_num) for images (N, C, H, W), float32 both."""
        (outputs,) = self._predictor.run([paddle.to_tensor(np.ascontiguousarray(images))])
        return outputs.numpy()


def choose_precision(folder: str, device: str, exported: str, requested: str | None) -> str:
    """The precision to predict in: the requested one, else what was exported for, if the processor has it.

    Raises:
        UserError: there is no such program or it is not for this device; or bfloat16 was requested, and the processor
            does not multiply it.
    """
    precision = requested or exported
    program, _ = program_files(folder, precision)
    if precision == BF16 and _load_operators(program, device) and not onednn.has_bfloat16():
        if requested:
            raise UserError(f"precision {BF16}: {NO_BFLOAT16}; use {FP32}", code="deploy.precision")
        logger.info("%s: predicting in %s", NO_BFLOAT16, FP32)
        return FP32
    return precision
