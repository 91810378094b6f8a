"""The device kernels through PyTorch, without Paddle; here they compute on the processor."""

from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
from cuda_library import emulated_library
from depthwise_cases import operands, reference
from helpers import refused
from plain_kernels import STREAM, PlainKernels, plain_library

from ppreplk.gpu.oracle import BOUNDS, errors_of, repeats_itself
from ppreplk.gpu.problems import checked_problems
from ppreplk.ops import cuda_torch
from ppreplk.ops.cuda_kernels import Kernels

torch = pytest.importorskip("torch")


@contextmanager
def on_the_processor(device):
    yield STREAM


@pytest.fixture
def kernels(monkeypatch):
    plain = PlainKernels(plain_library())
    monkeypatch.setattr(cuda_torch, "DEVICE", "cpu")
    monkeypatch.setattr(cuda_torch, "kernels_on", lambda device: plain)
    monkeypatch.setattr(cuda_torch, "_device", on_the_processor)
    return plain


def tensors_of(*arrays, gradients=True):
    return [None if array is None else torch.from_numpy(array).requires_grad_(gradients) for array in arrays]


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, 9, 8, 5), (1, 2, 6, 7, 31), (3, 5, 7, 7, 13)])
def test_output_and_gradients(kernels, shape, with_bias):
    x, weight, bias, gradient = operands(*shape)
    bias = bias if with_bias else None
    leaves = tensors_of(x, weight, bias)
    y = cuda_torch.depthwise_conv2d(*leaves)
    y.backward(torch.from_numpy(gradient))
    received = [y.detach(), *(None if leaf is None else leaf.grad for leaf in leaves)]
    for ours, exact in zip(received, reference(x, weight, bias, gradient)):
        if exact is not None:
            np.testing.assert_allclose(ours.numpy(), exact, rtol=0, atol=1e-6 * np.abs(exact).max())
    assert kernels.last == ("backward", STREAM)
    with torch.no_grad():
        fused = cuda_torch.depthwise_conv2d(*leaves, relu=True)
    assert torch.equal(fused, y.detach().relu()) and kernels.last[0] == "forward"


def test_only_wanted_gradients_are_computed(kernels):
    x, weight, _, gradient = operands(2, 3, 9, 8, 5)
    for number, operation in ((0, "gradient_input"), (1, "gradient_weight")):
        leaves = tensors_of(x, weight, gradients=False)
        leaves[number].requires_grad_()
        cuda_torch.depthwise_conv2d(*leaves).backward(torch.from_numpy(gradient))
        assert kernels.last[0] == operation and leaves[1 - number].grad is None


def test_channels_last_and_relu(kernels):
    x, weight, bias, gradient = operands(2, 3, 9, 8, 5)
    leaves = tensors_of(x, weight, bias)
    spread = leaves[0].to(memory_format=torch.channels_last)
    y = cuda_torch.depthwise_conv2d(spread, *leaves[1:], relu=True)
    y.backward(torch.from_numpy(gradient).to(memory_format=torch.channels_last))
    exact = reference(x, weight, bias, gradient * (y.detach().numpy() > 0))
    np.testing.assert_allclose(y.detach().numpy(), np.maximum(exact[0], 0), atol=1e-5)
    np.testing.assert_allclose(leaves[0].grad.numpy(), exact[1], atol=1e-4)


def test_autocast(kernels):
    x, weight, bias, _ = operands(2, 3, 9, 8, 5)
    leaves = tensors_of(x, weight, bias)
    with torch.autocast("cpu", torch.bfloat16):
        y = cuda_torch.depthwise_conv2d(*leaves)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert all(leaf.grad.dtype == torch.float32 for leaf in leaves)


def test_what_is_refused(kernels, monkeypatch):
    x, weight, bias, _ = tensors_of(*operands(2, 3, 9, 8, 5), gradients=False)
    for tensors, code, part in (
        ((x[0], weight), "ops.bad-shape", "do not fit together"),
        ((x, weight[:, :, 1:, 1:]), "ops.not-served", "and 4"),
        ((x.double(), weight), "ops.not-served", "torch.float64"),
        ((x, weight, bias[:2]), "ops.bad-shape", "bias of shape (3,)"),
    ):
        with refused(code, part):
            cuda_torch.depthwise_conv2d(*tensors)
    monkeypatch.setattr(cuda_torch, "DEVICE", "cuda")
    with refused("ops.wrong-device", "on one GPU, got some on cpu"):
        cuda_torch.depthwise_conv2d(x, weight)


def test_no_gradient_of_a_gradient(kernels):
    x, weight, _, _ = tensors_of(*operands(1, 2, 4, 4, 3))
    [dx] = torch.autograd.grad(cuda_torch.depthwise_conv2d(x, weight).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()


@pytest.mark.slow
def test_the_numbers_that_gpu_check_looks_at(monkeypatch):
    """python -m pytest -m slow tests/ops/test_cuda_torch.py (20 s): by the device code on this processor."""
    emulated = Kernels(emulated_library())
    monkeypatch.setattr(cuda_torch, "DEVICE", "cpu")
    monkeypatch.setattr(cuda_torch, "kernels_on", lambda device: emulated)
    monkeypatch.setattr(cuda_torch, "_device", lambda device: nullcontext(0))
    errors = []
    for seed, problem in enumerate(checked_problems()):
        problem = problem._replace(batch=min(problem.batch, 2), channels=min(problem.channels, 2))
        for type_name in BOUNDS:
            errors += errors_of(problem, type_name, "cpu", seed)
            assert repeats_itself(problem, type_name, "cpu")
    assert len(errors) > 500 and [each for each in errors if each.is_wrong] == []
