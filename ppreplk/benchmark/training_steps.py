"""A training step of a whole network, ours and in PyTorch."""

from __future__ import annotations

import inspect
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ..deploy.lowering import NATIVE
from ..models import find_model, graph_of
from ..nn.conv import CPU
from ..ops import training_layers
from ..ops.training_layers import Products
from ..utils.tables import Table
from . import peer_files
from .contestants import OWN, PEERS, needed_packages, usable_implementations
from .layers import PEER, ratio
from .networks import build_measured
from .processor import processor
from .turns import Contest, Entry

CHANNELS_LAST = "Paddle, channels-last"
BF16X3: Products = "fp32-bf16x3"
DROP_PATH = 0.5  # of RepLKNet's ImageNet-1K recipe


def measure_training(name: str, size: int, batch: int, threads: int, rounds: int, native: bool) -> Table:
    """Milliseconds per training step in float32 on random images: forward, backward and AdamW.

    Drop path is on in networks that have it.

    Args:
        name: of a network of ours.
        size: height and width of the images.
        batch: images in a step.
        threads: math threads.
        rounds: turns of each contestant.
        native: also measure Paddle's own depthwise operator, which takes very long.

    Raises:
        UserError: an unknown network, or one without a graph.
    """
    has_drop_path = "drop_path_rate" in inspect.signature(find_model(name).architecture.network).parameters
    drop_path = {"drop_path_rate": DROP_PATH} if has_drop_path else {}
    model = build_measured(name, **drop_path)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as temporary, Contest() as contest:
        folder = Path(temporary)
        images, labels, twin = (folder / file for file in ("images.npy", "labels.npy", "twin.npz"))
        np.save(images, rng.standard_normal((batch, 3, size, size), np.float32))
        np.save(labels, rng.integers(0, 1000, batch))
        peer_files.record(graph_of(model), twin)
        del model
        data: dict[str, Any] = {"images": str(images), "labels": str(labels), "threads": threads}
        ours = {"name": name, "arguments": drop_path}
        forms = {
            f"Paddle, {impl}": {"impl": impl, "layout": "nchw"}
            for impl in usable_implementations()
            if impl != NATIVE or native
        }
        if CPU in usable_implementations() and training_layers.available():
            form = {"impl": CPU, "layout": "channels_last"}
            forms[CHANNELS_LAST] = form
            if (problem := training_layers.products_problem(BF16X3)) is None:
                forms[f"{CHANNELS_LAST} {BF16X3}"] = {**form, "products": BF16X3}
            else:
                contest.note(f"without {CHANNELS_LAST} {BF16X3}, which is not timed here: {problem}")
        entries = [
            Entry(who, f"{OWN}:training_step", {**data, **ours, **form}, ("paddle",)) for who, form in forms.items()
        ]
        for peer in ("torch", PEER):
            arguments = {**data, "record": str(twin), "channels_last": peer == PEER}
            entries.append(Entry(peer, f"{PEERS}:torch_training_step", arguments, needed_packages(peer)))
        taken = contest.measure(entries, rounds, calls=1)
    rows = [
        [who, f"{each.minimum * 1e3:.0f}", f"{each.median * 1e3:.0f}", ratio(each.times(taken.get(PEER)))]
        for who, each in taken.items()
    ]
    conditions = f"{size}x{size}, batch {batch}, float32, {threads} threads, {rounds} rounds"
    title = f"{name}, one training step, {conditions}; {processor()}"
    return Table(title, ["what", "minimum ms", "median ms", f"times {PEER}'s"], rows, contest.notes)
