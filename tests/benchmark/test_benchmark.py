"""What the measurements say, not how fast anything is."""

import csv
import itertools
import json
import os
import runpy
import sys

import numpy as np
import pytest
from helpers import (
    ROOT,
    relative_difference,
    require_compiled_operator,
    require_fast_operators,
    run_python,
    run_tool,
    small_network,
)
from paddle.base import core
from PIL import Image

from ppreplk.benchmark import networks as network
from ppreplk.benchmark import peers
from ppreplk.benchmark.timing import take_turns
from ppreplk.ops import onednn as dense
from ppreplk.utils.cores import available_cores
from ppreplk.utils.device import set_threads

EAGER = [f"Paddle, eager, {impl}" for impl in ("native", "fft", "compiled")]
PROGRAMS = [f"Paddle Inference, {form}" for form in ("native", "native bf16", "compiled", "fast", "fast bf16")]
FRAMEWORKS = ("torch", "ONNX Runtime", "OpenVINO")


def test_contestants_take_turns():
    order = []
    times = take_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2, calls=2)
    assert order == ["a", "a", "a", "b", "b", "b"] * 2 and set(times) == {"a", "b"}
    assert all(0 <= minimum <= median for minimum, median in times.values())


@pytest.mark.parametrize("name, source", [("digits", "train_list.txt"), ("replknet31b", "photographs, 500x375")])
def test_input_speed(tmp_path, name, source):
    config = ["-c", ROOT / "configs" / f"{name}.yaml", "--rounds", "1", "--images", "8"]
    process = run_tool("benchmark", "data", *config, "--output", "t.csv", "--output", "t.md", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert source in process.stdout.splitlines()[0]
    assert (tmp_path / "t.md").read_text() in process.stdout
    columns, *rows = csv.reader((tmp_path / "t.csv").open())
    assert [row[0] for row in rows][:2] == ["this configuration", "plain decode and resize (bicubic)"]
    assert all(float(row[columns.index("median")]) > 0 for row in rows)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["data", "-c", "none.yaml", "--output", "t.txt"], "written to a .md or .csv file, got t.txt"),
        (["conv", "--output", "missing/t.md"], "the folder of missing/t.md does not exist"),
        (["conv", "--kernel", "5", "--figure", "f.bmp"], "written to a .png or .svg file, got f.bmp"),
        (["conv", "--figure", "f.png"], "give those with --kernel"),
        (["conv", "--kernel", "4"], "odd K"),
        (["model", "--name", "RepLKNet31"], "unknown model 'RepLKNet31'"),
        (["model", "--name", "MobileNetV2LK"], "only RepLKNets are known"),
        (["train", "--name", "MobileNetV2LK"], "only RepLKNets are known"),
    ],
)
def test_bad_input_is_one_line(tmp_path, arguments, message):
    process = run_tool("benchmark", *arguments, cwd=tmp_path)
    assert process.returncode == 2 and message in process.stderr.splitlines()[-1], process.stderr


