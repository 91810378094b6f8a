"""Depthwise convolution with large kernels: one function, a table of implementations, one rule.

``native`` is Paddle's own operator. It is the reference: every other implementation is tested against it
and falls back to it.
"""

from __future__ import annotations

from collections.abc import Callable

import paddle
import paddle.nn.functional as F

from ..errors import UserError

AUTO = "auto"


def _native(x, weight, bias):
    return F.conv2d(x, weight, bias, stride=1, padding=weight.shape[-1] // 2, groups=weight.shape[0])


IMPLEMENTATIONS: dict[str, Callable] = {"native": _native}


def check_implementation(impl: str) -> str:
    """Return ``impl`` if it is ``"auto"`` or the name of an implementation.

    Raises:
        UserError: the name is unknown.
    """
    if impl != AUTO and impl not in IMPLEMENTATIONS:
        names = ", ".join([AUTO, *IMPLEMENTATIONS])
        raise UserError(f"unknown depthwise implementation {impl!r}; choose one of: {names}")
    return impl


def _choose() -> str:
    """The rule behind ``impl="auto"``: with one implementation there is nothing to weigh."""
    return "native"


def depthwise_conv2d(
    x: paddle.Tensor,
    weight: paddle.Tensor,
    bias: paddle.Tensor | None = None,
    impl: str = "auto",
) -> paddle.Tensor:
    """Depthwise 2-D convolution, stride 1, zero padding that keeps the map size ("same").

    Args:
        x: (N, C, H, W).
        weight: (C, 1, K, K) with odd K; K may exceed H and W.
        bias: (C,) or None.
        impl: name of an implementation, or ``"auto"``.

    Returns:
        (N, C, H, W), the dtype of ``x``.

    Raises:
        UserError: unknown ``impl``, or shapes that do not fit together.
    """
    check_implementation(impl)
    if len(x.shape) != 4:
        raise UserError(f"depthwise_conv2d needs x of shape (N, C, H, W), got {list(x.shape)}")
    size = weight.shape[-1]
    if list(weight.shape) != [x.shape[1], 1, size, size] or size % 2 == 0:
        raise UserError(
            f"depthwise_conv2d needs weight of shape ({x.shape[1]}, 1, K, K) with odd K, got {list(weight.shape)}"
        )
    if bias is not None and list(bias.shape) != [x.shape[1]]:
        raise UserError(f"depthwise_conv2d needs bias of shape ({x.shape[1]},), got {list(bias.shape)}")
    return IMPLEMENTATIONS[_choose() if impl == AUTO else impl](x, weight, bias)
