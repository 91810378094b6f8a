"""Predictions with weights and with programs, and writing them down."""

import csv
import json
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from exports import LOGITS, config
from helpers import ROOT, colour_config, refused, run_tool, write_config

from ppreplk.config import load_config
from ppreplk.deploy.class_names import read_class_names
from ppreplk.deploy.export import export
from ppreplk.deploy.infer import infer
from ppreplk.deploy.predict import write_predictions


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
    export(config(LOGITS))
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


def test_unreadable_images_are_left_out_and_named_at_the_end(project, caplog):
    Path("data/images/2b.png").touch()
    Path("data/images/5.png").write_bytes(Path("data/images/5.png").read_bytes()[:50])
    with refused("deploy.unreadable-images", "2 of 25 images", "data/images/2b.png: ", "data/images/5.png: "):
        write_predictions(infer(config()), "out.json")
    names = [prediction["file_name"] for prediction in json.loads(Path("out.json").read_text())]
    assert len(names) == 23 and "data/images/2b.png" not in names and "data/images/5.png" not in names
    assert "left out: data/images/2b.png: cannot be decoded" in caplog.text
    process = run_tool("infer", "-c", "config.yaml", "-o", "Global.pretrained_model=weights", cwd=project)
    assert process.returncode == 1 and len(process.stdout.splitlines()) == 23
    assert process.stderr.splitlines()[-1].endswith("[deploy.unreadable-images]")
    with refused("data.unreadable-image", "data/images/2b.png: "):
        list(infer(config("Infer.infer_imgs=data/images/2b.png")))
    Path("two.txt").write_text("data/images/2b.png\ndata/images/5.png\n")
    with refused("data.unreadable-image", "none of 2 images can be used, the first: ./data/images/2b.png: "):
        write_predictions(infer(config("Infer.infer_imgs=two.txt")), "none.json")
    assert not Path("none.json").exists()


def test_predictions_as_text(project):
    (named,) = infer(config("Infer.infer_imgs=data/images/3.png"))
    (unnamed,) = infer(config("Infer.infer_imgs=data/images/3.png", "Infer.PostProcess.class_id_map_file=null"))
    assert str(named).startswith(f"data/images/3.png: {named.label_names[0]} 0.")
    assert str(unnamed).startswith(f"data/images/3.png: {unnamed.class_ids[0]} 0.")


@pytest.mark.parametrize(
    "override, code, part",
    [
        ("Infer.infer_imgs=null", "data.missing-image", "Infer.infer_imgs"),
        ("Infer.infer_imgs=absent", "data.missing-image", "no image, folder or list absent"),
        ("Infer.PostProcess.class_id_map_file=absent.txt", "data.unreadable-text", "absent.txt"),
        ("Infer.PostProcess.class_id_map_file=data/val.txt", "deploy.bad-class-names", "val.txt, line 1: "),
        ("Infer.PostProcess.class_id_map_file=data/many.txt", "deploy.bad-class-names", "4 class names for 3 classes"),
        ("Infer.PostProcess.topk=0", "config.bad-value", "topk"),
        ("Infer.batch_size=0", "config.bad-value", "batch_size"),
        ("Infer.transforms=[DecodeImage: {backend: pil}]", "data.transform-order", "Infer.transforms"),
    ],
)
def test_bad_requests(project, override, code, part):
    Path("data/many.txt").write_text("0 a\n1 b\n2 c\n3 d\n")
    with refused(code, part):
        list(infer(config(override)))


@pytest.mark.parametrize("output", ["out.txt", "absent/out.json", "folder.json"])
def test_bad_output_files_are_refused_before_the_work(project, output):
    Path("folder.json").mkdir()
    with refused("deploy.bad-output", "--output", output):
        write_predictions(iter(lambda: pytest.fail("predicted"), None), output)


def test_names_in_undecodable_bytes(project):
    Path("data/images/0.png").rename(os.fsdecode(b"data/images/caf\xe9.png"))
    Path(os.fsdecode(b"data/images/bad\xff.png")).touch()
    Path("data/names.txt").write_text("0 rot\n1 gr\u00fcn\n2 \u84dd\n", encoding="utf-8")
    write_config(Path("config.yaml"), colour_config())
    common = ["-c", "config.yaml", "-o", "Global.pretrained_model=weights"]
    env = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    for environment in (None, env):
        process = run_tool("infer", *common, cwd=project, env=environment)
        assert process.returncode == 1 and len(process.stdout.splitlines()) == 24, process.stderr
        assert "Traceback" not in process.stderr and "bad\\udcff.png" in process.stderr
        assert "data/images/caf\\udce9.png: " in process.stdout
    for name in ("out.json", "out.csv"):
        process = run_tool("infer", *common, "--output", name, cwd=project)
        assert process.returncode == 1 and "Traceback" not in process.stderr
    names = [prediction["file_name"] for prediction in json.loads(Path("out.json").read_text(encoding="utf-8"))]
    assert os.fsdecode(b"data/images/caf\xe9.png") in names
    assert "data/images/caf\\udce9.png,1," in Path("out.csv").read_text(encoding="utf-8")


def test_images_of_different_shapes_need_batches_of_one(project):
    from PIL import Image

    Image.new("RGB", (40, 20)).save("data/images/wide.png")
    shorter = "Infer.transforms.1.ResizeImage={resize_short: 32, backend: pil}"
    with refused("deploy.other-shape", "data/images/wide.png", "Infer.batch_size=1"):
        list(infer(config(shorter, "Infer.batch_size=32")))
    assert len(list(infer(config(shorter, "Infer.batch_size=1")))) == 25


def test_imagenet_names_come_from_the_installed_paddleclas():
    pytest.importorskip("paddleclas")
    names = read_class_names(load_config(ROOT / "configs" / "replknet31b.yaml").Infer.PostProcess)
    assert len(names) == 1000 and names[0].startswith("tench")
