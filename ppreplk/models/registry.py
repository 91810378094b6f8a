"""What the program asks of an architecture, and the table that finds architectures and models by name.

A new architecture is one file or folder in this room that calls :func:`register`. Nothing else needs to know it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np
import paddle
from paddle import nn

from ..nn.graph import Graph
from ..utils.errors import UserError, nearest
from .preprocessing import Preprocessing

State = Mapping[str, np.ndarray]
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Layout:
    """The names that one implementation gives to the weights of an architecture.

    Args:
        name: what messages call it.
        matches: whether a file's names are of this layout.
        rename: {their name: our name, or None for what is no part of the network}.
        convert: an array of theirs, by our name, as an array of ours.
    """

    name: str
    matches: Callable[[Sequence[str]], bool]
    rename: Callable[[Sequence[str]], dict[str, Optional[str]]]
    convert: Callable[[str, np.ndarray], np.ndarray] = lambda name, array: array


@dataclass(frozen=True)
class Architecture:
    """A kind of network with its variants, and everything that only it knows.

    Args:
        name: what messages call it.
        network: its class. Keyword arguments make the network; one of them is ``class_num``.
        variants: {model name: arguments}.
        graph: describes a classifier as a :class:`~ppreplk.nn.graph.Graph`, in train form or folded. Only the
            native program is made without it.
        layouts: of checkpoint files, the more particular ones first.
        recognise: the network that weights under our names belong to; None where they are of another architecture.
            Raises a :class:`UserError` where they are of this one, but broken. Without it files cannot be converted.
        preprocessing: what the published weights of a variant expect, by the variant's name and the file's path; None
            where nothing is published.
        layer_ids: {parameter name: id} for layer-wise learning-rate decay.
        picture: the text of an SVG file that shows a network at an image size.
        head: weight and bias of the linear layer behind the pooling, replaced in fine-tuning.
        stem: weight of the first convolution, fitted to other channels in fine-tuning; empty where that is not served.
        is_backbone: the network takes ``out_indices`` and then returns feature maps, whose widths are its
            ``feat_channels``; ``layers`` has one entry for each stage.
        classifier_only: patterns, as of file names, of the parameters that a backbone lacks.
        backbone_only: patterns of the parameters that a classifier lacks.
    """

    name: str
    network: Callable[..., nn.Layer]
    variants: Mapping[str, Mapping[str, Any]]
    graph: Optional[Callable[[Any], Graph]] = None
    layouts: Sequence[Layout] = ()
    recognise: Optional[Callable[[State, str], Optional[Recognised]]] = None
    preprocessing: Optional[Callable[[str, Path], Optional[Preprocessing]]] = None
    layer_ids: Optional[Callable[[Any], dict[str, int]]] = None
    picture: Optional[Callable[[Any, int], str]] = None
    head: tuple[str, str] = ("head.weight", "head.bias")
    stem: str = ""
    is_backbone: bool = False
    classifier_only: Sequence[str] = ("head.*",)
    backbone_only: Sequence[str] = ()


@dataclass(frozen=True)
class Recognised:
    """The network that weights belong to.

    Args:
        architecture: the architecture.
        variant: the name of a registered variant, or None.
        form: ``"train"`` or ``"merged"``.
        arguments: of the architecture's network.
    """

    architecture: Architecture
    variant: Optional[str]
    form: str
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.variant or self.architecture.name

    @property
    def class_num(self) -> Optional[int]:
        """Classes; None for a backbone."""
        return self.arguments.get("class_num")

    def build(self, **changes: Any) -> nn.Layer:
        """The network, with initial weights."""
        return self.architecture.network(**{**self.arguments, **changes})

    def shapes(self) -> Shapes:
        """{name: shape} of its parameters and buffers. No memory is taken for them."""
        with paddle.LazyGuard():
            model = self.build()
        return shapes_of(model)

    def preprocessing(self, path: str | Path) -> Optional[Preprocessing]:
        """What the published weights of this variant expect; None where nothing is published."""
        if self.variant is None or self.architecture.preprocessing is None:
            return None
        return self.architecture.preprocessing(self.variant, Path(path))

    def __str__(self) -> str:
        task = "a backbone" if self.class_num is None else f"{self.class_num} classes"
        hidden = ("class_num", "out_indices", "norm_intermediate_features", "merged")
        details = ", ".join(f"{key}={value}" for key, value in self.arguments.items() if key not in hidden)
        return f"{self.name}, {task} ({details})"


def shapes_of(model: nn.Layer) -> Shapes:
    """{name: shape} of the parameters and buffers of ``model``."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


class Model(NamedTuple):
    """A registered variant: ``build(**kwargs)`` makes the network, ``arguments`` are those of the variant."""

    architecture: Architecture
    arguments: Mapping[str, Any]

    def build(self, **kwargs: Any) -> nn.Layer:
        return self.architecture.network(**{**self.arguments, **kwargs})


_ARCHITECTURES: list[Architecture] = []
_MODELS: dict[str, Model] = {}


