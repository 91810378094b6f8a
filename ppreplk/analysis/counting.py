"""Parameters and multiply-adds, counted on a real forward pass."""

from __future__ import annotations

import copy
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

import paddle
from paddle import nn

from ..nn import DepthwiseConv2D, eval_mode


@dataclass(frozen=True)
class Complexity:
    """Trainable parameters, and multiply-adds of one forward pass."""

    params: int
    macs: int


def count(model: nn.Layer, input_shape: Sequence[int]) -> Complexity:
    """Count what convolutions and linear layers cost, as the paper's "FLOPs" do.

    Multiply-adds of batch normalizations, activations, biases and pooling are left out. The paper's figures are for
    one image and the merged network (:func:`ppreplk.reparameterize`).

    Args:
        model: any Paddle layer. Its mode is left as it was.
        input_shape: (N, C, H, W). Multiply-adds are for all N images.

    >>> count(nn.Conv2D(3, 8, 5, padding=2), (1, 3, 10, 10))
    Complexity(params=608, macs=60000)
    """
    parts = count_by_part(model, input_shape).values()
    return Complexity(sum(part.params for part in parts), sum(part.macs for part in parts))


@paddle.no_grad()
def count_by_part(model: nn.Layer, input_shape: Sequence[int]) -> dict[str, Complexity]:
    """:func:`count` for each part of a network.

    A part is a direct child of the network, such as ``head``, or an entry of a child that is a list, such as
    ``stages.2``.

    Args:
        model, input_shape: see :func:`count`.

    Returns:
        {part: parameters and multiply-adds}, in the order in which the parts are computed. Parts without multiply-adds
        come last. Parts without parameters and multiply-adds are left out.

    >>> count_by_part(nn.Sequential(("stem", nn.Conv2D(3, 8, 1)), ("norm", nn.BatchNorm2D(8))), (1, 3, 10, 10))
    {'stem': Complexity(params=32, macs=2400), 'norm': Complexity(params=16, macs=0)}
    """
    lists = {name for name, child in model.named_children() if isinstance(child, nn.LayerList)}
    macs: dict[str, int] = {}
    dtype = next((parameter.dtype for parameter in model.parameters()), paddle.float32)
    if dtype in (paddle.float16, paddle.bfloat16):  # which CPUs do not compute in, and sizes do not depend on
        model, dtype = copy.deepcopy(model).to(dtype="float32"), paddle.float32

    def add(name: str, new: int) -> None:
        part = part_of(name, lists)
        macs[part] = macs.get(part, 0) + int(new)

    hooks = []
    for name, layer in model.named_sublayers(include_self=True):
        if isinstance(layer, (nn.Conv2D, DepthwiseConv2D)):

            def add_conv(layer: nn.Layer, inputs: Any, output: paddle.Tensor, name: str = name) -> None:
                add(name, output.shape[0] * output.shape[2] * output.shape[3] * layer.weight.size)

            hooks.append(layer.register_forward_post_hook(add_conv))
        elif isinstance(layer, nn.Linear):

            def add_linear(layer: nn.Layer, inputs: Any, output: Any, name: str = name) -> None:
                add(name, inputs[0].size // inputs[0].shape[-1] * layer.weight.size)

            hooks.append(layer.register_forward_post_hook(add_linear))
    pass_zeros(model, input_shape, hooks, dtype)
    params: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if not parameter.stop_gradient:
            part = part_of(name, lists)
            params[part] = params.get(part, 0) + int(parameter.size)
    return {part: Complexity(params.get(part, 0), macs.get(part, 0)) for part in dict.fromkeys([*macs, *params])}


@paddle.no_grad()
def output_shapes(model: nn.Layer, input_shape: Sequence[int]) -> dict[str, list[int]]:
    """The shape that each part of a network hands on, see :func:`count_by_part`.

    Returns:
        {part: shape of its last tensor}. A part that computes no tensor is left out.

    >>> output_shapes(nn.Sequential(("stem", nn.Conv2D(3, 8, 3, stride=2, padding=1))), (1, 3, 10, 10))
    {'stem': [1, 8, 5, 5]}
    """
    lists = {name for name, child in model.named_children() if isinstance(child, nn.LayerList)}
    shapes: dict[str, list[int]] = {}
    hooks = []
    for name, layer in model.named_sublayers():

        def keep(layer: nn.Layer, inputs: Any, output: Any, part: str = part_of(name, lists)) -> None:
            if isinstance(output, paddle.Tensor):
                shapes[part] = list(output.shape)

        hooks.append(layer.register_forward_post_hook(keep))
    pass_zeros(model, input_shape, hooks)
    return shapes


@paddle.no_grad()
def count_by_kind(model: nn.Layer, input_shape: Sequence[int]) -> dict[str, tuple[int, Complexity]]:
    """:func:`count` for each kind of layer.

    Returns:
        {kind: number of layers, parameters of their weights and biases, multiply-adds}, the kinds in the order in which
        they first occur. A kind is ``3x3``, ``1x1``, ``31x31 depthwise``, ``3x3 grouped`` or ``linear``. What is no
        convolution or linear layer, such as batch normalization, is left out.

    >>> count_by_kind(nn.Sequential(nn.Conv2D(3, 8, 1), nn.Conv2D(8, 8, 5, padding=2, groups=8)), (1, 3, 10, 10))
    {'1x1': (1, Complexity(params=32, macs=2400)), '5x5 depthwise': (1, Complexity(params=208, macs=20000))}
    """
    kinds: dict[str, tuple[int, Complexity]] = {}
    hooks = []

    def add(layer: nn.Layer, inputs: Any, output: paddle.Tensor) -> None:
        if isinstance(layer, nn.Linear):
            kind, pixels = "linear", inputs[0].size // inputs[0].shape[-1]
        else:
            kind, pixels = kind_of(layer), output.shape[0] * output.shape[2] * output.shape[3]
        layers, before = kinds.get(kind, (0, Complexity(0, 0)))
        params = sum(int(parameter.size) for parameter in layer.parameters() if not parameter.stop_gradient)
        macs = int(pixels * layer.weight.size)
        kinds[kind] = layers + 1, Complexity(before.params + params, before.macs + macs)

    for layer in model.sublayers(include_self=True):
        if isinstance(layer, (nn.Conv2D, DepthwiseConv2D, nn.Linear)):
            hooks.append(layer.register_forward_post_hook(add))
    pass_zeros(model, input_shape, hooks)
    return kinds


def pass_zeros(
    model: nn.Layer, input_shape: Sequence[int], hooks: Sequence[Any], dtype: paddle.dtype = paddle.float32
) -> None:
    """A forward pass of zeros in evaluation mode, after which the ``hooks`` on layers of the network are removed."""
    try:
        with eval_mode(model):
            model(paddle.zeros(list(input_shape), dtype=dtype))
    finally:
        for hook in hooks:
            hook.remove()


def kind_of(conv: nn.Layer) -> str:
    """What kind of convolution this is, see :func:`count_by_kind`."""
    outputs, inputs, height, width = conv.weight.shape
    size = f"{height}x{width}"
    groups = conv._groups if isinstance(conv, nn.Conv2D) else conv.groups
    if groups == 1:
        return size
    return f"{size} depthwise" if inputs == 1 and outputs == groups else f"{size} grouped"


def part_of(name: str, lists: Container[str]) -> str:
    """The part that a layer or parameter belongs to.

    Args:
        name: of the layer or parameter.
        lists: names of the children whose entries are parts of their own.

    >>> part_of("stages.2.blocks.0.pw1.conv", {"stages"}), part_of("head.weight", {"stages"})
    ('stages.2', 'head')
    """
    first, *rest = name.split(".")
    return f"{first}.{rest[0]}" if first in lists and rest else first
