"""PaddleSeg's UPerNet on a backbone of ours, with a converted checkpoint, against MMSegmentation's outputs.

tests/golden/README.md says how these were made. In an environment with paddleseg:
python -m pytest -s tests/plugins/paddleseg/test_seg_golden.py
"""

import json

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from helpers import GOLDEN, relative_difference

from ppreplk.plugins.paddleseg import register
from ppreplk.plugins.paddleseg.seg_names import PADDLESEG
from ppreplk.plugins.whole_checkpoints import convert_whole

pytest.importorskip("paddleseg.cvlibs", reason="paddleseg is not installed")

GRADIENTS = {"head.psp_modules.stages.": "decode_head.psp_modules.", "head.aux_conv.": "auxiliary_head.convs.0."}


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "tiny_upernet.npz"))


@pytest.fixture(params=["plain", "align"])
def case(request) -> str:
    """``align`` is with align_corners, on images whose sides are a multiple of 32 and 1."""
    return request.param


@pytest.fixture(params=["UPerNetRepLKNet", "UPerNetViTAdapter"])  # ours, and PaddleSeg's own
def model(request, case, tmp_path):
    """Built and loaded as PaddleSeg does it, without dropout."""
    from paddleseg.cvlibs import manager
    from paddleseg.utils import load_entire_model

    register()
    described = json.loads((GOLDEN / "tiny_upernet.json").read_text())
    backbone = {key: described["backbone"][key] for key in ("large_kernel_sizes", "layers", "channels", "small_kernel")}
    model = manager.MODELS[request.param](
        backbone=manager.BACKBONES["RepLKNet"](**backbone),
        backbone_indices=[0, 1, 2, 3],
        dropout_ratio=0.0,
        align_corners=case == "align",
        **({"aux_dropout_ratio": 0.0} if request.param == "UPerNetRepLKNet" else {}),
        **described["head"],
    )
    convert_whole(GOLDEN / "tiny_upernet.pth", tmp_path / "model.pdparams", PADDLESEG)
    assert set(paddle.load(str(tmp_path / "model.pdparams"))) == set(model.state_dict())
    load_entire_model(model, str(tmp_path / "model.pdparams"))
    return model


def test_logits_and_argmax(model, case, arrays):
    model.eval()
    [logits] = model(paddle.to_tensor(arrays[f"{case}/input"]))
    expected = arrays[f"{case}/logits"]
    difference = relative_difference(logits, expected)
    print(f"{case}: logits differ by {difference:.1e} of the largest")
    assert difference < 1e-5
    assert (logits.numpy().argmax(1) == expected.argmax(1)).all()
    assert len(np.unique(expected.argmax(1))) == expected.shape[1]  # every class is somewhere


def test_training_loss_and_every_gradient(model, case, arrays):
    model.train()
    main, auxiliary = model(paddle.to_tensor(arrays[f"{case}/train_input"]))
    labels = paddle.to_tensor(arrays[f"{case}/label"].astype("int64"))
    losses = [F.cross_entropy(logits, labels, axis=1) for logits in (main, auxiliary)]
    for loss, name in zip([losses[0], 0.4 * losses[1], losses[0] + 0.4 * losses[1]], ["main", "auxiliary", "train"]):
        expected = float(arrays[f"{case}/{name}_loss"])
        assert abs(float(loss) - expected) < 1e-5 * abs(expected), name
    (losses[0] + 0.4 * losses[1]).backward()
    prefix = f"{case}/grad/"
    expected = {name[len(prefix) :]: value for name, value in arrays.items() if name.startswith(prefix)}
    received = {_original(name): p.grad.numpy() for name, p in model.named_parameters() if not p.stop_gradient}
    assert set(expected) == {name for name in received if case == "plain" or not name.startswith("backbone.")}
    largest, worst = max(np.abs(value).max() for value in expected.values()), 0.0
    for name, value in expected.items():
        allowed = 5e-4 * np.abs(value).max() + 1e-6 * largest
        difference = np.abs(received[name] - value).max()
        assert difference <= allowed, name
        worst = max(worst, difference / allowed)
    print(f"{case}: gradients use {worst:.0%} of what golden/README.md allows")


def _original(name: str) -> str:
    """The name in the published file of a parameter, which needs no transpose here."""
    for ours, theirs in GRADIENTS.items():
        if name.startswith(ours):
            return name.replace(ours, theirs)
    name = name.replace("head.aux_conv_seg.", "auxiliary_head.conv_seg.")
    return name.replace("head.", "decode_head.", 1) if name.startswith("head.") else name
