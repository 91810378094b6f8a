"""The depthwise convolution and its gradients against float64, for every implementation; the rule of ``auto``."""

import numpy as np
import paddle
import pytest
from depthwise_cases import SHAPES, check_output_and_gradients, operands, reference, sampled_shapes, with_gradients
from helpers import randomise_batch_norms, refused, require_depthwise_operators

import ppreplk
from ppreplk.nn import ReparamDepthwiseConv
from ppreplk.ops import depthwise
from ppreplk.ops.depthwise import check_implementation, choose
from ppreplk.utils.cores import available_cores
from ppreplk.utils.device import set_threads

IMPLEMENTATIONS = ["fft", "cpu"]


@pytest.fixture(scope="module", params=IMPLEMENTATIONS)
def impl(request):
    if request.param == "cpu":
        require_depthwise_operators()
    return request.param


@pytest.mark.parametrize("number", range(len(SHAPES)))
def test_output_and_gradients(impl, number):
    check_output_and_gradients(impl, number, SHAPES[number])


@pytest.mark.slow
@pytest.mark.parametrize("number", range(40))
def test_output_and_gradients_of_any_size(impl, number):
    """python -m pytest -m slow tests/ops/test_depthwise.py (two minutes): whole batches, most beside native."""
    shapes = list(sampled_shapes(40, max_numbers=10**9, seed=1))
    check_output_and_gradients(impl, number, shapes[number], affordable=3e9)


def test_half_precision(impl):
    x, weight, bias, _ = operands(2, 20, 15, 17, 9)
    truncates = paddle.to_tensor(1.9999).astype("float16") < 2  # as Paddle 3.1 does on CPUs; 3.2 rounds
    for dtype, step in (("float16", 2**-10 if truncates else 2**-11), ("bfloat16", 2**-8)):
        tensors = [paddle.to_tensor(value).astype(dtype) for value in (x, weight, bias)]
        y = ppreplk.depthwise_conv2d(*tensors, impl=impl)
        assert y.dtype == tensors[0].dtype
        rounded = [tensor.astype("float32").numpy() for tensor in tensors]
        expected = reference(*rounded, x)[0]
        error = np.abs(y.astype("float32").numpy() - expected)
        assert (error <= step * np.abs(expected) + 1e-5 * np.abs(expected).max()).all(), "one rounding of the result"
        tensors[0].stop_gradient = tensors[1].stop_gradient = False
        ppreplk.depthwise_conv2d(*tensors, impl=impl).sum().backward()
        assert tensors[0].grad.dtype == tensors[0].dtype and tensors[1].grad.dtype == tensors[1].dtype


def test_the_same_bits_every_time_and_for_any_number_of_threads(impl):
    x, weight, bias, gradient = operands(3, 40, 14, 14, 27)

    def run():
        return with_gradients(lambda *t: ppreplk.depthwise_conv2d(*t, impl=impl), x, weight, bias, gradient)[:3]

    set_threads(1)
    first = run()
    try:
        for threads in (1, 2, 3):
            set_threads(threads)
            for one, other in zip(first, run()):
                assert (one == other).all()
    finally:
        set_threads(available_cores())


def test_a_broken_channel_stays_alone(impl):
    x, weight, _, _ = operands(1, 5, 20, 20, 13)
    expected = reference(x, weight, None, x)[0]
    x[0, 2, 3, 3] = np.nan
    y = ppreplk.depthwise_conv2d(paddle.to_tensor(x), paddle.to_tensor(weight), impl=impl).numpy()
    others = [0, 1, 3, 4]
    np.testing.assert_allclose(y[:, others], expected[:, others], atol=1e-4)
    assert np.isnan(y[0, 2, 3, 3])


def test_through_the_whole_layer(impl):
    """Both branches, in train mode, against float64 on Paddle's operator."""
    results = {}
    x, *_, gradient = operands(2, 6, 18, 15, 3)
    for name, dtype in ((impl, "float32"), ("native", "float64")):
        paddle.seed(1)
        layer = ReparamDepthwiseConv(6, 13, 5, impl=name)
        randomise_batch_norms(layer)
        layer.to(dtype=dtype)
        tensor = paddle.to_tensor(x.astype(dtype), stop_gradient=False)
        y = layer(tensor)
        y.backward(paddle.to_tensor(gradient.astype(dtype)))
        trained = {key: value.grad for key, value in layer.named_parameters() if not value.stop_gradient}
        results[name] = {"y": y, "x": tensor.grad, **trained}
    for key, expected in results["native"].items():
        expected = expected.numpy()
        np.testing.assert_allclose(
            results[impl][key].numpy(), expected, rtol=0, atol=1e-5 * np.abs(expected).max(), err_msg=key
        )


def test_a_part_of_the_gradients(impl):
    x, weight, _, gradient = operands(2, 3, 9, 8, 5)
    for stops in ((True, False), (False, True)):
        tensors = [paddle.to_tensor(value, stop_gradient=stop) for value, stop in zip((x, weight), stops)]
        ppreplk.depthwise_conv2d(*tensors, impl=impl).backward(paddle.to_tensor(gradient))
        for tensor, stop, expected in zip(tensors, stops, reference(x, weight, None, gradient)[1:]):
            if not stop:
                np.testing.assert_allclose(tensor.grad.numpy(), expected, atol=1e-4)
            else:
                assert tensor.grad is None


