"""The recipes of segmentation, built by PaddleSeg: published parameters and multiply-adds."""

from dataclasses import dataclass

import pytest
from helpers import ROOT

import ppreplk
from ppreplk.complexity import count

pytest.importorskip("paddleseg.cvlibs", reason="PaddleSeg is not installed")

from paddleseg.cvlibs import Config, SegBuilder

from ppreplk.plugins import paddleseg as plugin


@dataclass(frozen=True)
class Published:
    params: float  # millions, of the folded network without the auxiliary head
    gmacs: float
    size: tuple[int, int]  # of the image that the multiply-adds are for: width, height
    within: float = 0.02  # relative, of the parameters


RECIPES = {
    "upernet_replknet31b_cityscapes_769": Published(110, 2315, (2048, 1024)),
    "upernet_replknet31b_1k_ade20k_512": Published(112, 1170, (2048, 512)),
    "upernet_replknet31b_22k_ade20k_640": Published(112, 1829, (2560, 640)),
    "upernet_replknet31l_22k_ade20k_640": Published(207, 2404, (2560, 640)),
    "upernet_replknetxl_ade20k_640": Published(374, 3431, (2560, 640)),
    # Paper, table 5
    "upernet_replknet3b_120e_ade20k_512": Published(104.1, 1119, (2048, 512), 0.001),
    "upernet_replknet7b_120e_ade20k_512": Published(104.6, 1123, (2048, 512), 0.001),
    "upernet_replknet13b_120e_ade20k_512": Published(106.0, 1130, (2048, 512), 0.001),
    "upernet_replknet25b_120e_ade20k_512": Published(110.6, 1159, (2048, 512), 0.001),
    "upernet_replknet31b_120e_ade20k_512": Published(111.7, 1170, (2048, 512), 0.001),
}
FAST = (
    "upernet_replknet31b_cityscapes_769",
    "upernet_replknet3b_120e_ade20k_512",
    "upernet_replknet31b_120e_ade20k_512",
)


def build(name: str):
    plugin.register()
    return SegBuilder(Config(str(ROOT / "configs" / "segmentation" / f"{name}.yml"))).model


def multiply_adds(model, size: tuple[int, int]) -> float:
    """Those of an image of any size that stride 32 divides, in G, without running the network on it.

    Those of convolutions grow with the number of pixels. Those on pooled maps, whose size is fixed, do not grow.
    """
    small, wide, large = (
        count(model, (1, 3, height, width)).macs for height, width in [(64, 64), (64, 128), (128, 128)]
    )
    per_pixel = (wide - small) / (64 * 64)
    fixed = small - per_pixel * 64 * 64
    assert large == pytest.approx(fixed + per_pixel * 128 * 128, rel=1e-12)
    return (fixed + per_pixel * size[0] * size[1]) / 1e9


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in RECIPES]
)
def test_parameters_and_multiply_adds_are_those_published(name):
    published, model = RECIPES[name], build(name)
    model.backbone = ppreplk.fold(model.backbone)
    sizes = {key: parameter.size for key, parameter in model.named_parameters() if not parameter.stop_gradient}
    total = sum(size for key, size in sizes.items() if "aux" not in key) / 1e6
    gmacs = multiply_adds(model, published.size)
    print(f"{name}: {total:.2f} M, {gmacs:.1f} G; published {published.params} M, {published.gmacs} G")
    assert total == pytest.approx(published.params, rel=published.within)
    assert gmacs == pytest.approx(published.gmacs, rel=0.01)
