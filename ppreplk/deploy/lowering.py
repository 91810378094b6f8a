"""From a trained network to the forms its programs are saved in. Only this module decides which operators they use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import paddle
from paddle import nn

from ..models.registry import architecture_of, graph_of
from ..nn import fold, fuse_relu, reparameterize, set_implementation
from ..nn.channels_last import ChannelsLastNetwork
from ..nn.conv import CPU
from ..nn.quantization import MIN_CHANNELS, calibrate, quantizable_parts, quantize
from ..ops import load_ops
from ..ops.depthwise import check_implementation
from ..utils.errors import UserError
from .programs import BF16, FP32, INT8, PRECISIONS

NATIVE, CHANNELS_LAST = "native", "channels_last"
RUNTIMES = (NATIVE, CHANNELS_LAST)
USE_NATIVE = "use -o Global.export_runtime=native"


def lower(
    network: nn.Layer,
    runtime: str = NATIVE,
    precisions: Sequence[str] = (FP32,),
    depthwise: str = NATIVE,
    calibration: Iterable[np.ndarray] = (),
) -> dict[str, nn.Layer]:
    """The inference form of a copy of ``network`` for each precision, in eval mode, to be saved as programs.

    The forms share their parameters, so that one file of weights serves all.

    Args:
        network: in train or merged form. The batch normalizations of a foreign network, such as one of paddleclas,
            are not folded: nothing here knows which may be.
        runtime: ``"native"`` for Paddle's operators, ``"channels_last"`` for those of this package.
        precisions: ``"fp32"``, and with the channels-last operators ``"fp32-bf16x3"``, ``"bf16"`` and ``"int8"``.
        depthwise: with Paddle's operators, the implementation of the depthwise layers.
        calibration: for ``"int8"``, batches of images (N, C, H, W) float32, from which the ranges come.

    Raises:
        UserError: what is asked for does not exist for this network, or cannot run here.
    """
    for precision in precisions:
        check_lowering(runtime, precision, depthwise)
    folded = reparameterize(network) if architecture_of(network) is None else fold(network)
    folded.eval()
    if runtime == CHANNELS_LAST:
        try:
            graph = graph_of(folded)
            forms = {each: ChannelsLastNetwork(graph, BF16 if each == INT8 else each) for each in precisions}
        except UserError as error:
            where = f"Global.export_runtime={CHANNELS_LAST}"
            raise UserError(f"{error}; {USE_NATIVE}", code=error.code, where=where) from error
        if INT8 in forms:
            if not quantizable_parts(forms[INT8]):
                raise UserError(
                    f"no pointwise convolution of this network has {MIN_CHANNELS} input channels, which 8-bit integers "
                    f"need to be worth it; use --precision {BF16}",
                    code="deploy.precision",
                )
            quantize(forms[INT8], calibrate(ChannelsLastNetwork(graph, FP32, keep=True), calibration))
        return dict(forms)
    if set_implementation(folded, depthwise) == 0 and depthwise != NATIVE:
        raise UserError(
            f"{type(network).__name__} has no depthwise layer for {depthwise!r}",
            code="deploy.no-depthwise",
            where="Global.export_depthwise",
        )
    fuse_relu(folded)
    return {precision: folded for precision in precisions}


def check_lowering(runtime: str, precision: str, depthwise: str = NATIVE) -> None:
    """Check that programs of this kind exist and can be made here, and load the operators they hold.

    Raises:
        UserError: says what is wrong.
    """
    for kind, value, known in (("runtime", runtime, RUNTIMES), ("precision", precision, PRECISIONS)):
        if value not in known:
            raise UserError(
                f"unknown {kind} {value!r}; choose one of: {', '.join(known)}", code="deploy.unknown-program"
            )
    if runtime == NATIVE:
        if precision != FP32:
            raise UserError(
                f"precision {precision} needs the channels-last operators: -o Global.export_runtime={CHANNELS_LAST}",
                code="deploy.precision",
            )
        if check_implementation(depthwise) == CPU:
            # Eager mode may run without operators, by the core of a wheel; no program does.
            _load(f"Global.export_depthwise={CPU}", "depthwise")
        return
    if depthwise != NATIVE:
        raise UserError(
            f"{depthwise} is for Global.export_runtime=native: the channels-last operators have a depthwise "
            "convolution of their own; leave it out",
            code="deploy.unknown-program",
            where="Global.export_depthwise",
        )
    if paddle.get_device() != "cpu":
        raise UserError(
            f"the channels-last operators run on cpu, the device is {paddle.get_device()}: -o Global.device=cpu, or "
            f"{USE_NATIVE}",
            code="deploy.device",
        )
    _load(f"Global.export_runtime={CHANNELS_LAST}", "channels_last", "depthwise")


def _load(setting: str, *names: str) -> None:
    """As :func:`ppreplk.load_ops`; an error names the setting that asks for them."""
    try:
        load_ops(*names)
    except UserError as error:
        raise error.at(setting) from error
