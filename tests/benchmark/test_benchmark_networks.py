"""Whole networks: what is measured, and what the rows say."""

import csv
import itertools
import os

import numpy as np
import paddle
import pytest
from helpers import refused, require_channels_last_operators, small_network

from ppreplk.benchmark import networks
from ppreplk.benchmark.turns import Contest, Entry
from ppreplk.cli import command_parser
from ppreplk.models.registry import Architecture, register, unregister
from ppreplk.ops import onednn
from ppreplk.utils.cores import default_threads
from ppreplk.utils.device import set_threads

EAGER = ["Paddle, eager, fft", "Paddle, eager, cpu", "Paddle, from weights"]
CHANNELS_LAST = ("channels_last", "channels_last fp32-bf16x3", "channels_last bf16", "channels_last int8")
PROGRAMS = [f"Paddle Inference, {form}" for form in ("native", "cpu", *CHANNELS_LAST)]
COMBINED = {"size": (32, 48), "batch": (1, 3), "threads": (1, 2)}


@pytest.fixture
def measure():
    """Run the command in this process, which gets its threads back."""

    def run(*arguments):
        arguments = command_parser().parse_args(["benchmark", *map(str, arguments)])
        arguments.run(arguments)

    yield run
    set_threads(default_threads())


def test_a_network_with_paddle_alone(measure, tmp_path, monkeypatch, capsys):
    """Missing frameworks are named below the table. Each of the others computes the network."""
    require_channels_last_operators()
    for module in ("torch", "onnxruntime", "openvino"):
        (tmp_path / f"{module}.py").write_text("raise ImportError('not today')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")])))
    monkeypatch.setattr(networks, "import_problem", lambda module: None)
    monkeypatch.setattr(networks, "onnx_network", lambda graph, shape: b"a network")
    options = ["--size", 32, "--batch", 3, "--threads", 1, "--rounds", 1]
    measure("model", "--name", "RepLKNet13T", *options, "--output", tmp_path / "t.csv")
    printed = capsys.readouterr().out
    for name in ("torch channels-last", "ONNX Runtime", "OpenVINO", "OpenVINO bf16"):
        assert f"- without {name}: not today (32x32, batch 3, 1 threads)\n" in printed
    assert printed.startswith("**RepLKNet13T, inference, 1 rounds of 3; ")
    rows = {row["what"]: row for row in csv.DictReader((tmp_path / "t.csv").open())}
    in_float32 = [] if onednn.has_bfloat16() else ["Paddle Inference, channels_last bf16"]
    if onednn.tiles_backend() == "none":
        in_float32.append("Paddle Inference, channels_last fp32-bf16x3")
    if not onednn.has_int8():
        in_float32.append("Paddle Inference, channels_last int8")
    loaded = [f"{name} (in float32)" if name in in_float32 else name for name in PROGRAMS]
    assert rows.keys() == {*EAGER, *loaded}
    for name, row in rows.items():
        assert (row["input"], row["batch"], row["threads"]) == ("32x32", "3", "1")
        assert row["times OpenVINO's"] == row["times torch channels-last's"] == "-"
        assert float(row["median ms"]) > 0
        low, high = (1e-4, 2e-2) if " bf16" in name else (1e-4, 0.1) if " int8" in name else (0, 1e-5)
        assert low <= float(row["difference"]) < high, name
    assert all(float(rows[name]["load s"]) > 0 and float(rows[name]["memory MB"]) > 0 for name in loaded)
    assert all(rows[name]["load s"] == rows[name]["memory MB"] == "-" for name in EAGER)


def test_native_adds_what_is_slow(monkeypatch, tmp_path):
    monkeypatch.setattr(networks, "usable_implementations", lambda: ["native", "fft"])
    monkeypatch.setattr(networks, "program_files", lambda folder: (folder / "program", folder / "weights"))
    for file, _ in networks.LOADABLE.values():
        (tmp_path / file).touch()
    usual, everything = (
        {entry.name: entry for entry in networks.entries("RepLKNet13T", tmp_path, 1, native, Contest())}
        for native in (False, True)
    )
    assert everything.keys() == usual.keys() | set(networks.SLOW) and not usual.keys() & set(networks.SLOW)
    assert len({entry.output for entry in everything.values()}) == len(everything)
    assert all(name.startswith(("Paddle", "torch", "ONNX Runtime", "OpenVINO")) for name in everything)


@pytest.mark.parametrize("computes", [True, False])
def test_rows_say_where_bfloat16_is_float32(computes):
    names = [*networks.LOADABLE, *networks.SLOW]
    changed = {name for name in names if networks._label(name, computes) == f"{name} (in float32)"}
    asked = {"OpenVINO bf16", "Paddle Inference, native bf16", *(f"Paddle Inference, {c}" for c in CHANNELS_LAST[1:])}
    assert changed == (set() if computes else asked)
    assert all(networks._label(name, computes) == name for name in names if name not in changed)


def test_every_combination_is_measured(measure, monkeypatch):
    measured = []

    def entries(name, folder, threads, native, contest):
        measured.append(threads)
        return []

    def expected(model, images):
        measured.append(images.shape)

    monkeypatch.setattr(networks, "_save", lambda *_: None)
    monkeypatch.setattr(networks, "_eager", expected)
    monkeypatch.setattr(networks, "entries", entries)
    monkeypatch.setattr(networks, "build_model", lambda name: small_network())
    options = [f"--{name}={value}" for name, values in COMBINED.items() for value in values]
    measure("model", "--name", "RepLKNet13T", *options)
    images = [(n, 3, size, size) for size, n in itertools.product(COMBINED["size"], COMBINED["batch"])]
    assert measured == [each for shape in images for each in (shape, *COMBINED["threads"])]


@pytest.mark.parametrize("subject", ["model", "train"])
def test_a_network_without_a_graph_is_refused(measure, subject):
    architecture = Architecture("Plain", lambda class_num=2: paddle.nn.Linear(3, class_num), {"Plain": {}})
    register(architecture)
    try:
        with refused("benchmark.no-graph", "Plain has no graph", "choose another --name"):
            measure(subject, "--name", "Plain")
    finally:
        unregister(architecture)


def test_what_is_missing_is_said_once(measure, monkeypatch):
    missing = Entry("torch", "no_such_module:network", {})
    monkeypatch.setattr(networks, "_save", lambda *_: None)
    monkeypatch.setattr(networks, "entries", lambda *_: [missing])
    table = networks.measure_network("RepLKNet13T", [32], [1, 2], [1], rounds=1, native=False)
    assert table.notes == ["without torch: No module named 'no_such_module' (32x32, batch 1, 1 threads)"]


def test_networks_without_a_layer_for_integers_have_the_other_programs():
    require_channels_last_operators()
    narrow = small_network()
    narrow.eval()
    images = [np.zeros((1, 3, 32, 32), np.float32)]
    assert list(networks._forms(narrow, networks.FORMS["channels_last"], images)) == ["fp32", "fp32-bf16x3", "bf16"]
