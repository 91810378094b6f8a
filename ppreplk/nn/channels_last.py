"""A folded network in channels-last operators of this package, for inference on CPUs.

Every tensor between the images and the pooled features is (N, H, W, C), in float32 or bfloat16. Weights stay plain
float32 parameters; the program packs them when it is loaded. In eager mode every call packs them, unless it is told to
keep what it packed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Optional, TypeVar

import paddle
import paddle.nn.functional as F
from paddle import nn

from ..ops import cpu, onednn
from ..utils.errors import UserError
from .graph import ACTIVATION, ADD, CONV, INPUT, LINEAR, POOL, Graph, Node
from .protocols import ConvLayer

# The smallest depthwise kernel, by activation, for which the C++ operator is faster than oneDNN. It has no relu6, which
# takes a pass of its own.
MIN_LARGE_KERNEL = {"none": 5, "relu": 5, "relu6": 13}

Packed = TypeVar("Packed")


class InputRange(NamedTuple):
    """The least and the largest value of a layer's input."""

    low: float
    high: float


class Packing(nn.Layer):
    """A layer that packs its weights for the size of its map.

    Args:
        keep: in eager mode, keep what was packed until a map of another size comes; the weights must not change then.
    """

    def __init__(self, keep: bool):
        super().__init__()
        self.keep = keep
        self.kept: tuple[list[int], Any] = ([], None)

    def packed_for(self, x: paddle.Tensor, pack: Callable[[int, int], Packed]) -> Packed:
        """What ``pack`` makes for the height and width of x (N, H, W, C)."""
        if not self.keep or not paddle.in_dynamic_mode():
            return pack(*x.shape[1:3])
        size, packed = self.kept
        if packed is None or size != x.shape[1:3]:
            packed = pack(*x.shape[1:3])
            self.kept = (x.shape[1:3], packed)
        return packed

    def forget(self) -> None:
        """Pack again at the next call."""
        self.kept = ([], None)


class ConvNHWC(Packing):
    """A convolution with bias, then a residual, then an activation. (N, H, W, in) -> (N, H', W', out).

    Args:
        conv: with bias; its parameters are shared.
        activation: ``"none"``, ``"relu"``, ``"relu6"`` or ``"gelu"``.
        precision: one of :data:`ppreplk.ops.onednn.PRECISIONS` but ``"int8"``.
        keep: see :class:`Packing`.

    Attributes:
        input_range: None, or for a pointwise convolution of 8-bit integers, see :mod:`ppreplk.nn.quantization`.
    """

    def __init__(self, conv: ConvLayer, activation: str, precision: str, keep: bool = False):
        super().__init__(keep)
        self.weight, self.bias = conv.weight, conv.bias
        self.kernel_size, self.stride, self.groups = conv.kernel_size, conv.stride, conv.groups
        self.activation = activation
        self.precision = precision
        self.input_range: Optional[InputRange] = None

    def forward(self, x: paddle.Tensor, residual: Optional[paddle.Tensor] = None) -> paddle.Tensor:
        packed = self.packed_for(x, self.pack)
        return onednn.conv(x, packed, self.bias, residual, self.kernel_size, self.stride, self.groups, self.activation)

    def pack(self, height: int, width: int) -> paddle.Tensor:
        """The weights, for maps of this size."""
        if self.input_range is not None:
            return onednn.pack_int8(self.weight, height, width, *self.input_range)
        return onednn.pack(self.weight, height, width, self.stride, self.groups, self.precision)


