"""The section Arch: synchronized batch normalization, and a paddleclas that is there, broken or missing."""

import paddle
import pytest
from helpers import random_images, randomise_batch_norms, relative_difference
from paddle import nn
from paddle.nn.layer.norm import _BatchNormBase

from ppreplk.config import ArchConfig
from ppreplk.models import arch
from ppreplk.nn import fold, reparameterize
from ppreplk.weights import load_weights


def section(name: str, **arguments) -> ArchConfig:
    sync = arguments.pop("use_sync_bn", False)
    return ArchConfig(where="Arch", arguments=arguments, name=name, class_num=5, use_sync_bn=sync)


@pytest.fixture
def two_gpus(monkeypatch):
    """What a process of a training on two GPUs sees. Nothing can run there, but networks can be built."""
    monkeypatch.setattr(arch, "processes", lambda: 2)
    monkeypatch.setattr(arch.paddle, "get_device", lambda: "gpu:0")


NETWORKS = [
    ("RepLKNet13T", {}),
    ("RepLKNet13T", {"merged": True}),
    ("MobileNetV2LK", {"kernel_size": 9, "small_kernel": 3, "width": 0.25}),
]


@pytest.mark.parametrize("name, arguments", NETWORKS)
def test_synchronized_networks_have_the_same_weights_and_fold_to_the_same_function(two_gpus, name, arguments):
    plain = arch.build_network(section(name, **arguments))
    synchronized = arch.build_network(section(name, use_sync_bn=True, **arguments))
    batch_norms = [layer for layer in plain.sublayers() if isinstance(layer, nn.BatchNorm2D)]
    kinds = [type(layer) for layer in synchronized.sublayers()]
    assert kinds.count(nn.SyncBatchNorm) == len(batch_norms) and nn.BatchNorm2D not in kinds
    shapes = [{key: tuple(value.shape) for key, value in model.state_dict().items()} for model in (plain, synchronized)]
    assert shapes[0] == shapes[1] and list(shapes[0]) == list(shapes[1])
    randomise_batch_norms(plain)
    load_weights(synchronized, {key: value.numpy() for key, value in plain.state_dict().items()}, "plain")
    images = random_images(1, 3, 32, 32)
    plain.eval()
    with paddle.no_grad():
        expected = plain(images)
        folded = fold(synchronized)
        assert not any(isinstance(layer, (nn.SyncBatchNorm, nn.BatchNorm2D)) for layer in folded.sublayers())
        folded.eval()
        assert relative_difference(folded(images), expected) < 1e-4


def test_synchronized_networks_merge_and_keep_settings_of_their_batch_norms(two_gpus):
    synchronized = arch.build_network(section("RepLKNet13T", use_sync_bn=True))
    plain = arch.build_network(section("RepLKNet13T"))
    settings = [
        [(layer._momentum, layer._epsilon) for layer in model.sublayers() if isinstance(layer, _BatchNormBase)]
        for model in (plain, synchronized)
    ]
    assert settings[0] == settings[1] and set(settings[0]) == {(0.9, 1e-5)}
    merged = reparameterize(synchronized)
    assert list(merged.state_dict()) == list(arch.build_network(section("RepLKNet13T", merged=True)).state_dict())
    assert [parameter.stop_gradient for parameter in synchronized.parameters()] == [
        parameter.stop_gradient for parameter in plain.parameters()
    ]


def test_one_process_normalizes_as_ever_and_says_nothing(caplog):
    caplog.set_level("INFO")
    model = arch.build_network(section("RepLKNet13T", use_sync_bn=True))
    assert not any(isinstance(layer, nn.SyncBatchNorm) for layer in model.sublayers()) and not caplog.records


def test_several_processes_on_a_cpu_are_told(monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(arch, "processes", lambda: 2)
    model = arch.build_network(section("RepLKNet13T", use_sync_bn=True))
    assert not any(isinstance(layer, nn.SyncBatchNorm) for layer in model.sublayers())
    assert "Arch.use_sync_bn has no effect on a CPU" in caplog.text
