"""The report of an evaluation: its files, and its numbers against scikit-learn's from outputs computed here."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from helpers import ROOT, colour_config, refused, run_tool, write_config
from PIL import Image

from ppreplk.analysis import eval_report
from ppreplk.analysis.eval_report import write_report
from ppreplk.checkpoints.pretrained import build_trained_network
from ppreplk.config import load_config
from ppreplk.data import build_dataset
from ppreplk.training import train

metrics = pytest.importorskip("sklearn.metrics")
calibrations = pytest.importorskip("sklearn.calibration")
LATEST = "Global.pretrained_model=output/latest"
FILES = {"report.json", "report.html", "classes.csv", "images.csv", "confusion.csv"}
PICTURES = {"confusion.png", "reliability.png"}


@pytest.fixture
def project(colour_project, monkeypatch):
    """A network that was trained for one epoch with averaged weights, and wrong about some images."""
    monkeypatch.chdir(colour_project)
    train(read("EMA={decay: 0.5}", "Global.epochs=1"))
    return colour_project


@pytest.fixture
def no_pictures(monkeypatch):
    """Drawing takes most of the time."""
    monkeypatch.setattr(eval_report, "matplotlib_problem", lambda: "not in this test")


def read(*overrides: str):
    return load_config("config.yaml", overrides)


def report(folder: str = "report") -> dict:
    return json.loads((Path(folder) / "report.json").read_text())


def rows(path: str) -> list[list[str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def files(folder: str) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()}


def outputs(config) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels, one image after the other."""
    dataset = build_dataset(config.DataLoader.Eval.dataset, config.Arch.class_num, 0)
    model = build_trained_network(config)
    with paddle.no_grad():
        logits = [model(paddle.to_tensor(dataset[index][0][None])).numpy()[0] for index in range(len(dataset))]
    return np.asarray(logits, np.float64), np.asarray([sample.label for sample in dataset.samples])


