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
    try:
        with eval_mode(model):
            model(paddle.zeros(list(input_shape), dtype=dtype))
    finally:
        for hook in hooks:
            hook.remove()
    params: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if not parameter.stop_gradient:
            part = part_of(name, lists)
            params[part] = params.get(part, 0) + int(parameter.size)
    return {part: Complexity(params.get(part, 0), macs.get(part, 0)) for part in dict.fromkeys([*macs, *params])}


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
