"""The formats of an export: each is run by what reads it, and lies whole beside the others or not at all."""

import hashlib
import importlib.util
import json
from pathlib import Path

import numpy as np
import paddle
import pytest
from exports import CHANNELS_LAST, config, file_names, network
from helpers import refused, relative_difference, require_channels_last_operators, run_python

import ppreplk
from ppreplk.deploy import legacy_file
from ppreplk.deploy.export import export
from ppreplk.deploy.formats import FORMATS
from ppreplk.deploy.infer import infer
from ppreplk.deploy.other_runtimes import run_elsewhere
from ppreplk.deploy.programs import Program
from ppreplk.models.arch import build_network

ALL = "Global.export_format=[paddle, pdmodel, onnx]"
LEGACY = "Global.export_format=[paddle, pdmodel]"
SHARED = ["export.json", "inference.yml"]
BASELINE = ["Arch={name: RepVGG_A0, class_num: 3}", "Infer.PostProcess.class_id_map_file=null"]


def images(batch=3, height=32, width=32):
    return np.random.default_rng(1).standard_normal((batch, 3, height, width)).astype("float32")


def passport(folder) -> dict:
    return json.loads((Path(folder) / "export.json").read_text())


def run_pdmodel(folder, batch):
    settings = paddle.inference.Config(str(folder / "inference.pdmodel"), str(folder / "inference.pdiparams"))
    settings.disable_glog_info()
    (outputs,) = paddle.inference.create_predictor(settings).run([paddle.to_tensor(batch)])
    return outputs.numpy()


def test_a_legacy_program_shares_the_weights_and_computes_the_same(project):
    folder = export(config(LEGACY))
    weights = ["inference.pdiparams"]
    assert file_names(folder) == sorted([*SHARED, *weights, "inference.json", "inference.pdmodel"])
    expected = paddle.nn.functional.softmax(network()(paddle.to_tensor(images()))).numpy()
    assert relative_difference(run_pdmodel(folder, images()), expected) < 1e-5
    assert [entry["runtime"] for entry in passport(folder)["verification"]][:2] == ["fp32 program", "pdmodel"]


def test_a_legacy_program_alone_brings_its_weights(project):
    folder = export(config("Global.export_format=pdmodel", "Arch.infer_add_softmax=False"))
    assert file_names(folder) == sorted([*SHARED, "inference.pdiparams", "inference.pdmodel"])
    assert relative_difference(run_pdmodel(folder, images()), network()(paddle.to_tensor(images())).numpy()) < 1e-5


def test_a_legacy_program_alone_predicts_as_the_json_one(project):
    export(config("Global.export_format=pdmodel", "Global.save_inference_dir=legacy"))
    expected = list(infer(config(), str(export(config()))))
    received = list(infer(config(), "legacy"))
    assert [each.class_ids for each in received] == [each.class_ids for each in expected] and len(received) == 24
    np.testing.assert_allclose([each.scores for each in received], [each.scores for each in expected], atol=2e-5)
    predictor = ppreplk.Predictor("legacy")
    assert predictor.image_shape == [3, 32, 32] and predictor.warm_up_seconds > 0
    with refused("deploy.bad-images", "inference.pdmodel: does not run on images of shape [1, 1, 32, 32]"):
        predictor.run(np.zeros((1, 1, 32, 32), "float32"))
    with refused("deploy.no-program", "inference_bf16.json missing", "--precision fp32"):
        ppreplk.Predictor("legacy", precision="bf16")


@pytest.mark.parametrize("content", [b"", b"no program", bytes(1000), b"\ntext", "the first half"])
def test_a_broken_legacy_program_is_refused(project, content):
    file = export(config("Global.export_format=pdmodel")) / "inference.pdmodel"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if content == "the first half" else content)
    with refused("deploy.bad-program", "inference.pdmodel"):
        Program("inference")


