"""What the heads of MMSegmentation's UperNet are called in PaddleSeg's ``UPerNetViTAdapter``.

| MMSegmentation | PaddleSeg |
|-|-|
| ``decode_head.psp_modules.i.1.{conv,bn}`` | ``head.psp_modules.stages.i.1.{conv,bn}`` |
| ``decode_head.{bottleneck,lateral_convs.i,fpn_convs.i,fpn_bottleneck}.{conv,bn}`` | ``head.*`` |
| ``decode_head.conv_seg`` | ``head.conv_seg`` |
| ``auxiliary_head.convs.0.{conv,bn}`` | ``head.aux_conv.{conv,bn}`` |
| ``auxiliary_head.conv_seg`` | ``head.aux_conv_seg`` |

``UPerNetViTAdapter`` is the one model of PaddleSeg that computes what MMSegmentation's ``UPerHead`` and ``FCNHead`` do;
its ``UPerNet`` does not.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..whole_checkpoints import Model, Places, Sizes, SuiteNames, conv, conv_bn

HEAD, AUXILIARY = "head", "auxiliary head"  # parts
AUXILIARY_STAGE = 2


def _settings(sizes: Sizes, widths: Sequence[int]) -> dict[str, int]:
    return {
        "num_classes": sizes.of("decode_head.conv_seg.weight", 0, 4),
        "channels": sizes.of("decode_head.bottleneck.conv.weight", 0, 4),
        "aux_channels": sizes.of("auxiliary_head.convs.0.conv.weight", 0, 4),
    }


def _places(sizes: Sizes, widths: Sequence[int]) -> Places:
    classes, channels, auxiliary = _settings(sizes, widths).values()
    theirs, ours, top = "decode_head", "head", widths[-1]
    places: Places = {}
    scales = sizes.count(f"{theirs}.psp_modules.")
    for i in range(scales):
        stage = f"{ours}.psp_modules.stages.{i}.1"
        places.update(conv_bn(f"{theirs}.psp_modules.{i}.1", stage, (channels, top, 1, 1), HEAD))
    shapes = {"bottleneck": (channels, top + scales * channels, 3, 3)}
    shapes.update({f"lateral_convs.{i}": (channels, width, 1, 1) for i, width in enumerate(widths[:-1])})
    shapes.update({f"fpn_convs.{i}": (channels, channels, 3, 3) for i in range(len(widths) - 1)})
    shapes["fpn_bottleneck"] = (channels, len(widths) * channels, 3, 3)
    for name, shape in shapes.items():
        places.update(conv_bn(f"{theirs}.{name}", f"{ours}.{name}", shape, HEAD))
    places.update(conv(f"{theirs}.conv_seg", f"{ours}.conv_seg", (classes, channels, 1, 1), HEAD))
    shape = (auxiliary, widths[AUXILIARY_STAGE], 3, 3)
    places.update(conv_bn("auxiliary_head.convs.0", f"{ours}.aux_conv", shape, AUXILIARY))
    shape = (classes, auxiliary, 1, 1)
    places.update(conv("auxiliary_head.conv_seg", f"{ours}.aux_conv_seg", shape, AUXILIARY))
    return places


PADDLESEG = SuiteNames("PaddleSeg", "MMSegmentation", (Model("UPerNet", "decode_head.", _places, _settings),))
