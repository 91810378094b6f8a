"""The rows of the paper's tables 2, 3, 4, 5 and 11, from which recipes and the small-scale study are made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MOBILENET = "MobileNetV2LK"
# The blocks of stride 1 at 7x7. The paper does not say whether table 4 counts the block of stride 2 before them.
LAST_STAGE = (14, 15, 16)


@dataclass(frozen=True)
class Row:
    """One row of a table of the paper.

    Args:
        table: number of the table.
        label: of the row.
        recipe: path of its configuration below ``configs/``, without suffix.
        top1: published accuracy on ImageNet in percent.
        miou: published mean intersection over union in percent, where there is one: on Cityscapes with DeepLabv3+
            (tables 3 and 4), or on ADE20K with UperNet (table 5).
        model: name of the network.
        arguments: of the network.
    """

    table: int
    label: str
    recipe: str
    top1: float
    miou: float | None = None
    model: str = MOBILENET
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def network(self) -> tuple[str, str]:
        """A key that is equal for rows that train the same network."""
        return self.model, repr(sorted(self.arguments.items()))


def _large(kernel: int, **others: Any) -> dict[str, Any]:
    return {"kernel_size": kernel, **others}


ROWS = (
    Row(2, "3x3", "study/table2_mbv2_3x3", 71.76),
    Row(2, "13x13", "study/table2_mbv2_13x13", 72.53, arguments=_large(13)),
    Row(2, "3x3, no shortcut", "study/table2_mbv2_3x3_no_shortcut", 68.67, arguments={"shortcut": False}),
    Row(2, "13x13, no shortcut", "study/table2_mbv2_13x13_no_shortcut", 53.98, arguments=_large(13, shortcut=False)),
    Row(3, "3x3", "study/table3_mbv2_3x3", 71.76, 72.31),
    Row(3, "9x9", "study/table3_mbv2_9x9", 72.67, 76.11, arguments=_large(9)),
    Row(3, "9x9 with 3x3", "study/table3_mbv2_9x9_with_3x3", 73.09, 76.30, arguments=_large(9, small_kernel=3)),
    Row(3, "13x13", "study/table3_mbv2_13x13", 72.53, 75.67, arguments=_large(13)),
    Row(3, "13x13 with 3x3", "study/table3_mbv2_13x13_with_3x3", 73.24, 76.60, arguments=_large(13, small_kernel=3)),
    Row(4, "3x3", "study/table4_mbv2_3x3", 71.76, 72.31),
    Row(
        4,
        "7x7 with 3x3, last stage",
        "study/table4_mbv2_7x7_last_stage",
        72.00,
        74.30,
        arguments=_large(7, small_kernel=3, large_kernel_blocks=LAST_STAGE),
    ),
    Row(
        4,
        "13x13 with 3x3, last stage",
        "study/table4_mbv2_13x13_last_stage",
        71.97,
        74.62,
        arguments=_large(13, small_kernel=3, large_kernel_blocks=LAST_STAGE),
    ),
    Row(5, "3-3-3-3", "replknet3b_120e", 82.11, 46.05, "RepLKNet3B"),
    Row(5, "7-7-7-7", "replknet7b_120e", 82.73, 48.05, "RepLKNet7B"),
    Row(5, "13-13-13-13", "replknet13b_120e", 83.02, 48.35, "RepLKNet13B"),
    Row(5, "25-25-25-13", "replknet25b_120e", 83.00, 48.68, "RepLKNet25B"),
    Row(5, "31-29-27-13", "replknet31b_120e", 83.07, 49.17, "RepLKNet31B"),
    Row(11, "9x9", "study/table11_mbv2_9x9", 72.67, arguments=_large(9)),
    Row(11, "3x3, dilation 4", "study/table11_mbv2_3x3_dilation4", 57.23, arguments={"dilation": 4}),
    Row(11, "13x13", "study/table11_mbv2_13x13", 72.53, arguments=_large(13)),
    Row(11, "3x3, dilation 6", "study/table11_mbv2_3x3_dilation6", 51.21, arguments={"dilation": 6}),
)
TABLES = tuple(dict.fromkeys(row.table for row in ROWS))
SUBJECTS = {
    2: "the identity shortcut",
    3: "re-parameterization with a small kernel",
    4: "large kernels on small maps",
    5: "kernel sizes of RepLKNet",
    11: "dilated convolution",
}
