"""Exported programs: proven equal, whole or absent."""

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml
from exports import LOGITS, config, file_names, network, operators
from helpers import ROOT, randomise_batch_norms, refused, require_depthwise_operators

from ppreplk.config import load_config
from ppreplk.deploy import lowering
from ppreplk.deploy.export import export
from ppreplk.deploy.programs import Program
from ppreplk.models.arch import build_network


@pytest.mark.parametrize("softmax", [True, False])
def test_the_program_computes_what_the_network_computes(project, softmax):
    folder = export(config(f"Arch.infer_add_softmax={softmax}"))
    images = np.random.default_rng(1).standard_normal((5, 3, 32, 32)).astype("float32")
    received = Program(folder)(images)
    expected = network()(paddle.to_tensor(images))
    expected = paddle.nn.functional.softmax(expected) if softmax else expected
    np.testing.assert_allclose(received, expected.numpy(), rtol=0, atol=1e-5 * np.abs(expected.numpy()).max())
    assert file_names(folder) == ["export.json", "inference.json", "inference.pdiparams", "inference.yml"]


def test_the_program_holds_no_batch_norm_and_one_convolution_per_large_kernel(project):
    names = operators(export(config()) / "inference.json")
    assert not any("batch_norm" in name for name in names)
    assert names.count("depthwise_conv2d") == 5  # two in the stem, one in the transition, one in each of two blocks


def test_mobilenet_v2_is_exported_without_batch_norms(project):
    arch = "Arch={name: MobileNetV2LK, class_num: 3, width: 0.25, kernel_size: 5, small_kernel: 3}"
    model = build_network(config(arch).Arch)
    randomise_batch_norms(model)
    paddle.save(model.state_dict(), "weights.pdparams")
    names = operators(export(config(arch)) / "inference.json")
    assert not any("batch_norm" in name for name in names)
    assert names.count("depthwise_conv2d") == 17


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
    with refused("deploy.wrong-program", "differs from the network by 0.0", "of the largest logit"):
        export(config())
    assert not (project / "inference").exists()


def test_a_failed_export_keeps_the_program_that_was_there(project):
    export(config())
    before = contents(project / "inference")
    with refused("deploy.wrong-program", "export failed"):
        export(config("Global.export_tolerance=1e-30"))
    assert contents(project / "inference") == before


def test_an_unreadable_evaluation_image_is_left_out(project, caplog):
    caplog.set_level("INFO", "ppreplk")
    Path("data/images/18.png").write_bytes(Path("data/images/18.png").read_bytes()[:50])
    export(config())
    assert "left out of the verification: 1, data/images/18.png: cannot" in caplog.text
    assert "for 5 of 5 real images" in caplog.text and "photographs" not in caplog.text


def test_without_evaluation_data_photographs_are_used(project, caplog):
    caplog.set_level("INFO", "ppreplk")
    export(config("DataLoader.Eval.dataset.cls_label_path=absent.txt"))
    assert "two photographs" in caplog.text


@pytest.mark.parametrize(
    "override, code, part",
    [
        ("Global.pretrained_model=null", "checkpoints.none-named", "Global.pretrained_model"),
        ("Global.pretrained_model=absent", "checkpoints.no-file", "absent"),
        (
            "Global.save_inference_dir=config.yaml",
            "utils.cannot-write",
            "save_inference_dir: cannot create",
        ),
        ("Global.image_shape=[3, 48, 48]", "deploy.other-shape", "[3, 32, 32]"),
        ("Infer=null", "config.missing-key", "Infer"),
    ],
)
def test_bad_settings(project, override, code, part):
    with refused(code, part):
        export(config(override))
    assert not (project / "inference").exists()


def test_a_folder_whose_name_is_no_text(project):
    with refused("deploy.bad-folder-name", "Global.save_inference_dir: ", "not UTF-8"):
        export(config(f"Global.save_inference_dir=caf{chr(0xDCE9)}"))
    Path(f"caf{chr(0xDCE9)}").mkdir()
    export(config()).rename(f"caf{chr(0xDCE9)}/inference")
    with refused("deploy.bad-folder-name", "not UTF-8"):
        Program(f"caf{chr(0xDCE9)}/inference")


