"""Exported programs: proven equal, whole or absent, and good for prediction."""

import csv
import json
import os
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml
from helpers import (
    colour_config,
    randomise_batch_norms,
    relative_difference,
    require_compiled_operator,
    require_fast_operators,
    run_tool,
    write_config,
)

from ppreplk.config import load_config
from ppreplk.deploy import lowering
from ppreplk.deploy.export import export, save_network
from ppreplk.deploy.lowering import lower
from ppreplk.deploy.predict import infer, write_predictions
from ppreplk.deploy.programs import Predictor, _announce_emulation, choose_precision
from ppreplk.models import build_model
from ppreplk.models.arch import build_network
from ppreplk.utils.errors import UserError


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
    right = lowering.fold

    def wrong(model):
        folded = right(model)
        folded.head.bias.set_value(folded.head.bias + paddle.to_tensor([0.01, 0.0, 0.0]))
        return folded

    monkeypatch.setattr(lowering, "fold", wrong)
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
        ("Global.save_inference_dir=config.yaml", "save_inference_dir: cannot create config.yaml"),
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
        ("Infer.PostProcess.topk=0", "topk: must be at least 1"),
        ("Infer.batch_size=0", "batch_size: must be at least 1"),
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
    Path("kept").mkdir()
    for folder in ("inference/within", "kept/inference"):
        with pytest.raises(UserError, match="the trained network itself gives NaN"):
            export(config(f"Global.save_inference_dir={folder}"))
    assert not Path("inference").exists() and not [*Path("kept").iterdir()]


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
    from helpers import ROOT

    from ppreplk.deploy.class_names import read_class_names

    names = read_class_names(load_config(ROOT / "configs" / "replknet31b.yaml").Infer.PostProcess)
    assert len(names) == 1000 and names[0].startswith("tench")


def predict_without_onednn(folder, images, program="inference.json"):
    """As Predictor, with oneDNN switched off."""
    files = [str(Path(folder) / name) for name in (program, "inference.pdiparams")]
    settings = paddle.inference.Config(*files)
    settings.disable_gpu()
    settings.disable_glog_info()
    settings.disable_mkldnn()
    (outputs,) = paddle.inference.create_predictor(settings).run([paddle.to_tensor(images)])
    return outputs.numpy()


@pytest.mark.parametrize("size", [32, 47])
def test_a_program_with_the_compiled_operator(project, size):
    require_compiled_operator()
    changes = ["Global.export_depthwise=cpu", "Arch.infer_add_softmax=False"]
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
    folder = export(config("Global.export_depthwise=cpu"))
    arguments = ["-c", "config.yaml", "--model-dir", folder, "-o", "Infer.infer_imgs=data/images"]
    process = run_tool("infer", *arguments, cwd=project)
    assert process.returncode == 0 and len(process.stdout.splitlines()) == 24, process.stderr
    environment = {**os.environ, "XDG_CACHE_HOME": str(project), "CXX": "no-such-compiler"}
    refused = run_tool("infer", *arguments, cwd=project, env=environment)
    assert refused.returncode == 2 and "no C++ compiler" in refused.stderr.splitlines()[-1]


def test_a_baseline_has_no_layer_for_the_compiled_operator(project):
    pytest.importorskip("paddleclas")
    require_compiled_operator()
    changes = ["Arch={name: ResNet18, class_num: 3}", "Global.export_depthwise=cpu"]
    paddle.save(build_network(config(*changes).Arch).state_dict(), "weights.pdparams")
    with pytest.raises(UserError, match="Global.export_depthwise: ResNet has no depthwise layer"):
        export(config(*changes))


LOGITS = "Arch.infer_add_softmax=False"
FAST = "Global.export_runtime=channels_last"
BOUNDS = {"fp32": 1e-5, "bf16": 2e-2}  # of the largest logit


