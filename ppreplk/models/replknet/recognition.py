"""Which network weights belong to, told from their names and shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from paddle import nn

from ...nn.merge import form_of
from ...utils.errors import UserError
from .. import RepLKNet
from .network import VARIANTS

DEFAULTS = {"dw_ratio": 1.0, "ffn_ratio": 4.0, "in_channels": 3}
MOST_BLOCKS = 1000
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Architecture:
    """``arguments`` of :class:`RepLKNet`; ``name`` is that of a published variant, or None; ``form`` is train or
    merged. The small kernel of a merged network cannot be told.
    """

    name: str | None
    form: str
    arguments: dict[str, Any]

    def build(self, **changes: Any) -> nn.Layer:
        """The network, with initial weights."""
        return RepLKNet(**{**self.arguments, **changes})

    def shapes(self) -> Shapes:
        """{name: shape} of its parameters and buffers; no memory is taken for them."""
        with paddle.LazyGuard():
            model = self.build()
        return shapes_of(model)

    def __str__(self) -> str:
        task = f"{self.arguments['class_num']} classes" if "class_num" in self.arguments else "a backbone"
        shown = ("large_kernel_sizes", "layers", "channels", "small_kernel", *DEFAULTS)
        details = ", ".join(f"{key}={self.arguments[key]}" for key in shown if key in self.arguments)
        return f"{self.name or 'RepLKNet'}, {task} ({details})"


def shapes_of(model: nn.Layer) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def infer(state: Mapping[str, np.ndarray], source: str) -> Architecture:
    """The architecture of weights under our names.

    Raises:
        UserError: names or shapes that belong to no RepLKNet; the first one is named.
    """
    form = form_of(state)
    if form is None:
        raise UserError(f"{source}: not weights of a RepLKNet, no large kernels or kernels in two forms")

    def shape(name: str, dimensions: int) -> tuple[int, ...]:
        if name not in state:
            raise UserError(f"{source}: {name} is missing")
        if state[name].ndim != dimensions or state[name].size == 0:  # an empty array can claim any other length
            raise UserError(
                f"{source}: {name} has the shape {list(state[name].shape)}, expected {dimensions} dimensions"
            )
        return state[name].shape

    stages = _count(state, "stages.{}.blocks.0.prelkb_bn.weight")
    layers = [_count(state, f"stages.{s}.blocks.{{}}.prelkb_bn.weight", step=2) for s in range(stages)]
    if not layers or sum(layers) > MOST_BLOCKS:
        raise UserError(f"{source}: stages.0.blocks.0.prelkb_bn.weight is missing, or there are too many blocks")
    channels = [shape(f"stages.{s}.blocks.0.prelkb_bn.weight", 1)[0] for s in range(stages)]
    large = "lkb_reparam" if form == "merged" else "lkb_origin.conv"
    kernels = [shape(f"stages.{s}.blocks.0.large_kernel.{large}.weight", 4) for s in range(stages)]
    small = "stages.0.blocks.0.large_kernel.small_conv.conv.weight"
    hidden = [shape(f"stages.{s}.blocks.1.pw1.conv.weight", 4)[0] for s in range(stages)]
    arguments: dict[str, Any] = {
        "large_kernel_sizes": [kernel[-1] for kernel in kernels],
        "layers": layers,
        "channels": channels,
        "small_kernel": shape(small, 4)[-1] if small in state else None,
        "dw_ratio": _ratio([kernel[0] for kernel in kernels], channels),
        "ffn_ratio": _ratio(hidden, channels),
        "in_channels": shape("stem.0.conv.weight", 4)[1],
        "merged": form == "merged",
    }
    if "head.bias" in state:
        arguments["class_num"] = shape("head.bias", 1)[0]
    else:
        arguments["out_indices"] = list(range(stages))
        arguments["norm_intermediate_features"] = "stages.0.norm.weight" in state
    return Architecture(_variant(arguments), form, arguments)


def _count(state: Mapping[str, np.ndarray], pattern: str, step: int = 1) -> int:
    count = 0
    while pattern.format(count * step) in state:
        count += 1
    return count


def _ratio(widths: list[int], channels: list[int]) -> float:
    """The factor from ``channels`` to ``widths``, whose products may have been rounded down."""
    candidates = [width / channel for width, channel in zip(widths, channels) if channel]
    candidates += [round(candidate, 2) for candidate in candidates]
    for ratio in candidates:
        if [int(channel * ratio) for channel in channels] == widths:
            return ratio
    return candidates[0] if candidates else 1.0  # the comparison of shapes names what does not fit


def _variant(arguments: Mapping[str, Any]) -> str | None:
    for name, variant in VARIANTS.items():
        wanted = {**DEFAULTS, **variant}
        if arguments["merged"]:
            del wanted["small_kernel"]
        if all(_plain(arguments[key]) == _plain(value) for key, value in wanted.items()):
            return name
    return None


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Comparison:
    """How the names and shapes of weights differ from those of a network."""

    matched: int
    missing: list[str]
    unexpected: list[str]
    misshaped: list[str]

    @property
    def is_match(self) -> bool:
        return not self.missing and not self.unexpected and not self.misshaped


def compare(own: Shapes, state: Mapping[str, np.ndarray]) -> Comparison:
    """Compare weights with the shapes of a network."""
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    misshaped = [name for name in own if name in state and own[name] != tuple(np.shape(state[name]))]
    return Comparison(len(own) - len(missing) - len(misshaped), missing, unexpected, misshaped)
