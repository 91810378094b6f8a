"""The form of a network that evaluates and predicts in eager mode: folded, on CPUs in the channels-last operators."""

from __future__ import annotations

import logging

import paddle
from paddle import nn

from ..nn import DepthwiseConv2D, fold
from ..nn.channels_last import ChannelsLastNetwork
from ..ops import loading
from ..ops.build import CHANNELS_LAST, DEPTHWISE
from ..utils.errors import UserError
from .registry import architecture_of, graph_of

logger = logging.getLogger(__name__)

LIBRARIES = (DEPTHWISE, CHANNELS_LAST)
FAST = ("auto", "cpu")  # implementations that leave the depthwise layers to the C++ operator


@paddle.no_grad()
def inference_form(network: nn.Layer) -> nn.Layer:
    """A copy of ``network`` for float32 inference in this process, in eval mode. A log line says what computes.

    Parallel kernels are merged and batch normalizations folded. On a CPU the channels-last operators compute it, where
    they have been built and ``depthwise_impl`` of every layer is ``auto`` or ``cpu``; nothing is built here. A foreign
    network, such as one of paddleclas, is returned itself: nothing here knows what may be folded. So is one that cannot
    be folded.

    Args:
        network: in train or merged form. It is not changed, and later changes of it are not seen.

    >>> import ppreplk
    >>> form = inference_form(ppreplk.build_model("RepLKNet13T"))
    >>> form.training, any(isinstance(layer, nn.BatchNorm2D) for layer in form.sublayers())
    (False, False)
    """
    name = type(network).__name__
    try:
        folded = network if architecture_of(network) is None else fold(network)
    except UserError as error:  # such as a hook, which folding would lose
        logger.info("%s computes as it was trained: %s", name, error)
        folded = network
    folded.eval()
    if folded is network:
        return network
    try:
        _check_channels_last(folded)
        form = ChannelsLastNetwork(graph_of(folded), keep=True)
    except UserError as error:
        logger.info("%s computes folded, in Paddle's operators: %s", name, error)
        return folded
    logger.info("%s computes folded, in the channels-last operators", name)
    return form


def _check_channels_last(network: nn.Layer) -> None:
    """Check that the channels-last operators can be tried for a folded network, and load them.

    Raises:
        UserError: says why not.
    """
    reason = None
    named = {layer.impl for layer in network.sublayers() if isinstance(layer, DepthwiseConv2D)} - set(FAST)
    if paddle.get_device() != "cpu":
        reason = f"the device is {paddle.get_device()}"
    elif named:
        reason = f"depthwise_impl is {', '.join(sorted(named))}"
    elif any(parameter.dtype != paddle.float32 for parameter in network.parameters()):
        reason = "the weights are not float32"
    elif not all(map(loading.available, LIBRARIES)):
        reason = "the channels-last operators are not built (python -m ppreplk.ops depthwise channels_last)"
    if reason is not None:
        raise UserError(reason, code="models.not-channels-last")
    for library in LIBRARIES:
        loading.load(library)
