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

from ppdet.core.workspace import create, load_config

model = create(load_config({path!r}).architecture)
model.backbone = ppreplk.fold(model.backbone)
print("parameters", sum(each.size for each in model.parameters() if not each.stop_gradient))
"""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in PUBLISHED]
)
def test_parameters_are_those_published(name):
    printed = run_python(COUNT.format(path=str(ROOT / "configs" / "detection" / f"{name}.yml")))
    total = int(re.search(r"^parameters (\d+)", printed, flags=re.M)[1]) / 1e6
    print(f"{name}: {total:.2f} M; published {PUBLISHED[name]} M")
    assert total == pytest.approx(PUBLISHED[name], rel=0.01)
