"""How many CPU cores this process may use, and how many math threads to start on them.

The first of these that says something decides about the threads: ``Global.num_threads`` or ``--threads``, the
environment variable ``OMP_NUM_THREADS``, the cores.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

ROOT = Path("/")
OMP_NUM_THREADS = "OMP_NUM_THREADS"
# Importing Paddle sets this variable, unless it is set already.
SET_BY_PADDLE = "CUSTOM_DEVICE_ROOT"


def available_cores(root: Path = ROOT) -> int:
    """Cores this process may use: its CPU affinity or its control group's CPU quota, whichever is less, at least 1.

    Args:
        root: of the file system with ``proc`` and ``sys``.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(root)
    return cores if quota is None else max(min(cores, math.ceil(quota)), 1)


def cpu_quota(root: Path = ROOT) -> float | None:
    """Cores' worth of time that a container (``docker run --cpus``) or a control group grants; None if unlimited.

    A group is bound by its parents too, so the smallest quota on the way up counts. Control groups of version 1 and
    2 are read where Linux distributions and containers mount them, below ``/sys/fs/cgroup``.

    Args:
        root: of the file system with ``proc`` and ``sys``.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return None
    mount = root / "sys/fs/cgroup"
    quotas: list[float | None] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            quotas += [_quota_v2(folder) for folder in _up_to(mount, path)]
        elif "cpu" in controllers.split(","):
            quotas += [_quota_v1(folder) for name in ("cpu", controllers) for folder in _up_to(mount / name, path)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _up_to(mount: Path, path: str) -> Iterator[Path]:
    """The folder of a control group and those above it, up to the mount point.

    A container sees its own group at the mount point, whatever ``path`` says: folders that do not exist hold no files.
    """
    parts = PurePosixPath(path).parts[1:]
    if ".." not in parts:
        for length in range(len(parts), 0, -1):
            yield mount.joinpath(*parts[:length])
    yield mount


def _quota_v2(folder: Path) -> float | None:
    """``cpu.max`` holds the quota and the period in microseconds, or ``max`` and the period."""
    return _ratio(*_words(folder / "cpu.max"))


def _quota_v1(folder: Path) -> float | None:
    """The quota and the period in microseconds; a quota of -1 is none."""
    return _ratio(*_words(folder / "cpu.cfs_quota_us"), *_words(folder / "cpu.cfs_period_us"))


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split()
    except OSError:
        return []


def _ratio(*words: str) -> float | None:
    try:
        quota, period = map(int, words)
    except ValueError:  # a file is missing, or it says "max"
        return None
    return quota / period if quota > 0 and period > 0 else None


def default_threads(processes: int = 1, root: Path = ROOT) -> int:
    """Math threads of one process where no setting names their number: ``OMP_NUM_THREADS``, or the available cores.

    Args:
        processes: that share the cores. ``OMP_NUM_THREADS`` is for each of them.
        root: of the file system with ``proc`` and ``sys``.
    """
    return omp_num_threads(os.environ, root) or max(available_cores(root) // processes, 1)


def omp_num_threads(environment: Mapping[str, str], root: Path = ROOT) -> int | None:
    """What the user set ``OMP_NUM_THREADS`` to; None where it is not set, or not to a number of threads.

    Importing Paddle sets it to 1 unless it is set. A 1 therefore counts only if this process was started with it, and
    by a process without Paddle: ``paddle.distributed.launch`` and notebooks pass on a 1 that nobody chose.

    Args:
        environment: of this process, now.
        root: of the file system with ``proc``.
    """
    text = environment.get(OMP_NUM_THREADS, "").partition(",")[0].strip()  # one number for each level of nesting
    if text == "1":
        at_start = _environment_at_start(root)
        return 1 if OMP_NUM_THREADS in at_start and SET_BY_PADDLE not in at_start else None
    return int(text) if text.isdecimal() and int(text) > 0 else None


def _environment_at_start(root: Path) -> dict[str, str]:
    """The variables this process was started with; nothing where they cannot be read."""
    try:
        entries = (root / "proc/self/environ").read_bytes().split(b"\0")
    except OSError:  # not Linux
        return {}
    return dict(os.fsdecode(entry).partition("=")[::2] for entry in entries)
