"""A new architecture is one file: a small one trains, folds, exports, is counted and has its receptive field drawn."""

import json

import numpy as np
import paddle
import pytest
from helpers import (
    colour_config,
    random_images,
    randomise_batch_norms,
    refused,
    relative_difference,
    require_channels_last_operators,
    run_python,
    small_network,
    write_config,
)
from paddle import nn

import ppreplk
from ppreplk.checkpoints.translate import translate
from ppreplk.config import load_config
from ppreplk.deploy.export import export
from ppreplk.deploy.infer import infer
from ppreplk.models import registry
from ppreplk.nn import ReparamDepthwiseConv, batch_norm, conv_bn, fold, fuse_bn_linear
from ppreplk.nn.graph import Graph
from ppreplk.training import train


class Plain(nn.Layer):
    """The throw-away network: conv, re-parameterizable depthwise layer, norm, pool, linear."""

    def __init__(self, class_num: int = 1000, channels: int = 8, depthwise_impl: str = "auto"):
        super().__init__()
        self.stem = conv_bn(3, channels, 3, stride=4, activation="relu")
        self.large = ReparamDepthwiseConv(channels, 7, small_kernel=3, impl=depthwise_impl)
        self.norm = batch_norm(channels)
        self.pool = nn.AdaptiveAvgPool2D(1)
        self.head = nn.Linear(channels, class_num)

    def forward(self, x):
        return self.head(self.pool(self.norm(self.large(self.stem(x)))).flatten(1))

    def fuse_bn(self):
        if isinstance(self.norm, nn.BatchNorm2D):
            fuse_bn_linear(self.norm, self.head)
            self.norm = nn.Identity()


def plain_graph(network: Plain) -> Graph:
    graph = Graph()
    x = graph.reparam_conv(graph.conv_bn(graph.images, network.stem), network.large)
    graph.linear(graph.pool(graph.norm(x, network.norm)), network.head)
    return graph


@pytest.fixture
def plain(colour_project, monkeypatch):
    """The architecture is registered, and a configuration trains it."""
    architecture = registry.register(registry.Architecture("Plain", Plain, {"PlainLK": {}}, graph=plain_graph))
    config = colour_config()
    config["Arch"] = {"name": "PlainLK", "class_num": 3, "channels": 12}
    config["Optimizer"]["lr"]["learning_rate"] = "5e-2"
    write_config(colour_project / "config.yaml", config)
    monkeypatch.chdir(colour_project)
    yield colour_project
    registry.unregister(architecture)


def test_it_trains_exports_and_predicts(plain):
    state = train(load_config("config.yaml", ["Global.epochs=6"]))
    assert state.best_metric == 1.0
    trained = "Global.pretrained_model=output/best_model"
    export(load_config("config.yaml", [trained]))
    program = [prediction.class_ids[0] for prediction in infer(load_config("config.yaml"), "inference")]
    weights = [prediction.class_ids[0] for prediction in infer(load_config("config.yaml", [trained]))]
    assert program == weights
    assert "batch_norm" not in (plain / "inference" / "inference.json").read_text()


def test_its_program_may_be_channels_last(plain):
    require_channels_last_operators()
    train(load_config("config.yaml", ["Global.epochs=1"]))
    overrides = ["Global.pretrained_model=output/best_model", "Global.export_runtime=channels_last"]
    export(load_config("config.yaml", overrides))
    assert "ppreplk_" in (plain / "inference" / "inference.json").read_text()
    assert len(list(infer(load_config("config.yaml"), "inference"))) == 24


def test_it_is_folded_counted_and_differentiated(plain):
    model = ppreplk.build_model("PlainLK", class_num=4)
    randomise_batch_norms(model)
    model.eval()
    images = random_images(2, 3, 32, 32)
    folded = fold(model)
    assert not any(isinstance(layer, nn.BatchNorm2D) for layer in folded.sublayers())
    assert relative_difference(folded(images), model(images)) < 1e-5
    counted = ppreplk.complexity.count(folded, (1, 3, 32, 32))
    assert counted.macs == 8 * 8 * 8 * (27 + 49) + 8 * 4
    assert ppreplk.erf.contribution_map(model, images).shape == (32, 32)