def test_weights_in_a_folder_whose_name_is_no_text(project):
    folder = Path(f"caf{chr(0xDCE9)}")
    folder.mkdir()
    Path("weights.pdparams").rename(folder / "weights.pdparams")
    passport = export(config(f"Global.pretrained_model={folder}/weights")) / "export.json"
    assert json.loads(passport.read_text(encoding="utf-8"))["weights"] == f"{folder}/weights"


def test_the_data_set_that_comes_with_the_package_is_written_first(project):
    """Weights that were trained elsewhere, and the file of class names is not here yet."""
    digits = load_config(ROOT / "configs" / "digits.yaml")
    paddle.save(build_network(digits.Arch).state_dict(), "digits.pdparams")
    digits = load_config(ROOT / "configs" / "digits.yaml", ["Global.pretrained_model=digits"])
    content = yaml.safe_load((export(digits) / "inference.yml").read_text())
    assert content["PostProcess"]["Topk"]["label_list"][:2] == ["zero", "one"]


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("head.bias", np.nan, "weights hold NaN or infinite values (head.bias); use an earlier checkpoint"),
        ("stem.0.conv.weight", np.inf, "weights hold NaN or infinite values (stem.0.conv.weight)"),  # a ReLU follows
        ("head.weight", 3e38, "the trained network itself gives NaN or infinite logits"),
    ],
)
def test_weights_that_are_not_finite_fail(project, name, value, message):
    state = paddle.load("weights.pdparams")
    state[name] = paddle.full_like(state[name], value)
    paddle.save(state, "weights.pdparams")
    Path("kept").mkdir()
    for folder in ("inference/within", "kept/inference"):
        with refused("deploy.not-finite", message):
            export(config(f"Global.save_inference_dir={folder}"))
    assert not Path("inference").exists() and not [*Path("kept").iterdir()]


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
    np.testing.assert_allclose(Program(folder)(images), expected, rtol=0, atol=1e-4)
    with refused("models.bad-argument", "RepVGG_A0", "drop_path_rat"):
        build_network(config("Arch={name: RepVGG_A0, class_num: 3, drop_path_rat: 0.1}").Arch)


def test_a_baseline_has_no_layer_for_the_cpu_operator(project):
    pytest.importorskip("paddleclas")
    require_depthwise_operators()
    changes = ["Arch={name: ResNet18, class_num: 3}", "Global.export_depthwise=cpu"]
    paddle.save(build_network(config(*changes).Arch).state_dict(), "weights.pdparams")
    with refused("deploy.no-depthwise", "Global.export_depthwise", "ResNet"):
        export(config(*changes))


def test_inference_yml_holds_what_a_user_of_the_program_needs(project):
    export(config())
    content = yaml.safe_load(Path("inference/inference.yml").read_text())
    assert content["PostProcess"]["Topk"]["label_list"] == ["red", "green", "blue"]
    assert [next(iter(op)) for op in content["PreProcess"]["transform_ops"]][-1] == "ToCHWImage"


def test_any_class_name_is_read_back_from_inference_yml(project):
    names = ["next\x85line \u2028 caf\u00e9", "on", "- 'a': #1"]
    Path("data/names.txt").write_text(
        "".join(f"{index} {name}\n" for index, name in enumerate(names)), encoding="utf-8"
    )
    export(config())
    content = yaml.safe_load(Path("inference/inference.yml").read_text(encoding="utf-8"))
    assert content["PostProcess"]["Topk"]["label_list"] == names
    assert "caf\u00e9" in Path("inference/inference.yml").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["inference.yml", "inference_bf16.json"])
def test_a_folder_in_the_place_of_a_file(project, name):
    folder = export(config())
    before = (folder / "inference.json").read_bytes()
    (folder / name).unlink(missing_ok=True)
    (folder / name).mkdir()
    with refused("utils.folder-in-place", f"{name} is a folder"):
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
    with refused("deploy.cannot-write", "save_inference_dir: cannot write to inference (No space left on device)"):
        export(config(LOGITS))
    assert contents(folder) == before
    shutil.rmtree(folder)
    calls.clear()
    with refused("deploy.cannot-write", "No space left on device"):
        export(config())
    assert not folder.exists()


def test_what_exports_left_that_were_killed_goes_after_a_day(project):
    folder = export(config())
    for name, age in ((".partial-old", 2 * 24 * 3600), (".partial-running", 60)):
        (folder / name).mkdir()
        os.utime(folder / name, (time.time() - age,) * 2)
    export(config())
    assert sorted(path.name for path in folder.glob(".partial-*")) == [".partial-running"]
