"""Device, processes, math threads, random seeds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import paddle
import threadpoolctl
from paddle import nn

from .errors import UserError

AVX2, AVX512 = "5", "7"  # values of MKL's switch


def set_up_device(device: str, num_threads: int | None = None) -> str:
    """Choose the device, join the other processes, and on a CPU set the number of math threads.

    Args:
        device: ``Global.device``: cpu, gpu, xpu, npu or mlu.
        num_threads: ``Global.num_threads``; None for all the cores, shared among the processes.

    Returns:
        What to log about it.

    Raises:
        UserError: this Paddle or this machine does not have the device.
    """
    try:
        paddle.set_device(device)
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(
            f"Global.device: this Paddle cannot use {device!r} ({reason}); try -o Global.device=cpu"
        ) from error
    use_vector_units()
    if processes() > 1:
        paddle.distributed.init_parallel_env()
    among = f", process {rank()} of {processes()}" if processes() > 1 else ""
    if device != "cpu":
        return f"device {paddle.get_device()}{among}"
    threads = num_threads or max(available_cores() // processes(), 1)
    set_threads(threads)
    return f"device cpu with {threads} math thread{'s' if threads > 1 else ''}{among}"


def use_vector_units() -> None:
    """Let the math library inside Paddle's CPU wheel (MKL of 2019) use the vector units of processors by AMD.

    Left alone it recognizes Intel's only and multiplies matrices at a fifth of the speed (measured: 86 instead of 435
    GFLOP/s on two cores with AVX-512). It reads its switch when it is first used; one that is already set stays.
    """
    try:
        processor = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
    except OSError:  # not Linux
        return
    flags = set(processor.split())
    if "AuthenticAMD" in flags and "avx2" in flags:
        instructions = AVX512 if {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= flags else AVX2
        os.environ.setdefault("MKL_DEBUG_CPU_TYPE", instructions)


def processes() -> int:
    """Processes of this training; more than one under ``python -m paddle.distributed.launch``."""
    return paddle.distributed.get_world_size()


def rank() -> int:
    """Number of this process, from 0. Process 0 alone logs and writes."""
    return paddle.distributed.get_rank()


def sum_over_processes(values: Sequence[float]) -> list[float]:
    """Element-wise sum of every process's ``values``."""
    if processes() == 1:
        return list(values)
    total = paddle.to_tensor(np.asarray(values, np.float64))
    paddle.distributed.all_reduce(total)
    return total.tolist()


def share_statistics(model: nn.Layer) -> None:
    """Give every process the running statistics of process 0, so that all hold the network that is saved."""
    if processes() > 1:
        for tensor in model.parameters():
            if tensor.stop_gradient:
                paddle.distributed.broadcast(tensor, src=0)


def available_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def set_threads(threads: int) -> None:
    """Math threads of eager mode, which ``import paddle`` leaves at one."""
    threadpoolctl.threadpool_limits(threads, user_api="openmp")


def choose_seed(seed: int | None) -> int:
    """The seed to use: the given one, or a fresh one; 0 where several processes must agree."""
    if seed is not None:
        return seed
    return int(np.random.SeedSequence().generate_state(1)[0]) if processes() == 1 else 0


def seed_step(seed: int, epoch: int, iteration: int) -> None:
    """Make the draws of one training iteration (drop path) a function of these numbers and the rank alone."""
    paddle.seed(int(np.random.SeedSequence([seed, epoch, iteration, rank()]).generate_state(1)[0]))
