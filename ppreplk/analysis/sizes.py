"""Parameters and multiply-adds as tables: of one network part by part, and of the variants as in README.md."""

from __future__ import annotations

from typing import NamedTuple

from paddle import nn

from ..config import ArchConfig, load_config
from ..models import architecture_of, build_model
from ..models.arch import build_network
from ..nn import fold, reparameterize
from ..utils.tables import Table
from .counting import Complexity, count, count_by_kind, count_by_part, output_shapes
from .rows import ROWS
from .running import running


class Variant(NamedTuple):
    """A row of the README's table: a network, its kernels, the side of its images, its published accuracy in words."""

    model: str
    kernels: str
    size: int
    accuracy: str


_STUDY = {row.model: row for row in ROWS if row.table == 5 and row.model != "RepLKNet31B"}
SHOWN = (
    Variant("RepLKNet31B", "31-29-27-13", 224, "83.07 (120 epochs), 83.5 (300 epochs), from ImageNet-22K 85.2"),
    Variant("RepLKNet31B", "31-29-27-13", 384, "84.8, from ImageNet-22K 86.0"),
    Variant("RepLKNet31L", "31-29-27-13", 384, "from ImageNet-22K 86.6"),
    Variant("RepLKNetXL", "27-27-27-13", 320, "from MegData73M 87.8"),
    *(Variant(model, row.label, 224, f"{row.top1:.2f} (120 epochs)") for model, row in _STUDY.items()),
    Variant("RepLKNet13T", "13-9-7-3", 32, "none; a small network of ours for the digits"),
    Variant("MobileNetV2LK", "3", 224, "71.76 (100 epochs); see docs/large_kernels.md"),
)


def part_table(network: str, size: int) -> Table:
    """Output, parameters and multiply-adds of every part of a network.

    The output is the shape of what a part hands on, without the number of images. There are columns for the train form,
    the merged form and, for networks of ours, the exported form, which has no BN.
    :func:`ppreplk.analysis.counting.count_by_part` says what a part is.

    Args:
        network: name of a network of ours or of paddleclas, or a configuration file (``.yaml``).
        size: height and width of the image.

    Raises:
        UserError: there is no such network, or it is made for images of another size.
    """
    model = _network(network)
    forms = {"training": model, "merged": reparameterize(model)}
    if architecture_of(model) is not None:
        forms["exported"] = fold(model)
    shape = (1, 3, size, size)
    with running(model, network, shape):
        counts = {form: count_by_part(layer, shape) for form, layer in forms.items()}
        outputs = output_shapes(model, shape)
    lines = []
    for part in [*dict.fromkeys(part for form in counts.values() for part in form), "total"]:
        found = {form: _total(parts) if part == "total" else parts.get(part) for form, parts in counts.items()}
        macs = [_billions(found["training"]), _billions(found["merged"])]
        output = "x".join(map(str, outputs[part][1:])) if part in outputs else "-"
        lines.append([part, output, *(_millions(value) for value in found.values()), *macs])
    columns = [*(f"parameters, {form}" for form in forms), "multiply-adds, training", "multiply-adds, merged"]
    return Table(f"{network}, one image of {size}x{size}", ["part", "output", *columns], lines)


def kind_table(network: str, size: int) -> Table:
    """What each kind of layer costs in the merged network, see :func:`ppreplk.analysis.counting.count_by_kind`.

    Args, raises: as :func:`part_table`.
    """
    model = reparameterize(_network(network))
    shape = (1, 3, size, size)
    with running(model, network, shape):
        kinds = count_by_kind(model, shape)
    total = _total({kind: cost for kind, (_, cost) in kinds.items()})
    kinds["total"] = sum(layers for layers, _ in kinds.values()), total
    lines = []
    for kind, (layers, cost) in kinds.items():
        share = f"{100 * cost.macs / total.macs:.1f}%"
        lines.append([kind, str(layers), _millions(cost), _billions(cost), share])
    columns = ["layers", "number", "parameters", "multiply-adds", "share of the multiply-adds"]
    return Table(f"{network}, merged, one image of {size}x{size}", columns, lines)


def _network(name: str) -> nn.Layer:
    """The network that a configuration file describes, or that has this name."""
    if name.endswith((".yaml", ".yml")):
        return build_network(load_config(name).Arch)
    return build_network(ArchConfig(where="the network", arguments={}, name=name))


def _total(parts: dict[str, Complexity]) -> Complexity:
    return Complexity(sum(part.params for part in parts.values()), sum(part.macs for part in parts.values()))


def _millions(value: Complexity | None) -> str:
    return "-" if value is None else f"{value.params / 1e6:.3f}M"


def _billions(value: Complexity | None) -> str:
    return "-" if value is None else f"{value.macs / 1e9:.3f}G"


def variant_table(shown: tuple[Variant, ...] = SHOWN) -> Table:
    """The table of variants in README.md."""
    return Table("Variants", COLUMNS, [variant_line(variant) for variant in shown])


COLUMNS = (
    "model",
    "kernels",
    "input",
    "parameters, training",
    "parameters, exported",
    "multiply-adds, exported",
    "ImageNet-1K top-1 (published)",
)


def variant_line(variant: Variant) -> list[str]:
    """The cells of one row of :func:`variant_table`."""
    model = build_model(variant.model)
    trained = sum(parameter.size for parameter in model.parameters() if not parameter.stop_gradient)
    exported = count(fold(model, inplace=True), (1, 3, variant.size, variant.size))
    return [
        f"`{variant.model}`",
        variant.kernels,
        str(variant.size),
        f"{trained / 1e6:.2f}M",
        f"{exported.params / 1e6:.2f}M",
        f"{exported.macs / 1e9:.3f}G",
        variant.accuracy,
    ]
