"""From a checkpoint file of any layout to weights under our names, in memory or in another file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..models.registry import Recognised, Shapes, architectures, recognise
from ..utils.atomic import replacing
from ..utils.errors import UserError
from .compare import compare
from .files import RawWeights, find_checkpoint, read_weights
from .paddle_file import write_pdparams
from .safetensors_file import write_safetensors
from .translate import COUNTER, translate
from .unpickle import shown

logger = logging.getLogger(__name__)

STATISTICS = ("._mean", "._variance")
WRITERS: dict[str, Callable[[Mapping[str, np.ndarray], Path], None]] = {
    ".pdparams": write_pdparams,
    ".safetensors": write_safetensors,
}


def load_checkpoint(path: str | Path, ema: bool = False) -> dict[str, np.ndarray]:
    """Read weights from ``.pth``, ``.safetensors``, ``.pdparams`` or MegEngine's ``.pkl`` without running its code.

    Args:
        path: the file; ``.pdparams`` may be left off.
        ema: take the averaged weights (``model_ema``) of a PyTorch training instead of its last ones.

    Returns:
        {parameter name: array} under the names and in the shapes of this package's networks, whatever layout the
        file has; names of no known layout are left as they are. The arrays are read-only, of the file's dtypes
        (bfloat16 as float32), in memory of their own: the file may be replaced afterwards.

    Raises:
        UserError: no such file, a broken one, or one that holds anything but weights.

    >>> import tempfile, paddle, ppreplk
    >>> model = ppreplk.build_model("RepLKNet13T")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     paddle.save(model.state_dict(), f"{folder}/model.pdparams")
    ...     load_checkpoint(f"{folder}/model")["head.bias"].shape
    (1000,)
    """
    path = find_checkpoint(path)
    raw = read_weights(path, ema)
    translated = translate(raw.state, str(path))
    heads = {name: count for name, count in translated.left_out.items() if name != COUNTER}
    if heads:
        logger.info("%s: left out what is no part of the network: %s", path, counts(heads))
    if raw.has_averaged and not ema:
        logger.info("%s holds averaged weights too; tools/convert.py --ema takes them", path)
    return translated.state


def counts(groups: Mapping[str, int]) -> str:
    """Counts of names in words."""
    return ", ".join(f"{count} of {name}" for name, count in groups.items()) or "nothing"


@dataclass(frozen=True)
class Conversion:
    """What was converted. ``left_out`` counts names of the file that belong to no network of ours."""

    source: str
    target: str
    layout: str
    network: Recognised
    tensors: int
    parameters: int
    left_out: dict[str, int]
    averaged: str

    def __str__(self) -> str:
        return "\n".join(
            [
                f"layout: {self.layout}",
                f"architecture: {self.network}",
                f"form: {self.network.form}",
                f"tensors: {self.tensors}, parameters: {self.parameters:,}, left out: {counts(self.left_out)}",
                *([f"weights: {self.averaged}"] if self.averaged else []),
                f"wrote {self.target}",
            ]
        )


def convert(src: str | Path, dst: str | Path, ema: bool = False) -> Conversion:
    """Write the weights of ``src``, in any known layout, to ``dst`` under our names, in float32.

    Args:
        src: see :func:`load_checkpoint`.
        dst: a ``.pdparams`` or ``.safetensors`` file, which appears whole or not at all.
        ema: take the averaged weights of a PyTorch training.

    Raises:
        UserError: as :func:`load_checkpoint`; or names are left over, missing or of wrong shape, the first of
            which is named; or ``dst`` cannot be written.

    >>> import tempfile, paddle, ppreplk
    >>> model = ppreplk.build_model("RepLKNet13T")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     paddle.save(model.state_dict(), f"{folder}/model.pdparams")
    ...     convert(f"{folder}/model", f"{folder}/model.safetensors").network.name
    'RepLKNet13T'
    """
    src, dst = find_checkpoint(src), check_target(dst, WRITERS)
    raw = read_weights(src, ema)
    translated = translate(raw.state, str(src))
    if translated.layout is None:
        first = shown(next(iter(raw.state)))
        known = ", ".join(each.name for each in architectures() if each.layouts and each.recognise)
        raise UserError(
            f"of no layout known here, its names begin with {first}; files of {known} can be converted",
            code="checkpoints.unknown-layout",
            where=str(src),
        )
    state = translated.state
    network = recognise(state, str(src))
    check_complete(network, state, str(src))
    write_float32(state, dst)
    return Conversion(
        source=str(src),
        target=str(dst),
        layout=translated.layout,
        network=network,
        tensors=len(state),
        parameters=count_parameters(state),
        left_out=translated.left_out,
        averaged=which_weights(raw, ema),
    )


def check_target(dst: str | Path, suffixes: Collection[str]) -> Path:
    """Check that a file with one of the suffixes can be written there.

    Raises:
        UserError: another suffix, a folder, or no such folder.
    """
    dst = Path(dst)
    if dst.suffix not in suffixes:
        raise UserError(
            f"expected a file ending in {' or '.join(suffixes)}", code="checkpoints.bad-target", where=str(dst)
        )
    if dst.is_dir() or not dst.absolute().parent.is_dir():
        raise UserError(
            "is a folder, or the folder it is in does not exist", code="checkpoints.bad-target", where=str(dst)
        )
    return dst


def write_float32(state: Mapping[str, np.ndarray], dst: Path) -> None:
    """Write weights in float32, whole or not at all."""
    float32 = {name: array.astype(np.float32, copy=False) for name, array in state.items()}
    with replacing(dst) as [partial]:
        WRITERS[dst.suffix](float32, partial)


def count_parameters(state: Mapping[str, np.ndarray]) -> int:
    """How many numbers are trained: all but the statistics of batch normalizations."""
    return sum(array.size for name, array in state.items() if not name.endswith(STATISTICS))


def which_weights(raw: RawWeights, ema: bool) -> str:
    """For a report, which weights of a file were taken; "" where it has one kind."""
    beside = "the last ones; averaged ones lie beside them (--ema)" if raw.has_averaged else ""
    return "the averaged ones" if ema else beside


def check_complete(network: Recognised, state: Mapping[str, np.ndarray], source: str) -> None:
    """Check that weights are all of a network, and nothing else.

    Raises:
        UserError: names are missing, left over or of wrong shape; counts them and names the first.
    """
    try:
        own = network.shapes()
    except UserError as error:
        raise UserError(f"its shapes make no network ({error})", code="checkpoints.incomplete", where=source) from error
    check_whole(own, state, network.name, source)


def check_whole(expected: Shapes, state: Mapping[str, np.ndarray], what: str, source: str) -> None:
    """Check that weights have the expected names and shapes.

    Raises:
        UserError: as :func:`check_complete`; ``what`` is what the weights are of.
    """
    found = compare(expected, state)
    if found.is_match:
        return
    kinds = (("missing", found.missing), ("left over", found.unexpected), ("of wrong shape", found.misshaped))
    reasons = [f"{len(names)} {kind}, {shown(names[0])} first" for kind, names in kinds if names]
    raise UserError(
        f"not the weights of a whole {what}: {'; '.join(reasons)}; nothing was written",
        code="checkpoints.incomplete",
        where=source,
    )
