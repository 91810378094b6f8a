"""The device kernels checked and timed on a GPU. It needs PyTorch and nvcc, and neither Paddle nor NumPy."""
