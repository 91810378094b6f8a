"""Which RepLKNet weights belong to, told from their names and shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ...nn.merge import form_of
from ...utils.errors import UserError

DEFAULTS = {"dw_ratio": 1.0, "ffn_ratio": 4.0, "in_channels": 3}
MAX_BLOCKS = 1000
SIGNS = (".prelkb_bn.", ".large_kernel.")  # parts of names that only a RepLKNet has


def matches(names: Iterable[str]) -> bool:
    """Whether any of the names is one of a RepLKNet."""
    return any(sign in name for name in names for sign in SIGNS)


def arguments_of(state: Mapping[str, np.ndarray], source: str) -> tuple[str, dict[str, Any]]:
    """The form, ``"train"`` or ``"merged"``, and the arguments of the :class:`RepLKNet` with these weights.

    The small kernel of a merged network cannot be told.

    Raises:
        UserError: names or shapes that belong to no RepLKNet; the first one is named.
    """
    form = form_of(state)
    if form is None:
        raise _broken(source, "not weights of a RepLKNet, no large kernels or kernels in two forms")

    def shape(name: str, dimensions: int) -> tuple[int, ...]:
        if name not in state:
            raise _broken(source, f"{name} is missing")
        if state[name].ndim != dimensions or state[name].size == 0:  # an empty array can claim any other length
            shape = list(state[name].shape)
            raise _broken(source, f"{name} has the shape {shape}, expected {dimensions} dimensions")
        return state[name].shape

    stages = _count(state, "stages.{}.blocks.0.prelkb_bn.weight")
    layers = [_count(state, f"stages.{s}.blocks.{{}}.prelkb_bn.weight", step=2) for s in range(stages)]
    if not layers or sum(layers) > MAX_BLOCKS:
        raise _broken(source, "stages.0.blocks.0.prelkb_bn.weight is missing, or there are too many blocks")
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
    return form, arguments


def _broken(source: str, reason: str) -> UserError:
    return UserError(reason, code="models.not-recognised", where=source)


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


def variant_of(arguments: Mapping[str, Any], variants: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The name of the variant that these arguments make, or None."""
    for name, variant in variants.items():
        wanted = {**DEFAULTS, **variant}
        if arguments["merged"]:
            del wanted["small_kernel"]
        if all(_plain(arguments[key]) == _plain(value) for key, value in wanted.items()):
            return name
    return None


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
