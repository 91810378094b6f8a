"""A network written down as a short list of nodes, from which other forms of it are made.

An architecture describes itself once, in the form and the mode it is in: train form, merged or folded, training or
evaluation. Programs, files and twins in other frameworks are made from that description, so none of them knows an
architecture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

from paddle import nn

from ..utils.errors import UserError
from .blocks import ConvBN, DropPath
from .protocols import ConvLayer
from .reparam_conv import ReparamDepthwiseConv

INPUT = "input"
CONV = "conv"
NORM = "norm"
ACTIVATION = "activation"
ADD = "add"
DROP_PATH = "drop_path"
POOL = "pool"
LINEAR = "linear"
ACTIVATIONS: dict[type, str] = {nn.ReLU: "relu", nn.ReLU6: "relu6", nn.GELU: "gelu"}  # gelu with the error function


@dataclass(frozen=True)
class Node:
    """One operation.

    Args:
        op: one of the names above.
        inputs: numbers of earlier nodes.
        layer: of ``conv``, ``norm``, ``drop_path`` and ``linear``: the layer that computes it.
        kind: of ``activation``: ``"relu"``, ``"relu6"`` or ``"gelu"``.
    """

    op: str
    inputs: tuple[int, ...] = ()
    layer: Any = None
    kind: Optional[str] = None


class Graph:
    """Nodes in the order of execution. The first is the image batch, the last is the output.

    Every method adds nodes and returns the number of the last one. Layers that compute nothing any more, such as an
    identity left by folding, add none.

    >>> from paddle import nn
    >>> graph = Graph()
    >>> x = graph.activation(graph.images, nn.ReLU())
    >>> [node.op for node in graph.nodes]
    ['input', 'activation']
    """

    images = 0

    def __init__(self) -> None:
        self.nodes = [Node(INPUT)]

    def _added(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1

    def conv(self, x: int, layer: ConvLayer) -> int:
        """A :class:`~ppreplk.nn.Conv2D` or :class:`~ppreplk.nn.DepthwiseConv2D`."""
        y = self._added(Node(CONV, (x,), layer))
        return self._added(Node(ACTIVATION, (y,), kind="relu")) if layer.relu else y

    def norm(self, x: int, layer: nn.Layer) -> int:
        """A batch normalization."""
        return x if isinstance(layer, nn.Identity) else self._added(Node(NORM, (x,), layer))

    def activation(self, x: int, layer: nn.Layer) -> int:
        """ReLU, ReLU6 or GELU.

        Raises:
            UserError: another activation.
        """
        if isinstance(layer, nn.Identity):
            return x
        kind = ACTIVATIONS.get(type(layer))
        if kind is None:
            known = ", ".join(activation.__name__ for activation in ACTIVATIONS)
            raise UserError(
                f"a graph holds the activations {known}, not {type(layer).__name__}", code="nn.unknown-activation"
            )
        return self._added(Node(ACTIVATION, (x,), kind=kind))

    def add(self, x: int, y: int) -> int:
        """The sum of two nodes."""
        return self._added(Node(ADD, (x, y)))

    def drop_path(self, x: int, layer: DropPath) -> int:
        """Stochastic depth in training mode. In eval mode, or at the rate 0, it is the identity and adds no node."""
        return self._added(Node(DROP_PATH, (x,), layer)) if layer.training and layer.rate else x

    def pool(self, x: int) -> int:
        """Means over the pixels: (N, C, H, W) -> (N, C)."""
        return self._added(Node(POOL, (x,)))

    def linear(self, x: int, layer: nn.Linear) -> int:
        """(N, C) -> (N, K)."""
        return self._added(Node(LINEAR, (x,), layer))

    def conv_bn(self, x: int, layer: ConvBN) -> int:
        """Convolution, batch normalization unless it is folded, activation."""
        y = self.conv(x, layer.conv)
        return self.activation(y if layer.is_fused else self.norm(y, layer.bn), layer.nonlinear)

    def reparam_conv(self, x: int, layer: ReparamDepthwiseConv) -> int:
        """The merged convolution, or the sum of the branches."""
        if layer.is_repped:
            return self.conv(x, layer.lkb_reparam)
        y = self.conv_bn(x, layer.lkb_origin)
        return y if layer.small_kernel is None else self.add(y, self.conv_bn(x, layer.small_conv))
