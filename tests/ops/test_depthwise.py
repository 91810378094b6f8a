"""The depthwise convolution and its gradients against float64, for every implementation."""

import re

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from helpers import randomise_batch_norms, refused, require_compiled_operator
from scipy.signal import fftconvolve

import ppreplk
from ppreplk.nn import ReparamDepthwiseConv
from ppreplk.ops import cpu, depthwise
from ppreplk.ops.depthwise import check_implementation, choose
from ppreplk.ops.fft import transform_size
from ppreplk.utils.cores import available_cores
from ppreplk.utils.device import set_threads
from ppreplk.utils.errors import UserError

IMPLEMENTATIONS = ["fft", "cpu"]
LESSER = ["avx2", "portable"]  # instruction sets of other processors
BATCHES, CHANNELS, KERNELS = (1, 2, 5), (1, 3, 16, 40, 130), (*range(1, 32, 2), 51)
AFFORDABLE = 1e8  # multiply-adds of Paddle's own operator, which is slow; without it the bound is stricter
LARGEST = 1_000_000  # numbers in a sampled batch of maps
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


def sampled_shapes(count, largest=LARGEST, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        height, width = map(int, rng.integers(1, 131, 2))
        batch, channels, kernel = (int(rng.choice(values)) for values in (BATCHES, CHANNELS, KERNELS))
        yield min(batch, max(1, largest // (channels * height * width))), channels, height, width, kernel


# For packed weights: what solves it, map, kernel. The transforms end at 256, and larger maps are cut in tiles.
ALGORITHMS = {1: "spectral", 2: "toeplitz", 3: "direct"}  # as the header of packed weights says it
PACKED = [
    ("spectral", (17, 33), 13),
    ("spectral", (9, 11), 31),
    ("spectral", (5, 301), 31),
    ("spectral", (263, 9), 7),
    ("toeplitz", (1, 1), 3),
    ("toeplitz", (7, 5), 13),
    ("toeplitz", (15, 7), 3),
    ("direct", (5, 9), 1),
    ("direct", (15, 33), 3),
    ("direct", (53, 149), 5),
]
SHAPES = [*CORNERS, *sampled_shapes(31)]


@pytest.fixture(scope="module", params=IMPLEMENTATIONS)
def impl(request):
    if request.param == "cpu":
        require_compiled_operator()
    return request.param


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
    reach = weight.shape[-1] // 2
    crop = (..., slice(reach, reach + x.shape[2]), slice(reach, reach + x.shape[3]))
    flipped = weight[None, :, 0, ::-1, ::-1].astype(np.float64)
    return fftconvolve(x.astype(np.float64), flipped, axes=(2, 3))[crop]


def reference(x, weight, bias, gradient):
    """The same in float64."""
    x, weight, gradient = (value.astype(np.float64) for value in (x, weight, gradient))
    reach = weight.shape[-1] // 2
    y = same_convolution(x, weight)
    dx = same_convolution(gradient, weight[:, :, ::-1, ::-1])
    padded = np.pad(x, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    dweight = fftconvolve(padded, gradient[:, :, ::-1, ::-1], "valid", axes=(2, 3)).sum(0)[:, None]
    if bias is None:
        return [y, dx, dweight, None]
    return [y + bias[:, None, None], dx, dweight, gradient.sum((0, 2, 3))]


def channel_errors(received, expected, channel_axis):
    """Largest error of each channel, and each channel's largest value."""
    axes = tuple(axis for axis in range(expected.ndim) if axis != channel_axis)
    return np.abs(received - expected).max(axes), np.abs(expected).max(axes)


def channels_last(x):
    return np.ascontiguousarray(np.moveaxis(x, 1, -1))


PACKED_LAYOUTS = {  # what convolves, and the way there and back
    "NCHW": (cpu.packed_conv2d, lambda x: x, lambda y: y),
    "NHWC": (cpu.packed_conv2d_nhwc, channels_last, lambda y: np.moveaxis(y, -1, 1)),
}


def packed_convolution(layout, x, weight, packed, bias=None, relu=False):
    """y (N, C, H, W) in float32, by packed weights, for x in the dtype of ``weight``."""
    convolve, arrange, back = PACKED_LAYOUTS[layout]
    y = convolve(paddle.to_tensor(arrange(x)).astype(weight.dtype), weight, packed, bias, relu)
    assert y.dtype == weight.dtype
    return back(y.astype("float32").numpy())


def check_packed(layout, algorithm, size, kernel, channels, dtype):
    """All that a packed convolution can be asked for, against float64."""
    x, weight, bias, _ = operands(2, channels, *size, kernel)
    x, weight, bias = (paddle.to_tensor(value).astype(dtype) for value in (x, weight, bias))
    packed = cpu.pack(weight, *size)
    header = packed[:16].numpy().view(np.int32)
    assert ALGORITHMS[header[2]] == algorithm
    if max(size) > 256:
        assert (header[8:10] < np.add(size, kernel // 2)).any(), "in tiles"
    x32, weight32, bias32 = (value.astype("float32").numpy() for value in (x, weight, bias))
    plain = same_convolution(x32, weight32)
    scale = np.abs(plain).max((0, 2, 3)) + np.abs(bias32)
    step = {"float32": 0.0, "float16": 2**-11, "bfloat16": 2**-8}[dtype]  # one rounding of the result
    for batch, with_bias, relu in ((1, False, False), (1, True, True), (2, False, True), (2, True, False)):
        expected = plain[:batch] + (bias32[:, None, None] if with_bias else 0)
        expected = np.maximum(expected, 0) if relu else expected
        y = packed_convolution(layout, x32[:batch], weight, packed, bias if with_bias else None, relu)
        allowance = step * np.abs(expected) + 3e-6 * scale[:, None, None]
        assert (np.abs(y - expected) <= allowance).all(), (batch, with_bias, relu)


def native(x, weight, bias):
    return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=weight.shape[0])


@pytest.fixture(params=LESSER)
def lesser(request):
    """An instruction set that is not this processor's best."""
    require_compiled_operator()
    best = cpu.instruction_set()
    try:
        cpu.use_instruction_set(request.param)
    except UserError as error:
        pytest.skip(str(error))
    yield request.param
    cpu.use_instruction_set(best)


@pytest.mark.parametrize("number", range(0, len(SHAPES), 2))
def test_other_instruction_sets(lesser, number):
    assert cpu.instruction_set() == lesser
    test_output_and_gradients("cpu", number)


@pytest.mark.parametrize("algorithm, size, kernel", PACKED)
def test_packed_weights_on_other_instruction_sets(lesser, algorithm, size, kernel):
    for dtype, channels, layout in (("float32", 3, "NCHW"), ("float32", 19, "NHWC"), ("bfloat16", 19, "NHWC")):
        check_packed(layout, algorithm, size, kernel, channels, dtype)


@pytest.mark.parametrize("layout", PACKED_LAYOUTS)
def test_weights_packed_for_another_instruction_set_are_not_used(lesser, layout):
    x, weight, *_ = operands(1, 20, 14, 14, 9)
    packed = cpu.pack(paddle.to_tensor(weight), 14, 14)
    cpu.use_instruction_set("portable" if lesser == "avx2" else "avx2")
    y = packed_convolution(layout, x, paddle.to_tensor(weight), packed)
    np.testing.assert_allclose(y, same_convolution(x, weight), atol=1e-4)


def test_an_unknown_instruction_set():
    require_compiled_operator()
    with refused("ops.unknown-instruction-set", "cannot use 'sse9'"):
        cpu.use_instruction_set("sse9")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("algorithm, size, kernel", PACKED)
@pytest.mark.parametrize("layout", PACKED_LAYOUTS)
def test_packed_weights(layout, algorithm, size, kernel, channels, dtype):
    require_compiled_operator()
    check_packed(layout, algorithm, size, kernel, channels, dtype)


@pytest.mark.parametrize("layout", PACKED_LAYOUTS)
def test_packed_weights_of_another_problem(layout):
    """Of another map, kernel or number of channels: the plain weights serve."""
    require_compiled_operator()
    x, weight, bias, _ = operands(2, 20, 17, 9, 13)
    weight, bias = paddle.to_tensor(weight), paddle.to_tensor(bias)
    expected = np.maximum(reference(x, weight.numpy(), bias.numpy(), x)[0], 0)
    others = [(weight, size) for size in ((9, 17), (17, 7), (30, 30))]
    for other, size in [*others, (weight[:, :, 1:-1, 1:-1], (17, 9)), (weight[:16], (17, 9))]:
        packed = cpu.pack(other, *size)
        y = packed_convolution(layout, x, weight, packed, bias, relu=True)
        np.testing.assert_allclose(y, expected, atol=1e-4)


@pytest.mark.parametrize("layout", PACKED_LAYOUTS)
def test_packed_weights_and_a_map_that_is_a_view(layout):
    require_compiled_operator()
    x, weight, *_ = operands(2, 5, 12, 9, 7)
    weight, turned = paddle.to_tensor(weight), paddle.to_tensor(np.ascontiguousarray(x.transpose(0, 3, 2, 1)))
    view = turned.transpose([0, 3, 2, 1] if layout == "NCHW" else [0, 2, 1, 3])
    convolve, _, back = PACKED_LAYOUTS[layout]
    y = convolve(view, weight, cpu.pack(weight, 12, 9), None, False).numpy()
    np.testing.assert_allclose(back(y), same_convolution(x, weight.numpy()), atol=1e-4)


@pytest.mark.parametrize("number", range(len(SHAPES)))
def test_output_and_gradients(impl, number):
    check_output_and_gradients(impl, number, SHAPES[number], AFFORDABLE)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(40))
def test_output_and_gradients_of_any_size(impl, number):
    """python -m pytest -m slow tests/test_depthwise_conv.py (two minutes): whole batches, and native beside most."""
    shapes = list(sampled_shapes(40, largest=10**9, seed=1))
    check_output_and_gradients(impl, number, shapes[number], affordable=3e9)


def check_output_and_gradients(impl, number, shape, affordable):
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


def test_half_precision(impl):
    x, weight, bias, _ = operands(2, 20, 15, 17, 9)
    for dtype, step in (("float16", 2**-11), ("bfloat16", 2**-8)):
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


def test_what_the_compiled_operator_does_not_take():
    require_compiled_operator()
    for dtype, kernel in (("float64", 3), ("float32", 129)):
        x, weight = paddle.rand([1, 2, 5, 5]).astype(dtype), paddle.rand([2, 1, kernel, kernel]).astype(dtype)
        with refused("ops.not-served", f"got {dtype} and {kernel}"):
            ppreplk.depthwise_conv2d(x, weight, impl="cpu")
        expected = ppreplk.depthwise_conv2d(x, weight, impl="native").numpy()
        np.testing.assert_allclose(ppreplk.depthwise_conv2d(x, weight).numpy(), expected, rtol=1e-4)


@pytest.mark.parametrize(
    "weight, size, message",
    [
        *(
            (shape, (5, 5), rf"packs weight \(C, 1, K, K\) with odd K, got {re.escape(str(shape))} \(at [^\n]*\n$")
            for shape in ([2, 1, 4, 4], [2, 1, 3, 5], [2, 2, 3, 3], [2, 1, 0, 0], [2, 3, 3], [2], [])
        ),
        ([2, 1, 129, 129], (5, 5), "kernel must be odd and at most 127, not 129"),
        ([2, 1, 3, 3], (0, 5), "height must be 1 to 2\\^20, not 0"),
    ],
)
def test_weights_that_cannot_be_packed(weight, size, message):
    require_compiled_operator()
    with pytest.raises(ValueError, match=f"ppreplk: depthwise convolution:? {message}"):
        cpu.pack(paddle.zeros(weight), *size)


@pytest.mark.parametrize(
    "x, weight, bias",
    [
        ([2, 3, 4], [3, 1, 3, 3], None),
        ([], [3, 1, 3, 3], [3]),
        ([1, 4, 5, 4, 1], [4, 1, 3, 3], None),
        ([1, 5, 6, 4], [5, 1, 3, 3], [4]),
        ([1, 5, 6, 4], [6, 1, 3, 3], None),
        ([1, 4, 5, 4], [4, 1, 3], None),
        ([1, 4, 5, 4], [4], [4]),
        ([1, 4, 5, 4], [4, 1, 2, 2], None),
        ([1, 4, 5, 4], [4, 1, 3, 3], [3]),
        ([1, 4, 5, 4], [4, 1, 3, 3], []),
        ([1, 4, 5, 4], [4, 1, 3, 3], [1, 4]),
    ],
)
def test_the_operators_check_shapes(x, weight, bias):
    require_compiled_operator()
    tensors = [None if shape is None else paddle.zeros(shape) for shape in (x, weight, bias)]
    packed = cpu.pack(paddle.zeros([4, 1, 3, 3]), 5, 4)
    for layout, run in (
        ("(N, C, H, W)", cpu.conv2d),
        ("(N, C, H, W)", lambda x, weight, bias: cpu.packed_conv2d(x, weight, packed, bias, relu=False)),
        ("(N, H, W, C)", lambda x, weight, bias: cpu.packed_conv2d_nhwc(x, weight, packed, bias, relu=False)),
    ):
        needed = f"needs x {layout}, weight (C, 1, K, K) with odd K{'' if bias is None else ' and bias (C)'}"
        received = f"got x {x}, weight {weight}{'' if bias is None else f', bias {bias}'}"
        with pytest.raises(ValueError) as error:
            run(*tensors)
        assert f"ppreplk: depthwise convolution {needed}, {received} (at" in str(error.value)


@pytest.mark.parametrize("run", [cpu.packed_conv2d, cpu.packed_conv2d_nhwc])
def test_the_packed_operators_check_sizes(run):
    require_compiled_operator()
    packed = cpu.pack(paddle.zeros([4, 1, 3, 3]), 5, 4)
    with pytest.raises(ValueError, match="ppreplk: depthwise convolution: kernel must be odd and at most 127, not 129"):
        run(paddle.zeros([1, 4, 4, 4]), paddle.zeros([4, 1, 129, 129]), packed, None, relu=False)
    for shape in ([1, 4, 0, 4], [1, 0, 4, 4]):
        with pytest.raises(
            ValueError, match="ppreplk: depthwise convolution(: (height|width) must be 1 to 2.20, not 0| needs x)"
        ):
            run(paddle.zeros(shape), paddle.zeros([4, 1, 3, 3]), packed, None, relu=False)


def test_a_program_says_which_shapes_do_not_fit():
    """Weights that became other ones after the program was built: what an executor raises has the message too."""
    require_compiled_operator()
    paddle.enable_static()
    try:
        program = paddle.static.Program()
        with paddle.static.program_guard(program):
            weight = paddle.static.data("weight", [2, 1, -1, -1])
            packed = cpu.pack(weight, 5, 5)
        with pytest.raises(ValueError, match=r"packs weight \(C, 1, K, K\) with odd K, got \[2, 1, 4, 4\]"):
            paddle.static.Executor().run(
                program, feed={"weight": np.zeros((2, 1, 4, 4), np.float32)}, fetch_list=[packed]
            )
    finally:
        paddle.disable_static()


def test_an_implementation_that_cannot_run_says_why(monkeypatch):
    x, weight, *_ = (paddle.to_tensor(value) for value in operands(1, 2, 5, 5, 3))
    monkeypatch.setattr("ppreplk.ops.loading.available", lambda library: False)
    monkeypatch.setattr("ppreplk.ops.build.find_compiler", lambda: None)
    with refused("ops.no-compiler", "'cpu' cannot run: no C++ compiler was found"):
        ppreplk.depthwise_conv2d(x, weight, impl="cpu")
    monkeypatch.setattr(paddle, "get_device", lambda: "gpu:0")
    with refused("ops.wrong-device", "runs on cpu, the device is gpu:0"):
        ppreplk.depthwise_conv2d(x, weight, impl="cpu")
    with refused("ops.unknown-implementation", "'cuda'", "choose one of: auto, native, fft, cpu"):
        ppreplk.depthwise_conv2d(x, weight, impl="cuda")


def test_an_old_name_is_read_and_the_new_one_said_once(monkeypatch, caplog):
    require_compiled_operator()
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


def test_transform_sizes():
    assert [transform_size(least) for least in (1, 11, 13, 71, 72, 121)] == [1, 12, 14, 72, 72, 125]
