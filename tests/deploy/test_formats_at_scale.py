"""RepLKNet-31B at its published sizes: every format equals the train form."""

import importlib.util

import numpy as np
import paddle
import pytest
from exports import LOGITS
from helpers import ROOT, randomise_batch_norms

from ppreplk.config import load_config
from ppreplk.deploy.formats import FORMATS
from ppreplk.models.arch import build_network

BOUND = 1e-5  # of the largest logit


@pytest.mark.slow
@pytest.mark.parametrize("recipe, side", [("replknet31b.yaml", 224), ("replknet31b_384.yaml", 384)])
def test_31b(tmp_path, recipe, side):
    """In the JSON program, in pdmodel and in ONNX, with everything installed that reads them."""
    settings = load_config(ROOT / "configs" / recipe, [LOGITS, "Global.device=cpu", "Arch.pretrained=False"])
    assert settings.Global.image_shape == [3, side, side]
    paddle.seed(0)
    network = build_network(settings.Arch)
    randomise_batch_norms(network)
    network.eval()
    images = np.random.default_rng(0).standard_normal((1, 3, side, side)).astype("float32")
    with paddle.no_grad():
        expected = network(paddle.to_tensor(images)).numpy()
    scale = np.abs(expected).max()
    assert np.isfinite(scale) and np.ptp(expected) > 0.01 * scale  # weights whose outputs say something
    found = {}
    for name in ("paddle", "pdmodel", *(["onnx"] if can_write_onnx() else [])):
        FORMATS[name].write(network, settings, tmp_path, ["fp32"])
        for runtime in FORMATS[name].runtimes(tmp_path, settings, ["fp32"]):
            found[runtime.name] = float(np.abs(runtime.run(images) - expected).max() / scale)
    print(f"{side}x{side}: largest logit {scale:.3g}, relative differences {found}")
    assert {"fp32 program", "pdmodel"} <= set(found) and max(found.values()) < BOUND, found


def can_write_onnx() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in ("onnx", "onnxruntime"))
