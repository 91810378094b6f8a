"""``depthwise_impl: cuda`` through Paddle, with kernels that compute on the processor: who calls them, and how."""

import logging
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from cuda_library import emulated_library
from depthwise_cases import operands, reference, with_gradients
from helpers import randomise_batch_norms, refused, run_python, small_network
from plain_kernels import STREAM, PlainKernels, plain_library

import ppreplk
from ppreplk.benchmark.contestants import usable_implementations
from ppreplk.models.arch import build_checked
from ppreplk.nn import ReparamDepthwiseConv
from ppreplk.ops import cuda, cuda_kernels, depthwise
from ppreplk.ops.depthwise import check_implementation, choose, prepare
from ppreplk.utils.errors import UserError

is_on_gpu = cuda._is_on_gpu
SHAPES = [(2, 3, 9, 8, 5), (1, 2, 6, 7, 31), (1, 4, 1, 13, 3), (3, 5, 7, 7, 13), (2, 3, 5, 4, 1)]


@pytest.fixture
def kernels(monkeypatch):
    """A processor that looks like a GPU to the binding, and plain sums in the place of the device kernels."""
    plain = PlainKernels(plain_library())
    monkeypatch.setattr(cuda, "_kernels", lambda device: plain)
    monkeypatch.setattr(cuda, "_is_on_gpu", lambda tensor: True)
    monkeypatch.setattr(cuda, "_stream", lambda: STREAM)
    monkeypatch.setattr(paddle, "get_device", lambda: "gpu:0")
    return plain


def convolve(*tensors, **options):
    return ppreplk.depthwise_conv2d(*tensors, impl="cuda", **options)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_output_and_gradients(kernels, shape, with_bias):
    x, weight, bias, gradient = operands(*shape)
    bias = bias if with_bias else None
    received = with_gradients(convolve, x, weight, bias, gradient)
    for ours, exact in zip(received, reference(x, weight, bias, gradient)):
        assert (ours is None) == (exact is None)
        if exact is not None:
            np.testing.assert_allclose(ours, exact, rtol=0, atol=1e-6 * np.abs(exact).max())
    assert kernels.last == ("backward", STREAM)


