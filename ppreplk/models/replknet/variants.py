"""The variants of RepLKNet, what their published weights expect, and the registered architecture."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Optional

from ..preprocessing import Preprocessing
from ..registry import Architecture, Recognised, State, register
from .as_graph import graph
from .as_picture import picture
from .layer_ids import layer_ids
from .layouts import LAYOUTS
from .network import RepLKNet
from .recognition import arguments_of, matches, variant_of

# Tables 5 and 6. Table 5 (kernel sizes) trains its 3-3-3-3 network without a parallel kernel.
_BASE = {"layers": (2, 2, 18, 2), "channels": (128, 256, 512, 1024), "small_kernel": 5}
VARIANTS: dict[str, dict[str, Any]] = {
    "RepLKNet31B": {**_BASE, "large_kernel_sizes": (31, 29, 27, 13)},
    "RepLKNet31L": {**_BASE, "large_kernel_sizes": (31, 29, 27, 13), "channels": (192, 384, 768, 1536)},
    "RepLKNetXL": {
        **_BASE,
        "large_kernel_sizes": (27, 27, 27, 13),
        "channels": (256, 512, 1024, 2048),
        "small_kernel": None,
        "dw_ratio": 1.5,
    },
    "RepLKNet3B": {**_BASE, "large_kernel_sizes": (3, 3, 3, 3), "small_kernel": None},
    "RepLKNet7B": {**_BASE, "large_kernel_sizes": (7, 7, 7, 7)},
    "RepLKNet13B": {**_BASE, "large_kernel_sizes": (13, 13, 13, 13)},
    "RepLKNet25B": {**_BASE, "large_kernel_sizes": (25, 25, 25, 13)},
    "RepLKNet13T": {  # ours, unpublished: trains on two CPU cores in minutes
        "layers": (1, 1, 2, 1),
        "channels": (16, 32, 64, 128),
        "large_kernel_sizes": (13, 9, 7, 3),
        "small_kernel": 3,
    },
}


# Weights of these exist, from the official repository.
PUBLISHED = ("RepLKNet31B", "RepLKNet31L", "RepLKNetXL", "RepLKNet3B", "RepLKNet7B", "RepLKNet13B", "RepLKNet25B")
HALVES = (0.5, 0.5, 0.5)
XL_SIZE = 320  # pixels; all other weights are published for 224 or, by their names, for 384


def preprocessing(variant: str, path: Path) -> Optional[Preprocessing]:
    """What the published weights of a variant expect. The file's name tells 384 from 224."""
    if variant not in PUBLISHED:
        return None
    is_xl = variant == "RepLKNetXL"
    named = re.search(r"[_-](224|320|384)(?:px)?(?![0-9])", path.stem)
    size = int(named[1]) if named else XL_SIZE if is_xl else 224
    return Preprocessing(HALVES, HALVES, size) if is_xl else Preprocessing(size=size)


def recognise(state: State, source: str) -> Optional[Recognised]:
    """The RepLKNet that weights under our names belong to; None where they are of no RepLKNet.

    Raises:
        UserError: they are of a RepLKNet, and broken.
    """
    if not matches(state):
        return None
    form, arguments = arguments_of(state, source)
    return Recognised(REPLKNET, variant_of(arguments, VARIANTS), form, arguments)


REPLKNET = register(
    Architecture(
        name="RepLKNet",
        network=RepLKNet,
        variants=VARIANTS,
        graph=graph,
        layouts=LAYOUTS,
        recognise=recognise,
        preprocessing=preprocessing,
        layer_ids=layer_ids,
        picture=picture,
        stem="stem.0.conv.weight",
        is_backbone=True,
        classifier_only=("norm.*", "head.*"),
        backbone_only=("stages.*.norm.*",),
    )
)


def RepLKNet31B(**kwargs: Any) -> RepLKNet:
    """31-29-27-13 kernels, base width: 79.5M parameters merged, 15.4G multiply-adds at 224 (table 6)."""
    return RepLKNet(**{**VARIANTS["RepLKNet31B"], **kwargs})


def RepLKNet31L(**kwargs: Any) -> RepLKNet:
    """31-29-27-13 kernels, large width: 172.2M parameters merged, 96.0G multiply-adds at 384 (table 6)."""
    return RepLKNet(**{**VARIANTS["RepLKNet31L"], **kwargs})


def RepLKNetXL(**kwargs: Any) -> RepLKNet:
    """27-27-27-13 kernels, no parallel kernel: 335.4M parameters, 128.7G multiply-adds at 320 (table 6)."""
    return RepLKNet(**{**VARIANTS["RepLKNetXL"], **kwargs})
