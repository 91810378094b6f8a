"""Module surgery: merge the branches of re-parameterizable layers, fold every BN, report the differences.

Layers take part through two methods. ``re_parameterize()`` with the flag ``is_repped`` is PaddleClas's
protocol: it merges parallel branches. ``fuse_bn()`` folds the batch normalizations a layer owns into
convolutions beside them; a block that knows a BN to stand before a 1x1 convolution does so in its own. A third,
``fuse_relu()``, does the like for a ReLU behind a depthwise convolution.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import paddle
from paddle import nn


def reparameterize(model: nn.Layer, inplace: bool = False) -> nn.Layer:
    """Merge every re-parameterizable layer of ``model`` (paper section 3.1, guideline 3).

    Running statistics are used whatever mode the model is in; train/eval mode is kept; a second call
    changes nothing.

    Args:
        model: any Paddle layer.
        inplace: change ``model`` itself instead of a copy.

    Returns:
        The merged model.
    """
    model = model if inplace else copy.deepcopy(model)
    for layer in model.sublayers(include_self=True):
        if hasattr(layer, "re_parameterize") and not layer.is_repped:
            layer.re_parameterize()
    return model


def fold(model: nn.Layer, inplace: bool = False) -> nn.Layer:
    """Re-parameterize and leave no batch normalization at all: the form to export.

    Conv + BN become one convolution, a BN before a 1x1 convolution goes into it, the last BN goes through
    the average pool into the head, and a BN with nothing behind it becomes a per-channel affine map. The
    result is for inference: it computes what ``model`` computes in eval mode.

    Args:
        model: any Paddle layer built from :mod:`ppreplk.nn`.
        inplace: change ``model`` itself instead of a copy.

    Returns:
        The folded model, in eval mode.
    """
    model = reparameterize(model, inplace)
    for layer in reversed(model.sublayers(include_self=True)):  # parts before the blocks that hold them
        if hasattr(layer, "fuse_bn"):
            layer.fuse_bn()
    model.eval()
    left = [name for name, layer in model.named_sublayers() if isinstance(layer, (nn.BatchNorm2D, nn.SyncBatchNorm))]
    assert not left, f"batch normalizations left after folding: {left}"
    return model


def fuse_relu(model: nn.Layer) -> None:
    """Make every ReLU behind a depthwise convolution part of it, in place, in a folded model.

    It computes the same; the compiled convolution then writes its output once.
    """
    for layer in model.sublayers(include_self=True):
        if hasattr(layer, "fuse_relu"):
            layer.fuse_relu()


@dataclass(frozen=True)
class LayerDifference:
    """How far one merged layer is from its train form on the same input, in eval mode."""

    name: str
    kernel_size: int
    largest_difference: float
    largest_output: float

    @property
    def relative(self) -> float:
        return self.largest_difference / self.largest_output if self.largest_output else self.largest_difference


@paddle.no_grad()
def layer_report(model: nn.Layer, images: paddle.Tensor) -> list[LayerDifference]:
    """Compare train form and merged form of every re-parameterizable layer, each on its real input.

    Args:
        model: a network in train form; it is left as it was.
        images: (N, C, H, W).

    Returns:
        One entry per layer that is not merged yet, in the order of execution.
    """
    model = copy.deepcopy(model)
    model.eval()
    report: list[LayerDifference] = []
    hooks = []
    for name, layer in model.named_sublayers():
        if hasattr(layer, "re_parameterize") and not layer.is_repped:

            def compare(layer, inputs, output, name=name):
                merged = reparameterize(layer)
                difference = (merged.forward(*inputs) - output).abs().max()  # not a call: the copy has this hook
                size = layer.hyperparameters["kernel_size"]
                report.append(LayerDifference(name, size, float(difference), float(output.abs().max())))

            hooks.append(layer.register_forward_post_hook(compare))
    model(images)
    for hook in hooks:
        hook.remove()
    return report