@pytest.mark.parametrize("size", [32, 47])
def test_fast_programs_of_both_precisions(project, size):
    require_fast_operators()
    changes = [f"Global.image_shape=[3, {size}, {size}]", f"Infer.transforms.1.ResizeImage.size={size}"]
    folder = export(config(FAST, LOGITS, *changes), "bf16")
    files = ["inference.json", "inference.pdiparams", "inference.yml", "inference_bf16.json"]
    assert sorted(path.name for path in folder.iterdir()) == files
    for name in ("inference.json", "inference_bf16.json"):
        operators = set(re.findall(r'"#":"\d+\.(\w+)"', (folder / name).read_text()))
        assert operators >= {
            "ppreplk_channels_last_images",
            "ppreplk_channels_last_conv",
            "ppreplk_depthwise_conv_packed_nhwc",
        }
        assert not operators & {"conv2d", "depthwise_conv2d", "relu", "gelu"}
        names = re.findall(r'"#":"\d+\.(\w+)"', (folder / name).read_text())
        assert names.count("add") == 1, "the bias of the head; residuals are in the convolutions"
    received = {}
    for batch in (1, 5):
        images = np.random.default_rng(batch).standard_normal((batch, 3, size, size)).astype("float32")
        expected = network()(paddle.to_tensor(images)).numpy()
        for precision, bound in BOUNDS.items():
            received[precision] = Predictor(folder, precision=precision)(images)
            program = "inference.json" if precision == "fp32" else "inference_bf16.json"
            for outputs in (received[precision], predict_without_onednn(folder, images, program)):
                assert relative_difference(outputs, expected) < bound
    assert np.abs(received["bf16"] - received["fp32"]).max() > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"small_kernel": None, "large_kernel_sizes": [3, 3]},
        {"dw_ratio": 1.5, "channels": [10, 18]},
        {"layers": [1, 2, 1], "channels": [8, 16, 24], "large_kernel_sizes": [31, 9, 5], "ffn_ratio": 3.0},
    ],
    ids=str,
)
def test_fast_programs_of_other_networks(tmp_path, changes):
    require_fast_operators()
    model = build_model(
        "RepLKNet13T", class_num=7, **{"layers": [1, 1], "channels": [8, 12], "large_kernel_sizes": [7, 5], **changes}
    )
    randomise_batch_norms(model)
    model.eval()
    images = np.random.default_rng(0).standard_normal((2, 3, 40, 56)).astype("float32")
    expected = model(paddle.to_tensor(images)).numpy()
    forms = lower(model, "channels_last", list(BOUNDS))
    for precision, bound in BOUNDS.items():
        save_network(forms[precision], [3, 40, 56], tmp_path / precision / "inference")
        assert relative_difference(Predictor(tmp_path / precision)(images), expected) < bound


def at_once(*calls):
    """Run functions in a thread each; what one raises is raised."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return [done.result(timeout=120) for done in [pool.submit(call) for call in calls]]


def test_two_predictors_in_two_threads(project):
    """Paddle's Python interface lets one run at a time; for overlapping ones see the test of networks below."""
    require_fast_operators()
    folder = export(config(FAST, LOGITS), "bf16")
    images = np.random.default_rng(0).standard_normal((3, 3, 32, 32)).astype("float32")

    def repeat(precision, threads):
        predictor = Predictor(folder, threads=threads, precision=precision)
        return [predictor(images) for _ in range(30)]

    cases = [("fp32", 2), ("fp32", 1), ("bf16", 2)]
    expected = [repeat(*case)[-1] for case in cases]
    for outputs, alone, (precision, _) in zip(at_once(*(partial(repeat, *case) for case in cases)), expected, cases):
        assert len(outputs) == 30
        # predictors share the number of threads, and the order of sums depends on it
        bound = 1e-6 if precision == "fp32" else 2e-2
        assert all(relative_difference(each, alone) < bound for each in outputs)


def test_clones_of_a_predictor_in_two_threads(project):
    require_fast_operators()
    folder = export(config(FAST, LOGITS))
    images = paddle.to_tensor(np.random.default_rng(0).standard_normal((3, 3, 32, 32)).astype("float32"))
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
    require_fast_operators()
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


def test_what_verification_says_of_both_precisions(project, caplog):
    require_fast_operators()
    caplog.set_level("INFO", "ppreplk")
    export(config(FAST), "bf16")
    assert "largest difference of the logits, fp32 program" in caplog.text
    assert "largest difference of the logits, bf16 program" in caplog.text
    assert "the same class comes first for 6 of 6 real images" in caplog.text
    with pytest.raises(UserError, match="more than Global.export_tolerance_bf16 1e-30 of the largest logit"):
        export(config(FAST, "Global.export_tolerance_bf16=1e-30"), "bf16")


