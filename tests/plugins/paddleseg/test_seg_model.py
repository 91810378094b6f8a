"""Our backbones and UperNet in PaddleSeg's registries."""

import copy
import inspect

import paddle
import pytest
from helpers import random_images, randomise_batch_norms, refused, relative_difference
from tiny_scenes import config, write, write_cityscapes

import ppreplk

pytest.importorskip("paddleseg.cvlibs", reason="paddleseg is not installed")

from paddleseg.cvlibs import SegBuilder, manager
from paddleseg.models import UPerNet, UPerNetViTAdapter

from ppreplk.plugins.paddleseg import register
from ppreplk.plugins.paddleseg.seg_checks import read_config
from ppreplk.plugins.paddleseg.seg_model import MODEL, load_network
from ppreplk.plugins.suites import errors_of_ours

NARROW = {"layers": [1, 1, 1, 1], "channels": [4, 6, 8, 10]}


@pytest.fixture(autouse=True)
def registered():
    register()


def build(**changes):
    """The model of the tiny configuration."""
    backbone = manager.BACKBONES["RepLKNet13T"](**NARROW, **changes.pop("backbone", {}))
    arguments = {"num_classes": 5, "backbone": backbone, "channels": 8, "aux_channels": 6, **changes}
    model = manager.MODELS[MODEL](**arguments)
    randomise_batch_norms(model)
    return model


def test_names_are_registered_once_and_ours_stay_ours():
    names = register()
    assert {"RepLKNet31B", "RepLKNet31L", "RepLKNetXL", "RepLKNet13T", "RepLKNet", MODEL} <= set(names)
    assert set(names) <= {*manager.BACKBONES.components_dict, *manager.MODELS.components_dict}
    before = dict(manager.BACKBONES.components_dict)
    assert register() == names and manager.BACKBONES.components_dict == before


def test_parameters_have_the_names_of_upernet_vit_adapter():
    model = build()
    backbone = manager.BACKBONES["RepLKNet13T"](**NARROW)
    theirs = UPerNetViTAdapter(5, backbone, [0, 1, 2, 3], channels=8, aux_channels=6)
    shapes = {name: value.shape for name, value in theirs.state_dict().items()}
    assert {name: value.shape for name, value in model.state_dict().items()} == shapes


def test_it_computes_what_upernet_vit_adapter_does_but_for_dropout():
    for align_corners in (False, True):
        model = build(align_corners=align_corners, aux_dropout_ratio=0.0, dropout_ratio=0.0)
        backbone = copy.deepcopy(model.backbone)
        theirs = UPerNetViTAdapter(
            5, backbone, [0, 1, 2, 3], channels=8, aux_channels=6, dropout_ratio=0.0, align_corners=align_corners
        )
        theirs.set_state_dict(model.state_dict())
        images = random_images(2, 3, 65, 97)
        for mode in ("eval", "train"):
            for each in (model, theirs):
                getattr(each, mode)()
            outputs = [each(images) for each in (model, theirs)]
            assert len(outputs[0]) == len(outputs[1]) == (1 if mode == "eval" else 2)
            for received, expected in zip(*outputs):
                assert relative_difference(received, expected) < 1e-5


def test_the_auxiliary_head_drops_channels_in_training_only():
    paddle.seed(0)
    model = build(aux_dropout_ratio=0.5)
    layer = model.head.aux_conv_seg
    x = paddle.ones([4, 6, 3, 3])
    layer.eval()
    assert (layer(x) == paddle.nn.functional.conv2d(x, layer.weight, layer.bias)).all()
    layer.train()
    assert len({tuple(row) for row in layer(x)[:, :, 0, 0].numpy().round(4).tolist()}) > 1


def test_stock_networks_take_our_backbones_too():
    model = UPerNet(5, manager.BACKBONES["RepLKNet13T"](**NARROW), [0, 1, 2, 3], channels=8)
    model.eval()
    assert model(random_images(1, 3, 64, 64))[0].shape == [1, 5, 64, 64]


