"""Whole networks: what is measured, and what the rows say."""

import csv
import itertools
import json
import os
import sys

import paddle
import pytest
from helpers import refused, require_channels_last_operators, run_python, small_network
from paddle.base import core

from ppreplk.benchmark import networks, peers
from ppreplk.cli import command_parser
from ppreplk.models.registry import Architecture, register, unregister
from ppreplk.ops import onednn
from ppreplk.utils.cores import default_threads
from ppreplk.utils.device import set_threads

EAGER = [f"Paddle, eager, {impl}" for impl in ("native", "fft", "cpu")]
FORMS = ("native", "native bf16", "cpu", "channels_last", "channels_last bf16")
PROGRAMS = [f"Paddle Inference, {form}" for form in FORMS]
TWO_BLOCKS = {"large_kernel_sizes": (9, 5), "layers": (1, 1), "channels": (8, 16)}
COMBINED = {"size": (32, 48), "batch": (1, 3), "threads": (1, 2)}


@pytest.fixture
def measure():
    """Run the command in this process, which gets its threads back."""

    def run(*arguments):
        arguments = command_parser().parse_args(["benchmark", *map(str, arguments)])
        arguments.run(arguments)

    yield run
    set_threads(default_threads())


def test_a_network_with_paddle_alone(measure, tmp_path, monkeypatch, caplog):
    """Missing frameworks are left out; the others are right, and what has files is loaded in processes of its own."""
    require_channels_last_operators()
    caplog.set_level("INFO")
    for module in ("torch", "onnx"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(networks, "build_model", lambda name: small_network(**TWO_BLOCKS))
    monkeypatch.setattr(networks, "PAUSE", 0.0)
    options = ["--size", 32, "--batch", 3, "--threads", 1, "--rounds", 1, "--native"]
    measure("model", *options, "--output", tmp_path / "t.csv")
    assert "without torch channels-last: import of torch" in caplog.text
    rows = {row["what"]: row for row in csv.DictReader((tmp_path / "t.csv").open())}
    computed = {"native bf16": core.supports_bfloat16(), "channels_last bf16": onednn.has_bfloat16()}
    in_float32 = [f"Paddle Inference, {form}" for form, bfloat16 in computed.items() if not bfloat16]
    loaded = [f"{name} (in float32)" if name in in_float32 else name for name in PROGRAMS]
    assert rows.keys() == {*EAGER, *loaded}
    for name, row in rows.items():
        assert (row["input"], row["batch"], row["threads"], row["times OpenVINO's"]) == ("32x32", "3", "1", "-")
        assert float(row["median ms"]) > 0
        rounds = "bf16" in name and name != "Paddle Inference, native bf16 (in float32)"  # ours always does
        low, high = (1e-4, 2e-2) if rounds else (0, 1e-5)
        assert low <= float(row["difference"]) < high, name
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
    monkeypatch.setattr(networks, "usable_implementations", lambda: ["native", "fft"])
    monkeypatch.setattr(networks, "build_contestants", lambda builders: builders)
    for file, _ in networks.LOADABLE.values():
        (tmp_path / file).touch()
    usual, everything = (networks._inference(small_network(), None, 1, tmp_path, native) for native in (False, True))
    assert everything.keys() == usual.keys() | set(networks.SLOW) and not usual.keys() & set(networks.SLOW)


@pytest.mark.parametrize("ours, theirs", itertools.product([True, False], repeat=2))
def test_rows_say_where_bfloat16_is_float32(monkeypatch, ours, theirs):
    monkeypatch.setattr(networks.onednn, "has_bfloat16", lambda: ours)
    own = {name: print for name in networks.LOADABLE if name.startswith("Paddle") and name not in networks.SLOW}
    contestants = {name: peers.Session(print, theirs) for name in [*networks.LOADABLE, *networks.SLOW]} | own
    labels = {name: networks._label(name, contestant) for name, contestant in contestants.items()}
    changed = {name for name, label in labels.items() if label == f"{name} (in float32)"}
    others = set() if theirs else {"Paddle Inference, native bf16", "OpenVINO bf16"}
    assert changed == others | (set() if ours else {"Paddle Inference, channels_last bf16"})
    assert all(label == name for name, label in labels.items() if name not in changed)


def test_every_combination_is_measured(measure, monkeypatch):
    measured = []

    def turns(model, images, threads, *_):
        measured.append((*images.shape, threads))
        return []

    monkeypatch.setattr(networks, "_save", lambda *_: None)
    monkeypatch.setattr(networks, "_turns", turns)
    options = [f"--{name}={value}" for name, values in COMBINED.items() for value in values]
    measure("model", "--name", "RepLKNet13T", *options)
    assert measured == [(n, 3, size, size, threads) for size, n, threads in itertools.product(*COMBINED.values())]


@pytest.mark.parametrize("subject", ["model", "train"])
def test_a_network_without_a_graph_is_refused(measure, subject):
    architecture = Architecture("Plain", lambda class_num=2: paddle.nn.Linear(3, class_num), {"Plain": {}})
    register(architecture)
    try:
        with refused("benchmark.no-graph", "Plain has no graph", "choose another --name"):
            measure(subject, "--name", "Plain")
    finally:
        unregister(architecture)
