"""``python -m ppreplk.plugins.paddleseg`` through the wheel, and through a checkout where PADDLESEG names one."""

import os
import re
from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml
from helpers import assert_one_line_and_exit_2, refused
from PIL import Image
from tiny_scenes import SIDE, WRITERS, class_ious, config, launch, scene, write, write_project

pytest.importorskip("paddleseg.cvlibs", reason="paddleseg is not installed")

from ppreplk.plugins.paddleseg import SegmentationPredictor, register
from ppreplk.plugins.paddleseg.__main__ import main, make_parser
from ppreplk.plugins.paddleseg.seg_checks import check_components, check_data, read_config

CHECKOUT = os.environ.get("PADDLESEG")
PLACES = [
    "wheel",
    pytest.param("checkout", marks=pytest.mark.skipif(not CHECKOUT, reason="PADDLESEG names no checkout")),
]
CLOSE = 0.8  # class IoU of a network that has learned its training images


def environment(place):
    return {"PADDLESEG": CHECKOUT or "" if place == "checkout" else ""}


@pytest.mark.parametrize("place", PLACES)
def test_a_few_steps_evaluate_export_and_draw(tmp_path, place):
    """Every command once; what they are worth is in the slow tests."""
    project, env = write_project(tmp_path), environment(place)
    train = [
        "train",
        "--config",
        "tiny.yml",
        "--device",
        "cpu",
        "--save_dir",
        "out",
        "--iters",
        "2",
        "--batch_size",
        "2",
    ]
    process = launch(project, *train, "--save_interval", "2", "--log_iters", "1", env=env)
    assert process.returncode == 0 and "iter: 2/2" in process.stdout + process.stderr, process.stderr
    assert ("patched" in process.stderr) == (place == "wheel"), process.stderr
    weights = ["--config", "tiny.yml", "--model_path", "out/iter_2/model.pdparams"]
    process = launch(project, "val", *weights, "--device", "cpu", env=env)
    assert process.returncode == 0 and len(class_ious(process.stdout + process.stderr)) == 19, process.stderr
    process = launch(project, "export", *weights, "--save_dir", "program", env=env)
    assert process.returncode == 0 and "against the network in train form" in process.stderr, process.stderr
    process = launch(
        project, "run", "--model-dir", "program", "--images", "data/leftImg8bit/val", "--output", "pictures"
    )
    assert process.returncode == 0 and len(process.stdout.splitlines()) == 4, process.stderr
    assert process.stderr.count("oneDNN cannot interpolate") <= 1


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", WRITERS)
def test_a_tiny_data_set_is_learned_exported_and_predicted(tmp_path, kind, place):
    """In the real format, through the suite's own trainer: class IoU above 0.8, and the program predicts the same."""
    iters = 150
    project, env, classes = write_project(tmp_path, kind, iters=iters), environment(place), WRITERS[kind][2]
    train = ["train", "--config", "tiny.yml", "--device", "cpu", "--save_dir", "out", "--save_interval", iters]
    process = launch(project, *train, "--do_eval", "--seed", 0, env=env)
    assert process.returncode == 0, process.stderr
    ious = class_ious(process.stdout + process.stderr)[list(classes)]
    print(f"\n{kind}, {place}, {iters} iterations: class IoU {ious.round(3).tolist()}")
    assert (ious > CLOSE).all(), ious
    weights = ["--config", "tiny.yml", "--model_path", "out/best_model/model.pdparams"]
    process = launch(project, "val", *weights, "--device", "cpu", env=env)
    assert (class_ious(process.stdout + process.stderr)[list(classes)] == ious).all(), process.stderr
    process = launch(project, "export", *weights, "--save_dir", "program", env=env)
    assert process.returncode == 0, process.stderr
    print(*re.findall(r"INFO: (.* against the network .*)", process.stderr), sep="\n")
    predictor = SegmentationPredictor(project / "program", threads=1)
    images = sorted(path for path in (project / "data").rglob("val*/**/*") if path.suffix in (".png", ".jpg"))
    images = [path for path in images if "gtFine" not in path.parts and "annotations" not in path.parts]
    assert len(images) == 4
    register()
    process = launch(
        project, "predict", *weights, "--device", "cpu", "--image_path", "data", "--save_dir", "seen", env=env
    )
    assert process.returncode == 0, process.stderr
    for path in images:
        seen = np.asarray(Image.open(next((project / "seen" / "pseudo_color_prediction").rglob(path.stem + ".png"))))
        assert seen.shape == (SIDE, SIDE) and (predictor(path) == seen).mean() > 0.999
        assert (predictor(path) == np.array(classes)[scene(images.index(path))[1]]).mean() > 0.9


