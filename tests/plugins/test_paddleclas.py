"""Our networks inside PaddleClas."""

import argparse
import logging
import subprocess
import sys
from pathlib import Path

import paddle
import pytest
from helpers import (
    assert_one_line_and_exit_2,
    random_images,
    randomise_batch_norms,
    refused,
    relative_difference,
    write_config,
)
from torch_files import as_torch, tensors, write_zip

import ppreplk
from ppreplk.plugins import paddleclas as plugin
from ppreplk.plugins.paddleclas import register
from ppreplk.utils.errors import UserError

needs_paddleclas = pytest.mark.skipif(not plugin._exists("paddleclas"), reason="paddleclas is not installed")


@needs_paddleclas
def test_registered_networks_are_built_by_paddleclas_and_follow_its_protocol():
    assert "paddleclas.ppcls" in register()
    from paddleclas.ppcls.arch import build_model

    arch = {"name": "RepLKNet13T", "class_num": 7, "layer_decay": 0.5, "infer_add_softmax": False}
    model = build_model({"Arch": arch, "Global": {"device": "cpu"}})
    assert isinstance(model, paddle.nn.Layer)
    model.eval()
    images = random_images(1, 3, 32, 32)
    expected = model(images)
    assert expected.shape == [1, 7]
    repped = [layer for layer in model.sublayers() if hasattr(layer, "re_parameterize") and not layer.is_repped]
    for layer in repped:  # what PaddleClas's export does
        layer.re_parameterize()
    assert len(repped) == 5 and all(layer.is_repped for layer in repped)
    assert relative_difference(model(images), expected) < 1e-5


@needs_paddleclas
def test_without_a_checkout_the_engine_is_missed_in_one_line(tmp_path):
    command = [sys.executable, "-m", "ppreplk.plugins.paddleclas", "train", "-c", "none.yaml"]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert_one_line_and_exit_2(process, "PaddleClas's engine is only in a source checkout", code="plugins.no-checkout")