@pytest.mark.parametrize("shape", [(2, 3, 9, 8, 5), (3, 2, 7, 7, 13), (2, 2, 20, 24, 27)])
def test_the_device_code_itself(kernels, monkeypatch, shape):
    """Compiled for this processor (``cuda_library.py``): one shape for each way to solve a problem."""
    emulated = cuda_kernels.Kernels(emulated_library())
    monkeypatch.setattr(cuda, "_kernels", lambda device: emulated)
    monkeypatch.setattr(cuda, "_stream", lambda: 0)
    assert emulated.algorithm(shape) == {5: "direct", 13: "small", 27: "spectral"}[shape[-1]]
    x, weight, bias, gradient = operands(*shape)
    received = with_gradients(convolve, x, weight, bias, gradient)
    for ours, exact in zip(received, reference(x, weight, bias, gradient)):
        np.testing.assert_allclose(ours, exact, rtol=0, atol=1e-5 * np.abs(exact).max())
    with paddle.no_grad():
        y = convolve(*map(paddle.to_tensor, (x, weight, bias)), relu=True)
    np.testing.assert_allclose(y.numpy(), np.maximum(received[0], 0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("weight_dtype", ["float32", None])
def test_half_precision_with_weights_of_either_type(kernels, dtype, weight_dtype):
    x, weight, bias, gradient = operands(2, 3, 9, 8, 5)
    types = (dtype, weight_dtype or dtype, weight_dtype or dtype)
    tensors = [paddle.to_tensor(value).astype(each) for value, each in zip((x, weight, bias), types)]
    for tensor in tensors:
        tensor.stop_gradient = False
    rounded = [tensor.astype("float32").numpy() for tensor in tensors]
    dy = paddle.to_tensor(gradient).astype(dtype)
    y = convolve(*tensors)
    y.backward(dy)
    assert y.dtype == tensors[0].dtype and [t.grad.dtype for t in tensors] == [t.dtype for t in tensors]
    expected = reference(*rounded, dy.astype("float32").numpy())
    step = 2**-8 if dtype == "bfloat16" else 2**-10
    for received, exact in zip((y, *(tensor.grad for tensor in tensors)), expected):
        np.testing.assert_allclose(
            received.astype("float32").numpy(), exact, rtol=step, atol=step * np.abs(exact).max()
        )


def test_as_native_in_a_layer_and_in_a_network(kernels):
    """Both branches, in train mode."""
    results = []
    x, *_, gradient = operands(2, 6, 11, 9, 3)
    for name in ("cuda", "native"):
        paddle.seed(1)
        layer = ReparamDepthwiseConv(6, 7, 3, impl=name)
        randomise_batch_norms(layer)
        tensor = paddle.to_tensor(x, stop_gradient=False)
        y = layer(tensor)
        y.backward(paddle.to_tensor(gradient))
        trained = [value.grad for value in layer.parameters() if not value.stop_gradient]
        results.append([each.numpy() for each in (y, tensor.grad, *trained)])
    for ours, theirs in zip(*results):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())
    model, image = small_network(depthwise_impl="cuda"), paddle.rand([1, 3, 32, 32])
    model.eval()
    y = model(image)
    assert ppreplk.nn.set_implementation(model, "native") > 0
    np.testing.assert_allclose(y.numpy(), model(image).numpy(), rtol=0, atol=1e-5)


def test_only_wanted_gradients_are_computed(kernels):
    x, weight, _, gradient = operands(2, 3, 9, 8, 5)
    exact = reference(x, weight, None, gradient)
    for number, operation in ((0, "gradient_input"), (1, "gradient_weight")):
        tensors = [paddle.to_tensor(value, stop_gradient=i != number) for i, value in enumerate((x, weight))]
        convolve(*tensors).backward(paddle.to_tensor(gradient))
        assert kernels.last == (operation, STREAM)
        np.testing.assert_allclose(tensors[number].grad.numpy(), exact[1 + number], atol=1e-4)
        assert tensors[1 - number].grad is None


def test_a_relu_is_fused_where_no_gradients_are_wanted(kernels, monkeypatch):
    x, weight, bias, gradient = operands(2, 3, 9, 8, 5)
    tensors = [paddle.to_tensor(value, stop_gradient=False) for value in (x, weight, bias)]
    expected = np.maximum(reference(x, weight, bias, gradient)[0], 0)
    y = convolve(*tensors, relu=True)
    y.sum().backward()
    np.testing.assert_allclose(y.numpy(), expected, atol=1e-5)
    assert tensors[0].grad is not None
    monkeypatch.setattr("paddle.nn.functional.relu", lambda y: pytest.fail("a pass of its own"))
    with paddle.no_grad():
        np.testing.assert_allclose(convolve(*tensors, relu=True).numpy(), expected, atol=1e-5)


def test_tensors_that_do_not_lie_in_one_piece(kernels):
    x, weight, _, gradient = operands(2, 4, 9, 9, 3)
    turned = [paddle.to_tensor(value).transpose([0, 1, 3, 2]) for value in (x, weight, gradient)]
    expected = reference(*(value.transpose(0, 1, 3, 2) for value in (x, weight)), None, turned[2].numpy())
    for tensor in turned[:2]:
        tensor.stop_gradient = False
    y = convolve(*turned[:2])
    y.backward(turned[2])
    for received, exact in zip((y, turned[0].grad, turned[1].grad), expected):
        np.testing.assert_allclose(received.numpy(), exact, atol=1e-4)


def test_an_empty_batch(kernels):
    x, weight = paddle.zeros([0, 3, 5, 5]), paddle.ones([3, 1, 3, 3])
    x.stop_gradient = weight.stop_gradient = False
    y = convolve(x, weight)
    y.sum().backward()
    assert y.shape == [0, 3, 5, 5] and x.grad.shape == y.shape and not weight.grad.any()


def test_under_autocast_images_are_convolved_in_its_type(kernels, monkeypatch):
    x, weight, bias, _ = operands(1, 3, 9, 8, 5)
    tensors = [paddle.to_tensor(value, stop_gradient=False) for value in (x, weight, bias)]
    tracer = paddle.base.framework._dygraph_tracer()
    # On a processor auto_cast switches itself off, so this is what it sets on a GPU.
    with monkeypatch.context() as patch:
        patch.setattr(tracer, "_amp_level", paddle.base.core.AmpLevel.O1)
        patch.setattr(tracer, "_amp_dtype", "bfloat16")
        y = convolve(*tensors)
    assert y.dtype == paddle.bfloat16
    y.astype("float32").sum().backward()
    assert all(tensor.grad.dtype == paddle.float32 for tensor in tensors)
    rounded = paddle.to_tensor(x).astype("bfloat16").astype("float32").numpy()
    np.testing.assert_allclose(
        y.astype("float32").numpy(), reference(rounded, weight, bias, x)[0], rtol=2**-8, atol=1e-2
    )


def test_auto_never_takes_it(kernels, monkeypatch):
    for kernel in (3, 13, 31):
        assert choose(paddle.float32, kernel, "gpu:0") in ("native", "fft")
    # after a rule has been measured
    monkeypatch.setattr(depthwise, "CUDA_FROM", 5)
    monkeypatch.setattr(cuda, "available", lambda: True)
    assert [choose(paddle.float32, kernel, "gpu:0") for kernel in (3, 5, 31)] == ["native", "cuda", "cuda"]
    assert choose(paddle.float64, 31, "gpu:0") == "fft" and choose(paddle.float32, 31, "xpu:0") == "native"
    monkeypatch.setattr(cuda, "available", lambda: False)
    assert choose(paddle.float32, 31, "gpu:0") == "fft"


def test_auto_would_get_the_kernels_ready_and_go_on_without(kernels, monkeypatch, caplog):
    caplog.set_level(logging.INFO)

    def refuse(device):
        raise UserError("no nvcc", code="ops.no-nvcc")

    monkeypatch.setattr(cuda, "_kernels", refuse)
    prepare("auto")
    assert caplog.messages == [], "nothing is asked of nvcc while there is no rule"
    monkeypatch.setattr(depthwise, "CUDA_FROM", 5)
    prepare("auto")
    assert len(caplog.messages) == 1 and "'cuda' cannot run: no nvcc; python -m ppreplk.ops cuda" in caplog.text
    cuda._usable.cache_clear()
    assert choose(paddle.float32, 31, "gpu:0") == "fft"
    cuda._usable.cache_clear()


def test_what_is_refused(kernels, monkeypatch):
    x, weight = paddle.zeros([1, 2, 5, 5]), paddle.zeros([2, 1, 3, 3])
    with refused("ops.not-served", "'cuda'", "got float64 and 3"):
        convolve(x.astype("float64"), weight.astype("float64"))
    with refused("ops.not-served", "up to 127", "got float32 and 129"):
        convolve(x, paddle.zeros([2, 1, 129, 129]))
    paddle.enable_static()
    try:
        with refused("ops.static-graph", "eager mode only"):
            check_implementation("cuda")
        assert choose(paddle.float32, 31, "gpu:0") == "native"
    finally:
        paddle.disable_static()
    monkeypatch.undo()
    with refused("ops.wrong-device", "runs on gpu, the device is cpu"):
        convolve(x, weight)
    with refused("ops.wrong-device", "Arch.depthwise_impl", "runs on gpu"):
        build_checked("RepLKNet13T", {"depthwise_impl": "cuda"})


def test_tensors_elsewhere_are_refused(kernels, monkeypatch):
    monkeypatch.setattr(cuda, "_is_on_gpu", is_on_gpu)
    with refused("ops.wrong-device", "takes tensors in the memory of gpu:0, got one in Place(cpu)"):
        convolve(paddle.zeros([1, 2, 5, 5]), paddle.zeros([2, 1, 3, 3]))
    for number, here in ((0, True), (1, False)):  # kernels and stream are those of the GPU that is set
        place = SimpleNamespace(is_gpu_place=lambda: True, gpu_device_id=lambda number=number: number)
        assert is_on_gpu(SimpleNamespace(place=place)) == here


def test_weights_of_other_types_are_refused(kernels):
    with refused("ops.not-served", "got x of float32 and weight of float64"):
        convolve(paddle.zeros([1, 2, 5, 5]), paddle.zeros([2, 1, 3, 3], "float64"))


def test_what_kernels_say_is_told_apart(kernels):
    weight = paddle.zeros([2, 1, 127, 127])
    with refused("ops.wrong-device", "do not run here: no kernel image is available"):
        convolve(paddle.zeros([1, 2, 3, 4]), weight)
    with pytest.raises(RuntimeError, match="ppreplk: something else") as caught:
        convolve(paddle.zeros([1, 2, 3, 5]), weight)
    assert not isinstance(caught.value, UserError), "a defect keeps its traceback"
    call = cuda_kernels.Call([1, 1, 2, 2, 4], 0, 0, lambda size: 0, 0)
    with refused("ops.bad-shape", "the kernel is 4"):
        kernels.forward(call, 0, 0, None, False, 0)


def test_kernels_of_another_interface(monkeypatch, tmp_path):
    monkeypatch.setattr(cuda_kernels, "ABI", 99)
    with refused("ops.not-loadable", "have interface 1, needed is 99"):
        PlainKernels(plain_library())
    with refused("ops.not-loadable", "cannot be loaded"):
        cuda_kernels.Kernels(tmp_path / "nothing.so")


def test_the_log_says_that_it_is_experimental(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(cuda, "kernels_for", lambda capability: capability)
    monkeypatch.setattr(paddle.device.cuda, "get_device_capability", lambda device: (9, 0))
    cuda._kernels.cache_clear()
    assert [cuda._kernels("gpu:0"), cuda._kernels("gpu:0")] == [90, 90]
    cuda._kernels.cache_clear()
    assert caplog.messages == ["depthwise convolutions run as cuda (sm_90): experimental, not run on a GPU yet"]


def test_without_nvcc_a_gpu_says_so_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("ppreplk.ops.nvcc.find_nvcc", lambda: None)
    monkeypatch.setattr(paddle, "get_device", lambda: "gpu:0")
    monkeypatch.setattr(paddle.device.cuda, "get_device_capability", lambda device: (8, 6))
    cuda._kernels.cache_clear()
    with refused("ops.no-nvcc", "'cuda' cannot run: no nvcc"):
        check_implementation("cuda")
    monkeypatch.undo()
    assert usable_implementations()[:2] == ["native", "fft"] and "cuda" not in usable_implementations()


IMPORTED = """
import sys
from ppreplk.ops import cuda_torch
print(sorted({"paddle", "torch", "numpy"} & set(sys.modules)))
"""


def test_the_binding_for_pytorch_imports_no_framework():
    assert run_python(IMPORTED) == "[]\n"
