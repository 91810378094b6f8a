"""The device, and the math threads of a CPU."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import paddle
import threadpoolctl

from .cores import default_threads
from .distributed import processes, rank
from .errors import UserError

AVX2, AVX512 = "5", "7"  # values of MKL's switch
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt


def set_up_device(device: str, num_threads: int | None = None) -> str:
    """Choose the device, join the other processes, and on a CPU set the number of math threads.

    Args:
        device: ``Global.device``: cpu, gpu, xpu, npu or mlu.
        num_threads: ``Global.num_threads``; None for :func:`ppreplk.utils.cores.default_threads`.

    Returns:
        What to log about it, such as ``device cpu with 2 math threads``.

    Raises:
        UserError: this Paddle or this machine does not have the device.
    """
    join_processes(device)
    among = f", process {rank()} of {processes()}" if processes() > 1 else ""
    if device != "cpu":
        return f"device {paddle.get_device()}{among}"
    threads = num_threads or default_threads(processes())
    set_threads(threads)
    return f"device cpu with {threads} math thread{'s' if threads > 1 else ''}{among}"


def join_processes(device: str) -> None:
    """Choose the device and join the other processes, unless that is done.

    Raises:
        UserError: this Paddle or this machine does not have the device.
    """
    try:
        paddle.set_device(device)
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1]
        message = f"this Paddle cannot use {device!r} ({reason}); try -o Global.device=cpu"
        raise UserError(message, code="utils.no-device", where="Global.device") from error
    use_vector_units()
    if processes() > 1 and not paddle.distributed.is_initialized():
        paddle.distributed.init_parallel_env()


def use_vector_units() -> None:
    """Let MKL, the math library in Paddle's CPU wheel, use the vector units of AMD's processors.

    MKL of 2019 recognizes Intel's alone. On others it multiplies matrices at a fifth of the speed (measured on two
    cores with AVX-512: 86 GFLOP/s instead of 435). Call this before the first computation, when MKL reads its switch,
    the environment variable ``MKL_DEBUG_CPU_TYPE``. A switch that is set already stays.
    """
    try:
        processor = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
    except OSError:  # not Linux
        return
    flags = set(processor.split())
    if "AuthenticAMD" in flags and "avx2" in flags:
        instructions = AVX512 if {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= flags else AVX2
        os.environ.setdefault("MKL_DEBUG_CPU_TYPE", instructions)


def set_threads(threads: int) -> None:
    """Set the number of math threads of eager mode, which ``import paddle`` leaves at one."""
    threadpoolctl.threadpool_limits(threads, user_api="openmp")


def keep_freed_memory() -> bool:
    """Let this process keep memory that it has freed, for its next tensors. Returns whether that is possible here.

    Otherwise glibc gives large pieces back to the system, and every training step waits for new pages: tens of
    milliseconds with RepLKNet-31B. The process stays as large as it once was.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # not glibc
        return False
    largest = 2**30
    return bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1) and mallopt(M_MMAP_THRESHOLD, largest))