class FeedForwardNHWC(Packing):
    """x + second(gelu(first(x))) for two pointwise convolutions with bias. (N, H, W, C) -> (N, H, W, C).

    Args:
        first, second: their parameters are shared.
        precision: one of :data:`ppreplk.ops.onednn.PRECISIONS` but ``"int8"``.
        keep: see :class:`Packing`.

    Attributes:
        input_ranges: None, or of both convolutions, which multiply 8-bit integers then.
    """

    def __init__(self, first: ConvLayer, second: ConvLayer, precision: str, keep: bool = False):
        super().__init__(keep)
        self.weight1, self.bias1 = first.weight, first.bias
        self.weight2, self.bias2 = second.weight, second.bias
        self.precision = precision
        self.input_ranges: Optional[tuple[InputRange, InputRange]] = None

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        packed1, packed2 = self.packed_for(x, self.pack)
        return onednn.feed_forward(x, packed1, self.bias1, packed2, self.bias2)

    def pack(self, height: int, width: int) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Both weights, for maps of this size."""
        if self.input_ranges is not None:
            first, second = self.input_ranges
            return (
                onednn.pack_int8(self.weight1, height, width, *first),
                onednn.pack_int8(self.weight2, height, width, *second),
            )
        return (
            onednn.pack(self.weight1, height, width, 1, 1, self.precision),
            onednn.pack(self.weight2, height, width, 1, 1, self.precision),
        )


class DepthwiseNHWC(Packing):
    """A depthwise convolution of stride 1 with bias, then an activation, in float32 arithmetic.

    (N, H, W, C) -> (N, H, W, C).

    Args:
        conv: with bias; its parameters are shared.
        activation: one of :data:`MIN_LARGE_KERNEL`.
        keep: see :class:`Packing`.
    """

    def __init__(self, conv: ConvLayer, activation: str, keep: bool = False):
        super().__init__(keep)
        self.weight, self.bias = conv.weight, conv.bias
        self.activation = activation

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        packed = self.packed_for(x, lambda h, w: cpu.pack(self.weight, h, w))
        y = cpu.packed_conv2d_nhwc(x, self.weight, packed, self.bias, relu=self.activation != "none")
        # Paddle has no relu6 of bfloat16 on CPUs
        return paddle.minimum(y, paddle.full([1], 6.0, y.dtype)) if self.activation == "relu6" else y


class ChannelsLastNetwork(nn.Layer):
    """A folded classifier in channels-last operators. (N, C, H, W) float32 -> (N, class_num) float32.

    Args:
        graph: of a network that :func:`ppreplk.fold` returned; its parameters are shared.
        precision: one of :data:`ppreplk.ops.onednn.PRECISIONS` but ``"int8"``, which :mod:`ppreplk.nn.quantization`
            makes of ``"bf16"``. With that, tensors are bfloat16 and bfloat16 numbers are multiplied; with
            ``"fp32-bf16x3"``, pointwise convolutions multiply float32 tensors in two bfloat16 parts where the processor
            has AMX. Sums are float32 in each.
        keep: for eager mode, see :class:`Packing`.

    Raises:
        UserError: the network holds something that these operators do not compute.
    """

    def __init__(self, graph: Graph, precision: str = "fp32", keep: bool = False):
        super().__init__()
        self.precision = precision
        self.steps: list[tuple[int, int, Optional[int]]] = []  # result, input, residual: numbers of nodes
        self.parts = nn.LayerList()
        head: Optional[nn.Linear] = None
        fused: set[int] = set()  # nodes that are computed together with the convolution before them
        for number, node in enumerate(graph.nodes):
            if node.op == CONV and number not in fused:
                one = _fused(graph, number)
                following = _feed_forward(graph, one)
                if following is None:
                    self.parts.append(_lowered(node.layer, one.activation, one.residual, precision, keep))
                    self.steps.append((one.result, node.inputs[0], one.residual))
                    fused.update(one.nodes)
                else:
                    other = graph.nodes[following.nodes[0]].layer
                    self.parts.append(FeedForwardNHWC(node.layer, other, precision, keep))
                    self.steps.append((following.result, node.inputs[0], None))
                    fused.update(one.nodes + following.nodes)
            elif node.op == LINEAR and graph.nodes[node.inputs[0]].op == POOL:
                head = node.layer
                self.pooled = graph.nodes[node.inputs[0]].inputs[0]
            elif node.op not in (INPUT, POOL) and number not in fused:
                raise _not_computed(f"compute no {_described(node)} at this place")
        if head is None:
            raise _not_computed("serve classifiers with a linear head behind the pooling")
        self.head = head
        last_use = {number: step for step, numbers in enumerate(self.steps) for number in numbers if number is not None}
        del last_use[self.pooled]
        self.done: list[list[int]] = [[] for _ in self.steps]  # values that nobody needs after a step
        for number, step in last_use.items():
            self.done[step].append(number)
        self.eval()

    def forward(self, images: paddle.Tensor) -> paddle.Tensor:
        values = {Graph.images: onednn.images(images, self.precision == "bf16")}
        for part, (result, x, residual), done in zip(self.parts, self.steps, self.done):
            values[result] = part(values[x]) if residual is None else part(values[x], values[residual])
            for number in done:
                del values[number]
        return F.linear(onednn.pool(values[self.pooled]), self.head.weight, self.head.bias)


class Fused(NamedTuple):
    """A convolution and what is computed together with it.

    Args:
        nodes: their numbers, the convolution's first.
        residual: the node that is added, or None.
        activation: behind that.
    """

    nodes: list[int]
    residual: Optional[int]
    activation: str

    @property
    def result(self) -> int:
        """The node whose value is computed."""
        return self.nodes[-1]


def _fused(graph: Graph, number: int) -> Fused:
    """The convolution with this number, and as much of what follows as can be computed together with it."""
    result, residual, activation = number, None, "none"
    nodes = [number]
    while activation == "none":
        users = _users(graph, result)
        if len(users) != 1:
            break
        following, node = users[0], graph.nodes[users[0]]
        if node.op == ADD and residual is None:
            others = [x for x in node.inputs if x != result]
            if len(others) != 1 or others[0] > number:  # computed later: the sum belongs to that convolution
                break
            residual = others[0]
        elif node.op == ACTIVATION:
            activation = str(node.kind)
        else:
            break
        result = following
        nodes.append(following)
    return Fused(nodes, residual, activation)


def _users(graph: Graph, number: int) -> list[int]:
    return [user for user, node in enumerate(graph.nodes) if number in node.inputs]


def _feed_forward(graph: Graph, first: Fused) -> Optional[Fused]:
    """The second convolution of a feed-forward block that begins with this one, or None if none does."""
    users = _users(graph, first.result)
    conv = graph.nodes[first.nodes[0]]
    if first.activation != "gelu" or first.residual is not None or len(users) != 1 or not _is_pointwise(conv):
        return None
    if not _is_pointwise(graph.nodes[users[0]]):
        return None
    second = _fused(graph, users[0])
    is_residual = second.residual == conv.inputs[0] and second.activation == "none"
    return second if is_residual else None


def _is_pointwise(node: Node) -> bool:
    return node.op == CONV and node.layer.kernel_size == node.layer.stride == node.layer.groups == 1


def _lowered(conv: ConvLayer, activation: str, residual: Optional[int], precision: str, keep: bool) -> nn.Layer:
    if conv.dilation != 1:
        raise _not_computed(f"have no dilation, a layer has {conv.dilation}")
    is_depthwise = conv.groups == conv.in_channels == conv.out_channels
    is_large = conv.kernel_size >= MIN_LARGE_KERNEL.get(activation, math.inf)
    is_served = conv.stride == 1 and residual is None and cpu.serves(conv.weight.dtype, conv.kernel_size)
    if is_depthwise and is_large and is_served:
        return DepthwiseNHWC(conv, activation, keep)
    return ConvNHWC(conv, activation, precision, keep)


def _not_computed(what: str) -> UserError:
    return UserError(f"the channels-last operators {what}", code="nn.not-channels-last")


def _described(node: Node) -> str:
    return f"{node.op} {node.kind}" if node.kind else node.op
