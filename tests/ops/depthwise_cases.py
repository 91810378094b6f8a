"""The depthwise convolution and its gradients in float64, and the shapes that tests compare on."""

import numpy as np
import paddle
import paddle.nn.functional as F
from scipy.signal import fftconvolve

import ppreplk

BATCHES, CHANNELS, KERNELS = (1, 2, 5), (1, 3, 16, 40, 130), (*range(1, 32, 2), 51)
AFFORDABLE = 1e8  # multiply-adds of Paddle's own operator, which is slow; without it the bound is stricter
MAX_NUMBERS = 1_000_000  # numbers in a sampled batch of maps
CORNERS = [
    (1, 16, 1, 1, 31),
    (2, 3, 1, 130, 5),
    (5, 40, 130, 1, 13),
    (1, 130, 7, 7, 13),
    (2, 16, 14, 14, 27),
    (1, 1, 130, 129, 51),
    (1, 3, 56, 56, 31),
    (2, 40, 9, 33, 3),
    (1, 130, 28, 28, 1),
]


def sampled_shapes(count, max_numbers=MAX_NUMBERS, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        height, width = map(int, rng.integers(1, 131, 2))
        batch, channels, kernel = (int(rng.choice(values)) for values in (BATCHES, CHANNELS, KERNELS))
        yield min(batch, max(1, max_numbers // (channels * height * width))), channels, height, width, kernel


SHAPES = [*CORNERS, *sampled_shapes(31)]


def operands(n, c, h, w, k, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape, np.float32) for shape in ((n, c, h, w), (c, 1, k, k), (c,), (n, c, h, w))]


def with_gradients(convolve, x, weight, bias, gradient):
    """y and the gradients of x, weight and bias, as arrays."""
    tensors = [None if value is None else paddle.to_tensor(value, stop_gradient=False) for value in (x, weight, bias)]
    y = convolve(*tensors)
    y.backward(paddle.to_tensor(gradient))
    return [y.numpy(), *(None if tensor is None else tensor.grad.numpy() for tensor in tensors)]


def same_convolution(x, weight):
    """y in float64, by scipy's convolution, which turns the weights."""
    pad = weight.shape[-1] // 2
    crop = (..., slice(pad, pad + x.shape[2]), slice(pad, pad + x.shape[3]))
    flipped = weight[None, :, 0, ::-1, ::-1].astype(np.float64)
    return fftconvolve(x.astype(np.float64), flipped, axes=(2, 3))[crop]


def reference(x, weight, bias, gradient):
    """The same in float64."""
    x, weight, gradient = (value.astype(np.float64) for value in (x, weight, gradient))
    pad = weight.shape[-1] // 2
    y = same_convolution(x, weight)
    dx = same_convolution(gradient, weight[:, :, ::-1, ::-1])
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    dweight = fftconvolve(padded, gradient[:, :, ::-1, ::-1], "valid", axes=(2, 3)).sum(0)[:, None]
    if bias is None:
        return [y, dx, dweight, None]
    return [y + bias[:, None, None], dx, dweight, gradient.sum((0, 2, 3))]


def channel_errors(received, expected, channel_axis):
    """Largest error of each channel, and each channel's largest value."""
    axes = tuple(axis for axis in range(expected.ndim) if axis != channel_axis)
    return np.abs(received - expected).max(axes), np.abs(expected).max(axes)


def native(x, weight, bias):
    return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=weight.shape[0])


def check_output_and_gradients(impl, number, shape, affordable=AFFORDABLE):
    n, c, h, w, k = shape
    x, weight, bias, gradient = operands(n, c, h, w, k, seed=number)
    bias = bias if number % 2 else None
    expected = reference(x, weight, bias, gradient)
    received = with_gradients(lambda *t: ppreplk.depthwise_conv2d(*t, impl=impl), x, weight, bias, gradient)
    compare = impl == "cpu" and n * c * h * w * k * k < affordable
    natives = with_gradients(native, x, weight, bias, gradient) if compare else [None] * 4
    for what, ours, theirs, exact, axis in zip(
        ("output", "gradient of x", "gradient of weight"), received, natives, expected, (1, 1, 0)
    ):
        error, scale = channel_errors(ours, exact, axis)
        if impl == "fft":
            assert (error <= 1e-5 * scale.max()).all(), what
        else:
            allowance = np.abs(theirs - exact).max() if compare else 0.0
            assert (error <= 2 * allowance + 1e-6 * scale).all(), (what, (error / scale).max())
    if bias is not None:
        np.testing.assert_allclose(received[3], expected[3], rtol=0, atol=1e-5 * np.abs(gradient).sum((0, 2, 3)).max())
