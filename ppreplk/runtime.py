"""Device, math threads, random seeds."""

from __future__ import annotations

import os

import numpy as np
import paddle
import threadpoolctl

from .config import GlobalConfig
from .errors import UserError


def set_up_device(config: GlobalConfig) -> str:
    """Choose the device, and on a CPU the number of math threads. Returns what to log about it.

    Raises:
        UserError: this Paddle or this machine does not have the device.
    """
    try:
        paddle.set_device(config.device)
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(
            f"Global.device: this Paddle cannot use {config.device!r} ({reason}); try -o Global.device=cpu"
        ) from error
    if config.device != "cpu":
        return f"device {paddle.get_device()}"
    threads = config.num_threads or available_cores()
    set_threads(threads)
    return f"device cpu with {threads} math thread{'s' if threads > 1 else ''}"


def available_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def set_threads(threads: int) -> None:
    """Math threads of eager mode, which ``import paddle`` leaves at one."""
    threadpoolctl.threadpool_limits(threads, user_api="openmp")


def choose_seed(seed: int | None) -> int:
    """The seed to use: the given one, or a fresh one."""
    return int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed


def seed_step(seed: int, epoch: int, iteration: int) -> None:
    """Make the draws of one training iteration (drop path) a function of these three numbers alone."""
    paddle.seed(int(np.random.SeedSequence([seed, epoch, iteration]).generate_state(1)[0]))
