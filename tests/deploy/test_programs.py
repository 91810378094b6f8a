"""Running exported programs: the operators they hold, the precisions, what is broken, threads."""

import os
from pathlib import Path

import numpy as np
import paddle
import pytest
from exports import BOUNDS, CHANNELS_LAST, LOGITS, config, network, predict_without_onednn
from helpers import (
    assert_one_line_and_exit_2,
    refused,
    relative_difference,
    require_channels_last_operators,
    require_depthwise_operators,
    run_tool,
)

from ppreplk.deploy.export import export
from ppreplk.deploy.predict import infer
from ppreplk.deploy.programs import Predictor, _announce_emulation, choose_precision


def test_a_broken_program_is_refused(project):
    export(config())
    Path("inference/inference.json").write_text("{}")
    with refused("deploy.bad-program", "inference.json"):
        list(infer(config(), "inference"))
    with refused("deploy.no-program", "absent"):
        list(infer(config(), "absent"))


BROKEN_YAML = {
    "{}": "deploy.bad-program",
    "PreProcess: {transform_ops: []}": "deploy.bad-program",
    "PostProcess: {Topk: {topk: abc}}": "deploy.bad-program",
    "[1]": "config.wrong-type",
    "a: [": "config.not-yaml",
    None: "deploy.no-program",
}


@pytest.mark.parametrize("content, code", BROKEN_YAML.items())
def test_a_broken_inference_yml_is_refused(project, content, code):
    path = export(config()) / "inference.yml"
    path.unlink() if content is None else path.write_text(content)
    with refused(code, "inference.yml"):
        list(infer(config(), "inference"))


@pytest.mark.parametrize("size", [32, 47])
def test_a_program_with_the_cpu_operator(project, size):
    require_depthwise_operators()
    changes = ["Global.export_depthwise=cpu", LOGITS]
    changes += [f"Global.image_shape=[3, {size}, {size}]", f"Infer.transforms.1.ResizeImage.size={size}"]
    folder = export(config(*changes))
    assert "ppreplk_depthwise_conv_packed" in (folder / "inference.json").read_text()
    for batch in (1, 5):
        images = np.random.default_rng(batch).standard_normal((batch, 3, size, size)).astype("float32")
        expected = network()(paddle.to_tensor(images)).numpy()
        for received in (Predictor(folder)(images), predict_without_onednn(folder, images)):
            assert relative_difference(received, expected) < BOUNDS["fp32"]


def test_a_program_with_the_cpu_operator_loads_it_by_itself(project):
    require_depthwise_operators()
    folder = export(config("Global.export_depthwise=cpu"))
    arguments = ["-c", "config.yaml", "--model-dir", folder, "-o", "Infer.infer_imgs=data/images"]
    process = run_tool("infer", *arguments, cwd=project)
    assert process.returncode == 0 and len(process.stdout.splitlines()) == 24, process.stderr
    environment = {**os.environ, "XDG_CACHE_HOME": str(project), "CXX": "no-such-compiler"}
    process = run_tool("infer", *arguments, cwd=project, env=environment)
    assert_one_line_and_exit_2(process, "no-such-compiler", code="ops.no-compiler")


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("conv2d", []),
        ("ppreplk_depthwise_conv_packed", [("depthwise",)]),
        ("ppreplk_channels_last_conv", [("depthwise", "channels_last")]),
        ("ppreplk_dense_conv", [("depthwise", "channels_last")]),
    ],
)
def test_operators_are_loaded_for_the_programs_that_hold_them(project, monkeypatch, content, names):
    loaded = []
    monkeypatch.setattr("ppreplk.deploy.programs.load_ops", lambda *names: loaded.append(names))
    export(config())
    Path("inference/inference.json").write_text(content)
    with refused("deploy.bad-program", "inference.json"):
        Predictor("inference")
    assert loaded == names


def test_the_precision_of_a_program_that_is_not_for_this_place(project, monkeypatch):
    """What is wrong is said before operators are built."""
    monkeypatch.setattr("ppreplk.deploy.programs.load_ops", lambda *names: pytest.fail("built"))
    export(config())
    with refused("deploy.no-program", "inference_bf16.json missing"):
        choose_precision("inference", "cpu", "fp32", "bf16")
    Path("inference/inference_bf16.json").write_text("ppreplk_dense_conv")
    with refused("deploy.device", "inference_bf16.json", "gpu"):
        choose_precision("inference", "gpu", "bf16", None)


def test_the_precision_of_predictions(project, monkeypatch, caplog):
    require_channels_last_operators()
    caplog.set_level("INFO", "ppreplk")
    export(config(CHANNELS_LAST), "bf16")
    by_network = [prediction.class_ids[0] for prediction in infer(config())]

    def predict(has_bfloat16, precision):
        monkeypatch.setattr("ppreplk.ops.onednn.has_bfloat16", lambda: has_bfloat16)
        return [prediction.class_ids[0] for prediction in infer(config(), "inference", precision)]

    assert predict(True, "fp32") == predict(True, "bf16") == predict(True, None) == by_network
    assert "predicting in fp32" not in caplog.text
    assert predict(False, None) == by_network
    assert "this processor has no bfloat16 arithmetic (AVX-512 BF16 or AMX): predicting in fp32" in caplog.text
    with refused("deploy.precision", "bf16", "no bfloat16 arithmetic", "use fp32"):
        predict(False, "bf16")


def test_precisions_that_are_not_there(project):
    with refused("deploy.precision", "bf16", "--model-dir"):
        list(infer(config(), None, "bf16"))
    export(config())
    with refused("deploy.no-program", "inference_bf16.json missing", "--precision fp32"):
        list(infer(config(), "inference", "bf16"))
    with refused("deploy.precision", "'int8'", "fp32, bf16"):
        Predictor("inference", precision="int8")
    Path("inference/inference_bf16.json").write_text("{}")
    with refused("deploy.bad-program", "inference_bf16.json"):
        list(infer(config(), "inference", "bf16"))
    path = Path("inference/inference.yml")
    right = path.read_text()
    for wrong in ("int4", "[bf16]", "{}"):
        path.write_text(right.replace("precision: fp32", f"precision: {wrong}"))
        with refused("deploy.precision", wrong.strip("[]")):
            list(infer(config(), "inference"))


def test_a_bf16_program_where_nothing_multiplies_bfloat16(project, monkeypatch, caplog):
    require_channels_last_operators()
    caplog.set_level("INFO", "ppreplk")
    export(config(CHANNELS_LAST), "bf16")
    monkeypatch.setattr("ppreplk.ops.onednn.has_bfloat16", lambda: False)
    caplog.clear()
    _announce_emulation.cache_clear()
    for _ in range(2):
        Predictor("inference", precision="bf16")
    assert caplog.text.count("in float32 arithmetic, no faster") == 1


def test_a_program_of_channels_last_operators_needs_a_cpu(project):
    require_channels_last_operators()
    folder = export(config(CHANNELS_LAST))
    with refused("deploy.device", "inference.json", "gpu"):
        Predictor(folder, device="gpu")
