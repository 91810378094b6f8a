"""Other frameworks: they run the same network."""

import json

import numpy as np
import pytest
from helpers import relative_difference, run_python, small_network

from ppreplk.benchmark import peer_files, peers
from ppreplk.models import graph_of


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_openvino_says_what_it_computes_in(precision, tmp_path):
    pytest.importorskip("openvino")
    pytest.importorskip("onnx")
    rng = np.random.default_rng(0)
    x, weight = (rng.standard_normal(shape, np.float32) for shape in ((1, 16, 14, 14), (16, 1, 5, 5)))
    np.save(tmp_path / "x.npy", x)
    (tmp_path / "layer.onnx").write_bytes(peer_files.onnx_conv(x, weight))
    files = str(tmp_path / "layer.onnx"), str(tmp_path / "x.npy")
    exact = peers.openvino_session(*files, 1)
    session = peers.openvino_session(*files, 1, precision)
    difference = relative_difference(session(), exact())
    assert not exact.bfloat16 and (1e-4 < difference < 2e-2 if session.bfloat16 else difference < 1e-5)


A_SIGNAL_AFTER_SESSIONS = """
import signal

import tempfile

import numpy as np
from ppreplk.benchmark import peer_files, peers

folder = tempfile.mkdtemp()
x, weight = np.ones((1, 16, 14, 14), np.float32), np.ones((16, 1, 5, 5), np.float32)
np.save(f"{folder}/x.npy", x)
open(f"{folder}/layer.onnx", "wb").write(peer_files.onnx_conv(x, weight))
files = f"{folder}/layer.onnx", f"{folder}/x.npy"
sessions = [peers.openvino_session(*files, 1, precision) for precision in ("f32", "bf16")]
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
import importlib.util
import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
from helpers import randomise_batch_norms, random_images, relative_difference, small_network
from ppreplk.benchmark import peer_files, peers
from ppreplk.deploy.onnx_file import BATCH, onnx_network
from ppreplk.models import graph_of
from ppreplk.nn import fold

folder = Path(sys.argv[1])
model = small_network()
randomise_batch_norms(model)
model.eval()
images = random_images(3, 3, 32, 32)
expected, folded = model(images).numpy(), fold(model)
np.save(folder / "x.npy", images.numpy())
peer_files.record(graph_of(model), folder / "train.npz")
peer_files.record(graph_of(folded), folder / "folded.npz")
x, train, twin, file = (str(folder / name) for name in ("x.npy", "train.npz", "folded.npz", "network.onnx"))
installed = importlib.util.find_spec
runs = {}
if installed("torch"):
    runs["torch"] = peers.torch_network(twin, x, 1, channels_last=False)
    runs["torch channels-last"] = peers.torch_network(twin, x, 1, channels_last=True)
    runs["torch not folded"] = peers.torch_network(train, x, 1, channels_last=False)
if installed("onnx"):
    Path(file).write_bytes(onnx_network(graph_of(folded), (BATCH, 3, 32, 32)))
    runs |= {"ONNX Runtime": peers.onnxruntime_session(file, x, 1)} if installed("onnxruntime") else {}
    runs |= {"OpenVINO": peers.openvino_session(file, x, 1)} if installed("openvino") else {}
print(json.dumps({name: relative_difference(run(), expected) for name, run in runs.items()}))
"""


def test_other_frameworks_run_the_same_network(tmp_path):
    differences = json.loads(run_python(DIFFERENCES, tmp_path))
    if not differences:
        pytest.skip("no other framework is installed")
    assert all(difference < 1e-5 for difference in differences.values()), differences


def test_what_is_recorded_has_the_weights_and_no_classes(tmp_path):
    """PyTorch's names of layers and arguments, and arrays: nothing that needs this package or Paddle to be read."""
    model = small_network()
    peer_files.record(graph_of(model), tmp_path / "twin.npz")
    with np.load(tmp_path / "twin.npz", allow_pickle=False) as arrays:
        steps = json.loads(str(arrays["steps"]))
        kinds = {step["kind"] for step in steps}
        assert kinds == {"Identity", "Conv2d", "BatchNorm2d", "ReLU", "GELU", "add", "pool", "Linear"}
        weights = {f"{number}.{name}" for number, step in enumerate(steps) for name in step["state"]}
        assert weights == {*arrays.files} - {"steps"}
        counted = sum(arrays[name].size for name in weights if not name.endswith("num_batches_tracked"))
    assert counted == sum(tensor.size for tensor in model.state_dict().values())
