"""Channels-last programs of both precisions: equal to the network, alone and in threads; what they cannot be."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import paddle
import pytest
from exports import BOUNDS, CHANNELS_LAST, LOGITS, config, file_names, network, operators, predict_without_onednn
from helpers import (
    assert_one_line_and_exit_2,
    random_images,
    randomise_batch_norms,
    refused,
    relative_difference,
    require_channels_last_operators,
    run_tool,
)

from ppreplk.deploy.export import export
from ppreplk.deploy.lowering import lower
from ppreplk.deploy.program_file import save_network
from ppreplk.deploy.programs import Program, _announce_float32, choose_precision
from ppreplk.models import build_model
from ppreplk.nn.channels_last import DepthwiseNHWC
from ppreplk.ops import onednn


@pytest.mark.parametrize("size", [32, 47])
def test_both_precisions(project, size):
    require_channels_last_operators()
    changes = [f"Global.image_shape=[3, {size}, {size}]", f"Infer.transforms.1.ResizeImage.size={size}"]
    folder = export(config(CHANNELS_LAST, LOGITS, *changes), "bf16")
    assert file_names(folder) == [
        "export.json",
        "inference.json",
        "inference.pdiparams",
        "inference.yml",
        "inference_bf16.json",
    ]
    for name in ("inference.json", "inference_bf16.json"):
        names = operators(folder / name)
        assert set(names) >= {
            "ppreplk_channels_last_images",
            "ppreplk_channels_last_conv",
            "ppreplk_depthwise_conv_packed_nhwc",
        }
        assert not set(names) & {"conv2d", "depthwise_conv2d", "relu", "gelu"}
        assert names.count("add") == 1, "the bias of the head; residuals are in the convolutions"
    received = {}
    for batch in (1, 5):
        images = np.random.default_rng(batch).standard_normal((batch, 3, size, size)).astype("float32")
        expected = network()(paddle.to_tensor(images)).numpy()
        for precision in ("fp32", "bf16"):
            bound = BOUNDS[precision]
            received[precision] = Program(folder, precision=precision)(images)
            program = "inference.json" if precision == "fp32" else "inference_bf16.json"
            for outputs in (received[precision], predict_without_onednn(folder, images, program)):
                assert relative_difference(outputs, expected) < bound
    assert np.abs(received["bf16"] - received["fp32"]).max() > 0


SMALL_REPLKNET = {"layers": [1, 1], "channels": [8, 12], "large_kernel_sizes": [7, 5], "class_num": 7}
SMALL_MOBILENET = {"width": 0.25, "class_num": 7}
OTHERS = {
    "kernels of oneDNN": ("RepLKNet13T", {**SMALL_REPLKNET, "small_kernel": None, "large_kernel_sizes": [3, 3]}),
    "wide depthwise layers": ("RepLKNet13T", {**SMALL_REPLKNET, "dw_ratio": 1.5, "channels": [10, 18]}),
    "three stages": (
        "RepLKNet13T",
        {"layers": [1, 2, 1], "channels": [8, 16, 24], "large_kernel_sizes": [31, 9, 5], "ffn_ratio": 3.0},
    ),
    "kernels beyond the C++ operator": ("RepLKNet13T", {"layers": [1], "channels": [4], "large_kernel_sizes": [129]}),
    "trained with drop path": ("RepLKNet13T", {**SMALL_REPLKNET, "drop_path_rate": 0.3}),
    "MobileNetV2": ("MobileNetV2LK", SMALL_MOBILENET),
    "MobileNetV2, 7x7": ("MobileNetV2LK", {**SMALL_MOBILENET, "kernel_size": 7}),
    "MobileNetV2, 13x13": ("MobileNetV2LK", {**SMALL_MOBILENET, "kernel_size": 13, "small_kernel": 3}),
}


@pytest.mark.parametrize("name, arguments", OTHERS.values(), ids=OTHERS)
def test_other_networks(tmp_path, name, arguments):
    require_channels_last_operators()
    paddle.seed(0)
    model = build_model(name, **arguments)
    randomise_batch_norms(model)
    model.eval()
    images = np.random.default_rng(0).standard_normal((2, 3, 40, 56)).astype("float32")
    expected = model(paddle.to_tensor(images)).numpy()
    forms = lower(model, "channels_last", list(BOUNDS))
    for precision, bound in BOUNDS.items():
        save_network(forms[precision], [3, 40, 56], tmp_path / precision / "inference")
        names = operators(tmp_path / precision / "inference.json")
        assert not any("batch_norm" in name for name in names) and "conv2d" not in names
        assert relative_difference(Program(tmp_path / precision)(images), expected) < bound


@pytest.mark.parametrize(
    "name, kernel_size, count",
    [
        ("RepLKNet13T", 3, 0),
        ("RepLKNet13T", 5, 2),
        ("RepLKNet13T", 129, 0),
        ("MobileNetV2LK", 7, 0),  # relu6
        ("MobileNetV2LK", 13, 13),  # of 17 layers, four have stride 2
    ],
)
def test_large_kernels_go_to_the_depthwise_operator(name, kernel_size, count):
    require_channels_last_operators()
    if name == "MobileNetV2LK":
        model = build_model(name, kernel_size=kernel_size, **SMALL_MOBILENET)
    else:
        model = build_model(name, **{**SMALL_REPLKNET, "large_kernel_sizes": [kernel_size] * 2})
    (form,) = lower(model, "channels_last").values()
    assert sum(isinstance(part, DepthwiseNHWC) for part in form.parts) == count


def at_once(*calls):
    """Run functions in a thread each; what one raises is raised."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return [done.result(timeout=120) for done in [pool.submit(call) for call in calls]]