def test_synchronized_batch_normalization_reaches_the_backbone():
    model = paddle.nn.SyncBatchNorm.convert_sync_batchnorm(build(backbone={"norm_intermediate_features": True}))
    assert not [name for name, layer in model.named_sublayers() if type(layer) is paddle.nn.BatchNorm2D]
    assert isinstance(model.backbone.stages[0].norm, paddle.nn.SyncBatchNorm)


def test_recomputation_gives_the_same_gradients_and_statistics():
    kept = {}
    plain = build(dropout_ratio=0.0, aux_dropout_ratio=0.0)
    for recomputed in (False, True):
        model = build(dropout_ratio=0.0, aux_dropout_ratio=0.0, backbone={"use_checkpoint": recomputed})
        model.set_state_dict(plain.state_dict())
        model.train()
        sum(output.square().mean() for output in model(random_images(2, 3, 64, 64))).backward()
        gradients = {name: each.grad.numpy() for name, each in model.named_parameters() if each.grad is not None}
        kept[recomputed] = {**gradients, **{n: v.numpy() for n, v in model.state_dict().items() if "_mean" in n}}
    assert len(kept[False]) == len(kept[True]) > 100
    for name, expected in kept[False].items():
        assert abs(kept[True][name] - expected).max() <= 1e-5 * max(abs(expected).max(), 1e-3), name


def test_features_of_xl_are_normalized():
    model = build(backbone={"norm_intermediate_features": True})
    assert model.backbone.stages[2].norm.weight.shape == [8]


def test_a_configuration_builds_it_and_errors_of_ours_stay_in_one_line(tmp_path):
    write_cityscapes(tmp_path / "data", 1, 1)
    content = config("Cityscapes", str(tmp_path / "data"), use_checkpoint=True)
    write(tmp_path / "tiny.yml", content)
    model = SegBuilder(read_config(str(tmp_path / "tiny.yml"))).model
    assert type(model).__name__ == MODEL and model.backbone.use_checkpoint
    for change, code, part in (
        (
            {"drop_path": 0.5},
            "config.unknown-key",
            "model.backbone.drop_path: unknown key; did you mean drop_path_rate?",
        ),
        ({"pretrained": "none.pth"}, "checkpoints.no-file", "none.pth"),
        ({"drop_path_rate": 7}, "models.bad-argument", "model.backbone: drop_path_rate"),
    ):
        content["model"]["backbone"].update(change)
        write(tmp_path / "tiny.yml", content)
        with refused(code, part), errors_of_ours():
            SegBuilder(read_config(str(tmp_path / "tiny.yml"))).model  # noqa: B018 - it is built when it is asked for
        for key in change:
            del content["model"]["backbone"][key]


def test_features_that_the_backbone_has_not_are_refused():
    with refused("plugins.bad-argument", "model.backbone_indices"):
        build(backbone_indices=[0, 1, 4])


def test_whole_networks_are_loaded_entirely_or_refused(tmp_path):
    model, other = build(), build()
    other.head.conv_seg.bias.set_value(paddle.arange(5, dtype="float32"))
    paddle.save(other.state_dict(), str(tmp_path / "whole.pdparams"))
    load_network(model, str(tmp_path / "whole.pdparams"))
    assert all((value == other.state_dict()[name]).all() for name, value in model.state_dict().items())
    state = other.state_dict()
    del state["head.conv_seg.bias"]
    paddle.save(state, str(tmp_path / "part.pdparams"))
    with refused("plugins.other-network", "1 (head.conv_seg.bias) missing"):
        load_network(model, str(tmp_path / "part.pdparams"))
    paddle.save(ppreplk.build_model("RepLKNet13T").state_dict(), str(tmp_path / "backbone.pdparams"))
    with refused("plugins.other-network", "model.backbone.pretrained"):
        load_network(model, str(tmp_path / "backbone.pdparams"))


def test_a_backbone_of_a_configuration_takes_keywords_alone():
    assert "pretrained" in inspect.signature(manager.BACKBONES["RepLKNet31B"]).parameters
