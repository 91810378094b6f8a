"""Exported programs: proven equal, whole or absent, and good for prediction."""

import csv
import json
import os
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml
from conftest import colour_config, randomise_batch_norms, require_compiled_operator, run_tool, write_config

from ppreplk import export as export_module
from ppreplk.builders import build_network
from ppreplk.config import load_config
from ppreplk.errors import UserError
from ppreplk.export import export, save_network
from ppreplk.layers import set_implementation
from ppreplk.models import build_model
from ppreplk.predict import Predictor, infer, write_predictions
from ppreplk.reparam import fold, fuse_relu


@pytest.fixture
def project(colour_project, monkeypatch):
    """With weights whose every BN statistic is random."""
    monkeypatch.chdir(colour_project)
    paddle.seed(0)
    model = build_network(config().Arch)
    randomise_batch_norms(model)
    paddle.save(model.state_dict(), "weights.pdparams")
    return colour_project


def config(*overrides):
    write_config(Path("config.yaml"), colour_config())
    return load_config("config.yaml", ["Global.pretrained_model=weights", *overrides])


def network():
    model = build_network(config().Arch)
    model.set_state_dict(paddle.load("weights.pdparams"))
    model.eval()
    return model


@pytest.mark.parametrize("softmax", [True, False])
def test_the_program_computes_what_the_network_computes(project, softmax):
    folder = export(config(f"Arch.infer_add_softmax={softmax}"))
    images = np.random.default_rng(1).standard_normal((5, 3, 32, 32)).astype("float32")
    received = Predictor(folder)(images)
    expected = network()(paddle.to_tensor(images))
    expected = paddle.nn.functional.softmax(expected) if softmax else expected
    np.testing.assert_allclose(received, expected.numpy(), rtol=0, atol=1e-5 * np.abs(expected.numpy()).max())
    assert sorted(path.name for path in folder.iterdir()) == ["inference.json", "inference.pdiparams", "inference.yml"]


def test_the_program_holds_no_batch_norm_and_one_convolution_per_large_kernel(project):
    program = (export(config()) / "inference.json").read_text()
    assert "batch_norm" not in program
    depthwise = re.findall(r'"#":"\d+\.depthwise_conv2d"', program)
    assert len(depthwise) == 5  # two in the stem, one in the transition, one in each of two blocks


def test_the_largest_difference_is_reported(project, caplog):
    caplog.set_level("INFO", "ppreplk")
    export(config())
    assert "largest difference of the logits" in caplog.text


def test_a_wrong_program_fails_and_leaves_nothing(project, monkeypatch):
    right = export_module.fold

    def wrong(model):
        folded = right(model)
        folded.head.bias.set_value(folded.head.bias + paddle.to_tensor([0.01, 0.0, 0.0]))
        return folded

    monkeypatch.setattr(export_module, "fold", wrong)
    with pytest.raises(UserError, match=r"export failed: the saved program differs from the network by 0\.0"):
        export(config())
    assert not (project / "inference").exists()


def test_a_failed_export_keeps_the_program_that_was_there(project, monkeypatch):
    export(config())
    before = {path.name: path.read_bytes() for path in (project / "inference").iterdir()}
    with pytest.raises(UserError, match="export failed"):
        export(config("Global.export_tolerance=1e-30"))
    assert {path.name: path.read_bytes() for path in (project / "inference").iterdir()} == before


def test_without_evaluation_data_photographs_are_used(project, caplog):
    caplog.set_level("INFO", "ppreplk")
    export(config("DataLoader.Eval.dataset.cls_label_path=absent.txt"))
    assert "two photographs" in caplog.text


@pytest.mark.parametrize(
    "override, message",
    [
        ("Global.pretrained_model=null", "Global.pretrained_model is not set"),
        ("Global.pretrained_model=absent", "no checkpoint at absent"),
        ("Global.save_inference_dir=config.yaml", "save_inference_dir: cannot write to config.yaml"),
        ("Global.image_shape=[3, 48, 48]", r"make images of shape \[3, 32, 32\], but Global.image_shape is"),
        ("Infer=null", "the section Infer is missing"),
    ],
)
def test_bad_settings(project, override, message):
    with pytest.raises(UserError, match=message):
        export(config(override))
    assert not (project / "inference").exists()


def test_network_and_program_predict_the_same(project):
    export(config())
    by_network = list(infer(config()))
    by_program = list(infer(config(), "inference"))
    assert len(by_network) == 24
    for first, second in zip(by_network, by_program):
        assert first.file_name == second.file_name and first.class_ids == second.class_ids
        np.testing.assert_allclose(first.scores, second.scores, atol=1e-4)
        assert first.label_names == [("red", "green", "blue")[index] for index in first.class_ids]


