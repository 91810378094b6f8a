"""What computes the training of a network: its own layers, or on CPUs the channels-last training operators."""

from __future__ import annotations

import logging
from typing import Literal, Optional

import paddle
from paddle import nn

from ..nn.training_layout import TrainingNetwork
from ..ops import loading, training_layers
from ..ops.build import DEPTHWISE, HOW_TO
from ..ops.training_layers import Products
from ..utils.errors import UserError
from .registry import architecture_of, graph_of

logger = logging.getLogger(__name__)

Layout = Literal["auto", "nchw", "channels_last"]


def training_form(network: nn.Layer, layout: Layout = "auto", products: Products = "fp32") -> nn.Layer:
    """What to call instead of ``network`` in training. Parameters and running statistics are those of ``network``.

    Args:
        network: in training mode.
        layout: ``"nchw"`` for the network itself, ``"channels_last"`` for the channels-last training operators, which
            compute on CPUs in float32. ``"auto"`` takes these where they have been built and compute everything in the
            network; a log line says which.
        products: ``"fp32-bf16x3"`` for pointwise convolutions and the stem that multiply in two bfloat16 parts on AMX,
            in the channels-last training operators. Where these or AMX are missing, all is float32, and a log line
            says so.

    Raises:
        UserError: ``"channels_last"``, and they cannot compute it; says why.

    >>> import ppreplk
    >>> model = ppreplk.build_model("RepLKNet13T")
    >>> training_form(model, "nchw") is model
    True
    """
    if layout == "nchw":
        _announce(products, "Global.train_layout=nchw computes in the layers of the network itself")
        return network
    try:
        _check(network)
        problem = training_layers.products_problem(products)
        # RepLKNet's argument: other architectures have no such switch.
        recompute = getattr(network, "use_checkpoint", False)
        form = TrainingNetwork(network, graph_of(network), recompute, "fp32" if problem else products)
    except UserError as error:
        if layout == "channels_last":
            raise error.at("channels-last training is not possible") from error
        level = logging.INFO if paddle.get_device() == "cpu" else logging.DEBUG
        logger.log(level, "training computes in the layers of the network itself: %s", error)
        _announce(products, "the layers of the network itself compute")
        return network
    logger.info("training computes in the channels-last operators")
    _announce(products, problem)
    return form


def _announce(products: Products, problem: Optional[str]) -> None:
    """Say in one line what became of other products than float32's.

    Args:
        problem: why they are not possible, or None.
    """
    if products == "fp32":
        return
    if problem is None:
        logger.info("pointwise convolutions multiply in %s, forward and backward", products)
    else:
        logger.warning("Global.train_products=%s has no effect, training multiplies in float32: %s", products, problem)


def _check(network: nn.Layer) -> None:
    """Check what does not depend on single layers, and load the operators.

    Raises:
        UserError: says why they cannot compute the network.
    """
    reason = None
    if paddle.get_device() != "cpu":
        reason = f"the device is {paddle.get_device()}"
    elif architecture_of(network) is None:
        reason = f"{type(network).__name__} is not a network of this package"
    elif any(parameter.dtype != paddle.float32 for parameter in network.parameters()):
        reason = "the weights are not float32"
    elif not training_layers.available():
        reason = f"the operators are not built ({HOW_TO})"
    if reason is not None:
        raise UserError(reason, code="models.not-channels-last")
    loading.load(DEPTHWISE)
