"""The recipes that need no download: they fit what the tools write, and PaddleSeg goes from one to a picture."""

import copy
import json
import os
import re
import subprocess
import sys

import pytest
import yaml
from helpers import ROOT
from PIL import Image

from ppreplk.data.digit_scenes import CLASSES, NAMES, write_coco, write_segmentation
from ppreplk.plugins.suites import build_backbone

SEGMENTATION = ("digits_k3", "digits_k13")


class Loader(yaml.SafeLoader):
    """Reads PaddleDetection's ``!Name {...}`` as the arguments alone."""


Loader.add_multi_constructor("!", lambda loader, name, node: loader.construct_mapping(node))


def read(folder, name):
    return yaml.load((ROOT / "configs" / folder / f"{name}.yml").read_text(encoding="utf-8"), Loader)


def test_kernels_are_all_that_differs_between_the_two():
    small, large = (copy.deepcopy(read("segmentation", name)) for name in SEGMENTATION)
    kernels = [recipe["model"]["backbone"].pop("large_kernel_sizes") for recipe in (small, large)]
    assert kernels == [[3], [13]] and small == large


@pytest.mark.parametrize("name", SEGMENTATION)
def test_segmentation_reads_what_the_tool_writes(name, tmp_path, monkeypatch):
    recipe = read("segmentation", name)
    monkeypatch.chdir(tmp_path)
    for dataset in (recipe["train_dataset"], recipe["val_dataset"]):
        if not os.path.exists(dataset["dataset_root"]):
            write_segmentation(dataset["dataset_root"], train=2, val=2)
        listed = dataset.get("train_path") or dataset["val_path"]
        assert os.path.isfile(listed) and os.path.dirname(listed) == dataset["dataset_root"]
        assert dataset["num_classes"] == recipe["model"]["num_classes"] == len(CLASSES)
    backbone = dict(recipe["model"]["backbone"])
    network = build_backbone(backbone.pop("type"), backbone)
    assert network.feat_channels == backbone["channels"]


def test_detection_reads_what_the_tool_writes(tmp_path, monkeypatch):
    recipe = read("detection", "digits_fcos")
    monkeypatch.chdir(tmp_path)
    write_coco(recipe["TrainDataset"]["dataset_dir"], train=2, val=2)
    for section in ("TrainDataset", "EvalDataset"):
        dataset = recipe[section]
        with open(f"{dataset['dataset_dir']}/{dataset['anno_path']}", encoding="utf-8") as file:
            content = json.load(file)
        for image in content["images"]:
            assert os.path.isfile(f"{dataset['dataset_dir']}/{dataset['image_dir']}/{image['file_name']}")
        assert len(content["categories"]) == recipe["num_classes"] == len(NAMES)
    strides = recipe["FCOSHead"]["fpn_stride"]
    target = next(
        each["Gt2FCOSTarget"] for each in recipe["TrainReader"]["batch_transforms"] if "Gt2FCOSTarget" in each
    )
    assert target["downsample_ratios"] == strides == [8] and target["object_sizes_boundary"] == []
    assert target["norm_reg_targets"] == recipe["FCOSHead"]["norm_reg_targets"]
    arguments = dict(recipe[recipe["FCOS"]["backbone"]])
    assert [4 * 2**stage for stage in arguments["out_indices"]] == strides
    assert build_backbone(recipe["FCOS"]["backbone"], arguments).feat_channels == arguments["channels"][1:]


ALL = [*(("segmentation", name) for name in SEGMENTATION), ("detection", "digits_fcos")]


@pytest.mark.parametrize("folder, name", ALL)
def test_the_head_names_this_recipe_and_what_was_measured(folder, name):
    text = (ROOT / "configs" / folder / f"{name}.yml").read_text(encoding="utf-8")
    head = text[: text.index("\n\n")]
    named = {f"configs/{folder}/{each}.yml" for each in (name, *SEGMENTATION)}
    assert set(re.findall(r"configs/\w+/\w+\.yml", head)) <= named
    assert f"output/{name}" in head
    assert re.search(r"# Accuracy:  .*\d.*\(measured here", head) and re.search(r"# Time:.*minutes.*measured", head)


@pytest.mark.slow
def test_paddleseg_trains_evaluates_exports_and_paints_one(tmp_path):
    pytest.importorskip("paddleseg.cvlibs", reason="PaddleSeg is not installed")
    recipe = str(ROOT / "configs" / "segmentation" / "digits_k13.yml")

    def run(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"}
        command = [sys.executable, "-m", "ppreplk.plugins.paddleseg", *arguments]
        process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1800)
        assert process.returncode == 0, process.stderr[-2000:]
        return process.stdout + process.stderr

    run("digits", "data/digit_scenes", "--train", "40", "--val", "8")
    run("train", "--config", recipe, "--iters", "20", "--save_interval", "20", "--do_eval", "--save_dir", "output")
    weights = "output/best_model/model.pdparams"
    assert re.search(r"mIoU: 0\.\d+", run("val", "--config", recipe, "--model_path", weights))
    run("export", "--config", recipe, "--model_path", weights, "--save_dir", "program")
    run("run", "--model-dir", "program", "--images", "data/digit_scenes/images/val_00000.png", "--output", "pictures")
    (picture,) = (tmp_path / "pictures").iterdir()
    assert Image.open(picture).height == 96
