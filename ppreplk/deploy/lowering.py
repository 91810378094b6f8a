"""From a trained network to the form its program is saved in: the one place that decides which operators that uses."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import nn

from ..models import RepLKNet
from ..nn.channels_last import ChannelsLastNetwork
from ..nn.conv import set_implementation
from ..nn.surgery import fold, fuse_relu, reparameterize
from ..ops import load_ops
from ..ops.depthwise import IMPLEMENTATIONS, check_implementation
from ..utils.errors import UserError

NATIVE, FAST = "native", "channels_last"
FP32, BF16 = "fp32", "bf16"
RUNTIMES, PRECISIONS = (NATIVE, FAST), (FP32, BF16)


def lower(
    network: nn.Layer, runtime: str = NATIVE, precisions: Sequence[str] = (FP32,), depthwise: str = NATIVE
) -> dict[str, nn.Layer]:
    """The inference form of a copy of ``network`` for each precision, in eval mode, to be saved as programs.

    The forms share their parameters, so that one file of weights serves all.

    Args:
        network: in train or merged form. A network of paddleclas's is merged only: what may be folded there is not
            known here.
        runtime: ``"native"`` for Paddle's operators, ``"channels_last"`` for channels-last ones of ours.
        precisions: ``"fp32"``, and with the fast operators ``"bf16"``.
        depthwise: with Paddle's operators, the implementation of the depthwise layers.

    Raises:
        UserError: what is asked for does not exist for this network, or cannot run here.
    """
    for precision in precisions:
        require(runtime, precision, depthwise)
    folded = fold(network) if isinstance(network, RepLKNet) else reparameterize(network)
    folded.eval()
    if runtime == FAST:
        return {precision: ChannelsLastNetwork(folded, precision == BF16) for precision in precisions}
    if set_implementation(folded, _implementation(depthwise)) == 0 and depthwise != NATIVE:
        raise UserError(f"Global.export_depthwise: {type(network).__name__} has no depthwise layer for {depthwise!r}")
    fuse_relu(folded)
    return {precision: folded for precision in precisions}


def _implementation(depthwise: str) -> str:
    """The name under which this version of the operators knows ``cpu``."""
    return "compiled" if depthwise == "cpu" and "cpu" not in IMPLEMENTATIONS else depthwise


def require(runtime: str, precision: str, depthwise: str = NATIVE) -> None:
    """Check that programs of this kind exist and can be made here.

    Raises:
        UserError: says what is wrong.
    """
    for value, known in ((runtime, RUNTIMES), (precision, PRECISIONS)):
        if value not in known:
            raise UserError(f"a program is one of {', '.join(known)}, not {value!r}")
    if runtime == NATIVE:
        if precision != FP32:
            raise UserError(f"precision {precision} needs the fast operators: -o Global.export_runtime=channels_last")
        check_implementation(_implementation(depthwise))
        return
    if depthwise != NATIVE:
        raise UserError(
            f"Global.export_depthwise={depthwise} is for Global.export_runtime=native: the fast operators have a "
            "depthwise convolution of their own; leave it out"
        )
    if paddle.get_device() != "cpu":
        raise UserError(
            f"the fast operators run on cpu, the device is {paddle.get_device()}: -o Global.device=cpu, or "
            "-o Global.export_runtime=native"
        )
    load_ops(fast=True)