def test_a_folder_with_a_part_of_an_export_says_what_is_missing(project):
    folder = export(config())
    for name in ("inference.pdmodel", "inference.onnx"):
        (folder / name).touch()
    (folder / "inference.pdiparams").unlink()
    with refused("deploy.no-program", f"no exported program in {folder}: {folder}/inference.pdiparams missing"):
        Program(folder)
    (folder / "inference.json").unlink()
    with refused("deploy.no-program", f"{folder}/inference.pdiparams missing"):
        Program(folder)
    (folder / "inference.pdmodel").unlink()
    with refused("deploy.no-program", f"{folder} has only inference.onnx", "Global.export_format=[paddle,onnx]"):
        Program(folder)


def test_formats_share_the_weights_whatever_names_paddle_would_give_them(project):
    """Paddle counts the layers of a process, and writes weights in the order of their names: 98, 99, 100, ..."""
    with paddle.utils.unique_name.guard():
        while int(paddle.nn.Conv2D(1, 1, 1).weight.name.partition(".")[0].rpartition("_")[2]) < 65:
            pass
        folder = export(config(LEGACY))
    expected = paddle.nn.functional.softmax(network()(paddle.to_tensor(images()))).numpy()
    assert relative_difference(run_pdmodel(folder, images()), expected) < 1e-5


def test_the_passport_says_what_is_there(project):
    folder = export(config(LEGACY))
    content = passport(folder)
    assert content["formats"] == {
        "paddle": ["inference.json", "inference.pdiparams"],
        "pdmodel": ["inference.pdmodel", "inference.pdiparams"],
    }
    assert set(content["files"]) == set(file_names(folder)) - {"export.json"}
    for name, entry in content["files"].items():
        data = (folder / name).read_bytes()
        assert entry == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert all(0 <= entry["largest_difference"] < 1e-4 for entry in content["verification"])
    assert all(entry["real_images"] == 6 for entry in content["verification"])
    assert content["classes"] == 3 and content["input"]["shape"] == ["batch", 3, 32, 32]
    assert content["output"] == "probabilities" and content["made"]["paddlepaddle"] == paddle.__version__
    assert content["evaluation"] is None  # these weights come from no training


def test_files_of_formats_that_are_not_asked_for_go(project):
    export(config(LEGACY))
    folder = export(config())
    assert file_names(folder) == sorted([*SHARED, "inference.json", "inference.pdiparams"])


def test_a_wrong_file_fails_and_keeps_what_was_there(project, monkeypatch):
    before = {path.name: path.read_bytes() for path in export(config()).iterdir()}
    right = legacy_file.lower

    def wrong(model):
        forms = right(model)
        forms["fp32"].head.bias.set_value(forms["fp32"].head.bias + paddle.to_tensor([0.01, 0.0, 0.0]))
        return forms

    monkeypatch.setattr(legacy_file, "lower", wrong)
    with refused("deploy.wrong-program", "the pdmodel differs from the network by 0.0"):
        export(config("Global.export_format=pdmodel"))
    assert {path.name: path.read_bytes() for path in Path("inference").iterdir()} == before


def test_a_legacy_program_has_paddles_own_operators(project):
    with refused("deploy.unknown-program", "export_format=pdmodel", "Global.export_depthwise=native, got cpu"):
        export(config(LEGACY, "Global.export_depthwise=cpu"))
    with refused("deploy.unknown-program", "Global.export_runtime=native, got channels_last"):
        export(config("Global.export_format=pdmodel", CHANNELS_LAST))


def test_a_paddle_that_does_not_write_legacy_programs(project, monkeypatch):
    monkeypatch.delattr(paddle.pir_utils, "OldIrGuard")
    with refused("deploy.no-format", "Global.export_format=pdmodel", paddle.__version__):
        export(config(LEGACY))


def test_a_network_of_paddleclas_as_a_legacy_program(project):
    pytest.importorskip("paddleclas")
    model = build_network(config(*BASELINE).Arch)
    paddle.save(model.state_dict(), "baseline.pdparams")
    folder = export(config(*BASELINE, LEGACY, "Global.pretrained_model=baseline"))
    model.eval()
    expected = paddle.nn.functional.softmax(model(paddle.to_tensor(images()))).numpy()
    np.testing.assert_allclose(run_pdmodel(folder, images()), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "override, code, place",
    [
        ("Global.export_format=tflite", "config.wrong-type", "Global.export_format"),
        ("Global.export_format=[]", "config.bad-value", "Global.export_format"),
        ("Global.export_format=[paddle, torch]", "config.wrong-type", "Global.export_format"),
        ("Global.onnx_opset=12", "config.bad-value", "Global.onnx_opset"),
    ],
)
def test_bad_keys(project, override, code, place):
    with refused(code, place):
        config(override)


