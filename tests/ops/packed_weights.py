"""What every kind of packed weights of a pointwise convolution refuses."""

from collections.abc import Callable, Iterable

import numpy as np
import paddle
import pytest

from ppreplk.ops import onednn

# Of weights for our own kernels, 16 to 24 channels: (offset in bytes, int32 to put there, words of the message).
HEADER = (
    (0, 1, "no packed weights"),
    (8, 99, "another version"),
    (16, 64, "another size"),
    (24, 17, "another layer"),
    (32, 25, "another layer"),
)


def check_refusals(good: paddle.Tensor, x: paddle.Tensor, bias: paddle.Tensor, cases: Iterable[tuple]) -> Callable:
    """Weights with a changed number in their header, cut short, or used for another layer. Returns what uses them.

    Args:
        good: packed weights for float32 ``x`` and ``bias``.
        cases: like ``HEADER``.
    """

    def conv(packed, x=x, kernel=1):
        return onednn.conv(x, packed, bias, None, kernel, 1, 1, "none")

    conv(good)
    for place, value, message in cases:
        data = good.numpy().view(np.uint8).copy()
        data[place : place + 4].view(np.int32)[0] = value
        with pytest.raises(ValueError, match=message):
            conv(paddle.to_tensor(data.view(np.float32)))
    with pytest.raises(ValueError, match="another size"):
        conv(good[:-16])
    with pytest.raises(ValueError, match="another layer"):
        conv(good, x.astype("bfloat16"))
    with pytest.raises(ValueError, match="another layer"):
        conv(good, kernel=3)
    return conv
