"""Our networks as PaddleDetection's backbones."""

import numpy as np
import paddle
import pytest
from detection_helpers import open_suite
from helpers import random_images, randomise_batch_norms, relative_difference

open_suite()  # skips the module without PaddleDetection

from ppdet.core.workspace import create, global_config  # noqa: E402

import ppreplk  # noqa: E402
from ppreplk.plugins.paddledetection import register  # noqa: E402
from ppreplk.utils.errors import UserError  # noqa: E402


@pytest.fixture
def make(monkeypatch):
    """Builds a backbone from its section of a configuration."""

    def build(name="RepLKNet13T", **section):
        for key in list(global_config[name]):  # what another test has read
            monkeypatch.delitem(global_config[name], key)
        for key, value in section.items():
            monkeypatch.setitem(global_config[name], key, value)
        paddle.seed(0)
        return create(name)

    return build


def test_every_network_is_registered_once():
    names = register()
    assert register() == names
    for name in ("RepLKNet", "RepLKNet31B", "RepLKNet31L", "RepLKNetXL", "RepLKNet3B", "RepLKNet7B", "RepLKNet13B"):
        assert name in names and name in global_config


def test_a_backbone_gives_feature_maps_with_widths_and_strides(make):
    backbone = make(out_indices=[1, 2, 3])
    backbone.eval()
    images = random_images(1, 3, 64, 64)
    features = backbone({"image": images})
    assert [(shape.channels, shape.stride) for shape in backbone.out_shape] == [(32, 8), (64, 16), (128, 32)]
    for feature, shape in zip(features, backbone.out_shape):
        assert feature.shape == [1, shape.channels, 64 // shape.stride, 64 // shape.stride]
    plain = ppreplk.build_model("RepLKNet13T", out_indices=[1, 2, 3])
    plain.set_state_dict(backbone.state_dict())
    plain.eval()
    assert relative_difference(features[2], plain(images)[2]) < 1e-6


def test_the_architecture_takes_all_arguments(make):
    section = {"large_kernel_sizes": [9, 7], "layers": [1, 1], "channels": [4, 6], "small_kernel": 3}
    backbone = make("RepLKNet", **section)
    assert [shape.channels for shape in backbone.out_shape] == [4, 6]


@pytest.mark.parametrize(
    "section, code",
    [
        ({"drop_path": 0.1}, "config.unknown-key"),
        ({"drop_path_rate": "much"}, "config.wrong-type"),
        ({"drop_path_rate": 1.5}, None),
        ({"pretrained": "no/such/file"}, "checkpoints.no-file"),
        ({"pretrained": 3}, "plugins.bad-path"),
        ({"out_indices": [7]}, None),
    ],
)
def test_a_wrong_section_is_one_line(make, section, code):
    with pytest.raises(UserError) as caught:
        make(**section)
    assert "\n" not in str(caught.value)
    assert code is None or caught.value.code == code


def test_weights_of_a_classifier_are_loaded(make, tmp_path):
    classifier = ppreplk.build_model("RepLKNet13T", class_num=7)
    randomise_batch_norms(classifier)
    paddle.save(classifier.state_dict(), str(tmp_path / "classifier.pdparams"))
    backbone = make(pretrained=str(tmp_path / "classifier.pdparams"))
    classifier.eval(), backbone.eval()
    images = random_images(1, 3, 64, 64)
    last = backbone({"image": images})[-1]
    assert relative_difference(last, classifier.forward_features(images)) < 1e-6


def test_recomputation_changes_no_gradient(make):
    images = random_images(2, 3, 64, 64)
    gradients = []
    for use in (False, True):
        backbone = make(use_checkpoint=use)
        randomise_batch_norms(backbone)
        backbone.train()
        sum(feature.square().mean() for feature in backbone({"image": images})).backward()
        gradients.append({name: each.grad.numpy() for name, each in backbone.named_parameters() if each.trainable})
    assert len(gradients[0]) > 50
    for name, gradient in gradients[0].items():
        assert np.allclose(gradient, gradients[1][name], atol=1e-6 + 1e-5 * np.abs(gradient).max()), name


def test_feature_maps_are_normalized_where_asked(make):
    backbone = make(norm_intermediate_features=True)
    assert isinstance(backbone.stages[0].norm, paddle.nn.BatchNorm2D)
    converted = paddle.nn.SyncBatchNorm.convert_sync_batchnorm(backbone)  # as PaddleDetection does on several cards
    kinds = {type(layer) for layer in converted.sublayers() if "BatchNorm" in type(layer).__name__}
    assert kinds == {paddle.nn.SyncBatchNorm}


def test_a_folded_backbone_says_the_same(make):
    backbone = make(norm_intermediate_features=True)
    randomise_batch_norms(backbone)
    backbone.eval()
    folded = ppreplk.fold(backbone)
    folded.eval()
    assert not [layer for layer in folded.stages.sublayers() if isinstance(layer, paddle.nn.BatchNorm2D)]
    inputs = {"image": random_images(1, 3, 64, 64)}
    for one, other in zip(folded(inputs), backbone(inputs)):
        assert relative_difference(one, other) < 1e-5
    assert [shape.stride for shape in folded.out_shape] == [4, 8, 16, 32]


def test_a_backbone_runs_in_a_static_graph(make):
    backbone = make()
    randomise_batch_norms(backbone)
    backbone.eval()
    images = random_images(1, 3, 64, 64)
    expected = backbone({"image": images})[-1].numpy()
    specification = [{"image": paddle.static.InputSpec([None, 3, None, None], "float32", "image")}]
    static = paddle.jit.to_static(backbone, input_spec=specification, full_graph=True)
    assert relative_difference(static({"image": images})[-1], expected) < 1e-4
