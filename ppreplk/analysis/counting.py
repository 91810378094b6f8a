"""Parameters and multiply-adds, counted on a real forward pass."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import paddle
from paddle import nn

from ..nn import DepthwiseConv2D, eval_mode


@dataclass(frozen=True)
class Complexity:
    """``params`` are trainable parameters; ``macs`` are the multiply-adds of one forward pass."""

    params: int
    macs: int


GROUPED = ("stages", "transitions")  # lists whose entries are counted one by one


def count(model: nn.Layer, input_shape: Sequence[int]) -> Complexity:
    """Count what convolutions and linear layers cost, as the paper's "FLOPs" do.

    Batch normalizations, activations, biases and pooling are not counted. The paper's figures are those of
    the merged network (:func:`ppreplk.reparameterize`), for one image.

    Args:
        model: any Paddle layer; its mode is left as it was.
        input_shape: (N, C, H, W); multiply-adds are for all N images.

    Returns:
        Parameters and multiply-adds.
    """
    parts = count_by_part(model, input_shape).values()
    return Complexity(sum(part.params for part in parts), sum(part.macs for part in parts))


@paddle.no_grad()
def count_by_part(model: nn.Layer, input_shape: Sequence[int]) -> dict[str, Complexity]:
    """:func:`count` for each part of a network: each stage, each transition, and everything else by its name.

    Args:
        model, input_shape: see :func:`count`.

    Returns:
        {part: parameters and multiply-adds} in the order they are computed in; those without multiply-adds, such as
        ``norm``, come last, those without parameters are left out.
    """
    macs: dict[str, int] = {}
    dtype = next((parameter.dtype for parameter in model.parameters()), paddle.float32)
    if dtype in (paddle.float16, paddle.bfloat16):  # which CPUs do not compute in, and sizes do not depend on
        model, dtype = copy.deepcopy(model).to(dtype="float32"), paddle.float32

    def add(name: str, new: int) -> None:
        macs[part_of(name)] = macs.get(part_of(name), 0) + int(new)

    hooks = []
    for name, layer in model.named_sublayers(include_self=True):
        if isinstance(layer, (nn.Conv2D, DepthwiseConv2D)):

            def add_conv(layer, inputs, output, name=name):
                add(name, output.shape[0] * output.shape[2] * output.shape[3] * layer.weight.size)

            hooks.append(layer.register_forward_post_hook(add_conv))
        elif isinstance(layer, nn.Linear):

            def add_linear(layer, inputs, output, name=name):
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
            params[part_of(name)] = params.get(part_of(name), 0) + int(parameter.size)
    return {part: Complexity(params.get(part, 0), macs.get(part, 0)) for part in dict.fromkeys([*macs, *params])}


def part_of(name: str) -> str:
    """The part a layer or parameter of that name belongs to: ``stages.2`` for ``stages.2.blocks.0.pw1.conv``."""
    first, *rest = name.split(".")
    return f"{first}.{rest[0]}" if first in GROUPED and rest else first
