"""Whole published checkpoints, backbone and heads, as files that a suite of Paddle's loads.

The official files of MMSegmentation and MMDetection hold a ``backbone.``, which goes through the reader of all other
weights, and heads. What the heads are called in a suite, and which shapes they must have, says a :class:`Model`: for
PaddleSeg in ``paddleseg/seg_names.py``, for PaddleDetection in ``paddledetection/det_names.py``. Every name of a file
is in that table, or in :data:`LEFT_OUT` with the reason. Any other name is refused, and nothing is written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np

from ..checkpoints.convert import (
    check_complete,
    check_target,
    check_whole,
    count_parameters,
    counts,
    which_weights,
    write_float32,
)
from ..checkpoints.files import find_checkpoint, read_weights
from ..checkpoints.translate import COUNTER, translate
from ..checkpoints.unpickle import shown
from ..checkpoints.wrappers import common_prefix
from ..models.registry import Recognised, Shapes, find_layout, recognise
from ..utils.errors import UserError

BACKBONE = "backbone."
OPENMMLAB = "mmseg/mmdet"  # the layout that such files have
STAGES = 4  # of the backbones that the heads stand on
BN = {"weight": "weight", "bias": "bias", "running_mean": "_mean", "running_var": "_variance"}  # PyTorch's: Paddle's
LEFT_OUT = {COUNTER: "how many batches PyTorch's batch normalizations have seen; Paddle's do not count"}


class Place(NamedTuple):
    """Where an array of the file goes.

    Args:
        name: in the suite's model.
        shape: that it must have in the file.
        part: of the model, for the counts: ``head``, ``neck`` and so on.
        change: to the suite's shape; None where it is the same.
    """

    name: str
    shape: tuple[int, ...]
    part: str
    change: Optional[Callable[[np.ndarray], np.ndarray]] = None


Places = dict[str, Place]  # by the name in the file


class Sizes:
    """Lengths of the arrays of a file, from which the shapes of all others follow."""

    def __init__(self, state: Mapping[str, np.ndarray], what: str, source: str):
        self._known = (state, what, source)

    def of(self, name: str, axis: int, dimensions: int) -> int:
        """The length of an array along an axis.

        Raises:
            UserError: there is no such array, or it has other dimensions.
        """
        state, what, source = self._known
        found = f"is {list(state[name].shape)}" if name in state else "is missing"
        if name not in state or state[name].ndim != dimensions or state[name].size == 0:
            raise UserError(
                f"not the weights of a whole {what}: {name} {found}, expected {dimensions} dimensions; "
                "nothing was written",
                code="plugins.incomplete",
                where=source,
            )
        return state[name].shape[axis]

    def count(self, beginning: str) -> int:
        """How many layers there are whose names have a number, counted from 0, after this beginning."""
        found = [
            re.match(r"(\d{1,2})\.", name[len(beginning) :]) for name in self._known[0] if name.startswith(beginning)
        ]
        return max((int(match[1]) + 1 for match in found if match), default=0)


@dataclass(frozen=True)
class Model:
    """A kind of model that was published whole.

    Args:
        name: what messages call it.
        sign: the beginning of names that only files of this kind have.
        places: where the arrays of its heads go, from lengths of the file and the backbone's widths.
        settings: of the suite's model, from the same, for the report.
        filled: {name in the suite: length} of vectors that the file does not have and that are zeros there.
    """

    name: str
    sign: str
    places: Callable[[Sizes, Sequence[int]], Places]
    settings: Callable[[Sizes, Sequence[int]], dict[str, int]]
    filled: Callable[[Sizes], dict[str, int]] = lambda sizes: {}


class SuiteNames(NamedTuple):
    """The names in a suite: what it is called, which suite of PyTorch's the files are of, and the models known."""

    name: str
    original: str
    models: tuple[Model, ...]


def conv(theirs: str, ours: str, shape: tuple[int, ...], part: str) -> Places:
    """Weight and bias of a convolution."""
    return {
        f"{theirs}.weight": Place(f"{ours}.weight", shape, part),
        f"{theirs}.bias": Place(f"{ours}.bias", shape[:1], part),
    }


def conv_bn(theirs: str, ours: str, shape: tuple[int, ...], part: str, norm: str = "bn") -> Places:
    """A convolution without bias, and the batch normalization behind it."""
    places = {f"{theirs}.conv.weight": Place(f"{ours}.conv.weight", shape, part)}
    for leaf, plain in BN.items():
        places[f"{theirs}.bn.{leaf}"] = Place(f"{ours}.{norm}.{plain}", shape[:1], part)
    return places


def linear(theirs: str, ours: str, shape: tuple[int, int], part: str) -> Places:
    """A linear layer, (out, in) in PyTorch and (in, out) in Paddle."""
    return {
        f"{theirs}.weight": Place(f"{ours}.weight", shape, part, np.transpose),
        f"{theirs}.bias": Place(f"{ours}.bias", shape[:1], part),
    }


class Part(NamedTuple):
    """How much of a model lies in one part of it."""

    tensors: int
    parameters: int