def test_what_it_does_not_tell_is_refused(plain):
    model = ppreplk.build_model("PlainLK")
    with refused("models.no-layer-ids", "Plain"):
        ppreplk.optim.layer_ids(model)
    with refused("models.not-recognised", "file"):
        registry.recognise({name: value.numpy() for name, value in model.state_dict().items()}, "file")
    with refused("config.unknown-key", "channel"):
        train(load_config("config.yaml", ["Arch.channel=3"]))


def test_the_head_that_an_architecture_names_is_transposed_from_pytorch():
    state = {"fc.weight": np.zeros((5, 8)), "fc.bias": np.zeros(5), "bn.running_mean": np.zeros(8)}
    assert translate(state, "file").state["fc.weight"].shape == (5, 8)
    other = registry.register(registry.Architecture("Other", Plain, {"OtherLK": {}}, head=("fc.weight", "fc.bias")))
    try:
        assert translate(state, "file").state["fc.weight"].shape == (8, 5)
    finally:
        registry.unregister(other)


def test_a_duplicate_name_raises(plain):
    with pytest.raises(KeyError, match="PlainLK"):
        registry.register(registry.Architecture("Other", Plain, {"PlainLK": {}}))


def test_networks_know_their_architecture():
    assert registry.architecture_of(small_network()).name == "RepLKNet"
    assert registry.architecture_of(ppreplk.build_model("MobileNetV2LK")).name == "MobileNetV2"
    assert registry.architecture_of(nn.Linear(1, 1)) is None
    with refused("models.no-graph", "Linear", "RepLKNet"):
        registry.graph_of(nn.Linear(1, 1))


def run_graph(graph: Graph, images: paddle.Tensor) -> np.ndarray:
    """The reference: every node by itself, with Paddle's operators."""
    functions = {"relu": nn.functional.relu, "relu6": nn.functional.relu6, "gelu": nn.functional.gelu}
    values = [images]
    for node in graph.nodes[1:]:
        inputs = [values[x] for x in node.inputs]
        if node.op == "activation":
            values.append(functions[node.kind](*inputs))
        elif node.op == "add":
            values.append(inputs[0] + inputs[1])
        elif node.op == "pool":
            values.append(inputs[0].mean(axis=(2, 3)))
        else:
            values.append(node.layer(*inputs))
    return values[-1].numpy()


NETWORKS = {
    "RepLKNet": lambda: small_network(drop_path_rate=0.3),
    "RepLKNet, no small kernel": lambda: small_network(small_kernel=None),
    "RepLKNet, drop path": lambda: small_network(drop_path_rate=0.3),
    "MobileNetV2": lambda: ppreplk.build_model("MobileNetV2LK", width=0.25, kernel_size=5, small_kernel=3, class_num=5),
}


@pytest.mark.parametrize("form", ["train", "merged", "folded"])
@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_graphs_compute_what_the_network_computes(network, form):
    paddle.seed(0)
    model = network()
    randomise_batch_norms(model)
    model.eval()
    images = random_images(2, 3, 48, 40)
    expected = model(images)
    model = {"train": lambda m: m, "merged": ppreplk.reparameterize, "folded": fold}[form](model)
    graph = registry.graph_of(model)
    assert relative_difference(run_graph(graph, images), expected) < 1e-5
    assert any(node.op == "norm" for node in graph.nodes) == (form != "folded")


def test_graphs_hold_drop_path_in_training_mode_only():
    model = small_network(drop_path_rate=0.3)
    rates = [node.layer.rate for node in registry.graph_of(model).nodes if node.op == "drop_path"]
    np.testing.assert_allclose(rates, np.repeat([0.1, 0.2, 0.3], 2))  # none at the rate 0 of the first pair
    assert not any(node.op == "drop_path" for node in registry.graph_of(fold(model)).nodes)


def test_running_a_program_imports_no_network_code():
    code = (
        "import sys, json; import ppreplk.deploy.predict; "
        "print(json.dumps([m for m in sys.modules if m.startswith(('ppreplk.models', 'ppreplk.nn', 'ppreplk.training', "
        "'ppreplk.checkpoints'))]))"
    )
    assert json.loads(run_python(code)) == []