def test_a_later_export_leaves_no_program_of_an_earlier_one(project):
    require_fast_operators()
    export(config(FAST), "bf16")
    folder = export(config())
    assert sorted(path.name for path in folder.iterdir()) == ["inference.json", "inference.pdiparams", "inference.yml"]


def test_the_precision_of_predictions(project, monkeypatch, caplog):
    require_fast_operators()
    caplog.set_level("INFO", "ppreplk")
    export(config(FAST), "bf16")
    by_network = [prediction.class_ids[0] for prediction in infer(config())]

    def predict(has_bfloat16, precision):
        monkeypatch.setattr("ppreplk.ops.onednn.has_bfloat16", lambda: has_bfloat16)
        return [prediction.class_ids[0] for prediction in infer(config(), "inference", precision)]

    assert predict(True, "fp32") == predict(True, "bf16") == predict(True, None) == by_network
    assert "predicting in fp32" not in caplog.text
    assert predict(False, None) == by_network
    assert "this processor has no bfloat16 arithmetic (AVX-512 BF16 or AMX): predicting in fp32" in caplog.text
    with pytest.raises(UserError, match="precision bf16: this processor has no bfloat16 arithmetic .*; use fp32"):
        predict(False, "bf16")
    with pytest.raises(UserError, match="precision bf16 is that of an exported program"):
        list(infer(config(), None, "bf16"))
    export(config(FAST))
    with pytest.raises(
        UserError, match="inference_bf16.json missing; use --precision fp32, or run tools/export.py --prec"
    ):
        predict(True, "bf16")
    with pytest.raises(UserError, match="unknown precision 'int8'; the precisions are fp32, bf16"):
        Predictor("inference", precision="int8")
    Path("inference/inference_bf16.json").write_text("{}")
    with pytest.raises(UserError, match="inference_bf16.json or inference/inference.pdiparams cannot be loaded"):
        predict(False, "bf16")
    path = Path("inference/inference.yml")
    path.write_text(path.read_text().replace("precision: fp32", "precision: int4"))
    with pytest.raises(UserError, match="unknown precision 'int4'"):
        predict(True, None)
    path.write_text(path.read_text().replace("precision: int4", "precision: [bf16]"))
    with pytest.raises(UserError, match=r"unknown precision \['bf16'\]"):
        predict(True, None)


@pytest.mark.parametrize("name", ["inference.yml", "inference_bf16.json"])
def test_a_folder_in_the_place_of_a_file(project, name):
    folder = export(config())
    before = (folder / "inference.json").read_bytes()
    (folder / name).unlink(missing_ok=True)
    (folder / name).mkdir()
    with pytest.raises(UserError, match=f"{name} is a folder, in the place of a file to write; remove it"):
        export(config(LOGITS))
    assert (folder / "inference.json").read_bytes() == before
    assert not list(folder.glob(".partial-*"))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_disk_that_fails_while_programs_are_replaced(project, monkeypatch, failing, links):
    replace, calls = os.replace, []

    def fail_once(source, target):
        calls.append(target)
        if len(calls) == failing + 1:
            raise OSError(28, "No space left on device")
        replace(source, target)

    def refuse(source, path):
        raise OSError(95, "Operation not supported")

    folder = export(config())
    (folder / "inference_bf16.json").write_text("of an export before that")
    before = contents(folder)
    monkeypatch.setattr("ppreplk.utils.atomic.os.replace", fail_once)
    if not links:
        monkeypatch.setattr("ppreplk.utils.atomic.os.link", refuse)
    with pytest.raises(UserError, match=r"save_inference_dir: cannot write to inference \(No space left on device\)"):
        export(config(LOGITS))
    assert contents(folder) == before
    shutil.rmtree(folder)
    calls.clear()
    with pytest.raises(UserError, match="No space left on device"):
        export(config())
    assert not folder.exists()


def test_what_exports_left_that_were_killed_goes_after_a_day(project):
    folder = export(config())
    for name, age in ((".partial-old", 2 * 24 * 3600), (".partial-running", 60)):
        (folder / name).mkdir()
        os.utime(folder / name, (time.time() - age,) * 2)
    export(config())
    assert sorted(path.name for path in folder.glob(".partial-*")) == [".partial-running"]


