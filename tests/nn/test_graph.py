"""Graphs of small networks, and what the channels-last operators make of them."""

import paddle
import pytest
from helpers import random_images, refused, relative_difference, require_channels_last_operators
from paddle import nn

from ppreplk.nn import Conv2D, ConvBN, DepthwiseConv2D, DropPath, batch_norm
from ppreplk.nn.channels_last import ChannelsLastNetwork
from ppreplk.nn.graph import Graph


def conv(channels: int = 4) -> Conv2D:
    return Conv2D(channels, 4, 1, bias=True)


def with_head(graph: Graph, x: int) -> Graph:
    graph.linear(graph.pool(x), nn.Linear(4, 3))
    return graph


def test_layers_that_compute_nothing_add_no_node():
    graph = Graph()
    assert graph.norm(graph.images, nn.Identity()) == graph.images
    assert graph.activation(graph.images, nn.Identity()) == graph.images
    assert graph.drop_path(graph.images, DropPath(0.0)) == graph.images
    assert [node.op for node in graph.nodes] == ["input"]


def test_an_unknown_activation_is_refused():
    graph = Graph()
    with refused("nn.unknown-activation", "Sigmoid", "ReLU, ReLU6, GELU"):
        graph.activation(graph.images, nn.Sigmoid())


def test_a_fused_relu_is_a_node():
    layer = DepthwiseConv2D(4, 3, bias=True)
    layer.relu = True
    graph = Graph()
    graph.conv(graph.images, layer)
    assert [(node.op, node.kind) for node in graph.nodes] == [("input", None), ("conv", None), ("activation", "relu")]


def not_folded() -> Graph:
    graph = Graph()
    return with_head(graph, graph.conv_bn(graph.images, ConvBN(conv(3))))


def norm_between() -> Graph:
    """The numbers of a convolution and of its activation enclose that of a norm."""
    graph = Graph()
    y = graph.conv(graph.images, conv(3))
    normed = graph.norm(graph.images, batch_norm(3))
    return with_head(graph, graph.add(graph.activation(y, nn.ReLU()), graph.conv(normed, conv(3))))


def two_users() -> Graph:
    """The activation cannot be part of the convolution, whose output is needed twice."""
    graph = Graph()
    y = graph.conv(graph.images, conv(3))
    return with_head(graph, graph.add(graph.activation(y, nn.ReLU()), y))


def no_head() -> Graph:
    graph = Graph()
    graph.pool(graph.conv(graph.images, conv(3)))
    return graph


@pytest.mark.parametrize(
    "graph, part",
    [(not_folded, "norm"), (norm_between, "norm"), (two_users, "activation relu"), (no_head, "linear head")],
)
def test_what_the_channels_last_operators_do_not_compute_is_refused(graph, part):
    with refused("nn.not-channels-last", part):
        ChannelsLastNetwork(graph())


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("activation", [nn.Identity, nn.ReLU, nn.ReLU6, nn.GELU])
def test_residuals_of_either_side(first, activation):
    require_channels_last_operators()
    paddle.seed(0)
    stem, block, head = conv(3), conv(), nn.Linear(4, 3)
    graph = Graph()
    x = graph.conv(graph.images, stem)
    y = graph.conv(x, block)
    out = graph.activation(graph.add(x, y) if first else graph.add(y, x), activation())
    graph.linear(graph.pool(out), head)
    images = random_images(2, 3, 8, 6)
    with paddle.no_grad():
        expected = head(activation()(stem(images) + block(stem(images))).mean(axis=(2, 3)))
        assert relative_difference(ChannelsLastNetwork(graph)(images), expected) < 1e-5