def test_two_predictors_in_two_threads(project):
    """Paddle's Python interface lets one run at a time; for overlapping ones see the test of networks below."""
    require_channels_last_operators()
    folder = export(config(CHANNELS_LAST, LOGITS), "bf16")
    images = np.random.default_rng(0).standard_normal((3, 3, 32, 32)).astype("float32")

    def repeat(precision, threads):
        predictor = Program(folder, threads=threads, precision=precision)
        return [predictor(images) for _ in range(30)]

    cases = [("fp32", 2), ("fp32", 1), ("bf16", 2)]
    expected = [repeat(*case)[-1] for case in cases]
    for outputs, alone, (precision, _) in zip(at_once(*(partial(repeat, *case) for case in cases)), expected, cases):
        assert len(outputs) == 30
        # predictors share the number of threads, and the order of sums depends on it
        bound = 1e-6 if precision == "fp32" else 2e-2
        assert all(relative_difference(each, alone) < bound for each in outputs)


def test_clones_of_a_predictor_in_two_threads(project):
    require_channels_last_operators()
    folder = export(config(CHANNELS_LAST, LOGITS))
    images = random_images(3, 3, 32, 32)
    settings = paddle.inference.Config(str(folder / "inference.json"), str(folder / "inference.pdiparams"))
    settings.disable_glog_info()
    first = paddle.inference.create_predictor(settings)
    expected = first.run([images])[0].numpy()

    def repeat(predictor):
        return [predictor.run([images])[0].numpy() for _ in range(20)]

    for outputs in at_once(*(partial(repeat, predictor) for predictor in (first, first.clone(), first.clone()))):
        assert len(outputs) == 20
        assert all(relative_difference(output, expected) < 1e-6 for output in outputs)


def test_networks_in_threads_that_overlap(project):
    """In eager mode several threads are inside the same operators at once, with maps of several sizes."""
    require_channels_last_operators()
    forms = lower(network(), "channels_last", list(BOUNDS))
    generator = np.random.default_rng(0)
    cases = [
        (precision, paddle.to_tensor(generator.standard_normal((batch, 3, size, size)).astype("float32")))
        for precision in BOUNDS
        for batch, size in ((1, 32), (3, 32), (2, 47))
    ]

    @paddle.no_grad()
    def repeat(precision, images):
        return [forms[precision](images).numpy() for _ in range(10)]

    expected = [at_once(partial(repeat, *case))[0][-1] for case in cases]  # threads of Python have their own settings
    for outputs, alone in zip(at_once(*(partial(repeat, *case) for case in cases)), expected):
        assert len(outputs) == 10
        assert all(np.array_equal(output, alone) for output in outputs)


@pytest.mark.parametrize("backend", ["none", "emulated", "emulated plain"])
def test_split_products(project, caplog, backend):
    """Where there is no AMX the program is the float32 one in all but its name, and says so."""
    require_channels_last_operators()
    caplog.set_level("INFO", "ppreplk")
    _announce_float32.cache_clear()
    if not onednn.choose_tiles_backend(backend):
        pytest.skip("no AVX-512 BF16")
    try:
        has_tiles = onednn.tiles_backend() != "none"
        folder = export(config(CHANNELS_LAST, LOGITS), "fp32-bf16x3")
        assert "inference_bf16x3.json" in file_names(folder)
        assert "ppreplk_channels_last_feed_forward" in operators(folder / "inference_bf16x3.json")
        assert "largest difference of the logits, fp32-bf16x3 program" in caplog.text
        assert ("computes in float32" in caplog.text) == (not has_tiles)
        images = random_images(3, 3, 32, 32).numpy()
        exact, split = (Program(folder, precision=precision)(images) for precision in ("fp32", "fp32-bf16x3"))
        assert (np.array_equal(exact, split)) == (not has_tiles)
        assert relative_difference(split, exact) < 1e-5
        taken = {choose_precision(str(folder), "cpu", "fp32-bf16x3", asked) for asked in (None, "fp32-bf16x3")}
        assert taken == {"fp32-bf16x3" if has_tiles else "fp32"}
        assert ("this processor has no AMX: predicting in fp32" in caplog.text) == (not has_tiles)
        if has_tiles:
            with refused("deploy.wrong-program", "Global.export_tolerance_bf16x3 1e-30"):
                export(config(CHANNELS_LAST, "Global.export_tolerance_bf16x3=1e-30"), "fp32-bf16x3")
    finally:
        onednn.choose_tiles_backend("none")


