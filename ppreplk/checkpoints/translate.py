"""Arrays of a file, in any known layout, to arrays under our names and in our shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Optional

import numpy as np

from ..models.registry import architectures, find_layout
from ..utils.errors import UserError
from .unpickle import shown
from .wrappers import common_prefix

PARALLEL = "module."  # PyTorch's DataParallel
COUNTER = "num_batches_tracked"
BUFFERS = {"running_mean": "_mean", "running_var": "_variance"}  # PyTorch's and MegEngine's words: ours


@dataclass(frozen=True)
class Translated:
    """Weights under our names.

    ``layout`` names the layout they had; None where it is not known. ``left_out`` counts what belongs to no network
    of ours, for example {"num_batches_tracked": 120, "decode_head": 30}.
    """

    state: dict[str, np.ndarray]
    layout: Optional[str]
    left_out: dict[str, int] = field(default_factory=dict)


def translate(state: Mapping[str, np.ndarray], source: str) -> Translated:
    """Arrays under the names, and in the shapes, of our networks, as views of those given.

    A prefix of all names, such as DataParallel's ``module.``, is taken off where the rest is of a known layout. Names
    of no known layout stay as they are, but for PyTorch's words for batch normalizations.

    Args:
        state: {name: array} of a file.
        source: the file, for messages.

    Raises:
        UserError: two names stand for the same thing.
    """
    prefix = common_prefix(state, lambda names: find_layout(names) is not None)
    names = {name: name[len(prefix) :] for name in state}
    layout = find_layout(names.values())
    renamed = {name: name for name in names} if layout is None else layout.rename(list(names.values()))
    translated: dict[str, np.ndarray] = {}
    left_out: dict[str, int] = {}
    heads = {architecture.head[0] for architecture in architectures()}  # (out, in) in PyTorch and MegEngine
    is_foreign = any(name.rpartition(".")[2] in BUFFERS for name in names)
    for theirs, plain in names.items():
        ours = renamed[plain]
        stem, _, leaf = (ours or plain).rpartition(".")
        if ours is None or leaf == COUNTER:
            group = COUNTER if leaf == COUNTER else plain.partition(".")[0]
            left_out[group] = left_out.get(group, 0) + 1
            continue
        ours = f"{stem}.{BUFFERS[leaf]}" if leaf in BUFFERS else ours
        if ours in translated:
            raise UserError(
                f"{shown(theirs)} and another name both stand for {shown(ours)}",
                code="checkpoints.ambiguous-names",
                where=source,
            )
        array = state[theirs] if layout is None else layout.convert(ours, state[theirs])
        translated[ours] = array.T if is_foreign and ours in heads and array.ndim == 2 else array
    wrapper = {"": "", PARALLEL: ", DataParallel"}.get(prefix, f", all names after {shown(prefix)}")
    return Translated(translated, None if layout is None else f"{layout.name}{wrapper}", left_out)