def register(architecture: Architecture) -> Architecture:
    """Make an architecture and its variants known.

    Raises:
        KeyError: a model of that name is registered already.

    >>> import ppreplk
    >>> tiny = register(Architecture("Tiny", nn.Linear, {"TinyLinear": {"in_features": 3, "out_features": 2}}))
    >>> list(ppreplk.build_model("TinyLinear")(paddle.ones([1, 3])).shape)
    [1, 2]
    >>> unregister(tiny)
    """
    for name in architecture.variants:
        if name in _MODELS:
            raise KeyError(f"a model called {name} is registered already")
    _ARCHITECTURES.append(architecture)
    _MODELS.update({name: Model(architecture, arguments) for name, arguments in architecture.variants.items()})
    return architecture


def unregister(architecture: Architecture) -> None:
    """Forget an architecture and its variants."""
    _ARCHITECTURES.remove(architecture)
    for name in architecture.variants:
        del _MODELS[name]


def find_model(name: str) -> Model:
    """The model called ``name``.

    Raises:
        UserError: there is none; the nearest names are listed.
    """
    if name not in _MODELS:
        raise UserError(f"unknown model {name!r}{nearest(name, _MODELS)}", code="models.unknown-model")
    return _MODELS[name]


def build_model(name: str, **kwargs: Any) -> nn.Layer:
    """Build a network by name.

    Args:
        name: one of :func:`list_models`.
        kwargs: arguments of its architecture, such as ``class_num``.

    Raises:
        UserError: unknown name, or arguments that do not make a network.

    >>> import ppreplk
    >>> backbone = ppreplk.build_model("RepLKNet13T", out_indices=[0, 1, 2, 3])
    >>> backbone.feat_channels
    [16, 32, 64, 128]
    """
    return find_model(name).build(**kwargs)


def list_models() -> list[str]:
    """The names :func:`build_model` knows, sorted.

    >>> import ppreplk
    >>> [name for name in ppreplk.list_models() if "31" in name]
    ['RepLKNet31B', 'RepLKNet31L']
    """
    return sorted(_MODELS)


def list_backbones() -> list[str]:
    """The models whose networks can be backbones, sorted.

    >>> [name for name in list_backbones() if "31" in name]
    ['RepLKNet31B', 'RepLKNet31L']
    """
    return sorted(name for name, model in _MODELS.items() if model.architecture.is_backbone)


def architectures() -> list[Architecture]:
    """Every registered architecture."""
    return list(_ARCHITECTURES)


def architecture_of(model: nn.Layer) -> Optional[Architecture]:
    """The registered architecture of a network; None for a foreign one, such as a backbone of paddleclas."""
    for architecture in _ARCHITECTURES:
        if isinstance(architecture.network, type) and isinstance(model, architecture.network):
            return architecture
    return None


def head_of(model: nn.Layer) -> tuple[str, str]:
    """Names of the weight and bias of the last linear layer. In a foreign network it is the last one there is.

    >>> import ppreplk
    >>> head_of(ppreplk.build_model("RepLKNet13T"))
    ('head.weight', 'head.bias')
    """
    architecture = architecture_of(model)
    if architecture is not None:
        return architecture.head
    linear = [name for name, layer in model.named_sublayers() if isinstance(layer, nn.Linear)]
    return (f"{linear[-1]}.weight", f"{linear[-1]}.bias") if linear else Architecture.head


def graph_of(model: nn.Layer) -> Graph:
    """A classifier as a :class:`~ppreplk.nn.graph.Graph`, in the form it is in.

    Raises:
        UserError: a network that does not describe itself, or a backbone.
    """
    architecture = architecture_of(model)
    if architecture is None or architecture.graph is None:
        known = ", ".join(each.name for each in _ARCHITECTURES if each.graph is not None)
        raise UserError(
            f"{type(model).__name__} has no description as a graph; these have one: {known}", code="models.no-graph"
        )
    return architecture.graph(model)


def recognise(state: State, source: str) -> Recognised:
    """The network that weights under our names belong to.

    Raises:
        UserError: names or shapes of no architecture known here; says what does not fit.
    """
    for architecture in _ARCHITECTURES:
        found = architecture.recognise(state, source) if architecture.recognise is not None else None
        if found is not None:
            return found
    known = " or a ".join(each.name for each in _ARCHITECTURES if each.recognise is not None)
    raise UserError(f"not weights of a {known}", code="models.not-recognised", where=source)


def find_layout(names: Iterable[str]) -> Optional[Layout]:
    """The layout that the names of a file have; None where it is not known."""
    names = list(names)
    for architecture in _ARCHITECTURES:
        for layout in architecture.layouts:
            if layout.matches(names):
                return layout
    return None


def layer_ids(model: nn.Layer) -> dict[str, int]:
    """{parameter name: id} for layer-wise learning-rate decay; 0 is the stem, the largest is the head.

    Raises:
        UserError: the architecture defines no ids.

    >>> import ppreplk
    >>> ids = ppreplk.optim.layer_ids(ppreplk.build_model("RepLKNet13T"))
    >>> ids["stem.0.conv.weight"], ids["stages.0.blocks.0.pw1.conv.weight"], ids["head.weight"]
    (0, 1, 5)
    """
    architecture = architecture_of(model)
    if architecture is None or architecture.layer_ids is None:
        raise UserError(
            f"{type(model).__name__} defines no layer ids, so layer_decay cannot be used with it",
            code="models.no-layer-ids",
        )
    return architecture.layer_ids(model)
