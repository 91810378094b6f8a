"""The depthwise layers of the paper's table 1, timed where this runs: one layer and one image instead of 24 and 64."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ..utils.tables import Table
from .contestants import OWN, usable_implementations
from .layers import NATIVE
from .processor import processor
from .turns import Contest, Entry

CALLS = 2  # on the clock, in a turn: the slowest take seconds
CHANNELS = 384
SIDES = (16, 32, 64)
KERNELS = (3, 5, 7, 9, 13, 17, 21, 27, 29, 31)
SHOWN = (NATIVE, "cpu", "cuda")  # those of ours that a network would use, beside Paddle's operator


def measure_table_one(threads: int, rounds: int) -> Table:
    """Milliseconds of a forward pass in float32, the fastest of all calls, for the layers of table 1 on random numbers.

    Args:
        threads: math threads.
        rounds: turns of each contestant.

    Returns:
        A row for each map and implementation, the last column being the slowest kernel's time over the fastest's.
    """
    rows = []
    with Contest() as contest, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for side in SIDES:
            fastest: dict[str, list[float]] = {}
            for kernel in KERNELS:
                taken = contest.measure(_entries(side, kernel, threads, folder), rounds, CALLS, f"{side}, {kernel}")
                for what, each in taken.items():
                    fastest.setdefault(what, []).append(each.minimum * 1e3)
            rows += [
                [str(side), what, *(f"{value:.2f}" for value in values), f"{max(values) / min(values):.1f}"]
                for what, values in fastest.items()
            ]
        notes = contest.notes
    conditions = f"{CHANNELS} channels, one layer, one image, forward, float32"
    calls = f"{threads} threads, the fastest of {rounds * CALLS} calls"
    title = f"Table 1's layers: {conditions}, milliseconds; {calls}; {processor()}"
    return Table(title, ["H=W", "what", *(f"K={kernel}" for kernel in KERNELS), "largest / smallest"], rows, notes)


def _entries(side: int, kernel: int, threads: int, folder: Path) -> list[Entry]:
    rng = np.random.default_rng(0)
    arrays = {"x": (1, CHANNELS, side, side), "weight": (CHANNELS, 1, kernel, kernel)}
    shared: dict[str, Any] = {"threads": threads, "backward": False}
    for name, shape in arrays.items():
        shared[name] = str(folder / f"{name}.npy")
        np.save(shared[name], rng.standard_normal(shape, np.float32))
    shared["gradient"] = shared["x"]
    return [
        Entry(impl, f"{OWN}:layer", {**shared, "impl": impl}, ("paddle",))
        for impl in usable_implementations()
        if impl in SHOWN
    ]
