"""The sizes of Fourier transforms; the convolution through them is tested beside the others in test_depthwise.py."""

from ppreplk.ops.fft import transform_size


def test_transform_sizes():
    assert [transform_size(minimum) for minimum in (1, 11, 13, 71, 72, 121)] == [1, 12, 14, 72, 72, 125]