@dataclass(frozen=True)
class WholeConversion:
    """What was converted: ``parts`` counts backbone and heads, ``left_out`` names of the file without a place."""

    target: str
    layout: str
    suite: str
    model: str
    settings: dict[str, int]
    network: Recognised
    parts: dict[str, Part]
    left_out: dict[str, int]
    filled: int
    averaged: str
    reasons: dict[str, str] = field(default_factory=lambda: dict(LEFT_OUT))

    @property
    def tensors(self) -> int:
        return sum(part.tensors for part in self.parts.values())

    @property
    def parameters(self) -> int:
        return sum(part.parameters for part in self.parts.values())

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"layout: {self.layout}"
        yield f"model: {self.model} of {self.suite} ({', '.join(f'{k}={v}' for k, v in self.settings.items())})"
        yield f"backbone: {self.network}"
        yield f"form: {self.network.form}"
        for name, part in self.parts.items():
            yield f"{name}: {part.tensors} tensors, {part.parameters:,} parameters"
        yield f"tensors: {self.tensors}, parameters: {self.parameters:,}, left out: {counts(self.left_out)}"
        for name in self.left_out:
            yield f"{name}: {self.reasons[name]}"
        if self.filled:
            yield f"filled in: {self.filled} biases that are zero, because {self.suite} has them and the file has not"
        if self.averaged:
            yield f"weights: {self.averaged}"
        yield f"wrote {self.target}"


def convert_whole(src: str | Path, dst: str | Path, suite: SuiteNames, ema: bool = False) -> WholeConversion:
    """Write a whole published model as the suite's weights, in float32.

    Args:
        src: a checkpoint of MMSegmentation or MMDetection with backbone and heads.
        dst: a ``.pdparams`` file, which appears whole or not at all.
        suite: PaddleSeg or PaddleDetection.
        ema: take the averaged weights of a PyTorch training.

    Raises:
        UserError: no such file, a broken one, one of another model, or one with names that are left over, missing or
            of wrong shape, the first of which is named; or ``dst`` cannot be written.
    """
    src, dst = find_checkpoint(src), check_target(dst, [".pdparams"])
    source = str(src)
    raw = read_weights(src, ema)
    prefix = common_prefix(raw.state, lambda names: find_layout(names) is not None)
    state = {name[len(prefix) :]: array for name, array in raw.state.items()}
    model = _model_of(state, suite, source)
    translated = translate({name: array for name, array in state.items() if name.startswith(BACKBONE)}, source)
    network = recognise(translated.state, source)
    check_complete(network, translated.state, source)
    heads = {name: array for name, array in state.items() if not name.startswith(BACKBONE)}
    what, widths = f"{model.name} on {network.name}", network.arguments["channels"]
    if len(widths) != STAGES or network.class_num is not None:
        raise UserError(
            f"{model.name} stands on a backbone of {STAGES} stages without a classifier, got {network}",
            code="plugins.not-whole",
            where=source,
        )
    sizes = Sizes(heads, what, source)
    places = model.places(sizes, widths)
    left_out = [name for name in heads if _is_counter(name, places)]
    expected: Shapes = {name: place.shape for name, place in places.items()}
    check_whole(expected, {name: a for name, a in heads.items() if name not in left_out}, what, source)
    parts = {"backbone": translated.state}
    for theirs, place in places.items():
        array = heads[theirs] if place.change is None else place.change(heads[theirs])
        parts.setdefault(place.part, {})[place.name] = array
    filled = {name: np.zeros(length, np.float32) for name, length in model.filled(sizes).items()}
    ours = {BACKBONE + name: array for name, array in parts["backbone"].items()}
    for part in list(parts)[1:]:
        ours.update(parts[part])
    write_float32({**ours, **filled}, dst)
    counters = translated.left_out.get(COUNTER, 0) + len(left_out)
    return WholeConversion(
        target=str(dst),
        layout=OPENMMLAB if not prefix else f"{OPENMMLAB}, all names after {shown(prefix)}",
        suite=suite.name,
        model=model.name,
        settings=model.settings(sizes, widths),
        network=network,
        parts={name: Part(len(arrays), count_parameters(arrays)) for name, arrays in parts.items()},
        left_out={COUNTER: counters} if counters else {},
        filled=len(filled),
        averaged=which_weights(raw, ema),
    )


def _model_of(state: Collection[str], suite: SuiteNames, source: str) -> Model:
    layout = find_layout(state)
    for model in suite.models:
        if layout is not None and layout.name == OPENMMLAB and any(name.startswith(model.sign) for name in state):
            return model
    known = " or ".join(f"{model.name} ({model.sign}*)" for model in suite.models)
    first = shown(next((name for name in state if not name.startswith(BACKBONE)), next(iter(state))))
    raise UserError(
        f"no whole model for {suite.name}, such as {suite.original} writes: expected a backbone.* and the heads of "
        f"{known}, its names begin with {first}; a backbone or a classifier is converted without --for, and named as "
        "pretrained of the suite's backbone",
        code="plugins.not-whole",
        where=source,
    )


def _is_counter(name: str, places: Places) -> bool:
    """Whether this is PyTorch's counter beside a batch normalization that has a place."""
    layer, _, leaf = name.rpartition(".")
    return leaf == COUNTER and f"{layer}.running_mean" in places
