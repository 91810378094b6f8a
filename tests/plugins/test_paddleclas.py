"""Our networks inside PaddleClas."""

import subprocess
import sys

import paddle
import pytest
from helpers import assert_one_line_and_exit_2, random_images, relative_difference

from ppreplk.plugins.paddleclas import register

pytest.importorskip("paddleclas")


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


def test_without_a_checkout_the_engine_is_missed_in_one_line(tmp_path):
    command = [sys.executable, "-m", "ppreplk.plugins.paddleclas", "train", "-c", "none.yaml"]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert_one_line_and_exit_2(process, "PaddleClas's engine is only in a source checkout", code="plugins.no-checkout")


# What a source checkout has at its top, as far as it is used here.
CHECKOUT = {
    "paddleclas.py": "from .ppcls.arch import backbone",
    "ppcls/arch/__init__.py": "",
    "ppcls/utils/config.py": """
from types import SimpleNamespace

def get_config(path, overrides, show):
    return SimpleNamespace(path=path, overrides=overrides)
""",
    "ppcls/engine/engine.py": """
from ppcls import arch

class Engine:
    def __init__(self, config, mode):
        self.config = config

    def train(self):
        network = arch.RepLKNet13T(class_num=7)
        print(self.config.path, self.config.overrides, network.head.weight.shape[1])
""",
}


def test_in_a_checkout_its_engine_gets_the_configuration_and_our_networks(tmp_path):
    for name, text in CHECKOUT.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    command = [sys.executable, "-m", "ppreplk.plugins.paddleclas", "train", "-c", "some.yaml", "-o", "Global.epochs=3"]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert_one_line_and_exit_2(process, "no configuration file at some.yaml", code="plugins.no-config")
    (tmp_path / "some.yaml").touch()
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-1] == "some.yaml ['Global.epochs=3'] 7"
