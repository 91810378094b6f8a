"""One depthwise layer, with every implementation of ours and in other frameworks."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..utils.errors import UserError
from ..utils.optional import import_problem
from ..utils.tables import Table
from . import peer_files
from .contestants import OWN, PEERS, needed_packages, usable_implementations
from .processor import processor
from .turns import Contest, Entry, Taken

# (channels, side of the map, kernel size) of RepLKNet-31B's stages on images of 224x224
SHAPES = ((128, 56, 31), (256, 28, 29), (512, 14, 27), (1024, 7, 13))
NATIVE, PEER = "native", "torch channels-last"
COLUMNS = ["C, H=W, K", "batch", "what", "minimum ms", "median ms", f"times as fast as {NATIVE}", f"as {PEER}"]
CALLS = 5  # on the clock, in a turn


def measure_layers(
    shapes: Sequence[tuple[int, int, int]], batches: Sequence[int], threads: int, backward: bool, rounds: int
) -> Table:
    """Milliseconds of depthwise layers in float32, forward or backward, on random numbers.

    Args:
        shapes: of the layers: channels, side of the map, kernel size.
        batches: numbers of images at once.
        threads: math threads.
        backward: measure the gradients of both operands, without the forward pass, instead of the output.
        rounds: turns of each contestant.

    Raises:
        UserError: an even kernel size.
    """
    for _, _, kernel in shapes:
        if kernel % 2 == 0:
            raise UserError(f"a depthwise layer needs odd K, got {kernel}", code="benchmark.bad-kernel-size")
    rows = []
    with Contest() as contest:
        for batch in batches:
            for shape in shapes:
                label = f"{shape[0]}, {shape[1]}, {shape[2]}"
                with tempfile.TemporaryDirectory() as folder:
                    entries = layer_entries(*shape, batch, threads, backward, Path(folder), contest)
                    taken = contest.measure(entries, rounds, CALLS, f"{label}, batch {batch}")
                rows += _rows(label, batch, taken)
    what = "backward (both gradients)" if backward else "forward"
    title = f"One depthwise layer, {what}, float32, {threads} threads, {rounds} rounds of {CALLS}; {processor()}"
    return Table(title, COLUMNS, rows, contest.notes)


def layer_entries(
    channels: int, side: int, kernel: int, batch: int, threads: int, backward: bool, folder: Path, contest: Contest
) -> list[Entry]:
    """Who takes part, ours first. Their numbers are written to ``folder``."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, channels, side, side), np.float32)
    weight = rng.standard_normal((channels, 1, kernel, kernel), np.float32)
    arrays = {"x": x, "weight": weight, "gradient": rng.standard_normal(x.shape, np.float32)}
    shared: dict[str, Any] = {"threads": threads}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
        shared[name] = str(folder / f"{name}.npy")
    entries = [
        Entry(impl, f"{OWN}:layer", {**shared, "impl": impl, "backward": backward}, ("paddle",))
        for impl in usable_implementations()
    ]
    if not backward and any(entry.name == "cpu" for entry in entries):
        entries.append(Entry("cpu, packed", f"{OWN}:packed_layer", shared, ("paddle",)))
    for name in ("torch", PEER):
        arguments = {**shared, "channels_last": name == PEER, "backward": backward}
        entries.append(Entry(name, f"{PEERS}:torch_conv", arguments, needed_packages(name)))
    if not backward:
        entries += _onnx_entries(x, weight, shared["x"], threads, folder, contest)
    return entries


def _onnx_entries(
    x: np.ndarray, weight: np.ndarray, images: str, threads: int, folder: Path, contest: Contest
) -> list[Entry]:
    sessions = {"ONNX Runtime": "onnxruntime_session", "OpenVINO": "openvino_session"}
    problem = import_problem("onnx")
    if problem is not None:
        contest.note(f"without {' and '.join(sessions)}: {problem}")
        return []
    file = folder / "layer.onnx"
    file.write_bytes(peer_files.onnx_conv(x, weight))
    arguments = {"model": str(file), "images": images, "threads": threads}
    return [Entry(name, f"{PEERS}:{function}", arguments, needed_packages(name)) for name, function in sessions.items()]


def _rows(shape: str, batch: int, taken: dict[str, Taken]) -> list[list[str]]:
    return [
        [
            shape,
            str(batch),
            name,
            f"{each.minimum * 1e3:.3f}",
            f"{each.median * 1e3:.3f}",
            *(ratio(taken[peer].times(each)) if peer in taken else "-" for peer in (NATIVE, PEER)),
        ]
        for name, each in taken.items()
    ]


def ratio(value: float | None) -> str:
    """Two digits behind the point, one of large ratios, a dash without a peer.

    >>> ratio(0.954), ratio(741.12), ratio(None)
    ('0.95', '741.1', '-')
    """
    return "-" if value is None else f"{value:.1f}" if value >= 100 else f"{value:.2f}"
