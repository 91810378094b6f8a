"""A whole network in inference form, ours and in other frameworks."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn

from ..deploy.lowering import CHANNELS_LAST, NATIVE, lower
from ..deploy.onnx_file import BATCH, onnx_network
from ..deploy.program_file import save_network
from ..deploy.programs import BF16, BF16X3, FP32, INT8, PROGRAMS, program_files
from ..models import build_model, find_model, graph_of
from ..nn import fold
from ..utils.device import set_threads, use_vector_units
from ..utils.errors import UserError
from ..utils.optional import import_problem
from ..utils.tables import Table
from . import peer_files
from .contestants import OWN, needed_packages, usable_implementations
from .contestants import PEERS as PEER_BUILDERS
from .layers import PEER, ratio
from .processor import processor
from .turns import Contest, Entry, Taken

logger = logging.getLogger(__name__)

COLUMNS = ["input", "batch", "threads", "what", "minimum ms", "median ms", "times OpenVINO's", f"times {PEER}'s"]
DIFFERENCE = "difference"
LOADING = ["load s", "memory MB"]
CALIBRATION_IMAGES = 4  # of the int8 program
CALLS = 3  # on the clock, in a turn
ONNX, TWIN, WEIGHTS = "network.onnx", "network.npz", "network.pdparams"
FROM_WEIGHTS = "Paddle, from weights"  # what tools/eval.py and tools/infer.py compute with
CPU = "cpu"  # the implementation, and the folder of the program that uses it
# What can be loaded: the folder of a Paddle program or the file of another, and the precision to compute in.
LOADABLE = {
    "Paddle Inference, native": (NATIVE, FP32),
    "Paddle Inference, native bf16": (NATIVE, BF16),
    "Paddle Inference, cpu": (CPU, FP32),
    "Paddle Inference, channels_last": (CHANNELS_LAST, FP32),
    "Paddle Inference, channels_last fp32-bf16x3": (CHANNELS_LAST, BF16X3),
    "Paddle Inference, channels_last bf16": (CHANNELS_LAST, BF16),
    "Paddle Inference, channels_last int8": (CHANNELS_LAST, INT8),
    "ONNX Runtime": (ONNX, FP32),
    "OpenVINO": (ONNX, FP32),
    "OpenVINO bf16": (ONNX, BF16),
}
# {folder of the programs to save: arguments of :func:`ppreplk.deploy.lowering.lower`}
FORMS: dict[str, dict[str, Any]] = {
    NATIVE: {},
    CPU: {"depthwise": CPU},
    CHANNELS_LAST: {"runtime": CHANNELS_LAST, "precisions": (FP32, BF16X3, BF16, INT8)},
}
OPENVINO_PRECISIONS = {FP32: "f32", BF16: "bf16"}
# {precision: with what the others are compared}
PEERS = {FP32: "OpenVINO", BF16X3: "OpenVINO", BF16: "OpenVINO bf16", INT8: "OpenVINO bf16"}
SLOW = ("Paddle, eager, native", "Paddle Inference, native bf16", "torch")  # several times the others' time


def measure_network(
    name: str, sizes: Sequence[int], batches: Sequence[int], threads: Sequence[int], rounds: int, native: bool
) -> Table:
    """Milliseconds per batch of a network in inference form, with random weights, statistics and images.

    For every input size, batch and number of threads, all contestants take turns, each in a process of its own that has
    loaded nothing else. The column ``difference`` compares each with the train form, relative to its largest logit.
    ``load s`` is the time it takes to load the network from files and run it once, and ``memory MB`` what that adds to
    the process at its peak. Imports do not count.

    Args:
        name: of a network of ours.
        sizes: heights and widths of the images.
        batches: numbers of images at once.
        threads: numbers of math threads.
        rounds: turns of each contestant.
        native: also measure what is in :data:`SLOW`.

    Raises:
        UserError: an unknown network, or one without a graph.
    """
    use_vector_units()
    paddle.seed(0)
    model = build_measured(name)
    randomise_statistics(model)
    model.eval()
    rows: list[list[str]] = []
    notes: list[str] = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            _save(model, size, folder)
            for batch in batches:
                images = np.random.default_rng(batch).standard_normal((batch, 3, size, size), np.float32)
                np.save(folder / "images.npy", images)
                set_threads(max(threads))
                expected = _eager(model, images)
                for count in threads:
                    with Contest(notes) as contest:
                        contestants = entries(name, folder, count, native, contest)
                        label = f"{size}x{size}, batch {batch}, {count} threads"
                        taken = contest.measure(contestants, rounds, CALLS, label)
                    rows += _rows([f"{size}x{size}", str(batch), str(count)], taken, expected)
    title = f"{name}, inference, {rounds} rounds of {CALLS}; {processor()}"
    return Table(title, [*COLUMNS, DIFFERENCE, *LOADING], rows, notes)


def build_measured(name: str, **kwargs: Any) -> nn.Layer:
    """A network that the other frameworks can compute too.

    Raises:
        UserError: an unknown network, or one without a graph.
    """
    if find_model(name).architecture.graph is None:
        message = f"{name} has no graph, from which the networks of other frameworks are made; choose another --name"
        raise UserError(message, code="benchmark.no-graph")
    return build_model(name, **kwargs)


def randomise_statistics(model: nn.Layer) -> None:
    """Give every BN statistics, scales and shifts such as a trained network might have."""
    rng = np.random.default_rng(0)
    for layer in model.sublayers():
        if isinstance(layer, nn.BatchNorm2D):
            for parameter in (layer.weight, layer._variance):
                parameter.set_value(rng.uniform(0.5, 1.5, parameter.shape).astype("float32"))
            for parameter in (layer.bias, layer._mean):
                parameter.set_value(rng.normal(0, 0.3, parameter.shape).astype("float32"))


def _save(model: nn.Layer, size: int, folder: Path) -> None:
    """Write weights, programs and other files for images of this size. What cannot be made here is logged."""
    paddle.save(model.state_dict(), str(folder / WEIGHTS))
    folded = fold(model)
    peer_files.record(graph_of(folded), folder / TWIN)
    generator = np.random.default_rng(0)
    for directory, arguments in FORMS.items():
        # of the kind that is measured, other ones
        calibration = [generator.standard_normal((CALIBRATION_IMAGES, 3, size, size), np.float32)]
        try:
            forms = _forms(model, arguments, calibration)
        except UserError as error:
            logger.info("without %s: %s", directory, error)
            continue
        for precision, form in forms.items():
            save_network(form, [3, size, size], folder / directory / PROGRAMS[precision])
    if import_problem("onnx") is None:
        (folder / ONNX).write_bytes(onnx_network(graph_of(folded), (BATCH, 3, size, size)))


def _forms(model: nn.Layer, arguments: dict[str, Any], calibration: Sequence[np.ndarray]) -> dict[str, nn.Layer]:
    """The forms to save, without the int8 one where the network has no layer for it."""
    try:
        return lower(model, **arguments, calibration=calibration)
    except UserError as error:
        if error.code != "deploy.precision":
            raise
        logger.info("without %s: %s", INT8, error)
        return lower(model, **{**arguments, "precisions": [each for each in arguments["precisions"] if each != INT8]})


def entries(name: str, folder: Path, threads: int, native: bool, contest: Contest) -> list[Entry]:
    """Who takes part: what :func:`_save` could make files for."""
    shared: dict[str, Any] = {"images": str(folder / "images.npy"), "threads": threads}
    weights = {**shared, "name": name, "weights": str(folder / WEIGHTS)}
    found: dict[str, tuple[str, dict[str, Any]]] = {
        f"Paddle, eager, {impl}": (f"{OWN}:eager", {**weights, "impl": impl}) for impl in usable_implementations()
    }
    found[FROM_WEIGHTS] = (f"{OWN}:from_weights", weights)
    for peer in ("torch", PEER):
        arguments = {**shared, "record": str(folder / TWIN), "channels_last": peer == PEER}
        found[peer] = (f"{PEER_BUILDERS}:torch_network", arguments)
    for who, (file, precision) in LOADABLE.items():
        if precision == INT8 and (folder / file).is_dir() and not (folder / file / f"{PROGRAMS[INT8]}.json").exists():
            continue
        if (folder / file).exists():
            found[who] = _loadable(who, folder / file, precision, shared)
        elif file == ONNX and (problem := import_problem("onnx")) is not None:
            contest.note(f"without {who}: {problem}")
    return [
        Entry(who, builder, arguments, needed_packages(who), str(folder / f"{number}.npy"))
        for number, (who, (builder, arguments)) in enumerate(found.items())
        if native or who not in SLOW
    ]


def _loadable(who: str, file: Path, precision: str, shared: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Builder and arguments of one of :data:`LOADABLE`."""
    if file.name == ONNX:
        if who == "ONNX Runtime":
            return f"{PEER_BUILDERS}:onnxruntime_session", {**shared, "model": str(file)}
        arguments = {**shared, "model": str(file), "precision": OPENVINO_PRECISIONS[precision]}
        return f"{PEER_BUILDERS}:openvino_session", arguments
    if (file.name, precision) == (NATIVE, BF16):
        program, weights = program_files(file)
        return f"{OWN}:paddle_bfloat16", {**shared, "program": str(program), "weights": str(weights)}
    return f"{OWN}:program", {**shared, "folder": str(file), "precision": precision}


def _precision(name: str) -> str:
    return LOADABLE[name][1] if name in LOADABLE else FP32


def _label(name: str, bfloat16: bool) -> str:
    """A contestant's name in the table, which says so if it computes in float32 although asked for bfloat16."""
    return name if _precision(name) == FP32 or bfloat16 else f"{name} (in float32)"


def _rows(conditions: list[str], taken: dict[str, Taken], expected: np.ndarray) -> list[list[str]]:
    rows = []
    for name, each in taken.items():
        ratios = [ratio(each.times(taken.get(peer))) for peer in (PEERS[_precision(name)], PEER)]
        assert each.output is not None
        difference = np.abs(np.load(each.output) - expected).max() / np.abs(expected).max()
        loading = [f"{each.load_seconds:.2f}", f"{each.load_bytes / 1e6:.0f}"] if name in LOADABLE else ["-", "-"]
        row = [*conditions, _label(name, each.bfloat16), f"{each.minimum * 1e3:.1f}", f"{each.median * 1e3:.1f}"]
        rows.append([*row, *ratios, f"{difference:.1e}", *loading])
    return rows


@paddle.no_grad()
def _eager(model: nn.Layer, images: np.ndarray) -> np.ndarray:
    return model(paddle.to_tensor(images)).numpy()