def test_bfloat16_is_of_the_json_programs(project):
    require_channels_last_operators()
    with refused("deploy.precision", "Global.export_format"):
        export(config("Global.export_format=onnx", CHANNELS_LAST), "bf16")


def test_without_the_packages_onnx_is_refused_in_one_line(project, monkeypatch):
    absent = {"onnx", "onnxruntime"}
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in absent else find(name, *rest))
    with refused("deploy.missing-package", "Global.export_format=onnx", "onnx and onnxruntime missing"):
        export(config(ALL))
    assert not Path("inference").exists()


# ----------------------------------------------------------------------------------------------------------------------
# With onnx and onnxruntime


@pytest.fixture
def onnxruntime():
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("opset", [13, 17, 20, 21])
def test_an_onnx_file_computes_the_same(project, onnxruntime, opset):
    import onnx

    folder = export(config("Global.export_format=onnx", f"Global.onnx_opset={opset}"))
    assert file_names(folder) == sorted([*SHARED, "inference.onnx"])
    expected = paddle.nn.functional.softmax(network()(paddle.to_tensor(images()))).numpy()
    file = folder / "inference.onnx"
    assert relative_difference(run_elsewhere("onnxruntime", file, images(), 1), expected) < 1e-5
    model = onnx.load(file)
    (given,), (returned,) = model.graph.input, model.graph.output
    assert [side.dim_param or side.dim_value for side in given.type.tensor_type.shape.dim] == ["batch", 3, 32, 32]
    assert returned.name == "probabilities" and model.producer_name == "ppreplk"
    assert [side.dim_param or side.dim_value for side in returned.type.tensor_type.shape.dim] == ["batch", 3]
    operators = {node.op_type for node in model.graph.node}
    assert ("Gelu" in operators) == (opset >= 20) and ("Erf" in operators) == (opset < 20)
    assert model.opset_import[0].version == opset


def test_an_onnx_file_for_any_size(project, onnxruntime):
    folder = export(
        config("Global.export_format=onnx", "Global.onnx_dynamic_size=True", "Arch.infer_add_softmax=False")
    )
    batch = images(2, 47, 64)
    received = run_elsewhere("onnxruntime", folder / "inference.onnx", batch, 1)
    assert relative_difference(received, network()(paddle.to_tensor(batch)).numpy()) < 1e-5


def test_a_file_that_a_runtime_cannot_read(project, onnxruntime):
    Path("broken.onnx").write_bytes(b"no model")
    with refused("deploy.bad-program", "broken.onnx", "ONNX Runtime cannot run it"):
        run_elsewhere("onnxruntime", Path("broken.onnx"), images(), 1)


def test_a_network_of_paddleclas_needs_paddle2onnx(project, onnxruntime, monkeypatch):
    pytest.importorskip("paddleclas")
    model = build_network(config(*BASELINE).Arch)
    paddle.save(model.state_dict(), "baseline.pdparams")
    settings = config(*BASELINE, "Global.export_format=onnx", "Global.pretrained_model=baseline")
    if importlib.util.find_spec("paddle2onnx") is None:
        with refused("deploy.missing-package", "paddle2onnx"):
            export(settings)
        return
    folder = export(settings)
    model.eval()
    expected = paddle.nn.functional.softmax(model(paddle.to_tensor(images()))).numpy()
    received = run_elsewhere("onnxruntime", folder / "inference.onnx", images(), 1)
    np.testing.assert_allclose(received, expected, rtol=0, atol=1e-4)


def test_other_runtimes_have_a_process_without_paddle():
    for module in ("deploy.runtime_process", "benchmark.reader_process"):
        assert run_python(f"import sys, ppreplk.{module}\nprint('paddle' in sys.modules)").split() == ["False"]


def test_every_format_names_its_files():
    names = [name for each in FORMATS.values() for name in each.files]
    assert len(set(names)) == len(names) - 1  # the weights, which two share
