"""RepLKNet as a graph, from which its other forms are made."""

from __future__ import annotations

from paddle import nn

from ...nn.graph import Graph
from ...utils.errors import UserError
from .network import ConvFFN, RepLKBlock, RepLKNet


def graph(network: RepLKNet) -> Graph:
    """A classifier, in the form it is in.

    Raises:
        UserError: a backbone.
    """
    if network.out_indices is not None:
        raise UserError("only classifiers are described as a graph, this is a backbone", code="models.no-graph")
    description = Graph()
    x = description.images
    for layer in network.in_order():
        x = _add(description, x, layer)
    x = description.norm(x, network.norm)
    description.linear(description.pool(x), network.head)
    return description


def _add(description: Graph, x: int, layer: nn.Layer) -> int:
    if isinstance(layer, RepLKBlock):
        y = description.conv_bn(description.norm(x, layer.prelkb_bn), layer.pw1)
        y = description.activation(description.reparam_conv(y, layer.large_kernel), layer.lk_nonlinear)
    elif isinstance(layer, ConvFFN):
        y = description.conv_bn(description.norm(x, layer.preffn_bn), layer.pw1)
        y = description.activation(y, layer.nonlinear)
    else:
        return description.conv_bn(x, layer)
    y = description.drop_path(description.conv_bn(y, layer.pw2), layer.drop_path)
    return description.add(x, y)
