"""Exports: backbone folded, proved against the train form, described; a wrong program leaves nothing."""

import json

import numpy as np
import paddle
import pytest
import yaml
from helpers import random_images, randomise_batch_norms, refused, relative_difference
from tiny_scenes import WRITERS, config, scene, write

pytest.importorskip("paddleseg.cvlibs", reason="paddleseg is not installed")

from paddleseg.cvlibs import SegBuilder

from ppreplk.plugins.paddleseg import SegmentationPredictor, register, seg_export
from ppreplk.plugins.paddleseg.seg_checks import read_config
from ppreplk.plugins.paddleseg.seg_export import export, export_parser


def trained(folder, kind="Cityscapes", align_corners=False):
    """A project with weights of a network whose statistics are random."""
    register()
    paddle.seed(3)
    content = config(kind, str(folder / "data"), layers=[1, 1, 1, 1], channels=[4, 6, 8, 10])
    content["model"].update(channels=8, aux_channels=6, align_corners=align_corners)
    WRITERS[kind][0](folder / "data", 1, 1)
    write(folder / "tiny.yml", content)
    model = SegBuilder(read_config(str(folder / "tiny.yml"))).model
    randomise_batch_norms(model)
    model.eval()
    for layer in (model.head.conv_seg,):  # classes that differ
        layer.weight.set_value(layer.weight * 50)
    paddle.save(model.state_dict(), str(folder / "model.pdparams"))
    return model


def run_export(folder, *more):
    arguments = [
        "--config",
        folder / "tiny.yml",
        "--model_path",
        folder / "model.pdparams",
        "--save_dir",
        folder / "out",
    ]
    return export(export_parser().parse_args([*map(str, arguments), *more]))


@pytest.mark.parametrize("align_corners", [False, True])
def test_a_program_says_what_the_network_says(tmp_path, align_corners, caplog):
    caplog.set_level("INFO", "ppreplk")
    model = trained(tmp_path, align_corners=align_corners)
    run_export(tmp_path)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "deploy.yaml",
        "model.json",
        "model.pdiparams",
    ]
    assert "logits of the program against the network in train form, on 2 random images" in caplog.text
    predictor = SegmentationPredictor(tmp_path / "out", threads=1)
    image = scene(3)[0]
    prepared, _ = predictor.preprocessing(image)
    expected = model(paddle.to_tensor(prepared[None]))[0].argmax(1)[0].numpy()
    assert len(np.unique(expected)) > 1 and (predictor(image) == expected).mean() > 0.999
    assert predictor.names[0] == "road" and predictor.palette[0].tolist() == [128, 64, 128]


def test_a_program_under_other_names_does_not_stay_beside_the_new_one(tmp_path):
    trained(tmp_path)
    for more, names in (((), ["deploy.yaml", "model.json"]), (("--for_fd",), ["inference.json", "inference.yml"])):
        run_export(tmp_path, *more, "--input_shape", "1", "3", "32", "32")
        kept = sorted(path.name for path in (tmp_path / "out").iterdir() if path.suffix != ".pdiparams")
        assert kept == names and SegmentationPredictor(tmp_path / "out", threads=1)


def test_a_shape_that_the_network_does_not_take_is_one_line(tmp_path):
    trained(tmp_path)
    with refused("plugins.bad-shape", "--input_shape", "[1, 4, 32, 32]"):
        run_export(tmp_path, "--input_shape", "1", "4", "32", "32")


def test_the_backbone_is_folded_and_the_description_is_right(tmp_path):
    trained(tmp_path, "ADE20K")
    table = "Idx\tRatio\tTrain\tVal\tStuff\tName\n" + "".join(
        f"{i}\t0\t0\t0\t0\tname {i}, other\n" for i in range(1, 151)
    )
    (tmp_path / "data" / "objectInfo150.txt").write_text(table)
    run_export(tmp_path, "--output_op", "none", "--input_shape", "1", "3", "64", "64")
    content = yaml.safe_load((tmp_path / "out" / "deploy.yaml").read_text())
    assert content["Deploy"]["model"] == "model.json" and content["Deploy"]["input_shape"] == [1, 3, 64, 64]
    assert content["Deploy"]["transforms"][0]["type"] == "Normalize"
    assert content["Classes"]["names"][149] == "name 150"
    operators = json.loads((tmp_path / "out" / "model.json").read_text())["program"]["regions"][0]["blocks"][0]["ops"]
    norms = [each for each in operators if "batch_norm" in each["#"]]
    assert len(norms) == 12  # those of the heads alone: the auxiliary one is not in the program
    kernels = [each for each in operators if each["#"].endswith("depthwise_conv2d")]
    assert len(kernels) == 4 + 2 + 3  # a large one for each of the stages, the stem, the transitions


@pytest.mark.parametrize("operator", ["argmax", "none"])
def test_a_wrong_program_is_not_kept(tmp_path, monkeypatch, operator):
    trained(tmp_path)
    save = seg_export.save

    def save_wrong(model, spec, kind, path):
        if kind == operator:
            model.head.conv_seg.bias.set_value(model.head.conv_seg.bias + paddle.linspace(-9.0, 9.0, 19))
        save(model, spec, kind, path)

    monkeypatch.setattr(seg_export, "save", save_wrong)
    with refused("plugins.wrong-program", "nothing was written"):
        run_export(tmp_path, "--output_op", operator)
    assert not (tmp_path / "out").exists()


def test_an_earlier_program_survives_a_failed_export(tmp_path, monkeypatch):
    trained(tmp_path)
    run_export(tmp_path, "--output_op", "none")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    monkeypatch.setattr(seg_export, "TOLERANCE", -1.0)
    with refused("plugins.wrong-program"):
        run_export(tmp_path, "--output_op", "none")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_what_cannot_be_exported_is_one_line(tmp_path):
    model = trained(tmp_path)
    with refused("plugins.bad-shape", "--input_shape"):
        run_export(tmp_path, "--input_shape", "512", "512")
    model.head.conv_seg.bias.set_value(paddle.full([19], float("nan")))
    paddle.save(model.state_dict(), str(tmp_path / "model.pdparams"))
    with refused("plugins.not-finite"):
        run_export(tmp_path)
    content = config("Cityscapes", str(tmp_path / "data"))
    content["model"] = {"type": "PPLiteSeg", "num_classes": 19, "backbone": {"type": "STDC1"}}
    write(tmp_path / "tiny.yml", content)
    with refused("plugins.foreign-network", "PPLiteSeg"):
        run_export(tmp_path)


def test_a_folded_network_is_the_network(tmp_path):
    from ppreplk.nn import fold

    model = trained(tmp_path)
    images = random_images(1, 3, 65, 97)
    expected = model(images)[0]
    model.backbone = fold(model.backbone)
    assert relative_difference(model(images)[0], expected) < 1e-5