def test_the_figure(tmp_path):
    pytest.importorskip("matplotlib")
    arguments = ["--kernel", "3", "--kernel", "5", "--channels", "2", "--side", "6", "--rounds", "1"]
    process = run_tool("benchmark", "conv", *arguments, "--figure", "f.png", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    with Image.open(tmp_path / "f.png") as figure:
        assert figure.size[0] > 500


TWO_BLOCKS = {"large_kernel_sizes": (9, 5), "layers": (1, 1), "channels": (8, 16)}
COMBINED = {"size": (32, 48), "batch": (1, 3), "threads": (1, 2)}
LAYER = ["conv", "--kernel", "5", "--channels", "3", "--side", "6"]


@pytest.mark.parametrize(
    "arguments, contestants",
    [
        (LAYER, {"native", "fft", "compiled", "compiled, packed"}),
        ([*LAYER, "--backward"], {"native", "fft", "compiled"}),
        (
            ["train", "--name", "RepLKNet13T", "--size", "32", "--batch", "2", "--native"],
            {"Paddle, native", "Paddle, fft", "Paddle, compiled"},
        ),
    ],
)
def test_ours_are_among_the_contestants(tmp_path, arguments, contestants):
    require_compiled_operator()
    process = run_tool("benchmark", *arguments, "--rounds", "1", "--output", "t.csv", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    rows = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert {row["what"] for row in rows if not row["what"].startswith(FRAMEWORKS)} == contestants
    assert all(float(row["median ms"]) > 0 for row in rows)


@pytest.fixture
def measure():
    """What the tool does, in this process, which gets its threads back."""

    def run(*arguments):
        tool = runpy.run_path(str(ROOT / "tools" / "benchmark.py"))
        tool["main"](tool["parser"]().parse_args([*map(str, arguments)]))

    yield run
    set_threads(available_cores())


def test_a_network_with_paddle_alone(measure, tmp_path, monkeypatch, caplog):
    """Missing frameworks are left out; the others are right, and what has files is loaded in processes of its own."""
    require_fast_operators()
    caplog.set_level("INFO")
    for module in ("torch", "onnx"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(network, "build_model", lambda name: small_network(**TWO_BLOCKS))
    monkeypatch.setattr(network, "PAUSE", 0.0)
    options = ["--size", 32, "--batch", 3, "--threads", 1, "--rounds", 1, "--native"]
    measure("model", *options, "--output", tmp_path / "t.csv")
    assert "without torch channels-last: import of torch" in caplog.text
    rows = {row["what"]: row for row in csv.DictReader((tmp_path / "t.csv").open())}
    computed = {"native bf16": core.supports_bfloat16(), "fast bf16": dense.has_bfloat16()}
    in_float32 = [f"Paddle Inference, {form}" for form, bfloat16 in computed.items() if not bfloat16]
    loaded = [f"{name} (in float32)" if name in in_float32 else name for name in PROGRAMS]
    assert rows.keys() == {*EAGER, *loaded}
    for name, row in rows.items():
        assert (row["input"], row["batch"], row["threads"], row["times OpenVINO's"]) == ("32x32", "3", "1", "-")
        assert float(row["median ms"]) > 0
        rounds = "bf16" in name and name != "Paddle Inference, native bf16 (in float32)"  # ours always does
        least, most = (1e-4, 2e-2) if rounds else (0, 1e-5)
        assert least <= float(row["difference"]) < most, name
    assert all(float(rows[name]["load s"]) > 0 and float(rows[name]["memory MB"]) > 0 for name in loaded)
    assert all(rows[name]["load s"] == rows[name]["memory MB"] == "-" for name in EAGER)


AFTER_A_PEAK = """
import numpy as np
from ppreplk.benchmark import load_process

load_process.load = lambda *_: lambda: np.ones(2**24)
np.ones(2**26)  # four times as much
load_process.main("a network", "folder", "[1]", "1")
"""


def test_memory_is_what_loading_adds():
    """Not the peak of what came before. In a process of its own, as it is used: an old one has memory to reuse."""
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("the peak cannot be forgotten here")
    _, peak = json.loads(run_python(AFTER_A_PEAK))
    assert 2**27 < peak + 2**20 < 2**28


def test_native_adds_what_is_slow(monkeypatch, tmp_path):
    monkeypatch.setattr(network, "usable", lambda: ["native", "fft"])
    monkeypatch.setattr(network, "installed", lambda builders: builders)
    for file, _ in network.LOADABLE.values():
        (tmp_path / file).touch()
    usual, everything = (network._inference(small_network(), None, 1, tmp_path, native) for native in (False, True))
    assert everything.keys() == usual.keys() | set(network.SLOW) and not usual.keys() & set(network.SLOW)


@pytest.mark.parametrize("ours, theirs", itertools.product([True, False], repeat=2))
def test_rows_say_where_bfloat16_is_float32(monkeypatch, ours, theirs):
    monkeypatch.setattr(network.dense, "has_bfloat16", lambda: ours)
    own = {name: print for name in network.LOADABLE if name.startswith("Paddle") and name not in network.SLOW}
    contestants = {name: peers.Session(print, theirs) for name in [*network.LOADABLE, *network.SLOW]} | own
    labels = {name: network._label(name, contestant) for name, contestant in contestants.items()}
    changed = {name for name, label in labels.items() if label == f"{name} (in float32)"}
    others = set() if theirs else {"Paddle Inference, native bf16", "OpenVINO bf16"}
    assert changed == others | (set() if ours else {"Paddle Inference, fast bf16"})
    assert all(label == name for name, label in labels.items() if name not in changed)


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


def test_every_combination_is_measured(measure, monkeypatch):
    measured = []

    def turns(model, images, threads, *_):
        measured.append((*images.shape, threads))
        return []

    monkeypatch.setattr(network, "_save", lambda *_: None)
    monkeypatch.setattr(network, "_turns", turns)
    options = [f"--{name}={value}" for name, values in COMBINED.items() for value in values]
    measure("model", "--name", "RepLKNet13T", *options)
    assert measured == [(n, 3, size, size, threads) for size, n, threads in itertools.product(*COMBINED.values())]


DIFFERENCES = """
import json
from functools import partial

from helpers import randomise_batch_norms, random_images, relative_difference, small_network
from ppreplk.benchmark import peers
from ppreplk.benchmark.layers import installed
from ppreplk.nn.surgery import fold

model = small_network()
randomise_batch_norms(model)
model.eval()
images = random_images(3, 3, 32, 32)
expected, x, folded = model(images).numpy(), images.numpy(), fold(model)
builders = {
    "torch": partial(peers.torch_network, folded, x, 1, channels_last=False),
    "torch, channels last": partial(peers.torch_network, folded, x, 1, channels_last=True),
    "torch, not folded": partial(peers.torch_network, model, x, 1, channels_last=False),
    "ONNX Runtime": lambda: peers.onnxruntime_session(peers.onnx_network(folded, 32), x, 1),
    "OpenVINO": lambda: peers.openvino_session(peers.onnx_network(folded, 32), x, 1),
}
print(json.dumps({name: relative_difference(run(), expected) for name, run in installed(builders).items()}))
"""


def test_other_frameworks_run_the_same_network():
    differences = json.loads(run_python(DIFFERENCES))
    if not differences:
        pytest.skip("no other framework is installed")
    assert all(difference < 1e-5 for difference in differences.values()), differences
