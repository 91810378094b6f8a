"""The recipes of detection, built by PaddleDetection: published parameters."""

import importlib.util
import re

import pytest
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
