"""Name maps between the checkpoint layouts of other implementations and ours.

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
``head`` ``head.fc``; mmseg and mmdet have ``backbone.`` and their own heads. PyTorch and MegEngine call the
statistics of a batch normalization ``running_mean`` and ``running_var`` and store the head as (out, in).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from ...checkpoints.unpickle import shown
from ...utils.errors import UserError

MEGENGINE = "MegEngine"
PARALLEL = "module."  # PyTorch's DataParallel
BACKBONE = "backbone."
COUNTER = "num_batches_tracked"
BUFFERS = {"running_mean": "_mean", "running_var": "_variance"}
HEAD = "head.weight"
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


@dataclass(frozen=True)
class Translated:
    """Weights under our names.

    ``layout`` names the layout they had, None where it is not known; ``left_out`` counts what belongs to no
    network of ours: {"num_batches_tracked": 120, "decode_head": 30}.
    """

    state: dict[str, np.ndarray]
    layout: str | None
    left_out: dict[str, int] = field(default_factory=dict)


def translate(state: Mapping[str, np.ndarray], source: str) -> Translated:
    """Arrays under the names, and in the shapes, of our networks, as views of those given.

    Names of no known layout are left as they are, but for PyTorch's words for batch normalizations.

    Args:
        state: {name: array} of a file.
        source: the file, for messages.

    Raises:
        UserError: two names stand for the same thing.
    """
    is_parallel = all(name.startswith(PARALLEL) for name in state)
    names = {name: name[len(PARALLEL) :] if is_parallel else name for name in state}
    layout, renamed = _renamed(names.values())
    if layout is None:
        names = renamed = {name: name for name in state}
    translated: dict[str, np.ndarray] = {}
    left_out: dict[str, int] = {}
    foreign = any(name.rpartition(".")[2] in BUFFERS for name in names)
    for theirs, plain in names.items():
        ours = renamed[plain]
        stem, _, leaf = (ours or plain).rpartition(".")
        if ours is None or leaf == COUNTER:
            group = COUNTER if leaf == COUNTER else plain.partition(".")[0]
            left_out[group] = left_out.get(group, 0) + 1
            continue
        ours = f"{stem}.{BUFFERS[leaf]}" if leaf in BUFFERS else ours
        if ours in translated:
            raise UserError(f"{source}: {shown(theirs)} and another name both stand for {shown(ours)}")
        array = state[theirs]
        if layout == MEGENGINE:
            array = _megengine_array(ours, array)
        translated[ours] = array.T if foreign and ours == HEAD and array.ndim == 2 else array
    return Translated(translated, f"{layout}, DataParallel" if layout and is_parallel else layout, left_out)


def _renamed(names: Iterable[str]) -> tuple[str | None, dict[str, str | None]]:
    """The layout, and {name: official name, or None for what is no part of the network}."""
    names = list(names)
    parts = {part for name in names for part in name.split(".")}
    if "prelkb_bn" in parts and any(name.startswith(BACKBONE) for name in names):
        layout = "mmpretrain" if "head.fc.weight" in names else "mmseg/mmdet"
        last = max((int(n) for n in re.findall(r"^backbone\.stages\.(\d{1,3})\.", "\n".join(names), re.M)), default=0)
        return layout, {name: _from_openmmlab(name, layout == "mmpretrain", last) for name in names}
    if "premlp_bn" in parts:
        stages = _megengine_stages(names)
        return MEGENGINE, {name: _from_megengine(name, stages) for name in names}
    if "pre_large_kernel_bn" in parts:
        return "PaddleViT", {name: _from_paddlevit(name) for name in names}
    known = "ppreplk" if "_mean" in parts else "official"
    return known if "prelkb_bn" in parts else None, {name: name for name in names}


def _from_openmmlab(name: str, is_classifier: bool, last: int) -> str | None:
    if is_classifier and name.startswith("head.fc."):
        return "head." + name[len("head.fc.") :]
    if not name.startswith(BACKBONE):
        return None if name.partition(".")[0] in DOWNSTREAM else name
    name = name[len(BACKBONE) :]
    norm = f"stages.{last}.norm."
    return "norm." + name[len(norm) :] if is_classifier and name.startswith(norm) else name


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


def _from_megengine(name: str, stages: Mapping[int, tuple[int, int]]) -> str:
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