def compare_with_scikit_learn(each: dict, folder: str, config) -> None:
    """Compare a part of a report, and the tables in a folder, with numbers from outputs that are computed here."""
    logits, labels = outputs(config)
    every = range(config.Arch.class_num)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    predicted = logits.argmax(axis=1)
    expected = metrics.classification_report(labels, predicted, labels=every, output_dict=True, zero_division=0)
    for one in each["per_class"]:
        values = expected[str(one["class"])]
        assert [one["precision"], one["recall"], one["f1"], one["support"]] == pytest.approx(list(values.values()))
    for name, values in each["averages"].items():
        numbers = metrics.precision_recall_fscore_support(labels, predicted, average=name, zero_division=0)
        assert list(values.values()) == pytest.approx(numbers[:3])
    assert each["accuracy"]["top1"] == metrics.accuracy_score(labels, predicted) == each["results"]["top1"]
    assert each["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(labels, predicted))
    loss = metrics.log_loss(labels, probabilities, labels=every)
    assert each["negative_log_likelihood"] == pytest.approx(loss, rel=1e-4)
    assert each["negative_log_likelihood"] == pytest.approx(each["results"]["loss"], rel=1e-5)
    matrix = [[int(cell) for cell in row[1:]] for row in rows(f"{folder}/confusion.csv")[1:]]
    assert matrix == metrics.confusion_matrix(labels, predicted, labels=every).tolist()

    head, *lines = rows(f"{folder}/images.csv")
    assert [int(line[head.index("predicted")]) for line in lines] == predicted.tolist()
    assert [int(line[head.index("true")]) for line in lines] == labels.tolist()
    received = [float(line[head.index("probability")]) for line in lines]
    confidence = probabilities.max(axis=1)
    np.testing.assert_allclose(received, confidence, atol=1e-4)
    calibration = each["calibration"]
    bins = calibration["reliability"]["before"]
    accuracy, mean = calibrations.calibration_curve(labels == predicted, received, n_bins=15)
    filled = [one for one in bins if one["images"]]
    assert [one["accuracy"] for one in filled] == pytest.approx(accuracy)
    assert [one["confidence"] for one in filled] == pytest.approx(mean)
    weights = [one["images"] for one in filled]
    assert sum(weights) == len(labels)
    assert calibration["ece"] == pytest.approx(np.average(np.abs(accuracy - mean), weights=weights))
    assert calibration["negative_log_likelihood_after"] <= each["negative_log_likelihood"]

    sure = {line[0]: float(line[head.index("probability")]) for line in lines if line[head.index("right")] == "0"}
    assert [error["path"] for error in each["worst_errors"]] == sorted(sure, key=lambda path: -sure[path])[:24]
    assert each["errors"] == (labels != predicted).sum()
    assert each["throughput"]["without_reading"] >= each["throughput"]["with_reading"] > 0


def test_the_numbers_of_both_sets_of_weights_are_those_of_scikit_learn(project, no_pictures):
    write_report(read(LATEST), "report", "both")
    found = report()
    assert [each["weights"] for each in found["evaluations"]] == ["raw", "averaged"]
    assert set(found["files"]) == files("report")
    for each, suffix in zip(found["evaluations"], (".pdema", ".pdparams")):
        folder = f"report/{each['weights']}"
        compare_with_scikit_learn(each, folder, read(f"Global.pretrained_model=output/latest{suffix}"))
        lines = rows(f"{folder}/images.csv")[1:]
        assert [line[0] for line in lines] == [f"data/images/{index}.png" for index in range(18, 24)]
        assert {line[2] for line in lines} == {"red", "green", "blue"}


@pytest.mark.slow
def test_the_numbers_of_the_digits_are_those_of_scikit_learn(tmp_path, monkeypatch):
    """python -m pytest -m slow tests/analysis/test_eval_report.py"""
    monkeypatch.chdir(tmp_path)
    recipe = ROOT / "configs" / "digits.yaml"
    train(load_config(recipe, ["Global.epochs=3", "EMA={decay: 0.9}"]))
    write_report(load_config(recipe, ["Global.pretrained_model=output/digits/latest"]), "report", "both")
    raw, averaged = report()["evaluations"]
    for each, suffix in ((raw, ".pdema"), (averaged, ".pdparams")):
        config = load_config(recipe, [f"Global.pretrained_model=output/digits/latest{suffix}"])
        compare_with_scikit_learn(each, f"report/{each['weights']}", config)


def test_the_page_shows_and_links_what_there_is(project, caplog):
    write_report(read(LATEST), "report")
    written = files("report")
    assert FILES | PICTURES <= written <= FILES | PICTURES | {"errors.png"} and set(report()["files"]) == written
    page = Path("report/report.html").read_text()
    for name in written - {"report.html", "report.json"}:
        assert f'="{name}"' in page
    for name in written:
        if name.endswith(".png"):
            with Image.open(Path("report") / name) as picture:
                assert min(picture.size) > 200
    assert "Averaged weights" in page and "<td>blue</td>" in page
    assert "wrote the report report/report.html" in caplog.text


def test_every_image_comes_once_whatever_the_sampler_says(project, no_pictures):
    shuffled = [f"DataLoader.Eval.sampler.{key}" for key in ("shuffle=True", "drop_last=True", "batch_size=4")]
    write_report(read(LATEST), "plain")
    write_report(read(LATEST, *shuffled), "shuffled")
    first, second = ([row[:5] for row in rows(f"{name}/images.csv")] for name in ("plain", "shuffled"))
    assert first == second and len(first) == 7


def test_a_mounted_folder_is_refused_before_the_work(project, monkeypatch):
    Path("report").mkdir()
    monkeypatch.setattr("os.path.ismount", lambda path: Path(path).name == "report")
    with refused("analysis.cannot-write", "mounted folder", "name a folder inside it"):
        write_report(read("Global.pretrained_model=nowhere"), "report")


def test_a_folder_with_anything_else_is_left_alone(project, no_pictures):
    Path("report").mkdir()
    write_report(read(LATEST), "report")  # an empty folder will do
    Path("report/notes.txt").write_text("mine")
    config = read("Global.pretrained_model=nowhere")  # refused before anything is read
    with refused("analysis.occupied-folder", "notes.txt", "report"):
        write_report(config, "report")
    for occupied in ("data", "."):
        with refused("analysis.occupied-folder"):
            write_report(config, occupied)
    for place in ("config.yaml", "config.yaml/report"):
        with refused("analysis.cannot-write", "config.yaml is a file"):
            write_report(config, place)
    config.Infer.PostProcess.class_id_map_file = "data/val.txt"  # so are names that do not fit
    with refused("deploy.bad-class-names"):
        write_report(config, "another")
    process = run_tool("eval", "-c", "config.yaml", "-o", LATEST, "--report", "report", cwd=project)
    assert process.returncode == 2 and process.stderr.count("\n") == 1
    assert Path("report/notes.txt").read_text() == "mine"


def test_an_earlier_report_is_replaced_whole_or_stays(project, no_pictures, monkeypatch):
    write_report(read(LATEST), "report", "both")
    before = {name: (Path("report") / name).read_bytes() for name in files("report")}

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(eval_report, "write_images", full)
        with refused("utils.cannot-write", "cannot write report (No space left on device)"):
            write_report(read(LATEST), "report")
        with refused("utils.cannot-write", "another"):
            write_report(read(LATEST), "another")
    assert {name: (Path("report") / name).read_bytes() for name in files("report")} == before
    write_report(read(LATEST), "report")
    assert FILES <= files("report") and not Path("report/raw").exists()
    assert sorted(path.name for path in Path().iterdir()) == ["config.yaml", "data", "output", "report"]


def test_without_matplotlib_numbers_and_tables_remain(project, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    write_report(read(LATEST), "report")
    assert files("report") == FILES
    left_out = [record.message for record in caplog.records if "no pictures" in record.message]
    assert len(left_out) == 1 and "matplotlib" in left_out[0]
    assert "There are no pictures" in Path("report/report.html").read_text()


def test_names_in_any_script_are_text_and_no_html(colour_project, monkeypatch):
    """Names of folders become names of classes; ``$`` begins no formula in a picture."""
    monkeypatch.chdir(colour_project)
    names = ["$\\frac{a", "<script>alert(1)</script>", "红色 & \U000f0000"]
    names[1] = names[1].replace("/", "&")
    for index, name in enumerate(names):
        (Path("folders") / name).mkdir(parents=True)
        Image.new("RGB", (32, 32), (250 * (index == 0), 250 * (index == 1), 99)).save(
            Path("folders") / name / "<b>.png"
        )
    raw = colour_config()
    for split in raw["DataLoader"].values():
        split["dataset"] = {**split["dataset"], "name": "ImageFolderDataset", "image_root": "folders"}
        del split["dataset"]["cls_label_path"]
        split["sampler"] = {"batch_size": 3}
    raw["Infer"]["PostProcess"] = {"name": "Topk"}
    write_config(Path("config.yaml"), raw)
    train(read("Global.epochs=1", "Optimizer.lr.learning_rate=1e-9"))
    write_report(read(LATEST), "report")
    found = report()
    assert [each["name"] for each in found["evaluations"][0]["per_class"]] == sorted(names)
    assert "errors.png" in files("report")  # it has learnt nothing
    page = Path("report/report.html").read_text(encoding="utf-8")
    assert "<script>" not in page and "<b>.png" not in page and "&lt;script&gt;" in page and "红色 &amp;" in page


def test_of_many_classes_the_picture_has_the_most_confused_ones(project):
    many = ("Arch.class_num=1000", "Infer.PostProcess.class_id_map_file=null")
    train(read(*many, "Global.epochs=1", "Global.output_dir=many"))
    write_report(read(*many, "Global.pretrained_model=many/latest"), "report")
    [evaluation] = report()["evaluations"]
    assert evaluation["confusion"] == {"csv_is_a_matrix": True, "classes_in_picture": 40}
    assert evaluation["classes_without_images"] == 997
    assert "the 40 of 1000 classes with the most errors" in Path("report/report.html").read_text()
    matrix = rows("report/confusion.csv")
    assert len(matrix) == len(matrix[0]) == 1001


def test_outputs_that_are_not_finite_are_refused(project):
    state = paddle.load("output/latest.pdparams")
    name = next(name for name in state if name.endswith("head.bias"))
    state[name] = paddle.full_like(state[name], float("nan"))
    paddle.save(state, "broken.pdparams")
    with refused("analysis.not-finite", "6 of 6 images", "data/images/18.png", "broken"):
        write_report(read("Global.pretrained_model=broken"), "report")
    assert not Path("report").exists()


def test_two_processes_write_the_report_of_one(project, no_pictures):
    """Seven images do not divide by two."""
    lines = Path("data/train.txt").read_text().splitlines()
    Path("data/val.txt").write_text("\n".join(lines[:7]) + "\n")
    batches = "DataLoader.Eval.sampler.batch_size=2"
    write_report(read(LATEST, batches), "one")
    launcher = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--backend", "gloo"]
    command = [str(ROOT / "tools" / "eval.py"), "-c", "config.yaml", "-o", LATEST, "-o", batches, "--report", "two"]
    process = subprocess.run(
        [*launcher, "--log_dir", "logs", *command], capture_output=True, text=True, timeout=200, check=False
    )
    assert process.returncode == 0, "".join(path.read_text() for path in Path("logs").glob("workerlog.*"))
    first, second = rows("one/images.csv"), rows("two/images.csv")
    assert [row[:5] for row in first] == [row[:5] for row in second] and len(second) == 8
    one, two = report("one"), report("two")
    assert (one["processes"], two["processes"], two["images"]) == (1, 2, 7)
    for key in ("averages", "accuracy", "errors", "most_confused_pairs"):
        assert one["evaluations"][0][key] == two["evaluations"][0][key]
