"""A network in channels-last operators of this package, for training on CPUs.

Parameters and running statistics are those of the network itself: only the computation is another one. Every tensor
between the images and the pooled features is (N, H, W, C). Batch normalizations are computed together with what follows
them: an activation, the other branch of a parallel kernel, or drop path and residual.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Optional

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ..ops import cpu, training_layers
from ..ops.training_layers import Products
from ..utils.errors import UserError
from .blocks import checkpointed
from .conv import CPU, DepthwiseConv2D
from .graph import ACTIVATION, ADD, CONV, DROP_PATH, INPUT, LINEAR, NORM, POOL, Graph, Node

Look = Callable[[nn.Layer, int, int], None]  # at a layer and the height and width of its map
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "relu6": F.relu6, "gelu": F.gelu}


class Step(nn.Layer):
    """One operation, and what is computed together with it.

    Args:
        nodes: their numbers in the graph; the last one is the result.
        inputs: numbers of the nodes it takes.
        layers: the network's layers that it computes.
    """

    def __init__(self, nodes: Sequence[int], inputs: Sequence[int], layers: Iterable[nn.Layer] = ()):
        super().__init__()
        self.nodes, self.inputs = tuple(nodes), tuple(inputs)
        self.layers = nn.LayerList(layers)

    @property
    def result(self) -> int:
        return self.nodes[-1]


class ConvStep(Step):
    """A convolution without bias."""

    def __init__(self, number: int, node: Node, products: Products):
        conv = node.layer
        super().__init__([number], node.inputs, [conv])
        self.products = products
        is_depthwise = isinstance(conv, DepthwiseConv2D)
        if conv.bias is not None:
            raise _not_computed("have no bias, as convolutions of merged networks do")
        if is_depthwise and (conv.impl not in ("auto", CPU) or conv.extent > cpu.MAX_KERNEL):
            raise _not_computed(f"have no depthwise convolution {conv}")
        self.of_images = node.inputs[0] == Graph.images
        is_pointwise = conv.kernel_size == conv.stride == conv.groups == 1
        if not is_depthwise and not (is_pointwise or self.of_images and conv.groups == 1):
            raise _not_computed(f"have no convolution {conv} behind other layers")

    def forward(self, x: Tensor) -> Tensor:
        conv = self.layers[0]
        if isinstance(conv, DepthwiseConv2D):
            x = x.transpose([0, 2, 3, 1]) if self.of_images else x
            return training_layers.depthwise(x, conv.written_out(), conv.stride)
        if self.of_images:
            return training_layers.images_conv(x, conv.weight, conv.stride, self.products)
        return training_layers.pointwise(x, conv.weight, self.products)


class NormStep(Step):
    """A batch normalization and its activation, or the sum of two and its activation."""

    def __init__(self, nodes: Sequence[int], inputs: Sequence[int], layers: Sequence[nn.Layer], activation: str):
        super().__init__(nodes, inputs, layers)
        self.activation = activation

    def forward(self, x: Tensor, x2: Optional[Tensor] = None) -> Tensor:
        if x2 is None:
            return training_layers.norm(x, self.layers[0], self.activation)
        return training_layers.norm_pair(x, self.layers[0], x2, self.layers[1], self.activation)


class NormSumStep(Step):
    """A batch normalization, drop path if there is one, and the residual."""

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        bn, drop_path = self.layers[0], self.layers[1] if len(self.layers) > 1 else None
        batch = x.shape[0]
        keep = paddle.ones([batch]) if drop_path is None else drop_path.factors([batch], x.dtype)
        return training_layers.norm_sum(x, bn, residual, keep)


class PlainStep(Step):
    """What is computed by itself: a sum, an activation, drop path."""

    def __init__(self, number: int, node: Node):
        super().__init__([number], node.inputs, [] if node.layer is None else [node.layer])
        self.op, self.kind = node.op, str(node.kind)

    def forward(self, x: Tensor, other: Optional[Tensor] = None) -> Tensor:
        if self.op == ADD:
            return x + other
        return ACTIVATIONS[self.kind](x) if self.op == ACTIVATION else self.layers[0](x)


class Segment(nn.Layer):
    """Steps between two places at which one tensor holds all that is needed further on."""

    def __init__(self, steps: Sequence[Step], x: int):
        super().__init__()
        self.steps, self.x = nn.LayerList(steps), x
        self.look: Optional[Look] = None

    @property
    def result(self) -> int:
        return self.steps[-1].result

    def forward(self, x: Tensor) -> Tensor:
        values = {self.x: x}
        for step in self.steps:
            inputs = [values[number] for number in step.inputs]
            if self.look is not None:
                height, width = inputs[0].shape[2:] if step.inputs[0] == Graph.images else inputs[0].shape[1:3]
                for layer in step.layers:
                    self.look(layer, height, width)
            values[step.result] = step(*inputs)
        return values[self.result]


class TrainingNetwork(nn.Layer):
    """A classifier that computes its training in channels-last operators. (N, C, H, W) float32 -> (N, class_num).

    Drop path draws the same numbers as the network itself does, in the same order. Gradients and running statistics
    are the same up to rounding. The images get no gradient. Hooks of layers are not called. While a normalization is in
    eval mode, the network itself computes.

    Args:
        network: in training mode.
        graph: of it.
        recompute: recompute activations in the backward pass instead of keeping them, block by block.
        products: how pointwise convolutions and the stem multiply, forward and backward.

    Raises:
        UserError: the network holds something that these operators do not compute.
    """

    def __init__(self, network: nn.Layer, graph: Graph, recompute: bool = False, products: Products = "fp32"):
        super().__init__()
        self.network = network
        self.recompute = recompute
        pooled, self.head = _head(graph)
        self.segments = nn.LayerList(_segments(_steps(graph, products), pooled))
        self.modal = [node.layer for node in graph.nodes if node.op in (NORM, DROP_PATH)]

    def forward(self, images: Tensor) -> Tensor:
        if not all(layer.training for layer in self.modal):
            return self.network(images)
        x = self.segments[0](images)
        for segment in self.segments[1:]:
            x = checkpointed(segment, x) if self.recompute else segment(x)
        return F.linear(x.mean([1, 2]), self.head.weight, self.head.bias)

    def look_at_maps(self, look: Optional[Look]) -> None:
        """Call ``look`` with every convolution and normalization and the size of its map, or no longer if None."""
        for segment in self.segments:
            segment.look = look


def _head(graph: Graph) -> tuple[int, nn.Linear]:
    """The node that is pooled, and the linear layer behind the pooling."""
    linear = graph.nodes[-1]
    if linear.op != LINEAR or graph.nodes[linear.inputs[0]].op != POOL:
        raise _not_computed("serve classifiers with a linear head behind the pooling")
    return graph.nodes[linear.inputs[0]].inputs[0], linear.layer


def _steps(graph: Graph, products: Products) -> list[Step]:
    """All steps between the images and the pooling, in the order of execution."""
    steps: list[Step] = []
    done: set[int] = set()
    for number, node in enumerate(graph.nodes):
        if number in done or node.op in (INPUT, POOL, LINEAR):
            continue
        if node.op == CONV:
            step: Step = ConvStep(number, node, products)
        elif node.op == NORM:
            step = _norm_step(graph, number)
        else:
            step = PlainStep(number, node)
        steps.append(step)
        done.update(step.nodes)
    return sorted(steps, key=lambda step: step.result)


def _norm_step(graph: Graph, number: int) -> Step:
    """A batch normalization with as much of what follows as is computed together with it."""
    node = graph.nodes[number]
    bn, x = node.layer, node.inputs[0]
    _check_norm(bn)
    nodes, layers = [number], [bn]
    following = _only_user(graph, number)
    if following is not None and graph.nodes[following].op == DROP_PATH:
        nodes.append(following)
        layers.append(graph.nodes[following].layer)
        following = _only_user(graph, following)
    if following is not None and graph.nodes[following].op == ADD and len(set(graph.nodes[following].inputs)) == 2:
        (other,) = set(graph.nodes[following].inputs) - {nodes[-1]}
        if len(nodes) == 1 and _is_pair(graph, number, other):
            second = graph.nodes[other]
            _check_norm(second.layer)
            nodes, activation = _with_activation(graph, [number, other, following])
            return NormStep(nodes, [x, second.inputs[0]], [bn, second.layer], activation)
        if graph.nodes[other].op != NORM or _only_user(graph, other) is None:
            return NormSumStep([*nodes, following], [x, other], layers)
    nodes, activation = _with_activation(graph, [number])
    return NormStep(nodes, [x], [bn], activation)


def _is_pair(graph: Graph, number: int, other: int) -> bool:
    """Whether these are two normalizations, needed for their sum alone."""
    first, second = graph.nodes[number], graph.nodes[other]
    if second.op != NORM or _only_user(graph, other) is None:
        return False
    return (first.layer._epsilon, first.layer._momentum) == (second.layer._epsilon, second.layer._momentum)


def _with_activation(graph: Graph, nodes: list[int]) -> tuple[list[int], str]:
    following = _only_user(graph, nodes[-1])
    if following is None or graph.nodes[following].op != ACTIVATION:
        return nodes, "none"
    return [*nodes, following], str(graph.nodes[following].kind)


def _only_user(graph: Graph, number: int) -> Optional[int]:
    users = [user for user, node in enumerate(graph.nodes) if number in node.inputs]
    return users[0] if len(users) == 1 else None


def _check_norm(bn: nn.Layer) -> None:
    is_plain = type(bn) is nn.BatchNorm2D and bn.weight is not None and bn.bias is not None
    if not is_plain or bn._use_global_stats or not bn.training:
        raise _not_computed(f"have no {type(bn).__name__} of this kind ({bn})")


def _segments(steps: Sequence[Step], pooled: int) -> list[Segment]:
    """The steps, cut behind normalizations wherever one tensor holds all that is needed further on."""
    last_use = {number: position for position, step in enumerate(steps) for number in step.inputs}
    last_use[pooled] = len(steps)
    segments: list[Segment] = []
    begin, x, alive = 0, Graph.images, {Graph.images}
    for position, step in enumerate(steps):
        alive = {number for number in alive | {step.result} if last_use.get(number, -1) > position}
        if alive == {step.result} and not isinstance(step, ConvStep) or position == len(steps) - 1:
            segments.append(Segment(steps[begin : position + 1], x))
            begin, x = position + 1, step.result
    if not segments or segments[-1].result != pooled:
        raise _not_computed("serve networks whose last feature map is pooled")
    return segments


def _not_computed(what: str) -> UserError:
    return UserError(f"the channels-last training operators {what}", code="nn.not-channels-last")
