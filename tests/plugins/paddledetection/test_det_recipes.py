"""The recipes of detection, built by PaddleDetection: published parameters."""

import importlib.util
import re

import pytest
from detection_helpers import write_coco
from helpers import ROOT, run_python

from ppreplk.plugins.paddledetection.det_suite import SUITE

if SUITE.find_checkout() is None and importlib.util.find_spec("ppdet") is None:
    pytest.skip("PaddleDetection is not here: PADDLEDETECTION names no checkout", allow_module_level=True)

# Millions, of the network folded
PUBLISHED = {
    "fcos_replknet31b_coco_2x": 87,
    "cascade_mask_rcnn_replknet31b_1k_coco_3x": 137,
    "cascade_mask_rcnn_replknet31b_22k_coco_3x": 137,
    "cascade_mask_rcnn_replknet31l_22k_coco_3x": 229,
    "cascade_mask_rcnn_replknetxl_coco_3x": 392,
}
FAST = ("fcos_replknet31b_coco_2x", "cascade_mask_rcnn_replknet31b_1k_coco_3x")

# In a process of its own: PaddleDetection keeps one configuration, into which every file is merged
COUNT = """
import ppreplk
from ppreplk.plugins.paddledetection import register
from ppreplk.plugins.paddledetection.det_suite import SUITE

SUITE.open()
register()

from paddle import nn
from ppdet.core.workspace import create, load_config

model = create(load_config({path!r}).architecture)
schedule = create("LearningRate")(step_per_epoch=1000)
optimizer = create("OptimizerBuilder")(schedule, model)
kinds = (nn.BatchNorm2D, nn.SyncBatchNorm, nn.GroupNorm)
norms = [layer for layer in model.sublayers() if isinstance(layer, kinds)]
expected = {{each.name for layer in norms for each in layer.parameters() if not each.stop_gradient}}
free = {{each.name for group in optimizer._param_groups if group["weight_decay"] == 0 for each in group["params"]}}
assert expected and free == expected, (len(expected), len(free), sorted(free ^ expected)[:5])

rates = []
for step in range(36000):
    rates.append(optimizer.get_lr())
    schedule.step()
print("rates", *(f"{{rates[step]:.6g}}" for step in (0, 250, 501, 15999, 16001, 22001, 27001, 33001)))

model.backbone = ppreplk.fold(model.backbone)
print("parameters", sum(each.size for each in model.parameters() if not each.stop_gradient))
"""
# at iterations 0, 250, 501, 15999, 16001, 22001, 27001 and 33001, of 1000 an epoch
CASCADE_RATES = [4e-7, 2.002e-4, 4e-4, 4e-4, 4e-4, 4e-4, 4e-5, 4e-6]
FCOS_RATES = [2e-4 / 3, 2e-4 / 3, 2e-4, 2e-4, 2e-5, 2e-6, 2e-6, 2e-6]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in PUBLISHED]
)
def test_parameters_groups_and_schedule_are_those_published(name):
    printed = run_python(COUNT.format(path=str(ROOT / "configs" / "detection" / f"{name}.yml")))
    rates = [float(rate) for rate in re.search(r"^rates (.*)", printed, flags=re.M)[1].split()]
    assert rates == pytest.approx(FCOS_RATES if name.startswith("fcos") else CASCADE_RATES, rel=1e-3)
    total = int(re.search(r"^parameters (\d+)", printed, flags=re.M)[1]) / 1e6
    print(f"{name}: {total:.2f} M; published {PUBLISHED[name]} M")
    assert total == pytest.approx(PUBLISHED[name], rel=0.01)


READ = """
from ppreplk.plugins.paddledetection import register
from ppreplk.plugins.paddledetection.det_suite import SUITE

SUITE.open()
register()

from ppdet.core.workspace import create, load_config

config = load_config({path!r})
config["TrainDataset"].update(dataset_dir={folder!r}, image_dir="images", anno_path="annotations.json")
config["TrainReader"]["batch_size"] = 1
shapes = set()
for _ in range(3):
    for batch in create("TrainReader")(create("TrainDataset")(), 1):
        shapes.add(tuple(batch["image"].shape))
        boxes = [each.shape[0] for each in batch.get("gt_bbox", [])]  # FCOS has targets instead
        masks = [len(each) for each in batch.get("gt_poly", [])]
        print("boxes", boxes, "masks", masks, "levels", sum(key.startswith("labels") for key in batch))
print("shapes", sorted(shapes))
"""


@pytest.mark.parametrize("name", FAST)
def test_training_readers_read_images_boxes_and_masks(name, tmp_path):
    write_coco(tmp_path / "coco", images=8)
    path = str(ROOT / "configs" / "detection" / f"{name}.yml")
    printed = run_python(READ.format(path=path, folder=str(tmp_path / "coco")))
    shapes = [tuple(map(int, found)) for found in re.findall(r"\((\d+), (\d+), (\d+), (\d+)\)", printed)]
    assert len(shapes) > 1  # several scales
    for images, channels, height, width in shapes:
        assert (images, channels) == (1, 3) and height % 32 == width % 32 == 0
        assert 480 <= min(height, width) and max(height, width) <= 1344
    lines = re.findall(r"^boxes (.*) masks (.*) levels (\d)", printed, flags=re.M)
    assert len(lines) == 24  # three passes over eight images
    for boxes, masks, levels in lines:
        assert (boxes, levels) == ("[]", "5") if name.startswith("fcos") else (boxes == masks and levels == "0")