@pytest.mark.parametrize("shape", [(1, 3, 20, 24, 7), (2, 16, 14, 14, 27), (1, 20, 7, 7, 13)])
def test_static_graph_equals_eager(impl, shape):
    x, weight, bias, _ = operands(*shape)
    weight, bias = paddle.to_tensor(weight), paddle.to_tensor(bias)

    class Layer(paddle.nn.Layer):
        def forward(self, images):
            return ppreplk.depthwise_conv2d(images, weight, bias, impl=impl)

    layer = Layer()
    layer.eval()
    spec = [paddle.static.InputSpec([None, *shape[1:4]], "float32")]
    static = paddle.jit.to_static(Layer(), input_spec=spec, full_graph=True)
    with paddle.no_grad():
        eager, graph = (call(paddle.to_tensor(x)).numpy() for call in (layer, static))
    np.testing.assert_allclose(graph, eager, rtol=0, atol=1e-6 * np.abs(eager).max())


def test_the_rule_of_auto(monkeypatch):
    for built, large in ((True, "cpu"), (False, "fft")):
        monkeypatch.setattr("ppreplk.ops.cpu.available", lambda built=built: built)
        assert choose(paddle.float32, 31, "cpu") == large
        assert choose(paddle.float64, 31, "cpu") == "fft"
        assert choose(paddle.float32, 3, "cpu") == ("cpu" if built else "native")
        assert choose(paddle.float32, 31, "gpu:0") == "fft" and choose(paddle.float32, 13, "gpu:0") == "native"
        assert choose(paddle.float32, 31, "xpu:0") == "native"


def test_what_the_cpu_operator_does_not_take():
    require_depthwise_operators()
    for dtype, kernel in (("float64", 3), ("float32", 129)):
        x, weight = paddle.rand([1, 2, 5, 5]).astype(dtype), paddle.rand([2, 1, kernel, kernel]).astype(dtype)
        with refused("ops.not-served", f"got {dtype} and {kernel}"):
            ppreplk.depthwise_conv2d(x, weight, impl="cpu")
        expected = ppreplk.depthwise_conv2d(x, weight, impl="native").numpy()
        np.testing.assert_allclose(ppreplk.depthwise_conv2d(x, weight).numpy(), expected, rtol=1e-4)


def test_an_implementation_that_cannot_run_says_why(monkeypatch):
    x, weight, *_ = (paddle.to_tensor(value) for value in operands(1, 2, 5, 5, 3))
    monkeypatch.setattr("ppreplk.ops.loading.available", lambda library: False)
    monkeypatch.setattr("ppreplk.ops.build.find_compiler", lambda: None)
    with refused("ops.no-compiler", "'cpu' cannot run: no C++ compiler was found"):
        ppreplk.depthwise_conv2d(x, weight, impl="cpu")
    monkeypatch.setattr(paddle, "get_device", lambda: "gpu:0")
    with refused("ops.wrong-device", "runs on cpu, the device is gpu:0"):
        ppreplk.depthwise_conv2d(x, weight, impl="cpu")
    with refused("ops.unknown-implementation", "'cudnn'", "choose one of: auto, native, fft, cpu, cuda"):
        ppreplk.depthwise_conv2d(x, weight, impl="cudnn")


def test_an_old_name_is_read_and_the_new_one_said_once(monkeypatch, caplog):
    require_depthwise_operators()
    depthwise._announce_rename.cache_clear()
    caplog.set_level("INFO")
    x, weight, *_ = (paddle.to_tensor(value) for value in operands(1, 2, 5, 5, 3))
    assert check_implementation("compiled") == "cpu"
    y = ppreplk.depthwise_conv2d(x, weight, impl="compiled")
    assert (y == ppreplk.depthwise_conv2d(x, weight, impl="cpu")).all()
    assert caplog.text.count("'compiled' is called 'cpu' now") == 1
    assert [check_implementation(name) for name in ("auto", "native", "fft", "cpu")] == ["auto", "native", "fft", "cpu"]


@pytest.mark.parametrize(
    "shapes, message",
    [
        (((2, 3, 4), (3, 1, 3, 3), None), "x of shape"),
        (((1, 3, 4, 4), (3, 1, 4, 4), None), "odd K"),
        (((1, 3, 4, 4), (2, 1, 3, 3), None), "weight of shape (3, 1, K, K)"),
        (((1, 3, 4, 4), (3, 1, 3, 3), (2,)), "bias of shape (3,)"),
    ],
)
def test_shapes_that_do_not_fit(shapes, message):
    x, weight, bias = (None if shape is None else paddle.zeros(shape) for shape in shapes)
    with refused("ops.bad-shape", message):
        ppreplk.depthwise_conv2d(x, weight, bias)