STEPS = """
import sys

import paddle
from paddleseg.core import train
from paddleseg.cvlibs import Config, SegBuilder

from ppreplk.plugins.paddleseg import register

register()
path, batch, folder = sys.argv[1:]
paddle.seed(0)
paddle.set_device("cpu")
builder = SegBuilder(Config(path))
model = builder.model


def train_mode():
    # batch normalization is not synchronized on a CPU: it uses running statistics
    paddle.nn.Layer.train(model)
    for layer in model.sublayers():
        if isinstance(layer, paddle.nn.BatchNorm2D):
            layer.eval()


model.train = train_mode
arguments = {"optimizer": builder.optimizer, "losses": builder.loss, "save_dir": folder}
train(model, builder.train_dataset, iters=3, save_interval=3, batch_size=int(batch), **arguments)
"""


@pytest.mark.slow
def test_two_processes_with_recomputation_equal_one_without(tmp_path):
    project = write_project(tmp_path)
    (project / "steps.py").write_text(STEPS)
    for name, recomputed in (("one", False), ("two", True)):
        content = config("Cityscapes", "data", 3, drop_path_rate=0.0, use_checkpoint=recomputed)
        content["model"].update(dropout_ratio=0.0, aux_dropout_ratio=0.0)
        content["train_dataset"]["transforms"].pop(0)
        write(project / f"{name}.yml", content)
    for name, batch, processes in (("one", 4, 1), ("two", 2, 2)):
        process = launch(project, f"{name}.yml", batch, name, script="steps.py", processes=processes)
        assert process.returncode == 0, process.stderr
    one, two = (paddle.load(str(project / name / "iter_3" / "model.pdparams")) for name in ("one", "two"))
    assert set(one) == set(two)
    differences = []
    for name, value in one.items():
        expected = value.numpy()
        differences.append(np.abs(two[name].numpy() - expected).max() / max(np.abs(expected).max(), 1e-3))
    print(f"\nafter 3 steps, largest relative difference of an array: {max(differences):.2g}")
    assert max(differences) < 1e-4


@pytest.mark.slow
def test_several_processes_train_through_the_launcher(tmp_path):
    project = write_project(tmp_path, use_checkpoint=True)
    train = [
        "train",
        "--config",
        "tiny.yml",
        "--device",
        "cpu",
        "--save_dir",
        "out",
        "--iters",
        2,
        "--save_interval",
        2,
    ]
    process = launch(project, *train, processes=2)
    assert process.returncode == 0, process.stderr
    assert (project / "out" / "iter_2" / "model.pdparams").is_file()


