"""Module surgery: merge the branches of re-parameterizable layers, fold batch normalizations, report differences.

Layers take part through the protocols of :mod:`ppreplk.nn.protocols`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import paddle
from paddle import nn
from paddle.jit.dy2static.program_translator import StaticFunction

from ..utils.errors import UserError
from .protocols import Foldable, ReluFusable, Reparameterizable
from .reparam_conv import ReparamDepthwiseConv


def parts_first(model: nn.Layer) -> Iterator[nn.Layer]:
    """Every layer of ``model`` after all of its own parts, ``model`` itself last."""
    for part in model.children():
        yield from parts_first(part)
    yield model


def reparameterize(model: nn.Layer, inplace: bool = False) -> nn.Layer:
    """Merge every re-parameterizable layer of ``model`` (paper section 3.1, guideline 3).

    Running statistics are used, whatever mode the model is in, and the mode is kept. A second call changes nothing.

    Args:
        model: any Paddle layer.
        inplace: change ``model`` itself instead of a copy.

    Returns:
        The merged model, without a wrapper such as ``DataParallel``.

    Raises:
        UserError: hooks that would be lost, a static ``forward``, or a network that cannot be copied.

    >>> layer = ReparamDepthwiseConv(4, 7, small_kernel=3)
    >>> layer.is_repped, reparameterize(layer).is_repped
    (False, True)
    """
    model = _prepared(model, inplace)
    for layer in list(parts_first(model)):
        if isinstance(layer, Reparameterizable) and not layer.is_repped:
            layer.re_parameterize()
    return model


def _unwrapped(model: nn.Layer) -> nn.Layer:
    return model._layers if isinstance(model, paddle.DataParallel) else model


def _prepared(model: nn.Layer, inplace: bool) -> nn.Layer:
    """The network itself or a copy, without a wrapper such as ``DataParallel``.

    Raises:
        UserError: merging would change what it computes, or it cannot be copied.
    """
    model = _unwrapped(model)
    for name, layer in model.named_sublayers(include_self=True):
        if isinstance(layer.__dict__.get("forward"), StaticFunction):
            raise UserError(
                f"{name or type(model).__name__} has been made static (paddle.jit.to_static), and would go on with the "
                "graph of its old form; merge or fold it before that",
                code="nn.is-static",
            )
        if isinstance(layer, Reparameterizable) and not layer.is_repped:
            _check_no_hooks(f"{name}." if name else "", layer, lambda part: True)
    if inplace:
        return model
    try:
        return copy.deepcopy(model)
    except TypeError as error:
        raise UserError(
            f"{type(model).__name__} holds something that cannot be copied ({error}); remove its hooks, or pass "
            "inplace=True",
            code="nn.cannot-copy",
        ) from error


def _check_no_hooks(prefix: str, model: nn.Layer, is_replaced: Callable[[nn.Layer], bool]) -> None:
    """Refuse hooks on the parts of ``model`` that would be replaced. Weight and spectral normalization are hooks too.

    Raises:
        UserError: there is one; names the layer.
    """
    for name, part in model.named_sublayers():
        if (part._forward_pre_hooks or part._forward_post_hooks) and is_replaced(part):
            raise UserError(
                f"{prefix}{name} has a hook, such as that of weight_norm, which would be lost or undo the merge; "
                "remove it first",
                code="nn.has-hook",
            )


def fold(model: nn.Layer, inplace: bool = False) -> nn.Layer:
    """Re-parameterize, and absorb every batch normalization: the form to export.

    Conv + BN become one convolution. A BN before a 1x1 convolution goes into it. The last BN goes through the average
    pool into the head. A BN with nothing behind it becomes a per-channel affine map. The result is for inference: it
    computes what ``model`` computes in eval mode.

    Args:
        model: a network built from the layers of :mod:`ppreplk.nn`.
        inplace: change ``model`` itself instead of a copy.

    Returns:
        The folded model, in eval mode.

    Raises:
        UserError: as :func:`reparameterize`; or another normalization stands where a batch normalization is expected.

    >>> import ppreplk
    >>> folded = ppreplk.fold(ppreplk.build_model("RepLKNet13T"))
    >>> sum(isinstance(layer, nn.BatchNorm2D) for layer in folded.sublayers())
    0
    """
    _check_no_hooks("", _unwrapped(model), lambda part: not part.sublayers() and bool(part.parameters()))
    model = reparameterize(model, inplace)
    for layer in list(parts_first(model)):
        if isinstance(layer, Foldable):
            layer.fuse_bn()
    model.eval()
    left = [name for name, layer in model.named_sublayers() if isinstance(layer, (nn.BatchNorm2D, nn.SyncBatchNorm))]
    assert not left, f"batch normalizations left after folding: {left}"
    return model


def fuse_relu(model: nn.Layer) -> None:
    """Make every ReLU behind a depthwise convolution part of it, in place, in a folded model.

    The model computes the same. The C++ convolution then writes its output once.
    """
    for layer in model.sublayers(include_self=True):
        if isinstance(layer, ReluFusable):
            layer.fuse_relu()


@dataclass(frozen=True)
class LayerDifference:
    """How far one merged layer is from its train form on the same input, in eval mode.

    ``relative`` is the largest difference over the largest output.
    """

    name: str
    kernel_size: int
    largest_difference: float
    largest_output: float

    @property
    def relative(self) -> float:
        return self.largest_difference / self.largest_output if self.largest_output else self.largest_difference


@paddle.no_grad()
def layer_report(model: nn.Layer, images: paddle.Tensor) -> list[LayerDifference]:
    """Compare train form and merged form of every :class:`ReparamDepthwiseConv`, each on its real input.

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
        if isinstance(layer, ReparamDepthwiseConv) and not layer.is_repped:

            def compare(layer: nn.Layer, inputs: Any, output: paddle.Tensor, name: str = name) -> None:
                merged = reparameterize(layer)
                difference = (merged.forward(*inputs) - output).abs().max()  # not a call: the copy has this hook
                largest = float(output.abs().max())
                report.append(LayerDifference(name, layer.kernel_size, float(difference), largest))

            hooks.append(layer.register_forward_post_hook(compare))
    model(images)
    for hook in hooks:
        hook.remove()
    return report
