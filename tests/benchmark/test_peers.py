"""Other frameworks: they run the same network."""

import json

import numpy as np
import pytest
from helpers import relative_difference, run_python

from ppreplk.benchmark import peers


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_openvino_says_what_it_computes_in(precision):
    pytest.importorskip("openvino")
    pytest.importorskip("onnx")
    rng = np.random.default_rng(0)
    x, weight = (rng.standard_normal(shape, np.float32) for shape in ((1, 16, 14, 14), (16, 1, 5, 5)))
    exact = peers.openvino_session(peers.onnx_conv(x, weight), x, 1)
    session = peers.openvino_session(peers.onnx_conv(x, weight), x, 1, precision)
    difference = relative_difference(session(), exact())
    assert not exact.bfloat16 and (1e-4 < difference < 2e-2 if session.bfloat16 else difference < 1e-5)


A_SIGNAL_AFTER_SESSIONS = """
import signal

import numpy as np
from ppreplk.benchmark import peers

x, weight = np.ones((1, 16, 14, 14), np.float32), np.ones((16, 1, 5, 5), np.float32)
sessions = [peers.openvino_session(peers.onnx_conv(x, weight), x, 1, precision) for precision in ("f32", "bf16")]
while sessions:
    sessions.pop(0)()  # the first one goes first
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
signal.raise_signal(signal.SIGUSR1)
"""


def test_a_signal_after_openvino_does_not_end_the_process():
    pytest.importorskip("openvino")
    pytest.importorskip("onnx")
    assert run_python(A_SIGNAL_AFTER_SESSIONS) == "handled\n"


DIFFERENCES = """
import json
from functools import partial

from helpers import randomise_batch_norms, random_images, relative_difference, small_network
from ppreplk.benchmark import peers
from ppreplk.benchmark.contestants import build_contestants
from ppreplk.deploy.onnx_file import BATCH, onnx_network
from ppreplk.models import graph_of
from ppreplk.nn import fold

model = small_network()
randomise_batch_norms(model)
model.eval()
images = random_images(3, 3, 32, 32)
expected, x, folded = model(images).numpy(), images.numpy(), fold(model)


def onnx_file():
    return onnx_network(graph_of(folded), (BATCH, 3, 32, 32))


builders = {
    "torch": partial(peers.torch_network, folded, x, 1, channels_last=False),
    "torch channels-last": partial(peers.torch_network, folded, x, 1, channels_last=True),
    "torch not folded": partial(peers.torch_network, model, x, 1, channels_last=False),
    "ONNX Runtime": lambda: peers.onnxruntime_session(onnx_file(), x, 1),
    "OpenVINO": lambda: peers.openvino_session(onnx_file(), x, 1),
}
print(json.dumps({name: relative_difference(run(), expected) for name, run in build_contestants(builders).items()}))
"""


def test_other_frameworks_run_the_same_network():
    differences = json.loads(run_python(DIFFERENCES))
    if not differences:
        pytest.skip("no other framework is installed")
    assert all(difference < 1e-5 for difference in differences.values()), differences