@pytest.fixture
def project(tmp_path, monkeypatch):
    register()
    monkeypatch.chdir(write_project(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("change", "code", "part"),
    [
        (("model", "type", "UPerNetRepLKNe"), "plugins.unknown-type", "model.type: unknown type 'UPerNetRepLKNe'"),
        (("model", "type", "UPerNetRepLKNe"), "plugins.unknown-type", "did you mean UPerNetRepLKNet"),
        (("model", "chanels", 3), "plugins.unknown-key", "model.chanels: unknown key; did you mean channels"),
        (("optimizer", "wheight_decay", 3), "plugins.unknown-key", "did you mean weight_decay"),
        (("lr_scheduler", "type", "PolyDecay"), "plugins.unknown-type", "PolynomialDecay"),
        (("loss", "types", [{"type": "CrossEntropyLos"}]), "plugins.unknown-type", "loss.types[0].type"),
        (("val_dataset", "transforms", [{"type": "Normalise"}]), "plugins.unknown-type", "transforms[0].type"),
    ],
)
def test_slips_in_a_configuration_are_named(project, change, code, part):
    content = config("Cityscapes", "data")
    section, key, value = change
    content[section][key] = value
    with refused(code, part):
        check_components(content)


def test_missing_data_is_named_and_nothing_is_downloaded(project):
    with refused("plugins.no-data", "train_dataset.dataset_root: there is no elsewhere"):
        check_data(config("ADE20K", "elsewhere"), ["train_dataset"])
    with refused("plugins.no-data", "leftImg8bit/train"):
        (project / "empty").mkdir()
        check_data(config("Cityscapes", "empty"), ["train_dataset"])
    for path in Path("data/gtFine/val").rglob("*.png"):
        path.unlink()
    with refused("plugins.no-data", "convert_cityscapes.py"):
        check_data(config("Cityscapes", "data"), ["val_dataset"])
    content = config("ADE20K", "data")
    del content["train_dataset"]["dataset_root"]
    with refused("plugins.no-data", "nothing is downloaded"):
        check_data(content, ["train_dataset"])
    content["train_dataset"] = {"type": "Dataset", "dataset_root": "data", "train_path": "t.txt", "mode": "train"}
    with refused("plugins.no-data", "train_dataset.train_path: there is no t.txt"):
        check_data(content, ["train_dataset"])
    with refused("plugins.no-data", "val_dataset: missing"):
        check_data({}, ["val_dataset"])


def test_what_is_no_configuration_is_one_line(project):
    with refused("config.no-file"):
        read_config("none.yml")
    with refused("plugins.bad-config", ".yml or .yaml"):
        read_config("tiny.json")
    write(project / "bad.yml", {"iters": 3})
    with refused("plugins.bad-config", "bad.yml: PaddleSeg cannot use it"):
        read_config("bad.yml")


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["trian"], "command.arguments", "did you mean train"),
        (["train", "--device", "cpu"], "plugins.missing-argument", "--config"),
        (["val", "--config", "tiny.yml"], "plugins.missing-argument", "--model_path"),
        (["predict", "--config", "tiny.yml", "--model_path", "tiny.yml"], "plugins.missing-argument", "--image_path"),
        (
            ["val", "--config", "tiny.yml", "--model_path", "tiny.yml", "--is_slide"],
            "plugins.missing-argument",
            "--crop",
        ),
        (["train", "--config", "none.yml"], "config.no-file", "none.yml"),
        (["train", "--config", "tiny.yml", "--opts", "model.bakbone.x=3"], "plugins.bad-config", "bakbone"),
        (["train", "--config", "tiny.yml", "--resume_model", "data"], "plugins.not-resumable", "iter_NUMBER"),
        (["val", "--config", "tiny.yml", "--model_path", "none.pdparams"], "plugins.no-file", "none.pdparams"),
        (["train", "--config", "tiny.yml", "--itres", "3"], "command.arguments", "--itres"),
        (["train", "--checkout", "data"], "plugins.no-checkout", "no checkout of PaddleSeg"),
        (["run", "--model-dir", "data", "--images", "data", "--output", "out"], "plugins.no-program", "deploy.yaml"),
    ],
)
def test_a_slip_on_the_command_line_is_one_line(project, monkeypatch, capsys, arguments, code, part):
    monkeypatch.delenv("PADDLESEG", raising=False)
    if code == "command.arguments":
        with pytest.raises(SystemExit) as end:
            main(make_parser().parse_args(arguments))
        assert end.value.code == 2 and part in capsys.readouterr().err
        return
    with refused(code, part):
        main(make_parser().parse_args(arguments))


def test_an_argument_of_our_backbone_is_one_line_through_the_suite(tmp_path):
    project = write_project(tmp_path)
    content = yaml.safe_load((project / "tiny.yml").read_text())
    content["model"]["backbone"]["pretrained"] = "none.pth"
    write(project / "tiny.yml", content)
    process = launch(project, "train", "--config", "tiny.yml", "--device", "cpu", env={"PADDLESEG": ""})
    assert_one_line_and_exit_2(process, "none.pth")