def test_a_program_without_softmax_predicts_probabilities_too(project):
    export(config("Arch.infer_add_softmax=False"))
    prediction = next(infer(config("Infer.PostProcess.topk=3")))
    program = next(infer(config(), "inference"))
    assert sum(prediction.scores) == pytest.approx(1.0, abs=1e-4)
    np.testing.assert_allclose(program.scores, prediction.scores[:2], atol=1e-4)


def test_json_and_csv(project):
    predictions = list(infer(config("Infer.infer_imgs=data/val.txt")))
    write_predictions(iter(predictions), "out.json")
    assert json.loads(Path("out.json").read_text()) == [asdict(prediction) for prediction in predictions]
    write_predictions(infer(config("Infer.infer_imgs=data/images/3.png")), "out.csv")
    rows = list(csv.DictReader(Path("out.csv").open()))
    assert [row["rank"] for row in rows] == ["1", "2"]
    assert rows[0]["file_name"] == "data/images/3.png" and rows[0]["label_name"] in ("red", "green", "blue")


def test_predictions_as_text(project):
    (named,) = infer(config("Infer.infer_imgs=data/images/3.png"))
    (unnamed,) = infer(config("Infer.infer_imgs=data/images/3.png", "Infer.PostProcess.class_id_map_file=null"))
    assert str(named).startswith(f"data/images/3.png: {named.label_names[0]} 0.")
    assert str(unnamed).startswith(f"data/images/3.png: {unnamed.class_ids[0]} 0.")


@pytest.mark.parametrize(
    "override, message",
    [
        ("Infer.infer_imgs=null", "no images given"),
        ("Infer.infer_imgs=absent", "no image, folder or list absent"),
        ("Infer.PostProcess.class_id_map_file=absent.txt", "absent.txt: cannot be read"),
        ("Infer.PostProcess.class_id_map_file=data/val.txt", "val.txt, line 1: expected '0 NAME'"),
        ("Infer.PostProcess.class_id_map_file=data/many.txt", "4 class names for 3 classes"),
        ("Infer.PostProcess.topk=0", "topk must be at least 1"),
        ("Infer.batch_size=0", "batch_size must be at least 1"),
        ("Infer.transforms=[DecodeImage]", "a normalized channel-first image is needed at the end"),
    ],
)
def test_bad_requests(project, override, message):
    Path("data/many.txt").write_text("0 a\n1 b\n2 c\n3 d\n")
    with pytest.raises(UserError, match=message):
        list(infer(config(override)))


@pytest.mark.parametrize("output", ["out.txt", "absent/out.json", "folder.json"])
def test_bad_output_files_are_refused_before_the_work(project, output):
    Path("folder.json").mkdir()
    with pytest.raises(UserError, match="--output"):
        write_predictions(iter(lambda: pytest.fail("predicted"), None), output)


def test_weights_that_are_not_finite_fail(project):
    state = paddle.load("weights.pdparams")
    state["head.bias"] = paddle.to_tensor([float("nan"), 0.0, 0.0])
    paddle.save(state, "weights.pdparams")
    with pytest.raises(UserError, match="the trained network itself gives NaN"):
        export(config())
    assert not Path("inference").exists()


def test_an_unreadable_image_is_named(project):
    Path("data/images/7.png").write_bytes(b"x")
    with pytest.raises(UserError, match="data/images/7.png: cannot be decoded"):
        write_predictions(infer(config()), "out.json")
    assert not list(Path(".").glob("out.json*"))


def test_a_broken_program_is_refused(project):
    export(config())
    Path("inference/inference.json").write_text("{}")
    with pytest.raises(UserError, match="inference.json"):
        list(infer(config(), "inference"))
    with pytest.raises(UserError, match="no exported program in absent"):
        list(infer(config(), "absent"))


@pytest.mark.parametrize("content", ["{}", "PostProcess: {Topk: {topk: abc}}", "[1]", "a: [", None])
def test_a_broken_inference_yml_is_refused(project, content):
    path = export(config()) / "inference.yml"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(UserError, match="inference.yml"):
        list(infer(config(), "inference"))


