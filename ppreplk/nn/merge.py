"""Train form and merged form of the weights of :class:`ReparamDepthwiseConv`, as arrays (paper section 3.1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from ..utils.errors import UserError
from . import fusion
from .norm import BN_EPSILON

ORIGIN = ".lkb_origin.conv.weight"
REPARAM = ".lkb_reparam.weight"
SMALL = ".small_conv"
BN = ("weight", "bias", "_mean", "_variance")


def form_of(names: Iterable[str]) -> str | None:
    """``"train"`` or ``"merged"``; None where no name tells, or names tell both."""
    found = {"train" if ORIGIN in name else "merged" for name in names if name.endswith((ORIGIN, REPARAM))}
    return found.pop() if len(found) == 1 else None


def merge(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Train-form weights as merged ones: one float32 kernel and bias for the branches of each large kernel.

    Raises:
        UserError: a branch is incomplete, or the shapes of its parts do not fit.
    """
    merged: dict[str, np.ndarray] = {}
    for name, array in state.items():
        layer, found, _ = name.partition(".lkb_origin.")
        if name.endswith(ORIGIN):
            weight, bias = fused_weight_bias(state, f"{layer}.lkb_origin")
            if f"{layer}{SMALL}.conv.weight" in state:
                small_weight, small_bias = fused_weight_bias(state, f"{layer}{SMALL}")
                margin = weight.shape[-1] - small_weight.shape[-1]
                if len(weight) != len(small_weight) or margin < 0 or margin % 2:
                    raise UserError(
                        f"kernels {list(weight.shape)} and {list(small_weight.shape)} do not add up",
                        code="nn.bad-weights",
                        where=layer,
                    )
                weight, bias = fusion.add_branches(weight, bias, small_weight, small_bias)
            merged[f"{layer}.lkb_reparam.weight"] = weight.astype(np.float32)
            merged[f"{layer}.lkb_reparam.bias"] = bias.astype(np.float32)
        elif not found and f"{SMALL}." not in name:
            merged[name] = array
    return merged


def fused_weight_bias(state: Mapping[str, np.ndarray], layer: str) -> tuple[np.ndarray, np.ndarray]:
    """Weight (C, 1, K, K) and bias (C,), float64, of a convolution and its batch normalization."""
    weight = state[f"{layer}.conv.weight"]
    vectors = [state[name] for name in (f"{layer}.bn.{part}" for part in BN) if name in state]
    fits = len(vectors) == len(BN) and all(vector.shape == weight.shape[:1] for vector in vectors)
    if weight.ndim != 4 or not fits:
        raise UserError(
            "a convolution and its batch normalization are incomplete or of different widths",
            code="nn.bad-weights",
            where=layer,
        )
    gamma, beta, mean, variance = vectors
    return fusion.scale_conv_output(weight, None, *fusion.bn_scale_shift(gamma, beta, mean, variance, BN_EPSILON))