def test_what_verification_says_of_both_precisions(project, caplog):
    require_channels_last_operators()
    caplog.set_level("INFO", "ppreplk")
    export(config(CHANNELS_LAST), "bf16")
    assert "largest difference of the logits, fp32 program" in caplog.text
    assert "largest difference of the logits, bf16 program" in caplog.text
    assert "the same class comes first for 6 of 6 real images" in caplog.text
    with refused("deploy.wrong-program", "Global.export_tolerance_bf16 1e-30"):
        export(config(CHANNELS_LAST, "Global.export_tolerance_bf16=1e-30"), "bf16")


def test_a_later_export_leaves_no_program_of_an_earlier_one(project):
    require_channels_last_operators()
    export(config(CHANNELS_LAST), "bf16")
    assert file_names(export(config())) == ["export.json", "inference.json", "inference.pdiparams", "inference.yml"]


def test_programs_of_no_known_kind(project):
    model = build_model("RepLKNet13T", **SMALL_REPLKNET)
    with refused("deploy.unknown-program", "'quick'", "native, channels_last"):
        lower(model, "quick")
    with refused("deploy.unknown-program", "'int4'", "fp32, fp32-bf16x3, bf16, int8"):
        lower(model, "channels_last", ["int4"])
    with refused("deploy.unknown-program", "Global.export_depthwise: cpu", "Global.export_runtime=native"):
        export(config(CHANNELS_LAST, "Global.export_depthwise=cpu"))
    with refused("deploy.precision", "bf16", "-o Global.export_runtime=channels_last"):
        export(config(), "bf16")


def test_networks_that_cannot_be_channels_last(monkeypatch):
    require_channels_last_operators()
    with refused("nn.not-channels-last", "dilation", "Global.export_runtime=native"):
        lower(build_model("MobileNetV2LK", dilation=2, **SMALL_MOBILENET), "channels_last")
    with refused("models.no-graph", "backbone", "Global.export_runtime=native"):
        lower(build_model("RepLKNet13T", out_indices=[0]), "channels_last")
    with refused("models.no-graph", "Linear", "RepLKNet"):
        lower(paddle.nn.Linear(1, 1), "channels_last")
    monkeypatch.setattr(paddle, "get_device", lambda: "gpu:0")
    with refused("deploy.device", "gpu:0", "Global.device=cpu"):
        lower(build_model("RepLKNet13T", **SMALL_REPLKNET), "channels_last")


def test_through_the_tools(project):
    require_channels_last_operators()
    base = ["-c", "config.yaml", "-o", "Global.pretrained_model=weights"]
    exported = run_tool("export", *base, "-o", CHANNELS_LAST, "--precision", "bf16", cwd=project)
    assert exported.returncode == 0, exported.stderr
    predicted = run_tool("infer", *base, "--model-dir", "inference", "--precision", "fp32", cwd=project)
    assert predicted.returncode == 0 and len(predicted.stdout.splitlines()) == 24, predicted.stderr
    environment = {**os.environ, "XDG_CACHE_HOME": str(project), "CXX": "no-such-compiler"}
    process = run_tool("export", *base, "-o", CHANNELS_LAST, cwd=project, env=environment)
    assert_one_line_and_exit_2(process, "no-such-compiler", code="ops.no-compiler")


@pytest.mark.slow
@pytest.mark.parametrize("size", [224, 384])
@pytest.mark.parametrize(
    "arguments", [{"depthwise": "cpu"}, {"runtime": "channels_last", "precisions": list(BOUNDS)}], ids=str
)
def test_the_full_network(tmp_path, size, arguments):
    """python -m pytest -m slow tests/deploy/test_channels_last.py (about five minutes)"""
    require_channels_last_operators()
    paddle.seed(0)
    model = build_model("RepLKNet31B", class_num=10)
    randomise_batch_norms(model)
    model.eval()
    forms = lower(model, **arguments)
    for precision, form in forms.items():
        save_network(form, [3, size, size], tmp_path / precision / "inference")
    for batch in (1, 5):
        images = np.random.default_rng(batch).standard_normal((batch, 3, size, size)).astype("float32")
        with paddle.no_grad():
            expected = model(paddle.to_tensor(images)).numpy()
        for precision in forms:
            folder = tmp_path / precision
            together = at_once(*(partial(Program(folder), images) for _ in range(2)))
            for received in (*together, Program(folder)(images), predict_without_onednn(folder, images)):
                assert relative_difference(received, expected) < BOUNDS[precision]
