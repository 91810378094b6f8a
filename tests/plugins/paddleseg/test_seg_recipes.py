"""The recipes of segmentation, built by PaddleSeg: published parameters and multiply-adds."""

from dataclasses import dataclass

import numpy as np
import paddle
import pytest
from helpers import ROOT

import ppreplk
from ppreplk.complexity import count

pytest.importorskip("paddleseg.cvlibs", reason="PaddleSeg is not installed")

from paddleseg.cvlibs import Config, SegBuilder
from paddleseg.transforms import Compose

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


def builder(name: str) -> SegBuilder:
    plugin.register()
    return SegBuilder(Config(str(ROOT / "configs" / "segmentation" / f"{name}.yml")))


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


def check_optimizer(built: SegBuilder) -> None:
    """No weight decay on normalizations, and on nothing else; the rate rises from a millionth and falls to 0."""
    norms = [layer for layer in built.model.sublayers() if isinstance(layer, paddle.nn.BatchNorm2D)]
    expected = {each.name for layer in norms for each in layer.parameters() if not each.stop_gradient}
    groups = built.optimizer._param_groups
    assert {each.name for group in groups if group["weight_decay"] == 0 for each in group["params"]} == expected
    assert {group["weight_decay"] for group in groups} == {0, 0.05}
    schedule, iterations = built.lr_scheduler, built.config.iters
    warmup = built.config.lr_scheduler_cfg["warmup_iters"]
    found = []
    for step in (0, warmup, iterations):
        schedule.step(step)
        found.append(schedule.get_lr())
    assert found == pytest.approx([2e-10, 2e-4, 0], abs=1e-12)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in RECIPES]
)
def test_parameters_and_multiply_adds_are_those_published(name):
    built = builder(name)
    published, model = RECIPES[name], built.model
    check_optimizer(built)
    model.backbone = ppreplk.fold(model.backbone)
    sizes = {key: parameter.size for key, parameter in model.named_parameters() if not parameter.stop_gradient}
    total = sum(size for key, size in sizes.items() if "aux" not in key) / 1e6
    gmacs = multiply_adds(model, published.size)
    print(f"{name}: {total:.2f} M, {gmacs:.1f} G; published {published.params} M, {published.gmacs} G")
    assert total == pytest.approx(published.params, rel=published.within)
    assert gmacs == pytest.approx(published.gmacs, rel=0.01)


@pytest.mark.parametrize("name", ["upernet_replknet31b_1k_ade20k_512", "upernet_replknetxl_ade20k_640"])
def test_training_images_and_masks_are_cropped_alike_and_padded_with_zeros(name):
    """Wheel 2.8.0 puts the mask in the place of the image, unless it is patched."""
    built = builder(name)
    steps = [step for step in built.config.train_dataset_cfg["transforms"] if step["type"] != "RandomDistort"]
    transforms = Compose([built.build_component(step) for step in steps])
    normalize, crop = (
        next(step for step in steps if step["type"] == kind) for kind in ("Normalize", "RandomPaddingCrop")
    )
    classes = np.arange(12, dtype="uint8").reshape(3, 4).repeat(100, 0).repeat(100, 1)  # 300x400, 12 squares
    sizes = set()
    for seed in range(8):
        np.random.seed(seed)
        image = (classes[..., None] * np.ones(3) * 20).astype("float32")
        data = transforms({"img": image, "label": classes, "gt_fields": ["label"], "trans_info": []})
        assert data["img"].shape == (3, *crop["crop_size"]) and data["label"].shape == tuple(crop["crop_size"])
        is_padding = data["label"] == 255
        assert not data["img"][:, is_padding].any()
        red = (data["img"][0] * normalize["std"][0] + normalize["mean"][0]) * 255
        assert np.median(np.abs(red - data["label"] * 20.0)[~is_padding]) < 0.1
        sizes.add(int(is_padding.sum()))
    assert len(sizes) > 1
