"""ONNX files of folded networks, run by ONNX Runtime."""

import json

import pytest
from helpers import run_python

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

# In a process of its own: other frameworks bring libraries that disturb Paddle's.
DIFFERENCES = """
import json
import onnxruntime
import ppreplk
from helpers import random_images, randomise_batch_norms, relative_difference, small_network
from ppreplk.deploy.onnx_file import BATCH, onnx_network
from ppreplk.models import graph_of

networks = {
    "RepLKNet": small_network(drop_path_rate=0.2),
    "MobileNetV2LK": ppreplk.build_model("MobileNetV2LK", width=0.25, class_num=5, kernel_size=7, small_kernel=3),
    "MobileNetV2LK, dilated": ppreplk.build_model("MobileNetV2LK", width=0.25, class_num=5, dilation=2),
}
differences = {}
for name, model in networks.items():
    randomise_batch_norms(model)
    model.eval()
    content = onnx_network(graph_of(ppreplk.fold(model)), (BATCH, 3, 48, 40))
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        images = random_images(batch, 3, 48, 40)
        (received,) = session.run(None, {"images": images.numpy()})
        differences[f"{name}, {batch}"] = relative_difference(received, model(images))
print(json.dumps(differences))
"""


def test_onnx_runtime_computes_what_the_network_computes():
    differences = json.loads(run_python(DIFFERENCES).splitlines()[-1])
    assert len(differences) == 6
    assert all(difference < 1e-5 for difference in differences.values()), differences


NOT_FOLDED = """
from helpers import refused, small_network
from ppreplk.deploy.onnx_file import onnx_network
from ppreplk.models import graph_of

with refused("deploy.not-folded", "norm"):
    onnx_network(graph_of(small_network()), (1, 3, 48, 48))
"""


def test_a_network_that_is_not_folded_is_refused():
    run_python(NOT_FOLDED)