def test_a_paddleclas_network_is_merged_and_exported(project):
    pytest.importorskip("paddleclas")
    overrides = ["Arch={name: RepVGG_A0, class_num: 3}", "Infer.PostProcess.class_id_map_file=null"]
    model = build_network(config(*overrides).Arch)
    randomise_batch_norms(model)
    paddle.save(model.state_dict(), "baseline.pdparams")
    folder = export(config(*overrides, "Global.pretrained_model=baseline"))
    images = np.random.default_rng(1).standard_normal((2, 3, 32, 32)).astype("float32")
    model.eval()
    expected = paddle.nn.functional.softmax(model(paddle.to_tensor(images))).numpy()
    np.testing.assert_allclose(Predictor(folder)(images), expected, rtol=0, atol=1e-4)
    with pytest.raises(UserError, match="does not take these arguments"):
        build_network(config("Arch={name: RepVGG_A0, class_num: 3, drop_path_rat: 0.1}").Arch)


def test_inference_yml_holds_what_a_user_of_the_program_needs(project):
    export(config())
    content = yaml.safe_load(Path("inference/inference.yml").read_text())
    assert content["PostProcess"]["Topk"]["label_list"] == ["red", "green", "blue"]
    assert [next(iter(op)) for op in content["PreProcess"]["transform_ops"]][-1] == "ToCHWImage"


def test_imagenet_names_come_from_the_installed_paddleclas():
    pytest.importorskip("paddleclas")
    from conftest import ROOT

    from ppreplk.predict import read_class_names

    names = read_class_names(load_config(ROOT / "configs" / "replknet31b.yaml").Infer.PostProcess)
    assert len(names) == 1000 and names[0].startswith("tench")


def predict_without_onednn(folder, images):
    """As Predictor, with oneDNN switched off."""
    files = [str(Path(folder) / name) for name in ("inference.json", "inference.pdiparams")]
    settings = paddle.inference.Config(*files)
    settings.disable_gpu()
    settings.disable_glog_info()
    settings.disable_mkldnn()
    (outputs,) = paddle.inference.create_predictor(settings).run([paddle.to_tensor(images)])
    return outputs.numpy()


@pytest.mark.parametrize("size", [32, 47])
def test_a_program_with_the_compiled_operator(project, size):
    require_compiled_operator()
    changes = ["Global.export_depthwise=compiled", "Arch.infer_add_softmax=False"]
    changes += [f"Global.image_shape=[3, {size}, {size}]", f"Infer.transforms.1.ResizeImage.size={size}"]
    folder = export(config(*changes))
    assert "ppreplk_depthwise_conv_packed" in (folder / "inference.json").read_text()
    for batch in (1, 5):
        images = np.random.default_rng(batch).standard_normal((batch, 3, size, size)).astype("float32")
        expected = network()(paddle.to_tensor(images)).numpy()
        for received in (Predictor(folder)(images), predict_without_onednn(folder, images)):
            np.testing.assert_allclose(received, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_program_with_the_compiled_operator_loads_it_by_itself(project):
    require_compiled_operator()
    folder = export(config("Global.export_depthwise=compiled"))
    arguments = ["-c", "config.yaml", "--model-dir", folder, "-o", "Infer.infer_imgs=data/images"]
    process = run_tool("infer", *arguments, cwd=project)
    assert process.returncode == 0 and len(process.stdout.splitlines()) == 24, process.stderr
    environment = {**os.environ, "XDG_CACHE_HOME": str(project), "CXX": "no-such-compiler"}
    refused = run_tool("infer", *arguments, cwd=project, env=environment)
    assert refused.returncode == 2 and "no C++ compiler" in refused.stderr.splitlines()[-1]


def test_a_baseline_has_no_layer_for_the_compiled_operator(project):
    pytest.importorskip("paddleclas")
    require_compiled_operator()
    changes = ["Arch={name: ResNet18, class_num: 3}", "Global.export_depthwise=compiled"]
    paddle.save(build_network(config(*changes).Arch).state_dict(), "weights.pdparams")
    with pytest.raises(UserError, match="ResNet18 has no depthwise layer"):
        export(config(*changes))


@pytest.mark.slow
@pytest.mark.parametrize("size", [224, 384])
def test_the_full_network_with_the_compiled_operator(tmp_path, size):
    """python -m pytest -m slow tests/test_export.py (about two minutes)"""
    require_compiled_operator()
    paddle.seed(0)
    model = build_model("RepLKNet31B", class_num=10)
    randomise_batch_norms(model)
    model.eval()
    folded = fold(model)
    set_implementation(folded, "compiled")
    fuse_relu(folded)
    save_network(folded, [3, size, size], tmp_path / "inference")
    for batch in (1, 5):
        images = np.random.default_rng(batch).standard_normal((batch, 3, size, size)).astype("float32")
        with paddle.no_grad():
            expected = model(paddle.to_tensor(images)).numpy()
        for received in (Predictor(tmp_path)(images), predict_without_onednn(tmp_path, images)):
            np.testing.assert_allclose(received, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
