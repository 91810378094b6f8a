"""The checkpoint layouts of RepLKNet: how other implementations name and shape what is ours.

| ours = official | MegEngine | PaddleViT |
|-|-|-|
| ``stem.i.{conv,bn}`` | ``stem.{2i}.{conv,bn}`` | ``stem.i.{conv,norm}`` |
| ``stages.s.blocks.{2j}.prelkb_bn`` | ``blocks.g.pre_bn`` | ``... pre_large_kernel_bn`` |
| ``stages.s.blocks.{2j}.pw1, pw2`` | ``blocks.g.pw1, pw2`` | ``... pw_conv_1, pw_conv_2`` |
| ``... large_kernel.lkb_origin`` | ``blocks.g.dw.dw_large`` | ``... large_kernel.large_kernel_origin`` |
| ``... large_kernel.small_conv`` | ``blocks.g.dw.dw_small_K`` | ``... large_kernel.small_kernel_conv`` |
| ``... large_kernel.lkb_reparam`` | ``blocks.g.dw`` | ``... large_kernel.large_kernel_reparam`` |
| ``stages.s.blocks.{2j+1}.preffn_bn`` | ``blocks.g.premlp_bn`` | ``... pre_ffn_bn`` |
| ``stages.s.blocks.{2j+1}.pw1, pw2`` | ``blocks.g.mlp.fc1, fc2`` | ``... pw_conv_1, pw_conv_2`` |
| ``transitions.t.{0,1}.{conv,bn}`` | ``blocks.g.{0,2}.{conv,bn}`` | ``transitions.t.{0,1}.{conv,norm}`` |
| ``norm``, ``head`` | same | same |

mmpretrain puts ``backbone.`` before the official names and calls ``norm`` ``backbone.stages.LAST.norm`` and
``head`` ``head.fc``; mmseg, mmdet, PaddleSeg and PaddleDetection have ``backbone.`` and their own
heads. PyTorch and MegEngine call the statistics of a batch normalization ``running_mean`` and ``running_var`` and store
the head as (out, in).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Optional

import numpy as np

from ..registry import Layout

Renamed = dict[str, Optional[str]]
BACKBONE = "backbone."
STEM = "stem.0.conv.weight"
DOWNSTREAM = ("decode_head", "auxiliary_head", "neck", "rpn_head", "roi_head", "bbox_head", "mask_head")

PADDLEVIT = {
    "pre_large_kernel_bn": "prelkb_bn",
    "pre_ffn_bn": "preffn_bn",
    "pw_conv_1": "pw1",
    "pw_conv_2": "pw2",
    "large_kernel_origin": "lkb_origin",
    "small_kernel_conv": "small_conv",
    "large_kernel_reparam": "lkb_reparam",
}
MEGENGINE_BLOCK = (  # what follows blocks.g, and the place of it in a pair
    (r"pre_bn\.(.+)", 0, r"prelkb_bn.\1"),
    (r"(pw[12]\..+)", 0, r"\1"),
    (r"dw\.dw_large\.(.+)", 0, r"large_kernel.lkb_origin.\1"),
    (r"dw\.dw_small_\d+\.(.+)", 0, r"large_kernel.small_conv.\1"),
    (r"dw\.(weight|bias)", 0, r"large_kernel.lkb_reparam.\1"),
    (r"premlp_bn\.(.+)", 1, r"preffn_bn.\1"),
    (r"mlp\.fc([12])\.(.+)", 1, r"pw\1.\2"),
)


def _has(part: str, below: str = "stages") -> Callable[[Sequence[str]], bool]:
    """Whether one of the names begins with ``below`` and has a part called ``part``."""
    return lambda names: any(name.startswith(f"{below}.") and part in name.split(".") for name in names)


def _is_openmmlab(names: Sequence[str]) -> bool:
    return _has("prelkb_bn", below="backbone")(names)


def _is_mmpretrain(names: Sequence[str]) -> bool:
    return _is_openmmlab(names) and "head.fc.weight" in names


def _is_paddle_suite(names: Sequence[str]) -> bool:
    return _is_openmmlab(names) and _has("_mean", below="backbone")(names)


def _is_ours(names: Sequence[str]) -> bool:
    return _has("prelkb_bn")(names) and _has("_mean")(names)


def _from_mmpretrain(names: Sequence[str]) -> Renamed:
    stages = re.findall(r"^backbone\.stages\.(\d{1,3})\.", "\n".join(names), re.M)
    last = max((int(number) for number in stages), default=0)
    return {name: _from_openmmlab(name, True, last) for name in names}


def _from_mmseg(names: Sequence[str]) -> Renamed:
    return {name: _from_openmmlab(name, False, 0) for name in names}


def _from_paddle_suite(names: Sequence[str]) -> Renamed:
    return {name: name.removeprefix(BACKBONE) if name.startswith(BACKBONE) else None for name in names}


def _from_megengine(names: Sequence[str]) -> Renamed:
    stages = _megengine_stages(names)
    return {name: _megengine_name(name, stages) for name in names}


def _unchanged(names: Sequence[str]) -> Renamed:
    return {name: name for name in names}


def _from_openmmlab(name: str, is_classifier: bool, last: int) -> str | None:
    if is_classifier and name.startswith("head.fc."):
        return "head." + name.removeprefix("head.fc.")
    if not name.startswith(BACKBONE):
        return None if name.partition(".")[0] in DOWNSTREAM else name
    name, norm = name.removeprefix(BACKBONE), f"stages.{last}.norm."
    return "norm." + name.removeprefix(norm) if is_classifier and name.startswith(norm) else name


def _from_paddlevit(name: str) -> str:
    parts = [PADDLEVIT.get(part, part) for part in name.split(".")]
    if parts[-2:-1] == ["norm"] and (parts[0] in ("stem", "transitions") or "blocks" in parts):
        parts[-2] = "bn"  # of a convolution; stages and the network have a norm of their own
    return ".".join(parts)


def _megengine_stages(names: Iterable[str]) -> dict[int, tuple[int, int]]:
    """{g: (stage, pair)} for pairs and {g: (stage before it, -1)} for transitions, which come between stages."""
    pairs: dict[int, bool] = {}
    for name in names:
        match = re.match(r"blocks\.(\d{1,4})\.(.+)", name)
        if match:
            pairs.setdefault(int(match[1]), not match[2][0].isdigit())
    stages, stage, pair = {}, 0, 0
    for block, is_pair in sorted(pairs.items()):
        stages[block] = (stage, pair if is_pair else -1)
        stage, pair = (stage, pair + 1) if is_pair else (stage + 1, 0)
    return stages


def _megengine_name(name: str, stages: Mapping[int, tuple[int, int]]) -> str:
    """Activations have indices there too, hence every other one."""
    match = re.fullmatch(r"stem\.(\d{1,2})\.(.+)", name)
    if match:
        return f"stem.{int(match[1]) // 2}.{match[2]}"
    match = re.fullmatch(r"blocks\.(\d{1,4})\.(.+)", name)
    if not match:
        return name
    (stage, pair), rest = stages[int(match[1])], match[2]
    transition = re.fullmatch(r"(\d{1,2})\.(.+)", rest)
    if transition:
        return f"transitions.{stage}.{int(transition[1]) // 2}.{transition[2]}"
    for pattern, second, replacement in MEGENGINE_BLOCK:
        part = re.fullmatch(pattern, rest)
        if part:
            return f"stages.{stage}.blocks.{2 * pair + second}.{part.expand(replacement)}"
    return name


def _megengine_array(name: str, array: np.ndarray) -> np.ndarray:
    """Depthwise weights (C, 1, 1, K, K) -> (C, 1, K, K), vectors (1, C, 1, 1) -> (C,), BGR -> RGB in the stem."""
    if array.ndim == 5 and array.shape[1:3] == (1, 1):
        return array.reshape(array.shape[0], 1, *array.shape[3:])
    if name == STEM and array.ndim == 4 and array.shape[1] == 3:
        return array[:, ::-1]
    is_vector = name.endswith((".bias", "._mean", "._variance")) or not name.endswith(".conv.weight")
    if array.ndim == 4 and is_vector and array.size == array.shape[1]:
        return array.reshape(-1)
    return array


LAYOUTS = (
    Layout("PaddleSeg/PaddleDetection", _is_paddle_suite, _from_paddle_suite),
    Layout("mmpretrain", _is_mmpretrain, _from_mmpretrain),
    Layout("mmseg/mmdet", _is_openmmlab, _from_mmseg),
    Layout("MegEngine", _has("premlp_bn", below="blocks"), _from_megengine, _megengine_array),
    Layout("PaddleViT", _has("pre_large_kernel_bn"), lambda names: {name: _from_paddlevit(name) for name in names}),
    Layout("ppreplk", _is_ours, _unchanged),
    Layout("official", _has("prelkb_bn"), _unchanged),
)