def test_the_precision_of_a_program_that_is_not_for_this_place(project, monkeypatch):
    """What is wrong is said before operators are built."""
    monkeypatch.setattr("ppreplk.deploy.programs.load_ops", lambda fast: pytest.fail("built"))
    export(config())
    with pytest.raises(UserError, match="inference_bf16.json missing"):
        choose_precision("inference", "cpu", "fp32", "bf16")
    Path("inference/inference_bf16.json").write_text("ppreplk_dense_conv")
    with pytest.raises(UserError, match="inference_bf16.json: holds operators for cpu, the device is gpu"):
        choose_precision("inference", "gpu", "bf16", None)


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
    with pytest.raises(UserError, match="cannot be loaded"):
        Predictor("inference")
    assert loaded == names


def test_a_bf16_program_where_nothing_multiplies_bfloat16(project, monkeypatch, caplog):
    require_fast_operators()
    caplog.set_level("INFO", "ppreplk")
    export(config(FAST), "bf16")
    monkeypatch.setattr("ppreplk.ops.onednn.has_bfloat16", lambda: False)
    caplog.clear()
    _announce_emulation.cache_clear()
    for _ in range(2):
        Predictor("inference", precision="bf16")
    assert caplog.text.count("in float32 arithmetic, no faster") == 1


def test_fast_programs_that_cannot_be(project, monkeypatch):
    with pytest.raises(UserError, match="one of native, channels_last, not 'quick'"):
        lower(build_model("RepLKNet13T"), "quick")
    with pytest.raises(UserError, match="one of fp32, bf16, not 'int8'"):
        lower(build_model("RepLKNet13T"), "channels_last", ["int8"])
    with pytest.raises(UserError, match="export_depthwise=cpu is for Global.export_runtime=native"):
        export(config(FAST, "Global.export_depthwise=cpu"))
    with pytest.raises(UserError, match="bf16 needs the fast operators: -o Global.export_runtime=channels_last"):
        export(config(), "bf16")
    require_fast_operators()
    with pytest.raises(UserError, match="serve RepLKNet classifiers only"):
        lower(build_model("MobileNetV2LK", class_num=3), "channels_last")
    with pytest.raises(UserError, match="serve RepLKNet classifiers only"):
        lower(build_model("RepLKNet13T", out_indices=[0]), "channels_last")
    with pytest.raises(UserError, match="large kernels up to 127 without dilation, this one has 129"):
        lower(build_model("RepLKNet13T", layers=[1], channels=[4], large_kernel_sizes=[129]), "channels_last")
    folder = export(config(FAST))
    with pytest.raises(UserError, match="holds operators for cpu, the device is gpu"):
        Predictor(folder, device="gpu")
    monkeypatch.setattr(paddle, "get_device", lambda: "gpu:0")
    with pytest.raises(UserError, match="the fast operators run on cpu, the device is gpu:0"):
        lower(build_model("RepLKNet13T"), "channels_last")


def test_a_fast_program_through_the_tools(project):
    require_fast_operators()
    base = ["-c", "config.yaml", "-o", "Global.pretrained_model=weights"]
    exported = run_tool("export", *base, "-o", FAST, "--precision", "bf16", cwd=project)
    assert exported.returncode == 0, exported.stderr
    predicted = run_tool("infer", *base, "--model-dir", "inference", "--precision", "fp32", cwd=project)
    assert predicted.returncode == 0 and len(predicted.stdout.splitlines()) == 24, predicted.stderr
    environment = {**os.environ, "XDG_CACHE_HOME": str(project), "CXX": "no-such-compiler"}
    refused = run_tool("export", *base, "-o", FAST, cwd=project, env=environment)
    assert refused.returncode == 2 and "no C++ compiler" in refused.stderr.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("size", [224, 384])
@pytest.mark.parametrize(
    "arguments", [{"depthwise": "cpu"}, {"runtime": "channels_last", "precisions": list(BOUNDS)}], ids=str
)
def test_the_full_network(tmp_path, size, arguments):
    """python -m pytest -m slow tests/test_export.py (about five minutes)"""
    require_fast_operators()
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
            together = at_once(*(partial(Predictor(folder), images) for _ in range(2)))
            for received in (*together, Predictor(folder)(images), predict_without_onednn(folder, images)):
                assert relative_difference(received, expected) < BOUNDS[precision]
