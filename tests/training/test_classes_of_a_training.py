"""The classes of a training: of its two data sets, in its checkpoints, of evaluation, resume and prediction."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from helpers import colour_config, refused, write_config

from ppreplk.checkpoints.trained_classes import trained_classes
from ppreplk.config import load_config
from ppreplk.deploy.export import export
from ppreplk.deploy.infer import infer
from ppreplk.training import evaluate_config, train

NAMES = ["blue", "green", "red"]  # in the order of the folders


@pytest.fixture
def project(colour_project, monkeypatch):
    """The colours in one folder per class; ``read`` reads the configuration."""
    monkeypatch.chdir(colour_project)
    content = colour_config()
    content["Global"]["epochs"] = 1
    content["Infer"]["PostProcess"]["class_id_map_file"] = None
    for name, split in (("train", "Train"), ("val", "Eval")):
        for line in Path(f"data/{name}.txt").read_text().splitlines():
            path, label = line.split()
            folder = Path("folders", name, ("red", "green", "blue")[int(label)])
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path("data", path), folder)
        dataset = content["DataLoader"][split]["dataset"]
        content["DataLoader"][split]["dataset"] = {
            "name": "ImageFolderDataset",
            "image_root": f"folders/{name}",
            "transform_ops": dataset["transform_ops"],
        }
    write_config(Path("config.yaml"), content)
    return colour_project


def read(*overrides):
    return load_config("config.yaml", list(overrides))


TRAINED = "Global.pretrained_model=output/latest"


def test_class_folders_reach_checkpoints_programs_and_predictions(project):
    train(read())
    assert json.loads(Path("output/latest.pdstates").read_text())["classes"] == NAMES
    assert trained_classes("output/latest") == trained_classes("output/best_model.pdparams") == NAMES
    shutil.rmtree("folders")
    export(read(TRAINED))
    content = yaml.safe_load(Path("inference/inference.yml").read_text())
    assert content["PostProcess"]["Topk"]["label_list"] == NAMES
    for model_dir in (None, "inference"):
        prediction = next(infer(read(TRAINED, "Infer.infer_imgs=data/images/3.png"), model_dir))
        assert prediction.label_names == [NAMES[index] for index in prediction.class_ids]


def test_class_folders_name_the_classes_of_weights_from_elsewhere(project):
    train(read())
    shutil.copy("output/latest.pdparams", "weights.pdparams")
    prediction = next(infer(read("Global.pretrained_model=weights")))
    assert prediction.label_names == [NAMES[index] for index in prediction.class_ids]
    shutil.copy("output/latest.pdstates", "weights.pdstates")
    assert trained_classes("weights") == NAMES
    shutil.copy("output/latest.pdopt", "weights.pdparams")
    assert trained_classes("weights") is None, "the states are not those of these weights"
    Path("weights.pdstates").write_text("[]")
    assert trained_classes("weights") is None


def test_evaluation_and_resume_with_other_classes_are_refused(project):
    train(read())
    Path("folders/val/blue").rename("folders/val/violet")
    parts = ["folders/val: ", "without 'blue', with 'violet' instead"]
    with refused("data.other-classes", *parts, "folders/train"):
        train(read("Global.output_dir=other"))
    with refused("data.other-classes", *parts, "the training of output/latest"):
        evaluate_config(read(TRAINED))
    Path("folders/train/blue").rename("folders/train/violet")
    with refused("data.other-classes", "folders/train: ", "the training of output/latest"):
        train(read("Global.checkpoints=output/latest", "Global.epochs=2"))


def test_names_that_do_not_fit_are_refused_before_the_export(project):
    train(read())
    Path("two.txt").write_text("0 ant\n1 bee\n")
    override = "Infer.PostProcess.class_id_map_file=two.txt"
    with refused("deploy.bad-class-names", "two.txt has 2 class names for 3 classes"):
        export(read(TRAINED, override))
    assert not Path("inference").exists()
    with refused("deploy.bad-class-names", "two.txt has 2 class names for 3 classes"):
        next(infer(read(TRAINED, override)))