# What a source checkout has at its top, as far as it is used here. Weights are loaded as there: what fits, silently.
CHECKOUT = {
    "paddleclas.py": "from .ppcls.arch import backbone",
    "ppcls/arch/__init__.py": "class ResNet50: pass",
    "ppcls/data/__init__.py": "class ImageNetDataset: pass",
    "ppcls/utils/config.py": """
import yaml

class Keys(dict):
    def __setattr__(self, key, value):
        self[key] = value

def get_config(path, overrides, show):
    config = Keys(yaml.safe_load(open(path)))
    for text in overrides:
        (section, key), value = text.split("=")[0].split("."), text.split("=")[1]
        config[section][key] = yaml.safe_load(value)
    return config
""",
    "ppcls/engine/engine.py": """
import paddle
from ppcls import arch

networks = []

class Engine:
    def __init__(self, config, mode):
        self.config = config
        arguments = dict(config["Arch"])
        self.network = getattr(arch, arguments.pop("name"))(**arguments)
        networks.append(self.network)
        if config["Global"]["pretrained_model"] is not None:
            self.network.set_state_dict(paddle.load(config["Global"]["pretrained_model"] + ".pdparams"))

    def run(self):
        print(self.config["Global"]["epochs"], self.network.head.weight.shape[1])

    train = eval = export = run
""",
}
DATASET = {"name": "ImageNetDataset", "image_root": "data", "cls_label_path": "data/list.txt"}
ARCH = {
    "name": "RepLKNet13T",
    "class_num": 7,
    "layers": [1, 1],
    "channels": [4, 6],
    "large_kernel_sizes": [7, 5],
    "infer_add_softmax": False,
}
MERGED = {**ARCH, "merged": True}


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """The current folder: a checkout with a configuration, ``c.yaml``, a data set, and weights of its network."""
    for name, text in CHECKOUT.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "list.txt").touch()
    model = ppreplk.build_model(**{key: value for key, value in ARCH.items() if key != "infer_add_softmax"})
    randomise_batch_norms(model)
    paddle.save(model.state_dict(), str(tmp_path / "weights.pdparams"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(plugin, "PACKAGES", ("ppcls",))
    write(tmp_path)
    yield model
    for name in [name for name in sys.modules if name.partition(".")[0] == "ppcls"]:
        del sys.modules[name]


def write(folder: Path, arch: dict = ARCH, dataset: dict = DATASET, **settings) -> None:
    split = {"dataset": dataset}
    sections = {
        "Global": {"epochs": 1, "pretrained_model": None, "checkpoints": None, "eval_during_train": True, **settings},
        "Arch": arch,
        "DataLoader": {"Train": split, "Eval": split},
    }
    write_config(folder / "c.yaml", sections)


def run(mode: str, *overrides: str) -> paddle.nn.Layer:
    """The network that PaddleClas's engine works with."""
    plugin.main(argparse.Namespace(mode=mode, config="c.yaml", override=list(overrides)))
    return sys.modules["ppcls.engine.engine"].networks[-1]


def test_its_engine_gets_the_configuration_and_our_networks(checkout, tmp_path):
    command = [sys.executable, "-m", "ppreplk.plugins.paddleclas", "train", "-c", "some.yaml", "-o", "Global.epochs=3"]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert_one_line_and_exit_2(process, "no configuration file at some.yaml", code="config.no-file")
    (tmp_path / "c.yaml").rename(tmp_path / "some.yaml")
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-1] == "3 7"


@pytest.mark.parametrize("mode", ["train", "eval", "export"])
@pytest.mark.parametrize("arch", [ARCH, MERGED], ids=["train form", "merged"])
@pytest.mark.parametrize("suffix", ["", ".pth", ".safetensors"])
def test_weights_are_read_by_our_loader_and_all_of_them_are_used(checkout, tmp_path, caplog, mode, arch, suffix):
    caplog.set_level("INFO")
    if suffix == ".pth":
        arrays = {key: value.numpy() for key, value in checkout.state_dict().items()}
        write_zip(tmp_path / "weights.pth", tensors(as_torch(arrays)))
    elif suffix:
        ppreplk.weights.convert("weights.pdparams", "weights.safetensors")
    write(tmp_path, arch)
    network = run(mode, f"Global.pretrained_model=weights{suffix}")
    for model in (network, checkout):
        model.eval()
    images = random_images(1, 3, 32, 32)
    assert relative_difference(network(images), checkout(images)) < 1e-5
    assert f"all {len(network.state_dict())} arrays of the network have their value" in caplog.text


def test_a_head_for_other_classes_is_replaced_in_training_alone(checkout, tmp_path, caplog):
    caplog.set_level("INFO")
    write(tmp_path, {**ARCH, "class_num": 5}, pretrained_model="weights")
    network = run("train")
    assert network.head.weight.shape[1] == 5 and "a head for 7 classes; a new one for 5" in caplog.text
    name = "stages.0.blocks.0.pw1.conv.weight"
    assert (network.state_dict()[name].numpy() == checkout.state_dict()[name].numpy()).all()
    for mode in ("eval", "export"):
        with refused("checkpoints.other-classes", "weights has a head for 7 classes, but Arch.class_num is 5"):
            run(mode)


REFUSED = {
    "other kernels": ({"large_kernel_sizes": [5, 5]}, {}, "checkpoints.other-architecture", "mis-shaped"),
    "other depth": ({"layers": [2, 1]}, {}, "checkpoints.other-architecture", "missing"),
    "a misspelt name": ({"name": "RepLKNet13t"}, {}, "models.unknown-model", "did you mean RepLKNet13T"),
    "a misspelt name of theirs": ({"name": "Resnet50"}, {}, "models.unknown-model", "did you mean ResNet50"),
    "no name": ({"name": None}, {}, "models.unknown-model", "Arch.name: unknown model None"),
    "a misspelt argument": (
        {"layer": [1, 1]},
        {},
        "config.unknown-key",
        "Arch.layer: unknown key; did you mean layers",
    ),
    "a text for a number": ({"class_num": "many"}, {}, "config.wrong-type", "Arch.class_num"),
    "unpublished": ({"pretrained": True}, {"pretrained_model": None}, "checkpoints.none-published", "RepLKNet13T"),
    "a number for a name": ({"pretrained": 3}, {"pretrained_model": None}, "plugins.bad-path", "Arch.pretrained"),
    "our folders": ({}, {"dataset": {"name": "ImageFolderDataset"}}, "plugins.own-dataset", "use ImageNetDataset"),
    "a misspelt data set": ({}, {"dataset": {"name": "ImagenetDataset"}}, "plugins.no-data", "ImageNetDataset?"),
    "no list": ({}, {"dataset": {**DATASET, "cls_label_path": "none.txt"}}, "plugins.no-data", "none.txt"),
    "no weights": ({}, {"pretrained_model": None}, "checkpoints.none-named", "Global.pretrained_model is not set"),
    "no such weights": ({}, {"pretrained_model": "nothing"}, "checkpoints.no-file", "no checkpoint at nothing"),
    "several weights": ({}, {"pretrained_model": ["a", "b"]}, "plugins.bad-path", "Global.pretrained_model"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(checkout, tmp_path, case):
    arch, changes, code, part = REFUSED[case]
    write(tmp_path, {**ARCH, **arch}, **{"pretrained_model": "weights", **changes})
    with refused(code, part):
        run("eval")


def test_weights_that_arch_names(checkout, tmp_path, caplog):
    caplog.set_level(logging.INFO, "ppreplk")
    write(tmp_path, {**ARCH, "pretrained": "weights"}, pretrained_model=None)
    name = "stages.0.blocks.0.pw1.conv.weight"
    assert (run("eval").state_dict()[name].numpy() == checkout.state_dict()[name].numpy()).all()
    write(tmp_path, {**ARCH, "class_num": 5, "pretrained": "weights"}, pretrained_model=None)
    assert run("train").head.weight.shape[1] == 5 and "a new one for 5" in caplog.text
    write(tmp_path, {**ARCH, "pretrained": "none"}, pretrained_model="weights")
    run("eval")


def test_a_broken_file_of_weights_is_refused(checkout, tmp_path):
    (tmp_path / "w.pth").write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match=r"w\.pth"):
        run("eval", "Global.pretrained_model=w.pth")


def test_an_export_needs_no_data(checkout, tmp_path):
    write(tmp_path, dataset={"name": "ImageFolderDataset"}, pretrained_model="weights")
    assert run("export").head.weight.shape[1] == 7


@pytest.mark.parametrize(
    "override, code, part",
    [
        ("Global.epochs", "plugins.bad-override", "expects one '='"),
        ("Global.output_dir=a=b", "plugins.bad-override", "-o Global.output_dir=a=b"),
        ("epochs=1", "plugins.bad-config", "PaddleClas cannot read it, or apply epochs=1"),
    ],
)
def test_overrides_that_its_reader_does_not_take(checkout, override, code, part):
    with refused(code, part):
        run("train", override)


def test_what_is_resumed_fits_too(checkout, tmp_path):
    write(tmp_path, {**ARCH, "large_kernel_sizes": [5, 5]}, checkpoints="weights")
    with refused("plugins.not-resumable", "weights.pdopt is missing"):
        run("train")
    for suffix in (".pdopt", ".pdstates"):
        (tmp_path / f"weights{suffix}").write_bytes(b"\x80")
    with refused("checkpoints.other-architecture", "weights.pdparams", "mis-shaped"):
        run("train")
    (tmp_path / "weights.pdstates").write_text('{"step": 1}')
    with refused("plugins.not-resumable", "a checkpoint of ppreplk train"):
        run("train")
    write(tmp_path, checkpoints="weights")  # where nothing is trained, its weights are taken
    network = run("eval")
    for name, value in checkout.state_dict().items():
        assert (network.state_dict()[name].numpy() == value.numpy()).all(), name


@pytest.mark.parametrize("text", ["import no_such_package_at_all", "import sys; sys.exit('faiss is missing')"])
def test_a_checkout_that_cannot_be_imported_is_one_line(checkout, tmp_path, text):
    (tmp_path / "ppcls" / "engine" / "engine.py").write_text(text)
    with refused("plugins.broken-paddleclas", "requirements.txt", text[-8:-2] if "sys" in text else "no_such_package"):
        run("train")
    (tmp_path / "ppcls" / "arch" / "__init__.py").write_text(text)
    sys.modules.pop("ppcls.arch", None)
    with refused("plugins.broken-paddleclas", "PaddleClas is here, but cannot be imported"):
        plugin.register()
